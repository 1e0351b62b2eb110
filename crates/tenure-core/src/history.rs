//! Old versions of a key, found by following the back pointers of its events.
//!
//! `current` names a key's newest event, each event names the one before it, so the versions of a key form a list that
//! starts at the present. Compaction cuts the far end of the list: the version that was newest at the compacted
//! revision stays, unless it is a tombstone. Hence one rule for a pointer whose target is gone: at or below the
//! compacted revision the key was absent there, above it this node has lost data and must stop.

use crate::ids::{EventId, Revision};
use crate::outcome::KeyValue;
use crate::row::EventRow;
use crate::state::StateRead;
use bytes::Bytes;

/// The event that `current` names for a key. It must be there: only superseded versions and tombstones that `current`
/// forgets with them are ever purged.
pub(crate) fn newest_event<S: StateRead>(state: &S, key: &[u8], id: EventId) -> Result<EventRow, S::Error> {
    match state.event(id)? {
        Some(event) => checked(state, key, id, event),
        None => Err(state.corrupt("a key's newest event is not in the history")),
    }
}

/// The event before this one, or none if the key was absent then.
pub(crate) fn previous_event<S: StateRead>(state: &S, event: &EventRow) -> Result<Option<EventRow>, S::Error> {
    let Some(id) = event.previous else { return Ok(None) };
    if id >= event.meta.modified {
        return Err(state.corrupt("a back pointer does not point back"));
    }
    match state.event(id)? {
        Some(previous) => checked(state, &event.key, id, previous).map(Some),
        None if id.revision <= state.meta().compacted => Ok(None),
        None => Err(state.corrupt("an event above the compacted revision is missing")),
    }
}

fn checked<S: StateRead>(state: &S, key: &[u8], id: EventId, event: EventRow) -> Result<EventRow, S::Error> {
    if event.key != key {
        return Err(state.corrupt("an event belongs to another key"));
    }
    if event.meta.modified != id {
        return Err(state.corrupt("an event carries another id than its place"));
    }
    Ok(event)
}

/// The version of a key at `at`, given its newest event, which is newer. `at` is not compacted.
pub(crate) fn version_before<S: StateRead>(
    state: &S,
    key: &[u8],
    newest: EventId,
    at: Revision,
) -> Result<Option<KeyValue>, S::Error> {
    let mut event = newest_event(state, key, newest)?;
    while event.meta.modified.revision > at {
        match previous_event(state, &event)? {
            Some(previous) => event = previous,
            None => return Ok(None),
        }
    }
    Ok(into_key_value(event))
}

/// A key at a revision, which is neither compacted nor in the future.
pub fn key_at<S: StateRead>(state: &S, key: &[u8], revision: Revision) -> Result<Option<KeyValue>, S::Error> {
    let Some(meta) = state.current_meta(key)? else { return Ok(None) };
    if meta.modified.revision > revision {
        return version_before(state, key, meta.modified, revision);
    }
    if meta.is_tombstone() {
        return Ok(None);
    }
    match state.current(key)? {
        Some(row) => Ok(Some(KeyValue::of(Bytes::copy_from_slice(key), &row.meta, row.value))),
        None => Err(state.corrupt("a key has metadata but no row")),
    }
}

/// The key-value that an event replaced or deleted, for a watcher that asks for it.
///
/// It is left out if [`prev_kv_is_compacted`].
pub fn prev_kv<S: StateRead>(state: &S, event: &EventRow) -> Result<Option<KeyValue>, S::Error> {
    if prev_kv_is_compacted(state, event) {
        return Ok(None);
    }
    Ok(previous_event(state, event)?.and_then(into_key_value))
}

/// Whether the revision before an event is compacted. What the key was then is not told any more, as in etcd, wherever it
/// may still be found: else a watcher's answer would depend on how far this node's purge has come, or on its memory.
pub fn prev_kv_is_compacted<S: StateRead>(state: &S, event: &EventRow) -> bool {
    event.meta.modified.revision.0 - 1 < state.meta().compacted.0
}

/// None for a tombstone.
fn into_key_value(event: EventRow) -> Option<KeyValue> {
    (!event.meta.is_tombstone()).then(|| KeyValue::of(event.key, &event.meta, event.value))
}
