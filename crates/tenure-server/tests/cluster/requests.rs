//! Requests at members that lead, follow, lose their leader, have no quorum or no space.

use std::time::Duration;

use futures::future::{join, join_all};
use tenure_core::Revision;
use tenure_core::command::{Command, Compare, CompareResult, CompareTarget, KeyRange, Op, Txn};
use tenure_core::outcome::{OpResponse, Refusal};
use tenure_core::row::AlarmKind;
use tenure_core::state::StateRead;
use tenure_raft::log::Keep;
use tenure_server::node::{Node, RequestError};

use crate::support::cluster::{Cluster, check, eventually, settled};
use crate::support::history::{Fate, History, Request, bytes, everything, range};
use crate::support::member::Settings;
use crate::support::requests::{delete, put, txn};
use crate::support::{run, within};
use tenure_raft::sim::{Kept, Step};

/// For tests of what comes of requests that nobody can carry out.
fn impatient() -> Settings {
    Settings { request_timeout: Duration::from_millis(700), ..Settings::default() }
}

async fn must(history: &History, node: &Node, request: Request) -> Revision {
    match within("a write", history.write(node, request)).await {
        Fate::Acked(revision) => revision,
        other => panic!("a write ends as {other:?}"),
    }
}

/// The revision that a key was modified at; 0 if it is absent.
async fn modified(node: &Node, key: &str, serializable: bool) -> Result<Revision, RequestError> {
    let answer = node.range(range(KeyRange::One(bytes(key)), Revision(0)), serializable).await?;
    Ok(answer.result.kvs.first().map_or(Revision(0), |kv| kv.modified))
}

#[test]
fn a_follower_shows_at_once_what_it_acknowledged() {
    run(async {
        let history = History::default();
        let (_cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        for n in 0..100 {
            let node = &nodes[n % 3];
            let acked = must(&history, node, put("k", format!("{n}"))).await;
            assert!(modified(node, "k", true).await.unwrap() >= acked, "write {n}");
        }
        check(&nodes, &history).await.unwrap();
    });
}

#[test]
fn nothing_is_carried_out_without_a_quorum_and_nothing_is_lost_or_done_twice() {
    run(async {
        let history = History::default();
        let (mut cluster, mut nodes) = Cluster::running(3, &impatient()).await;
        let leader = cluster.leader(&nodes).await;
        for n in 0..10 {
            must(&history, &nodes[leader], put("k", format!("before {n}"))).await;
        }
        let others = [(leader + 1) % 3, (leader + 2) % 3];
        for other in others {
            cluster.members[other].crash(Keep::Everything, Kept::None);
        }
        let node = &nodes[leader];
        let writes = join_all((0..10).map(|n| history.write(node, put("k", format!("without {n}")))));
        let reads = join_all((0..10).map(|_| modified(node, "k", false)));
        let (writes, reads) = within("they time out", join(writes, reads)).await;
        let unanswered = [Fate::Unknown(RequestError::Timeout), Fate::Unknown(RequestError::LeaderLost)];
        assert!(writes.iter().all(|fate| unanswered.contains(fate)), "{writes:?}");
        assert!(reads.iter().all(|read| *read == Err(RequestError::Timeout)), "{reads:?}");
        assert!(modified(node, "k", true).await.unwrap() >= history.told(), "a serializable read needs no quorum");
        let mut starting = others.map(|other| cluster.members[other].start());
        for (other, start) in others.iter().zip(&mut starting) {
            nodes[*other] = within("a start", start.up()).await.unwrap();
        }
        settled(&nodes).await;
        must(&history, &nodes[leader], put("k", "after")).await;
        check(&nodes, &history).await.unwrap();
        assert_eq!(history.acked(), 11);
    });
}

/// Above the number of writes that may wait, in flight and forming a group.
const TOO_MANY: u64 = 24 * 1024;

#[test]
fn writes_beyond_the_queue_are_refused_and_the_others_done_once() {
    run(async {
        let (cluster, nodes) = Cluster::running(1, &Settings::default()).await;
        let node = &nodes[0];
        cluster.members[0].machine.hold(Step::Sync);
        let before = node.view(true).await.unwrap().meta().revision;
        let writes =
            join_all((0..TOO_MANY).map(|n| async move { node.write(&put("k", format!("{n}")).command).await }));
        let release = async {
            // All writes have been polled once by the time that this is: they are in the queue, or refused.
            tokio::task::yield_now().await;
            cluster.members[0].machine.release(Step::Sync);
        };
        let (results, ()) = within("the queue is worked off", join(writes, release)).await;
        let done = results.iter().filter(|result| result.is_ok()).count();
        let refused = results.iter().filter(|result| matches!(result, Err(RequestError::TooManyRequests))).count();
        assert_eq!(done + refused, results.len());
        assert!(refused > 1000 && done > 10_000, "{done} done, {refused} refused");
        let revision = node.view(false).await.unwrap().meta().revision;
        assert_eq!(revision.0 - before.0, i64::try_from(done).unwrap());
    });
}

#[test]
fn large_writes_are_bounded_by_bytes() {
    run(async {
        let (cluster, nodes) = Cluster::running(1, &Settings::default()).await;
        let node = &nodes[0];
        cluster.members[0].machine.hold(Step::Sync);
        let value = bytes(&"x".repeat(1 << 20));
        let put = |n: u64| node_put(node, format!("{n}"), value.clone());
        let writes = join_all((0..100).map(put));
        let release = async {
            tokio::task::yield_now().await;
            cluster.members[0].machine.release(Step::Sync);
        };
        let (results, ()) = within("the queue is worked off", join(writes, release)).await;
        let done = results.iter().filter(|result| result.is_ok()).count();
        assert!((50..70).contains(&done), "{done} of 100 MiB were taken at once");
        assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(RequestError::TooManyRequests))));
    });
}

