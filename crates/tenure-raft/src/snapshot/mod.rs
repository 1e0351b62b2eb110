//! Snapshots to followers that need entries which the leader's log no longer has.
//!
//! ```text
//! leader:   outbox ─ checkpoint ─▶ pieces, at a pace ─▶ ┐ a connection of their own
//! follower: inbox  ─ incoming: checked, written, synced ◀┘ ─▶ opened ─▶ installed: one small file replaced
//! ```
//!
//! The transfer itself is in `peer`, what an installed snapshot means for the state in `home` and `applier`.

mod checkpoint;
mod counters;
mod inbox;
mod incoming;
mod manifest;
mod options;
mod outbox;
mod pace;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::error::NodeError;
use crate::home::{Generation, Home};
use crate::log::LogStore;
use crate::node::NodeOptions;
use crate::shared_store::SharedStore;

pub(crate) use checkpoint::{Checkpoint, read_piece};
pub(crate) use counters::Counters;
pub use counters::SnapshotCounters;
pub(crate) use inbox::{Inbox, Offered, StreamError};
pub(crate) use incoming::ReceiveError;
pub(crate) use manifest::{FILES_MAX, Manifest, Piece, Place, is_harmless};
pub use options::SnapshotOptions;
pub(crate) use outbox::Outbox;

/// A member's two ends.
#[derive(Clone)]
pub(crate) struct Snapshots {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) counters: Arc<Counters>,
}

impl Snapshots {
    /// `unfinished` is what an earlier life was receiving.
    pub(crate) fn open(
        options: &NodeOptions,
        store: &SharedStore,
        log: &LogStore,
        home: Arc<Home>,
        unfinished: Option<Generation>,
    ) -> Result<Snapshots, NodeError> {
        let counters: Arc<Counters> = Arc::default();
        let dir = options.data_dir.join("snapshots");
        let sending = options.snapshots;
        let outbox = Outbox::open(store.clone(), log.clone(), home.clone(), dir.clone(), sending, counters.clone());
        let outbox = outbox.map_err(|error| NodeError::Io(format!("directory {}", dir.display()), error))?;
        let inbox = Inbox::new(home, counters.clone(), unfinished);
        Ok(Snapshots { inbox: Arc::new(inbox), outbox: Arc::new(outbox), counters })
    }
}
