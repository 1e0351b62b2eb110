//! A holder that is stopped past its TTL: when it goes on, the first thing that it sees is that the lock is lost, and what
//! it writes is refused.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use tenure_client::lock::Wait;
use tenure_client::session::Session;
use tenure_client::{Client, ConnectOptions};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use super::apart::Size;
use crate::binaries::Program;
use crate::lease_scale::three_members;
use crate::process;

/// Longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(60);

type Said = Lines<BufReader<ChildStdout>>;

/// Stops holders, each a process of its own; `holder` is the program.
pub async fn stop_holders(home: &Path, holder: &Path, size: Size) -> Result<()> {
    let (cluster, _) = three_members(Program::Tenured, home).await?;
    let endpoints = cluster.endpoints();
    let lanes = (0..size.at_once).map(|lane| run_lane(&endpoints, holder, lane, size.rounds_of(lane), size.ttl));
    let rounds: usize = try_join_all(lanes).await?.into_iter().sum();
    println!("stopped | {rounds} rounds | each saw first that it had lost its lock; each late write refused, twice");
    ensure!(rounds == size.rounds, "{rounds} rounds of {}", size.rounds);
    Ok(())
}

async fn run_lane(endpoints: &[String], holder: &Path, lane: usize, rounds: usize, ttl: Duration) -> Result<usize> {
    let client = Client::connect(endpoints.to_vec(), ConnectOptions::default()).await?;
    let rival = client.session().ttl(Duration::from_secs(30)).name("rival").start().await?;
    for round in 0..rounds {
        let name = format!("stopped/{lane}/{round}");
        let after = ttl * u32::try_from(round % 10)? / 10;
        let one = one_round(endpoints, holder, &client, &rival, &name, ttl, after);
        timeout(PATIENCE, one).await.with_context(|| format!("round {round} of lane {lane} hangs"))??;
    }
    Ok(rounds)
}

async fn one_round(
    endpoints: &[String],
    holder: &Path,
    client: &Client,
    rival: &Session,
    name: &str,
    ttl: Duration,
    after: Duration,
) -> Result<()> {
    let mut child = Command::new(holder)
        .arg(format!("--endpoints={}", endpoints.join(",")))
        .arg(format!("--lock={name}"))
        .arg(format!("--ttl-ms={}", ttl.as_millis()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", holder.display()))?;
    let mut said = BufReader::new(child.stdout.take().context("its output")?).lines();
    let first = said.next_line().await?.context("it said nothing")?;
    let token: i64 = first.strip_prefix("held ").context(first.clone())?.parse()?;
    let next = rival.lock(name.to_owned()).wait(Wait::Forever).acquire();
    tokio::pin!(next);
    let reading = read_for(&mut said, after);
    tokio::select! {
        biased;
        early = &mut next => bail!("a second holder while the first one renews: {:?}", early.map(|held| held.token())),
        safe = reading => ensure!(safe?, "not safe before it was stopped"),
    }
    signal(&child, Signal::STOP)?;
    let held = next.await.context("the next holder")?;
    ensure!(held.token().revision.0 > token, "a token that does not rise");
    client.put(name.to_owned(), "new").under(&held.fence()).await.context("the new holder's write")?;
    let resumed = boottime_ns();
    signal(&child, Signal::CONT)?;
    judge(&mut said, resumed).await?;
    ensure!(child.wait().await?.success(), "the holder failed");
    let value = client.get(name.to_owned()).await?;
    let value = value.first().context("the key is gone")?;
    ensure!(value.value == "new", "the late write went through: {value:?}");
    held.release().await.map_err(|failed| anyhow::anyhow!("{failed}"))?;
    Ok(())
}

/// Reads on for some time; whether all that was said is that it is safe.
async fn read_for(said: &mut Said, time: Duration) -> Result<bool> {
    let wait = sleep(time);
    tokio::pin!(wait);
    loop {
        tokio::select! {
            () = &mut wait => return Ok(true),
            line = said.next_line() => {
                let line = line?.context("it ended")?;
                if !line.starts_with("safe ") {
                    return Ok(false);
                }
            }
        }
    }
}

/// Reads to the end. What was said by looks from before it went on does not count.
async fn judge(said: &mut Said, resumed: u128) -> Result<()> {
    let (mut lost, mut refused) = (false, 0);
    while let Some(line) = said.next_line().await? {
        let (what, rest) = line.split_once(' ').context(line.clone())?;
        match what {
            "safe" => ensure!(rest.parse::<u128>()? < resumed, "it was safe after it went on"),
            "unsafe" => {}
            "lost" => lost = true,
            "guarded" | "txn" if rest == "refused" => refused += 1,
            _ => bail!("{line}"),
        }
    }
    ensure!(lost && refused == 2, "lost: {lost}, late writes refused: {refused}");
    Ok(())
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    process::signal(child.id().context("it ended")?, signal)
}

/// Nanoseconds of `CLOCK_BOOTTIME`, which all processes of a machine share: by it a test and its holders tell what came first.
pub fn boottime_ns() -> u128 {
    let now = clock_gettime(ClockId::Boottime);
    u128::from(now.tv_sec.unsigned_abs()) * 1_000_000_000 + u128::from(now.tv_nsec.unsigned_abs())
}
