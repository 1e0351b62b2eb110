//! Turns concurrent client writes into few, large log entries.
//!
//! Writes queue here; a group is closed on count, bytes or an empty queue, never on a timer. At most
//! [`GROUPS_IN_FLIGHT_MAX`] groups are under way, so that a group grows while the last one syncs: that, measured, is
//! worth more than any other setting. The proposer and the tasks that answer live on the runtime of the connections
//! they serve, and only whole groups cross threads.
//!
//! A write is sent again only if it is certain that it was not appended. Everything else ends as an error that says so.
//!
//! Renewals and clients' revokes of leases have a lane of their own, in `lease_lane`: they pass a flood of writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tenure_core::outcome::Outcome;
use tenure_core::planted::{Bug, is_on};
use tenure_core::{LogIndex, MemberId, Term};
use tenure_raft::runtime;
use tenure_raft::{ForwardError, Links, ProposeError, RaftNode, RenewalsNoted};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::error::RequestError;
use super::lease_lane;

/// Groups between this proposer and consensus. Measured: one or two give the largest groups and the least CPU.
const GROUPS_IN_FLIGHT_MAX: usize = 2;

/// Commands of one group.
const GROUP_COMMANDS_MAX: usize = 1024;

/// Bytes of one group; a single larger command makes a group of its own.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// Writes that may wait here, in number and bytes; beyond it, "too many requests".
const QUEUE_COMMANDS_MAX: usize = 16 * 1024;
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Bytes are counted in units of this, because a semaphore holds no more than 2^29 permits.
const BYTES_PER_PERMIT: usize = 64;

/// How soon to look again for a leader when a group was refused without a better hint.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The result of one write.
#[derive(Clone, Debug)]
pub struct Written {
    /// What apply answered.
    pub outcome: Outcome,
    /// The term of its log entry.
    pub term: Term,
}

pub(super) struct Pending {
    pub(super) command: Bytes,
    pub(super) answer: oneshot::Sender<Result<Written, RequestError>>,
    _bytes: OwnedSemaphorePermit,
    /// Of a renewal, that it is under way. Kept here, where it ends with the answer or the refusal: who waits for the answer
    /// may be a stream that its client does not read, and stand still for ever.
    _noted: Option<RenewalsNoted>,
}

impl Pending {
    pub(super) fn new(
        command: Bytes,
        noted: Option<RenewalsNoted>,
        answer: oneshot::Sender<Result<Written, RequestError>>,
        bytes: OwnedSemaphorePermit,
    ) -> Pending {
        Pending { command, answer, _bytes: bytes, _noted: noted }
    }
}

/// See the module's header. One per runtime; cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    writes: Lane,
    leases: Lane,
    timeout: Duration,
}

/// The way into a queue.
#[derive(Clone)]
struct Lane {
    queue: mpsc::Sender<Pending>,
    bytes: Arc<Semaphore>,
}

impl Lane {
    fn new(commands_max: usize) -> (Lane, mpsc::Receiver<Pending>) {
        let (queue, pending) = mpsc::channel(commands_max);
        (Lane { queue, bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX / BYTES_PER_PERMIT)) }, pending)
    }
}

impl Proposer {
    /// Starts a proposer on the calling runtime. It ends when its last handle is dropped.
    pub fn start(node: RaftNode, timeout: Duration, counters: Arc<GroupCounters>) -> Proposer {
        let (writes, pending_writes) = Lane::new(QUEUE_COMMANDS_MAX);
        let (leases, pending_leases) = Lane::new(lease_lane::QUEUE_COMMANDS_MAX);
        let links = node.links();
        let flight = Flight { node, links, timeout, counters };
        // The queues' ends are the tasks' owner: they return when the last `Proposer` is gone.
        drop(runtime::spawn(lease_lane::group_loop(flight.clone(), pending_leases)));
        drop(runtime::spawn(group_loop(flight, pending_writes)));
        Proposer { writes, leases, timeout }
    }

