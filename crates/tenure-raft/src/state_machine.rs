//! The state machine as openraft sees it: hands committed entries to the apply thread and answers what was applied.
//!
//! A snapshot here is a promise rather than a copy: building one flushes the engine and names the applied entry that
//! is now durable, which is what allows the log to be purged up to it. The files to send are made when a peer asks.

use std::io;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tenure_storage::store::Applied;

use crate::applier::{Applier, CommittedEntry, SharedStore, nothing_applied};
use crate::entry_codec::decode_stored_membership;
use crate::types::{Config, LogId, StoredMembership, log_id};

/// Entries of one engine batch. Bounds the memory of a batch and how long readers wait for a new view.
const RUN_ENTRIES_MAX: usize = 256;

/// Bytes of proposals in one engine batch; a single larger entry makes a batch of its own.
const RUN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A locally durable point of the state.
#[derive(Clone, Debug)]
pub(crate) struct DurablePoint;

type Snapshot = SnapshotOf<Config, DurablePoint>;

/// See the module's header.
pub(crate) struct StateMachine {
    applier: Applier,
    store: SharedStore,
    current: Arc<Mutex<Option<Snapshot>>>,
}

impl StateMachine {
    pub(crate) fn new(applier: Applier, store: SharedStore) -> StateMachine {
        StateMachine { applier, store, current: Arc::default() }
    }
}

/// The applied entry's log id and the membership in force, from what storage kept of them.
pub(crate) fn applied_state_of(applied: &Applied) -> io::Result<(Option<LogId>, StoredMembership)> {
    if nothing_applied(applied) {
        return Ok((None, StoredMembership::default()));
    }
    let membership = decode_stored_membership(&applied.membership[..])
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("stored membership: {error}")))?;
    Ok((Some(log_id(applied.term.0, applied.index.0)), membership))
}

impl RaftStateMachine<Config> for StateMachine {
    type SnapshotData = DurablePoint;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        applied_state_of(self.store.lock()?.applied())
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Config>>> + Unpin + OptionalSend,
    {
        let mut run: Vec<CommittedEntry> = Vec::new();
        let mut run_bytes = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            if let EntryPayload::Normal(proposal) = &entry.payload {
                run_bytes += proposal.0.len();
            }
            run.push((entry, responder));
            if run.len() >= RUN_ENTRIES_MAX || run_bytes >= RUN_BYTES_MAX {
                self.applier.apply(std::mem::take(&mut run)).await?;
                run_bytes = 0;
            }
        }
        if run.is_empty() { Ok(()) } else { self.applier.apply(run).await }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { store: self.store.clone(), current: self.current.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Config>, _: DurablePoint) -> io::Result<()> {
        // No peer sends one: `full_snapshot` refuses on the sending side.
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("snapshot {meta} from a peer")))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.current.lock().map_err(|_| io::Error::other("a snapshot builder panicked"))?.clone())
    }
}

/// Makes the applied state durable.
pub(crate) struct Builder {
    store: SharedStore,
    current: Arc<Mutex<Option<Snapshot>>>,
}

impl RaftSnapshotBuilder<Config> for Builder {
    type SnapshotData = DurablePoint;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        // Neither takes the store's lock: a long run of the apply loop must not hold up consensus, which calls this.
        let (applied, flusher) = (self.store.view().applied().clone(), self.store.flusher());
        let durable = tokio::task::spawn_blocking(move || flusher.flush())
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        assert!(durable >= applied.index, "invariant: a flush covers what was applied before it began");
        let (last_log_id, last_membership) = applied_state_of(&applied)?;
        let snapshot =
            Snapshot { meta: SnapshotMetaOf::<Config> { last_log_id, last_membership }, snapshot: DurablePoint };
        *self.current.lock().map_err(|_| io::Error::other("a snapshot builder panicked"))? = Some(snapshot.clone());
        Ok(snapshot)
    }
}
