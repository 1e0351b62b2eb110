//! A member that missed a lot, in full counts, for `make chaos`; `process_snapshot.rs` runs a small one.
//!
//! `TENURE_CHAOS_SNAPSHOT_WRITES` changes how much it missed.

use std::env;

use anyhow::{Context, Result};
use tenure_tests::{scenario, snapshots};

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