    /// Replicates an encoded command and returns what applying it answered.
    pub async fn propose(&self, command: Bytes) -> Result<Written, RequestError> {
        self.propose_through(&self.writes, command, None).await
    }

    /// Replicates a client's revoke of a lease, past the writes that wait.
    pub async fn propose_revoke(&self, command: Bytes) -> Result<Written, RequestError> {
        self.propose_through(&self.leases, command, None).await
    }

    /// Replicates a renewal of a lease, past the writes that wait. It was noted as being under way.
    pub async fn propose_renewal(&self, command: Bytes, noted: RenewalsNoted) -> Result<Written, RequestError> {
        self.propose_through(&self.leases, command, Some(noted)).await
    }

    async fn propose_through(
        &self,
        lane: &Lane,
        command: Bytes,
        noted: Option<RenewalsNoted>,
    ) -> Result<Written, RequestError> {
        let permits = u32::try_from(command.len() / BYTES_PER_PERMIT + 1).unwrap_or(u32::MAX);
        let Ok(bytes) = lane.bytes.clone().try_acquire_many_owned(permits) else {
            return Err(RequestError::TooManyRequests);
        };
        let (answer, result) = oneshot::channel();
        lane.queue.try_send(Pending::new(command, noted, answer, bytes)).map_err(|full| match full {
            mpsc::error::TrySendError::Full(_) => RequestError::TooManyRequests,
            mpsc::error::TrySendError::Closed(_) => RequestError::Stopped,
        })?;
        match tokio::time::timeout(self.timeout, result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(RequestError::Stopped),
            Err(_) => Err(RequestError::Timeout),
        }
    }
}

/// How well grouping works: writes per group explain most changes of throughput.
#[derive(Debug, Default)]
pub struct GroupCounters {
    /// Groups proposed or forwarded.
    pub groups: std::sync::atomic::AtomicU64,
    /// Commands in them.
    pub commands: std::sync::atomic::AtomicU64,
    /// Groups that went to a leader elsewhere.
    pub forwarded: std::sync::atomic::AtomicU64,
    /// Groups of renewals and revokes, which are among all of the above.
    pub of_leases: std::sync::atomic::AtomicU64,
}

#[derive(Clone)]
pub(super) struct Flight {
    pub(super) node: RaftNode,
    links: Links,
    pub(super) timeout: Duration,
    pub(super) counters: Arc<GroupCounters>,
}

async fn group_loop(flight: Flight, mut queue: mpsc::Receiver<Pending>) {
    let in_flight = Arc::new(Semaphore::new(GROUPS_IN_FLIGHT_MAX));
    let mut waiting: Vec<Pending> = Vec::with_capacity(GROUP_COMMANDS_MAX);
    loop {
        // The permit first: the group grows while the ones before it are under way.
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        if waiting.is_empty() && queue.recv_many(&mut waiting, GROUP_COMMANDS_MAX).await == 0 {
            return;
        }
        let group = cut_group(&mut waiting);
        if group.is_empty() {
            continue;
        }
        let flight = flight.clone();
        // Ends within the request time-out; dropping its permit lets the next group go.
        drop(runtime::spawn(async move {
            flight.carry_out(group).await;
            drop(permit);
        }));
    }
}

/// Takes a group's worth off the front, leaving out writes whose clients have given up.
fn cut_group(waiting: &mut Vec<Pending>) -> Vec<Pending> {
    let mut bytes = 0;
    let mut count = 0;
    for pending in waiting.iter() {
        bytes += pending.command.len();
        if count > 0 && bytes > GROUP_BYTES_MAX {
            break;
        }
        count += 1;
    }
    let rest = waiting.split_off(count);
    let mut group = std::mem::replace(waiting, rest);
    group.retain(|pending| !pending.answer.is_closed());
    group
}

/// What became of one attempt to carry a group out.
pub(super) enum Attempt {
    Done(Done),
    /// Surely not appended.
    Again,
    Failed(RequestError),
}

/// What became of a group that was carried out.
pub(super) struct Done {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) term: Term,
    /// The entry of a group that went to a leader elsewhere: it may not be applied here yet.
    pub(super) forwarded_at: Option<LogIndex>,
}

