//! Services that come, change, leave and die while members are killed and stopped, and caches that follow them.
//!
//! Half of the hosts are well all the time: what they have registered must never be seen to go ("no flapping"). The others
//! lose their network for longer than a TTL, again and again. In the middle of it a beacon tells how old each cache's
//! picture really is, which is held against what the cache says of itself; and when all is quiet again, every cache must hold
//! what the store holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_client::discovery::{Cache, Event, Instance, RegisterOptions, Registration};
use tenure_client::{Client, ConnectOptions, KeyRange};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, sleep, sleep_until};

use super::proxy::Proxy;
use crate::binaries::Program;
use crate::cluster::{Cluster, LEADER_PATIENCE};
use crate::lease_scale::three_members;

const REGISTRY: &str = "chaos";
const KIND: &str = "room";
/// How often the beacon tells that time passes, and how often caches are looked at.
const BEAT: Duration = Duration::from_millis(250);
/// What a look itself may take on a busy machine: it is not the cache's.
const LOOK_SLACK: Duration = Duration::from_millis(500);
/// When all is quiet, caches and registrations are what they should be within this.
const SETTLED: Duration = Duration::from_secs(60);

/// How many there are of each, and for how long they are at it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub hosts: usize,
    pub services_per_host: usize,
    pub caches: usize,
    pub ttl: Duration,
    pub lasting: Duration,
    pub seed: u64,
}

/// What was seen meanwhile.
#[derive(Debug, Default)]
struct Seen {
    added: u64,
    updated: u64,
    removed: u64,
    lagged: u64,
    stale: u64,
    looks: u64,
    /// The oldest picture that a cache had, and the most that one said of itself.
    oldest: Duration,
    said: Duration,
    wrong: Vec<String>,
}

/// A host: a client behind ways of its own, and what it has registered.
struct Host {
    number: usize,
    proxies: Vec<Proxy>,
    registrations: Vec<Registration>,
    client: Client,
}

/// When each number of the beacon was acked.
type Beats = Arc<Mutex<Vec<Instant>>>;

/// The whole run.
pub async fn churn(home: &Path, size: Size) -> Result<()> {
    let (cluster, _) = three_members(Program::Tenured, home).await?;
    let endpoints = cluster.endpoints();
    let mut hosts = Vec::new();
    for number in 0..size.hosts {
        hosts.push(Host::start(number, &endpoints, size).await?);
    }
    let seen = Arc::new(Mutex::new(Seen::default()));
    let beats: Beats = Arc::default();
    let mut watching = JoinSet::new();
    let mut caches = Vec::new();
    for number in 0..size.caches {
        let client = Client::connect(endpoints.clone(), ConnectOptions::default()).await?;
        let cache = Arc::new(client.registry(REGISTRY).cache().start().await?);
        watching.spawn(listen(cache.clone(), number, seen.clone()));
        watching.spawn(look(cache.clone(), number, beats.clone(), seen.clone()));
        caches.push((client, cache));
    }
    let (quiet, until_quiet) = watch::channel(false);
    let mut working = JoinSet::new();
    working.spawn(beat(hosts[0].client.clone(), size.ttl, beats, until_quiet.clone()));
    for host in hosts {
        working.spawn(live(host, size, until_quiet.clone()));
    }
    let breaking = tokio::spawn(break_members(cluster, size, until_quiet));
    sleep(size.lasting).await;
    quiet.send_replace(true);
    let (_cluster, faults) = breaking.await??;
    let mut kept = Vec::new();
    while let Some(ended) = working.join_next().await {
        kept.push(ended??);
    }
    settle(&endpoints, &caches).await?;
    watching.abort_all();
    let seen = locked(&seen);
    println!(
        "services | {} services, {} caches, {:?} | {faults} faults | {} added, {} updated, {} removed, {} times stale, {} lagged | \
         {} looks: oldest picture {:?}, most said {:?}",
        size.hosts * size.services_per_host,
        size.caches,
        size.lasting,
        seen.added,
        seen.updated,
        seen.removed,
        seen.stale,
        seen.lagged,
        seen.looks,
        seen.oldest,
        seen.said
    );
    ensure!(seen.wrong.is_empty(), "{} things went wrong, such as: {}", seen.wrong.len(), seen.wrong[0]);
    Ok(())
}

