//! Leases while leaders are killed, put to sleep and restarted, for `make scenarios`; `process_lease.rs` runs a few rounds.
//!
//! `TENURE_CHAOS_LEASE_KILLS`, `TENURE_CHAOS_LEASE_PAUSES`, `TENURE_CHAOS_LEASE_RESTARTS` and `TENURE_CHAOS_LEASE_HOLDERS`
//! change the counts, `TENURE_CHAOS_SEED` the choices.

use std::env;

use anyhow::{Context, Result};
use tenure_tests::lease_faults::{self, Counts};
use tenure_tests::scenario;

fn setting(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is not a number")),
    }
}

fn counts(name: &str, rounds: u64) -> Result<Counts> {
    Ok(Counts {
        rounds: usize::try_from(setting(name, rounds)?)?,
        holders: usize::try_from(setting("TENURE_CHAOS_LEASE_HOLDERS", 120)?)?,
        seed: setting("TENURE_CHAOS_SEED", 1)?,
    })
}

#[test]
fn leases_keep_their_time_while_leaders_are_killed() {
    scenario::run("chaos_lease", "leases_keep_their_time_while_leaders_are_killed", |scenario| async move {
        lease_faults::kill_leaders(&scenario.home, counts("TENURE_CHAOS_LEASE_KILLS", 10)?).await
    });
}

#[test]
fn leases_keep_their_time_while_leaders_sleep() {
    scenario::run("chaos_lease", "leases_keep_their_time_while_leaders_sleep", |scenario| async move {
        lease_faults::pause_leaders(&scenario.home, counts("TENURE_CHAOS_LEASE_PAUSES", 5)?).await
    });
}

#[test]
fn leases_keep_their_time_while_all_members_restart() {
    scenario::run("chaos_lease", "leases_keep_their_time_while_all_members_restart", |scenario| async move {
        lease_faults::kill_everyone(&scenario.home, counts("TENURE_CHAOS_LEASE_RESTARTS", 5)?).await
    });
}
