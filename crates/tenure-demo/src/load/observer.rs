//! Those who watch: what the services and the lock look like from outside, as any other client would see them.

use std::collections::BTreeMap;

use bytes::Bytes;
use tenure_proto::etcdserverpb::WatchCreateRequest;
use tenure_proto::mvccpb::event::EventType;
use tenure_proto::mvccpb::{Event, KeyValue};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::clock::Moment;
use crate::feed::Feed;
use crate::limits::PAUSE_AFTER_FAILURE;
use crate::load::Shared;
use crate::model::{News, Place};
use crate::store::{Store, key, prefix_end, prefix_range, revision};

/// A service's key was seen to go, with this lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) lease: i64,
    pub(crate) seen: Moment,
}

/// What a watch over a prefix tells.
enum Seen {
    Listed(Vec<KeyValue>),
    Event(Event),
}

/// Tells the services' groups whose leases have ended. Each group takes what concerns it.
pub(crate) async fn services_loop(shared: Shared, node: usize, groups: Vec<mpsc::Sender<Ended>>) {
    let clock = shared.clock;
    let prefix = shared.names.services();
    let mut observer = Observer::new(shared.store, node, prefix);
    loop {
        let Seen::Event(event) = observer.next().await else { continue };
        let lease = event.prev_kv.as_ref().map_or(0, |before| before.lease);
        if event.r#type() != EventType::Delete || lease == 0 {
            continue;
        }
        let ended = Ended { lease, seen: clock.now() };
        for group in &groups {
            // A group that has ended has panicked, which the load's owner notices.
            group.send(ended).await.ok();
        }
    }
}

/// Shows the lock's queue.
pub(crate) async fn lock_loop(shared: Shared, node: usize) {
    let mut keys: BTreeMap<Bytes, Place> = BTreeMap::new();
    let prefix = shared.names.lock();
    let mut observer = Observer::new(shared.store, node, prefix);
    loop {
        match observer.next().await {
            Seen::Listed(all) => keys = all.into_iter().map(place).collect(),
            Seen::Event(event) => {
                let kind = event.r#type();
                let Some(kv) = event.kv else { continue };
                if kind == EventType::Delete {
                    keys.remove(&kv.key);
                } else {
                    keys.extend([place(kv)]);
                }
            }
        }
        let mut places: Vec<_> = keys.values().cloned().collect();
        places.sort_by_key(|place| place.token);
        shared.teller.tell(News::LockQueue { places });
    }
}

fn place(kv: KeyValue) -> (Bytes, Place) {
    let contender = String::from_utf8_lossy(&kv.value).into_owned();
    (kv.key, Place { contender, token: kv.create_revision })
}

/// Lists a prefix once and follows it for ever, over as many watches on as many nodes as it takes, without a gap.
struct Observer {
    store: Store,
    node: usize,
    prefix: String,
    /// The next revision to see; none before the first list.
    from: Option<i64>,
    feed: Option<Feed>,
}

impl Observer {
    fn new(store: Store, node: usize, prefix: String) -> Self {
        Self { store, node, prefix, from: None, feed: None }
    }

    async fn next(&mut self) -> Seen {
        loop {
            let problem = match self.try_next().await {
                Ok(seen) => return seen,
                Err(problem) => problem,
            };
            self.feed = None;
            if problem.code() == Code::OutOfRange {
                // History was compacted under it: only a new list can tell.
                self.from = None;
            }
            self.node = self.store.other(self.node);
            sleep(PAUSE_AFTER_FAILURE).await;
        }
    }

    async fn try_next(&mut self) -> Result<Seen, Status> {
        let Some(from) = self.from else {
            let list = self.store.range(self.node, prefix_range(&self.prefix)).await?;
            self.from = Some(revision(list.header.as_ref()) + 1);
            return Ok(Seen::Listed(list.kvs));
        };
        let feed = match &mut self.feed {
            Some(feed) => feed,
            empty => {
                let create = WatchCreateRequest {
                    key: key(&self.prefix),
                    range_end: prefix_end(&self.prefix),
                    start_revision: from,
                    prev_kv: true,
                    ..WatchCreateRequest::default()
                };
                empty.insert(Feed::open(&self.store, self.node, create).await?)
            }
        };
        let event = feed.next().await?;
        if feed.has_none_ready() {
            self.from = Some(feed.seen_revision + 1);
        }
        Ok(Seen::Event(event))
    }
}
