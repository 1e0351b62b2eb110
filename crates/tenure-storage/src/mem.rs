//! An engine in memory whose crashes and failures are chosen by the test that owns it.
//!
//! Each row keeps its versions by sequence number, so that a snapshot is a number and writes do not copy the tables.
//! Versions that no snapshot can see are dropped when their row is written again, and on a sweep whenever as many
//! stale rows have gathered as there are rows. Scans read in chunks and never hold the lock while visiting, so a
//! visitor may read too.
//!
//! Beside the tables it keeps what a flush has made durable and the batches since: [`MemEngine::crash`] gives the
//! engine that a restarted process would open.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::engine::{
    Batch, BatchOp, Bounds, Direction, Engine, EngineError, EngineSnapshot, EngineStats, Table, Visit, VisitMany,
};
pub use crate::mem_checkpoint::CHECKPOINT_FILE;
use crate::mem_checkpoint::{decode_checkpoint, encode_checkpoint};

/// The rows that a scan takes under the lock at once.
const SCAN_CHUNK_ROWS: usize = 256;

/// A failure to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device fails.
    Io,
    /// No space is left.
    DiskFull,
}

impl Fault {
    fn error(self) -> EngineError {
        match self {
            Fault::Io => EngineError::Io("injected failure".into()),
            Fault::DiskFull => EngineError::DiskFull("injected failure".into()),
        }
    }
}

/// The engine. Clones are handles of the same store.
#[derive(Clone, Default)]
pub struct MemEngine {
    shared: Arc<Mutex<Inner>>,
}

pub(crate) type Rows = BTreeMap<Bytes, Bytes>;
type Write = (Table, Bytes, Option<Bytes>);

#[derive(Default)]
struct Inner {
    sequence: u64,
    tables: [BTreeMap<Bytes, Vec<Version>>; Table::ALL.len()],
    /// How many snapshots see each sequence number.
    snapshots: BTreeMap<u64, usize>,
    /// Rows that keep versions which only a snapshot needs.
    stale_rows: Vec<(Table, Bytes)>,
    durable: [Rows; Table::ALL.len()],
    unflushed: Vec<Vec<Write>>,
    write_fault: Option<(u64, Fault)>,
    flush_fault: Option<(u64, Fault)>,
}

struct Version {
    sequence: u64,
    /// `None` if the row was deleted.
    value: Option<Bytes>,
}

impl MemEngine {
    /// An empty engine.
    pub fn new() -> MemEngine {
        MemEngine::default()
    }

    /// Opens a checkpoint.
    pub fn open_checkpoint(dir: &Path) -> Result<MemEngine, EngineError> {
        let path = dir.join(CHECKPOINT_FILE);
        let bytes = std::fs::read(&path).map_err(|error| EngineError::Io(format!("{}: {error}", path.display())))?;
        MemEngine::of_checkpoint(&bytes)
    }

    /// The engine whose checkpoint has these bytes.
    pub fn of_checkpoint(bytes: &[u8]) -> Result<MemEngine, EngineError> {
        let damaged = || EngineError::Corrupt("not a whole checkpoint".into());
        Ok(MemEngine::holding(decode_checkpoint(bytes).ok_or_else(damaged)?))
    }

    /// The bytes of a checkpoint, for who keeps files elsewhere. Flushes, as any checkpoint does.
    pub fn checkpoint_bytes(&self) -> Result<Vec<u8>, EngineError> {
        self.flush()?;
        Ok(encode_checkpoint(&self.inner().durable))
    }

    /// How many batches no flush has covered.
    pub fn unflushed_batches(&self) -> usize {
        self.inner().unflushed.len()
    }

    /// What a process would find that starts after a crash now, if `kept` of the unflushed batches, the oldest, had
    /// reached the disk by themselves. This engine goes on unchanged, for those who still hold it.
    pub fn crash(&self, kept: usize) -> MemEngine {
        let inner = self.inner();
        let mut durable = inner.durable.clone();
        for batch in inner.unflushed.iter().take(kept) {
            apply_writes(&mut durable, batch);
        }
        MemEngine::holding(durable)
    }

    /// Makes the `nth` write from now fail, and every one after it; 1 is the next.
    pub fn fail_writes_from(&self, nth: u64, fault: Fault) {
        assert!(nth > 0, "the next write is number 1");
        self.inner().write_fault = Some((nth, fault));
    }

    /// Makes the `nth` flush or checkpoint from now fail, and every one after it; 1 is the next.
    pub fn fail_flushes_from(&self, nth: u64, fault: Fault) {
        assert!(nth > 0, "the next flush is number 1");
        self.inner().flush_fault = Some((nth, fault));
    }

