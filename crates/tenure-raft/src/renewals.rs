//! The renewals on their way through this node, so that the lessor leaves their leases alone.
//!
//! A lease that is due while its renewal waits here would be ended although its client is there. Whatever is under way is
//! noted for as long as somebody waits for it, from its arrival at a client connection or from another member until it
//! is applied or given up.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure_core::LeaseId;

/// See the module's header. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RenewalsUnderWay(Arc<Mutex<HashMap<LeaseId, u32>>>);

/// Notes of renewals, until it is dropped.
#[derive(Debug)]
pub struct RenewalsNoted {
    all: RenewalsUnderWay,
    ids: Vec<LeaseId>,
}

/// The renewals under way, held as they are.
#[derive(Debug)]
pub struct RenewalsSeen<'r>(MutexGuard<'r, HashMap<LeaseId, u32>>);

impl RenewalsSeen<'_> {
    /// Whether a lease is being renewed.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.0.contains_key(&id)
    }
}

impl RenewalsUnderWay {
    /// Notes renewals that have arrived.
    pub fn note(&self, ids: Vec<LeaseId>) -> RenewalsNoted {
        let mut counts = self.counts();
        for id in &ids {
            let count = counts.entry(*id).or_default();
            *count = count.saturating_add(1);
        }
        drop(counts);
        RenewalsNoted { all: self.clone(), ids }
    }

    /// Looks at the renewals as they are now. None arrives or is done meanwhile: not to be kept.
    pub fn look(&self) -> RenewalsSeen<'_> {
        RenewalsSeen(self.counts())
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<LeaseId, u32>> {
        // Counts are changed without a panic in between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RenewalsNoted {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        for id in &self.ids {
            if let Entry::Occupied(mut count) = counts.entry(*id) {
                match count.get().checked_sub(1) {
                    None | Some(0) => drop(count.remove()),
                    Some(left) => *count.get_mut() = left,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_left_alone_until_its_last_renewal_is_done() {
        let renewals = RenewalsUnderWay::default();
        let left = || {
            let seen = renewals.look();
            (1..4).filter(|id| !seen.contains(LeaseId(*id))).collect::<Vec<_>>()
        };
        assert_eq!(left(), [1, 2, 3]);
        let first = renewals.note(vec![LeaseId(1), LeaseId(2)]);
        let second = renewals.note(vec![LeaseId(2), LeaseId(2), LeaseId(9)]);
        assert_eq!(left(), [3]);
        drop(first);
        assert_eq!(left(), [1, 3]);
        drop(second);
        assert_eq!(left(), [1, 2, 3]);
        assert!(renewals.counts().is_empty());
    }
}
