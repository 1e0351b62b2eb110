//! Makes samples of single operations, of a run of unknown length, in bounded memory.
//!
//! The samples begin short. Whenever the run outgrows `SAMPLES_MAX` of them, each two become one of twice the length;
//! so a run of two minutes has samples of an eighth of a second and one of six hours some of 16 seconds, and in which
//! order the operations came makes no difference.
//!
//! Gaps must be exact, to the millisecond, however long a run is: for them every millisecond has a bit that says whether
//! a write was acked in it.

use core::ops::Range;
use core::time::Duration;

use super::record::{Gap, Sample, Workload};
use crate::history::Operation;
use crate::ids::Moment;
use crate::request::Request;
use crate::response::Outcome;

/// About as many as a wide screen has columns: more could not be seen, and keep the page below a megabyte.
pub(crate) const SAMPLES_MAX: u64 = 1_500;
/// An eighth of a second: an election shows.
const PERIOD_NS_MIN: u64 = 125_000_000;
const NS_PER_MS: u64 = 1_000_000;
/// Acked writes after a week of run are taken as acked then: it bounds the bits for them to 75 MB.
const RUN_MS_MAX: u64 = 7 * 24 * 3_600 * 1_000;

/// See the module's header.
#[derive(Clone, Debug)]
pub struct Sampler {
    period_ns: u64,
    workloads: Vec<Sampled>,
    /// A bit per millisecond.
    writes: Vec<u64>,
}

/// A workload of a [`Sampler`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkloadIndex(usize);

/// One operation, as far as the report cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// When it began.
    pub called: Moment,
    /// When it ended for its client; none if it never did.
    pub returned: Option<Moment>,
    /// How it ended.
    pub end: End,
    /// Whether its success shows that the cluster accepts writes.
    pub write: bool,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was carried out and answered.
    Acked,
    /// It was answered with a no that depends on the store's state.
    Refused,
    /// It was certainly not carried out.
    Failed,
    /// Nobody knows.
    Unknown,
}

#[derive(Clone, Debug)]
struct Sampled {
    name: String,
    about: String,
    samples: Vec<Sample>,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler { period_ns: PERIOD_NS_MIN, workloads: Vec::new(), writes: Vec::new() }
    }
}

impl Sampler {
    /// The workload of this name; it is made if there is none.
    pub fn workload(&mut self, name: &str, about: &str) -> WorkloadIndex {
        let found = self.workloads.iter().position(|workload| workload.name == name);
        WorkloadIndex(found.unwrap_or_else(|| {
            self.workloads.push(Sampled { name: name.to_owned(), about: about.to_owned(), samples: Vec::new() });
            self.workloads.len() - 1
        }))
    }

    /// Notes an operation.
    pub fn note(&mut self, workload: WorkloadIndex, operation: Measured) {
        let Measured { called, returned, end, write } = operation;
        let ended = returned.unwrap_or(called);
        self.cover(called.max(ended));
        self.sample(workload, called).counts.tried += 1;
        let sample = self.sample(workload, ended);
        match end {
            End::Acked => sample.counts.acked += 1,
            End::Refused => sample.counts.refused += 1,
            End::Failed => sample.counts.failed += 1,
            End::Unknown => sample.counts.unknown += 1,
        }
        if matches!(end, End::Acked | End::Refused) {
            sample.latency.note(ended.0.saturating_sub(called.0) / 1_000);
        }
        if write && end == End::Acked {
            self.note_write(ended);
        }
    }

    /// Notes an operation of a history.
    pub fn note_operation(&mut self, workload: WorkloadIndex, operation: &Operation) {
        let end = match operation.outcome {
            Outcome::Ok(_) => End::Acked,
            Outcome::Refused(_) => End::Refused,
            Outcome::Failed(_) => End::Failed,
            Outcome::Unknown => End::Unknown,
        };
        let write = writes(&operation.request);
        self.note(workload, Measured { called: operation.called, returned: operation.returned, end, write });
    }

