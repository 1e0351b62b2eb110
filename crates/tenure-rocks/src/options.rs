//! How RocksDB is set up, each figure with its reason. docs/STORAGE.md has the measurements.

use rocksdb::{
    BlockBasedOptions, BlockBasedTablePinningTier, Cache, DBCompressionType, DataBlockIndexType, LogLevel, Options,
};
use tenure_storage::engine::Table;

/// What an operator or a measurement may choose.
#[derive(Clone, Copy, Debug)]
pub struct RocksOptions {
    /// Memory for blocks read from files, shared by all tables.
    pub block_cache_bytes: usize,
    /// Rows that are in memory alone, in all tables together, before a flush starts. A crash replays about as much of
    /// the log.
    pub memtable_bytes: usize,
    /// Whether files are compressed.
    pub compression: bool,
    /// The size of a block of rows, the unit of reading and caching.
    pub block_bytes: usize,
    /// Values from this length on go to blob files, which compaction does not rewrite; `None` keeps them with their
    /// keys.
    pub blob_value_bytes_min: Option<u64>,
    /// Files kept open. The usual limit of a process is 1024 descriptors, and connections need them too.
    pub open_files_max: i32,
}

impl Default for RocksOptions {
    fn default() -> RocksOptions {
        RocksOptions {
            block_cache_bytes: 128 << 20,
            memtable_bytes: 64 << 20,
            compression: true,
            block_bytes: 16 << 10,
            blob_value_bytes_min: None,
            open_files_max: 512,
        }
    }
}

/// One flush and one compaction at a time: a third thread would take a small machine's cores from the requests.
const BACKGROUND_JOBS: i32 = 2;
/// Memtables of a table that may wait for their flush before writers must: room for a burst, bounded memory.
const MEMTABLES_PER_TABLE_MAX: i32 = 4;
/// Files in level 0 at which RocksDB slows and stops writers. Higher than its defaults (20 and 36), because a delayed
/// apply delays every caller, and reads of `current` pass the extra files by their Bloom filters.
const LEVEL_0_SLOWDOWN_FILES: i32 = 32;
const LEVEL_0_STOP_FILES: i32 = 64;
/// What a look at a checkpoint may take, beside an engine that serves.
const INSPECT_CACHE_BYTES: usize = 1 << 20;
const INSPECT_OPEN_FILES_MAX: i32 = 32;
/// About 1 % of lookups of absent keys read a block in vain.
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// RocksDB's own log: what it did and why it stalled, kept small.
const INFO_LOG_BYTES_MAX: usize = 8 << 20;
const INFO_LOG_FILES_MAX: usize = 3;

impl RocksOptions {
    /// For a look at a few rows of a checkpoint: hardly a cache, and few files open at once.
    pub(crate) fn to_inspect(self) -> RocksOptions {
        RocksOptions { block_cache_bytes: INSPECT_CACHE_BYTES, open_files_max: INSPECT_OPEN_FILES_MAX, ..self }
    }

    /// The options of the database as a whole.
    pub(crate) fn database(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        options.set_paranoid_checks(true);
        options.set_max_background_jobs(BACKGROUND_JOBS);
        options.set_db_write_buffer_size(self.memtable_bytes);
        options.set_max_open_files(self.open_files_max);
        // Spreads the write-back of new files, else the log's fsync waits behind the whole of one.
        options.set_bytes_per_sync(1 << 20);
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
        options.set_keep_log_file_num(INFO_LOG_FILES_MAX);
        options.set_stats_dump_period_sec(0);
        options
    }

    /// The options of one table.
    pub(crate) fn table(&self, table: Table, cache: &Cache) -> Options {
        let mut options = Options::default();
        options.set_write_buffer_size(self.memtable_bytes);
        options.set_max_write_buffer_number(MEMTABLES_PER_TABLE_MAX);
        options.set_level_zero_slowdown_writes_trigger(LEVEL_0_SLOWDOWN_FILES);
        options.set_level_zero_stop_writes_trigger(LEVEL_0_STOP_FILES);
        let compression = if self.compression { DBCompressionType::Lz4 } else { DBCompressionType::None };
        options.set_compression_type(compression);
        if let Some(bytes) = self.blob_value_bytes_min {
            options.set_enable_blob_files(true);
            options.set_min_blob_size(bytes);
            options.set_blob_compression_type(compression);
            options.set_enable_blob_gc(true);
        }
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_size(self.block_bytes);
        blocks.set_block_cache(cache);
        // They count against the cache, but are never looked up in it.
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_unpartitioned_pinning_tier(BlockBasedTablePinningTier::All);
        if table == Table::Current {
            blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
            blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        }
        options.set_block_based_table_factory(&blocks);
        options
    }
}
