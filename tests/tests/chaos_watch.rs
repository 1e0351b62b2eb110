//! Watchers through kills and compaction in full counts, for `make scenarios`; `process_watch.rs` runs a few rounds.
//!
//! `TENURE_CHAOS_WATCHERS`, `TENURE_CHAOS_WATCH_KILLS` and `TENURE_CHAOS_SEED` change the counts and the seed.

use std::env;

use anyhow::{Context, Result, ensure};
use tenure_tests::scenario;
use tenure_tests::watch_chaos;

fn setting<T: std::str::FromStr>(name: &str, default: T) -> Result<T> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().ok().with_context(|| format!("{name}={text} is not a number")),
    }
}

#[test]
fn watchers_of_all_kinds_see_everything_once_while_leaders_die() {
    let test = "watchers_of_all_kinds_see_everything_once_while_leaders_die";
    scenario::run("chaos_watch", test, |scenario| async move {
        let watchers = setting("TENURE_CHAOS_WATCHERS", 100)?;
        let kills = setting("TENURE_CHAOS_WATCH_KILLS", 10)?;
        let seed = setting("TENURE_CHAOS_SEED", rand::random())?;
        let outcome = watch_chaos::run(&scenario.home, watchers, kills, seed).await;
        let outcome = outcome.with_context(|| format!("TENURE_CHAOS_SEED={seed}"))?;
        println!("seed {seed}: {}", outcome.table());
        let counts = outcome.counts;
        ensure!(counts.events > 1_000 && counts.compacted > 0 && counts.progress > 0, "too little happened");
        ensure!(outcome.fragments > 0 && outcome.reconnections > 0, "too little happened");
        Ok(())
    });
}
