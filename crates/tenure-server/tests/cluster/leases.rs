//! Leases while nothing breaks: the same answers from every member, and an end for those that nobody renews.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{join, join_all};
use tenure_core::command::Command;
use tenure_core::outcome::{Refusal, Response};
use tenure_core::row::{AlarmKind, EventRow};
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, Revision};
use tenure_raft::ProposeError;
use tenure_raft::runtime::BootInstant;
use tenure_server::node::Node;

use crate::support::cluster::{Cluster, eventually, settled};
use crate::support::history::bytes;
use crate::support::leases::{Held, events_from, revoke};
use crate::support::member::Settings;
use crate::support::requests::{delete, put, put_leased};
use crate::support::{run, within};
use tenure_raft::sim::Step;

const MINUTE: Duration = Duration::from_secs(60);

/// Much longer than a lease may take to end, and shorter than a second TTL would take.
const SLACK: Duration = Duration::from_secs(4);

async fn write(node: &Node, command: &Command) -> Revision {
    let outcome = within("a write", node.write(command)).await.expect("an answer");
    assert!(outcome.result.is_ok(), "{outcome:?}");
    outcome.revision
}

#[test]
fn every_member_answers_for_leases_alike() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        for (n, id) in (0..3).zip([7, i64::MIN, i64::MAX]) {
            let [granting, renewing, revoking] = [0, 1, 2].map(|more| &nodes[(n + more) % 3]);
            let mut held = Held::granted(granting, id, MINUTE).await;
            write(granting, &put_leased("b", "x", held.id).command).await;
            let revision = write(granting, &put_leased("a", "x", held.id).command).await;
            for node in &nodes {
                let answer = within("a look", node.lease(held.id, true)).await.expect("an answer");
                let lease = answer.result.expect("a lease");
                assert_eq!((lease.id, lease.ttl_ms, answer.revision), (held.id, 60_000, revision));
                assert!((30_000..=60_000).contains(&lease.left_ms), "{} ms are left", lease.left_ms);
                assert_eq!(lease.keys, [bytes("a"), bytes("b")]);
                let lease = node.lease(held.id, false).await.expect("an answer").result.expect("a lease");
                assert!(lease.keys.is_empty(), "nobody asked for them");
            }
            assert!(within("a renewal", held.renew(renewing)).await.expect("an answer"));
            assert_eq!(revoke(revoking, id).await, Ok(Response::LeaseRevoke));
            for node in &nodes {
                assert!(!within("a renewal", held.renew(node)).await.expect("an answer"), "it is gone");
                assert_eq!(within("a look", node.lease(held.id, true)).await.expect("an answer").result, None);
                assert_eq!(revoke(node, id).await, Err(Refusal::LeaseNotFound));
            }
        }
    });
}

/// How often a lease's renewals are in the log, as a member knows.
async fn renewals(node: &Node, held: &Held) -> u64 {
    let row = node.view(false).await.expect("a view").lease(held.id).expect("a state that can be read");
    row.expect("a lease").renewals
}

#[test]
fn keepalives_that_follow_a_renewal_at_once_need_no_log_and_promise_no_less() {
    run(async {
        let (cluster, nodes) = Cluster::running(3, &Settings::with_a_lasting_leader()).await;
        let leader = cluster.leader(&nodes).await;
        let (follower, leader) = (&nodes[(leader + 1) % 3], &nodes[leader]);
        let mut held = Held::granted(leader, 7, MINUTE).await;
        let begun = BootInstant::now();
        for _ in 0..50 {
            assert!(within("a renewal", held.renew(leader)).await.expect("an answer"));
        }
        // A renewal counts for half a second.
        let most = 2 + (BootInstant::now() - begun).as_millis() / 450;
        let counted = renewals(leader, &held).await;
        assert!(u128::from(counted) <= most, "{counted} of 50 renewals went into the log, {most} were to");
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(within("a renewal", held.renew(leader)).await.expect("an answer"));
        assert!(renewals(leader, &held).await > counted, "the one in the log is too old");
        let counted = renewals(leader, &held).await;
        assert!(within("a renewal", held.renew(follower)).await.expect("an answer"));
        assert_eq!(renewals(leader, &held).await, counted + 1, "a follower does not know how old it is");

        // Not a moment less than the TTL after the last of many.
        let mut held = Held::granted(leader, 8, Duration::from_secs(3)).await;
        let begun = BootInstant::now();
        while BootInstant::now() - begun < Duration::from_millis(500) {
            assert!(within("a renewal", held.renew(leader)).await.expect("an answer"));
        }
        let lived = held.lived(held.end(leader).await);
        assert!(lived < held.ttl + SLACK, "it took {lived:?}");
    });
}

