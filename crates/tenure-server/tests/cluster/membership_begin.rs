//! How members begin: together, late, again, or with a disk that is not what it was.

use std::time::Duration;

use futures::future::join_all;
use tenure_core::{ClusterId, MemberId};
use tenure_raft::NodeError;
use tenure_raft::log::Keep;
use tenure_server::node::Node;

use crate::support::cluster::{Cluster, check, eventually, settled};
use crate::support::history::{Fate, History};
use crate::support::member::{Member, Settings, Starting};
use crate::support::requests::put;
use crate::support::{run, within};
use tenure_raft::sim::Kept;

/// How long somebody who must wait is watched. Waiting for ever cannot be shown, but a member that did not wait would
/// have answered within a few of its rounds of 100 ms.
const WATCHED: Duration = Duration::from_millis(600);

async fn still_waits(starting: &mut Starting) {
    if let Ok(result) = tokio::time::timeout(WATCHED, starting.up()).await {
        panic!("it does not wait: {:?}", result.map(|node| node.shared().raft.member()));
    }
}

/// Writes until it is acknowledged: the leader may be lost meanwhile.
async fn write(history: &History, node: &Node, value: &str) {
    let acked = async { while !matches!(history.write(node, put("k", value.to_owned())).await, Fate::Acked(_)) {} };
    within("a write", acked).await;
}

async fn up(member: &mut Member) -> Result<Node, NodeError> {
    within("a start", member.up()).await
}

fn refusal(started: Result<Node, NodeError>) -> NodeError {
    started.map(|_| ()).expect_err("it must not start")
}

#[test]
fn members_that_start_one_after_the_other_found_one_cluster() {
    run(async {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let history = History::default();
            let mut cluster = Cluster::new(3, &Settings::default());
            let [first, second, third] = order;
            let mut one = cluster.members[first].start();
            still_waits(&mut one).await;
            let mut two = cluster.members[second].start();
            let (one, two) = within("two of three found", async { (one.up().await, two.up().await) }).await;
            let mut nodes = vec![one.unwrap(), two.unwrap()];
            settled(&nodes).await;
            write(&history, &nodes[0], "by two").await;
            nodes.push(up(&mut cluster.members[third]).await.unwrap());
            write(&history, &nodes[2], "by the third").await;
            check(&nodes, &history).await.unwrap();
            for node in &nodes {
                let members = node.shared().raft.members();
                assert_eq!(members.iter().map(|member| member.id.0).collect::<Vec<_>>(), [1, 2, 3]);
                assert!(members.iter().all(|member| !member.is_learner));
            }
        }
    });
}

#[test]
fn members_that_start_together_found_one_cluster() {
    run(async {
        let rounds = (0..5).map(|_| async {
            let history = History::default();
            let (_cluster, nodes) = Cluster::running(3, &Settings::default()).await;
            write(&history, &nodes[1], "by all").await;
            check(&nodes, &history).await.unwrap();
        });
        join_all(rounds).await;
    });
}

#[test]
fn a_late_first_start_waits_until_all_peers_have_answered() {
    run(async {
        let history = History::default();
        let mut cluster = Cluster::new(3, &Settings::default());
        let mut starting: Vec<Starting> = cluster.members[..2].iter_mut().map(Member::start).collect();
        let mut nodes = Vec::new();
        for start in &mut starting {
            nodes.push(within("two of three found", start.up()).await.unwrap());
        }
        write(&history, &nodes[0], "by two").await;
        cluster.members[1].crash(Keep::Nothing, Kept::None);
        nodes.pop();
        let mut third = cluster.members[2].start();
        still_waits(&mut third).await;
        nodes.push(up(&mut cluster.members[1]).await.unwrap());
        nodes.push(within("all have answered", third.up()).await.unwrap());
        write(&history, &nodes[2], "by the third").await;
        check(&nodes, &history).await.unwrap();
    });
}

