//! Whose turn it is: the watchers of a stream that have something pending get one message each, in turn.
//!
//! Events come from the ring if it reaches back far enough, else from what was last read of the history. One read serves
//! all watchers at the front of the line that are near each other; one that is elsewhere gets the next read. So neither a
//! watcher that is far behind nor one that is always busy keeps the others of its stream waiting.

use std::sync::Arc;

use tenure_core::planted::{Bug, is_on};
use tenure_core::row::EventRow;
use tenure_core::state::StateRead;
use tenure_core::{EventId, Revision};
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;

use super::catch_up::CatchUpRead;
use super::limits::TURNS_MAX;
use super::prev_kvs::{find_prev_kv, may_have_prev_kv};
use super::pull::{Origin, Pulled, Stretch};
use super::range_index::RangeIndex;
use super::stream::{Lines, Pending, WatchStream};
use super::types::{WatchMessage, WatchRefusal};
use super::work::{Gather, Gathered, Name, Source, Work, WorkDone, recent};

/// Gives the newest view.
pub(crate) type Views<'a> = &'a dyn Fn() -> Arc<StateView>;

/// What a stream does next.
pub(crate) enum Turn {
    /// There may be messages now, and there may be more turns.
    More,
    /// Something that takes time, to be done by [`Work::run`] and brought back to [`WatchStream::finish`].
    Work(Work),
    /// Nothing, until the hub, a request or a result comes.
    Idle,
}

impl WatchStream {
    /// Whether [`WatchStream::turn`] would do anything.
    pub(crate) fn has_turn(&self) -> bool {
        if let Some((_, rest)) = &self.in_fragment {
            return rest.is_some();
        }
        let lines = &self.lines;
        let has_blocked = !lines.blocked.is_empty() || !lines.caught_up_blocked.is_empty();
        let is_free = has_blocked && !self.gathering;
        is_free || !lines.ready.is_empty() || !lines.caught_up.is_empty() || self.may_read()
    }

    /// Goes on: leaves messages, or hands out work.
    pub(crate) fn turn(&mut self, views: Views<'_>) -> Result<Turn, StorageError> {
        let mut turn = Turn::More;
        for _ in 0..TURNS_MAX {
            if !self.outbox.is_empty() || !matches!(turn, Turn::More) {
                break;
            }
            turn = self.one_turn(views)?;
        }
        self.tidy_up();
        Ok(turn)
    }

    fn one_turn(&mut self, views: Views<'_>) -> Result<Turn, StorageError> {
        if let Some((name, rest)) = &mut self.in_fragment {
            let name = *name;
            return match rest.take() {
                Some(rest) => self.gather(name, rest, views),
                None => Ok(Turn::Idle),
            };
        }
        if self.may_read() {
            return Ok(self.catch_up(views));
        }
        let Some(name) = self.next_in_line() else { return Ok(Turn::Idle) };
        let Some(pending) = self.pending_of(name) else { return Ok(Turn::More) };
        match self.stretch(name, pending) {
            Some(stretch) => self.gather(name, stretch, views),
            None => {
                if self.lines.lagging.is_empty() {
                    self.lines.before_read = self.lines.ready.len();
                }
                self.lines.lagging.push_back(name);
                Ok(Turn::More)
            }
        }
    }

    /// Those that are caught up and those that are ready alternate, as long as there are both.
    fn next_in_line(&mut self) -> Option<Name> {
        let caught_up_first = self.lines.caught_up_next;
        let name = self.next_of(caught_up_first);
        self.lines.caught_up_next = name.is_some() != caught_up_first;
        name.or_else(|| self.next_of(!caught_up_first))
    }

    fn next_of(&mut self, caught_up: bool) -> Option<Name> {
        let lines = &mut self.lines;
        let blocked = if caught_up { &mut lines.caught_up_blocked } else { &mut lines.blocked };
        if !self.gathering
            && let Some(name) = blocked.pop_front()
        {
            return Some(name);
        }
        if caught_up {
            return lines.caught_up.pop_front();
        }
        let name = lines.ready.pop_front()?;
        lines.before_read = lines.before_read.saturating_sub(1);
        Some(name)
    }

