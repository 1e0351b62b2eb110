//! What must be true of a history, whatever was killed while it was made.
//!
//! - an acked write is in the store at the revision that its answer named;
//! - no two acked writes have the same revision, and a write sent after another's answer has a higher one;
//! - a linearizable read is at least as new as every write acked before it was sent;
//! - all members hash to the same value at the same revision, and none is behind what was promised;
//! - nothing is in the store that nobody wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etcd_client::{Client, GetOptions};
use tokio::time::sleep;

use crate::cluster::{Cluster, connect};
use crate::node::POLL;
use crate::workload::History;

/// Keys per page when a store is read back.
const PAGE: i64 = 2_000;
/// Reads at an old revision cost one request each; this many are spread evenly over the history.
const OLD_READS_MAX: usize = 400;
/// How long a member may need to catch up once nothing is written any more.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(30);

/// One value in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub value: Vec<u8>,
    pub mod_revision: i64,
}

/// What [`whole_cluster`] found.
#[derive(Debug)]
pub struct Verdict {
    pub acked: usize,
    pub unknown: usize,
    pub reads: usize,
    pub revision: i64,
    pub hash: u32,
}

/// Checks everything above against a cluster whose nodes all run and that nobody writes to.
pub async fn whole_cluster(cluster: &Cluster, prefix: &str, history: &History) -> Result<Verdict> {
    order(history)?;
    let mut client = cluster.client(0).await?;
    contents(&mut client, prefix, history).await?;
    let (revision, hash) = same_everywhere(cluster).await?;
    ensure!(
        revision >= history.revision_max(),
        "the cluster is at revision {revision}, but {} was acked",
        history.revision_max()
    );
    Ok(Verdict {
        acked: history.acks.len(),
        unknown: history.unknown.len(),
        reads: history.reads.len(),
        revision,
        hash,
    })
}

/// Revisions are unique, and they rise in real time.
pub fn order(history: &History) -> Result<()> {
    let mut by_revision = BTreeMap::new();
    for ack in &history.acks {
        if let Some(other) = by_revision.insert(ack.revision, ack) {
            bail!("two acked writes have the same revision: {ack:?} and {other:?}");
        }
    }
    enum Event {
        Acked(i64),
        WriteSent(i64),
        ReadSent(i64),
    }
    let mut events: Vec<(Instant, Event)> = Vec::new();
    for ack in &history.acks {
        events.push((ack.acked, Event::Acked(ack.revision)));
        events.push((ack.sent, Event::WriteSent(ack.revision)));
    }
    events.extend(history.reads.iter().map(|read| (read.sent, Event::ReadSent(read.revision))));
    events.sort_by_key(|(at, _)| *at);
    let mut promised = 0;
    for (_, event) in events {
        match event {
            Event::Acked(revision) => promised = promised.max(revision),
            Event::WriteSent(revision) => ensure!(
                revision > promised,
                "a write got revision {revision}, though {promised} was acked before it was sent"
            ),
            Event::ReadSent(revision) => ensure!(
                revision >= promised,
                "a linearizable read saw revision {revision}, though {promised} was acked before it was sent"
            ),
        }
    }
    Ok(())
}

/// Every acked write is in the store at its revision, and nothing else but writes of unknown fate.
pub async fn contents(client: &mut Client, prefix: &str, history: &History) -> Result<()> {
    newest(client, prefix, history).await?;
    old_revisions(client, history).await
}

/// The same of each key's newest version alone, for a store whose history is compacted.
pub async fn newest(client: &mut Client, prefix: &str, history: &History) -> Result<()> {
    let now = read_prefix(client, prefix, 0).await?;
    let mut newest: BTreeMap<&str, (i64, &str)> = BTreeMap::new();
    for ack in &history.acks {
        let entry = newest.entry(&ack.key).or_insert((ack.revision, &ack.value));
        if ack.revision > entry.0 {
            *entry = (ack.revision, &ack.value);
        }
    }
    let unknown: BTreeSet<(&[u8], &[u8])> =
        history.unknown.iter().map(|write| (write.key.as_bytes(), write.value.as_bytes())).collect();
    for (key, (revision, value)) in &newest {
        let stored = now.get(key.as_bytes()).with_context(|| format!("acked key {key} is lost"))?;
        let is_the_ack = stored.mod_revision == *revision && stored.value == value.as_bytes();
        let is_later_unknown =
            stored.mod_revision > *revision && unknown.contains(&(key.as_bytes(), stored.value.as_slice()));
        ensure!(
            is_the_ack || is_later_unknown,
            "{key} was acked as {value} at {revision}, but the store has {:?} at {}",
            String::from_utf8_lossy(&stored.value),
            stored.mod_revision
        );
    }
    for (key, stored) in &now {
        let text = String::from_utf8_lossy(key);
        let known = newest.contains_key(text.as_ref()) || unknown.contains(&(key.as_slice(), stored.value.as_slice()));
        ensure!(known, "the store has {text}, which nobody wrote");
    }
    Ok(())
}