    /// Undoes the injected failures.
    pub fn heal(&self) {
        let mut inner = self.inner();
        inner.write_fault = None;
        inner.flush_fault = None;
    }

    fn holding(durable: [Rows; Table::ALL.len()]) -> MemEngine {
        let mut inner = Inner { durable, ..Inner::default() };
        for (table, rows) in inner.tables.iter_mut().zip(&inner.durable) {
            let version = |value: &Bytes| vec![Version { sequence: 0, value: Some(value.clone()) }];
            *table = rows.iter().map(|(key, value)| (key.clone(), version(value))).collect();
        }
        MemEngine { shared: Arc::new(Mutex::new(inner)) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.shared)
    }
}

/// A test that panics elsewhere should fail with its own message and not with a poisoned lock.
fn lock(shared: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count_down(fault: &mut Option<(u64, Fault)>) -> Result<(), EngineError> {
    if let Some((left, fault)) = fault {
        if *left <= 1 {
            return Err(fault.error());
        }
        *left -= 1;
    }
    Ok(())
}

fn apply_writes(tables: &mut [Rows; Table::ALL.len()], writes: &[Write]) {
    for (table, key, value) in writes {
        let rows = &mut tables[table.index()];
        match value {
            Some(value) => rows.insert(key.clone(), value.clone()),
            None => rows.remove(key),
        };
    }
}

impl Engine for MemEngine {
    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        let mut inner = self.inner();
        count_down(&mut inner.write_fault)?;
        inner.sequence += 1;
        let mut writes = Vec::with_capacity(batch.len());
        for op in batch.iter() {
            let at = writes.len();
            match op {
                BatchOp::Put(table, key, value) => {
                    writes.push((table, Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value))));
                }
                BatchOp::Delete(table, key) => writes.push((table, Bytes::copy_from_slice(key), None)),
                BatchOp::DeleteRange(table, lower, upper) => {
                    let rows =
                        inner.tables[table.index()].range::<[u8], _>((Bound::Included(lower), Bound::Excluded(upper)));
                    writes.extend(rows.map(|(key, _)| (table, key.clone(), None)));
                }
            }
            for (table, key, value) in &writes[at..] {
                inner.write_row(*table, key, value.clone());
            }
        }
        inner.unflushed.push(writes);
        inner.sweep_if_due();
        Ok(())
    }

    fn snapshot(&self) -> Arc<dyn EngineSnapshot> {
        let mut inner = self.inner();
        let sequence = inner.sequence;
        *inner.snapshots.entry(sequence).or_insert(0) += 1;
        Arc::new(MemSnapshot { shared: Arc::clone(&self.shared), sequence })
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut inner = self.inner();
        count_down(&mut inner.flush_fault)?;
        let Inner { durable, unflushed, .. } = &mut *inner;
        for batch in unflushed.drain(..) {
            apply_writes(durable, &batch);
        }
        Ok(())
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), EngineError> {
        let bytes = self.checkpoint_bytes()?;
        let written = std::fs::create_dir(dir).and_then(|()| std::fs::write(dir.join(CHECKPOINT_FILE), bytes));
        written.map_err(|error| EngineError::Io(format!("{}: {error}", dir.display())))
    }

    fn stats(&self) -> EngineStats {
        let inner = self.inner();
        let value_bytes = |(_, key, value): &Write| (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
        let bytes_unflushed = inner.unflushed.iter().flatten().map(value_bytes).sum();
        let row_bytes = |(key, value): (&Bytes, &Bytes)| (key.len() + value.len()) as u64;
        let bytes_on_disk = inner.durable.iter().flatten().map(row_bytes).sum();
        EngineStats { bytes_on_disk, bytes_unflushed, bytes_pending_compaction: 0 }
    }
}

impl Inner {
    fn write_row(&mut self, table: Table, key: &Bytes, value: Option<Bytes>) {
        let sequence = self.sequence;
        let versions = self.tables[table.index()].entry(key.clone()).or_default();
        let deleted = value.is_none();
        match versions.last_mut() {
            Some(last) if last.sequence == sequence => last.value = value,
            Some(_) | None => versions.push(Version { sequence, value }),
        }
        drop_unseen(versions, &self.snapshots);
        if deleted || versions.len() > 1 {
            self.stale_rows.push((table, key.clone()));
        }
    }

