//! What every watch of one stream is owed: a pure table.
//!
//! It is fed with what happens (a watch is opened or closed, the stream is there or lost, a message came, a mailbox is full or
//! drained) and says what to send and what to deliver. It knows no task, no channel and no time, so its tests feed it by hand.
//!
//! ```text
//!            stream                 Created               mailbox full
//!  waiting ─────────▶ requested ───────────▶ delivering ──────────────▶ detached
//!     ▲                   │                      │                         │
//!     ├───── lost ────────┴──────────────────────┘                         │
//!     └──────────────────────────── drained ───────────────────────────────┘
//! ```
//!
//! Each watch knows the first revision that was not delivered. Wherever it goes on, it goes on there: with another stream,
//! at another member, or on the same stream after its reader was slow. A watch without a start gets one from the server's first
//! answer, so that even a stream that breaks before the first event loses nothing. Ids are never used twice on a
//! stream, so what a server still tells of a watch that went away is recognised and dropped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::watch_create_request::FilterType;
use tenure_proto::etcdserverpb::watch_request::RequestUnion;
use thiserror::Error;

use super::joiner::{Disorder, Joiner, Whole};
use crate::ids::Revision;

/// A watch's name within its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WatchKey(pub(super) u64);

/// What a watch asks of a server.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub(super) key: Bytes,
    pub(super) range_end: Bytes,
    pub(super) prev_kv: bool,
    pub(super) progress: bool,
    pub(super) filters: Vec<FilterType>,
    /// A revision that takes more memory than this ends the watch.
    pub(super) revision_bytes_max: usize,
}

/// Something that the table wants done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// The server has made the watch, and will tell everything from this revision on.
    Started(WatchKey, Revision),
    /// Whole revisions, in order, that were not delivered before.
    Deliver(WatchKey, Vec<Whole>),
    /// There is nothing before or at this revision that was not delivered.
    Progress(WatchKey, Revision),
    /// The watch is over, and no longer in the table.
    End(WatchKey, End),
    /// A watch that was closed is gone at the server, too, as far as can be known.
    Closed(WatchKey),
}

/// Why a watch is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// What it has to tell next is compacted; the first revision that can still be had, if the server said so.
    Compacted(Revision),
    /// The server would not.
    Refused(String),
    /// This revision is too large.
    TooLarge(Revision),
}

/// Why a stream cannot be used any longer. Its watches can go on with another one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Unusable {
    #[error("the server answered a request that was not made")]
    Unasked,
    #[error("the server told of a watch before it had made it")]
    TooEarly,
    #[error("the server told of progress in the middle of a revision")]
    ProgressWithin,
    #[error("{0}")]
    Disorder(#[from] Disorder),
    /// The server takes the stream's token no longer.
    #[error("{0}")]
    Token(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is asked: there is no stream.
    Waiting,
    /// Under this id; the answer is not there.
    Requested(i64),
    /// Under this id.
    Delivering(i64),
    /// Its reader has too much to read.
    Detached,
}

#[derive(Debug)]
struct Watch {
    scope: Scope,
    /// The first revision that was not delivered; none for a watch that has no start yet.
    next: Option<Revision>,
    phase: Phase,
    joiner: Joiner,
}

/// Requests that the server answers in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Watch(i64),
    Knock,
}

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Table {
    watches: BTreeMap<WatchKey, Watch>,
    /// The ids that stand for a watch on this stream.
    ids: BTreeMap<i64, WatchKey>,
    /// Ids that were cancelled and whose end is not confirmed; with the watch if it was closed.
    leaving: BTreeMap<i64, Option<WatchKey>>,
    asked: VecDeque<Asked>,
    requests: VecDeque<RequestUnion>,
    last_id: i64,
    is_connected: bool,
    /// Whether what is said of a whole stream holds for each of its watches.
    trusts_stream_progress: bool,
}

impl Table {
    /// Takes a watch in.
    pub(super) fn open(&mut self, key: WatchKey, scope: Scope, start: Option<Revision>) {
        let watch = Watch { scope, next: start, phase: Phase::Waiting, joiner: Joiner::default() };
        self.watches.insert(key, watch);
        self.request(key);
    }

    /// Ends a watch because its reader wants no more. [`Action::Closed`] follows, at once or later.
    pub(super) fn close(&mut self, key: WatchKey) -> Option<Action> {
        let watch = self.watches.remove(&key)?;
        match watch.phase {
            Phase::Waiting | Phase::Detached => Some(Action::Closed(key)),
            Phase::Requested(id) | Phase::Delivering(id) => {
                self.leave(id, Some(key));
                None
            }
        }
    }

