//! The same commands of a real etcdctl against a real etcd and against tenured: output, errors and exit code must be equal.
//!
//! The commands are in `scripts/etcdctl*.txt`; `tenure_tests::etcdctl::script` says how they are written. State is kept
//! from command to command.
//!
//! What may differ between two clusters is replaced before comparing: ids, ports, terms, indexes, sizes, hashes, versions
//! and times. Members are named by their role, since either cluster chooses its leader for itself.
#![expect(clippy::print_stdout, reason = "the counts are the figures that this comparison shows")]

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::Cluster;
use tenure_tests::etcdctl::{self, Action, Subject, parse};
use tenure_tests::scenario::{self, Scenario};
use tokio::time::timeout;

/// Commands about keys, members and endpoints, run to their end one by one.
const COMMANDS: &str = include_str!("../scripts/etcdctl.txt");
/// Commands that go on beside each other: watches, leases, locks, elections, a mirror, and a leader that moves.
const SESSIONS: &str = include_str!("../scripts/etcdctl_sessions.txt");
/// The comparison is worth something only with scripts of this size.
const COMMANDS_MIN: usize = 150;
const SESSIONS_MIN: usize = 80;
const SHOWN_MAX: usize = 1_500;
const CHECK_PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn etcdctl_at_the_leader_sees_what_it_sees_at_etcd() {
    scenario::run("compat_etcdctl", "etcdctl_at_the_leader_sees_what_it_sees_at_etcd", |scenario| {
        run(scenario, COMMANDS, COMMANDS_MIN, true)
    });
}

#[test]
fn etcdctl_at_a_follower_sees_what_it_sees_at_etcd() {
    scenario::run("compat_etcdctl", "etcdctl_at_a_follower_sees_what_it_sees_at_etcd", |scenario| {
        run(scenario, COMMANDS, COMMANDS_MIN, false)
    });
}

#[test]
fn terminals_at_the_leader_show_what_they_show_at_etcd() {
    scenario::run("compat_etcdctl", "terminals_at_the_leader_show_what_they_show_at_etcd", |scenario| {
        run(scenario, SESSIONS, SESSIONS_MIN, true)
    });
}

#[test]
fn terminals_at_a_follower_show_what_they_show_at_etcd() {
    scenario::run("compat_etcdctl", "terminals_at_a_follower_show_what_they_show_at_etcd", |scenario| {
        run(scenario, SESSIONS, SESSIONS_MIN, false)
    });
}

/// It writes ten thousand keys and reads the server's metrics before and after. (`check perf` takes a minute and judges the
/// machine.)
#[test]
fn etcdctl_checks_the_memory_that_data_takes() {
    scenario::run("compat_etcdctl", "etcdctl_checks_the_memory_that_data_takes", |scenario| async move {
        let cluster = Cluster::start(Program::Tenured, 1, &scenario.home).await?;
        let mut check = etcdctl::command(&cluster.nodes[0].endpoint())?;
        check.args(["check", "datascale", "--load=s", "--auto-compact", "--auto-defrag"]);
        let output = timeout(CHECK_PATIENCE, check.output()).await??;
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let passed = shown.contains("PASS: Approximate system memory used");
        ensure!(output.status.success() && passed, "{}: {shown}", output.status);
        Ok(())
    });
}

async fn run(scenario: Scenario, script: &str, compared_min: usize, at_leader: bool) -> Result<()> {
    let steps = parse(script)?;
    let compared = steps.iter().filter(|step| step.is_compared()).count();
    ensure!(compared >= compared_min, "only {compared} commands in the script");
    let mut etcd = Subject::start(Program::Etcd, &scenario, at_leader).await?;
    let mut tenured = Subject::start(Program::Tenured, &scenario, at_leader).await?;
    let mut different = Vec::new();
    let mut failed = 0;
    for step in &steps {
        if let Action::End { terminal, signal: Some(_) } = &step.action {
            etcd.settle(&mut tenured, terminal).await?;
        }
        let (expected, actual) = tokio::join!(etcd.run(step), tenured.run(step));
        let (expected, actual) = (expected?, actual?);
        failed += usize::from(step.is_compared() && !expected.starts_with("exit 0"));
        if expected != actual {
            let (etcd, tenured) = (cut(&expected), cut(&actual));
            different.push(format!("line {}: {}\n--- etcd\n{etcd}\n--- tenured\n{tenured}", step.line, step.text));
        }
    }
    let role = if at_leader { "leader" } else { "follower" };
    println!("{compared} etcdctl commands at the {role}, {failed} of them refused; {} differ", different.len());
    if !different.is_empty() {
        bail!("{} of {compared} commands differ\n{}", different.len(), different.join("\n\n"));
    }
    Ok(())
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}
