//! Hands the lease changes of applied runs to the lessor, without ever holding up apply.
//!
//! While nobody leads here, changes are let go at once: the lessor begins with the lease table. It opens the feed *before*
//! it looks at a view, so every run is in the view or in the feed, and a run in both is told by its index. When the lessor
//! falls too far behind, the feed forgets and says so, and the lessor begins with the table again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure_core::row::LeaseRow;
use tenure_core::{LeaseId, LogIndex};
use tenure_raft::{AppliedRun, Effects};
use tenure_storage::state_view::StateView;

/// Changes that may wait. The lessor looks ten times a second, so this is for 2.5 million renewals a second, or for a
/// machine that does not let it run for a while; 14 MB at the most.
const WAITING_MAX: usize = 256 * 1024;

/// The leases that a run changed, with its index.
pub(super) type Changes = (LogIndex, Arc<[(LeaseId, Option<LeaseRow>)]>);

/// What is in the feed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Changes in log order.
    Changes(Vec<Changes>),
    /// Changes were missed.
    Missed,
}

/// See the module's header.
#[derive(Debug, Default)]
pub struct LeaseFeed(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: bool,
    missed: bool,
    changes: Vec<Changes>,
    count: usize,
}

impl LeaseFeed {
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
        Waiting::Changes(std::mem::take(&mut inner.changes))
    }

    fn miss(inner: &mut Inner) {
        if inner.open {
            *inner = Inner { open: true, missed: true, ..Inner::default() };
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Its parts are set without a panic in between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        inner.count += run.leases.len();
        if inner.count > WAITING_MAX {
            LeaseFeed::miss(&mut inner);
        } else {
            inner.changes.push((run.view.applied().index, run.leases.clone()));
        }
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
