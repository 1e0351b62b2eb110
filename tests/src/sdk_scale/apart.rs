//! A holder whose network goes away: it is in jeopardy, then it has lost its lock, and only then can anybody else have it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use tenure_client::lock::Wait;
use tenure_client::session::SessionState;
use tenure_client::{Client, ConnectOptions};
use tokio::time::{sleep, timeout};

use super::proxy::Proxy;
use crate::binaries::Program;
use crate::lease_scale::three_members;

/// Longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many rounds, how many of them at once, and for how long leases live.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub rounds: usize,
    pub at_once: usize,
    pub ttl: Duration,
}

impl Size {
    /// How many of the rounds one of those lanes runs that run at once.
    pub(super) fn rounds_of(&self, lane: usize) -> usize {
        self.rounds / self.at_once + usize::from(lane < self.rounds % self.at_once)
    }
}

/// How long before somebody else held the lock its holder knew that it had lost it, and for how long it had been warned.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    lost: Duration,
    warned: Duration,
}

/// Cuts holders off, one round after the other in each of some lanes.
pub async fn cut_off(home: &Path, size: Size) -> Result<()> {
    let (cluster, _) = three_members(Program::Tenured, home).await?;
    let endpoints = cluster.endpoints();
    let lanes = (0..size.at_once).map(|lane| run_lane(&endpoints, lane, size.rounds_of(lane), size.ttl));
    let ahead: Vec<Ahead> = try_join_all(lanes).await?.into_iter().flatten().collect();
    let least = |of: fn(&Ahead) -> Duration| ahead.iter().map(of).min().unwrap_or_default();
    println!(
        "cut off | {} rounds | lost at least {:?} before the next holder, warned at least {:?} before lost",
        ahead.len(),
        least(|ahead| ahead.lost),
        least(|ahead| ahead.warned)
    );
    ensure!(ahead.len() == size.rounds, "{} rounds of {}", ahead.len(), size.rounds);
    Ok(())
}

async fn run_lane(endpoints: &[String], lane: usize, rounds: usize, ttl: Duration) -> Result<Vec<Ahead>> {
    let mut proxies = Vec::new();
    for endpoint in endpoints {
        proxies.push(Proxy::start(endpoint).await?);
    }
    let rival = Client::connect(endpoints.to_vec(), ConnectOptions::default()).await?;
    let rival = rival.session().ttl(Duration::from_secs(30)).name("rival").start().await?;
    let mut seen = Vec::new();
    for round in 0..rounds {
        proxies.iter().for_each(|proxy| proxy.block(false));
        let through: Vec<String> = proxies.iter().map(Proxy::endpoint).collect();
        let name = format!("apart/{lane}/{round}");
        // Rounds are cut off at other points of the renewals' turns.
        let after = ttl * u32::try_from(round % 10)? / 10;
        let one = one_round(&through, &rival, &name, ttl, after, || proxies.iter().for_each(|proxy| proxy.block(true)));
        seen.push(timeout(PATIENCE, one).await.with_context(|| format!("round {round} of lane {lane} hangs"))??);
    }
    Ok(seen)
}

async fn one_round(
    through: &[String],
    rival: &tenure_client::session::Session,
    name: &str,
    ttl: Duration,
    after: Duration,
    cut: impl FnOnce(),
) -> Result<Ahead> {
    let client = Client::connect(through.to_vec(), ConnectOptions::default()).await?;
    let session = client.session().ttl(ttl).name("holder").start().await?;
    let guard = session.lock(name.to_owned()).wait(Wait::Try).acquire().await?;
    let mut states = session.state();
    let lost = guard.cancellation();
    let next = rival.lock(name.to_owned()).wait(Wait::Forever).acquire();
    tokio::pin!(next);
    let wait = sleep(after);
    tokio::select! {
        biased;
        early = &mut next => anyhow::bail!("a second holder while the first one renews: {:?}", early.map(|held| held.token())),
        () = wait => {}
    }
    ensure!(guard.is_safe(), "not safe before the cut");
    cut();
    let told = async {
        states.wait_for(|state| matches!(state, SessionState::Jeopardy { .. })).await.context("no jeopardy")?;
        let warned = Instant::now();
        ensure!(!lost.is_cancelled(), "lost before it was in jeopardy");
        lost.cancelled().await;
        Ok((warned, Instant::now()))
    };
    // Both run at once: whichever order they come in is what happened.
    let taken = async {
        let held = (&mut next).await.context("the next holder")?;
        anyhow::Ok((held, Instant::now()))
    };
    let ((warned, lost_at), (held, taken_at)) = tokio::try_join!(told, taken)?;
    ensure!(lost_at < taken_at, "the next one held the lock {:?} before the first knew", lost_at - taken_at);
    ensure!(!guard.is_safe() && guard.state().is_final() && guard.remaining().is_zero(), "the guard does not know");
    held.release().await.map_err(|failed| anyhow::anyhow!("{failed}"))?;
    drop(guard);
    client.close().await;
    Ok(Ahead { lost: taken_at - lost_at, warned: lost_at - warned })
}
