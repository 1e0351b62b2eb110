//! The record of a run: plain data, with a version. It judges nothing beyond [`RunRecord::conclusion`].

use core::fmt;
use core::ops::Range;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::latency::Latency;
use super::sampler::Sampler;
use super::{gaps, moments};
use crate::ids::{Moment, NodeId};
use crate::run::{Finding, Status};
use crate::verdict::Verdict;

/// Everything that the page shows. All moments count from the start of the run, in the order of time where that matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`RunRecord::VERSION`].
    pub version: u32,
    /// What ran: `chaos on real processes`.
    pub title: String,
    /// Which of its profiles: `smoke`, `standard`.
    pub profile: String,
    /// What repeats the run's choices.
    pub seed: u64,
    /// What to type to repeat the run.
    pub command: String,
    /// The program under test, with its version.
    pub program: String,
    /// When it began, in milliseconds since 1970. None where time is virtual.
    pub began_unix_ms: Option<u64>,
    /// How long it took.
    pub length: Moment,
    /// Why the run proves nothing, if so: too few successful operations, say.
    pub void: Option<String>,
    /// The members of the cluster.
    pub nodes: Vec<Node>,
    /// When nodes went up, down or to sleep. A node is down until it is first seen up; one that is never seen is up.
    pub states: Vec<StateSeen>,
    /// Who was seen to lead.
    pub leaders: Vec<LeaderSeen>,
    /// What was done to the cluster.
    pub faults: Vec<Fault>,
    /// What else is worth a mark: a round's begin, a client's end.
    pub notes: Vec<Note>,
    /// The length of a sample.
    pub sample_period: Moment,
    /// What the clients did; see [`Sampler`].
    pub workloads: Vec<Workload>,
    /// Stretches without an acked write.
    pub gaps: Vec<Gap>,
    /// Per kind of fault, how often and how bad.
    pub kinds: Vec<KindSummary>,
    /// The phase after the last fault, in which the cluster must serve again.
    pub liveness: Option<Liveness>,
    /// What the checkers say.
    pub checks: Vec<Check>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
    /// More figures to show on top: `acked writes lost`, `0`.
    pub figures: Vec<Figure>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// As the rest of the record names it.
    pub id: NodeId,
    /// As people name it.
    pub name: String,
}

/// Whether a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Its process runs.
    Up,
    /// It has no process.
    Down,
    /// Its process stands still.
    Paused,
}

/// A node changed its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateSeen {
    /// When.
    pub at: Moment,
    /// Which.
    pub node: NodeId,
    /// Into what.
    pub state: NodeState,
}

/// A leader was first seen, or that there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderSeen {
    /// When.
    pub at: Moment,
    /// Which node; none if nobody leads any longer.
    pub node: Option<NodeId>,
    /// Its term.
    pub term: u64,
}

/// Something was done to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Faults of one kind share a lane: `kill leader`.
    pub kind: String,
    /// To whom: `n2`, or `n1 | n2 n3`.
    pub target: String,
    /// From when.
    pub begin: Moment,
    /// Until when; for what is done at once, when it was made good again, or `begin`.
    pub end: Moment,
    /// What exactly.
    pub text: String,
}

/// A remark on the timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When.
    pub at: Moment,
    /// About whom, if about one node.
    pub node: Option<NodeId>,
    /// What.
    pub text: String,
}

/// How operations ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Begun.
    pub tried: u64,
    /// Carried out and answered.
    pub acked: u64,
    /// Answered with a no that depends on the store's state.
    pub refused: u64,
    /// Certainly not carried out.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
}

/// What happened within one sample period: operations that began in it (tried) and that ended in it (all else).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Where the period begins, a multiple of its length.
    pub at: Moment,
    /// How many.
    pub counts: Counts,
    /// How long those took that were answered.
    pub latency: Latency,
}

/// What clients of one sort did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// What it does, in a sentence.
    pub about: String,
    /// In the order of time; periods in which nothing happened are left out.
    pub samples: Vec<Sample>,
}

