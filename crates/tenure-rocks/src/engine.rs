//! Opening, writing, flushing.

use std::path::Path;
use std::sync::Arc;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{Cache, ColumnFamilyDescriptor, DB, FlushOptions, WriteBatch, WriteOptions};
use tenure_storage::engine::{Batch, BatchOp, Engine, EngineError, EngineSnapshot, EngineStats, Table};

use crate::background;
use crate::error::engine_error;
use crate::options::RocksOptions;
use crate::snapshot::{RocksSnapshot, families};

/// An open database. It stays open until the last snapshot of it is dropped.
pub struct RocksEngine {
    db: Arc<DB>,
    write_options: WriteOptions,
}

impl RocksEngine {
    /// Opens the database in a directory, or makes one there. A directory belongs to one process at a time.
    pub fn open(dir: &Path, options: &RocksOptions) -> Result<RocksEngine, EngineError> {
        let db = DB::open_cf_descriptors(&options.database(), dir, tables(options, |_| true));
        let db = db.map_err(|error| engine_error(&error))?;
        background::give_way();
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        Ok(RocksEngine { db: Arc::new(db), write_options })
    }

    /// Looks into the database in a directory, which somebody else may have open. Writes nothing there.
    pub fn inspect(dir: &Path, options: &RocksOptions) -> Result<Arc<dyn EngineSnapshot>, EngineError> {
        let options = options.to_inspect();
        let there = DB::list_cf(&options.database(), dir).map_err(|error| engine_error(&error))?;
        let opens = |table: Table| !table.came_later() || there.iter().any(|name| name == table.name());
        let db = DB::open_cf_descriptors_read_only(&options.database(), dir, tables(&options, opens), false);
        Ok(Arc::new(RocksSnapshot::new(Arc::new(db.map_err(|error| engine_error(&error))?))))
    }

    fn figure(&self, property: &std::ffi::CStr) -> u64 {
        let figure = |family| self.db.property_int_value_cf(family, property);
        // A figure for operators that cannot be read is not worth stopping for.
        families(&self.db).into_iter().map(|family| figure(family).ok().flatten().unwrap_or(0)).sum()
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        let families = families(&self.db);
        let mut writes = WriteBatch::with_capacity_bytes(encoded_bytes(batch));
        for op in batch.iter() {
            match op {
                BatchOp::Put(table, key, value) => writes.put_cf(families[table.index()], key, value),
                BatchOp::Delete(table, key) => writes.delete_cf(families[table.index()], key),
                BatchOp::DeleteRange(table, lower, upper) => {
                    writes.delete_range_cf(families[table.index()], lower, upper);
                }
            }
        }
        self.db.write_opt(writes, &self.write_options).map_err(|error| engine_error(&error))
    }

    fn snapshot(&self) -> Arc<dyn EngineSnapshot> {
        Arc::new(RocksSnapshot::new(Arc::clone(&self.db)))
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families(&self.db), &options).map_err(|error| engine_error(&error))
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), EngineError> {
        let checkpoint = Checkpoint::new(&*self.db).map_err(|error| engine_error(&error))?;
        checkpoint.create_checkpoint(dir).map_err(|error| engine_error(&error))
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            bytes_on_disk: self.figure(c"rocksdb.total-sst-files-size"),
            bytes_unflushed: self.figure(c"rocksdb.cur-size-all-mem-tables"),
            bytes_pending_compaction: self.figure(c"rocksdb.estimate-pending-compaction-bytes"),
        }
    }
}

fn tables(options: &RocksOptions, opens: impl Fn(Table) -> bool) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(options.block_cache_bytes);
    let opened = Table::ALL.into_iter().filter(|table| opens(*table));
    opened.map(|table| ColumnFamilyDescriptor::new(table.name(), options.table(table, &cache))).collect()
}

/// What a batch takes in RocksDB's encoding, at most: 12 bytes of head, and per row a tag, a table and two lengths.
fn encoded_bytes(batch: &Batch) -> usize {
    12 + batch.byte_len() + batch.len() * 12
}
