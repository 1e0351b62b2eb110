//! What the services ask for: writes that are replicated, reads that are as fresh as they should be, the node's status.
//!
//! Knows nothing of gRPC or HTTP. One [`Shared`] per process, one [`Node`] per runtime that serves clients: the queue of
//! writes and the read barrier live on the runtime of the connections they serve.

mod error;
mod proposer;
mod read_barrier;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure_core::command::{Command, Op, Range, Txn};
use tenure_core::outcome::{Outcome, RangeResult, Refusal, TxnResponse};
use tenure_core::range::read_range;
use tenure_core::row::{AlarmKind, MemberAttributes};
use tenure_core::state::StateRead;
use tenure_core::txn::read_txn;
use tenure_core::validate::cost_bytes;
use tenure_core::{LogIndex, MemberId, Revision, Term};
use tenure_raft::RaftNode;
use tenure_storage::state_view::StateView;

pub use error::RequestError;
pub use proposer::{GroupCounters, Proposer, Written};
pub use read_barrier::ReadBarrier;

/// Ranges of more keys than this are read on a thread of their own, so that they hold up nobody's request.
const INLINE_KEYS_MAX: i64 = 64;

/// What a process that serves one member knows, whatever runtime asks.
pub struct Shared {
    /// The member.
    pub raft: RaftNode,
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Logical bytes above which writes are refused; none for no limit.
    pub quota_bytes: Option<u64>,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// Requests that take longer are logged.
    pub slow_request: Option<Duration>,
    /// How writes are grouped.
    pub groups: Arc<GroupCounters>,
}

/// See the module's header. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
    proposer: Proposer,
    reads: ReadBarrier,
}

/// The result of a read, and the revision and term for its header.
#[derive(Clone, Debug)]
pub struct ReadAnswer<T> {
    /// What was read.
    pub result: T,
    /// The store's revision at the read.
    pub revision: Revision,
}

impl Node {
    /// Makes the node's face on the calling runtime.
    pub fn start(shared: Arc<Shared>) -> Node {
        let proposer = Proposer::start(shared.raft.clone(), shared.request_timeout, shared.groups.clone());
        let reads = ReadBarrier::start(shared.raft.clone(), shared.request_timeout);
        Node { shared, proposer, reads }
    }

    /// What every runtime shares.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The term, for a response's header.
    pub fn term(&self) -> Term {
        self.shared.raft.term()
    }

    /// Replicates a command and returns its outcome, which may be a refusal.
    pub async fn write(&self, command: &Command) -> Result<Outcome, RequestError> {
        self.check_quota(command).await?;
        Ok(self.proposer.propose(command.encode()).await?.outcome)
    }

