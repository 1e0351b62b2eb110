//! Works in which something happens to a cluster: compaction, the loss of the leader, a start with much data.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use etcd_client::CompactionOptions;
use rustix::process::Signal;
use tenure_bench::workload::{Failover, Put, Restart, Trigger, TxnPut};
use tenure_bench::{Amount, Keys, Order, Report, Settings, Silent, Workload};
use tokio::time::sleep;

use super::compare::{PATIENCE, endpoints, folder, pids, settle, start, succeeded};
use super::cost::Cost;
use super::options::Options;
use super::sample::{Metric, Sample, float};
use super::works::{At, Special};
use crate::binaries::Program;
use crate::cluster::{Cluster, LEADER_PATIENCE, connect};
use crate::node::READY_PATIENCE;
use crate::process;

/// Of most values.
const VALUE_BYTES: usize = 256;
/// etcd starts slowly with much data.
const START_PATIENCE: Duration = Duration::from_secs(300);

/// How much of it.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Keys of the store that is started again.
    keys: u64,
    /// Versions that are compacted.
    versions: u64,
    /// Puts per second beside it, and for how long.
    rate: f64,
    load_time: Duration,
    /// How long it writes before and after a leader is gone.
    before: Duration,
    failover_time: Duration,
}

impl Size {
    fn of(options: &Options) -> Size {
        let full = Size {
            keys: 2_000_000,
            versions: 400_000,
            rate: 2_000.0,
            load_time: Duration::from_secs(12),
            before: Duration::from_secs(1),
            failover_time: Duration::from_secs(6),
        };
        if !options.quick {
            return full;
        }
        let load_time = Duration::from_secs(3);
        Size { keys: 20_000, versions: 20_000, rate: 500.0, load_time, ..full }
    }
}

/// Runs one of them on a new cluster.
pub async fn run(special: Special, program: Program, options: &Options) -> Result<Sample> {
    let (folder, size) = (folder(options)?, Size::of(options));
    let mut cluster = start(program, folder.path(), options).await?;
    let sample = match special {
        Special::Compaction => compaction(&mut cluster, size).await?,
        Special::Failover { gracefully } => gap(&mut cluster, gracefully, size).await?,
        Special::Big => big(&mut cluster, size).await?,
    };
    cluster.kill_all()?;
    Ok(sample)
}

/// Puts so many versions at so many keys, a hundred in a transaction.
async fn load(cluster: &Cluster, leader: usize, keys: u64, versions: u64) -> Result<Report> {
    const TOGETHER: u64 = 100;
    let txn = TxnPut {
        keys: Keys::new("store/", 16, keys, Order::Sequential),
        value_bytes: VALUE_BYTES,
        fresh_values: true,
        operations: TOGETHER,
    };
    let settings = Settings {
        endpoints: endpoints(cluster, At::Leader, leader),
        clients: 32,
        connections: 8,
        amount: Amount::Total(versions / TOGETHER),
        warm_up: Duration::ZERO,
        ..Settings::default()
    };
    let report = tenure_bench::run(&Workload::TxnPut(txn), &settings, Rc::new(Silent)).await?;
    succeeded(&report).context("loading")?;
    Ok(report)
}

/// Puts at a fixed rate, and a third on its way all history is compacted; etcd's members are then defragmented, one by
/// one, as its operators do. Tenure's need nothing.
async fn compaction(cluster: &mut Cluster, size: Size) -> Result<Sample> {
    let keys = size.versions / 20;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    load(cluster, leader, keys, size.versions).await?;
    settle(&pids(cluster)?).await?;
    let put = Put { keys: Keys::new("store/", 16, keys, Order::Random), value_bytes: VALUE_BYTES, fresh_values: true };
    let settings = Settings {
        endpoints: endpoints(cluster, At::Leader, leader),
        clients: 1_000,
        connections: 100,
        amount: Amount::Time(size.load_time),
        rate: Some(size.rate),
        patience: PATIENCE,
        ..Settings::default()
    };
    let maintained = async {
        sleep(size.load_time / 3).await;
        maintain(cluster, leader).await
    };
    let workload = Workload::Put(put);
    let measured = async { Ok(tenure_bench::run(&workload, &settings, Rc::new(Silent)).await?) };
    let (report, ()) = tokio::try_join!(measured, maintained)?;
    succeeded(&report)?;
    let worst = report.worst_second.context("a run without a second")?;
    let mut sample = Sample::from([(Metric::WorstSecondP99Ms, worst.p99_ms), (Metric::P99Ms, report.latency.p99_ms)]);
    if report.missed > 0 {
        sample.insert(Metric::Missed, float(report.missed));
    }
    Ok(sample)
}

