//! What is asked of an election beside winning it: who leads, and what a leader says and gives up.

use bytes::Bytes;
use tenure_core::command::{Command, CompareTarget, Op, Put, Range, SortOrder, SortTarget, Txn};
use tenure_core::outcome::{KeyValue, Outcome, Response};
use tenure_core::{LeaseId, Revision};

use super::ContestError;
use super::claim::{compare, delete_if};
use super::names::Contest;
use crate::node::{Node, ReadAnswer, RequestError};

/// What proves leadership as long as the key is there, of that life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderKey {
    /// The key.
    pub key: Bytes,
    /// Its create revision.
    pub create: Revision,
    /// The lease that it is on; none to leave that as it is.
    pub lease: LeaseId,
}

impl Node {
    /// Who is the first, as of now.
    pub async fn leader_of(&self, name: Bytes) -> Result<ReadAnswer<Option<KeyValue>>, RequestError> {
        let ReadAnswer { result, revision } = self.range(first_of(&Contest::new(name)), false).await?;
        Ok(ReadAnswer { result: result.kvs.into_iter().next(), revision })
    }

    /// Lets a leader show another value. The revision is of that change.
    pub async fn proclaim(&self, leader: &LeaderKey, value: Bytes) -> Result<Revision, ContestError> {
        let put = Put {
            key: leader.key.clone(),
            value,
            lease: leader.lease,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: !leader.lease.is_some(),
        };
        let compares = vec![compare(&leader.key, CompareTarget::Create(leader.create))];
        let command = Command::Txn(Txn { compares, success: vec![Op::Put(put)], failure: Vec::new() });
        let (outcome, has_led) = self.if_leading(&command).await?;
        if has_led { Ok(outcome.revision) } else { Err(ContestError::Lost) }
    }

    /// Gives leadership up. That of somebody who does not lead any more is given up already.
    pub async fn resign(&self, leader: &LeaderKey) -> Result<Revision, RequestError> {
        let created = vec![compare(&leader.key, CompareTarget::Create(leader.create))];
        let (outcome, _) = self.if_leading(&delete_if(created, &leader.key)).await?;
        Ok(outcome.revision)
    }

    /// Carries a transaction out, and tells whether its conditions held.
    async fn if_leading(&self, command: &Command) -> Result<(Outcome, bool), RequestError> {
        let outcome = self.write(command).await?;
        match &outcome.result {
            Ok(Response::Txn(txn)) => {
                let succeeded = txn.succeeded;
                Ok((outcome, succeeded))
            }
            Ok(_) => Err(RequestError::Storage),
            Err(refusal) => Err((*refusal).into()),
        }
    }
}

/// The contender with the lowest create revision.
fn first_of(contest: &Contest) -> Range {
    let contenders = Range::of(contest.contenders());
    Range { limit: 1, order: SortOrder::Ascend, target: SortTarget::Create, ..contenders }
}
