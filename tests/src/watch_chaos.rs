//! Watchers of all kinds while leaders are killed and the store is compacted all the time.
//!
//! Writers change a small set of keys and remember what they were promised. A historian reads every revision back before
//! it may be compacted, so what happened is known without any watch. The clients of the watchers do what clients do: they
//! resume elsewhere when a stream breaks, some read slowly, some move about, some ask for progress. At the end every record
//! is held against the truth.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use futures::stream::iter;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_proto::etcdserverpb::{CompactionRequest, RangeRequest};
use tenure_proto::mvccpb::KeyValue;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::binaries::Program;
use crate::cluster::{Cluster, LEADER_PATIENCE};
use crate::requests::Request;
use crate::watch_check::{Change, Counts, Revision, Truth, check};
use crate::watch_clients::{StreamClient, StreamRecord, streams};
use crate::watch_writers::{Ack, Writer, digest};
use crate::wire::{Answer, Wire};

const WRITERS: usize = 6;
/// How often the store is compacted.
const COMPACT_EVERY: Duration = Duration::from_millis(100);
/// Compaction stays at most this many revisions behind what the historian has read.
const KEPT_MAX: i64 = 12;
/// Acks between two kills.
const ACKS_BETWEEN: u64 = 150;
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries of something that failed.
const RETRY: Duration = Duration::from_millis(20);
const ATTEMPT_PATIENCE: Duration = Duration::from_secs(2);
/// Revisions that the historian reads at the same time.
const READS_AT_ONCE: usize = 8;
/// Requests of at most this many bytes make fragments of at most 512 KiB more.
const FLAGS: [&str; 1] = ["--max-request-bytes=400000"];

/// What all parts of a run share.
#[derive(Debug)]
pub struct Stage {
    pub endpoints: Vec<String>,
    /// The highest revision that anybody asked to compact to.
    pub compacted: AtomicI64,
    /// The last revision that the historian has read.
    pub read: AtomicI64,
    pub acked: AtomicU64,
    /// The last revision of all, once it is known: then everybody comes to an end.
    pub last: watch::Sender<Option<i64>>,
}

impl Stage {
    /// Whether the end has been announced.
    pub fn is_over(&self) -> bool {
        self.last.borrow().is_some()
    }
}

/// The figures of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    pub watchers: usize,
    pub streams: usize,
    pub recoveries: Vec<Duration>,
    pub compactions: usize,
    pub revisions: usize,
    pub acked: usize,
    pub reconnections: usize,
    pub fragments: usize,
    pub counts: Counts,
}

impl Outcome {
    /// The figures as text.
    pub fn table(&self) -> String {
        let slowest = self.recoveries.iter().max().copied().unwrap_or_default();
        let Counts { events, messages, progress, compacted, previous_compacted, previous_exact } = self.counts;
        format!(
            "{} watchers on {} streams, {} leaders killed (writes resumed within {slowest:.2?}), {} compactions: {} revisions, \
             {} writes acked; {events} events in {messages} messages ({} fragments) seen once and in order, {previous_exact} \
             previous values exact and {previous_compacted} compacted, {progress} times progress, {compacted} watchers told \
             that they are compacted, {} reconnections",
            self.watchers,
            self.streams,
            self.recoveries.len(),
            self.compactions,
            self.revisions,
            self.acked,
            self.fragments,
            self.reconnections,
        )
    }
}

