//! The state at one moment: an engine snapshot, and the scalars that belong to exactly that moment.
//!
//! A view is made when a run is committed and never changes, so that readers need no lock and a reader's revision,
//! applied index and rows always fit together.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tenure_core::borrowed::{BytesRef, KvRef};
use tenure_core::command::KeyRange;
use tenure_core::lock::{LockKey, LockValue};
use tenure_core::row::{CurrentRow, EventRow, KeyMeta, LeaseEnd, LeaseHolder, LeaseRow, Meta};
use tenure_core::state::{KnownCount, StateRead};
use tenure_core::{EventId, LeaseId, LogIndex, Revision, Term};

use crate::counts::Counts;
use crate::engine::{Direction, EngineSnapshot, Table};
use crate::error::StorageError;
use crate::keys::{
    ScanBounds, decode_attached_key, decode_history_key, decode_lease_end_key, decode_lease_key, decode_lock_key,
    history_key, lease_key, lock_key,
};
use crate::row_cache::KnownKey;
use crate::rows::{
    CurrentRef, EventRef, LocalState, StoredValue, decode_current, decode_event, decode_lease, decode_lease_end,
    decode_lease_holder, decode_lock_row, lease_of_end,
};
use crate::store::read_view;

/// How far the log is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last applied entry; 0 before the first.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The membership in force, as its owner encoded it; empty before the first.
    pub membership: Bytes,
}

/// How much the store holds, whatever the engine makes of it on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteCounts {
    /// All versions that are not purged yet.
    pub logical: u64,
    /// The newest versions of the keys that exist.
    pub in_use: u64,
}

/// What a store, its views and its flushers keep alive. The last of them to go drops it, and the engine before it: an
/// engine's directory may be removed from then on.
pub type Guard = Arc<dyn Send + Sync>;

/// The state at one moment.
pub struct StateView {
    pub(crate) snapshot: Arc<dyn EngineSnapshot>,
    /// Dropped after the snapshot.
    pub(crate) guard: Option<Guard>,
    pub(crate) meta: Meta,
    pub(crate) applied: Applied,
    pub(crate) local: LocalState,
    /// See `purge`.
    pub(crate) purge_epoch: u64,
    pub(crate) counts: Arc<Counts>,
}

impl StateView {
    /// The state in an engine that is only looked at, a checkpoint for example.
    pub fn of_snapshot(snapshot: Arc<dyn EngineSnapshot>) -> Result<StateView, StorageError> {
        read_view(snapshot, None)
    }

    /// How far the log was applied.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// How much the store held.
    pub fn bytes(&self) -> ByteCounts {
        ByteCounts { logical: self.local.bytes_logical, in_use: self.local.bytes_in_use }
    }

    /// Whether purging has rows left to walk for the compactions known here.
    pub fn has_purge_work(&self) -> bool {
        self.local.purge_complete < self.meta.compacted
    }

    /// Whether the count of a range at a revision is known, so that it needs no reading at all.
    pub fn knows_count(&self, range: &KeyRange, revision: Revision) -> bool {
        let at = if revision.0 <= 0 { self.meta.revision } else { revision };
        self.known_count(range, at).is_some_and(|known| known.at == at)
    }

    /// The rows below, for those who look at bytes.
    pub fn engine_snapshot(&self) -> &dyn EngineSnapshot {
        &*self.snapshot
    }

    /// A key's newest event and the length of its value.
    pub(crate) fn known_key(&self, key: &[u8]) -> Result<Option<KnownKey>, StorageError> {
        let Some(row) = self.snapshot.get(Table::Current, key)? else {
            return Ok(None);
        };
        let CurrentRef { meta, value, .. } = decode_current(&row)?;
        Ok(Some(KnownKey { meta, value_bytes: value.value_bytes() }))
    }

