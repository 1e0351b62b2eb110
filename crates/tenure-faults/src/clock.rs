//! How far this process believes the machine's boot-time clock to be ahead of what it shows.
//!
//! That clock never goes backwards, so neither does the offset: it makes the jumps that a machine sees when it was suspended.
//! Timers that are running do not jump with it, as those of a suspended machine do not either.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Beyond any sleep of a machine. Sums of readings stay far from the ends of their types.
const OFFSET_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why the clock cannot be set so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// It would go backwards.
    #[error("the clock is {} ms ahead already, and never goes backwards", .0.as_millis())]
    Backwards(Duration),
    /// It would go further than any machine sleeps.
    #[error("the clock can be {} ms ahead at most", OFFSET_MAX.as_millis())]
    TooFar,
}

/// How far a clock is ahead.
#[derive(Debug, Default)]
pub struct ClockOffset {
    millis: AtomicU64,
}

impl ClockOffset {
    /// Not at all.
    pub const fn new() -> ClockOffset {
        ClockOffset { millis: AtomicU64::new(0) }
    }

    /// So far.
    pub fn get(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Acquire))
    }

    /// Lets the clock be so far ahead.
    ///
    /// # Errors
    /// If it is further ahead already, or this is too far.
    pub fn raise(&self, offset: Duration) -> Result<(), ClockError> {
        if offset > OFFSET_MAX {
            return Err(ClockError::TooFar);
        }
        let millis = u64::try_from(offset.as_millis()).map_err(|_| ClockError::TooFar)?;
        let before = Duration::from_millis(self.millis.fetch_max(millis, Ordering::AcqRel));
        if before > offset { Err(ClockError::Backwards(before)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward_alone() {
        let offset = ClockOffset::new();
        let secs = Duration::from_secs;
        offset.raise(secs(5)).unwrap();
        offset.raise(secs(5)).unwrap();
        assert_eq!(offset.raise(secs(4)), Err(ClockError::Backwards(secs(5))));
        assert_eq!(offset.raise(OFFSET_MAX + secs(1)), Err(ClockError::TooFar));
        assert_eq!(offset.raise(Duration::MAX), Err(ClockError::TooFar));
        assert_eq!(offset.get(), secs(5));
    }
}
