//! Why a request was not carried out, by what the client may do about it. `grpc/errors.rs` gives each its code and text.

use tenure_core::outcome::Refusal;

/// The end of a request that has no outcome, or one that refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The state machine refused it: nothing was done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No leader answered in time: nothing is known of a write, and a read was not served.
    #[error("request timed out")]
    Timeout,
    /// The leader was lost after the write had been sent: it may or may not be done.
    #[error("request timed out, possibly due to previous leader failure")]
    LeaderLost,
    /// Too much is waiting already: nothing was done.
    #[error("too many requests")]
    TooManyRequests,
    /// The node is stopping.
    #[error("server stopped")]
    Stopped,
    /// The node's own storage failed: it is about to exit.
    #[error("storage failed")]
    Storage,
}
