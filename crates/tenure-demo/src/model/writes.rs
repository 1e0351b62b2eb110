//! The steady writer: acknowledged writes, their rate and latency, and the time without any.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;

/// What percentiles and rates are taken over.
pub const WINDOW: Duration = Duration::from_secs(10);
/// One column of the charts.
const BUCKET: Duration = Duration::from_millis(500);
pub const BUCKETS_PER_SECOND: u32 = 2;
/// As many columns as the widest terminal shows.
const BUCKETS_MAX: usize = 600;
/// More than the highest rate makes in a window.
const WINDOW_WRITES_MAX: usize = 40_000;

/// What happened in one column's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    pub acked: u32,
    /// The slowest of them.
    pub worst: Duration,
}

/// Percentiles over the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latencies {
    pub p50: Duration,
    pub p99: Duration,
}

/// The writer.
#[derive(Clone, Debug, Default)]
pub struct WritesModel {
    pub acked: u64,
    pub unanswered: u64,
    began: Option<Moment>,
    ended: Option<Moment>,
    last_ack: Option<Moment>,
    /// The longest time without an ack that has ended, and when that was.
    longest_gap: Option<(Duration, Moment)>,
    window: VecDeque<(Moment, Duration)>,
    buckets: VecDeque<Bucket>,
    buckets_begun: u64,
}

impl WritesModel {
    pub(crate) fn begin(&mut self, now: Moment) {
        self.began = Some(now);
        self.advance(now);
    }

    pub(crate) fn end(&mut self, now: Moment) {
        self.ended = Some(now);
    }

    /// Notes an ack; answers how long there had been none.
    pub(crate) fn acked(&mut self, at: Moment, latency: Duration) -> Option<Duration> {
        self.acked += 1;
        self.advance(at);
        if let Some(bucket) = self.buckets.back_mut() {
            bucket.acked += 1;
            bucket.worst = bucket.worst.max(latency);
        }
        if self.window.len() == WINDOW_WRITES_MAX {
            self.window.pop_front();
        }
        self.window.push_back((at, latency));
        // Several lanes tell of their acks, so one may be told a little out of order.
        let before = self.last_ack.replace(self.last_ack.map_or(at, |last| last.max(at)))?;
        let gap = at.saturating_sub(before);
        if self.longest_gap.is_none_or(|(longest, _)| gap > longest) {
            self.longest_gap = Some((gap, at));
        }
        Some(gap)
    }

    pub(crate) fn advance(&mut self, now: Moment) {
        let Some(began) = self.began else { return };
        while self.window.front().is_some_and(|(at, _)| *at + WINDOW < now) {
            self.window.pop_front();
        }
        let wanted = now.saturating_sub(began).as_millis() / BUCKET.as_millis() + 1;
        while u128::from(self.buckets_begun) < wanted {
            if self.buckets.len() == BUCKETS_MAX {
                self.buckets.pop_front();
            }
            self.buckets.push_back(Bucket::default());
            self.buckets_begun += 1;
        }
    }

    /// Whether the writer is at work.
    pub fn is_on(&self) -> bool {
        self.began.is_some() && self.ended.is_none()
    }

    /// Acks per second over the window, or over the whole time if that is shorter.
    pub fn rate(&self, now: Moment) -> f64 {
        let Some(began) = self.began.filter(|_| self.ended.is_none()) else { return 0.0 };
        let span = now.saturating_sub(began).min(WINDOW).as_secs_f64();
        let count = u32::try_from(self.window.len()).unwrap_or(u32::MAX);
        // At the very beginning a single ack would be a rate of thousands.
        if span < 0.5 { 0.0 } else { f64::from(count) / span }
    }

    /// Percentiles of the acks in the window.
    pub fn latencies(&self) -> Option<Latencies> {
        let mut all: Vec<_> = self.window.iter().map(|(_, latency)| *latency).collect();
        all.sort_unstable();
        Some(Latencies { p50: percentile(&all, 50)?, p99: percentile(&all, 99)? })
    }

    /// How long there has been no ack.
    pub fn gap_now(&self, now: Moment) -> Duration {
        let since = self.last_ack.or(self.began).filter(|_| self.ended.is_none());
        since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// The longest time without an ack, the present one included, and when it ended.
    pub fn longest_gap(&self, now: Moment) -> Option<(Duration, Moment)> {
        let present = self.last_ack.map(|_| (self.gap_now(now), now));
        self.longest_gap.into_iter().chain(present).max_by_key(|(gap, _)| *gap)
    }

    /// The newest columns, oldest first; the last one is still being filled.
    pub fn buckets(&self, count: usize) -> impl Iterator<Item = Bucket> {
        self.buckets.iter().skip(self.buckets.len().saturating_sub(count)).copied()
    }
}

/// The value that `percent` of a sorted list do not exceed.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn gaps_are_between_acks_of_all_lanes_together() {
        let mut writes = WritesModel::default();
        writes.begin(ms(0));
        assert_eq!(writes.acked(ms(100), ms(5)), None);
        assert_eq!(writes.acked(ms(400), ms(5)), Some(ms(300)));
        assert_eq!(writes.acked(ms(390), ms(5)), Some(ms(0)), "told out of order");
        assert_eq!(writes.acked(ms(450), ms(5)), Some(ms(50)));
        assert_eq!(writes.longest_gap(ms(500)), Some((ms(300), ms(400))));
        assert_eq!(writes.longest_gap(ms(2_450)), Some((ms(2_000), ms(2_450))), "the present gap counts");
        writes.end(ms(2_450));
        assert_eq!(writes.gap_now(ms(9_000)), ms(0), "no gap once nobody writes");
    }

    #[test]
    fn rates_and_percentiles_are_those_of_the_window() {
        let mut writes = WritesModel::default();
        writes.begin(ms(0));
        for at in 1..=100 {
            writes.acked(ms(at * 10), ms(at));
        }
        assert_eq!(writes.latencies(), Some(Latencies { p50: ms(50), p99: ms(99) }));
        assert!((writes.rate(ms(1_000)) - 100.0).abs() < 1e-9);
        writes.advance(ms(60_000));
        assert_eq!(writes.latencies(), None);
        assert!(writes.rate(ms(60_000)).abs() < 1e-9);
    }

    #[test]
    fn a_column_without_acks_is_an_empty_one() {
        let mut writes = WritesModel::default();
        writes.begin(ms(0));
        writes.acked(ms(10), ms(1));
        writes.acked(ms(1_600), ms(3));
        let acked: Vec<_> = writes.buckets(10).map(|bucket| bucket.acked).collect();
        assert_eq!(acked, [1, 0, 0, 1]);
        assert_eq!(writes.buckets(2).count(), 2);
    }
}
