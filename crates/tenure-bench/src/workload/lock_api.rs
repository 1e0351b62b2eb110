//! One client of a lock, and how it asks by each of the three ways.

use bytes::{BufMut, Bytes, BytesMut};
use http::Uri;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use tenure_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use tenure_proto::etcdserverpb::request_op::Request;
use tenure_proto::etcdserverpb::response_op::Response;
use tenure_proto::mvccpb::event::EventType;
use tenure_proto::tenure::v1;
use tenure_proto::tenure::v1::lock_acquire_response::State;
use tenure_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

use super::watching::create;
use super::{DELETE_RANGE, LockApi, RANGE, TXN, WATCH};
use crate::caller::{Caller, framed};
use crate::failure::Failure;

/// A client, which has one request at a time.
pub(crate) struct Seat {
    caller: Caller,
    api: LockApi,
    name: Bytes,
    lease: i64,
    /// Of native requests.
    number: u64,
    lock_uri: Uri,
    unlock_uri: Uri,
}

/// A lock that is held: what releases it.
pub(crate) struct Held {
    key: Bytes,
    token: i64,
}

impl Seat {
    pub(crate) fn new(caller: Caller, api: LockApi, name: String, lease: i64) -> Result<Seat, Failure> {
        let (lock, unlock) = match api {
            LockApi::V3lock => ("/v3lockpb.Lock/Lock", "/v3lockpb.Lock/Unlock"),
            LockApi::Recipe => (TXN, DELETE_RANGE),
            LockApi::Native => ("/tenure.v1.Locks/Acquire", "/tenure.v1.Locks/Release"),
        };
        let (lock_uri, unlock_uri) = (caller.uri(lock)?, caller.uri(unlock)?);
        Ok(Seat { caller, api, name: name.into(), lease, number: 0, lock_uri, unlock_uri })
    }

    /// Takes the lock, however long that lasts.
    pub(crate) async fn lock(&mut self) -> Result<Held, Failure> {
        match self.api {
            LockApi::V3lock => {
                let request = LockRequest { name: self.name.clone(), lease: self.lease };
                let answer: LockResponse = self.caller.send(&self.lock_uri, framed(&request)).await?.only().await?;
                Ok(Held { key: answer.key, token: 0 })
            }
            LockApi::Recipe => self.lock_by_recipe().await,
            LockApi::Native => self.lock_natively().await,
        }
    }

    /// Lets go.
    pub(crate) async fn unlock(&mut self, held: Held) -> Result<(), Failure> {
        match self.api {
            LockApi::V3lock => {
                let request = framed(&UnlockRequest { key: held.key });
                let _answer: UnlockResponse = self.caller.send(&self.unlock_uri, request).await?.only().await?;
            }
            LockApi::Recipe => {
                let request = framed(&pb::DeleteRangeRequest { key: held.key, ..pb::DeleteRangeRequest::default() });
                let answer: pb::DeleteRangeResponse = self.caller.send(&self.unlock_uri, request).await?.only().await?;
                if answer.deleted != 1 {
                    return Err(Failure::answer("the lock's key was gone"));
                }
            }
            LockApi::Native => {
                let (name, number) = (self.name.clone(), self.number);
                let request = framed(&v1::LockReleaseRequest { name, lease: self.lease, token: held.token, number });
                let answer: v1::LockReleaseResponse = self.caller.send(&self.unlock_uri, request).await?.only().await?;
                if !answer.released {
                    return Err(Failure::answer("the lock was not held when it was released"));
                }
            }
        }
        Ok(())
    }

    async fn lock_natively(&mut self) -> Result<Held, Failure> {
        self.number += 1;
        let request = v1::LockRequest { lease: self.lease, number: self.number, lowest_open: self.number, attach: 1 };
        let request = v1::LockAcquireRequest {
            name: self.name.clone(),
            request: Some(request),
            ..v1::LockAcquireRequest::default()
        };
        let mut answers = self.caller.send(&self.lock_uri, framed(&request)).await?;
        loop {
            let answer: Option<v1::LockAcquireResponse> = answers.next().await?;
            match answer.and_then(|answer| answer.state) {
                Some(State::Waiting(_)) => {}
                Some(State::Granted(granted)) => {
                    answers.end().await?;
                    return Ok(Held { key: granted.key, token: granted.token });
                }
                other => return Err(Failure::answer(format!("an Acquire was answered by {other:?}"))),
            }
        }
    }

