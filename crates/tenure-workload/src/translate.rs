//! Requests and answers between the wire's messages and a history's own.
//!
//! Every field of an answer that the history knows is carried over: what is dropped here is never checked.

use tenure_history::request::{Compare, DeleteRange, KeyRange, Put, Range, Relation, Target, Txn, TxnOp};
use tenure_history::response::{Body, KeyValue, RangeBody};
use tenure_history::{LeaseId, Revision};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use tenure_proto::etcdserverpb::request_op::Request as Op;
use tenure_proto::etcdserverpb::response_op::Response as OpAnswer;
use tenure_proto::mvccpb;

/// A read as it is sent.
pub fn range(range: &Range) -> pb::RangeRequest {
    pb::RangeRequest {
        key: range.keys.key.clone(),
        range_end: range.keys.end.clone(),
        limit: range.limit,
        revision: range.revision.0,
        count_only: range.count_only,
        serializable: range.serializable,
        ..Default::default()
    }
}

/// A put as it is sent.
pub fn put(put: &Put) -> pb::PutRequest {
    pb::PutRequest {
        key: put.key.clone(),
        value: put.value.clone(),
        lease: put.lease.0,
        prev_kv: put.prev_kv,
        ..Default::default()
    }
}

/// A delete as it is sent.
pub fn delete(delete: &DeleteRange) -> pb::DeleteRangeRequest {
    let KeyRange { key, end } = delete.keys.clone();
    pb::DeleteRangeRequest { key, range_end: end, prev_kv: delete.prev_kv }
}

/// A transaction as it is sent.
pub fn txn(txn: &Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compares.iter().map(compare).collect(),
        success: txn.success.iter().map(op).collect(),
        failure: txn.failure.iter().map(op).collect(),
    }
}

fn op(op: &TxnOp) -> pb::RequestOp {
    let request = match op {
        TxnOp::Range(read) => Op::RequestRange(range(read)),
        TxnOp::Put(write) => Op::RequestPut(put(write)),
        TxnOp::DeleteRange(gone) => Op::RequestDeleteRange(delete(gone)),
        TxnOp::Txn(nested) => Op::RequestTxn(txn(nested)),
    };
    pb::RequestOp { request: Some(request) }
}

fn compare(compare: &Compare) -> pb::Compare {
    let result = match compare.relation {
        Relation::Equal => CompareResult::Equal,
        Relation::Greater => CompareResult::Greater,
        Relation::Less => CompareResult::Less,
        Relation::NotEqual => CompareResult::NotEqual,
    };
    let (target, union) = match &compare.target {
        Target::Version(version) => (CompareTarget::Version, TargetUnion::Version(*version)),
        Target::Create(revision) => (CompareTarget::Create, TargetUnion::CreateRevision(revision.0)),
        Target::Mod(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(revision.0)),
        Target::Value(value) => (CompareTarget::Value, TargetUnion::Value(value.clone())),
        Target::Lease(lease) => (CompareTarget::Lease, TargetUnion::Lease(lease.0)),
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: compare.keys.key.clone(),
        range_end: compare.keys.end.clone(),
        target_union: Some(union),
    }
}

/// A key-value as it came.
pub fn key_value(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create: Revision(kv.create_revision),
        modified: Revision(kv.mod_revision),
        version: kv.version,
        lease: LeaseId(kv.lease),
    }
}

/// The answer to a read.
pub fn range_body(answer: pb::RangeResponse) -> Body {
    let kvs = answer.kvs.into_iter().map(key_value).collect();
    Body::Range(RangeBody { kvs, count: answer.count, more: answer.more })
}

/// The answer to a put.
pub fn put_body(answer: pb::PutResponse) -> Body {
    Body::Put { prev_kv: answer.prev_kv.map(key_value) }
}

/// The answer to a delete.
pub fn delete_body(answer: pb::DeleteRangeResponse) -> Body {
    Body::DeleteRange { deleted: answer.deleted, prev_kvs: answer.prev_kvs.into_iter().map(key_value).collect() }
}

/// The answer to a transaction, or nothing if a part of it is empty.
pub fn txn_body(answer: pb::TxnResponse) -> Option<Body> {
    let responses: Option<Vec<Body>> = answer
        .responses
        .into_iter()
        .map(|part| match part.response? {
            OpAnswer::ResponseRange(part) => Some(range_body(part)),
            OpAnswer::ResponsePut(part) => Some(put_body(part)),
            OpAnswer::ResponseDeleteRange(part) => Some(delete_body(part)),
            OpAnswer::ResponseTxn(part) => txn_body(part),
        })
        .collect();
    Some(Body::Txn { succeeded: answer.succeeded, responses: responses? })
}