    /// How long a sample is.
    pub fn period(&self) -> Moment {
        Moment(self.period_ns)
    }

    /// What was noted.
    pub fn workloads(&self) -> Vec<Workload> {
        let happened = |sample: &&Sample| sample.counts != super::Counts::default();
        let finish = |sampled: &Sampled| Workload {
            name: sampled.name.clone(),
            about: sampled.about.clone(),
            samples: sampled.samples.iter().filter(happened).cloned().collect(),
        };
        self.workloads.iter().map(finish).collect()
    }

    /// Where no write was acked for `gap_min` or longer, within a stretch in which clients tried to write.
    pub fn gaps(&self, under_load: Range<Moment>, gap_min: Duration) -> Vec<Gap> {
        let gap_min = u64::try_from(gap_min.as_millis()).unwrap_or(u64::MAX).max(1);
        let (begin, end) = (millisecond(under_load.start), millisecond(under_load.end));
        let mut gaps = Vec::new();
        let mut last = begin;
        for acked in self.acked_ms().filter(|ms| (begin..end).contains(ms)).chain([end]) {
            if acked.saturating_sub(last) >= gap_min {
                let moment = |ms: u64| Moment(ms * NS_PER_MS);
                gaps.push(Gap { begin: moment(last), end: moment(acked), faults: Vec::new() });
            }
            last = acked;
        }
        gaps
    }

    fn acked_ms(&self) -> impl Iterator<Item = u64> + '_ {
        let word = |(at, word): (u64, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at * 64 + bit)
        };
        (0..).zip(&self.writes).filter(|(_, word)| **word != 0).flat_map(word)
    }

    fn note_write(&mut self, at: Moment) {
        let ms = millisecond(at);
        let Ok(word) = usize::try_from(ms / 64) else { return };
        if self.writes.len() <= word {
            self.writes.resize(word + 1, 0);
        }
        self.writes[word] |= 1 << (ms % 64);
    }

    /// Makes the samples long enough for this moment.
    fn cover(&mut self, moment: Moment) {
        while moment.0 / self.period_ns >= SAMPLES_MAX {
            self.period_ns = self.period_ns.saturating_mul(2);
            for workload in &mut self.workloads {
                workload.samples = halved(&workload.samples, self.period_ns);
            }
        }
    }

    /// The sample of a moment that is covered.
    fn sample(&mut self, workload: WorkloadIndex, moment: Moment) -> &mut Sample {
        let samples = &mut self.workloads[workload.0].samples;
        let at = usize::try_from(moment.0 / self.period_ns).unwrap_or(0);
        for missing in samples.len()..=at {
            let place = u64::try_from(missing).unwrap_or(0);
            samples.push(Sample { at: Moment(place.saturating_mul(self.period_ns)), ..Sample::default() });
        }
        &mut samples[at]
    }
}

/// Each two samples as one, of samples without a hole.
fn halved(samples: &[Sample], period_ns: u64) -> Vec<Sample> {
    let both = |(place, pair): (u64, &[Sample])| {
        let mut sum = Sample { at: Moment(place.saturating_mul(period_ns)), ..Sample::default() };
        for sample in pair {
            sum.counts = sum.counts.plus(sample.counts);
            sum.latency.add(&sample.latency);
        }
        sum
    };
    (0..).zip(samples.chunks(2)).map(both).collect()
}

fn millisecond(at: Moment) -> u64 {
    (at.0 / NS_PER_MS).min(RUN_MS_MAX)
}

/// Whether its success needs a leader with a majority and a working log.
fn writes(request: &Request) -> bool {
    match request {
        Request::Put(_) | Request::DeleteRange(_) | Request::Compact { .. } => true,
        Request::LeaseGrant { .. } | Request::LeaseRevoke { .. } => true,
        Request::Txn(txn) => !txn.is_read_only(),
        Request::Range(_) | Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } => false,
    }
}
