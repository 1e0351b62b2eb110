//! Locks that nobody else wants: taken and let go, again and again.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tenure_bench::{Caller, Latencies, own_cpu};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use super::seat::{Seat, Service};
use super::{log_index, micros, millis};
use crate::binaries::Program;
use crate::lease_scale::{channels, seed, three_members};

/// Longer than any run.
const TTL: Duration = Duration::from_secs(3600);
/// No request of a cluster at work takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub clients: usize,
    pub connections: usize,
    /// How often a lock is taken and let go, by all clients together.
    pub pairs: u64,
}

/// What one run measured, of pairs of a Lock and an Unlock.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Pairs per second.
    pub rate: f64,
    /// Until a lock was held, in milliseconds: half of the times are below, and 99 percent.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU of all members for a pair, in microseconds.
    pub server_us: f64,
    /// CPU of the clients for a pair, in microseconds.
    pub client_us: f64,
    /// Entries of the Raft log for a pair. Those that come at once share one.
    pub entries: f64,
}

/// Runs the load at the leader of a new cluster.
pub async fn run(home: &Path, (program, service): (Program, Service), size: Size) -> Result<Figures> {
    let (mut cluster, leader) = three_members(program, home).await?;
    let leases = i64::try_from(size.clients)?;
    seed::grant(&channels(&cluster)?, 1, leases, seed::fixed(TTL)).await?;
    let host = format!("127.0.0.1:{}", cluster.nodes[leader].client_port);
    let warm_up = Size { pairs: size.pairs / 10, ..size };
    LocalSet::new().run_until(load(&host, service, warm_up, 0)).await.context("warming up")?;
    let (cpu, index) = (cluster.cpu()?, log_index(&cluster, leader).await?);
    let report = LocalSet::new().run_until(load(&host, service, size, warm_up.pairs)).await?;
    let (cpu, entries) = (cluster.cpu()?.saturating_sub(cpu), log_index(&cluster, leader).await? - index);
    cluster.kill_all()?;
    let pairs = f64::from(u32::try_from(report.latencies.count())?);
    Ok(Figures {
        rate: pairs / report.elapsed.as_secs_f64(),
        p50_ms: millis(report.latencies.percentile(50.0)),
        p99_ms: millis(report.latencies.percentile(99.0)),
        server_us: micros(cpu, usize::try_from(report.latencies.count())?),
        client_us: micros(report.client_cpu, usize::try_from(report.latencies.count())?),
        entries: f64::from(u32::try_from(entries)?) / pairs,
    })
}

/// What the clients saw.
struct Report {
    latencies: Latencies,
    elapsed: Duration,
    client_cpu: Duration,
}

/// Each client has a lock of its own. Latencies are those of taking it.
async fn load(host: &str, service: Service, size: Size, numbered_from: u64) -> Result<Report> {
    let mut callers = Vec::new();
    for _ in 0..size.connections {
        callers.push(Caller::connect(host).await?);
    }
    let left = Rc::new(Cell::new(size.pairs));
    let cpu_before = own_cpu();
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for (at, lease) in (0..size.clients).zip(1..) {
        let caller = callers[at % callers.len()].clone();
        let mut seat = Seat::new(caller, service, format!("lock-{at:05}"), lease).numbered_from(numbered_from);
        let left = left.clone();
        clients.spawn_local(async move {
            let mut latencies = Vec::new();
            while let Some(less) = left.get().checked_sub(1) {
                left.set(less);
                let asked = Instant::now();
                let held = timeout(PATIENCE, seat.lock()).await.context("a lock hangs")??;
                latencies.push(asked.elapsed());
                timeout(PATIENCE, seat.unlock(held)).await.context("an unlock hangs")??;
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Latencies::new();
    while let Some(done) = clients.join_next().await {
        done??.into_iter().for_each(|latency| latencies.record(latency));
    }
    Ok(Report { latencies, elapsed: started.elapsed(), client_cpu: own_cpu().saturating_sub(cpu_before) })
}