async fn maintain(cluster: &Cluster, leader: usize) -> Result<()> {
    let mut client = cluster.client(leader).await?;
    let revision = client.get("store/", None).await?.header().context("no header")?.revision();
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.context("compacting")?;
    if cluster.program == Program::Tenured {
        return Ok(());
    }
    for node in &cluster.nodes {
        let mut client = connect(&node.endpoint(), START_PATIENCE).await?;
        client.defragment().await.context("defragmenting")?;
    }
    Ok(())
}

/// The leader goes, and the time is taken until writes are answered again.
async fn gap(cluster: &mut Cluster, gracefully: bool, size: Size) -> Result<Sample> {
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    settle(&pids(cluster)?).await?;
    let report = failover(cluster, leader, gracefully, size.before, size.failover_time).await?;
    succeeded(&report)?;
    let figure = |name: &str| report.figures.get(name).copied().context("a failover without a gap");
    let gaps = [(Metric::GapMs, figure("gap_ms")?), (Metric::WriterGapMs, figure("writer_gap_ms")?)];
    // It is reaped here: what ended it was a signal from elsewhere.
    cluster.nodes[leader].wait_exit(READY_PATIENCE).await?;
    Ok(Sample::from(gaps))
}

/// One loss of a leader under the workload of that name.
pub async fn failover(
    cluster: &Cluster,
    leader: usize,
    gracefully: bool,
    after: Duration,
    time: Duration,
) -> Result<Report> {
    let pid = cluster.nodes[leader].pid()?;
    let signal = if gracefully { Signal::TERM } else { Signal::KILL };
    let ends = move || process::signal(pid, signal).map_err(|error| error.to_string());
    let failover = Failover {
        keys: Keys::new("failover/", 16, 1_000, Order::Sequential),
        value_bytes: VALUE_BYTES,
        trigger: Trigger::Call(Arc::new(ends)),
        after,
        probe_interval: Duration::from_millis(5),
        attempt: Duration::from_millis(500),
    };
    let settings = Settings {
        endpoints: endpoints(cluster, At::All, leader),
        connections: cluster.nodes.len(),
        amount: Amount::Time(time),
        ..Settings::default()
    };
    Ok(tenure_bench::run(&Workload::Failover(failover), &settings, Rc::new(Silent)).await?)
}

/// A store of many keys: what its members need of memory, and how long one takes to start after it was killed.
async fn big(cluster: &mut Cluster, size: Size) -> Result<Sample> {
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    load(cluster, leader, size.keys, size.keys).await?;
    settle(&pids(cluster)?).await?;
    let resident = Cost::of(&pids(cluster)?).resident_bytes;
    let serving = restart(cluster, leader).await?;
    Ok(Sample::from([
        (Metric::ResidentMib, float(resident) / f64::from(1 << 20)),
        (Metric::ServingMs, serving.as_secs_f64() * 1e3),
    ]))
}

/// Kills a member, lets the others agree, and starts it: the time until it answers a linearizable read.
pub async fn restart(cluster: &mut Cluster, at: usize) -> Result<Duration> {
    cluster.nodes[at].kill()?;
    cluster.wait_leader(LEADER_PATIENCE).await?;
    let settings = Settings {
        endpoints: vec![format!("127.0.0.1:{}", cluster.nodes[at].client_port)],
        patience: START_PATIENCE,
        ..Settings::default()
    };
    let restart = Restart { trigger: Trigger::Call(Arc::new(|| Ok(()))), key: "store/".to_owned() };
    let started = Instant::now();
    cluster.nodes[at].start()?;
    let report = tenure_bench::run(&Workload::Restart(restart), &settings, Rc::new(Silent)).await?;
    let took = started.elapsed();
    report.first_error.map_or(Ok(took), |error| Err(anyhow!("it does not serve: {error}")))
}
