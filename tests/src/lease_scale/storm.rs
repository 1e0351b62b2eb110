//! Very many leases are due in the same second, each with a key.
//!
//! Leases that are granted later get shorter TTLs, so that all are due between one moment and a second after it. Each is
//! to be gone in a revision of its own: the revision is counted before and after. The probe tells what others feel.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;
use tonic::transport::Channel;

use super::probe::{Kind, Probe};
use super::seed::{Granted, grant, put_keys};
use super::{channels, count_at, ms, thousands, three_members};
use crate::binaries::Program;
use crate::cluster::Cluster;
use crate::http1;
use crate::lease_check::Moment;

/// All must be gone so long after the last of them was due.
const GONE_MAX: Duration = Duration::from_secs(5);
/// What is not gone by then is told. A real etcd needs minutes.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// How long the probe works before, to compare.
const QUIET: Duration = Duration::from_secs(10);
/// Grants and puts of keys take less than this for each thousand leases.
const SEEDING_PER_THOUSAND: Duration = Duration::from_millis(350);
/// How often it is looked how many are left.
const LOOK: Duration = Duration::from_millis(50);

/// What was seen of the storm.
struct Storm {
    first_due: Moment,
    last_due: Moment,
    first_gone: Moment,
    gone: Moment,
    /// How many were gone then.
    ended: u64,
}

/// So many leases are due in one second.
pub async fn storm(home: &Path, program: Program, leases: i64, put_slowdown_max: f64) -> Result<()> {
    let (cluster, leader) = three_members(program, home).await?;
    let channels = channels(&cluster)?;
    let granted = seeded(&channels, program, leases).await?;
    let (there, before) = count_at(&channels[leader], "storm/", 0).await?;
    ensure!(there == leases, "{there} of {leases} keys are there");
    let probe = Probe::start(&channels);
    let began = Moment::now();
    let storm = watch(&cluster, leader, &granted).await?;
    sleep(Duration::from_secs(2)).await;
    let felt = probe.finish().await?;
    let (left, after) = count_at(&channels[leader], "storm/", 0).await?;
    let puts = felt.of(Kind::Put);
    let revisions = after - before - i64::try_from(puts.count())?;
    let quiet = puts.between(began, storm.first_due);
    let during = puts.between(storm.first_due, storm.gone);
    println!(
        "expiry storm | {} | {} leases with a key each, due within {} | first gone {} after the first was due, {} gone {} after \
         the last was due ({} after the first) | put p99 {} before, {} meanwhile (worst {}, {}) | {revisions} revisions | {} of \
         {} probes failed",
        program.label(),
        thousands(u64::try_from(leases)?),
        ms(storm.last_due.since(storm.first_due)),
        ms(storm.first_gone.since(storm.first_due)),
        thousands(storm.ended),
        ms(storm.gone.since(storm.last_due)),
        ms(storm.gone.since(storm.first_due)),
        ms(quiet.percentile(99)),
        ms(during.percentile(99)),
        ms(quiet.worst()),
        ms(during.worst()),
        felt.failed(),
        felt.count(),
    );
    if program == Program::Etcd {
        return Ok(());
    }
    ensure!(felt.failed() == 0, "{} requests of others failed", felt.failed());
    ensure!(left == 0, "{left} keys are left");
    ensure!(revisions == leases, "{revisions} revisions for {leases} leases");
    let late = storm.gone.since(storm.last_due);
    ensure!(late <= GONE_MAX, "the last of {leases} leases was gone {late:?} after it was due");
    let (quiet, during) = (quiet.percentile(99), during.percentile(99));
    ensure!(during <= quiet.mul_f64(put_slowdown_max), "p99 of puts: {quiet:?} before, {during:?} in the storm");
    Ok(())
}

/// Leases with a key each that are all due in the same second, which begins a while after this.
async fn seeded(channels: &[Channel], program: Program, leases: i64) -> Result<Vec<Granted>> {
    let seeding = SEEDING_PER_THOUSAND * u32::try_from(leases / 1000 + 1)?;
    let window = Moment::now().plus(seeding + QUIET + Duration::from_secs(5));
    let lifetime = lifetime(program);
    let ttl = move |now: Moment| {
        let secs = (window.since(now).as_secs_f64() / lifetime).ceil();
        // Two seconds is the shortest TTL; it is too late when it is needed, which is found below.
        (2..=86_400_u32).find(|ttl| f64::from(*ttl) >= secs).map_or(86_400, u64::from)
    };
    let granted = grant(channels, 1, leases, Arc::new(ttl)).await?;
    put_keys(channels, "storm/", leases, |at| at + 1).await?;
    let late = Moment::now().plus(QUIET).since(window);
    ensure!(late.is_zero(), "granting leases took {late:?} too long for all to be due in one second");
    Ok(granted)
}

/// How long a lease lives by its program, for each second of its TTL.
fn lifetime(program: Program) -> f64 {
    match program {
        Program::Etcd | Program::Etcd37 => 1.0,
        Program::Tenured | Program::TenuredFaults => 1.01,
    }
}

/// Looks until all are gone; none may be before its TTL is over.
async fn watch(cluster: &Cluster, leader: usize, granted: &[Granted]) -> Result<Storm> {
    let dues = || granted.iter().map(|lease| lease.sent.plus(lease.ttl.mul_f64(lifetime(cluster.program))));
    let first_due = dues().min().context("no leases")?;
    let last_due = dues().max().context("no leases")?;
    let promised = granted.iter().map(|lease| lease.sent.plus(lease.ttl)).min().context("no leases")?;
    let mut first_gone = None;
    loop {
        let ended = ended(cluster, leader).await?;
        let now = Moment::now();
        ensure!(ended == 0 || now >= promised, "{ended} leases ended {:?} before the first TTL", promised.since(now));
        if ended > 0 {
            first_gone.get_or_insert(now);
        }
        if ended >= u64::try_from(granted.len())? || now.since(last_due) > END_PATIENCE {
            return Ok(Storm { first_due, last_due, first_gone: first_gone.unwrap_or(now), gone: now, ended });
        }
        sleep(LOOK).await;
    }
}

/// How many leases have ended by themselves, by the leader's count.
async fn ended(cluster: &Cluster, leader: usize) -> Result<u64> {
    let name = match cluster.program {
        Program::Etcd | Program::Etcd37 => "etcd_debugging_server_lease_expired_total",
        Program::Tenured | Program::TenuredFaults => "tenure_leases_expired_total",
    };
    let page = http1::get(cluster.nodes[leader].client_port, "/metrics", Duration::from_secs(10)).await?.body;
    let ended = http1::number(&page, name).with_context(|| format!("no metric {name}"))?;
    // A count of what there is at most a million of.
    format!("{ended:.0}").parse().with_context(|| format!("{name} is {ended}"))
}
