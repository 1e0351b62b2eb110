//! Turns operations into bytes in segment files, in order. Knows neither threads nor callers.
//!
//! Records gather in a buffer and go out in one write; [`Writer::flush`] then syncs. Where each entry came to lie is
//! reported only after its bytes are written, so that nobody reads a place before there is something in it. Behind the
//! records there may be zeros, in the last segment only: the room for the next ones. After an
//! error the writer must not be used again: what the file holds behind the last sync is then unknown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tenure_faults::{Point, hit};

use super::counters::Counters;
use super::error::LogError;
use super::files::{FileLayer, LogFile};
use super::positions::Position;
use super::record::{Kind, LogStamp, Place, Seed, WalState, put_entry, put_mark, put_purge, put_state, put_vote};
use super::recovery::{Segment, next_index};
use super::segment::{SegmentNumber, create_segment, offset32};
use crate::runtime::BootInstant;
use crate::types::{Entry, LogId, Vote};
use tenure_core::planted::{Bug, is_on};

/// The buffer is written out beyond this, also in the middle of a group, so that it does not grow with the group.
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// A small write that makes the file longer fills it with zeros up to a multiple of this. The syncs of the writes that
/// follow then move no metadata: on ext4 such a sync takes two thirds of the time and of the CPU of one behind the end.
const ZEROED_BYTES: u32 = 256 << 10;

/// Zeros are written in pieces of a page. What is written at once may be kept as one by the page cache, and is then
/// written to the disk as one each time that a record in it is.
const PAGE_BYTES: u32 = 4 << 10;

/// A larger write takes what it needs of a file: beside it, what the file system does costs little.
const SMALL_WRITE_BYTES: usize = 16 << 10;

/// A change of the table of positions, in the order of the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moved {
    Entry(LogId, Position),
    /// Entries from this index on are gone.
    Truncated(u64),
    /// Entries below this index are gone.
    Purged(u64),
}

/// A segment that readers may need.
pub(super) type NumberedFile = (SegmentNumber, Arc<dyn LogFile>);

/// The writer of one log.
#[derive(Debug)]
pub(super) struct Writer {
    files: Arc<dyn FileLayer>,
    dir: PathBuf,
    stamp: LogStamp,
    segment_bytes: u32,
    counters: Arc<Counters>,
    segments: BTreeMap<SegmentNumber, Segment>,
    number: SegmentNumber,
    seed: Seed,
    /// Length of the current segment: on the disk for sure, and written. What is in `buffer` comes on top.
    synced: u32,
    written: u32,
    /// The file's length: what lies behind what is written is zero.
    extent: u32,
    buffer: Vec<u8>,
    /// As of the end of the buffer.
    state: WalState,
    /// As of the last sync: only what was purged then may be deleted.
    purged_durably: Option<LogId>,
    last_sync: Duration,
    moved: Vec<Moved>,
    created: Vec<NumberedFile>,
}

