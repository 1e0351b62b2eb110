//! A job that runs once at each of its times, however many processes have it in their timetable.
//!
//! ```text
//! make cluster
//! cargo run -p tenure-examples --bin cron-singleton -- --every 10 -- date      # in several terminals
//! ```
//!
//! Each process tries to take the job's lock when its time comes. The one that gets it looks whether the job was run for this time already,
//! notes that it begins, under the lock, and runs it. So a process that is late, or a clock that is a little off, does not run it
//! twice; and a job whose process dies in the middle is not run again for the same time. The job is killed before the lock can be lost.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Parser;
use tenure_client::Client;
use tenure_client::lock::{AcquireError, LockGuard, Wait};
use tenure_client::session::Session;
use tenure_examples::{Cluster, until_stopped};
use tokio::process::Command;

/// Runs a command at regular times, in one process of all that have the same job.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    cluster: Cluster,
    /// The job's name
    #[arg(long, default_value = "tick")]
    job: String,
    /// Seconds from one time to the next; times are multiples of it since 1970
    #[arg(long, default_value_t = 10)]
    every: u64,
    /// What to run
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let client = arguments.cluster.connect().await?;
    until_stopped(timetable(&client, &arguments)).await?;
    client.close().await;
    Ok(())
}

async fn timetable(client: &Client, arguments: &Arguments) -> anyhow::Result<()> {
    loop {
        // When it is time is for the wall clock to say; who runs the job is not.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let every = arguments.every.max(1);
        let time = (now.as_secs() / every + 1) * every;
        tokio::time::sleep(Duration::from_secs(time).saturating_sub(now)).await;
        if let Err(error) = one_time(client, arguments, time).await {
            println!("{time}: {error:#}");
        }
    }
}

async fn one_time(client: &Client, arguments: &Arguments, time: u64) -> anyhow::Result<()> {
    let session = client.session().ttl(Duration::from_secs(10)).name("cron-singleton").start().await?;
    let lock = session.lock(format!("cron/{}", arguments.job)).wait(Wait::Try);
    match lock.acquire().await {
        Ok(guard) => {
            run_once(client, &guard, arguments, time).await?;
            guard.release().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        Err(AcquireError::Busy { .. }) => println!("{time}: another process runs it"),
        Err(error) => return Err(error.into()),
    }
    end(&session).await;
    Ok(())
}

async fn run_once(client: &Client, guard: &LockGuard, arguments: &Arguments, time: u64) -> anyhow::Result<()> {
    let key = format!("cron-last/{}", arguments.job);
    let last = client.get(key.clone()).await?;
    let last: u64 = last.kvs.first().map_or(Ok(0), |kv| String::from_utf8_lossy(&kv.value).parse())?;
    if last >= time {
        println!("{time}: it was run already");
        return Ok(());
    }
    // The note is written only if the lock is held in the very revision that writes it.
    let noted = client.txn().when(guard.compare()).and_then([tenure_client::kv::put(key, time.to_string())]);
    anyhow::ensure!(noted.commit().await?.succeeded, "the lock was lost before the job began");
    let (program, rest) = arguments.command.split_first().context("a command is needed")?;
    let mut job = Command::new(program).args(rest).kill_on_drop(true).spawn().context("the job cannot be run")?;
    println!("{time}: runs here, under token {}", guard.token());
    // Dropped at the lock's deadline, which kills it.
    match guard.run(|_| job.wait()).await {
        Ok(status) => println!("{time}: {}", status?),
        Err(interrupted) => println!("{time}: killed: {interrupted}"),
    }
    Ok(())
}

async fn end(session: &Session) {
    if let Err(error) = session.close().await {
        println!("the session ends by itself: {error}");
    }
}
