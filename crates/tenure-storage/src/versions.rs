//! Walks over the versions of the keys of a range, at the present and at an old revision.
//!
//! A row of `current` tells where a key's newest event stands in `history`, and each event where the one before it stands.
//! What has to be looked up there is looked up for many keys together, in the order of events and not of keys: neighbours
//! share blocks, and keys that were written one after the other, as lists mostly are, are read by walking over the table
//! instead of searching in it. At an old revision all keys go back one event at a time, in step, until each has arrived.
//! On the way back only the pointers are read; a value is copied once, where it is wanted.

use std::ops::ControlFlow;

use bytes::Bytes;
use tenure_core::command::KeyRange;
use tenure_core::row::KeyMeta;
use tenure_core::{EventId, Revision};

use crate::engine::{Bounds, Direction, EngineSnapshot, Table};
use crate::error::StorageError;
use crate::keys::{ScanBounds, decode_history_key, history_key};
use crate::rows::{StoredValue, decode_current, decode_event};
use crate::state_view::StateView;

/// Keys that are looked up together. A walk that may be broken off anywhere starts with one and doubles.
const KEYS_AT_ONCE_MAX: usize = 512;
/// Fewer of those whose old versions are looked for: how long their values were is known only when all of them are there.
const KEYS_BACK_AT_ONCE_MAX: usize = 64;
/// …and about how many bytes of values.
const BYTES_AT_ONCE_MAX: u64 = 2 << 20;
/// Events that are this near to each other, in revisions, are walked over rather than searched for one by one, …
const GAP_MAX: u64 = 8;
/// …if there are so many of them: a walk has to begin, which takes as long as finding two or three.
const WALK_MIN: usize = 6;
/// How many events a walk passes for each that it is made for, before it gives up: a revision may hold thousands.
const PASSED_PER_EVENT_MAX: usize = 8;

/// Receives a key, the metadata of a version, and its value.
pub(crate) type VisitVersion<'a> = &'a mut dyn FnMut(Bytes, KeyMeta, Bytes) -> ControlFlow<()>;

impl StateView {
    /// Visits the newest version of each key of a range, tombstones included; or the version that each key had at an
    /// earlier revision, if it existed. `wanted` as in [`tenure_core::state::StateRead::scan_current_rows`].
    pub(crate) fn scan_versions(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
        wanted: Option<usize>,
        visit: VisitVersion<'_>,
    ) -> Result<(), StorageError> {
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut wanted = wanted.unwrap_or(1);
        let (mut at_once, mut bytes, mut back, mut stopped) = (KEYS_AT_ONCE_MAX.min(wanted), 0, 0, false);
        self.scan_rows(Table::Current, &ScanBounds::of_keys(range), |key, row| {
            let (meta, stored) = decode_current(row)?;
            let look = match (at, stored) {
                (Some(at), _) if meta.modified.revision > at => Look::Back(meta.modified),
                (Some(_), _) if meta.is_tombstone() => return Ok(ControlFlow::Continue(())),
                (_, StoredValue::Inline(_)) => Look::Done,
                (_, StoredValue::InHistory { bytes }) => Look::Value { bytes },
            };
            let value = match (look, stored) {
                (Look::Done, StoredValue::Inline(value)) => Bytes::copy_from_slice(value),
                _ => Bytes::new(),
            };
            bytes += stored.value_bytes();
            waiting.push(Waiting { key: Bytes::copy_from_slice(key), meta, value, look });
            back += usize::from(matches!(look, Look::Back(_)));
            if waiting.len() < at_once && bytes < BYTES_AT_ONCE_MAX && back < KEYS_BACK_AT_ONCE_MAX {
                return Ok(ControlFlow::Continue(()));
            }
            wanted = wanted.saturating_sub(waiting.len());
            at_once = KEYS_AT_ONCE_MAX.min(if wanted > 0 { wanted } else { at_once * 2 });
            (bytes, back) = (0, 0);
            let flow = self.visit_waiting(&mut waiting, at, visit)?;
            stopped = flow.is_break();
            Ok(flow)
        })?;
        if !stopped {
            _ = self.visit_waiting(&mut waiting, at, visit)?;
        }
        Ok(())
    }

    /// Looks up what is waited for, and visits in the order of keys.
    fn visit_waiting(
        &self,
        waiting: &mut Vec<Waiting>,
        at: Option<Revision>,
        visit: VisitVersion<'_>,
    ) -> Result<ControlFlow<()>, StorageError> {
        let mut wanted: Vec<(EventId, usize)> = Vec::with_capacity(waiting.len());
        loop {
            wanted.clear();
            wanted.extend(waiting.iter().enumerate().filter_map(|(place, row)| Some((row.wants()?, place))));
            if wanted.is_empty() {
                break;
            }
            wanted.sort_unstable();
            visit_events(&*self.snapshot, &wanted, &mut |id, place, event| {
                waiting[place].found(id, event, at, self.meta.compacted)
            })?;
        }
        for Waiting { key, meta, value, look } in waiting.drain(..) {
            if look == Look::Done && visit(key, meta, value).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// A version that is on its way.
struct Waiting {
    key: Bytes,
    meta: KeyMeta,
    value: Bytes,
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

impl Waiting {
    /// The event that has to be looked up.
    fn wants(&self) -> Option<EventId> {
        match self.look {
            Look::Done | Look::Absent => None,
            Look::Value { .. } => Some(self.meta.modified),
            Look::Back(id) => Some(id),
        }
    }

    /// Goes on from the event that was wanted.
    fn found(
        &mut self,
        id: EventId,
        event: Option<&[u8]>,
        at: Option<Revision>,
        compacted: Revision,
    ) -> Result<(), StorageError> {
        let is_newest = id == self.meta.modified;
        let Some(event) = event else {
            if !is_newest && id.revision <= compacted {
                self.look = Look::Absent;
                return Ok(());
            }
            return Err(StorageError::damaged(Table::History, "an event is missing that a later one or its key names"));
        };
        let event = decode_event(id, event)?;
        if event.key != self.key {
            return Err(StorageError::Contradiction("an event belongs to another key"));
        }
        match self.look {
            Look::Value { bytes } if event.value.len() as u64 != bytes => {
                return Err(StorageError::damaged(Table::History, "a value is not as long as its key's row says"));
            }
            // What the key's row says stays: it is for others to hold it against the event.
            Look::Value { .. } | Look::Done | Look::Absent => {}
            Look::Back(id) if at.is_some_and(|at| id.revision > at) => {
                self.look = match event.previous {
                    Some(previous) if previous >= id => {
                        return Err(StorageError::Contradiction("a back pointer does not point back"));
                    }
                    Some(previous) => Look::Back(previous),
                    None => Look::Absent,
                };
                return Ok(());
            }
            Look::Back(_) if event.meta.is_tombstone() => {
                self.look = Look::Absent;
                return Ok(());
            }
            Look::Back(_) => self.meta = event.meta,
        }
        (self.value, self.look) = (Bytes::copy_from_slice(event.value), Look::Done);
        Ok(())
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
