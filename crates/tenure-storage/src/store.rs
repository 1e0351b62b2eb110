//! The only writer of the state tables.
//!
//! A committed run becomes one engine batch that holds its rows, the scalars and how far the log is applied, so that
//! after a crash the log goes on exactly where the rows end. Opening reads five rows, however much is stored: nothing
//! is rebuilt in memory.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure_core::lock::{LockKey, LockValue, lock_names};
use tenure_core::row::{LeaseHolder, LeaseRow, LockCounts, Meta};
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, LogIndex};
use tenure_faults::Point;

use crate::counts::Counts;
use crate::engine::{Batch, Bounds, Direction, Engine, EngineSnapshot, Table};
use crate::error::{StorageError, meet};
use crate::flusher::Flusher;
use crate::keys::{
    FORMAT_VERSION, META_APPLIED, META_FORMAT, META_LOCAL, META_MEMBERSHIP, META_STATE, ScanBounds, decode_history_key,
    decode_lease_end_key, history_key, lease_end_key, lease_key, lease_keys_key, lock_key,
};
use crate::purge::next_purge_epoch;
use crate::row_cache::{KnownKey, RowCache};
use crate::rows::{
    EVENT_OVERHEAD_BYTES, LocalState, StoredValue, decode_applied, decode_local, decode_state, encode_applied,
    encode_current, encode_event, encode_lease, encode_lease_end, encode_lease_holder, encode_local, encode_lock_row,
    encode_state,
};
use crate::run::Pending;

pub use crate::run::{Committed, Run};
pub use crate::state_view::{Applied, ByteCounts, Guard, StateView};

/// How the store works. None of it changes what a reader sees, and each may differ from one start to the next.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Values up to this long stand in `current` beside the key's metadata; longer ones stand in `history` alone.
    pub inline_value_bytes_max: usize,
    /// The memory for what `current` says of keys without their values. A hit saves a put its engine read.
    pub meta_cache_bytes_max: usize,
    /// The same for leases, which every put on a lease and every request for a lock looks up.
    pub lease_cache_bytes_max: usize,
    /// How much memory the rows of locks may take that were used last, names that are no native locks among them; and half
    /// as much what is known of names.
    pub lock_cache_bytes_max: usize,
    /// The attachments of a lease that ends are removed one by one up to so many, and beyond that by one write for all: it
    /// spares half a microsecond for each, and costs those who read attachments later.
    pub lease_keys_one_by_one_max: usize,
    /// How many keys a range must hold for its count to be remembered. Fewer are counted as fast as they are looked up.
    pub counted_keys_min: u64,
}

impl Default for Options {
    fn default() -> Options {
        // Measured, see docs/STORAGE.md: a value that stands twice costs every node about 1.4 µs per 100 bytes at each
        // put, one that stands apart costs the reading node 3 µs at each read; 64 bytes is where they meet. The cache
        // holds the keys of a store of about a million.
        Options {
            inline_value_bytes_max: 64,
            meta_cache_bytes_max: 128 << 20,
            lease_cache_bytes_max: 8 << 20,
            lock_cache_bytes_max: 16 << 20,
            lease_keys_one_by_one_max: 1000,
            counted_keys_min: 128,
        }
    }
}

/// What a row of an event takes beside its key and value, about; for what is reserved at once.
const ROW_OVERHEAD_BYTES_GUESS: usize = 48;

/// The buffer that is kept from one batch to the next. A larger batch is rare and gives its memory back.
const BATCH_BYTES_KEPT_MAX: usize = 4 << 20;

