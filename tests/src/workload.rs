//! Concurrent writers that remember exactly what the cluster promised them.
//!
//! Every write has a value nobody else writes. An answer puts it among the acked writes with its revision and both times;
//! an error that the server gives *before* taking the write puts it nowhere; anything else (time-out, broken connection)
//! is kept apart as unknown: it may or may not have happened, and a checker must accept both.
//!
//! Half of the writes go to keys of their own, half to a few keys that all writers share, so that both "it is there" and
//! "it was there at that revision" can be checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etcd_client::{Client, Error, PutResponse};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::cluster::connect;

/// A writer that has waited this long gives the write up as unknown and goes to the next endpoint. Writers differ in it:
/// with one patience for all, their tries after a leader's death would come in step and recovery be measured in that step.
const WRITE_PATIENCE_MIN: Duration = Duration::from_millis(250);
const WRITE_PATIENCE_STEP: Duration = Duration::from_millis(50);
const WRITE_PATIENCE_STEPS: usize = 8;
/// Between two tries that fail at once (connection refused), so that a dead cluster is not hammered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);
/// Keys that all writers write to.
const SHARED_KEYS: u64 = 4;

/// A write that was answered.
#[derive(Clone, Debug)]
pub struct Ack {
    pub key: String,
    pub value: String,
    pub revision: i64,
    pub endpoint: usize,
    pub sent: Instant,
    pub acked: Instant,
}

/// A write whose fate the client does not know.
#[derive(Clone, Debug)]
pub struct Unknown {
    pub key: String,
    pub value: String,
}

/// A linearizable read: no write acked before it was sent may be missing from it.
#[derive(Clone, Debug)]
pub struct Read {
    pub revision: i64,
    pub sent: Instant,
}

/// Everything that one run of writers saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub acks: Vec<Ack>,
    pub unknown: Vec<Unknown>,
    pub reads: Vec<Read>,
}

impl History {
    /// The first answer to a write that was sent at or after `moment`, in time from `moment`.
    pub fn resumed_after(&self, moment: Instant) -> Option<Duration> {
        self.acks.iter().filter(|ack| ack.sent >= moment).map(|ack| ack.acked).min().map(|acked| acked - moment)
    }

    /// The longest time without an answer between two moments.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let mut moments: Vec<Instant> =
            self.acks.iter().map(|ack| ack.acked).filter(|at| (from..to).contains(at)).collect();
        moments.push(from);
        moments.push(to);
        moments.sort_unstable();
        moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// The highest revision that was promised.
    pub fn revision_max(&self) -> i64 {
        self.acks.iter().map(|ack| ack.revision).max().unwrap_or(0)
    }

    /// Adds what another run saw.
    pub fn extend(&mut self, other: Self) {
        self.acks.extend(other.acks);
        self.unknown.extend(other.unknown);
        self.reads.extend(other.reads);
    }
}

/// Writers at work in the background.
#[derive(Debug)]
pub struct Workload {
    tasks: JoinSet<History>,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    last_sent_acked: watch::Receiver<Option<Instant>>,
}

struct Writer {
    id: usize,
    prefix: String,
    endpoints: Vec<String>,
    at: usize,
    patience: Duration,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    newest: Arc<watch::Sender<Option<Instant>>>,
}

