//! The Raft log: entries, vote and marks in segment files of our own, written by one at a time.
//!
//! ```text
//! openraft ─ append, vote, marks ─▶ shared (tail in memory, queue) ─▶ wal_thread ─▶ writer ─▶ segment files
//!     ▲                                │                  or in_place    │  one write and one fdatasync per group
//!     └──────── completions ───────────┼─────────────────────────────────┘
//! replication, apply ◀─ reader ────────┘ tail, else segment files
//! ```
//!
//! The choice that everything else follows from: all that must be durable goes through one file in one order. So a vote
//! can never overtake an entry, whatever survives a crash is a prefix of what was done, and any number of operations
//! share a sync. Why not RocksDB: it would write everything twice and pick its own moments for it.
//!
//! What is not here: snapshots, and any knowledge of what entries mean.

mod arrivals;
mod bench;
mod counters;
mod error;
mod files;
mod in_place;
mod options;
mod positions;
mod reader;
mod record;
mod recovery;
mod segment;
mod shared;
mod sim_files;
mod store;
mod tail;
mod terms;
#[cfg(test)]
mod tests;
mod wal_thread;
mod writer;

pub(crate) use arrivals::Arrivals;
#[doc(hidden)]
pub use bench::{AppendCost, append_cost};
pub use counters::LogCounters;
pub use error::LogError;
pub use files::{FileLayer, FileLock, LogFile, OsFiles};
pub use options::{LogOptions, OnFailure};
pub use sim_files::{Keep, SimFiles};
pub use store::{LogStepper, LogStore, Logged};
