//! A leader is cut off, others elect another and write, and answers from before reach the old one at last: what it tells to a
//! read must not be of the past.
//!
//! The followers have taken its last entry, and their answers are withheld. The answer of the one that did not become the leader
//! is let through first: with it the entry is committed, and the old leader has something to tell to the other follower,
//! whose answer to the entry comes next. It is not one to what was sent since.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcd_client::{Client, GetOptions};
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{Cluster, LEADER_PATIENCE};
use crate::fault_port::FaultPort;
use crate::node::POLL;

/// Elections are over before a stream of appends is given up for being silent, which takes a second.
const FLAGS: [&str; 2] = ["--election-timeout=300", "--heartbeat-interval=30"];
/// Reads at the one that was cut off.
const READS: usize = 8;
const KEY: &str = "round";
const LAST: &str = "last of the old leader";
/// What is under way is where it goes within this, on a machine that is not too busy. If it is not, the round shows less.
const UNDER_WAY: Duration = Duration::from_millis(30);
/// Longer than what the old leader is told takes.
const SOON: Duration = Duration::from_millis(300);
/// How late a leader applies: the others do in a few milliseconds.
const LATE: Duration = Duration::from_secs(2);
/// Longer than any request takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a run saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Rounds in which the old leader committed its last entry, so that the answer that came then was in question.
    pub told: usize,
    /// Reads that it answered, all of them by the present.
    pub answered: usize,
    /// Reads that it refused, or left to time out.
    pub failed: usize,
}

/// Cuts leaders off, one after the other, and lets them hear old answers.
pub async fn late_answers(home: &Path, rounds: usize) -> Result<Seen> {
    let (mut cluster, ports) = Cluster::with_faults(3, home, &FLAGS)?;
    cluster.start_all().await?;
    let mut seen = Seen::default();
    for round in 1..=rounds {
        Box::pin(one_round(&mut cluster, &ports, round, &mut seen)).await.with_context(|| format!("round {round}"))?;
    }
    Ok(seen)
}

async fn one_round(cluster: &mut Cluster, ports: &[FaultPort], round: usize, seen: &mut Seen) -> Result<()> {
    let old = cluster.wait_leader(LEADER_PATIENCE).await?;
    let mut ids = Vec::new();
    for at in 0..cluster.nodes.len() {
        ids.push(cluster.status(at).await?.header().context("a header")?.member_id());
    }
    let mut through_old = cluster.client(old).await?;
    through_old.get(KEY, None).await.context("a read before")?;
    let others: Vec<usize> = (0..3).filter(|at| *at != old).collect();
    let cut_off = [ids[others[0]], ids[others[1]]];
    ports[old].cut(&[], &cut_off).await?;
    let last = tokio::spawn({
        let mut client = through_old.clone();
        async move { client.put(LAST, round.to_string(), None).await }
    });
    sleep(UNDER_WAY).await;
    // From now on the others hear nothing of it and tell it nothing: what they said so far is all that will reach it.
    for other in &others {
        ports[*other].cut(&[ids[old]], &[ids[old]]).await?;
    }
    let new = cluster.wait_leader_among(&others, LEADER_PATIENCE).await?;
    let written = timeout(PATIENCE, put(cluster.client(new).await?, round)).await.context("a write hangs")??;
    let reads: Vec<_> = (0..READS)
        .map(|_| {
            let mut reader = through_old.clone();
            tokio::spawn(async move { timeout(SOON * 3, reader.get(KEY, None)).await })
        })
        .collect();
    sleep(UNDER_WAY).await;
    ports[old].cut(&[], &[ids[new]]).await?;
    seen.told += usize::from(is_told(through_old, round).await);
    ports[old].heal().await?;
    for read in join_all(reads).await {
        let Ok(Ok(answer)) = read? else {
            seen.failed += 1;
            continue;
        };
        let revision = answer.header().context("a header")?.revision();
        let value = answer.kvs().first().and_then(|kv| kv.value_str().ok()?.parse::<usize>().ok());
        ensure!(
            value == Some(round) && revision >= written,
            "{value:?} was read at revision {revision}, and {round} had been written at {written} before the read was sent"
        );
        seen.answered += 1;
    }
    for port in ports {
        port.heal().await?;
    }
    // Whether it was written after all does not matter.
    drop(last.await?);
    Ok(())
}

/// A follower applies a write before its leader does. Whoever saw it there sees it at the leader too.
pub async fn late_apply(home: &Path) -> Result<()> {
    // Larger than what is applied on the thread of consensus, which must go on.
    const VALUE_BYTES: usize = 64 * 1024;
    let (mut cluster, ports) = Cluster::with_faults(3, home, &[])?;
    cluster.start_all().await?;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    let (mut at_leader, follower) = (cluster.client(leader).await?, cluster.follower().await?);
    let mut at_follower = cluster.client(follower).await?;
    let before = at_leader.put(KEY, "before", None).await?.header().context("a header")?.revision();
    ports[leader].arm("raftBeforeApply", &format!("sleep({})", LATE.as_millis())).await?;
    let mut writer = at_leader.clone();
    let written = tokio::spawn(async move { writer.put(KEY, vec![b'x'; VALUE_BYTES], None).await });
    let seen = loop {
        let read = at_follower.get(KEY, Some(GetOptions::new().with_serializable())).await?;
        let revision = read.header().context("a header")?.revision();
        if revision > before {
            break revision;
        }
        ensure!(!written.is_finished(), "the leader applied it before a follower showed it");
        sleep(POLL).await;
    };
    let read = timeout(PATIENCE, at_leader.get(KEY, None)).await.context("the read hangs")??;
    let revision = read.header().context("a header")?.revision();
    ensure!(revision >= seen, "revision {revision} was read at the leader after {seen} at a follower");
    ensure!(read.kvs().first().is_some_and(|kv| kv.value().len() == VALUE_BYTES), "an old value was read");
    ports[leader].disarm("raftBeforeApply").await?;
    timeout(PATIENCE, written).await.context("the write hangs")???;
    Ok(())
}

/// Whether the old leader soon has its last entry applied.
async fn is_told(mut client: Client, round: usize) -> bool {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        let read = client.get(LAST, Some(GetOptions::new().with_serializable())).await;
        let value = read.ok().and_then(|answer| answer.kvs().first()?.value_str().ok()?.parse::<usize>().ok());
        if value == Some(round) {
            return true;
        }
        sleep(POLL).await;
    }
    false
}

async fn put(mut client: Client, round: usize) -> Result<i64> {
    loop {
        // A new leader may refuse it for a moment.
        if let Ok(done) = client.put(KEY, round.to_string(), None).await {
            return Ok(done.header().context("a header")?.revision());
        }
    }
}
