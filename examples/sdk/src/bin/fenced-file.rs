//! A file that two processes write, one at a time, and that refuses the one whose lock was lost: the pause experiment.
//!
//! ```text
//! make cluster
//! cargo build -p tenure-examples --bin fenced-file
//! cargo run -q -p tenure-examples --bin fenced-file -- --name first  --file /tmp/fenced.log & first=$!
//! cargo run -q -p tenure-examples --bin fenced-file -- --name second --file /tmp/fenced.log & second=$!
//! kill -STOP $first       # longer than the TTL of 5 s ...
//! kill -CONT $first       # ... and on
//! kill $first $second
//! ```
//!
//! `first` writes a line a second, and `second` waits. Once `first` is stopped, its lease ends, and `second` writes. When `first` goes on it sees at
//! once that its lock is lost; all the same it tries to write one more line, as a program would that was stopped between its last look
//! at the lock and the write. The file refuses it: its token is lower than that of `second`. docs/SAFE-LOCKS.md tells the story.
//!
//! `--unfenced` leaves the check out, so that one can see what happens then.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use tenure_client::lock::{LockGuard, Wait};
use tenure_client::session::Session;
use tenure_examples::{Cluster, FencedFile, process_name, until_stopped};

/// Writes a line a second to a file while it holds the file's lock.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    cluster: Cluster,
    /// What this writer is called
    #[arg(long, default_value_t = process_name())]
    name: String,
    /// The file
    #[arg(long)]
    file: PathBuf,
    /// The lock's name
    #[arg(long, default_value = "fenced-file")]
    lock: String,
    /// Seconds after which another one may get the lock if this process is gone
    #[arg(long, default_value_t = 5)]
    ttl: u64,
    /// Write without showing the token
    #[arg(long)]
    unfenced: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let client = arguments.cluster.connect().await?;
    until_stopped(async {
        loop {
            let ttl = Duration::from_secs(arguments.ttl);
            let session = client.session().ttl(ttl).name(&*arguments.name).start().await?;
            hold(&session, &arguments).await?;
        }
    })
    .await?;
    client.close().await;
    Ok(())
}

/// Waits for the lock, and writes until it is lost.
async fn hold(session: &Session, arguments: &Arguments) -> anyhow::Result<()> {
    let name = &arguments.name;
    let guard = session.lock(arguments.lock.clone()).wait(Wait::Forever).acquire().await?;
    println!("{name}: has the lock, token {}", guard.token().revision);
    let started = Instant::now();
    let mut lines = 0;
    let reason = loop {
        tokio::select! {
            _ = guard.lost() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        // After a pause both are due, and either may come first. The state is compared with the clock right here.
        if let Some(reason) = guard.state().lost_reason() {
            break reason;
        }
        lines += 1;
        write(&guard, arguments, &format!("line {lines} by {name}"))?;
    };
    println!("{name}: LOST after {:.1?}: {reason}", started.elapsed());
    // This is what must not be done, and what nobody can be sure not to do: between the last look at a lock and the write
    // that relies on it, a process can be stopped for as long as anything.
    write(&guard, arguments, &format!("a late line by {name}"))
}

fn write(guard: &LockGuard, arguments: &Arguments, line: &str) -> anyhow::Result<()> {
    let token = guard.token().revision.0;
    if arguments.unfenced {
        let mut file = OpenOptions::new().append(true).create(true).open(&arguments.file)?;
        writeln!(file, "{token} {line}")?;
        println!("{}: wrote '{line}', and nobody asked for a token", arguments.name);
        return Ok(());
    }
    match FencedFile::new(&arguments.file).append(token, line)? {
        Ok(()) => println!("{}: wrote '{line}' with token {token}", arguments.name),
        Err(refused) => {
            println!("{}: REFUSED '{line}': token {token} is lower than {}", arguments.name, refused.seen);
        }
    }
    Ok(())
}
