//! A member of the cluster, as the rest of the server sees it: propose, read index, status, hand over, stop.
//!
//! Consensus lives on the runtime that [`RaftNode::start`] is called on; the handle may be used from any other. Nothing
//! here remembers who leads: every question goes to the consensus core or to its published metrics, which may be stale
//! and serve only as hints.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, ForwardToLeader};
use openraft::{Raft, ServerState, SnapshotPolicy};
use tenure_core::codec::GroupBuilder;
use tenure_core::command::{Command, GroupHeader};
use tenure_core::{ClusterId, LogIndex, MemberId, Term};
use tenure_storage::engine::EngineFactory;
use tenure_storage::state_view::StateView;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::applier::{Applier, nothing_applied};
use crate::bootstrap::{self, Beginning};
use crate::effects::Effects;
use crate::error::{NodeError, ProposeError};
use crate::housekeeping::{self, Housekeeping};
use crate::identity::{Founding, Identity};
use crate::leader_watch::{self, LeaderWatch};
use crate::lease_clock::LeaseClock;
use crate::log::{FileLayer, LogOptions, LogStore};
use crate::opening::{Opened, open, reconcile};
use crate::peer::confirm::Voters;
use crate::peer::gate::Gate;
use crate::peer::network::Network;
use crate::peer::{self, Dialer, Links, PeerPort};
use crate::read_index::ReadIndexes;
use crate::renewals::RenewalsUnderWay;
use crate::runtime::{self, BootInstant};
use crate::shared_store::SharedStore;
use crate::snapshot::{Inbox, Outbox, SnapshotCounters, SnapshotOptions, Snapshots};
use crate::state_machine::StateMachine;
use crate::succession::succession_loop;
use crate::types::{Config, GroupReply, GroupResponder, Membership, Peer, Proposal};

pub(crate) type OpenRaft = Raft<Config, StateMachine>;

/// A leader that nobody confirms for this many election timeouts stops bothering the peers that it still reaches, in
/// phases, so that they can elect another (a partial partition would otherwise hold them hostage).
const QUORUM_LOSS_PROBE_TIMEOUTS: u32 = 3;

/// Between two looks whether consensus has failed. It does nothing any more by then.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How long consensus may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// How this member takes part.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Who this member is, and whom the cluster began with.
    pub founding: Founding,
    /// Whether a member without data may found the cluster; else it only joins one that is there.
    pub may_found: bool,
    /// Where the log and the identity file are kept.
    pub data_dir: PathBuf,
    /// How often a leader shows itself.
    pub heartbeat: Duration,
    /// The longest that a follower waits for a leader before it campaigns is derived from this: 0.4 to 0.7 of it,
    /// after a leader lease of 0.7 of it.
    pub election_timeout: Duration,
    /// Runs of the apply loop that take longer are logged.
    pub slow_apply: Option<Duration>,
    /// The log's own options.
    pub log: LogOptions,
    /// When to flush state and how much log to keep.
    pub housekeeping: Housekeeping,
    /// How snapshots are sent.
    pub snapshots: SnapshotOptions,
    /// How peers are dialled.
    pub dialer: Arc<dyn Dialer>,
}

impl NodeOptions {
    /// How long a follower that heard of a leader keeps its vote for it.
    pub fn leader_lease(&self) -> Duration {
        self.election_timeout * 7 / 10
    }
}

/// What a member knows of its cluster right now. A hint: it may be stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The leader, if one is known.
    pub leader: Option<MemberId>,
    /// Whether that is this member.
    pub is_leader: bool,
    /// The current term.
    pub term: Term,
    /// The last entry of the local log.
    pub last_log: LogIndex,
    /// The last entry known to be committed.
    pub committed: LogIndex,
    /// The last entry applied here.
    pub applied: LogIndex,
    /// Whether this member has no vote.
    pub is_learner: bool,
    /// On a leader: how long ago a quorum last acknowledged it.
    pub quorum_ack_age: Option<Duration>,
}

/// One member of the cluster as the replicated membership has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Where it is.
    pub peer: Peer,
    /// Whether it has no vote.
    pub is_learner: bool,
}

/// A running member. Cheap to clone.
#[derive(Clone)]
pub struct RaftNode {
    inner: Arc<Inner>,
}

