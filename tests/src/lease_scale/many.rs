//! Very many leases live and are renewed through all members: none may be lost, and what it costs is told.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tokio::time::sleep;
use tonic::transport::Channel;

use super::cost::Cost;
use super::fleet::{Fleet, Kept};
use super::seed::{fixed, grant, put_keys};
use super::wire::Way;
use super::{ANSWER_BYTES_MAX, channels, ms, thousands, three_members};
use crate::binaries::Program;
use crate::lease_check::Moment;

/// Leases granted before the first of them are renewed: granting takes longer than a TTL when there are very many.
const PART: i64 = 20_000;
/// How long a cluster rests before it is looked at.
const REST: Duration = Duration::from_secs(3);
/// How long nothing is done, to see what that costs. Shorter than a TTL.
const IDLE: Duration = Duration::from_secs(10);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub leases: i64,
    pub ttl: Duration,
    pub way: Way,
    /// How long the renewals are measured.
    pub measured: Duration,
}

/// So many leases, renewed for as long as is measured.
pub async fn renewed(home: &Path, program: Program, size: Size) -> Result<()> {
    let (cluster, leader) = three_members(program, home).await?;
    let channels = channels(&cluster)?;
    // What a member keeps once it has worked is not the leases'.
    put_keys(&channels, "warm/", 20_000, |_| 0).await?;
    sleep(REST).await;
    let empty = Cost::read(&cluster).await?;
    let mut fleet = Fleet::that_asks(&channels, size.way);
    let began = Moment::now();
    for first in (1..=size.leases).step_by(usize::try_from(PART)?) {
        let count = PART.min(size.leases + 1 - first);
        fleet.add(&grant(&channels, first, count, fixed(size.ttl)).await?);
    }
    let granting = Moment::now().since(began);
    sleep(size.ttl / 3).await;
    let (before, acked_before) = (Cost::read(&cluster).await?, fleet.acked());
    sleep(size.measured).await;
    let (after, acked) = (Cost::read(&cluster).await?, fleet.acked() - acked_before);
    let there = live(&channels[leader]).await?;
    let kept = fleet.finish().await?;
    sleep(Duration::from_secs(1)).await;
    let resting = Cost::read(&cluster).await?;
    sleep(IDLE).await;
    let idle = Cost::read(&cluster).await?.since(&resting);
    let (spent, leases) = (after.since(&before), u64::try_from(size.leases)?);
    let operations = f64::from(u32::try_from(acked)?);
    println!(
        "many leases | {} | {} | {} of TTL {} s, granted in {} | {kept} | {} live | memory per lease {} | {:.0} renewals/s: {}; {} | \
         without renewals: {}",
        program.label(),
        if size.way == Way::Each { "one by one" } else { "in batches" },
        thousands(leases),
        size.ttl.as_secs(),
        ms(granting),
        thousands(there),
        after.memory_per_lease(&empty, leases),
        operations / spent.time.as_secs_f64(),
        spent.per_operation(operations, 3.0),
        spent.per_second(),
        idle.per_second(),
    );
    judge(program, &kept, there, leases)
}

fn judge(program: Program, kept: &Kept, there: u64, leases: u64) -> Result<()> {
    if program == Program::Etcd {
        return Ok(());
    }
    kept.none_lost()?;
    ensure!(there == leases, "{there} of {leases} leases are there");
    Ok(())
}

/// How many leases a member lists.
async fn live(channel: &Channel) -> Result<u64> {
    let mut client = LeaseClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
    let leases = client.lease_leases(pb::LeaseLeasesRequest {}).await?.into_inner().leases;
    Ok(leases.len() as u64)
}
