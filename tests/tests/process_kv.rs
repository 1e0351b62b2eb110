//! Real processes: what must hold while servers are killed, paused and stopped; a few rounds of each.
//!
//! The full counts are in `chaos_kv.rs`. Everything runs on loopback with real disks, one scenario at a time.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etcd_client::GetOptions;
use tenure_tests::binaries::Program;
use tenure_tests::check;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE, connect};
use tenure_tests::faults::{self, RESUME_MAX};
use tenure_tests::http1;
use tenure_tests::node::{POLL, READY_PATIENCE};
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::workload::Workload;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

/// A leader that is told to stop hands over first, so that writes hardly notice.
const HAND_OVER_MAX: Duration = Duration::from_millis(500);
const STOP_PATIENCE: Duration = Duration::from_secs(10);

fn run<Fut: Future<Output = Result<()>>>(test: &str, body: impl FnOnce(Scenario) -> Fut) {
    scenario::run("process_kv", test, body);
}

#[test]
fn every_node_serves_reads_and_writes() {
    run("every_node_serves_reads_and_writes", |scenario| async move {
        let mut cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
        cluster.wait_leader(LEADER_PATIENCE).await?;
        for writer in 0..3 {
            let key = format!("from-{writer}");
            let put = cluster.client(writer).await?.put(key.as_str(), "value", None).await?;
            let revision = put.header().context("no header")?.revision();
            for reader in 0..3 {
                let answer = cluster.client(reader).await?.get(key.as_str(), None).await?;
                let kv = answer.kvs().first().with_context(|| format!("{reader} does not see {key}"))?;
                ensure!(kv.mod_revision() == revision && kv.value() == b"value", "{reader} sees {kv:?}");
            }
        }
        for node in &cluster.nodes {
            let health = http1::get(node.client_port, "/health", Duration::from_secs(2)).await?;
            ensure!(health.status == 200 && health.body.contains("\"health\":\"true\""), "{health:?}");
            let version = http1::get(node.client_port, "/version", Duration::from_secs(2)).await?;
            ensure!(version.status == 200 && version.body.contains("etcdserver"), "{version:?}");
            let metrics = http1::get(node.client_port, "/metrics", Duration::from_secs(2)).await?;
            ensure!(metrics.status == 200 && metrics.body.contains("# TYPE"), "no metrics: {}", metrics.status);
        }
        check::same_everywhere(&cluster).await?;
        Ok(())
    });
}

#[test]
fn a_serializable_read_at_the_node_that_acked_a_write_sees_it() {
    run("a_serializable_read_at_the_node_that_acked_a_write_sees_it", |scenario| async move {
        let mut cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
        let follower = cluster.follower().await?;
        let load = Workload::start(&cluster.endpoints(), "noise", 4);
        let mut client = cluster.client(follower).await?;
        for round in 0..300 {
            let value = format!("{round}");
            client.put("mine", value.as_str(), None).await?;
            let answer = client.get("mine", Some(GetOptions::new().with_serializable())).await?;
            let seen = answer.kvs().first().context("the key is not there")?.value_str()?.to_owned();
            ensure!(seen == value, "the follower acked {value}, and then read {seen}");
        }
        let history = load.finish().await?;
        println!(
            "300 of 300 serializable reads at the acking follower were fresh, beside {} writes",
            history.acks.len()
        );
        Ok(())
    });
}

#[test]
fn writes_resume_after_the_leader_is_killed() {
    run("writes_resume_after_the_leader_is_killed", |scenario| async move {
        let outcome = faults::kill_leaders(&scenario.home, 3).await?;
        println!("{}", outcome.table("leader killed under load"));
        ensure!(outcome.slowest() <= RESUME_MAX, "writes resumed only after {:?}", outcome.slowest());
        Ok(())
    });
}

/// A follower that waits for silence campaigns after 8.8 seconds of it.
const LONG_ELECTION: [&str; 2] = ["--election-timeout=8000", "--heartbeat-interval=100"];
/// Much less than that, and much more than it takes.
const REPLACED_MAX: Duration = Duration::from_secs(5);

#[test]
fn a_killed_leader_is_replaced_without_waiting_for_its_silence() {
    run("a_killed_leader_is_replaced_without_waiting_for_its_silence", |scenario| async move {
        let mut cluster = Cluster::with_flags(Program::Tenured, 3, &scenario.home, &LONG_ELECTION)?;
        cluster.start_all().await?;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let term = cluster.status(leader).await?.raft_term();
        cluster.nodes[leader].kill()?;
        let killed = Instant::now();
        let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
        let next = cluster.wait_leader_among(&others, LEADER_PATIENCE).await?;
        let took = killed.elapsed();
        println!("another member led after {took:?}");
        ensure!(took < REPLACED_MAX, "another member led only after {took:?}");
        ensure!(cluster.status(next).await?.raft_term() > term, "a leader without a term of its own");
        cluster.client(next).await?.put("key", "value", None).await?;
        cluster.restart(leader).await?;
        check::same_everywhere(&cluster).await?;
        Ok(())
    });
}

