//! Locks and elections as calls of the node: who is first, who waits for whom, and what a call leaves that ends early.

use std::future::{Future, pending, poll_fn, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use tenure_core::command::{Command, KeyRange};
use tenure_core::outcome::Refusal;
use tenure_core::row::AlarmKind;
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, Revision};
use tenure_server::node::{ContestError, Node, RequestError, Won};
use tokio::task::JoinHandle;

use crate::support::cluster::{Cluster, eventually, settled};
use crate::support::history::{bytes, range};
use crate::support::leases::{Held, events_from, revoke};
use crate::support::member::Settings;
use crate::support::requests::{delete, put};
use crate::support::{run, within};
use tenure_raft::log::Keep;
use tenure_raft::sim::{Kept, Step};

const MINUTE: Duration = Duration::from_secs(60);

/// However busy the machine is, the leader stays the leader.
fn settings() -> Settings {
    Settings::with_a_lasting_leader()
}

fn wish(name: &str, lease: i64) -> tenure_server::node::Wish {
    tenure_server::node::Wish { name: bytes(name), lease: LeaseId(lease), value: None }
}

fn candidacy(name: &str, lease: i64, value: &str) -> tenure_server::node::Wish {
    tenure_server::node::Wish { value: Some(bytes(value)), ..wish(name, lease) }
}

async fn lock(node: &Node, name: &str, lease: i64) -> Result<Won, ContestError> {
    within("a lock", node.contend(wish(name, lease), pending())).await
}

/// A call that goes on by itself.
fn start(node: &Node, name: &str, lease: i64) -> JoinHandle<Result<Won, ContestError>> {
    let (node, wish) = (node.clone(), wish(name, lease));
    tokio::spawn(async move { node.contend(wish, pending()).await })
}

async fn ended(call: JoinHandle<Result<Won, ContestError>>) -> Result<Won, ContestError> {
    within("the end of a call", call).await.expect("it does not panic")
}

async fn grant(node: &Node, ids: impl IntoIterator<Item = i64>) {
    for id in ids {
        Held::granted(node, id, 60 * MINUTE).await;
    }
}

/// The create revision of a key as a member has it, or nothing.
fn created(node: &Node, key: &str) -> Option<Revision> {
    let meta = node.shared().raft.view().current_meta(key.as_bytes()).expect("a state that can be read");
    meta.filter(|meta| !meta.is_tombstone()).map(|meta| meta.create)
}

async fn appears(node: &Node, key: &str) -> Revision {
    eventually("the key is there", || created(node, key)).await
}

async fn disappears(node: &Node, key: &str) {
    eventually("the key is gone", || created(node, key).is_none().then_some(())).await;
}

/// Waits until nothing of calls that ended early is left to do anywhere.
async fn cared_for(nodes: &[Node]) {
    eventually("what was left is dealt with", || {
        let left = |node: &Node| node.shared().contests.left.load(Ordering::Relaxed);
        nodes.iter().all(|node| left(node) == 0).then_some(())
    })
    .await;
    settled(nodes).await;
}

async fn write(node: &Node, command: &Command) -> Revision {
    let outcome = within("a write", node.write(command)).await.expect("an outcome");
    assert!(outcome.result.is_ok(), "{outcome:?}");
    outcome.revision
}

async fn remove(node: &Node, key: &str) {
    write(node, &delete(&[key]).command).await;
}

