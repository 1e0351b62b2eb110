//! Workers of which one leads: it hands out the work, and the others wait for their turn to lead.
//!
//! ```text
//! make cluster
//! cargo run -p tenure-examples --bin leader-worker -- --name a       # in several terminals, each with its name
//! tenurectl observe workers                                          # who leads
//! tenurectl put tenure/end-of-term/workers 'a new version'           # asks the leader to end its term: it finishes its task
//! tenurectl resign workers                                           # ends the leader's term without asking; the next one leads
//! ```
//!
//! Kill the leader (Ctrl-C, or kill -9): another one leads at once, or after the session's TTL. Stop it (Ctrl-Z) for longer than that and let it go on
//! (fg): the first thing that it does is to see that it does not lead any more.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::pin::pin;
use std::time::Duration;

use clap::Parser;
use tenure_client::Client;
use tenure_client::election::Leadership;
use tenure_examples::{Cluster, process_name, until_stopped};

/// Leads when its turn comes.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    cluster: Cluster,
    /// What this worker is called
    #[arg(long, default_value_t = process_name())]
    name: String,
    /// The election's name
    #[arg(long, default_value = "workers")]
    election: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let client = arguments.cluster.connect().await?;
    until_stopped(work(&client, &arguments)).await?;
    // What is led still is given up with the client, at once.
    client.close().await;
    Ok(())
}

async fn work(client: &Client, arguments: &Arguments) -> anyhow::Result<()> {
    loop {
        let session = client.session().ttl(Duration::from_secs(10)).name(&*arguments.name).start().await?;
        println!("{} waits for its turn", arguments.name);
        let leadership = session.election(arguments.election.clone()).value(arguments.name.clone()).campaign().await?;
        println!("{} leads, by token {}", arguments.name, leadership.token());
        // The work is dropped when the leadership is lost.
        let ended = leadership.run(|_| lead(client, arguments, &leadership)).await;
        match ended {
            Ok(done) => done?,
            Err(interrupted) => {
                println!("{} leads no more: {interrupted}", arguments.name);
                continue;
            }
        }
        leadership.resign().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        println!("{} has resigned", arguments.name);
    }
}

/// Hands out a task a second until it is asked to end. Each is written under the leadership: a leader that was replaced cannot add one.
async fn lead(client: &Client, arguments: &Arguments, leadership: &Leadership) -> anyhow::Result<()> {
    let mut asked = pin!(leadership.end_of_term());
    for task in 1_u64.. {
        let put = tenure_client::kv::put(
            format!("{}-tasks/next", arguments.election),
            format!("{task} by {}", arguments.name),
        );
        let done = client.txn().when(leadership.compare()).and_then([put]).commit().await?;
        anyhow::ensure!(done.succeeded, "another one leads");
        println!("task {task} at revision {}", done.header.revision);
        if let Ok(end) = tokio::time::timeout(Duration::from_secs(1), &mut asked).await {
            println!("{} was asked to end its term: {}", arguments.name, String::from_utf8_lossy(&end?.reason));
            break;
        }
    }
    Ok(())
}
