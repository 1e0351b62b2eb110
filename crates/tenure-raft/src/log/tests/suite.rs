//! openraft's own conformance suite, on a log that keeps its tail in memory and on one that must read everything back.

use std::io::{self, Cursor};
use std::path::PathBuf;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use openraft::entry::RaftPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{OptionalSend, StorageError};

use super::*;
use crate::types::StoredMembership;

/// The smallest state machine that the suite accepts: it knows how far it is and who is a member.
#[derive(Clone, Debug, Default)]
struct Machine {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Arc<std::sync::Mutex<Option<SnapshotMetaOf<Config>>>>,
}

impl RaftSnapshotBuilder<Config> for Machine {
    type SnapshotData = Cursor<Vec<u8>>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Config, Self::SnapshotData>, io::Error> {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: Cursor::default() })
    }
}

impl RaftStateMachine<Config> for Machine {
    type SnapshotData = Cursor<Vec<u8>>;
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Config>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, _)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            if let Some(membership) = entry.payload.get_membership() {
                self.membership = StoredMembership::new(self.applied, membership);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Config>,
        _: Self::SnapshotData,
    ) -> Result<(), io::Error> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Config, Self::SnapshotData>>, io::Error> {
        let meta = self.snapshot.lock().unwrap().clone();
        Ok(meta.map(|meta| Snapshot { meta, snapshot: Cursor::default() }))
    }
}

struct Builder(LogOptions);

impl StoreBuilder<Config, LogStore, Machine> for Builder {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError<Config>> {
        let disk = Arc::new(SimFiles::new());
        Ok(((), LogStore::open(disk, PathBuf::from(DIR), self.0.clone()).unwrap(), Machine::default()))
    }
}

fn run_suite(options: LogOptions) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder(options))).unwrap();
}

#[test]
fn the_suite_passes_with_the_tail_in_memory() {
    run_suite(LogOptions::default());
}

#[test]
fn the_suite_passes_with_everything_read_back_from_small_segments() {
    run_suite(LogOptions { segment_bytes: 256, tail_bytes_max: 0, ..LogOptions::default() });
}
