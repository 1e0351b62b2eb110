//! What the services ask for: writes that are replicated, reads that are as fresh as they should be, the node's status.
//!
//! Knows nothing of gRPC or HTTP. One [`Shared`] per process, one [`Node`] per runtime that serves clients: the queue of
//! writes and the read barrier live on the runtime of the connections they serve.

mod auto_compaction;
mod contest;
mod error;
mod fresh_lease;
mod keepalives;
mod lease;
mod lease_detail;
mod lease_lane;
mod lessor;
mod locks;
mod proposer;
mod range_stream;
mod read_barrier;
pub mod watch;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure_core::borrowed::KvRef;
use tenure_core::command::{Command, Op, Range, Txn};
use tenure_core::hash::{HashKv, hash_kv, hash_state};
use tenure_core::outcome::{Outcome, RangeResult, Refusal, TxnResponse};
use tenure_core::planted::{Bug, is_on};
use tenure_core::range::{read_range, read_range_with};
use tenure_core::row::{AlarmKind, MemberAttributes};
use tenure_core::state::StateRead;
use tenure_core::txn::read_txn;
use tenure_core::validate::cost_bytes;
use tenure_core::{LogIndex, MemberId, Revision, Term};
use tenure_raft::backup::{Backup, BackupError};
use tenure_raft::runtime;
use tenure_raft::{MoveError, RaftNode};
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;
use tokio::sync::Semaphore;

pub use auto_compaction::AutoCompaction;
pub(crate) use auto_compaction::auto_compaction_loop;
use contest::{Caretaker, Places};
pub use contest::{ContestCounters, ContestError, Fates, LeaderKey, Observed, Observer, Wish, Won};
pub use error::RequestError;
pub use keepalives::{KeptAlive, LEASES_PER_BATCH_MAX};
pub use lease::{LeaseInfo, pick_lease_id};
pub use lease_detail::{
    KEY_BYTES_PER_PAGE_MAX, KEYS_PER_PAGE_MAX, KeysAfter, LEASES_PER_PAGE_MAX, LeaseDetail, LeaseExplained, Page,
};
pub use lessor::{LATENESS_BOUNDS_MS, Lateness, LeaseFeed, LessorReport, LessorReports, LessorThread, Tally};
pub use locks::{
    LOCKS_PER_PAGE_MAX, LockAcquired, LockDetail, LockHub, LockStanding, LockStep, LockSteps, LockSummary,
    LockTransition, LockUngranted, LockWanted, LockWhy, TRANSITIONS_MAX,
};
pub use proposer::{GroupCounters, Proposer, Written};
pub use range_stream::{ChunkLimits, RangeChunk, RangeChunks, RangeEnd};
pub use read_barrier::ReadBarrier;
use watch::WatchHub;

/// Reads of more than one key go to threads of their own, so that they hold up nobody's request; this many at a time per
/// client thread, so that they leave the cores to consensus.
const LONG_READS_MAX: usize = 2;

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
    /// Places for client connections.
    pub connections: Arc<Semaphore>,
    /// Held while the NOSPACE alarm is being raised.
    pub raising_alarm: tokio::sync::Mutex<()>,
    /// How writes are grouped.
    pub groups: Arc<GroupCounters>,
    /// What the lessor does.
    pub lessor: LessorReports,
    /// Who waits for locks.
    pub locks: Arc<LockHub>,
    /// Who is told of changes.
    pub watches: WatchHub,
    /// Commands whose answers may be lost.
    pub fates: Arc<Fates>,
    /// How many calls contend for locks and in elections.
    pub contests: Arc<ContestCounters>,
    /// How often a quiet watcher that asked for it hears how far it is.
    pub watch_progress_interval: Duration,
}

