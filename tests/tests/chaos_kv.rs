//! The fault scenarios in full counts, for `make scenarios`; `process_kv.rs` runs a few rounds of each.
//!
//! `TENURE_CHAOS_LEADER_KILLS`, `TENURE_CHAOS_TOTAL_KILLS` and `TENURE_CHAOS_PAUSES` change the counts.

use std::env;

use anyhow::{Context, Result, ensure};
use tenure_tests::faults::{self, RESUME_MAX};
use tenure_tests::scenario;

fn count(name: &str, default: usize) -> Result<usize> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is not a count")),
    }
}

#[test]
fn leaders_are_killed_again_and_again() {
    scenario::run("chaos_kv", "leaders_are_killed_again_and_again", |scenario| async move {
        let outcome = faults::kill_leaders(&scenario.home, count("TENURE_CHAOS_LEADER_KILLS", 20)?).await?;
        println!("{}", outcome.table("leader killed under load"));
        ensure!(outcome.slowest() <= RESUME_MAX, "writes resumed only after {:?}", outcome.slowest());
        Ok(())
    });
}

#[test]
fn all_nodes_are_killed_again_and_again() {
    scenario::run("chaos_kv", "all_nodes_are_killed_again_and_again", |scenario| async move {
        let outcome = faults::kill_everyone(&scenario.home, count("TENURE_CHAOS_TOTAL_KILLS", 10)?).await?;
        println!("{}", outcome.table("all nodes killed under load"));
        Ok(())
    });
}

#[test]
fn leaders_sleep_again_and_again() {
    scenario::run("chaos_kv", "leaders_sleep_again_and_again", |scenario| async move {
        let outcome = faults::pause_leaders(&scenario.home, count("TENURE_CHAOS_PAUSES", 100)?).await?;
        let slowest = outcome.recoveries.iter().max().copied().unwrap_or_default();
        println!(
            "{} rounds of a sleeping leader: {} reads through it fresh, {} refused, 0 stale; slowest new leader {slowest:.2?}",
            outcome.rounds, outcome.fresh, outcome.refused
        );
        Ok(())
    });
}
