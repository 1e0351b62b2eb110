//! A holder of a lock in a process of its own, which a test stops and lets go on.
//!
//! It says on standard output what it holds, then on each look how it stands, with the machine's clock read *before* the look: so a
//! test that knows when it let the process go on can tell what was seen from then on. When it has lost the lock it tries to
//! write all the same, as a holder does that did not look, and says what came of it.

#![expect(clippy::print_stdout, reason = "what it says is what it is for")]

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use tenure_client::kv;
use tenure_client::lock::Wait;
use tenure_client::{Client, ConnectOptions};
use tenure_tests::sdk_scale::stopped::boottime_ns;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(2);

#[derive(Parser)]
struct Args {
    /// Client URLs of the members
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<String>,
    /// The lock's name; the key that it guards has the same
    #[arg(long)]
    lock: String,
    #[arg(long)]
    ttl_ms: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let client = Client::connect(args.endpoints, ConnectOptions::default()).await?;
    let session = client.session().ttl(Duration::from_millis(args.ttl_ms)).name("stopped").start().await?;
    let guard = session.lock(args.lock.clone()).wait(Wait::Try).acquire().await?;
    println!("held {}", guard.token().revision);
    loop {
        let before = boottime_ns();
        let safe = guard.is_safe();
        println!("{} {}", if safe { "safe" } else { "unsafe" }, before);
        if guard.state().is_final() {
            println!("lost {}", before);
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let put = client.put(args.lock.clone(), "late").under(&guard.fence()).await;
    let came = match put {
        Ok(_) => "written",
        Err(error) if error.refusal().is_some() => "refused",
        Err(error) => return Err(error).context("the write of a holder that is none"),
    };
    println!("guarded {came}");
    let txn = client.txn().when(guard.held()).and_then([kv::put(args.lock, "late")]).commit().await?;
    println!("txn {}", if txn.succeeded { "written" } else { "refused" });
    Ok(())
}
