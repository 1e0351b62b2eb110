//! Power cuts of three members: of all at once at a moment of one of them, of a minority, and with disks that lag.

use std::time::Duration;

use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_core::Revision;
use tenure_core::state::StateRead;
use tenure_raft::Housekeeping;
use tenure_raft::log::Keep;
use tenure_server::node::{Node, RequestError};

use crate::support::cluster::{Cluster, check, eventually};
use crate::support::history::{Fate, History, Request};
use crate::support::member::Settings;
use crate::support::requests::{delete, put, txn};
use crate::support::{run, within};
use tenure_raft::sim::{Kept, Step};

const CLIENTS: u64 = 4;

/// Writes of one client in one round: more than fit before the power goes off.
const WRITES_MAX: u64 = 24;

/// The operations of one member, from the first write of a round, among which the power cut is chosen.
const OPERATIONS: u64 = 60;

/// State is flushed often. Log is kept: a member that lags must not need a snapshot.
fn often_flushed() -> Settings {
    let housekeeping =
        Housekeeping { flush_log_bytes: 2 << 10, round: Duration::from_millis(5), ..Housekeeping::default() };
    Settings { segment_bytes: 8 << 10, housekeeping, ..Settings::default() }
}

/// One client's writes in one round: keys of its own, and one key that all write.
async fn client(node: &Node, history: &History, round: u64, client: u64) {
    for n in 0..WRITES_MAX {
        let mine = |what: &str| format!("{client}/{what}/{round}/{n}");
        let value = format!("{round} {client} {n}");
        let written = match n % 4 {
            0 => history.write(node, put(&mine("a"), value)).await,
            1 => history.write(node, put("everybody's", value)).await,
            2 => history.write(node, txn(&[(&mine("b"), &value), ("everybody's", &mine("c"))], &[])).await,
            _ => match history.write(node, put(&mine("d"), value)).await {
                Fate::Acked(_) => history.write(node, delete(&[&mine("d")])).await,
                other => other,
            },
        };
        if written == Fate::Unknown(RequestError::Stopped) {
            return;
        }
    }
}

/// Lets clients write until the power goes off, at the latest when they are done.
async fn write_until_dark(cluster: &Cluster, nodes: &[Node], history: &History, round: u64, dark: usize) {
    let clients = join_all((0..CLIENTS).map(|number| {
        let node = &nodes[usize::try_from(number).expect("few") % nodes.len()];
        client(node, history, round, number)
    }));
    tokio::select! {
        biased;
        () = cluster.members[dark].machine.is_off() => {}
        _ = clients => {}
    }
}

fn leftovers(rng: &mut StdRng) -> (Keep, Kept) {
    let keep = match rng.random_range(0..4) {
        0 => Keep::Nothing,
        1 => Keep::Everything,
        2 => Keep::Torn(rng.random()),
        _ => Keep::Holes(rng.random()),
    };
    (keep, [Kept::None, Kept::Half, Kept::All][rng.random_range(0..3)])
}

/// A cluster that loses power again and again, of all members at once.
async fn lose_all_again_and_again(seed: u64, rounds: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let history = History::default();
    let (mut cluster, mut nodes) = Cluster::running(3, &often_flushed()).await;
    for round in 0..rounds {
        let dark = rng.random_range(0..3);
        let machine = &cluster.members[dark].machine;
        machine.go_off_at(machine.operations() + rng.random_range(0..OPERATIONS));
        write_until_dark(&cluster, &nodes, &history, round, dark).await;
        nodes.clear();
        cluster.kill();
        for member in &mut cluster.members {
            let (keep, kept) = leftovers(&mut rng);
            member.crash(keep, kept);
        }
        nodes = cluster.up().await;
        let checked = check(&nodes, &history).await;
        checked.unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
        compact_sometimes(&nodes[dark], &history, round).await;
    }
    assert!(history.acked() > usize::try_from(rounds).expect("few"), "seed {seed}: hardly anything was written");
}

async fn compact_sometimes(node: &Node, history: &History, round: u64) {
    let told = history.told();
    if round % 3 == 1 && told > Revision(20) {
        history.write(node, Request::compact(Revision(told.0 - 10))).await;
    }
}

