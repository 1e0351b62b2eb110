//! Members that lag behind the log of all others: they catch up by a snapshot while writes go on, whoever fails
//! meanwhile, and nobody can tell from what they answer.

use std::num::NonZeroU64;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_core::Revision;
use tenure_core::command::KeyRange;
use tenure_core::state::StateRead;
use tenure_raft::log::Keep;
use tenure_raft::{Housekeeping, SnapshotCounters, SnapshotOptions};
use tenure_server::node::{Node, RequestError};

use crate::support::cluster::{Cluster, check, eventually, settled};
use crate::support::history::{Fate, History, bytes, range};
use crate::support::member::Settings;
use crate::support::requests::put;
use crate::support::{run, within};
use tenure_raft::sim::Kept;

/// State is flushed often and hardly any log is kept, so that whoever is down for a moment needs a snapshot.
pub(crate) fn short_log() -> Settings {
    let housekeeping = Housekeeping {
        flush_log_bytes: 16 << 10,
        flush_entries: 16,
        keep_log_entries: Some(8),
        round: Duration::from_millis(5),
        ..Housekeeping::default()
    };
    let snapshots = SnapshotOptions { bytes_per_second: None, chunk_bytes: 512, ..SnapshotOptions::default() };
    // Longer than elsewhere: a leader that is lost to a busy machine is another test's business.
    let election_timeout = Duration::from_secs(1);
    Settings { election_timeout, segment_bytes: 8 << 10, housekeeping, snapshots, ..Settings::default() }
}

/// The same, and snapshots take long enough to be interrupted.
fn slow_snapshots() -> Settings {
    let mut settings = short_log();
    settings.snapshots.bytes_per_second = NonZeroU64::new(40 << 10);
    settings
}

pub(crate) fn counters(node: &Node) -> SnapshotCounters {
    node.shared().raft.snapshots()
}

fn first_entry(node: &Node) -> u64 {
    node.shared().raft.log().first_index()
}

async fn write(nodes: &[Node], history: &History, number: usize) -> Fate {
    let value = format!("{number} {}", "x".repeat(200));
    history.write(&nodes[number % nodes.len()], put(&format!("k{}", number % 40), value)).await
}

