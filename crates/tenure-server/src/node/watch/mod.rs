//! Watches: who is told of which changes, in order, once, and without holding up a writer.
//!
//! `hub.rs` says how events flow. One hub per process takes them from the apply loop; one [`WatchSession`] per client
//! stream pulls what its watchers are owed, at the pace of its client. What every watcher is promised, on every member,
//! across restarts, changes of leader and snapshots: its events come in order, each once, the events of a revision
//! together, none left out; or it is told that what it needs is compacted.

mod catch_up;
mod changes;
mod feed;
mod hub;
mod interval_tree;
mod limits;
mod members;
mod prev_kvs;
mod pull;
mod range_index;
mod registry;
mod ring;
mod session;
mod stats;
mod stream;
#[cfg(test)]
mod tests;
mod turns;
mod types;
mod work;

pub(in crate::node) use changes::Changes;
pub use hub::WatchHub;
pub use limits::{RING_BYTES_MAX, StreamLimits};
pub use session::WatchSession;
pub use stats::HubStats;
pub use types::{CreateWatch, Kinds, Scope, WatchEvent, WatchId, WatchMessage, WatchRefusal, WatchRequest};
