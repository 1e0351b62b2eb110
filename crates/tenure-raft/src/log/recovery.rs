//! Opening a log: reads every segment, replays its records and checks that they make sense together.
//!
//! The rule is that a log is either taken as it is, but for a torn end, or refused: nothing is repaired, skipped or
//! wiped, because a member that forgets a vote or an acknowledged entry can make the whole cluster lose data. One
//! segment at a time is in memory.
//!
//! Segments are numbered without gaps and each begins with the state that the previous one ended with, so a missing or
//! foreign one shows. Only the oldest may be missing, once all of their entries are purged. Of an interrupted deletion
//! some old ones may be left in front of a gap: those are deleted if nothing before the gap is needed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::LogError;
use super::files::{FileLayer, LogFile};
use super::positions::{Position, Positions};
use super::record::{Kind, LogStamp, Seed, WalState, decode_mark, decode_state, entry_log_id_bytes};
use super::segment::{
    Damage, Found, SegmentNumber, create_segment, is_unfinished, offset32, read_segment, scan_segment, segment_stamp,
};
use crate::entry_codec::{decode_log_id, decode_vote};
use crate::types::LogId;

/// A segment that holds part of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: Arc<dyn LogFile>,
    pub(super) bytes: u32,
    /// The highest index of any entry in it, even of one that was truncated later.
    pub(super) last_index: Option<u64>,
}

/// The log as it was found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) stamp: LogStamp,
    /// As recorded; see [`Recovered::committed`] for the committed mark to use.
    pub(super) state: WalState,
    pub(super) positions: Positions,
    /// In order and without gaps; at least one.
    pub(super) segments: BTreeMap<SegmentNumber, Segment>,
}

impl Recovered {
    /// The committed mark, but not beyond the log.
    ///
    /// A snapshot moves the mark ahead of the log before the log is cut to fit, and a crash may come between. The last
    /// entry may then be one that was never committed; only if it is of the mark's own term is it known to be.
    pub(super) fn committed(&self) -> Option<LogId> {
        let (Some(committed), Some(last)) = (self.state.committed, self.state.last) else { return None };
        if committed.index <= last.index {
            Some(committed)
        } else if committed.leader_id == last.leader_id {
            Some(last)
        } else {
            self.state.purged
        }
    }
}

/// Opens the log in `dir`, or makes an empty one if there is none; `new_stamp` is for that case.
pub(super) fn recover(files: &dyn FileLayer, dir: &Path, new_stamp: LogStamp) -> Result<Recovered, LogError> {
    let mut found = Vec::new();
    for name in files.list(dir).map_err(|e| LogError::io("list", dir, &e))? {
        if is_unfinished(&name) {
            remove(files, &dir.join(&name))?;
        }
        found.extend(SegmentNumber::from_file_name(&name));
    }
    found.sort_unstable();
    let Some(last) = found.last().copied() else {
        return create_log(files, dir, new_stamp);
    };
    // The run without gaps that ends with the last segment; what lies before a gap is a leftover, or the gap is damage.
    let in_a_row = found.iter().rev().zip((0..=last.0).rev()).take_while(|(number, n)| number.0 == *n).count();
    let (leftovers, numbers) = found.split_at(found.len() - in_a_row);

    let mut replay = Replay::new(dir.to_owned());
    for number in numbers {
        replay.segment(files, *number, *number == last)?;
    }
    let torn = replay.torn.take();
    let recovered = replay.finish(numbers[0], leftovers)?;
    // Only now that the log is known to be sound is anything changed.
    if let Some((number, segment)) = recovered.segments.last_key_value() {
        let path = dir.join(number.file_name());
        if let Some(torn) = torn {
            tracing::warn!(file = %path.display(), offset = segment.bytes, "cutting off the end of the Raft log: {torn}");
        }
        let cut = |e: io::Error| LogError::io("cut", &path, &e);
        if segment.file.size().map_err(cut)? > segment.bytes.into() {
            segment.file.truncate(segment.bytes.into()).map_err(cut)?;
        }
    }
    for number in leftovers {
        tracing::warn!(segment = number.0, "removing what an interrupted deletion of old log segments left");
        remove(files, &dir.join(number.file_name()))?;
    }
    make_durable(files, dir, &recovered)?;
    Ok(recovered)
}

fn create_log(files: &dyn FileLayer, dir: &Path, stamp: LogStamp) -> Result<Recovered, LogError> {
    let (number, state) = (SegmentNumber(1), WalState::default());
    let (file, bytes) = create_segment(files, dir, stamp, number, &state)?;
    let segments = BTreeMap::from([(number, Segment { file, bytes, last_index: None })]);
    Ok(Recovered { stamp, state, positions: Positions::default(), segments })
}

/// What was replayed may so far be only in the page cache, where a killed process left it; from now on it counts.
fn make_durable(files: &dyn FileLayer, dir: &Path, recovered: &Recovered) -> Result<(), LogError> {
    if let Some((number, segment)) = recovered.segments.last_key_value() {
        let path = dir.join(number.file_name());
        segment.file.sync_data().map_err(|e| LogError::io("sync", &path, &e))?;
    }
    files.sync_dir(dir).map_err(|e| LogError::io("sync", dir, &e))
}

fn remove(files: &dyn FileLayer, path: &Path) -> Result<(), LogError> {
    files.remove(path).map_err(|e| LogError::io("remove", path, &e))
}