/// No write was acked within.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The last acked write before, or the begin of the load.
    pub begin: Moment,
    /// The first acked write after, or the end of the load.
    pub end: Moment,
    /// The places in [`RunRecord::faults`] of those that it is put down to.
    pub faults: Vec<usize>,
}

/// A kind of fault, over the whole run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindSummary {
    /// The kind.
    pub kind: String,
    /// How often it was done.
    pub injected: u64,
    /// How many of these the clients noticed as a gap.
    pub noticed: u64,
    /// The longest gap that is put down to it.
    pub longest_gap: Moment,
}

/// After the last fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Liveness {
    /// All faults were over.
    pub begin: Moment,
    /// Everything was served again, or the wait was given up.
    pub end: Moment,
    /// Within which time it must serve.
    pub bound: Moment,
    /// What was asked of it, and what it did.
    pub text: String,
}

/// What one checker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What it makes sure of, in one sentence.
    pub promise: String,
    /// What it found.
    pub outcome: CheckOutcome,
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    /// Nothing is wrong.
    Ok {
        /// What was checked, counted; a line per part, if there are several.
        counts: String,
    },
    /// A promise is broken.
    Violation {
        /// Which, in a few words.
        promise: String,
        /// What exactly is wrong.
        detail: String,
        /// The shortest part of the history that shows it, a line each.
        evidence: Vec<String>,
        /// Where that is on the timeline.
        span: Option<(Moment, Moment)>,
    },
    /// It could not decide.
    Undecided {
        /// What it says about that.
        detail: String,
        /// Where that is on the timeline.
        span: Option<(Moment, Moment)>,
    },
    /// There was too little to check.
    Void {
        /// How little.
        reason: String,
    },
    /// It was not asked.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// Something was left out of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// What.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// A figure for the top of the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is, in two or three words.
    pub name: String,
    /// It, with its unit.
    pub value: String,
}

/// What the run says as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Every checker that had something to check found nothing wrong.
    Held,
    /// Some promise is broken.
    Violated,
    /// Some checker could not decide, and none found anything.
    Undecided,
    /// The run says nothing.
    Void,
}

/// Why a text is no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is something else.
    #[error("this is no record of a run: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of another version of this program.
    #[error("the record has version {0}, this program knows {known}", known = RunRecord::VERSION)]
    Version(u32),
}

impl RunRecord {
    /// Counts up when a field changes its meaning.
    pub const VERSION: u32 = 1;

    /// A record of a run of which nothing else is known yet.
    pub fn new(title: impl Into<String>, seed: u64, command: impl Into<String>) -> RunRecord {
        RunRecord {
            version: RunRecord::VERSION,
            title: title.into(),
            seed,
            command: command.into(),
            ..RunRecord::default()
        }
    }

    /// Takes over what the clients did: samples, gaps of at least `gap_min` while they were `under_load`, and from these
    /// the summary per kind of fault. So it is called last, when the faults are known.
    pub fn take(&mut self, sampler: &Sampler, under_load: Range<Moment>, gap_min: Duration) {
        self.take_rounds(sampler, core::slice::from_ref(&under_load), gap_min);
    }

    /// The same for a run whose clients rest between rounds: that is no gap.
    pub fn take_rounds(&mut self, sampler: &Sampler, under_load: &[Range<Moment>], gap_min: Duration) {
        self.sample_period = sampler.period();
        self.workloads = sampler.workloads();
        let gaps = under_load.iter().flat_map(|round| sampler.gaps(round.clone(), gap_min)).collect();
        self.gaps = gaps::attribute(gaps, &self.faults);
        self.kinds = gaps::by_kind(&self.gaps, &self.faults);
    }

    /// What it says as a whole. A violation found in a void run is still one.
    pub fn conclusion(&self) -> Conclusion {
        let any = |wanted: fn(&CheckOutcome) -> bool| self.checks.iter().any(|check| wanted(&check.outcome));
        if any(|outcome| matches!(outcome, CheckOutcome::Violation { .. })) {
            Conclusion::Violated
        } else if self.void.is_some()
            || any(|outcome| matches!(outcome, CheckOutcome::Void { .. }))
            || !any(|outcome| matches!(outcome, CheckOutcome::Ok { .. }))
        {
            Conclusion::Void
        } else if any(|outcome| matches!(outcome, CheckOutcome::Undecided { .. })) {
            Conclusion::Undecided
        } else {
            Conclusion::Held
        }
    }

