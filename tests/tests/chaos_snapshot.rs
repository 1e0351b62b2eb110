//! A member that missed a lot, in full counts, for `make scenarios`; `process_snapshot.rs` runs a small one.
//!
//! `TENURE_CHAOS_SNAPSHOT_WRITES` changes how much it missed, and with watchers it is a tenth of that.

use std::env;

use anyhow::{Context, Result, ensure};
use tenure_tests::{scenario, snapshots, watched_install};

fn writes() -> Result<u64> {
    match env::var("TENURE_CHAOS_SNAPSHOT_WRITES") {
        Err(_) => Ok(200_000),
        Ok(text) => text.parse().with_context(|| format!("TENURE_CHAOS_SNAPSHOT_WRITES={text} is not a count")),
    }
}

#[test]
fn a_node_that_missed_200000_writes_and_a_compaction_catches_up_under_load() {
    scenario::run(
        "chaos_snapshot",
        "a_node_that_missed_200000_writes_and_a_compaction_catches_up_under_load",
        |scenario| async move {
            println!("{}", snapshots::catch_up(&scenario.home, writes()?).await?.table());
            Ok(())
        },
    );
}

#[test]
fn watchers_of_a_node_that_missed_a_lot_see_every_event_once_or_are_told() {
    scenario::run(
        "chaos_snapshot",
        "watchers_of_a_node_that_missed_a_lot_see_every_event_once_or_are_told",
        |scenario| async move {
            for compacted in [false, true] {
                let home = scenario.home.join(if compacted { "compacted" } else { "whole" });
                let outcome =
                    watched_install::watch_through(&home, usize::try_from(writes()? / 10)?, compacted).await?;
                println!("{outcome:?}");
                ensure!((outcome.counts.compacted > 0) == compacted, "who was told of a compaction?");
            }
            Ok(())
        },
    );
}
