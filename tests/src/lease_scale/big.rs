//! A lease with very many keys ends, or as many keys are deleted by one request, while others work.
//!
//! All keys go in one revision, which is found in the history afterwards; others feel a stall, which is measured; and no
//! member may take it for a dead leader. The members share the machine, with each other and with whatever else runs: for
//! how long the thread that applies was ready and had no core, and how long a sync of the log took at most, is told, and
//! taken off the stall.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::fleet::Fleet;
use super::probe::{Felt, Kind, Probe};
use super::seed::{fixed, grant, put_keys};
use super::{PATIENCE, channels, count_at, ms, one_revision, thousands, three_members};
use crate::binaries::Program;
use crate::cluster::{Cluster, LEADER_PATIENCE};
use crate::http1;
use crate::lease_check::Moment;
use crate::node::{Node, POLL, thread_times};
use crate::workload::Workload;

const LEASE: i64 = 1;
const TTL: Duration = Duration::from_secs(10);
/// A lease is gone by then, or never: a real etcd needs seconds.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// How long the cluster works before and after the end, to compare.
const QUIET: Duration = Duration::from_secs(3);
/// Writers that never pause, beside the probe.
const WRITERS: usize = 2;

/// How many keys, and how long others may stand still for it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub keys: i64,
    pub stall_max: Duration,
}

/// A lease with so many keys ends by itself.
pub async fn lease_ends(home: &Path, program: Program, size: Size) -> Result<()> {
    let mut stage = Stage::set(home, program).await?;
    let granted = grant(&stage.channels[..1], LEASE, 1, fixed(TTL)).await?;
    let mut fleet = Fleet::new(&stage.channels);
    fleet.add(&granted);
    put_keys(&stage.channels, "big/", size.keys, |_| LEASE).await?;
    fleet.finish().await?;
    let felt = stage
        .watch_others(size, "big lease", async |channels: &[Channel]| {
            let mut client = LeaseClient::new(channels[0].clone());
            let ask = pb::LeaseTimeToLiveRequest { id: LEASE, keys: false };
            let mut due = Moment::now();
            loop {
                let left = client.lease_time_to_live(ask).await?.into_inner().ttl;
                match left {
                    // Whole seconds are told, rounded down: when it becomes 0, the last of them begins.
                    1.. => due = Moment::now().plus(Duration::from_secs(1) + TTL / 100),
                    0 => {}
                    _ => return Ok(due),
                }
                sleep(POLL).await;
            }
        })
        .await?;
    stage.judge(size, &felt)
}

/// One request deletes so many keys.
pub async fn range_is_deleted(home: &Path, program: Program, size: Size) -> Result<()> {
    let mut stage = Stage::set(home, program).await?;
    put_keys(&stage.channels, "big/", size.keys, |_| 0).await?;
    let felt = stage
        .watch_others(size, "DeleteRange", async |channels: &[Channel]| {
            sleep(QUIET).await;
            let mut client = KvClient::new(channels[0].clone());
            let began = Moment::now();
            let range = pb::DeleteRangeRequest {
                key: "big/".into(),
                range_end: "big0".into(),
                ..pb::DeleteRangeRequest::default()
            };
            let deleted = client.delete_range(range).await?.into_inner().deleted;
            ensure!(deleted == size.keys, "{deleted} of {} keys were deleted", size.keys);
            Ok(began)
        })
        .await?;
    stage.judge(size, &felt)
}

struct Stage {
    cluster: Cluster,
    channels: Vec<Channel>,
    leader: (u64, u64),
}

impl Stage {
    async fn set(home: &Path, program: Program) -> Result<Stage> {
        let (cluster, at) = three_members(program, home).await?;
        let mut channels = channels(&cluster)?;
        // What is asked of the first is asked of the leader.
        channels.rotate_left(at);
        let leader = leader(&cluster, at).await?;
        Ok(Stage { cluster, channels, leader })
    }

