//! The state tables' engine on RocksDB. The only crate that names rocksdb, and a leaf: it holds no logic.
//!
//! A table is a column family. Writes skip RocksDB's own log, because the Raft log is the log: what a crash leaves is
//! the last flush, and `atomic_flush` makes that one point in time for all tables. Pipelined writes do not go with
//! atomic flushes and unordered writes break snapshots, so both stay off.

mod background;
mod engine;
mod error;
mod factory;
mod options;
mod snapshot;

pub use engine::RocksEngine;
pub use factory::RocksEngines;
pub use options::RocksOptions;
