//! What a stream tells, message by message.

use std::collections::BTreeMap;
use std::sync::Arc;

use tenure_core::Revision;
use tenure_core::command::KeyRange;
use tokio::sync::Notify;

use super::super::hub::WatchHub;
use super::super::limits::{LARGE_HOLDERS_MAX, StreamLimits};
use super::super::stream::WatchStream;
use super::super::types::{CreateWatch, Kinds, Scope, WatchId, WatchMessage};
use super::world::{Client, Told, World, bytes, delete, event_bytes, put, puts, told, watch, watch_key};

/// Large enough for everything in a test.
const LARGE: usize = 1 << 20;

fn all() -> KeyRange {
    KeyRange::From(bytes("\0"))
}

fn with_id(id: i64, request: CreateWatch) -> CreateWatch {
    CreateWatch { id: Some(WatchId(id)), ..request }
}

fn with_scope(request: CreateWatch, change: impl FnOnce(&mut Scope)) -> CreateWatch {
    let mut request = request;
    change(&mut request.scope);
    request
}

#[test]
fn events_follow_the_message_of_their_creation_and_cancel_is_the_last() {
    let mut world = World::new(LARGE);
    let mut client = Client::new(&world);
    world.put("a", "0");
    client.stream.create(watch_key("a"), &world.view());
    client.stream.create(watch(all(), Revision(2)), &world.view());
    world.put("a", "1");
    world.delete("a");
    let messages = client.everything(&world);
    let expected = ["0 created at 2", "1 created at 2", "0 up to 4: 3+a, 4-a", "1 up to 4: 2+a, 3+a, 4-a"];
    assert_eq!(told(&messages), expected);
    world.put("a", "2");
    client.stream.cancel(WatchId(0), &world.view());
    client.stream.cancel(WatchId(0), &world.view());
    client.stream.cancel(WatchId(7), &world.view());
    world.put("a", "3");
    assert_eq!(told(&client.everything(&world)), ["0 canceled at 5", "1 up to 6: 5+a, 6+a"]);
}

#[test]
fn ids_are_counted_from_0_and_pass_over_those_that_clients_chose() {
    let world = World::new(LARGE);
    let mut client = Client::new(&world);
    for request in [with_id(1, watch_key("a")), watch_key("a"), watch_key("a"), with_id(-5, watch_key("a"))] {
        client.stream.create(request, &world.view());
    }
    client.stream.create(with_id(2, watch_key("a")), &world.view());
    client.stream.cancel(WatchId(0), &world.view());
    client.stream.create(watch_key("a"), &world.view());
    client.stream.create(with_id(2, watch_key("b")), &world.view());
    let expected = [
        "1 created at 1",
        "0 created at 1",
        "2 created at 1",
        "-5 created at 1",
        "refused at 1: the id is taken",
        "0 canceled at 1",
        "3 created at 1",
        "refused at 1: the id is taken",
    ];
    assert_eq!(told(&client.everything(&world)), expected);
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let world = World::new(LARGE);
    let mut client = Client::new(&world);
    client.stream.create(watch(KeyRange::One(bytes("a")), Revision(-1)), &world.view());
    client.stream.create(watch(KeyRange::Between(bytes("b"), bytes("b")), Revision(0)), &world.view());
    client.stream.create(watch_key("a"), &world.view());
    let expected = ["refused at 1: no revision is negative", "refused at 1: the range is empty", "0 created at 1"];
    assert_eq!(told(&client.everything(&world)), expected);
}

#[test]
fn a_start_below_the_compacted_revision_ends_at_once_and_one_at_it_gets_its_tombstone() {
    let mut world = World::new(LARGE);
    world.put("a", "0");
    let deleted = world.delete("a");
    world.put("b", "0");
    world.compact(deleted);
    world.purge();
    let mut client = Client::new(&world);
    client.stream.create(watch(all(), Revision(deleted.0 - 1)), &world.view());
    client.stream.create(watch(all(), deleted), &world.view());
    let expected = ["0 created at 4", "0 compacted to 3", "1 created at 4", "1 up to 4: 3-a, 4+b"];
    assert_eq!(told(&client.everything(&world)), expected);
}

