//! The rows of `locks` that a run changed.
//!
//! A command looks most of them up by their keys, several times each, and a tree would compare names that begin alike at each
//! step. So they stand in a map by hash. An order is made for the first walk through a queue, and kept up from then on: a
//! run without waiters needs none.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};

use tenure_core::lock::{LockKey, LockValue};

/// A few hundred bytes each.
const EXPECTED_MAX: usize = 4096;

/// See the module's header. `None` is a row that is deleted.
#[derive(Debug, Default)]
pub(crate) struct PendingLocks {
    rows: HashMap<LockKey, Option<LockValue>>,
    /// How many there may be: room for them is made at once.
    expected: usize,
    /// All keys, since a walk asked for them.
    order: OnceCell<BTreeSet<LockKey>>,
}

impl PendingLocks {
    /// For a run that may be like one that wrote so many rows.
    pub(crate) fn expecting(expected: usize) -> PendingLocks {
        PendingLocks { expected: expected.min(EXPECTED_MAX), ..PendingLocks::default() }
    }

    /// What became of a row, if anything.
    pub(crate) fn get(&self, key: &LockKey) -> Option<&Option<LockValue>> {
        self.rows.get(key)
    }

    /// Notes what became of a row.
    pub(crate) fn insert(&mut self, key: LockKey, row: Option<LockValue>) {
        if let Some(order) = self.order.get_mut() {
            order.insert(key.clone());
        }
        if self.rows.is_empty() {
            self.rows.reserve(self.expected);
        }
        self.rows.insert(key, row);
    }

    /// The rows from a key on, in ascending order.
    pub(crate) fn range_from(&self, from: &LockKey) -> impl Iterator<Item = (LockKey, Option<LockValue>)> {
        let order = self.order.get_or_init(|| self.rows.keys().cloned().collect());
        order.range(from..).filter_map(|key| self.rows.get(key).map(|row| (key.clone(), row.clone())))
    }

    /// All of them, in ascending order.
    pub(crate) fn into_sorted(self) -> Vec<(LockKey, Option<LockValue>)> {
        let mut rows: Vec<_> = self.rows.into_iter().collect();
        rows.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use tenure_core::LeaseId;
    use tenure_core::lock::LockRequests;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_whenever_it_is_walked_through(changes: Vec<(u8, bool)>, walk: u8, from: u8) {
            let (mut pending, mut model) = (PendingLocks::default(), BTreeMap::new());
            let key = |number: u8| LockKey::Requests(LeaseId(number.into()));
            for (place, (number, is_there)) in changes.into_iter().enumerate() {
                if place == usize::from(walk) {
                    prop_assert!(pending.range_from(&key(from)).eq(model.clone().split_off(&key(from))));
                }
                let requests = LockRequests { floor: place as u64, finished: Vec::new() };
                let row = is_there.then_some(LockValue::Requests(requests));
                pending.insert(key(number), row.clone());
                model.insert(key(number), row);
                prop_assert_eq!(pending.get(&key(from)), model.get(&key(from)));
            }
            prop_assert!(pending.range_from(&key(from)).eq(model.clone().split_off(&key(from))));
            prop_assert!(pending.into_sorted().into_iter().eq(model));
        }
    }
}
