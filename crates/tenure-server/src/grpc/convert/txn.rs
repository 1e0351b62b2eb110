//! Transactions: the recursive part of the requests.
//!
//! Depth is bounded twice. Each level takes its operations from what the levels above left of `max_txn_ops`, as in
//! etcd; and whatever that flag says, no transaction nests deeper than the log's encoding can hold, since an entry that
//! cannot be decoded would stop every member.

use bytes::Bytes;
use prost::Message;
use tenure_core::codec::TXN_DEPTH_MAX;
use tenure_core::command::{Compare, CompareResult, CompareTarget, Op, Txn};
use tenure_core::validate::{txn_is_read_only, validate_txn};
use tenure_core::{LeaseId, Revision};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::compare::{self, TargetUnion};
use tenure_proto::etcdserverpb::request_op::Request;

use super::Limits;
use super::request::{check_size, delete_range, key_range, put, range};
use crate::grpc::errors::ApiError;

/// A transaction, and how it must be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnCall {
    /// What to do.
    pub txn: Txn,
    /// Whether it holds nothing but top-level reads, so that it needs no place in the log.
    pub read_only: bool,
    /// If read-only: whether what this member has applied is fresh enough.
    pub serializable: bool,
}

/// A transaction request.
pub fn txn_call(request: pb::TxnRequest, limits: &Limits) -> Result<TxnCall, ApiError> {
    let size = request.encoded_len();
    let serializable = is_serializable(&request);
    let txn = convert(request, limits.max_txn_ops, 1)?;
    validate_txn(&txn, limits.max_txn_ops)?;
    let read_only = txn_is_read_only(&txn);
    if !read_only {
        check_size(size, limits)?;
    }
    Ok(TxnCall { txn, read_only, serializable })
}

/// Every read says so, and there is one. etcd counts a transaction of compares alone as serializable, because no read
/// objects; but then the answer to "do I still hold this lock" could be stale.
fn is_serializable(request: &pb::TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure).peekable();
    ops.peek().is_some()
        && ops.all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

/// Counts as it goes, before it looks into a level: that is etcd's order, and it bounds the recursion.
fn convert(request: pb::TxnRequest, ops_left: usize, depth: u32) -> Result<Txn, ApiError> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let ops_left = ops_left.checked_sub(ops).ok_or(ApiError::TooManyOps)?;
    if depth > TXN_DEPTH_MAX {
        return Err(ApiError::TooManyOps);
    }
    let branch = |requests: Vec<pb::RequestOp>| -> Result<Vec<Op>, ApiError> {
        requests.into_iter().map(|request| op(request, ops_left, depth)).collect()
    };
    Ok(Txn {
        compares: request.compare.into_iter().map(convert_compare).collect::<Result<_, _>>()?,
        success: branch(request.success)?,
        failure: branch(request.failure)?,
    })
}

fn op(request: pb::RequestOp, ops_left: usize, depth: u32) -> Result<Op, ApiError> {
    // etcd's answer to an operation without content; the text is about something else, but clients know it.
    let request = request.request.ok_or(ApiError::KeyNotFound)?;
    Ok(match request {
        Request::RequestRange(request) => Op::Range(range(request)?),
        Request::RequestPut(request) => Op::Put(put(request)?),
        Request::RequestDeleteRange(request) => Op::DeleteRange(delete_range(request)?),
        Request::RequestTxn(request) => Op::Txn(convert(request, ops_left, depth + 1)?),
    })
}

fn convert_compare(request: pb::Compare) -> Result<Compare, ApiError> {
    let range = key_range(request.key, request.range_end)?;
    let result = compare::CompareResult::try_from(request.result)
        .map_err(|_| ApiError::UnknownEnum { what: "compare result", value: request.result })?;
    let target = compare::CompareTarget::try_from(request.target)
        .map_err(|_| ApiError::UnknownEnum { what: "compare target", value: request.target })?;
    Ok(Compare {
        range,
        result: match result {
            compare::CompareResult::Equal => CompareResult::Equal,
            compare::CompareResult::Greater => CompareResult::Greater,
            compare::CompareResult::Less => CompareResult::Less,
            compare::CompareResult::NotEqual => CompareResult::NotEqual,
        },
        target: compare_target(target, request.target_union),
    })
}

/// The given side of a compare. One that is missing, or belongs to another target, counts as 0 or empty.
fn compare_target(target: compare::CompareTarget, given: Option<TargetUnion>) -> CompareTarget {
    match (target, given) {
        (compare::CompareTarget::Version, Some(TargetUnion::Version(version))) => CompareTarget::Version(version),
        (compare::CompareTarget::Version, _) => CompareTarget::Version(0),
        (compare::CompareTarget::Create, Some(TargetUnion::CreateRevision(revision))) => {
            CompareTarget::Create(Revision(revision))
        }
        (compare::CompareTarget::Create, _) => CompareTarget::Create(Revision(0)),
        (compare::CompareTarget::Mod, Some(TargetUnion::ModRevision(revision))) => {
            CompareTarget::Mod(Revision(revision))
        }
        (compare::CompareTarget::Mod, _) => CompareTarget::Mod(Revision(0)),
        (compare::CompareTarget::Value, Some(TargetUnion::Value(value))) => CompareTarget::Value(value),
        (compare::CompareTarget::Value, _) => CompareTarget::Value(Bytes::new()),
        (compare::CompareTarget::Lease, Some(TargetUnion::Lease(lease))) => CompareTarget::Lease(LeaseId(lease)),
        (compare::CompareTarget::Lease, _) => CompareTarget::Lease(LeaseId::NONE),
    }
}
