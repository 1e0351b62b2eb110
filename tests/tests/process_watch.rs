//! Watchers on real processes through kills and compaction: a few rounds of what `chaos_watch.rs` does in full counts.

use anyhow::{Context, ensure};
use tenure_tests::scenario;
use tenure_tests::watch_chaos;

#[test]
fn watchers_see_everything_once_while_leaders_die_and_history_is_compacted() {
    let test = "watchers_see_everything_once_while_leaders_die_and_history_is_compacted";
    scenario::run("process_watch", test, |scenario| async move {
        let seed = rand::random();
        let outcome = watch_chaos::run(&scenario.home, 40, 2, seed).await.with_context(|| format!("seed {seed}"))?;
        println!("seed {seed}: {}", outcome.table());
        ensure!(outcome.counts.events > 500 && outcome.reconnections > 0, "too little happened");
        Ok(())
    });
}
