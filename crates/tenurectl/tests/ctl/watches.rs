//! `watch`: what it prints, how it ends, and that it misses and repeats nothing while leaders are killed.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tokio::io::AsyncReadExt as _;

use super::{Ctl, same};

/// What a watch tells to people and to programs.
pub(crate) async fn watches(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    ctl.says(&["put", "w/a", "before"]).await?;
    let mut text = ctl.follow(&["watch", "w/", "--prefix", "--rev=2", "--prev-kv"])?;
    let mut single = ctl.follow(&["watch", "w/a", "-ojson"])?;
    let started = single.json().await?;
    ensure!(started["type"] == "started" && started["from_revision"] == 3, "{started}");
    ctl.says(&["put", "w/a", "after\n"]).await?;
    ctl.says(&["put", "w/b", "other"]).await?;
    ctl.says(&["put", "x", "not watched"]).await?;
    ctl.says(&["del", "w/a"]).await?;
    for expected in [
        "       2  PUT     w/a  before",
        "       3  PUT     w/a  after\\n  (before, at 2: before)",
        "       4  PUT     w/b  other",
        "       6  DELETE  w/a  (before, at 3: after\\n)",
    ] {
        same(&text.line().await?, expected)?;
    }
    let put = single.json().await?;
    let kv = json!({"key": "w/a", "value": "after\n", "create_revision": 2, "mod_revision": 3, "version": 2});
    ensure!(put == json!({"type": "events", "events": [{"revision": 3, "change": "put", "kv": kv}]}), "{put}");
    let delete = single.json().await?;
    ensure!(delete["events"][0]["change"] == "delete" && delete["events"][0]["revision"] == 6, "{delete}");
    for watch in [&mut text, &mut single] {
        let status = watch.interrupt().await?;
        ensure!(status.code() == Some(0), "Ctrl-C ends it with {status}");
    }
    let refused = ctl.run(&["watch", "b", "a"]).await?;
    ensure!(refused.code == Some(1) && refused.err.ends_with("mvcc: watcher range is empty\n"), "{refused:?}");
    Ok(())
}

/// Readers that go away, and readers that do not read.
pub(crate) async fn pipes(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    // The reader is gone before there is anything to write.
    let mut child = ctl.command(&["watch", "quiet"]).spawn()?;
    let mut note = [0; 8];
    child.stderr.take().context("stderr")?.read_exact(&mut note).await?;
    ensure!(&note == b"watching", "{note:?}");
    drop(child.stdout.take());
    ensure!(child.wait().await?.code() == Some(0), "a closed pipe is a good end");

    // The reader goes away while there is much to write: no panic, no complaint.
    let value = "v".repeat(100_000);
    for at in 0..20 {
        let said = ctl.feed(value.as_bytes(), &["put", &format!("big/{at}"), "-"]).await?;
        ensure!(said.code == Some(0), "{said:?}");
    }
    for arguments in [&["get", "big/", "--prefix"][..], &["watch", "big/", "--prefix", "--rev=2"]] {
        let mut child = ctl.command(arguments).spawn()?;
        let mut stdout = child.stdout.take().context("stdout")?;
        stdout.read_exact(&mut [0; 1000]).await?;
        drop(stdout);
        let output = child.wait_with_output().await?;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let complained = err.lines().any(|line| !line.starts_with("watching"));
        ensure!(output.status.code() == Some(0) && !complained, "{arguments:?}: {}: {err}", output.status);
    }

    // The reader does not read: the pipe is full, and Ctrl-C still ends the command.
    let mut child = ctl.command(&["watch", "big/", "--prefix", "--rev=2"]).stderr(Stdio::null()).spawn()?;
    let mut stdout = child.stdout.take().context("stdout")?;
    stdout.read_exact(&mut [0; 1]).await?;
    let pid = child.id().context("it ended")?;
    tokio::process::Command::new("kill").args(["-INT", &pid.to_string()]).status().await?;
    ensure!(child.wait().await?.code() == Some(0), "Ctrl-C ends it though nobody reads");
    Ok(())
}

/// A watch while the leader is killed and the member that it watches at, again and again: every write is told once.
pub(crate) async fn resumes(program: Program, home: &Path) -> Result<()> {
    const KILLS: usize = 3;
    const WRITES_BETWEEN: usize = 15;
    let mut cluster = Cluster::start(program, 3, home).await?;
    let ctl = Ctl::of(&cluster);
    let mut watch = ctl.follow(&["watch", "n/", "--prefix", "-o", "json"])?;
    let started = watch.json().await?;
    let mut watched_at = started["endpoint"].as_str().context("an endpoint")?.to_owned();
    let mut written = Vec::new();
    for kill in 0..KILLS {
        write(&ctl, &mut written, WRITES_BETWEEN).await?;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let watched = cluster.nodes.iter().position(|node| node.endpoint().ends_with(&watched_at)).context("a node")?;
        // In turn whoever leads and whoever serves the watch, unless they are the same.
        let victim = if kill % 2 == 0 { watched } else { leader };
        cluster.nodes[victim].kill()?;
        write(&ctl, &mut written, WRITES_BETWEEN).await?;
        if victim == watched {
            let resumed = until_resumed(&mut watch, &mut written).await?;
            watched_at = resumed["endpoint"].as_str().context("an endpoint")?.to_owned();
        }
        cluster.restart(victim).await?;
    }
    told(&mut watch, &mut written, |_| false).await?;
    ensure!(watch.interrupt().await?.code() == Some(0));
    Ok(())
}

/// A write that was acknowledged, or may have happened.
#[derive(Debug)]
struct Write {
    value: String,
    acked: bool,
}

async fn write(ctl: &Ctl, written: &mut Vec<Write>, count: usize) -> Result<()> {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    for _ in 0..count {
        let value = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        let said = ctl.run(&["put", &format!("n/{value}"), &value, "--command-timeout=20s"]).await?;
        // 4: it was on its way when its member died. Nothing else may go wrong while two of three are there.
        ensure!(matches!(said.code, Some(0 | 4)), "{said:?}");
        written.push(Write { value, acked: said.code == Some(0) });
    }
    Ok(())
}

async fn until_resumed(watch: &mut super::Follow, written: &mut Vec<Write>) -> Result<Value> {
    told(watch, written, |told| told["type"] == "resumed").await
}

/// Reads what the watch tells, in step with what was written, until all of that was told or `stop` says so.
async fn told(watch: &mut super::Follow, written: &mut Vec<Write>, stop: impl Fn(&Value) -> bool) -> Result<Value> {
    loop {
        let told = watch.json().await?;
        for event in told["events"].as_array().into_iter().flatten() {
            let value = event["kv"]["value"].as_str().context("a value")?;
            let at = written.iter().position(|write| write.value == value);
            let at = at.with_context(|| format!("{value} is told twice, out of order, or was never written"))?;
            // What lies before it and was not told can only be a write that did not happen.
            let missed = written[..at].iter().find(|write| write.acked);
            ensure!(missed.is_none(), "{missed:?} was acknowledged and is not told before {value}");
            written.drain(..=at);
        }
        if stop(&told) || !written.iter().any(|write| write.acked) {
            return Ok(told);
        }
    }
}
