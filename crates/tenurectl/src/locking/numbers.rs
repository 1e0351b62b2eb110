//! The numbers by which a lock's server knows one request through all of its tries (docs/LOCKS.md, "Asking more than once").

use tenure_proto::tenure::v1::LockRequest;

use crate::ids::LeaseId;

/// One open request of a lease, and its tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    lease: LeaseId,
    number: u64,
    attach: u64,
}

impl Numbers {
    /// A lease's first request, not tried yet.
    pub(crate) fn of(lease: LeaseId) -> Numbers {
        Numbers { lease, number: 1, attach: 0 }
    }

    /// The next try.
    pub(crate) fn next_try(&mut self) -> LockRequest {
        self.attach += 1;
        self.latest()
    }

    /// The try made last, for its cancel.
    pub(crate) fn latest(&self) -> LockRequest {
        LockRequest { lease: self.lease.0, number: self.number, lowest_open: self.number, attach: self.attach }
    }

    /// The request is finished, and another one takes its place. No answer to it counts any more.
    pub(crate) fn begin_anew(&mut self) {
        self.number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_keep_the_number_and_raise_the_attach_number() {
        let mut numbers = Numbers::of(LeaseId(7));
        let request = |number, attach| LockRequest { lease: 7, number, lowest_open: number, attach };
        assert_eq!(numbers.next_try(), request(1, 1));
        assert_eq!(numbers.next_try(), request(1, 2));
        assert_eq!(numbers.latest(), request(1, 2));
        numbers.begin_anew();
        assert_eq!(numbers.next_try(), request(2, 3));
        assert_eq!(numbers.latest(), request(2, 3));
    }
}
