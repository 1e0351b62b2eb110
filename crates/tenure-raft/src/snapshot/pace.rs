//! How fast snapshots may leave this member: a rate that all transfers share.
//!
//! Sending is spread evenly rather than let out in bursts, because each burst would stand in front of a heartbeat or of
//! entries on the same link. Whoever is late may catch up a little, so that coarse timers do not lower the rate.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::BootInstant;

/// How much of a delay may be made good: a few ticks of a coarse timer.
const CATCH_UP: Duration = Duration::from_millis(20);

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: Option<NonZeroU64>,
    /// When the bytes let through so far will have left.
    busy_until: Mutex<Option<BootInstant>>,
}

impl Pace {
    /// Without a rate nobody waits.
    pub(crate) fn new(bytes_per_second: Option<NonZeroU64>) -> Pace {
        Pace { bytes_per_second, busy_until: Mutex::default() }
    }

    /// Takes bytes on the books and says how long to wait before they go.
    pub(crate) fn take(&self, now: BootInstant, bytes: u64) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now - CATCH_UP;
        let start = busy_until.map_or(now, |until| until.max(earliest));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
        *busy_until = Some(start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        start - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn pace(bytes_per_second: u64) -> Pace {
        Pace::new(NonZeroU64::new(bytes_per_second))
    }

    #[test]
    fn bytes_wait_for_those_before_them() {
        let (pace, start) = (pace(1000 * KIB), BootInstant::now());
        let waits: Vec<u128> = (0..4).map(|_| pace.take(start, 100 * KIB).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 300]);
        assert_eq!(pace.take(start + Duration::from_millis(390), 1).as_millis(), 10);
    }

    #[test]
    fn a_long_pause_earns_no_burst() {
        let (pace, start) = (pace(1000 * KIB), BootInstant::now());
        assert_eq!(pace.take(start, 100 * KIB), Duration::ZERO);
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.take(later, 100 * KIB), Duration::ZERO);
        assert_eq!(pace.take(later, 100 * KIB), Duration::from_millis(100) - CATCH_UP);
    }

    #[test]
    fn the_rate_is_kept_by_who_wakes_late() {
        let (pace, start) = (pace(1 << 20), BootInstant::now());
        let mut now = start;
        for _ in 0..1000 {
            now += pace.take(now, 16 * KIB) + Duration::from_millis(7);
        }
        let took = now - start;
        let due = Duration::from_millis(1000 * 16 * 1000 / 1024);
        assert!(took >= due - Duration::from_millis(100), "too fast: {took:?}");
        assert!(took <= due + Duration::from_millis(100), "too slow: {took:?}");
    }

    #[test]
    fn several_share_one_rate_and_none_is_no_limit() {
        let (pace, start) = (pace(1000 * KIB), BootInstant::now());
        let total: Duration = [(); 6].map(|()| pace.take(start, 50 * KIB)).into_iter().sum();
        assert_eq!(total.as_millis(), 50 + 100 + 150 + 200 + 250);
        let free = Pace::new(None);
        assert_eq!(free.take(start, u64::MAX), Duration::ZERO);
        assert_eq!(free.take(start, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn no_amount_overflows() {
        let (pace, start) = (pace(1), BootInstant::now());
        for _ in 0..3 {
            assert!(pace.take(start, u64::MAX) <= Duration::MAX);
        }
    }
}
