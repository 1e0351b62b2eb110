//! Keeps a program's configuration up to date: all keys under a prefix, read at one revision and followed from the next one on.
//!
//! ```text
//! make cluster
//! cargo run -p tenure-examples --bin config-watcher -- --prefix config/
//! tenurectl put config/colour blue       # in another terminal
//! tenurectl del config/colour
//! ```
//!
//! No change is missed between the read and the watch, nor when members fail meanwhile: try `cluster-scripts/kill n1`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Parser;
use tenure_client::watch::{BatchKind, EventKind, OnCompacted};
use tenure_client::{Client, KeyRange};
use tenure_examples::{Cluster, until_stopped};
use tokio::sync::watch;

/// Shows a configuration, and shows it again whenever it changes.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    cluster: Cluster,
    /// What the keys of the configuration begin with
    #[arg(long, default_value = "config/")]
    prefix: String,
}

/// A configuration: immutable, replaced as a whole.
type Config = Arc<BTreeMap<String, String>>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { cluster, prefix } = Arguments::parse();
    let client = cluster.connect().await?;
    let (sender, mut config) = watch::channel(Config::default());
    let follow = follow(&client, &prefix, sender);
    // The program proper: it sees whole configurations, and the latest one if several came while it was busy.
    let show = async {
        while config.changed().await.is_ok() {
            println!("configuration: {:?}", *config.borrow_and_update());
        }
        Ok(())
    };
    until_stopped(async { tokio::try_join!(follow, show).map(|_| ()) }).await?;
    client.close().await;
    Ok(())
}

async fn follow(client: &Client, prefix: &str, sender: watch::Sender<Config>) -> anyhow::Result<()> {
    let read = client.get(KeyRange::prefix(prefix.to_owned())).await?;
    let mut current: BTreeMap<String, String> = read.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect();
    sender.send_replace(Arc::new(current.clone()));
    // Should the history that is needed next be compacted, the watch lists the keys anew and tells the difference.
    let watch = client.watch(KeyRange::prefix(prefix.to_owned())).from(read.header.revision.next());
    let mut watcher = watch.on_compacted(OnCompacted::Relist).open().await?;
    loop {
        let batch = watcher.next().await?;
        if matches!(batch.kind, BatchKind::Relisted { is_complete: true, .. }) {
            current.clear();
        }
        if batch.events.is_empty() {
            continue;
        }
        for event in &batch {
            match event.kind {
                EventKind::Put => current.insert(text(&event.kv.key), text(&event.kv.value)),
                EventKind::Delete => current.remove(&text(&event.kv.key)),
            };
        }
        sender.send_replace(Arc::new(current.clone()));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
