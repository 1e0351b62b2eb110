//! The times that a session keeps to, all of them derived from its TTL, and the checks of what its holder asks for.
//!
//! Two clocks may differ in rate by half a percent each way (docs/LEASES.md), so a hundredth of the TTL is given up for that.
//! The margin comes on top: it is the time that a holder has between being told and being late.

use std::time::Duration;

use thiserror::Error;

/// TTLs below it are refused and not rounded.
pub(crate) const TTL_MIN: Duration = Duration::from_secs(1);
/// What the default margin is at least, as far as the TTL allows.
const MARGIN_MIN: Duration = Duration::from_millis(200);
/// The default margin is a tenth of the TTL; and no margin is more than a third of it.
const MARGIN_PARTS: u32 = 10;
const MARGIN_PARTS_MIN: u32 = 3;
/// What clocks may differ by.
const DRIFT_PARTS: u32 = 100;
/// A lease is renewed when a third of it has passed.
const INTERVAL_PARTS: u32 = 3;
/// What has to be left for renewals after the first one is due.
const ROOM_MIN: Duration = Duration::from_secs(1);
const ROOM_PARTS: u32 = 3;
/// How long one try may be silent before another one joins it.
const TRY_PARTS: u32 = 6;
/// Below this a busy server looks like a dead one, and tries would follow each other without bound.
const TRY_MIN: Duration = Duration::from_millis(50);
/// The floor on the wait between tries is a tenth of the interval, within these bounds.
const FLOOR_PARTS: u32 = 10;
const FLOOR_MIN: Duration = Duration::from_millis(50);
const FLOOR_MAX: Duration = Duration::from_secs(1);
/// What the first renewal after another one may come early, so that sessions do not march in step.
const JITTER_PARTS: u32 = 8;
/// Sessions that are due within this part of their interval are renewed together.
const NEIGHBOUR_PARTS: u32 = 4;

/// What is wrong with the times that a session was to have.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TermsError {
    /// The TTL is less than a second.
    #[error("a TTL of {ttl:?} is less than a second")]
    TtlTooShort {
        /// As asked for.
        ttl: Duration,
    },
    /// The TTL is more than a server accepts, 9,000,000,000 s.
    #[error("a TTL of {ttl:?} is more than a server accepts")]
    TtlTooLong {
        /// As asked for.
        ttl: Duration,
    },
    /// The interval is zero, or not less than the time for which the session is certain.
    #[error("an interval of {interval:?} does not renew a session in time that is certain for {certain:?}")]
    IntervalOutOfRange {
        /// As asked for, or a third of the TTL.
        interval: Duration,
        /// The TTL less the margin and the drift.
        certain: Duration,
    },
    /// Too little time is left for a second try after the interval: at least the larger of a second and a third of the TTL
    /// is needed, unless [`dangerously_skip_margin`](crate::session::SessionBuilder::dangerously_skip_margin) says otherwise.
    #[error("{left:?} are left of the TTL after an interval of {interval:?}; {needed:?} are needed")]
    IntervalTooClose {
        /// As asked for, or a third of the TTL.
        interval: Duration,
        /// The TTL less the interval.
        left: Duration,
        /// What that has to be.
        needed: Duration,
    },
    /// The margin is more than a third of the TTL.
    #[error("a margin of {margin:?} is more than a third of the TTL of {ttl:?}")]
    MarginTooLarge {
        /// As asked for.
        margin: Duration,
        /// The TTL.
        ttl: Duration,
    },
}

/// What a session's holder asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) ttl: Duration,
    pub(crate) margin: Option<Duration>,
    pub(crate) interval: Option<Duration>,
    pub(crate) is_margin_skipped: bool,
}

