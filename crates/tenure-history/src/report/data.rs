//! What the timeline draws: the record brought to milliseconds, stretches with begin and end, and columns of numbers.

use serde::Serialize;

use super::escape::shortened;
use super::record::{CheckOutcome, Counts, NodeState, RunRecord, Sample};
use super::sampler::SAMPLES_MAX;
use super::{Latency, Node};
use crate::ids::{Moment, NodeId};

/// Of one sort, on the timeline. Hours of a run have some thousands; more would make the page slow, and it says so.
const MARKS_MAX: usize = 20_000;
/// Texts are shown in a small box beside the pointer.
const TEXT_CHARS_MAX: usize = 240;

/// See the module's header. The script in `page.js` reads it.
#[derive(Serialize)]
pub(crate) struct Timeline {
    length: u64,
    period: u64,
    nodes: Vec<NodeLane>,
    kinds: Vec<KindLane>,
    gaps: Vec<(u64, u64)>,
    notes: Vec<(u64, String)>,
    liveness: Option<(u64, u64)>,
    marks: Vec<Mark>,
    series: Vec<Series>,
    /// Whether something is left out.
    #[serde(skip)]
    pub(crate) cut: bool,
}

#[derive(Serialize)]
struct NodeLane {
    name: String,
    states: Vec<(u64, u64, NodeState)>,
    leads: Vec<(u64, u64, u64)>,
}

#[derive(Serialize)]
struct KindLane {
    name: String,
    faults: Vec<(u64, u64, String, String)>,
}

/// Where a checker points to.
#[derive(Serialize)]
struct Mark {
    from: u64,
    to: u64,
    text: String,
    violation: bool,
}

/// Columns with a number per sample period.
#[derive(Default, Serialize)]
struct Series {
    name: String,
    acked: Vec<u64>,
    refused: Vec<u64>,
    failed: Vec<u64>,
    unknown: Vec<u64>,
    p50: Vec<Option<u64>>,
    p99: Vec<Option<u64>>,
    max: Vec<Option<u64>>,
}

impl Timeline {
    pub(crate) fn of(record: &RunRecord) -> Timeline {
        let length = axis(record);
        let period = period(record, length);
        let marks = [record.states.len(), record.leaders.len(), record.faults.len(), record.gaps.len()];
        Timeline {
            length: millis(length),
            period: millis(period),
            nodes: record.nodes.iter().map(|node| node_lane(record, node, length)).collect(),
            kinds: kinds(record, length),
            gaps: record.gaps.iter().take(MARKS_MAX).map(|gap| stretch(gap.begin, gap.end, length)).collect(),
            notes: notes(record, length),
            liveness: record.liveness.as_ref().map(|phase| stretch(phase.begin, phase.end, length)),
            marks: checker_marks(record, length),
            series: series(record, length, period),
            cut: marks.into_iter().chain([record.notes.len()]).any(|marks| marks > MARKS_MAX),
        }
    }
}

fn millis(at: Moment) -> u64 {
    at.0 / 1_000_000
}

fn stretch(begin: Moment, end: Moment, length: Moment) -> (u64, u64) {
    let begin = begin.min(length);
    (millis(begin), millis(end.clamp(begin, length)))
}

/// What the time axis spans: the run, or what is known of it.
fn axis(record: &RunRecord) -> Moment {
    if record.length > Moment(0) {
        return record.length;
    }
    let ends = record.faults.iter().map(|fault| fault.end).chain(record.gaps.iter().map(|gap| gap.end));
    let seen = record.states.iter().map(|seen| seen.at).chain(record.leaders.iter().map(|seen| seen.at));
    let samples = record.workloads.iter().filter_map(|workload| Some(workload.samples.last()?.at));
    ends.chain(seen).chain(samples).max().unwrap_or_default().max(Moment(1_000_000_000))
}

/// The sample's length, or a multiple if there are more samples than the page has room for.
fn period(record: &RunRecord, length: Moment) -> Moment {
    let period = record.sample_period.0.div_ceil(1_000_000).clamp(1, u64::MAX / 1_000_000) * 1_000_000;
    let times = length.0.div_ceil(period).div_ceil(SAMPLES_MAX).max(1);
    Moment(period.saturating_mul(times))
}

fn node_lane(record: &RunRecord, node: &Node, length: Moment) -> NodeLane {
    let mut states: Vec<(u64, u64, NodeState)> = Vec::new();
    let known = record.states.iter().any(|seen| seen.node == node.id);
    let mut since = (Moment(0), if known { NodeState::Down } else { NodeState::Up });
    let seen = record.states.iter().filter(|seen| seen.node == node.id).take(MARKS_MAX);
    for (at, state) in seen.map(|seen| (seen.at, seen.state)).chain([(length, NodeState::Down)]) {
        let (begin, end) = stretch(since.0, at, length);
        if end > begin {
            states.push((begin, end, since.1));
        }
        since = (at, state);
    }
    NodeLane { name: node.name.clone(), states, leads: leads(record, node.id, length) }
}

