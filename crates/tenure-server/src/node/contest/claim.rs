//! The key by which a call contends, from before it is written until the client is told of it.
//!
//! A call puts its key if it is not there, and puts it again if it is: then an earlier call of the same lease made it, and
//! whichever call wrote it last answers for it. Both are one transaction. What ends otherwise than by success, at whatever
//! point its future is dropped, is left to the [`Caretaker`]: as a [`Claim`], which is removed, or as a [`Proposal`], of
//! which nobody knows yet whether it was carried out. (etcd leaves such keys to their leases, and where it removes one,
//! does so whoever relies on it by then.)

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use tenure_core::command::{Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, Op, Put, Txn};
use tenure_core::outcome::{KeyValue, OpResponse, Outcome, Refusal, Response, TxnResponse};
use tenure_core::{LeaseId, Revision};
use tokio::sync::oneshot;

use super::caretaker::{Caretaker, Left};
use super::fates::{Fate, Fates, mark};
use super::names::Contest;
use super::places::Contender;
use crate::node::proposer::{Proposer, Written};
use crate::node::{Node, RequestError};

/// A key that stands in a contest by this member's doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) contest: Contest,
    pub(super) who: Contender,
    /// The revision at which the call wrote it: as long as the key has it, nobody else relies on the key.
    pub(super) modified: Revision,
    /// Whether it was not there before. If it was, somebody may have been told already that it is the first.
    pub(super) created: bool,
}

/// A [`Held`] that is removed when this is dropped, unless it is kept.
pub(super) struct Claim {
    held: Option<Held>,
    care: Caretaker,
}

impl Claim {
    pub(super) fn new(held: Held, care: Caretaker) -> Claim {
        Claim { held: Some(held), care }
    }

    /// What is claimed. Always there: only the ways to end a claim take it.
    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// It is its client's from now on.
    pub(super) fn keep(mut self) {
        self.held = None;
    }

    /// Removes it, and waits a while for that.
    pub(super) async fn release(mut self, patience: Duration) {
        let Some(held) = self.held.take() else { return };
        let (done, removed) = oneshot::channel();
        self.care.leave(Left::Claim(held, Some(done)));
        // It goes on without a listener.
        drop(tokio::time::timeout(patience, removed).await);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.care.leave(Left::Claim(held, None));
        }
    }
}

/// A registration on its way through the log.
pub(super) struct Proposal {
    contest: Contest,
    key: Bytes,
    pub(super) lease: LeaseId,
    fate: Fate,
    /// None once it is known that there is no answer.
    answer: Option<BoxFuture<'static, Result<Written, RequestError>>>,
    /// Whether nobody will know what becomes of it.
    is_given_up: bool,
}

/// A [`Proposal`] that is left to the caretaker when this is dropped.
pub(super) struct Undecided {
    proposal: Option<Proposal>,
    care: Caretaker,
}

impl Undecided {
    /// Waits for the outcome; if the answer is lost, so long for its effect. Refused, it leaves nothing behind.
    pub(super) async fn decided(mut self, patience: Duration) -> Result<(Claim, Outcome), RequestError> {
        let Some(proposal) = &mut self.proposal else { return Err(RequestError::Stopped) };
        let outcome = match proposal.outcome(patience).await {
            Ok(outcome) => outcome,
            Err(error) if is_unknown(error) => return Err(error),
            Err(error) => {
                self.proposal = None;
                return Err(error);
            }
        };
        let held = proposal.held(&outcome);
        self.proposal = None;
        Ok((Claim::new(held?, self.care.clone()), outcome))
    }
}

impl Drop for Undecided {
    fn drop(&mut self) {
        if let Some(proposal) = self.proposal.take() {
            self.care.leave(Left::Proposal(proposal));
        }
    }
}

/// Whether a write that ended so may still be carried out.
pub(super) fn is_unknown(error: RequestError) -> bool {
    match error {
        RequestError::Timeout | RequestError::LeaderLost | RequestError::Stopped => true,
        RequestError::Refused(_) | RequestError::TooManyRequests | RequestError::Storage => false,
    }
}

impl Proposal {
    /// Proposes to contend with a key on a lease; with a value, or with none and whatever the key has already.
    fn new(node: &Node, contest: Contest, lease: LeaseId, value: Option<&Bytes>) -> (Proposal, Command) {
        let key = contest.key_of(lease);
        let command = registration(&key, lease, value);
        let fates: &Arc<Fates> = &node.shared().fates;
        let fate = fates.follow(command.encode());
        (Proposal { contest, key, lease, fate, answer: None, is_given_up: false }, command)
    }