#[test]
fn one_that_fell_behind_compaction_is_told_so_unless_its_events_are_still_in_memory() {
    for (ring_bytes_max, expected) in [(LARGE, "0 up to 3: 2+a, 3+a"), (0, "0 compacted to 3")] {
        let mut world = World::new(ring_bytes_max);
        let mut client = Client::new(&world);
        client.stream.create(watch_key("a"), &world.view());
        world.put("a", "0");
        world.put("a", "1");
        world.compact(Revision(3));
        world.purge();
        assert_eq!(told(&client.everything(&world)), ["0 created at 1", expected]);
    }
}

#[test]
fn nothing_is_told_before_a_start_to_come_and_no_progress_either() {
    let mut world = World::new(LARGE);
    let mut client = Client::new(&world);
    client.stream.create(watch(KeyRange::One(bytes("a")), Revision(4)), &world.view());
    world.put("a", "0");
    assert_eq!(told(&client.everything(&world)), ["0 created at 1"]);
    client.stream.want_progress(&world.view());
    client.stream.try_progress();
    client.stream.give_up_progress();
    client.stream.notify_progress();
    assert_eq!(told(&client.everything(&world)), [""; 0]);
    world.put("a", "1");
    client.everything(&world);
    client.stream.want_progress(&world.view());
    client.stream.try_progress();
    world.put("a", "2");
    assert_eq!(told(&client.everything(&world)), ["all at 3", "0 up to 4: 4+a"]);
}

#[test]
fn a_fresh_watcher_that_nothing_happens_to_has_progress() {
    // etcd's issue 17507.
    let mut world = World::new(LARGE);
    world.put("b", "0");
    let mut client = Client::new(&world);
    client.stream.create(watch_key("a"), &world.view());
    client.stream.create(watch(KeyRange::One(bytes("a")), Revision(3)), &world.view());
    client.everything(&world);
    client.stream.want_progress(&world.view());
    client.stream.try_progress();
    assert_eq!(told(&client.everything(&world)), ["all at 2"]);
}

#[test]
fn progress_waits_for_what_was_applied_before_it_was_asked_for() {
    let mut world = World::new(LARGE);
    let mut client = Client::new(&world);
    client.stream.create(watch_key("a"), &world.view());
    client.everything(&world);
    world.put("b", "0");
    client.stream.want_progress(&world.view());
    client.stream.try_progress();
    assert_eq!(client.stream.message(), None, "the hub has not seen it yet");
    world.match_all();
    client.stream.try_progress();
    assert_eq!(told(&client.everything(&world)), ["all at 2"]);
}

#[test]
fn one_that_is_far_behind_does_not_keep_the_others_from_their_progress() {
    // etcd's issue 20242.
    let mut world = World::new(LARGE);
    for _ in 0..3 {
        world.put("a", "0");
    }
    let mut client = Client::new(&world);
    client.stream.create(watch_key("b"), &world.view());
    client.stream.create(watch(all(), Revision(2)), &world.view());
    world.match_all();
    client.stream.collect();
    client.stream.want_progress(&world.view());
    client.stream.try_progress();
    client.stream.give_up_progress();
    let messages: Vec<_> = std::iter::from_fn(|| client.stream.message()).collect();
    assert_eq!(told(&messages), ["0 created at 4", "1 created at 4", "0 at 4"]);
}

#[test]
fn notices_of_progress_go_to_those_that_want_them_while_nothing_else_does() {
    let mut world = World::new(LARGE);
    let mut client = Client::new(&world);
    let wanted = |key| CreateWatch { progress_notify: true, ..watch_key(key) };
    for request in [wanted("a"), wanted("b"), watch_key("c")] {
        client.stream.create(request, &world.view());
    }
    world.put("a", "0");
    client.everything(&world);
    client.stream.notify_progress();
    assert_eq!(told(&client.everything(&world)), ["1 at 2"], "a was told something else");
    client.stream.notify_progress();
    assert_eq!(told(&client.everything(&world)), ["0 at 2", "1 at 2"]);
}

#[test]
fn filters_leave_out_one_kind_of_events() {
    let mut world = World::new(LARGE);
    let mut client = Client::new(&world);
    for kinds in [(true, false), (false, true), (false, false)] {
        let (puts, deletes) = kinds;
        let request = with_scope(watch_key("a"), |scope| scope.kinds = Kinds { puts, deletes });
        client.stream.create(request, &world.view());
    }
    world.put("a", "0");
    world.delete("a");
    let messages = client.everything(&world);
    assert_eq!(told(&messages)[3..], ["0 up to 2: 2+a", "1 up to 3: 3-a"]);
}