/// Polls a call until it has paused so many times, or until it waits for its turn. None if it has not ended by then.
async fn go<T>(call: &mut (impl Future<Output = T> + Unpin), pauses: usize, waits: impl Fn() -> bool) -> Option<T> {
    let mut paused = 0;
    poll_fn(|cx| match call.poll_unpin(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending => {
            paused += 1;
            if paused >= pauses || waits() { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}

fn watchers(node: &Node) -> usize {
    node.shared().watches.stats().watchers
}

#[test]
fn a_call_that_is_dropped_wherever_it_stands_leaves_no_key() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &settings()).await;
        grant(&nodes[0], [7]).await;
        for (place, node) in nodes.iter().enumerate() {
            // Alone it goes on until it has won; behind somebody else, until it waits. Dropped at once, what it asked for may
            // not be done at all; dropped late, it is done, and the call does not know.
            for (is_behind, is_late) in [(false, false), (false, true), (true, false), (true, true)] {
                let mut points = 0;
                loop {
                    points += 1;
                    let name = format!("{place} {is_behind} {is_late} {points}");
                    if is_behind {
                        write(node, &put(&format!("{name}/older"), "x").command).await;
                    }
                    let mut call = Box::pin(node.contend(wish(&name, 7), pending()));
                    let waits = || watchers(node) > 0;
                    let won = within("a pause", go(&mut call, points, waits)).await;
                    let is_at_the_end = won.is_some() || watchers(node) > 0;
                    assert_eq!(won.is_some(), is_at_the_end && !is_behind, "{won:?}");
                    if is_late {
                        // What was asked for before this is done.
                        write(node, &put("after", "x").command).await;
                        assert!(created(node, &format!("{name}/7")).is_some());
                    }
                    drop(call);
                    cared_for(&nodes).await;
                    let left = created(node, &format!("{name}/7"));
                    assert_eq!(left.is_some(), won.is_some(), "{name}: {left:?}");
                    if is_at_the_end {
                        break;
                    }
                    assert!(points < 50, "it never comes to its end");
                }
                assert!(points > 1, "there is nothing to be dropped at");
            }
        }
    });
}

#[test]
fn calls_of_all_members_are_served_in_order_and_a_release_wakes_one() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &settings()).await;
        let leases = 1..=9;
        grant(&nodes[0], leases.clone()).await;
        let mut calls = Vec::new();
        for lease in leases {
            let node = nodes[usize::try_from(lease).expect("small") % 3].clone();
            let polls = Arc::new(AtomicUsize::new(0));
            let counted = polls.clone();
            let call = tokio::spawn({
                let node = node.clone();
                async move {
                    let mut call = Box::pin(node.contend(wish("l", lease), pending()));
                    poll_fn(|cx| {
                        counted.fetch_add(1, Ordering::Relaxed);
                        call.poll_unpin(cx)
                    })
                    .await
                }
            });
            for node in &nodes {
                appears(node, &format!("l/{lease}")).await;
            }
            calls.push((lease, call, polls));
        }
        eventually("all but the first wait", || {
            let waiting = nodes.iter().map(watchers).sum::<usize>();
            (waiting == 2 * (calls.len() - 1)).then_some(())
        })
        .await;
        let mut last = Revision(0);
        while !calls.is_empty() {
            let (lease, call, _) = calls.remove(0);
            let won = ended(call).await.expect("it is the first");
            assert_eq!((won.lease, &won.key[..]), (LeaseId(lease), format!("l/{lease}").as_bytes()));
            assert!(won.create > last && won.registered == won.create && won.seen >= won.create, "{won:?}");
            last = won.create;
            // Another release would be next: those behind the next one are asleep until then.
            let asleep: Vec<usize> = calls.iter().skip(1).map(|(_, _, polls)| polls.load(Ordering::Relaxed)).collect();
            remove(&nodes[0], &format!("l/{lease}")).await;
            if let Some((_, next, _)) = calls.first() {
                eventually("the next one has won", || next.is_finished().then_some(())).await;
            }
            let now: Vec<usize> = calls.iter().skip(1).map(|(_, _, polls)| polls.load(Ordering::Relaxed)).collect();
            assert_eq!(now, asleep, "who is not next was woken");
            assert!(calls.iter().skip(1).all(|(_, call, _)| !call.is_finished()), "two hold the lock");
        }
        assert_eq!(nodes.iter().map(watchers).sum::<usize>(), 0);
    });
}

#[test]
fn a_key_that_is_gone_wins_nothing_and_says_so_at_once() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &settings()).await;
        grant(&nodes[0], [7, 8, 9]).await;
        for node in &nodes {
            write(node, &put("l/older", "x").command).await;
            let calls = [8, 9].map(|lease| start(node, "l", lease));
            for (lease, call) in [8, 9].into_iter().zip(calls) {
                appears(node, &format!("l/{lease}")).await;
                if lease == 8 {
                    remove(&nodes[0], "l/8").await;
                } else {
                    assert!(revoke(&nodes[0], 9).await.is_ok());
                }
                assert_eq!(ended(call).await, Err(ContestError::Lost), "the older one is there still");
            }
            assert!(created(node, "l/older").is_some());
            assert_eq!(
                lock(node, "l", 9).await,
                Err(ContestError::Request(RequestError::Refused(Refusal::LeaseNotFound)))
            );
            remove(node, "l/older").await;
            grant(&nodes[0], [9]).await;
        }
    });
}

