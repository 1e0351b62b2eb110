//! Latencies in fixed memory, to three digits, whatever their number.

use std::time::Duration;

use hdrhistogram::Histogram as Hdr;
use serde::Serialize;

/// Whatever takes longer counts as this.
const LONGEST: Duration = Duration::from_secs(3600);
/// What is told of latencies has three digits, and so has what is kept.
const DIGITS: u8 = 3;

/// Many latencies.
#[derive(Clone, Debug)]
pub struct Latencies {
    nanos: Hdr<u64>,
}

/// What is told of them, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies::new()
    }
}

impl Latencies {
    pub fn new() -> Latencies {
        let nanos = Hdr::new_with_bounds(1, nanos(LONGEST), DIGITS);
        Latencies { nanos: nanos.expect("invariant: the bounds and the digits are within those of the crate") }
    }

    pub fn record(&mut self, latency: Duration) {
        self.nanos.saturating_record(nanos(latency).max(1));
    }

    pub fn count(&self) -> u64 {
        self.nanos.len()
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.nanos.reset();
    }

    /// What so many percent are not above.
    pub fn percentile(&self, percent: f64) -> Duration {
        if self.nanos.is_empty() {
            Duration::ZERO
        } else {
            Duration::from_nanos(self.nanos.value_at_percentile(percent))
        }
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.nanos.max())
    }

    pub fn summary(&self) -> Summary {
        if self.nanos.is_empty() {
            return Summary::default();
        }
        let [p50_ms, p90_ms, p99_ms, p999_ms] =
            [50.0, 90.0, 99.0, 99.9].map(|percent| millis(self.percentile(percent)));
        Summary {
            mean_ms: rounded(self.nanos.mean() / 1e6),
            p50_ms,
            p90_ms,
            p99_ms,
            p999_ms,
            max_ms: millis(self.max()),
        }
    }
}

/// A time in milliseconds, to the microsecond.
pub fn millis(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3)
}

pub(crate) fn rounded(figure: f64) -> f64 {
    (figure * 1e3).round() / 1e3
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_three_digits() {
        let mut latencies = Latencies::new();
        (1..=1000).rev().map(Duration::from_millis).for_each(|latency| latencies.record(latency));
        let summary = latencies.summary();
        for (told, exact) in [
            (summary.mean_ms, 500.5),
            (summary.p50_ms, 500.0),
            (summary.p90_ms, 900.0),
            (summary.p99_ms, 990.0),
            (summary.p999_ms, 999.0),
            (summary.max_ms, 1000.0),
        ] {
            assert!((told / exact - 1.0).abs() < 0.002, "{told} instead of {exact}");
        }
        latencies.clear();
        assert_eq!((latencies.count(), latencies.summary()), (0, Summary::default()));
    }

    #[test]
    fn what_is_out_of_bounds_counts_as_the_bound() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_secs(1_000_000));
        assert_eq!(latencies.count(), 2);
        assert!((latencies.max().as_secs_f64() / 3600.0 - 1.0).abs() < 0.002);
    }
}
