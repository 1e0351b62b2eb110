//! Caches: what they serve and tell, while services, connections and members come and go.

use std::sync::Arc;
use std::time::Duration;

use tenure_client::discovery::{
    Event, Filter, Instance, Listener, Protection, RegistrationState, RemovedWhy, Snapshot, StaleWhy,
};
use tenure_client::{Client, ConnectOptions};
use tokio::sync::mpsc;

use crate::support::members::Cluster;
use crate::support::proxy::{Mode, Proxy};
use crate::support::{eventually, run, within};
use crate::world::{agrees, behind, hear, quick, register, removal, serves, until};

#[test]
fn a_cache_is_ready_when_it_starts_and_follows_from_there() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let first = register(&client, "1", "a:1").await;
        let bot = client.registry("prod").kind("bot").register(Instance::new("1").addr("bot:1"), quick()).await;
        let bot = bot.expect("a registration");
        let cache = client.registry("prod").cache().start().await.expect("a cache");
        assert_eq!(cache.get("1").expect("it is there").addr_text(), Some("bot:1"), "kinds come in order");
        let ids = |kind: &str| cache.by_kind(kind).iter().map(|instance| instance.id().to_owned()).collect::<Vec<_>>();
        assert_eq!((ids("room"), ids("bot"), ids("none")), (vec!["1".into()], vec!["1".into()], vec![]));
        assert!(cache.is_connected() || cache.staleness() < Duration::from_secs(5));
        let (before, revision) = (cache.snapshot(), cache.revision());
        let mut events = cache.subscribe();
        let second = register(&client, "2", "b:1").await;
        let added = hear(&mut events, "an addition", |event| match event {
            Event::Added(instance) => Some(instance.id().to_owned()),
            _ => None,
        });
        assert_eq!(added.await, "2");
        assert_eq!(ids("room"), ["1", "2"]);
        assert!(cache.revision() > revision);
        assert_eq!(before.len(), 2, "a snapshot does not change");
        drop((first, second, bot));
        eventually("all to go", async || cache.snapshot().is_empty().then_some(())).await;
        cache.close().await;
        assert_eq!(within("the end", events.into_stream_end()).await, None);
    });
}

/// Reads a subscription to its end.
trait ToEnd {
    async fn into_stream_end(self) -> Option<Event>;
}

impl ToEnd for tenure_client::discovery::Subscription {
    async fn into_stream_end(mut self) -> Option<Event> {
        while self.next().await.is_some() {}
        self.next().await
    }
}

#[test]
fn registries_and_namespaces_do_not_see_each_other() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let spaced = cluster.client_with(ConnectOptions::default().namespace("eu/")).await;
        let _one = register(&client, "1", "a:1").await;
        let _two = register(&spaced, "2", "b:1").await;
        let ids = async |client: &Client, registry: &str| {
            let listed = client.registry(registry).list(Filter::All).await.expect("a list");
            listed.all().map(|instance| instance.id().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(ids(&client, "prod").await, ["1"]);
        assert_eq!(ids(&spaced, "prod").await, ["2"]);
        assert!(ids(&client, "pro").await.is_empty() && ids(&client, "prod/room").await.is_empty());
        let cache = spaced.registry("prod").cache().start().await.expect("a cache");
        let _three = register(&spaced, "3", "c:1").await;
        serves(&cache, "3", Some("c:1")).await;
        assert_eq!(cache.all().len(), 2);
    });
}

/// Passes on what it is told.
struct Told(mpsc::Sender<String>);

impl Told {
    fn tell(&self, what: String) {
        self.0.try_send(what).expect("room");
    }
}

impl Listener for Told {
    fn on_start(&mut self, snapshot: &Arc<Snapshot>) {
        self.tell(format!("start with {}", snapshot.len()));
    }

    fn on_add(&mut self, instance: &Arc<Instance>) {
        self.tell(format!("add {}", instance.id()));
    }

    fn on_update(&mut self, old: &Arc<Instance>, new: &Arc<Instance>) {
        self.tell(format!("update {:?} to {:?}", old.addr_text(), new.addr_text()));
    }

    fn on_remove(&mut self, instance: &Arc<Instance>, why: RemovedWhy) {
        self.tell(format!("remove {}: {why:?}", instance.id()));
    }
}