#[test]
fn previous_values_are_exact_or_left_out_when_compacted() {
    for ring_bytes_max in [LARGE, 0] {
        let mut world = World::new(ring_bytes_max);
        for value in ["0", "1", "2"] {
            world.put("a", value);
        }
        world.delete("a");
        world.put("a", "3");
        world.compact(Revision(3));
        world.purge();
        let mut client = Client::new(&world);
        let request = with_scope(watch(all(), Revision(3)), |scope| scope.prev_kv = true);
        client.stream.create(request, &world.view());
        let expected = ["0 created at 6", "0 up to 6: 3+a, 4+a was 1, 5-a was 2, 6+a"];
        assert_eq!(told(&client.everything(&world)), expected);
    }
}

#[test]
fn a_previous_value_that_is_compacted_is_left_out_even_if_it_is_at_hand() {
    let mut world = World::new(LARGE);
    let mut clients = [Client::new(&world), Client::with(&world, in_parts(LARGE))];
    let request = with_scope(watch_key("a"), |scope| scope.prev_kv = true);
    clients.iter_mut().for_each(|client| client.stream.create(request.clone(), &world.view()));
    for value in ["0", "1", "2"] {
        world.put("a", value);
    }
    world.compact(Revision(3));
    for client in &mut clients {
        assert_eq!(told(&client.everything(&world)), ["0 created at 1", "0 up to 4: 2+a, 3+a, 4+a was 1"]);
    }
}

#[test]
fn a_header_names_what_all_is_told_up_to_and_never_more() {
    let mut world = World::new(0);
    for key in ["a", "a", "b", "a", "b", "b"] {
        world.put(key, "0");
    }
    let limits = StreamLimits { message_revisions: 2, ..StreamLimits::new(LARGE, event_bytes) };
    let mut client = Client::with(&world, limits);
    client.stream.create(watch(KeyRange::One(bytes("a")), Revision(2)), &world.view());
    let messages = told(&client.everything(&world));
    assert_eq!(messages, ["0 created at 7", "0 up to 3: 2+a, 3+a", "0 up to 7: 5+a"], "more follows the first");
    world.put("a", "1");
    world.put("b", "1");
    assert_eq!(told(&client.everything(&world)), ["0 up to 9: 8+a"]);
}

/// Limits with which every event is a part, and previous values are looked for elsewhere.
fn in_parts(fragment_bytes: usize) -> StreamLimits {
    StreamLimits { inline_prev_kvs: 0, fragment_bytes, ..StreamLimits::new(1, event_bytes) }
}

#[test]
fn a_client_that_waits_keeps_nothing_of_the_ring() {
    let keys = |value: &str| ["a", "b", "c"].map(|key| (key.to_owned(), value.to_owned())).into();
    for prev_kv in [false, true] {
        let mut world = World::new(4000);
        let mut client = Client::with(&world, in_parts(1));
        let request = with_scope(watch(all(), Revision(3)), |scope| (scope.prev_kv, scope.fragment) = (prev_kv, true));
        world.apply(&[puts(&keys("0"))], Told::Yes);
        client.stream.create(request, &world.view());
        world.apply(&[puts(&keys("1")), put("d", "1")], Told::Yes);
        let run = world.last_run.clone();
        world.match_all();
        client.stream.collect();
        assert_eq!(told(&[client.stream.message().unwrap()]), ["0 created at 2"]);
        client.turn(&world);
        let done = client.works.pop().map(|work| work.run(&|| world.view()).unwrap());
        assert_eq!(done.is_some(), prev_kv, "the message is made elsewhere, or here");
        assert!(run.upgrade().is_some(), "the ring has it");
        while world.hub.shared().recent(Revision(4), Revision(4), 1).is_some() {
            world.put("e", &"x".repeat(1000));
        }
        assert!(run.upgrade().is_none(), "somebody keeps the run");
        if let Some(done) = done {
            client.stream.finish(done);
        }
        let messages = client.everything(&world);
        let was = if prev_kv { " was 0" } else { "" };
        let parts = [format!("0 up to 3: 3+a{was}, more follows"), format!("0 up to 3: 3+b{was}, more follows")];
        assert_eq!(told(&messages)[..2], parts);
        assert_eq!(told(&messages)[2], format!("0 up to 3: 3+c{was}"));
        for message in &messages[usize::from(!prev_kv)..3] {
            let WatchMessage::Events { events, .. } = message else { panic!("{message:?}") };
            let original = world.events.iter().find(|event| **event == events[0].event).unwrap();
            assert_ne!(events[0].event.value.as_ptr(), original.value.as_ptr(), "it keeps the log entry");
        }
    }
}

