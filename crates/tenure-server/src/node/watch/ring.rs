//! The newest events, shared by all who watch, within a bound of bytes.
//!
//! Runs of events follow each other without a gap: from the revision after [`Ring::floor`] to [`Ring::appended`]. What
//! does not fit drops out at the old end; who needs it reads the history.

use std::collections::VecDeque;
use std::sync::Arc;

use tenure_core::row::EventRow;
use tenure_core::{EventId, Revision};

/// The events of one run: whole revisions, ascending, at least one event.
pub(super) type Events = Arc<[EventRow]>;

/// What an event weighs beside its key and value.
const EVENT_OVERHEAD_BYTES: usize = size_of::<EventRow>();

#[derive(Debug)]
pub(super) struct Run {
    events: Events,
    weight: usize,
}

impl Run {
    fn first(&self) -> Revision {
        self.events.first().map_or(Revision(0), |event| event.meta.modified.revision)
    }

    fn last(&self) -> Revision {
        self.events.last().map_or(Revision(0), |event| event.meta.modified.revision)
    }
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Ring {
    runs: VecDeque<Run>,
    bytes_max: usize,
    bytes: usize,
    events: usize,
    floor: Revision,
    appended: Revision,
}

impl Ring {
    /// A ring without events, of a store whose revision is unknown yet.
    pub(super) fn new(bytes_max: usize) -> Ring {
        Ring { runs: VecDeque::new(), bytes_max, bytes: 0, events: 0, floor: Revision(0), appended: Revision(0) }
    }

    /// The newest revision that is *not* here.
    pub(super) fn floor(&self) -> Revision {
        self.floor
    }

    /// The newest revision of all.
    pub(super) fn appended(&self) -> Revision {
        self.appended
    }

    /// The memory that the events keep.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many events there are.
    pub(super) fn len(&self) -> usize {
        self.events
    }

    /// Appends the events of a run. `log_bytes` is what the log entries weigh in whose buffers keys and values lie.
    pub(super) fn push(&mut self, events: Events, log_bytes: usize) {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
        let (first, last) = (first.meta.modified.revision, last.meta.modified.revision);
        if first.0 != self.appended.0 + 1 {
            self.restart(Revision(first.0 - 1));
        }
        let own: usize = events.iter().map(|event| event.key.len() + event.value.len()).sum();
        let weight = own.max(log_bytes) + events.len() * EVENT_OVERHEAD_BYTES;
        self.bytes += weight;
        self.events += events.len();
        self.appended = last;
        self.runs.push_back(Run { events, weight });
        while self.bytes > self.bytes_max
            && let Some(run) = self.runs.pop_front()
        {
            self.bytes -= run.weight;
            self.events -= run.events.len();
            self.floor = run.last();
        }
    }

    /// Forgets everything: what comes next is after `revision`. Returns what there was, to be dropped without a lock.
    pub(super) fn restart(&mut self, revision: Revision) -> VecDeque<Run> {
        (self.bytes, self.events) = (0, 0);
        (self.floor, self.appended) = (revision, revision);
        std::mem::take(&mut self.runs)
    }

    /// The runs that hold the revisions from `first` to `last`, or the first of them that have `events_max` events, and how
    /// far they reach. None if the first revision is not here any more.
    pub(super) fn slice(&self, first: Revision, last: Revision, events_max: usize) -> Option<(Vec<Events>, Revision)> {
        if first <= self.floor {
            return None;
        }
        let begin = self.runs.partition_point(|run| run.last() < first);
        let mut slice: Vec<Events> = Vec::new();
        let mut events = 0;
        for run in self.runs.range(begin..) {
            if run.first() > last {
                break;
            }
            if events >= events_max {
                return Some((slice, Revision(run.first().0 - 1)));
            }
            events += run.events.len();
            slice.push(run.events.clone());
        }
        Some((slice, last))
    }

    /// One event, if it is here.
    pub(super) fn event(&self, id: EventId) -> Option<EventRow> {
        let run = self.runs.get(self.runs.partition_point(|run| run.last() < id.revision))?;
        let place = run.events.binary_search_by_key(&id, |event| event.meta.modified).ok()?;
        Some(run.events[place].clone())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tenure_core::LeaseId;
    use tenure_core::row::KeyMeta;

    use super::*;

    /// One run of single-event revisions.
    fn run(revisions: std::ops::RangeInclusive<i64>) -> Events {
        let event = |revision| EventRow {
            key: Bytes::from(format!("k{revision}")),
            meta: KeyMeta {
                create: Revision(revision),
                modified: EventId { revision: Revision(revision), sub: 0 },
                version: 1,
                lease: LeaseId::NONE,
            },
            value: Bytes::from_static(&[0; 50]),
            previous: None,
            cause: None,
        };
        revisions.map(event).collect()
    }

    fn revisions(slice: &[Events]) -> Vec<i64> {
        slice.iter().flat_map(|events| events.iter().map(|event| event.meta.modified.revision.0)).collect()
    }

    #[test]
    fn it_keeps_the_newest_within_its_bytes() {
        let mut ring = Ring::new(20 * (EVENT_OVERHEAD_BYTES + 60));
        ring.restart(Revision(1));
        for revision in 2..=100 {
            ring.push(run(revision..=revision), 10);
            assert!(ring.bytes() <= 20 * (EVENT_OVERHEAD_BYTES + 60));
        }
        assert!(ring.len() >= 20, "{}", ring.len());
        assert_eq!(ring.appended(), Revision(100));
        assert_eq!(ring.floor().0, 100 - i64::try_from(ring.len()).unwrap());
        let first = Revision(ring.floor().0 + 1);
        assert!(ring.slice(ring.floor(), Revision(100), 1000).is_none());
        let (slice, through) = ring.slice(first, Revision(100), 1000).unwrap();
        assert_eq!(revisions(&slice), (first.0..=100).collect::<Vec<_>>());
        assert_eq!(through, Revision(100));
    }

    #[test]
    fn what_pins_much_weighs_much() {
        let mut ring = Ring::new(1000);
        ring.restart(Revision(1));
        ring.push(run(2..=2), 1001);
        assert_eq!((ring.len(), ring.bytes(), ring.floor()), (0, 0, Revision(2)));
    }

    #[test]
    fn a_slice_is_cut_at_whole_runs() {
        let mut ring = Ring::new(1 << 20);
        ring.restart(Revision(1));
        for first in [2, 5, 8] {
            ring.push(run(first..=first + 2), 0);
        }
        let (slice, through) = ring.slice(Revision(3), Revision(9), 4).unwrap();
        assert_eq!((revisions(&slice), through), (vec![2, 3, 4, 5, 6, 7], Revision(7)));
        let (slice, through) = ring.slice(Revision(8), Revision(8), 1).unwrap();
        assert_eq!((revisions(&slice), through), (vec![8, 9, 10], Revision(8)));
        let (slice, through) = ring.slice(Revision(11), Revision(12), 2).unwrap();
        assert_eq!((slice.len(), through), (0, Revision(12)));
    }

    #[test]
    fn a_gap_forgets_what_was_before_it() {
        let mut ring = Ring::new(1 << 20);
        ring.restart(Revision(1));
        ring.push(run(2..=3), 0);
        ring.push(run(9..=9), 0);
        assert_eq!((ring.floor(), ring.appended(), ring.len()), (Revision(8), Revision(9), 1));
        assert!(ring.event(EventId { revision: Revision(9), sub: 0 }).is_some());
        assert!(ring.event(EventId { revision: Revision(9), sub: 1 }).is_none());
        assert!(ring.event(EventId { revision: Revision(3), sub: 0 }).is_none());
    }
}
