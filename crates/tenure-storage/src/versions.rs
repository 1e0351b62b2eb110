//! Walks over the versions of the keys of a range, at the present and at an old revision.
//!
//! A row of `current` tells where a key's newest event stands in `history`, and each event where the one before it stands.
//! What has to be looked up there is looked up for many keys together, in the order of events and not of keys: neighbours
//! share blocks, and keys that were written one after the other, as lists mostly are, are read by walking over the table
//! instead of searching in it. At an old revision all keys go back one event at a time, in step, until each has arrived.
//! On the way back only the pointers are read. A value is shown to the visitor where it lies if its turn has come, which is
//! so wherever keys were written in their order; else it is copied, and waits.

use std::ops::{ControlFlow, Range};

use tenure_core::command::KeyRange;
use tenure_core::row::KeyMeta;
use tenure_core::{EventId, Revision};

use crate::engine::{Bounds, Direction, EngineSnapshot, Table};
use crate::error::StorageError;
use crate::keys::{ScanBounds, decode_history_key, history_key};
use crate::rows::{CurrentRef, StoredValue, decode_current, decode_event};
use crate::state_view::StateView;

/// Keys that are looked up together. A walk that may be broken off anywhere starts with one and doubles.
const KEYS_AT_ONCE_MAX: usize = 512;
/// Fewer of those whose old versions are looked for: how long their values were is known only when all of them are there.
const KEYS_BACK_AT_ONCE_MAX: usize = 64;
/// …and about how many bytes of values.
const BYTES_AT_ONCE_MAX: u64 = 2 << 20;
/// What is kept of the memory for them from one look-up to the next.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// Events that are this near to each other, in revisions, are walked over rather than searched for one by one, …
const GAP_MAX: u64 = 8;
/// …if there are so many of them: a walk has to begin, which takes as long as finding two or three.
const WALK_MIN: usize = 6;
/// How many events a walk passes for each that it is made for, before it gives up: a revision may hold thousands.
const PASSED_PER_EVENT_MAX: usize = 8;

/// Receives a key, the metadata of a version, and its value.
pub(crate) type VisitVersion<'a> = &'a mut dyn FnMut(&[u8], &KeyMeta, &[u8]) -> ControlFlow<()>;

impl StateView {
    /// Visits the newest version of each key of a range, tombstones included; or the version that each key had at an
    /// earlier revision, if it existed. `wanted` as in [`tenure_core::state::StateRead::scan_present`].
    pub(crate) fn scan_versions(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
        wanted: Option<usize>,
        visit: VisitVersion<'_>,
    ) -> Result<(), StorageError> {
        let mut waiting = Waiting::new(at, self.meta.compacted);
        let mut ahead = Ahead { wanted: wanted.unwrap_or(1), at_once: 0 };
        self.scan_rows(Table::Current, &ScanBounds::of_keys(range), |key, row| {
            let CurrentRef { meta, previous, value: stored } = decode_current(row)?;
            let look = match (at, stored) {
                // The newest event would tell the one before it, if the key's row does not.
                (Some(at), _) if meta.modified.revision > at => Look::Back(previous.unwrap_or(meta.modified)),
                (Some(_), _) if meta.is_tombstone() => return Ok(ControlFlow::Continue(())),
                // Nothing that it would have to wait for is before it.
                (_, StoredValue::Inline(value)) if waiting.rows.is_empty() => {
                    ahead.had(1);
                    return Ok(visit(key, &meta, value));
                }
                (_, StoredValue::Inline(_)) => Look::Done,
                (_, StoredValue::InHistory { bytes }) => Look::Value { bytes },
            };
            if waiting.rows.is_empty() {
                ahead.begin();
            }
            waiting.push(key, meta, stored, look);
            if !waiting.is_full(ahead.at_once) {
                return Ok(ControlFlow::Continue(()));
            }
            ahead.had(waiting.rows.len());
            waiting.look_up(&*self.snapshot, visit)
        })?;
        _ = waiting.look_up(&*self.snapshot, visit)?;
        Ok(())
    }
}

/// How many keys are looked up together.
struct Ahead {
    /// How many the visitor still wants, as far as that is known.
    wanted: usize,
    at_once: usize,
}

impl Ahead {
    fn begin(&mut self) {
        self.at_once = KEYS_AT_ONCE_MAX.min(if self.wanted > 0 { self.wanted } else { self.at_once.max(1) * 2 });
    }

    fn had(&mut self, keys: usize) {
        self.wanted = self.wanted.saturating_sub(keys);
    }
}

