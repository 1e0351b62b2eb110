//! What all parts of a round share: where the members are, the recorder, and how far the round has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use tenure_history::{LeaseId, Revision};
use tokio::sync::watch;

use crate::connect::Connect;
use crate::recorder::Recorder;
use crate::workloads::Workload;

/// Lease ids of a round lie this far from the next round's.
const LEASES_PER_ROUND: i64 = 1_000_000;

/// How far a round has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Clients work.
    Work,
    /// Clients finish what they are at; leases run out.
    Finish,
    /// Nothing is written any more; this is the last revision.
    Over(Revision),
}

/// See the module's header.
#[derive(Debug)]
pub struct Stage {
    pub connect: Arc<dyn Connect>,
    pub recorder: Arc<Recorder>,
    pub seed: u64,
    /// How much slower than usual clients are.
    pub slowness: f64,
    /// The revision that the round begins with.
    pub first: Revision,
    phase: watch::Sender<Phase>,
    /// Up to here an observer has been told everything.
    observed: AtomicI64,
    /// A compaction to here was answered.
    compacted: AtomicI64,
    leases: AtomicI64,
    clients: AtomicU32,
}

impl Stage {
    /// A round's stage; rounds are numbered from 0.
    pub fn new(connect: Arc<dyn Connect>, recorder: Arc<Recorder>, seed: u64, round: u32, first: Revision) -> Stage {
        Stage {
            connect,
            recorder,
            seed: seed ^ (u64::from(round) << 48),
            slowness: 1.0,
            first,
            phase: watch::Sender::new(Phase::Work),
            observed: AtomicI64::new(first.0),
            compacted: AtomicI64::new(0),
            leases: AtomicI64::new(i64::from(round) * LEASES_PER_ROUND),
            clients: AtomicU32::new(0),
        }
    }

    /// Where the round is.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether clients still begin new things.
    pub fn is_working(&self) -> bool {
        self.phase() == Phase::Work
    }

    /// Goes on to the next phase.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// To wait for the next phase.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// The pause between two requests of one client of a workload.
    pub fn pace(&self, workload: Workload) -> Duration {
        workload.pace().mul_f64(self.slowness)
    }

    /// A lease id that nobody had.
    pub fn new_lease(&self) -> LeaseId {
        LeaseId(self.leases.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A number for another client.
    pub fn new_client(&self) -> u32 {
        self.clients.fetch_add(1, Ordering::Relaxed)
    }

    /// Says up to where an observer was told everything.
    pub fn saw(&self, revision: Revision) {
        self.observed.fetch_max(revision.0, Ordering::SeqCst);
    }

    /// Says that the store is compacted up to a revision.
    pub fn has_compacted(&self, revision: Revision) {
        self.compacted.fetch_max(revision.0, Ordering::SeqCst);
    }

    /// Up to where the store is compacted, at least; 0 as long as nobody knows of a compaction.
    pub fn compacted(&self) -> Revision {
        Revision(self.compacted.load(Ordering::SeqCst))
    }

    /// Up to where some observer was told everything.
    pub fn observed(&self) -> Revision {
        Revision(self.observed.load(Ordering::SeqCst))
    }
}
