//! Looking for deadlocks while a request waits: whom to ask what, when, and how much of it. What follows from the answers is in `waits`.
//!
//! Who waits for less than [`PATIENCE`] asks nothing. A look reads the queue that the own request is in; of each session that holds something there
//! the keys of its lease, and the queues of those that are the newest: a session that waits took nothing after it began to; and so on. A
//! look that meets a limit, or an answer that does not come, has found nothing. A cycle that was found is read once more after a
//! while, and only then is it told.

use std::cmp::Reverse;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use tenure_proto::etcdserverpb as etcd;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::request_op::Request;
use tenure_proto::etcdserverpb::response_op::Response;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::leases_client::LeasesClient;
use tenure_proto::tenure::v1::locks_client::LocksClient;

use super::cycle::Cycle;
use super::mode::Wait;
use super::native::Wanted;
use super::token::{contender_key, contender_suffix};
use super::waits::{self, Entry, Search, Step};
use crate::call::What;
use crate::client::Client;
use crate::error::{Error, Refusal};
use crate::ids::{LeaseId, Revision};
use crate::session::Owner;

/// For how long a request waits before it looks. Nearly all waits are over by then; a deadlock costs that much time.
const PATIENCE: Duration = Duration::from_secs(1);
/// From the one reading of a cycle to the other. Long enough for what was given up at the first to be cancelled by the second.
const CONFIRM_AFTER: Duration = Duration::from_millis(500);
/// The pause from look to look doubles up to this. The first look of the youngest finds a cycle; the others are for looks that failed.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// By how much each pause differs by chance, so that requests that came together do not look together.
const JITTER: f64 = 0.25;

/// How many sessions' keys a look asks for.
const LEASES_MAX: usize = 32;
/// How many queues a look reads.
const LOCKS_MAX: usize = 64;
/// How many queues it reads for one session. Of one that waits as one task, the newest is the one.
const LOCKS_OF_LEASE_MAX: usize = 4;
/// How many lock's keys a session may have; a transaction's limit, since one asks for the age of all.
const KEYS_OF_LEASE_MAX: usize = 128;
/// How much of a queue is read. Who waits behind that is not seen.
const CONTENDERS_MAX: u32 = 256;