/// Versions that are on their way, in the order of keys. The next one in that order is visited as soon as it is found, where
/// it lies; one that is found before its turn is copied.
struct Waiting {
    at: Option<Revision>,
    compacted: Revision,
    rows: Vec<Row>,
    /// The keys, and the values that came before their turn.
    bytes: Vec<u8>,
    /// How many rows were visited.
    visited: usize,
    /// The visitor has broken off.
    is_over: bool,
    /// What the values take, as far as their lengths are known.
    value_bytes: u64,
    /// How many rows are looked for among old versions.
    back: usize,
}

/// A version that is on its way.
struct Row {
    key: Range<usize>,
    value: Range<usize>,
    meta: KeyMeta,
    look: Look,
}

/// What is still to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Nothing.
    Done,
    /// The value, so long, of the version that is known.
    Value { bytes: u64 },
    /// Whether this event made the version that is wanted, or which one before it did.
    Back(EventId),
    /// Nothing: the key did not exist.
    Absent,
}

impl Row {
    /// The event that has to be looked up.
    fn wants(&self) -> Option<EventId> {
        match self.look {
            Look::Done | Look::Absent => None,
            Look::Value { .. } => Some(self.meta.modified),
            Look::Back(id) => Some(id),
        }
    }
}

impl Waiting {
    fn new(at: Option<Revision>, compacted: Revision) -> Waiting {
        let (rows, bytes) = (Vec::new(), Vec::new());
        Waiting { at, compacted, rows, bytes, visited: 0, is_over: false, value_bytes: 0, back: 0 }
    }

    fn push(&mut self, key: &[u8], meta: KeyMeta, stored: StoredValue<'_>, look: Look) {
        let key = keep(&mut self.bytes, key);
        let value = match (look, stored) {
            (Look::Done, StoredValue::Inline(value)) => keep(&mut self.bytes, value),
            _ => 0..0,
        };
        self.value_bytes += stored.value_bytes();
        self.back += usize::from(matches!(look, Look::Back(_)));
        self.rows.push(Row { key, value, meta, look });
    }

    fn is_full(&self, at_once: usize) -> bool {
        self.rows.len() >= at_once || self.value_bytes >= BYTES_AT_ONCE_MAX || self.back >= KEYS_BACK_AT_ONCE_MAX
    }

    /// Looks up what is waited for, and visits in the order of keys. Nothing waits any more.
    fn look_up(
        &mut self,
        snapshot: &dyn EngineSnapshot,
        visit: VisitVersion<'_>,
    ) -> Result<ControlFlow<()>, StorageError> {
        let mut wanted: Vec<(EventId, usize)> = Vec::with_capacity(self.rows.len());
        while !self.is_over {
            wanted.clear();
            wanted.extend(self.rows.iter().enumerate().filter_map(|(place, row)| Some((row.wants()?, place))));
            if wanted.is_empty() {
                break;
            }
            wanted.sort_unstable();
            visit_events(snapshot, &wanted, &mut |id, place, event| self.found(place, id, event, visit))?;
        }
        assert!(self.is_over || self.visited == self.rows.len(), "each row is visited once it is found");
        self.rows.clear();
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        (self.visited, self.value_bytes, self.back) = (0, 0, 0);
        Ok(if self.is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Goes on with a row from the event that it wanted.
    fn found(
        &mut self,
        place: usize,
        id: EventId,
        event: Option<&[u8]>,
        visit: VisitVersion<'_>,
    ) -> Result<(), StorageError> {
        if self.is_over {
            return Ok(());
        }
        let row = &mut self.rows[place];
        let value = row.found(&self.bytes[row.key.clone()], id, event, self.at, self.compacted)?;
        if place != self.visited {
            if let Some(value) = value {
                row.value = keep(&mut self.bytes, value);
            }
            return Ok(());
        }
        if let Some(value) = value {
            self.is_over = visit(&self.bytes[row.key.clone()], &row.meta, value).is_break();
            self.visited += 1;
        }
        self.visit_found(visit);
        Ok(())
    }

    /// Visits the rows that are next and have been found.
    fn visit_found(&mut self, visit: VisitVersion<'_>) {
        while !self.is_over
            && let Some(row) = self.rows.get(self.visited)
            && row.wants().is_none()
        {
            if row.look == Look::Done {
                let (key, value) = (&self.bytes[row.key.clone()], &self.bytes[row.value.clone()]);
                self.is_over = visit(key, &row.meta, value).is_break();
            }
            self.visited += 1;
        }
    }
}

/// Copies bytes behind others; answers where they are.
fn keep(bytes: &mut Vec<u8>, more: &[u8]) -> Range<usize> {
    let start = bytes.len();
    bytes.extend_from_slice(more);
    start..bytes.len()
}

impl Row {
    /// Goes on from the event that was wanted; answers the value if that was the last.
    fn found<'e>(
        &mut self,
        key: &[u8],
        id: EventId,
        event: Option<&'e [u8]>,
        at: Option<Revision>,
        compacted: Revision,
    ) -> Result<Option<&'e [u8]>, StorageError> {
        let is_newest = id == self.meta.modified;
        let Some(event) = event else {
            if !is_newest && id.revision <= compacted {
                self.look = Look::Absent;
                return Ok(None);
            }
            return Err(StorageError::damaged(Table::History, "an event is missing that a later one or its key names"));
        };
        let event = decode_event(id, event)?;
        if event.key != key {
            return Err(StorageError::Contradiction("an event belongs to another key"));
        }
        match self.look {
            Look::Value { bytes } if event.value.len() as u64 != bytes => {
                return Err(StorageError::damaged(Table::History, "a value is not as long as its key's row says"));
            }
            // What the key's row says stays: it is for others to hold it against the event.
            Look::Value { .. } | Look::Done | Look::Absent => {}
            Look::Back(id) if at.is_some_and(|at| id.revision > at) => {
                self.look = event.previous.map_or(Look::Absent, Look::Back);
                return Ok(None);
            }
            Look::Back(_) if event.meta.is_tombstone() => {
                self.look = Look::Absent;
                return Ok(None);
            }
            Look::Back(_) => self.meta = event.meta,
        }
        self.look = Look::Done;
        Ok(Some(event.value))
    }
}