impl Asked {
    /// Checks it before anything is sent.
    pub(crate) fn check(&self) -> Result<Terms, TermsError> {
        const TTL_MAX: Duration = Duration::from_secs(9_000_000_000);
        let ttl = self.ttl;
        if ttl < TTL_MIN {
            return Err(TermsError::TtlTooShort { ttl });
        }
        if ttl > TTL_MAX {
            return Err(TermsError::TtlTooLong { ttl });
        }
        if let Some(margin) = self.margin.filter(|margin| *margin > ttl / MARGIN_PARTS_MIN) {
            return Err(TermsError::MarginTooLarge { margin, ttl });
        }
        let terms = self.terms(ttl);
        let (interval, certain) = (terms.interval, terms.certain());
        if interval.is_zero() || interval >= certain {
            return Err(TermsError::IntervalOutOfRange { interval, certain });
        }
        let (left, needed) = (ttl.saturating_sub(interval), ROOM_MIN.max(ttl / ROOM_PARTS));
        if left < needed && !self.is_margin_skipped {
            return Err(TermsError::IntervalTooClose { interval, left, needed });
        }
        Ok(terms)
    }

    /// The terms for the TTL that the server granted, which it may have raised.
    pub(crate) fn terms(&self, ttl: Duration) -> Terms {
        let margin = self.margin.unwrap_or_else(|| MARGIN_MIN.max(ttl / MARGIN_PARTS));
        let interval = self.interval.unwrap_or(ttl / INTERVAL_PARTS);
        Terms { ttl, margin: margin.min(ttl / MARGIN_PARTS_MIN), interval }
    }
}

/// The times of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) ttl: Duration,
    pub(crate) margin: Duration,
    /// From the sending of one renewal to that of the next.
    pub(crate) interval: Duration,
}

impl Terms {
    /// For how long a renewal with this TTL makes the session certain, from its sending.
    pub(crate) fn certain_for(&self, ttl: Duration) -> Duration {
        ttl.saturating_sub(ttl / DRIFT_PARTS).saturating_sub(self.margin)
    }

    pub(crate) fn certain(&self) -> Duration {
        self.certain_for(self.ttl)
    }

    /// After how long without an acknowledged renewal one is overdue: when one has been due, and its try has been silent; and
    /// always before the deadline.
    pub(crate) fn overdue_after(&self) -> Duration {
        let certain = self.certain();
        let last = self.interval.saturating_add((certain.saturating_sub(self.interval)) / 2);
        (self.interval.saturating_add(self.ttl / TRY_PARTS)).min(last)
    }

    /// How long one try may be silent before another one joins it, if so much time is left until the deadline.
    pub(crate) fn patience(&self, left: Duration) -> Duration {
        (self.ttl / TRY_PARTS).min(left / 2).max(TRY_MIN)
    }

    /// How long one try is listened to at most, beside others that joined it.
    pub(crate) fn listening(&self) -> Duration {
        (self.ttl / TRY_PARTS).max(TRY_MIN).saturating_mul(4)
    }

    /// The least time between two tries, the first repetition apart.
    pub(crate) fn floor(&self) -> Duration {
        (self.interval / FLOOR_PARTS).clamp(FLOOR_MIN, FLOOR_MAX)
    }

    /// The wait after so many failures in a row: none after the first, because another endpoint may answer; then the floor,
    /// and twice as much each time, up to a twelfth of the TTL.
    pub(crate) fn wait_after(&self, failures: u32, random: u64) -> Duration {
        let Some(doublings) = failures.checked_sub(2) else { return Duration::ZERO };
        let most = (self.ttl / (2 * TRY_PARTS)).max(self.floor());
        let wait = self.floor().saturating_mul(1 << doublings.min(8)).min(most);
        // Between three quarters of it and all of it, and never below the floor.
        (wait - part(wait / 4, random)).max(self.floor())
    }

    /// From the sending of a renewal to when the next is due: a little less than the interval.
    pub(crate) fn due_after(&self, random: u64) -> Duration {
        self.interval - part(self.interval / JITTER_PARTS, random)
    }

    /// How much earlier than due it may be renewed, if others are renewed anyhow.
    pub(crate) fn neighbourhood(&self) -> Duration {
        self.interval / NEIGHBOUR_PARTS
    }
}

