//! `lock`, `try-lock`, `locks`, `lock show`, `lock why` and `unlock`.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;

use crate::ctl::{COMMAND_PATIENCE, Ctl, Follow, same};

/// The codes of "somebody else has it" and "it was lost".
const BUSY: i32 = 75;
const LOST: i32 = 76;

fn token(held: &Value) -> Result<i64> {
    held["token"].as_i64().with_context(|| held.to_string())
}

/// A lock goes from one to the next: let go, given up, waited for in vain, taken away.
pub(crate) async fn turns(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    same(&ctl.says(&["lock", "show", "a"]).await?, "a is free\n")?;
    same(&ctl.says(&["locks"]).await?, "no locks\n")?;
    let mut first = ctl.follow(&["lock", "a", "--owner=one", "--ttl=60", "--metadata=rack 7", "-ojson"])?;
    let held = first.json().await?;
    ensure!(held["name"] == "a" && held["key"] == format!("a/{}", lease_hex(&held)?), "{held}");
    let busy = ctl.fails(BUSY, &["try-lock", "a"]).await?;
    ensure!(busy.starts_with("tenurectl: lock a is busy: one has held it for "), "{busy}");
    ctl.fails_as("lock_busy", BUSY, &["lock", "a", "--try", "--", "false"]).await?;
    let busy = ctl.fails_as("lock_busy", BUSY, &["lock", "a", "--wait=100ms"]).await?;
    ensure!(
        busy["message"].as_str().is_some_and(|text| text.starts_with("lock a is busy after 100ms: one ")),
        "{busy}"
    );

    // One that is interrupted while it waits leaves nothing behind, and says so by its code.
    let mut waiting = ctl.follow(&["lock", "a", "--ttl=60", "--", "false"])?;
    ctl.contenders("a", 2).await?;
    ensure!(waiting.interrupt().await?.code() == Some(128 + 2));
    let shown = ctl.json(&["lock", "show", "a"]).await?;
    ensure!(shown["contenders"] == 1 && shown["queue"][0]["metadata"] == "rack 7", "{shown}");
    ensure!(ctl.json(&["lease", "list"]).await?["leases"].as_array().is_some_and(|leases| leases.len() == 1));

    let mut second = ctl.follow(&["lock", "a", "--owner=two", "--ttl=60", "-ojson"])?;
    let shown = ctl.contenders("a", 2).await?;
    ensure!(shown["queue"][1]["state"] == "waits" && shown["queue"][1]["token"].is_null(), "{shown}");
    ensure!(first.interrupt().await?.code() == Some(0));
    let next = second.json().await?;
    ensure!(token(&next)? > token(&held)?, "{next}");
    let listed = ctl.json(&["locks", "a"]).await?;
    ensure!(listed["locks"][0]["name"] == "a" && listed["locks"][0]["oldest"]["owner"] == "two", "{listed}");
    same(&ctl.says(&["locks", "b"]).await?, "no locks\n")?;

    let mut third = ctl.follow(&["lock", "a", "--owner=three", "--ttl=60", "-ojson"])?;
    ctl.contenders("a", 2).await?;
    let taken = ctl.says(&["unlock", "a", "--force", "--reason=it hangs"]).await?;
    same(&taken, &format!("a is taken away from two: token {}\n", token(&next)?))?;
    ensure!(second.ended().await?.code() == Some(LOST));
    ensure!(token(&third.json().await?)? > token(&next)?);
    ensure!(third.interrupt().await?.code() == Some(0));
    ctl.fails_as("lock_free", 1, &["unlock", "a", "--force", "--reason=x"]).await?;

    let told = ctl.json(&["lock", "why", "a"]).await?;
    let kinds: Vec<_> =
        told["transitions"].as_array().context("changes")?.iter().map(|one| one["kind"].clone()).collect();
    let expected = ["released", "forced", "acquired", "released", "acquired", "cancelled", "acquired", "cancelled"];
    ensure!(kinds[..8] == expected.map(|kind| json!(kind)), "{told}");
    let forced = &told["transitions"][1];
    ensure!(forced["reason"] == "it hangs" && forced["owner"] == "two" && forced["token"] == next["token"], "{forced}");
    let told = ctl.says(&["lock", "why", "a", "--limit=2"]).await?;
    ensure!(
        told.contains("  forced by the client at 127.0.0.1:") && told.contains(": it hangs  held since revision "),
        "{told}"
    );
    ensure!(told.ends_with("there is more: --limit tells how much to show\n"), "{told}");
    Ok(())
}