impl Writer {
    pub(super) fn new(
        files: Arc<dyn FileLayer>,
        dir: PathBuf,
        stamp: LogStamp,
        segment_bytes: u32,
        state: WalState,
        segments: BTreeMap<SegmentNumber, Segment>,
    ) -> Writer {
        let (number, written) = segments.last_key_value().map_or((SegmentNumber(0), 0), |(n, s)| (*n, s.bytes));
        let total: u64 = segments.values().map(|segment| u64::from(segment.bytes)).sum();
        let counters = Arc::new(Counters::default());
        counters.bytes_on_disk.store(total, Ordering::Relaxed);
        let seed = Seed::new(stamp, number);
        let purged_durably = state.purged;
        Writer {
            files,
            dir,
            stamp,
            segment_bytes,
            counters,
            segments,
            number,
            seed,
            synced: written,
            written,
            extent: written,
            buffer: Vec::new(),
            state,
            purged_durably,
            last_sync: Duration::MAX,
            moved: Vec::new(),
            created: Vec::new(),
        }
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// How long the disk took for the last sync; for ever before the first.
    pub(super) fn last_sync(&self) -> Duration {
        self.last_sync
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> Result<(), LogError> {
        let place = self.place()?;
        let start = self.buffer.len();
        put_entry(&mut self.buffer, place, entry);
        let bytes = offset32(self.buffer.len() - start);
        let id = entry.log_id;
        self.moved.push(Moved::Entry(id, Position { segment: self.number, offset: place.offset, bytes }));
        self.state.last = Some(id);
        if let Some(segment) = self.segments.get_mut(&self.number) {
            segment.last_index = segment.last_index.max(Some(id.index));
        }
        Counters::add(&self.counters.entries_written, 1);
        Ok(())
    }

    pub(super) fn vote(&mut self, vote: Vote) -> Result<(), LogError> {
        if is_on(Bug::ForgottenVote) {
            return Ok(());
        }
        let place = self.place()?;
        put_vote(&mut self.buffer, place, &vote);
        self.state.vote = Some(vote);
        Ok(())
    }

    /// `last` is the last log id that is left.
    pub(super) fn truncate(&mut self, last: Option<LogId>) -> Result<(), LogError> {
        let place = self.place()?;
        put_mark(&mut self.buffer, place, Kind::Truncate, last.as_ref());
        self.moved.push(Moved::Truncated(next_index(last)));
        self.state.last = last;
        Ok(())
    }

    pub(super) fn committed(&mut self, committed: Option<LogId>) -> Result<(), LogError> {
        let place = self.place()?;
        put_mark(&mut self.buffer, place, Kind::Committed, committed.as_ref());
        self.state.committed = committed;
        Ok(())
    }

    pub(super) fn purge(&mut self, upto: LogId) -> Result<(), LogError> {
        let place = self.place()?;
        put_purge(&mut self.buffer, place, &upto);
        self.moved.push(Moved::Purged(next_index(Some(upto))));
        self.state.purge(upto);
        Ok(())
    }

    /// Marks the end of a log that is closed: a record that knows all before it to be synced, so that a later start
    /// takes damage to the last entries for what it is.
    pub(super) fn close(&mut self) -> Result<(), LogError> {
        self.flush()?;
        let place = self.place()?;
        let state = self.state.clone();
        put_state(&mut self.buffer, place, &state);
        self.seal()
    }

    /// Makes everything so far durable.
    pub(super) fn flush(&mut self) -> Result<(), LogError> {
        self.write()?;
        if self.synced < self.written { self.sync() } else { Ok(()) }
    }

    /// The same, and takes back the room behind the records: no more of them will follow in this file.
    fn seal(&mut self) -> Result<(), LogError> {
        self.write()?;
        if self.extent == self.written {
            return self.flush();
        }
        self.current()?.file.truncate(self.written.into()).map_err(|e| self.io("cut", &e))?;
        self.extent = self.written;
        self.sync()
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let started = BootInstant::now();
        hit(Point::WalBeforeSync).map_err(|e| self.io("sync", &e))?;
        if !is_on(Bug::UnsyncedLog) {
            self.current()?.file.sync_data().map_err(|e| self.io("sync", &e))?;
        }
        hit(Point::WalAfterSync).map_err(|e| self.io("sync", &e))?;
        self.last_sync = started.elapsed();
        self.counters.synced(self.last_sync);
        self.synced = self.written;
        self.purged_durably = self.state.purged;
        Ok(())
    }

    /// Fills the file with zeros, page by page.
    fn make_room(&self, mut from: u32, to: u32) -> Result<(), LogError> {
        let zeros = [0; PAGE_BYTES as usize];
        while from < to {
            let end = (from + 1).next_multiple_of(PAGE_BYTES).min(to);
            let piece = &zeros[..(end - from) as usize];
            self.current()?.file.write_at(from.into(), piece).map_err(|e| self.io("write", &e))?;
            from = end;
        }
        Ok(())
    }

    /// How far a write of so many bytes takes the file.
    fn extent_with(&self, bytes: usize) -> u32 {
        let end = self.written + offset32(bytes);
        if end <= self.extent || bytes > SMALL_WRITE_BYTES {
            return end;
        }
        end.next_multiple_of(ZEROED_BYTES).min(self.segment_bytes).max(end)
    }

    /// Hands everything so far to the operating system.
    pub(super) fn write(&mut self) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = self.buffer.len();
        let extent = self.extent_with(bytes);
        hit(Point::WalBeforeWrite).map_err(|e| self.io("write", &e))?;
        self.current()?.file.write_at(self.written.into(), &self.buffer).map_err(|e| self.io("write", &e))?;
        self.make_room(self.written + offset32(bytes), extent)?;
        hit(Point::WalAfterWrite).map_err(|e| self.io("write", &e))?;
        self.extent = self.extent.max(extent);
        self.written += offset32(bytes);
        if let Some(segment) = self.segments.get_mut(&self.number) {
            segment.bytes = self.written;
        }
        Counters::add(&self.counters.bytes_written, bytes);
        Counters::add(&self.counters.bytes_on_disk, bytes);
        self.buffer.clear();
        self.buffer.shrink_to(2 * BUFFER_BYTES_MAX);
        Ok(())
    }

    /// Where entries went since the last call, and the segments begun; all of it is written.
    pub(super) fn take_changes(&mut self) -> (Vec<Moved>, Vec<NumberedFile>) {
        debug_assert!(self.buffer.is_empty());
        (std::mem::take(&mut self.moved), std::mem::take(&mut self.created))
    }

    /// Deletes the oldest segment if all in it is purged for sure; returns its number. One at a time: on some file
    /// systems deleting a large file takes as long as a sync.
    pub(super) fn remove_purged_segment(&mut self) -> Result<Option<SegmentNumber>, LogError> {
        let Some((number, bytes)) = self.purged_segment() else { return Ok(None) };
        let path = self.dir.join(number.file_name());
        hit(Point::WalBeforeRemove).map_err(|e| LogError::io("remove", &path, &e))?;
        self.files.remove(&path).map_err(|e| LogError::io("remove", &path, &e))?;
        self.segments.remove(&number);
        Counters::add(&self.counters.segments_removed, 1);
        self.counters.bytes_on_disk.fetch_sub(bytes, Ordering::Relaxed);
        Ok(Some(number))
    }

    /// Whether so many bytes can be written without making the file longer, or beginning another.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.written.saturating_add(offset32(self.buffer.len())).saturating_add(offset32(bytes)) <= self.extent
    }

