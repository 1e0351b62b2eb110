//! Real processes with faults inside: slow and failing disks, full ones, and an end at every place that matters.
//!
//! Whatever happens to one member, the others go on, it says why it ended, and once it runs again nothing acked is missing
//! and all members hash alike.
#![expect(clippy::print_stdout, reason = "what each fault did is what a reader wants to see")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etcd_client::Client;
use rustix::process::Signal;
use tenure_tests::binaries::Program;
use tenure_tests::check;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::fault_port::FaultPort;
use tenure_tests::node::{Node, POLL};
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::snapshots::{SHORT_LOG, fall_behind};
use tenure_tests::stale_reads;
use tenure_tests::workload::{History, Workload};
use tokio::time::sleep;

/// A fault that waits must be met within this, on a busy machine too.
const FAULT_PATIENCE: Duration = Duration::from_secs(60);
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// Acks after a fault, to see that the others go on.
const ACKS_AFTER: u64 = 20;
const WRITERS: usize = 4;

/// Points that every working member passes. Flushes come every few hundred entries.
const EVERYDAY: [&str; 16] = [
    "raftBeforeSave",
    "raftAfterSave",
    "walBeforeWrite",
    "walAfterWrite",
    "walBeforeSync",
    "walAfterSync",
    "commitBeforePreCommitHook",
    "commitAfterPreCommitHook",
    "beforeCommit",
    "afterCommit",
    "beforeFlush",
    "afterFlush",
    "raftBeforeApply",
    "raftBeforeApplyEntry",
    "raftAfterApply",
    "raftBeforeFollowerSend",
];
const OF_LEADERS: [&str; 1] = ["raftBeforeLeaderSend"];
/// Points that are passed while history is compacted.
const OF_COMPACTION: [&str; 6] = [
    "compactBeforeCommitScheduledCompact",
    "compactAfterCommitScheduledCompact",
    "compactBeforeCommitBatch",
    "compactAfterCommitBatch",
    "compactBeforeSetFinishedCompact",
    "compactAfterSetFinishedCompact",
];
/// Points that are passed when the log goes on in another file, which it does every 64 MiB.
const OF_LOG_FILES: [&str; 3] = ["walBeforeCut", "walAfterCut", "walBeforeRemove"];
/// Points of a leader that makes and sends a snapshot.
const OF_SENDERS: [&str; 3] = ["snapshotBeforeCheckpoint", "snapshotAfterCheckpoint", "snapshotBeforeSendPiece"];
/// Points of a follower that gets one.
const OF_RECEIVERS: [&str; 7] = [
    "snapshotBeforeWritePiece",
    "raftBeforeSaveSnap",
    "raftAfterSaveSnap",
    "applyBeforeOpenSnapshot",
    "raftBeforeApplySnap",
    "snapshotAfterName",
    "raftAfterApplySnap",
];

fn run<Fut: Future<Output = Result<()>>>(test: &str, body: impl FnOnce(Scenario) -> Fut) {
    scenario::run("process_faults", test, body);
}

async fn started(home: &Path, flags: &[&str]) -> Result<(Cluster, Vec<FaultPort>)> {
    let (mut cluster, ports) = Cluster::with_faults(3, home, flags)?;
    cluster.start_all().await?;
    Ok((cluster, ports))
}

/// Waits for a member to end with an error of its own making; returns what it said.
async fn ended_by_itself(node: &mut Node, words: &[&str]) -> Result<()> {
    let status = node.wait_exit(FAULT_PATIENCE).await?;
    let said = node.log();
    ensure!(status.code() == Some(1), "{} ended with {status}:\n{}", node.name, node.log_tail(20));
    ensure!(!said.contains("panicked"), "{} panicked:\n{}", node.name, node.log_tail(20));
    for word in words {
        ensure!(said.contains(word), "{} does not say {word:?}:\n{}", node.name, node.log_tail(20));
    }
    println!("  {}: {}", node.name, node.log_tail(1));
    Ok(())
}

/// Waits for a member to end at a point that was told to end it.
async fn ended_at(node: &mut Node, point: &str) -> Result<()> {
    let status = node.wait_exit(FAULT_PATIENCE).await.with_context(|| format!("{point} was not passed"))?;
    let said = node.log();
    ensure!(status.signal() == Some(Signal::ABORT.as_raw()), "{} ended with {status} at {point}", node.name);
    ensure!(said.contains(&format!("failpoint {point}: panic")), "{} ended elsewhere: {}", node.name, node.log_tail(5));
    Ok(())
}

