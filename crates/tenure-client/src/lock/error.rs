//! Why a lock was not acquired or not released, by what the caller can do.

use std::fmt;

use bytes::Bytes;
use tenure_proto::tenure::v1 as pb;
use thiserror::Error;

use super::cycle::Cycle;
use crate::error::{Applied, Error};
use crate::ids::{LeaseId, Revision};
use crate::session::LostReason;
use crate::watchdog::WatchdogError;

/// Who has a lock that somebody else waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contender {
    /// Its lease; 0 if its key is on none.
    pub lease: LeaseId,
    /// In its own words; empty if it came by etcd's recipe.
    pub owner: String,
    /// What it says of itself: the first kilobyte of its key's value.
    pub metadata: Bytes,
    /// For how long it has held the lock, in milliseconds by the cluster's lease clock.
    pub held_ms: u64,
}

impl Contender {
    pub(crate) fn from_wire(contender: pb::LockContender) -> Contender {
        let pb::LockContender { lease, owner, metadata, held_ms, .. } = contender;
        Contender { lease: LeaseId(lease), owner, metadata, held_ms }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = if self.owner.is_empty() { "somebody" } else { &self.owner };
        write!(formatter, "{owner} on lease {}", self.lease)
    }
}

/// Why a lock was not acquired. In every case nothing is left of the request, or the client's tasks see to it that nothing will be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Somebody else has it, and [`Wait::Try`](crate::lock::Wait::Try) does not wait. Try later.
    #[error("the lock is held by {}", who(.holder.as_deref()))]
    Busy {
        /// Who, if that was told.
        holder: Option<Box<Contender>>,
    },
    /// The time to wait was over. Try later.
    #[error("the lock was not granted in time; it is held by {}", who(.holder.as_deref()))]
    Timeout {
        /// How many were ahead when the request joined, if that was told.
        position: Option<u64>,
        /// Who had the lock then.
        holder: Option<Box<Contender>>,
    },
    /// It and others wait for each other, and this request is the one that has to give up: only
    /// [`find_deadlocks`](crate::lock::LockBuilder::find_deadlocks) looks for that. Let go of what the session holds, so that the others can go
    /// on, and begin again.
    #[error("deadlock: {cycle}")]
    Deadlock {
        /// Who waits for whom, from this session to this session.
        cycle: Cycle,
    },
    /// The session is over. Begin another one.
    #[error("the session is lost: {0}")]
    SessionLost(LostReason),
    /// The session holds the lock already, or waits for it; or it is held re-entrantly in another mode. Another session is
    /// needed, or [`reentrant`](crate::lock::LockBuilder::reentrant) on both.
    #[error("the session holds the lock already, or waits for it")]
    AlreadyHeld,
    /// The session holds the lock as often as it said at most.
    #[error("the lock is held as often as allowed")]
    HeldTooOften,
    /// The lock is in use as another kind of lock, or as a semaphore with another limit.
    #[error("the lock is in use with another mode or limit")]
    LimitMismatch,
    /// An operator, or somebody who deleted its key, took the request out of the queue. Ask whether it is still wanted.
    #[error("the request was taken out of the queue")]
    TakenAway,
    /// More contend for the lock, or more requests of the session are open, than a server keeps. Try later, or with another session.
    #[error("too many contend for the lock, or too many requests of the session are open")]
    TooMany,
    /// The server does not allow it. The same request would be refused again.
    #[error(transparent)]
    Denied(Error),
    /// The request makes no sense. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// The cluster is no Tenure.
    #[error("{what} needs a cluster of Tenure")]
    NeedsTenure {
        /// What does.
        what: &'static str,
    },
    /// Nobody answered in the time that there was. Try later.
    #[error("no answer: {0}")]
    Unavailable(Error),
    /// The watchdog could not be made. The lock was let go.
    #[error(transparent)]
    Watchdog(#[from] WatchdogError),
}

fn who(holder: Option<&Contender>) -> String {
    holder.map_or_else(|| "somebody else".to_owned(), ToString::to_string)
}

/// A lock that was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Released {
    /// The revision of the store when that was acknowledged.
    pub revision: Revision,
    /// Whether it was held until then. If not, an earlier try had released it, or it was lost.
    pub was_held: bool,
    /// How often the session still holds it.
    pub holds: u32,
}

/// A release failed. The guard is in it.
///
/// If nothing was done, the guard is as good as before. If nobody knows, it holds a lock that may go at any moment: it is
/// never safe again, and can be released once more.
pub struct ReleaseError<G> {
    guard: Box<G>,
    error: Error,
}

impl<G> ReleaseError<G> {
    pub(crate) fn new(guard: G, error: Error) -> ReleaseError<G> {
        ReleaseError { guard: Box::new(guard), error }
    }

    /// The guard. Releasing it again is safe.
    #[must_use = "to drop it hands the release to the client"]
    pub fn into_guard(self) -> G {
        *self.guard
    }

    /// What it failed for.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Whether the lock may have been released.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.error.applied()
    }
}

impl<G> fmt::Debug for ReleaseError<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReleaseError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<G> fmt::Display for ReleaseError<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "not released: {}", self.error)
    }
}

impl<G> std::error::Error for ReleaseError<G> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Why work under a guard was not finished.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interrupted {
    /// The lock was lost before the work was finished; the work was dropped.
    #[error("lost: {0}")]
    Lost(LostReason),
    /// A renewal was overdue, and the guard was to be cancelled then; the work was dropped. The lock is held still.
    #[error("a renewal is overdue")]
    Jeopardy,
    /// The lock may have been released before; the work was not begun.
    #[error("a release was sent, and nobody knows whether it was done")]
    Released,
}
