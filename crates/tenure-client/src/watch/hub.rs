//! The streams of a client, and which of them a watch goes to.
//!
//! Watches share streams: one stream takes a connection's window, a task and a place at the server, however many watches it has.
//! But what a server sends to one watch waits behind what it sends to the others of its stream, so there is a bound. Each
//! stream has a task of its own; a stream that nobody needs goes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::mailbox::{Attention, Mailbox, MailboxLimits};
use super::stream::StreamTask;
use super::table::{Scope, WatchKey};
use crate::client::Client;
use crate::ids::Revision;

/// Watches of one stream. Thousands would do as well for a server; but a thousand that all catch up after a cut do it
/// four at a time.
pub(super) const STREAM_WATCHES_MAX: usize = 256;

/// See the module's header.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    streams: Mutex<Vec<Arc<Inbox>>>,
    next_key: AtomicU64,
    /// The highest revision that the client has heard of.
    known: AtomicI64,
}

/// What a stream's task is told by others.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) wants_leader: bool,
    pub(super) attention: Arc<Attention>,
    /// Watches that are to be made; bounded as the watches are.
    opening: Mutex<Vec<Opening>>,
    /// Watches of the stream.
    watches: AtomicUsize,
}

/// A watch to be made.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) scope: Scope,
    pub(super) start: Option<Revision>,
}

impl Hub {
    /// Has a watch made, on a stream that there is or on a new one. What becomes of it is told to the mailbox.
    pub(super) fn open(
        client: &Client,
        scope: Scope,
        start: Option<Revision>,
        limits: MailboxLimits,
        wants_leader: bool,
    ) -> Arc<Mailbox> {
        let hub = client.watches();
        let key = WatchKey(hub.next_key.fetch_add(1, Ordering::Relaxed));
        let (mailbox, new) = {
            let mut streams = hub.streams.lock();
            let has_room = |inbox: &&Arc<Inbox>| {
                inbox.wants_leader == wants_leader && inbox.watches.load(Ordering::Relaxed) < STREAM_WATCHES_MAX
            };
            let found = streams.iter().find(has_room).cloned();
            let is_new = found.is_none();
            let inbox = found.unwrap_or_else(|| Arc::new(Inbox { wants_leader, ..Inbox::default() }));
            if is_new {
                streams.push(inbox.clone());
            }
            inbox.watches.fetch_add(1, Ordering::Relaxed);
            let mailbox = Arc::new(Mailbox::new(key, limits, inbox.attention.clone()));
            inbox.opening.lock().push(Opening { mailbox: mailbox.clone(), scope, start });
            inbox.attention.wake();
            (mailbox, is_new.then_some(inbox))
        };
        // Not under the lock: of a client that is closed, the task goes at once, and looks for itself here.
        if let Some(inbox) = new {
            let task = StreamTask::new(client.clone(), inbox);
            drop(client.tasks().spawn("watch stream", task.run()));
        }
        mailbox
    }

    /// Takes a stream out that has nothing to do, unless something came for it.
    pub(super) fn retire(&self, inbox: &Arc<Inbox>) -> bool {
        let mut streams = self.streams.lock();
        let is_idle = inbox.opening.lock().is_empty();
        if is_idle {
            streams.retain(|other| !Arc::ptr_eq(other, inbox));
        }
        is_idle
    }

    /// Takes a stream out whose task ends, whatever came for it.
    pub(super) fn remove(&self, inbox: &Arc<Inbox>) {
        self.streams.lock().retain(|other| !Arc::ptr_eq(other, inbox));
    }

    /// Takes note of a revision that there is, and returns the highest that is known.
    pub(super) fn note(&self, revision: Revision) -> Revision {
        Revision(self.known.fetch_max(revision.0, Ordering::Relaxed).max(revision.0))
    }

    /// Forgets what revisions there are: they were another cluster's.
    pub(super) fn forget(&self) {
        self.known.store(0, Ordering::Relaxed);
    }
}

impl Inbox {
    pub(super) fn take_openings(&self) -> Vec<Opening> {
        std::mem::take(&mut self.opening.lock())
    }

    /// A watch of the stream is over.
    pub(super) fn left(&self) {
        self.watches.fetch_sub(1, Ordering::Relaxed);
    }
}