struct Inner {
    options: NodeOptions,
    raft: OpenRaft,
    log: LogStore,
    views: watch::Receiver<Arc<StateView>>,
    snapshots: Snapshots,
    identity: Arc<Identity>,
    gate: Arc<Gate>,
    leader_watch: LeaderWatch,
    lease_clock: Arc<LeaseClock>,
    renewals: RenewalsUnderWay,
    /// The links of consensus itself.
    links: Links,
    effects: Arc<[Arc<dyn Effects>]>,
    /// Why the log or the storage failed, if it did outside openraft's sight.
    failure: watch::Sender<Option<String>>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl RaftNode {
    /// Opens log and state, joins the cluster and returns once this member takes part in it.
    ///
    /// `peers` is where it is reached; `effects` are told of everything that is applied from now on.
    pub async fn start(
        options: NodeOptions,
        engines: Arc<dyn EngineFactory>,
        files: Arc<dyn FileLayer>,
        peers: PeerPort,
        effects: Vec<Arc<dyn Effects>>,
    ) -> Result<RaftNode, NodeError> {
        let failure = watch::Sender::new(None);
        let Opened { identity, log, home, housed, unfinished } = open(&options, engines, files, &failure)?;
        let log_io = |e| NodeError::Io("reading the log".into(), e);
        reconcile(&log, housed.store.applied()).await.map_err(log_io)?;
        let beginning = Beginning::of(&log, &housed.store).await.map_err(log_io)?;
        let effects: Arc<[Arc<dyn Effects>]> = effects.into();
        let store = SharedStore::new(housed, effects.clone(), log.arrivals());
        let snapshots = Snapshots::open(&options, &store, &log, home.clone(), unfinished)?;
        let views = store.views();
        let applier = Applier::start(store.clone(), options.slow_apply)
            .map_err(|e| NodeError::Io("starting the apply thread".into(), e))?;
        let links = Links::new(&options, identity.clone());
        let Snapshots { outbox, counters, .. } = snapshots.clone();
        let raft = OpenRaft::build(
            options.founding.member.0,
            Arc::new(raft_config(&options)?),
            Network::new(links.clone(), outbox.clone()),
            log.clone(),
            StateMachine::new(applier, store.clone(), home, outbox, counters),
        )
        .await
        .map_err(|e| NodeError::Raft(format!("log and state do not fit together, replace this member: {e}")))?;
        let gate = Arc::new(Gate::closed());
        let leader_watch = LeaderWatch::new();
        let lease_clock = store.lease_clock();
        let (renewals, tasks) = Default::default();
        let node = RaftNode {
            inner: Arc::new(Inner {
                options,
                raft,
                log,
                views,
                snapshots,
                identity,
                gate,
                leader_watch,
                lease_clock,
                renewals,
                links: links.clone(),
                effects,
                failure,
                tasks,
            }),
        };
        let mut tasks = JoinSet::new();
        peer::serve(&node, peers, &mut tasks)?;
        bootstrap::begin(&node, &links, beginning).await?;
        housekeeping::spawn(&node, store, &mut tasks);
        runtime::spawn_on(&mut tasks, leader_watch::watch_loop(node.clone()));
        runtime::spawn_on(&mut tasks, succession_loop(node.clone()));
        *node.inner.tasks.lock().await = tasks;
        Ok(node)
    }

    /// Proposes commands as one group and waits until it is applied here. Without a deadline: callers set theirs.
    ///
    /// If one of them grants or renews a lease, the group goes the way of [`RaftNode::propose_timed`].
    pub async fn propose<'c>(
        &self,
        commands: impl Iterator<Item = &'c Bytes> + Clone,
    ) -> Result<GroupReply, ProposeError> {
        if commands.clone().any(|command| Command::needs_reading(command)) {
            self.propose_timed(commands).await
        } else {
            let group = build_group(GroupHeader::default(), commands);
            self.append(group, None).await
        }
    }

