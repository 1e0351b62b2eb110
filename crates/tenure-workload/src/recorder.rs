//! The run's clock, and everything that its clients saw, in one place.
//!
//! Every instant of a run (of operations, faults, leaders) is read off this one clock, so all of it can be laid side by
//! side. What is recorded stays in memory until its round is judged; rounds are short for that reason.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tenure_history::contest::{Claim, Contests, Guarded, Touched};
use tenure_history::lock::{Hold, Use};
use tenure_history::response::Outcome;
use tenure_history::watch::{Spec, Step};
use tenure_history::{Moment, Operation};

use tokio::time::Instant;

use crate::workloads::Workload;

/// An operation, and what it was for.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub workload: Workload,
    pub operation: Operation,
}

/// What one watcher saw.
#[derive(Clone, Debug)]
pub struct Watched {
    pub spec: Spec,
    pub steps: Vec<Step>,
    /// Whether it takes part in telling which revisions there were: see the observers of the watch workload.
    pub observer: bool,
}

/// A clock and a list of all that clients did.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    seen: Mutex<Seen>,
}

/// What was recorded since it was last taken.
#[derive(Debug, Default)]
pub struct Seen {
    pub operations: Vec<Recorded>,
    pub holds: Vec<Hold>,
    pub uses: Vec<Use>,
    pub contests: Contests,
    pub watched: Vec<Watched>,
    pub reconnections: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { began: Instant::now(), seen: Mutex::default() }
    }
}

impl Recorder {
    /// The instant now.
    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Notes an operation that has ended.
    pub fn note(&self, workload: Workload, operation: Operation) {
        self.lock().operations.push(Recorded { workload, operation });
    }

    /// Notes a time that a lock was held.
    pub fn note_hold(&self, hold: Hold) {
        self.lock().holds.push(hold);
    }

    /// Notes a use of what a lock guards.
    pub fn note_use(&self, used: Use) {
        self.lock().uses.push(used);
    }

    /// Notes a request for a lock that is over.
    pub fn note_claim(&self, claim: Claim) {
        self.lock().contests.claims.push(claim);
    }

    /// Notes a write that depended on a lock.
    pub fn note_guarded(&self, write: Guarded) {
        self.lock().contests.writes.push(write);
    }

    /// Notes that somebody is about to delete the key of another.
    pub fn note_touched(&self, touched: Touched) {
        self.lock().contests.touched.push(touched);
    }

    /// Notes what a watcher saw, once it has ended.
    pub fn note_watched(&self, watched: Watched, reconnections: u64) {
        let mut seen = self.lock();
        seen.watched.push(watched);
        seen.reconnections += reconnections;
    }

    /// How many operations were answered so far.
    pub fn answered(&self) -> usize {
        self.lock().operations.iter().filter(|recorded| matches!(recorded.operation.outcome, Outcome::Ok(_))).count()
    }

    /// Takes out all that was recorded.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tenure_history::request::Request;
    use tenure_history::{ClientId, LeaseId};

    use super::*;

    #[test]
    fn what_is_recorded_is_taken_once_and_time_goes_on() {
        let recorder = Recorder::default();
        let called = recorder.now();
        let operation = Operation {
            client: ClientId(1),
            node: None,
            called,
            returned: Some(recorder.now()),
            request: Request::LeaseRevoke { id: LeaseId(1) },
            outcome: Outcome::Unknown,
        };
        recorder.note(Workload::Leases, operation.clone());
        assert_eq!(recorder.answered(), 0);
        let seen = recorder.take();
        assert_eq!(seen.operations[0].operation, operation);
        assert!(recorder.take().operations.is_empty());
        assert!(recorder.now() >= called, "the clock is not begun anew");
    }
}