    /// A stream is there. Until it answers, requests can be taken for it.
    pub(super) fn connected(&mut self, trusts_stream_progress: bool) {
        self.is_connected = true;
        self.trusts_stream_progress = trusts_stream_progress;
        let waiting: Vec<WatchKey> = self.watches.keys().copied().collect();
        waiting.into_iter().for_each(|key| self.request(key));
    }

    /// What is said of the whole stream holds for each of its watches.
    pub(super) fn trust_stream_progress(&mut self) {
        self.trusts_stream_progress = true;
    }

    /// The stream is gone.
    pub(super) fn lost(&mut self) -> Vec<Action> {
        self.is_connected = false;
        self.asked.clear();
        self.requests.clear();
        self.ids.clear();
        for watch in self.watches.values_mut() {
            watch.joiner.forget();
            if watch.phase != Phase::Detached {
                watch.phase = Phase::Waiting;
            }
        }
        // A server forgets the watches of a stream that is gone.
        std::mem::take(&mut self.leaving).into_values().flatten().map(Action::Closed).collect()
    }

    /// A watch's reader has too much to read. Nothing from `next` on was taken.
    pub(super) fn detach(&mut self, key: WatchKey, next: Revision) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        watch.next = Some(next);
        watch.joiner.forget();
        let phase = std::mem::replace(&mut watch.phase, Phase::Detached);
        if let Phase::Requested(id) | Phase::Delivering(id) = phase {
            self.leave(id, None);
        }
    }

    /// The reader has room again.
    pub(super) fn attach(&mut self, key: WatchKey) {
        if let Some(watch) = self.watches.get_mut(&key)
            && watch.phase == Phase::Detached
        {
            watch.phase = Phase::Waiting;
            self.request(key);
        }
    }

    /// Asks how far the stream is.
    pub(super) fn ask_progress(&mut self) {
        self.requests.push_back(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    }

    /// Asks for what cannot be had, a watch on no key: every server answers that at once and in order, however its
    /// watches stand. (etcd answers a request for progress only when all watches are up to date, and not at all for one that
    /// waits for the next revision.)
    pub(super) fn knock(&mut self) {
        let nothing = pb::WatchCreateRequest { key: "b".into(), range_end: "a".into(), ..Default::default() };
        self.requests.push_back(RequestUnion::CreateRequest(nothing));
        self.asked.push_back(Asked::Knock);
    }

    /// The next request to send.
    pub(super) fn next_request(&mut self) -> Option<pb::WatchRequest> {
        let request = self.requests.pop_front()?;
        Some(pb::WatchRequest { request_union: Some(request) })
    }

    pub(super) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Whether nobody watches, and nothing is left to be confirmed.
    pub(super) fn is_empty(&self) -> bool {
        self.watches.is_empty() && self.leaving.is_empty()
    }

    /// The watches, in the order in which they were opened.
    pub(super) fn keys(&self) -> impl Iterator<Item = WatchKey> {
        self.watches.keys().copied()
    }

    /// Takes a message. After an error the stream is of no use.
    pub(super) fn message(&mut self, message: pb::WatchResponse) -> Result<Vec<Action>, Unusable> {
        if message.created {
            return self.created(message);
        }
        if message.canceled {
            return Ok(self.canceled(message)?.into_iter().collect());
        }
        if message.events.is_empty() {
            return self.progress(&message);
        }
        self.events(message)
    }

    fn request(&mut self, key: WatchKey) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        if !self.is_connected || watch.phase != Phase::Waiting {
            return;
        }
        self.last_id += 1;
        let id = self.last_id;
        watch.phase = Phase::Requested(id);
        self.ids.insert(id, key);
        self.asked.push_back(Asked::Watch(id));
        let create = pb::WatchCreateRequest {
            key: watch.scope.key.clone(),
            range_end: watch.scope.range_end.clone(),
            start_revision: watch.next.map_or(0, |next| next.0),
            // Also for those who do not ask: it moves `next` on while nothing happens, so that compaction does not overtake
            // a quiet watch.
            progress_notify: true,
            filters: watch.scope.filters.iter().map(|filter| i32::from(*filter)).collect(),
            prev_kv: watch.scope.prev_kv,
            watch_id: id,
            fragment: true,
        };
        self.requests.push_back(RequestUnion::CreateRequest(create));
    }

    fn leave(&mut self, id: i64, closed: Option<WatchKey>) {
        self.ids.remove(&id);
        self.leaving.insert(id, closed);
        self.requests.push_back(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: id }));
    }

    fn created(&mut self, message: pb::WatchResponse) -> Result<Vec<Action>, Unusable> {
        let Asked::Watch(id) = self.asked.pop_front().ok_or(Unusable::Unasked)? else {
            // Should a server make the watch on nothing, it goes away again. It tells nothing.
            if !message.canceled {
                self.leave(message.watch_id, None);
            }
            return Ok(Vec::new());
        };
        if message.canceled {
            return Ok(self.refused(id, message)?.into_iter().collect());
        }
        if message.watch_id != id {
            return Err(Unusable::Unasked);
        }
        let Some(watch) = self.ids.get(&id).and_then(|key| self.watches.get_mut(key)) else {
            // It was cancelled before it was made. The confirmation follows.
            return Ok(Vec::new());
        };
        watch.phase = Phase::Delivering(id);
        let next = *watch.next.get_or_insert(revision_of(&message).next());
        Ok(self.ids.get(&id).map(|key| Action::Started(*key, next)).into_iter().collect())
    }

    /// The end of the watch of this id, which the server brought about.
    fn refused(&mut self, id: i64, message: pb::WatchResponse) -> Result<Option<Action>, Unusable> {
        if let Some(closed) = self.leaving.remove(&id) {
            return Ok(closed.map(Action::Closed));
        }
        if message.compact_revision == 0 && is_about_token(&message.cancel_reason) {
            return Err(Unusable::Token(message.cancel_reason));
        }
        let Some(key) = self.ids.remove(&id) else { return Ok(None) };
        self.watches.remove(&key);
        let end = match message.compact_revision {
            0 if message.cancel_reason.contains(COMPACTED) => End::Compacted(Revision::NONE),
            0 => End::Refused(message.cancel_reason),
            oldest => End::Compacted(Revision(oldest)),
        };
        Ok(Some(Action::End(key, end)))
    }

    fn canceled(&mut self, message: pb::WatchResponse) -> Result<Option<Action>, Unusable> {
        let id = message.watch_id;
        self.refused(id, message)
    }

    fn events(&mut self, message: pb::WatchResponse) -> Result<Vec<Action>, Unusable> {
        let id = message.watch_id;
        // Late news of a watch that went away has no reader.
        let Some(key) = self.ids.get(&id).copied() else { return Ok(Vec::new()) };
        let Some(watch) = self.watches.get_mut(&key) else { return Ok(Vec::new()) };
        let (Phase::Delivering(_), Some(next)) = (watch.phase, watch.next) else { return Err(Unusable::TooEarly) };
        let wholes = watch.joiner.take(message.events, message.fragment, next)?;
        let mut actions = Vec::new();
        if let Some(last) = wholes.last() {
            watch.next = Some(last.revision.next());
            actions.push(Action::Deliver(key, wholes));
        }
        if watch.joiner.held_bytes() > watch.scope.revision_bytes_max
            && let Some(held) = watch.joiner.held()
        {
            self.watches.remove(&key);
            self.leave(id, None);
            actions.push(Action::End(key, End::TooLarge(held)));
        }
        Ok(actions)
    }

    fn progress(&mut self, message: &pb::WatchResponse) -> Result<Vec<Action>, Unusable> {
        let revision = revision_of(message);
        if message.watch_id >= 0 {
            let Some(key) = self.ids.get(&message.watch_id).copied() else { return Ok(Vec::new()) };
            return Ok(self.progress_of(key, revision)?.into_iter().collect());
        }
        let mut actions = Vec::new();
        if self.trusts_stream_progress {
            let keys: BTreeSet<WatchKey> = self.ids.values().copied().collect();
            for key in keys {
                actions.extend(self.progress_of(key, revision)?);
            }
        }
        Ok(actions)
    }

    fn progress_of(&mut self, key: WatchKey, revision: Revision) -> Result<Option<Action>, Unusable> {
        let Some(watch) = self.watches.get_mut(&key) else { return Ok(None) };
        let (Phase::Delivering(_), Some(next)) = (watch.phase, watch.next) else { return Ok(None) };
        if watch.joiner.held().is_some() {
            return Err(Unusable::ProgressWithin);
        }
        if revision.next() < next {
            return Ok(None);
        }
        watch.next = Some(revision.next());
        Ok(watch.scope.progress.then_some(Action::Progress(key, revision)))
    }
}

/// How etcd says that a start is compacted when it refuses the watch at once.
const COMPACTED: &str = "required revision has been compacted";

/// Whether a server ended a watch because of the token that the stream was opened with. Another one may do.
fn is_about_token(reason: &str) -> bool {
    reason.contains("invalid auth token") || reason.contains("revision of auth store is old")
}

pub(super) fn revision_of(message: &pb::WatchResponse) -> Revision {
    Revision(message.header.as_ref().map_or(0, |header| header.revision))
}