fn lease_hex(held: &Value) -> Result<String> {
    let lease = held["lease"].as_str().context("no lease")?;
    // Keys have it without zeros in front.
    Ok(lease.trim_start_matches('0').to_owned())
}

/// Shared locks and semaphores; and locks that are called like commands.
pub(crate) async fn modes(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    let readers = ["lock", "r", "--shared", "--ttl=60", "-ojson"];
    let (mut one, mut two) = (ctl.follow(&readers)?, ctl.follow(&readers)?);
    let (first, second) = (one.json().await?, two.json().await?);
    ctl.fails(BUSY, &["try-lock", "r"]).await?;
    let unsure = ctl.fails(2, &["unlock", "r", "--force", "--reason=x"]).await?;
    ensure!(unsure.contains("it is held by 2; --key says which one is meant: r/"), "{unsure}");
    let key = second["key"].as_str().context("a key")?;
    ctl.says(&["unlock", "r", "--force", "--reason=x", "--key", key]).await?;
    ensure!(two.ended().await?.code() == Some(LOST));
    let left = ctl.json(&["lock", "show", "r"]).await?;
    ensure!(left["contenders"] == 1 && left["queue"][0]["key"] == first["key"], "{left}");
    ensure!(left["queue"][0]["mode"] == "shared", "{left}");
    ensure!(one.interrupt().await?.code() == Some(0));

    let mut big = ctl.follow(&["lock", "s", "--permits=2", "--limit=3", "--ttl=60", "-ojson"])?;
    big.json().await?;
    ensure!(ctl.run(&["try-lock", "s", "--limit=3", "--", "sh", "-c", "exit 5"]).await?.code == Some(5));
    ctl.fails(BUSY, &["try-lock", "s", "--permits=2", "--limit=3"]).await?;
    let other = ctl.fails_as("refused", 1, &["try-lock", "s", "--limit=4"]).await?;
    ensure!(other["message"] == "the lock is in use with another mode or limit", "{other}");
    ensure!(big.interrupt().await?.code() == Some(0));

    same(&ctl.says(&["lock", "--name", "show", "--", "echo", "locked"]).await?, "locked\n")?;
    same(&ctl.says(&["try-lock", "why", "--", "echo", "locked"]).await?, "locked\n")?;
    ensure!(ctl.says(&["lock", "why", "show"]).await?.lines().count() == 3);
    let mixed = ctl.fails(2, &["lock", "--ttl=5s", "show", "a"]).await?;
    ensure!(mixed.starts_with("tenurectl: `lock show` and `lock why` take a name and nothing else"), "{mixed}");
    Ok(())
}

