//! One run of committed log entries on its way into the store: what it wrote so far, over the last view.
//!
//! Reads see the run's own writes. Rows are encoded at the end, so a key that a run puts a hundred times costs one row
//! of `current`. Nothing reaches the store before [`Run::commit`]; dropping a run leaves no trace.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use tenure_core::command::KeyRange;
use tenure_core::lock::{LockKey, LockValue, lock_range};
use tenure_core::planted::{Bug, is_on};
use tenure_core::range::count_present;
use tenure_core::row::{CurrentRow, EventRow, KeyMeta, LeaseEnd, LeaseHolder, LeaseRow, Meta};
use tenure_core::state::{StateRead, StateWrite};
use tenure_core::{EventId, LeaseId, Revision};

use crate::error::StorageError;
use crate::merge::merge_scan;
use crate::pending_keys::{PendingKey, PendingKeys};
use crate::pending_locks::PendingLocks;
use crate::row_cache::KnownKey;
use crate::state_view::{Applied, StateView};
use crate::store::StateStore;

/// A run of committed entries. See the module.
pub struct Run<'s> {
    store: &'s mut StateStore,
    view: Arc<StateView>,
    meta: Meta,
    pending: Pending,
    /// The key looked up last. Apply looks at a key and then writes it, and the byte counts need the same answer.
    looked_up: RefCell<LookedUp>,
}

#[derive(Default)]
struct LookedUp {
    key: Vec<u8>,
    known: Option<KnownKey>,
}

/// What a run wrote.
#[derive(Default)]
pub(crate) struct Pending {
    /// All events, in order.
    pub(crate) events: Vec<EventRow>,
    /// The keys that changed.
    pub(crate) keys: PendingKeys,
    /// The leases that changed; `None` is a deletion.
    pub(crate) leases: BTreeMap<LeaseId, Option<LeaseRow>>,
    /// Leases whose attachments in the view below are all gone.
    pub(crate) emptied_leases: BTreeSet<LeaseId>,
    /// The attachments that changed: whether they are there now.
    pub(crate) lease_keys: BTreeMap<(LeaseId, Bytes), bool>,
    /// The holders of leases that came or went.
    pub(crate) lease_holders: BTreeMap<LeaseId, Option<LeaseHolder>>,
    /// The ends of leases that were recorded or forgotten.
    pub(crate) lease_ends: BTreeMap<u64, Option<LeaseEnd>>,
    /// The rows of locks that changed.
    pub(crate) locks: PendingLocks,
}

/// What a commit published.
pub struct Committed {
    /// The state after the run.
    pub view: Arc<StateView>,
    /// The events of the run, in order.
    pub events: Vec<EventRow>,
    /// The leases that changed, by id, as they are after the run; `None` is one that is gone.
    pub leases: Vec<(LeaseId, Option<LeaseRow>)>,
    /// The rows of locks that changed, by key, as they are after the run; `None` is one that is gone.
    pub locks: Vec<(LockKey, Option<LockValue>)>,
}

impl<'s> Run<'s> {
    pub(crate) fn new(store: &'s mut StateStore) -> Run<'s> {
        let view = store.view();
        let meta = view.meta.clone();
        let locks = PendingLocks::expecting(store.lock_rows_last);
        let pending = Pending { locks, ..Pending::default() };
        Run { store, view, meta, pending, looked_up: RefCell::default() }
    }

    /// Writes all of the run, with how far the log is applied, in one engine batch.
    ///
    /// After an error the store refuses every further write: what the engine kept is unknown.
    pub fn commit(self, applied: Applied) -> Result<Committed, StorageError> {
        let Run { store, meta, pending, .. } = self;
        store.commit_run(meta, pending, applied)
    }

    fn pending_row(&self, pending: PendingKey) -> CurrentRow {
        let event = &self.pending.events[pending.event];
        CurrentRow { meta: event.meta, value: event.value.clone() }
    }

    fn pending_keys(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, PendingKey)> {
        let inside = (!range.is_empty()).then(|| self.pending.keys.range(range.bounds()));
        inside.into_iter().flatten().map(|(key, pending)| (key, *pending))
    }
}

impl StateRead for Run<'_> {
    type Error = StorageError;

