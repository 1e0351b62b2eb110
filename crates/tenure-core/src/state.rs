//! The door between the state machine and storage: what apply reads, and the only ways in which it writes.
//!
//! Scans take a visitor and stop on `ControlFlow::Break`; they yield rows in ascending key order and see the run's own
//! pending writes. A visitor may itself read the same state, so an implementation holds no lock while it calls one.
//! Any `Err` means that this node's storage is broken: the caller stops the node.

use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;

use crate::borrowed::{BytesRef, KvRef};
use crate::command::KeyRange;
use crate::ids::{EventId, LeaseId, Revision};
use crate::lock::{LockKey, LockValue, lock_range};
use crate::row::{CurrentRow, EventRow, KeyMeta, LeaseEnd, LeaseHolder, LeaseRow, Meta};
use crate::scan::walk_past;

/// How many keys of a range existed at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownCount {
    /// When.
    pub at: Revision,
    /// How many.
    pub keys: u64,
}

/// Reads of the state tables.
pub trait StateRead {
    /// Why storage failed.
    type Error;

    /// The error for rows that contradict each other, found by the state machine and not by storage itself.
    fn corrupt(&self, what: &'static str) -> Self::Error;

    /// The replicated scalars.
    fn meta(&self) -> &Meta;

    /// A key's newest event without its value; tombstones that are not purged yet included.
    fn current_meta(&self, key: &[u8]) -> Result<Option<KeyMeta>, Self::Error>;

    /// A key's newest event; tombstones that are not purged yet included.
    fn current(&self, key: &[u8]) -> Result<Option<CurrentRow>, Self::Error>;

    /// The newest events of the keys of a range, tombstones included.
    fn scan_current(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Bytes, CurrentRow) -> ControlFlow<()>,
    ) -> Result<(), Self::Error>;

