//! What became of a lock's contenders: read from the events of their keys, as far as they are not compacted.
//!
//! The keys under a lock's name, those that are gone included, each lead back through their events. They are followed side by
//! side, always the newest event next, so that the answer is in order and costs what it tells.

use std::collections::BinaryHeap;
use std::ops::ControlFlow;

use bytes::Bytes;
use tenure_core::lock::{LockCause, lock_range};
use tenure_core::row::EventRow;
use tenure_core::state::StateRead;
use tenure_core::{EventId, LeaseId, Revision};
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;

use super::detail::ANSWER_BYTES_MAX;
use crate::node::{Node, ReadAnswer, RequestError};

/// Transitions of one answer.
pub const TRANSITIONS_MAX: usize = 1000;

/// Keys that are followed for one answer.
const KEYS_MAX: usize = 10_000;

/// Events that are looked at for one answer: keys may have been written often without any transition.
const EVENTS_MAX: usize = 100_000;

/// What happened to a contender's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockTransition {
    /// The key.
    pub key: Bytes,
    /// When.
    pub revision: Revision,
    /// The create revision of the life that began or ended.
    pub token: Revision,
    /// The lease that the key was on, if that is known.
    pub lease: LeaseId,
    /// Whether the key was deleted.
    pub deleted: bool,
    /// What made it, if it was a native contender's or an operator did it.
    pub cause: Option<LockCause>,
}

/// What became of a lock's contenders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockWhy {
    /// The latest first.
    pub transitions: Vec<LockTransition>,
    /// Whether that is all that is not compacted.
    pub complete: bool,
    /// The compacted revision.
    pub compacted: Revision,
}

impl Node {
    /// What became of a lock's contenders, the latest first.
    pub async fn lock_why(&self, name: Bytes, limit: usize) -> Result<ReadAnswer<LockWhy>, RequestError> {
        let view = self.view(false).await?;
        let limit = limit.min(TRANSITIONS_MAX);
        self.read(view, false, move |view| why(view, &name, limit).map(Ok)).await
    }
}

fn why(view: &StateView, name: &Bytes, limit: usize) -> Result<LockWhy, StorageError> {
    let compacted = view.meta().compacted;
    let mut why = LockWhy { transitions: Vec::new(), complete: true, compacted };
    let mut newest: BinaryHeap<EventId> = BinaryHeap::new();
    let mut bytes = 0;
    view.scan_current(&lock_range(name), &mut |_, row| {
        why.complete = newest.len() < KEYS_MAX;
        if !why.complete {
            return ControlFlow::Break(());
        }
        newest.push(row.meta.modified);
        ControlFlow::Continue(())
    })?;
    for looked_at in 0.. {
        let Some(id) = newest.pop() else { return Ok(why) };
        if why.transitions.len() >= limit || looked_at == EVENTS_MAX || bytes > ANSWER_BYTES_MAX {
            break;
        }
        // Gone from here on back: compacted.
        let Some(event) = view.event(id)? else { continue };
        newest.extend(event.previous);
        let told = transition(view, event)?;
        bytes += told.as_ref().map_or(0, |told| told.key.len());
        why.transitions.extend(told);
    }
    why.complete = false;
    Ok(why)
}

/// What an event says, if it is more than that a key was written.
fn transition(view: &StateView, event: EventRow) -> Result<Option<LockTransition>, StorageError> {
    let EventRow { key, meta, previous, cause, .. } = event;
    let deleted = meta.is_tombstone();
    if !deleted && meta.version != 1 && cause.is_none() {
        return Ok(None);
    }
    let before = match previous.filter(|_| deleted) {
        Some(id) => view.event(id)?,
        None => None,
    };
    let life = before.map_or(meta, |before| before.meta);
    let lease = match cause.as_deref() {
        Some(LockCause::Delayed(left) | LockCause::Left(_, left)) => left.lease,
        Some(LockCause::Acquired(_)) | None => life.lease,
    };
    let revision = meta.modified.revision;
    Ok(Some(LockTransition { key, revision, token: life.create, lease, deleted, cause: cause.map(|cause| *cause) }))
}
