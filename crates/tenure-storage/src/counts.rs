//! What readers counted, for those who count the same range again.
//!
//! A count is remembered with the revision that it is of, and is true of it for ever: nothing here is invalidated. Whoever
//! asks about another revision gets the nearest that his view can go on from (see `tenure_core`'s `count`). Each
//! range has one count that moves on with the present, and several that stay, for readers who page at a fixed revision.
//!
//! It belongs to one store and all its views, and goes with them: a state that a snapshot of the leader replaces takes
//! its counts along. Only ranges of many keys are worth a place; their number and the length of their bounds is limited.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tenure_core::Revision;
use tenure_core::command::KeyRange;
use tenure_core::state::KnownCount;

/// Ranges remembered: with their counts and bounds they take half a megabyte at most.
const RANGES_MAX: usize = 256;
/// The length of a range's bounds together.
const BOUNDS_BYTES_MAX: usize = 1024;
/// Revisions remembered of one range, beside the newest.
const OLD_MAX: usize = 8;

/// The counts. See the module.
#[derive(Debug)]
pub(crate) struct Counts {
    known: Mutex<Known>,
    /// Ranges of fewer keys are not remembered.
    keys_min: u64,
}

#[derive(Debug, Default)]
struct Known {
    ranges: HashMap<KeyRange, OfRange>,
    /// Counts uses, to tell what was used last.
    uses: u64,
}

#[derive(Debug)]
struct OfRange {
    newest: KnownCount,
    old: Vec<(KnownCount, u64)>,
    used: u64,
}

impl Counts {
    pub(crate) fn new(keys_min: u64) -> Counts {
        Counts { known: Mutex::default(), keys_min }
    }

    /// The count nearest to `at` among those of `first..=last`.
    pub(crate) fn nearest(
        &self,
        range: &KeyRange,
        at: Revision,
        first: Revision,
        last: Revision,
    ) -> Option<KnownCount> {
        let mut known = self.known();
        known.uses += 1;
        let uses = known.uses;
        let of_range = known.ranges.get_mut(range)?;
        of_range.used = uses;
        if let Some((count, used)) = of_range.old.iter_mut().find(|(count, _)| count.at == at) {
            *used = uses;
            return Some(*count);
        }
        let counts = of_range.old.iter().map(|(count, _)| *count).chain([of_range.newest]);
        let usable = counts.filter(|count| first <= count.at && count.at <= last);
        usable.min_by_key(|count| count.at.0.abs_diff(at.0))
    }

    /// Remembers a count, taken by a reader whose present is `now`.
    pub(crate) fn note(&self, range: &KeyRange, count: KnownCount, now: Revision) {
        let Some(range) = bounded(range).filter(|_| count.keys >= self.keys_min) else { return };
        let mut known = self.known();
        known.uses += 1;
        let uses = known.uses;
        if known.ranges.len() >= RANGES_MAX
            && !known.ranges.contains_key(&range)
            && let Some(stalest) =
                known.ranges.iter().min_by_key(|(_, known)| known.used).map(|(range, _)| range.clone())
        {
            known.ranges.remove(&stalest);
        }
        let fresh = OfRange { newest: count, old: Vec::new(), used: uses };
        let of_range = known.ranges.entry(range).or_insert(fresh);
        if count.at == now && count.at >= of_range.newest.at {
            of_range.newest = count;
        } else if count.at != of_range.newest.at && of_range.old.iter().all(|(old, _)| old.at != count.at) {
            if of_range.old.len() >= OLD_MAX
                && let Some(stalest) = (0..of_range.old.len()).min_by_key(|place| of_range.old[*place].1)
            {
                of_range.old.swap_remove(stalest);
            }
            of_range.old.push((count, uses));
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Counts are written whole, so a panic of another holder has left no wrong one.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The range with bounds of its own, for those of a request would keep the request. None if they are too long, or if there
/// is nothing to count.
fn bounded(range: &KeyRange) -> Option<KeyRange> {
    let own = |bound: &Bytes| Bytes::copy_from_slice(bound);
    let (range, bytes) = match range {
        KeyRange::One(_) => return None,
        KeyRange::Between(start, end) => (KeyRange::Between(own(start), own(end)), start.len() + end.len()),
        KeyRange::From(start) => (KeyRange::From(own(start)), start.len()),
    };
    (bytes <= BOUNDS_BYTES_MAX).then_some(range)
}
