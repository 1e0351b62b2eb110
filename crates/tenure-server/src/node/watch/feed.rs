//! What the apply loop leaves for the hub's thread, under one lock that neither holds for long.

use tenure_core::Revision;

use super::limits::UNMATCHED_EVENTS_MAX;
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
