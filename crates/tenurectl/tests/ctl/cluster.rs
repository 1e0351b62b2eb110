//! What looks at the cluster itself: `status`, `member`, `endpoint`, `version`, `alarm`, `move-leader`; and what is said when
//! part of the cluster is away.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};

use super::{Ctl, same};

/// Everything is well.
pub(crate) async fn healthy(program: Program, home: &Path) -> Result<()> {
    let mut cluster = Cluster::start(program, 3, home).await?;
    let ctl = Ctl::of(&cluster);
    ctl.says(&["put", "key", "value"]).await?;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;

    let members = ctl.json(&["member", "list"]).await?;
    let names: Vec<_> = array(&members["members"])?.iter().map(|member| member["name"].clone()).collect();
    ensure!(names == ["n1", "n2", "n3"], "{members}");
    let table = ctl.says(&["member", "list"]).await?;
    ensure!(
        table.starts_with("ID ") && table.contains(&format!("  n1    voter  {}  ", cluster.nodes[0].endpoint())),
        "{table}"
    );

    let status = ctl.json(&["status"]).await?;
    ensure!(status["problems"] == serde_json::json!([]), "{status}");
    for (at, row) in array(&status["endpoints"])?.iter().enumerate() {
        let role = if at == leader { "leader" } else { "follower" };
        ensure!(
            row["role"] == role && row["name"] == format!("n{}", at + 1) && row["errors"] == serde_json::json!([]),
            "{row}"
        );
        ensure!(row["tenure"].is_string() == (program == Program::Tenured), "{row}");
        ensure!(row["term"].as_u64() >= Some(1) && row["revision"].as_i64() >= Some(1), "{row}");
    }
    let table = ctl.says(&["status"]).await?;
    ensure!(table.ends_with(&format!("\n3 of 3 up; n{} leads\n", leader + 1)), "{table}");
    let again = ctl.says(&["endpoint", "status"]).await?;
    ensure!(again.lines().next() == table.lines().next(), "{again}");
    // One endpoint given, all members asked.
    let one = Ctl::at(&cluster.endpoints()[..1]);
    ensure!(array(&one.json(&["status"]).await?["endpoints"])?.len() == 1);
    ensure!(array(&one.json(&["status", "--cluster"]).await?["endpoints"])?.len() == 3);

    let health = ctl.json(&["endpoint", "health"]).await?;
    ensure!(array(&health["endpoints"])?.iter().all(|row| row["healthy"] == true), "{health}");
    let hashes = ctl.says(&["endpoint", "hashkv"]).await?;
    ensure!(hashes.ends_with("\nall the same\n"), "{hashes}");
    ensure!(ctl.json(&["endpoint", "hashkv", "--rev=2"]).await?["revision"] == 2);
    same(&ctl.says(&["alarm", "list"]).await?, "no alarms\n")?;
    let versions = ctl.json(&["version"]).await?;
    ensure!(
        versions["tenurectl"] == env!("CARGO_PKG_VERSION") && array(&versions["servers"])?.len() == 3,
        "{versions}"
    );
    Ok(())
}

fn array(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("{value} is no list"))
}

/// The state is saved to a file that is there whole or not at all.
pub(crate) async fn snapshot(program: Program, home: &Path) -> Result<()> {
    let mut cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    ctl.says(&["put", "key", "value"]).await?;
    let file = home.join("backup.db");
    let path = file.display().to_string();
    let saved = ctl.json(&["snapshot", "save", &path]).await?;
    let bytes = std::fs::metadata(&file)?.len();
    ensure!(saved["bytes"] == bytes && bytes % 512 == 32 && saved["confirmed"] == true, "{saved}");
    let part = home.join("backup.db.part");
    ensure!(!part.exists(), "the part is left");
    // A second one takes the place of the first.
    let said = ctl.says(&["snapshot", "save", &path]).await?;
    ensure!(said.starts_with(&format!("snapshot saved at {path} (")), "{said}");
    let nowhere = home.join("no/such/dir/backup.db").display().to_string();
    let error = ctl.fails_as("local", 1, &["snapshot", "save", &nowhere]).await?;
    ensure!(error["message"].as_str().is_some_and(|text| text.contains("cannot write")), "{error}");
    cluster.kill_all()?;
    let before = std::fs::read(&file)?;
    ctl.fails_as("unreachable", 3, &["snapshot", "save", &path]).await?;
    ensure!(std::fs::read(&file)? == before && !part.exists(), "what was saved stays");
    Ok(())
}

