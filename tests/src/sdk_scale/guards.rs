//! Many guards are held while leaders are killed: none is lost, none is doubled, and no holder is told anything else.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream;
use tenure_client::lock::{AcquireError, LockGuard, Wait};
use tenure_client::session::Session;
use tenure_client::{Client, ConnectOptions};

use crate::binaries::Program;
use crate::cluster::LEADER_PATIENCE;
use crate::lease_scale::three_members;

/// Requests under way at once.
const AT_ONCE: usize = 64;

/// What is held, and how often the leader dies.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub guards: usize,
    pub sessions: usize,
    pub kills: usize,
    pub ttl: Duration,
}

/// Holds guards, kills leaders with SIGKILL one after the other, and asks everybody after each.
pub async fn survive(home: &Path, size: Size) -> Result<()> {
    let (mut cluster, _) = three_members(Program::Tenured, home).await?;
    let holder = Client::connect(cluster.endpoints(), ConnectOptions::default()).await?;
    let other = Client::connect(cluster.endpoints(), ConnectOptions::default()).await?;
    let mut sessions = Vec::new();
    for at in 0..size.sessions {
        sessions.push(holder.session().ttl(size.ttl).name(format!("holder-{at}")).start().await?);
    }
    let rival = other.session().ttl(size.ttl).name("rival").start().await?;
    let guards: Vec<LockGuard> = stream::iter(0..size.guards)
        .map(|at| acquire(&sessions[at % size.sessions], at))
        .buffered(AT_ONCE)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    let tokens: Vec<_> = guards.iter().map(|guard| guard.token().revision).collect();
    println!("{} guards of {} sessions are held", guards.len(), size.sessions);
    let mut worst = Duration::MAX;
    for kill in 1..=size.kills {
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        cluster.nodes[leader].kill()?;
        let killed = Instant::now();
        let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
        cluster.wait_leader_among(&others, LEADER_PATIENCE).await?;
        // Everybody asks for everything: nobody gets anything, and every holder is still sure of it.
        let busy = stream::iter(0..size.guards).map(|at| is_busy(&rival, at)).buffer_unordered(AT_ONCE);
        let answers: Vec<Result<bool>> = busy.collect().await;
        let free = answers.into_iter().collect::<Result<Vec<bool>>>()?.into_iter().filter(|busy| !busy).count();
        ensure!(free == 0, "{free} locks were given to a second holder after kill {kill}");
        let lost = guards.iter().filter(|guard| guard.state().is_final()).count();
        ensure!(lost == 0, "{lost} guards say that they are lost after kill {kill}");
        worst = guards.iter().map(|guard| guard.remaining()).min().unwrap_or(Duration::ZERO).min(worst);
        println!("kill {kill}: all asked after {:?}; least time left {worst:?}", killed.elapsed());
        cluster.restart(leader).await?;
    }
    let now: Vec<_> = guards.iter().map(|guard| guard.token().revision).collect();
    ensure!(now == tokens, "a token changed");
    let verified =
        stream::iter(&guards).map(|guard| async { other.verify(&guard.token()).await }).buffer_unordered(AT_ONCE);
    let verified: Vec<bool> = verified.collect::<Vec<_>>().await.into_iter().collect::<Result<_, _>>()?;
    ensure!(verified.iter().all(|held| *held), "a guard is not the store's holder");
    for guard in guards {
        guard.release().await.map_err(|failed| anyhow::anyhow!("a release failed: {failed}"))?;
    }
    for session in sessions {
        session.close().await.context("closing a session")?;
    }
    println!("guards | {} | {} kills | least time left {worst:?} of {:?}", size.guards, size.kills, size.ttl);
    Ok(())
}

async fn acquire(session: &Session, at: usize) -> Result<LockGuard> {
    session.lock(format!("guard/{at}")).wait(Wait::Try).acquire().await.with_context(|| format!("lock {at}"))
}

/// Whether somebody else has the lock; if it is to be had, it is released again.
async fn is_busy(session: &Session, at: usize) -> Result<bool> {
    match session.lock(format!("guard/{at}")).wait(Wait::Try).acquire().await {
        Ok(_) => Ok(false),
        Err(AcquireError::Busy { .. }) => Ok(true),
        Err(error) => Err(error).with_context(|| format!("lock {at}")),
    }
}
