//! What the demo was promised: every acknowledged write, lease and lock, as its clients saw it.
//!
//! The load's tasks write it while they work, so it is whole even if a task is cut off in the middle of a request. Only
//! `audit` reads it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Moment;
use crate::limits::{HOLDS_MAX, LANES, WRITES_MAX};
use crate::load::LeaseTerms;

/// What became of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It failed, or no answer came: it may have taken effect, now or later, or never.
    Unknown,
    /// Acknowledged at this revision.
    Acked(i64),
}

/// The writes of one lane, in order.
pub type Lane = Vec<Fate>;

#[derive(Debug, Default)]
struct LaneLedger {
    fates: Lane,
    latencies: Vec<Duration>,
}

/// One lease that a service had.
#[derive(Clone, Debug)]
pub struct LeaseRecord {
    pub service: usize,
    /// The key that the lease keeps.
    pub key: String,
    /// What its keeper knows of it.
    pub terms: watch::Receiver<LeaseTerms>,
    /// Whether the key was written.
    pub registered: bool,
    /// Since when nobody renews it.
    pub stopped: Option<Moment>,
    /// When it was first seen to be gone.
    pub ended: Option<Moment>,
}

/// One time that a contender was told that it holds the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub contender: String,
    pub token: i64,
    /// When the answer came that told it so.
    pub from: Moment,
    /// When it sent the release, or its lease may have ended.
    pub until: Option<Moment>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Ledger {
    lanes: [Mutex<LaneLedger>; LANES],
    leases: Mutex<BTreeMap<i64, LeaseRecord>>,
    holds: Mutex<Vec<Hold>>,
}

impl Ledger {
    /// Begins a write of a lane and answers its number; nothing when the ledger is full.
    pub fn write_begins(&self, lane: usize) -> Option<u32> {
        let fates = &mut lock(self.lanes.get(lane)?).fates;
        let number = u32::try_from(fates.len()).ok().filter(|_| fates.len() < WRITES_MAX / LANES)?;
        fates.push(Fate::Unknown);
        Some(number)
    }

    /// A write was acknowledged.
    pub fn write_acked(&self, lane: usize, number: u32, revision: i64, latency: Duration) {
        let Some(lane) = self.lanes.get(lane) else { return };
        let mut lane = lock(lane);
        lane.latencies.push(latency);
        let place = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(fate) = lane.fates.get_mut(place) {
            *fate = Fate::Acked(revision);
        }
    }

    /// The lanes, for reading.
    pub fn lanes(&self) -> Vec<Lane> {
        self.lanes.iter().map(|lane| lock(lane).fates.clone()).collect()
    }

    /// How long the acknowledged writes took, all lanes together.
    pub fn latencies(&self) -> Vec<Duration> {
        self.lanes.iter().flat_map(|lane| lock(lane).latencies.clone()).collect()
    }

    /// The leases by id.
    pub fn leases(&self) -> MutexGuard<'_, BTreeMap<i64, LeaseRecord>> {
        lock(&self.leases)
    }

    /// A contender holds the lock. Answers where to say that it does not any more; nothing when the ledger is full.
    pub fn hold_begins(&self, contender: &str, token: i64, from: Moment) -> Option<usize> {
        let mut holds = lock(&self.holds);
        if holds.len() >= HOLDS_MAX {
            return None;
        }
        holds.push(Hold { contender: contender.to_owned(), token, from, until: None });
        Some(holds.len() - 1)
    }

    /// The contender does not count on the lock after `until`.
    pub fn hold_ends(&self, place: usize, until: Moment) {
        if let Some(hold) = lock(&self.holds).get_mut(place) {
            hold.until = Some(until);
        }
    }

    /// All holds.
    pub fn holds(&self) -> Vec<Hold> {
        lock(&self.holds).clone()
    }
}

/// A task that panicked while it held the lock has ended the demo already; what it wrote is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
