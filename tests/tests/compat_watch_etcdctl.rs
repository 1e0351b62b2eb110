//! `etcdctl watch` against a real etcd and against tenured's leader and follower: the lines that a person sees are equal.
//!
//! A watch runs until it has printed as many lines as it must; what it would print beyond that is the next watch's to see.
//! Watches that start from now say nothing when they begin, so those ask for notices of progress and wait for the first.
#![expect(clippy::print_stdout, reason = "the counts are the figures that this comparison shows")]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tenure_proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::etcdctl;
use tenure_tests::requests::Request;
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::wire::Wire;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
const FLAGS: [&str; 1] = ["--experimental-watch-progress-notify-interval=200ms"];

/// A watch that starts from the past: its words, what is typed, and how many lines it prints.
struct Old {
    words: &'static [&'static str],
    typed: &'static str,
    lines: usize,
}

fn old(words: &'static [&'static str], lines: usize) -> Old {
    Old { words, typed: "", lines }
}

/// The store is at revision 11, compacted to 4.
fn old_watches() -> Vec<Old> {
    vec![
        old(&["watch", "a", "--rev=4"], 12),
        old(&["watch", "a", "--rev=5", "--prev-kv"], 13),
        old(&["watch", "--prefix", "--rev=4", "a"], 16),
        old(&["watch", "--prefix", "--rev=4", "--prev-kv", ""], 31),
        old(&["watch", "--from-key", "--rev=9", "b"], 9),
        old(&["watch", "a", "c", "--rev=8"], 9),
        old(&["watch", "a", "--rev=4", "-w", "json"], 1),
        old(&["watch", "--prefix", "a", "--rev=5", "--prev-kv", "-w", "json"], 1),
        old(&["watch", "b", "--rev=8", "-w", "fields"], 11),
        old(
            &["watch", "a", "--rev=5", "--", "sh", "-c", "echo $ETCD_WATCH_REVISION $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"],
            12,
        ),
        // Ended by the server.
        old(&["watch", "a", "--rev=1"], 0),
        old(&["watch", "a", "--rev=3", "--prefix"], 0),
        old(&["watch", "b", "a", "--rev=5"], 0),
        Old { words: &["watch", "-i"], typed: "watch a --rev=9\nwatch b --rev=9\n", lines: 6 },
    ]
}

/// One program with the history that the watches look at.
struct Subject {
    endpoint: String,
    wire: Wire,
    _cluster: Cluster,
}

impl Subject {
    async fn start(program: Program, scenario: &Scenario, leader: bool) -> Result<Subject> {
        let size = if program == Program::Tenured { 3 } else { 1 };
        let home = scenario.home.join(program.label());
        let mut cluster = Cluster::with_flags(program, size, &home, &FLAGS)?;
        cluster.start_all().await?;
        let at =
            if leader || size == 1 { cluster.wait_leader(LEADER_PATIENCE).await? } else { cluster.follower().await? };
        let endpoint = cluster.nodes[at].endpoint();
        let mut wire = Wire::connect(&endpoint).await?;
        let put = |key: &'static str, value: &'static str| {
            Request::Put(PutRequest { key: key.into(), value: value.into(), ..Default::default() })
        };
        let delete = DeleteRangeRequest { key: "a".into(), ..Default::default() };
        let requests = [
            put("a", "first"),
            put("a", "second"),
            put("a", "third"),
            put("aa", "two\nlines"),
            put("b", ""),
            put("a", "fourth"),
            Request::Delete(delete),
            put("b", "again"),
            put("a", "fifth"),
            put("c", "last"),
            Request::Compact(CompactionRequest { revision: 4, physical: true }),
        ];
        for request in requests {
            let answer = wire.send(&request).await;
            ensure!(answer.revision().is_some(), "{request:?} is refused: {answer:?}");
        }
        Ok(Subject { endpoint, wire, _cluster: cluster })
    }

    fn etcdctl(&self, words: &[&str]) -> Result<Child> {
        etcdctl::command(&self.endpoint)?.args(words).spawn().context("etcdctl does not start")
    }