#[test]
fn a_leader_that_is_only_silent_for_a_while_goes_on() {
    run("a_leader_that_is_only_silent_for_a_while_goes_on", |scenario| async move {
        let mut cluster = Cluster::with_flags(Program::Tenured, 3, &scenario.home, &LONG_ELECTION)?;
        cluster.start_all().await?;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let term = cluster.status(leader).await?.raft_term();
        // Longer than connections take to be given up: its stream ends, but its port is still there.
        cluster.nodes[leader].pause()?;
        sleep(Duration::from_secs(4)).await;
        cluster.nodes[leader].resume()?;
        ensure!(cluster.wait_leader(LEADER_PATIENCE).await? == leader, "another member leads");
        ensure!(cluster.status(leader).await?.raft_term() == term, "there was an election");
        Ok(())
    });
}

#[test]
fn nothing_acked_is_lost_when_all_nodes_are_killed_at_once() {
    run("nothing_acked_is_lost_when_all_nodes_are_killed_at_once", |scenario| async move {
        let outcome = faults::kill_everyone(&scenario.home, 2).await?;
        println!("{}", outcome.table("all nodes killed under load"));
        Ok(())
    });
}

#[test]
fn a_leader_that_slept_never_serves_a_stale_read() {
    run("a_leader_that_slept_never_serves_a_stale_read", |scenario| async move {
        let outcome = faults::pause_leaders(&scenario.home, 6).await?;
        println!(
            "{} rounds of a sleeping leader: {} reads through it fresh, {} refused, 0 stale",
            outcome.rounds, outcome.fresh, outcome.refused
        );
        Ok(())
    });
}

#[test]
fn a_follower_that_slept_catches_up() {
    run("a_follower_that_slept_catches_up", |scenario| async move {
        let mut cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
        let follower = cluster.follower().await?;
        let others: Vec<String> = (0..3).filter(|at| *at != follower).map(|at| cluster.nodes[at].endpoint()).collect();
        cluster.nodes[follower].pause()?;
        let load = Workload::start(&others, "k/", 8);
        load.wait_acks(2_000, Duration::from_secs(30)).await?;
        cluster.nodes[follower].resume()?;
        load.wait_acks(200, Duration::from_secs(30)).await?;
        let history = load.finish().await?;
        let verdict = check::whole_cluster(&cluster, "k/", &history).await?;
        println!("{} writes while a follower slept: {verdict:?}", history.acks.len());
        Ok(())
    });
}

#[test]
fn a_dead_follower_neither_floods_the_log_nor_burns_cpu() {
    run("a_dead_follower_neither_floods_the_log_nor_burns_cpu", |scenario| async move {
        const LINES_MAX: usize = 100;
        let mut cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
        let follower = cluster.follower().await?;
        let load = Workload::start(&cluster.endpoints(), "k/", 4);
        load.wait_acks(50, Duration::from_secs(20)).await?;
        cluster.nodes[follower].kill()?;
        load.wait_acks(500, Duration::from_secs(30)).await?;
        load.finish().await?;
        // Nobody writes any more: what the two nodes burn now is retries.
        let before = cluster.cpu()?;
        sleep(Duration::from_secs(2)).await;
        let burnt = cluster.cpu()?.saturating_sub(before);
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let lines = cluster.nodes[leader].log().lines().count();
        println!("a dead follower: {lines} lines in the leader's log, {burnt:.2?} of CPU by both nodes in 2 s of rest");
        ensure!(lines <= LINES_MAX, "{lines} lines of log:\n{}", cluster.nodes[leader].log_tail(5));
        ensure!(burnt < Duration::from_millis(500), "{burnt:?} of CPU in 2 s without any request");
        Ok(())
    });
}

#[test]
fn sigterm_on_the_leader_hands_over() {
    run("sigterm_on_the_leader_hands_over", |scenario| async move {
        let mut cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
        let load = Workload::start(&cluster.endpoints(), "k/", 16);
        let mut stops = Vec::new();
        for _ in 0..3 {
            load.wait_acks(100, Duration::from_secs(20)).await?;
            let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
            let moment = Instant::now();
            let status = cluster.nodes[leader].stop(STOP_PATIENCE).await?;
            let stopped = moment.elapsed();
            ensure!(status.code() == Some(0), "the leader ended with {status}");
            load.wait_acks(100, Duration::from_secs(20)).await?;
            stops.push((moment, Instant::now(), stopped));
            cluster.restart(leader).await?;
        }
        let history = load.finish().await?;
        for (from, to, stopped) in stops {
            let gap = history.longest_gap(from, to);
            println!(
                "SIGTERM on the leader: exit 0 after {stopped:.2?}, longest time without an acked write {gap:.2?}"
            );
            ensure!(gap <= HAND_OVER_MAX, "no write was acked for {gap:?}");
        }
        check::whole_cluster(&cluster, "k/", &history).await?;
        Ok(())
    });
}