    fn propose(mut self, proposer: Proposer) -> Proposal {
        let encoded = self.fate.command().clone();
        self.answer = Some(async move { proposer.propose(encoded).await }.boxed());
        self
    }

    /// What became of it: by its answer, or by its effect on this member, for which it waits a while longer.
    pub(super) async fn outcome(&mut self, patience: Duration) -> Result<Outcome, RequestError> {
        let Proposal { fate, answer, is_given_up, .. } = self;
        let error = match answer {
            Some(answering) => tokio::select! {
                biased;
                Some(outcome) = fate.decided() => return Ok(outcome),
                written = answering => match written {
                    Ok(written) => return Ok(written.outcome),
                    Err(error) => error,
                },
            },
            None => RequestError::Timeout,
        };
        *answer = None;
        if !is_unknown(error) {
            return Err(error);
        }
        match tokio::time::timeout(patience, fate.decided()).await {
            Ok(Some(outcome)) => Ok(outcome),
            Ok(None) => {
                *is_given_up = true;
                Err(error)
            }
            Err(_) => Err(error),
        }
    }

    /// Whether nobody will know what becomes of it: there are too many newer ones.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    /// What an outcome means for the key.
    pub(super) fn held(&self, outcome: &Outcome) -> Result<Held, RequestError> {
        let (created, create) = match &outcome.result {
            Ok(Response::Txn(TxnResponse { succeeded: true, .. })) => (true, outcome.revision),
            Ok(Response::Txn(TxnResponse { responses, .. })) => (false, put_again(responses)?.create),
            Ok(_) => return Err(RequestError::Storage),
            Err(refusal) => return Err((*refusal).into()),
        };
        let who = Contender { key: self.key.clone(), create };
        Ok(Held { contest: self.contest.clone(), who, modified: outcome.revision, created })
    }
}

impl Node {
    /// Has a lease contend.
    pub(super) async fn register(
        &self,
        contest: Contest,
        lease: LeaseId,
        value: Option<&Bytes>,
    ) -> Result<(Claim, Outcome), RequestError> {
        let (proposal, command) = Proposal::new(self, contest, lease, value);
        self.check_quota(&command).await?;
        let proposal = Some(proposal.propose(self.proposer.clone()));
        let undecided = Undecided { proposal, care: self.care.clone() };
        undecided.decided(self.shared().raft.election_timeout()).await
    }
}

/// The transaction by which a key is put, or put again: see the module's header.
///
/// A lock's key that is there but not on the lease is left alone: nothing would end it, and its lease may have ended. It may
/// stay for the delay of a native lock, too.
fn registration(key: &Bytes, lease: LeaseId, value: Option<&Bytes>) -> Command {
    let put = |prev_kv| Put {
        key: key.clone(),
        value: value.cloned().unwrap_or_default(),
        lease,
        prev_kv,
        ignore_value: false,
        ignore_lease: false,
    };
    // A lock's key is left as it is, whoever made it; a campaign proclaims its value by it.
    let again = match value {
        Some(_) => Op::Put(put(true)),
        None => Op::Txn(Txn {
            compares: vec![compare(key, CompareTarget::Lease(lease))],
            success: vec![Op::Put(Put { lease: LeaseId::NONE, ignore_value: true, ignore_lease: true, ..put(true) })],
            failure: Vec::new(),
        }),
    };
    let absent = compare(key, CompareTarget::Create(Revision(0)));
    Command::Txn(Txn { compares: vec![absent, mark(key)], success: vec![Op::Put(put(false))], failure: vec![again] })
}

/// What a key was that a registration put again.
fn put_again(responses: &[OpResponse]) -> Result<&KeyValue, RequestError> {
    match responses {
        [OpResponse::Put(Some(previous))] => Ok(previous),
        [OpResponse::Txn(TxnResponse { succeeded: true, responses })] => put_again(responses),
        [OpResponse::Txn(TxnResponse { succeeded: false, .. })] => Err(Refusal::LeaseNotFound.into()),
        _ => Err(RequestError::Storage),
    }
}

/// A key is as said.
pub(super) fn compare(key: &Bytes, target: CompareTarget) -> Compare {
    Compare { range: KeyRange::One(key.clone()), result: CompareResult::Equal, target }
}

/// The delete of a key under conditions.
pub(super) fn delete_if(compares: Vec<Compare>, key: &Bytes) -> Command {
    let delete = DeleteRange { range: KeyRange::One(key.clone()), prev_kv: false };
    Command::Txn(Txn { compares, success: vec![Op::DeleteRange(delete)], failure: Vec::new() })
}
