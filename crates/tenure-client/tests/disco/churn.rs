//! Many services that come, change, are cut off and go, and caches that watch them: a small form of the run under chaos.
//!
//! Three things are checked. At the end every cache equals the store. A service that was well all the time was never removed by any. And
//! no cache ever claimed to be fresher than it was: what the store had acknowledged longer ago than `staleness()` was there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tenure_client::discovery::{Cache, Event, Instance, Registration};
use tenure_client::{Client, Clock as _};

use crate::support::members::Cluster;
use crate::support::proxy::{Mode, Proxy};
use crate::support::within;
use crate::world::{agrees, hasty, quick, register, register_with, removal};

const SERVICES: usize = 50;
const CACHES: usize = 5;
const ROUNDS: usize = 12;

/// What a beacon had acknowledged, and when.
type Acknowledged = Arc<Mutex<VecDeque<(u64, Instant)>>>;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

#[test]
fn caches_equal_the_store_after_churn_and_never_claimed_to_be_fresher_than_they_were() {
    runtime().block_on(async {
        let mut cluster = Cluster::three().await;
        let outside = cluster.client().await;
        let proxies = Proxy::before_each(cluster.members.iter().map(|member| member.clients)).await;
        let mut caches = Vec::new();
        for _ in 0..CACHES {
            let client = Client::connect(proxies.iter().map(Proxy::endpoint), hasty()).await.expect("a client");
            let pace = client.registry("prod").cache().probe(Duration::from_millis(200)).resync(Duration::from_secs(1));
            caches.push(pace.protection(None).start().await.expect("a cache"));
        }
        // Well all the time: on a TTL that outlives every fault here.
        let mut well = Vec::new();
        for number in 0..5 {
            let options = tenure_client::discovery::RegisterOptions { ttl: Duration::from_secs(60), ..quick() };
            well.push(register_with(&outside, &format!("well-{number}"), "w:1", options).await);
        }
        let removals: Vec<_> = caches.iter().map(|cache| tokio::spawn(removals(cache.clone()))).collect();
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Acknowledged::default());
        let beacon = tokio::spawn(beacon(well[0].clone(), acknowledged.clone(), stop.clone()));
        let honest = tokio::spawn(honest(caches.clone(), acknowledged, stop.clone()));

        let services = within("the churn", churn(&mut cluster, &proxies)).await;

        stop.store(true, Ordering::Relaxed);
        beacon.await.expect("the beacon");
        let looks = honest.await.expect("honest caches");
        assert!(looks > 100, "{looks} looks are too few");
        for proxy in &proxies {
            proxy.set(Mode::Pass);
        }
        for cache in &caches {
            agrees(cache, &outside).await;
            assert!(cache.all().len() >= well.len());
        }
        drop(services);
        for cache in &caches {
            agrees(cache, &outside).await;
        }
        for cache in caches {
            cache.close().await;
        }
        for removals in removals {
            let removed = removals.await.expect("a listener");
            let wrong: Vec<_> = removed.iter().filter(|id| id.starts_with("well")).collect();
            assert!(wrong.is_empty(), "flapped: {wrong:?}");
        }
    });
}

/// The ids of all that a cache removed.
async fn removals(cache: Cache) -> Vec<String> {
    let mut events = cache.subscribe();
    drop(cache);
    let mut removed = Vec::new();
    while let Some(event) = events.next().await {
        if let Event::Removed { instance, .. } = &event {
            assert!(removal(&event, instance.id()).is_some());
            removed.push(instance.id().to_owned());
        }
    }
    removed
}

/// Services come and go while connections and a member fail. Gives those that are left.
async fn churn(cluster: &mut Cluster, proxies: &[Proxy]) -> Vec<Registration> {
    let clock = tenure_client::clock::BootClock;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Client::connect(proxies.iter().map(Proxy::endpoint), hasty()).await.expect("a client"));
    }
    let mut services: Vec<Registration> = Vec::new();
    for number in 0..SERVICES {
        services.push(register(&clients[number % clients.len()], &format!("service-{number}"), "s:1").await);
    }
    let stopped = cluster.members.len() - 1;
    for round in 0..ROUNDS {
        let place = usize::try_from(clock.random() % proxies.len() as u64).expect("small");
        match round % 6 {
            0 => proxies[place].set(Mode::Refuse),
            1 | 3 => proxies.iter().for_each(|proxy| proxy.set(Mode::Pass)),
            // Longer than a TTL in all: leases end, and their services register again.
            2 => proxies.iter().for_each(|proxy| proxy.set(Mode::Stall)),
            4 => tokio::task::block_in_place(|| cluster.members[stopped].stop()),
            _ => cluster.members[stopped].start(),
        }
        for _ in 0..8 {
            let index = usize::try_from(clock.random() % services.len() as u64).expect("small");
            let id = services[index].id().to_owned();
            match clock.random() % 3 {
                0 => {
                    // While the cluster is away it is not told, and the key goes with its lease.
                    drop(services[index].deregister(Duration::from_millis(50)).await);
                    let again = clients[index % clients.len()].registry("prod").kind("room");
                    let again = again.register(Instance::new(&id).addr("again:1"), quick());
                    if let Ok(again) = Box::pin(again).await {
                        services[index] = again;
                    }
                }
                1 => {
                    let updating = services[index].update(Instance::new(&id).addr("s:1").meta("round", round));
                    drop(tokio::time::timeout(Duration::from_millis(50), updating).await);
                }
                _ => tokio::time::sleep(Duration::from_millis(60)).await,
            }
        }
    }
    if !cluster.members[stopped].is_running() {
        cluster.members[stopped].start();
    }
    proxies.iter().for_each(|proxy| proxy.set(Mode::Pass));
    services
}

/// Updates an instance, and notes when each update was acknowledged.
async fn beacon(own: Registration, acknowledged: Acknowledged, stop: Arc<AtomicBool>) {
    for number in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if own.update(Instance::new(own.id()).addr("w:1").meta("number", number)).await.is_ok() {
            acknowledged.lock().push_back((number, Instant::now()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Looks at all caches again and again, and holds what they serve against what they say of themselves. Gives how often.
async fn honest(caches: Vec<Cache>, acknowledged: Acknowledged, stop: Arc<AtomicBool>) -> usize {
    let mut looks = 0;
    while !stop.load(Ordering::Relaxed) {
        for cache in &caches {
            // In this order: what is served is no older than it was when the question was asked.
            let now = Instant::now();
            let staleness = cache.staleness();
            let number = cache.get("well-0").and_then(|own| own.get_meta("number").and_then(serde_json::Value::as_u64));
            let due = {
                let acknowledged = acknowledged.lock();
                let known = acknowledged.iter().rev().find(|(_, at)| now.saturating_duration_since(*at) > staleness);
                known.map_or(0, |(number, _)| *number)
            };
            let number = number.unwrap_or(0);
            assert!(number >= due, "a cache serves {number} and claims {staleness:?}; {due} was acknowledged before");
            looks += 1;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    looks
}