#[test]
fn an_empty_member_that_may_not_found_never_does_and_still_joins() {
    run(async {
        let history = History::default();
        let mut cluster = Cluster::new(3, &Settings::default());
        cluster.members.iter_mut().for_each(|member| member.settings.may_found = false);
        let mut starting: Vec<Starting> = cluster.members.iter_mut().map(Member::start).collect();
        for start in &mut starting {
            still_waits(start).await;
        }
        cluster.kill();
        for (member, may_found) in cluster.members.iter_mut().zip([true, true, false]) {
            member.crash(Keep::Nothing, Kept::None);
            member.settings.may_found = may_found;
        }
        let nodes = cluster.up().await;
        write(&history, &nodes[2], "by the third").await;
        check(&nodes, &history).await.unwrap();
    });
}

#[test]
fn a_member_that_lost_its_disk_is_refused_with_instructions() {
    run(async {
        let history = History::default();
        let (mut cluster, mut nodes) = Cluster::running(3, &Settings::default()).await;
        for node in &nodes {
            write(&history, node, "before").await;
        }
        let wiped = cluster.leader(&nodes).await;
        nodes.remove(wiped);
        cluster.members[wiped].wipe();
        let refused = refusal(up(&mut cluster.members[wiped]).await);
        let NodeError::Wiped(text) = &refused else { panic!("{refused:?}") };
        for part in ["empty data directory", "Restore the directory", "remove this member"] {
            assert!(text.contains(part), "{text}");
        }
        write(&history, &nodes[0], "without it").await;
        // Asking again does not help.
        cluster.members[wiped].wipe();
        assert!(matches!(refusal(up(&mut cluster.members[wiped]).await), NodeError::Wiped(_)));
        check(&nodes, &history).await.unwrap();
    });
}