    /// Proposes commands as one group that carries a reading of the lease clock, taken now. None at all make a tick.
    ///
    /// The reading is this leader's, so the group is appended in its term or refused as [`ProposeError::NotLeader`]: it
    /// may be proposed again, and then carries a new reading.
    pub async fn propose_timed<'c>(
        &self,
        commands: impl Iterator<Item = &'c Bytes> + Clone,
    ) -> Result<GroupReply, ProposeError> {
        let term = self.promoted().ok_or(ProposeError::NotLeader(None))?;
        self.propose_timed_in(term, commands).await
    }

    /// The same, if this member leads in that term, and nothing otherwise: for what was decided by that leader's clock, and need not be
    /// right by another's.
    pub async fn propose_timed_in<'c>(
        &self,
        term: Term,
        commands: impl Iterator<Item = &'c Bytes> + Clone,
    ) -> Result<GroupReply, ProposeError> {
        if self.promoted() != Some(term) {
            return Err(ProposeError::NotLeader(None));
        }
        let renewed = self.inner.renewals.note(commands.clone().filter_map(Command::renewed_lease).collect());
        let reading = self.inner.lease_clock.hand_out(term, BootInstant::now());
        let header = GroupHeader { lease_clock_ms: Some(reading), origin_term: Some(term) };
        let group = build_group(header, commands);
        let reply = self.append(group, Some(term)).await;
        drop(renewed);
        match reply {
            // What is born in another term than it was fenced by changes nothing. Consensus refuses it before.
            Ok(reply) if reply.term != term => Err(ProposeError::NotLeader(None)),
            reply => reply,
        }
    }

    /// With `fence`, the group is appended in that term or refused.
    async fn append(&self, group: Bytes, fence: Option<Term>) -> Result<GroupReply, ProposeError> {
        let (answer, result) = oneshot::channel();
        let mut write = self.raft().write(Proposal(group)).responder(GroupResponder(answer));
        if let Some(term) = fence {
            write = write.with_leader(openraft::alias::CommittedLeaderIdOf::<Config>::new(term.0));
        }
        write.await.map_err(|_| ProposeError::Stopped)?;
        match result.await {
            Ok(Ok(response)) => Ok(response.data),
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => Err(ProposeError::NotLeader(leader_of(&forward))),
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// The term that this member leads, if it leads and has applied an entry of that term, and so all earlier ones: it
    /// then knows all that the lease clock and the leases were before. It may be over by now: fence by it.
    pub fn promoted(&self) -> Option<Term> {
        let term = {
            let metrics = self.raft().server_metrics();
            let metrics = metrics.borrow_watched();
            let vote = &metrics.vote;
            let leads =
                metrics.state == ServerState::Leader && vote.committed && vote.leader_id.voted_for == metrics.id;
            leads.then_some(Term(vote.leader_id.term))?
        };
        (self.view().applied().term == term).then_some(term)
    }

    /// The lease clock as this member reckons it.
    pub fn lease_clock(&self) -> &LeaseClock {
        &self.inner.lease_clock
    }

    /// The renewals that this member is carrying out.
    pub fn renewals(&self) -> &RenewalsUnderWay {
        &self.inner.renewals
    }

    /// The state as of the last applied run.
    pub fn view(&self) -> Arc<StateView> {
        self.inner.views.borrow().clone()
    }

    /// The state once it has applied `index`.
    pub async fn view_at(&self, index: LogIndex) -> Result<Arc<StateView>, ProposeError> {
        let mut views = self.inner.views.clone();
        let view = views.wait_for(|view| view.applied().index >= index).await.map_err(|_| ProposeError::Stopped)?;
        Ok(view.clone())
    }

    /// Follows the views as runs are applied.
    pub fn views(&self) -> watch::Receiver<Arc<StateView>> {
        self.inner.views.clone()
    }

    /// The flag of that name: what bounds in time are multiples of.
    pub fn election_timeout(&self) -> Duration {
        self.options().election_timeout
    }

    /// This member's id.
    pub fn member(&self) -> MemberId {
        self.options().founding.member
    }

    /// The cluster's id.
    pub fn cluster(&self) -> ClusterId {
        self.options().founding.cluster
    }

    /// What this member knows of its cluster.
    pub fn status(&self) -> Status {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: Option<crate::types::LogId>| LogIndex(id.map_or(0, |id| id.index()));
        Status {
            leader: metrics.current_leader.map(MemberId),
            is_leader: metrics.state == ServerState::Leader,
            term: Term(metrics.current_term),
            last_log: LogIndex(metrics.last_log_index.unwrap_or(0)),
            committed: index(metrics.local_committed),
            applied: self.view().applied().index,
            is_learner: metrics.state == ServerState::Learner,
            quorum_ack_age: metrics.last_quorum_acked.as_deref().map(|at| at.elapsed()),
        }
    }

    /// The last entry known to be committed, and its term.
    pub fn committed(&self) -> Option<(LogIndex, Term)> {
        let metrics = self.raft().metrics();
        let committed = metrics.borrow_watched().local_committed;
        committed.map(|id| (LogIndex(id.index()), Term(id.committed_leader_id().term)))
    }

    /// The current term.
    pub fn term(&self) -> Term {
        Term(self.raft().server_metrics().borrow_watched().vote.leader_id.term)
    }

    /// The leader, if one is known. It may have gone silent: good enough to know whom to ask.
    pub fn leader(&self) -> Option<MemberId> {
        self.raft().server_metrics().borrow_watched().current_leader.map(MemberId)
    }

    /// The leader, if it has shown within an election timeout that it leads: good enough to be told to clients.
    pub fn present_leader(&self) -> Option<MemberId> {
        let leader = self.leader()?;
        self.leader_silence().is_some_and(|silence| silence <= self.options().election_timeout).then_some(leader)
    }

    /// How long there has been no sign of a leader: of this member's own quorum if it leads.
    pub(crate) fn leader_silence(&self) -> Option<Duration> {
        if self.leader() == Some(self.member()) { self.quorum_silence() } else { self.leader_watch().silence() }
    }

    /// True while there has been no [`RaftNode::present_leader`] for three election timeouts.
    pub fn leader_lost(&self) -> watch::Receiver<bool> {
        if self.present_leader().is_some() {
            // The loop may not have looked since it came: nobody is to be told of an absence that is over.
            self.leader_watch().note_present();
        }
        self.leader_watch().lost()
    }

    /// On a leader: whether a quorum acknowledged it within its leader lease. If not, another may lead by now.
    pub fn quorum_heard(&self) -> bool {
        self.quorum_silence().is_some_and(|silence| silence <= self.options().leader_lease())
    }

    /// On a leader: how long ago a quorum last acknowledged it.
    fn quorum_silence(&self) -> Option<Duration> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        if metrics.membership_config.membership().voter_ids().all(|id| id == self.member().0) {
            return Some(Duration::ZERO);
        }
        metrics.last_quorum_acked.as_deref().map(|at| at.elapsed())
    }

    /// Returns once somebody else than `leader`, or nobody, is known to lead.
    pub async fn leader_is_not(&self, leader: MemberId) {
        let mut metrics = self.raft().server_metrics();
        while metrics.borrow_watched().current_leader == Some(leader.0) {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether this member holds more than the entry that founds a cluster.
    pub(crate) fn is_established(&self) -> bool {
        self.inner.log.last_index().is_some_and(|last| last > 0) || self.view().applied().index.0 > 0
    }

    /// Whether this member holds anything that must not be forgotten: a vote, entries or state.
    pub(crate) fn has_data(&self) -> bool {
        let voted = self.raft().server_metrics().borrow_watched().vote.leader_id.term > 0;
        voted || self.inner.log.last_index().is_some() || !nothing_applied(self.view().applied())
    }

    /// The members, by id.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
        membership
            .nodes()
            .map(|(id, peer)| Member { id: MemberId(*id), peer: peer.clone(), is_learner: !voters.contains(id) })
            .collect()
    }

    /// Counters of the log.
    pub fn log(&self) -> &LogStore {
        &self.inner.log
    }

    /// What was done with snapshots.
    pub fn snapshots(&self) -> SnapshotCounters {
        self.inner.snapshots.counters.read()
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inner.snapshots.inbox
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.inner.snapshots.outbox
    }

    /// Reports a failure that ends this member.
    pub fn fail(&self, why: String) {
        self.inner.failure.send_replace(Some(why));
    }

    /// Returns when this member cannot go on: its log or its storage failed, or they contradict each other.
    pub async fn failed(&self) -> NodeError {
        let mut failure = self.inner.failure.subscribe();
        let reported = async {
            let why = failure.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
            match why {
                Some(why) => NodeError::Raft(why),
                // This handle holds the sender, so the channel cannot close.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = reported => error,
            error = self.consensus_ended() => error,
        }
    }

    async fn consensus_ended(&self) -> NodeError {
        let mut metrics = self.raft().metrics();
        loop {
            let state = metrics.borrow_watched().running_state.clone();
            if let Err(fatal) = state {
                return NodeError::Raft(describe(&fatal));
            }
            if metrics.changed().await.is_err() {
                return NodeError::Raft("consensus has stopped".into());
            }
            // Each write changes the metrics several times, and what is looked for comes once.
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Stops taking part. What was acknowledged is on disk already.
    pub async fn stop(&self) {
        self.inner.gate.close();
        // A disk that hangs must not keep the process: what is acknowledged is safe however it ends.
        match tokio::time::timeout(STOP_TIMEOUT, self.raft().shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "consensus did not stop cleanly"),
            Err(_) => tracing::warn!("consensus did not stop in time"),
        }
        let mut tasks = std::mem::take(&mut *self.inner.tasks.lock().await);
        tasks.shutdown().await;
    }

    pub(crate) fn raft(&self) -> &OpenRaft {
        &self.inner.raft
    }

    pub(crate) fn options(&self) -> &NodeOptions {
        &self.inner.options
    }

    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.inner.identity
    }

    pub(crate) fn leader_watch(&self) -> &LeaderWatch {
        &self.inner.leader_watch
    }

    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.inner.gate
    }

    /// Links to the peers for use on the calling runtime: connections live where they are first used.
    pub fn links(&self) -> Links {
        Links::new(self.options(), self.inner.identity.clone())
    }

    /// What other members may know to be committed because this one told them.
    pub(crate) fn told(&self) -> LogIndex {
        self.inner.links.told()
    }

    /// Notes that somebody at another member waits for commits.
    pub(crate) fn note_awaiting(&self, member: u64) {
        self.inner.links.note_awaiting(member);
    }

    /// Whether somebody here waits for commits that the leader cannot know of.
    pub(crate) fn awaits_commits(&self) -> bool {
        self.inner.effects.iter().any(|effect| effect.is_awaited())
    }

    /// Tells read indexes, for use on the calling runtime.
    pub fn read_indexes(&self) -> ReadIndexes {
        ReadIndexes::new(self.clone(), Voters::new(self.links(), self.options().leader_lease()))
    }

    /// The initial membership, for `initialize`.
    pub(crate) fn initial_membership(&self) -> BTreeMap<u64, Peer> {
        founding_nodes(&self.options().founding)
    }
}

/// The membership that a cluster begins with.
pub(crate) fn founding_membership(founding: &Founding) -> Result<Membership, NodeError> {
    let nodes = founding_nodes(founding);
    let voters = nodes.keys().copied().collect();
    Membership::new(vec![voters], nodes).map_err(|error| NodeError::Raft(error.to_string()))
}

fn founding_nodes(founding: &Founding) -> BTreeMap<u64, Peer> {
    founding.members.iter().map(|(id, peer)| (id.0, peer.clone())).collect()
}

fn build_group<'c>(header: GroupHeader, commands: impl Iterator<Item = &'c Bytes>) -> Bytes {
    let mut group = GroupBuilder::new(header);
    for command in commands {
        group.push(command);
    }
    group.finish()
}

