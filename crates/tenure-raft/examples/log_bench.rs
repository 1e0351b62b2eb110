//! Prints what an append to the Raft log costs on the disk of a directory (the first argument; by default a temporary
//! one).
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::path::PathBuf;
use std::time::Duration;

use tenure_raft::log::append_cost;

/// Bytes of a group, how many groups, how many in flight.
const RUNS: [(usize, u64, usize); 6] = [
    (512, 2000, 1),
    (4 << 10, 2000, 1),
    (64 << 10, 1000, 1),
    (300 << 10, 500, 1),
    (300 << 10, 500, 2),
    (512, 20_000, 64),
];

fn main() -> std::io::Result<()> {
    let given = std::env::args().nth(1).map(PathBuf::from);
    let parent = given.unwrap_or_else(std::env::temp_dir);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    println!(
        "   bytes in flight | durable after, us: p50   p99 | queued, us: p50 | MiB/s | groups per sync | sync mean, us"
    );
    for (bytes, groups, in_flight) in RUNS {
        let dir = parent.join(format!("tenure-log-bench-{}-{bytes}-{in_flight}", std::process::id()));
        let cost = runtime.block_on(append_cost(dir.clone(), bytes, groups, in_flight));
        std::fs::remove_dir_all(&dir)?;
        let cost = cost?;
        let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
        let at = |sorted: &[Duration], percent: usize| micros(sorted[(sorted.len() - 1) * percent / 100]);
        let mebibytes = (bytes as f64 * groups as f64) / f64::from(1 << 20);
        println!(
            "{bytes:8} {in_flight:9} | {:23.0} {:5.0} | {:15.1} | {:5.0} | {:15.1} | {:13.0}",
            at(&cost.durable_after, 50),
            at(&cost.durable_after, 99),
            at(&cost.queued_after, 50),
            mebibytes / cost.took.as_secs_f64(),
            groups as f64 / cost.counters.syncs as f64,
            micros(cost.counters.sync_time_total) / cost.counters.syncs as f64,
        );
    }
    Ok(())
}
