//! Walking the keys of a range, at the present and at an old revision.
//!
//! At the present the rows of `current` are the answer, less the tombstones that are not purged yet. Where those lie
//! dense (a lock queue leaves one per contender) the walk changes over to `live`, which holds none. At an old revision
//! every row of `current` that is newer is followed back. Counting is another matter, see [`crate::count`].

use bytes::Bytes;
use core::ops::ControlFlow;

use crate::borrowed::{BytesRef, KvRef};
use crate::command::KeyRange;
use crate::history::{key_at, version_before};
use crate::ids::Revision;
use crate::outcome::KeyValue;
use crate::row::CurrentRow;
use crate::state::StateRead;

/// When a read looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// At the newest revision, a running transaction's own writes included.
    Present,
    /// At an earlier revision that is not compacted.
    Past(Revision),
}

/// Tombstones a walk of `current` passes before it thinks of changing over to `live`.
const TOMBSTONES_MIN: u64 = 64;
/// …and how many per live key make it do so: a get per live key costs about as much as stepping over this many rows.
const TOMBSTONES_PER_LIVE_KEY: u64 = 8;

/// A visitor that may fail, which ends the scan.
pub(crate) type TryVisit<'a, E> = &'a mut dyn FnMut(Bytes, CurrentRow) -> Result<ControlFlow<()>, E>;

/// `scan_current` for a visitor that may fail.
pub(crate) fn try_scan_current<S: StateRead>(
    state: &S,
    range: &KeyRange,
    visit: TryVisit<'_, S::Error>,
) -> Result<(), S::Error> {
    let mut failure = None;
    state.scan_current(range, &mut |key, row| match visit(key, row) {
        Ok(flow) => flow,
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(()), Err)
}

/// The key-values of a range in ascending key order; `wanted` is after how many the visitor will break off, if it is known.
pub(crate) fn scan_at<S: StateRead>(
    state: &S,
    range: &KeyRange,
    at: At,
    wanted: Option<usize>,
    visit: &mut dyn FnMut(KvRef<'_>) -> ControlFlow<()>,
) -> Result<(), S::Error> {
    if let KeyRange::One(key) = range {
        // There is nothing after one key to break off from.
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
            get_at(state, key, at)?.map_or(ControlFlow::Continue(()), |kv| visit(KvRef::from(&kv)));
        return Ok(());
    }
    match at {
        At::Present => scan_present(state, range, wanted, visit),
        At::Past(revision) => state.scan_past(range, revision, wanted, visit),
    }
}

/// One key.
pub(crate) fn get_at<S: StateRead>(state: &S, key: &Bytes, at: At) -> Result<Option<KeyValue>, S::Error> {
    match at {
        At::Present => Ok(state
            .current(key)?
            .filter(|row| !row.meta.is_tombstone())
            .map(|row| KeyValue::of(key.clone(), &row.meta, row.value))),
        At::Past(revision) => key_at(state, key, revision),
    }
}

fn scan_present<S: StateRead>(
    state: &S,
    range: &KeyRange,
    wanted: Option<usize>,
    visit: &mut dyn FnMut(KvRef<'_>) -> ControlFlow<()>,
) -> Result<(), S::Error> {
    let (mut live, mut tombstones) = (0u64, 0u64);
    let mut change_over = None;
    state.scan_present(range, wanted, &mut |kv| {
        if kv.version != 0 {
            live += 1;
            return visit(kv);
        }
        tombstones += 1;
        if tombstones < TOMBSTONES_MIN + live * TOMBSTONES_PER_LIVE_KEY {
            return ControlFlow::Continue(());
        }
        change_over = Some(kv.key.to_bytes());
        ControlFlow::Break(())
    })?;
    match (change_over, range) {
        (None, _) | (Some(_), KeyRange::One(_)) => Ok(()),
        (Some(key), KeyRange::Between(_, end)) => scan_live(state, &KeyRange::Between(key, end.clone()), visit),
        (Some(key), KeyRange::From(_)) => scan_live(state, &KeyRange::From(key), visit),
    }
}

fn scan_live<S: StateRead>(
    state: &S,
    range: &KeyRange,
    visit: &mut dyn FnMut(KvRef<'_>) -> ControlFlow<()>,
) -> Result<(), S::Error> {
    let mut failure = None;
    state.scan_live(range, &mut |key| match get_at(state, &key, At::Present) {
        Ok(Some(kv)) => visit(KvRef::from(&kv)),
        Ok(None) => {
            failure = Some(state.corrupt("a live key has no row"));
            ControlFlow::Break(())
        }
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(()), Err)
}

/// The plain way of [`StateRead::scan_past`]: key by key.
pub(crate) fn walk_past<S: StateRead>(
    state: &S,
    range: &KeyRange,
    at: Revision,
    visit: &mut dyn FnMut(KvRef<'_>) -> ControlFlow<()>,
) -> Result<(), S::Error> {
    try_scan_current(state, range, &mut |key, row| {
        if row.meta.modified.revision > at {
            let version = version_before(state, &key, row.meta.modified, at)?;
            Ok(version.map_or(ControlFlow::Continue(()), |kv| visit(KvRef::from(&kv))))
        } else if row.meta.is_tombstone() {
            Ok(ControlFlow::Continue(()))
        } else {
            Ok(visit(KvRef::of(BytesRef::Shared(&key), &row.meta, BytesRef::Shared(&row.value))))
        }
    })
}