#[test]
fn listeners_are_called_in_their_own_task() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let cache = client.registry("prod").cache().start().await.expect("a cache");
        let (sender, mut told) = mpsc::channel(16);
        cache.listen(Told(sender));
        let mut next = async || within("a call", told.recv()).await.expect("a call");
        assert_eq!(next().await, "start with 0");
        let registration = register(&client, "1", "a:1").await;
        assert_eq!(next().await, "add 1");
        registration.update(Instance::new("1").addr("b:1")).await.expect("an update");
        assert_eq!(next().await, r#"update Some("a:1") to Some("b:1")"#);
        registration.deregister(Duration::from_secs(5)).await.expect("deregistered");
        assert_eq!(next().await, "remove 1: Deregistered");
        drop(cache);
        assert_eq!(within("the end", told.recv()).await, None, "the task ends with the cache");
    });
}

#[test]
fn the_own_instance_can_be_hidden() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let own = register(&client, "own", "a:1").await;
        let hiding = client.registry("prod").cache().hide(&own).start().await.expect("a cache");
        let showing = client.registry("prod").cache().start().await.expect("a cache");
        let mut events = hiding.subscribe();
        own.update(Instance::new("own").addr("b:1")).await.expect("an update");
        let _other = register(&client, "other", "c:1").await;
        let first = hear(&mut events, "an event of an instance", |event| match event {
            Event::Added(instance) | Event::Updated { new: instance, .. } => Some(instance.id().to_owned()),
            _ => None,
        });
        assert_eq!(first.await, "other");
        assert!(hiding.get("own").is_none());
        serves(&showing, "own", Some("b:1")).await;
    });
}

#[test]
fn a_single_kind_is_all_that_is_read() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let registry = client.registry("prod");
        let only = registry.cache().kinds(Filter::allow(["room"])).start().await.expect("a cache");
        let without = registry.cache().kinds(Filter::deny(["room"])).start().await.expect("a cache");
        let revision = only.revision();
        let mut events = only.subscribe();
        let bot = registry.kind("bot").register(Instance::new("b"), quick()).await.expect("a registration");
        eventually("the bot", async || without.get("b").map(drop)).await;
        let _room = register(&client, "r", "a:1").await;
        let first = hear(&mut events, "an addition", |event| match event {
            Event::Added(instance) => Some(instance.id().to_owned()),
            _ => None,
        });
        assert_eq!(first.await, "r");
        assert!(only.revision() > revision && only.get("b").is_none() && without.get("r").is_none());
        drop(bot);
    });
}

#[test]
fn a_cache_serves_on_while_the_cluster_is_away_and_says_so() {
    run(async {
        let cluster = Cluster::one().await;
        let outside = cluster.client().await;
        let _room = register(&outside, "1", "a:1").await;
        let (client, proxy) = behind(&cluster).await;
        let bound = Duration::from_millis(600);
        let building = client.registry("prod").cache().probe(Duration::from_millis(100)).stale_after(bound);
        let cache = building.start().await.expect("a cache");
        eventually("contact", async || cache.is_connected().then_some(())).await;
        let mut events = cache.subscribe();
        proxy.set(Mode::Stall);
        let staleness = hear(&mut events, "staleness", |event| match event {
            Event::Stale(StaleWhy::NoContact { staleness }) => Some(*staleness),
            _ => None,
        });
        assert!(staleness.await >= bound);
        assert!(cache.staleness() >= bound);
        eventually("no contact", async || (!cache.is_connected()).then_some(())).await;
        assert_eq!(cache.get("1").expect("it is served").addr_text(), Some("a:1"));
        let _late = register(&outside, "2", "b:1").await;
        proxy.set(Mode::Pass);
        hear(&mut events, "freshness", |event| matches!(event, Event::Fresh).then_some(())).await;
        serves(&cache, "2", Some("b:1")).await;
        eventually("contact", async || (cache.is_connected() && cache.staleness() < bound).then_some(())).await;
    });
}

#[test]
fn nothing_is_missed_between_the_listing_and_the_watch() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let writing = async {
            for number in 0..400 {
                let key = format!("discovery/prod/room/{}", number % 37);
                if number % 5 == 4 {
                    client.delete(key).await.expect("a delete");
                } else {
                    client.put(key, format!(r#"{{"v":1,"addr":"a:{number}"}}"#)).await.expect("a put");
                }
            }
        };
        let starting = async {
            let mut caches = Vec::new();
            for _ in 0..12 {
                // Neither probes nor resyncs help: what the watch does not bring is missing.
                let rarely = Duration::from_secs(3600);
                let building = client.registry("prod").cache().probe(rarely).resync(rarely).protection(None);
                caches.push(building.start().await.expect("a cache"));
                tokio::task::yield_now().await;
            }
            caches
        };
        let ((), caches) = tokio::join!(writing, starting);
        for cache in &caches {
            agrees(cache, &client).await;
        }
    });
}

