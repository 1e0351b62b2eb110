//! Short words for hand-written histories.

use tenure_history::request::{DeleteRange, KeyRange, Put, Range, Request};
use tenure_history::response::{Body, KeyValue, Outcome, RangeBody, Refusal, Response};
use tenure_history::{ClientId, LeaseId, Moment, NodeId, Operation, Revision, Verdict};

/// An operation between two instants in milliseconds.
pub(crate) fn op(client: u32, called: u64, returned: u64, request: Request, outcome: Outcome) -> Operation {
    let moment = |ms: u64| Moment(ms * 1_000_000);
    let (client, returned) = (ClientId(client), Some(moment(returned)));
    Operation { client, node: None, called: moment(called), returned, request, outcome }
}

pub(crate) fn on_node(node: u32, operation: Operation) -> Operation {
    Operation { node: Some(NodeId(node)), ..operation }
}

pub(crate) fn ok(revision: i64, body: Body) -> Outcome {
    Outcome::Ok(Response { revision: Revision(revision), body })
}

pub(crate) fn put(key: &str, value: &str) -> Request {
    Request::Put(Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() })
}

pub(crate) fn put_leased(key: &str, value: &str, lease: i64) -> Request {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    Request::Put(Put { key, value, lease: LeaseId(lease), prev_kv: false })
}

pub(crate) fn put_ok(revision: i64) -> Outcome {
    ok(revision, Body::Put { prev_kv: None })
}

pub(crate) fn get(key: &str) -> Request {
    Request::Range(Range { keys: KeyRange::one(key.to_owned()), ..Range::default() })
}

pub(crate) fn get_serializable(key: &str) -> Request {
    Request::Range(Range { keys: KeyRange::one(key.to_owned()), serializable: true, ..Range::default() })
}

pub(crate) fn got(revision: i64, kvs: &[KeyValue]) -> Outcome {
    ok(revision, Body::Range(RangeBody { kvs: kvs.to_vec(), count: kvs.len() as i64, more: false }))
}

pub(crate) fn delete(key: &str) -> Request {
    Request::DeleteRange(DeleteRange { keys: KeyRange::one(key.to_owned()), prev_kv: false })
}

pub(crate) fn deleted(revision: i64, deleted: i64) -> Outcome {
    ok(revision, Body::DeleteRange { deleted, prev_kvs: Vec::new() })
}

/// A key-value with create and modification revision and version.
pub(crate) fn kv(key: &str, value: &str, create: i64, modified: i64, version: i64) -> KeyValue {
    let (create, modified) = (Revision(create), Revision(modified));
    KeyValue {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        create,
        modified,
        version,
        lease: LeaseId(0),
    }
}

pub(crate) fn leased(kv: KeyValue, lease: i64) -> KeyValue {
    KeyValue { lease: LeaseId(lease), ..kv }
}

pub(crate) fn grant(id: i64, ttl_secs: i64) -> Request {
    Request::LeaseGrant { id: LeaseId(id), ttl_secs }
}

pub(crate) fn granted(revision: i64, id: i64, ttl_secs: i64) -> Outcome {
    ok(revision, Body::LeaseGrant { id: LeaseId(id), ttl_secs })
}

pub(crate) fn keep_alive(id: i64) -> Request {
    Request::LeaseKeepAlive { id: LeaseId(id) }
}

pub(crate) fn kept(revision: i64, ttl_secs: i64) -> Outcome {
    ok(revision, Body::LeaseKeepAlive { ttl_secs })
}

pub(crate) fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

/// The promise that a verdict says is broken; "" if none is.
pub(crate) fn broken<C>(verdict: &Verdict<C>) -> &str {
    match verdict {
        Verdict::Ok(_) => "",
        Verdict::Violation(violation) => violation.promise,
        Verdict::Undecided(_) => "undecided",
    }
}