    /// Waits until this member has purged what compacting to `revision` made superfluous.
    pub async fn purged(&self, revision: Revision) -> Result<(), RequestError> {
        let mut views = self.shared.raft.views();
        let purged = views.wait_for(|view| view.meta().compacted >= revision && !view.has_purge_work());
        match tokio::time::timeout(self.shared.request_timeout, purged).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(RequestError::Stopped),
            Err(_) => Err(RequestError::Timeout),
        }
    }

    /// The state to read from: as of now anywhere in the cluster, or as of whenever here.
    pub async fn view(&self, serializable: bool) -> Result<Arc<StateView>, RequestError> {
        if serializable { Ok(self.shared.raft.view()) } else { self.reads.pass().await }
    }

    /// Reads a range.
    pub async fn range(&self, range: Range, serializable: bool) -> Result<ReadAnswer<RangeResult>, RequestError> {
        let view = self.view(serializable).await?;
        refuse_if_corrupt(&view)?;
        let inline = is_short(&range);
        read(view, inline, move |view| read_range(view, &range)).await
    }

    /// Carries out a transaction that only reads.
    pub async fn read_txn(&self, txn: Txn, serializable: bool) -> Result<ReadAnswer<TxnResponse>, RequestError> {
        let view = self.view(serializable).await?;
        refuse_if_corrupt(&view)?;
        let short = |op: &Op| matches!(op, Op::Range(range) if is_short(range));
        let inline = txn.success.iter().chain(&txn.failure).all(short);
        read(view, inline, move |view| read_txn(view, &txn)).await
    }

    /// Waits until this member has applied everything that was acknowledged before the call.
    pub async fn barrier(&self) -> Result<LogIndex, RequestError> {
        Ok(self.reads.pass().await?.applied().index)
    }

    /// Tells the cluster this member's name and client URLs, again and again until it has applied it.
    pub async fn publish(&self) -> Result<(), RequestError> {
        let attributes = MemberAttributes {
            member: self.shared.raft.member(),
            name: self.shared.name.clone(),
            client_urls: self.shared.client_urls.clone(),
        };
        let command = Command::MemberPublish(attributes);
        loop {
            if self.shared.raft.leader().is_some() {
                match self.write(&command).await {
                    Ok(_) => return Ok(()),
                    Err(error @ (RequestError::Stopped | RequestError::Storage)) => return Err(error),
                    Err(error) => tracing::info!(%error, "publishing this member's attributes is tried again"),
                }
            }
            tokio::time::sleep(PUBLISH_RETRY).await;
        }
    }

    /// Refuses what would grow the store beyond its quota, and raises the alarm that makes every member refuse it.
    async fn check_quota(&self, command: &Command) -> Result<(), RequestError> {
        let Some(quota) = self.shared.quota_bytes else { return Ok(()) };
        let cost = cost_bytes(command);
        let view = self.shared.raft.view();
        if cost == 0 || view.bytes().logical.saturating_add(cost) < quota {
            return Ok(());
        }
        if view.meta().alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace) {
            return Err(Refusal::NoSpace.into());
        }
        let member = self.shared.raft.member();
        tracing::warn!(member = %format!("{:x}", member.0), quota, "the space quota is used up: raising NOSPACE");
        self.proposer.propose(Command::AlarmRaise(member, AlarmKind::NoSpace).encode()).await?;
        Err(Refusal::NoSpace.into())
    }

    /// Logs a request that took long.
    pub fn note_duration(&self, request: &'static str, started: Instant) {
        let Some(limit) = self.shared.slow_request else { return };
        let took = started.elapsed();
        if took > limit {
            tracing::warn!(request, took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "slow request");
        }
    }

    /// The leader's id for clients; 0 if none is known.
    pub fn leader_id(&self) -> MemberId {
        self.shared.raft.leader().unwrap_or_default()
    }
}

/// How soon publishing is tried again.
const PUBLISH_RETRY: Duration = Duration::from_millis(50);

fn is_short(range: &Range) -> bool {
    matches!(range.range, tenure_core::command::KeyRange::One(_))
        || (range.limit > 0 && range.limit <= INLINE_KEYS_MAX && !range.count_only)
}

fn refuse_if_corrupt(view: &StateView) -> Result<(), RequestError> {
    if view.meta().alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt) {
        return Err(Refusal::Corrupt.into());
    }
    Ok(())
}

async fn read<T: Send + 'static>(
    view: Arc<StateView>,
    inline: bool,
    evaluate: impl FnOnce(&StateView) -> Result<Result<T, Refusal>, tenure_storage::StorageError> + Send + 'static,
) -> Result<ReadAnswer<T>, RequestError> {
    let revision = view.meta().revision;
    let evaluated = if inline {
        evaluate(&view)
    } else {
        tokio::task::spawn_blocking(move || evaluate(&view)).await.map_err(|_| RequestError::Storage)?
    };
    match evaluated {
        Ok(Ok(result)) => Ok(ReadAnswer { result, revision }),
        Ok(Err(refusal)) => Err(refusal.into()),
        Err(error) => {
            tracing::error!(%error, "reading the state failed");
            Err(RequestError::Storage)
        }
    }
}
