//! Watches: every change of some keys, once, in order, whatever becomes of connections and members.
//!
//! ```no_run
//! # async fn f(client: tenure_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use tenure_client::KeyRange;
//!
//! let mut watcher = client.watch(KeyRange::prefix("config/")).open().await?;
//! loop {
//!     let batch = watcher.next().await?;
//!     for event in &batch {
//!         println!("{:?} {:?} at {}", event.kind, event.key(), event.kv.mod_revision);
//!     }
//! }
//! # }
//! ```
//!
//! To begin with what is there, list the keys and watch from the revision after the list's. A watch without a start begins with
//! whatever happens after [`Watch::open`] has returned, or was under way then.
//!
//! # What it is made of
//!
//! `table` says what every watch of a stream is owed; `joiner` makes whole revisions of what servers send in parts; `mailbox` holds
//! what a program has not read; `pulse` says whether a stream is alive; `stream` is the task that has the call; `hub` knows the
//! streams; `relist` helps after a compaction. The first four are pure: they are fed by hand in their tests.

mod error;
mod event;
mod hub;
mod joiner;
mod mailbox;
mod pulse;
mod relist;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod watcher;

use std::future::poll_fn;
use std::time::Duration;

use tenure_proto::etcdserverpb::watch_create_request::FilterType;

pub use error::WatchError;
pub use event::{BatchKind, EventKind, WatchBatch, WatchEvent};
pub(crate) use hub::Hub;
pub use mailbox::WatchCounts;
pub use pulse::WatchPatience;
pub use watcher::Watcher;

use crate::client::Client;
use crate::error::Error;
use crate::ids::Revision;
use crate::kv::KeyRange;
use mailbox::MailboxLimits;
use relist::Known;
use table::Scope;
use watcher::Plan;

/// A revision that takes more memory than this ends its watch, unless that is set: as much as a server would gather at most.
const REVISION_BYTES_MAX: usize = 512 << 20;
/// What a program may leave unread, unless that is set.
const MAILBOX: MailboxLimits = MailboxLimits { events: 4096, bytes: 4 << 20 };

/// What a watch does when the history that it needs next is compacted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnCompacted {
    /// It ends with [`WatchError::Compacted`].
    #[default]
    Error,
    /// It lists the keys at one revision, gives the difference as a batch of the kind [`BatchKind::Relisted`], and goes on from
    /// there. Such a watch remembers the names of all keys in its range. It lists them when it is opened, too, without telling.
    Relist,
}

impl Client {
    /// A watch of some keys, to be opened.
    pub fn watch(&self, range: impl Into<KeyRange>) -> Watch {
        Watch {
            client: self.clone(),
            range: range.into(),
            from: None,
            prev_kv: false,
            progress: false,
            leaves_out: Vec::new(),
            on_compacted: OnCompacted::default(),
            limits: MAILBOX,
            revision_bytes_max: REVISION_BYTES_MAX,
            wants_leader: true,
            timeout: None,
        }
    }
}

/// A watch that is not open yet.
#[derive(Clone, Debug)]
#[must_use = "a watch does nothing until it is opened"]
pub struct Watch {
    client: Client,
    range: KeyRange,
    from: Option<Revision>,
    prev_kv: bool,
    progress: bool,
    leaves_out: Vec<FilterType>,
    on_compacted: OnCompacted,
    limits: MailboxLimits,
    revision_bytes_max: usize,
    wants_leader: bool,
    timeout: Option<Duration>,
}

impl Watch {
    /// Begin with this revision, be it past or to come. Without it, or with 0, the watch begins with the next one.
    pub fn from(mut self, revision: Revision) -> Watch {
        self.from = Some(revision).filter(|revision| *revision != Revision::NONE);
        self
    }

    /// Tell with each event what the key was before.
    pub fn prev_kv(mut self) -> Watch {
        self.prev_kv = true;
        self
    }

    /// Tell only of events of this kind.
    pub fn only(mut self, kind: EventKind) -> Watch {
        self.leaves_out = vec![match kind {
            EventKind::Put => FilterType::Nodelete,
            EventKind::Delete => FilterType::Noput,
        }];
        self
    }

    /// Tell now and then how far the watch is while nothing happens, as batches of the kind [`BatchKind::Progress`]: every few
    /// seconds on Tenure, as often as the server was set up for on etcd (every ten minutes by default).
    pub fn progress(mut self) -> Watch {
        self.progress = true;
        self
    }

