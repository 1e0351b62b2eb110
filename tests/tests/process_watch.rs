//! Watchers on real processes: a few rounds of what `chaos_watch.rs` does in full counts, and clients that never read.

use anyhow::{Context, Result, ensure};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::Cluster;
use tenure_tests::http1::metric;
use tenure_tests::samples::Puts;
use tenure_tests::scenario;
use tenure_tests::watch_chaos;
use tenure_tests::watching::{self, WatchStream, create};

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

/// Streams of clients that never read; without a bound each would come to hold everything that is written.
const SILENT_STREAMS: u64 = 256;
/// What such a client lets be sent, and never looks at.
const SILENT_WINDOW_BYTES: u32 = 64 << 10;
const ROUNDS: u64 = 4;
const ROUND_WRITES: u64 = 1024;
const VALUE_BYTES: u64 = 16 << 10;
const MIB: u64 = 1 << 20;
/// What the streams may make a node keep, by the limits in the server's `node/watch/limits.rs`: the ring of recent events,
/// three messages of a megabyte for each of the 64 streams that may hold that much, three of 16 KiB for the others, or of
/// one revision, which is larger here: a value and the one before it.
const HELD_BYTES_MAX: u64 = 64 * MIB + 64 * 3 * MIB + SILENT_STREAMS * 3 * 2 * VALUE_BYTES;
/// Connections, spare room in buffers, and what the storage engine happens to take meanwhile.
const OTHER_BYTES_MAX: u64 = 128 * MIB;

#[test]
fn clients_that_never_read_cost_no_more_memory_than_named_and_hold_up_nobody() {
    let test = "clients_that_never_read_cost_no_more_memory_than_named_and_hold_up_nobody";
    scenario::run("process_watch", test, |scenario| async move {
        let mut cluster = Cluster::with_flags(Program::Tenured, 1, &scenario.home, &[])?;
        cluster.start_all().await?;
        let node = &cluster.nodes[0];
        // The engine takes its memory before it is measured, and there is a history that no recent events reach back to.
        for _ in 0..ROUNDS {
            write(node.client_port).await?;
        }
        let before = node.resident_bytes()?;
        let mut silent = Vec::new();
        for number in 0..SILENT_STREAMS {
            let stream = watching::open_narrow(&node.endpoint(), SILENT_WINDOW_BYTES).await?;
            watch_everything(&stream, if number % 2 == 0 { 0 } else { 2 }).await?;
            silent.push(stream);
        }
        let mut current = watching::open(&node.endpoint()).await?;
        watch_everything(&current, 0).await?;
        ensure!(current.message().await?.created, "it is told so first");
        let mut behind = watching::open(&node.endpoint()).await?;
        watch_everything(&behind, 2).await?;
        let mut most = 0;
        for _ in 0..ROUNDS {
            write(node.client_port).await?;
            read(&mut current, ROUND_WRITES).await.context("one that is up to date")?;
            most = most.max(node.resident_bytes()?.saturating_sub(before));
            ensure!(most <= HELD_BYTES_MAX + OTHER_BYTES_MAX, "{} MiB more than without them", most / MIB);
        }
        read(&mut behind, 2 * ROUND_WRITES * ROUNDS).await.context("one from the beginning")?;
        ensure!(metric(node.client_port, "tenure_watch_streams").await? == SILENT_STREAMS + 2, "who has gone?");
        println!(
            "{SILENT_STREAMS} clients that read nothing of {} MiB: at most {} MiB more than without them",
            ROUNDS * ROUND_WRITES * VALUE_BYTES / MIB,
            most / MIB
        );
        Ok(())
    });
}

async fn write(port: u16) -> Result<()> {
    let puts = Puts {
        ports: vec![port],
        total: ROUND_WRITES,
        clients: 64,
        value_bytes: usize::try_from(VALUE_BYTES)?,
        fresh_values: false,
        keys: ROUND_WRITES / 4,
    };
    puts.run().await
}

async fn watch_everything(stream: &WatchStream, start: i64) -> Result<()> {
    let everything = create("\0", |request| {
        (request.range_end, request.start_revision, request.prev_kv) = ("\0".into(), start, true);
    });
    stream.send(everything).await
}

/// Reads events; every message must come in time.
async fn read(stream: &mut WatchStream, count: u64) -> Result<()> {
    let mut seen = 0;
    while seen < count {
        seen += stream.message().await.with_context(|| format!("after {seen} of {count} events"))?.events.len() as u64;
    }
    ensure!(seen == count, "{seen} events instead of {count}");
    Ok(())
}