/// The leader, or a follower.
async fn one(cluster: &mut Cluster, leads: bool) -> Result<usize> {
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    Ok(if leads { leader } else { (leader + 1) % cluster.nodes.len() })
}

#[test]
fn an_old_leader_that_hears_late_answers_reads_nothing_of_the_past() {
    run("an_old_leader_that_hears_late_answers_reads_nothing_of_the_past", |scenario| async move {
        let seen = stale_reads::late_answers(&scenario.home, 8).await?;
        println!("{seen:?}");
        Ok(())
    });
}

#[test]
fn what_was_seen_at_a_follower_is_seen_at_a_leader_that_applies_late() {
    run("what_was_seen_at_a_follower_is_seen_at_a_leader_that_applies_late", |scenario| async move {
        Box::pin(stale_reads::late_apply(&scenario.home)).await
    });
}

#[test]
fn a_released_server_knows_no_fault() {
    run("a_released_server_knows_no_fault", |scenario| async move {
        let mut cluster = Cluster::new(Program::Tenured, 1, &scenario.home)?;
        for flag in
            ["--experimental-fault-injection-url=http://127.0.0.1:1", "--experimental-failpoints=afterCommit=panic"]
        {
            let mut flags = cluster.flags_of(0);
            flags.push(flag.to_owned());
            cluster.nodes[0].set_flags(flags);
            cluster.nodes[0].start()?;
            let (name, _) = flag.split_once('=').context("a flag")?;
            let refusal =
                format!("{name} is not supported by this version: this program was built without fault injection");
            ended_by_itself(&mut cluster.nodes[0], &[&refusal]).await?;
        }
        let holds = |program: Program, text: &str| -> Result<bool> {
            let bytes = fs::read(program.path()?)?;
            Ok(bytes.windows(text.len()).any(|window| window == text.as_bytes()))
        };
        ensure!(holds(Program::TenuredFaults, "walBeforeSync")?, "failpoints are not where this test looks for them");
        ensure!(!holds(Program::Tenured, "walBeforeSync")?, "a released program has the name of a failpoint in it");
        Ok(())
    });
}

#[test]
fn every_failpoint_is_known_to_these_tests() {
    run("every_failpoint_is_known_to_these_tests", |scenario| async move {
        let (mut cluster, ports) = Cluster::with_faults(1, &scenario.home, &[])?;
        cluster.start_all().await?;
        let mut known =
            [&EVERYDAY[..], &OF_LEADERS, &OF_COMPACTION, &OF_LOG_FILES, &OF_SENDERS, &OF_RECEIVERS].concat();
        known.sort_unstable();
        ensure!(ports[0].failpoints().await? == known, "left: the server, right: these tests");
        Ok(())
    });
}

#[test]
fn a_slow_disk_slows_writes_and_breaks_nothing() {
    run("a_slow_disk_slows_writes_and_breaks_nothing", |scenario| async move {
        // Elections would be another story.
        let (mut cluster, ports) = started(&scenario.home, &["--election-timeout=5000"]).await?;
        let slow = Duration::from_millis(150);
        let term = cluster.status(0).await?.raft_term();
        let load = Workload::start(&cluster.endpoints(), "k/", WRITERS);
        load.wait_acks(ACKS_AFTER, WRITE_PATIENCE).await?;
        for port in &ports {
            port.arm("walBeforeSync", &format!("sleep({})", slow.as_millis())).await?;
        }
        let mut client = cluster.client(0).await?;
        for round in 0..5 {
            let sent = Instant::now();
            client.put("slow", round.to_string(), None).await?;
            ensure!(sent.elapsed() >= slow, "a write took {:?} on disks that take {slow:?}", sent.elapsed());
        }
        for port in &ports {
            ensure!(port.count("walBeforeSync").await? >= 5, "a disk was not slow");
            port.disarm("walBeforeSync").await?;
        }
        load.wait_acks(ACKS_AFTER, WRITE_PATIENCE).await?;
        let history = load.finish().await?;
        check::whole_cluster(&cluster, "k/", &history).await?;
        ensure!(cluster.status(0).await?.raft_term() == term, "there was an election");
        cluster.wait_leader(LEADER_PATIENCE).await?;
        Ok(())
    });
}