    /// Visits events borrowed, for those who need no copies.
    pub fn scan_event_refs(
        &self,
        first: Revision,
        last: Revision,
        visit: &mut dyn FnMut(EventId, EventRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.scan_rows(Table::History, &ScanBounds::of_revisions(first, last), |key, row| {
            let id = decode_history_key(key)?;
            Ok(visit(id, decode_event(id, row)?))
        })
    }

    /// Visits the leases that follow one in the order of their ids, or all of them.
    pub fn scan_leases_after(
        &self,
        after: Option<LeaseId>,
        visit: &mut dyn FnMut(LeaseId, LeaseRow) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let Some(bounds) = ScanBounds::of_leases_after(after) else { return Ok(()) };
        self.scan_rows(Table::Leases, &bounds, |key, row| Ok(visit(decode_lease_key(key)?, decode_lease(row)?)))
    }

    /// Visits the keys of a lease that follow one in ascending order, or all of them.
    pub fn scan_lease_keys_after(
        &self,
        id: LeaseId,
        after: Option<&[u8]>,
        visit: &mut dyn FnMut(Bytes) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.scan_rows(Table::LeaseKeys, &ScanBounds::of_lease_after(id, after), |key, _| {
            Ok(visit(Bytes::copy_from_slice(decode_attached_key(key)?)))
        })
    }

    /// How the last lease of this id ended, as far as that is still known. Reads all ends that are later.
    pub fn last_lease_end(&self, id: LeaseId) -> Result<Option<LeaseEnd>, StorageError> {
        let mut found = Ok(None);
        let kept = ScanBounds::of_lease_ends(self.meta.lease_ends);
        self.snapshot.scan(Table::LeaseEnds, kept.as_bounds(), Direction::Descending, &mut |_, row| {
            match lease_of_end(row) {
                Ok(other) if other != id => return ControlFlow::Continue(()),
                Ok(_) => found = decode_lease_end(row).map(Some),
                Err(error) => found = Err(error),
            }
            ControlFlow::Break(())
        })?;
        found
    }

    /// Scans ascending with a visitor that may fail.
    pub(crate) fn scan_rows(
        &self,
        table: Table,
        bounds: &ScanBounds,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StorageError>,
    ) -> Result<(), StorageError> {
        let bounds = bounds.as_bounds();
        if bounds.is_empty() {
            return Ok(());
        }
        let mut failure = None;
        self.snapshot.scan(table, bounds, Direction::Ascending, &mut |key, row| {
            visit(key, row).unwrap_or_else(|error| {
                failure = Some(error);
                ControlFlow::Break(())
            })
        })?;
        failure.map_or(Ok(()), Err)
    }
}

/// The value of a key whose newest event is `event`, a row of `history`.
fn value_of_event(meta: &KeyMeta, bytes: u64, event: Option<Bytes>) -> Result<Bytes, StorageError> {
    let Some(mut row) = event else {
        return Err(StorageError::damaged(Table::History, "the event that holds a key's value is missing"));
    };
    let value_bytes = decode_event(meta.modified, &row)?.value.len();
    if value_bytes as u64 != bytes {
        return Err(StorageError::damaged(Table::History, "a value is not as long as its key's row says"));
    }
    // The value is the end of the row: keep the row's allocation instead of making another.
    row.advance(row.len() - value_bytes);
    Ok(row)
}

fn lent<'a>(key: &'a [u8], meta: &KeyMeta, value: &'a [u8]) -> KvRef<'a> {
    KvRef::of(BytesRef::Lent(key), meta, BytesRef::Lent(value))
}

impl StateRead for StateView {
    type Error = StorageError;

    fn corrupt(&self, what: &'static str) -> StorageError {
        StorageError::Contradiction(what)
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn current_meta(&self, key: &[u8]) -> Result<Option<KeyMeta>, StorageError> {
        Ok(self.known_key(key)?.map(|known| known.meta))
    }

    fn current(&self, key: &[u8]) -> Result<Option<CurrentRow>, StorageError> {
        let Some(mut row) = self.snapshot.get(Table::Current, key)? else {
            return Ok(None);
        };
        let CurrentRef { meta, value, .. } = decode_current(&row)?;
        let value = match value {
            StoredValue::Inline(value) => {
                row.advance(row.len() - value.len());
                row
            }
            StoredValue::InHistory { bytes } => {
                value_of_event(&meta, bytes, self.snapshot.get(Table::History, &history_key(meta.modified))?)?
            }
        };
        Ok(Some(CurrentRow { meta, value }))
    }

    fn scan_current(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Bytes, CurrentRow) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.scan_versions(range, None, None, &mut |key, meta, value| {
            let row = CurrentRow { meta: *meta, value: Bytes::copy_from_slice(value) };
            visit(Bytes::copy_from_slice(key), row)
        })
    }