/// Receives an event's id, the number beside it, and its row if there is one.
type VisitEvent<'a> = &'a mut dyn FnMut(EventId, usize, Option<&[u8]>) -> Result<(), StorageError>;

/// Looks up events, which are in ascending order.
fn visit_events(
    snapshot: &dyn EngineSnapshot,
    wanted: &[(EventId, usize)],
    visit: VisitEvent<'_>,
) -> Result<(), StorageError> {
    let near = |a: &(EventId, usize), b: &(EventId, usize)| a.0.revision.0.abs_diff(b.0.revision.0) <= GAP_MAX;
    let mut apart: Vec<(EventId, usize)> = Vec::new();
    for neighbours in wanted.chunk_by(near) {
        let walked = if neighbours.len() < WALK_MIN { 0 } else { walk_events(snapshot, neighbours, visit)? };
        apart.extend_from_slice(&neighbours[walked..]);
    }
    let keys: Vec<[u8; 12]> = apart.iter().map(|(id, _)| history_key(*id)).collect();
    let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let mut failure = None;
    snapshot.get_many(Table::History, &keys, &mut |place, row| {
        if failure.is_none() {
            let (id, number) = apart[place];
            failure = visit(id, number, row).err();
        }
    })?;
    failure.map_or(Ok(()), Err)
}

/// Looks up events by walking from the first to the last, and answers how many were visited: all, unless too many others
/// stand between them.
fn walk_events(
    snapshot: &dyn EngineSnapshot,
    wanted: &[(EventId, usize)],
    visit: VisitEvent<'_>,
) -> Result<usize, StorageError> {
    let (Some((first, _)), Some((last, _))) = (wanted.first(), wanted.last()) else { return Ok(0) };
    let mut upper = history_key(*last).to_vec();
    // The first key that can follow.
    upper.push(0);
    let bounds = Bounds { lower: &history_key(*first), upper: Some(&upper) };
    let (mut visited, mut passed, mut failure) = (0, 0, None);
    let mut step = |key: &[u8], row: &[u8]| -> Result<ControlFlow<()>, StorageError> {
        let found = decode_history_key(key)?;
        while let Some((id, number)) = wanted.get(visited).filter(|(id, _)| *id <= found) {
            visit(*id, *number, (*id == found).then_some(row))?;
            visited += 1;
        }
        passed += 1;
        let too_many = passed > PASSED_PER_EVENT_MAX * wanted.len();
        Ok(if too_many { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let mut broken_off = false;
    snapshot.scan(Table::History, bounds, Direction::Ascending, &mut |key, row| {
        let flow = step(key, row).unwrap_or_else(|error| {
            failure = Some(error);
            ControlFlow::Break(())
        });
        broken_off = flow.is_break();
        flow
    })?;
    failure.map_or(Ok(()), Err)?;
    if !broken_off {
        for (id, number) in &wanted[visited..] {
            visit(*id, *number, None)?;
        }
        visited = wanted.len();
    }
    Ok(visited)
}