/// The replay of all segments, in order.
struct Replay {
    dir: PathBuf,
    stamp: Option<LogStamp>,
    state: Option<WalState>,
    /// Where the entries that the first segment presupposes end.
    presupposed_end: u64,
    positions: Positions,
    segments: BTreeMap<SegmentNumber, Segment>,
    /// What the last segment ends with, if it is to be told of.
    torn: Option<String>,
}

impl Replay {
    fn new(dir: PathBuf) -> Replay {
        let (positions, segments) = (Positions::default(), BTreeMap::new());
        Replay { dir, stamp: None, state: None, presupposed_end: 0, positions, segments, torn: None }
    }

    fn segment(&mut self, files: &dyn FileLayer, number: SegmentNumber, is_last: bool) -> Result<(), LogError> {
        let path = self.dir.join(number.file_name());
        let file = files.open(&path).map_err(|e| LogError::io("open", &path, &e))?;
        let bytes = read_segment(&*file, &path)?;
        let damaged = |damage: Damage| LogError::corrupt(&self.dir, number, damage.offset, damage.detail);
        let stamp = segment_stamp(&bytes, number).map_err(damaged)?;
        if *self.stamp.get_or_insert(stamp) != stamp {
            return Err(LogError::corrupt(&self.dir, number, 0, "the segment belongs to another log"));
        }
        let scan = scan_segment(&bytes, Seed::new(stamp, number), is_last).map_err(damaged)?;
        self.torn = scan.torn;
        let mut segment = Segment { file, bytes: offset32(scan.end), last_index: None };
        for record in &scan.records {
            let entry = self
                .record(number, record, &bytes[record.body.clone()])
                .map_err(|detail| LogError::corrupt(&self.dir, number, record.offset, detail))?;
            segment.last_index = segment.last_index.max(entry);
        }
        self.segments.insert(number, segment);
        Ok(())
    }

    /// Replays one record; returns its index if it is an entry.
    fn record(&mut self, segment: SegmentNumber, found: &Found, body: &[u8]) -> Result<Option<u64>, String> {
        if found.kind == Kind::State {
            return self.state_record(body).map(|()| None);
        }
        let Some(state) = &mut self.state else { return Err("a record stands before any state".into()) };
        let undecodable = |e| format!("a sound record cannot be decoded: {e}");
        match found.kind {
            // Handled above.
            Kind::State => {}
            Kind::Vote => state.vote = Some(decode_vote(body).map_err(undecodable)?),
            Kind::Committed => state.committed = decode_mark(body).map_err(undecodable)?,
            Kind::Entry => {
                let id = decode_log_id(entry_log_id_bytes(body)).map_err(undecodable)?;
                if id.index == u64::MAX {
                    return Err("the entry's index leaves no room for another".into());
                }
                if let Some(last) = state.last.filter(|last| last.index.checked_add(1) != Some(id.index)) {
                    return Err(format!("entry {id} follows entry {last}"));
                }
                let bytes = offset32(found.body.end - found.offset);
                self.positions.push(id, Position { segment, offset: offset32(found.offset), bytes });
                state.last = Some(id);
                return Ok(Some(id.index));
            }
            Kind::Truncate => {
                let last = decode_mark(body).map_err(undecodable)?;
                let end = next_index(last);
                self.positions.truncate(end);
                self.presupposed_end = self.presupposed_end.min(end);
                state.last = last;
            }
            Kind::Purge => {
                let upto = decode_log_id(body).map_err(undecodable)?;
                self.positions.purge(next_index(Some(upto)));
                state.purge(upto);
            }
        }
        Ok(None)
    }

    fn state_record(&mut self, body: &[u8]) -> Result<(), String> {
        let recorded = decode_state(body).map_err(|e| format!("a sound record cannot be decoded: {e}"))?;
        match &self.state {
            None => {
                self.presupposed_end = next_index(recorded.last);
                self.state = Some(recorded);
                Ok(())
            }
            Some(state) if *state == recorded => Ok(()),
            Some(state) => Err(format!("the log goes on from {recorded:?}, but what precedes ends with {state:?}")),
        }
    }

    fn finish(self, first: SegmentNumber, leftovers: &[SegmentNumber]) -> Result<Recovered, LogError> {
        let corrupt = |offset, detail: String| LogError::corrupt(&self.dir, first, offset, detail);
        let (Some(stamp), Some(state)) = (self.stamp, self.state) else {
            return Err(corrupt(0, "the log is empty".into()));
        };
        let purged_end = next_index(state.purged);
        let known_from = self.positions.terms().first_index().unwrap_or(u64::MAX).min(next_index(state.last));
        // Without presupposed entries a log begins where it begins: the first entry ever need not be number 0.
        let missing = self.presupposed_end > purged_end && known_from > purged_end;
        if missing {
            let before = leftovers.last().map_or_else(String::new, |n| format!(", after {}", n.file_name()));
            let detail = format!(
                "a segment before this one is missing{before}: entries {purged_end} to {} are not purged and not there",
                known_from - 1
            );
            return Err(corrupt(0, detail));
        }
        if let Some(committed) = state.committed {
            let found = self.positions.terms().term_at(committed.index);
            if found.is_some_and(|term| term != committed.leader_id.term) {
                return Err(corrupt(
                    0,
                    format!("entry {committed} is committed, but the log holds one of another term"),
                ));
            }
        }
        Ok(Recovered { stamp, state, positions: self.positions, segments: self.segments })
    }
}

/// The index that follows.
pub(super) fn next_index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index.saturating_add(1))
}