    /// How all operations ended.
    pub fn totals(&self) -> Counts {
        self.workloads.iter().map(Workload::totals).fold(Counts::default(), Counts::plus)
    }

    /// Writes it as JSON.
    pub fn to_json(&self) -> Result<String, RecordError> {
        Ok(serde_json::to_string(self)?)
    }

    /// Reads it from JSON. A record of another version is refused.
    pub fn from_json(text: &str) -> Result<RunRecord, RecordError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_str(text)?;
        if version != RunRecord::VERSION {
            return Err(RecordError::Version(version));
        }
        Ok(serde_json::from_str(text)?)
    }
}

impl Node {
    /// A member.
    pub fn new(id: NodeId, name: impl Into<String>) -> Node {
        Node { id, name: name.into() }
    }
}

impl Fault {
    /// Something that is done to the cluster for a while.
    pub fn new(
        kind: impl Into<String>,
        target: impl Into<String>,
        when: Range<Moment>,
        text: impl Into<String>,
    ) -> Fault {
        Fault { kind: kind.into(), target: target.into(), begin: when.start, end: when.end, text: text.into() }
    }
}

impl Counts {
    /// The sum.
    #[must_use]
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            tried: self.tried.saturating_add(other.tried),
            acked: self.acked.saturating_add(other.acked),
            refused: self.refused.saturating_add(other.refused),
            failed: self.failed.saturating_add(other.failed),
            unknown: self.unknown.saturating_add(other.unknown),
        }
    }
}

impl Workload {
    /// How its operations ended.
    pub fn totals(&self) -> Counts {
        self.samples.iter().map(|sample| sample.counts).fold(Counts::default(), Counts::plus)
    }

    /// How long its answered operations took.
    pub fn latency(&self) -> Latency {
        let mut all = Latency::default();
        self.samples.iter().for_each(|sample| all.add(&sample.latency));
        all
    }
}

impl Check {
    /// What a checker of this crate found. Its evidence names the moments, so the place on the timeline comes from there.
    pub fn of<C: fmt::Display>(name: impl Into<String>, promise: impl Into<String>, verdict: &Verdict<C>) -> Check {
        let outcome = match verdict {
            Verdict::Ok(counts) => CheckOutcome::Ok { counts: counts.to_string() },
            Verdict::Violation(violation) => CheckOutcome::Violation {
                promise: violation.promise.to_owned(),
                detail: violation.detail.clone(),
                evidence: violation.evidence.clone(),
                span: moments::span(&violation.evidence),
            },
            Verdict::Undecided(window) => {
                CheckOutcome::Undecided { detail: window.to_string(), span: Some((window.from, window.to)) }
            }
        };
        Check { name: name.into(), promise: promise.into(), outcome }
    }

    /// What [`run`](crate::run) found, with the sentence for its promise. The place on the timeline comes from the moments named.
    pub fn of_finding(promise: impl Into<String>, finding: &Finding) -> Check {
        let summary = || finding.summary.clone();
        let outcome = match finding.status {
            Status::Ok => CheckOutcome::Ok { counts: summary() },
            Status::Violation => {
                let (broken, detail) = finding.summary.split_once(": ").unwrap_or((&finding.summary, ""));
                CheckOutcome::Violation {
                    promise: broken.to_owned(),
                    detail: detail.to_owned(),
                    evidence: finding.evidence.clone(),
                    span: moments::span(&finding.evidence),
                }
            }
            Status::Undecided => CheckOutcome::Undecided {
                detail: summary(),
                span: moments::span(core::slice::from_ref(&finding.summary)),
            },
            Status::Unchecked => CheckOutcome::Skipped { reason: summary() },
        };
        Check { name: finding.checker.clone(), promise: promise.into(), outcome }
    }
}
