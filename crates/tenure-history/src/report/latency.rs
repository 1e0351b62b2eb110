//! How long many operations took, in little space: counts per bucket, eight buckets to a doubling.
//!
//! A percentile is at most a sixteenth away from the true one, and histograms add up, so percentiles over several
//! workloads or a longer time come from the samples and not from a mean of percentiles. The largest is kept exactly.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// log2 of the buckets per doubling.
const FINE_BITS: u32 = 3;
const FINE: u64 = 1 << FINE_BITS;

/// See the module's header. In microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    max_us: u64,
    /// How many by bucket.
    buckets: BTreeMap<u16, u64>,
}

impl Latency {
    /// Notes one.
    pub fn note(&mut self, us: u64) {
        self.max_us = self.max_us.max(us);
        *self.buckets.entry(bucket(us)).or_default() += 1;
    }

    /// Notes all of another.
    pub fn add(&mut self, other: &Latency) {
        self.max_us = self.max_us.max(other.max_us);
        for (bucket, count) in &other.buckets {
            let sum = self.buckets.entry(*bucket).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// How many were noted.
    pub fn count(&self) -> u64 {
        self.buckets.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The longest.
    pub fn max_us(&self) -> u64 {
        self.max_us
    }

    /// What `percent` of all do not exceed; 0 if there are none.
    pub fn percentile_us(&self, percent: u64) -> u64 {
        let wanted = self.count().saturating_mul(percent.min(100)).div_ceil(100).max(1);
        let mut seen = 0_u64;
        for (bucket, count) in &self.buckets {
            seen = seen.saturating_add(*count);
            if seen >= wanted {
                return middle(*bucket).min(self.max_us);
            }
        }
        0
    }
}

/// Numbers below `FINE` have a bucket each; above, the leading bits below the first one say which.
fn bucket(us: u64) -> u16 {
    let Some(doublings) = us.checked_ilog2().filter(|_| us >= FINE) else { return u16::try_from(us).unwrap_or(0) };
    let within = (us >> (doublings - FINE_BITS)) & (FINE - 1);
    let at = u64::from(doublings - FINE_BITS + 1) * FINE + within;
    u16::try_from(at).unwrap_or(u16::MAX)
}

fn middle(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < FINE {
        return bucket;
    }
    // A record from elsewhere may name any bucket; 2^60 microseconds are longer than any run.
    let shift = (bucket / FINE - 1).min(60 - u64::from(FINE_BITS));
    let low = (FINE + bucket % FINE) << shift;
    low + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_within_a_sixteenth_of_its_middle() {
        for us in (0..10_000).chain((14..40).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 1])) {
            let middle = middle(bucket(us));
            assert!(middle.abs_diff(us) * 16 <= us, "{us} is shown as {middle}");
        }
        assert!((0..20_000u64).is_sorted_by_key(bucket));
        assert!(middle(u16::MAX) > 1 << 59, "any bucket has a middle");
    }

    #[test]
    fn percentiles_of_a_sum_are_those_of_all_its_parts() {
        let (mut fast, mut slow, mut all) = (Latency::default(), Latency::default(), Latency::default());
        for us in 1..=9_900 {
            fast.note(us);
            all.note(us);
        }
        for us in 1_000_000..1_000_100 {
            slow.note(us);
            all.note(us);
        }
        fast.add(&slow);
        assert_eq!(fast, all);
        assert!(all.percentile_us(50).abs_diff(5_000) <= 5_000 / 16);
        assert!(all.percentile_us(99).abs_diff(9_900) <= 9_900 / 16);
        assert!(all.percentile_us(100).abs_diff(1_000_099) <= 1_000_099 / 16);
        assert_eq!((all.count(), all.max_us()), (10_000, 1_000_099));
        assert_eq!(Latency::default().percentile_us(50), 0);
    }
}