#[test]
fn a_disk_that_fails_ends_the_member_and_loses_nothing() {
    run("a_disk_that_fails_ends_the_member_and_loses_nothing", |scenario| async move {
        const BROKEN: &str = "Input/output error";
        const FULL: &str = "No space left on device";
        let (mut cluster, ports) = started(&scenario.home, SHORT_LOG).await?;
        let mut history = History::default();
        for (leads, point, term, words) in [
            (true, "walBeforeSync", "1*return(\"EIO\")", ["the Raft log cannot sync", BROKEN]),
            (false, "walBeforeSync", "1*return(\"EIO\")", ["the Raft log cannot sync", BROKEN]),
            (true, "walAfterSync", "1*return(\"EIO\")", ["the Raft log cannot sync", BROKEN]),
            (true, "walBeforeWrite", "return(\"ENOSPC\")", ["the Raft log cannot write", FULL]),
            (false, "walAfterWrite", "return(\"ENOSPC\")", ["the Raft log cannot write", FULL]),
            (true, "beforeCommit", "return(\"ENOSPC\")", ["the disk is full", FULL]),
            (false, "afterCommit", "return(\"EIO\")", ["the storage engine failed", BROKEN]),
            (true, "beforeFlush", "return(\"ENOSPC\")", ["the disk is full", FULL]),
            (false, "afterFlush", "return(\"EIO\")", ["the storage engine failed", BROKEN]),
        ] {
            let victim = one(&mut cluster, leads).await?;
            println!("{point} {term} on the {}", if leads { "leader" } else { "follower" });
            let load = Workload::start(&cluster.endpoints(), &format!("k/{point}-{leads}"), WRITERS);
            load.wait_acks(ACKS_AFTER, WRITE_PATIENCE).await?;
            ports[victim].arm(point, term).await?;
            ended_by_itself(&mut cluster.nodes[victim], &words).await?;
            load.wait_acks(ACKS_AFTER, WRITE_PATIENCE).await?;
            history.extend(load.finish().await?);
            cluster.restart(victim).await?;
        }
        let verdict = check::whole_cluster(&cluster, "k/", &history).await?;
        println!("{verdict:?}");
        Ok(())
    });
}

#[test]
fn a_member_that_ends_at_any_point_comes_back_with_everything() {
    run("a_member_that_ends_at_any_point_comes_back_with_everything", |scenario| async move {
        let (mut cluster, ports) = started(&scenario.home, SHORT_LOG).await?;
        let mut history = History::default();
        for (round, point) in EVERYDAY.iter().chain(&OF_LEADERS).enumerate() {
            let leads = OF_LEADERS.contains(point) || round % 2 == 0 && *point != "raftBeforeFollowerSend";
            let victim = one(&mut cluster, leads).await?;
            let load = Workload::start(&cluster.endpoints(), &format!("k/{point}"), WRITERS);
            load.wait_acks(ACKS_AFTER, WRITE_PATIENCE).await?;
            ports[victim].arm(point, "panic").await?;
            ended_at(&mut cluster.nodes[victim], point).await?;
            load.wait_acks(ACKS_AFTER, WRITE_PATIENCE).await?;
            history.extend(load.finish().await?);
            cluster.restart(victim).await?;
            check::same_everywhere(&cluster).await?;
        }
        let verdict = check::whole_cluster(&cluster, "k/", &history).await?;
        println!("{verdict:?}");
        Ok(())
    });
}

/// The ids of all members.
async fn ids(cluster: &Cluster) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    for at in 0..cluster.nodes.len() {
        ids.push(cluster.status(at).await?.header().context("an answer without a header")?.member_id());
    }
    Ok(ids)
}

/// The directions in which a leader can be cut off.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// Nothing passes between it and the others.
    Both,
    /// What it sends is lost, at its own end.
    Sends,
    /// The same, at the other end.
    SendsThere,
    /// What is sent to it is lost, at its own end.
    Hears,
    /// The same, at the other end.
    HearsThere,
    /// What it sends to one follower is lost.
    SendsToOne,
}

