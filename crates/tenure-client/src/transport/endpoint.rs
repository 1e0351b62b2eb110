//! One endpoint: what it is connected by, and how it does. Shared by its keeper, who changes it, and by requests, who look.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::Address;
use super::health::{Health, Outcome};
use crate::clock::Instant;
use crate::ids::MemberId;

/// Tells the endpoints of a client apart. One that is removed and added again is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub(super) u64);

/// What an endpoint is good for.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// It is being dialled for the first time.
    Connecting,
    /// It answered.
    Ready(Connection),
    /// It gave no answer in time, and is being asked how it does: used if there is nothing better.
    Suspect(Connection),
    /// It failed, and is left alone or dialled again.
    Down { reason: String },
}

/// One connection, of those that an endpoint had.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) number: u64,
}

/// Why the keeper of an endpoint should look after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// No answer came in time on this connection.
    Suspect,
    /// Too much failed at the member.
    Tripped,
    /// The connection broke.
    Broken,
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(super) id: EndpointId,
    pub(super) address: Address,
    /// As it is shown.
    pub(super) shown: String,
    pub(super) removed: CancellationToken,
    phase: Mutex<Phase>,
    health: Mutex<Health>,
    under_way: AtomicU32,
    member: AtomicU64,
    is_learner: AtomicBool,
    alarm: Mutex<Option<(u64, Alarm)>>,
    alarmed: Notify,
}

impl Endpoint {
    pub(super) fn new(id: EndpointId, address: Address) -> Endpoint {
        Endpoint {
            id,
            shown: address.to_string(),
            address,
            removed: CancellationToken::new(),
            phase: Mutex::new(Phase::Connecting),
            health: Mutex::default(),
            under_way: AtomicU32::new(0),
            member: AtomicU64::new(0),
            is_learner: AtomicBool::new(false),
            alarm: Mutex::default(),
            alarmed: Notify::new(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.lock().clone()
    }

    pub(super) fn enter(&self, phase: Phase) {
        *self.phase.lock() = phase;
    }

    /// The member behind it, as far as that is known.
    pub(super) fn member(&self) -> MemberId {
        MemberId(self.member.load(Ordering::Relaxed))
    }

    pub(super) fn is_member(&self, member: MemberId) {
        self.member.store(member.0, Ordering::Relaxed);
    }

    pub(super) fn is_learner(&self) -> bool {
        self.is_learner.load(Ordering::Relaxed)
    }

    pub(super) fn set_learner(&self, is_learner: bool) {
        self.is_learner.store(is_learner, Ordering::Relaxed);
    }

    pub(super) fn is_leaderless(&self, now: Instant) -> bool {
        self.health.lock().is_leaderless(now)
    }

    pub(super) fn score(&self) -> f64 {
        self.health.lock().score(self.under_way.load(Ordering::Relaxed))
    }

    pub(super) fn under_way(&self) -> &AtomicU32 {
        &self.under_way
    }

    pub(super) fn revived(&self) {
        self.health.lock().revived();
    }

    /// Takes note of how a request on a connection ended.
    pub(super) fn note(&self, connection: u64, outcome: Outcome, now: Instant) {
        if self.health.lock().note(outcome, now) {
            self.raise(connection, Alarm::Tripped);
        }
    }

    /// Has the keeper look after a connection, unless it has another by now.
    pub(super) fn raise(&self, connection: u64, alarm: Alarm) {
        {
            let mut phase = self.phase.lock();
            let current = match &*phase {
                Phase::Ready(current) | Phase::Suspect(current) => current.clone(),
                Phase::Connecting | Phase::Down { .. } => return,
            };
            if current.number != connection {
                return;
            }
            *phase = match alarm {
                Alarm::Suspect => Phase::Suspect(current),
                Alarm::Tripped => Phase::Down { reason: "too much failed there".to_owned() },
                Alarm::Broken => Phase::Down { reason: "the connection broke".to_owned() },
            };
        }
        let mut raised = self.alarm.lock();
        let graver = raised.filter(|(number, _)| *number == connection).map_or(alarm, |(_, known)| known.max(alarm));
        *raised = Some((connection, graver));
        drop(raised);
        self.alarmed.notify_one();
    }

    /// Waits until there is something to look after, on this connection.
    pub(super) async fn alarmed(&self, connection: u64) -> Alarm {
        loop {
            if let Some((number, alarm)) = self.alarm.lock().take()
                && number == connection
            {
                return alarm;
            }
            self.alarmed.notified().await;
        }
    }
}