#[test]
fn nothing_is_lost_when_all_members_lose_power_at_once() {
    with_each(&[11, 12, 13, 14], |seed| lose_all_again_and_again(seed, 10));
}

/// Runs cases at once, each on a thread of its own: they wait for elections most of the time.
fn with_each<F: Future<Output = ()>>(seeds: &[u64], case: impl Fn(u64) -> F + Sync) {
    std::thread::scope(|scope| {
        for seed in seeds {
            scope.spawn(|| run(case(*seed)));
        }
    });
}

/// A cluster of which one member at a time loses power.
async fn lose_one_again_and_again(seed: u64, rounds: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let history = History::default();
    let (mut cluster, mut nodes) = Cluster::running(3, &often_flushed()).await;
    for round in 0..rounds {
        let dark = rng.random_range(0..3);
        let machine = cluster.members[dark].machine.clone();
        machine.go_off_at(machine.operations() + rng.random_range(0..OPERATIONS));
        let others: Vec<Node> = (0..3).filter(|place| *place != dark).map(|place| nodes[place].clone()).collect();
        let clients = join_all((0..CLIENTS).map(|number| {
            let node = &others[usize::try_from(number).expect("few") % others.len()];
            client(node, &history, round, number)
        }));
        let lost = async {
            tokio::select! {
                biased;
                () = machine.is_off() => {}
                () = client(&nodes[dark], &history, round, CLIENTS) => {}
            }
            cluster.members[dark].kill();
        };
        within("a round", futures::future::join(clients, lost)).await;
        let (keep, kept) = leftovers(&mut rng);
        cluster.members[dark].crash(keep, kept);
        nodes[dark] = within("a restart", cluster.members[dark].up()).await.expect("it starts");
        let checked = check(&nodes, &history).await;
        checked.unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
    }
}

#[test]
fn nothing_is_lost_when_one_member_after_the_other_loses_power() {
    with_each(&[21, 22, 23], |seed| lose_one_again_and_again(seed, 5));
}