pub(crate) fn leader_of(forward: &ForwardToLeader<Config>) -> Option<MemberId> {
    forward.leader_id.map(MemberId)
}

fn describe(fatal: &Fatal<Config>) -> String {
    match fatal {
        Fatal::StorageError(error) => format!("storage failed: {error}"),
        Fatal::Panicked => "the consensus core panicked".into(),
        Fatal::Stopped => "consensus was stopped".into(),
    }
}

fn raft_config(options: &NodeOptions) -> Result<openraft::Config, NodeError> {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let config = openraft::Config {
        cluster_name: format!("{:x}", options.founding.cluster.0),
        heartbeat_interval: millis(options.heartbeat),
        election_timeout_min: millis(options.election_timeout * 4 / 10),
        election_timeout_max: millis(options.leader_lease()),
        enable_pre_vote: Some(true),
        // A restarted leader must win an election: fencing relies on a term belonging to one process.
        enable_leader_restore: Some(false),
        quorum_loss_probe_interval: Some(millis(options.leader_lease() * QUORUM_LOSS_PROBE_TIMEOUTS)),
        max_payload_entries: 1024,
        max_append_entries: Some(4096),
        api_batch_linger_ms: 0,
        install_snapshot_timeout: 30_000,
        // Snapshots and purges are triggered by housekeeping, by bytes of log rather than by entries.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1024,
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| NodeError::Raft(format!("options: {error}")))
}
