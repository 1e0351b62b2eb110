//! A registry of game rooms, in the manner of a game server framework: each process is a room, and knows all others.
//!
//! ```text
//! make cluster
//! cargo run -p tenure-examples --bin game-rooms -- --mode ranked     # in one terminal
//! cargo run -p tenure-examples --bin game-rooms -- --mode casual     # in another, and more
//! tenurectl discovery watch games                                    # from outside
//! ```
//!
//! Ctrl-C deregisters a room at once; a room that is killed goes after its TTL. A change of players is an update of the room's metadata, which
//! every other room is told. While members are killed (`cluster-scripts/kill n1`) the rooms keep serving what they knew.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tenure_client::discovery::{Event, Instance, Listener, RegisterOptions, RemovedWhy, Snapshot};
use tenure_examples::{Cluster, process_name, until_stopped};

/// A game room that registers itself and finds the others.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    cluster: Cluster,
    /// The room's id, unique among rooms
    #[arg(long, default_value_t = process_name())]
    id: String,
    /// What is played
    #[arg(long, default_value = "casual")]
    mode: String,
    /// Where players would connect to
    #[arg(long, default_value = "127.0.0.1:9000")]
    addr: String,
    /// Seconds after which a room that died is gone
    #[arg(long, default_value_t = 10)]
    ttl: u64,
}

/// Tells what the others do.
struct Lobby;

impl Listener for Lobby {
    fn on_start(&mut self, snapshot: &Arc<Snapshot>) {
        println!("{} other rooms are there", snapshot.len());
    }

    fn on_add(&mut self, room: &Arc<Instance>) {
        println!("+ {}", words(room));
    }

    fn on_update(&mut self, _old: &Arc<Instance>, room: &Arc<Instance>) {
        println!("~ {}", words(room));
    }

    fn on_remove(&mut self, room: &Arc<Instance>, why: RemovedWhy) {
        println!("- {} ({why:?})", room.id());
    }

    fn on_event(&mut self, event: &Event) {
        match event {
            Event::Stale(why) => println!("what is known may be old: {why:?}"),
            Event::Fresh => println!("what is known is up to date again"),
            _ => {}
        }
    }
}

fn words(room: &Instance) -> String {
    let of = |name| room.get_meta(name).map_or_else(|| "?".to_owned(), ToString::to_string);
    format!("{} at {}: {}, {} players", room.id(), room.addr_text().unwrap_or("?"), of("mode"), of("players"))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let client = arguments.cluster.connect().await?;
    let registry = client.registry("games");

    let room = Instance::new(&arguments.id).addr(&arguments.addr).meta("mode", arguments.mode.as_str());
    let options = RegisterOptions { ttl: Duration::from_secs(arguments.ttl), ..RegisterOptions::default() };
    let mut registered = None;
    until_stopped(async {
        let registration = registry.kind("room").register(room.clone().meta("players", 0), options).await?;
        let registration = registered.insert(registration);
        println!("registered as {}", registration.key());

        let cache = registry.cache().hide(registration).start().await?;
        cache.listen(Lobby);

        let mut players = 0;
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            players = (players + 1) % 9;
            // While the cluster is away this waits, and nothing else does.
            registration.update(room.clone().meta("players", players)).await?;
            let ranked = cache.by_kind("room").iter().filter(|room| words(room).contains("ranked")).count();
            println!("{players} players here; {ranked} ranked rooms elsewhere, known {:?} ago", cache.staleness());
        }
    })
    .await?;

    // A room that is stopped while it registers itself goes with the client.
    if let Some(registration) = registered
        && let Err(error) = registration.deregister(Duration::from_secs(3)).await
    {
        println!("the room goes with its lease: {error}");
    }
    client.close().await;
    Ok(())
}
