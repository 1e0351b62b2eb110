//! Who watches what, and which of them have events waiting: no event is ever queued for a watcher, only the stretch of
//! revisions that it has to look through.
//!
//! Every watcher is in here from its creation on, whether it is up to date or far behind. One that is far behind simply
//! has a long stretch marked. So there is no moment at which a watcher passes from one set to another, and none at which
//! an event could fall between them.

use std::sync::Arc;

use tenure_core::Revision;
use tenure_core::command::KeyRange;
use tenure_core::row::EventRow;
use tokio::sync::Notify;

use super::limits::{MATCHED_EVENTS_MAX, MATCHED_VISITS_MAX};
use super::range_index::RangeIndex;
use super::types::Kinds;

/// A watcher's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct WatcherKey(u32);

/// A stream's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamKey(u32);

/// The revisions that a watcher has to look through: every event for it that was not there before is among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) watcher: WatcherKey,
    pub(super) first: Revision,
    pub(super) last: Revision,
}

#[derive(Debug)]
struct Watcher {
    stream: StreamKey,
    range: KeyRange,
    /// Its place among the members of its range.
    place: usize,
    kinds: Kinds,
    /// Nothing before this revision is for it.
    start: Revision,
    marked: Option<(Revision, Revision)>,
}

#[derive(Debug)]
struct Stream {
    wake: Arc<Notify>,
    /// The watchers that are marked. May name one that is gone, or not marked any more.
    marked: Vec<WatcherKey>,
    /// Whether it is among those to wake.
    to_wake: bool,
    /// Wake it when this revision is processed, marks or not.
    wake_at: Option<Revision>,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Registry {
    index: RangeIndex<WatcherKey>,
    watchers: Slab<Watcher>,
    streams: Slab<Stream>,
    /// Every event up to this revision has left its marks.
    processed: Revision,
    to_wake: Vec<StreamKey>,
    /// The streams that have a `wake_at`.
    waiting: Vec<StreamKey>,
}

impl Registry {
    pub(super) fn new() -> Registry {
        Registry {
            index: RangeIndex::new(),
            watchers: Slab::default(),
            streams: Slab::default(),
            processed: Revision(0),
            to_wake: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// How many watchers there are.
    pub(super) fn watchers(&self) -> usize {
        self.watchers.len
    }

    /// How many streams there are.
    pub(super) fn streams(&self) -> usize {
        self.streams.len
    }

    pub(super) fn add_stream(&mut self, wake: Arc<Notify>) -> StreamKey {
        StreamKey(self.streams.insert(Stream { wake, marked: Vec::new(), to_wake: false, wake_at: None }))
    }

    /// Removes a stream, whose watchers are gone already.
    pub(super) fn remove_stream(&mut self, key: StreamKey) {
        self.streams.remove(key.0);
        self.to_wake.retain(|stream| *stream != key);
        self.waiting.retain(|stream| *stream != key);
    }

    /// Adds a watcher of events from `start` on. What is processed already is marked at once.
    pub(super) fn add_watcher(
        &mut self,
        stream: StreamKey,
        range: &KeyRange,
        kinds: Kinds,
        start: Revision,
    ) -> WatcherKey {
        let watcher = Watcher { stream, range: range.clone(), place: 0, kinds, start, marked: None };
        let key = WatcherKey(self.watchers.insert(watcher));
        let place = self.index.add(range, key);
        if let Some(watcher) = self.watchers.get_mut(key.0) {
            watcher.place = place;
        }
        if start <= self.processed {
            self.mark(key, start, self.processed);
        }
        key
    }

    pub(super) fn remove_watcher(&mut self, key: WatcherKey) {
        let Some(watcher) = self.watchers.remove(key.0) else { return };
        if let Some(moved) = self.index.remove(&watcher.range, watcher.place)
            && let Some(moved) = self.watchers.get_mut(moved.0)
        {
            moved.place = watcher.place;
        }
    }

    /// Lets events, which follow what is processed, leave their marks, until that is enough at a time. Older ones are
    /// passed over. Returns how many were done, of the whole revisions that are given; these revisions are whole, too.
    pub(super) fn process(&mut self, events: &[EventRow]) -> usize {
        let Registry { index, watchers, streams, to_wake, processed, .. } = self;
        let (mut done, mut visits, mut last) = (0, 0, *processed);
        for event in events {
            let revision = event.meta.modified.revision;
            if revision > last && (done >= MATCHED_EVENTS_MAX || visits >= MATCHED_VISITS_MAX) {
                break;
            }
            done += 1;
            if revision <= *processed {
                continue;
            }
            last = revision;
            let deletes = event.meta.is_tombstone();
            index.visit(&event.key, |members| {
                visits += 1;
                // What follows is the same for all events of a kind in a revision.
                if !members.sees_first(revision, deletes) {
                    return;
                }
                visits += members.as_slice().len();
                for key in members.as_slice() {
                    let Some(watcher) = watchers.get_mut(key.0) else { continue };
                    if watcher.start <= revision && watcher.kinds.include(deletes) {
                        mark(watcher, *key, revision, revision, streams, to_wake);
                    }
                }
            });
        }
        self.processed = last;
        self.wake_waiting();
        done
    }

    /// Goes on to a revision without knowing the events in between: every watcher has to look through them.
    pub(super) fn skip_to(&mut self, revision: Revision) {
        if revision <= self.processed {
            return;
        }
        let first = Revision(self.processed.0 + 1);
        self.processed = revision;
        let Registry { watchers, streams, to_wake, .. } = self;
        for (place, watcher) in watchers.iter_mut() {
            let first = first.max(watcher.start);
            if first <= revision {
                mark(watcher, WatcherKey(place), first, revision, streams, to_wake);
            }
        }
        self.wake_waiting();
    }

    /// Takes the marks of a stream's watchers, and the revision up to which they are complete.
    pub(super) fn take(&mut self, key: StreamKey) -> (Vec<Mark>, Revision) {
        let Some(stream) = self.streams.get_mut(key.0) else { return (Vec::new(), self.processed) };
        let mut marks = Vec::with_capacity(stream.marked.len());
        for watcher in stream.marked.drain(..) {
            let Some(entry) = self.watchers.get_mut(watcher.0).filter(|entry| entry.stream == key) else { continue };
            if let Some((first, last)) = entry.marked.take() {
                marks.push(Mark { watcher, first, last });
            }
        }
        // A burst must not be paid for as long as the stream lives.
        stream.marked.shrink_to(MARKS_KEPT_MAX);
        (marks, self.processed)
    }

    /// Wakes a stream once `revision` is processed; at once if it is.
    pub(super) fn wake_at(&mut self, key: StreamKey, revision: Revision) {
        let Some(stream) = self.streams.get_mut(key.0) else { return };
        if revision <= self.processed {
            stream.wake.notify_one();
            return;
        }
        if stream.wake_at.replace(revision).is_none() {
            self.waiting.push(key);
        }
    }

    /// The streams that have something new, each once.
    pub(super) fn streams_to_wake(&mut self) -> Vec<Arc<Notify>> {
        let mut wakes = Vec::with_capacity(self.to_wake.len());
        for key in std::mem::take(&mut self.to_wake) {
            if let Some(stream) = self.streams.get_mut(key.0) {
                stream.to_wake = false;
                wakes.push(stream.wake.clone());
            }
        }
        wakes
    }

    fn mark(&mut self, key: WatcherKey, first: Revision, last: Revision) {
        let Registry { watchers, streams, to_wake, .. } = self;
        if let Some(watcher) = watchers.get_mut(key.0) {
            mark(watcher, key, first, last, streams, to_wake);
        }
    }

    fn wake_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let Registry { streams, to_wake, waiting, processed, .. } = self;
        waiting.retain(|key| {
            let Some(stream) = streams.get_mut(key.0) else { return false };
            if stream.wake_at.is_some_and(|revision| revision > *processed) {
                return true;
            }
            stream.wake_at = None;
            queue_wake(stream, *key, to_wake);
            false
        });
    }
}

/// What a stream keeps of the room for its marks.
const MARKS_KEPT_MAX: usize = 1024;

fn mark(
    watcher: &mut Watcher,
    key: WatcherKey,
    first: Revision,
    last: Revision,
    streams: &mut Slab<Stream>,
    to_wake: &mut Vec<StreamKey>,
) {
    match &mut watcher.marked {
        Some((_, end)) => *end = last,
        None => {
            watcher.marked = Some((first, last));
            if let Some(stream) = streams.get_mut(watcher.stream.0) {
                stream.marked.push(key);
                queue_wake(stream, watcher.stream, to_wake);
            }
        }
    }
}

fn queue_wake(stream: &mut Stream, key: StreamKey, to_wake: &mut Vec<StreamKey>) {
    if !stream.to_wake {
        stream.to_wake = true;
        to_wake.push(key);
    }
}

/// Values at places that stay while they live and are used again afterwards.
#[derive(Debug)]
struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { places: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(value);
            return place;
        }
        let place = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        assert!(place != u32::MAX, "watchers and streams are limited to far fewer than there are places");
        self.places.push(Some(value));
        place
    }

