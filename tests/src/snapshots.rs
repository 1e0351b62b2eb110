//! A member that was down for so long that its peers no longer have the log that it needs, with a count: `make test`
//! runs a small one, `make scenarios` a large one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etcd_client::CompactionOptions;
use tokio::time::sleep;

use crate::binaries::Program;
use crate::check::{self, Verdict};
use crate::cluster::{Cluster, LEADER_PATIENCE};
use crate::http1::metric;
use crate::node::{Node, POLL};
use crate::samples::{Puts, percentile};
use crate::workload::{History, Workload};

/// Little log is kept, so that a small test does what a large disk does over hours.
pub const SHORT_LOG: &[&str] = &["--snapshot-count=500", "--snapshot-catchup-entries=100"];

/// Writers under which a member catches up.
const WRITERS: usize = 16;
/// How long their latency is looked at without a transfer.
const BASELINE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(180);

/// What it took to catch up.
#[derive(Debug)]
pub struct CatchUp {
    pub writes: u64,
    /// What the leader sent.
    pub bytes_sent: u64,
    /// The time that its checkpoint took.
    pub checkpoint: Duration,
    /// From the start of the process to the installation, and to the last entry.
    pub installed: Duration,
    pub caught_up: Duration,
    /// Latencies of puts before and during the transfer: median, 99 % and largest.
    pub before: [Duration; 3],
    pub during: [Duration; 3],
    pub verdict: Verdict,
}

impl CatchUp {
    /// For people.
    pub fn table(&self) -> String {
        let latencies = |of: &[Duration; 3]| {
            let [median, most, all] = of.map(|time| format!("{:.1} ms", time.as_secs_f64() * 1000.0));
            format!("median {median}, 99 % {most}, largest {all}")
        };
        format!(
            "down during {} writes and a compaction: {:.1} MiB sent, checkpoint {:.0?}, installed {:.2?} after the start, \
             caught up after {:.2?}\n  puts before: {}\n  puts during: {}\n  {} writes acked meanwhile, all members at \
             revision {} with hash {:08x}",
            self.writes,
            self.bytes_sent as f64 / (1 << 20) as f64,
            self.checkpoint,
            self.installed,
            self.caught_up,
            latencies(&self.before),
            latencies(&self.during),
            self.verdict.acked,
            self.verdict.revision,
            self.verdict.hash
        )
    }
}

/// One node is down during `writes` puts and a compaction, and catches up while others are written.
pub async fn catch_up(home: &Path, writes: u64) -> Result<CatchUp> {
    let mut cluster = Cluster::with_flags(Program::Tenured, 3, home, SHORT_LOG)?;
    cluster.start_all().await?;
    let behind = cluster.follower().await?;
    fall_behind(&mut cluster, behind, writes).await?;
    let load = Workload::start(&others(&cluster, behind), "k/meanwhile", WRITERS);
    let begun = Instant::now();
    load.wait_acks(100, PATIENCE).await?;
    sleep(BASELINE).await;

    let leader = cluster.wait_leader_among(&all_but(&cluster, behind), LEADER_PATIENCE).await?;
    let started = Instant::now();
    cluster.nodes[behind].start()?;
    wait_metric(&cluster.nodes[behind], "tenure_snapshots_installed_total", 1).await?;
    let installed = started.elapsed();
    let applied = metric(cluster.nodes[leader].client_port, "tenure_applied_index").await?;
    wait_metric(&cluster.nodes[behind], "tenure_applied_index", applied).await?;
    let caught_up = started.elapsed();
    let history = load.finish().await?;

    let port = cluster.nodes[leader].client_port;
    let bytes_sent = metric(port, "tenure_snapshot_sent_bytes_total").await?;
    ensure!(metric(port, "tenure_snapshots_sent_total").await? == 1, "one snapshot is enough");
    let checkpoint = Duration::from_micros(metric(port, "tenure_checkpoint_micros_total").await?);
    let before = latencies(&history, begun, started);
    let during = latencies(&history, started, started + installed);
    let verdict = check::whole_cluster(&cluster, "k/", &history).await?;
    Ok(CatchUp { writes, bytes_sent, checkpoint, installed, caught_up, before, during, verdict })
}

/// Kills a node, and writes and compacts until no other has the entries that it needs next.
pub async fn fall_behind(cluster: &mut Cluster, behind: usize, writes: u64) -> Result<()> {
    cluster.nodes[behind].kill()?;
    let others = all_but(cluster, behind);
    let leader = cluster.wait_leader_among(&others, LEADER_PATIENCE).await?;
    let had_at_most = metric(cluster.nodes[leader].client_port, "tenure_raft_last_log_index").await?;
    let puts = Puts {
        ports: others.iter().map(|at| cluster.nodes[*at].client_port).collect(),
        total: writes,
        clients: 64,
        value_bytes: 256,
        fresh_values: true,
        keys: writes / 4 + 1,
    };
    puts.run().await?;
    let mut client = cluster.client(leader).await?;
    let revision = client.put("between", "", None).await?.header().context("no header")?.revision();
    client.compact(revision - revision / 3, Some(CompactionOptions::new())).await?;
    // The log goes when the state behind it is flushed, every so many entries.
    let deadline = Instant::now() + PATIENCE;
    for at in others {
        while metric(cluster.nodes[at].client_port, "tenure_raft_first_log_index").await? <= had_at_most + 1 {
            ensure!(Instant::now() < deadline, "the log of {} is not purged", cluster.nodes[at].name);
            client.put("between", "", None).await?;
        }
    }
    Ok(())
}

/// All nodes but one, by their places.
pub fn all_but(cluster: &Cluster, one: usize) -> Vec<usize> {
    (0..cluster.nodes.len()).filter(|at| *at != one).collect()
}

/// The client URLs of all nodes but one.
pub fn others(cluster: &Cluster, one: usize) -> Vec<String> {
    all_but(cluster, one).into_iter().map(|at| cluster.nodes[at].endpoint()).collect()
}

/// Waits until a figure of a node's metrics has come up to `least`; the node may just be starting.
pub async fn wait_metric(node: &Node, name: &str, least: u64) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match metric(node.client_port, name).await {
            Ok(figure) if figure >= least => return Ok(figure),
            last if Instant::now() > deadline => {
                bail!("{name} of {} is {last:?}, not {least}:\n{}", node.name, node.log_tail(30))
            }
            Ok(_) | Err(_) => sleep(POLL).await,
        }
    }
}

/// Median, 99 % and largest latency of the writes that were sent within a time.
fn latencies(history: &History, from: Instant, to: Instant) -> [Duration; 3] {
    let within = history.acks.iter().filter(|ack| (from..to).contains(&ack.sent));
    let mut latencies: Vec<Duration> = within.map(|ack| ack.acked - ack.sent).collect();
    latencies.sort_unstable();
    [50, 99, 100].map(|percent| percentile(&latencies, percent))
}
