//! Decides when this member may answer what peers ask of it.
//!
//! A restarted voter has forgotten which leader it promised to wait for. If it granted a vote at once, a leader that works
//! could be voted out because one follower restarted. So a member that comes back with data keeps its vote to
//! itself for one leader lease; a vote asked for by a leader that hands over is exempt, since that leader has given up
//! its lease itself. Time is `CLOCK_BOOTTIME`: a machine that was suspended is not quarantined for longer.

use std::sync::Mutex;
use std::time::Duration;

use tenure_core::planted::{Bug, is_on};

use crate::runtime::BootInstant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Consensus does not run: nothing but probes is answered.
    Closed,
    /// Log replication is served; votes are kept back until then.
    Quarantined(BootInstant),
    /// Everything is served.
    Open,
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Gate(Mutex<State>);

/// Why a peer's request is not served now. It will be later: the peer retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Shut {
    #[error("this member does not take part yet")]
    Closed,
    #[error("this member has restarted and keeps its vote for one leader lease")]
    Quarantined,
}

impl Gate {
    pub(crate) fn closed() -> Gate {
        Gate(Mutex::new(State::Closed))
    }

    pub(crate) fn open(&self) {
        self.set(State::Open);
    }

    pub(crate) fn close(&self) {
        self.set(State::Closed);
    }

    pub(crate) fn quarantine(&self, lease: Duration) {
        let lease = if is_on(Bug::ForgottenVote) { Duration::ZERO } else { lease };
        self.set(State::Quarantined(BootInstant::now() + lease));
    }

    /// Whether log replication and reads may be served.
    pub(crate) fn admit(&self) -> Result<(), Shut> {
        if self.get() == State::Closed { Err(Shut::Closed) } else { Ok(()) }
    }

    /// Whether a vote may be given.
    pub(crate) fn admit_vote(&self, leadership_transfer: bool) -> Result<(), Shut> {
        self.admit_vote_at(leadership_transfer, BootInstant::now())
    }

    fn admit_vote_at(&self, leadership_transfer: bool, now: BootInstant) -> Result<(), Shut> {
        match self.get() {
            State::Closed => Err(Shut::Closed),
            State::Quarantined(until) if now < until && !leadership_transfer => Err(Shut::Quarantined),
            State::Quarantined(_) | State::Open => Ok(()),
        }
    }

    fn get(&self) -> State {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_gate_serves_nobody() {
        let gate = Gate::closed();
        assert_eq!(gate.admit(), Err(Shut::Closed));
        assert_eq!(gate.admit_vote(true), Err(Shut::Closed));
    }

    #[test]
    fn quarantine_holds_back_votes_but_not_replication_or_transfers() {
        let gate = Gate::closed();
        gate.quarantine(Duration::from_secs(1000));
        assert_eq!(gate.admit(), Ok(()));
        assert_eq!(gate.admit_vote(false), Err(Shut::Quarantined));
        assert_eq!(gate.admit_vote(true), Ok(()));
    }

    #[test]
    fn quarantine_ends_by_itself() {
        let gate = Gate::closed();
        gate.quarantine(Duration::from_secs(1000));
        let later = BootInstant::now() + Duration::from_secs(1001);
        assert_eq!(gate.admit_vote_at(false, later), Ok(()));
    }
}