/// A leader is shown as one until another of a later term is seen, nobody leads, or its process is gone. A paused leader
/// still believes to be one.
fn leads(record: &RunRecord, node: NodeId, length: Moment) -> Vec<(u64, u64, u64)> {
    let mut stretches: Vec<(u64, u64, u64)> = Vec::new();
    for (place, seen) in record.leaders.iter().enumerate().take(MARKS_MAX).filter(|(_, seen)| seen.node == Some(node)) {
        let next = record.leaders.get(place + 1).map_or(length, |next| next.at);
        let states = record.states.iter().filter(|state| state.node == node && state.at > seen.at);
        let gone = states.filter(|state| state.state == NodeState::Down).map(|state| state.at).next().unwrap_or(length);
        let (begin, end) = stretch(seen.at, next.min(gone), length);
        match stretches.last_mut() {
            // Seen again in the same term: it led on.
            Some(last) if last.2 == seen.term && last.1 >= begin => last.1 = end,
            Some(_) | None => stretches.push((begin, end, seen.term)),
        }
    }
    stretches
}

fn kinds(record: &RunRecord, length: Moment) -> Vec<KindLane> {
    let mut lanes: Vec<KindLane> = Vec::new();
    for fault in record.faults.iter().take(MARKS_MAX) {
        let (begin, end) = stretch(fault.begin, fault.end, length);
        let mark = (begin, end, short(&fault.target), short(&fault.text));
        match lanes.iter_mut().find(|lane| lane.name == fault.kind) {
            Some(lane) => lane.faults.push(mark),
            None => lanes.push(KindLane { name: fault.kind.clone(), faults: vec![mark] }),
        }
    }
    lanes
}

fn notes(record: &RunRecord, length: Moment) -> Vec<(u64, String)> {
    let name = |id: NodeId| record.nodes.iter().find(|node| node.id == id).map(|node| node.name.as_str());
    let notes = record.notes.iter().take(MARKS_MAX).map(|note| {
        let text = match note.node.and_then(name) {
            Some(name) => format!("{name}: {}", note.text),
            None => note.text.clone(),
        };
        (millis(note.at.min(length)), short(&text))
    });
    notes.collect()
}

fn checker_marks(record: &RunRecord, length: Moment) -> Vec<Mark> {
    let marks = record.checks.iter().filter_map(|check| {
        let (violation, what, (from, to)) = match &check.outcome {
            CheckOutcome::Violation { promise, span, .. } => (true, promise.as_str(), (*span)?),
            CheckOutcome::Undecided { span, .. } => (false, "undecided", (*span)?),
            CheckOutcome::Ok { .. } | CheckOutcome::Void { .. } | CheckOutcome::Skipped { .. } => return None,
        };
        let (from, to) = stretch(from, to, length);
        Some(Mark { from, to, text: short(&format!("{}: {what}", check.name)), violation })
    });
    marks.collect()
}

fn short(text: &str) -> String {
    shortened(text, TEXT_CHARS_MAX).into_owned()
}

/// All workloads together, then each, if there are several.
fn series(record: &RunRecord, length: Moment, period: Moment) -> Vec<Series> {
    let all = record.workloads.iter().flat_map(|workload| &workload.samples);
    let mut series = vec![columns("all workloads", all, length, period)];
    if record.workloads.len() > 1 {
        let each = record.workloads.iter().map(|workload| columns(&workload.name, &workload.samples, length, period));
        series.extend(each);
    }
    series
}

fn columns<'a>(name: &str, samples: impl IntoIterator<Item = &'a Sample>, length: Moment, period: Moment) -> Series {
    // At most SAMPLES_MAX, by the choice of the period.
    let slots = usize::try_from(length.0.div_ceil(period.0)).unwrap_or(0);
    let mut sums = vec![(Counts::default(), Latency::default()); slots];
    for sample in samples {
        let slot = usize::try_from(sample.at.0 / period.0).ok();
        if let Some((counts, latency)) = slot.and_then(|slot| sums.get_mut(slot)) {
            *counts = counts.plus(sample.counts);
            latency.add(&sample.latency);
        }
    }
    let mut series = Series { name: name.to_owned(), ..Series::default() };
    for (counts, latency) in &sums {
        series.acked.push(counts.acked);
        series.refused.push(counts.refused);
        series.failed.push(counts.failed);
        series.unknown.push(counts.unknown);
        let any = (latency.count() > 0).then_some(latency);
        series.p50.push(any.map(|latency| latency.percentile_us(50)));
        series.p99.push(any.map(|latency| latency.percentile_us(99)));
        series.max.push(any.map(Latency::max_us));
    }
    series
}