/// Leadership goes where it is told to.
pub(crate) async fn move_leader(program: Program, home: &Path) -> Result<()> {
    let mut cluster = Cluster::start(program, 3, home).await?;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    let target = (leader + 1) % 3;
    // By an endpoint that does not lead, so that the leader has to be found.
    let ctl = Ctl::at(&cluster.endpoints()[target..=target]);
    let name = |at: usize| format!("n{}", at + 1);
    let moved = ctl.json(&["move-leader", &name(target)]).await?;
    ensure!(moved["from"]["name"] == name(leader) && moved["to"]["name"] == name(target), "{moved}");
    ensure!(cluster.wait_leader(LEADER_PATIENCE).await? == target, "somebody else leads");
    let id = moved["from"]["id"].as_str().context("an id")?;
    let said = ctl.says(&["move-leader", id]).await?;
    ensure!(said.starts_with(&format!("leadership went from {} (", name(target))), "{said}");
    ensure!(cluster.wait_leader(LEADER_PATIENCE).await? == leader, "somebody else leads");
    ensure!(ctl.says(&["move-leader", id]).await? == format!("{} ({id}) leads already\n", name(leader)));
    let stranger = ctl.fails(2, &["move-leader", "n9"]).await?;
    ensure!(stranger.starts_with("tenurectl: no member \"n9\"; the members are n"), "{stranger}");
    Ok(())
}

/// One of three is down: all goes on, and the views mark it.
pub(crate) async fn one_down(program: Program, home: &Path) -> Result<()> {
    let mut cluster = Cluster::start(program, 3, home).await?;
    let ctl = Ctl::of(&cluster);
    cluster.nodes[0].kill()?;
    cluster.wait_leader(LEADER_PATIENCE).await?;
    ctl.says(&["put", "key", "value"]).await?;
    same(&ctl.says(&["get", "key"]).await?, "value\n")?;
    for arguments in [&["status"][..], &["status", "--cluster"], &["endpoint", "health"], &["endpoint", "hashkv"]] {
        let said = ctl.run(arguments).await?;
        let out = String::from_utf8(said.out)?;
        let down = out.lines().find(|line| line.ends_with("  connection refused"));
        let address = cluster.nodes[0].endpoint().replace("http://", "");
        ensure!(
            said.code == Some(5) && down.is_some_and(|line| line.starts_with(&address)),
            "{arguments:?}: {out}{}",
            said.err
        );
    }
    ctl.fails_as("unhealthy", 5, &["endpoint", "health"]).await?;
    let gone = Ctl::at(&cluster.endpoints()[..1]);
    let error = gone.fails(3, &["put", "key", "value"]).await?;
    let address = cluster.nodes[0].endpoint().replace("http://", "");
    ensure!(
        error.starts_with(&format!(
            "tenurectl: no endpoint can be reached; nothing was sent\n  {address}  connection refused\n"
        )) && error.contains("--listen-client-urls"),
        "{error}"
    );
    gone.fails_as("unreachable", 3, &["status"]).await?;
    gone.fails_as("unreachable", 3, &["watch", "key"]).await?;
    Ok(())
}

