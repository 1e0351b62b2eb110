//! Carries out what compaction made superfluous, in small steps between runs.
//!
//! A compaction is logical at once; the rows go later. Planning reads a view, away from the writer, and may take its
//! time; a step of the writer only deletes. What can have changed in between is looked at again in the step: a
//! tombstone goes only if its key was not put since. A superseded event needs no second look, for nothing revives it.
//!
//! The progress mark moves in the batch of a plan's last step, so a crash repeats a part of a plan at most; repeating
//! drops nothing twice, as planning looks for rows that still exist. Events go in ascending order: each is the only one
//! that says where its predecessor is, so a predecessor left behind by a crash would never be found again. Two plans made from one state would count the
//! bytes of a row twice; the *epoch* prevents that: each step ends the one that its plan was made in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tenure_core::purge::plan_purge;
use tenure_core::state::StateRead;
use tenure_core::{EventId, Revision};
use tenure_faults::Point;

use crate::engine::Table;
use crate::error::StorageError;
use crate::keys::{META_LOCAL, history_key};
use crate::rows::{decode_event, encode_local};
use crate::state_view::StateView;
use crate::store::{StateStore, event_bytes};

/// Events that one plan walks, unless a single revision has more. Bounds the memory and the age of a plan.
pub const PLAN_EVENTS_MAX: usize = 4096;

/// Rows that one step deletes: a few milliseconds, which is what a write may have to wait for it.
pub const STEP_ROWS_MAX: usize = 512;

/// Rows to delete. Made from a view by [`PurgeWork::plan`], carried out by [`StateStore::purge_step`].
#[derive(Debug)]
pub struct PurgeWork {
    epoch: u64,
    /// Rows of `history` that existed, with their logical bytes, ascending.
    events: VecDeque<(EventId, u64)>,
    /// Rows of `current` to delete if they still are these tombstones.
    tombstones: Vec<(Bytes, EventId)>,
    next: Revision,
    /// The compacted revision, if this plan reaches it.
    completes: Option<Revision>,
}

/// How a step left its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurgeProgress {
    /// There is more to do in this work.
    More,
    /// The work is done. The view may have more for a next plan.
    Done,
    /// Other work was carried out since this was planned: plan again.
    Stale,
}

impl PurgeWork {
    /// Plans the next stretch, or nothing if the rows of all compactions are gone.
    pub fn plan(view: &StateView) -> Result<Option<PurgeWork>, StorageError> {
        PurgeWork::plan_at_most(view, PLAN_EVENTS_MAX)
    }

    /// The same with a bound of the caller's on the events walked.
    pub fn plan_at_most(view: &StateView, events_max: usize) -> Result<Option<PurgeWork>, StorageError> {
        if !view.has_purge_work() {
            return Ok(None);
        }
        let plan = plan_purge(view, view.local.purge_next, events_max)?;
        let mut events = VecDeque::with_capacity(plan.events.len());
        for id in plan.events {
            if let Some(row) = view.snapshot.get(Table::History, &history_key(id))? {
                let event = decode_event(id, &row)?;
                events.push_back((id, event_bytes(event.key.len(), event.value.len() as u64)));
            }
        }
        Ok(Some(PurgeWork {
            epoch: view.purge_epoch,
            events,
            tombstones: plan.tombstones,
            next: plan.next,
            completes: plan.done.then_some(view.meta().compacted),
        }))
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.tombstones.is_empty()
    }
}

impl StateStore {
    /// Deletes at most [`STEP_ROWS_MAX`] rows of a plan in one batch. Call it between runs.
    pub fn purge_step(&mut self, work: &mut PurgeWork) -> Result<PurgeProgress, StorageError> {
        self.purge_step_at_most(work, STEP_ROWS_MAX)
    }

    /// The same with a bound of the caller's on the rows, which is at least 1.
    pub fn purge_step_at_most(&mut self, work: &mut PurgeWork, rows_max: usize) -> Result<PurgeProgress, StorageError> {
        assert!(rows_max > 0, "a step without rows would never end its work");
        if work.epoch != self.view.purge_epoch {
            return Ok(PurgeProgress::Stale);
        }
        let mut local = self.view.local;
        let mut batch = self.take_batch();
        let mut forgotten = Vec::new();
        for (key, id) in work.tombstones.split_off(work.tombstones.len().saturating_sub(rows_max)) {
            if self.known_key(&key)?.is_some_and(|known| known.meta.modified == id) {
                batch.delete(Table::Current, &key);
                forgotten.push(key);
            }
        }
        let rows_left = rows_max.saturating_sub(batch.len());
        for (id, bytes) in work.events.drain(..rows_left.min(work.events.len())) {
            batch.delete(Table::History, &history_key(id));
            let left = local.bytes_logical.checked_sub(bytes);
            local.bytes_logical = left.ok_or(StorageError::damaged(Table::Meta, "its byte counts are too small"))?;
        }
        let done = work.is_empty();
        if done {
            local.purge_next = work.next;
            local.purge_complete = work.completes.unwrap_or(local.purge_complete);
        }
        batch.put_with(Table::Meta, META_LOCAL, |out| encode_local(out, &local));
        self.meet(Point::CompactBeforeCommitBatch)?;
        self.meet_if(done, Point::CompactBeforeSetFinishedCompact)?;
        self.write(batch)?;
        self.meet(Point::CompactAfterCommitBatch)?;
        self.meet_if(done, Point::CompactAfterSetFinishedCompact)?;
        for key in &forgotten {
            self.cache().remove(key);
        }
        work.epoch = next_purge_epoch();
        let before = &*self.view;
        self.view = Arc::new(StateView {
            snapshot: self.engine.snapshot(),
            guard: before.guard.clone(),
            meta: before.meta.clone(),
            applied: before.applied.clone(),
            local,
            purge_epoch: work.epoch,
            counts: Arc::clone(&before.counts),
        });
        Ok(if done { PurgeProgress::Done } else { PurgeProgress::More })
    }
}

/// A number that no other state of any store in this process has.
pub(crate) fn next_purge_epoch() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
