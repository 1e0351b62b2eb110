//! Reading entries: from the tail, or from segment files for those who lag behind it.
//!
//! A read is planned under the lock and carried out without it, so it sees the log as of one moment. What comes from the
//! disk is checked again, checksum and log id: a disk that rots must stop the node, not feed it.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;

use super::counters::Counters;
use super::error::LogError;
use super::files::LogFile;
use super::positions::Position;
use super::record::{Kind, RECORD_HEADER_BYTES, RecordHeader, Seed};
use super::segment::SegmentNumber;
use super::shared::{Shared, State};
use crate::entry_codec::decode_entry;
use crate::types::{Entry, LogId, log_id};

/// Records with no more than this between them are read together: mostly it is the marks of each group.
const GAP_BYTES_MAX: u32 = 4096;

/// What to read: first from the disk, then what memory had.
#[derive(Debug)]
pub(super) struct Plan {
    reads: Vec<SegmentRead>,
    tail: Vec<Entry>,
}

/// Records that lie close together in one segment.
#[derive(Debug)]
struct SegmentRead {
    segment: SegmentNumber,
    file: Arc<dyn LogFile>,
    records: Vec<(LogId, Position)>,
}

impl SegmentRead {
    fn end(&self) -> u32 {
        self.records.last().map_or(0, |(_, position)| position.offset + position.bytes)
    }
}

/// The bounds as `start..end`.
pub(super) fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl Plan {
    /// Plans to read the entries of `start..end` that the log has, about `bytes_max` of them, at least one.
    pub(super) fn new(shared: &Shared, start: u64, end: u64, bytes_max: usize) -> Result<Plan, LogError> {
        let state = shared.state();
        let start = start.max(state.start());
        let end = end.min(state.end());
        let mut plan = Plan { reads: Vec::new(), tail: Vec::new() };
        let tail_from = state.tail.first_index().unwrap_or(u64::MAX);
        let mut bytes = 0usize;
        let mut next = start;
        while next < end.min(tail_from) && (bytes < bytes_max || next == start) {
            bytes = bytes.saturating_add(plan.add(&state, next)?);
            next += 1;
        }
        if next < end && next >= tail_from && (bytes < bytes_max || next == start) {
            plan.tail = state.tail.read(next, end, bytes_max - bytes);
        }
        Ok(plan)
    }

    /// Adds an entry that is on the disk; returns its bytes.
    fn add(&mut self, state: &State, index: u64) -> Result<usize, LogError> {
        let position = state.positions.get(index);
        let term = state.positions.terms().term_at(index);
        let (Some(position), Some(term)) = (position, term) else {
            return Err(LogError::Refused(format!("entry {index} is neither in memory nor on the disk")));
        };
        let record = (log_id(term, index), position);
        match self.reads.last_mut() {
            Some(read) if read.segment == position.segment && position.offset - read.end() <= GAP_BYTES_MAX => {
                read.records.push(record);
            }
            _ => {
                let Some(file) = state.segments.get(&position.segment) else {
                    return Err(LogError::Refused(format!("entry {index} is in a segment that is gone")));
                };
                let read = SegmentRead { segment: position.segment, file: file.clone(), records: vec![record] };
                self.reads.push(read);
            }
        }
        Ok(position.bytes as usize)
    }

    /// Whether the disk must be asked.
    pub(super) fn needs_disk(&self) -> bool {
        !self.reads.is_empty()
    }

    /// Reads. Blocks if the disk is needed.
    pub(super) fn carry_out(self, shared: &Shared) -> Result<Vec<Entry>, LogError> {
        if self.reads.is_empty() {
            return Ok(self.tail);
        }
        let mut entries = Vec::new();
        for read in &self.reads {
            read_segment(shared, read, &mut entries)?;
        }
        Counters::add(&shared.counters.entries_read_from_disk, entries.len());
        entries.extend(self.tail);
        Ok(entries)
    }
}

fn read_segment(shared: &Shared, read: &SegmentRead, entries: &mut Vec<Entry>) -> Result<(), LogError> {
    let path = shared.dir.join(read.segment.file_name());
    let start = read.records.first().map_or(0, |(_, position)| position.offset);
    let mut buffer = vec![0; (read.end() - start) as usize];
    let count = read.file.read_at(start.into(), &mut buffer).map_err(|e| LogError::io("read", &path, &e))?;
    buffer.truncate(count);
    let buffer = Bytes::from(buffer);
    let seed = Seed::new(shared.stamp, read.segment);
    for (id, position) in &read.records {
        let at = (position.offset - start) as usize;
        let record = buffer.slice(at.min(count)..(at + position.bytes as usize).min(count));
        let entry = decode_record(&record, seed, *position, *id).ok_or_else(|| LogError::Corrupt {
            file: path.clone(),
            offset: position.offset.into(),
            detail: format!("entry {id} was stored here and is damaged now"),
        })?;
        entries.push(entry);
    }
    Ok(())
}

fn decode_record(record: &Bytes, seed: Seed, position: Position, id: LogId) -> Option<Entry> {
    let header = RecordHeader::decode(record, seed, position.offset)?;
    let body = header.body(record, seed)?;
    let entry = decode_entry(record.slice(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body.len())).ok()?;
    (header.kind == Kind::Entry && entry.log_id == id).then_some(entry)
}
