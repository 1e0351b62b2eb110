//! Fault scenarios for leases: what is broken, and what must come of it. `lease_load` works, `lease_check` judges.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use crate::binaries::Program;
use crate::check;
use crate::cluster::{Cluster, LEADER_PATIENCE};
use crate::lease_check::{Promise, Verdict};
use crate::lease_load::{LeaseLoad, Plan};

/// The server's default election timeout, which is also the grace.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// What design and documentation promise.
pub(crate) const PROMISE: Promise = Promise { grace: ELECTION_TIMEOUT, slack: Duration::from_secs(1), all_down: false };

/// A holder that renews after a third of a TTL of this length has time for several tries while leadership moves.
const NEVER_LOST_TTL: Duration = Duration::from_secs(8);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub rounds: usize,
    pub holders: usize,
    pub seed: u64,
}

/// Kills the leader and starts it again, `rounds` times.
pub async fn kill_leaders(home: &Path, counts: Counts) -> Result<()> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let mut rng = StdRng::seed_from_u64(counts.seed);
    let load = LeaseLoad::start(&cluster.endpoints(), &Plan::mixed(counts.holders, counts.seed))?;
    for _ in 0..counts.rounds {
        sleep(Duration::from_millis(rng.random_range(2500..6000))).await;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        cluster.nodes[leader].kill()?;
        sleep(Duration::from_millis(rng.random_range(0..3000))).await;
        cluster.restart(leader).await?;
    }
    judge(&cluster, load, &format!("{} leaders killed", counts.rounds), PROMISE).await
}

/// Stops the leader's process for much longer than leases live, and lets it go on, `rounds` times.
pub async fn pause_leaders(home: &Path, counts: Counts) -> Result<()> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let mut rng = StdRng::seed_from_u64(counts.seed);
    let load = LeaseLoad::start(&cluster.endpoints(), &Plan::mixed(counts.holders, counts.seed))?;
    for _ in 0..counts.rounds {
        sleep(Duration::from_millis(rng.random_range(2500..5000))).await;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        cluster.nodes[leader].pause()?;
        sleep(Duration::from_millis(rng.random_range(3000..13_000))).await;
        cluster.nodes[leader].resume()?;
    }
    judge(&cluster, load, &format!("{} leaders put to sleep", counts.rounds), PROMISE).await
}

/// Kills all members at once and starts them again, `rounds` times.
pub async fn kill_everyone(home: &Path, counts: Counts) -> Result<()> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let mut rng = StdRng::seed_from_u64(counts.seed);
    let load = LeaseLoad::start(&cluster.endpoints(), &Plan::mixed(counts.holders, counts.seed))?;
    for _ in 0..counts.rounds {
        sleep(Duration::from_millis(rng.random_range(4000..9000))).await;
        cluster.kill_all()?;
        sleep(Duration::from_millis(rng.random_range(0..2000))).await;
        cluster.start_all().await?;
    }
    let promise = Promise { all_down: true, ..PROMISE };
    judge(&cluster, load, &format!("all members killed {} times", counts.rounds), promise).await
}

async fn judge(cluster: &Cluster, load: LeaseLoad, title: &str, promise: Promise) -> Result<()> {
    let verdict = judge_times(load, title, promise).await?;
    ensure!(lost(&verdict, NEVER_LOST_TTL) == 0, "holders lost leases of {NEVER_LOST_TTL:?} and more");
    check::same_everywhere(cluster).await?;
    Ok(())
}

/// Lets a load end, and fails if a lease ended early or late.
pub(crate) async fn judge_times(load: LeaseLoad, title: &str, promise: Promise) -> Result<Verdict> {
    let (verdict, without_leader) = load.finish(promise).await?;
    println!("{}", verdict.table(title));
    println!("  {:.1} s without a working leader", without_leader.as_secs_f64());
    if let Some(wrong) = verdict.wrong() {
        bail!("{wrong}");
    }
    Ok(verdict)
}

/// Leases of at least this TTL that ended although their holders renewed them.
fn lost(verdict: &Verdict, ttl_min: Duration) -> usize {
    verdict.lost.iter().filter(|(ttl, _)| *ttl >= ttl_min).map(|(_, count)| count).sum()
}