/// A random part of a span.
fn part(span: Duration, random: u64) -> Duration {
    const STEPS: u32 = 1 << 10;
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below STEPS")]
    let steps = (random % u64::from(STEPS)) as u32;
    span / STEPS * steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn asked(ttl: Duration) -> Asked {
        Asked { ttl, margin: None, interval: None, is_margin_skipped: false }
    }

    #[test]
    fn the_default_margin_is_a_tenth_at_least_200_ms_and_at_most_a_third() {
        assert_eq!(asked(10 * SECOND).check().unwrap().margin, SECOND);
        assert_eq!(asked(Duration::from_millis(1500)).check().unwrap().margin, Duration::from_millis(200));
        let large = Asked { margin: Some(4 * SECOND), ..asked(9 * SECOND) };
        assert!(matches!(large.check(), Err(TermsError::MarginTooLarge { .. })));
        // A TTL that the server changed bounds a margin that was right before.
        assert_eq!(Asked { margin: Some(3 * SECOND), ..asked(9 * SECOND) }.terms(3 * SECOND).margin, SECOND);
    }

    #[test]
    fn a_sub_second_ttl_is_refused_and_not_rounded() {
        let ttl = Duration::from_millis(999);
        assert_eq!(asked(ttl).check(), Err(TermsError::TtlTooShort { ttl }));
        assert!(matches!(asked(Duration::MAX).check(), Err(TermsError::TtlTooLong { .. })));
    }

    #[test]
    fn an_interval_leaves_room_for_a_second_try_or_is_refused() {
        let close = Asked { interval: Some(7 * SECOND), ..asked(10 * SECOND) };
        assert!(matches!(close.check(), Err(TermsError::IntervalTooClose { .. })));
        assert!(Asked { is_margin_skipped: true, ..close }.check().is_ok());
        // A second of room is not there in a TTL of one second, whatever the interval.
        assert!(matches!(asked(SECOND).check(), Err(TermsError::IntervalTooClose { .. })));
        assert!(Asked { is_margin_skipped: true, ..asked(SECOND) }.check().is_ok());
        // What could never be renewed in time is refused in any case.
        let late = Asked { interval: Some(9 * SECOND), is_margin_skipped: true, ..asked(10 * SECOND) };
        assert!(matches!(late.check(), Err(TermsError::IntervalOutOfRange { .. })));
        let none = Asked { interval: Some(Duration::ZERO), ..asked(10 * SECOND) };
        assert!(matches!(none.check(), Err(TermsError::IntervalOutOfRange { .. })));
    }

    #[test]
    fn jeopardy_comes_after_a_silent_try_and_before_the_deadline() {
        for ttl_ms in [1500, 2000, 3000, 10_000, 60_000, 3_600_000] {
            let terms = asked(Duration::from_millis(ttl_ms)).check().unwrap();
            let patience = terms.patience(terms.certain() - terms.interval);
            assert!(terms.interval + patience <= terms.overdue_after() + Duration::from_millis(50), "{terms:?}");
            assert!(terms.overdue_after() < terms.certain(), "{terms:?}");
        }
    }

    #[test]
    fn the_first_repetition_is_at_once_and_later_ones_keep_the_floor() {
        let terms = asked(10 * SECOND).check().unwrap();
        assert_eq!(terms.wait_after(1, 7), Duration::ZERO);
        for failures in 2..100 {
            for random in [0, 511, 1023, u64::MAX] {
                let wait = terms.wait_after(failures, random);
                assert!(wait >= terms.floor() && wait <= terms.ttl / 12, "{failures}: {wait:?}");
            }
        }
    }

    #[test]
    fn a_renewal_is_due_within_the_interval_and_not_much_earlier() {
        let terms = asked(9 * SECOND).check().unwrap();
        for random in 0..2048 {
            let due = terms.due_after(random);
            assert!(due <= 3 * SECOND && due >= 3 * SECOND * 7 / 8);
        }
    }
}
