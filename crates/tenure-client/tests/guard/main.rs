//! Sessions, locks and elections against real members: what a holder is told, whatever happens to its session, its key and the
//! network between.

mod cancels;
mod deadlocks;
mod elections;
mod help;
mod locks;
mod losses;
mod many;
mod recipe;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
mod watchdogs;
