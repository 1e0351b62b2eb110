//! What an append costs on a given disk: for `examples/log_bench.rs`, which cannot name openraft's types.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use super::{LogCounters, LogOptions, LogStore, OsFiles};
use crate::runtime::BootInstant;
use crate::types::{Config, Entry, Payload, Proposal, log_id};

/// What was measured.
#[derive(Clone, Debug)]
pub struct AppendCost {
    /// From append to durable, sorted.
    pub durable_after: Vec<Duration>,
    /// The part of it that the caller spent in `append`, sorted.
    pub queued_after: Vec<Duration>,
    /// All of it.
    pub took: Duration,
    /// The log's own counters.
    pub counters: LogCounters,
}

/// Appends groups of a size, one entry each, with at most `in_flight` of them not yet durable.
pub async fn append_cost(dir: PathBuf, group_bytes: usize, groups: u64, in_flight: usize) -> io::Result<AppendCost> {
    let mut log = LogStore::open(Arc::new(OsFiles), dir, LogOptions::default())?;
    let payload = Bytes::from(vec![0x5a; group_bytes]);
    let mut durable_after = Vec::new();
    let mut queued_after = Vec::new();
    let mut waiting = std::collections::VecDeque::new();
    let begin = BootInstant::now();
    for index in 0..groups {
        let entry = Entry { log_id: log_id(1, index), payload: Payload::Normal(Proposal(payload.clone())) };
        let (done, durable) = Config::oneshot();
        let started = BootInstant::now();
        log.append([entry], IOFlushed::signal(done)).await?;
        queued_after.push(started.elapsed());
        waiting.push_back((started, durable));
        while waiting.len() >= in_flight.max(1) {
            let Some((started, durable)) = waiting.pop_front() else { break };
            durable.await.map_err(io::Error::other)??;
            durable_after.push(started.elapsed());
        }
    }
    for (started, durable) in waiting {
        durable.await.map_err(io::Error::other)??;
        durable_after.push(started.elapsed());
    }
    let took = begin.elapsed();
    durable_after.sort_unstable();
    queued_after.sort_unstable();
    log.close()?;
    Ok(AppendCost { durable_after, queued_after, took, counters: log.counters() })
}
