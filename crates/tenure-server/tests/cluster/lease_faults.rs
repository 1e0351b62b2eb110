//! Leases while members die, restart and stand still: none ends early, none gets a second life.

use std::time::Duration;

use futures::future::{join, join_all};
use tenure_raft::log::Keep;
use tenure_raft::runtime::BootInstant;
use tenure_server::node::{Node, RequestError};

use crate::snapshots::{caught_up, counters, fall_behind, short_log};
use crate::support::cluster::{Cluster, eventually, settled};
use crate::support::history::History;
use crate::support::leases::Held;
use crate::support::member::Settings;
use crate::support::{run, within};
use tenure_raft::sim::{Kept, Step};

/// What a busy machine may add to the bounds: less than a TTL that starts anew would.
const SLACK: Duration = Duration::from_secs(2);

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[test]
fn a_change_of_leader_neither_ends_a_lease_early_nor_starts_it_anew() {
    run(async {
        let settings = Settings::default();
        let (mut cluster, mut nodes) = Cluster::running(3, &settings).await;
        let ttl = Duration::from_secs(9);
        let left_alone = Held::granted(&nodes[0], 1, ttl).await;
        let mut renewed = Held::granted(&nodes[1], 2, Duration::from_secs(2)).await;
        for round in 0..6 {
            let keep = if round % 2 == 0 { Keep::Nothing } else { Keep::Everything };
            let renewing = async {
                pass(Duration::from_millis(300)).await;
                within("a renewal", renewed.renew(&nodes[0])).await
            };
            assert_eq!(renewing.await, Ok(true));
            let leader = cluster.leader(&nodes).await;
            let follower = nodes[(leader + 1) % 3].clone();
            // In the middle of a renewal through another member, which must not fail for it.
            let kill = async {
                tokio::task::yield_now().await;
                cluster.members[leader].crash(keep, Kept::Half);
            };
            let (result, ()) = join(within("a renewal", renewed.renew(&follower)), kill).await;
            assert_eq!(result, Ok(true), "it is asked for again when the leader dies");
            nodes[leader] = within("a start", cluster.members[leader].up()).await.expect("it starts");
            cluster.leader(&nodes).await;
        }
        let (left_alone_end, ()) = join(left_alone.end(&nodes[0]), async {
            while left_alone.is_there(&nodes[0]).await {
                assert_eq!(within("a renewal", renewed.renew(&nodes[2])).await, Ok(true));
                pass(Duration::from_millis(300)).await;
            }
        })
        .await;
        let lived = left_alone.lived(left_alone_end);
        // The changes of leader were before it was due, so the time that they took adds nothing: more than the slack.
        assert!(lived < ttl + ttl / 100 + settings.election_timeout + SLACK, "it took {lived:?}");
        settled(&nodes).await;
        for node in &nodes {
            assert!(renewed.is_there(node).await && !left_alone.is_there(node).await);
        }
    });
}

#[test]
fn the_time_that_is_left_survives_a_restart_of_all_members() {
    run(async {
        let settings = Settings::default();
        let (mut cluster, nodes) = Cluster::running(3, &settings).await;
        let ttl = Duration::from_secs(6);
        let held = Held::granted(&nodes[0], 1, ttl).await;
        let eldest = held.ttl - Duration::from_secs(3);
        pass(eldest).await;
        drop(nodes);
        cluster.kill();
        let down = BootInstant::now();
        for member in &mut cluster.members {
            let remains = member.machine.remains(Keep::Nothing);
            member.reboot(&remains, Kept::None);
        }
        pass(Duration::from_millis(700)).await;
        let nodes = cluster.up().await;
        let leaderless = down.elapsed();
        let answer = within("a look", nodes[1].lease(held.id, false)).await.expect("an answer");
        let left = Duration::from_millis(answer.result.expect("a lease").left_ms);
        assert!(left <= ttl - eldest + Duration::from_millis(600), "{left:?} are left");
        let lived = held.lived(held.end(&nodes[2]).await);
        // The clock stands while all are down, and goes on from its last tick.
        let tick = Duration::from_millis(500);
        let bound = ttl + ttl / 100 + leaderless + tick + settings.election_timeout + SLACK;
        assert!(lived < bound, "it took {lived:?} of at most {bound:?}");
    });
}

