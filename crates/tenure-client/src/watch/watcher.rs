//! The end of a watch that a program holds: reads the mailbox, and lists anew after a compaction if it was asked to.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::FutureExt as _;
use futures::Stream;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tenure_proto::etcdserverpb::watch_create_request::FilterType;
use tenure_proto::mvccpb;

use super::error::WatchError;
use super::event::{BatchKind, WatchBatch, WatchEvent};
use super::hub::Hub;
use super::joiner::Whole;
use super::mailbox::{Letter, Mailbox, MailboxLimits, WatchCounts};
use super::relist::{Known, Listed, Listing, is_delete};
use super::table::Scope;
use crate::client::Client;
use crate::ids::Revision;

/// A watch. It is made by [`Client::watch`].
///
/// It gives every event of its keys once, in order, revision by revision, whatever becomes of connections and members:
/// when a connection is lost, the watch goes on with another one where it was. Only what is in a [`WatchError`] ends it, and every end
/// is told. It is a [`Stream`], too: the error is its last item.
///
/// A program that reads slowly delays nobody: see [`BatchKind::Lagged`]. Dropping the watcher ends the watch.
pub struct Watcher {
    client: Client,
    mailbox: Arc<Mailbox>,
    plan: Plan,
    /// Everything up to it was given.
    revision: Revision,
    state: State,
    /// Of mailboxes before this one.
    counts: WatchCounts,
    /// The stream of batches has given its last item.
    is_told: bool,
}

/// How a watch is made, and made again.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) scope: Scope,
    pub(super) limits: MailboxLimits,
    pub(super) wants_leader: bool,
    /// The kinds of events that the program does not want.
    pub(super) leaves_out: Vec<FilterType>,
    /// What is known of the keys, for a watch that lists anew after a compaction.
    pub(super) known: Option<Known>,
}

enum State {
    Reading,
    /// With the first revision that could still be watched from.
    /// The lock is never taken: it only lets the watcher be shared.
    Listing(Revision, Mutex<BoxFuture<'static, Result<Listed, WatchError>>>),
    Ended(WatchError),
}

impl Watcher {
    pub(super) fn new(client: Client, mailbox: Arc<Mailbox>, plan: Plan, from: Revision) -> Watcher {
        let revision = Revision(from.0.saturating_sub(1));
        let counts = WatchCounts::default();
        Watcher { client, mailbox, plan, revision, state: State::Reading, counts, is_told: false }
    }

    /// The next batch. Waits for one, for as long as nothing happens.
    ///
    /// # Errors
    ///
    /// [`WatchError`]: the watch is over. What was delivered before has been given. Each later call gives the same error.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        poll_fn(|context| self.poll_batch(context)).await
    }

    /// As [`Watcher::next`], for those who poll.
    pub fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Result<WatchBatch, WatchError>> {
        loop {
            match &mut self.state {
                State::Ended(why) => return Poll::Ready(Err(why.clone())),
                State::Reading => match ready!(self.mailbox.poll_letter(context)) {
                    Ok(letter) => {
                        if let Some(batch) = self.batch(letter) {
                            return Poll::Ready(Ok(batch));
                        }
                    }
                    Err(WatchError::Compacted { at }) if self.plan.known.is_some() => {
                        let listing = self.listing();
                        self.state = State::Listing(at, Mutex::new(async move { listing.now().await }.boxed()));
                    }
                    Err(why) => self.state = State::Ended(why),
                },
                State::Listing(at, listed) => match ready!(listed.get_mut().poll_unpin(context)) {
                    Ok(listed) => {
                        let compacted = *at;
                        return Poll::Ready(Ok(self.relisted(compacted, listed)));
                    }
                    Err(why) => self.state = State::Ended(why),
                },
            }
        }
    }