#[test]
fn both_keys_that_go_in_one_revision_wake_nobody_to_a_victory() {
    run(async {
        let (_cluster, nodes) = Cluster::running(1, &settings()).await;
        let node = &nodes[0];
        grant(node, [7]).await;
        let older = put("l/6", "x").command;
        for _ in 0..20 {
            write(node, &older).await;
            let call = start(node, "l", 7);
            appears(node, "l/7").await;
            write(node, &delete(&["l/6", "l/7"]).command).await;
            assert_eq!(ended(call).await, Err(ContestError::Lost));
        }
    });
}

#[test]
fn the_same_lease_keeps_its_place_whichever_of_its_calls_goes_on() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &settings()).await;
        grant(&nodes[0], [7]).await;
        // The connection of the first call broke, the client asked another member, and then the first one noticed.
        write(&nodes[0], &put("l/6", "x").command).await;
        let first = start(&nodes[1], "l", 7);
        let created_at = appears(&nodes[2], "l/7").await;
        let second = start(&nodes[2], "l", 7);
        eventually("the second waits", || (watchers(&nodes[2]) == 2).then_some(())).await;
        first.abort();
        eventually("the first is gone", || first.is_finished().then_some(())).await;
        cared_for(&nodes).await;
        assert_eq!(created(&nodes[2], "l/7"), Some(created_at), "the second relies on it");
        remove(&nodes[0], "l/6").await;
        assert_eq!(ended(second).await.expect("its turn").create, created_at);

        // A third call finds the lock held, wins it again, and cannot lose it for the second.
        let again = lock(&nodes[0], "l", 7).await.expect("it is held already");
        assert_eq!(again.create, created_at);
        for pauses in 1..4 {
            let mut call = Box::pin(nodes[1].contend(wish("l", 7), pending()));
            let won = within("a pause", go(&mut call, pauses, || false)).await;
            assert!(won.is_none_or(|won| won.expect("it is held").create == created_at));
            drop(call);
            cared_for(&nodes).await;
            assert_eq!(created(&nodes[1], "l/7"), Some(created_at), "a lock that is held was taken away");
        }
        remove(&nodes[0], "l/7").await;

        // Of three that wait, the last one answers for the key, and the others leave it at that.
        write(&nodes[0], &put("l/6", "x").command).await;
        let mut calls = Vec::new();
        for node in &nodes {
            calls.push(start(node, "l", 7));
            eventually("it waits", || (watchers(node) == 2).then_some(())).await;
        }
        let last = calls.pop().expect("three");
        let before = nodes[0].barrier().await.expect("a leader");
        calls.iter().for_each(JoinHandle::abort);
        cared_for(&nodes).await;
        let entries = nodes[0].barrier().await.expect("a leader").0 - before.0;
        assert!(entries < 20, "{entries} entries for nothing");
        remove(&nodes[0], "l/6").await;
        ended(last).await.expect("its turn");
        remove(&nodes[0], "l/7").await;

        // Of two that wait, the later one answers for the key.
        write(&nodes[0], &put("l/6", "x").command).await;
        let first = start(&nodes[1], "l", 7);
        appears(&nodes[2], "l/7").await;
        let second = start(&nodes[2], "l", 7);
        eventually("the second waits", || (watchers(&nodes[2]) == 2).then_some(())).await;
        second.abort();
        assert_eq!(ended(first).await, Err(ContestError::Lost));
        assert_eq!(created(&nodes[1], "l/7"), None);
    });
}

/// A member that stays alone for as long as its disk is held.
fn impatient() -> Settings {
    Settings { request_timeout: Duration::from_secs(1), ..Settings::default() }
}