    /// Costs one visit of each stale row, so it is due only when that many writes were made since the last one.
    fn sweep_if_due(&mut self) {
        let rows: usize = self.tables.iter().map(BTreeMap::len).sum();
        if self.stale_rows.len() <= rows.max(SCAN_CHUNK_ROWS) {
            return;
        }
        let mut still_stale = Vec::new();
        self.stale_rows.sort_unstable();
        self.stale_rows.dedup();
        for (table, key) in std::mem::take(&mut self.stale_rows) {
            let rows = &mut self.tables[table.index()];
            let Some(versions) = rows.get_mut(&key) else {
                continue;
            };
            drop_unseen(versions, &self.snapshots);
            match &versions[..] {
                [] => drop(rows.remove(&key)),
                [only] if only.value.is_some() => {}
                [only] if self.snapshots.range(..only.sequence).next().is_none() => drop(rows.remove(&key)),
                _ => still_stale.push((table, key)),
            }
        }
        self.stale_rows = still_stale;
    }
}

/// Keeps the newest version and, for each snapshot, the newest one that it sees.
fn drop_unseen(versions: &mut Vec<Version>, snapshots: &BTreeMap<u64, usize>) {
    let mut place = 0;
    while place + 1 < versions.len() {
        let seen_by = versions[place].sequence..versions[place + 1].sequence;
        if snapshots.range(seen_by).next().is_some() {
            place += 1;
        } else {
            versions.remove(place);
        }
    }
}

struct MemSnapshot {
    shared: Arc<Mutex<Inner>>,
    sequence: u64,
}

impl MemSnapshot {
    fn visible<'v>(&self, versions: &'v [Version]) -> Option<&'v Bytes> {
        let newest = versions.iter().rev().find(|version| version.sequence <= self.sequence);
        newest.and_then(|version| version.value.as_ref())
    }

    /// The next rows of a scan whose remaining keys are `bounds`.
    fn chunk(&self, table: Table, bounds: (Bound<&[u8]>, Bound<&[u8]>), direction: Direction) -> Vec<(Bytes, Bytes)> {
        let inner = lock(&self.shared);
        let rows = inner.tables[table.index()].range::<[u8], _>(bounds);
        let seen =
            |(key, versions): (&Bytes, &Vec<Version>)| self.visible(versions).map(|value| (key.clone(), value.clone()));
        match direction {
            Direction::Ascending => rows.filter_map(seen).take(SCAN_CHUNK_ROWS).collect(),
            Direction::Descending => rows.rev().filter_map(seen).take(SCAN_CHUNK_ROWS).collect(),
        }
    }
}

impl EngineSnapshot for MemSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let inner = lock(&self.shared);
        let versions = inner.tables[table.index()].get(key);
        Ok(versions.and_then(|versions| self.visible(versions)).cloned())
    }

    fn get_many(&self, table: Table, keys: &[&[u8]], visit: &mut VisitMany<'_>) -> Result<(), EngineError> {
        for (place, key) in keys.iter().enumerate() {
            visit(place, self.get(table, key)?.as_deref());
        }
        Ok(())
    }

    fn scan(
        &self,
        table: Table,
        bounds: Bounds<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), EngineError> {
        // A map refuses inverted bounds with a panic.
        if bounds.is_empty() {
            return Ok(());
        }
        let mut seen_to: Option<Bytes> = None;
        loop {
            let (mut lower, mut upper) =
                (Bound::Included(bounds.lower), bounds.upper.map_or(Bound::Unbounded, Bound::Excluded));
            if let Some(key) = &seen_to {
                match direction {
                    Direction::Ascending => lower = Bound::Excluded(&key[..]),
                    Direction::Descending => upper = Bound::Excluded(&key[..]),
                }
            }
            let ended =
                matches!((lower, upper), (Bound::Included(a) | Bound::Excluded(a), Bound::Excluded(b)) if a >= b);
            let chunk = if ended { Vec::new() } else { self.chunk(table, (lower, upper), direction) };
            for (key, value) in &chunk {
                if visit(key, value).is_break() {
                    return Ok(());
                }
            }
            if chunk.len() < SCAN_CHUNK_ROWS {
                return Ok(());
            }
            seen_to = chunk.last().map(|(key, _)| key.clone());
        }
    }
}

impl Drop for MemSnapshot {
    fn drop(&mut self) {
        let mut inner = lock(&self.shared);
        if let Some(count) = inner.snapshots.get_mut(&self.sequence) {
            *count -= 1;
            if *count == 0 {
                inner.snapshots.remove(&self.sequence);
            }
        }
    }
}

#[cfg(test)]
#[path = "mem_tests.rs"]
mod tests;
