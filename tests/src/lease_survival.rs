//! Leases that nobody renews, while leadership moves again and again: what is left of their TTL must survive.
//!
//! All are granted at once, with a TTL of a minute. What is done to the cluster meanwhile goes on beyond their end, and
//! they are to be gone by the bound of docs/LEASES.md, not before their TTL and not a TTL later.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::time::{Instant, sleep, sleep_until};

use crate::binaries::Program;
use crate::check;
use crate::cluster::{Cluster, LEADER_PATIENCE};
use crate::lease_check::{Promise, Verdict};
use crate::lease_faults::{PROMISE, judge_times};
use crate::lease_load::{Kinds, LeaseLoad, Plan};
use crate::lease_scale::channel;
use crate::node::READY_PATIENCE;

/// Between two changes of leadership.
const EVERY: Duration = Duration::from_secs(5);
/// For how long a follower is cut off.
const CUT: Duration = Duration::from_secs(27);
/// How long a cluster is down altogether.
const DOWN: Duration = Duration::from_secs(3);
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How many leases, and how long they live.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub leases: usize,
    pub ttl: Duration,
}

impl Size {
    /// Until after the leases' end.
    fn until_after(self) -> Instant {
        Instant::now() + self.ttl + self.ttl / 100 + EVERY
    }

    fn load(self, cluster: &Cluster) -> Result<LeaseLoad> {
        LeaseLoad::start(&cluster.endpoints(), &Plan::alike(self.leases, self.ttl, Kinds::IdleOnce))
    }

    async fn judge(self, cluster: &Cluster, load: LeaseLoad, title: &str, promise: Promise) -> Result<Verdict> {
        let title = format!("TTL survives | {} leases of {} s | {title}", self.leases, self.ttl.as_secs());
        let verdict = judge_times(load, &title, promise).await?;
        ensure!(verdict.lives == self.leases, "{} of {} leases were seen", verdict.lives, self.leases);
        check::same_everywhere(cluster).await?;
        Ok(verdict)
    }
}

/// The leader is killed every few seconds, and started again when another leads.
pub async fn leaders_killed(home: &Path, size: Size) -> Result<()> {
    kill_leaders(home, size, false).await
}

/// The leader is killed every few seconds and started again at once, so that often it leads again.
///
/// A member that was down itself has lost the lease clock's time, so the time without a leader counts whenever it was, as
/// docs/LEASES.md says.
pub async fn leaders_killed_and_back_at_once(home: &Path, size: Size) -> Result<()> {
    kill_leaders(home, size, true).await
}

async fn kill_leaders(home: &Path, size: Size, back_at_once: bool) -> Result<()> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let load = size.load(&cluster)?;
    load.wait_held(size.leases).await?;
    let (end, mut kills) = (size.until_after(), 0);
    while Instant::now() < end {
        let next = Instant::now() + EVERY;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        cluster.nodes[leader].kill()?;
        kills += 1;
        if !back_at_once {
            let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
            cluster.wait_leader_among(&others, LEADER_PATIENCE).await?;
        }
        cluster.restart(leader).await?;
        sleep_until(next).await;
    }
    let back = if back_at_once { "back at once" } else { "back when another leads" };
    let promise = Promise { all_down: back_at_once, ..PROMISE };
    size.judge(&cluster, load, &format!("{kills} leaders killed, one every {EVERY:?}, {back}"), promise).await?;
    Ok(())
}

/// Leadership is handed over every few seconds.
pub async fn leadership_moved(home: &Path, size: Size) -> Result<()> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let load = size.load(&cluster)?;
    load.wait_held(size.leases).await?;
    let (end, mut moves) = (size.until_after(), 0);
    while Instant::now() < end {
        let next = Instant::now() + EVERY;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        move_leader(&mut cluster, (leader + 1) % 3).await?;
        moves += 1;
        sleep_until(next).await;
    }
    size.judge(&cluster, load, &format!("{moves} graceful transfers, one every {EVERY:?}"), PROMISE).await?;
    Ok(())
}

/// A follower is cut off from the others for long, and leads when it is back.
pub async fn cut_off_then_leads(home: &Path, size: Size) -> Result<()> {
    let (mut cluster, ports) = Cluster::with_faults(3, home, &[])?;
    cluster.start_all().await?;
    let load = size.load(&cluster)?;
    load.wait_held(size.leases).await?;
    let follower = cluster.follower().await?;
    let mut others = Vec::new();
    for at in (0..3).filter(|at| *at != follower) {
        others.push(cluster.status(at).await?.header().context("a status without a header")?.member_id());
    }
    ports[follower].cut(&others, &others).await?;
    sleep(CUT).await;
    ports[follower].heal().await?;
    cluster.wait_leader(LEADER_PATIENCE).await?;
    move_leader(&mut cluster, follower).await?;
    size.judge(&cluster, load, &format!("a follower leads that was cut off for {CUT:?}"), PROMISE).await?;
    Ok(())
}

/// One member after the other is stopped in order and started again, over and over.
pub async fn rolling_restarts(home: &Path, size: Size) -> Result<()> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let load = size.load(&cluster)?;
    load.wait_held(size.leases).await?;
    let (end, mut restarts) = (size.until_after(), 0);
    while Instant::now() < end {
        let next = Instant::now() + EVERY;
        let node = &mut cluster.nodes[restarts % 3];
        node.stop(STOP_PATIENCE).await?;
        node.start()?;
        node.wait_ready(READY_PATIENCE).await?;
        restarts += 1;
        sleep_until(next).await;
    }
    size.judge(&cluster, load, &format!("{restarts} members restarted in turn, one every {EVERY:?}"), PROMISE).await?;
    Ok(())
}

/// All members are killed at once in mid-life, and started again after a while.
pub async fn everyone_killed(home: &Path, size: Size) -> Result<()> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let load = size.load(&cluster)?;
    load.wait_held(size.leases).await?;
    sleep(size.ttl / 2).await;
    cluster.kill_all()?;
    sleep(DOWN).await;
    cluster.start_all().await?;
    // Nobody's clock goes on while nobody lives, so that time counts wherever it falls.
    let promise = Promise { all_down: true, ..PROMISE };
    size.judge(&cluster, load, &format!("all members killed half-way and down for {DOWN:?}"), promise).await?;
    Ok(())
}

/// Moves leadership, again until it is there: a member that was just away may have to catch up.
async fn move_leader(cluster: &mut Cluster, to: usize) -> Result<()> {
    let deadline = Instant::now() + LEADER_PATIENCE;
    let target_id = cluster.status(to).await?.header().context("a status without a header")?.member_id();
    loop {
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        if leader == to {
            return Ok(());
        }
        let mut client = MaintenanceClient::new(channel(&cluster.nodes[leader].endpoint())?);
        let moved = client.move_leader(pb::MoveLeaderRequest { target_id }).await;
        ensure!(Instant::now() < deadline, "leadership does not move to {to}: {moved:?}");
        if moved.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    }
}
