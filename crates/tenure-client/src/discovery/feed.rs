//! The watch that discovery follows: of a whole registry, or of one key.
//!
//! It is the client's watch, in discovery's words, and opened in the background: who waits for it can wait for other things as
//! well. Nothing but its end is an error here; what to do about that, its owner decides, since both owners have to look
//! at the store then.

use futures::future::BoxFuture;

use super::cache::{Change, Stored};
use crate::watch::{EventKind, WatchBatch, WatchError, Watcher};
use crate::{Client, KeyRange, Revision};

/// What a feed tells.
#[derive(Debug)]
pub(super) enum Fed {
    /// All changes up to a revision that were not told before. There may be none.
    Changes { revision: i64, changes: Vec<Change> },
    /// It is over, and tells nothing more.
    Broken(WatchError),
}

/// A watch that is being opened, is open, or is over.
pub(super) enum Feed {
    Opening(BoxFuture<'static, Result<Watcher, WatchError>>),
    Open(Box<Watcher>),
    Broken,
}

impl Feed {
    /// Of all keys that begin with `prefix`, from a revision on.
    pub(super) fn of_prefix(client: &Client, prefix: &str, from: i64) -> Self {
        Self::of(client, KeyRange::prefix(prefix.to_owned()), from)
    }

    /// Of one key.
    pub(super) fn of_key(client: &Client, key: &str, from: i64) -> Self {
        Self::of(client, KeyRange::one(key.to_owned()), from)
    }

    fn of(client: &Client, range: KeyRange, from: i64) -> Self {
        let watch = client.watch(range).from(Revision(from)).prev_kv().progress();
        Self::Opening(Box::pin(watch.open()))
    }

    /// The next thing that it tells. Once it is broken, nothing comes. Cancel-safe.
    pub(super) async fn next(&mut self) -> Fed {
        loop {
            let end = match self {
                Self::Opening(opening) => match opening.await {
                    Ok(watcher) => {
                        *self = Self::Open(Box::new(watcher));
                        continue;
                    }
                    Err(end) => end,
                },
                Self::Open(watcher) => match watcher.next().await {
                    Ok(batch) => return fed(batch),
                    Err(end) => end,
                },
                Self::Broken => std::future::pending().await,
            };
            *self = Self::Broken;
            return Fed::Broken(end);
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken)
    }
}

fn fed(batch: WatchBatch) -> Fed {
    let revision = batch.revision.0;
    let changes = batch.into_iter().map(|event| match event.kind {
        EventKind::Put => Change::Put(Stored {
            key: event.kv.key,
            value: event.kv.value,
            create_revision: event.kv.create_revision.0,
            mod_revision: event.kv.mod_revision.0,
            lease: event.kv.lease.0,
        }),
        EventKind::Delete => Change::Delete { key: event.kv.key, revision: event.kv.mod_revision.0 },
    });
    Fed::Changes { revision, changes: changes.collect() }
}