async fn cut(loss: Loss, ports: &[FaultPort], ids: &[u64], leader: usize) -> Result<()> {
    let others: Vec<usize> = (0..ids.len()).filter(|at| *at != leader).collect();
    let theirs: Vec<u64> = others.iter().map(|at| ids[*at]).collect();
    let mine = [ids[leader]];
    match loss {
        Loss::Both => ports[leader].cut(&theirs, &theirs).await,
        Loss::Sends => ports[leader].cut(&theirs, &[]).await,
        Loss::Hears => ports[leader].cut(&[], &theirs).await,
        Loss::SendsToOne => ports[leader].cut(&theirs[..1], &[]).await,
        Loss::SendsThere | Loss::HearsThere => {
            for at in others {
                let (to, from) =
                    if matches!(loss, Loss::HearsThere) { (&mine[..], &[][..]) } else { (&[][..], &mine[..]) };
                ports[at].cut(to, from).await?;
            }
            Ok(())
        }
    }
}

#[test]
fn a_leader_that_is_cut_off_in_any_direction_does_not_stop_the_cluster() {
    run("a_leader_that_is_cut_off_in_any_direction_does_not_stop_the_cluster", |scenario| async move {
        let (mut cluster, ports) = started(&scenario.home, &[]).await?;
        let ids = ids(&cluster).await?;
        let mut history = History::default();
        for loss in [Loss::Both, Loss::Sends, Loss::SendsThere, Loss::Hears, Loss::HearsThere, Loss::SendsToOne] {
            let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
            let mut load = Workload::start(&cluster.endpoints(), &format!("k/{loss:?}"), WRITERS);
            load.wait_acks(ACKS_AFTER, WRITE_PATIENCE).await?;
            cut(loss, &ports, &ids, leader).await?;
            let moment = Instant::now();
            let resumed = load.wait_resumed(moment, WRITE_PATIENCE).await?;
            // Not just what was on its way.
            load.wait_acks(5 * ACKS_AFTER, WRITE_PATIENCE).await?;
            let took = moment.elapsed();
            for port in &ports {
                port.heal().await?;
            }
            history.extend(load.finish().await?);
            let next = cluster.wait_leader(LEADER_PATIENCE).await?;
            let (revision, hash) = check::same_everywhere(&cluster).await?;
            println!(
                "{loss:?}: a write after {resumed:.2?}, {} after {took:.2?}; the leader {}; all at revision {revision} with \
                 hash {hash:08x}",
                5 * ACKS_AFTER,
                if next == leader { "stayed" } else { "changed" }
            );
        }
        check::whole_cluster(&cluster, "k/", &history).await?;
        Ok(())
    });
}

#[test]
fn a_leader_whose_clock_jumps_serves_nothing_old() {
    run("a_leader_whose_clock_jumps_serves_nothing_old", |scenario| async move {
        let (mut cluster, ports) = started(&scenario.home, &[]).await?;
        let load = Workload::start(&cluster.endpoints(), "k/", WRITERS);
        for jump in 1..=5 {
            load.wait_acks(ACKS_AFTER, WRITE_PATIENCE).await?;
            let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
            ports[leader].set_clock_ahead(Duration::from_secs(10 * jump)).await?;
        }
        load.wait_acks(5 * ACKS_AFTER, WRITE_PATIENCE).await?;
        let history = load.finish().await?;
        check::whole_cluster(&cluster, "k/", &history).await?;
        Ok(())
    });
}

/// Compacts everything but the newest versions, again and again, until told to stop.
async fn compact(mut client: Client, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::SeqCst) {
        if let Ok(answer) = client.get("any", None).await
            && let Some(header) = answer.header()
        {
            // It fails if it was compacted already, or its member has no leader at the moment: then the next one counts.
            client.compact(header.revision(), None).await.ok();
        }
        sleep(POLL).await;
    }
}

#[test]
fn a_member_that_ends_while_it_compacts_comes_back_with_everything() {
    run("a_member_that_ends_while_it_compacts_comes_back_with_everything", |scenario| async move {
        let (mut cluster, ports) = started(&scenario.home, SHORT_LOG).await?;
        let mut history = History::default();
        for (round, point) in OF_COMPACTION.iter().enumerate() {
            let victim = one(&mut cluster, round % 2 == 0).await?;
            let load = Workload::start(&cluster.endpoints(), &format!("k/{point}"), WRITERS);
            let stop = Arc::new(AtomicBool::new(false));
            let compacting = tokio::spawn(compact(cluster.client((victim + 1) % 3).await?, stop.clone()));
            load.wait_acks(ACKS_AFTER, WRITE_PATIENCE).await?;
            ports[victim].arm(point, "panic").await?;
            ended_at(&mut cluster.nodes[victim], point).await?;
            load.wait_acks(ACKS_AFTER, WRITE_PATIENCE).await?;
            stop.store(true, Ordering::SeqCst);
            compacting.await?;
            history.extend(load.finish().await?);
            cluster.restart(victim).await?;
            check::same_everywhere(&cluster).await?;
        }
        check::order(&history)?;
        check::newest(&mut cluster.client(0).await?, "k/", &history).await?;
        Ok(())
    });
}

