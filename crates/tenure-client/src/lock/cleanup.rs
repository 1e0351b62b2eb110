//! What is done for those that went away without waiting: cancels and releases, until they are acknowledged or the session is over.
//!
//! These are the client's tasks, so whoever drops a future or a guard needs no runtime. A client that is closed gives them time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tenure_proto::etcdserverpb as etcd;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::locks_client::LocksClient;

use super::error::Released;
use super::grip::Grasp;
use super::requests::RequestNumber;
use crate::call::What;
use crate::client::Client;
use crate::error::{Error, Refusal};
use crate::ids::{LeaseId, Revision};
use crate::session::Owner;
use crate::txn::Compare;

/// Between tries.
const PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];
/// A put whose outcome is not known may come this long after: etcd's own limit for a request, and then some.
const LATE_PUT: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Cleanup {
    /// End a native request, wherever it stands.
    Cancel { name: Bytes, number: RequestNumber },
    /// Let go of what is held.
    Release(Grasp),
    /// Delete a contender's key that the recipe put. If nobody knows whether it did, the put may come yet.
    Withdraw { name: Bytes, key: Bytes, is_late: bool },
}

impl Cleanup {
    fn name(&self) -> Bytes {
        match self {
            Cleanup::Cancel { name, .. } | Cleanup::Withdraw { name, .. } => name.clone(),
            Cleanup::Release(grasp) => grasp.name.clone(),
        }
    }
}

/// Has the client's tasks do it. Until it is done, nobody asks for that lock by this session again.
pub(crate) fn hand_over(owner: &Arc<Owner>, what: Cleanup) {
    let cleaning = owner.names.cleaning(what.name());
    let owned = owner.clone();
    let work = async move {
        let is_done = carry_out(&owned, &what).await;
        drop(cleaning);
        if let (true, Cleanup::Withdraw { name, is_late: true, .. }) = (is_done, &what) {
            owned.core.clock().sleep(LATE_PUT).await;
            // A claim that was made since has found the late put, or has put the key itself: then that put does nothing.
            if let Some(_claimed) = owned.names.claim(name) {
                carry_out(&owned, &what).await;
            }
        }
    };
    // The client owns it, and gives it time when it is closed.
    drop(owner.client.tasks().spawn_finishing("clean up after a lock", work));
}

/// Tries until it is done or has no object any more. Answers whether it was done.
async fn carry_out(owner: &Owner, what: &Cleanup) -> bool {
    let is_done = loop {
        let done = match what {
            Cleanup::Cancel { name, number } => cancel(owner, name, *number).await,
            Cleanup::Release(grasp) => release(owner, grasp).await.map(|_| ()),
            Cleanup::Withdraw { key, .. } => withdraw(&owner.client, key, owner.core.lease).await,
        };
        match done {
            Ok(()) => break true,
            Err(Error::Refused(refused)) if refused.refusal != Refusal::LeaseNotFound => {
                tracing::warn!(?what, %refused, "a server refuses to end it; it ends with its session");
                break false;
            }
            // With the lease everything on it went.
            Err(Error::Refused(_) | Error::Closed) => break false,
            Err(_) if owner.core.look().is_final() => break false,
            Err(_) => {
                let clock = owner.core.clock();
                clock.sleep(clock.between(PAUSE[0], PAUSE[1])).await;
            }
        }
    };
    if let Cleanup::Cancel { number, .. } = what {
        owner.requests.finish(*number);
    }
    is_done
}

/// Cancels a native request.
pub(crate) async fn cancel(owner: &Owner, name: &Bytes, number: RequestNumber) -> Result<(), Error> {
    let name = owner.client.namespace().wrap(name.clone());
    let request = pb::LockCancelRequest { name, request: Some(owner.requests.latest(number)) };
    let cancel = |link| {
        let request = request.clone();
        async move { LocksClient::new(link).cancel(request).await }
    };
    owner.client.call(What::idempotent("cancel a request for a lock").farewell(), cancel).await.map(|_| ())
}

/// Releases what is held. That it is not held any more is no error.
pub(crate) async fn release(owner: &Owner, grasp: &Grasp) -> Result<Released, Error> {
    match grasp.number {
        Some(number) => release_native(owner, grasp, number).await,
        None => release_key(owner, grasp).await,
    }
}

async fn release_native(owner: &Owner, grasp: &Grasp, number: RequestNumber) -> Result<Released, Error> {
    let request = pb::LockReleaseRequest {
        name: owner.client.namespace().wrap(grasp.name.clone()),
        lease: owner.core.lease.0,
        token: grasp.token.0,
        number: number.0,
    };
    let release = |link| {
        let request = request.clone();
        async move { LocksClient::new(link).release(request).await }
    };
    let answer = owner.client.call(What::idempotent("release a lock").farewell(), release).await?;
    let revision = Revision(answer.header.map_or(0, |header| header.revision));
    Ok(Released { revision, was_held: answer.released, holds: answer.holds })
}

async fn release_key(owner: &Owner, grasp: &Grasp) -> Result<Released, Error> {
    let compare = Compare::create_revision(grasp.key.clone()).equals(grasp.token);
    let answer = delete_if(&owner.client, compare, &grasp.key).await?;
    let revision = Revision(answer.header.map_or(0, |header| header.revision));
    Ok(Released { revision, was_held: answer.succeeded, holds: 0 })
}

/// Deletes a contender's key if it is on this lease.
pub(crate) async fn withdraw(client: &Client, key: &Bytes, lease: LeaseId) -> Result<(), Error> {
    let compare = Compare::lease(key.clone()).equals(lease);
    delete_if(client, compare, key).await.map(|_| ())
}

async fn delete_if(client: &Client, compare: Compare, key: &Bytes) -> Result<etcd::TxnResponse, Error> {
    let key = client.namespace().wrap(key.clone());
    let delete = etcd::DeleteRangeRequest { key, ..etcd::DeleteRangeRequest::default() };
    let delete = etcd::RequestOp { request: Some(etcd::request_op::Request::RequestDeleteRange(delete)) };
    let request = etcd::TxnRequest {
        compare: vec![compare.into_wire(client.namespace())],
        success: vec![delete],
        failure: Vec::new(),
    };
    let txn = |link| {
        let request = request.clone();
        async move { KvClient::new(link).txn(request).await }
    };
    client.call(What::idempotent("delete a lock's key").farewell(), txn).await
}
