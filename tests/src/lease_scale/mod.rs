//! Leases in large numbers, and leases with many keys, on real servers: what must hold, and what it costs.
//!
//! Each scenario prints one line of figures for each program and size, and fails when a bound is broken. Bounds hold for
//! Tenure; a real etcd is put through the same where `ETCD_BIN` names one, for the figures alone.

pub mod big;
pub mod cost;
pub mod fleet;
pub mod many;
pub mod probe;
pub mod promotion;
pub mod seed;
pub mod slow_apply;
pub mod storm;
pub mod wire;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tonic::transport::{Channel, Endpoint};

use crate::binaries::Program;
use crate::cluster::{Cluster, LEADER_PATIENCE};

/// Answers that list a million leases.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// No request of a cluster at work takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The programs to compare: etcd too, if there is one.
pub fn programs() -> Vec<Program> {
    match Program::Etcd.path() {
        Ok(_) => vec![Program::Tenured, Program::Etcd],
        Err(_) => {
            println!("no etcd beside it: ETCD_BIN names none");
            vec![Program::Tenured]
        }
    }
}

/// Three members that have a leader, and who that is.
pub async fn three_members(program: Program, home: &Path) -> Result<(Cluster, usize)> {
    // etcd's own size limit is 2 GiB; neither program is to be stopped by one here.
    let flags = ["--quota-backend-bytes=8589934592"];
    let mut cluster = Cluster::with_flags(program, 3, &home.join(program.label()), &flags)?;
    cluster.start_all().await?;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    Ok((cluster, leader))
}

/// A connection of its own to a member, made when it is first used.
pub fn channel(endpoint: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned())?.connect_timeout(Duration::from_millis(500));
    Ok(endpoint.tcp_nodelay(true).connect_lazy())
}

/// A connection to each member.
pub fn channels(cluster: &Cluster) -> Result<Vec<Channel>> {
    cluster.endpoints().iter().map(|endpoint| channel(endpoint)).collect()
}

/// A linearizable count of the keys with a prefix, at a revision (0 is the present), and the present revision.
pub async fn count_at(channel: &Channel, prefix: &str, revision: i64) -> Result<(i64, i64)> {
    let range = pb::RangeRequest {
        key: prefix.to_owned().into(),
        range_end: format!("{prefix}\u{7f}").into(),
        revision,
        count_only: true,
        ..pb::RangeRequest::default()
    };
    let answer = KvClient::new(channel.clone()).range(range).await?.into_inner();
    Ok((answer.count, answer.header.context("an answer without a header")?.revision))
}

/// The one revision at which all keys with a prefix went, all at once; `before` is one at which all were there.
pub async fn one_revision(channel: &Channel, prefix: &str, before: i64, count: i64) -> Result<i64> {
    let (left, now) = count_at(channel, prefix, 0).await?;
    ensure!(left == 0, "{left} keys of {prefix} are still there");
    let (mut there, mut gone) = (before, now);
    while gone - there > 1 {
        let middle = there + (gone - there) / 2;
        let (found, _) = count_at(channel, prefix, middle).await?;
        ensure!(found == 0 || found == count, "{found} of {count} keys of {prefix} were there at revision {middle}");
        if found == 0 {
            gone = middle;
        } else {
            there = middle;
        }
    }
    Ok(gone)
}

/// A duration for a line of figures.
pub fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// A count with its thousands apart.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let first = digits.len() % 3;
    let groups = [digits.get(..first).unwrap_or_default()].into_iter().filter(|group| !group.is_empty());
    let rest = (first..digits.len()).step_by(3).filter_map(|at| digits.get(at..at + 3));
    groups.chain(rest).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let shown: Vec<_> = [0, 7, 100, 1000, 99_999, 100_000, 1_234_567].map(thousands).into_iter().collect();
        assert_eq!(shown, ["0", "7", "100", "1,000", "99,999", "100,000", "1,234,567"]);
        assert_eq!(ms(Duration::from_micros(1540)), "1.5 ms");
        assert_eq!(ms(Duration::from_millis(1540)), "1540 ms");
    }
}
