//! The state tables as ordered maps: for tests here and in other crates, behind the feature `testing`.
//!
//! It is the plainest thing that keeps the contract of [`crate::state`], and asserts what callers owe in return. Its
//! tables are open, so that a test may damage them. It knows no batches, no snapshots and no disk.

use alloc::collections::{BTreeMap, BTreeSet};
use bytes::Bytes;
use core::ops::{Bound, ControlFlow};

use crate::command::KeyRange;
use crate::ids::{EventId, LeaseId, Revision};
use crate::lock::{LockKey, LockValue};
use crate::purge::PurgePlan;
use crate::row::{CurrentRow, EventRow, KeyMeta, LeaseEnd, LeaseHolder, LeaseRow, Meta};
use crate::state::{StateRead, StateWrite};

/// All state tables, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState {
    /// The replicated scalars.
    pub meta: Meta,
    /// Each key's newest event.
    pub current: BTreeMap<Bytes, CurrentRow>,
    /// The keys that exist.
    pub live: BTreeSet<Bytes>,
    /// The events.
    pub history: BTreeMap<EventId, EventRow>,
    /// The leases.
    pub leases: BTreeMap<LeaseId, LeaseRow>,
    /// The keys attached to leases.
    pub lease_keys: BTreeSet<(LeaseId, Bytes)>,
    /// Whom leases are for.
    pub lease_holders: BTreeMap<LeaseId, LeaseHolder>,
    /// How leases ended.
    pub lease_ends: BTreeMap<u64, LeaseEnd>,
    /// Native locks.
    pub locks: BTreeMap<LockKey, LockValue>,
}

