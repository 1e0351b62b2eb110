//! The demo's time: how long it has been running, by a clock that goes on while the machine is suspended.
//!
//! Leases end by such a clock on the servers. With one that stands still in a suspended laptop, the demo would think
//! afterwards that its leases had been ended too early.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point in time, as the duration since the demo began. Models and checks know no other time.
pub type Moment = Duration;

/// Tells the moment.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Duration,
}

impl Clock {
    /// The demo begins now.
    pub fn start() -> Self {
        Self { origin: since_boot() }
    }

    /// The time since then.
    pub fn now(&self) -> Moment {
        since_boot().saturating_sub(self.origin)
    }
}

fn since_boot() -> Duration {
    let reading = clock_gettime(ClockId::Boottime);
    // The kernel's readings since boot are never negative, and nanoseconds stay below a thousand million.
    Duration::new(u64::try_from(reading.tv_sec).unwrap_or(0), u32::try_from(reading.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_begins_at_nothing_and_does_not_go_back() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(first < Duration::from_secs(60));
        assert!(clock.now() >= first);
    }
}