#[test]
fn the_list_of_leases_is_whole_and_begins_with_the_first_to_end() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        for (node, id, secs) in [(0, 5, 90), (1, -3, 60), (2, 9, 120), (0, 2, 3000)] {
            Held::granted(&nodes[node], id, Duration::from_secs(secs)).await;
        }
        for node in &nodes {
            let leases = within("a list", node.leases()).await.expect("an answer").result;
            assert_eq!(leases.iter().map(|lease| lease.id.0).collect::<Vec<_>>(), [-3, 5, 9, 2]);
        }
        assert_eq!(revoke(&nodes[1], 9).await, Ok(Response::LeaseRevoke));
        for node in &nodes {
            let leases = within("a list", node.leases()).await.expect("an answer").result;
            assert_eq!(leases.iter().map(|lease| lease.id.0).collect::<Vec<_>>(), [-3, 5, 2]);
        }
    });
}

#[test]
fn a_lease_that_nobody_renews_takes_its_keys_along_in_one_revision() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &Settings::with_a_lasting_leader()).await;
        let ttl = Duration::from_secs(1);
        let held = Held::granted(&nodes[0], 7, ttl).await;
        let other = Held::granted(&nodes[1], 8, MINUTE).await;
        for key in ["c", "a", "b", "moved", "freed", "deleted"] {
            write(&nodes[1], &put_leased(key, "x", held.id).command).await;
        }
        write(&nodes[2], &put_leased("moved", "x", other.id).command).await;
        write(&nodes[2], &put("freed", "x").command).await;
        let last = write(&nodes[2], &delete(&["deleted"]).command).await;
        let lived = held.lived(held.end(&nodes[0]).await);
        assert!(lived < ttl + SLACK, "it took {lived:?}");
        settled(&nodes).await;
        for node in &nodes {
            let events = events_from(node, Revision(last.0 + 1)).await;
            let deleted = |event: &EventRow| (event.key.clone(), event.meta.modified.sub, event.meta.is_tombstone());
            let expected = [(bytes("a"), 0, true), (bytes("b"), 1, true), (bytes("c"), 2, true)];
            assert_eq!(events.iter().map(deleted).collect::<Vec<_>>(), expected);
            assert!(events.iter().all(|event| event.meta.modified.revision == Revision(last.0 + 1)));
            assert!(other.is_there(node).await);
        }
        let leader = nodes.iter().find(|node| node.shared().raft.status().is_leader).expect("a leader");
        eventually("it is counted", || {
            let report = leader.shared().lessor.read();
            (report.tally.lateness.count() == 1 && report.live == 1).then_some(())
        })
        .await;
    });
}

#[test]
fn a_lease_lives_for_as_long_as_it_is_renewed_and_no_early_end_is_acknowledged() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        // Renewed now well before their end, now so late that the lessor may be faster.
        let holders = join_all((1..=24u64).map(|id| {
            let nodes = &nodes;
            async move {
                let node = &nodes[usize::try_from(id).expect("small") % 3];
                let mut held = Held::granted(node, i64::try_from(id).expect("small"), Duration::from_secs(1)).await;
                let mut renewals = 0;
                loop {
                    let pause = if renewals < 4 { 300 } else { 900 + (id * 37 + renewals * 61) % 260 };
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    if !within("a renewal", held.renew(node)).await.expect("an answer") {
                        break;
                    }
                    renewals += 1;
                    if renewals > 12 {
                        held.lived(held.end(node).await);
                        break;
                    }
                }
                // Whoever is told that a lease is gone was promised nothing beyond now.
                held.lived(BootInstant::now());
                renewals
            }
        }));
        let renewals = within("all leases end", holders).await;
        assert!(renewals.iter().all(|renewals| *renewals >= 4), "{renewals:?}");
    });
}

