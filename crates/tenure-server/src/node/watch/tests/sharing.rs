//! What watchers and streams share, and that none of them takes more of it than its part.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tenure_core::Revision;
use tenure_core::command::KeyRange;

use super::super::limits::StreamLimits;
use super::super::session::elsewhere;
use super::super::types::{CreateWatch, WatchId, WatchMessage};
use super::super::work::{Work, WorkDone};
use super::world::{Client, Told, World, bytes, event_bytes, put, told, watch, watch_key};

/// Large enough for everything in a test.
const LARGE: usize = 1 << 20;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A watcher of "a" that wants previous values.
fn with_prev_kv(start: i64) -> CreateWatch {
    let mut request = watch(KeyRange::One(bytes("a")), Revision(start));
    request.scope.prev_kv = true;
    request
}

/// Limits with which all previous values are looked for elsewhere.
fn gathered_elsewhere() -> StreamLimits {
    StreamLimits { inline_prev_kvs: 0, ..StreamLimits::new(LARGE, event_bytes) }
}

#[test]
fn a_watched_key_keeps_nothing_of_the_request_that_it_came_in() {
    let world = World::new(LARGE);
    let mut client = Client::new(&world);
    let request: Arc<[u8]> = Arc::from(&b"key, end and much else"[..]);
    let key = |from, to| Bytes::from_owner(request.clone()).slice(from..to);
    let ranges = [KeyRange::One(key(0, 3)), KeyRange::Between(key(5, 8), key(0, 3)), KeyRange::From(key(0, 3))];
    for range in ranges {
        client.stream.create(watch(range, Revision(0)), &world.view());
    }
    assert_eq!(world.hub.stats().watchers, 3);
    assert_eq!(Arc::strong_count(&request), 1, "somebody keeps the request");
}

/// A client with a message that is being gathered from the ring.
fn gathering(world: &mut World) -> Client {
    world.put("a", "0");
    let mut client = Client::with(world, gathered_elsewhere());
    client.stream.create(with_prev_kv(0), &world.view());
    world.put("a", "1");
    world.match_all();
    client.stream.collect();
    assert!(matches!(client.stream.message(), Some(WatchMessage::Created { .. })));
    client.turn(world);
    assert!(matches!(client.works[..], [Work::Gather(_)]));
    client
}

#[tokio::test]
async fn those_that_are_up_to_date_do_not_wait_for_reads_of_the_history() {
    let mut world = World::new(LARGE);
    let mut reader = Client::new(&world);
    world.put("a", "0");
    world.put("a", "0");
    reader.stream.create(watch(KeyRange::One(bytes("a")), Revision(2)), &world.view());
    reader.stream.message().unwrap();
    reader.turn(&world);
    let [Work::CatchUp(_)] = reader.works[..] else { panic!("it reads") };
    let reads = world.hub.places(&reader.works[0]);
    let _all = reads.acquire_many(u32::try_from(reads.available_permits()).unwrap()).await.unwrap();
    let mut client = gathering(&mut world);
    let view = world.view();
    let work = client.works.pop().unwrap();
    let places = world.hub.places(&work);
    let done = tokio::time::timeout(PATIENCE, elsewhere(work, places, move || view.clone())).await;
    client.stream.finish(done.expect("it waits for the reads").unwrap().unwrap());
    assert_eq!(told(&client.everything(&world)), ["0 up to 5: 5+a was 0"]);
}

#[test]
fn a_message_that_waits_to_be_gathered_keeps_neither_events_nor_a_view() {
    let mut world = World::new(4000);
    let mut client = gathering(&mut world);
    let (run, view) = (world.last_run.clone(), Arc::downgrade(&world.view()));
    while world.hub.shared().recent(Revision(3), Revision(3), 1).is_some() {
        world.put("b", &"x".repeat(1000));
        world.match_all();
    }
    assert!(run.upgrade().is_none(), "somebody keeps the run");
    assert!(view.upgrade().is_none(), "somebody keeps the view");
    let done = client.works.pop().unwrap().run(&|| world.view()).unwrap();
    assert!(matches!(done, WorkDone::Missed(_)));
    client.stream.finish(done);
    assert_eq!(told(&client.everything(&world)), ["0 up to 3: 3+a was 0"], "it is read from the history");
    assert_eq!(world.hub.stats().catch_up_reads, 1);
}