impl Workload {
    /// Starts `writers` tasks; they spread over the endpoints and move on when one fails. `prefix` keeps runs apart.
    pub fn start(endpoints: &[String], prefix: &str, writers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicU64::new(0));
        let (newest, last_sent_acked) = watch::channel(None);
        let newest = Arc::new(newest);
        let mut tasks = JoinSet::new();
        for id in 0..writers {
            let writer = Writer {
                id,
                prefix: prefix.to_owned(),
                endpoints: endpoints.to_vec(),
                at: id % endpoints.len(),
                patience: patience_of(id),
                stop: stop.clone(),
                acked: acked.clone(),
                newest: newest.clone(),
            };
            tasks.spawn(writer.run());
        }
        Self { tasks, stop, acked, last_sent_acked }
    }

    /// Waits until this many more writes were acked.
    pub async fn wait_acks(&self, more: u64, patience: Duration) -> Result<()> {
        let goal = self.acked.load(Ordering::SeqCst) + more;
        let deadline = Instant::now() + patience;
        while self.acked.load(Ordering::SeqCst) < goal {
            if Instant::now() > deadline {
                bail!("only {} of {goal} writes were acked after {patience:?}", self.acked.load(Ordering::SeqCst));
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Waits until a write that was sent at or after `moment` is acked; returns how long after `moment` that was.
    pub async fn wait_resumed(&mut self, moment: Instant, patience: Duration) -> Result<Duration> {
        let resumed = self.last_sent_acked.wait_for(|sent| sent.is_some_and(|sent| sent >= moment));
        timeout(patience, resumed).await.with_context(|| format!("writes do not resume within {patience:?}"))??;
        Ok(moment.elapsed())
    }

    /// Lets every writer finish the write it is at and collects what they saw.
    pub async fn finish(mut self) -> Result<History> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = History::default();
        while let Some(seen) = self.tasks.join_next().await {
            all.extend(seen?);
        }
        all.acks.sort_by_key(|ack| ack.revision);
        Ok(all)
    }
}

impl Writer {
    async fn run(mut self) -> History {
        let mut seen = History::default();
        let mut count = 0_u64;
        while !self.stop.load(Ordering::SeqCst) {
            let endpoint = self.endpoints[self.at].clone();
            if let Ok(client) = connect(&endpoint, self.patience).await {
                self.write_until_error(client, &mut count, &mut seen).await;
            }
            self.at = (self.at + 1) % self.endpoints.len();
            sleep(PAUSE_AFTER_ERROR).await;
        }
        seen
    }

    async fn write_until_error(&self, mut client: Client, count: &mut u64, seen: &mut History) {
        while !self.stop.load(Ordering::SeqCst) {
            *count += 1;
            let value = format!("{}-{}-{count}", self.prefix, self.id);
            let key = match *count % 2 {
                0 => format!("{}/own/{}/{count}", self.prefix, self.id),
                _ => format!("{}/shared/{}", self.prefix, *count / 2 % SHARED_KEYS),
            };
            let sent = Instant::now();
            match outcome(self.patience, client.put(key.clone(), value.clone(), None)).await {
                Outcome::Acked(revision) => {
                    let acked = Instant::now();
                    seen.acks.push(Ack { key, value, revision, endpoint: self.at, sent, acked });
                    self.acked.fetch_add(1, Ordering::SeqCst);
                    self.newest.send_modify(|newest| *newest = (*newest).max(Some(sent)));
                }
                Outcome::Refused => return,
                Outcome::Unknown => {
                    seen.unknown.push(Unknown { key, value });
                    return;
                }
            }
            if (*count).is_multiple_of(16) && !self.read(&mut client, seen).await {
                return;
            }
        }
    }

    async fn read(&self, client: &mut Client, seen: &mut History) -> bool {
        let sent = Instant::now();
        let answer = client.get(format!("{}/shared/0", self.prefix), None).await;
        let revision = answer.ok().and_then(|answer| answer.header().map(|header| header.revision()));
        let Some(revision) = revision else { return false };
        seen.reads.push(Read { revision, sent });
        true
    }
}

enum Outcome {
    Acked(i64),
    Refused,
    Unknown,
}

fn patience_of(writer: usize) -> Duration {
    let steps = u32::try_from(writer % WRITE_PATIENCE_STEPS).unwrap_or(0);
    WRITE_PATIENCE_MIN + WRITE_PATIENCE_STEP * steps
}

async fn outcome(patience: Duration, put: impl Future<Output = Result<PutResponse, Error>>) -> Outcome {
    match timeout(patience, put).await {
        Err(_) => Outcome::Unknown,
        Ok(Ok(answer)) => answer.header().map_or(Outcome::Unknown, |header| Outcome::Acked(header.revision())),
        Ok(Err(error)) if is_refusal(&error) => Outcome::Refused,
        Ok(Err(_)) => Outcome::Unknown,
    }
}

/// Whether the error proves that the write never reached the log: a connection that was never made, or an answer that
/// servers give on the door-step.
fn is_refusal(error: &Error) -> bool {
    let text = error.to_string();
    [
        "tcp connect error",
        "Connection refused",
        "etcdserver: no leader",
        "etcdserver: too many requests",
        "etcdserver: not leader",
    ]
    .iter()
    .any(|sign| text.contains(sign))
}