    /// What to do when the history that the watch needs next is compacted.
    pub fn on_compacted(mut self, what: OnCompacted) -> Watch {
        self.on_compacted = what;
        self
    }

    /// How much may be delivered and unread, in events and in bytes, at least one revision. 4096 events and 4 MiB unless set. What
    /// comes beyond is fetched again once half of that has been read ([`BatchKind::Lagged`]).
    pub fn unread(mut self, events: usize, bytes: usize) -> Watch {
        self.limits = MailboxLimits { events: events.max(1), bytes };
        self
    }

    /// How much memory a single revision may take, or a list after a compaction. 512 MiB unless set. One that takes more ends the watch
    /// with [`WatchError::TooLarge`].
    pub fn revision_bytes_max(mut self, bytes: usize) -> Watch {
        self.revision_bytes_max = bytes;
        self
    }

    /// Stay with a member that has lost its leader. Without this the watch leaves it for another, because such a
    /// member learns nothing new.
    pub fn without_leader(mut self) -> Watch {
        self.wants_leader = false;
        self
    }

    /// How long [`Watch::open`] may take. As long as any request of the client unless set.
    pub fn timeout(mut self, timeout: Duration) -> Watch {
        self.timeout = Some(timeout);
        self
    }

    /// Opens the watch: returns once a server has made it.
    ///
    /// # Errors
    ///
    /// [`WatchError::Refused`] if a server will not make it, and [`WatchError::Failed`] if no server has made it in time. Servers make
    /// a watch whose start is compacted, and end it then: the first [`Watcher::next`] tells that.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the watch.
    pub async fn open(self) -> Result<Watcher, WatchError> {
        let clock = self.client.clock().clone();
        let deadline = clock.now() + self.timeout.unwrap_or(self.client.options().timeout);
        let is_closed = self.client.is_closed();
        if is_closed {
            return Err(WatchError::Closed);
        }
        let (client, mut from) = (self.client.clone(), self.from);
        let is_relisting = self.on_compacted == OnCompacted::Relist;
        let mut plan = self.plan();
        if is_relisting {
            let at = from.map(|from| Revision(from.0.saturating_sub(1)));
            let listing = plan.listing(&client);
            // Before the first revision there is nothing.
            let listed = match at {
                Some(Revision(..=0)) => Ok(Ok(Some((Revision::NONE, Default::default())))),
                at => clock.timeout(deadline, Box::pin(listing.keys_at(at))).await,
            };
            let listed = listed.map_err(|_| WatchError::Failed(Error::Timeout(Vec::new().into())))??;
            let (revision, keys) = listed.map_or((None, None), |(revision, keys)| (Some(revision), Some(keys)));
            from = from.or(revision.map(Revision::next));
            plan.known = Some(Known::new(keys));
        }
        let mailbox = Hub::open(&client, plan.scope.clone(), from, plan.limits, plan.wants_leader);
        // From here on, dropping it ends the watch.
        let mut watcher = Watcher::new(client, mailbox, plan, from.unwrap_or_default());
        match clock.timeout(deadline, watcher.started()).await {
            Ok(Ok(())) => Ok(watcher),
            Ok(Err(WatchError::Compacted { .. })) if is_relisting => Ok(watcher),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(watcher.why_not()),
        }
    }

    fn plan(self) -> Plan {
        let (key, range_end) = self.client.namespace().wrap_range(self.range.start().clone(), self.range.end().clone());
        // A watch that remembers keys has to see all events.
        let is_relisting = self.on_compacted == OnCompacted::Relist;
        let scope = Scope {
            key,
            range_end,
            prev_kv: self.prev_kv,
            progress: self.progress,
            filters: if is_relisting { Vec::new() } else { self.leaves_out.clone() },
            revision_bytes_max: self.revision_bytes_max,
        };
        let Watch { limits, wants_leader, leaves_out, .. } = self;
        Plan { scope, limits, wants_leader, leaves_out, known: None }
    }
}

impl Watcher {
    /// Waits until a server has made the watch.
    async fn started(&mut self) -> Result<(), WatchError> {
        // Not by self: it is not to be shared between threads, and this future is to be sent between them.
        let mailbox = self.mailbox();
        let from = poll_fn(|context| mailbox.poll_started(context)).await?;
        self.begin(from);
        Ok(())
    }

    /// Why no server has made the watch yet.
    fn why_not(&self) -> WatchError {
        self.mailbox().last_setback().unwrap_or_else(|| WatchError::Failed(Error::Timeout(Vec::new().into())))
    }
}
