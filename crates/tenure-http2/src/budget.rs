//! What a client may do that costs the server more than the client: resets, pings, settings, empty frames.
//!
//! One bucket for all of it. It fills with time and with answers that were sent, so a client that works can never be told
//! from its habits to be a nuisance, and one that only makes work is cut off soon (CVE-2023-44487 and its kin).

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{ConnectionError, Reason};

/// What a silent client may do at once: as many calls as a busy client has open may be cancelled together.
const FULL: u32 = 10_000;
/// What time gives.
const PER_SECOND: u32 = 2000;
/// What an answer gives that was sent, or a piece of one: a client may ping for each.
const PER_ANSWER: u32 = 4;

#[derive(Debug)]
pub(crate) struct Budget {
    left: u32,
    filled: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Budget {
        Budget { left: FULL, filled: now }
    }

    pub(crate) fn answered(&mut self) {
        self.left = (self.left + PER_ANSWER).min(FULL);
    }

    pub(crate) fn spend(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.spend_many(now, 1)
    }

    pub(crate) fn spend_many(&mut self, now: Instant, count: usize) -> Result<(), ConnectionError> {
        if self.left < FULL / 2 {
            let passed = now.saturating_duration_since(self.filled).min(Duration::from_secs(60));
            let gained = passed.as_millis() * u128::from(PER_SECOND) / 1000;
            if gained > 0 {
                self.left = self.left.saturating_add(u32::try_from(gained).unwrap_or(FULL)).min(FULL);
                self.filled = now;
            }
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.left = self.left.checked_sub(count).ok_or(ConnectionError::new(
            Reason::ENHANCE_YOUR_CALM,
            "too many resets, broken streams, pings, settings or empty frames",
        ))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_answers_fill_what_nuisances_spend() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert!((0..FULL).all(|_| budget.spend(start).is_ok()));
        assert!(budget.spend(start).is_err());
        let later = start + Duration::from_secs(1);
        assert!((0..PER_SECOND).all(|_| budget.spend(later).is_ok()));
        assert!(budget.spend(later).is_err());
        budget.answered();
        assert!((0..PER_ANSWER).all(|_| budget.spend(later).is_ok()));
        assert!(budget.spend(later).is_err());
    }
}
