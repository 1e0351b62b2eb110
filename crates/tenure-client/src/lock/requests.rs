//! The numbers by which a lock's server knows the requests of one lease through all of their tries (docs/LOCKS.md, "Asking
//! more than once").
//!
//! A number is open from its beginning until the client has an answer that it acts on, or a cancel is acknowledged. What is
//! held needs no open number: its release and its cancel find it all the same.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tenure_proto::tenure::v1::LockRequest;

use crate::ids::LeaseId;

/// How far apart the lowest and the highest open number may be.
pub(crate) const SPAN_MAX: u64 = 1024;

/// The requests of one lease.
#[derive(Debug)]
pub(crate) struct Requests {
    lease: LeaseId,
    numbers: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    next: u64,
    /// The open ones, with the attach number of the latest try; 0 if there was none.
    open: BTreeMap<u64, u64>,
}

/// A request's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestNumber(pub(crate) u64);

impl Requests {
    /// A lease's, of which there were none.
    pub(crate) fn of(lease: LeaseId) -> Requests {
        Requests { lease, numbers: Mutex::new(Numbers { next: 1, open: BTreeMap::new() }) }
    }

    /// Opens a number; none if too many lie between the lowest open one and this.
    pub(crate) fn begin(&self) -> Option<RequestNumber> {
        let mut numbers = self.numbers.lock();
        let number = numbers.next;
        if numbers.lowest_open(number) + SPAN_MAX <= number {
            return None;
        }
        numbers.next += 1;
        numbers.open.insert(number, 0);
        Some(RequestNumber(number))
    }

    /// The next try of an open request.
    pub(crate) fn next_try(&self, number: RequestNumber) -> LockRequest {
        let mut numbers = self.numbers.lock();
        if let Some(attach) = numbers.open.get_mut(&number.0) {
            *attach += 1;
        }
        self.request(&numbers, number)
    }

    /// The try made last, for its cancel.
    pub(crate) fn latest(&self, number: RequestNumber) -> LockRequest {
        self.request(&self.numbers.lock(), number)
    }

    /// Whether it was tried at all.
    pub(crate) fn was_tried(&self, number: RequestNumber) -> bool {
        self.numbers.lock().open.get(&number.0).is_some_and(|attach| *attach > 0)
    }

    /// Nothing is asked by this number any more.
    pub(crate) fn finish(&self, number: RequestNumber) {
        self.numbers.lock().open.remove(&number.0);
    }

    fn request(&self, numbers: &Numbers, number: RequestNumber) -> LockRequest {
        let attach = numbers.open.get(&number.0).copied().unwrap_or(0);
        LockRequest { lease: self.lease.0, number: number.0, lowest_open: numbers.lowest_open(number.0), attach }
    }
}

impl Numbers {
    /// At most this one.
    fn lowest_open(&self, number: u64) -> u64 {
        self.open.keys().next().copied().unwrap_or(number).min(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(number: u64, lowest_open: u64, attach: u64) -> LockRequest {
        LockRequest { lease: 7, number, lowest_open, attach }
    }

    #[test]
    fn tries_keep_their_number_and_raise_their_attach_number() {
        let requests = Requests::of(LeaseId(7));
        let first = requests.begin().unwrap();
        assert!(!requests.was_tried(first));
        assert_eq!(requests.next_try(first), request(1, 1, 1));
        assert_eq!(requests.next_try(first), request(1, 1, 2));
        assert_eq!(requests.latest(first), request(1, 1, 2));
        assert!(requests.was_tried(first));
    }

    #[test]
    fn the_lowest_open_number_waits_for_every_answer() {
        let requests = Requests::of(LeaseId(7));
        let numbers: Vec<_> = (0..3).map(|_| requests.begin().unwrap()).collect();
        requests.finish(numbers[1]);
        assert_eq!(requests.next_try(numbers[2]), request(3, 1, 1));
        requests.finish(numbers[0]);
        assert_eq!(requests.next_try(numbers[2]), request(3, 3, 2));
        requests.finish(numbers[2]);
        let next = requests.begin().unwrap();
        assert_eq!(requests.next_try(next), request(4, 4, 1));
    }

    #[test]
    fn no_more_numbers_are_opened_than_a_server_keeps() {
        let requests = Requests::of(LeaseId(7));
        let first = requests.begin().unwrap();
        for _ in 1..SPAN_MAX {
            let number = requests.begin().unwrap();
            requests.finish(number);
        }
        assert_eq!(requests.begin(), None);
        requests.finish(first);
        assert!(requests.begin().is_some());
    }

    proptest! {
        /// What the server requires of every try: 1 <= lowest open <= number < lowest open + 1024, attach numbers of a
        /// request rise, and no number that may still be asked by is below a lowest open number that was named.
        #[test]
        fn every_try_is_one_that_a_server_admits(steps in prop::collection::vec((0u8..4, 0usize..8), 1..400)) {
            let requests = Requests::of(LeaseId(7));
            let mut open: Vec<(RequestNumber, u64)> = Vec::new();
            let mut named = 0;
            for (what, which) in steps {
                match what {
                    0 => open.extend(requests.begin().map(|number| (number, 0))),
                    1 if !open.is_empty() => {
                        let (number, _) = open.swap_remove(which % open.len());
                        requests.finish(number);
                    }
                    _ if !open.is_empty() => {
                        let place = which % open.len();
                        let (number, attach) = &mut open[place];
                        let tried = requests.next_try(*number);
                        prop_assert!(tried.attach > *attach);
                        *attach = tried.attach;
                        prop_assert!(1 <= tried.lowest_open && tried.lowest_open <= tried.number);
                        prop_assert!(tried.number - tried.lowest_open < SPAN_MAX);
                        named = named.max(tried.lowest_open);
                    }
                    _ => {}
                }
                prop_assert!(open.iter().all(|(number, _)| number.0 >= named));
            }
        }
    }
}