#[test]
fn a_leader_that_came_back_by_a_snapshot_knows_what_is_left() {
    run(async {
        let history = History::default();
        let settings = short_log();
        let (mut cluster, nodes) = Cluster::running(3, &settings).await;
        let ttl = Duration::from_secs(8);
        let held = Held::granted(&nodes[0], 1, ttl).await;
        let behind = (cluster.leader(&nodes).await + 1) % 3;
        let others = fall_behind(&mut cluster, &nodes, &history, &[behind]).await;
        drop(nodes);
        let node = within("a start", cluster.members[behind].up()).await.expect("it starts");
        caught_up(&node, &history).await;
        assert!(counters(&node).installed > 0, "it came by a snapshot");
        within("it leads", async {
            while node.shared().raft.promoted().is_none() {
                for other in &others {
                    other.shared().raft.hand_over().await;
                }
                pass(Duration::from_millis(10)).await;
            }
        })
        .await;
        let answer = within("a look", node.lease(held.id, false)).await.expect("an answer");
        let left = Duration::from_millis(answer.result.expect("a lease").left_ms);
        let used = held.sent.elapsed();
        assert!(left + used < ttl + SLACK, "{left:?} are left after {used:?}");
        let lived = held.lived(held.end(&node).await);
        assert!(lived < ttl + ttl / 100 + settings.election_timeout + SLACK, "it took {lived:?}");
    });
}

#[test]
fn clients_that_could_not_renew_for_want_of_a_quorum_keep_their_leases() {
    run(async {
        let settings = Settings::default();
        let (cluster, nodes) = Cluster::running(3, &settings).await;
        let leader = cluster.leader(&nodes).await;
        let followers = [(leader + 1) % 3, (leader + 2) % 3];
        let term = nodes[leader].term();
        let ttl = Duration::from_secs(1);
        let mut waiting = Held::granted(&nodes[leader], 1, ttl).await;
        let mut late = Held::granted(&nodes[leader], 2, ttl).await;
        let gone = Held::granted(&nodes[leader], 3, ttl).await;
        for follower in followers {
            cluster.members[follower].machine.hold(Step::Sync);
        }
        let release = async {
            pass(2 * ttl).await;
            for follower in followers {
                cluster.members[follower].machine.release(Step::Sync);
            }
            BootInstant::now()
        };
        // One client asks all the while; another is told by its time-out, and asks again soon after the outage.
        let asking = within("a renewal", waiting.renew(&nodes[leader]));
        let (asked, released) = join(asking, release).await;
        assert_eq!(asked, Ok(true));
        pass(settings.election_timeout / 4).await;
        let renewed = within("a renewal", late.renew(&nodes[leader])).await;
        if nodes[leader].term() == term {
            assert_eq!(renewed, Ok(true), "it had a grace");
        }
        let end = gone.end(&nodes[leader]).await;
        gone.lived(end);
        assert!(end - released < 2 * settings.election_timeout + SLACK, "it took {:?}", end - released);
    });
}

/// Renews until it is told that the lease is gone, or the time is over.
async fn holder(nodes: &[Node], id: i64, until: BootInstant) -> Held {
    let places = nodes.len();
    let start = usize::try_from(id).expect("small");
    let mut held = Held::granted(&nodes[start % places], id, Duration::from_millis(1500)).await;
    for turn in start.. {
        if until.elapsed() > Duration::ZERO {
            break;
        }
        match held.renew(&nodes[turn % places]).await {
            Ok(true) | Err(RequestError::Timeout | RequestError::Stopped | RequestError::LeaderLost) => {}
            Ok(false) => panic!("lease {id} is gone {:?} after its last renewal", held.sent.elapsed()),
            Err(error) => panic!("a renewal ends as {error}"),
        }
        pass(Duration::from_millis(100)).await;
    }
    held
}

#[test]
fn holders_keep_their_leases_through_hand_overs() {
    run(async {
        let (cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        let until = BootInstant::now() + Duration::from_secs(4);
        let holders = join_all((1..=9).map(|id| holder(&nodes, id, until)));
        let hand_overs = async {
            let mut moved = 0;
            while until.elapsed().is_zero() {
                let leader = cluster.leader(&nodes).await;
                moved += u32::from(nodes[leader].shared().raft.hand_over().await);
                pass(Duration::from_millis(350)).await;
            }
            moved
        };
        let (held, moved) = within("the holders are done", join(holders, hand_overs)).await;
        assert!(moved >= 3, "{moved} hand-overs");
        for lease in held {
            lease.lived(lease.end(&nodes[0]).await);
        }
        eventually("every leader's lessor took over", || {
            let promotions = nodes.iter().map(|node| node.shared().lessor.read().promotions).sum::<u64>();
            (promotions >= 3).then_some(())
        })
        .await;
    });
}