#[test]
fn a_member_that_lost_its_disk_while_nobody_was_up_waits_for_somebody_who_knows() {
    run(async {
        let history = History::default();
        let (mut cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        write(&history, &nodes[0], "by all").await;
        drop(nodes);
        cluster.kill();
        cluster.members[0].wipe();
        for member in &mut cluster.members[1..] {
            member.crash(Keep::Nothing, Kept::None);
        }
        let mut wiped = cluster.members[0].start();
        still_waits(&mut wiped).await;
        let other = up(&mut cluster.members[1]).await.unwrap();
        assert!(matches!(refusal(within("an answer", wiped.up()).await), NodeError::Wiped(_)));
        let another = up(&mut cluster.members[2]).await.unwrap();
        check(&[other, another], &history).await.unwrap();
    });
}

#[test]
fn two_members_with_data_lose_nothing_beside_one_that_lost_it() {
    run(async {
        let history = History::default();
        let (mut cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        write(&history, &nodes[0], "by all").await;
        drop(nodes);
        cluster.kill();
        cluster.members[2].wipe();
        for member in &mut cluster.members[..2] {
            member.crash(Keep::Nothing, Kept::None);
        }
        let mut starting: Vec<Starting> = cluster.members.iter_mut().map(Member::start).collect();
        let wiped = within("an answer", starting[2].up()).await;
        assert!(matches!(refusal(wiped), NodeError::Wiped(_)));
        let mut nodes = Vec::new();
        for start in &mut starting[..2] {
            nodes.push(within("a start", start.up()).await.unwrap());
        }
        check(&nodes, &history).await.unwrap();
        write(&history, &nodes[0], "by two").await;
        check(&nodes, &history).await.unwrap();
    });
}

#[test]
fn a_member_without_state_but_with_a_purged_log_does_not_start() {
    run(async {
        let history = History::default();
        let mut settings = crate::crash_points::small_log();
        settings.election_timeout = Settings::default().election_timeout;
        let (mut cluster, mut nodes) = Cluster::running(3, &settings).await;
        while nodes[0].shared().raft.log().first_index() == 0 {
            write(&history, &nodes[0], &"x".repeat(2000)).await;
        }
        // A stop writes the end of the log, and with it that its beginning is gone.
        drop(nodes.remove(0));
        cluster.members[0].stop();
        cluster.members[0].lose_state();
        let refused = refusal(up(&mut cluster.members[0]).await).to_string();
        assert!(refused.contains("replace this member"), "{refused}");
        check(&nodes, &history).await.unwrap();
    });
}

#[test]
fn the_data_of_another_member_or_cluster_is_refused() {
    run(async {
        let history = History::default();
        let (mut cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        write(&history, &nodes[0], "by all").await;
        drop(nodes);
        cluster.kill();
        for member in &mut cluster.members {
            member.crash(Keep::Nothing, Kept::None);
        }
        let (first, second) = cluster.members.split_at_mut(1);
        first[0].swap_data(&mut second[0]);
        for member in [&mut first[0], &mut second[0]] {
            let refused = refusal(up(member).await);
            let NodeError::Identity(text) = &refused else { panic!("{refused:?}") };
            assert!(text.contains("belongs to member") && text.contains("check --data-dir"), "{text}");
            member.kill();
        }
        first[0].swap_data(&mut second[0]);
        let founding = first[0].founding.clone();
        first[0].founding.cluster = ClusterId(0xc2);
        assert!(matches!(refusal(up(&mut first[0]).await), NodeError::Identity(_)));
        first[0].kill();
        first[0].founding = founding;
        for member in &mut cluster.members {
            member.crash(Keep::Nothing, Kept::None);
        }
        let nodes = cluster.up().await;
        check(&nodes, &history).await.unwrap();
    });
}

#[test]
fn a_member_of_another_cluster_at_a_peers_address_is_left_alone() {
    run(async {
        let history = History::default();
        let (mut cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        write(&history, &nodes[0], "by all").await;
        let mut stranger = Cluster::new(1, &Settings::default()).members.remove(0);
        stranger.founding.cluster = ClusterId(0xc2);
        stranger.address = cluster.members[2].address;
        let nodes = nodes[..2].to_vec();
        cluster.members[2].kill();
        let other = up(&mut stranger).await.unwrap();
        write(&History::default(), &other, "in another cluster").await;
        for n in 0..20 {
            write(&history, &nodes[n % 2], &format!("beside a stranger {n}")).await;
        }
        assert_eq!(other.shared().raft.member(), MemberId(1));
        assert_eq!(other.shared().raft.members().len(), 1);
        check(&nodes, &history).await.unwrap();
        stranger.kill();
        cluster.members[2].crash(Keep::Nothing, Kept::None);
        let third = up(&mut cluster.members[2]).await.unwrap();
        check(&[nodes[0].clone(), nodes[1].clone(), third], &history).await.unwrap();
    });
}

#[test]
fn a_restarted_cluster_elects_only_after_a_lease_and_then_does() {
    run(async {
        let settings = Settings { election_timeout: Duration::from_secs(1), ..Settings::default() };
        let history = History::default();
        let (mut cluster, nodes) = Cluster::running(3, &settings).await;
        write(&history, &nodes[0], "by all").await;
        let term = nodes[0].term();
        drop(nodes);
        cluster.kill();
        for member in &mut cluster.members {
            member.crash(Keep::Nothing, Kept::None);
        }
        let started = std::time::Instant::now();
        let mut starting: Vec<Starting> = cluster.members.iter_mut().map(Member::start).collect();
        let mut nodes = Vec::new();
        for start in &mut starting {
            nodes.push(within("a start", start.up()).await.unwrap());
        }
        let leads = |node: &Node| node.shared().raft.status().is_leader;
        eventually("somebody leads", || nodes.iter().any(leads).then_some(())).await;
        assert!(started.elapsed() >= settings.election_timeout * 7 / 10, "after {:?}", started.elapsed());
        settled(&nodes).await;
        assert!(nodes[0].term() > term, "a term belongs to one process");
        check(&nodes, &history).await.unwrap();
    });
}
