//! What is asked of a watch stream and what it tells, without a wire format.

use tenure_core::Revision;
use tenure_core::command::KeyRange;
use tenure_core::outcome::KeyValue;
use tenure_core::row::EventRow;

/// A watcher's name, unique within its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchId(pub i64);

/// One request on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchRequest {
    /// A watcher is to be made.
    Create(CreateWatch),
    /// A watcher is to end.
    Cancel(WatchId),
    /// How far is the stream?
    Progress,
}

/// A watcher as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateWatch {
    /// The id that the client chose, if it did.
    pub id: Option<WatchId>,
    /// The first revision that counts; 0 for what happens from now on.
    pub start: Revision,
    /// What is watched, and how it is told.
    pub scope: Scope,
    /// Tell now and then how far the watcher is, while nothing else does.
    pub progress_notify: bool,
}

/// What a watcher watches and how it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The keys.
    pub range: KeyRange,
    /// The kinds of events.
    pub kinds: Kinds,
    /// Tell with each event what it replaced or deleted.
    pub prev_kv: bool,
    /// Large revisions may come in parts.
    pub fragment: bool,
}

/// The kinds of events that a watcher is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// Keys that are put.
    pub puts: bool,
    /// Keys that are deleted.
    pub deletes: bool,
}

impl Kinds {
    /// Every event.
    pub const ALL: Kinds = Kinds { puts: true, deletes: true };

    /// Whether deletes, or else puts, are among them.
    pub fn include(self, deletes: bool) -> bool {
        if deletes { self.deletes } else { self.puts }
    }
}

impl Scope {
    /// Whether an event is for the watcher.
    pub fn includes(&self, event: &EventRow) -> bool {
        self.kinds.include(event.meta.is_tombstone()) && self.range.contains(&event.key)
    }
}

/// Why a watcher was not made, or ended without being asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchRefusal {
    /// A start below 0.
    #[error("no revision is negative")]
    NegativeStart,
    /// A range that holds no key.
    #[error("the range is empty")]
    EmptyRange,
    /// The id belongs to another watcher of the stream.
    #[error("the id is taken")]
    DuplicateId,
    /// There are too many watchers already.
    #[error("too many watchers")]
    TooMany,
    /// A revision is too large to be sent whole, as it must be to a watcher that takes no fragments.
    #[error("a revision is too large to be sent whole")]
    TooLarge,
}

/// One message to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchMessage {
    /// The watcher is there. Nothing of it was told before.
    Created {
        /// Its id.
        id: WatchId,
        /// The store's revision.
        revision: Revision,
    },
    /// The watcher was not made.
    Refused {
        /// Why.
        refusal: WatchRefusal,
        /// The store's revision.
        revision: Revision,
    },
    /// The watcher ended, as its client asked. Nothing of it is told afterwards.
    Canceled {
        /// Its id.
        id: WatchId,
        /// The store's revision.
        revision: Revision,
    },
    /// The watcher ended because what it has to tell next is compacted.
    Compacted {
        /// Its id.
        id: WatchId,
        /// The first revision that can still be watched from.
        compacted: Revision,
    },
    /// The watcher ended because of something else.
    Failed {
        /// Its id.
        id: WatchId,
        /// Why.
        refusal: WatchRefusal,
        /// All of the watcher's events up to this revision were told.
        revision: Revision,
    },
    /// Events.
    Events {
        /// The watcher's id.
        id: WatchId,
        /// All of the watcher's events up to this revision are told with these, unless more of the same revision follows.
        revision: Revision,
        /// They, in order; never none.
        events: Vec<WatchEvent>,
        /// The next message has more of the same revision.
        fragment: bool,
    },
    /// Everything up to a revision was told.
    Progress {
        /// The watcher that it is about; none for all of the stream.
        id: Option<WatchId>,
        /// How far it is.
        revision: Revision,
    },
}

/// One event as a watcher is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The event.
    pub event: EventRow,
    /// What the key was before, if that was asked for, existed and is not compacted.
    pub previous: Option<KeyValue>,
}