impl Host {
    async fn start(number: usize, endpoints: &[String], size: Size) -> Result<Host> {
        let mut proxies = Vec::new();
        for endpoint in endpoints {
            proxies.push(Proxy::start(endpoint).await?);
        }
        let through: Vec<String> = proxies.iter().map(Proxy::endpoint).collect();
        let client = Client::connect(through, ConnectOptions::default()).await?;
        let register = (0..size.services_per_host).map(|at| register(&client, number, at, size.ttl));
        let registrations = try_join_all(register).await?;
        Ok(Host { number, proxies, registrations, client })
    }
}

/// Hosts with even numbers are well all the time, and so is every other service of theirs.
fn is_steady(host: usize, service: usize) -> bool {
    host.is_multiple_of(2) && service.is_multiple_of(2)
}

fn instance(host: usize, service: usize, version: u64) -> Instance {
    let steady = if is_steady(host, service) { "steady" } else { "fickle" };
    Instance::new(format!("{steady}/{host}/{service}"))
        .addr(format!("127.0.0.1:{}", 1000 + service))
        .meta("version", version)
}

async fn register(client: &Client, host: usize, service: usize, ttl: Duration) -> Result<Registration> {
    let options = RegisterOptions { ttl, ..RegisterOptions::default() };
    Ok(client.registry(REGISTRY).kind(KIND).register(instance(host, service, 0), options).await?)
}

/// What a host does until it is quiet: its services change, leave and come back; and odd hosts lose their network.
async fn live(mut host: Host, size: Size, mut quiet: watch::Receiver<bool>) -> Result<Host> {
    let mut rng = StdRng::seed_from_u64(size.seed ^ (host.number as u64) << 20);
    let mut version = 0;
    let mut blocked_until: Option<TokioInstant> = None;
    loop {
        let pause = sleep(Duration::from_millis(rng.random_range(200..2000)));
        tokio::select! {
            _ = quiet.wait_for(|quiet| *quiet) => break,
            () = pause => {}
        }
        if let Some(until) = blocked_until {
            if TokioInstant::now() >= until {
                host.proxies.iter().for_each(|proxy| proxy.block(false));
                blocked_until = None;
            }
            continue;
        }
        if host.number % 2 == 1 && rng.random_bool(0.05) {
            host.proxies.iter().for_each(|proxy| proxy.block(true));
            blocked_until = Some(TokioInstant::now() + size.ttl.mul_f64(rng.random_range(0.3..2.5)));
            continue;
        }
        version += 1;
        let at = rng.random_range(0..host.registrations.len());
        // While members are killed a change may fail; the service stays registered, and that is what is looked at.
        if is_steady(host.number, at) || rng.random_bool(0.7) {
            drop(host.registrations[at].update(instance(host.number, at, version)).await);
        } else {
            drop(host.registrations[at].deregister(Duration::from_secs(5)).await);
            host.registrations[at] = loop {
                match register(&host.client, host.number, at, size.ttl).await {
                    Ok(registration) => break registration,
                    Err(_) if !*quiet.borrow() => sleep(BEAT).await,
                    Err(error) => return Err(error).context("registering again"),
                }
            };
        }
    }
    host.proxies.iter().for_each(|proxy| proxy.block(false));
    for registration in &host.registrations {
        let mut state = registration.state();
        let registered = state.wait_for(|state| state.is_registered());
        let registered = tokio::time::timeout(SETTLED, registered).await;
        registered.with_context(|| format!("{} does not come back", registration.id()))?.context("it ended")?;
    }
    Ok(host)
}

/// Tells the time by an instance of its own.
async fn beat(client: Client, ttl: Duration, beats: Beats, quiet: watch::Receiver<bool>) -> Result<Host> {
    let options = RegisterOptions { ttl, ..RegisterOptions::default() };
    let beacon = |number: usize| Instance::new("beacon").meta("beat", number as u64);
    let registration = client.registry(REGISTRY).kind(KIND).register(beacon(0), options).await?;
    locked(&beats).push(Instant::now());
    let mut next = TokioInstant::now();
    while !*quiet.borrow() {
        next = (next + BEAT).max(TokioInstant::now());
        sleep_until(next).await;
        let number = locked(&beats).len();
        // One that fails may have been written all the same: the next has the same number.
        if registration.update(beacon(number)).await.is_ok() {
            locked(&beats).push(Instant::now());
        }
    }
    Ok(Host { number: usize::MAX, proxies: Vec::new(), registrations: vec![registration], client })
}

