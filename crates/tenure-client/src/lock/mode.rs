//! How a lock is wanted, and for how long one waits for it.

use std::time::Duration;

use tenure_proto::tenure::v1 as pb;

use crate::clock::Instant;

/// How a lock is wanted. Shared locks and semaphores need Tenure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Alone.
    #[default]
    Exclusive,
    /// Together with others that want it so.
    Shared,
    /// Together with others, as long as the permits suffice.
    Semaphore {
        /// How many this one takes: 1 to `limit`.
        permits: u32,
        /// How many there are: 1 to 1,000,000, the same for all contenders.
        limit: u32,
    },
}

impl Mode {
    pub(crate) fn to_wire(self) -> Option<pb::LockMode> {
        let mode = match self {
            Mode::Exclusive => return None,
            Mode::Shared => pb::lock_mode::Mode::Shared(true),
            Mode::Semaphore { permits, limit } => {
                pb::lock_mode::Mode::Semaphore(pb::lock_mode::Semaphore { permits, limit })
            }
        };
        Some(pb::LockMode { mode: Some(mode) })
    }

    /// None if it is one that this client does not know.
    pub(crate) fn from_wire(mode: Option<pb::LockMode>) -> Option<Mode> {
        let Some(mode) = mode else { return Some(Mode::Exclusive) };
        mode.mode.map(|mode| match mode {
            pb::lock_mode::Mode::Shared(true) => Mode::Shared,
            pb::lock_mode::Mode::Shared(false) => Mode::Exclusive,
            pb::lock_mode::Mode::Semaphore(pb::lock_mode::Semaphore { permits, limit }) => {
                Mode::Semaphore { permits, limit }
            }
        })
    }

    /// Whether two that want a lock in these modes never hold it together, whoever else does.
    pub(crate) fn excludes(self, other: Mode) -> bool {
        match (self, other) {
            (Mode::Exclusive, _) | (_, Mode::Exclusive) => true,
            (Mode::Semaphore { permits, limit }, Mode::Semaphore { permits: others, limit: same }) => {
                u64::from(permits) + u64::from(others) > u64::from(limit.max(same))
            }
            // Sharers and semaphores are never in one queue.
            (Mode::Shared, Mode::Shared | Mode::Semaphore { .. }) | (Mode::Semaphore { .. }, Mode::Shared) => false,
        }
    }
}

/// For how long to wait for a lock that others have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// Not at all: who is told that it is busy has left nothing behind.
    Try,
    /// At most so long, from when `acquire` is first polled.
    For(Duration),
    /// Until then, by the client's clock.
    Until(Instant),
    /// As long as the session lives.
    #[default]
    Forever,
}

impl Wait {
    /// Until when; without an end that is never.
    pub(crate) fn end(self, now: Instant) -> Option<Instant> {
        match self {
            Wait::Try | Wait::Forever => None,
            Wait::For(span) => Some(now + span),
            Wait::Until(at) => Some(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_at_a_reading_of_the_clock() {
        let now = Instant::since_origin(Duration::from_secs(5));
        assert_eq!(Wait::For(Duration::from_secs(2)).end(now), Some(now + Duration::from_secs(2)));
        assert_eq!(Wait::Until(now).end(now + Duration::from_secs(9)), Some(now));
        assert_eq!((Wait::Try.end(now), Wait::Forever.end(now)), (None, None));
    }

    #[test]
    fn an_exclusive_lock_is_the_absence_of_a_mode() {
        assert_eq!(Mode::Exclusive.to_wire(), None);
        let semaphore = Mode::Semaphore { permits: 2, limit: 5 }.to_wire().and_then(|mode| mode.mode);
        assert!(matches!(semaphore, Some(pb::lock_mode::Mode::Semaphore(it)) if (it.permits, it.limit) == (2, 5)));
    }

    #[test]
    fn modes_come_back_as_they_went_and_unknown_ones_are_none() {
        for mode in [Mode::Exclusive, Mode::Shared, Mode::Semaphore { permits: 2, limit: 5 }] {
            assert_eq!(Mode::from_wire(mode.to_wire()), Some(mode));
        }
        assert_eq!(Mode::from_wire(Some(pb::LockMode { mode: None })), None);
    }

    #[test]
    fn two_exclude_each_other_if_no_third_is_needed_for_that() {
        let permits = |permits| Mode::Semaphore { permits, limit: 3 };
        for (one, other, excluded) in [
            (Mode::Exclusive, Mode::Exclusive, true),
            (Mode::Exclusive, Mode::Shared, true),
            (Mode::Exclusive, permits(1), true),
            (Mode::Shared, Mode::Shared, false),
            (permits(1), permits(2), false),
            (permits(2), permits(2), true),
        ] {
            assert_eq!((one.excludes(other), other.excludes(one)), (excluded, excluded), "{one:?} {other:?}");
        }
    }
}
