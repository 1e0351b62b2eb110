//! Hands the lease changes of applied runs to the lessor, without ever holding up apply.
//!
//! While nobody leads here, changes are let go at once: the lessor begins with the lease table. It opens the feed *before*
//! it looks at a view, so every run is in the view or in the feed, and a run in both is told by its index. When the lessor
//! falls behind, as it does while it reads a table of millions, the feed keeps only what was last heard of each lease:
//! then it takes no more room than the table does, however long that takes. When even that is too much, the feed forgets
//! and says so, and the lessor begins with the table again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure_core::row::LeaseRow;
use tenure_core::{LeaseId, LogIndex};
use tenure_raft::{AppliedRun, Effects};
use tenure_storage::state_view::StateView;

/// Changes that wait one by one. The lessor looks ten times a second, so this is for 600,000 renewals a second; beyond it
/// they are coalesced, and grants of leases that were revoked meanwhile are not counted. Doing that with so many takes apply
/// a few milliseconds, once.
const WAITING_MAX: usize = 64 * 1024;

/// Leases whose last change may wait: what the lessor itself can hold in a gigabyte. These take up to half of that.
const LEASES_WAITING_MAX: usize = 8 << 20;

/// The leases that a run changed, with its index.
pub(super) type Changes = (LogIndex, Arc<[(LeaseId, Option<LeaseRow>)]>);

/// The last change of each lease, with its run's index.
pub(super) type Latest = HashMap<LeaseId, (LogIndex, Option<LeaseRow>)>;

/// What is in the feed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Changes in log order.
    Changes(Vec<Changes>),
    /// What was last heard of each lease that changed.
    Latest(Latest),
    /// Changes were missed.
    Missed,
}

/// See the module's header.
#[derive(Debug)]
pub struct LeaseFeed {
    inner: Mutex<Inner>,
    leases_max: usize,
}

impl Default for LeaseFeed {
    fn default() -> LeaseFeed {
        LeaseFeed::bounded(LEASES_WAITING_MAX)
    }
}

#[derive(Debug, Default)]
struct Inner {
    open: bool,
    missed: bool,
    changes: Vec<Changes>,
    count: usize,
    /// All changes, once there are too many to be kept one by one.
    latest: Option<Latest>,
}

impl LeaseFeed {
    fn bounded(leases_max: usize) -> LeaseFeed {
        LeaseFeed { inner: Mutex::default(), leases_max }
    }

    /// Keeps changes from now on, beginning with none.
    pub(super) fn open(&self) {
        *self.inner() = Inner { open: true, ..Inner::default() };
    }

    /// Lets changes go from now on.
    pub(super) fn close(&self) {
        *self.inner() = Inner::default();
    }

    /// Takes out what is there.
    pub(super) fn take(&self) -> Waiting {
        let mut inner = self.inner();
        if inner.missed {
            return Waiting::Missed;
        }
        inner.count = 0;
        if let Some(latest) = inner.latest.take() {
            return Waiting::Latest(latest);
        }
        Waiting::Changes(std::mem::take(&mut inner.changes))
    }

    fn miss(inner: &mut Inner) {
        if inner.open {
            *inner = Inner { open: true, missed: true, ..Inner::default() };
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Its parts are set without a panic in between.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Effects for LeaseFeed {
    fn replaced(&self, _view: &Arc<StateView>) {
        LeaseFeed::miss(&mut self.inner());
    }

    fn applied(&self, run: &AppliedRun) {
        if run.leases.is_empty() {
            return;
        }
        let mut inner = self.inner();
        if !inner.open || inner.missed {
            return;
        }
        let changes = (run.view.applied().index, run.leases.clone());
        inner.count += run.leases.len();
        if inner.count <= WAITING_MAX {
            inner.changes.push(changes);
            return;
        }
        let mut before = std::mem::take(&mut inner.changes);
        before.push(changes);
        let latest = inner.latest.get_or_insert_default();
        for (index, leases) in before {
            latest.extend(leases.iter().map(|(id, row)| (*id, (index, *row))));
        }
        if latest.len() > self.leases_max {
            LeaseFeed::miss(&mut inner);
        }
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
