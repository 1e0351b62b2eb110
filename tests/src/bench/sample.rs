//! What one run of a work measured, and medians over rounds.

use std::collections::BTreeMap;

use serde::Serialize;
use tenure_bench::{Report, Summary};

use super::cost::Cost;

/// What is measured. The order is that of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    Rate,
    P50Ms,
    P99Ms,
    P999Ms,
    ServerCpuUs,
    WrittenBytes,
    ResidentMib,
    GeneratorCpuUs,
    PutsPerGroup,
    EventsPerSecond,
    EventP50Ms,
    EventP99Ms,
    WorstSecondP99Ms,
    WritersAloneP99Ms,
    WritersP99Ms,
    GapMs,
    WriterGapMs,
    ServingMs,
    Missed,
}

/// The figures of one run.
pub type Sample = BTreeMap<Metric, f64>;

/// One program's runs of one work: its figures, or why there are none.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cell {
    pub samples: Vec<Sample>,
    pub failures: Vec<String>,
}

/// A figure over rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Metric {
    /// What heads its column.
    pub fn title(self) -> &'static str {
        match self {
            Metric::Rate => "per s",
            Metric::P50Ms => "p50 ms",
            Metric::P99Ms => "p99 ms",
            Metric::P999Ms => "p99.9 ms",
            Metric::ServerCpuUs => "server CPU µs each",
            Metric::WrittenBytes => "bytes written each",
            Metric::ResidentMib => "RSS MiB",
            Metric::GeneratorCpuUs => "generator CPU µs each",
            Metric::PutsPerGroup => "puts per group",
            Metric::EventsPerSecond => "events per s",
            Metric::EventP50Ms => "put to event, p50 ms",
            Metric::EventP99Ms => "put to event, p99 ms",
            Metric::WorstSecondP99Ms => "p99 ms of the worst second",
            Metric::WritersAloneP99Ms => "writers' p99 ms without it",
            Metric::WritersP99Ms => "writers' p99 ms beside it",
            Metric::GapMs => "ms without an answer to any probe",
            Metric::WriterGapMs => "ms without an answer to a lone writer",
            Metric::ServingMs => "ms until it serves",
            Metric::Missed => "missed",
        }
    }
}

impl Cell {
    /// A figure over the rounds in which it was measured.
    pub fn spread(&self, metric: Metric) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(|sample| sample.get(&metric).copied()).collect())
    }
}

impl Spread {
    /// Of any figures.
    pub fn of(mut figures: Vec<f64>) -> Option<Spread> {
        figures.sort_by(f64::total_cmp);
        let (low, high) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median =
            if figures.len() % 2 == 1 { figures[middle] } else { f64::midpoint(figures[middle - 1], figures[middle]) };
        Some(Spread { median, low, high })
    }
}

/// The figures of a run of the generator and of what it cost the servers.
pub fn sample(report: &Report, cost: Option<(Cost, Cost)>) -> Sample {
    let Summary { p50_ms, p99_ms, p999_ms, .. } = report.latency;
    let mut sample = Sample::from([
        (Metric::Rate, report.rate),
        (Metric::P50Ms, p50_ms),
        (Metric::P99Ms, p99_ms),
        (Metric::P999Ms, p999_ms),
        (Metric::GeneratorCpuUs, report.generator_cpu_us),
    ]);
    let operations = float(report.operations.max(1));
    if let Some((before, after)) = cost {
        sample.insert(Metric::ServerCpuUs, after.cpu_since(&before).as_secs_f64() * 1e6 / operations);
        sample.insert(Metric::WrittenBytes, float(after.written_since(&before)) / operations);
        sample.insert(Metric::ResidentMib, float(after.resident_bytes) / f64::from(1 << 20));
    }
    if let Some(delivery) = report.parts.get("delivery") {
        sample.insert(Metric::EventsPerSecond, delivery.rate);
        sample.insert(Metric::EventP50Ms, delivery.latency.p50_ms);
        sample.insert(Metric::EventP99Ms, delivery.latency.p99_ms);
    }
    if let Some(events) = report.figures.get("events_per_s") {
        sample.insert(Metric::EventsPerSecond, *events);
    }
    if report.missed > 0 {
        sample.insert(Metric::Missed, float(report.missed));
    }
    sample
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "counts and sizes of a run are far below 2^52")]
pub fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of(vec![]), None);
        let odd = Spread::of(vec![5.0, 1.0, 3.0]);
        assert_eq!(odd, Some(Spread { median: 3.0, low: 1.0, high: 5.0 }));
        assert_eq!(Spread::of(vec![4.0, 1.0]).map(|spread| spread.median), Some(2.5));
    }

    #[test]
    fn costs_are_told_for_one_operation() {
        let report = Report { operations: 4, rate: 2.0, missed: 1, ..Report::default() };
        let mut after = Cost::default();
        (after.written_bytes, after.resident_bytes) = (4096, 3 << 20);
        let sample = sample(&report, Some((Cost::default(), after)));
        let told = [Metric::Rate, Metric::WrittenBytes, Metric::ResidentMib, Metric::Missed].map(|at| sample[&at]);
        assert_eq!(told, [2.0, 1024.0, 3.0, 1.0]);
    }
}
