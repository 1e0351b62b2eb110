//! Locks: held on a session, and known to be lost in time.
//!
//! On Tenure a lock is asked for natively: one entry in the log, first come first served, and the grant is pushed. On etcd it is
//! the recipe of etcd's own clients, and both kinds stand in one queue. A guard is told by its session's deadline and by
//! its own key; `docs/GUARDS.md` says when it is told what, and `docs/LOCKS.md` what the server does.

mod builder;
mod cleanup;
mod cycle;
mod deadlock;
mod error;
mod grip;
mod guard;
mod holding;
mod mode;
mod names;
mod native;
mod recipe;
mod requests;
mod sentry;
mod token;
mod waits;
#[cfg(test)]
mod waits_tests;

pub use builder::LockBuilder;
pub use cycle::{Cycle, CycleWait};
pub use error::{AcquireError, Contender, Interrupted, ReleaseError, Released};
pub use guard::LockGuard;
pub use holding::Holding;
pub use mode::{Mode, Wait};
pub use token::{FencingToken, TokenError};

pub(crate) use builder::Way;
pub(crate) use names::Names;
pub(crate) use requests::Requests;
