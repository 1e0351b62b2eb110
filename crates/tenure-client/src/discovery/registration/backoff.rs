//! How long to wait between two tries to register again.
//!
//! The first try is at once but for jitter, so that a cluster that comes back is not met by all instances in the same
//! millisecond; from then on waits double. Each wait is drawn from its upper half, so it is never nothing.

use std::time::Duration;

/// The wait before a try; the first is number 1. `first` and `longest` bound it, and a third of the TTL bounds that before the first try.
pub(super) fn wait_before(attempt: u32, first: Duration, longest: Duration, ttl: Duration, random: u64) -> Duration {
    let full = if attempt <= 1 {
        first.min(ttl / 3)
    } else {
        first.saturating_mul(2_u32.saturating_pow((attempt - 1).min(20))).min(longest)
    };
    let half = full / 2;
    let width = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
    full - half + Duration::from_nanos(random % width)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_grow_up_to_the_longest_and_the_first_is_within_a_third_of_the_ttl(
            attempt in 1..u32::MAX, first_ms in 1..5000u64, longest_ms in 1..60_000u64, ttl_ms in 1000..60_000u64, random: u64,
        ) {
            let (first, longest) = (Duration::from_millis(first_ms), Duration::from_millis(longest_ms.max(first_ms)));
            let ttl = Duration::from_millis(ttl_ms);
            let wait = wait_before(attempt, first, longest, ttl, random);
            prop_assert!(wait <= longest);
            prop_assert!(wait_before(1, first, longest, ttl, random) <= ttl / 3);
            prop_assert!(!wait.is_zero());
            let later = wait_before(attempt.saturating_add(40), first, longest, ttl, random);
            prop_assert!(later >= longest / 2);
        }
    }
}
