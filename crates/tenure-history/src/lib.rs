//! Judges what clients of a coordination store saw: was it what the store promises?
//!
//! A run, simulated or of real processes, records what its clients asked and what they were answered; the checkers here
//! decide afterwards whether some correct store could have answered so. They know the promises (etcd's semantics and the
//! lease bounds), not the server: the model of the store is written anew here and shares no code with the state machine
//! that it judges, else both would be wrong together and the check would pass.
//!
//! Nothing here does IO, reads a clock or draws a random number. Every checker ends in a [`Verdict`]: `Ok` with counts of
//! what was checked (a check of nothing is worth nothing), a [`Violation`] with the shortest failing part that was found,
//! or, for the one checker that searches, `Undecided` with the window in which its effort ran out. It never says `Ok` then.
//!
//! | module | question |
//! |---|---|
//! | [`linearize`] | is there one order of all operations that respects real time and explains every answer? |
//! | [`reads`] | is any read older than it may be? |
//! | [`watch`] | did a watcher get every event once, in order, whole revisions, and no promise ahead of an event? |
//! | [`lease`] | did any lease end early, or late, or come back? |
//! | [`lock`] | did two clients ever know to hold one lock at the same time? did an old fencing token pass after a newer? |
//!
//! [`report`] keeps what a run was and what the checkers said, and makes the page that shows it.
#![deny(clippy::expect_used)]
#![warn(missing_docs)]

mod evidence;
pub mod history;
pub mod ids;
pub mod lease;
pub mod linearize;
pub mod lock;
pub mod model;
pub mod reads;
pub mod report;
pub mod request;
pub mod response;
mod search;
mod shrink;
pub mod text;
pub mod truth;
pub mod verdict;
mod view;
pub mod watch;

pub use history::{History, Initial, Operation};
pub use ids::{ClientId, LeaseId, Moment, NodeId, Revision};
pub use verdict::{Verdict, Violation, Window};
