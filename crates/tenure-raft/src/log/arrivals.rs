//! When entries reached this process.
//!
//! An entry may be applied long after it arrived: the last ones before a leader's death wait until the next leader commits
//! them. What an entry says about time holds for when it was made, and this node can be sure only that it was made before it
//! arrived. So the moment kept for an entry is its arrival or a later one, never an earlier one: neighbours share a
//! record, and old records are given up, in favour of later ones.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::runtime::BootInstant;

/// Entries that arrive within this time share a record.
const SHARED: Duration = Duration::from_millis(5);

/// Records that are kept: for entries that arrived in more than a minute, half a megabyte.
const RECORDS_MAX: usize = 16 * 1024;

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Arrivals(Mutex<VecDeque<Record>>);

#[derive(Clone, Copy, Debug)]
struct Record {
    /// The last entry that it is about; it is about all since the record before.
    last: u64,
    began: BootInstant,
    /// None of them arrived later.
    at: BootInstant,
}

impl Arrivals {
    /// Of a log that was opened with this as its last entry: what it held arrived before, nobody knows when.
    pub(super) fn of_opened(last: Option<u64>, now: BootInstant) -> Arrivals {
        let record = last.map(|last| Record { last, began: now, at: now });
        Arrivals(Mutex::new(record.into_iter().collect()))
    }

    /// Entries have arrived. They take the place of what was there from the first of them on.
    pub(super) fn note(&self, first: u64, last: u64, now: BootInstant) {
        let mut records = self.records();
        while let Some(record) = records.back_mut()
            && record.last >= first
        {
            let Some(kept) = first.checked_sub(1) else {
                records.clear();
                break;
            };
            record.last = kept;
            let len = records.len();
            if len > 1 && records[len - 2].last >= kept {
                records.pop_back();
            }
        }
        match records.back_mut() {
            Some(record) if now - record.began < SHARED => (record.last, record.at) = (last, now),
            _ => records.push_back(Record { last, began: now, at: now }),
        }
        if records.len() > RECORDS_MAX {
            records.pop_front();
        }
    }

    /// When an entry arrived, or a later moment; `now` if nothing is known. To be asked in ascending order: what is about
    /// earlier entries only is forgotten.
    pub(crate) fn of(&self, index: u64, now: BootInstant) -> BootInstant {
        let mut records = self.records();
        while records.front().is_some_and(|record| record.last < index) {
            records.pop_front();
        }
        records.front().map_or(now, |record| record.at.min(now))
    }

    fn records(&self) -> MutexGuard<'_, VecDeque<Record>> {
        // Each record is whole, and a missing one only makes for a later moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(last: Option<u64>) -> (Arrivals, impl Fn(u64) -> BootInstant) {
        let start = BootInstant::now();
        (Arrivals::of_opened(last, start), move |ms| start + Duration::from_millis(ms))
    }

    #[test]
    fn entries_are_as_old_as_their_arrival() {
        let (arrivals, at) = opened(Some(10));
        arrivals.note(11, 12, at(100));
        arrivals.note(13, 13, at(102));
        arrivals.note(14, 20, at(106));
        arrivals.note(21, 21, at(500));
        for (index, ms) in [(3, 0), (10, 0), (11, 102), (13, 102), (14, 106), (20, 106), (21, 500), (22, 900)] {
            assert_eq!(arrivals.of(index, at(900)), at(ms), "entry {index}");
        }
    }

    #[test]
    fn neighbours_share_a_record_for_a_few_milliseconds_only() {
        let (arrivals, at) = opened(None);
        (1..=100).for_each(|index| arrivals.note(index, index, at(index)));
        for index in 1..=100 {
            let arrival = arrivals.of(index, at(900));
            assert!(at(index) <= arrival && arrival < at(index + 5), "entry {index}");
        }
    }

    #[test]
    fn entries_that_take_the_place_of_others_arrived_when_they_did() {
        let (arrivals, at) = opened(Some(5));
        arrivals.note(6, 6, at(100));
        arrivals.note(7, 9, at(200));
        arrivals.note(8, 8, at(300));
        assert_eq!([5, 6, 7, 8, 9].map(|index| arrivals.of(index, at(900))), [0, 100, 200, 300, 900].map(&at));
        let (arrivals, at) = opened(Some(5));
        arrivals.note(6, 6, at(100));
        arrivals.note(2, 3, at(200));
        assert_eq!([1, 2, 3, 4].map(|index| arrivals.of(index, at(900))), [0, 200, 200, 900].map(&at));
        arrivals.note(0, 0, at(300));
        assert_eq!(arrivals.of(0, at(900)), at(300));
    }

    #[test]
    fn what_is_given_up_counts_as_later() {
        let (arrivals, at) = opened(Some(1));
        for n in 0..RECORDS_MAX as u64 + 10 {
            arrivals.note(n + 2, n + 2, at(10 * n));
        }
        assert!(arrivals.records().len() <= RECORDS_MAX);
        assert_eq!(arrivals.of(1, at(1_000_000)), at(100), "eleven records were given up");
    }
}