/// Writes large values until the member has ended.
async fn fill(cluster: &mut Cluster, victim: usize) -> Result<()> {
    const VALUE_BYTES: usize = 1 << 20;
    let mut client = cluster.client((victim + 1) % 3).await?;
    let deadline = Instant::now() + FAULT_PATIENCE;
    while cluster.nodes[victim].is_running()? {
        ensure!(Instant::now() < deadline, "the point was not passed");
        // One that the end of the leader cuts off is not counted on.
        client.put("large", vec![b'x'; VALUE_BYTES], None).await.ok();
    }
    Ok(())
}

#[test]
fn a_member_that_ends_between_two_files_of_its_log_comes_back_with_everything() {
    run("a_member_that_ends_between_two_files_of_its_log_comes_back_with_everything", |scenario| async move {
        let flags = ["--snapshot-count=20", "--snapshot-catchup-entries=10"];
        let (mut cluster, ports) = started(&scenario.home, &flags).await?;
        let mut history = History::default();
        for (round, point) in OF_LOG_FILES.iter().enumerate() {
            let victim = one(&mut cluster, round % 2 == 0).await?;
            let load = Workload::start(&cluster.endpoints(), &format!("k/{point}"), 1);
            load.wait_acks(ACKS_AFTER, WRITE_PATIENCE).await?;
            history.extend(load.finish().await?);
            ports[victim].arm(point, "panic").await?;
            fill(&mut cluster, victim).await?;
            let said = cluster.nodes[victim].log();
            ensure!(said.contains(&format!("failpoint {point}: panic")), "{}", cluster.nodes[victim].log_tail(5));
            cluster.restart(victim).await?;
            check::same_everywhere(&cluster).await?;
        }
        check::whole_cluster(&cluster, "k/", &history).await?;
        Ok(())
    });
}

#[test]
fn a_snapshot_survives_the_end_of_either_side_at_any_point() {
    run("a_snapshot_survives_the_end_of_either_side_at_any_point", |scenario| async move {
        let (mut cluster, ports) = started(&scenario.home, SHORT_LOG).await?;
        let load = Workload::start(&cluster.endpoints(), "k/", WRITERS);
        load.wait_acks(ACKS_AFTER, WRITE_PATIENCE).await?;
        let history = load.finish().await?;
        for point in OF_SENDERS.iter().chain(&OF_RECEIVERS) {
            let behind = one(&mut cluster, false).await?;
            fall_behind(&mut cluster, behind, 500).await?;
            let others: Vec<usize> = (0..3).filter(|at| *at != behind).collect();
            if OF_SENDERS.contains(point) {
                let leader = cluster.wait_leader_among(&others, LEADER_PATIENCE).await?;
                ports[leader].arm(point, "panic").await?;
                cluster.nodes[behind].start()?;
                ended_at(&mut cluster.nodes[leader], point).await?;
                cluster.restart(leader).await?;
            } else {
                let flags = cluster.nodes[behind].flags().to_vec();
                let armed = format!("--experimental-failpoints={point}=panic");
                cluster.nodes[behind].set_flags([flags.clone(), vec![armed]].concat());
                cluster.nodes[behind].start()?;
                ended_at(&mut cluster.nodes[behind], point).await?;
                cluster.nodes[behind].set_flags(flags);
                cluster.restart(behind).await?;
            }
            cluster.wait_leader(LEADER_PATIENCE).await?;
            let (revision, hash) = check::same_everywhere(&cluster).await?;
            // Else the leader would hold its log for minutes, and nobody fall behind.
            cluster.kill_all()?;
            cluster.start_all().await?;
            println!("{point}: all at revision {revision} with hash {hash:08x}");
        }
        check::newest(&mut cluster.client(0).await?, "k/", &history).await?;
        Ok(())
    });
}