async fn node_put(node: &Node, key: String, value: bytes::Bytes) -> Result<(), RequestError> {
    node.write(&put(&key, value).command).await.map(drop)
}

#[test]
fn a_used_up_quota_raises_an_alarm_that_lets_space_be_freed() {
    run(async {
        let settings = Settings { quota_bytes: Some(64 << 10), ..Settings::default() };
        let (_cluster, nodes) = Cluster::running(3, &settings).await;
        let mut n = 0;
        let refusal = loop {
            let fill = put(&format!("k{}", n % 5), "x".repeat(4 << 10));
            match within("a write", nodes[n % 3].write(&fill.command)).await {
                Ok(outcome) if outcome.result.is_ok() => n += 1,
                Ok(outcome) => break outcome.result.unwrap_err(),
                Err(RequestError::Refused(refusal)) => break refusal,
                Err(error) => panic!("{error}"),
            }
            assert!(n < 100, "the quota is never used up");
        };
        assert_eq!(refusal, Refusal::NoSpace);
        settled(&nodes).await;
        for node in &nodes {
            let view = node.view(true).await.unwrap();
            assert_eq!(view.meta().alarms.iter().map(|alarm| alarm.kind).collect::<Vec<_>>(), [AlarmKind::NoSpace]);
            let refused = node.write(&put("tiny", "x").command).await;
            let refused = refused.map(|outcome| outcome.result.err());
            assert!(
                matches!(refused, Ok(Some(Refusal::NoSpace)) | Err(RequestError::Refused(Refusal::NoSpace))),
                "a tiny put: {refused:?}"
            );
        }
        let keys = ["k0", "k1", "k2", "k3", "k4"];
        let deleted = nodes[0].write(&delete(&keys).command).await.unwrap();
        let told = deleted.revision;
        assert!(deleted.result.is_ok(), "{deleted:?}");
        assert!(nodes[1].write(&Command::Compact(told)).await.unwrap().result.is_ok());
        for node in &nodes {
            node.purged(told).await.unwrap();
        }
        let raised: Vec<_> = nodes[2].view(true).await.unwrap().meta().alarms.clone();
        for alarm in raised {
            assert!(nodes[2].write(&Command::AlarmClear(alarm.member, alarm.kind)).await.unwrap().result.is_ok());
        }
        settled(&nodes).await;
        for node in &nodes {
            assert!(node.write(&put("room", "again").command).await.unwrap().result.is_ok());
        }
    });
}

