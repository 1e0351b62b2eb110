//! What the state tables need from an ordered byte store, and nothing more.
//!
//! The contract that everything above relies on: a batch is atomic over all tables; after a crash the store holds the
//! batches written before some point in time and none after it (a *prefix*, never a subset); whatever was written
//! before a [`Engine::flush`] began is in that prefix once the flush returned. There is no per-write durability on
//! purpose: the Raft log is the write-ahead log, and a second one would double the work of every write.
//!
//! Scans push borrowed rows into a visitor instead of returning an iterator: a count then copies nothing, and no
//! cursor can outlive its snapshot.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

/// The state tables. Each is its own ordered key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// User key → its newest event.
    Current,
    /// User key → nothing, for the keys that exist.
    Live,
    /// (revision, sub) → the whole event.
    History,
    /// Lease id → the lease.
    Leases,
    /// (lease id, user key) → nothing.
    LeaseKeys,
    /// Native locks.
    Locks,
    /// The scalars.
    Meta,
    /// Lease id → whom it is for.
    LeaseHolders,
    /// Number → how a lease ended.
    LeaseEnds,
}

impl Table {
    /// Every table, in the order of their [`Table::index`].
    pub const ALL: [Table; 9] = [
        Table::Current,
        Table::Live,
        Table::History,
        Table::Leases,
        Table::LeaseKeys,
        Table::Locks,
        Table::Meta,
        Table::LeaseHolders,
        Table::LeaseEnds,
    ];

    /// The table's name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Current => "current",
            Table::Live => "live",
            Table::History => "history",
            Table::Leases => "leases",
            Table::LeaseKeys => "lease_keys",
            Table::Locks => "locks",
            Table::Meta => "meta",
            Table::LeaseHolders => "lease_holders",
            Table::LeaseEnds => "lease_ends",
        }
    }

    /// Whether the first builds did not have the table yet: what they left behind lacks it, and counts as if it were
    /// empty there.
    pub const fn came_later(self) -> bool {
        matches!(self, Table::LeaseHolders | Table::LeaseEnds)
    }

    /// The table's place in [`Table::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why the engine failed. Whatever it was, the node must stop: what is on disk is no longer known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No space is left.
    #[error("the disk is full: {0}")]
    DiskFull(String),
    /// The stored bytes are not what was written.
    #[error("the stored data is damaged: {0}")]
    Corrupt(String),
    /// The data directory belongs to a process that is alive.
    #[error("the data directory is in use by another process: {0}")]
    Locked(String),
    /// The operating system refused, or anything else.
    #[error("the storage engine failed: {0}")]
    Io(String),
}

/// The order of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Ascending,
    /// Largest key first.
    Descending,
}

/// The keys of a scan: from `lower`, included, to `upper`, excluded.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// The first key.
    pub lower: &'a [u8],
    /// The first key beyond; `None` means to the end of the table.
    pub upper: Option<&'a [u8]>,
}

impl Bounds<'_> {
    /// The whole table.
    pub const ALL: Bounds<'static> = Bounds { lower: b"", upper: None };

    /// Whether no key can be inside.
    pub fn is_empty(&self) -> bool {
        self.upper.is_some_and(|upper| upper <= self.lower)
    }
}

/// Receives the rows of a scan; [`ControlFlow::Break`] ends it.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Receives the row of a key, by its place among those that were asked for.
pub type VisitMany<'a> = dyn FnMut(usize, Option<&[u8]>) + 'a;

/// An ordered byte store with atomic batches and snapshots.
pub trait Engine: Send + Sync + 'static {
    /// Writes all of a batch or nothing. Readers see it on return; a crash may still lose it.
    fn write(&self, batch: &Batch) -> Result<(), EngineError>;

    /// The store as it is now.
    fn snapshot(&self) -> Arc<dyn EngineSnapshot>;

    /// Makes everything that was written before the call survive a crash. Writes go on meanwhile.
    fn flush(&self) -> Result<(), EngineError>;

    /// Makes a second store of the present content in a directory that does not exist yet.
    fn checkpoint(&self, dir: &Path) -> Result<(), EngineError>;

    /// Figures for operators.
    fn stats(&self) -> EngineStats;
}

/// The store at one moment. It never changes.
pub trait EngineSnapshot: Send + Sync + 'static {
    /// One row.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The rows of keys in ascending order: visits the place of each key among them, and its row.
    fn get_many(&self, table: Table, keys: &[&[u8]], visit: &mut VisitMany<'_>) -> Result<(), EngineError>;

    /// The rows within bounds, until the visitor breaks. The visitor may read the snapshot itself.
    fn scan(
        &self,
        table: Table,
        bounds: Bounds<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), EngineError>;
}

