//! Every workload once, tiny: that each of them works at all, on either program. It measures nothing.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tenure_bench::workload::{
    LeaseExpire, LeaseGrant, LeaseKeepalive, LeaseRevoke, Lock, LockApi, Put, Range, TxnMixed, TxnPut, Watch,
    WatchCatchUp, WatchLatency,
};
use tenure_bench::{Amount, Error, Keys, Order, Report, Settings, Silent, Workload};

use super::compare::{endpoints, succeeded};
use super::special::{failover, restart};
use super::works::At;
use crate::binaries::Program;
use crate::cluster::{Cluster, LEADER_PATIENCE};

/// Of each workload.
const OPERATIONS: u64 = 200;
const TTL: Duration = Duration::from_secs(60);

/// Runs all of them on one cluster.
pub async fn every_workload(program: Program, home: &Path) -> Result<()> {
    let mut cluster = Cluster::start(program, 3, home).await?;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    let everyone = Settings {
        endpoints: endpoints(&cluster, At::All, leader),
        clients: 20,
        connections: 6,
        amount: Amount::Total(OPERATIONS),
        warm_up: Duration::from_millis(20),
        ..Settings::default()
    };
    for (workload, operations) in workloads() {
        let report = run(&workload, &everyone).await?;
        ensure!(report.operations == operations, "{} of {operations} operations: {workload:?}", report.operations);
    }
    native_locks(program, &everyone).await?;
    open_loop(&everyone).await?;
    let report = failover(&cluster, leader, false, Duration::from_millis(300), Duration::from_secs(6)).await?;
    succeeded(&report)?;
    ensure!(report.figures["gap_ms"] > 0.0 && report.operations > 100, "nothing was written: {report:?}");
    cluster.nodes[leader].wait_exit(LEADER_PATIENCE).await?;
    let next = cluster.wait_leader(LEADER_PATIENCE).await?;
    cluster.nodes[leader].start()?;
    cluster.wait_leader(LEADER_PATIENCE).await?;
    let took = restart(&mut cluster, (0..3).find(|at| *at != next).context("a follower")?).await?;
    ensure!(took > Duration::from_millis(1), "a process does not start in {took:?}");
    Ok(())
}

async fn run(workload: &Workload, settings: &Settings) -> Result<Report> {
    let report =
        tenure_bench::run(workload, settings, Rc::new(Silent)).await.with_context(|| format!("{workload:?}"))?;
    succeeded(&report).with_context(|| format!("{workload:?}"))?;
    ensure!(report.latency.p50_ms > 0.0 && report.bytes_received > 0, "no figures: {workload:?}");
    Ok(report)
}

/// With how many operations each of them is to have done.
fn workloads() -> Vec<(Workload, u64)> {
    let data = |prefix: &str, count| Keys::new(prefix, 16, count, Order::Random);
    let range = Range {
        keys: data("range/", 50),
        value_bytes: 100,
        fill: true,
        serializable: false,
        whole: false,
        keys_only: false,
        count_only: false,
        page: None,
        old_revision: false,
        revision: None,
    };
    let pages = Range { whole: true, page: Some(7), old_revision: true, ..range.clone() };
    let count = Range { whole: true, count_only: true, serializable: true, ..range.clone() };
    let lock = |api, locks| Workload::Lock(Lock { api, locks, prefix: format!("lock/{api:?}/"), ttl: TTL });
    let mixed = |compare| {
        let keys = data("mixed/", 50);
        TxnMixed { keys, value_bytes: 100, read_share: 0.5, serializable: false, compare, fill: true }
    };
    let watch = Watch { keys: data("watch/", 2), value_bytes: 32, watchers: 20, streams: 4, prefix: false, ahead: 1 };
    let all = vec![
        Workload::Put(Put { keys: data("put/", 50), value_bytes: 100, fresh_values: true }),
        Workload::Range(Range { serializable: true, ..range.clone() }),
        Workload::Range(range),
        Workload::Range(pages),
        Workload::Range(count),
        Workload::TxnPut(TxnPut { keys: data("txn/", 50), value_bytes: 100, fresh_values: true, operations: 10 }),
        Workload::TxnMixed(mixed(false)),
        Workload::TxnMixed(mixed(true)),
        Workload::LeaseGrant(LeaseGrant { ttl: TTL }),
        Workload::LeaseKeepalive(LeaseKeepalive { ttl: TTL, streams: None }),
        Workload::LeaseKeepalive(LeaseKeepalive { ttl: TTL, streams: Some(3) }),
        Workload::LeaseExpire(LeaseExpire { keys: data("expire/", 1_000), ttl: Duration::from_secs(1) }),
        Workload::LeaseRevoke(LeaseRevoke { keys: data("revoke/", 10_000), value_bytes: 10, attached: 10 }),
        lock(LockApi::V3lock, None),
        lock(LockApi::V3lock, Some(5)),
        lock(LockApi::Recipe, None),
        lock(LockApi::Recipe, Some(5)),
        Workload::Watch(watch.clone()),
        Workload::Watch(Watch { prefix: true, ..watch }),
        Workload::WatchLatency(WatchLatency { keys: data("own/", 50), value_bytes: 32 }),
        Workload::WatchCatchUp(WatchCatchUp { keys: data("past/", 50), value_bytes: 32, history: 100 }),
    ];
    all.into_iter().map(|workload| (workload, OPERATIONS)).collect()
}

/// Tenure has them, and etcd is told apart in words.
async fn native_locks(program: Program, settings: &Settings) -> Result<()> {
    let lock = Workload::Lock(Lock { api: LockApi::Native, locks: Some(5), prefix: "native/".to_owned(), ttl: TTL });
    if program == Program::Tenured {
        run(&lock, settings).await?;
        return Ok(());
    }
    match tenure_bench::run(&lock, settings, Rc::new(Silent)).await {
        Err(Error::Settings(words)) if words.contains("need Tenure") => Ok(()),
        other => anyhow::bail!("native locks at an etcd: {other:?}"),
    }
}

/// By the clock, with the leader alone.
async fn open_loop(settings: &Settings) -> Result<()> {
    let keys = Keys::new("open/", 16, 50, Order::Zipf);
    let put = Workload::Put(Put { keys, value_bytes: 100, fresh_values: false });
    let amount = Amount::Time(Duration::from_secs(1));
    let report = run(&put, &Settings { rate: Some(100.0), leader_only: true, amount, ..settings.clone() }).await?;
    ensure!(report.operations + report.missed == 100 && report.operations > 50, "{report:?}");
    ensure!(report.endpoints.len() == 1, "there is one leader: {:?}", report.endpoints);
    Ok(())
}
