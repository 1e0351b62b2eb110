//! Leases while members are killed, put to sleep, cut off and restarted, for `make scenarios`; `process_lease.rs` runs a few
//! rounds.
//!
//! `TENURE_CHAOS_LEASE_KILLS`, `TENURE_CHAOS_LEASE_PAUSES`, `TENURE_CHAOS_LEASE_RESTARTS`, `TENURE_CHAOS_LEASE_STALLS`,
//! `TENURE_CHAOS_LEASE_OUTAGES` and `TENURE_CHAOS_LEASE_HOLDERS` change the counts, `TENURE_CHAOS_SEED` the choices.

use std::env;
use std::time::Duration;

use anyhow::{Context, Result};
use tenure_tests::lease_faults::{self, Counts};
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::{lease_stall, lease_survival};

/// Leases of a minute that nobody renews.
const SURVIVORS: lease_survival::Size = lease_survival::Size { leases: 100, ttl: Duration::from_secs(60) };

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

fn stalls(name: &str, rounds: u64) -> Result<lease_stall::Counts> {
    let Counts { rounds, holders, .. } = counts(name, rounds)?;
    Ok(lease_stall::Counts { rounds, holders })
}

#[test]
fn no_lease_is_lost_to_a_stalled_leader() {
    scenario::run("chaos_lease", "no_lease_is_lost_to_a_stalled_leader", |scenario| async move {
        lease_stall::leaders_stall(&scenario.home, stalls("TENURE_CHAOS_LEASE_STALLS", 20)?).await
    });
}

#[test]
fn no_lease_is_lost_to_an_outage_without_another_leader() {
    scenario::run("chaos_lease", "no_lease_is_lost_to_an_outage_without_another_leader", |scenario| async move {
        lease_stall::followers_stall(&scenario.home, stalls("TENURE_CHAOS_LEASE_OUTAGES", 5)?).await
    });
}

fn survives<Fut: Future<Output = Result<()>>>(test: &str, body: impl FnOnce(Scenario) -> Fut) {
    scenario::run("chaos_lease", test, body);
}

#[test]
fn a_ttl_survives_leaders_that_are_killed() {
    survives("a_ttl_survives_leaders_that_are_killed", |scenario| async move {
        lease_survival::leaders_killed(&scenario.home, SURVIVORS).await
    });
}

#[test]
fn a_ttl_survives_leaders_that_are_killed_and_back_at_once() {
    survives("a_ttl_survives_leaders_that_are_killed_and_back_at_once", |scenario| async move {
        lease_survival::leaders_killed_and_back_at_once(&scenario.home, SURVIVORS).await
    });
}

#[test]
fn a_ttl_survives_transfers_of_leadership() {
    survives("a_ttl_survives_transfers_of_leadership", |scenario| async move {
        lease_survival::leadership_moved(&scenario.home, SURVIVORS).await
    });
}

#[test]
fn a_ttl_survives_a_leader_that_was_cut_off() {
    survives("a_ttl_survives_a_leader_that_was_cut_off", |scenario| async move {
        lease_survival::cut_off_then_leads(&scenario.home, SURVIVORS).await
    });
}

#[test]
fn a_ttl_survives_rolling_restarts() {
    survives("a_ttl_survives_rolling_restarts", |scenario| async move {
        lease_survival::rolling_restarts(&scenario.home, SURVIVORS).await
    });
}

#[test]
fn a_ttl_survives_the_restart_of_all_members() {
    survives("a_ttl_survives_the_restart_of_all_members", |scenario| async move {
        let size = lease_survival::Size { ttl: Duration::from_secs(30), ..SURVIVORS };
        lease_survival::everyone_killed(&scenario.home, size).await
    });
}
