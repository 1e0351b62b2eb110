//! What a member finds in its data directory: who it is, its log and its state, and whether they belong together.
//!
//! Log and identity may only be kept or lost together. A member whose log is gone has forgotten its votes and what it
//! acknowledged; if its state is there too, something is lost that nobody can name, and it does not start. If nothing
//! was ever applied it counts as another incarnation from then on, and its peers have a say, as with an empty directory.

use std::path::Path;
use std::sync::Arc;

use openraft::RaftLogReader;
use openraft::entry::RaftEntry;
use openraft::storage::RaftLogStorage;
use tenure_storage::engine::EngineFactory;
use tenure_storage::store::Applied;
use tokio::sync::watch;

use crate::applier::nothing_applied;
use crate::error::NodeError;
use crate::home::{Found, Generation, Home, Housed};
use crate::identity::{Identity, raft_dir};
use crate::log::{FileLayer, LogError, LogStore};
use crate::node::NodeOptions;
use crate::types::log_id;

/// See the module's header.
pub(crate) struct Opened {
    pub(crate) identity: Arc<Identity>,
    pub(crate) log: LogStore,
    pub(crate) home: Arc<Home>,
    pub(crate) housed: Housed,
    /// A snapshot that was being received.
    pub(crate) unfinished: Option<Generation>,
}

/// Opens what a data directory holds, or makes it. A failure of the log later on is reported to `failure`.
pub(crate) fn open(
    options: &NodeOptions,
    engines: Arc<dyn EngineFactory>,
    files: Arc<dyn FileLayer>,
    failure: &watch::Sender<Option<String>>,
) -> Result<Opened, NodeError> {
    let log_dir = raft_dir(&options.data_dir).join("log");
    Identity::check(&options.data_dir, &options.founding)?;
    let had_log = LogStore::is_in(&*files, &log_dir)?;
    let Found { home, housed, unfinished } = Home::open(files.clone(), engines, options.data_dir.join("state"))?;
    if !had_log && !nothing_applied(housed.store.applied()) {
        return Err(NodeError::Identity(lost_log(&options.data_dir)));
    }
    let identity = Arc::new(Identity::open(&options.data_dir, &options.founding, had_log)?);
    let mut log_options = options.log.clone();
    log_options.member = Some(options.founding.member.0);
    log_options.on_failure = Some(Arc::new({
        let failure = failure.clone();
        move |error: &LogError| drop(failure.send_replace(Some(error.to_string())))
    }));
    let log = LogStore::open(files, log_dir, log_options)?;
    Ok(Opened { identity, log, home: Arc::new(home), housed, unfinished })
}

fn lost_log(data_dir: &Path) -> String {
    format!(
        "data directory {} holds state, but no Raft log: votes and acknowledged writes are lost. Put the files of \
         raft/log back if you still have them; otherwise replace this member",
        data_dir.display()
    )
}

/// Makes the log agree with the state where the state is ahead.
///
/// A snapshot may have been installed, and the log not yet been cut to go on behind it; or entries were applied before
/// the local log was synced, the engine happened to write such a state to disk, and the machine lost power. In either
/// case the log ends early, or goes on with a tail that was overtaken: what the state holds is committed, and nothing of
/// a tail that contradicts it was acknowledged after the truncation that was lost. A tail goes; a log that ends before
/// the state goes altogether. Consensus would do the latter itself, but not for a log whose end is of a later term.
pub(crate) async fn reconcile(log: &LogStore, applied: &Applied) -> std::io::Result<()> {
    if nothing_applied(applied) {
        return Ok(());
    }
    let mut log = log.clone();
    let index = applied.index.0;
    if log.last_index().is_none_or(|last| last < index) {
        return log.purge(log_id(applied.term.0, index)).await;
    }
    let Some(entry) = log.try_get_log_entries(index..=index).await?.pop() else { return Ok(()) };
    if entry.log_id().committed_leader_id().term == applied.term.0 {
        return Ok(());
    }
    tracing::warn!(index, "the log's tail was overtaken by the applied state and is dropped");
    let before = match index.checked_sub(1) {
        Some(previous) => log.try_get_log_entries(previous..=previous).await?.pop().map(|entry| entry.log_id()),
        None => None,
    };
    let before = match before {
        Some(id) => Some(id),
        None => log.get_log_state().await?.last_purged_log_id,
    };
    log.truncate_after(before).await?;
    // Now it ends before the state.
    log.purge(log_id(applied.term.0, index)).await
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use openraft::storage::IOFlushed;
    use tenure_core::{LogIndex, Term};

    use super::*;
    use crate::log::{LogOptions, SimFiles};
    use crate::types::{Entry, Payload, Proposal};

    fn entry(term: u64, index: u64) -> Entry {
        Entry { log_id: log_id(term, index), payload: Payload::Normal(Proposal(Bytes::new())) }
    }

    /// A log of these entries, by their terms, beside a state at an entry.
    fn reconciled(terms: &[u64], term: u64, index: u64) -> (Option<u64>, Option<u64>) {
        let files = Arc::new(SimFiles::new());
        let opened = LogStore::open_stepped(files, Path::new("/log"), LogOptions::default());
        let (mut log, _stepper) = opened.expect("a log");
        let applied = Applied { term: Term(term), index: LogIndex(index), membership: Bytes::from_static(b"one") };
        let state = tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
            let entries: Vec<Entry> = (1..).zip(terms).map(|(index, term)| entry(*term, index)).collect();
            log.append(entries, IOFlushed::noop()).await.expect("an append");
            reconcile(&log, &applied).await.expect("it is made to agree");
            log.get_log_state().await.expect("its state")
        });
        (state.last_purged_log_id.map(|id| id.index), state.last_log_id.map(|id| id.index))
    }

    #[test]
    fn a_log_agrees_with_the_state_or_goes_on_behind_it() {
        assert_eq!(reconciled(&[1, 1, 1], 1, 2), (None, Some(3)), "the state is behind the log");
        assert_eq!(reconciled(&[1, 1, 1], 1, 3), (None, Some(3)));
        assert_eq!(reconciled(&[1, 1], 2, 5), (Some(5), Some(5)), "the log ends early");
        assert_eq!(reconciled(&[1, 1, 3, 3], 2, 3), (Some(3), Some(3)), "its tail was overtaken, of a later term even");
        assert_eq!(reconciled(&[3, 3, 3, 3], 2, 1), (Some(1), Some(1)), "so was all of it");
    }
}
