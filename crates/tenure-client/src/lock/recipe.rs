//! Acquiring a lock by etcd's recipe: a key under the lock's name, and waiting until no older one is there.
//!
//! It stands in one queue with etcd's own clients and with Tenure's native requests. Unlike etcd's clients a request that
//! waits watches its own key and its session beside its predecessor, so it does not sleep on after either is gone.

use std::sync::Arc;

use bytes::Bytes;
use tenure_proto::etcdserverpb as etcd;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::request_op::Request;
use tenure_proto::etcdserverpb::response_op::Response;
use tenure_proto::mvccpb::KeyValue;

use super::cleanup::{self, Cleanup};
use super::error::{AcquireError, Contender};
use super::grip::Grasp;
use super::mode::Wait;
use super::names::Claimed;
use super::native::Wanted;
use super::sentry::{self, Watched};
use super::token::contender_key;
use crate::call::What;
use crate::clock::Instant;
use crate::error::{Applied, Error, Refusal};
use crate::ids::{LeaseId, Revision};
use crate::namespace::prefix_end;
use crate::session::{LostReason, Owner};
use crate::txn::Compare;

/// A key that was put, or may have been, and is deleted if this is dropped.
struct Ticket<'o> {
    owner: &'o Arc<Owner>,
    name: Bytes,
    key: Bytes,
    /// Dropped last, after the cleanup has the name.
    claimed: Option<Claimed>,
    state: Put,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    Not,
    Unknown,
    Done,
    /// It is not this ticket's business any more.
    Kept,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let is_late = match self.state {
            Put::Not | Put::Kept => return,
            Put::Unknown => true,
            Put::Done => false,
        };
        let (name, key) = (self.name.clone(), self.key.clone());
        cleanup::hand_over(self.owner, Cleanup::Withdraw { name, key, is_late });
        self.claimed = None;
    }
}

/// Asks until there is an answer, the time to wait is over, or the session is. It may be dropped at any time.
pub(crate) async fn acquire(owner: &Arc<Owner>, wanted: &Wanted) -> Result<(Grasp, Claimed), AcquireError> {
    let clock = owner.core.clock().clone();
    let end = match wanted.wait {
        Wait::Try => Some(clock.now() + owner.client.options().timeout),
        Wait::For(_) | Wait::Until(_) | Wait::Forever => wanted.wait.end(clock.now()),
    };
    let claimed = owner.names.claim(&wanted.name).ok_or(AcquireError::AlreadyHeld)?;
    let key = contender_key(&wanted.name, owner.core.lease);
    let ticket = Ticket { owner, name: wanted.name.clone(), key, claimed: Some(claimed), state: Put::Not };
    let mut claim = Claim { ticket, wanted, created: None, ahead: None, last: None };
    let over = clock.sleep_until(end.unwrap_or(Instant::FAR_FUTURE));
    tokio::select! {
        biased;
        reason = owner.over() => return Err(AcquireError::SessionLost(reason)),
        granted = claim.run() => granted?,
        () = over => return Err(claim.given_up()),
    };
    claim.keep()
}

struct Claim<'o> {
    ticket: Ticket<'o>,
    wanted: &'o Wanted,
    /// The token, once it is held.
    created: Option<Revision>,
    /// The key that it waits for.
    ahead: Option<KeyValue>,
    last: Option<Error>,
}

/// What is in front of a key.
struct Front {
    /// Its own create revision, if it is there on this lease.
    own: Option<Revision>,
    ahead: Option<KeyValue>,
    revision: Revision,
}

