//! Real processes and real disks: members that catch up by a snapshot, are killed while they do, or lose their leader.
//!
//! The large count is in `chaos_snapshot.rs`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tenure_tests::binaries::Program;
use tenure_tests::check;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::http1::metric;
use tenure_tests::node::READY_PATIENCE;
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::snapshots::{self, SHORT_LOG, all_but, fall_behind, others, wait_metric};
use tenure_tests::watched_install;
use tenure_tests::workload::Workload;

fn run<Fut: Future<Output = Result<()>>>(test: &str, body: impl FnOnce(Scenario) -> Fut) {
    scenario::run("process_snapshot", test, body);
}

/// Slow enough that a transfer of a few megabytes can be interrupted.
const SLOW: &str = "--snapshot-send-bytes-per-second=1500000";

async fn slow_cluster(home: &Path) -> Result<Cluster> {
    let mut cluster = Cluster::with_flags(Program::Tenured, 3, home, &[SHORT_LOG, &[SLOW]].concat())?;
    cluster.start_all().await?;
    Ok(cluster)
}

#[test]
fn a_node_that_was_down_for_long_catches_up_by_a_snapshot_under_load() {
    run("a_node_that_was_down_for_long_catches_up_by_a_snapshot_under_load", |scenario| async move {
        println!("{}", snapshots::catch_up(&scenario.home, 20_000).await?.table());
        Ok(())
    });
}

#[test]
fn a_node_that_is_killed_while_it_receives_goes_on_where_it_was() {
    run("a_node_that_is_killed_while_it_receives_goes_on_where_it_was", |scenario| async move {
        let mut cluster = slow_cluster(&scenario.home).await?;
        let behind = cluster.follower().await?;
        fall_behind(&mut cluster, behind, 12_000).await?;
        let load = Workload::start(&others(&cluster, behind), "k/meanwhile", 4);
        let (mut received, mut lives) = (0, 0);
        for _ in 0..3 {
            cluster.nodes[behind].start()?;
            let node = &cluster.nodes[behind];
            received += wait_metric(node, "tenure_snapshot_received_bytes_total", 300_000).await?;
            ensure!(metric(node.client_port, "tenure_snapshots_installed_total").await? == 0, "it came too fast");
            lives += 1;
            cluster.nodes[behind].kill()?;
        }
        cluster.restart(behind).await?;
        wait_metric(&cluster.nodes[behind], "tenure_snapshots_installed_total", 1).await?;
        received += metric(cluster.nodes[behind].client_port, "tenure_snapshot_received_bytes_total").await?;
        let history = load.finish().await?;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let port = cluster.nodes[leader].client_port;
        ensure!(metric(port, "tenure_checkpoints_total").await? == 1, "it was the same snapshot every time");
        let log = cluster.nodes[leader].log();
        let made = log.lines().find(|line| line.contains("made a checkpoint")).context("the leader's log")?;
        let size = made.split("bytes=").nth(1).and_then(|rest| rest.split(' ').next()).context("its size")?;
        let size: u64 = size.trim_matches(|c: char| !c.is_ascii_digit()).parse()?;
        // Not all that a life received is in the figure that was read before it ended.
        ensure!(received <= size, "{received} of {size} bytes came: some came twice");
        println!("{size} bytes in {} lives", lives + 1);
        check::whole_cluster(&cluster, "k/", &history).await?;
        Ok(())
    });
}

#[test]
fn a_leader_that_is_killed_while_it_sends_is_replaced_in_that_too() {
    run("a_leader_that_is_killed_while_it_sends_is_replaced_in_that_too", |scenario| async move {
        let mut cluster = slow_cluster(&scenario.home).await?;
        let behind = cluster.follower().await?;
        fall_behind(&mut cluster, behind, 12_000).await?;
        let leader = cluster.wait_leader_among(&all_but(&cluster, behind), LEADER_PATIENCE).await?;
        cluster.nodes[behind].start()?;
        wait_metric(&cluster.nodes[behind], "tenure_snapshot_received_bytes_total", 300_000).await?;
        cluster.nodes[leader].kill()?;
        // With the leader gone, the node that lags is needed for a majority, and it votes before it has caught up.
        let left = all_but(&cluster, leader);
        cluster.wait_leader_among(&left, LEADER_PATIENCE).await?;
        let endpoints: Vec<String> = left.iter().map(|at| cluster.nodes[*at].endpoint()).collect();
        let load = Workload::start(&endpoints, "k/meanwhile", 4);
        wait_metric(&cluster.nodes[behind], "tenure_snapshots_installed_total", 1).await?;
        load.wait_acks(100, READY_PATIENCE).await?;
        let history = load.finish().await?;
        cluster.restart(leader).await?;
        check::whole_cluster(&cluster, "k/", &history).await?;
        Ok(())
    });
}

