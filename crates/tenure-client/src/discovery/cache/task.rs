//! The task of a cache: it feeds the table from the wire, and publishes what comes of it.
//!
//! Three things run side by side, and none waits for another: the watch, a probe, and a listing. All that is decided is decided
//! by the table. A watch that breaks for good (its revisions were compacted) is opened again after a listing.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::super::feed::{Fed, Feed};
use super::super::store::Store;
use super::event::Event;
use super::published::{Contact, Published};
use super::table::{Listing, Probe, Table};
use crate::clock::Clock;
use crate::{Error, Instant};

/// The pause before a listing is tried again that failed.
const LIST_AGAIN: Duration = Duration::from_millis(500);

/// How often the cache asks by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) resync: Duration,
    pub(super) probe: Duration,
}

type Request<A> = Option<BoxFuture<'static, Result<A, Error>>>;

/// See the module's header.
pub(super) struct CacheTask {
    store: Store,
    clock: Arc<dyn Clock>,
    /// What the keys begin with that are read.
    range: String,
    table: Table,
    published: Arc<Published>,
    pace: Pace,
    feed: Feed,
    probing: Request<Probe>,
    probe_sent: Instant,
    probe_at: Instant,
    listing: Request<Listing>,
    list_at: Instant,
    is_answered: bool,
}

/// What happened.
enum Heard {
    Fed(Fed),
    Probed(Result<Probe, Error>),
    Listed(Result<Listing, Error>),
    Time,
}

impl CacheTask {
    pub(super) fn new(store: Store, range: String, table: Table, published: Arc<Published>, pace: Pace) -> Self {
        let clock = store.0.clock().clone();
        let feed = Feed::of_prefix(&store.0, &range, table.revision() + 1);
        let now = clock.now();
        Self {
            probe_at: now + clock.jittered(pace.probe, 0.1).min(pace.probe),
            list_at: now + clock.jittered(pace.resync, 0.1),
            store,
            clock,
            range,
            table,
            published,
            pace,
            feed,
            probing: None,
            probe_sent: now,
            listing: None,
            is_answered: true,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let ended = stop.run_until_cancelled(async {
            loop {
                self.begin();
                let heard = self.hear().await;
                let before = self.table.revision();
                let events = self.take(heard);
                self.publish(before, events);
            }
        });
        if ended.await.is_none() {
            self.published.close();
        }
    }

    /// Sends what is due.
    fn begin(&mut self) {
        let now = self.clock.now();
        if self.probing.is_none() && now >= self.probe_at {
            let (store, range) = (self.store.clone(), self.range.clone());
            self.probing = Some(Box::pin(async move { store.probe(&range).await }));
            (self.probe_sent, self.probe_at) = (now, now + self.pace.probe);
        }
        if self.listing.is_none() && now >= self.list_at {
            let (store, range) = (self.store.clone(), self.range.clone());
            self.table.list_begins(now);
            self.listing = Some(Box::pin(async move { store.list(&range).await }));
            self.list_at = now + self.clock.jittered(self.pace.resync, 0.1);
        }
    }

    async fn hear(&mut self) -> Heard {
        let due = [
            self.probing.is_none().then_some(self.probe_at),
            self.listing.is_none().then_some(self.list_at),
            self.table.next_tick(),
        ];
        let due = due.into_iter().flatten().min().unwrap_or(Instant::FAR_FUTURE);
        tokio::select! {
            fed = self.feed.next() => Heard::Fed(fed),
            probed = answer(&mut self.probing) => Heard::Probed(probed),
            listed = answer(&mut self.listing) => Heard::Listed(listed),
            () = self.clock.sleep_until(due) => Heard::Time,
        }
    }

    fn take(&mut self, heard: Heard) -> Vec<Event> {
        let now = self.clock.now();
        let mut events = match heard {
            Heard::Fed(Fed::Changes { revision, changes }) => self.table.changed(now, revision, changes),
            Heard::Fed(Fed::Broken(error)) => {
                tracing::debug!(range = self.range, %error, "the watch of a cache ended; listing again");
                self.list_at = now;
                Vec::new()
            }
            Heard::Probed(probed) => {
                self.probing = None;
                self.is_answered = probed.is_ok();
                probed.map_or_else(|_| Vec::new(), |probe| self.table.probed(now, self.probe_sent, probe))
            }
            Heard::Listed(listed) => {
                self.listing = None;
                self.is_answered = listed.is_ok();
                self.listed(now, listed)
            }
            Heard::Time => Vec::new(),
        };
        events.extend(self.table.tick(now));
        // The watch owes something for longer than it should take: what it knows may not be all.
        if self.table.unsettled(now).is_some_and(|since| since >= self.pace.probe * 2) && self.listing.is_none() {
            self.list_at = now;
        }
        events
    }

    fn listed(&mut self, now: Instant, listed: Result<Listing, Error>) -> Vec<Event> {
        let listing = match listed {
            Ok(listing) => listing,
            Err(error) => {
                tracing::debug!(range = self.range, %error, "a listing for a cache failed");
                self.list_at = now + self.clock.jittered(LIST_AGAIN, 0.5);
                return Vec::new();
            }
        };
        let (events, rewound) = self.table.listed(now, listing);
        if rewound || self.feed.is_broken() {
            self.feed = Feed::of_prefix(&self.store.0, &self.range, self.table.revision() + 1);
        }
        events
    }

    fn publish(&self, before: i64, events: Vec<Event>) {
        let is_changed = !events.is_empty() || self.table.revision() != before;
        let snapshot = is_changed.then(|| self.table.snapshot());
        let verified = self.table.verified().unwrap_or(Instant::ORIGIN);
        let contact = Contact { verified, is_connected: self.is_answered && self.feed.is_open() };
        self.published.publish(snapshot, contact, events);
    }
}

async fn answer<A>(request: &mut Request<A>) -> Result<A, Error> {
    match request {
        Some(request) => request.await,
        None => pending().await,
    }
}