/// Runs it all.
pub async fn run(home: &Path, watchers: usize, kills: usize, seed: u64) -> Result<Outcome> {
    let mut cluster = Cluster::with_flags(Program::Tenured, 3, home, &FLAGS)?;
    cluster.start_all().await?;
    let stage = Arc::new(Stage {
        endpoints: cluster.endpoints(),
        compacted: AtomicI64::new(0),
        read: AtomicI64::new(1),
        acked: AtomicU64::new(0),
        last: watch::Sender::new(None),
    });
    let (stop_writing, writing_stops) = watch::channel(false);
    let mut writers = JoinSet::new();
    for id in 0..WRITERS {
        writers.spawn(Writer::new(id, seed, stage.clone(), writing_stops.clone()).run());
    }
    let historian = tokio::spawn(read_history(stage.clone()));
    let compactor = tokio::spawn(compact_again_and_again(stage.clone(), seed));
    wait_acks(&stage, ACKS_BETWEEN).await?;
    let reconnections = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    let plans = streams(watchers, seed);
    let mut outcome = Outcome { watchers, streams: plans.len(), ..Outcome::default() };
    for plan in plans {
        clients.spawn(StreamClient::new(plan, stage.clone(), reconnections.clone()).run());
    }
    for _ in 0..kills {
        wait_acks(&stage, ACKS_BETWEEN).await?;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        cluster.nodes[leader].kill()?;
        let killed = Instant::now();
        wait_acks(&stage, 1).await?;
        outcome.recoveries.push(killed.elapsed());
        wait_acks(&stage, ACKS_BETWEEN).await?;
        cluster.restart(leader).await?;
    }
    wait_acks(&stage, ACKS_BETWEEN).await?;
    stop_writing.send_replace(true);
    let mut acks = Vec::new();
    while let Some(acked) = writers.join_next().await {
        acks.extend(acked?);
    }
    let last = last_revision(&stage).await?;
    stage.last.send_replace(Some(last));
    let mut truth = historian.await??;
    outcome.compactions = compactor.await??;
    truth.compacted = stage.compacted.load(Ordering::SeqCst);
    outcome.revisions = truth.revisions.len();
    outcome.acked = acks.len();
    put_in_order(&mut truth, acks)?;
    while let Some(records) = clients.join_next().await {
        for record in records?? {
            judge(&truth, record, last, &mut outcome)?;
        }
    }
    outcome.reconnections = reconnections.load(Ordering::SeqCst);
    Ok(outcome)
}

fn judge(truth: &Truth, record: StreamRecord, last: i64, outcome: &mut Outcome) -> Result<()> {
    let StreamRecord { spec, seen, fragments } = record;
    let counts = check(truth, &spec, &seen, last).map_err(|error| anyhow::anyhow!("{error}\nwatcher: {spec:?}"))?;
    outcome.fragments += fragments;
    let sum = &mut outcome.counts;
    sum.events += counts.events;
    sum.messages += counts.messages;
    sum.progress += counts.progress;
    sum.compacted += counts.compacted;
    sum.previous_compacted += counts.previous_compacted;
    sum.previous_exact += counts.previous_exact;
    Ok(())
}

async fn wait_acks(stage: &Stage, more: u64) -> Result<()> {
    let goal = stage.acked.load(Ordering::SeqCst) + more;
    let reached = async {
        while stage.acked.load(Ordering::SeqCst) < goal {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, reached).await.context("writes do not go on")
}

/// Tries something on one endpoint after the other until it works.
async fn insist<T, F>(stage: &Stage, what: &str, attempt: impl Fn(Wire) -> F) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    let tries = async {
        for at in 0.. {
            let endpoint = &stage.endpoints[at % stage.endpoints.len()];
            let once = async { attempt(Wire::connect(endpoint).await.ok()?).await };
            if let Ok(Some(done)) = timeout(ATTEMPT_PATIENCE, once).await {
                return Some(done);
            }
            sleep(RETRY).await;
        }
        None
    };
    timeout(PATIENCE, tries).await.ok().flatten().with_context(|| format!("{what} does not work"))
}

fn range_at(revision: i64) -> Request {
    Request::Range(RangeRequest { key: "\0".into(), range_end: "\0".into(), revision, ..Default::default() })
}

async fn last_revision(stage: &Stage) -> Result<i64> {
    insist(stage, "a linearizable read", |mut wire| async move { wire.send(&range_at(0)).await.revision() }).await
}

/// Every key and its value.
type Keys = BTreeMap<String, (i64, String)>;

async fn keys_at(stage: &Stage, revision: i64) -> Result<Keys> {
    let read = |mut wire: Wire| async move {
        let Answer::Range(answer) = wire.send(&range_at(revision)).await else { return None };
        let key = |kv: &KeyValue| String::from_utf8_lossy(&kv.key).into_owned();
        Some(answer.kvs.iter().map(|kv| (key(kv), (kv.mod_revision, digest(&kv.value)))).collect())
    };
    insist(stage, "a read of an old revision", read).await
}