/// Two of three are down: nothing is done, and that is what is said.
pub(crate) async fn no_leader(program: Program, home: &Path) -> Result<()> {
    let mut cluster = Cluster::start(program, 3, home).await?;
    let ctl = Ctl::of(&cluster);
    ctl.says(&["put", "key", "value"]).await?;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    let survivor = (leader + 1) % 3;
    for at in (0..3).filter(|at| *at != survivor) {
        cluster.nodes[at].kill()?;
    }
    forgotten(&cluster, survivor).await?;
    let survivors_line =
        format!("{}  up, knows no leader (term ", cluster.nodes[survivor].endpoint().replace("http://", ""));
    for arguments in
        [&["put", "key", "new"][..], &["get", "key"], &["lease", "list"], &["watch", "key"], &["del", "key"]]
    {
        let error = ctl.fails(3, &[arguments, &["--command-timeout=1s"]].concat()).await?;
        ensure!(
            error.starts_with("tenurectl: the cluster has no leader; nothing was done\n"),
            "{arguments:?}: {error}"
        );
        ensure!(error.contains(&survivors_line) && error.contains("connection refused"), "{error}");
        ensure!(error.contains("A majority of the members must run"), "{error}");
    }
    ctl.fails_as("no_leader", 3, &["put", "key", "new", "--command-timeout=500ms"]).await?;
    same(&ctl.says(&["get", "key", "--consistency=s"]).await?, "value\n")?;
    let said = ctl.run(&["status"]).await?;
    let out = String::from_utf8(said.out)?;
    ensure!(
        said.code == Some(5) && out.contains("  no leader  ") && out.ends_with("\n1 of 3 up\n"),
        "{out}{}",
        said.err
    );
    // A command that waits long enough sees the cluster come back, and is done once.
    let waiting = ctl.clone();
    let put = tokio::spawn(async move { waiting.run(&["put", "key", "later", "--command-timeout=30s"]).await });
    cluster.start_all().await?;
    let said = put.await??;
    ensure!(said.code == Some(0), "{said:?}");
    let kv = ctl.json(&["get", "key"]).await?["kvs"][0].clone();
    ensure!(kv["value"] == "later" && kv["version"] == 2, "{kv}");
    Ok(())
}

/// Waits until the member says itself that it knows no leader.
async fn forgotten(cluster: &Cluster, at: usize) -> Result<()> {
    let deadline = Instant::now() + LEADER_PATIENCE;
    while cluster.status(at).await?.leader() != 0 {
        ensure!(Instant::now() < deadline, "it names a leader that is dead");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A member that stands still is passed over before anything is sent to it; a write that is lost behind it is unknown.
pub(crate) async fn paused(program: Program, home: &Path) -> Result<()> {
    let mut cluster = Cluster::start(program, 3, home).await?;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    let rest: Vec<_> = (0..3).filter(|at| *at != leader).collect();
    let others: Vec<_> = rest.iter().map(|at| cluster.nodes[*at].endpoint()).collect();
    cluster.nodes[leader].pause()?;
    // Long before there can be another leader: it is sent, and nobody answers.
    let follower = Ctl::at(&others[..1]);
    let lost = follower.fails(4, &["put", "lost", "perhaps", "--command-timeout=600ms"]).await?;
    ensure!(lost.starts_with("tenurectl: it may or may not have been done: "), "{lost}");
    ensure!(lost.ends_with("Look whether it happened before you do it again.\n"), "{lost}");
    let alone = Ctl::at(&[cluster.nodes[leader].endpoint()]);
    let error = alone.fails(3, &["put", "key", "never sent", "--dial-timeout=300ms"]).await?;
    ensure!(error.contains("  no answer within 300ms\n"), "{error}");
    cluster.wait_leader_among(&rest, LEADER_PATIENCE).await?;
    let everyone = Ctl::at(&[&[cluster.nodes[leader].endpoint()], &others[..]].concat());
    everyone.says(&["put", "key", "passed over", "--dial-timeout=300ms", "--command-timeout=20s"]).await?;
    let said = everyone.run(&["status", "--dial-timeout=300ms"]).await?;
    ensure!(said.code == Some(5) && String::from_utf8_lossy(&said.out).contains("no answer within 300ms"), "{said:?}");
    cluster.nodes[leader].resume()?;
    same(&everyone.says(&["get", "key", "--command-timeout=20s"]).await?, "passed over\n")
}