#[test]
fn renewals_pass_a_flood_of_writes() {
    run(async {
        let (cluster, nodes) = Cluster::running(1, &Settings::default()).await;
        let node = &nodes[0];
        let mut held = Held::granted(node, 7, MINUTE).await;
        cluster.members[0].machine.hold(Step::Sync);
        let done = AtomicUsize::new(0);
        // Groups of a mebibyte, two of them at a time.
        let value = bytes(&"x".repeat(4096));
        let writes = join_all((0..12_000).map(|n| {
            let (done, value) = (&done, value.clone());
            async move {
                write(node, &put(&format!("{n}"), value).command).await;
                done.fetch_add(1, Ordering::Relaxed)
            }
        }));
        let renewal = async {
            tokio::task::yield_now().await;
            cluster.members[0].machine.release(Step::Sync);
            assert!(held.renew(node).await.expect("an answer"));
            done.load(Ordering::Relaxed)
        };
        let (_, written) = within("all is done", join(writes, renewal)).await;
        assert!(written < 6_000, "{written} writes went before");
    });
}

#[test]
fn only_a_leader_tells_the_time_and_only_while_there_are_leases() {
    run(async {
        let (_cluster, nodes) = Cluster::running(3, &Settings::with_a_lasting_leader()).await;
        let place = nodes.iter().position(|node| node.shared().raft.status().is_leader).expect("a leader");
        let (leader, follower) = (&nodes[place].shared().raft, &nodes[(place + 1) % 3].shared().raft);
        assert_eq!(follower.propose_timed([].iter()).await.err(), Some(ProposeError::NotLeader(None)));
        assert_eq!(follower.promoted(), None);
        assert_eq!(leader.promoted(), Some(leader.term()));
        let before = leader.status().last_log;
        let reading = || leader.lease_clock().reading(BootInstant::now());
        let began = reading();
        eventually("time passes", || (reading() > began + 1200).then_some(())).await;
        assert_eq!(leader.status().last_log, before, "nobody asks for the time");
        let held = Held::granted(&nodes[place], 7, MINUTE).await;
        let ticks = || nodes[place].shared().lessor.read().ticks;
        eventually("ticks", || (ticks() >= 3).then_some(())).await;
        let told = reading();
        // The others reckon by what they were told.
        for node in &nodes {
            let reckoned = node.shared().raft.lease_clock().reading(BootInstant::now());
            assert!(reckoned + 2000 > told, "{reckoned} ms, when the leader reckons {told} ms");
        }
        assert_eq!(revoke(&nodes[place], held.id.0).await, Ok(Response::LeaseRevoke));
        let lessor = || nodes[place].shared().lessor.read();
        eventually("it is noticed", || (lessor().live == 0).then_some(())).await;
    });
}

#[test]
fn under_the_corrupt_alarm_leases_are_renewed_and_none_ends() {
    run(async {
        let settings = Settings::with_a_lasting_leader();
        let (_cluster, nodes) = Cluster::running(3, &settings).await;
        let ttl = Duration::from_secs(1);
        let mut held = Held::granted(&nodes[0], 7, ttl).await;
        let left_alone = Held::granted(&nodes[1], 8, ttl).await;
        let alarm = (nodes[0].shared().raft.member(), AlarmKind::Corrupt);
        write(&nodes[0], &Command::AlarmRaise(alarm.0, alarm.1)).await;
        let leader = nodes.iter().find(|node| node.shared().raft.status().is_leader).expect("a leader");
        let overdue = || leader.shared().lessor.read().oldest_overdue;
        eventually("one is overdue", || (overdue() > ttl).then_some(())).await;
        assert!(within("a renewal", held.renew(&nodes[2])).await.expect("an answer"));
        assert!(left_alone.is_there(leader).await);
        write(&nodes[0], &Command::AlarmClear(alarm.0, alarm.1)).await;
        let cleared = BootInstant::now();
        let end = left_alone.end(leader).await;
        assert!(end - cleared < settings.election_timeout + SLACK, "it took {:?}", end - cleared);
        held.lived(held.end(leader).await);
    });
}

#[test]
fn an_id_that_is_used_again_is_a_lease_of_its_own() {
    run(async {
        let (_cluster, nodes) = Cluster::running(1, &Settings::default()).await;
        let node = &nodes[0];
        let first = Held::granted(node, 7, Duration::from_secs(1)).await;
        assert_eq!(revoke(node, 7).await, Ok(Response::LeaseRevoke));
        let second = Held::granted(node, 7, Duration::from_secs(2)).await;
        let lived = second.lived(second.end(node).await);
        assert!(lived < second.ttl + SLACK, "it took {lived:?}");
        assert!(second.sent >= first.sent);
        assert_eq!(node.lease(LeaseId(7), false).await.expect("an answer").result, None);
    });
}