impl Flight {
    async fn carry_out(&self, group: Vec<Pending>) {
        let deadline = Instant::now() + self.timeout;
        let result = match tokio::time::timeout_at(deadline, self.attempts(&group)).await {
            Ok(result) => result,
            Err(_) => Err(RequestError::Timeout),
        };
        match result {
            Ok(done) => answer(group, done),
            Err(error) => refuse(group, error),
        }
    }

    async fn attempts(&self, group: &[Pending]) -> Result<Done, RequestError> {
        loop {
            match self.attempt(group).await {
                Attempt::Done(done) => {
                    self.visible_here(&done).await?;
                    return Ok(done);
                }
                Attempt::Failed(error) => return Err(error),
                Attempt::Again => {}
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Waits until what was done can be read here: that is where the client reads next.
    pub(super) async fn visible_here(&self, done: &Done) -> Result<(), RequestError> {
        let forwarded_at = done.forwarded_at.filter(|_| !is_on(Bug::AnsweredBeforeVisible));
        let Some(index) = forwarded_at else { return Ok(()) };
        self.node.view_at(index).await.map(drop).map_err(|_| RequestError::Stopped)
    }

    pub(super) async fn attempt(&self, group: &[Pending]) -> Attempt {
        match self.node.leader() {
            Some(leader) if leader == self.node.member() => self.propose(group).await,
            Some(leader) => self.forward(leader, group).await,
            None => Attempt::Again,
        }
    }

    fn count(&self, group: &[Pending]) {
        use std::sync::atomic::Ordering::Relaxed;
        self.counters.groups.fetch_add(1, Relaxed);
        self.counters.commands.fetch_add(group.len() as u64, Relaxed);
    }

    async fn propose(&self, group: &[Pending]) -> Attempt {
        match self.node.propose(group.iter().map(|pending| &pending.command)).await {
            Ok(reply) => {
                self.count(group);
                Attempt::Done(Done { outcomes: reply.outcomes, term: reply.term, forwarded_at: None })
            }
            Err(ProposeError::NotLeader(_)) => Attempt::Again,
            Err(ProposeError::Overloaded) => Attempt::Failed(RequestError::TooManyRequests),
            Err(ProposeError::Unknown) => Attempt::Failed(RequestError::LeaderLost),
            Err(ProposeError::Stopped) => Attempt::Failed(RequestError::Stopped),
        }
    }

    async fn forward(&self, leader: MemberId, group: &[Pending]) -> Attempt {
        let commands = group.iter().map(|pending| pending.command.clone()).collect();
        let sent = self.links.propose(leader, commands, self.timeout);
        let answer = tokio::select! {
            answer = sent => answer,
            // A leader that hangs must not hold the group until its deadline once another has taken over.
            () = self.leader_is_not(leader) => Err(ForwardError::Unknown),
        };
        match answer {
            Ok(forwarded) => {
                self.count(group);
                self.counters.forwarded.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let forwarded_at = Some(forwarded.index);
                Attempt::Done(Done { outcomes: forwarded.outcomes, term: forwarded.term, forwarded_at })
            }
            Err(ForwardError::NotLeader(_)) => Attempt::Again,
            Err(ForwardError::Overloaded) => Attempt::Failed(RequestError::TooManyRequests),
            Err(ForwardError::Unknown) => Attempt::Failed(RequestError::LeaderLost),
        }
    }

    async fn leader_is_not(&self, leader: MemberId) {
        self.node.leader_is_not(leader).await;
    }
}

pub(super) fn answer(group: Vec<Pending>, done: Done) {
    for (pending, outcome) in group.into_iter().zip(done.outcomes) {
        // A client that has gone away is not answered.
        drop(pending.answer.send(Ok(Written { outcome, term: done.term })));
    }
}

pub(super) fn refuse(group: Vec<Pending>, error: RequestError) {
    for pending in group {
        drop(pending.answer.send(Err(error)));
    }
}
