//! Which rows a compaction makes superfluous: a plan, that storage carries out batch by batch.
//!
//! The work is in proportion to the events since the last compaction, never to the number of keys. Each event up to the
//! compacted revision supersedes the event that it points back to; a tombstone below it has done its duty as well, and
//! its key is forgotten unless it lives again. A tombstone exactly at the compacted revision stays for those that watch
//! from there, and goes with the next pass, which therefore starts at that revision and not after it:
//!
//! ```text
//! (2) put a   (3) put b   (4) delete a   (5) put b        compacted at 4, pass over 0..=4: drops (2)
//!                                                         compacted at 5, pass over 4..=5: drops (2) again, (4), (3)
//! ```
//!
//! To drop a row that is gone already is harmless, so a plan may be carried out twice, or in part and then made anew.

use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;

use crate::ids::{EventId, Revision};
use crate::planted::{Bug, is_on};
use crate::state::StateRead;

/// The rows to drop for a stretch of revisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PurgePlan {
    /// Rows of `history`, ascending. Some may be gone already.
    pub events: Vec<EventId>,
    /// Rows of `current`, each to be dropped only if it still is this tombstone.
    pub tombstones: Vec<(Bytes, EventId)>,
    /// Where the next plan starts.
    pub next: Revision,
    /// Whether the compacted revision is reached; `next` is then where the pass after the next compaction starts.
    pub done: bool,
}

/// Plans the purge from a revision on. A plan ends with the revision in which it has walked `max_events` events, so
/// that a revision is always purged whole.
pub fn plan_purge<S: StateRead>(state: &S, from: Revision, max_events: usize) -> Result<PurgePlan, S::Error> {
    let compacted = state.meta().compacted;
    let mut plan = PurgePlan { next: from.max(compacted), done: true, ..PurgePlan::default() };
    if from > compacted {
        return Ok(plan);
    }
    let mut walked = 0usize;
    let mut at = from;
    let too_much = is_on(Bug::PurgedTooMuch);
    let last = if too_much { state.meta().revision } else { compacted };
    state.scan_events(from, last, &mut |event| {
        let id = event.meta.modified;
        if id.revision != at && walked >= max_events {
            plan.next = id.revision;
            plan.done = false;
            return ControlFlow::Break(());
        }
        at = id.revision;
        walked += 1;
        plan.events.extend(event.previous.filter(|previous| !too_much || previous.revision <= compacted));
        let early = is_on(Bug::TombstonePurgedEarly) && id.revision == compacted;
        if event.meta.is_tombstone() && (id.revision < compacted || early) {
            plan.events.push(id);
            plan.tombstones.push((event.key, id));
        }
        ControlFlow::Continue(())
    })?;
    plan.events.sort_unstable();
    plan.events.dedup();
    Ok(plan)
}
