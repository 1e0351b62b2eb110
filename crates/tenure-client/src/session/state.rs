//! What a session's holder may believe, and why a session, lock or leadership ended.

use std::fmt;
use std::time::Duration;

use crate::clock::Instant;

/// How a session stands by its holder's own clock.
///
/// `Lost` and `Closed` are final. Instants are readings of the client's [`Clock`](crate::clock::Clock).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// The lease was renewed in time.
    Safe {
        /// The deadline: no server ends the lease before it.
        until: Instant,
    },
    /// A renewal is overdue: start nothing new. It is renewed still, and may become `Safe` again.
    Jeopardy {
        /// Since when it is overdue.
        since: Instant,
        /// The deadline, at which it is lost.
        until: Instant,
    },
    /// Whatever rested on it is over, even if the lease should turn out to live.
    Lost {
        /// Why.
        reason: LostReason,
        /// When that was noticed. If it is a deadline that passed, the deadline.
        at: Instant,
    },
    /// Its holder ended it.
    Closed,
}

impl SessionState {
    /// Whether nothing changes any more: `Lost` or `Closed`.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, SessionState::Lost { .. } | SessionState::Closed)
    }

    /// Whether it is `Safe`.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        matches!(self, SessionState::Safe { .. })
    }

    /// The time until the deadline; zero if there is none any more.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> Duration {
        match self {
            SessionState::Safe { until } | SessionState::Jeopardy { until, .. } => until.saturating_duration_since(now),
            SessionState::Lost { .. } | SessionState::Closed => Duration::ZERO,
        }
    }

    /// Why it is over, if it is: `Closed` counts as [`LostReason::SessionClosed`].
    #[must_use]
    pub fn lost_reason(&self) -> Option<LostReason> {
        match self {
            SessionState::Safe { .. } | SessionState::Jeopardy { .. } => None,
            SessionState::Lost { reason, .. } => Some(*reason),
            SessionState::Closed => Some(LostReason::SessionClosed),
        }
    }
}

/// Why a session, a lock or a leadership is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostReason {
    /// The lease expired on the server: it said so.
    Expired,
    /// Somebody revoked the lease.
    Revoked,
    /// Somebody deleted the lock's key, or wrote it anew without its lease.
    KeyDeleted,
    /// An operator took the lock away.
    Forced,
    /// The deadline passed without a renewal that was acknowledged. The lease may live still.
    DeadlinePassed {
        /// When the last renewal (or the grant) was sent that was acknowledged.
        last_ack: Instant,
    },
    /// As many renewals in a row failed as the session was told to bear.
    GaveUp {
        /// How many.
        failures: u32,
    },
    /// The lock was held for as long as it was to be at most.
    HeldTooLong,
    /// The session was closed by its holder.
    SessionClosed,
    /// The client was closed, or its runtime ended.
    ClientClosed,
}

impl fmt::Display for LostReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            LostReason::Expired => "the lease expired",
            LostReason::Revoked => "the lease was revoked",
            LostReason::KeyDeleted => "the key was deleted",
            LostReason::Forced => "an operator took the lock away",
            LostReason::DeadlinePassed { .. } => "the deadline passed without a renewal",
            LostReason::GaveUp { failures } => return write!(formatter, "{failures} renewals in a row failed"),
            LostReason::HeldTooLong => "it was held as long as allowed",
            LostReason::SessionClosed => "the session was closed",
            LostReason::ClientClosed => "the client was closed",
        })
    }
}