/// A command under a lock: what it gets, what comes of it, and what is left of it.
pub(crate) async fn commands(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 128 + 9)] {
        ensure!(ctl.run(&["lock", "a", "--", "sh", "-c", script]).await?.code == Some(code), "{script}");
    }
    for (command, code) in [("/nonexistent/program", 127), ("/", 126)] {
        ctl.fails_as("not_run", code, &["lock", "a", "--", command]).await?;
    }
    ensure!(ctl.json(&["lock", "show", "a"]).await?["contenders"] == 0);
    // What the command reads and writes is its own.
    let said = ctl.feed(b"through\n", &["lock", "a", "--", "cat"]).await?;
    ensure!(said.out == b"through\n" && said.err.is_empty(), "{said:?}");

    // From a terminal it reads nothing: it would be stopped, with the lock in its hands.
    let line = format!("{} lock a -- cat", env!("CARGO_BIN_EXE_tenurectl"));
    let mut terminal = ctl.command_of("script", &["-qec", &line, "/dev/null"]);
    ensure!(timeout(COMMAND_PATIENCE, terminal.status()).await.context("it waits for its terminal")??.success());

    let script = "echo $TENURE_TOKEN $TENURE_DEADLINE $TENURE_LOCK_KEY $TENURE_LEASE; read line";
    let begun = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let mut child = ctl
        .command(&["lock", "a", "--ttl=60", "--", "sh", "-c", script])
        .stdin(std::process::Stdio::piped())
        .spawn()?;
    let stdin = child.stdin.take().context("no stdin")?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let line = lines.next_line().await?.context("no variables")?;
    let [token, deadline, key, lease] = line.split(' ').collect::<Vec<_>>()[..] else {
        anyhow::bail!("{line}");
    };
    let deadline = Duration::from_millis(deadline.parse()?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    ensure!(deadline > now && deadline < now + Duration::from_secs(60), "{deadline:?} at {now:?}");
    ensure!(deadline + Duration::from_secs(2) > begun + Duration::from_secs(60), "{deadline:?} at {begun:?}");
    let shown = ctl.json(&["lock", "show", "a"]).await?["queue"][0].clone();
    ensure!(shown["key"] == key && shown["lease"] == lease && shown["token"].as_i64() == token.parse().ok(), "{shown}");
    // They make the compares of a transaction that depends on the lock.
    let depends = format!("create(\"{key}\") = \"{token}\"\nlease(\"{key}\") = \"{lease}\"\n\nput state done\n\n\n");
    let said = ctl.feed(depends.as_bytes(), &["txn", "-ojson"]).await?;
    ensure!(serde_json::from_slice::<Value>(&said.out)?["succeeded"] == true, "{said:?}");
    drop(stdin);
    ensure!(child.wait().await?.code() == Some(1), "the shell's `read` found no line");
    let said = ctl.feed(depends.as_bytes(), &["txn", "-ojson"]).await?;
    ensure!(serde_json::from_slice::<Value>(&said.out)?["succeeded"] == false, "{said:?}");
    signals(&ctl).await
}

/// Signals reach the command and all that it started, and nothing of it is left when the lock is free.
async fn signals(ctl: &Ctl) -> Result<()> {
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let mut running = ctl.follow(&["lock", "a", "--ttl=60", "--", "sh", "-c", script])?;
    same(&running.line().await?, "ready")?;
    running.signal("TERM").await?;
    ensure!(running.ended().await?.code() == Some(9));

    let mut running = ctl.follow(&["lock", "a", "--ttl=60", "--", "sh", "-c", "sleep 600 & echo $!; exit 3"])?;
    let left: u32 = running.line().await?.parse()?;
    ensure!(running.ended().await?.code() == Some(3));
    ensure!(!Path::new(&format!("/proc/{left}")).exists(), "it outlived the lock");
    // Taken away, it is ended at once, whether it wants or not.
    let script = "trap '' TERM INT HUP; echo ready; while :; do sleep 0.1; done";
    let child = ctl.command(&["lock", "a", "--ttl=60", "--", "sh", "-c", script]).spawn()?;
    ctl.contenders("a", 1).await?;
    ctl.says(&["unlock", "a", "--force", "--reason=enough"]).await?;
    let output = child.wait_with_output().await?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(LOST), "{said}");
    let end = ": enough); the command was";
    ensure!(said.starts_with("tenurectl: lock a is lost: its key is gone (forced by") && said.contains(end), "{said}");
    Ok(())
}

/// What a command says of itself until it is killed: the readings of the clock at each of its signs of life, in seconds.
const LIVES: &str = "say() { read up rest </proc/uptime; echo $1 $up; }; say tick; \
                     while :; do say tick; sleep 0.05; done";

/// The clock that a command reads.
fn uptime() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    Ok(text.split(' ').next().context("no reading")?.parse()?)
}

/// The next sign of life; none when it has ended.
async fn sign(lives: &mut Follow) -> Result<Option<(String, f64)>> {
    loop {
        let Some(line) = lives.maybe_line().await? else { return Ok(None) };
        // A shell that is told to stop in the midst of it says only half.
        if let Some((word, at)) = line.split_once(' ')
            && let Ok(at) = at.parse()
        {
            return Ok(Some((word.to_owned(), at)));
        }
    }
}