#[test]
fn a_large_revision_comes_whole_or_in_parts_that_nothing_separates() {
    let mut world = World::new(LARGE);
    let limits = StreamLimits { fragment_bytes: 40, ..StreamLimits::new(1, event_bytes) };
    let mut client = Client::with(&world, limits);
    let request = watch(all(), Revision(0));
    client.stream.create(with_scope(request.clone(), |scope| scope.fragment = true), &world.view());
    client.stream.create(request, &world.view());
    let keys: BTreeMap<String, String> =
        ["a", "b", "c", "d", "e", "f"].map(|key| (key.to_owned(), "x".to_owned())).into();
    world.apply(&[put("p", "0"), puts(&keys), put("q", "0")], Told::Yes);
    let expected = [
        "0 created at 1",
        "1 created at 1",
        "0 up to 3: 2+p, 3+a, 3+b, more follows",
        "0 up to 3: 3+c, 3+d, 3+e, more follows",
        "0 up to 3: 3+f",
        "1 up to 4: 2+p, 3+a, 3+b, 3+c, 3+d, 3+e, 3+f, 4+q",
        "0 up to 4: 4+q",
    ];
    assert_eq!(told(&client.everything(&world)), expected);
}

#[test]
fn no_message_that_is_still_being_made_comes_between_the_parts_of_a_revision() {
    let mut world = World::new(LARGE);
    world.apply(&[put("a", "0"), put("b", "0")], Told::Yes);
    let limits = StreamLimits { fragment_bytes: 20, inline_prev_kvs: 0, ..StreamLimits::new(1, event_bytes) };
    let mut client = Client::with(&world, limits);
    client.stream.create(with_scope(watch_key("a"), |scope| scope.prev_kv = true), &world.view());
    client.stream.create(with_scope(watch(all(), Revision(0)), |scope| scope.fragment = true), &world.view());
    let keys: BTreeMap<String, String> = ["a", "b"].map(|key| (key.to_owned(), "1".to_owned())).into();
    world.apply(&[puts(&keys)], Told::Yes);
    world.match_all();
    client.stream.collect();
    let mut messages: Vec<_> = std::iter::from_fn(|| client.stream.message()).collect();
    for _ in 0..5 {
        client.turn(&world);
        messages.extend(std::iter::from_fn(|| client.stream.message()));
    }
    assert_eq!(client.works.len(), 1, "the previous value is looked for elsewhere");
    messages.extend(client.everything(&world));
    let expected = ["0 up to 4: 4+a was 0", "1 up to 4: 4+a, more follows", "1 up to 4: 4+b"];
    assert_eq!(told(&messages)[2..], expected);
}

#[test]
fn a_revision_that_nobody_should_gather_ends_its_watcher() {
    let mut world = World::new(LARGE);
    let limits = StreamLimits { whole_revision_bytes: 1000, fragment_bytes: 500, ..StreamLimits::new(1, event_bytes) };
    let mut client = Client::with(&world, limits);
    client.stream.create(watch(all(), Revision(0)), &world.view());
    client.stream.create(with_scope(watch(all(), Revision(0)), |scope| scope.fragment = true), &world.view());
    world.put("a", &"x".repeat(2000));
    let messages = told(&client.everything(&world));
    assert_eq!(messages[2..], ["0 failed: a revision is too large to be sent whole", "1 up to 2: 2+a"]);
}

#[test]
fn a_snapshot_is_bridged_from_the_history_or_ends_those_that_it_compacts() {
    let mut world = World::new(LARGE);
    let mut client = Client::new(&world);
    client.stream.create(watch_key("a"), &world.view());
    world.put("a", "0");
    assert_eq!(told(&client.everything(&world)), ["0 created at 1", "0 up to 2: 2+a"]);
    world.apply(&[put("a", "1"), put("b", "1"), put("a", "2")], Told::No);
    world.replace();
    world.put("a", "3");
    assert_eq!(told(&client.everything(&world)), ["0 up to 6: 3+a, 5+a, 6+a"]);
    world.apply(&[put("b", "2"), put("a", "4")], Told::No);
    world.compact(Revision(8));
    world.replace();
    assert_eq!(told(&client.everything(&world)), ["0 compacted to 8"]);
}