/// The state tables, to write. See the module.
pub struct StateStore {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) options: Options,
    pub(crate) view: Arc<StateView>,
    flusher: Flusher,
    batch: Batch,
    /// Behind a lock because reads fill it too; there is never a second user.
    cache: Mutex<RowCache<KnownKey>>,
    /// The same of leases that exist, by the bytes of their ids.
    lease_cache: Mutex<RowCache<LeaseRow>>,
    /// The same of locks, by the bytes of their keys.
    lock_cache: Mutex<RowCache<Option<LockValue>>>,
    /// How many live keys are under names that somebody looked under. A lock that is free has left its traces in the
    /// engine: all keys that ever were under its name, until they are purged. None until somebody looks.
    keys_under: Mutex<Option<RowCache<u64>>>,
    /// How many rows of locks the last run wrote.
    pub(crate) lock_rows_last: usize,
    /// No key of `current` is greater: keys that are put in order need no read.
    greatest_key: Option<Vec<u8>>,
    halted: bool,
}

impl StateStore {
    /// Opens what an engine holds, with the default options.
    pub fn open(engine: Arc<dyn Engine>) -> Result<StateStore, StorageError> {
        StateStore::open_with(engine, Options::default())
    }

    /// Opens what an engine holds; an empty engine becomes a fresh store.
    pub fn open_with(engine: Arc<dyn Engine>, options: Options) -> Result<StateStore, StorageError> {
        StateStore::open_guarded(engine, None, options)
    }

    /// The same, with something that is dropped once the store and all that came of it are gone.
    pub fn open_guarded(
        engine: Arc<dyn Engine>,
        guard: Option<Guard>,
        options: Options,
    ) -> Result<StateStore, StorageError> {
        let mut snapshot = engine.snapshot();
        if snapshot.get(Table::Meta, META_FORMAT)?.is_none() {
            refuse_rows_without_format(&*snapshot)?;
            engine.write(&fresh_batch())?;
            snapshot = engine.snapshot();
        }
        let counts = Arc::new(Counts::new(options.counted_keys_min));
        let view = Arc::new(StateView { counts, ..read_view(snapshot, guard.clone())? });
        let greatest_key = last_key(&*view.snapshot, Table::Current)?;
        Ok(StateStore {
            flusher: Flusher::new(Arc::clone(&engine), guard, view.applied.index),
            engine,
            options,
            view,
            batch: Batch::new(),
            cache: Mutex::new(RowCache::new(options.meta_cache_bytes_max)),
            lease_cache: Mutex::new(RowCache::new(options.lease_cache_bytes_max)),
            lock_cache: Mutex::new(RowCache::new(options.lock_cache_bytes_max)),
            lock_rows_last: 0,
            keys_under: Mutex::new(None),
            greatest_key,
            halted: false,
        })
    }

    /// How far the log is applied.
    pub fn applied(&self) -> &Applied {
        &self.view.applied
    }

    /// The state after the last commit.
    pub fn view(&self) -> Arc<StateView> {
        Arc::clone(&self.view)
    }