/// The tables contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("corrupt: {0}")]
pub struct MemoryError(pub &'static str);

impl MemoryState {
    /// Carries out a purge.
    pub fn purge(&mut self, plan: &PurgePlan) {
        for id in &plan.events {
            self.history.remove(id);
        }
        for (key, id) in &plan.tombstones {
            if self.current.get(key).is_some_and(|row| row.meta.is_tombstone() && row.meta.modified == *id) {
                self.current.remove(key);
            }
        }
    }
}

impl StateRead for MemoryState {
    type Error = MemoryError;

    fn corrupt(&self, what: &'static str) -> MemoryError {
        MemoryError(what)
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn current_meta(&self, key: &[u8]) -> Result<Option<KeyMeta>, MemoryError> {
        Ok(self.current.get(key).map(|row| row.meta))
    }

    fn current(&self, key: &[u8]) -> Result<Option<CurrentRow>, MemoryError> {
        Ok(self.current.get(key).cloned())
    }

    fn scan_current(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Bytes, CurrentRow) -> ControlFlow<()>,
    ) -> Result<(), MemoryError> {
        if range.is_empty() {
            return Ok(());
        }
        for (key, row) in self.current.range::<[u8], _>(range.bounds()) {
            if visit(key.clone(), row.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn scan_live(&self, range: &KeyRange, visit: &mut dyn FnMut(Bytes) -> ControlFlow<()>) -> Result<(), MemoryError> {
        if range.is_empty() {
            return Ok(());
        }
        for key in self.live.range::<[u8], _>(range.bounds()) {
            if visit(key.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn count_live(&self, range: &KeyRange) -> Result<u64, MemoryError> {
        let mut count = 0;
        self.scan_live(range, &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    fn event(&self, id: EventId) -> Result<Option<EventRow>, MemoryError> {
        Ok(self.history.get(&id).cloned())
    }

    fn scan_events(
        &self,
        first: Revision,
        last: Revision,
        visit: &mut dyn FnMut(EventRow) -> ControlFlow<()>,
    ) -> Result<(), MemoryError> {
        if last < first {
            return Ok(());
        }
        let from = EventId { revision: first, sub: 0 };
        let to = EventId { revision: last, sub: u32::MAX };
        for event in self.history.range(from..=to).map(|(_, event)| event) {
            if visit(event.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, MemoryError> {
        Ok(self.leases.get(&id).copied())
    }

    fn scan_leases(&self, visit: &mut dyn FnMut(LeaseId, LeaseRow) -> ControlFlow<()>) -> Result<(), MemoryError> {
        for (id, row) in &self.leases {
            if visit(*id, *row).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn scan_lease_keys(&self, id: LeaseId, visit: &mut dyn FnMut(Bytes) -> ControlFlow<()>) -> Result<(), MemoryError> {
        let from = Bound::Included((id, Bytes::new()));
        for (_, key) in self.lease_keys.range((from, Bound::Unbounded)).take_while(|(lease, _)| *lease == id) {
            if visit(key.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn lease_holder(&self, id: LeaseId) -> Result<Option<LeaseHolder>, MemoryError> {
        Ok(self.lease_holders.get(&id).cloned())
    }

    fn scan_lease_ends(&self, visit: &mut dyn FnMut(u64, LeaseEnd) -> ControlFlow<()>) -> Result<(), MemoryError> {
        for (number, end) in &self.lease_ends {
            if visit(*number, end.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn lock_row(&self, key: &LockKey) -> Result<Option<LockValue>, MemoryError> {
        Ok(self.locks.get(key).cloned())
    }

    fn scan_lock_rows(
        &self,
        from: &LockKey,
        visit: &mut dyn FnMut(LockKey, LockValue) -> ControlFlow<()>,
    ) -> Result<(), MemoryError> {
        for (key, row) in self.locks.range(from..) {
            if visit(key.clone(), row.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl StateWrite for MemoryState {
    fn record(&mut self, event: EventRow) {
        let newest = self.history.last_key_value().map(|(id, _)| *id);
        assert!(newest.is_none_or(|newest| newest < event.meta.modified), "events come in order");
        assert_eq!(event.meta.modified.revision, self.meta.revision, "an event belongs to the newest revision");
        assert!(!event.key.is_empty(), "a key is never empty");
        if event.meta.is_tombstone() {
            assert!(self.live.remove(&event.key), "only a live key is deleted");
        } else {
            let created = self.live.insert(event.key.clone());
            assert_eq!(created, event.meta.version == 1, "a put of an absent key creates it, and no other does");
        }
        let row = CurrentRow { meta: event.meta, value: event.value.clone() };
        self.current.insert(event.key.clone(), row);
        self.history.insert(event.meta.modified, event);
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn put_lease(&mut self, id: LeaseId, row: LeaseRow) {
        self.leases.insert(id, row);
    }

    fn delete_lease(&mut self, id: LeaseId) {
        let mut keys = self.lease_keys.iter().filter(|(lease, _)| *lease == id);
        assert!(keys.next().is_none(), "a lease is deleted after its keys");
        assert!(self.leases.remove(&id).is_some(), "only a lease that exists is deleted");
    }

    fn attach(&mut self, id: LeaseId, key: &Bytes) {
        assert!(self.leases.contains_key(&id), "a key is attached to a lease that exists");
        assert!(self.lease_keys.insert((id, key.clone())), "a key is attached once");
    }

    fn detach(&mut self, id: LeaseId, key: &Bytes) {
        assert!(self.lease_keys.remove(&(id, key.clone())), "only an attached key is detached");
    }

    fn put_lease_holder(&mut self, id: LeaseId, holder: LeaseHolder) {
        assert!(self.leases.get(&id).is_some_and(|lease| lease.has_holder), "a lease says that it has a holder");
        assert!(!holder.is_empty(), "a holder is somebody");
        assert!(self.lease_holders.insert(id, holder).is_none(), "a lease's holder is written once");
    }

    fn delete_lease_holder(&mut self, id: LeaseId) {
        assert!(self.lease_holders.remove(&id).is_some(), "only a holder that is there is removed");
    }

    fn put_lease_end(&mut self, number: u64, end: LeaseEnd) {
        let newest = self.lease_ends.last_key_value().map(|(number, _)| *number);
        assert!(newest.is_none_or(|newest| newest < number), "ends are recorded in order");
        self.lease_ends.insert(number, end);
    }

    fn delete_lease_end(&mut self, number: u64) {
        self.lease_ends.remove(&number);
    }

    fn put_lock_row(&mut self, key: LockKey, row: LockValue) {
        self.locks.insert(key, row);
    }

    fn delete_lock_row(&mut self, key: &LockKey) {
        assert!(self.locks.remove(key).is_some(), "only a row that is there is removed");
    }
}
