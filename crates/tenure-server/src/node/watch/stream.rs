//! The bookkeeping of one stream: its watchers and how far each of them was told.
//!
//! No task, no timer, no socket: it is asked for the next message, and answers one, or some work to be done elsewhere,
//! or that there is nothing. Whose turn it is, is in `turns.rs`.
//!
//! A watcher is *up to date* if it has nothing pending: then it was told everything up to `taken`, the revision up to
//! which the hub's marks were complete when they were last taken. Progress is told of nothing else, so it never passes an
//! event that was not told.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tenure_core::command::KeyRange;
use tenure_core::planted::{Bug, is_on};
use tenure_core::state::StateRead;
use tenure_core::{EventId, Revision};
use tenure_storage::state_view::StateView;
use tokio::sync::Notify;

use super::catch_up::CaughtUp;
use super::hub::{LargeHolder, Shared, TooMany, WatchHub};
use super::limits::{STREAM_WATCHERS_MAX, StreamLimits};
use super::pull::Stretch;
use super::registry::{StreamKey, WatcherKey};
use super::types::{CreateWatch, Scope, WatchId, WatchMessage, WatchRefusal};
use super::work::Name;

/// What a watcher has still to look through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// The first event that was not told.
    pub(super) next: EventId,
    pub(super) last: Revision,
}

#[derive(Debug)]
pub(super) struct Watcher {
    key: WatcherKey,
    pub(super) serial: u64,
    pub(super) scope: Arc<Scope>,
    start: Revision,
    pub(super) pending: Option<Pending>,
    progress_notify: bool,
    /// Nothing was told since the last notice of progress was due.
    pub(super) quiet: bool,
    /// The number of the last catch-up read that was for it.
    pub(super) read: u64,
}

/// The queues in which watchers wait for their turn. Each that has something pending is in one of them, or has work
/// under way. A name may outlive its watcher.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Those that may find their events in the ring.
    pub(super) ready: VecDeque<Name>,
    /// Those that find them in what was read last.
    pub(super) caught_up: VecDeque<Name>,
    /// Those that need a read.
    pub(super) lagging: VecDeque<Name>,
    /// Those whose turn is once nothing is being gathered any more, before the ones that are ready.
    pub(super) blocked: VecDeque<Name>,
    /// The same, before those that find their events in what was read last.
    pub(super) caught_up_blocked: VecDeque<Name>,
    /// Those that are caught up have the next turn, if there are any.
    pub(super) caught_up_next: bool,
    /// How many of those that are ready have their turn before the next read, so that more of them can join it.
    pub(super) before_read: usize,
}

impl Lines {
    pub(super) fn all(&mut self) -> [&mut VecDeque<Name>; 5] {
        let Lines { ready, caught_up, lagging, blocked, caught_up_blocked, .. } = self;
        [ready, caught_up, lagging, blocked, caught_up_blocked]
    }
}

/// See the module's header.
pub(crate) struct WatchStream {
    pub(super) hub: Arc<Shared>,
    key: StreamKey,
    pub(super) limits: StreamLimits,
    holds_much: Option<LargeHolder>,
    pub(super) watchers: BTreeMap<WatchId, Watcher>,
    ids: HashMap<WatcherKey, WatchId>,
    next_id: i64,
    serial: u64,
    taken: Revision,
    pub(super) outbox: VecDeque<WatchMessage>,
    pub(super) lines: Lines,
    /// The watchers with something pending.
    pub(super) pending: usize,
    /// The watcher that is told a revision in parts, and the rest of it, unless the next part is being made.
    pub(super) in_fragment: Option<(Name, Option<Stretch>)>,
    pub(super) gathering: bool,
    pub(super) reading: bool,
    /// How many catch-up reads there were; the number of the last.
    pub(super) reads: u64,
    pub(super) caught_up: Option<CaughtUp>,
    /// The watchers whose start is still to come.
    future: BTreeSet<(Revision, WatchId)>,
    progress_wanted: Option<Revision>,
    /// What the hub's figures count as lagging of this stream.
    pub(super) lagging_noted: usize,
}

impl WatchStream {
    /// A stream without watchers. `wake` is notified when there is something to [`WatchStream::collect`].
    pub(crate) fn open(hub: &WatchHub, limits: StreamLimits, wake: Arc<Notify>) -> Result<WatchStream, WatchRefusal> {
        let hub = hub.shared().clone();
        let key = hub.add_stream(wake).map_err(|TooMany| WatchRefusal::TooMany)?;
        Ok(WatchStream {
            hub,
            key,
            limits,
            holds_much: None,
            watchers: BTreeMap::new(),
            ids: HashMap::new(),
            next_id: 0,
            serial: 0,
            taken: Revision(0),
            outbox: VecDeque::new(),
            lines: Lines::default(),
            pending: 0,
            in_fragment: None,
            gathering: false,
            reading: false,
            reads: 0,
            caught_up: None,
            future: BTreeSet::new(),
            progress_wanted: None,
            lagging_noted: 0,
        })
    }