#[test]
fn sigterm_on_every_node_ends_each_with_code_zero() {
    run("sigterm_on_every_node_ends_each_with_code_zero", |scenario| async move {
        let mut cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
        let put = cluster.client(0).await?.put("key", "value", None).await?;
        let revision = put.header().context("no header")?.revision();
        for node in &mut cluster.nodes {
            let status = node.stop(STOP_PATIENCE).await?;
            ensure!(status.code() == Some(0), "{} ended with {status}", node.name);
        }
        cluster.start_all().await?;
        let answer = cluster.client(1).await?.get("key", None).await?;
        ensure!(answer.kvs().first().is_some_and(|kv| kv.mod_revision() == revision), "{answer:?}");
        Ok(())
    });
}

#[test]
fn a_node_says_that_it_is_ready_only_once_there_is_a_leader() {
    run("a_node_says_that_it_is_ready_only_once_there_is_a_leader", |scenario| async move {
        let mut cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
        for node in &mut cluster.nodes {
            let status = node.stop(STOP_PATIENCE).await?;
            ensure!(status.success(), "SIGTERM ends with {status}");
            ensure!(node.log().contains("received signal; shutting down"), "{}", node.log());
        }
        cluster.nodes[0].start()?;
        let deadline = Instant::now() + READY_PATIENCE;
        let port = cluster.nodes[0].client_port;
        while !http1::get(port, "/livez", Duration::from_secs(1)).await.is_ok_and(|answer| answer.status == 200) {
            ensure!(Instant::now() < deadline, "the node does not live");
            sleep(POLL).await;
        }
        let ready = http1::get(port, "/readyz", Duration::from_secs(20)).await?;
        ensure!(ready.status == 503, "ready without a leader: {ready:?}");
        ensure!(!cluster.nodes[0].log().contains("ready to serve client requests"), "{}", cluster.nodes[0].log());
        cluster.nodes[1].start()?;
        cluster.nodes[0].wait_ready(READY_PATIENCE).await?;
        Ok(())
    });
}

#[test]
fn a_single_node_without_flags_is_durable() {
    run("a_single_node_without_flags_is_durable", |scenario| async move {
        // Its ports are fixed, so this one scenario cannot run beside somebody's cluster on the same machine.
        if [2379, 2380].into_iter().any(|port| TcpListener::bind(("127.0.0.1", port)).is_err()) {
            println!("skipped: ports 2379 and 2380, which a node without flags uses, are taken on this machine");
            return Ok(());
        }
        let start = || {
            Command::new(Program::Tenured.path()?)
                .current_dir(&scenario.home)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(scenario.home.join("node.log"))?)
                .kill_on_drop(true)
                .spawn()
                .context("cannot start")
        };
        let mut node = start()?;
        wait_serves(2379).await?;
        let mut client = connect("http://127.0.0.1:2379", Duration::from_secs(5)).await?;
        client.put("key", "value", None).await?;
        node.kill().await?;
        ensure!(scenario.home.join("default.tenure").is_dir(), "no data directory ./default.tenure");
        let mut node = start()?;
        wait_serves(2379).await?;
        let mut client = connect("http://127.0.0.1:2379", Duration::from_secs(5)).await?;
        let answer = client.get("key", None).await?;
        ensure!(answer.kvs().first().is_some_and(|kv| kv.value() == b"value"), "{answer:?}");
        node.kill().await?;
        Ok(())
    });
}

async fn wait_serves(port: u16) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let health = http1::get(port, "/health", Duration::from_secs(1)).await;
        if health.is_ok_and(|health| health.status == 200) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "nothing serves on port {port}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn an_unknown_flag_is_an_error_that_names_it() {
    run("an_unknown_flag_is_an_error_that_names_it", |scenario| async move {
        for arguments in [vec!["--no-such-flag=1"], vec!["--name"], vec!["--heartbeat-interval=soon"], vec!["stray"]] {
            let command = Command::new(Program::Tenured.path()?)
                .args(&arguments)
                .current_dir(&scenario.home)
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output();
            let output = timeout(STOP_PATIENCE, command).await.with_context(|| format!("{arguments:?} starts"))??;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let named = arguments[0].trim_start_matches('-').split('=').next().unwrap_or_default();
            ensure!(!output.status.success(), "{arguments:?} is accepted");
            ensure!(text.contains(named) && !text.contains("panicked"), "{arguments:?}: {text}");
        }
        Ok(())
    });
}
