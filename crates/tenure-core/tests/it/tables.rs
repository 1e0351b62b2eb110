//! What the state tables owe each other, whatever was applied.

use std::collections::{BTreeMap, BTreeSet};

use tenure_core::LeaseId;
use tenure_core::apply::LEASE_ENDS_MAX;
use tenure_core::memory::MemoryState;

/// Checks the tables against each other.
pub(crate) fn check(state: &MemoryState) {
    let live: BTreeSet<_> =
        state.current.iter().filter(|(_, row)| !row.meta.is_tombstone()).map(|(key, _)| key.clone()).collect();
    assert_eq!(state.live, live, "live holds the keys that exist");

    let attached: BTreeSet<_> = state
        .current
        .iter()
        .filter(|(_, row)| row.meta.lease.is_some())
        .map(|(key, row)| (row.meta.lease, key.clone()))
        .collect();
    assert_eq!(state.lease_keys, attached, "keys and leases agree on what is attached");
    let leases: BTreeSet<LeaseId> = state.leases.keys().copied().collect();
    assert!(attached.iter().all(|(lease, _)| leases.contains(lease)), "no key is on a lease that is gone");
    let held: BTreeSet<_> = state.leases.iter().filter(|(_, lease)| lease.has_holder).map(|(id, _)| *id).collect();
    assert_eq!(held, state.lease_holders.keys().copied().collect(), "leases and holders agree on who has one");
    let numbers = state.meta.lease_ends.saturating_sub(LEASE_ENDS_MAX)..state.meta.lease_ends;
    assert!(state.lease_ends.keys().copied().eq(numbers), "the last ends are kept, without a gap");

    check_events(state);
}

fn check_events(state: &MemoryState) {
    let compacted = state.meta.compacted;
    let mut newest = BTreeMap::new();
    let mut subs = BTreeMap::new();
    for (id, event) in &state.history {
        assert_eq!(event.meta.modified, *id);
        assert!(id.revision <= state.meta.revision);
        if id.revision > compacted {
            let next = subs.entry(id.revision).or_insert(0);
            assert_eq!(id.sub, *next, "the events of a revision are numbered in order");
            *next += 1;
        }
        let before = newest.insert(event.key.clone(), *id);
        if let Some(before) = before
            && before.revision > compacted
        {
            assert_eq!(event.previous, Some(before), "an event points back to the one before it");
            assert!(before.revision < id.revision, "a revision changes a key once");
        }
        let target = event.previous.filter(|previous| previous.revision > compacted);
        assert!(target.is_none_or(|previous| state.history.contains_key(&previous)), "nothing recent is purged");
    }
    for (key, row) in &state.current {
        let id = newest.get(key).expect("a key's newest event is kept as long as its row");
        assert_eq!(row.meta.modified, *id, "current names the newest event");
    }
}