    /// The next message that is ready to be sent. Asked for again, the one before has been taken by the transport.
    pub(crate) fn message(&mut self) -> Option<WatchMessage> {
        let message = self.outbox.pop_front();
        if message.is_none() && self.caught_up.is_none() && !self.reading && !self.gathering {
            self.holds_much = None;
        }
        message
    }

    /// Whether a message is ready.
    pub(crate) fn has_message(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// How much may be gathered now.
    pub(super) fn limits_now(&mut self) -> StreamLimits {
        if self.holds_much.is_none() {
            self.holds_much = self.hub.may_hold_much();
        }
        if self.holds_much.is_some() { self.limits } else { self.limits.small() }
    }

    /// Whether the next message must continue the last one: nothing else may be answered now.
    pub(crate) fn is_in_fragment(&self) -> bool {
        self.in_fragment.is_some()
    }

    /// Makes a watcher, or says why not.
    pub(crate) fn create(&mut self, request: CreateWatch, view: &StateView) {
        if let Err(refusal) = self.try_create(request, view) {
            self.outbox.push_back(WatchMessage::Refused { refusal, revision: view.meta().revision });
        }
    }

    fn try_create(&mut self, request: CreateWatch, view: &StateView) -> Result<(), WatchRefusal> {
        let CreateWatch { id, start, mut scope, progress_notify } = request;
        let (revision, compacted) = (view.meta().revision, view.meta().compacted);
        if start.0 < 0 {
            return Err(WatchRefusal::NegativeStart);
        }
        if scope.range.is_empty() {
            return Err(WatchRefusal::EmptyRange);
        }
        if id.is_some_and(|id| self.watchers.contains_key(&id)) {
            return Err(WatchRefusal::DuplicateId);
        }
        if self.watchers.len() >= STREAM_WATCHERS_MAX {
            return Err(WatchRefusal::TooMany);
        }
        if start.0 > 0 && start < compacted {
            let id = id.unwrap_or_else(|| self.pick_id());
            self.outbox.push_back(WatchMessage::Created { id, revision });
            self.outbox.push_back(WatchMessage::Compacted { id, compacted });
            return Ok(());
        }
        let start = if start.0 == 0 { Revision(revision.0.saturating_add(1)) } else { start };
        scope.range = detached(&scope.range);
        let key = self.hub.add_watcher(self.key, &scope.range, scope.kinds, start);
        let key = key.map_err(|TooMany| WatchRefusal::TooMany)?;
        let id = id.unwrap_or_else(|| self.pick_id());
        self.serial += 1;
        let (serial, scope) = (self.serial, Arc::new(scope));
        let watcher = Watcher { key, serial, scope, start, pending: None, progress_notify, quiet: true, read: 0 };
        self.watchers.insert(id, watcher);
        self.ids.insert(key, id);
        self.future.insert((start, id));
        self.outbox.push_back(WatchMessage::Created { id, revision });
        // What the watcher missed is marked already.
        self.collect();
        Ok(())
    }

    /// etcd's way: ids only rise, and pass over those that the client chose.
    fn pick_id(&mut self) -> WatchId {
        while self.watchers.contains_key(&WatchId(self.next_id)) {
            self.next_id += 1;
        }
        self.next_id += 1;
        WatchId(self.next_id - 1)
    }

    /// Ends a watcher, if there is one of this id.
    pub(crate) fn cancel(&mut self, id: WatchId, view: &StateView) {
        if self.remove(id) {
            self.outbox.push_back(WatchMessage::Canceled { id, revision: view.meta().revision });
        }
    }

    pub(super) fn remove(&mut self, id: WatchId) -> bool {
        let Some(watcher) = self.watchers.remove(&id) else { return false };
        self.pending -= usize::from(watcher.pending.is_some());
        self.ids.remove(&watcher.key);
        self.future.remove(&(watcher.start, id));
        self.hub.remove_watcher(watcher.key, &watcher.scope.range);
        if self.in_fragment.as_ref().is_some_and(|((told, _), _)| *told == id) {
            self.in_fragment = None;
        }
        self.sweep_lines();
        true
    }

    /// Drops the names of watchers that are gone, once they are many.
    fn sweep_lines(&mut self) {
        let waiting: usize = self.lines.all().iter().map(|line| line.len()).sum();
        if waiting > 2 * self.pending + STALE_NAMES_MAX {
            let watchers = &self.watchers;
            for line in self.lines.all() {
                line.retain(|(id, serial)| watchers.get(id).is_some_and(|watcher| watcher.serial == *serial));
            }
        }
    }

    /// Takes what the hub has marked.
    pub(crate) fn collect(&mut self) {
        let (marks, processed) = self.hub.take(self.key);
        self.taken = self.taken.max(processed);
        for mark in marks {
            let Some(id) = self.ids.get(&mark.watcher) else { continue };
            let Some(watcher) = self.watchers.get_mut(id) else { continue };
            match &mut watcher.pending {
                Some(pending) => pending.last = mark.last,
                None => {
                    let next = EventId { revision: mark.first, sub: 0 };
                    watcher.pending = Some(Pending { next, last: mark.last });
                    self.pending += 1;
                    self.lines.ready.push_back((*id, watcher.serial));
                }
            }
        }
        while self.future.first().is_some_and(|(start, _)| has_begun(*start, self.taken)) {
            self.future.pop_first();
        }
    }

    /// Asks for one message that says how far the stream is, at least as far as `view`.
    pub(crate) fn want_progress(&mut self, view: &StateView) {
        let revision = view.meta().revision;
        if self.watchers.is_empty() {
            self.progress_wanted = None;
            self.outbox.push_back(WatchMessage::Progress { id: None, revision });
            return;
        }
        self.progress_wanted = Some(revision);
        self.hub.wake_at(self.key, revision);
    }

    /// Whether a request for progress is still to be answered.
    pub(crate) fn wants_progress(&self) -> bool {
        self.progress_wanted.is_some()
    }

    /// Answers a request for progress if every watcher is as far as that.
    pub(crate) fn try_progress(&mut self) {
        let Some(wanted) = self.progress_wanted else { return };
        self.collect();
        if self.watchers.is_empty() {
            // There is nobody to be told anything, and the hub goes no further if that is so everywhere.
            self.progress_wanted = None;
            self.outbox.push_back(WatchMessage::Progress { id: None, revision: wanted });
            return;
        }
        let told = (self.pending == 0 && self.in_fragment.is_none()) || is_on(Bug::ProgressAhead);
        if self.taken >= wanted && self.future.is_empty() && told {
            self.progress_wanted = None;
            self.outbox.push_back(WatchMessage::Progress { id: None, revision: self.taken });
        }
    }

    /// Answers an open request for progress with what can be said: each watcher that is up to date speaks for itself.
    pub(crate) fn give_up_progress(&mut self) {
        if self.progress_wanted.take().is_some() {
            self.tell_progress(|_| true);
        }
    }

    /// Tells the watchers that want to hear of it how far they are, if nothing else was told since the last time.
    pub(crate) fn notify_progress(&mut self) {
        self.tell_progress(|watcher| watcher.progress_notify && watcher.quiet);
        self.watchers.values_mut().for_each(|watcher| watcher.quiet = true);
    }

    fn tell_progress(&mut self, whom: impl Fn(&Watcher) -> bool) {
        self.collect();
        let revision = self.taken;
        for (id, watcher) in &self.watchers {
            if watcher.pending.is_none() && has_begun(watcher.start, revision) && whom(watcher) {
                self.outbox.push_back(WatchMessage::Progress { id: Some(*id), revision });
            }
        }
    }
}

/// A range in memory of its own: a client's keys lie in the buffer of its request, which may be far larger.
fn detached(range: &KeyRange) -> KeyRange {
    let copy = |key: &Bytes| Bytes::copy_from_slice(key);
    match range {
        KeyRange::One(key) => KeyRange::One(copy(key)),
        KeyRange::Between(start, end) => KeyRange::Between(copy(start), copy(end)),
        KeyRange::From(start) => KeyRange::From(copy(start)),
    }
}

/// Names of watchers that are gone, beside one for each that is there.
const STALE_NAMES_MAX: usize = 64;

/// Whether a watcher from `start` on can be said to be at `revision`. One that waits for the very next revision can: a
/// client that read at a revision and watches from the next one is answered although nothing happens (etcd's issue 17507).
fn has_begun(start: Revision, revision: Revision) -> bool {
    start.0 <= revision.0.saturating_add(1)
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        for (_, watcher) in std::mem::take(&mut self.watchers) {
            self.hub.remove_watcher(watcher.key, &watcher.scope.range);
        }
        self.lines = Lines::default();
        self.note_lagging();
        self.hub.remove_stream(self.key);
    }
}
