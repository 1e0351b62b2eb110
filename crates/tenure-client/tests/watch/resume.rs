//! Watches that lose their connections, members and leaders.

use tenure_client::watch::BatchKind;
use tenure_client::{Client, Revision};

use crate::support::members::Cluster;
use crate::support::proxy::{Mode, Proxy};
use crate::support::{run, within};
use crate::{Writer, hasty, keys, next, put, read, told};

/// Members that soon have another leader.
const QUICK: [&str; 2] = ["--election-timeout=500", "--heartbeat-interval=50"];

async fn proxied(cluster: &Cluster) -> (Vec<Proxy>, Client) {
    let proxies = Proxy::before_each(cluster.members.iter().map(|member| member.clients)).await;
    let endpoints: Vec<String> = proxies.iter().map(Proxy::endpoint).collect();
    let client = within("a client", Client::connect(endpoints, hasty())).await.expect("a client");
    (proxies, client)
}

#[test]
fn every_event_comes_once_and_in_order_over_a_hundred_cuts() {
    run(async {
        const CUTS: usize = 100;
        let cluster = Cluster::three().await;
        let (proxies, client) = proxied(&cluster).await;
        let mut writer = Writer::new(cluster.client().await, 0xc075);
        let mut random = 17_usize;
        let mut watcher = client.watch(keys()).open().await.expect("a watch");
        let mut events = Vec::new();
        for cut in 0..CUTS {
            writer.write_many(3).await;
            // A cut falls before, between and after the messages of what was just written.
            random = random.wrapping_mul(0x5851_f42d).wrapping_add(cut) % 1_000_003;
            let read_before = random % 3;
            for _ in 0..read_before {
                if events.len() < writer.done.len() {
                    events.extend(told(&next(&mut watcher).await));
                }
            }
            proxies.iter().for_each(Proxy::cut);
            writer.write_many(random % 3).await;
        }
        writer.write_many(10).await;
        while events.len() < writer.done.len() {
            events.extend(told(&next(&mut watcher).await));
        }
        assert_eq!(events, writer.done);
        assert!(watcher.counts().reconnects > 10, "{:?}", watcher.counts());
        assert_eq!(watcher.revision().0, writer.done.last().expect("an event").0);
    });
}

#[test]
fn a_cut_before_the_first_event_loses_nothing() {
    run(async {
        let cluster = Cluster::one().await;
        let (proxies, client) = proxied(&cluster).await;
        let direct = cluster.client().await;
        put(&direct, "k/0", "before").await;
        let mut watcher = client.watch(keys()).open().await.expect("a watch");
        let start = watcher.revision();
        proxies[0].set(Mode::Refuse);
        let first = put(&direct, "k/1", "while it is away").await;
        assert_eq!(start.next(), first);
        proxies[0].set(Mode::Pass);
        let second = put(&direct, "k/2", "later").await;
        let events = read(&mut watcher, 2).await;
        assert_eq!(
            events,
            [(first.0, "k/1".into(), Some("while it is away".into())), (second.0, "k/2".into(), Some("later".into())),]
        );
    });
}

#[test]
fn a_watch_goes_on_elsewhere_when_its_member_stops_and_when_all_of_them_were_away() {
    run(async {
        let mut cluster = Cluster::start(3, &QUICK).await;
        let client = cluster.client_with(hasty()).await;
        let mut writer = Writer::new(cluster.client_with(hasty()).await, 5);
        let mut watcher = client.watch(keys()).open().await.expect("a watch");
        let mut events = Vec::new();
        for place in 0..3 {
            cluster.members[place].stop();
            cluster.leader().await;
            // By the others: a write that is under way at a member that stops may or may not be done.
            let others = (0..3).filter(|other| *other != place).map(|other| cluster.members[other].endpoint());
            writer.client = within("a client", Client::connect(others, hasty())).await.expect("a client");
            writer.write_many(5).await;
            let missing = writer.done.len() - events.len();
            events.extend(read(&mut watcher, missing).await);
            cluster.members[place].start();
            cluster.leader().await;
        }
        cluster.members.iter_mut().for_each(crate::support::members::Member::stop);
        cluster.members.iter_mut().for_each(crate::support::members::Member::start);
        cluster.leader().await;
        writer.client = cluster.client().await;
        writer.write_many(5).await;
        let missing = writer.done.len() - events.len();
        events.extend(read(&mut watcher, missing).await);
        assert_eq!(events, writer.done);
    });
}

