//! What a watchdog is told.
//!
//! One type for all events: each bears whom it is about and the totals so far, so that a listener needs no memory of its own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Instant;
use crate::ids::{LeaseId, Revision};
use crate::session::LostReason;

/// What the ids of all watchdogs begin with.
pub const ID_PREFIX: &str = "tenure-watchdog-";

/// The id of a watchdog: [`ID_PREFIX`] and a random number. It is its own for life.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchdogId(Arc<str>);

impl WatchdogId {
    pub(crate) fn random(random: u64) -> WatchdogId {
        WatchdogId(format!("{ID_PREFIX}{random:016x}").into())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WatchdogId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a watchdog watches. It is fixed when the watchdog is made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subject {
    /// The lease that is renewed.
    pub lease: LeaseId,
    /// The lock or election, as the caller named it; absent if a session as such is watched.
    pub lock: Option<Bytes>,
    /// The fencing token, of a lock or leadership.
    pub token: Option<Revision>,
    /// Who holds it.
    pub owner: Arc<str>,
    /// The kind of store that it is in: `tenure` or `etcd`.
    pub store: &'static str,
}

/// An event, with whom it is about and what happened before it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WatchdogEvent {
    /// From 1, without gaps: a listener that finds one was too slow, and what is missing was dropped.
    pub sequence: u64,
    /// The event that this one is a part of: of the end of a renewal or release, its beginning.
    pub parent: Option<u64>,
    /// When it happened, by the client's clock.
    pub at: Instant,
    /// The watchdog.
    pub watchdog: WatchdogId,
    /// The name of its implementation, as the factory tells it.
    pub implementation: Arc<str>,
    /// What is watched.
    pub subject: Arc<Subject>,
    /// What the holder attached to it last, by `set_payload`.
    pub payload: Option<Arc<str>>,
    /// How many renewals succeeded since the watchdog was started.
    pub refreshes: u64,
    /// How many renewals in a row failed; zero after one that succeeded.
    pub consecutive_errors: u32,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to what a watchdog watches.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The watchdog was made.
    Created,
    /// It watches.
    Started,
    /// The payload of the events that follow was changed.
    PayloadSet,
    /// A renewal is sent.
    RefreshBegin,
    /// A renewal was acknowledged.
    Refreshed {
        /// How many were, this one included.
        n: u64,
        /// From its sending to the reading of its answer.
        rtt: Duration,
        /// The new deadline.
        until: Instant,
    },
    /// A renewal failed, or was silent for so long that another one joins it. It is tried again until the deadline.
    RefreshFailed {
        /// Why.
        error: Arc<str>,
        /// How many did in a row, this one included.
        consecutive: u32,
    },
    /// A renewal is overdue.
    Jeopardy {
        /// When it is lost without one.
        until: Instant,
    },
    /// A renewal ended the jeopardy.
    Recovered {
        /// The new deadline.
        until: Instant,
    },
    /// The key is there, but not the holder's any more: it has another token or another lease.
    NotOwner {
        /// Its create revision.
        token: Revision,
        /// Its lease.
        lease: LeaseId,
    },
    /// As many renewals in a row failed as the session was told to bear. `Lost` follows.
    GaveUp {
        /// How many.
        consecutive: u32,
    },
    /// It is lost. Nothing is renewed any more.
    Lost {
        /// Why.
        reason: LostReason,
    },
    /// The holder lets go.
    Stopping,
    /// The holder let go, and the server said so.
    Stopped,
    /// The server did not say so. The watchdog goes on.
    StopFailed {
        /// Why.
        error: Arc<str>,
    },
    /// The last event of each watchdog, exactly once.
    Exited {
        /// How many renewals succeeded.
        refreshes: u64,
        /// How many failed in a row at the end.
        consecutive_errors: u32,
    },
}