/// Writes until it is dropped. Members may stop meanwhile.
async fn write_on(nodes: &[Node], history: &History) {
    for number in 1_000_000.. {
        if write(nodes, history, number).await == Fate::Unknown(RequestError::Stopped) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Writes while something happens.
async fn under_load<T>(nodes: &[Node], history: &History, happens: impl Future<Output = T>) -> T {
    tokio::select! {
        done = happens => done,
        () = write_on(nodes, history) => unreachable!("it writes for ever"),
    }
}

/// Cuts the power of some members and writes until no other has the entries that they need next. Returns the others.
pub(crate) async fn fall_behind(
    cluster: &mut Cluster,
    nodes: &[Node],
    history: &History,
    behind: &[usize],
) -> Vec<Node> {
    let others = nodes.iter().enumerate().filter(|(place, _)| !behind.contains(place));
    let others: Vec<Node> = others.map(|(_, node)| node.clone()).collect();
    for place in behind {
        cluster.members[*place].crash(Keep::Nothing, Kept::None);
    }
    for place in behind {
        lag(cluster, &others, history, *place).await;
    }
    others
}

/// Writes until nobody has the entries that a member needs next, which does not run.
async fn lag(cluster: &Cluster, others: &[Node], history: &History, behind: usize) {
    let found = cluster.members[behind].findings().expect("its findings");
    let next = found.last_entry.max(found.applied).map_or(0, |last| last + 1);
    let purging = async {
        let mut number = 0;
        while others.iter().any(|node| first_entry(node) <= next) {
            write(others, history, number).await;
            number += 1;
        }
    };
    within("log is purged", purging).await;
}

/// Waits until a member has applied all that was acknowledged so far.
pub(crate) async fn caught_up(node: &Node, history: &History) {
    let told = history.told();
    eventually("it catches up", || (node.shared().raft.view().meta().revision >= told).then_some(())).await;
}

async fn installed(node: &Node) {
    eventually("a snapshot is installed", || (counters(node).installed > 0).then_some(())).await;
}

async fn up(cluster: &mut Cluster, place: usize) -> Node {
    within("a start", cluster.members[place].up()).await.unwrap_or_else(|error| panic!("it does not start: {error}"))
}

#[test]
fn a_member_behind_the_log_catches_up_by_a_snapshot_while_writes_go_on() {
    run(async {
        let history = History::default();
        let (mut cluster, nodes) = Cluster::running(3, &short_log()).await;
        let behind = (cluster.leader(&nodes).await + 1) % 3;
        let others = fall_behind(&mut cluster, &nodes, &history, &[behind]).await;
        let node = under_load(&others, &history, async {
            let node = up(&mut cluster, behind).await;
            installed(&node).await;
            caught_up(&node, &history).await;
            caught_up(&node, &history).await;
            node
        })
        .await;
        assert_eq!(counters(&node).installed, 1, "the leader keeps the log behind a snapshot until it is installed");
        let sent = || others.iter().map(counters).find(|counters| counters.sent == 1);
        let sent = eventually("the leader knows", sent).await;
        assert_eq!(sent.bytes_sent, counters(&node).bytes_received);
        let all = [&others[..], &[node]].concat();
        check(&all, &history).await.unwrap();

        // The state that counts is the one that came, also after a restart, and nothing of it is left behind.
        let dir = cluster.members[behind].state_dir().expect("a state");
        assert!(dir.ends_with("2"), "{}", dir.display());
        cluster.members[behind].crash(Keep::Nothing, Kept::None);
        let node = up(&mut cluster, behind).await;
        settled(std::slice::from_ref(&node)).await;
        assert_eq!(counters(&node).installed, 0, "it goes on from its own log");
        check(&[&others[..], &[node]].concat(), &history).await.unwrap();
    });
}

#[test]
fn reads_of_a_member_that_installs_are_never_stale_and_never_go_back() {
    run(async {
        let history = History::default();
        let (mut cluster, nodes) = Cluster::running(3, &slow_snapshots()).await;
        let behind = (cluster.leader(&nodes).await + 1) % 3;
        let others = fall_behind(&mut cluster, &nodes, &history, &[behind]).await;
        let node = under_load(&others, &history, async {
            let node = up(&mut cluster, behind).await;
            let catching_up = async {
                installed(&node).await;
                caught_up(&node, &history).await;
            };
            let linearizable = async {
                loop {
                    let told = history.told();
                    if let Ok(answer) = node.range(range(KeyRange::One(bytes("k0")), Revision(0)), false).await {
                        assert!(answer.revision >= told, "{} after {told} was acknowledged", answer.revision);
                    }
                }
            };
            let serializable = async {
                let mut seen = Revision(0);
                loop {
                    let view = node.shared().raft.view();
                    let revision = view.meta().revision;
                    assert!(revision >= seen, "{revision} after {seen}");
                    seen = revision;
                    tokio::task::yield_now().await;
                }
            };
            let forwarded = async {
                for number in 0.. {
                    let request = put("through the one that lags", format!("{number}"));
                    if let Fate::Acked(revision) = history.write(&node, request).await {
                        let applied = node.shared().raft.view().meta().revision;
                        assert!(applied >= revision, "{revision} was answered before it was applied here");
                    }
                }
            };
            tokio::select! {
                () = catching_up => {}
                () = linearizable => {}
                () = serializable => {}
                () = forwarded => {}
            }
            node
        })
        .await;
        check(&[&others[..], &[node]].concat(), &history).await.unwrap();
    });
}

#[test]
fn another_leader_sends_a_snapshot_of_its_own() {
    run(async {
        let history = History::default();
        let (mut cluster, nodes) = Cluster::running(3, &slow_snapshots()).await;
        let leader = cluster.leader(&nodes).await;
        let (behind, other) = ((leader + 1) % 3, (leader + 2) % 3);
        fall_behind(&mut cluster, &nodes, &history, &[behind]).await;
        let node = up(&mut cluster, behind).await;
        eventually("some of a snapshot came", || (counters(&node).bytes_received > 4096).then_some(())).await;
        assert_eq!(counters(&node).installed, 0, "not yet all of it");
        cluster.members[leader].crash(Keep::Nothing, Kept::None);
        let left = [nodes[other].clone(), node.clone()];
        eventually("the other leads", || left[0].shared().raft.status().is_leader.then_some(())).await;
        installed(&node).await;
        caught_up(&node, &history).await;
        eventually("it knows", || (counters(&left[0]).sent > 0).then_some(())).await;
        let first = up(&mut cluster, leader).await;
        check(&[&left[..], &[first]].concat(), &history).await.unwrap();
    });
}

#[test]
fn a_member_that_is_killed_while_it_receives_goes_on_where_it_was() {
    run(async {
        let history = History::default();
        let (mut cluster, nodes) = Cluster::running(3, &slow_snapshots()).await;
        let behind = (cluster.leader(&nodes).await + 1) % 3;
        let others = fall_behind(&mut cluster, &nodes, &history, &[behind]).await;
        let node = under_load(&others, &history, async {
            let node = up(&mut cluster, behind).await;
            eventually("half of a snapshot came", || (counters(&node).bytes_received > 6000).then_some(())).await;
            let before = counters(&node);
            assert_eq!(before.installed, 0, "not yet all of it");
            drop(node);
            // The process dies, the machine does not.
            cluster.members[behind].crash(Keep::Everything, Kept::All);
            let node = up(&mut cluster, behind).await;
            installed(&node).await;
            caught_up(&node, &history).await;
            let made: u64 = others.iter().map(|node| counters(node).checkpoints).sum();
            assert_eq!(made, 1, "it is the same snapshot");
            let files = cluster.members[behind].state_dir().expect("a state").join("tables");
            let bytes = cluster.members[behind].machine.contents(&files).expect("what came").len();
            let received = before.bytes_received + counters(&node).bytes_received;
            assert_eq!(received, u64::try_from(bytes).expect("few"), "nothing came twice");
            node
        })
        .await;
        check(&[&others[..], &[node]].concat(), &history).await.unwrap();
    });
}

#[test]
fn one_checkpoint_serves_all_members_that_lag() {
    run(async {
        let history = History::default();
        let (mut cluster, nodes) = Cluster::running(5, &short_log()).await;
        let leader = cluster.leader(&nodes).await;
        let behind = [(leader + 1) % 5, (leader + 2) % 5];
        let others = fall_behind(&mut cluster, &nodes, &history, &behind).await;
        let mut all = others.clone();
        for place in behind {
            let node = up(&mut cluster, place).await;
            installed(&node).await;
            all.push(node);
        }
        let sent = || others.iter().map(|node| counters(node).sent).sum::<u64>();
        eventually("the leader knows", || (sent() == 2).then_some(())).await;
        assert_eq!(others.iter().map(|node| counters(node).checkpoints).sum::<u64>(), 1);
        check(&all, &history).await.unwrap();
        let checkpoints = cluster.members[leader].data_dir().join("snapshots");
        assert_eq!(cluster.members[leader].machine.files().list_dirs(&checkpoints).unwrap().len(), 1);
    });
}

/// How often the power of the member that lags is cut while it catches up.
const CUTS: u64 = 12;

/// How many operations later each cut beyond these may come.
const LATER: u64 = 300;

#[test]
fn the_power_of_a_member_that_catches_up_may_fail_at_any_step() {
    run(async {
        let seed = 7;
        let mut rng = StdRng::seed_from_u64(seed);
        let history = History::default();
        let mut settings = Settings { election_timeout: Duration::from_millis(400), ..short_log() };
        // Else the log would be kept for the member that lags, and it would not.
        settings.snapshots.keep_idle = Duration::from_millis(300);
        let (mut cluster, nodes) = Cluster::running(3, &settings).await;
        let behind = (cluster.leader(&nodes).await + 1) % 3;
        let others = fall_behind(&mut cluster, &nodes, &history, &[behind]).await;
        let (mut cut, mut installations) = (0, 0);
        // Where a cut hits depends on the machine that this runs on. One must come after an installation; what is to be
        // installed grows meanwhile.
        while cut < CUTS || (installations == 0 && cut < 20 * CUTS) {
            let machine = cluster.members[behind].machine.clone();
            machine.go_off_at(machine.operations() + rng.random_range(5..150 + LATER * cut.saturating_sub(CUTS)));
            let node = tokio::select! {
                biased;
                () = machine.is_off() => None,
                node = cluster.members[behind].up() => node.ok(),
            };
            if let Some(node) = &node {
                tokio::select! {
                    () = machine.is_off() => {}
                    () = async {
                        installed(node).await;
                        caught_up(node, &history).await;
                    } => {}
                }
                installations += counters(node).installed;
            }
            let keep = match cut % 4 {
                0 => Keep::Nothing,
                1 => Keep::Everything,
                2 => Keep::Torn(rng.random()),
                _ => Keep::Holes(rng.random()),
            };
            cluster.members[behind].crash(keep, [Kept::None, Kept::Half, Kept::All][rng.random_range(0..3)]);
            lag(&cluster, &others, &history, behind).await;
            cut += 1;
        }
        assert!(installations > 0, "seed {seed}: every cut came too early");
        let node = up(&mut cluster, behind).await;
        caught_up(&node, &history).await;
        check(&[&others[..], &[node]].concat(), &history).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    });
}