    /// Whether there is something to be deleted.
    pub(super) fn has_purged_segment(&self) -> bool {
        self.purged_segment().is_some()
    }

    /// The oldest segment and its bytes, if nothing in it is needed. What it says besides entries, its successor repeats
    /// in its first record.
    fn purged_segment(&self) -> Option<(SegmentNumber, u64)> {
        let (number, segment) = self.segments.first_key_value()?;
        let purged = self.purged_durably.map(|id| id.index);
        (*number != self.number && segment.last_index <= purged).then_some((*number, segment.bytes.into()))
    }

    /// Where the next record goes; begins a new segment if this one is full.
    fn place(&mut self) -> Result<Place, LogError> {
        if self.buffer.len() >= BUFFER_BYTES_MAX {
            self.write()?;
        }
        if self.written.saturating_add(offset32(self.buffer.len())) >= self.segment_bytes {
            self.begin_segment()?;
        }
        let offset = self.written + offset32(self.buffer.len());
        Ok(Place { seed: self.seed, offset, synced: self.synced })
    }

    /// A torn end is tolerated in the last segment only, so the old one must be durable before the new one exists.
    fn begin_segment(&mut self) -> Result<(), LogError> {
        self.seal()?;
        let number = self.number.next();
        hit(Point::WalBeforeCut).map_err(|e| self.io("begin a file after", &e))?;
        let (file, bytes) = create_segment(&*self.files, &self.dir, self.stamp, number, &self.state)?;
        hit(Point::WalAfterCut).map_err(|e| self.io("begin a file after", &e))?;
        self.created.push((number, file.clone()));
        self.segments.insert(number, Segment { file, bytes, last_index: None });
        self.number = number;
        self.seed = Seed::new(self.stamp, number);
        self.written = bytes;
        self.extent = bytes;
        self.synced = bytes;
        Counters::add(&self.counters.segments_created, 1);
        Counters::add(&self.counters.bytes_on_disk, bytes as usize);
        Ok(())
    }

    fn current(&self) -> Result<&Segment, LogError> {
        self.segments.get(&self.number).ok_or_else(|| LogError::Refused("the log has no segment".into()))
    }

    pub(super) fn io(&self, action: &'static str, source: &std::io::Error) -> LogError {
        LogError::io(action, &self.dir.join(self.number.file_name()), source)
    }
}
