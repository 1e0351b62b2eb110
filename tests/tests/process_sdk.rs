//! The SDK over real processes: members that are killed while a program watches or holds locks, holders that are cut off or stopped.
//!
//! A few rounds of what `chaos_sdk.rs` does at length. `SDK_KILLS=100` makes it a hundred kills of a watcher's members.
#![expect(clippy::print_stdout, reason = "the counts are the figures that this test shows")]

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tenure_client::watch::{WatchBatch, WatchCounts, Watcher};
use tenure_client::{Client, ConnectOptions, KeyRange, Revision};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::scenario;
use tenure_tests::sdk_scale::{apart, guards, services, stopped};
use tokio::time::{sleep, timeout};

/// Kills in the gate.
const KILLS: usize = 10;
/// Watches of the same keys, so that some are at a member that dies whichever it is.
const WATCHERS: usize = 6;
/// Writes between two kills that were answered.
const WRITES_BETWEEN: u64 = 20;
/// The key by which everybody knows that nothing follows.
const LAST: &str = "k/last";
/// Hit only by a bug.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// Holders that are cut off or stopped; `chaos_sdk` does it 200 times.
const ROUNDS: apart::Size = apart::Size { rounds: 8, at_once: 4, ttl: Duration::from_secs(2) };

#[test]
fn every_event_comes_once_and_in_order_while_members_are_killed() {
    let test = "every_event_comes_once_and_in_order_while_members_are_killed";
    scenario::run("process_sdk", test, |scenario| async move {
        let kills = env::var("SDK_KILLS").map_or(Ok(KILLS), |kills| kills.parse()).context("SDK_KILLS is a number")?;
        watch_under_kills(&scenario.home, kills).await
    });
}

#[test]
fn guards_survive_their_leaders() {
    scenario::run("process_sdk", "guards_survive_their_leaders", |scenario| async move {
        let size = guards::Size { guards: 100, sessions: 10, kills: 2, ttl: Duration::from_secs(10) };
        guards::survive(&scenario.home, size).await
    });
}

#[test]
fn holders_that_are_cut_off_know_it_before_the_next_ones_hold() {
    scenario::run("process_sdk", "holders_that_are_cut_off_know_it_before_the_next_ones_hold", |scenario| async move {
        apart::cut_off(&scenario.home, ROUNDS).await
    });
}

#[test]
fn holders_that_were_stopped_see_first_that_they_are_none() {
    scenario::run("process_sdk", "holders_that_were_stopped_see_first_that_they_are_none", |scenario| async move {
        stopped::stop_holders(&scenario.home, Path::new(env!("CARGO_BIN_EXE_sdk-holder")), ROUNDS).await
    });
}

#[test]
fn caches_agree_with_the_store_after_a_while_of_faults() {
    scenario::run("process_sdk", "caches_agree_with_the_store_after_a_while_of_faults", |scenario| async move {
        let (ttl, lasting) = (Duration::from_secs(15), Duration::from_secs(20));
        let size = services::Size { hosts: 6, services_per_host: 5, caches: 6, ttl, lasting, seed: 1 };
        services::churn(&scenario.home, size).await
    });
}

/// A revision, a key and a value; no value if the key was deleted.
type Told = (i64, String, Option<String>);

fn options() -> ConnectOptions {
    ConnectOptions::default().backoff(Duration::from_millis(10), Duration::from_millis(200))
}

fn told(batch: &WatchBatch) -> impl Iterator<Item = Told> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    batch
        .events
        .iter()
        .map(move |event| (event.kv.mod_revision.0, text(event.key()), event.is_put().then(|| text(&event.kv.value))))
}

/// Everything up to the last key, and what the watch went through.
async fn collect(mut watcher: Watcher) -> Result<(Vec<Told>, WatchCounts)> {
    let mut events = Vec::new();
    loop {
        let batch = watcher.next().await?;
        events.extend(told(&batch));
        if events.last().is_some_and(|(_, key, _)| key == LAST) {
            return Ok((events, watcher.counts()));
        }
    }
}

/// What was written and answered: the revision of each value.
async fn write(client: Client, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Result<BTreeMap<String, i64>> {
    let mut done = BTreeMap::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let (key, value) = (format!("k/{}", number % 7), format!("v{number}"));
        let written = if number % 11 == 0 {
            client.delete(key.clone()).await.map(|_| None)
        } else {
            client.put(key, value.clone()).await.map(|done| Some(done.header.revision))
        };
        // Of one that failed nobody knows whether it was done. The watches tell all the same.
        if let Ok(revision) = written {
            done.extend(revision.map(|revision| (value, revision.0)));
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(done)
}

async fn watch_under_kills(home: &Path, kills: usize) -> Result<()> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let client = Client::connect(cluster.endpoints(), options()).await?;
    let mut watching = Vec::new();
    let mut start = Revision(i64::MAX);
    for _ in 0..WATCHERS {
        let watcher = client.watch(KeyRange::prefix("k/")).open().await?;
        start = start.min(watcher.revision());
        watching.push(tokio::spawn(collect(watcher)));
    }
    // One that reads nothing while it lasts, and has room for little.
    let idle = client.watch(KeyRange::prefix("k/")).unread(100, 10_000).open().await?;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writing = tokio::spawn(write(client.clone(), stop.clone(), answered.clone()));
    for kill in 0..kills {
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let at = if kill % 2 == 0 { leader } else { kill % 3 };
        cluster.nodes[at].kill()?;
        go_on(&answered).await.with_context(|| format!("after kill {kill}, of node {at}"))?;
        cluster.restart(at).await?;
    }
    go_on(&answered).await?;
    stop.store(true, Ordering::Relaxed);
    let written = writing.await??;
    cluster.wait_leader(LEADER_PATIENCE).await?;
    client.put(LAST, "").await?;
    // What happened, as a watch tells that nothing happens to.
    let truth = client.watch(KeyRange::prefix("k/")).from(start.next()).open().await?;
    let (truth, _) = timeout(PATIENCE, collect(truth)).await.context("the truth")??;
    let acknowledged: BTreeMap<&String, i64> =
        truth.iter().filter_map(|(revision, _, value)| Some((value.as_ref()?, *revision))).collect();
    for (value, revision) in &written {
        ensure!(acknowledged.get(value) == Some(revision), "{value} was put at {revision}");
    }
    let mut reconnects = 0;
    watching.push(tokio::spawn(collect(idle)));
    for (number, watching) in watching.into_iter().enumerate() {
        let (events, counts) = timeout(PATIENCE, watching).await.with_context(|| format!("watch {number}"))???;
        ensure!(events == truth, "watch {number} was told {} events of {}", events.len(), truth.len());
        reconnects += counts.reconnects + counts.lags;
    }
    println!(
        "{kills} kills, {} events, each told once to {} watches, {reconnects} resumptions",
        truth.len(),
        WATCHERS + 1
    );
    ensure!(reconnects > 0, "no watch lost its member");
    client.close().await;
    Ok(())
}

/// Waits until some more writes were answered.
async fn go_on(answered: &AtomicU64) -> Result<()> {
    let enough = answered.load(Ordering::Relaxed) + WRITES_BETWEEN;
    let going = async {
        while answered.load(Ordering::Relaxed) < enough {
            sleep(POLL).await;
        }
    };
    timeout(PATIENCE, going).await.context("no write is answered")
}
