//! Sessions: leases that are renewed, and that say how sure it is that they live.
//!
//! A session's deadline is counted from when the last acknowledged renewal was *sent*, on a clock that runs while the machine
//! sleeps, less a hundredth of the TTL and a margin. Whoever asks is told by that deadline and never by whether a timer has fired, so a
//! process that was stopped learns of its loss before it does anything else. `docs/GUARDS.md` has the states and what proves them.
//!
//! One task renews all sessions of a client, many in a message. It does not know of locks: those are in [`lock`](crate::lock).

mod builder;
mod core;
mod handle;
mod keeper;
mod owner;
mod schedule;
mod standing;
mod state;
mod terms;
mod wire;

#[cfg(test)]
mod simulation_tests;

pub use builder::{SessionBuilder, StartError};
pub use handle::{EnsureError, Session};
pub use keeper::RenewalCounts;
pub use state::{LostReason, SessionState};
pub use terms::TermsError;

pub(crate) use self::core::{Dependent, tell_change};
pub(crate) use handle::{Owner, Sessions};
