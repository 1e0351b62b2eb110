//! Holding a lock of tenure.v1.Locks: getting it, keeping it, knowing when it is in danger, and a command that must not
//! outlive it.
//!
//! Time is told apart from what happens in it: [`Tenancy`] says from readings of a clock how a lease stands, and everything
//! else asks it. docs/LOCKS.md has the rules that this rests on.

mod boot_time;
mod claim;
mod command_group;
mod keeper;
mod notes;
mod numbers;
mod signals;
mod tenancy;
mod words;

pub(crate) use boot_time::{Alarm, BootTime};
pub(crate) use claim::{Claim, Granted, Unclaimed, Wanted};
pub(crate) use command_group::CommandGroup;
pub(crate) use keeper::{Watchdog, key_gone, renew};
pub(crate) use notes::Notes;
pub(crate) use signals::Signals;
pub(crate) use tenancy::{Standing, Tenancy};
pub(crate) use words::{holds, who};

#[cfg(test)]
mod tests;