/// When nobody answers any more, a command is asked to end while there is time, and killed before somebody else could get
/// the lock.
pub(crate) async fn jeopardy(program: Program, home: &Path) -> Result<()> {
    const TTL: f64 = 6.0;
    const TICKS: usize = 20;
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    let stubborn = format!("trap 'say term' TERM; {LIVES}");
    let polite = format!("trap 'exit 0' TERM; {LIVES}");
    let mut stubborn = ctl.follow(&["lock", "a", "--ttl=6s", "--", "sh", "-c", &stubborn])?;
    let mut polite = ctl.follow(&["lock", "b", "--ttl=6s", "--", "sh", "-c", &polite])?;
    let begun = sign(&mut stubborn).await?.context("it did not begin")?.1;
    for _ in 0..TICKS {
        sign(&mut stubborn).await?.context("it ended")?;
        sign(&mut polite).await?.context("it ended")?;
    }
    let before = uptime()?;
    cluster.nodes[0].pause()?;
    // No renewal that is acknowledged was sent later than this.
    let paused = uptime()?;
    let (mut asked, mut last) = (None, before);
    while let Some((word, at)) = sign(&mut stubborn).await? {
        if word == "term" {
            ensure!(asked.is_none(), "it was asked twice");
            asked = Some(at);
        }
        last = at;
    }
    let asked = asked.context("it was not asked to end")?;
    ensure!(asked >= begun + TTL / 2.0, "asked at {asked}, which began at {begun}");
    ensure!(last > asked, "killed at {last}, asked at {asked}");
    ensure!(last < paused + TTL, "killed at {last}, and the last renewal was before {paused}");
    ensure!(stubborn.ended().await?.code() == Some(LOST));
    let mut ended = before;
    while let Some((_, at)) = sign(&mut polite).await? {
        ended = at;
    }
    ensure!(ended < last, "it was polite until {ended}, the other was killed at {last}");
    ensure!(polite.ended().await?.code() == Some(LOST), "it did not end of its own accord");
    cluster.nodes[0].resume()?;
    // The next one waits for what is left of the lease, and no longer.
    for name in ["a", "b"] {
        ensure!(ctl.run(&["lock", name, "--wait=25s", "--", "true"]).await?.code == Some(0), "{name}");
    }
    Ok(())
}

/// A holder that stands still past its time loses the lock; when it goes on, its command is ended before it can do more.
pub(crate) async fn paused_holder(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    let mut first = ctl.follow(&["lock", "a", "--ttl=2s", "--", "sh", "-c", LIVES])?;
    sign(&mut first).await?.context("it did not begin")?;
    first.signal("STOP").await?;
    let mut second = ctl.follow(&["lock", "a", "--ttl=60s", "-ojson"])?;
    let held = second.json().await?;
    first.signal("CONT").await?;
    while sign(&mut first).await?.is_some() {}
    ensure!(first.ended().await?.code() == Some(LOST));
    let told = ctl.json(&["lock", "why", "a"]).await?;
    let expired = told["transitions"].as_array().context("changes")?.iter().find(|one| one["kind"] == "expired");
    ensure!(expired.is_some_and(|one| one["token"].as_i64() < held["token"].as_i64()), "{told}");
    ensure!(second.interrupt().await?.code() == Some(0));
    Ok(())
}

/// Holder and waiters outlive the member that they talked to: nobody loses the lock or the place in the queue.
pub(crate) async fn fail_over(program: Program, home: &Path) -> Result<()> {
    let mut cluster = Cluster::start(program, 3, home).await?;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    let rest = Ctl::at(&[cluster.endpoints()[(leader + 1) % 3].clone()]);
    let mut endpoints = cluster.endpoints();
    endpoints.rotate_left(leader);
    let ctl = Ctl::at(&endpoints);
    let claim = |owner| ["lock", "a", "--ttl=60", "-ojson", "--owner", owner];
    let mut first = ctl.follow(&claim("one"))?;
    first.json().await?;
    let mut second = ctl.follow(&claim("two"))?;
    rest.contenders("a", 2).await?;
    let mut third = rest.follow(&claim("three"))?;
    let place = rest.contenders("a", 3).await?["queue"][1].clone();
    cluster.nodes[leader].kill()?;
    cluster.wait_leader(LEADER_PATIENCE).await?;
    ensure!(first.interrupt().await?.code() == Some(0));
    let held = second.json().await?;
    ensure!(held["key"] == place["key"] && held["token"] == place["create_revision"], "{held}: {place}");
    ensure!(second.interrupt().await?.code() == Some(0));
    ensure!(token(&third.json().await?)? > token(&held)?);
    ensure!(third.interrupt().await?.code() == Some(0));
    ensure!(rest.json(&["lock", "show", "a"]).await?["contenders"] == 0);
    Ok(())
}
