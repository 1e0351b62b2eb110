//! What the state tables owe each other, whatever was applied.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tenure_core::apply::LEASE_ENDS_MAX;
use tenure_core::lock::{Contender, LockKey, LockMode, LockRow, LockValue, Native, lock_key, lock_range};
use tenure_core::memory::MemoryState;
use tenure_core::row::LockCounts;
use tenure_core::{LeaseId, Revision};

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
    check_locks(state);
}

fn check_locks(state: &MemoryState) {
    let mut counts = LockCounts::default();
    for (key, row) in &state.locks {
        match (key, row) {
            (LockKey::Lock(name), LockValue::Lock(row)) => {
                counts.locks += 1;
                check_queue(state, name, row);
            }
            (LockKey::Place(name, create, key), LockValue::Place(row)) => {
                assert!(state.locks.contains_key(&LockKey::Lock(name.clone())), "a queue has a lock");
                assert_eq!(state.current[key].meta.create, *create, "a contender is a key");
                assert!(state.live.contains(key) && lock_range(name).contains(key));
                if let Some(native) = &row.native {
                    check_native(state, (name, key), row, native);
                }
            }
            (LockKey::Requests(lease), LockValue::Requests(row)) => {
                counts.requests += 1;
                assert!(state.leases.contains_key(lease), "only leases that live have request numbers");
                assert!(row.finished.first().is_none_or(|first| *first > row.floor), "the floor is not finished");
                assert!(row.finished.windows(2).all(|pair| pair[0] < pair[1]));
                assert!(row.finished.len() <= 1024, "what is kept of a lease is bounded");
            }
            (LockKey::Delay(lease, key), LockValue::Delay(row)) => {
                counts.delays += 1;
                assert!(!state.leases.contains_key(lease), "a lease with delayed keys is not granted again");
                assert!(state.current[key].meta.modified.revision >= row.modified);
            }
            _ => panic!("a row is not of its key's kind: {key:?}"),
        }
    }
    assert_eq!(state.meta.locks, counts);
}

/// What a contender wants.
fn mode(row: &Contender) -> LockMode {
    row.native.as_ref().map_or(LockMode::Exclusive, |native| native.mode)
}

fn check_queue(state: &MemoryState, name: &Bytes, row: &LockRow) {
    let from = LockKey::Place(name.clone(), Revision(i64::MIN), Bytes::new());
    let mut queue: Vec<(Revision, &Contender)> = Vec::new();
    for (key, row) in state.locks.range(from..) {
        match (key, row) {
            (LockKey::Place(of, create, _), LockValue::Place(row)) if of == name => queue.push((*create, row)),
            _ => break,
        }
    }
    let keys = state.live.iter().filter(|key| lock_range(name).contains(key)).count();
    assert!(keys == queue.len() && keys > 0, "the contenders for {name:?} are the keys under its name");
    assert_eq!((row.contenders, row.oldest), (keys as u64, queue[0].0));
    let holders: Vec<LockMode> =
        queue.iter().filter(|(_, row)| row.granted.is_some()).map(|(_, row)| mode(row)).collect();
    assert!(queue[..holders.len()].iter().all(|(_, row)| row.granted.is_some()), "those that hold are the first");
    assert_eq!(row.granted, holders.len() as u64);
    let together = |holders: &[LockMode]| {
        let readers = holders.iter().all(|mode| *mode == LockMode::Shared);
        let permits = holders.iter().map(|mode| match mode {
            LockMode::Semaphore { permits, limit } if permits <= limit => (*permits, *limit),
            _ => (u32::MAX / 2, 0),
        });
        let (taken, limit) = permits.fold((0u32, 0), |(sum, _), (permits, limit)| (sum.saturating_add(permits), limit));
        holders.len() == 1 || readers || taken <= limit
    };
    assert!(together(&holders), "{holders:?} hold {name:?}");
    if let Some((next, row_of_next)) = queue.get(holders.len()) {
        let more: Vec<LockMode> = holders.iter().copied().chain([mode(row_of_next)]).collect();
        assert!(!together(&more), "nobody waits without need for {name:?}");
        assert!(row.frontier <= *next, "nobody that waits is before the frontier");
    }
    let shared = |mode: &LockMode| *mode != LockMode::Exclusive;
    assert!(holders.iter().all(shared) || row.exclusive, "a lone holder is known as one");
}

fn check_native(state: &MemoryState, (name, key): (&Bytes, &Bytes), row: &Contender, native: &Native) {
    assert_eq!(*key, lock_key(name, native.lease));
    assert!(!native.requests.is_empty());
    assert!(native.requests.len() == 1 || row.granted.is_some(), "who waits waits once");
    let is_delayed = state.locks.contains_key(&LockKey::Delay(native.lease, key.clone()));
    assert_eq!(native.delayed, is_delayed, "a delay and its key agree");
    if state.current[key].meta.lease != native.lease {
        return;
    }
    let lease = state.leases.get(&native.lease).expect("no dead lease is in a queue");
    if lease.incarnation != native.incarnation {
        return;
    }
    assert!(state.locks.contains_key(&LockKey::Requests(native.lease)), "a native contender has request numbers");
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