/// Looks again and again, and ends with a deadlock that the request is to end. Never if it was not told to look.
pub(super) async fn found(owner: &Owner, wanted: &Wanted) -> Cycle {
    if !wanted.is_deadlock_looked_for || wanted.wait == Wait::Try {
        return pending().await;
    }
    let clock = owner.core.clock();
    let mut pause = PATIENCE;
    loop {
        clock.sleep(clock.jittered(pause, JITTER)).await;
        match Box::pin(look(owner, &wanted.name)).await {
            Ok(Some(cycle)) => {
                clock.sleep(clock.jittered(CONFIRM_AFTER, JITTER)).await;
                if matches!(Box::pin(is_there_still(owner, &cycle)).await, Ok(true)) {
                    return Cycle::new(cycle, owner.client.namespace());
                }
                // Things are in motion.
                pause = PATIENCE;
                continue;
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "a look for a deadlock failed"),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A cycle that the own request is the youngest of, if one is seen.
async fn look(owner: &Owner, name: &Bytes) -> Result<Option<Vec<waits::Wait>>, Error> {
    let (client, own) = (&owner.client, owner.core.lease);
    let lock = client.namespace().wrap(name.clone());
    let queue = inspect(client, &lock).await?;
    let Some(mut search) = Search::new(own, &contender_key(&lock, own), lock, queue) else { return Ok(None) };
    let (mut leases, mut locks) = (0, 1);
    loop {
        let lease = match search.step() {
            Step::Found(cycle) => return Ok(Some(cycle)),
            Step::Nothing => return Ok(None),
            Step::Ask(lease) => lease,
        };
        leases += 1;
        let wanted = if leases > LEASES_MAX { None } else { locks_of(client, lease, &search).await? };
        let Some(wanted) = wanted.filter(|wanted| locks + wanted.len() <= LOCKS_MAX) else { return Ok(None) };
        locks += wanted.len();
        let mut queues = Vec::new();
        for lock in wanted {
            let queue = inspect(client, &lock).await?;
            queues.push((lock, queue));
        }
        search.learn(lease, queues);
    }
}

/// Reads all of it again.
async fn is_there_still(owner: &Owner, cycle: &[waits::Wait]) -> Result<bool, Error> {
    for wait in cycle {
        if !wait.is_in(&inspect(&owner.client, &wait.lock).await?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The front of a queue.
async fn inspect(client: &Client, lock: &Bytes) -> Result<Vec<Entry>, Error> {
    let request = pb::LockInspectRequest { name: lock.clone(), limit: CONTENDERS_MAX };
    let inspect = |link| {
        let request = request.clone();
        async move { LocksClient::new(link).max_decoding_message_size(usize::MAX).inspect(request).await }
    };
    let answer = client.call(What::read("look who waits for a lock"), inspect).await?;
    Ok(answer.queue.into_iter().map(Entry::from_wire).collect())
}

/// The locks within the client's namespace that a session may wait for, and whose queues were not read yet: those that it has the newest
/// keys of. None if it has too many.
async fn locks_of(client: &Client, lease: LeaseId, search: &Search) -> Result<Option<Vec<Bytes>>, Error> {
    let request = pb::LeaseTimeToLiveRequest { id: lease.0, keys: true, keys_after: Bytes::new() };
    let ask = |link| {
        let request = request.clone();
        async move { LeasesClient::new(link).max_decoding_message_size(usize::MAX).time_to_live(request).await }
    };
    let answer = match client.call(What::read("look what a session waits for"), ask).await {
        Ok(answer) => answer,
        // It is over.
        Err(error) if error.refusal() == Some(Refusal::LeaseNotFound) => return Ok(Some(Vec::new())),
        Err(error) => return Err(error),
    };
    let suffix = contender_suffix(lease);
    let lock_of = |key: &Bytes| {
        let lock = key.slice(..key.len().checked_sub(suffix.len())?);
        (key.ends_with(&suffix) && client.namespace().unwrap(&lock).is_some_and(|name| !name.is_empty()))
            .then_some(lock)
    };
    let locks = answer.keys.iter().filter_map(|key| Some((key, lock_of(key)?)));
    let unread: Vec<(&Bytes, Bytes)> = locks.filter(|(_, lock)| !search.has_read(lock)).collect();
    if unread.len() > KEYS_OF_LEASE_MAX || answer.more_keys {
        return Ok(None);
    }
    if unread.len() <= LOCKS_OF_LEASE_MAX {
        return Ok(Some(unread.into_iter().map(|(_, lock)| lock).collect()));
    }
    let created = created(client, unread.iter().map(|(key, _)| Bytes::clone(key))).await?;
    let known = created.into_iter().zip(unread).map(|(created, (_, lock))| (created, lock));
    let mut older: Vec<(Revision, Bytes)> = known.filter(|(created, _)| *created < search.token()).collect();
    older.sort_unstable_by_key(|(created, _)| Reverse(*created));
    Ok(Some(older.into_iter().take(LOCKS_OF_LEASE_MAX).map(|(_, lock)| lock).collect()))
}

/// The create revisions of keys, in one reading; 0 for one that is gone.
async fn created(client: &Client, keys: impl Iterator<Item = Bytes>) -> Result<Vec<Revision>, Error> {
    let range = |key| etcd::RangeRequest { key, keys_only: true, ..etcd::RangeRequest::default() };
    let success = keys.map(|key| etcd::RequestOp { request: Some(Request::RequestRange(range(key))) }).collect();
    let request = etcd::TxnRequest { compare: Vec::new(), success, failure: Vec::new() };
    let read = |link| {
        let request = request.clone();
        async move { KvClient::new(link).txn(request).await }
    };
    let answer = client.call(What::read("look at a session's locks"), read).await?;
    let created = answer.responses.into_iter().map(|response| match response.response {
        Some(Response::ResponseRange(range)) => {
            range.kvs.first().map_or(Revision::NONE, |kv| Revision(kv.create_revision))
        }
        Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_) | Response::ResponseTxn(_)) | None => {
            Revision::NONE
        }
    });
    Ok(created.collect())
}
