//! The replicated state machine: multi-version keys, transactions, leases.
//!
//! Everything here is a function of (state, command): no IO, no clock, no randomness, no logging. Two nodes that
//! apply the same log hold the same state, byte for byte, which is why the crate is `no_std` and why refusals are
//! data ([`outcome::Outcome`]) while errors mean that this node's own storage is broken.
#![no_std]
#![deny(clippy::wildcard_enum_match_arm, clippy::iter_over_hash_type, clippy::float_arithmetic, clippy::expect_used)]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod apply;
pub mod borrowed;
pub mod codec;
pub mod command;
mod compare;
mod count;
pub mod hash;
mod history;
pub mod ids;
pub mod lock;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub mod outcome;
pub mod planted;
pub mod purge;
pub mod range;
pub mod row;
mod scan;
pub mod state;
pub mod txn;
pub mod validate;

pub use apply::{AppliedGroup, ApplyError, apply_group};
pub use ids::{ClusterId, EventId, LeaseId, LogIndex, MemberId, Revision, Term};