    /// What a watch prints: its lines, and its end if it comes to one by itself.
    async fn watch_old(&self, watch: &Old) -> Result<String> {
        let mut child = self.etcdctl(watch.words)?;
        let mut stdin = child.stdin.take().context("its input")?;
        stdin.write_all(watch.typed.as_bytes()).await?;
        if watch.lines == 0 {
            drop(stdin);
            let output = timeout(PATIENCE, child.wait_with_output()).await.context("etcdctl does not end")??;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            return Ok(format!("{}\n{}{}", output.status, text(&output.stdout), without_time(&text(&output.stderr))));
        }
        let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let mut printed = Vec::new();
        while printed.len() < watch.lines {
            printed.push(normal(&next_line(&mut lines).await.with_context(|| format!("after {printed:?}"))?));
        }
        // Two watches of one command print as they are told.
        if watch.typed.is_empty() {
            return Ok(printed.join("\n"));
        }
        printed.sort();
        Ok(printed.join("\n"))
    }

    /// A watch from now on sees what is put once it is there.
    async fn watch_new(&mut self) -> Result<Vec<String>> {
        let mut child = self.etcdctl(&["watch", "new", "--progress-notify"])?;
        let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let mut printed = vec![next_line(&mut lines).await?];
        let put = PutRequest { key: "new".into(), value: "seen".into(), ..Default::default() };
        self.wire.send(&Request::Put(put)).await;
        while printed.iter().all(|line| line != "seen") {
            printed.push(next_line(&mut lines).await?);
        }
        let next = next_line(&mut lines).await?;
        ensure!(next == "progress notify: 12", "{next:?} after {printed:?}");
        printed.dedup();
        Ok(printed)
    }

    /// `progress` typed into an interactive watch is answered.
    async fn typed_progress(&self) -> Result<String> {
        let mut child = self.etcdctl(&["watch", "-i"])?;
        let mut stdin = child.stdin.take().context("its input")?;
        let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        stdin.write_all(b"watch c --rev=11\n").await?;
        let mut printed = Vec::new();
        for _ in 0..3 {
            printed.push(next_line(&mut lines).await?);
        }
        stdin.write_all(b"progress\n").await?;
        printed.push(next_line(&mut lines).await?);
        Ok(printed.join("\n"))
    }
}

async fn next_line(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    let line = timeout(PATIENCE, lines.next_line()).await.context("no line in time")??;
    line.context("etcdctl has ended")
}

/// Without what may differ: ids and terms.
fn normal(line: &str) -> String {
    if let Ok(mut message) = serde_json::from_str::<Value>(line) {
        if let Some(header) = message.get_mut("Header").and_then(Value::as_object_mut) {
            header.retain(|name, _| name == "revision");
        }
        return message.to_string();
    }
    let volatile = ["ClusterID", "MemberID", "RaftTerm"];
    match line.split_once(" : ") {
        Some((name, _)) if volatile.iter().any(|volatile| name == format!("\"{volatile}\"")) => name.to_owned(),
        _ => line.to_owned(),
    }
}

/// Log lines of etcdctl begin with a JSON object that holds the time.
fn without_time(text: &str) -> String {
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
    kept.join("\n")
}

async fn compare(scenario: Scenario, leader: bool) -> Result<()> {
    let mut etcd = Subject::start(Program::Etcd, &scenario, leader).await?;
    let mut tenured = Subject::start(Program::Tenured, &scenario, leader).await?;
    let mut different = Vec::new();
    for watch in old_watches() {
        let (expected, actual) = tokio::join!(etcd.watch_old(&watch), tenured.watch_old(&watch));
        let expected = expected.with_context(|| format!("{:?} at etcd", watch.words))?;
        let actual = actual.with_context(|| format!("{:?} at tenured", watch.words))?;
        if expected != actual {
            different.push(format!("{:?}\n--- etcd\n{expected}\n--- tenured\n{actual}", watch.words));
        }
    }
    let (expected, actual) = (etcd.typed_progress().await?, tenured.typed_progress().await?);
    if expected != actual {
        different.push(format!("progress\n--- etcd\n{expected}\n--- tenured\n{actual}"));
    }
    let (expected, actual) = (etcd.watch_new().await?, tenured.watch_new().await?);
    if expected != actual {
        different.push(format!("watch from now on\n--- etcd\n{expected:?}\n--- tenured\n{actual:?}"));
    }
    println!("{} commands, {} differ", old_watches().len() + 2, different.len());
    if !different.is_empty() {
        bail!("{}", different.join("\n\n"));
    }
    Ok(())
}

#[test]
fn etcdctl_watch_prints_the_same_at_the_leader() {
    scenario::run("compat_watch_etcdctl", "etcdctl_watch_prints_the_same_at_the_leader", |s| compare(s, true));
}

#[test]
fn etcdctl_watch_prints_the_same_at_a_follower() {
    scenario::run("compat_watch_etcdctl", "etcdctl_watch_prints_the_same_at_a_follower", |s| compare(s, false));
}