    /// `Mutex.Lock` of etcd's client (client/v3/concurrency/mutex.go): a key of one's own under the lock's name; whoever has
    /// the oldest holds it.
    async fn lock_by_recipe(&mut self) -> Result<Held, Failure> {
        let prefix = joined(&self.name, b"/");
        let key = joined(&prefix, format!("{:x}", self.lease).as_bytes());
        let txn = framed(&claim(&key, &prefix, self.lease));
        let answer: pb::TxnResponse = self.caller.send(&self.lock_uri, txn).await?.only().await?;
        let mut responses = answer.responses.iter().map(|response| response.response.as_ref());
        let header_revision = answer.header.as_ref().map_or(0, |header| header.revision);
        let own = match responses.next().flatten() {
            Some(Response::ResponseRange(found)) => found.kvs.first().map_or(0, |kv| kv.create_revision),
            _ => header_revision,
        };
        let owner = match responses.next().flatten() {
            Some(Response::ResponseRange(found)) => found.kvs.first().map(|kv| kv.create_revision),
            _ => None,
        };
        if owner.is_some_and(|owner| owner < own) {
            self.wait_for_those_before(&prefix, own).await?;
        }
        Ok(Held { key, token: own })
    }

    /// Waits for the delete of the last key before one's own, until there is none.
    async fn wait_for_those_before(&self, prefix: &Bytes, own: i64) -> Result<(), Failure> {
        loop {
            let before = pb::RangeRequest {
                key: prefix.clone(),
                range_end: joined(&self.name, b"0"),
                limit: 1,
                sort_order: SortOrder::Descend.into(),
                sort_target: SortTarget::Create.into(),
                max_create_revision: own - 1,
                ..pb::RangeRequest::default()
            };
            let answer: pb::RangeResponse = self.caller.call(RANGE, &before).await?;
            let Some(last) = answer.kvs.first() else { return Ok(()) };
            let revision = answer.header.map_or(0, |header| header.revision);
            self.wait_delete(last.key.clone(), revision).await?;
        }
    }

    async fn wait_delete(&self, key: Bytes, revision: i64) -> Result<(), Failure> {
        let (mut requests, mut answers) = self.caller.stream(WATCH).await?;
        let watch = pb::WatchCreateRequest { key, start_revision: revision, ..pb::WatchCreateRequest::default() };
        requests.send(&create(watch))?;
        while let Some(answer) = answers.next::<pb::WatchResponse>().await? {
            if answer.canceled {
                return Err(Failure::answer(format!("a watch was cancelled: {}", answer.cancel_reason)));
            }
            if answer.events.iter().any(|event| event.r#type() == EventType::Delete) {
                return Ok(());
            }
        }
        Err(Failure::answer("a watch has ended"))
    }
}

/// The key if it is not there yet, else itself; and in both cases the oldest under the lock's name.
fn claim(key: &Bytes, prefix: &Bytes, lease: i64) -> pb::TxnRequest {
    let absent = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(0)),
        ..pb::Compare::default()
    };
    let put = Request::RequestPut(pb::PutRequest { key: key.clone(), lease, ..pb::PutRequest::default() });
    let get = Request::RequestRange(pb::RangeRequest { key: key.clone(), ..pb::RangeRequest::default() });
    let mut range_end = BytesMut::from(&prefix[..prefix.len().saturating_sub(1)]);
    range_end.put_u8(b'/' + 1);
    let owner = Request::RequestRange(pb::RangeRequest {
        key: prefix.clone(),
        range_end: range_end.freeze(),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..pb::RangeRequest::default()
    });
    let operations = |first| [first, owner.clone()].map(|request| pb::RequestOp { request: Some(request) }).to_vec();
    pb::TxnRequest { compare: vec![absent], success: operations(put), failure: operations(get) }
}

fn joined(first: &[u8], second: &[u8]) -> Bytes {
    let mut both = BytesMut::with_capacity(first.len() + second.len());
    both.put_slice(first);
    both.put_slice(second);
    both.freeze()
}
