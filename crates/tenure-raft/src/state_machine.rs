//! The state machine as openraft sees it: hands committed entries to the apply thread and answers what was applied.
//!
//! A snapshot here is a promise rather than a copy: building one flushes the engine and names the applied entry that
//! is now durable, which is what allows the log to be purged up to it. The files to send are made when a peer needs them,
//! away from here; once they are there, they are the current snapshot for as long as they can be of use.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tenure_faults::{Point, hit};
use tenure_storage::store::Applied;

use crate::applier::{Applier, CommittedEntry, nothing_applied};
use crate::entry_codec::decode_stored_membership;
use crate::home::{Home, Housed};
use crate::runtime::{self, BootInstant};
use crate::shared_store::SharedStore;
use crate::snapshot::{Checkpoint, Counters, Outbox};
use crate::types::{Config, LogId, StoredMembership, log_id};

/// Entries of one engine batch. Bounds the memory of a batch and how long readers wait for a new view.
const RUN_ENTRIES_MAX: usize = 256;

/// Bytes of proposals in one engine batch; a single larger entry makes a batch of its own.
const RUN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What stands behind a snapshot.
pub(crate) enum SnapshotData {
    /// The state is durable up to here. There are no files to send yet.
    Durable,
    /// Files to send.
    Files(Arc<Checkpoint>),
    /// A state that came from a leader, open and ready, and when its coming began.
    Received(Box<Housed>, BootInstant),
}

impl fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotData::Durable => f.write_str("durable state"),
            SnapshotData::Files(checkpoint) => checkpoint.fmt(f),
            SnapshotData::Received(housed, _) => housed.fmt(f),
        }
    }
}

type Meta = SnapshotMetaOf<Config>;
type Snapshot = SnapshotOf<Config, SnapshotData>;

/// See the module's header.
pub(crate) struct StateMachine {
    applier: Applier,
    store: SharedStore,
    home: Arc<Home>,
    outbox: Arc<Outbox>,
    counters: Arc<Counters>,
    durable: Arc<Durable>,
}

impl StateMachine {
    pub(crate) fn new(
        applier: Applier,
        store: SharedStore,
        home: Arc<Home>,
        outbox: Arc<Outbox>,
        counters: Arc<Counters>,
    ) -> StateMachine {
        StateMachine { applier, store, home, outbox, counters, durable: Arc::default() }
    }

    async fn install(&mut self, meta: &Meta, housed: Box<Housed>, begun: BootInstant) -> io::Result<()> {
        let (found, _) = applied_state_of(housed.store.applied())?;
        if found != meta.last_log_id {
            return Err(io::Error::other(format!("a snapshot {meta} holds the state at {found:?}")));
        }
        let (home, store, index) = (self.home.clone(), self.store.clone(), housed.store.applied().index);
        let counters = self.counters.clone();
        // Neither the syncs nor what the effects do with a new state may hold up consensus.
        let installed = runtime::blocking(move || {
            store.check_replacement(&housed)?;
            hit(Point::RaftBeforeApplySnap)?;
            // From here on the directory may be the one that counts, even if the next step fails half-way.
            housed.tenancy.settle();
            home.name(housed.generation)?;
            hit(Point::SnapshotAfterName)?;
            // Counted before it can be seen.
            counters.installed.add(1);
            counters.receive_micros.add_time(begun.elapsed());
            store.replace(*housed)?;
            hit(Point::RaftAfterApplySnap)
        });
        installed.await.map_err(io::Error::other)??;
        self.durable.note(meta);
        tracing::info!(%index, took = ?begun.elapsed(), "installed a snapshot from the leader");
        Ok(())
    }
}

/// The newest state that is known to be durable here.
#[derive(Default)]
struct Durable(Mutex<Option<Meta>>);

impl Durable {
    fn note(&self, meta: &Meta) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A flush that was begun before a snapshot was installed may end after it.
        if known.as_ref().is_none_or(|known| known.last_log_id < meta.last_log_id) {
            *known = Some(meta.clone());
        }
    }

    fn get(&self) -> Option<Meta> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
    type SnapshotData = SnapshotData;
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
        Builder { store: self.store.clone(), durable: self.durable.clone() }
    }

    async fn install_snapshot(&mut self, meta: &Meta, data: SnapshotData) -> io::Result<()> {
        match data {
            SnapshotData::Received(housed, begun) => self.install(meta, housed, begun).await,
            SnapshotData::Durable | SnapshotData::Files(_) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, format!("snapshot {meta} was not received")))
            }
        }
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        // What openraft is told here is what it takes a follower to have that was sent this snapshot: so it must be
        // exactly what the files hold.
        if let Some(checkpoint) = self.outbox.current() {
            let meta = checkpoint.meta().clone();
            return Ok(Some(Snapshot { meta, snapshot: SnapshotData::Files(checkpoint) }));
        }
        Ok(self.durable.get().map(|meta| Snapshot { meta, snapshot: SnapshotData::Durable }))
    }
}

/// Makes the applied state durable.
pub(crate) struct Builder {
    store: SharedStore,
    durable: Arc<Durable>,
}

impl RaftSnapshotBuilder<Config> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (applied, flusher) = self.store.durable_point();
        let durable =
            runtime::blocking(move || flusher.flush()).await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        assert!(durable >= applied.index, "invariant: a flush covers what was applied before it began");
        let (last_log_id, last_membership) = applied_state_of(&applied)?;
        let meta = Meta { last_log_id, last_membership };
        self.durable.note(&meta);
        Ok(Snapshot { meta, snapshot: SnapshotData::Durable })
    }
}
