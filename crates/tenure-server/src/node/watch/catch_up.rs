//! Reads the history for watchers that are behind the recent events: a bounded stretch at a time, for many at once.

use std::ops::ControlFlow;

use tenure_core::Revision;
use tenure_core::row::EventRow;
use tenure_core::state::StateRead;
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;

use super::limits::StreamLimits;
use super::range_index::RangeIndex;
use super::ring::Events;

/// One read. Takes time: not for a thread that serves connections.
pub(super) struct CatchUpRead {
    /// The ranges of the watchers that it is for.
    pub(super) ranges: RangeIndex<()>,
    /// The first revision to read.
    pub(super) first: Revision,
    /// The last revision that anybody wants.
    pub(super) last: Revision,
    pub(super) limits: StreamLimits,
}

/// What was read: every event of the watchers that the read was for, in these revisions.
#[derive(Debug)]
pub(super) struct CaughtUp {
    pub(super) first: Revision,
    pub(super) last: Revision,
    pub(super) events: Events,
}

impl CatchUpRead {
    /// Reads whole revisions until there is enough; none if the first one is compacted in the view.
    pub(super) fn run(self, view: &StateView) -> Result<CaughtUp, StorageError> {
        if self.first < view.meta().compacted {
            let last = Revision(self.first.0.saturating_sub(1));
            return Ok(CaughtUp { first: self.first, last, events: Events::from([]) });
        }
        let mut events: Vec<EventRow> = Vec::new();
        let limits = &self.limits;
        let (mut rows, mut bytes, mut revisions) = (0, 0, 0);
        let mut revision = self.first;
        let mut last = self.last;
        view.scan_event_refs(self.first, self.last, &mut |id, event| {
            if id.revision != revision {
                if rows >= limits.catch_up_rows
                    || bytes >= limits.message_bytes
                    || revisions >= limits.message_revisions
                {
                    last = Revision(id.revision.0 - 1);
                    return ControlFlow::Break(());
                }
                revision = id.revision;
            }
            rows += 1;
            if self.ranges.holds(event.key) {
                if events.last().is_none_or(|last| last.meta.modified.revision != revision) {
                    revisions += 1;
                }
                bytes += size_of::<EventRow>() + event.key.len() + event.value.len();
                events.push(event.to_row());
            }
            ControlFlow::Continue(())
        })?;
        Ok(CaughtUp { first: self.first, last, events: events.into() })
    }
}