/// See the module's header. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
    proposer: Proposer,
    reads: ReadBarrier,
    long_reads: Arc<Semaphore>,
    range_streams: Arc<Semaphore>,
    explanations: Arc<Semaphore>,
    places: Places,
    care: Caretaker,
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
        let long_reads = Arc::new(Semaphore::new(LONG_READS_MAX));
        let range_streams = Arc::new(Semaphore::new(range_stream::RANGE_STREAMS_MAX));
        let explanations = Arc::new(Semaphore::new(lease_detail::EXPLANATIONS_MAX));
        let places = Places::start(shared.raft.clone());
        let (raft, counters) = (shared.raft.clone(), shared.contests.clone());
        let care = Caretaker::start(raft, proposer.clone(), reads.clone(), places.clone(), counters);
        Node { shared, proposer, reads, long_reads, range_streams, explanations, places, care }
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
        let command = &*self.decided_early(command)?;
        Ok(self.proposer.propose(command.encode()).await?.outcome)
    }

    /// The planted bug of that name: which branch of a transaction is taken, is decided here.
    fn decided_early<'c>(&self, command: &'c Command) -> Result<Cow<'c, Command>, RequestError> {
        let Command::Txn(txn) = command else { return Ok(Cow::Borrowed(command)) };
        if !is_on(Bug::EarlyCompare) || txn.success.is_empty() || !txn.failure.is_empty() {
            return Ok(Cow::Borrowed(command));
        }
        let asked = Txn { compares: txn.compares.clone(), ..Txn::default() };
        let answer = read_txn(&*self.shared.raft.view(), &asked).map_err(|error| self.storage_failed(&error))?;
        let holds = answer.is_ok_and(|answer| answer.succeeded);
        let compares = if holds { Vec::new() } else { txn.compares.clone() };
        Ok(Cow::Owned(Command::Txn(Txn { compares, ..txn.clone() })))
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
        let inline = is_short(&range) || range.count_only && view.knows_count(&range.range, range.revision);
        self.read(view, inline, move |view| read_range(view, &range)).await
    }

    /// Reads a range for an answer that takes the key-values one by one, without copies of them. The result has none.
    pub async fn range_into<A: Send + 'static>(
        &self,
        range: Range,
        serializable: bool,
        mut answer: A,
        push: fn(&mut A, KvRef<'_>),
    ) -> Result<ReadAnswer<(A, RangeResult)>, RequestError> {
        let view = self.view(serializable).await?;
        let read = move |view: &StateView| {
            let result = read_range_with(view, &range, &mut |kv| push(&mut answer, kv))?;
            Ok(result.map(|mut result| {
                // Those that had to be sorted first.
                std::mem::take(&mut result.kvs).iter().for_each(|kv| push(&mut answer, kv.into()));
                (answer, result)
            }))
        };
        self.read(view, false, read).await
    }

    /// Carries out a transaction that only reads.
    pub async fn read_txn(&self, txn: Txn, serializable: bool) -> Result<ReadAnswer<TxnResponse>, RequestError> {
        let view = self.view(serializable).await?;
        let short = |op: &Op| matches!(op, Op::Range(range) if is_short(range));
        let inline = txn.success.iter().chain(&txn.failure).all(short);
        self.read(view, inline, move |view| read_txn(view, &txn)).await
    }

    /// Reads a view, on this thread if that is sure to be quick.
    async fn read<T: Send + 'static>(
        &self,
        view: Arc<StateView>,
        inline: bool,
        evaluate: impl FnOnce(&StateView) -> Result<Result<T, Refusal>, StorageError> + Send + 'static,
    ) -> Result<ReadAnswer<T>, RequestError> {
        let revision = view.meta().revision;
        let evaluated = if inline { evaluate(&view) } else { self.off_thread(move || evaluate(&view)).await? };
        match evaluated {
            Ok(Ok(result)) => Ok(ReadAnswer { result, revision }),
            Ok(Err(refusal)) => Err(refusal.into()),
            Err(error) => Err(self.storage_failed(&error)),
        }
    }

    /// Does long work on a thread of its own, once there is a place for it.
    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RequestError> {
        let place = tokio::time::timeout(self.shared.request_timeout, self.long_reads.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(RequestError::TooManyRequests) };
        let worked = runtime::blocking(move || {
            let result = work();
            drop(place);
            result
        });
        worked.await.map_err(|_| RequestError::Storage)
    }

    /// A member that cannot read its own state must not go on.
    fn storage_failed(&self, error: &StorageError) -> RequestError {
        self.shared.raft.fail(format!("reading the state: {error}"));
        RequestError::Storage
    }

    /// The hash of the state's content at a revision, 0 for the present, and the present revision.
    pub async fn hash_kv(&self, revision: Revision) -> Result<ReadAnswer<HashKv>, RequestError> {
        self.read(self.shared.raft.view(), false, move |view| hash_kv(view, revision)).await
    }

    /// The hash of all that is replicated, and the present revision.
    pub async fn hash_state(&self) -> Result<ReadAnswer<u32>, RequestError> {
        self.read(self.shared.raft.view(), false, |view| hash_state(view).map(Ok)).await
    }

    /// Begins a backup that holds everything acknowledged before the call, wherever that was. Without a leader it holds what
    /// this member has, and says so: a cluster that lost its majority is when a backup is needed most.
    pub async fn backup(&self) -> Result<Backup, BackupError> {
        let view = match self.shared.raft.present_leader() {
            Some(_) => self.reads.pass().await.ok(),
            None => None,
        };
        let confirmed = view.map(|view| view.applied().index);
        if confirmed.is_none() {
            tracing::warn!("a snapshot is saved from this member alone, as no majority answers");
        }
        self.shared.raft.backup(confirmed).await
    }

    /// Moves leadership from this member to another.
    pub async fn move_leader(&self, target: MemberId) -> Result<(), MoveError> {
        self.shared.raft.move_leader(target, self.shared.request_timeout).await
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
        // One request raises it for all that are refused at the same time.
        if let Ok(_raising) = self.shared.raising_alarm.try_lock() {
            let member = self.shared.raft.member();
            tracing::warn!(member = %format!("{:x}", member.0), quota, "the space quota is used up: raising NOSPACE");
            self.proposer.propose(Command::AlarmRaise(member, AlarmKind::NoSpace).encode()).await?;
        }
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
}

/// How soon publishing is tried again.
const PUBLISH_RETRY: Duration = Duration::from_millis(50);

fn is_short(range: &Range) -> bool {
    matches!(range.range, tenure_core::command::KeyRange::One(_))
}