#[test]
fn a_write_that_two_of_three_disks_hold_survives_although_the_leaders_does_not() {
    run(async {
        let history = History::default();
        let (mut cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        let leader = cluster.leader(&nodes).await;
        cluster.members[leader].machine.hold(Step::Sync);
        for n in 0..5 {
            let fate = within("a quorum without the leader", history.write(&nodes[leader], put("k", format!("{n}"))));
            assert!(matches!(fate.await, Fate::Acked(_)));
        }
        drop(nodes);
        cluster.kill();
        for member in &mut cluster.members {
            member.crash(Keep::Nothing, Kept::None);
        }
        let nodes = cluster.up().await;
        check(&nodes, &history).await.expect("all is there");
    });
}

/// A member comes back with entries that nobody else has, drops them for those of its successor, applies these, and loses
/// power before its log has followed: from the given operation on, its log is not written any more. Returns whether it
/// then found a state that had overtaken a log which still ends as before.
async fn lose_power_with_a_tail_of_its_own(hold_from: u64) -> bool {
    let history = History::default();
    let settings = Settings::default();
    let (mut cluster, mut nodes) = Cluster::running(3, &settings).await;
    let old = cluster.leader(&nodes).await;
    let others = [(old + 1) % 3, (old + 2) % 3];
    history.write(&nodes[old], put("k", "by all")).await;
    let both = Some(nodes[old].shared().raft.status().last_log.0);
    for other in others {
        cluster.members[other].crash(Keep::Everything, Kept::All);
    }
    // Each makes an entry of its own, and there are more of them than there will be instead.
    let raft = nodes[old].shared().raft.clone();
    let alone = join_all((0..20).map(|n| {
        let command = history.command_without_answer(&put("k", format!("alone {n}")));
        let raft = raft.clone();
        async move { raft.propose([command].iter()).await }
    }));
    let logged = eventually("the entries are logged", || {
        (Some(raft.status().last_log.0) >= both.map(|both| both + 20)).then_some(())
    });
    tokio::select! {
        // On a slow machine it may have stopped leading by then.
        _ = alone => return false,
        () = logged => {}
    }
    drop(raft);
    nodes.clear();
    cluster.members[old].crash(Keep::Nothing, Kept::All);
    let tail = cluster.members[old].findings().expect("it can be opened").last_entry;
    let mut starting = others.map(|other| cluster.members[other].start());
    for start in &mut starting {
        nodes.push(within("a start", start.up()).await.expect("it starts"));
    }
    let acked = async {
        let mut n = 0;
        while n < 5 {
            n += u32::from(matches!(
                history.write(&nodes[0], put("k", format!("without it {n}"))).await,
                Fate::Acked(_)
            ));
        }
    };
    within("writes", acked).await;
    let told = history.told();
    let machine = cluster.members[old].machine.clone();
    machine.hold_files_from(machine.operations() + hold_from);
    let mut start = cluster.members[old].start();
    // What is held may keep it from starting or from applying, according to where it is held: then that is the case.
    let applies = async {
        let node = start.up().await.ok()?;
        let mut views = node.shared().raft.views();
        views.wait_for(|view| view.meta().revision >= told).await.map(drop).ok()
    };
    drop(tokio::time::timeout(settings.election_timeout, applies).await);
    cluster.members[old].crash(Keep::Nothing, Kept::All);
    let found = cluster.members[old].findings().expect("it can be opened");
    nodes.push(within("a start", cluster.members[old].up()).await.expect("it starts"));
    check(&nodes, &history).await.unwrap_or_else(|error| panic!("held from {hold_from}: {error}"));
    found.last_entry == tail && found.applied > both
}

#[test]
fn a_tail_that_the_flushed_state_has_overtaken_is_dropped() {
    let overtaken = std::sync::atomic::AtomicUsize::new(0);
    // The first write makes room in the log, which takes 64 operations.
    with_each(&[68, 71, 72, 73, 74, 75, 76, 77, 78, 72, 73, 74, 75], |hold_from| {
        let overtaken = &overtaken;
        async move {
            if lose_power_with_a_tail_of_its_own(hold_from).await {
                overtaken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    assert!(overtaken.into_inner() > 0, "the state never overtook the log");
}

#[test]
fn state_that_was_flushed_ahead_of_the_durable_log_is_kept_and_gone_on_from() {
    run(async {
        let history = History::default();
        // What is held is the log's thread, and not consensus.
        let settings = Settings { quick_sync: Duration::ZERO, ..Settings::default() };
        let (mut cluster, mut nodes) = Cluster::running(3, &settings).await;
        let leader = cluster.leader(&nodes).await;
        let behind = (leader + 1) % 3;
        cluster.members[behind].machine.hold(Step::Sync);
        for n in 0..20 {
            let fate = history.write(&nodes[leader], put("k", format!("{n}"))).await;
            assert!(matches!(fate, Fate::Acked(_)));
        }
        let told = history.told();
        let applied = || (nodes[behind].shared().raft.view().applied().index.0 > 0).then_some(());
        eventually("the member with the slow disk applies", applied).await;
        eventually("it applies all", || (nodes[behind].shared().raft.view().meta().revision >= told).then_some(()))
            .await;
        // All batches reach the engine's disk, and nothing that the log did not sync.
        nodes.remove(behind);
        cluster.members[behind].crash(Keep::Nothing, Kept::All);
        let found = cluster.members[behind].findings().expect("it can be opened");
        assert!(found.applied > found.last_entry, "the state is ahead of the log: {found:?}");
        let node = within("a start", cluster.members[behind].up()).await.expect("it starts");
        nodes.insert(behind, node);
        assert!(matches!(history.write(&nodes[behind], put("k", "last")).await, Fate::Acked(_)));
        check(&nodes, &history).await.expect("all is there");
        // It votes and leads with that log, too.
        let other = (0..3).find(|place| *place != leader && *place != behind).expect("three");
        drop(nodes);
        cluster.kill();
        for member in &mut cluster.members {
            member.crash(Keep::Nothing, Kept::None);
        }
        let mut starting = [behind, other].map(|place| cluster.members[place].start());
        let mut nodes = Vec::new();
        for start in &mut starting {
            nodes.push(within("a start", start.up()).await.expect("it starts"));
        }
        check(&nodes, &history).await.expect("all is there, without the old leader");
    });
}