#[test]
fn a_read_that_compaction_overtakes_ends_those_that_it_was_for() {
    let mut world = World::new(0);
    for _ in 0..4 {
        world.put("a", "0");
    }
    let mut client = Client::new(&world);
    client.stream.create(watch(KeyRange::One(bytes("a")), Revision(2)), &world.view());
    client.stream.create(watch(KeyRange::One(bytes("a")), Revision(5)), &world.view());
    while client.stream.message().is_some() {}
    client.turn(&world);
    assert_eq!(client.works.len(), 1);
    world.compact(Revision(4));
    world.purge();
    assert_eq!(told(&client.everything(&world)), ["0 compacted to 4", "1 up to 5: 5+a"]);
}

#[test]
fn one_read_of_the_history_serves_all_who_want_previous_values() {
    let mut world = World::new(0);
    for value in ["0", "1", "2"] {
        world.put("a", value);
    }
    let mut client = Client::with(&world, gathered_elsewhere());
    for fragment in [false, false, true, false] {
        let mut request = with_prev_kv(3);
        request.scope.fragment = fragment;
        client.stream.create(request, &world.view());
    }
    let mut messages = Vec::new();
    while client.stream.has_turn() || !client.works.is_empty() {
        messages.extend(std::iter::from_fn(|| client.stream.message()));
        if client.stream.has_turn() {
            client.turn(&world);
        } else {
            client.work(0, &world);
        }
    }
    messages.extend(std::iter::from_fn(|| client.stream.message()));
    let messages = told(&messages);
    let expected: Vec<String> = (0..4).map(|id| format!("{id} up to 4: 3+a was 0, 4+a was 1")).collect();
    assert_eq!(messages[4..], expected);
    assert_eq!(world.hub.stats().catch_up_reads, 1);
}

#[test]
fn one_that_is_up_to_date_does_not_wait_for_all_that_catch_up() {
    let mut world = World::new(LARGE);
    for _ in 0..4 {
        world.put("a", "0");
    }
    let mut client = Client::new(&world);
    for _ in 0..10 {
        client.stream.create(watch(KeyRange::One(bytes("a")), Revision(2)), &world.view());
    }
    client.stream.create(watch_key("b"), &world.view());
    let mut messages = Vec::new();
    while messages.len() < 12 {
        messages.extend(std::iter::from_fn(|| client.stream.message()));
        client.turn(&world);
        if !client.works.is_empty() {
            client.work(0, &world);
        }
    }
    assert_eq!(told(&messages)[11], "0 up to 5: 2+a, 3+a, 4+a, 5+a", "the read is there for all ten");
    world.put("b", "0");
    let messages = told(&client.everything(&world));
    assert!(messages[..3].contains(&"10 up to 6: 6+b".to_owned()), "{messages:?}");
    assert_eq!((messages.len(), world.hub.stats().catch_up_reads), (10, 1));
}

#[test]
fn what_is_before_a_revision_that_is_too_large_is_told() {
    let mut world = World::new(LARGE);
    let limits = StreamLimits { whole_revision_bytes: 3000, ..StreamLimits::new(LARGE, event_bytes) };
    let mut client = Client::with(&world, limits);
    client.stream.create(watch_key("a"), &world.view());
    for bytes in [1, 2000, 4000] {
        world.put("a", &"x".repeat(bytes));
    }
    world.put("b", "0");
    let messages = client.everything(&world);
    let expected = ["0 up to 3: 2+a, 3+a", "0 failed: a revision is too large to be sent whole"];
    assert_eq!(told(&messages)[1..], expected);
    let Some(WatchMessage::Failed { revision, .. }) = messages.last() else { panic!("it failed") };
    assert_eq!(*revision, Revision(3), "the last one that was told");
}

#[test]
fn revisions_that_are_too_large_together_come_one_by_one() {
    let mut world = World::new(LARGE);
    let limits = StreamLimits { whole_revision_bytes: 3000, ..StreamLimits::new(LARGE, event_bytes) };
    let mut client = Client::with(&world, limits);
    client.stream.create(watch_key("a"), &world.view());
    world.apply(&[put("a", &"x".repeat(2000)), put("a", &"y".repeat(2000)), put("a", "z")], Told::Yes);
    assert_eq!(told(&client.everything(&world))[1..], ["0 up to 2: 2+a", "0 up to 4: 3+a, 4+a"]);
}

#[test]
fn progress_is_answered_when_the_last_watcher_has_gone() {
    let mut world = World::new(LARGE);
    let mut client = Client::new(&world);
    client.stream.create(watch_key("a"), &world.view());
    client.everything(&world);
    world.put("b", "0");
    client.stream.want_progress(&world.view());
    client.stream.try_progress();
    assert_eq!(client.stream.message(), None, "the hub has not seen it yet");
    client.stream.cancel(WatchId(0), &world.view());
    client.stream.try_progress();
    assert_eq!(told(&client.everything(&world)), ["0 canceled at 2", "all at 2"]);
    assert!(!client.stream.wants_progress());
}