    fn corrupt(&self, what: &'static str) -> StorageError {
        StorageError::Contradiction(what)
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn current_meta(&self, key: &[u8]) -> Result<Option<KeyMeta>, StorageError> {
        match self.pending.keys.get(key) {
            Some(pending) => {
                let own = self.pending.events[pending.event].meta;
                if is_on(Bug::RunReadsPastItself) && !own.is_tombstone() {
                    let committed = self.store.known_key(key)?.filter(|known| !known.meta.is_tombstone());
                    return Ok(Some(committed.map_or(own, |known| known.meta)));
                }
                Ok(Some(own))
            }
            None => {
                let known = self.store.known_key(key)?;
                let mut looked_up = self.looked_up.borrow_mut();
                looked_up.key.clear();
                looked_up.key.extend_from_slice(key);
                looked_up.known = known;
                Ok(known.map(|known| known.meta))
            }
        }
    }

    fn current(&self, key: &[u8]) -> Result<Option<CurrentRow>, StorageError> {
        match self.pending.keys.get(key) {
            Some(pending) => Ok(Some(self.pending_row(*pending))),
            None => self.view.current(key),
        }
    }

    fn scan_current(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Bytes, CurrentRow) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let pending = self.pending_keys(range).map(|(key, pending)| (key.clone(), Some(self.pending_row(pending))));
        merge_scan(pending, |visit| self.view.scan_current(range, visit), visit)
    }

    fn scan_live(&self, range: &KeyRange, visit: &mut dyn FnMut(Bytes) -> ControlFlow<()>) -> Result<(), StorageError> {
        let pending = self
            .pending_keys(range)
            .filter(|(_, pending)| pending.live_change != 0)
            .map(|(key, pending)| (key.clone(), (pending.live_change > 0).then_some(())));
        let base =
            |visit: &mut dyn FnMut(Bytes, ()) -> ControlFlow<()>| self.view.scan_live(range, &mut |key| visit(key, ()));
        merge_scan(pending, base, &mut |key, ()| visit(key))
    }

    fn count_live(&self, range: &KeyRange) -> Result<u64, StorageError> {
        let before = count_present(&*self.view, range)?;
        let change: i64 = self.pending_keys(range).map(|(_, pending)| i64::from(pending.live_change)).sum();
        before.checked_add_signed(change).ok_or_else(|| self.corrupt("a run deletes more keys than there are"))
    }

    fn event(&self, id: EventId) -> Result<Option<EventRow>, StorageError> {
        match self.pending.events.binary_search_by_key(&id, |event| event.meta.modified) {
            Ok(place) => Ok(Some(self.pending.events[place].clone())),
            Err(_) => self.view.event(id),
        }
    }

    fn scan_events(
        &self,
        first: Revision,
        last: Revision,
        visit: &mut dyn FnMut(EventRow) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let revision = |event: &EventRow| event.meta.modified.revision;
        let pending = self
            .pending
            .events
            .iter()
            .skip_while(|event| revision(event) < first)
            .take_while(|event| revision(event) <= last)
            .map(|event| (event.meta.modified, Some(event.clone())));
        let base = |visit: &mut dyn FnMut(EventId, EventRow) -> ControlFlow<()>| {
            self.view.scan_events(first, last, &mut |event| visit(event.meta.modified, event))
        };
        merge_scan(pending, base, &mut |_, event| visit(event))
    }

    fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, StorageError> {
        match self.pending.leases.get(&id) {
            Some(pending) => Ok(*pending),
            None => self.store.known_lease(id),
        }
    }

    fn scan_leases(&self, visit: &mut dyn FnMut(LeaseId, LeaseRow) -> ControlFlow<()>) -> Result<(), StorageError> {
        let pending = self.pending.leases.iter().map(|(id, row)| (*id, *row));
        merge_scan(pending, |visit| self.view.scan_leases(visit), visit)
    }

    fn scan_lease_keys(
        &self,
        id: LeaseId,
        visit: &mut dyn FnMut(Bytes) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let pending = self
            .pending
            .lease_keys
            .range((id, Bytes::new())..)
            .take_while(|((lease, _), _)| *lease == id)
            .map(|((_, key), attached)| (key.clone(), attached.then_some(())));
        let base = |visit: &mut dyn FnMut(Bytes, ()) -> ControlFlow<()>| {
            if self.pending.emptied_leases.contains(&id) {
                return Ok(());
            }
            self.view.scan_lease_keys(id, &mut |key| visit(key, ()))
        };
        merge_scan(pending, base, &mut |key, ()| visit(key))
    }

    fn lease_holder(&self, id: LeaseId) -> Result<Option<LeaseHolder>, StorageError> {
        match self.pending.lease_holders.get(&id) {
            Some(pending) => Ok(pending.clone()),
            None => self.view.lease_holder(id),
        }
    }

