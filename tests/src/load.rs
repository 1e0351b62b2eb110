//! The load generator: closed-loop clients that cost as little as a gRPC client can.
//!
//! It shares its machine with the servers it measures, so it calls them by hand-made frames, on the one thread of the
//! caller's runtime. Semantics are those of etcd's own benchmark tool: `clients` loops spread
//! over `connections` connections, each sending its next request when the last is answered, keys in sequence.

use std::rc::Rc;
use std::time::{Duration, Instant};
use std::{cell::Cell, fs};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tenure_proto::etcdserverpb as pb;
use tokio::task::{JoinSet, LocalSet};

use crate::fast::{Caller, framed};

/// A request that takes longer has failed: servers answer or refuse within seven seconds.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
const TICKS_PER_SECOND: u32 = 100;

/// What every client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Put a value at the next key of the sequence.
    Put,
    /// Read one key with a linearizable range.
    Range,
    /// One put for every nine ranges.
    Mixed,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Load {
    /// Host and port of each server; connections go to them in turn.
    pub endpoints: Vec<String>,
    pub clients: usize,
    pub connections: usize,
    pub total: u64,
    pub key_bytes: usize,
    pub value_bytes: usize,
    /// Whether every put has a value of its own, which no engine can compress against another; costs the client CPU.
    pub fresh_values: bool,
    /// Keys run from 0 to this and start over.
    pub keys: u64,
    pub operation: Operation,
}

/// What one run measured.
#[derive(Clone, Debug)]
pub struct Report {
    pub requests: usize,
    pub elapsed: Duration,
    pub mean: Duration,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
    /// CPU time of this process per request.
    pub client_cpu: Duration,
}

impl Report {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        f64::from(u32::try_from(self.requests).unwrap_or(u32::MAX)) / self.elapsed.as_secs_f64()
    }

    pub(crate) fn from_latencies(mut latencies: Vec<Duration>, elapsed: Duration, cpu: Duration) -> Result<Self> {
        ensure!(!latencies.is_empty(), "nothing was measured");
        latencies.sort_unstable();
        let requests = latencies.len();
        let count = u32::try_from(requests)?;
        Ok(Self {
            requests,
            elapsed,
            mean: latencies.iter().sum::<Duration>() / count,
            p50: percentile(&latencies, 50),
            p99: percentile(&latencies, 99),
            max: percentile(&latencies, 100),
            client_cpu: cpu / count,
        })
    }
}

/// What so many percent are below, of times in ascending order; 100 is for the longest. Nothing took no time.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() * percent / 100).min(last)).copied().unwrap_or_default()
}

/// The next key of the sequence, shared by all clients of a run.
#[derive(Debug)]
struct Sequence {
    next: Cell<u64>,
    total: u64,
}

impl Sequence {
    fn take(&self) -> Option<u64> {
        let at = self.next.get();
        (at < self.total).then(|| {
            self.next.set(at + 1);
            at
        })
    }
}

/// Runs the load to its end. The first failed request fails the run: a rate with errors in it means nothing.
pub async fn run(load: &Load) -> Result<Report> {
    LocalSet::new().run_until(run_local(load)).await
}

async fn run_local(load: &Load) -> Result<Report> {
    ensure!(load.clients > 0 && load.connections > 0 && load.keys > 0, "clients, connections and keys start at one");
    let mut connections = Vec::new();
    for at in 0..load.connections {
        let endpoint = &load.endpoints[at % load.endpoints.len()];
        connections.push(Caller::connect(endpoint).await?);
    }
    let sequence = Rc::new(Sequence { next: Cell::new(0), total: load.total });
    let value = random_bytes(load.value_bytes);
    let cpu_before = own_cpu()?;
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for at in 0..load.clients {
        let caller = connections[at % connections.len()].clone();
        clients.spawn_local(client_loop(caller, load.clone(), value.clone(), sequence.clone()));
    }
    let mut latencies = Vec::new();
    while let Some(done) = clients.join_next().await {
        latencies.extend(done??);
    }
    let elapsed = started.elapsed();
    Report::from_latencies(latencies, elapsed, own_cpu()?.saturating_sub(cpu_before))
}

fn random_bytes(count: usize) -> Bytes {
    (0..count).map(|_| rand::random::<u8>()).collect()
}

async fn client_loop(caller: Caller, load: Load, value: Bytes, sequence: Rc<Sequence>) -> Result<Vec<Duration>> {
    let put_uri = caller.uri("/etcdserverpb.KV/Put")?;
    let range_uri = caller.uri("/etcdserverpb.KV/Range")?;
    let mut latencies = Vec::new();
    while let Some(at) = sequence.take() {
        let is_put = match load.operation {
            Operation::Put => true,
            Operation::Range => false,
            Operation::Mixed => at % 10 == 0,
        };
        let key = Bytes::from(format!("{:0width$}", at % load.keys, width = load.key_bytes));
        let (uri, body) = if is_put {
            let value = if load.fresh_values { random_bytes(load.value_bytes) } else { value.clone() };
            (put_uri.clone(), framed(&pb::PutRequest { key, value, ..pb::PutRequest::default() }))
        } else {
            (range_uri.clone(), framed(&pb::RangeRequest { key, ..pb::RangeRequest::default() }))
        };
        let started = Instant::now();
        let call = async { caller.send(uri, body).await?.end().await };
        let received = tokio::time::timeout(REQUEST_PATIENCE, call).await.context("a request hangs")??;
        ensure!(received > 0, "an answer without a message");
        latencies.push(started.elapsed());
    }
    Ok(latencies)
}

pub(crate) fn own_cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').context("unexpected /proc/self/stat")?;
    let ticks: u32 = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    Ok(Duration::from_secs(1) / TICKS_PER_SECOND * ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_from_sorted_latencies() {
        let latencies = (1..=100).rev().map(Duration::from_millis).collect();
        let report = Report::from_latencies(latencies, Duration::from_secs(1), Duration::ZERO).unwrap();
        assert_eq!(report.p50, Duration::from_millis(51));
        assert_eq!(report.p99, Duration::from_millis(100));
        assert_eq!(report.max, Duration::from_millis(100));
        assert!((report.rate() - 100.0).abs() < 0.001);
    }
}
