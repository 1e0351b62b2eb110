//! What calls leave behind that end without success: keys that are to be removed, leases that were made for them, and
//! registrations of which nobody knows yet whether they were carried out.
//!
//! A key is removed by a transaction that holds only as long as nobody else relies on it. One that the call had created and
//! that nobody has written since is unknown to everybody. One that was there before may have been told to be the first:
//! it is removed only while an older contender stands before it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use tenure_core::LeaseId;
use tenure_core::command::{Command, Compare, CompareTarget, LeaseRevoke};
use tenure_core::outcome::{Response, TxnResponse};
use tenure_core::row::{ClientName, KeyMeta, RevokedBy};
use tenure_core::state::StateRead;
use tenure_raft::RaftNode;
use tenure_raft::runtime;
use tokio::sync::{mpsc, oneshot};

use super::ContestCounters;
use super::claim::{Held, Proposal, compare, delete_if};
use super::places::{Place, Places, Standing};
use crate::node::{Proposer, ReadBarrier, RequestError};

/// What may be under way at once, and what may wait beside it. More is left to its lease.
const LEFT_MAX: usize = 64 * 1024;

/// The pause before what failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How often a registration without an answer is looked after. It ends with its lease, if not by its effect.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What a call left.
pub(super) enum Left {
    /// A key to remove, and who waits for that.
    Claim(Held, Option<oneshot::Sender<()>>),
    /// A registration that may yet be carried out.
    Proposal(Proposal),
    /// A lease that was made for one call.
    Lease(LeaseId),
}

/// See the module's header. One per runtime; cheap to clone.
#[derive(Clone)]
pub(in crate::node) struct Caretaker {
    inbox: mpsc::Sender<Left>,
    counters: Arc<ContestCounters>,
}

impl Caretaker {
    /// Starts on the calling runtime. It ends when its last handle is dropped, and leaves what is undone to the leases.
    pub(in crate::node) fn start(
        raft: RaftNode,
        proposer: Proposer,
        reads: ReadBarrier,
        places: Places,
        counters: Arc<ContestCounters>,
    ) -> Caretaker {
        let (inbox, left) = mpsc::channel(LEFT_MAX);
        let hands = Hands { raft, proposer, reads, places, counters: counters.clone() };
        // The inbox's end is the task's owner.
        drop(runtime::spawn(care_loop(hands, left)));
        Caretaker { inbox, counters }
    }

    /// Takes something over. To be called anywhere, from a drop too.
    pub(super) fn leave(&self, left: Left) {
        self.counters.left.fetch_add(1, Ordering::Relaxed);
        if self.inbox.try_send(left).is_err() {
            self.counters.left.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("the key of a call that ended early is left to its lease: too many ended at once");
        }
    }
}

async fn care_loop(hands: Hands, mut inbox: mpsc::Receiver<Left>) {
    let mut works: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            left = inbox.recv(), if works.len() < LEFT_MAX => match left {
                Some(left) => works.push(hands.clone().take_care(left).boxed()),
                None => return,
            },
            Some(()) = works.next() => {}
        }
    }
}

/// What the work is done with.
#[derive(Clone)]
struct Hands {
    raft: RaftNode,
    proposer: Proposer,
    reads: ReadBarrier,
    places: Places,
    counters: Arc<ContestCounters>,
}

impl Hands {
    async fn take_care(self, left: Left) {
        self.deal_with(left).await;
        self.counters.left.fetch_sub(1, Ordering::Relaxed);
    }

    async fn deal_with(&self, left: Left) {
        match left {
            Left::Claim(held, done) => {
                self.remove(&held).await;
                if done.is_some_and(|done| done.send(()).is_err()) {
                    tracing::debug!("a key was removed for a call whose client waits no more");
                }
            }
            Left::Proposal(proposal) => self.settle(proposal).await,
            Left::Lease(id) => self.revoke(id).await,
        }
    }

    /// Follows a registration to its end, and undoes it.
    async fn settle(&self, mut proposal: Proposal) {
        loop {
            match proposal.outcome(LOOK_INTERVAL).await {
                Ok(outcome) => {
                    if let Ok(held) = proposal.held(&outcome) {
                        self.remove(&held).await;
                    }
                    return;
                }
                Err(RequestError::Timeout | RequestError::LeaderLost | RequestError::Stopped) => {
                    if proposal.is_given_up() || self.is_gone(proposal.lease).await {
                        return;
                    }
                }
                Err(RequestError::Refused(_) | RequestError::TooManyRequests | RequestError::Storage) => return,
            }
        }
    }

    /// Whether a lease is known to have ended: nothing can be attached to it any more.
    async fn is_gone(&self, lease: LeaseId) -> bool {
        // This member may not know yet of a lease that another one granted.
        let Ok(view) = self.reads.pass().await else { return false };
        matches!(StateRead::lease(&*view, lease), Ok(None))
    }

    /// Removes a key as long as nobody relies on it.
    async fn remove(&self, held: &Held) {
        loop {
            let Some(compares) = self.conditions(held).await else { return };
            let command = delete_if(compares, &held.who.key).encode();
            match self.proposer.propose(command).await.map(|written| written.outcome.result) {
                Ok(Ok(Response::Txn(TxnResponse { succeeded: false, .. }))) if !held.created => {}
                Ok(_) | Err(RequestError::Refused(_) | RequestError::Storage | RequestError::Stopped) => return,
                Err(RequestError::Timeout | RequestError::LeaderLost | RequestError::TooManyRequests) => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// On which conditions a key may be removed; none if it may not.
    async fn conditions(&self, held: &Held) -> Option<Vec<Compare>> {
        let (key, view) = (&held.who.key, self.raft.view());
        // Who has written the key since answers for it: to find that out from the log would take an entry each time.
        let is_relied_on = |meta: KeyMeta| meta.modified.revision > held.modified;
        match view.current_meta(key) {
            Ok(meta) if meta.is_some_and(is_relied_on) => return None,
            Ok(_) => {}
            Err(error) => {
                self.raft.fail(format!("reading the state: {error}"));
                return None;
            }
        }
        let mut conditions =
            vec![compare(key, CompareTarget::Create(held.who.create)), compare(key, CompareTarget::Mod(held.modified))];
        if !held.created {
            let Place { standing, .. } = self.places.find(&view, &held.contest, &held.who).await.ok()?;
            let Standing::Behind(before) = standing else { return None };
            conditions.push(compare(&before.key, CompareTarget::Create(before.create)));
        }
        Some(conditions)
    }

    async fn revoke(&self, id: LeaseId) {
        let by = Some(RevokedBy { member: self.raft.member(), client: ClientName::Unknown });
        let command = Command::LeaseRevoke(LeaseRevoke { id, expiry: None, by }).encode();
        loop {
            match self.proposer.propose_revoke(command.clone()).await {
                Ok(_) | Err(RequestError::Refused(_) | RequestError::Storage | RequestError::Stopped) => return,
                Err(RequestError::Timeout | RequestError::LeaderLost | RequestError::TooManyRequests) => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}