/// Opens engines in directories: one node has several over its life, for a snapshot from the leader comes as the
/// directory of a new one.
pub trait EngineFactory: Send + Sync + 'static {
    /// Opens the engine in a directory that exists, or makes an empty one there.
    fn open(&self, dir: &Path) -> Result<Arc<dyn Engine>, EngineError>;

    /// Looks into what a checkpoint made. Nothing in the directory is changed.
    fn inspect(&self, dir: &Path) -> Result<Arc<dyn EngineSnapshot>, EngineError>;
}

/// Figures for operators. An engine that cannot tell leaves 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Bytes in files, whether they are still needed or not.
    pub bytes_on_disk: u64,
    /// Bytes of written rows that no flush has moved to a file yet.
    pub bytes_unflushed: u64,
    /// Bytes that background compaction has yet to rewrite.
    pub bytes_pending_compaction: u64,
}

/// Writes that become visible together.
///
/// All keys and values share one buffer, so a put costs no allocation of its own.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    ops: Vec<OpAt>,
}

/// Where an operation's key and value end in the buffer; they start where the one before ended.
#[derive(Clone, Copy, Debug)]
struct OpAt {
    table: Table,
    kind: Kind,
    key_end: usize,
    value_end: usize,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Put,
    Delete,
    /// The value is the key beyond.
    DeleteRange,
}

/// One write of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchOp<'a> {
    /// Writes a row.
    Put(Table, &'a [u8], &'a [u8]),
    /// Removes a row, whether it exists or not.
    Delete(Table, &'a [u8]),
    /// Removes all rows from the first key, included, to the second, excluded.
    DeleteRange(Table, &'a [u8], &'a [u8]),
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Makes room for so many writes, with so many bytes of keys and values together.
    pub fn reserve(&mut self, writes: usize, bytes: usize) {
        self.ops.reserve(writes);
        self.bytes.reserve(bytes);
    }

    /// Writes a row. A later write of the same row wins.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.put_with(table, key, |buffer| buffer.extend_from_slice(value));
    }

    /// Writes a row whose value is appended to the buffer by `encode`, which must not touch what is there.
    pub fn put_with(&mut self, table: Table, key: &[u8], encode: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        encode(&mut self.bytes);
        let value_end = self.bytes.len();
        assert!(key_end <= value_end, "an encoder only appends");
        self.ops.push(OpAt { table, kind: Kind::Put, key_end, value_end });
    }

    /// Removes a row.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        let end = self.bytes.len();
        self.ops.push(OpAt { table, kind: Kind::Delete, key_end: end, value_end: end });
    }

    /// Removes all rows from `lower`, included, to `upper`, excluded; later writes of such rows win. It costs an engine one
    /// write, and those who read the table later a look: it is for rows by the thousand.
    pub fn delete_range(&mut self, table: Table, lower: &[u8], upper: &[u8]) {
        if lower >= upper {
            return;
        }
        self.bytes.extend_from_slice(lower);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(upper);
        self.ops.push(OpAt { table, kind: Kind::DeleteRange, key_end, value_end: self.bytes.len() });
    }

    /// The writes, in order.
    pub fn iter(&self) -> impl Iterator<Item = BatchOp<'_>> {
        let mut start = 0;
        self.ops.iter().map(move |op| {
            let key = &self.bytes[start..op.key_end];
            let value = &self.bytes[op.key_end..op.value_end];
            start = op.value_end;
            match op.kind {
                Kind::Put => BatchOp::Put(op.table, key, value),
                Kind::Delete => BatchOp::Delete(op.table, key),
                Kind::DeleteRange => BatchOp::DeleteRange(op.table, key, value),
            }
        })
    }

    /// How many writes there are.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The bytes of all keys and values.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets the writes and keeps at most `bytes_max` of the buffer for the next ones.
    pub fn clear(&mut self, bytes_max: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(bytes_max);
        self.ops.clear();
        self.ops.shrink_to(bytes_max / size_of::<OpAt>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_its_writes_in_order() {
        let mut batch = Batch::new();
        batch.put(Table::Current, b"k", b"v");
        batch.delete(Table::Live, b"gone");
        batch.delete_range(Table::LeaseKeys, b"from", b"to");
        batch.put(Table::Meta, b"", b"");
        let ops: Vec<_> = batch.iter().collect();
        assert_eq!(
            ops,
            [
                BatchOp::Put(Table::Current, b"k", b"v"),
                BatchOp::Delete(Table::Live, b"gone"),
                BatchOp::DeleteRange(Table::LeaseKeys, b"from", b"to"),
                BatchOp::Put(Table::Meta, b"", b"")
            ]
        );
        assert_eq!(batch.byte_len(), 12);
        batch.clear(0);
        assert!(batch.is_empty());
        assert_eq!(batch.iter().count(), 0);
    }

    #[test]
    fn tables_know_their_place() {
        for (index, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table.index(), index);
        }
    }
}