/// What a listener of a cache is told.
async fn listen(cache: Arc<Cache>, number: usize, seen: Arc<Mutex<Seen>>) {
    let mut events = cache.subscribe();
    while let Some(event) = events.next().await {
        let mut seen = locked(&seen);
        match event {
            Event::Added(_) => seen.added += 1,
            Event::Updated { .. } => seen.updated += 1,
            Event::Removed { instance, why } => {
                seen.removed += 1;
                if instance.id().starts_with("steady/") {
                    seen.wrong.push(format!("cache {number} was told that {} is gone: {why:?}", instance.id()));
                }
            }
            Event::Lagged { .. } => seen.lagged += 1,
            Event::Stale(_) => seen.stale += 1,
            Event::Skipped { key, why } => seen.wrong.push(format!("cache {number} skipped {key}: {why}")),
            _ => {}
        }
    }
}

/// Holds what a cache says of its age against its age.
async fn look(cache: Arc<Cache>, number: usize, beats: Beats, seen: Arc<Mutex<Seen>>) {
    loop {
        sleep(BEAT).await;
        let now = Instant::now();
        let snapshot = cache.snapshot();
        let said = cache.staleness();
        let Some(beat) = snapshot.get("beacon").and_then(|beacon| beacon.get_meta("beat")?.as_u64()) else { continue };
        // The oldest beat that was acked and is not in the picture.
        let missed = locked(&beats).get(usize::try_from(beat).unwrap_or(usize::MAX).saturating_add(1)).copied();
        let age = missed.map_or(Duration::ZERO, |acked| now.saturating_duration_since(acked));
        let mut seen = locked(&seen);
        seen.looks += 1;
        seen.oldest = seen.oldest.max(age);
        seen.said = seen.said.max(said);
        if age > said + LOOK_SLACK {
            seen.wrong.push(format!("cache {number} says that it is {said:?} old, and is {age:?}"));
        }
    }
}

/// Kills or stops a member every few seconds, never two at once, until it is quiet; then all of them serve.
async fn break_members(mut cluster: Cluster, size: Size, mut quiet: watch::Receiver<bool>) -> Result<(Cluster, u64)> {
    let mut rng = StdRng::seed_from_u64(size.seed);
    let mut faults = 0;
    loop {
        let calm = sleep(Duration::from_millis(rng.random_range(2000..6000)));
        tokio::select! {
            _ = quiet.wait_for(|quiet| *quiet) => break,
            () = calm => {}
        }
        // The leader as often as any other.
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let at = if rng.random_bool(0.5) { leader } else { rng.random_range(0..cluster.nodes.len()) };
        let lasting = Duration::from_millis(rng.random_range(500..3000));
        faults += 1;
        if rng.random_bool(0.5) {
            cluster.nodes[at].kill()?;
            sleep(lasting).await;
            cluster.restart(at).await?;
        } else {
            cluster.nodes[at].pause()?;
            sleep(lasting).await;
            cluster.nodes[at].resume()?;
        }
    }
    cluster.wait_leader(LEADER_PATIENCE).await?;
    Ok((cluster, faults))
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until every cache holds what the store holds.
async fn settle(endpoints: &[String], caches: &[(Client, Arc<Cache>)]) -> Result<()> {
    let client = Client::connect(endpoints.to_vec(), ConnectOptions::default()).await?;
    let prefix = tenure_client::discovery::registry_prefix(REGISTRY)?;
    let deadline = TokioInstant::now() + SETTLED;
    loop {
        let listed = client.get(KeyRange::prefix(prefix.clone())).await?;
        let stored: BTreeMap<_, _> = listed.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
        let differs = caches.iter().position(|(_, cache)| {
            let snapshot = cache.snapshot();
            let held: BTreeMap<_, _> = snapshot
                .entries()
                .map(|entry| {
                    let instance = entry.instance();
                    let key = tenure_client::discovery::instance_key(REGISTRY, instance.kind(), instance.id());
                    (bytes::Bytes::from(key.unwrap_or_default()), entry.mod_revision())
                })
                .collect();
            held != stored || snapshot.entries().any(tenure_client::discovery::Entry::is_stale)
        });
        match differs {
            None => {
                println!("{} caches hold what the store holds: {} instances", caches.len(), stored.len());
                return Ok(());
            }
            Some(number) if TokioInstant::now() > deadline => bail!("cache {number} differs from the store"),
            Some(_) => sleep(BEAT).await,
        }
    }
}