    /// Starts a run of committed entries.
    pub fn begin(&mut self) -> Run<'_> {
        Run::new(self)
    }

    /// A handle that makes the state durable.
    pub fn flusher(&self) -> Flusher {
        self.flusher.clone()
    }

    /// Makes a second store in a new directory.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        self.flusher.checkpoint(dir)
    }

    /// What the last committed state says of a key.
    pub(crate) fn known_key(&self, key: &[u8]) -> Result<Option<KnownKey>, StorageError> {
        if self.greatest_key.as_deref().is_none_or(|greatest| key > greatest) {
            return Ok(None);
        }
        if let Some(known) = self.cache().get(key) {
            return Ok(Some(known));
        }
        let known = self.view.known_key(key)?;
        if let Some(known) = known {
            self.cache().insert(key, known);
        }
        Ok(known)
    }

    /// The last committed row of a lock.
    pub(crate) fn known_lock_row(&self, key: &LockKey) -> Result<Option<LockValue>, StorageError> {
        let bytes = lock_key(key);
        if let Some(known) = self.lock_cache().get(&bytes) {
            return Ok(known);
        }
        let row = self.view.lock_row(key)?;
        self.lock_cache().insert(&bytes, row.clone());
        Ok(row)
    }

    /// A lease in the last committed state.
    pub(crate) fn known_lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, StorageError> {
        let key = lease_key(id);
        if let Some(known) = self.lease_cache().get(&key) {
            return Ok(Some(known));
        }
        let row = self.view.lease(id)?;
        if let Some(row) = row {
            self.lease_cache().insert(&key, row);
        }
        Ok(row)
    }

    /// Whether it is known that there was no live key under a name in the last committed state.
    pub(crate) fn has_no_keys_under(&self, name: &[u8]) -> bool {
        self.keys_under().as_mut().and_then(|known| known.get(name)) == Some(0)
    }

    /// Notes how many there were.
    pub(crate) fn note_keys_under(&self, name: &[u8], count: u64) {
        let bytes_max = self.options.lock_cache_bytes_max / 2;
        self.keys_under().get_or_insert_with(|| RowCache::new(bytes_max)).insert(name, count);
    }

    pub(crate) fn commit_run(
        &mut self,
        meta: Meta,
        mut pending: Pending,
        applied: Applied,
    ) -> Result<Committed, StorageError> {
        assert!(applied.index > self.view.applied.index, "a run moves the applied index forward");
        assert!(applied.term >= self.view.applied.term, "terms never fall");
        assert!(meta.revision >= self.view.meta.revision, "the revision never falls");
        assert!(
            pending.events.last().is_none_or(|event| event.meta.modified.revision <= meta.revision),
            "no event is newer than the store's revision"
        );
        let local = self.counted(&pending)?;
        let mut batch = self.take_batch();
        let locks = std::mem::take(&mut pending.locks).into_sorted();
        self.encode_pending(&mut batch, &pending);
        encode_locks(&mut batch, &locks);
        self.meet(Point::CommitBeforePreCommitHook)?;
        self.encode_scalars(&mut batch, &meta, &applied, &local);
        self.meet(Point::CommitAfterPreCommitHook)?;
        let compacts = meta.compacted > self.view.meta.compacted;
        self.meet_if(compacts, Point::CompactBeforeCommitScheduledCompact)?;
        self.meet(Point::BeforeCommit)?;
        self.write(batch)?;
        self.meet(Point::AfterCommit)?;
        self.meet_if(compacts, Point::CompactAfterCommitScheduledCompact)?;
        self.learn(&pending);
        self.learn_locks(&locks);
        self.lock_rows_last = locks.len();
        self.publish(meta, applied, local);
        let leases = pending.leases.into_iter().collect();
        Ok(Committed { view: self.view(), events: pending.events, leases, locks })
    }

    /// The byte counts after a run.
    fn counted(&self, pending: &Pending) -> Result<LocalState, StorageError> {
        let mut local = self.view.local;
        for event in &pending.events {
            local.bytes_logical += event_bytes(event.key.len(), event.value.len() as u64);
        }
        let (mut grown, mut shrunk) = (0, 0);
        for (key, change) in pending.keys.iter() {
            let before = match change.before {
                Some(before) => before,
                None => self.known_key(key)?,
            };
            if let Some(before) = before
                && !before.meta.is_tombstone()
            {
                shrunk += event_bytes(key.len(), before.value_bytes);
            }
            let event = &pending.events[change.event];
            if !event.meta.is_tombstone() {
                grown += event_bytes(key.len(), event.value.len() as u64);
            }
        }
        let too_small = StorageError::damaged(Table::Meta, "its byte counts are too small");
        let in_use = (local.bytes_in_use + grown).checked_sub(shrunk);
        local.bytes_in_use = in_use.ok_or(too_small.clone())?;
        // Holders have no history: they count as in use and as nothing else.
        for (id, holder) in &pending.lease_holders {
            let (before, after) = (holder_bytes(self.view.lease_holder(*id)?.as_ref()), holder_bytes(holder.as_ref()));
            for count in [&mut local.bytes_logical, &mut local.bytes_in_use] {
                *count = (*count + after).checked_sub(before).ok_or(too_small.clone())?;
            }
        }
        Ok(local)
    }

    fn encode_pending(&self, batch: &mut Batch, pending: &Pending) {
        let (events, keys) = (pending.events.len(), pending.keys.len());
        let bytes: usize = pending.events.iter().map(|event| 3 * event.key.len() + 2 * event.value.len()).sum();
        batch.reserve(events + 2 * keys, bytes + (events + keys) * ROW_OVERHEAD_BYTES_GUESS);
        for event in &pending.events {
            batch.put_with(Table::History, &history_key(event.meta.modified), |out| encode_event(out, event));
        }
        for (key, change) in pending.keys.iter() {
            let event = &pending.events[change.event];
            let stored = if event.value.len() <= self.options.inline_value_bytes_max {
                StoredValue::Inline(&event.value)
            } else {
                StoredValue::InHistory { bytes: event.value.len() as u64 }
            };
            batch.put_with(Table::Current, key, |out| encode_current(out, &event.meta, event.previous, stored));
            match change.live_change {
                1 => batch.put(Table::Live, key, b""),
                -1 => batch.delete(Table::Live, key),
                _ => {}
            }
        }
        for (id, lease) in &pending.leases {
            match lease {
                Some(lease) => batch.put_with(Table::Leases, &lease_key(*id), |out| encode_lease(out, lease)),
                None => batch.delete(Table::Leases, &lease_key(*id)),
            }
        }
        for id in &pending.emptied_leases {
            if let Bounds { lower, upper: Some(upper) } = ScanBounds::of_lease_after(*id, None).as_bounds() {
                batch.delete_range(Table::LeaseKeys, lower, upper);
            }
        }
        for ((id, key), attached) in &pending.lease_keys {
            let row = lease_keys_key(*id, key);
            if *attached {
                batch.put(Table::LeaseKeys, &row, b"");
            } else {
                batch.delete(Table::LeaseKeys, &row);
            }
        }
        for (id, holder) in &pending.lease_holders {
            match holder {
                Some(holder) => {
                    batch.put_with(Table::LeaseHolders, &lease_key(*id), |out| encode_lease_holder(out, holder));
                }
                None => batch.delete(Table::LeaseHolders, &lease_key(*id)),
            }
        }
        for (number, end) in &pending.lease_ends {
            match end {
                Some(end) => {
                    batch.put_with(Table::LeaseEnds, &lease_end_key(*number), |out| encode_lease_end(out, end));
                }
                None => batch.delete(Table::LeaseEnds, &lease_end_key(*number)),
            }
        }
    }

    fn encode_scalars(&self, batch: &mut Batch, meta: &Meta, applied: &Applied, local: &LocalState) {
        let before = &*self.view;
        if *meta != before.meta {
            batch.put_with(Table::Meta, META_STATE, |out| encode_state(out, meta));
        }
        if applied.membership != before.applied.membership {
            batch.put(Table::Meta, META_MEMBERSHIP, &applied.membership);
        }
        if *local != before.local {
            batch.put_with(Table::Meta, META_LOCAL, |out| encode_local(out, local));
        }
        batch.put_with(Table::Meta, META_APPLIED, |out| encode_applied(out, applied.index, applied.term));
    }

    pub(crate) fn take_batch(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    /// A place where a fault may wait, which is then one of the write that goes on here.
    pub(crate) fn meet(&mut self, point: Point) -> Result<(), StorageError> {
        Ok(meet(point).inspect_err(|_| self.halted = true)?)
    }

    pub(crate) fn meet_if(&mut self, is_there: bool, point: Point) -> Result<(), StorageError> {
        if is_there { self.meet(point) } else { Ok(()) }
    }

    pub(crate) fn write(&mut self, mut batch: Batch) -> Result<(), StorageError> {
        if self.halted {
            return Err(StorageError::Halted);
        }
        self.engine.write(&batch).inspect_err(|_| self.halted = true)?;
        batch.clear(BATCH_BYTES_KEPT_MAX);
        self.batch = batch;
        Ok(())
    }

    /// Keeps what a committed run makes known of its keys.
    fn learn(&mut self, pending: &Pending) {
        if let Some(key) = pending.keys.last()
            && self.greatest_key.as_deref().is_none_or(|greatest| &key[..] > greatest)
        {
            self.greatest_key = Some(key.to_vec());
        }
        let mut cache = self.cache();
        for (key, change) in pending.keys.iter() {
            let event = &pending.events[change.event];
            cache.insert(key, KnownKey { meta: event.meta, value_bytes: event.value.len() as u64 });
        }
        drop(cache);
        let mut leases = self.lease_cache();
        for (id, row) in &pending.leases {
            match row {
                Some(row) => leases.insert(&lease_key(*id), *row),
                None => leases.remove(&lease_key(*id)),
            }
        }
        drop(leases);
        if let Some(known) = &mut *self.keys_under() {
            learn_keys_under(known, pending);
        }
    }

    fn learn_locks(&self, rows: &[(LockKey, Option<LockValue>)]) {
        let mut cache = self.lock_cache();
        for (key, row) in rows {
            match (key, row) {
                // Nobody asks again for what has gone, but for a lock that comes and goes.
                (LockKey::Place(..) | LockKey::Delay(..) | LockKey::Requests(_), None) => cache.remove(&lock_key(key)),
                (LockKey::Lock(_), None) | (_, Some(_)) => cache.insert(&lock_key(key), row.clone()),
            }
        }
    }

    fn publish(&mut self, meta: Meta, applied: Applied, local: LocalState) {
        let (snapshot, purge_epoch) = (self.engine.snapshot(), self.view.purge_epoch);
        let (guard, counts) = (self.view.guard.clone(), Arc::clone(&self.view.counts));
        self.flusher.note_written(applied.index);
        self.view = Arc::new(StateView { snapshot, guard, meta, applied, local, purge_epoch, counts });
    }

    pub(crate) fn cache(&self) -> MutexGuard<'_, RowCache<KnownKey>> {
        // Every entry is inserted whole, so a panic of another holder has left no wrong one.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys_under(&self) -> MutexGuard<'_, Option<RowCache<u64>>> {
        // As above.
        self.keys_under.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease_cache(&self) -> MutexGuard<'_, RowCache<LeaseRow>> {
        // As above.
        self.lease_cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_cache(&self) -> MutexGuard<'_, RowCache<Option<LockValue>>> {
        // As above.
        self.lock_cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode_locks(batch: &mut Batch, rows: &[(LockKey, Option<LockValue>)]) {
    for (key, row) in rows {
        match row {
            Some(row) => batch.put_with(Table::Locks, &lock_key(key), |out| encode_lock_row(out, row)),
            None => batch.delete(Table::Locks, &lock_key(key)),
        }
    }
}

/// Counts the keys that a run created and deleted under names that are known.
fn learn_keys_under(known: &mut RowCache<u64>, pending: &Pending) {
    for (key, change) in pending.keys.iter().filter(|(_, change)| change.live_change != 0) {
        for name in lock_names(key) {
            if let Some(count) = known.get(name) {
                match count.checked_add_signed(change.live_change.into()) {
                    Some(count) => known.insert(name, count),
                    // It was wrong: look again.
                    None => known.remove(name),
                }
            }
        }
    }
}

/// What an event adds to the logical byte counts.
pub(crate) fn event_bytes(key_bytes: usize, value_bytes: u64) -> u64 {
    key_bytes as u64 + value_bytes + EVENT_OVERHEAD_BYTES
}

/// What a lease's holder adds to them.
fn holder_bytes(holder: Option<&LeaseHolder>) -> u64 {
    holder.map_or(0, |holder| holder.len_bytes() + EVENT_OVERHEAD_BYTES)
}

/// What makes an empty engine a store.
fn fresh_batch() -> Batch {
    let (meta, local) = (Meta::default(), LocalState::default());
    let applied = Applied::default();
    let mut batch = Batch::new();
    batch.put(Table::Meta, META_FORMAT, &FORMAT_VERSION.to_be_bytes());
    batch.put_with(Table::Meta, META_STATE, |out| encode_state(out, &meta));
    batch.put_with(Table::Meta, META_APPLIED, |out| encode_applied(out, applied.index, applied.term));
    batch.put(Table::Meta, META_MEMBERSHIP, &applied.membership);
    batch.put_with(Table::Meta, META_LOCAL, |out| encode_local(out, &local));
    batch
}

fn refuse_rows_without_format(snapshot: &dyn EngineSnapshot) -> Result<(), StorageError> {
    for table in Table::ALL {
        if last_key(snapshot, table)?.is_some() {
            return Err(StorageError::damaged(table, "it has rows, but the store has no format version"));
        }
    }
    Ok(())
}

pub(crate) fn read_view(snapshot: Arc<dyn EngineSnapshot>, guard: Option<Guard>) -> Result<StateView, StorageError> {
    let row = |name: &[u8]| {
        let missing = StorageError::damaged(Table::Meta, "one of its rows is missing");
        snapshot.get(Table::Meta, name)?.ok_or(missing)
    };
    let format = row(META_FORMAT)?;
    let format = <[u8; 4]>::try_from(&format[..]);
    let format = format.map_err(|_| StorageError::damaged(Table::Meta, "its format version is not 4 bytes long"))?;
    let found = u32::from_be_bytes(format);
    if found != FORMAT_VERSION {
        return Err(StorageError::Format { found, known: FORMAT_VERSION });
    }
    let meta = decode_state(&row(META_STATE)?)?;
    let (index, term) = decode_applied(&row(META_APPLIED)?)?;
    let applied = Applied { index, term, membership: row(META_MEMBERSHIP)? };
    let local = decode_local(&row(META_LOCAL)?)?;
    let counts = Arc::new(Counts::new(Options::default().counted_keys_min));
    let purge_epoch = next_purge_epoch();
    let view = StateView { snapshot, guard, meta, applied, local, purge_epoch, counts };
    check_scalars(&view)?;
    Ok(view)
}

/// Refuses scalars that no run can have left together.
fn check_scalars(view: &StateView) -> Result<(), StorageError> {
    let wrong = |reason| Err(StorageError::damaged(Table::Meta, reason));
    if view.meta.compacted > view.meta.revision {
        return wrong("the store is compacted beyond its revision");
    }
    if view.applied.index == LogIndex(0) && view.meta != Meta::default() {
        return wrong("something was written, but no log entry was applied");
    }
    if view.local.bytes_in_use > view.local.bytes_logical {
        return wrong("more bytes are in use than there are");
    }
    if view.local.purge_complete > view.meta.compacted {
        return wrong("purging is complete beyond the compacted revision");
    }
    if let Some(newest) = last_key(&*view.snapshot, Table::History)?
        && decode_history_key(&newest)?.revision > view.meta.revision
    {
        return wrong("the newest event is newer than the store's revision");
    }
    let last_end = last_key(&*view.snapshot, Table::LeaseEnds)?.as_deref().map(decode_lease_end_key).transpose()?;
    if last_end.map(|number| number.saturating_add(1)) != Some(view.meta.lease_ends).filter(|count| *count > 0) {
        return wrong("the ends of leases that were recorded are not those that are there");
    }
    if last_key(&*view.snapshot, Table::Locks)?.is_some() != (view.meta.locks != LockCounts::default()) {
        return wrong("the locks that are counted are not those that are there");
    }
    Ok(())
}

fn last_key(snapshot: &dyn EngineSnapshot, table: Table) -> Result<Option<Vec<u8>>, StorageError> {
    let mut last = None;
    snapshot.scan(table, Bounds::ALL, Direction::Descending, &mut |key, _| {
        last = Some(key.to_vec());
        ControlFlow::Break(())
    })?;
    Ok(last)
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod model_tests;
#[cfg(test)]
#[path = "reading_tests.rs"]
mod reading_tests;
#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