    /// The same for who may need no copies. `wanted` is after how many rows, tombstones aside, the visitor will break off, and
    /// not before, if that is known: storage reads ahead with that in mind.
    fn scan_present(
        &self,
        range: &KeyRange,
        _wanted: Option<usize>,
        visit: &mut dyn FnMut(KvRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), Self::Error> {
        self.scan_current(range, &mut |key, row| {
            visit(KvRef::of(BytesRef::Shared(&key), &row.meta, BytesRef::Shared(&row.value)))
        })
    }

    /// The same without values, for those who need none.
    fn scan_metas(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(&[u8], &KeyMeta) -> ControlFlow<()>,
    ) -> Result<(), Self::Error> {
        self.scan_current(range, &mut |key, row| visit(&key, &row.meta))
    }

    /// The key-values of a range at an earlier revision, which is not compacted. `wanted` as above, where it is known.
    fn scan_past(
        &self,
        range: &KeyRange,
        at: Revision,
        _wanted: Option<usize>,
        visit: &mut dyn FnMut(KvRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), Self::Error>
    where
        Self: Sized,
    {
        walk_past(self, range, at, visit)
    }

    /// The keys of a range that exist now.
    fn scan_live(&self, range: &KeyRange, visit: &mut dyn FnMut(Bytes) -> ControlFlow<()>) -> Result<(), Self::Error>;

    /// How many keys of a range exist now.
    fn count_live(&self, range: &KeyRange) -> Result<u64, Self::Error>;

    /// What somebody counted in this very range before, at a revision that is not compacted and not in the future; of
    /// several the nearest to `at`.
    fn known_count(&self, _range: &KeyRange, _at: Revision) -> Option<KnownCount> {
        None
    }

    /// Says how many keys of a range existed at a revision, for who remembers it.
    fn note_count(&self, _range: &KeyRange, _count: KnownCount) {}

    /// One event.
    fn event(&self, id: EventId) -> Result<Option<EventRow>, Self::Error>;

    /// The events of the revisions `first..=last`, in order.
    fn scan_events(
        &self,
        first: Revision,
        last: Revision,
        visit: &mut dyn FnMut(EventRow) -> ControlFlow<()>,
    ) -> Result<(), Self::Error>;

    /// The same without values, for those who need none.
    fn scan_event_metas(
        &self,
        first: Revision,
        last: Revision,
        visit: &mut dyn FnMut(&[u8], &KeyMeta) -> ControlFlow<()>,
    ) -> Result<(), Self::Error> {
        self.scan_events(first, last, &mut |event| visit(&event.key, &event.meta))
    }

    /// One lease.
    fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, Self::Error>;

    /// All leases, by id.
    fn scan_leases(&self, visit: &mut dyn FnMut(LeaseId, LeaseRow) -> ControlFlow<()>) -> Result<(), Self::Error>;

    /// The keys attached to a lease, in ascending order.
    fn scan_lease_keys(&self, id: LeaseId, visit: &mut dyn FnMut(Bytes) -> ControlFlow<()>) -> Result<(), Self::Error>;

    /// Whom a lease is for, if that was said.
    fn lease_holder(&self, id: LeaseId) -> Result<Option<LeaseHolder>, Self::Error>;

    /// The ends of leases that are kept, by number: the oldest first.
    fn scan_lease_ends(&self, visit: &mut dyn FnMut(u64, LeaseEnd) -> ControlFlow<()>) -> Result<(), Self::Error>;

    /// The live keys under a lock's name, at most so many. Who remembers that there are none need not look for them.
    fn contending_keys(&self, name: &[u8], max: u64) -> Result<Vec<Bytes>, Self::Error> {
        let mut keys = Vec::new();
        self.scan_live(&lock_range(name), &mut |key| {
            keys.push(key);
            if keys.len() as u64 >= max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(keys)
    }

    /// A row of `locks`. It is of its key's kind, or storage is broken.
    fn lock_row(&self, key: &LockKey) -> Result<Option<LockValue>, Self::Error>;

    /// The rows of `locks` from a key on.
    fn scan_lock_rows(
        &self,
        from: &LockKey,
        visit: &mut dyn FnMut(LockKey, LockValue) -> ControlFlow<()>,
    ) -> Result<(), Self::Error>;
}

/// Writes of the state tables: all of a run's go into one batch.
pub trait StateWrite: StateRead {
    /// Records an event: the history row, the key's current row, and its place among the live keys.
    ///
    /// `event.meta.modified` must be newer than every event recorded before.
    fn record(&mut self, event: EventRow);

    /// Says that so many events are about to be recorded, for those who can make room at once.
    fn expect_events(&mut self, _count: usize) {}

    /// The replicated scalars, to change.
    fn meta_mut(&mut self) -> &mut Meta;

    /// Writes a lease.
    fn put_lease(&mut self, id: LeaseId, row: LeaseRow);

    /// Removes a lease. Its keys must have been detached.
    fn delete_lease(&mut self, id: LeaseId);

    /// Attaches a key to a lease.
    fn attach(&mut self, id: LeaseId, key: &Bytes);

    /// Detaches a key from a lease.
    fn detach(&mut self, id: LeaseId, key: &Bytes);

    /// Detaches all keys from a lease; `keys` are all that are attached to it.
    fn detach_all(&mut self, id: LeaseId, keys: &[Bytes]) {
        for key in keys {
            self.detach(id, key);
        }
    }

    /// Writes whom a lease is for.
    fn put_lease_holder(&mut self, id: LeaseId, holder: LeaseHolder);

    /// Removes it.
    fn delete_lease_holder(&mut self, id: LeaseId);

    /// Records the end of a lease under a number.
    fn put_lease_end(&mut self, number: u64, end: LeaseEnd);

    /// Removes the record of that number.
    fn delete_lease_end(&mut self, number: u64);

    /// Writes a row of `locks`, which is of its key's kind.
    fn put_lock_row(&mut self, key: LockKey, row: LockValue);

    /// Removes it.
    fn delete_lock_row(&mut self, key: &LockKey);
}
