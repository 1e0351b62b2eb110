//! Watches against real members: what a program is given, whatever happens between it and them.

mod compaction;
mod ends;
mod many;
mod resume;
mod silence;
mod slow;
#[path = "../support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tenure_client::watch::{BatchKind, WatchBatch, Watcher};
use tenure_client::{Client, ConnectOptions, KeyRange, Revision, kv};

use support::within;

/// An event as it is compared: its revision, its key, and its value; none if the key was deleted.
type Told = (i64, String, Option<String>);

/// Connections are made again at once.
fn hasty() -> ConnectOptions {
    let ms = Duration::from_millis;
    ConnectOptions::default().backoff(ms(2), ms(20)).probe_interval(ms(50))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn told(batch: &WatchBatch) -> Vec<Told> {
    let line = |event: &tenure_client::watch::WatchEvent| {
        let value = event.is_put().then(|| text(&event.kv.value));
        (event.kv.mod_revision.0, text(event.key()), value)
    };
    batch.events.iter().map(line).collect()
}

/// The next batch that is no sign of a connection.
async fn next(watcher: &mut Watcher) -> WatchBatch {
    within("a batch", async {
        loop {
            let batch = watcher.next().await.expect("the watch goes on");
            if !matches!(batch.kind, BatchKind::Reconnected | BatchKind::Lagged) {
                return batch;
            }
        }
    })
    .await
}

/// So many events, and no more than come with them.
async fn read(watcher: &mut Watcher, count: usize) -> Vec<Told> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(told(&next(watcher).await));
    }
    events
}

/// Changes keys at random and knows what must be told of it.
struct Writer {
    client: Client,
    random: StdRng,
    keys: Vec<String>,
    there: Vec<String>,
    done: Vec<Told>,
}

impl Writer {
    fn new(client: Client, seed: u64) -> Writer {
        let keys = (0..8).map(|n| format!("k/{n}")).collect();
        Writer { client, random: StdRng::seed_from_u64(seed), keys, there: Vec::new(), done: Vec::new() }
    }

    /// One revision: a put, a delete, or a transaction of some of both.
    async fn write(&mut self) {
        let count = if self.random.random_bool(0.7) { 1 } else { self.random.random_range(2..6) };
        let mut keys: VecDeque<String> = self.keys.clone().into();
        keys.rotate_left(self.random.random_range(0..8));
        keys.truncate(count);
        let mut changes: Vec<(String, Option<String>)> = Vec::new();
        for key in keys {
            let deletes = self.there.contains(&key) && self.random.random_bool(0.3);
            changes.push((key, (!deletes).then(|| format!("v{}", self.done.len()))));
        }
        let ops = changes.iter().map(|(key, value)| match value {
            Some(value) => tenure_client::txn::Op::from(kv::put(key.clone(), value.clone())),
            None => kv::delete(key.clone()).into(),
        });
        let revision = done("a write", self.client.txn().and_then(ops)).await.expect("a write").header.revision;
        for (key, value) in changes {
            self.there.retain(|there| *there != key);
            self.there.extend(value.is_some().then(|| key.clone()));
            self.done.push((revision.0, key, value));
        }
    }

    async fn write_many(&mut self, revisions: usize) {
        for _ in 0..revisions {
            self.write().await;
        }
    }
}

/// What becomes of a request.
async fn done<T>(what: &str, request: impl IntoFuture<Output = T>) -> T {
    within(what, request.into_future()).await
}

async fn put(client: &Client, key: &str, value: &str) -> Revision {
    done("a put", client.put(key.to_owned(), value.to_owned())).await.expect("a put").header.revision
}

fn keys() -> KeyRange {
    KeyRange::prefix("k/")
}