#[test]
fn a_registration_without_an_answer_is_undone_once_it_is_carried_out() {
    run(async {
        let (cluster, nodes) = Cluster::running(1, &impatient()).await;
        let node = &nodes[0];
        grant(node, [7, 8]).await;
        let before = write(node, &put("l/6", "x").command).await;
        cluster.members[0].machine.hold(Step::Sync);
        let calls = join_all([7, 8].map(|lease| node.contend(wish("l", lease), pending())));
        for unanswered in within("their end", calls).await {
            assert_eq!(unanswered, Err(ContestError::Request(RequestError::Timeout)));
        }
        // The client gives up on one lease, and tries again with the other.
        let again = start(node, "l", 8);
        let calls = || node.shared().contests.calls.load(Ordering::Relaxed);
        eventually("it is on its way", || (calls() == 1).then_some(())).await;
        cluster.members[0].machine.release(Step::Sync);
        cared_for(&nodes).await;
        let events = events_from(node, Revision(before.0 + 1)).await;
        let of = |key: &str| {
            let of_key = events.iter().filter(|event| event.key == key.as_bytes());
            of_key.map(|event| event.meta.is_tombstone()).collect::<Vec<bool>>()
        };
        assert_eq!(of("l/7"), [false, true], "it was put and deleted");
        assert!(created(node, "l/7").is_none());
        assert!(created(node, "l/8").is_some(), "the second try relies on what the first one wrote: {:?}", of("l/8"));
        remove(node, "l/6").await;
        ended(again).await.expect("its turn");
    });
}

#[test]
fn a_wait_outlasts_leaders_compaction_and_a_full_store() {
    run(async {
        let settings = Settings { election_timeout: Duration::from_secs(1), ..Settings::default() };
        let (cluster, nodes) = Cluster::running(3, &settings).await;
        grant(&nodes[0], [1, 2, 3]).await;
        write(&nodes[0], &put("l/0", "x").command).await;
        let mut calls = Vec::new();
        for (node, lease) in nodes.iter().zip(1..) {
            calls.push(start(node, "l", lease));
            appears(&nodes[0], &format!("l/{lease}")).await;
        }
        for _ in 0..2 {
            let leader = cluster.leader(&nodes).await;
            let target = nodes[(leader + 1) % 3].shared().raft.member();
            within("a transfer", nodes[leader].move_leader(target)).await.expect("it moves");
        }
        settled(&nodes).await;
        let revision = write(&nodes[0], &put("other", "x").command).await;
        write(&nodes[0], &Command::Compact(revision)).await;
        let member = nodes[0].shared().raft.member();
        write(&nodes[0], &Command::AlarmRaise(member, AlarmKind::NoSpace)).await;
        settled(&nodes).await;
        assert!(calls.iter().all(|call| !call.is_finished()));
        let refused = lock(&nodes[1], "other", 1).await;
        assert_eq!(refused, Err(ContestError::Request(RequestError::Refused(Refusal::NoSpace))));
        for (lease, call) in (1..).zip(calls) {
            remove(&nodes[0], &format!("l/{}", lease - 1)).await;
            ended(call).await.expect("its turn");
        }
    });
}

#[test]
fn a_wait_goes_on_while_there_is_no_leader_and_the_lock_is_told_when_there_is_one() {
    run(async {
        let settings = Settings { request_timeout: Duration::from_millis(300), ..Settings::default() };
        let (mut cluster, mut nodes) = Cluster::running(3, &settings).await;
        grant(&nodes[0], [1]).await;
        write(&nodes[0], &put("l/0", "x").command).await;
        let call = start(&nodes[0], "l", 1);
        appears(&nodes[0], "l/1").await;
        eventually("it waits", || (watchers(&nodes[0]) == 2).then_some(())).await;
        [1, 2].into_iter().for_each(|place: usize| cluster.members[place].crash(Keep::Everything, Kept::None));
        // Longer than any request may take.
        let alone = within("a read without a leader", nodes[0].barrier()).await;
        assert_eq!(alone, Err(RequestError::Timeout));
        assert!(!call.is_finished());
        let mut starting = [1, 2].map(|place: usize| cluster.members[place].start());
        for (place, start) in (1..).zip(&mut starting) {
            nodes[place] = within("a start", start.up()).await.expect("it starts");
        }
        settled(&nodes).await;
        within("the older one is deleted", async { while nodes[0].write(&delete(&["l/0"]).command).await.is_err() {} })
            .await;
        ended(call).await.expect("its turn");
    });
}