    fn may_read(&self) -> bool {
        let lines = &self.lines;
        let others_first = lines.before_read > 0 && !lines.ready.is_empty();
        let is_used_up = lines.caught_up.is_empty() && lines.caught_up_blocked.is_empty();
        !self.reading && !lines.lagging.is_empty() && is_used_up && !others_first
    }

    fn pending_of(&self, (id, serial): Name) -> Option<Pending> {
        self.watchers.get(&id).filter(|watcher| watcher.serial == serial)?.pending
    }

    /// The events that a watcher has to look through next, if they are at hand.
    fn stretch(&self, name: Name, pending: Pending) -> Option<Stretch> {
        let next = pending.next;
        if let Some(stretch) = recent(&self.hub, pending, &self.limits) {
            return Some(stretch);
        }
        let caught_up = self.caught_up.as_ref().filter(|_| self.was_read(name, next.revision))?;
        let (runs, last) = (vec![caught_up.events.clone()], pending.last.min(caught_up.last));
        Some(Stretch { runs, next, last, origin: Origin::Read })
    }

    /// Whether the last read has a watcher's events of a revision.
    fn was_read(&self, (id, _): Name, revision: Revision) -> bool {
        let is_for_it = self.watchers.get(&id).is_some_and(|watcher| watcher.read == self.reads);
        let reaches = |first: Revision, last: Revision| (first..=last).contains(&revision);
        is_for_it && self.caught_up.as_ref().is_some_and(|caught_up| reaches(caught_up.first, caught_up.last))
    }

    /// Makes a message of a watcher's events, or has it made if that takes time.
    fn gather(&mut self, name: Name, stretch: Stretch, views: Views<'_>) -> Result<Turn, StorageError> {
        let Some(watcher) = self.watchers.get(&name.0) else { return Ok(Turn::More) };
        let scope = watcher.scope.clone();
        let is_long = scope.prev_kv && stretch.has_more_than(self.limits.inline_prev_kvs, &scope, may_have_prev_kv);
        // While a revision is told in parts nothing else is, so it must not begin while another message is being made.
        if self.gathering && (is_long || scope.fragment) {
            let Lines { blocked, caught_up_blocked, .. } = &mut self.lines;
            let line = if stretch.origin == Origin::Read { caught_up_blocked } else { blocked };
            line.push_back(name);
            return Ok(Turn::More);
        }
        if is_long {
            self.gathering = true;
            let (hub, limits, source) = (self.hub.clone(), self.limits_now(), Source::of(stretch));
            return Ok(Turn::Work(Work::Gather(Box::new(Gather { hub, name, scope, limits, source }))));
        }
        let limits = self.limits_now();
        let mut view = None;
        let pulled = stretch
            .pull(&scope, &limits, |event: &EventRow| find_prev_kv(&self.hub, view.get_or_insert_with(views), event))?;
        self.told(Gathered::new(name, &scope, stretch, pulled));
        Ok(Turn::More)
    }

    /// Leaves a message and lets its watcher stand in line again.
    fn told(&mut self, Gathered { name, last, pulled, rest: rest_of_revision }: Gathered) {
        let (id, _) = name;
        let Pulled { events, rest, fragment, too_large } = pulled;
        self.in_fragment = None;
        if let Some(too_large) = too_large {
            self.remove(id);
            let (refusal, revision) = (WatchRefusal::TooLarge, Revision(too_large.0.saturating_sub(1)));
            self.outbox.push_back(WatchMessage::Failed { id, refusal, revision });
            return;
        }
        let next = rest.unwrap_or(EventId { revision: Revision(last.0.saturating_add(1)), sub: 0 });
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let Some(pending) = &mut watcher.pending else { return };
        if !events.is_empty() {
            watcher.quiet = false;
        }
        let complete = (next.revision > pending.last).then_some(pending.last);
        if complete.is_some() {
            watcher.pending = None;
            self.pending -= 1;
        } else {
            pending.next = next;
            if is_on(Bug::EventToldTwice) && next.revision > last && watcher.read == self.reads {
                pending.next = EventId { revision: last, sub: 0 };
            }
            if rest_of_revision.is_some() {
                self.in_fragment = Some((name, rest_of_revision));
            } else if self.was_read(name, next.revision) {
                self.lines.caught_up.push_back(name);
            } else {
                self.lines.ready.push_back(name);
            }
        }
        if let Some(last) = events.last() {
            self.hub.counters.note_sent(events.len());
            // As etcd does with a watcher that has caught up. If more is due, the header must not pass it: some clients resume
            // after the header's revision.
            let revision = complete.unwrap_or(last.event.meta.modified.revision);
            self.outbox.push_back(WatchMessage::Events { id, revision, events, fragment });
        }
    }