#[test]
fn a_transaction_that_only_reads_makes_no_entry_and_no_revision() {
    run(async {
        let history = History::default();
        let (_cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        let acked = must(&history, &nodes[0], txn(&[("a", "1"), ("b", "2")], &[])).await;
        let read = |key: &str| Op::Range(range(KeyRange::One(bytes(key)), Revision(0)));
        let is_one = Compare {
            range: KeyRange::One(bytes("a")),
            result: CompareResult::Equal,
            target: CompareTarget::Value(bytes("1")),
        };
        let ask = Txn { compares: vec![is_one], success: vec![read("b")], failure: vec![read("a"), read("b")] };
        settled(&nodes).await;
        let log = |node: &Node| node.shared().raft.status().last_log;
        let before: Vec<_> = nodes.iter().map(log).collect();
        for (node, serializable) in nodes.iter().flat_map(|node| [(node, true), (node, false)]) {
            let answer = node.read_txn(ask.clone(), serializable).await.unwrap();
            assert_eq!(answer.revision, acked);
            assert!(answer.result.succeeded);
            let [OpResponse::Range(found)] = &answer.result.responses[..] else { panic!("{answer:?}") };
            assert_eq!(found.kvs[0].value, bytes("2"));
        }
        assert_eq!(nodes.iter().map(log).collect::<Vec<_>>(), before);
        let future = Op::Range(range(KeyRange::One(bytes("a")), Revision(acked.0 + 1)));
        let refused = nodes[1].read_txn(Txn { success: vec![future], ..Txn::default() }, false).await;
        assert_eq!(refused.unwrap_err(), RequestError::Refused(Refusal::FutureRevision));
    });
}

#[test]
fn leadership_that_is_handed_over_moves_and_every_write_goes_on() {
    run(async {
        let history = History::default();
        let (cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        let mut led = std::collections::BTreeSet::new();
        for round in 0..6 {
            let leader = cluster.leader(&nodes).await;
            led.insert(leader);
            let writes = join_all((0..12).map(|n| {
                let history = &history;
                let node = &nodes[n % 3];
                async move {
                    let mut fates = Vec::new();
                    for m in 0..5 {
                        fates.push(history.write(node, put(&format!("{n}"), format!("{round} {n} {m}"))).await);
                    }
                    fates
                }
            }));
            let term = nodes[leader].term();
            let (moved, fates) = within("a round", join(nodes[leader].shared().raft.hand_over(), writes)).await;
            assert!(moved, "round {round}: another member leads within an election timeout");
            assert!(nodes.iter().any(|node| node.term() > term));
            let fates: Vec<Fate> = fates.into_iter().flatten().filter(|fate| !matches!(fate, Fate::Acked(_))).collect();
            // What was appended by the old leader and not yet committed is in the hands of the new one.
            assert!(fates.iter().all(|fate| *fate == Fate::Unknown(RequestError::LeaderLost)), "{fates:?}");
            must(&history, &nodes[leader], put("after", format!("round {round}"))).await;
        }
        assert!(led.len() > 1);
        check(&nodes, &history).await.unwrap();
    });
}

#[test]
fn a_stop_hands_leadership_over_before_it_ends() {
    run(async {
        let history = History::default();
        let settings = Settings { election_timeout: Duration::from_secs(3), ..Settings::default() };
        let (mut cluster, mut nodes) = Cluster::running(3, &settings).await;
        let leader = cluster.leader(&nodes).await;
        must(&history, &nodes[leader], put("k", "before")).await;
        drop(nodes.remove(leader));
        let started = std::time::Instant::now();
        let stopped = cluster.members.remove(leader);
        let stopping = std::thread::spawn(move || {
            let mut member = stopped;
            member.stop();
        });
        for node in &nodes {
            // Those that were in the hands of the member that stops are not answered.
            let acked = async { while !matches!(history.write(node, put("k", "after")).await, Fate::Acked(_)) {} };
            within("writes go on", acked).await;
        }
        // Without a hand-over nobody could lead before the lease of the old leader ended.
        assert!(started.elapsed() < settings.election_timeout / 2, "took {:?}", started.elapsed());
        stopping.join().unwrap();
        check(&nodes, &history).await.unwrap();
    });
}

#[test]
fn a_write_whose_leader_dies_is_answered() {
    run(async {
        let history = History::default();
        let (mut cluster, mut nodes) = Cluster::running(3, &Settings::default()).await;
        for round in 0..3 {
            let leader = cluster.leader(&nodes).await;
            let followers = [(leader + 1) % 3, (leader + 2) % 3];
            let committed = nodes[leader].shared().raft.status().last_log;
            for member in &cluster.members {
                member.machine.hold(Step::Sync);
            }
            let writes = join_all(followers.iter().map(|follower| {
                let request = put("k", format!("{round} {follower}"));
                history.write(&nodes[*follower], request)
            }));
            let death = async {
                let raft = &nodes[leader].shared().raft;
                eventually("the leader has taken it", || (raft.status().last_log > committed).then_some(())).await;
                cluster.members[leader].kill();
                for follower in followers {
                    cluster.members[follower].machine.release(Step::Sync);
                }
            };
            let (fates, ()) = within("every client is told something", join(writes, death)).await;
            for fate in &fates {
                let told =
                    matches!(fate, Fate::Acked(_) | Fate::Unknown(RequestError::LeaderLost | RequestError::Timeout));
                assert!(told, "{fates:?}");
            }
            cluster.members[leader].crash(Keep::Nothing, Kept::None);
            nodes[leader] = within("a start", cluster.members[leader].up()).await.unwrap();
            check(&nodes, &history).await.unwrap();
        }
    });
}

/// Every linearizable read that begins after a write was acknowledged must see it, whoever is asked.
async fn first_stale_read(nodes: &[Node], history: &History, writes: usize, serializable: bool) -> Option<String> {
    for n in 0..writes {
        let written = match history.write(&nodes[n % nodes.len()], put("k", format!("{n}"))).await {
            Fate::Acked(revision) => revision,
            Fate::Unknown(_) | Fate::Refused => continue,
        };
        let reads = join_all(nodes.iter().map(|node| modified(node, "k", serializable))).await;
        for (member, read) in reads.into_iter().enumerate() {
            match read {
                Ok(seen) if seen < written => return Some(format!("write {n}: {member} reads {seen}, not {written}")),
                Ok(_) | Err(RequestError::Timeout) => {}
                Err(error) => return Some(format!("write {n}: {member} answers {error}")),
            }
        }
    }
    None
}

#[test]
fn linearizable_reads_are_never_stale_while_leadership_moves() {
    run(async {
        let history = History::default();
        let (cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        let mut moves = 0;
        let moving = async {
            loop {
                let leader = cluster.leader(&nodes).await;
                moves += usize::from(nodes[leader].shared().raft.hand_over().await);
                let acked = history.acked();
                eventually("writes go on", || (history.acked() > acked + 3).then_some(())).await;
            }
        };
        let stale = tokio::select! {
            stale = within("all writes", first_stale_read(&nodes, &history, 250, false)) => stale,
            () = moving => None,
        };
        assert_eq!(stale, None);
        assert!(moves >= 5 && history.acked() > 150, "{moves} moves, {} writes", history.acked());
        check(&nodes, &history).await.unwrap();
    });
}

#[test]
fn the_test_for_stale_reads_finds_those_of_a_member_that_does_not_ask_the_leader() {
    run(async {
        let history = History::default();
        let (cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        let leader = cluster.leader(&nodes).await;
        let slow = (leader + 1) % 3;
        let writers: Vec<Node> = [leader, slow].map(|place| nodes[place].clone()).into();
        cluster.members[slow].machine.hold(Step::Commit);
        let stale = within("a read", first_stale_read(&writers, &history, 1, true)).await;
        assert!(stale.is_some(), "a serializable read of a member that does not apply is stale");
        let linearizable = nodes[slow].range(everything(Revision(0)), false);
        let release = async { cluster.members[slow].machine.release(Step::Commit) };
        let (read, ()) = within("a read", join(linearizable, release)).await;
        assert!(read.unwrap().revision >= history.told());
    });
}
