//! Where clients put what they measured while a run goes on.
//!
//! All clients share one recorder on one thread. It counts only between the begin and the end of the measurement: a warm-up
//! passes through it and leaves no trace.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::failure::{Code, Failure};
use crate::histogram::{Latencies, millis, rounded};
use crate::report::{Part, Second};

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Recorder {
    begun: Cell<Option<Instant>>,
    inner: RefCell<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    whole: Latencies,
    parts: BTreeMap<&'static str, Latencies>,
    figures: BTreeMap<&'static str, f64>,
    second: Latencies,
    second_at: u64,
    by_second: Vec<Second>,
    errors: BTreeMap<Code, u64>,
    refused: BTreeMap<Code, u64>,
    first_failure: Option<Failure>,
}

/// What was recorded.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub whole: Latencies,
    pub parts: BTreeMap<&'static str, Latencies>,
    pub figures: BTreeMap<&'static str, f64>,
    pub by_second: Vec<Second>,
    pub errors: BTreeMap<Code, u64>,
    pub refused: BTreeMap<Code, u64>,
    pub first_failure: Option<Failure>,
}

impl Recorder {
    pub(crate) fn new() -> Recorder {
        Recorder { begun: Cell::new(None), inner: RefCell::new(Inner::default()) }
    }

    /// From now on it counts.
    pub(crate) fn begin(&self, now: Instant) {
        self.begun.set(Some(now));
    }

    pub(crate) fn is_counting(&self) -> bool {
        self.begun.get().is_some()
    }

    /// An operation that succeeded.
    pub(crate) fn success(&self, due: Instant) {
        let now = Instant::now();
        self.took(now.saturating_duration_since(due), now);
    }

    /// The same for a latency that is known, at the moment of its end.
    pub(crate) fn took(&self, latency: Duration, now: Instant) {
        let Some(begun) = self.begun.get() else { return };
        let mut inner = self.inner.borrow_mut();
        let at = now.saturating_duration_since(begun).as_secs();
        if at != inner.second_at {
            inner.close_second();
            inner.second_at = at;
        }
        inner.whole.record(latency);
        inner.second.record(latency);
    }

    /// Whether it is the first of the measurement.
    pub(crate) fn failure(&self, failure: &Failure) -> bool {
        if !self.is_counting() {
            return false;
        }
        let mut inner = self.inner.borrow_mut();
        *inner.errors.entry(failure.code).or_default() += 1;
        let is_first = inner.first_failure.is_none();
        if is_first {
            inner.first_failure = Some(failure.clone());
        }
        is_first
    }

    /// A failure that the workload is there to provoke: it is told by its code, and is none of the run's own.
    pub(crate) fn refused(&self, failure: &Failure) {
        if self.is_counting() {
            *self.inner.borrow_mut().refused.entry(failure.code).or_default() += 1;
        }
    }

    /// A step or a kind of operation that ends now. What began before the measurement does not count.
    pub(crate) fn part(&self, name: &'static str, started: Instant) {
        self.part_until(name, started, Instant::now());
    }

    /// The same for what ended at a moment.
    pub(crate) fn part_until(&self, name: &'static str, started: Instant, now: Instant) {
        if self.begun.get().is_some_and(|begun| started >= begun) {
            let latency = now.saturating_duration_since(started);
            self.inner.borrow_mut().parts.entry(name).or_default().record(latency);
        }
    }

    /// A figure that the workload has besides.
    pub(crate) fn figure(&self, name: &'static str, value: f64) {
        self.inner.borrow_mut().figures.insert(name, rounded(value));
    }

    /// How many operations succeeded so far, and how many failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let inner = self.inner.borrow();
        (inner.whole.count(), inner.errors.values().sum())
    }

    /// The rate and the p99 in milliseconds of the latest second that is over.
    pub(crate) fn latest_second(&self) -> Option<Second> {
        self.inner.borrow().by_second.last().copied()
    }

    /// Takes everything out.
    pub(crate) fn finish(&self) -> Recorded {
        let mut inner = self.inner.take();
        inner.close_second();
        Recorded {
            whole: inner.whole,
            parts: inner.parts,
            figures: inner.figures,
            by_second: inner.by_second,
            errors: inner.errors,
            refused: inner.refused,
            first_failure: inner.first_failure,
        }
    }
}

impl Inner {
    fn close_second(&mut self) {
        let operations = self.second.count();
        // Seconds in which nothing ended are there, too: a gap is a finding.
        let missing = self.by_second.len() as u64..self.second_at;
        self.by_second.extend(missing.map(|second| Second { second, ..Second::default() }));
        let [p50_ms, p99_ms] = [50.0, 99.0].map(|percent| millis(self.second.percentile(percent)));
        let max_ms = millis(self.second.max());
        self.by_second.push(Second { second: self.second_at, operations, p50_ms, p99_ms, max_ms });
        self.second.clear();
    }
}

/// A part's latencies as they are reported.
pub(crate) fn part(latencies: &Latencies, elapsed: Duration) -> Part {
    let operations = latencies.count();
    Part { operations, rate: rate(operations, elapsed), latency: latencies.summary() }
}

/// So many in so much time, per second.
pub(crate) fn rate(count: u64, elapsed: Duration) -> f64 {
    rounded(float(count) / elapsed.as_secs_f64().max(1e-9))
}

#[expect(clippy::cast_precision_loss, reason = "a count of what happened in a run is far below 2^52")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn nothing_counts_before_the_begin() {
        let recorder = Recorder::new();
        recorder.success(Instant::now());
        assert!(!recorder.failure(&Failure::answer("cold")));
        recorder.part("lock", Instant::now());
        let before = Instant::now();
        advance(Duration::from_millis(1)).await;
        recorder.begin(Instant::now());
        recorder.part("lock", before);
        let recorded = recorder.finish();
        assert_eq!((recorded.whole.count(), recorded.errors.len(), recorded.parts.len()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_are_counted_by_code_and_the_first_is_kept() {
        let recorder = Recorder::new();
        recorder.begin(Instant::now());
        assert!(recorder.failure(&Failure::new(Code::Grpc(14), "no leader")));
        assert!(!recorder.failure(&Failure::new(Code::Patience, "30s")));
        assert!(!recorder.failure(&Failure::new(Code::Grpc(14), "timed out")));
        assert_eq!(recorder.counts(), (0, 3));
        let recorded = recorder.finish();
        assert_eq!(recorded.errors, [(Code::Grpc(14), 2), (Code::Patience, 1)].into());
        assert_eq!(recorded.first_failure.map(|failure| failure.text).as_deref(), Some("no leader"));
    }

    #[tokio::test(start_paused = true)]
    async fn operations_are_told_by_second_and_gaps_show() {
        let recorder = Recorder::new();
        let begun = Instant::now();
        recorder.begin(begun);
        recorder.success(begun);
        advance(Duration::from_millis(2500)).await;
        recorder.success(begun);
        recorder.success(Instant::now());
        let seconds = recorder.finish().by_second;
        assert_eq!(seconds.iter().map(|second| second.operations).collect::<Vec<_>>(), [1, 0, 2]);
        assert!((seconds[2].max_ms / 2500.0 - 1.0).abs() < 0.002, "{seconds:?}");
    }
}
