//! Fault scenarios with a count: `make test` runs a few rounds of each, `make scenarios` all that are asked for.
//!
//! Every one ends with the whole check: nothing acked is missing, revisions are unique and in order, members hash alike.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etcd_client::{Client, GetOptions};
use tokio::time::{sleep, timeout};

use crate::binaries::Program;
use crate::check::{self, Verdict};
use crate::cluster::{Cluster, LEADER_PATIENCE, connect};
use crate::node::POLL;
use crate::workload::{History, Workload};

/// Concurrent writers under which servers are killed.
const WRITERS: usize = 16;
/// Acks between two faults, so that every fault hits a cluster that works.
const ACKS_BETWEEN: u64 = 100;
/// What the cluster promises: writes resume within this after its leader died.
pub const RESUME_MAX: Duration = Duration::from_secs(2);
/// How long is waited for it before the scenario gives up.
const RESUME_PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(20);

/// Recovery times of a scenario with what its final check found.
#[derive(Debug)]
pub struct Outcome {
    pub recoveries: Vec<Duration>,
    pub verdict: Verdict,
}

impl Outcome {
    /// The slowest recovery.
    pub fn slowest(&self) -> Duration {
        self.recoveries.iter().max().copied().unwrap_or_default()
    }

    /// One line per round and a summary.
    pub fn table(&self, title: &str) -> String {
        let mut sorted = self.recoveries.clone();
        sorted.sort_unstable();
        let rounds: Vec<String> = self.recoveries.iter().map(|time| format!("{:.2}", time.as_secs_f64())).collect();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        format!(
            "{title}: {} rounds; seconds until a write sent after the fault was acked: {}\n  median {:.2}, slowest {:.2}; \
             {} writes acked, {} of unknown fate, {} reads; all members at revision {} with hash {:08x}",
            sorted.len(),
            rounds.join(" "),
            median.as_secs_f64(),
            self.slowest().as_secs_f64(),
            self.verdict.acked,
            self.verdict.unknown,
            self.verdict.reads,
            self.verdict.revision,
            self.verdict.hash
        )
    }
}

/// Kills the leader under load, lets writes resume, starts it again; `rounds` times.
pub async fn kill_leaders(home: &Path, rounds: usize) -> Result<Outcome> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let mut load = Workload::start(&cluster.endpoints(), "k/leader", WRITERS);
    let mut recoveries = Vec::new();
    for _ in 0..rounds {
        load.wait_acks(ACKS_BETWEEN, PATIENCE).await?;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        cluster.nodes[leader].kill()?;
        let moment = Instant::now();
        recoveries.push(load.wait_resumed(moment, RESUME_PATIENCE).await?);
        load.wait_acks(ACKS_BETWEEN, PATIENCE).await?;
        cluster.restart(leader).await?;
    }
    let history = load.finish().await?;
    let verdict = check::whole_cluster(&cluster, "k/", &history).await?;
    Ok(Outcome { recoveries, verdict })
}

/// Kills all nodes at once under load and starts them again; `rounds` times.
pub async fn kill_everyone(home: &Path, rounds: usize) -> Result<Outcome> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let mut history = History::default();
    let mut recoveries = Vec::new();
    for round in 0..rounds {
        let load = Workload::start(&cluster.endpoints(), &format!("k/{round}"), WRITERS);
        load.wait_acks(3 * ACKS_BETWEEN, PATIENCE).await?;
        cluster.kill_all()?;
        history.extend(load.finish().await?);
        let moment = Instant::now();
        for node in &mut cluster.nodes {
            node.start()?;
        }
        let mut again = Workload::start(&cluster.endpoints(), &format!("k/{round}-after"), 3);
        recoveries.push(again.wait_resumed(moment, PATIENCE).await?);
        history.extend(again.finish().await?);
        cluster.start_all().await?;
        let mut client = cluster.client(round % 3).await?;
        let revision = revision_of(&mut client).await?;
        ensure!(
            revision >= history.revision_max(),
            "the revision went back: {revision} after {} was acked",
            history.revision_max()
        );
        check::contents(&mut client, "k/", &history).await?;
    }
    let verdict = check::whole_cluster(&cluster, "k/", &history).await?;
    Ok(Outcome { recoveries, verdict })
}

async fn revision_of(client: &mut Client) -> Result<i64> {
    let answer = client.get("\0", Some(GetOptions::new().with_count_only())).await?;
    Ok(answer.header().context("an answer without a header")?.revision())
}

/// What came back from reads through a leader that had been asleep.
#[derive(Debug, Default)]
pub struct PauseOutcome {
    pub rounds: usize,
    pub fresh: usize,
    pub refused: usize,
    pub recoveries: Vec<Duration>,
}

/// Stops the leader's process, writes through the next leader, lets the old one go on and reads through it; `rounds`
/// times. A read may fail but never show the old value.
pub async fn pause_leaders(home: &Path, rounds: usize) -> Result<PauseOutcome> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let mut outcome = PauseOutcome { rounds, ..PauseOutcome::default() };
    for round in 0..rounds {
        let old = cluster.wait_leader(LEADER_PATIENCE).await?;
        let others: Vec<usize> = (0..3).filter(|at| *at != old).collect();
        let mut through_old = connect(&cluster.nodes[old].endpoint(), PATIENCE).await?;
        through_old.put("key", format!("{round} before"), None).await?;
        cluster.nodes[old].pause()?;
        let moment = Instant::now();
        let new = format!("{round} after");
        let written = write_somewhere(&cluster, &others, &new).await;
        outcome.recoveries.push(moment.elapsed());
        // Sent while the old leader still sleeps, and waiting in its socket when it wakes up.
        let early: Vec<_> = (0..3).map(|_| spawn_read(through_old.clone())).collect();
        tokio::task::yield_now().await;
        sleep(Duration::from_millis(20)).await;
        cluster.nodes[old].resume()?;
        written?;
        let late: Vec<_> = (0..3).map(|_| spawn_read(through_old.clone())).collect();
        for read in early.into_iter().chain(late) {
            match read.await? {
                Some(value) if value == new => outcome.fresh += 1,
                Some(value) => {
                    bail!("round {round}: a linearizable read through the old leader saw {value:?}, not {new:?}")
                }
                None => outcome.refused += 1,
            }
        }
        fresh_in_the_end(&mut through_old, &new).await?;
    }
    check::same_everywhere(&cluster).await?;
    Ok(outcome)
}

fn spawn_read(mut client: Client) -> tokio::task::JoinHandle<Option<String>> {
    tokio::spawn(async move {
        let answer = timeout(PATIENCE, client.get("key", None)).await.ok()?.ok()?;
        answer.kvs().first().and_then(|kv| kv.value_str().ok().map(str::to_owned))
    })
}

async fn write_somewhere(cluster: &Cluster, members: &[usize], value: &str) -> Result<()> {
    let deadline = Instant::now() + RESUME_PATIENCE;
    loop {
        for at in members {
            let mut client = connect(&cluster.nodes[*at].endpoint(), Duration::from_millis(500)).await?;
            if client.put("key", value, None).await.is_ok() {
                return Ok(());
            }
        }
        ensure!(Instant::now() < deadline, "the other members take no write while the leader sleeps");
        sleep(POLL).await;
    }
}

async fn fresh_in_the_end(client: &mut Client, value: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(answer) = client.get("key", None).await {
            let seen = answer.kvs().first().context("the key is gone")?.value_str()?.to_owned();
            ensure!(seen == value, "a read through the old leader saw {seen:?}, not {value:?}");
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the old leader answers no reads after it woke up");
        sleep(POLL).await;
    }
}
