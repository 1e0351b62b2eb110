//! Gathers one message for one watcher from runs of events: pure but for the look-up of previous values.
//!
//! A message holds whole revisions. Only to a watcher that takes fragments is a large revision told in parts, and then
//! the parts follow each other without anything else in between, because Go's client joins them by position.

use bytes::Bytes;
use tenure_core::outcome::KeyValue;
use tenure_core::planted::{Bug, is_on};
use tenure_core::row::EventRow;
use tenure_core::{EventId, Revision};

use super::limits::StreamLimits;
use super::ring::Events;
use super::types::{Scope, WatchEvent};

/// A stretch of a watcher's events, in runs that hold all of them.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) runs: Vec<Events>,
    /// The first event that was not told yet.
    pub(super) next: EventId,
    /// The last revision of the stretch.
    pub(super) last: Revision,
    pub(super) origin: Origin,
}

/// Where the events of a stretch are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The ring.
    Recent,
    /// What a stream has read of the history.
    Read,
    /// A copy, of one revision, for one watcher.
    Copy,
}

/// One message's worth.
#[derive(Debug, Default)]
pub(super) struct Pulled {
    pub(super) events: Vec<WatchEvent>,
    /// Where to go on in the stretch; none if it is told.
    pub(super) rest: Option<EventId>,
    /// The rest begins with more of the same revision.
    pub(super) fragment: bool,
    /// This revision, the next one, is too large to be sent whole.
    pub(super) too_large: Option<Revision>,
}

impl Pulled {
    /// Copies what lies in others' memory, for a message that may wait for long.
    pub(super) fn detach(&mut self) {
        for WatchEvent { event, previous } in &mut self.events {
            detach_event(event);
            if let Some(kv) = previous {
                detach(&mut kv.key);
                detach(&mut kv.value);
            }
        }
    }
}

/// An event of the ring keeps the whole log entry alive in which its key and value lie.
fn detach(bytes: &mut Bytes) {
    *bytes = Bytes::copy_from_slice(bytes);
}

fn detach_event(event: &mut EventRow) {
    detach(&mut event.key);
    detach(&mut event.value);
}

impl Stretch {
    /// The rest of a revision that is told in parts, held on to so that nothing can come between them: a copy of the
    /// watcher's events, because a client may take its time between two parts, and the ring must be able to forget.
    pub(super) fn rest_of_revision(self, scope: &Scope, next: EventId) -> Stretch {
        let last = next.revision;
        let rest = Stretch { next, last, ..self };
        if rest.origin == Origin::Copy {
            return rest;
        }
        let copy = |event: &EventRow| {
            let mut event = event.clone();
            detach_event(&mut event);
            event
        };
        let events: Events = rest.events(scope).map(copy).collect();
        Stretch { runs: vec![events], next, last, origin: Origin::Copy }
    }

    /// The events for a watcher, in order.
    fn events<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a EventRow> {
        let next = self.next;
        let runs = self.runs.iter().flat_map(move |run| {
            let skips = is_on(Bug::EventSkippedAtHandOver) && self.origin == Origin::Read;
            let before = |event: &EventRow| event.meta.modified < next || (skips && event.meta.modified == next);
            run[run.partition_point(before)..].iter()
        });
        runs.take_while(|event| event.meta.modified.revision <= self.last).filter(|event| scope.includes(event))
    }

    /// Whether more than `count` of the watcher's events satisfy a condition.
    pub(super) fn has_more_than(&self, count: usize, scope: &Scope, condition: fn(&EventRow) -> bool) -> bool {
        self.events(scope).filter(|event| condition(event)).nth(count).is_some()
    }

    /// Gathers a message.
    pub(super) fn pull<E>(
        &self,
        scope: &Scope,
        limits: &StreamLimits,
        mut prev_kv: impl FnMut(&EventRow) -> Result<Option<KeyValue>, E>,
    ) -> Result<Pulled, E> {
        let mut pulled = Pulled::default();
        let (mut bytes, mut wire_bytes, mut revisions) = (0, 0, 0);
        let mut revision = Revision(0);
        // The first event of the revision, and how many are before it.
        let mut begun = (self.next, 0);
        for event in self.events(scope) {
            let id = event.meta.modified;
            if id.revision != revision {
                if bytes >= limits.message_bytes || revisions >= limits.message_revisions {
                    pulled.rest = Some(id);
                    return Ok(pulled);
                }
                revisions += 1;
                begun = (id, pulled.events.len());
            }
            let parted = |last: &WatchEvent| last.event.meta.is_tombstone() != event.meta.is_tombstone();
            if is_on(Bug::SplitRevision) && id.revision == revision && pulled.events.last().is_some_and(parted) {
                pulled.rest = Some(id);
                return Ok(pulled);
            }
            let previous = if scope.prev_kv { prev_kv(event)? } else { None };
            if scope.fragment {
                let event_bytes = (limits.event_bytes)(event, previous.as_ref());
                if !pulled.events.is_empty() && wire_bytes + event_bytes >= limits.fragment_bytes {
                    pulled.rest = Some(id);
                    pulled.fragment = id.revision == revision;
                    return Ok(pulled);
                }
                wire_bytes += event_bytes;
            }
            revision = id.revision;
            bytes += rough_bytes(event, previous.as_ref());
            if bytes > limits.whole_revision_bytes && !scope.fragment {
                let (first, before) = begun;
                pulled.events.truncate(before);
                if before == 0 {
                    pulled.too_large = Some(revision);
                } else {
                    // What is before it is told first. It may be small enough on its own.
                    pulled.rest = Some(first);
                }
                return Ok(pulled);
            }
            pulled.events.push(WatchEvent { event: event.clone(), previous });
        }
        Ok(pulled)
    }
}

/// What an event weighs in a message, without asking how it is encoded.
fn rough_bytes(event: &EventRow, previous: Option<&KeyValue>) -> usize {
    let previous = previous.map_or(0, |kv| kv.key.len() + kv.value.len());
    size_of::<WatchEvent>() + event.key.len() + event.value.len() + previous
}