    /// Reads on for those that are behind the recent events.
    fn catch_up(&mut self, views: Views<'_>) -> Turn {
        let Some(name) = self.lines.lagging.front().copied() else { return Turn::Idle };
        let Some(pending) = self.pending_of(name) else {
            self.lines.lagging.pop_front();
            return Turn::More;
        };
        let first = pending.next.revision;
        let compacted = views().meta().compacted;
        if first < compacted && is_on(Bug::CompactionUntold) {
            let pending = self.watchers.get_mut(&name.0).and_then(|watcher| watcher.pending.as_mut());
            let next = EventId { revision: compacted, sub: 0 };
            pending.into_iter().for_each(|pending| (pending.next, pending.last) = (next, pending.last.max(compacted)));
            return Turn::More;
        }
        if first < compacted {
            self.lines.lagging.pop_front();
            self.remove(name.0);
            self.outbox.push_back(WatchMessage::Compacted { id: name.0, compacted });
            return Turn::More;
        }
        Turn::Work(Work::CatchUp(Box::new(self.plan_read(first))))
    }

    /// A read from `first` on for the watchers that are at the front of the line.
    fn plan_read(&mut self, first: Revision) -> CatchUpRead {
        self.reading = true;
        self.reads += 1;
        self.hub.counters.note_catch_up_read();
        let mut ranges = RangeIndex::new();
        let mut last = first;
        for (id, serial) in self.lines.lagging.iter().take(self.limits.catch_up_watchers) {
            let Some(watcher) = self.watchers.get_mut(id).filter(|watcher| watcher.serial == *serial) else { continue };
            let Some(pending) = watcher.pending else { continue };
            watcher.read = self.reads;
            ranges.add(&watcher.scope.range, ());
            last = last.max(pending.last);
        }
        CatchUpRead { ranges, first, last, limits: self.limits_now() }
    }

    /// Brings back what work has found.
    pub(crate) fn finish(&mut self, done: WorkDone) {
        match done {
            WorkDone::CaughtUp(caught_up) => {
                self.reading = false;
                self.caught_up = Some(caught_up);
                self.lines.before_read = self.lines.ready.len();
                // Those that the read was for are still at the front: others joined the line at its end.
                let served = self.limits.catch_up_watchers.min(self.lines.lagging.len());
                let served: Vec<Name> = self.lines.lagging.drain(..served).collect();
                let is_served = |name: &Name| {
                    self.pending_of(*name).is_some_and(|pending| self.was_read(*name, pending.next.revision))
                };
                let (served, others): (Vec<Name>, Vec<Name>) = served.into_iter().partition(is_served);
                self.lines.caught_up.extend(served);
                others.into_iter().rev().for_each(|name| self.lines.lagging.push_front(name));
            }
            WorkDone::Gathered(gathered) => {
                self.gathering = false;
                if self.pending_of(gathered.name).is_some() {
                    self.told(gathered);
                }
            }
            WorkDone::Missed(name) => {
                self.gathering = false;
                self.lines.ready.push_front(name);
            }
        }
        self.tidy_up();
    }

    /// Lets go of what nobody waits for any more.
    fn tidy_up(&mut self) {
        if self.lines.caught_up.is_empty() && self.lines.caught_up_blocked.is_empty() {
            self.caught_up = None;
        }
        self.note_lagging();
    }

    pub(super) fn note_lagging(&mut self) {
        let Lines { lagging, caught_up, caught_up_blocked, .. } = &self.lines;
        let lagging = lagging.len() + caught_up.len() + caught_up_blocked.len();
        self.hub.counters.note_lagging(lagging, self.lagging_noted);
        self.lagging_noted = lagging;
    }
}