    /// Lets others work while the keys go; `end` says when it began and returns when they are gone.
    async fn watch_others(
        &mut self,
        size: Size,
        what: &str,
        end: impl AsyncFnOnce(&[Channel]) -> Result<Moment>,
    ) -> Result<(Felt, Duration)> {
        let (_, before) = count_at(&self.channels[0], "big/", 0).await?;
        let load = Workload::start(&self.cluster.endpoints(), "others", WRITERS);
        let probe = Probe::start(&self.channels);
        let started = Moment::now();
        let waits = Waits::watch(&self.cluster)?;
        let began = timeout(END_PATIENCE, end(&self.channels)).await.context("the keys do not go")??;
        let ended = Moment::now();
        let waited = (waits.finish(began, ended), longest_sync(&self.cluster).await?);
        sleep(QUIET).await;
        let felt = probe.finish().await?;
        let history = load.finish().await?;
        let at = one_revision(&self.channels[0], "big/", before, size.keys).await?;
        let quiet = felt.between(started, began.minus(Duration::from_secs(1)));
        let around = felt.between(began.minus(Duration::from_secs(1)), ended.plus(QUIET));
        println!(
            "{what} | {} | {} keys | gone in {} at the one revision {at} | worst stall: puts {}, reads {} (without it: {}, {}), of \
             which apply waited for a core {}, and for one sync at most {} | {} other writes | {} of {} probes failed",
            self.cluster.program.label(),
            thousands(u64::try_from(size.keys)?),
            ms(ended.since(began)),
            ms(around.of(Kind::Put).worst()),
            ms(around.of(Kind::Read).worst()),
            ms(quiet.of(Kind::Put).worst()),
            ms(quiet.of(Kind::Read).worst()),
            ms(waited.0),
            ms(waited.1),
            history.acks.len(),
            felt.failed(),
            felt.count(),
        );
        let now = self.cluster.wait_leader(LEADER_PATIENCE).await?;
        ensure!(leader(&self.cluster, now).await? == self.leader, "leadership moved");
        Ok((around, waited.0 + waited.1))
    }

    fn judge(&self, size: Size, (felt, waited): &(Felt, Duration)) -> Result<()> {
        if self.cluster.program == Program::Etcd {
            return Ok(());
        }
        ensure!(felt.failed() == 0, "{} requests of others failed", felt.failed());
        let (worst, most) = (felt.worst(), size.stall_max);
        ensure!(
            worst.saturating_sub(*waited) <= most,
            "others stood still for {worst:?}, of which the machine was busy {waited:?}: more than {most:?}"
        );
        Ok(())
    }
}

/// The longest that a sync of a member's log took: what another's disk traffic adds to a stall.
async fn longest_sync(cluster: &Cluster) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    if cluster.program != Program::Etcd {
        for node in &cluster.nodes {
            let micros = http1::metric(node.client_port, "tenure_log_fsync_max_micros").await?;
            longest = longest.max(Duration::from_micros(micros));
        }
    }
    Ok(longest)
}

/// How long each member's apply thread has waited for a core, looked at again and again.
struct Waits {
    looker: JoinHandle<()>,
    seen: Arc<Mutex<Vec<Waited>>>,
}

/// How long each member had waited by then.
type Waited = (Moment, Vec<Duration>);

impl Waits {
    fn watch(cluster: &Cluster) -> Result<Waits> {
        let pids: Vec<u32> = cluster.nodes.iter().map(Node::pid).collect::<Result<_>>()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let to = seen.clone();
        let looker = tokio::spawn(async move {
            loop {
                let waited =
                    pids.iter().map(|pid| thread_times(*pid, "apply").map_or(Duration::ZERO, |(_, waited)| waited));
                let look = (Moment::now(), waited.collect());
                to.lock().unwrap_or_else(PoisonError::into_inner).push(look);
                sleep(POLL * 2).await;
            }
        });
        Ok(Waits { looker, seen })
    }

    /// The longest that a member's has waited between two moments.
    fn finish(self, from: Moment, to: Moment) -> Duration {
        self.looker.abort();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.iter().rfind(|(at, _)| *at <= from).or(seen.first());
        let after = seen.iter().find(|(at, _)| *at >= to).or(seen.last());
        let Some(((_, before), (_, after))) = before.zip(after) else { return Duration::ZERO };
        after.iter().zip(before).map(|(after, before)| after.saturating_sub(*before)).max().unwrap_or_default()
    }
}

/// Who leads, and in which term.
async fn leader(cluster: &Cluster, at: usize) -> Result<(u64, u64)> {
    let status = timeout(PATIENCE, cluster.status(at)).await.context("no status")??;
    Ok((status.leader(), status.raft_term()))
}