#[test]
fn who_brings_no_lease_gets_one_that_ends_with_the_call_or_goes_to_the_client() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &settings()).await;
        let node = &nodes[1];
        let won = lock(node, "l", 0).await.expect("it is free");
        assert_eq!(won.key, format!("l/{:x}", won.lease.0));
        let lease = node.lease(won.lease, true).await.expect("an answer").result.expect("it is there");
        assert_eq!((lease.ttl_ms, lease.keys), (60_000, vec![won.key.clone()]));
        let leases = async || node.leases().await.expect("an answer").result.len();
        for points in 1..50 {
            let mut call = Box::pin(node.contend(wish("l", 0), pending()));
            let ended = within("a pause", go(&mut call, points, || watchers(node) > 0)).await;
            assert_eq!(ended, None, "somebody holds it");
            let waited = watchers(node) > 0;
            drop(call);
            cared_for(&nodes).await;
            assert_eq!(leases().await, 1, "dropped at pause {points}");
            if waited {
                return;
            }
        }
        panic!("it never waits");
    });
}

#[test]
fn a_member_that_stops_ends_its_calls_without_their_keys() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &settings()).await;
        grant(&nodes[0], [7]).await;
        write(&nodes[0], &put("l/6", "x").command).await;
        for node in &nodes {
            let stopped = within("the end", node.contend(wish("l", 7), ready(()))).await;
            assert_eq!(stopped, Err(ContestError::Request(RequestError::Stopped)));
            assert_eq!(created(node, "l/7"), None, "whoever hears an error finds no key");
        }
        // One that is won at once is told all the same.
        remove(&nodes[0], "l/6").await;
        within("a lock", nodes[0].contend(wish("l", 7), ready(()))).await.expect("it is free");
    });
}

#[test]
fn long_queues_are_told_their_places_too() {
    const LONG: i64 = 400;
    run(async {
        let (_cluster, nodes) = Cluster::running(1, &settings()).await;
        let node = &nodes[0];
        grant(node, 1..=LONG).await;
        let calls: Vec<_> = (1..=LONG).map(|lease| start(node, "l", lease)).collect();
        let watched = 2 * (calls.len() - 1);
        eventually("all but one wait", || (watchers(node) == watched).then_some(())).await;
        let ends = join_all(calls.into_iter().map(|call| async {
            let won = ended(call).await.expect("its turn");
            remove(node, std::str::from_utf8(&won.key).expect("text")).await;
            won
        }));
        let mut won = within("all get their turn", ends).await;
        won.sort_by_key(|won| won.create);
        // Each but the first was seen to be the first after the one before it had been.
        assert!(won.windows(2).all(|pair| pair[0].seen < pair[1].seen), "{won:?}");
    });
}

#[test]
fn a_campaign_proclaims_its_value_and_wins_without_it_being_taken_for_a_lock() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &settings()).await;
        grant(&nodes[0], [7, 8]).await;
        let value = async |node: &Node, key: &str| {
            let answer = node.range(range(KeyRange::One(bytes(key)), Revision(0)), false).await.expect("an answer");
            answer.result.kvs.into_iter().next().map(|kv| kv.value)
        };
        let won =
            within("a victory", nodes[0].contend(candidacy("e", 7, "one"), pending())).await.expect("nobody else");
        assert_eq!(value(&nodes[1], "e/7").await, Some(bytes("one")));
        let again =
            within("a victory", nodes[1].contend(candidacy("e", 7, "two"), pending())).await.expect("it leads already");
        assert_eq!((again.create, again.key), (won.create, won.key));
        assert_eq!(value(&nodes[2], "e/7").await, Some(bytes("two")));
        // A lock call by the same lease leaves the value as it is.
        assert_eq!(lock(&nodes[2], "e", 7).await.expect("it is the first").create, won.create);
        assert_eq!(value(&nodes[2], "e/7").await, Some(bytes("two")));
        let second = {
            let node = nodes[1].clone();
            tokio::spawn(async move { node.contend(candidacy("e", 8, "three"), pending()).await })
        };
        appears(&nodes[0], "e/8").await;
        assert!(revoke(&nodes[0], 8).await.is_ok());
        assert_eq!(ended(second).await, Err(ContestError::Lost));
        disappears(&nodes[2], "e/8").await;
    });
}