#[test]
fn watchers_on_a_node_that_installs_a_snapshot_see_every_event_once() {
    run("watchers_on_a_node_that_installs_a_snapshot_see_every_event_once", |scenario| async move {
        let outcome = watched_install::watch_through(&scenario.home, 4000, false).await?;
        println!("{outcome:?}");
        ensure!(outcome.counts.compacted == 0, "nothing was compacted");
        Ok(())
    });
}

#[test]
fn watchers_on_a_node_that_installs_a_snapshot_are_told_what_was_compacted() {
    run("watchers_on_a_node_that_installs_a_snapshot_are_told_what_was_compacted", |scenario| async move {
        let outcome = watched_install::watch_through(&scenario.home, 4000, true).await?;
        println!("{outcome:?}");
        ensure!(outcome.counts.compacted >= outcome.watchers - 2, "hardly anybody was told");
        Ok(())
    });
}

#[test]
fn a_data_directory_of_an_earlier_build_is_taken_over_and_gives_way_to_a_snapshot() {
    run("a_data_directory_of_an_earlier_build_is_taken_over_and_gives_way_to_a_snapshot", |scenario| async move {
        let mut cluster = Cluster::with_flags(Program::Tenured, 3, &scenario.home, SHORT_LOG)?;
        cluster.start_all().await?;
        let load = Workload::start(&cluster.endpoints(), "k/before", 4);
        load.wait_acks(1500, READY_PATIENCE).await?;
        let history = load.finish().await?;
        let behind = cluster.follower().await?;
        cluster.nodes[behind].stop(READY_PATIENCE).await?;
        let state = cluster.nodes[behind].data_dir.join("state");
        flatten(&state)?;
        cluster.restart(behind).await?;
        ensure!(metric(cluster.nodes[behind].client_port, "tenure_snapshots_installed_total").await? == 0);
        check::whole_cluster(&cluster, "k/", &history).await?;
        ensure!(state.join("CURRENT").exists(), "it stays where it is");

        fall_behind(&mut cluster, behind, 3000).await?;
        let load = Workload::start(&others(&cluster, behind), "k/after", 4);
        cluster.restart(behind).await?;
        wait_metric(&cluster.nodes[behind], "tenure_snapshots_installed_total", 1).await?;
        let history = load.finish().await?;
        check::whole_cluster(&cluster, "k/after", &history).await?;
        cluster.nodes[behind].stop(READY_PATIENCE).await?;
        cluster.restart(behind).await?;
        ensure!(!state.join("CURRENT").exists() && state.join("1").join("CURRENT").exists(), "it moved on");
        check::whole_cluster(&cluster, "k/after", &history).await?;
        Ok(())
    });
}

/// Makes a state directory what the first builds made.
fn flatten(state: &Path) -> Result<()> {
    fs::remove_file(state.join("generation"))?;
    for entry in fs::read_dir(state.join("1"))? {
        let entry = entry?;
        fs::rename(entry.path(), state.join(entry.file_name()))?;
    }
    Ok(fs::remove_dir(state.join("1"))?)
}

#[test]
fn a_node_whose_log_was_deleted_does_not_start() {
    run("a_node_whose_log_was_deleted_does_not_start", |scenario| async move {
        let mut cluster = Cluster::with_flags(Program::Tenured, 3, &scenario.home, SHORT_LOG)?;
        cluster.start_all().await?;
        let load = Workload::start(&cluster.endpoints(), "k/before", 4);
        load.wait_acks(600, READY_PATIENCE).await?;
        let history = load.finish().await?;
        let victim = cluster.follower().await?;
        cluster.nodes[victim].stop(READY_PATIENCE).await?;
        let (log, aside) = (cluster.nodes[victim].data_dir.join("raft/log"), scenario.home.join("log-aside"));
        fs::rename(&log, &aside)?;
        for _ in 0..2 {
            cluster.nodes[victim].start()?;
            let status = cluster.nodes[victim].wait_exit(READY_PATIENCE).await?;
            let said = cluster.nodes[victim].log();
            ensure!(status.code() == Some(1) && said.contains("holds state, but no Raft log"), "{status}: {said}");
        }
        // Nothing was changed: with its log back it is who it was.
        fs::rename(&aside, &log)?;
        cluster.restart(victim).await?;
        check::whole_cluster(&cluster, "k/", &history).await?;

        // Without its state it is as good as wiped, whatever its identity file says.
        cluster.nodes[victim].stop(READY_PATIENCE).await?;
        fs::remove_dir_all(&log)?;
        fs::remove_dir_all(cluster.nodes[victim].data_dir.join("state"))?;
        cluster.nodes[victim].start()?;
        cluster.nodes[victim].wait_exit(READY_PATIENCE).await?;
        let said = cluster.nodes[victim].log();
        ensure!(said.contains("has an empty data directory"), "{said}");
        Ok(())
    });
}