/// Reads every revision, until the last.
async fn read_history(stage: Arc<Stage>) -> Result<Truth> {
    let mut truth = Truth::default();
    let mut before = Keys::new();
    let mut read = 1;
    loop {
        // Asked before the revision: what is announced is in it.
        let announced = *stage.last.borrow();
        let now = match announced {
            Some(last) => last,
            None => last_revision(&stage).await?,
        };
        let mut reads = iter(read + 1..=now).map(|revision| {
            let stage = stage.clone();
            async move { (revision, keys_at(&stage, revision).await) }
        });
        let mut reads = (&mut reads).buffered(READS_AT_ONCE);
        while let Some((revision, keys)) = reads.next().await {
            let keys = keys?;
            truth.revisions.insert(revision, difference(revision, &before, &keys)?);
            before = keys;
            read = revision;
            stage.read.store(read, Ordering::SeqCst);
        }
        if announced.is_some() {
            return Ok(truth);
        }
        sleep(RETRY).await;
    }
}

/// What a revision changed.
fn difference(revision: i64, before: &Keys, after: &Keys) -> Result<Revision> {
    let value = |keys: &Keys, key: &str| keys.get(key).map(|(_, value)| value.clone());
    let mut changes = Vec::new();
    for (key, (modified, value_after)) in after {
        if *modified == revision {
            changes.push(Change { key: key.clone(), value: Some(value_after.clone()), previous: value(before, key) });
        } else {
            ensure!(before.get(key) == after.get(key), "{key} at {revision} is neither new nor as before");
        }
    }
    for (key, (_, value_before)) in before {
        if !after.contains_key(key) {
            changes.push(Change { key: key.clone(), value: None, previous: Some(value_before.clone()) });
        }
    }
    ensure!(!changes.is_empty(), "revision {revision} changes nothing");
    Ok(Revision { changes, in_order: false })
}

/// Holds what writers were promised against the history, and takes the order within a revision from them.
fn put_in_order(truth: &mut Truth, acks: Vec<Ack>) -> Result<()> {
    for Ack { revision, changes } in acks {
        let read = truth.revisions.get_mut(&revision).with_context(|| format!("revision {revision} is missing"))?;
        let mut sorted = read.changes.clone();
        let mut ordered = Vec::with_capacity(changes.len());
        for (key, value) in &changes {
            let at = sorted.iter().position(|change| (&change.key, &change.value) == (key, value));
            let Some(at) = at else { bail!("revision {revision} was acked as {changes:?} and is {:?}", read.changes) };
            ordered.push(sorted.swap_remove(at));
        }
        ensure!(sorted.is_empty(), "revision {revision} was acked as {changes:?} and is {:?}", read.changes);
        *read = Revision { changes: ordered, in_order: true };
    }
    Ok(())
}

/// Compacts what the historian has read; returns how often that worked. A try that hangs does not hold up the next.
async fn compact_again_and_again(stage: Arc<Stage>, seed: u64) -> Result<usize> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0xc0);
    let mut tries = JoinSet::new();
    while !stage.is_over() {
        sleep(COMPACT_EVERY).await;
        let to = stage.read.load(Ordering::SeqCst) - rng.random_range(0..KEPT_MAX);
        if to > stage.compacted.load(Ordering::SeqCst) {
            // First it is known that it may happen, then it is asked for.
            stage.compacted.store(to, Ordering::SeqCst);
            tries.spawn(compact(stage.clone(), rng.random_range(0..stage.endpoints.len()), to));
        }
    }
    Ok(tries.join_all().await.into_iter().filter(|done| *done).count())
}

async fn compact(stage: Arc<Stage>, endpoint: usize, revision: i64) -> bool {
    let request = Request::Compact(CompactionRequest { revision, physical: false });
    let once = async { Some(Wire::connect(&stage.endpoints[endpoint]).await.ok()?.send(&request).await) };
    matches!(timeout(ATTEMPT_PATIENCE, once).await, Ok(Some(Answer::Compact(_))))
}
