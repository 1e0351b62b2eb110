//! Every member takes long to apply what is committed: no lease may end whose renewals are in the log.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::fleet::Fleet;
use super::seed::{fixed, grant};
use super::{channels, thousands};
use crate::cluster::{Cluster, LEADER_PATIENCE};

const POINT: &str = "raftBeforeApplyEntry";

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub leases: i64,
    pub ttl: Duration,
    /// What each entry takes longer.
    pub slower: Duration,
    /// For how long.
    pub lasting: Duration,
}

/// Renews leases while every entry takes longer to apply.
pub async fn renewed(home: &Path, size: Size) -> Result<()> {
    let (mut cluster, ports) = Cluster::with_faults(3, home, &[])?;
    cluster.start_all().await?;
    let channels = channels(&cluster)?;
    let granted = grant(&channels, 1, size.leases, fixed(size.ttl)).await?;
    let mut fleet = Fleet::new(&channels);
    fleet.add(&granted);
    for port in &ports {
        port.arm(POINT, &format!("sleep({})", size.slower.as_millis())).await?;
    }
    sleep(size.lasting).await;
    let mut slowed = 0;
    for port in &ports {
        slowed += port.count(POINT).await?;
        port.disarm(POINT).await?;
    }
    // The renewals under way are answered before they stop.
    sleep(size.ttl / 2).await;
    let kept = fleet.finish().await?;
    cluster.wait_leader(LEADER_PATIENCE).await?;
    println!(
        "slow apply | {} leases of TTL {} s, every entry applied {} ms later for {} s ({slowed} entries at three members) | {kept}",
        thousands(u64::try_from(size.leases)?),
        size.ttl.as_secs(),
        size.slower.as_millis(),
        size.lasting.as_secs(),
    );
    ensure!(slowed > 0, "nothing was slowed");
    kept.none_lost()
}