    /// Everything up to this revision was given by [`Watcher::next`]. A watch that is opened from the next one goes on where this
    /// one is.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What the watch has been through.
    pub fn counts(&self) -> WatchCounts {
        let now = self.mailbox.counts();
        WatchCounts { lags: self.counts.lags + now.lags, reconnects: self.counts.reconnects + now.reconnects }
    }

    /// Ends the watch, and waits until the server has confirmed it or the connection to it is gone.
    ///
    /// # Cancellation
    ///
    /// The watch ends all the same.
    pub async fn cancel(self) {
        let mailbox = self.mailbox.clone();
        drop(self);
        poll_fn(|context| mailbox.poll_end(context)).await;
    }

    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// The server has said where it begins.
    pub(super) fn begin(&mut self, from: Revision) {
        self.revision = Revision(from.0.saturating_sub(1));
    }

    fn batch(&mut self, letter: Letter) -> Option<WatchBatch> {
        let kind = match letter {
            Letter::Events(wholes) => {
                let events = wholes.into_iter().flat_map(|Whole { revision, events, .. }| {
                    self.revision = self.revision.max(revision);
                    events
                });
                let events: Vec<mvccpb::Event> = events.collect();
                if let Some(known) = &mut self.plan.known {
                    events.iter().for_each(|event| known.note(event));
                }
                let events = self.shown(events);
                return (!events.is_empty()).then(|| self.told(BatchKind::Changes, events));
            }
            Letter::Progress(revision) => {
                self.revision = self.revision.max(revision);
                BatchKind::Progress
            }
            Letter::Reconnected => BatchKind::Reconnected,
            Letter::Lagged => BatchKind::Lagged,
        };
        Some(self.told(kind, Vec::new()))
    }

    fn relisted(&mut self, compacted: Revision, listed: Listed) -> WatchBatch {
        let told = std::mem::replace(&mut self.revision, listed.revision);
        let known = self.plan.known.get_or_insert_default();
        let (events, is_complete) = known.difference(told, listed);
        self.counts = self.counts();
        let (limits, wants_leader) = (self.plan.limits, self.plan.wants_leader);
        let next = Some(self.revision.next());
        self.mailbox = Hub::open(&self.client, self.plan.scope.clone(), next, limits, wants_leader);
        self.state = State::Reading;
        let events = self.shown(events);
        self.told(BatchKind::Relisted { compacted, is_complete }, events)
    }

    fn told(&self, kind: BatchKind, events: Vec<WatchEvent>) -> WatchBatch {
        WatchBatch { kind, revision: self.revision, events }
    }

    /// The events as the program sees them.
    fn shown(&self, events: Vec<mvccpb::Event>) -> Vec<WatchEvent> {
        let leaves_out = |event: &mvccpb::Event| {
            let kind = if is_delete(event) { FilterType::Nodelete } else { FilterType::Noput };
            self.plan.leaves_out.contains(&kind)
        };
        let wanted = events.into_iter().filter(|event| !leaves_out(event));
        wanted.filter_map(|event| WatchEvent::from_wire(event, self.client.namespace())).collect()
    }

    fn listing(&self) -> Listing {
        self.plan.listing(&self.client)
    }
}

impl Plan {
    pub(super) fn listing(&self, client: &Client) -> Listing {
        let Scope { key, range_end, revision_bytes_max, .. } = self.scope.clone();
        Listing { client: client.clone(), key, range_end, bytes_max: revision_bytes_max }
    }
}

impl Stream for Watcher {
    type Item = Result<WatchBatch, WatchError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let watcher = self.get_mut();
        if watcher.is_told {
            return Poll::Ready(None);
        }
        let batch = ready!(watcher.poll_batch(context));
        watcher.is_told = batch.is_err();
        Poll::Ready(Some(batch))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match &self.state {
            State::Ended(why) => Some(why),
            State::Reading | State::Listing(..) => None,
        };
        f.debug_struct("Watcher")
            .field("key", &self.plan.scope.key)
            .field("revision", &self.revision)
            .field("end", &end)
            .finish_non_exhaustive()
    }
}
