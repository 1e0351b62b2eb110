//! What the apply loop leaves for the hub's thread, under one lock that neither holds for long.

use tenure_core::Revision;
use tenure_core::row::EventRow;

use super::limits::{MATCHED_EVENTS_MAX, UNMATCHED_EVENTS_MAX};
use super::ring::{Events, Ring};

/// See the module's header.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) ring: Ring,
    /// Whether anybody watches. If not, nothing is kept and nobody is woken.
    pub(super) active: bool,
    /// The hub's thread has what is up to this revision.
    pub(super) taken: Revision,
    pub(super) closed: bool,
}

impl Feed {
    pub(super) fn new(ring_bytes_max: usize) -> Feed {
        Feed { ring: Ring::new(ring_bytes_max), active: false, taken: Revision(0), closed: false }
    }

    /// What is to be matched next.
    pub(super) fn take_news(&mut self) -> Option<News> {
        if !self.active || self.taken >= self.ring.appended() {
            return None;
        }
        let first = Revision(self.taken.0 + 1);
        match self.ring.slice(first, self.ring.appended(), UNMATCHED_EVENTS_MAX) {
            None => {
                self.taken = self.ring.floor();
                Some(News::Gap(self.taken))
            }
            Some((runs, through)) => {
                self.taken = through;
                Some(News::Runs(runs))
            }
        }
    }
}

/// What there is to match.
pub(super) enum News {
    /// Everything up to this revision was missed.
    Gap(Revision),
    Runs(Vec<Events>),
}

/// The length of a piece of whole revisions that holds [`MATCHED_EVENTS_MAX`] events, or a single revision.
pub(super) fn piece_len(events: &[EventRow]) -> usize {
    let revision = |place: usize| events[place].meta.modified.revision;
    let mut end = MATCHED_EVENTS_MAX.min(events.len());
    while end < events.len() && revision(end) == revision(end - 1) {
        end += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tenure_core::row::KeyMeta;
    use tenure_core::{EventId, LeaseId};

    use super::*;

    fn events(revisions: impl Iterator<Item = usize>) -> Vec<EventRow> {
        let event = |revision: usize| {
            let revision = Revision(i64::try_from(revision).unwrap());
            let meta =
                KeyMeta { create: revision, modified: EventId { revision, sub: 0 }, version: 1, lease: LeaseId::NONE };
            EventRow { key: Bytes::new(), meta, value: Bytes::new(), previous: None }
        };
        revisions.map(event).collect()
    }

    #[test]
    fn pieces_end_between_revisions() {
        assert_eq!(piece_len(&events(1..=10)), 10);
        assert_eq!(piece_len(&events(1..=MATCHED_EVENTS_MAX + 1)), MATCHED_EVENTS_MAX);
        let pairs = events((1..=2 * MATCHED_EVENTS_MAX).map(|number| number / 2));
        assert_eq!(piece_len(&pairs), MATCHED_EVENTS_MAX + 1, "the revision that the limit divides is in it whole");
        let one = events(std::iter::repeat_n(7, 3 * MATCHED_EVENTS_MAX));
        assert_eq!(piece_len(&one), one.len());
    }
}
