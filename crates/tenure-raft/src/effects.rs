//! Who else learns what was applied: the watch hub and the lessor, which keep in memory what they can rebuild from state.
//!
//! They are told by the apply loop itself, run by run and in log order, after the new view is published and before any
//! caller is answered: whoever was told that a write is done finds its effects everywhere on this node. Being told is
//! therefore on the way of every write, so a receiver takes note and returns; it never waits.

use std::sync::Arc;

use bytes::Bytes;
use tenure_core::LeaseId;
use tenure_core::lock::{LockKey, LockValue};
use tenure_core::outcome::Outcome;
use tenure_core::row::{EventRow, LeaseRow};
use tenure_storage::state_view::StateView;

/// One committed run, as it was applied. Cheap to clone.
#[derive(Clone)]
pub struct AppliedRun {
    /// The state after the run. Keeping it keeps the engine's snapshot: take from it what is needed, and let it go.
    pub view: Arc<StateView>,
    /// The events of the run, in order: whole revisions, ascending.
    pub events: Arc<[EventRow]>,
    /// The leases that the run granted, renewed or ended (`None`), each once, by id, as they are after it.
    pub leases: Arc<[(LeaseId, Option<LeaseRow>)]>,
    /// The rows of native locks that the run changed, each once, by key, as they are after it; `None` is one that is gone.
    pub locks: Arc<[(LockKey, Option<LockValue>)]>,
    /// The size of the run's log entries: keys and values of `events` lie in their buffers, so keeping one of them keeps
    /// the entry that it came in.
    pub log_bytes: usize,
}

/// See the module's header.
pub trait Effects: Send + Sync + 'static {
    /// The state was opened, or replaced by a snapshot from the leader: nothing is known of how it came to be.
    ///
    /// Called once before the first [`Effects::applied`].
    fn replaced(&self, view: &Arc<StateView>);

    /// A run was applied.
    fn applied(&self, run: &AppliedRun);

    /// The commands of a group of that run, whoever proposed it, were decided so. Told after [`Effects::applied`].
    fn decided(&self, _group: &Bytes, _outcomes: &[Outcome]) {}

    /// Whether somebody waits to be told of the next run. Asked often. While nobody does, a follower may be told a
    /// millisecond or two later what is committed.
    fn is_awaited(&self) -> bool {
        false
    }
}