#[test]
fn a_member_that_loses_its_leader_is_left_unless_it_may_be_kept() {
    run(async {
        let mut cluster = Cluster::start(3, &QUICK).await;
        let only = |place: usize| vec![cluster.members[place].endpoint()];
        let client = within("a client", Client::connect(only(0), hasty())).await.expect("a client");
        let mut leaving = client.watch(keys()).open().await.expect("a watch");
        let mut staying = client.watch(keys()).without_leader().open().await.expect("a watch");
        cluster.members[1].stop();
        cluster.members[2].stop();
        // It says that it lost its leader, and makes no new watch of the first kind before it has one again.
        let refused = within("a refusal", async {
            loop {
                let opened = client.watch(keys()).timeout(std::time::Duration::from_millis(200)).open().await;
                if let Err(error) = opened {
                    return error;
                }
            }
        })
        .await;
        assert!(!matches!(refused, tenure_client::watch::WatchError::Closed), "{refused}");
        cluster.members[1].start();
        cluster.members[2].start();
        cluster.leader().await;
        let direct = cluster.client().await;
        let revision = put(&direct, "k/0", "v").await;
        for watcher in [&mut leaving, &mut staying] {
            assert_eq!(read(watcher, 1).await, [(revision.0, "k/0".into(), Some("v".into()))]);
        }
        assert_eq!((leaving.counts().reconnects > 0, staying.counts().reconnects), (true, 0));
    });
}

#[test]
fn a_watch_from_the_past_tells_all_of_it_and_one_from_the_future_waits() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client_with(hasty()).await;
        let mut writer = Writer::new(client.clone(), 8);
        writer.write_many(50).await;
        let first = writer.done[0].0;
        let mut past = client.watch(keys()).from(Revision(1)).open().await.expect("a watch");
        let mut future = client.watch(keys()).from(Revision(first + 60)).open().await.expect("a watch");
        assert_eq!(past.revision(), Revision(0));
        assert_eq!(read(&mut past, writer.done.len()).await, writer.done);
        writer.write_many(20).await;
        let batch = next(&mut future).await;
        assert_eq!(batch.kind, BatchKind::Changes);
        assert_eq!(told(&batch)[0].0, first + 60);
    });
}

#[test]
fn a_namespace_is_watched_as_the_whole_store() {
    run(async {
        let cluster = Cluster::one().await;
        let whole = cluster.client_with(hasty()).await;
        let part = whole.namespaced("app/");
        let mut all = part.watch(tenure_client::KeyRange::all()).prev_kv().open().await.expect("a watch");
        put(&whole, "other", "1").await;
        put(&whole, "app0", "1").await;
        let first = put(&part, "a", "1").await;
        let second = put(&whole, "app/a", "2").await;
        let mut batches = vec![next(&mut all).await];
        while batches.iter().map(|batch| batch.events.len()).sum::<usize>() < 2 {
            batches.push(next(&mut all).await);
        }
        let events: Vec<_> = batches.iter().flat_map(told).collect();
        assert_eq!(events, [(first.0, "a".into(), Some("1".into())), (second.0, "a".into(), Some("2".into()))]);
        let last = batches.last().and_then(|batch| batch.events.last()).expect("an event");
        let prev = last.prev.as_ref().expect("there was one");
        assert_eq!((&prev.key[..], &prev.value[..]), (&b"a"[..], &b"1"[..]));
    });
}
