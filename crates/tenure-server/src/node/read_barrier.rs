//! Linearizable reads: one confirmation of leadership for all reads that wait, then the local state at that index.
//!
//! Reads that arrive while a confirmation is under way wait for the next one: the index of one that began before the
//! read arrived would prove nothing about it. An index is never used twice, and after a failure a new one is asked for.
//! Any member serves them: the leader confirms, whoever was asked waits until it has applied that far.

use std::sync::Arc;
use std::time::Duration;

use tenure_core::LogIndex;
use tenure_raft::runtime;
use tenure_raft::{Links, RaftNode, ReadIndexError, ReadIndexes};
use tenure_storage::state_view::StateView;
use tokio::sync::{mpsc, oneshot};

use super::error::RequestError;

/// Reads that may wait at once; beyond it, "too many requests".
const WAITING_MAX: usize = 64 * 1024;

/// One confirmation at a leader elsewhere may take this long before another is asked for. Reads may be asked for again
/// freely; a leader that hangs is thus left soon after its successor is known.
const ROUND_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause before a leader is looked for again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

type Waiter = oneshot::Sender<Result<Arc<StateView>, RequestError>>;

/// See the module's header. One per runtime; cheap to clone.
#[derive(Clone)]
pub struct ReadBarrier {
    queue: mpsc::Sender<Waiter>,
    timeout: Duration,
}

impl ReadBarrier {
    /// Starts a barrier on the calling runtime. It ends when its last handle is dropped.
    pub fn start(node: RaftNode, timeout: Duration) -> ReadBarrier {
        let (queue, waiters) = mpsc::channel(WAITING_MAX);
        let links = node.links();
        // The queue's end is the task's owner: it returns when the last `ReadBarrier` is gone.
        drop(runtime::spawn(barrier_loop(Reading { indexes: node.read_indexes(), links, node }, timeout, waiters)));
        ReadBarrier { queue, timeout }
    }

    /// A state that contains every write acknowledged before this call, anywhere in the cluster.
    pub async fn pass(&self) -> Result<Arc<StateView>, RequestError> {
        self.pass_within(self.timeout).await
    }

    /// The same, for those who can do without it after a while.
    pub async fn pass_within(&self, patience: Duration) -> Result<Arc<StateView>, RequestError> {
        let (waiter, view) = oneshot::channel();
        self.queue.try_send(waiter).map_err(|full| match full {
            mpsc::error::TrySendError::Full(_) => RequestError::TooManyRequests,
            mpsc::error::TrySendError::Closed(_) => RequestError::Stopped,
        })?;
        match tokio::time::timeout(patience, view).await {
            Ok(Ok(view)) => view,
            Ok(Err(_)) => Err(RequestError::Stopped),
            Err(_) => Err(RequestError::Timeout),
        }
    }
}

/// How an index is come by.
struct Reading {
    node: RaftNode,
    /// If this member leads.
    indexes: ReadIndexes,
    /// If another one does.
    links: Links,
}

async fn barrier_loop(reading: Reading, timeout: Duration, mut queue: mpsc::Receiver<Waiter>) {
    let mut waiters: Vec<Waiter> = Vec::new();
    while queue.recv_many(&mut waiters, WAITING_MAX).await > 0 {
        let batch = std::mem::take(&mut waiters);
        let confirmed = tokio::time::timeout(timeout, reading.confirmed()).await;
        let node = reading.node.clone();
        // Waiting for apply must not hold up the next batch. Ends when the index is applied or the node stops.
        drop(runtime::spawn(async move {
            let result = match confirmed {
                Ok(Ok(index)) => match tokio::time::timeout(timeout, node.view_at(index)).await {
                    Ok(view) => view.map_err(|_| RequestError::Stopped),
                    Err(_) => Err(RequestError::Timeout),
                },
                Ok(Err(error)) => Err(error),
                Err(_) => Err(RequestError::Timeout),
            };
            for waiter in batch {
                // A client that has gone away is not answered.
                drop(waiter.send(result.clone()));
            }
        }));
    }
}

impl Reading {
    async fn confirmed(&self) -> Result<LogIndex, RequestError> {
        let node = &self.node;
        loop {
            let attempt = match node.leader() {
                Some(leader) if leader == node.member() => {
                    let index = tokio::time::timeout(ROUND_TIMEOUT, self.indexes.read_index()).await;
                    index.unwrap_or(Err(ReadIndexError::NoQuorum))
                }
                Some(leader) => tokio::select! {
                    answer = self.links.read_index(leader, ROUND_TIMEOUT) => answer,
                    () = node.leader_is_not(leader) => Err(ReadIndexError::NotLeader(None)),
                },
                None => Err(ReadIndexError::NotLeader(None)),
            };
            match attempt {
                Ok(index) => return Ok(index),
                Err(ReadIndexError::Stopped) => return Err(RequestError::Stopped),
                Err(ReadIndexError::NotLeader(_) | ReadIndexError::NoQuorum) => {}
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}
