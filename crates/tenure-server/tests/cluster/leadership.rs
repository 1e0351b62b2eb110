//! Leadership that an operator moves: it goes where it was told to, or stays.

use futures::future::join;
use tenure_core::MemberId;
use tenure_raft::MoveError;
use tenure_server::node::RequestError;

use crate::support::cluster::{Cluster, check, settled};
use crate::support::history::{Fate, History};
use crate::support::member::Settings;
use crate::support::requests::put;
use crate::support::{run, within};
use std::time::Duration;

#[test]
fn leadership_moves_to_the_member_that_is_named_while_writes_go_on() {
    run(async {
        let history = History::default();
        // Long enough for nobody to be elected whom nobody named.
        let settings = Settings { election_timeout: Duration::from_secs(3), ..Settings::default() };
        let (cluster, nodes) = Cluster::running(3, &settings).await;
        for round in 0..6 {
            let leader = cluster.leader(&nodes).await;
            let target = (leader + 1 + round % 2) % 3;
            let member = nodes[target].shared().raft.member();
            let writes = async {
                let mut fates = Vec::new();
                for n in 0..30 {
                    fates.push(history.write(&nodes[n % 3], put("k", format!("{round} {n}"))).await);
                }
                fates
            };
            let moving = async {
                let moved = nodes[leader].move_leader(member).await;
                (moved, nodes[leader].shared().raft.leader())
            };
            let (moved, fates) = within("a round", join(moving, writes)).await;
            assert_eq!(moved, (Ok(()), Some(member)), "round {round}");
            // What was appended by the old leader and not yet committed is in the hands of the new one.
            let unanswered = fates.iter().filter(|fate| !matches!(fate, Fate::Acked(_)));
            assert!(unanswered.clone().all(|fate| *fate == Fate::Unknown(RequestError::LeaderLost)), "{fates:?}");
            assert!(unanswered.count() <= 3, "{fates:?}");
            assert_eq!(cluster.leader(&nodes).await, target);
        }
        check(&nodes, &history).await.expect("one history");
    });
}

#[test]
fn leadership_goes_to_no_stranger_and_only_the_leader_can_move_it() {
    run(async {
        let (cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        let leader = cluster.leader(&nodes).await;
        let own = nodes[leader].shared().raft.member();
        let term = nodes[leader].term();
        for node in [&nodes[(leader + 1) % 3], &nodes[(leader + 2) % 3]] {
            assert_eq!(node.move_leader(node.shared().raft.member()).await, Err(MoveError::NotLeader));
            assert_eq!(node.move_leader(MemberId(77)).await, Err(MoveError::NotLeader));
        }
        for stranger in [0, 77, u64::MAX] {
            assert_eq!(nodes[leader].move_leader(MemberId(stranger)).await, Err(MoveError::BadTarget));
        }
        assert_eq!(nodes[leader].move_leader(own).await, Ok(()), "it leads already");
        settled(&nodes).await;
        assert_eq!(nodes[leader].term(), term, "nothing moved");
    });
}

#[test]
fn leadership_stays_when_the_target_does_not_answer() {
    run(async {
        let history = History::default();
        let (election_timeout, request_timeout) = (Duration::from_secs(1), Duration::from_secs(2));
        let settings = Settings { election_timeout, request_timeout, ..Settings::default() };
        let (mut cluster, nodes) = Cluster::running(3, &settings).await;
        let leader = cluster.leader(&nodes).await;
        let dead = (leader + 1) % 3;
        let target = nodes[dead].shared().raft.member();
        cluster.members[dead].kill();
        let started = std::time::Instant::now();
        // Until it is missed it may be asked, and then the third takes over: either way there is an answer, and a leader.
        let moved = within("an answer", nodes[leader].move_leader(target)).await;
        assert_eq!(moved, Err(MoveError::Timeout));
        assert!(started.elapsed() >= settings.request_timeout);
        let others: Vec<_> =
            nodes.iter().enumerate().filter(|(place, _)| *place != dead).map(|(_, n)| n.clone()).collect();
        settled(&others).await;
        // Missed by now, it is not even asked: the leader keeps leading, and writing, while it waits.
        let leads = others.iter().find(|node| node.shared().raft.status().is_leader).expect("a leader");
        let term = leads.term();
        let writes = async {
            for n in 0..20 {
                let fate = history.write(leads, put("k", format!("{n}"))).await;
                assert!(matches!(fate, Fate::Acked(_)), "write {n}: {fate:?}");
            }
        };
        let (moved, ()) = within("an answer", join(leads.move_leader(target), writes)).await;
        assert_eq!((moved, leads.term()), (Err(MoveError::Timeout), term));
    });
}