    fn scan_lease_ends(&self, visit: &mut dyn FnMut(u64, LeaseEnd) -> ControlFlow<()>) -> Result<(), StorageError> {
        let pending = self.pending.lease_ends.iter().map(|(number, end)| (*number, end.clone()));
        merge_scan(pending, |visit| self.view.scan_lease_ends(visit), visit)
    }

    fn contending_keys(&self, name: &[u8], max: u64) -> Result<Vec<Bytes>, StorageError> {
        let range = lock_range(name);
        let is_settled = self.pending_keys(&range).all(|(_, pending)| pending.live_change == 0);
        if is_settled && self.store.has_no_keys_under(name) {
            return Ok(Vec::new());
        }
        let mut keys = Vec::new();
        self.scan_live(&range, &mut |key| {
            keys.push(key);
            if keys.len() as u64 >= max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if is_settled && (keys.len() as u64) < max {
            self.store.note_keys_under(name, keys.len() as u64);
        }
        Ok(keys)
    }

    fn lock_row(&self, key: &LockKey) -> Result<Option<LockValue>, StorageError> {
        match self.pending.locks.get(key) {
            Some(pending) => Ok(pending.clone()),
            None => self.store.known_lock_row(key),
        }
    }

    fn scan_lock_rows(
        &self,
        from: &LockKey,
        visit: &mut dyn FnMut(LockKey, LockValue) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        merge_scan(self.pending.locks.range_from(from), |visit| self.view.scan_lock_rows(from, visit), visit)
    }
}

impl StateWrite for Run<'_> {
    fn record(&mut self, event: EventRow) {
        let id = event.meta.modified;
        assert!(self.pending.events.last().is_none_or(|last| last.meta.modified < id), "events are recorded in order");
        assert!(id.revision > self.view.meta.revision, "an event of a run is newer than the view below it");
        let live_change = match event.meta.version {
            0 => -1,
            1 => 1,
            _ => 0,
        };
        let place = self.pending.events.len();
        let looked_up = self.looked_up.get_mut();
        let before = (looked_up.key == event.key).then_some(looked_up.known);
        let pending = PendingKey { event: place, live_change: 0, before };
        let pending = self.pending.keys.get_or_insert(&event.key, pending);
        pending.event = place;
        pending.live_change += live_change;
        assert!(pending.live_change.abs() <= 1, "a key is created only when absent and deleted only when present");
        self.pending.events.push(event);
    }

    fn expect_events(&mut self, count: usize) {
        self.pending.events.reserve(count);
        self.pending.keys.reserve(count);
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn put_lease(&mut self, id: LeaseId, row: LeaseRow) {
        self.pending.leases.insert(id, Some(row));
    }

    fn delete_lease(&mut self, id: LeaseId) {
        self.pending.leases.insert(id, None);
    }

    fn attach(&mut self, id: LeaseId, key: &Bytes) {
        self.pending.lease_keys.insert((id, key.clone()), true);
    }

    fn detach(&mut self, id: LeaseId, key: &Bytes) {
        self.pending.lease_keys.insert((id, key.clone()), false);
    }

    fn detach_all(&mut self, id: LeaseId, keys: &[Bytes]) {
        let few = keys.len() <= self.store.options.lease_keys_one_by_one_max;
        // Beyond the last id there is no key at which its rows end.
        if few || id == LeaseId(i64::MAX) {
            return keys.iter().for_each(|key| self.detach(id, key));
        }
        let pending = &mut self.pending.lease_keys;
        let of_lease: Vec<_> =
            pending.range((id, Bytes::new())..).map(|(at, _)| at).take_while(|at| at.0 == id).cloned().collect();
        for at in of_lease {
            pending.remove(&at);
        }
        self.pending.emptied_leases.insert(id);
    }

    fn put_lease_holder(&mut self, id: LeaseId, holder: LeaseHolder) {
        self.pending.lease_holders.insert(id, Some(holder));
    }

    fn delete_lease_holder(&mut self, id: LeaseId) {
        self.pending.lease_holders.insert(id, None);
    }

    fn put_lease_end(&mut self, number: u64, end: LeaseEnd) {
        self.pending.lease_ends.insert(number, Some(end));
    }

    fn delete_lease_end(&mut self, number: u64) {
        self.pending.lease_ends.insert(number, None);
    }

    fn put_lock_row(&mut self, key: LockKey, row: LockValue) {
        self.pending.locks.insert(key, Some(row));
    }

    fn delete_lock_row(&mut self, key: &LockKey) {
        self.pending.locks.insert(key.clone(), None);
    }
}
