//! One lock that many want: from the moment its holder lets go until the next one knows.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use super::seat::{Held, Seat, Service};
use super::{log_index, micros, millis};
use crate::binaries::Program;
use crate::cluster::Cluster;
use crate::lease_scale::{channels, count_at, seed, three_members};
use crate::samples::percentile;
use tenure_bench::Caller;

/// Longer than any run.
const TTL: Duration = Duration::from_secs(3600);
/// For the filling of a queue, or for all its hand-offs.
const PATIENCE: Duration = Duration::from_secs(300);
/// Connections to each member.
const CONNECTIONS: usize = 20;
const NAME: &str = "crowded";

/// How many clients wait, and how often the lock goes from one to the next while they do.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub waiters: usize,
    pub hand_offs: usize,
}

/// What one run measured.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// From the sending of a release until the next holder has read that it holds the lock, in milliseconds.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU of all members for a hand-off, and for the request that takes the free place in the queue, in microseconds.
    pub server_us: f64,
    /// Entries of the Raft log for a hand-off, when nobody takes the free place: counted over the last of them.
    pub entries: f64,
    /// Memory of all members for each that waits, in bytes.
    pub memory: f64,
}

/// What the clients of a lock know together.
#[derive(Default)]
struct Scene {
    /// When the last holder began to let go.
    released: Option<Instant>,
    latencies: Vec<Duration>,
    /// How many more hand-offs are measured.
    left: usize,
    /// Whoever had the lock leaves, instead of asking again.
    leaving: bool,
    /// Hand-offs since then.
    last: usize,
}

/// Clients spread over all members of a new cluster hand a lock on.
pub async fn run(home: &Path, (program, service): (Program, Service), size: Size) -> Result<Figures> {
    let (mut cluster, leader) = three_members(program, home).await?;
    let leases = i64::try_from(size.waiters)? + 1;
    seed::grant(&channels(&cluster)?, 1, leases, seed::fixed(TTL)).await?;
    let figures = LocalSet::new().run_until(hand_on(&cluster, leader, service, size)).await?;
    cluster.kill_all()?;
    Ok(figures)
}

async fn hand_on(cluster: &Cluster, leader: usize, service: Service, size: Size) -> Result<Figures> {
    let mut callers = Vec::new();
    for at in 0..CONNECTIONS * cluster.nodes.len() {
        let node = &cluster.nodes[at % cluster.nodes.len()];
        callers.push(Caller::connect(&format!("127.0.0.1:{}", node.client_port)).await?);
    }
    let seat = |at: usize, lease| Seat::new(callers[at % callers.len()].clone(), service, NAME.to_owned(), lease);
    let scene = Rc::new(RefCell::new(Scene { left: size.hand_offs, ..Scene::default() }));
    let enough = Rc::new(Notify::new());
    let mut first = seat(0, 1);
    let held = first.lock().await?;
    let before = memory(cluster)?;
    let mut clients = JoinSet::new();
    for (at, lease) in (1..=size.waiters).zip(2..) {
        clients.spawn_local(wait_in_turn(seat(at, lease), scene.clone(), enough.clone()));
        // Some at once, so that a queue of thousands is there in seconds.
        if at % CONNECTIONS == 0 || at == size.waiters {
            queued(cluster, leader, at + 1).await?;
        }
    }
    let memory = (memory(cluster)? - before) / float(size.waiters);
    let cpu = cluster.cpu()?;
    scene.borrow_mut().released = Some(Instant::now());
    first.unlock(held).await?;
    timeout(PATIENCE, enough.notified()).await.context("the lock is not handed on")?;
    let cpu = cluster.cpu()?.saturating_sub(cpu);
    let index = log_index(cluster, leader).await?;
    scene.borrow_mut().leaving = true;
    while let Some(done) = timeout(PATIENCE, clients.join_next()).await.context("the lock is not handed on")? {
        done??;
    }
    let entries = log_index(cluster, leader).await? - index;
    let mut scene = scene.borrow_mut();
    scene.latencies.sort_unstable();
    ensure!(scene.latencies.len() >= size.hand_offs, "{} hand-offs were measured", scene.latencies.len());
    Ok(Figures {
        p50_ms: millis(percentile(&scene.latencies, 50)),
        p99_ms: millis(percentile(&scene.latencies, 99)),
        server_us: micros(cpu, size.hand_offs),
        entries: float(usize::try_from(entries)?) / float(scene.last),
        memory,
    })
}

/// A client that has the lock in its turn, lets go at once, and asks again.
async fn wait_in_turn(mut seat: Seat, scene: Rc<RefCell<Scene>>, enough: Rc<Notify>) -> Result<()> {
    loop {
        let held: Held = seat.lock().await?;
        let now = Instant::now();
        let leaves = {
            let mut scene = scene.borrow_mut();
            let took = now - scene.released.context("the lock is held by two")?;
            if scene.left > 0 {
                scene.latencies.push(took);
                scene.left -= 1;
                if scene.left == 0 {
                    enough.notify_one();
                }
            }
            scene.last += usize::from(scene.leaving);
            scene.released = Some(Instant::now());
            scene.leaving
        };
        seat.unlock(held).await?;
        if leaves {
            return Ok(());
        }
    }
}

/// Waits until so many keys contend.
async fn queued(cluster: &Cluster, leader: usize, count: usize) -> Result<()> {
    let channel = crate::lease_scale::channel(&cluster.nodes[leader].endpoint())?;
    let wait = async {
        while usize::try_from(count_at(&channel, &format!("{NAME}/"), 0).await?.0)? < count {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, wait).await.context("the queue does not fill")?
}

fn memory(cluster: &Cluster) -> Result<f64> {
    let resident: Result<Vec<u64>> = cluster.nodes.iter().map(crate::node::Node::resident_bytes).collect();
    Ok(resident?.iter().map(|bytes| float(usize::try_from(*bytes).unwrap_or(usize::MAX))).sum())
}

fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