impl Claim<'_> {
    async fn run(&mut self) -> Result<(), AcquireError> {
        let created = self.join().await?;
        loop {
            let front = self.look(created).await?;
            if front.own != Some(created) {
                self.ticket.state = Put::Kept;
                return Err(AcquireError::TakenAway);
            }
            let Some(ahead) = front.ahead else {
                (self.ahead, self.created) = (None, Some(created));
                return Ok(());
            };
            self.ahead = Some(ahead.clone());
            if self.wanted.wait == Wait::Try {
                return Err(AcquireError::Busy { holder: Some(Box::new(contender(&ahead))) });
            }
            self.wait(&ahead, created, front.revision).await?;
        }
    }

    /// Waits until the key ahead is gone.
    async fn wait(&mut self, ahead: &KeyValue, created: Revision, at: Revision) -> Result<(), AcquireError> {
        let client = &self.ticket.owner.client;
        let unwrapped = client.namespace().unwrap(&ahead.key);
        let Some(key) = unwrapped else {
            return Err(AcquireError::Invalid("a contender outside of the namespace".to_owned()));
        };
        let lease = Some(self.ticket.owner.core.lease);
        let predecessor = Watched { key, created: Revision(ahead.create_revision), lease: None };
        let own = Watched { key: self.ticket.key.clone(), created, lease };
        let (place, _) = Box::pin(sentry::first_end(client, [predecessor, own], at.next())).await;
        if place == 1 {
            self.ticket.state = Put::Kept;
            return Err(AcquireError::TakenAway);
        }
        Ok(())
    }

    /// Puts the key if it is not there, and answers its create revision.
    async fn join(&mut self) -> Result<Revision, AcquireError> {
        let namespace = self.ticket.owner.client.namespace();
        let (key, lease) = (namespace.wrap(self.ticket.key.clone()), self.ticket.owner.core.lease);
        let absent = Compare::create_revision(self.ticket.key.clone()).equals(Revision::NONE);
        let put = etcd::PutRequest {
            key: key.clone(),
            value: self.wanted.metadata.clone(),
            lease: lease.0,
            ..etcd::PutRequest::default()
        };
        let get = etcd::RangeRequest { key, ..etcd::RangeRequest::default() };
        let request = etcd::TxnRequest {
            compare: vec![absent.into_wire(namespace)],
            success: vec![operation(Request::RequestPut(put))],
            failure: vec![operation(Request::RequestRange(get))],
        };
        self.ticket.state = Put::Unknown;
        // Sent twice it puts once: the second finds the key.
        let answer = self.until_answered(&request, What::idempotent("contend for a lock")).await?;
        let revision = Revision(answer.header.as_ref().map_or(0, |header| header.revision));
        if answer.succeeded {
            self.ticket.state = Put::Done;
            return Ok(revision);
        }
        match keys(answer).next().and_then(|mut keys| keys.pop()) {
            Some(kv) if kv.lease == lease.0 => {
                self.ticket.state = Put::Done;
                Ok(Revision(kv.create_revision))
            }
            // Somebody wrote it there, or a delay keeps it: it is not this session's.
            _ => {
                self.ticket.state = Put::Not;
                Err(AcquireError::AlreadyHeld)
            }
        }
    }

    /// Who is before this key, in one reading of the store.
    async fn look(&mut self, created: Revision) -> Result<Front, AcquireError> {
        let owner = self.ticket.owner;
        let namespace = owner.client.namespace();
        let mut prefix = self.wanted.name.to_vec();
        prefix.push(b'/');
        let prefix = namespace.wrap(prefix);
        let older = etcd::RangeRequest {
            range_end: prefix_end(&prefix),
            key: prefix,
            limit: 1,
            sort_order: etcd::range_request::SortOrder::Descend.into(),
            sort_target: etcd::range_request::SortTarget::Create.into(),
            max_create_revision: created.0 - 1,
            ..etcd::RangeRequest::default()
        };
        let own = etcd::RangeRequest { key: namespace.wrap(self.ticket.key.clone()), ..etcd::RangeRequest::default() };
        let request = etcd::TxnRequest {
            compare: Vec::new(),
            success: vec![operation(Request::RequestRange(own)), operation(Request::RequestRange(older))],
            failure: Vec::new(),
        };
        let answer = self.until_answered(&request, What::read("look who is ahead")).await?;
        let revision = Revision(answer.header.as_ref().map_or(0, |header| header.revision));
        let mut keys = keys(answer);
        let own = keys.next().and_then(|mut keys| keys.pop()).filter(|kv| kv.lease == owner.core.lease.0);
        let ahead = keys.next().and_then(|mut keys| keys.pop());
        Ok(Front { own: own.map(|kv| Revision(kv.create_revision)), ahead, revision })
    }

    /// Asks again and again, as long as the caller waits.
    async fn until_answered(
        &mut self,
        request: &etcd::TxnRequest,
        what: What,
    ) -> Result<etcd::TxnResponse, AcquireError> {
        let owner = self.ticket.owner;
        loop {
            let txn = |link| {
                let request = request.clone();
                async move { KvClient::new(link).txn(request).await }
            };
            match owner.client.call(what, txn).await {
                Ok(answer) => return Ok(answer),
                Err(Error::Closed) => return Err(AcquireError::SessionLost(LostReason::ClientClosed)),
                Err(error) if error.refusal() == Some(Refusal::LeaseNotFound) => {
                    owner.core.not_found();
                    let reason = owner.core.look().lost_reason().unwrap_or(LostReason::Revoked);
                    return Err(AcquireError::SessionLost(reason));
                }
                Err(error @ Error::Refused(_)) => {
                    // Of several tries only the last is known to be refused; nothing was put that is not deleted.
                    return Err(AcquireError::Denied(error));
                }
                Err(error) => {
                    tracing::debug!(is_known = (error.applied() == Applied::No), %error, "asking again");
                    self.last = Some(error);
                }
            }
        }
    }

    /// The lock is held: nobody deletes the key any more but its guard.
    fn keep(mut self) -> Result<(Grasp, Claimed), AcquireError> {
        // The answer may have been under way for longer than the session lived.
        if let Some(reason) = self.ticket.owner.core.look().lost_reason() {
            return Err(AcquireError::SessionLost(reason));
        }
        let (Some(token), Some(claimed)) = (self.created, self.ticket.claimed.take()) else {
            return Err(AcquireError::AlreadyHeld);
        };
        self.ticket.state = Put::Kept;
        let (name, key) = (self.ticket.name.clone(), self.ticket.key.clone());
        Ok((Grasp { name, key, token, number: None, holds: 1 }, claimed))
    }

    fn given_up(&mut self) -> AcquireError {
        match (self.ahead.take(), self.last.take()) {
            (None, Some(error)) => AcquireError::Unavailable(error),
            (ahead, _) => AcquireError::Timeout { position: None, holder: ahead.map(|kv| Box::new(contender(&kv))) },
        }
    }
}

fn operation(request: Request) -> etcd::RequestOp {
    etcd::RequestOp { request: Some(request) }
}

/// The keys of each range in an answer.
fn keys(answer: etcd::TxnResponse) -> impl Iterator<Item = Vec<KeyValue>> {
    answer.responses.into_iter().filter_map(|response| match response.response {
        Some(Response::ResponseRange(range)) => Some(range.kvs),
        Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_) | Response::ResponseTxn(_)) | None => None,
    })
}

/// What the recipe tells of a contender.
fn contender(kv: &KeyValue) -> Contender {
    const METADATA_MAX: usize = 1024;
    let metadata = kv.value.slice(..kv.value.len().min(METADATA_MAX));
    Contender { lease: LeaseId(kv.lease), owner: String::new(), metadata, held_ms: 0 }
}