    fn remove(&mut self, place: u32) -> Option<T> {
        let value = self.places.get_mut(place as usize)?.take()?;
        self.len -= 1;
        self.free.push(place);
        Some(value)
    }

    fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0..).zip(&mut self.places).filter_map(|(place, value)| Some((place, value.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tenure_core::row::KeyMeta;
    use tenure_core::{EventId, LeaseId};

    use super::*;

    fn event(revision: i64) -> EventRow {
        let modified = EventId { revision: Revision(revision), sub: 0 };
        let meta = KeyMeta { create: modified.revision, modified, version: 1, lease: LeaseId::NONE };
        EventRow { key: Bytes::from_static(b"k"), meta, value: Bytes::new(), previous: None, cause: None }
    }

    #[test]
    fn what_is_processed_leaves_no_second_mark() {
        let mut registry = Registry::new();
        let stream = registry.add_stream(Arc::default());
        registry.skip_to(Revision(5));
        let watcher = registry.add_watcher(stream, &KeyRange::One(Bytes::from_static(b"k")), Kinds::ALL, Revision(3));
        let mark = |first, last| Mark { watcher, first: Revision(first), last: Revision(last) };
        assert_eq!(registry.take(stream), (vec![mark(3, 5)], Revision(5)));
        registry.process(&[event(4), event(5)]);
        assert_eq!(registry.take(stream), (vec![], Revision(5)));
        registry.process(&[event(5), event(6), event(7)]);
        registry.process(&[event(8)]);
        assert_eq!(registry.take(stream), (vec![mark(6, 8)], Revision(8)));
        registry.skip_to(Revision(7));
        assert_eq!(registry.take(stream), (vec![], Revision(8)));
        registry.remove_watcher(watcher);
        registry.process(&[event(9)]);
        assert_eq!((registry.take(stream), registry.watchers()), ((vec![], Revision(9)), 0));
    }

    /// Single-event revisions, or those that are given.
    fn events(revisions: impl IntoIterator<Item = usize>) -> Vec<EventRow> {
        revisions.into_iter().map(|revision| event(i64::try_from(revision).unwrap())).collect()
    }

    #[test]
    fn pieces_end_between_revisions() {
        let done = |revisions: Vec<EventRow>| Registry::new().process(&revisions);
        assert_eq!(done(events(1..=10)), 10);
        assert_eq!(done(events(1..=MATCHED_EVENTS_MAX + 1)), MATCHED_EVENTS_MAX);
        let pairs = events((2..=2 * MATCHED_EVENTS_MAX).map(|number| number / 2));
        assert_eq!(done(pairs), MATCHED_EVENTS_MAX, "they are the first pairs");
        let pairs = events((1..=2 * MATCHED_EVENTS_MAX).map(|number| 1 + number / 2));
        assert_eq!(done(pairs), MATCHED_EVENTS_MAX + 1, "the revision that the limit divides is in it whole");
        let one = events(std::iter::repeat_n(7, 3 * MATCHED_EVENTS_MAX));
        assert_eq!(done(one), 3 * MATCHED_EVENTS_MAX);
    }

    #[test]
    fn a_piece_ends_when_many_are_visited_and_a_range_is_visited_once_in_a_revision() {
        let mut registry = Registry::new();
        let stream = registry.add_stream(Arc::default());
        for range in [KeyRange::From(Bytes::from_static(b"\0")), KeyRange::One(Bytes::from_static(b"k"))] {
            for _ in 0..MATCHED_VISITS_MAX / 8 {
                registry.add_watcher(stream, &range, Kinds::ALL, Revision(1));
            }
        }
        assert_eq!(registry.process(&events(2..100)), 4, "each visits a quarter of what may be visited");
        let one = std::iter::repeat_n(10, 1000).chain([11, 12, 13, 14]);
        assert_eq!(registry.process(&events(one)), 1003, "the thousand visit no more than one of them does");
        assert_eq!(registry.take(stream).1, Revision(13));
    }

    #[test]
    fn both_kinds_of_a_revision_leave_their_marks() {
        let mut registry = Registry::new();
        let stream = registry.add_stream(Arc::default());
        let kinds = [(true, false), (false, true)].map(|(puts, deletes)| Kinds { puts, deletes });
        let range = KeyRange::From(Bytes::from_static(b"\0"));
        let [puts, deletes] = kinds.map(|kinds| registry.add_watcher(stream, &range, kinds, Revision(1)));
        let delete = |revision| {
            let mut event = event(revision);
            event.meta.version = 0;
            assert!(event.meta.is_tombstone());
            event
        };
        registry.process(&[event(2), delete(2), event(2), delete(2), delete(3)]);
        let mark = |watcher, first, last| Mark { watcher, first: Revision(first), last: Revision(last) };
        assert_eq!(registry.take(stream).0, [mark(puts, 2, 2), mark(deletes, 2, 3)]);
        let late = registry.add_watcher(stream, &range, Kinds::ALL, Revision(3));
        registry.process(&[delete(3), event(4)]);
        assert_eq!(registry.take(stream).0, [mark(late, 3, 4), mark(puts, 4, 4)]);
    }

    #[test]
    fn a_stream_is_woken_once_however_many_of_its_watchers_are_marked() {
        let mut registry = Registry::new();
        let streams = [(); 3].map(|()| registry.add_stream(Arc::default()));
        for stream in [streams[0], streams[0], streams[1]] {
            registry.add_watcher(stream, &KeyRange::One(Bytes::from_static(b"k")), Kinds::ALL, Revision(1));
        }
        registry.process(&[event(2), event(3)]);
        assert_eq!(registry.streams_to_wake().len(), 2);
        registry.process(&[event(4)]);
        assert_eq!(registry.streams_to_wake().len(), 0, "they have not taken their marks yet");
        registry.wake_at(streams[2], Revision(6));
        registry.process(&[event(5)]);
        assert_eq!(registry.streams_to_wake().len(), 0);
        registry.process(&[event(6)]);
        assert_eq!(registry.streams_to_wake().len(), 1);
    }
}