    fn scan_present(
        &self,
        range: &KeyRange,
        wanted: Option<usize>,
        visit: &mut dyn FnMut(KvRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.scan_versions(range, None, wanted, &mut |key, meta, value| visit(lent(key, meta, value)))
    }

    fn scan_metas(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(&[u8], &KeyMeta) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.scan_rows(Table::Current, &ScanBounds::of_keys(range), |key, row| {
            Ok(visit(key, &decode_current(row)?.meta))
        })
    }

    fn scan_past(
        &self,
        range: &KeyRange,
        at: Revision,
        wanted: Option<usize>,
        visit: &mut dyn FnMut(KvRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.scan_versions(range, Some(at), wanted, &mut |key, meta, value| visit(lent(key, meta, value)))
    }

    fn scan_live(&self, range: &KeyRange, visit: &mut dyn FnMut(Bytes) -> ControlFlow<()>) -> Result<(), StorageError> {
        self.scan_rows(Table::Live, &ScanBounds::of_keys(range), |key, _| Ok(visit(Bytes::copy_from_slice(key))))
    }

    fn count_live(&self, range: &KeyRange) -> Result<u64, StorageError> {
        let mut count = 0;
        self.scan_rows(Table::Live, &ScanBounds::of_keys(range), |_, _| {
            count += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(count)
    }

    fn known_count(&self, range: &KeyRange, at: Revision) -> Option<KnownCount> {
        self.counts.nearest(range, at, self.meta.compacted, self.meta.revision)
    }

    fn note_count(&self, range: &KeyRange, count: KnownCount) {
        self.counts.note(range, count, self.meta.revision);
    }

    fn event(&self, id: EventId) -> Result<Option<EventRow>, StorageError> {
        match self.snapshot.get(Table::History, &history_key(id))? {
            Some(row) => Ok(Some(decode_event(id, &row)?.to_row())),
            None => Ok(None),
        }
    }

    fn scan_events(
        &self,
        first: Revision,
        last: Revision,
        visit: &mut dyn FnMut(EventRow) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.scan_event_refs(first, last, &mut |_, event| visit(event.to_row()))
    }

    fn scan_event_metas(
        &self,
        first: Revision,
        last: Revision,
        visit: &mut dyn FnMut(&[u8], &KeyMeta) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.scan_event_refs(first, last, &mut |_, event| visit(event.key, &event.meta))
    }

    fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, StorageError> {
        match self.snapshot.get(Table::Leases, &lease_key(id))? {
            Some(row) => Ok(Some(decode_lease(&row)?)),
            None => Ok(None),
        }
    }

    fn scan_leases(&self, visit: &mut dyn FnMut(LeaseId, LeaseRow) -> ControlFlow<()>) -> Result<(), StorageError> {
        self.scan_leases_after(None, visit)
    }

    fn scan_lease_keys(
        &self,
        id: LeaseId,
        visit: &mut dyn FnMut(Bytes) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.scan_lease_keys_after(id, None, visit)
    }

    fn lease_holder(&self, id: LeaseId) -> Result<Option<LeaseHolder>, StorageError> {
        match self.snapshot.get(Table::LeaseHolders, &lease_key(id))? {
            Some(row) => Ok(Some(decode_lease_holder(&row)?)),
            None => Ok(None),
        }
    }

    fn scan_lease_ends(&self, visit: &mut dyn FnMut(u64, LeaseEnd) -> ControlFlow<()>) -> Result<(), StorageError> {
        self.scan_rows(Table::LeaseEnds, &ScanBounds::of_lease_ends(self.meta.lease_ends), |key, row| {
            Ok(visit(decode_lease_end_key(key)?, decode_lease_end(row)?))
        })
    }

    fn lock_row(&self, key: &LockKey) -> Result<Option<LockValue>, StorageError> {
        match self.snapshot.get(Table::Locks, &lock_key(key))? {
            Some(row) => decode_lock_row(key, &row).map(Some),
            None => Ok(None),
        }
    }

    fn scan_lock_rows(
        &self,
        from: &LockKey,
        visit: &mut dyn FnMut(LockKey, LockValue) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.scan_rows(Table::Locks, &ScanBounds::of_locks_from(from), |key, row| {
            let key = decode_lock_key(key)?;
            let row = decode_lock_row(&key, row)?;
            Ok(visit(key, row))
        })
    }
}
