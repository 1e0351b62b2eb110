//! The state tables: an ordered byte store behind [`engine::Engine`], and on top of it the rows that the replicated
//! state machine reads and writes.
//!
//! ```text
//! apply ──▶ Run (overlay over a view) ──commit──▶ one engine batch {rows, scalars, applied index} ──▶ next StateView
//! ```
//!
//! [`store::StateStore`] is the only writer; everybody else holds a [`state_view::StateView`], which never changes.
//! The crate knows nothing of Raft (the membership is opaque bytes), of threads, or of a particular engine.

mod counts;
pub mod engine;
pub mod error;
pub mod flusher;
pub mod keys;
pub mod mem;
mod mem_checkpoint;
pub mod mem_engines;
mod merge;
mod pending_keys;
mod pending_locks;
pub mod purge;
pub mod refound;
mod row_cache;
pub mod rows;
pub mod run;
pub mod state_view;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod versions;

pub use error::StorageError;