async fn old_revisions(client: &mut Client, history: &History) -> Result<()> {
    let step = history.acks.len() / OLD_READS_MAX + 1;
    for ack in history.acks.iter().step_by(step) {
        let options = GetOptions::new().with_revision(ack.revision);
        let answer = client.get(ack.key.as_str(), Some(options)).await?;
        let kv = answer.kvs().first().with_context(|| format!("{ack:?} is not there at its revision"))?;
        ensure!(
            kv.value() == ack.value.as_bytes() && kv.mod_revision() == ack.revision,
            "{ack:?} reads {:?} at its revision",
            String::from_utf8_lossy(kv.value())
        );
    }
    Ok(())
}

/// Reads everything under a prefix page by page at one revision; 0 is the present one.
pub async fn read_prefix(client: &mut Client, prefix: &str, revision: i64) -> Result<BTreeMap<Vec<u8>, Stored>> {
    let mut all = BTreeMap::new();
    let end = prefix_end(prefix.as_bytes());
    let mut from = prefix.as_bytes().to_vec();
    let mut revision = revision;
    loop {
        let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
        let answer = client.get(from.clone(), Some(options)).await?;
        if revision == 0 {
            revision = answer.header().context("an answer without a header")?.revision();
        }
        for kv in answer.kvs() {
            from = [kv.key(), &[0]].concat();
            all.insert(kv.key().to_vec(), Stored { value: kv.value().to_vec(), mod_revision: kv.mod_revision() });
        }
        if !answer.more() {
            return Ok(all);
        }
    }
}

/// The first key behind all keys with this prefix; `\0` when there is none.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// Waits until all members are at the same revision, then compares their hashes there.
pub async fn same_everywhere(cluster: &Cluster) -> Result<(i64, u32)> {
    let deadline = Instant::now() + CATCH_UP_PATIENCE;
    let mut clients = Vec::new();
    for endpoint in cluster.endpoints() {
        clients.push(connect(&endpoint, Duration::from_secs(10)).await?);
    }
    loop {
        let mut revisions = Vec::new();
        for client in &mut clients {
            let options = GetOptions::new().with_serializable().with_count_only();
            let answer = client.get("\0", Some(options)).await?;
            revisions.push(answer.header().context("an answer without a header")?.revision());
        }
        if revisions.iter().all(|revision| *revision == revisions[0]) {
            return same_hash(&mut clients, revisions[0]).await;
        }
        ensure!(Instant::now() < deadline, "members do not catch up: they stand at {revisions:?}");
        sleep(POLL).await;
    }
}

async fn same_hash(clients: &mut [Client], revision: i64) -> Result<(i64, u32)> {
    let mut hashes = Vec::new();
    for client in clients {
        let answer = client.hash_kv(revision).await?;
        hashes.push((answer.hash(), answer.compact_version()));
    }
    ensure!(
        hashes.iter().all(|hash| *hash == hashes[0]),
        "members differ at revision {revision}: (hash, compact revision) = {hashes:?}"
    );
    Ok((revision, hashes[0].0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Ack, Read};

    fn ack(revision: i64, sent: Instant, acked: Instant) -> Ack {
        Ack { key: "k".into(), value: "v".into(), revision, endpoint: 0, sent, acked }
    }

    #[test]
    fn a_revision_that_two_writes_were_given_is_found() {
        let now = Instant::now();
        let history = History { acks: vec![ack(2, now, now), ack(2, now, now)], ..History::default() };
        assert!(order(&history).is_err());
    }

    #[test]
    fn a_write_with_a_lower_revision_than_an_earlier_answer_is_found() {
        let now = Instant::now();
        let later = |ms| now + Duration::from_millis(ms);
        let overlapping = vec![ack(3, now, later(10)), ack(2, later(5), later(15))];
        assert!(order(&History { acks: overlapping, ..History::default() }).is_ok());
        let backwards = vec![ack(3, now, later(10)), ack(2, later(11), later(15))];
        assert!(order(&History { acks: backwards, ..History::default() }).is_err());
    }

    #[test]
    fn a_read_older_than_an_acked_write_is_found() {
        let now = Instant::now();
        let later = |ms| now + Duration::from_millis(ms);
        let acks = vec![ack(5, now, later(10))];
        let stale = Read { revision: 4, sent: later(11) };
        assert!(order(&History { acks, reads: vec![stale], ..History::default() }).is_err());
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_all_its_keys() {
        assert_eq!(prefix_end(b"a"), b"b");
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
    }
}
