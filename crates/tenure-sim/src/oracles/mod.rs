//! What must never happen, one promise a file, and the witness who watches for it.
//!
//! The witness sees everything at once, as nobody in the cluster can: it is told by the apply loop of every member what it
//! applied, and looks into all logs and at who says that it leads, again and again. What clients saw is judged after the
//! run, by the checkers of [`tenure_history`].

pub mod applied_equal;
pub mod committed_never_lost;
pub mod election_safety;
pub mod leader_completeness;
pub mod leases;
pub mod lock_queues;
pub mod log_matching;
pub mod progress;
pub mod revision_monotone;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure_history::Operation;
use tenure_raft::log::Logged;
use tenure_raft::{AppliedRun, Effects};
use tenure_storage::state_view::StateView;

use crate::cluster::Cluster;
use crate::trace::Trace;

use applied_equal::AppliedEqual;
use committed_never_lost::CommittedNeverLost;
use election_safety::ElectionSafety;
use leases::Leases;
use lock_queues::LockQueues;
use log_matching::LogMatching;
use revision_monotone::RevisionMonotone;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Whose promise.
    pub oracle: &'static str,
    /// How it was broken.
    pub text: String,
}

/// A member's log and standing at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// The member.
    pub place: usize,
    /// Its term.
    pub term: u64,
    /// Whether it says that it leads in that term.
    pub leads: bool,
    /// The last entry that it knows to be committed and has in its log; 0 if its log does not have that one.
    pub committed: u64,
    /// Its log from the first entry that it still has.
    pub entries: Vec<Logged>,
}

/// See the module's header.
pub struct Witness {
    trace: Trace,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    election_safety: ElectionSafety,
    log_matching: LogMatching,
    committed: CommittedNeverLost,
    applied_equal: AppliedEqual,
    revision_monotone: RevisionMonotone,
    leases: Leases,
    lock_queues: LockQueues,
    breaches: Vec<Breach>,
    counts: Counts,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Runs applied, on all members.
    pub runs: u64,
    /// States that were hashed.
    pub hashes: u64,
    /// States that a second member had too.
    pub compared: u64,
    /// Entries looked at in logs.
    pub entries: u64,
    /// Snapshots installed, and states opened.
    pub replaced: u64,
    /// Terms in which somebody led.
    pub terms: u64,
    /// Leases that ended.
    pub leases: u64,
    /// Queues of locks that were held against the keys.
    pub lock_queues: u64,
    /// The longest of them.
    pub lock_waiters_max: u64,
}

impl Witness {
    /// Who has seen nothing yet.
    pub fn new(trace: &Trace) -> Witness {
        Witness { trace: trace.clone(), state: Mutex::default() }
    }

    /// The run's trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The witness at one member, in one of its lives.
    pub fn of_node(self: &Arc<Witness>, place: usize, life: u32) -> AtNode {
        AtNode { witness: self.clone(), place, life }
    }

    /// Looks at all members that take part.
    pub async fn look(&self, cluster: &Cluster) {
        for (place, raft) in cluster.up() {
            let Some(status) = cluster.nodes[place].enter(|| raft.status()) else { continue };
            let Ok(entries) = raft.log().logged(0, u64::MAX).await else { continue };
            // While a snapshot is put in place of a log, what is committed is in the one and not in the other.
            let committed = raft.committed().map_or(0, |(index, term)| {
                let has = entries.iter().any(|entry| (entry.index, entry.term) == (index.0, term.0));
                if has { index.0 } else { 0 }
            });
            let look = Look { place, term: status.term.0, leads: status.is_leader, committed, entries };
            self.judge(&look);
        }
    }

    fn judge(&self, look: &Look) {
        let mut state = self.state();
        let state = &mut *state;
        state.counts.entries += look.entries.len() as u64;
        let found = [
            state.election_safety.look(look),
            state.log_matching.look(look),
            state.committed.look(look),
            leader_completeness::look(look, &state.committed),
        ];
        state.counts.terms = state.election_safety.terms();
        found.into_iter().flatten().for_each(|breach| state.note(&self.trace, breach));
    }

    /// What was broken so far.
    pub fn breaches(&self) -> Vec<Breach> {
        self.state().breaches.clone()
    }

    /// Holds what was seen against what clients were told.
    pub fn judge_histories(&self, operations: &[Operation]) {
        let mut state = self.state();
        let found = state.leases.judge(operations);
        found.into_iter().for_each(|breach| state.note(&self.trace, breach));
    }

    /// Adds what somebody else found.
    pub fn note(&self, breach: Breach) {
        self.state().note(&self.trace, breach);
    }

    /// What was looked at so far.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, trace: &Trace, breach: Breach) {
        if !self.breaches.contains(&breach) {
            trace.note(format_args!("BROKEN {}: {}", breach.oracle, breach.text));
            self.breaches.push(breach);
        }
    }
}

/// Told by the apply loop of one member.
pub struct AtNode {
    witness: Arc<Witness>,
    place: usize,
    life: u32,
}

impl AtNode {
    fn saw(&self, view: &StateView, replaced: bool) {
        let mut state = self.witness.state();
        let state = &mut *state;
        let found = [
            state.revision_monotone.saw(self.place, self.life, view, replaced),
            state.applied_equal.saw(self.place, view, &mut state.counts),
            state.lock_queues.saw(self.place, view, &mut state.counts),
        ];
        found.into_iter().flatten().for_each(|breach| state.note(&self.witness.trace, breach));
    }
}

impl Effects for AtNode {
    fn replaced(&self, view: &Arc<StateView>) {
        self.witness.state().counts.replaced += 1;
        let (node, applied) = (self.place + 1, view.applied());
        self.witness.trace.note(format_args!("n{node} has the state at {} of term {}", applied.index, applied.term));
        self.saw(view, true);
    }

    fn applied(&self, run: &AppliedRun) {
        self.witness.state().counts.runs += 1;
        let (node, applied, events) = (self.place + 1, run.view.applied(), run.events.len());
        self.witness
            .trace
            .note(format_args!("n{node} applied {} of term {}, {events} events", applied.index, applied.term));
        {
            let mut state = self.witness.state();
            for (lease, _) in run.leases.iter().filter(|(_, row)| row.is_none()) {
                state.leases.ended(lease.0, self.witness.trace.moment());
            }
            state.counts.leases = state.leases.count();
        }
        self.saw(&run.view, false);
    }
}