#[test]
fn those_that_are_far_behind_and_those_that_are_busy_take_turns() {
    let mut world = World::new(0);
    for _ in 0..4 {
        world.put("a", "0");
    }
    let limits = StreamLimits { message_revisions: 1, ..StreamLimits::new(LARGE, event_bytes) };
    let mut client = Client::with(&world, limits);
    for _ in 0..3 {
        client.stream.create(watch(KeyRange::One(bytes("a")), Revision(2)), &world.view());
    }
    client.stream.create(watch_key("b"), &world.view());
    world.put("b", "1");
    let messages = told(&client.everything(&world));
    let first_round: Vec<&str> = messages[4..8].iter().map(|message| &message[..1]).collect();
    assert_eq!(first_round, ["0", "1", "2", "3"], "each once before anyone twice: {messages:?}");
    assert_eq!(world.hub.stats().events_sent, 13);
}

#[test]
fn one_read_of_the_history_serves_all_who_are_near_each_other() {
    let mut world = World::new(0);
    for _ in 0..10 {
        world.put("a", "0");
    }
    let mut client = Client::new(&world);
    for _ in 0..100 {
        client.stream.create(watch(KeyRange::One(bytes("a")), Revision(2)), &world.view());
    }
    let messages = client.everything(&world);
    assert_eq!(messages.len(), 200);
    assert_eq!(world.hub.stats().catch_up_reads, 1);
}

#[test]
fn when_many_hold_much_the_others_get_everything_in_small_messages() {
    for (holders, messages_wanted) in [(LARGE_HOLDERS_MAX - 1, 1), (LARGE_HOLDERS_MAX, 5)] {
        let mut world = World::new(0);
        let held: Vec<_> = (0..holders).map(|_| world.hub.shared().may_hold_much().unwrap()).collect();
        let value = "x".repeat(1000);
        for _ in 0..5 {
            world.put("a", &value);
        }
        let limits = StreamLimits { small_message_bytes: 500, ..StreamLimits::new(LARGE, event_bytes) };
        let mut client = Client::with(&world, limits);
        client.stream.create(watch(all(), Revision(2)), &world.view());
        let messages = client.everything(&world);
        assert_eq!(messages.len() - 1, messages_wanted, "beside the message of the creation");
        assert_eq!(world.hub.stats().events_sent, 5);
        drop(held);
        assert!(client.stream.message().is_none());
        let places = (0..).map_while(|_| world.hub.shared().may_hold_much()).collect::<Vec<_>>().len();
        assert_eq!(places, LARGE_HOLDERS_MAX, "the stream holds nothing any more");
    }
}

#[test]
fn nothing_is_kept_while_nobody_watches() {
    let mut world = World::new(LARGE);
    world.put("a", "0");
    assert_eq!(world.hub.stats().ring_events, 0);
    let mut client = Client::new(&world);
    client.stream.create(watch_key("b"), &world.view());
    world.put("a", "1");
    assert_eq!(world.hub.stats().ring_events, 1);
    client.stream.cancel(WatchId(0), &world.view());
    assert_eq!(world.hub.stats().ring_events, 0);
    world.put("b", "0");
    client.stream.create(watch_key("b"), &world.view());
    world.apply(&[delete(all())], Told::Yes);
    let messages = client.everything(&world);
    assert_eq!(told(&messages)[2..], ["1 created at 4", "1 up to 5: 5-b"]);
}

#[tokio::test]
async fn the_hubs_own_thread_wakes_the_streams_that_it_concerns() {
    let mut world = World::new(LARGE);
    world.hub = WatchHub::start(LARGE).unwrap();
    world.replace();
    let (wake, other) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let limits = StreamLimits::new(LARGE, event_bytes);
    let mut stream = WatchStream::open(&world.hub, limits, wake.clone()).unwrap();
    let mut bystander = WatchStream::open(&world.hub, limits, other.clone()).unwrap();
    stream.create(watch_key("a"), &world.view());
    bystander.create(watch_key("b"), &world.view());
    stream.message().unwrap();
    for _ in 0..100 {
        let revision = world.put("a", "0");
        wake.notified().await;
        stream.collect();
        stream.turn(&|| world.view()).unwrap();
        let messages: Vec<_> = std::iter::from_fn(|| stream.message()).collect();
        assert!(told(&messages).last().unwrap().ends_with(&format!("{revision}+a")), "{messages:?}");
    }
    assert!(futures::FutureExt::now_or_never(other.notified()).is_none(), "b has nothing new");
}