#[test]
fn a_cache_survives_a_compaction_and_members_that_stop() {
    run(async {
        let mut cluster = Cluster::three().await;
        let outside = cluster.client().await;
        let proxies = Proxy::before_each(cluster.members.iter().map(|member| member.clients)).await;
        let client =
            Client::connect(proxies.iter().map(Proxy::endpoint), crate::world::hasty()).await.expect("a client");
        let rarely = Duration::from_secs(3600);
        let building = client.registry("prod").cache().probe(rarely).resync(rarely).protection(None);
        let cache = building.start().await.expect("a cache");
        let put = async |id: &str, addr: &str| {
            let value = format!(r#"{{"v":1,"addr":"{addr}"}}"#);
            outside.put(format!("discovery/prod/room/{id}"), value).await.expect("a put").header.revision
        };
        put("1", "a:1").await;
        serves(&cache, "1", Some("a:1")).await;
        // What it needs next is compacted while it is away.
        for proxy in &proxies {
            proxy.set(Mode::Refuse);
        }
        put("2", "b:1").await;
        outside.delete("discovery/prod/room/1").await.expect("a delete");
        let last = put("2", "b:2").await;
        outside.compact(last).await.expect("compacted");
        for proxy in &proxies {
            proxy.set(Mode::Pass);
        }
        serves(&cache, "2", Some("b:2")).await;
        assert!(cache.get("1").is_none());
        // The leader goes.
        let leader = cluster.leader().await;
        cluster.members[leader].stop();
        cluster.leader().await;
        eventually("a write", async || {
            let value = r#"{"v":1,"addr":"c:1"}"#;
            outside.put("discovery/prod/room/3", value).await.ok()
        })
        .await;
        serves(&cache, "3", Some("c:1")).await;
        agrees(&cache, &outside).await;
    });
}

#[test]
fn resyncs_that_race_with_changes_flap_nobody() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let mut steady = Vec::new();
        for number in 0..5 {
            steady.push(register(&client, &format!("steady-{number}"), "a:1").await);
        }
        let often = Duration::from_millis(3);
        let cache = client.registry("prod").cache().resync(often).probe(often).start().await.expect("a cache");
        let mut events = cache.subscribe();
        for number in 0..60 {
            let key = format!("discovery/prod/room/new-{number}");
            client.put(key.clone(), r#"{"v":1,"addr":"b:1"}"#).await.expect("a put");
            serves(&cache, &format!("new-{number}"), Some("b:1")).await;
            if number % 2 == 0 {
                client.delete(key).await.expect("a delete");
                serves(&cache, &format!("new-{number}"), None).await;
            }
        }
        cache.close().await;
        let (mut resyncs, mut added) = (0, std::collections::BTreeMap::<String, i32>::new());
        while let Some(event) = events.next().await {
            match &event {
                Event::Resynced { .. } => resyncs += 1,
                Event::Added(instance) => *added.entry(instance.id().to_owned()).or_default() += 1,
                _ => assert!(!steady.iter().any(|one| removal(&event, one.id()).is_some()), "{event:?}"),
            }
        }
        assert!(resyncs > 10, "{resyncs} resyncs are no race");
        assert!(added.len() == 60 && added.values().all(|times| *times == 1), "{added:?}");
    });
}

#[test]
fn instances_that_all_lose_their_leases_at_once_are_served_until_they_are_back() {
    run(async {
        let cluster = Cluster::one().await;
        let outside = cluster.client().await;
        let (client, proxy) = behind(&cluster).await;
        let mut rooms = Vec::new();
        for number in 0..6 {
            rooms.push(register(&client, &number.to_string(), "a:1").await);
        }
        let protection = Protection { window: Duration::from_secs(30), ..Protection::default() };
        let cache = outside.registry("prod").cache().protection(protection).start().await.expect("a cache");
        let mut events = cache.subscribe();
        proxy.set(Mode::Stall);
        hear(&mut events, "protection", |event| matches!(event, Event::Stale(StaleWhy::ManyGone { .. })).then_some(()))
            .await;
        eventually("all keys to go", async || {
            let left = outside.get(tenure_client::KeyRange::prefix("discovery/")).count_only().await.expect("a read");
            (left.count == 0).then_some(())
        })
        .await;
        eventually("all that is served to be stale", async || {
            cache.snapshot().entries().all(|entry| entry.is_stale()).then_some(())
        })
        .await;
        assert!(cache.all().len() >= 3);
        proxy.set(Mode::Pass);
        for room in &rooms {
            until(room, "registered", RegistrationState::is_registered).await;
        }
        eventually("all to be back", async || {
            let snapshot = cache.snapshot();
            (snapshot.len() == 6 && snapshot.entries().all(|entry| !entry.is_stale())).then_some(())
        })
        .await;
        hear(&mut events, "freshness", |event| matches!(event, Event::Fresh).then_some(())).await;
    });
}
