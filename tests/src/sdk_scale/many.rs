//! Ten thousand sessions in one process: what their renewal costs, beside leases of the `etcd-client` crate with a stream each.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream;

use tenure_client::{Client, ConnectOptions};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use crate::binaries::Program;
use crate::cluster::Cluster;
use crate::lease_scale::three_members;
use tenure_bench::own_cpu;

/// Requests under way at once.
const AT_ONCE: usize = 256;
/// How often a lease is renewed within its TTL, by either client.
const RENEWALS_PER_TTL: u32 = 3;

/// How many there are, how long their leases live, and for how long is measured.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub sessions: usize,
    pub ttl: Duration,
    pub window: Duration,
}

/// What was measured in the window.
#[derive(Clone, Copy, Debug)]
struct Figures {
    client_ms_per_s: f64,
    servers_ms_per_s: f64,
    messages_per_s: f64,
    renewals_per_s: f64,
}

/// Both clients one after the other, on a fresh cluster each.
pub async fn renew(home: &Path, size: Size) -> Result<()> {
    let ours = of_sessions(&home.join("sessions"), size).await.context("tenure-client")?;
    let theirs = of_streams(&home.join("streams"), size).await.context("etcd-client")?;
    for (name, figures) in [("tenure-client", ours), ("etcd-client", theirs)] {
        println!(
            "{} sessions | {name} | client {:.1} ms CPU/s | servers {:.1} ms CPU/s | {:.1} messages/s | {:.1} renewals/s",
            size.sessions,
            figures.client_ms_per_s,
            figures.servers_ms_per_s,
            figures.messages_per_s,
            figures.renewals_per_s
        );
    }
    // Both renew each lease three times within its TTL, jitter apart.
    let due = f64::from(u32::try_from(size.sessions)? * RENEWALS_PER_TTL) / size.ttl.as_secs_f64();
    for figures in [ours, theirs] {
        ensure!((0.8 * due..1.5 * due).contains(&figures.renewals_per_s), "{figures:?} where {due} are due");
    }
    ensure!(ours.messages_per_s * 10.0 <= theirs.messages_per_s, "the renewals are not in batches: {ours:?}");
    ensure!(ours.client_ms_per_s <= theirs.client_ms_per_s, "{ours:?} against {theirs:?}");
    Ok(())
}

/// Sessions of one client.
async fn of_sessions(home: &Path, size: Size) -> Result<Figures> {
    let (cluster, _) = three_members(Program::Tenured, home).await?;
    let client = Client::connect(cluster.endpoints(), ConnectOptions::default()).await?;
    let start = |at| {
        let session = client.session().ttl(size.ttl).name(format!("s{at}"));
        async move { session.start().await }
    };
    let sessions = stream::iter(0..size.sessions).map(start).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    let sessions = sessions.into_iter().collect::<Result<Vec<_>, _>>()?;
    let counts = || {
        let counts = client.renewal_counts();
        (counts.rounds, counts.renewed)
    };
    let figures = measure(&cluster, size, counts).await?;
    ensure!(sessions.iter().all(|session| session.is_safe()), "a session is not safe");
    client.close().await;
    Ok(figures)
}

/// Leases of one `etcd_client::Client`, each with a stream and a task.
async fn of_streams(home: &Path, size: Size) -> Result<Figures> {
    let (cluster, _) = three_members(Program::Tenured, home).await?;
    let client = etcd_client::Client::connect(cluster.endpoints(), None).await?;
    let ttl = i64::try_from(size.ttl.as_secs())?;
    let open = |_| {
        let mut leases = client.lease_client();
        async move {
            let id = leases.grant(ttl, None).await?.id();
            leases.keep_alive(id).await
        }
    };
    let streams = stream::iter(0..size.sessions).map(open).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    let sent = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for (at, stream) in streams.into_iter().enumerate() {
        let (mut keeper, mut answers) = stream?;
        let sent = sent.clone();
        let every = size.ttl / RENEWALS_PER_TTL;
        // Spread over the interval, as leases of programs that start at other times are.
        let first = every * u32::try_from(at)? / u32::try_from(size.sessions)?;
        tasks.spawn(async move {
            sleep(first).await;
            let mut ticks = interval(every);
            loop {
                ticks.tick().await;
                keeper.keep_alive().await?;
                let answer = answers.message().await?.context("a stream ended")?;
                ensure!(answer.ttl() > 0, "a lease is gone");
                sent.fetch_add(1, Ordering::Relaxed);
            }
            #[expect(unreachable_code, reason = "it names the type of the block")]
            anyhow::Ok(())
        });
    }
    let counts = || (sent.load(Ordering::Relaxed), sent.load(Ordering::Relaxed));
    let figures = measure(&cluster, size, counts).await?;
    if let Some(ended) = tasks.try_join_next() {
        ended?.context("a stream")?;
    }
    Ok(figures)
}

/// What one window takes; `counts` tells messages and renewals so far.
async fn measure(cluster: &Cluster, size: Size, counts: impl Fn() -> (u64, u64)) -> Result<Figures> {
    // Once around, so that all have been renewed and their turns are spread.
    sleep(size.ttl / RENEWALS_PER_TTL).await;
    let begun = Instant::now();
    let (client, servers, before) = (own_cpu(), cluster.cpu()?, counts());
    sleep(size.window).await;
    let seconds = begun.elapsed().as_secs_f64();
    let per_second = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds;
    let after = counts();
    Ok(Figures {
        client_ms_per_s: (own_cpu() - client).as_secs_f64() * 1e3 / seconds,
        servers_ms_per_s: (cluster.cpu()? - servers).as_secs_f64() * 1e3 / seconds,
        messages_per_s: per_second(after.0 - before.0),
        renewals_per_s: per_second(after.1 - before.1),
    })
}
