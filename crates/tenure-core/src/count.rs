//! Counting the keys of a range, at the present and at an old revision, without looking at each of them again.
//!
//! Every page of a list says how many keys the whole list has, so counts are asked for more often than lists. They need no
//! values, and what was counted once stays true of its revision. The count at another revision follows from the
//! creations and deletions between the two, which are in the history: all of it above the compacted revision, as no
//! purge takes an event from there.
//!
//! ```text
//! counted at 100: 10,000 keys      events 101: put a (version 4)   102: delete b   103: put c (version 1)
//! count at 103 = 10,000 - 1 + 1    the count at 101 is found from the one at 103 the other way round
//! ```
//!
//! Where nothing near was counted, the live keys are counted and followed back in this way, and where that is far, the
//! range is walked: a key whose present life began at or before the old revision existed there, so only keys that were
//! deleted or created since cost a look at their history. Which way is taken changes the cost and never the answer.

use core::ops::ControlFlow;

use crate::command::KeyRange;
use crate::history::{key_at, version_before};
use crate::ids::Revision;
use crate::scan::At;
use crate::state::{KnownCount, StateRead};

/// Events walked for a count even if the range holds fewer keys: cheaper than starting a second scan.
const EVENTS_MIN: u64 = 64;
/// How many live keys are counted in the time that one event is walked over, with its value beside it.
const LIVE_KEYS_PER_EVENT: u64 = 4;
/// Events walked at most: their values may be large.
const EVENTS_MAX: u64 = 100_000;

/// How many keys a range holds.
pub(crate) fn count_at<S: StateRead>(state: &S, range: &KeyRange, at: At) -> Result<i64, S::Error> {
    let count = match (at, range) {
        (At::Present, _) => count_present(state, range)?,
        (At::Past(revision), KeyRange::One(key)) => u64::from(key_at(state, key, revision)?.is_some()),
        (At::Past(revision), KeyRange::Between(..) | KeyRange::From(_)) => count_past(state, range, revision)?,
    };
    i64::try_from(count).map_err(|_| state.corrupt("more keys than a count can say"))
}

/// How many keys of a range exist now. [`StateRead::count_live`] walks over all of them, this does not if it can be helped.
pub fn count_present<S: StateRead>(state: &S, range: &KeyRange) -> Result<u64, S::Error> {
    let now = state.meta().revision;
    if let Some(count) = count_from_known(state, range, now)? {
        return Ok(count);
    }
    let keys = state.count_live(range)?;
    state.note_count(range, KnownCount { at: now, keys });
    Ok(keys)
}

fn count_past<S: StateRead>(state: &S, range: &KeyRange, at: Revision) -> Result<u64, S::Error> {
    if let Some(count) = count_from_known(state, range, at)? {
        return Ok(count);
    }
    let keys = count_present(state, range)?;
    let now = KnownCount { at: state.meta().revision, keys };
    let keys = match count_by_events(state, range, now, at, keys.clamp(EVENTS_MIN, EVENTS_MAX))? {
        Some(count) => count,
        None => count_walking(state, range, at)?,
    };
    state.note_count(range, KnownCount { at, keys });
    Ok(keys)
}

/// None if nothing is known, or only of so far away that walking the range looks shorter.
fn count_from_known<S: StateRead>(state: &S, range: &KeyRange, at: Revision) -> Result<Option<u64>, S::Error> {
    let Some(known) = state.known_count(range, at) else { return Ok(None) };
    if known.at == at {
        return Ok(Some(known.keys));
    }
    let events_max = EVENTS_MIN.max(known.keys / LIVE_KEYS_PER_EVENT).min(EVENTS_MAX);
    let count = count_by_events(state, range, known, at, events_max)?;
    if let Some(keys) = count {
        state.note_count(range, KnownCount { at, keys });
    }
    Ok(count)
}

/// Does or undoes the creations and deletions between what is known and `at`. None if there are more than `events_max`
/// events.
fn count_by_events<S: StateRead>(
    state: &S,
    range: &KeyRange,
    known: KnownCount,
    at: Revision,
    events_max: u64,
) -> Result<Option<u64>, S::Error> {
    let (first, last) = (known.at.min(at), known.at.max(at));
    // A revision holds at least one event.
    if last.0.abs_diff(first.0) > events_max {
        return Ok(None);
    }
    let (mut created, mut deleted, mut walked) = (0u64, 0u64, 0u64);
    state.scan_event_metas(Revision(first.0 + 1), last, &mut |key, meta| {
        walked += 1;
        if walked > events_max {
            return ControlFlow::Break(());
        }
        if range.contains(key) {
            created += u64::from(meta.version == 1);
            deleted += u64::from(meta.is_tombstone());
        }
        ControlFlow::Continue(())
    })?;
    if walked > events_max {
        return Ok(None);
    }
    let (more, fewer) = if at > known.at { (created, deleted) } else { (deleted, created) };
    match (known.keys + more).checked_sub(fewer) {
        Some(count) => Ok(Some(count)),
        None => Err(state.corrupt("more keys came or went than there were")),
    }
}

/// Walks over all keys of a range, and follows back those that were deleted or created since.
fn count_walking<S: StateRead>(state: &S, range: &KeyRange, at: Revision) -> Result<u64, S::Error> {
    let (mut count, mut failure) = (0, None);
    state.scan_metas(range, &mut |key, meta| {
        let existed = if !meta.is_tombstone() && meta.create <= at {
            Ok(true)
        } else if meta.modified.revision > at {
            version_before(state, key, meta.modified, at).map(|version| version.is_some())
        } else {
            Ok(false)
        };
        match existed {
            Ok(existed) => {
                count += u64::from(existed);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failure.map_or(Ok(count), Err)
}
