//! Answers.
//!
//! `*_response` turns a part into its message; `*_answer` takes a whole outcome, sets the header's revision to the
//! one the command left the store at, and turns a refusal into its error.
//!
//! The answers inside a transaction have headers too: nothing but a revision, and for a nested transaction not even
//! that. Apply does not say which revision each saw, because it follows: a transaction makes at most one, and whatever
//! comes after its first change is at that one. Example, on a store at revision 7:
//!
//! ```text
//! range a                 7
//! put a                   8   the first change
//! delete b, not there     8
//! range a                 8
//! ```

use tenure_core::outcome::{DeletedRange, KeyValue, OpResponse, Outcome, RangeResult, Refusal, Response, TxnResponse};
use tenure_core::{LeaseId, Revision};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::response_op::Response as OpAnswer;
use tenure_proto::mvccpb;

use crate::grpc::errors::ApiError;
use crate::node::{LeaseInfo, RangeChunk};

/// An outcome belongs to another command than the one that was asked. Its own text would be a lie to the client.
pub(super) const MISMATCH: ApiError = ApiError::Internal("the outcome answers another command");

/// A key-value.
pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create.0,
        mod_revision: kv.modified.0,
        version: kv.version,
        value: kv.value,
        lease: kv.lease.0,
    }
}

/// A read's answer. The header's revision is the store's, even if an older one was read.
pub fn range_response(header: pb::ResponseHeader, result: RangeResult) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header),
        kvs: result.kvs.into_iter().map(key_value).collect(),
        more: result.more,
        count: result.count,
    }
}

/// A piece of a read's answer. What is said once is said in the last piece.
pub fn range_stream_response(
    chunk: RangeChunk,
    header: impl FnOnce(Revision) -> pb::ResponseHeader,
) -> pb::RangeStreamResponse {
    let (header, more, count) = match chunk.end {
        Some(end) => (Some(header(end.revision)), end.more, end.count),
        None => (None, false, 0),
    };
    let kvs = chunk.kvs.into_iter().map(key_value).collect();
    pb::RangeStreamResponse { range_response: Some(pb::RangeResponse { header, kvs, more, count }) }
}

/// A put's answer.
pub fn put_response(header: pb::ResponseHeader, previous: Option<KeyValue>) -> pb::PutResponse {
    pb::PutResponse { header: Some(header), prev_kv: previous.map(key_value) }
}

/// A delete's answer.
pub fn delete_range_response(header: pb::ResponseHeader, deleted: DeletedRange) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: Some(header),
        deleted: deleted.deleted,
        prev_kvs: deleted.prev_kvs.into_iter().map(key_value).collect(),
    }
}

/// A transaction's answer. The header's revision is the store's after the transaction.
pub fn txn_response(header: pb::ResponseHeader, response: TxnResponse) -> pb::TxnResponse {
    let after = header.revision;
    let before = if changes(&response) { after.saturating_sub(1) } else { after };
    nested_txn(header, response, &mut SeenRevision { now: before, after })
}

/// A compaction's answer.
pub fn compaction_answer(header: pb::ResponseHeader, outcome: Outcome) -> Result<pb::CompactionResponse, ApiError> {
    match carried_out(header, outcome)? {
        (header, Response::Compact) => Ok(pb::CompactionResponse { header: Some(header) }),
        _ => Err(MISMATCH),
    }
}

/// What a put's outcome answers.
pub fn put_answer(header: pb::ResponseHeader, outcome: Outcome) -> Result<pb::PutResponse, ApiError> {
    match carried_out(header, outcome)? {
        (header, Response::Put(previous)) => Ok(put_response(header, previous)),
        _ => Err(MISMATCH),
    }
}

/// What a delete's outcome answers.
pub fn delete_range_answer(header: pb::ResponseHeader, outcome: Outcome) -> Result<pb::DeleteRangeResponse, ApiError> {
    match carried_out(header, outcome)? {
        (header, Response::DeleteRange(deleted)) => Ok(delete_range_response(header, deleted)),
        _ => Err(MISMATCH),
    }
}

/// What a transaction's outcome answers.
pub fn txn_answer(header: pb::ResponseHeader, outcome: Outcome) -> Result<pb::TxnResponse, ApiError> {
    match carried_out(header, outcome)? {
        (header, Response::Txn(response)) => Ok(txn_response(header, response)),
        _ => Err(MISMATCH),
    }
}

/// What a lease grant's outcome answers.
pub fn lease_grant_answer(header: pb::ResponseHeader, outcome: Outcome) -> Result<pb::LeaseGrantResponse, ApiError> {
    match carried_out(header, outcome)? {
        (header, Response::LeaseGrant { id, ttl_ms }) => Ok(pb::LeaseGrantResponse {
            header: Some(header),
            id: id.0,
            ttl: whole_seconds(ttl_ms),
            error: String::new(),
        }),
        _ => Err(MISMATCH),
    }
}

/// What a lease revoke's outcome answers.
pub fn lease_revoke_answer(header: pb::ResponseHeader, outcome: Outcome) -> Result<pb::LeaseRevokeResponse, ApiError> {
    match carried_out(header, outcome)? {
        (header, Response::LeaseRevoke) => Ok(pb::LeaseRevokeResponse { header: Some(header) }),
        _ => Err(MISMATCH),
    }
}

/// What a renewal's outcome answers. A lease that is gone is no error: its TTL is 0.
pub fn lease_keep_alive_answer(
    header: pb::ResponseHeader,
    id: LeaseId,
    outcome: &Outcome,
) -> Result<pb::LeaseKeepAliveResponse, ApiError> {
    let header = pb::ResponseHeader { revision: outcome.revision.0, ..header };
    let ttl = match &outcome.result {
        Ok(Response::LeaseRenew { ttl_ms }) => whole_seconds(*ttl_ms),
        Err(Refusal::LeaseNotFound) => 0,
        Err(refusal) => return Err((*refusal).into()),
        Ok(_) => return Err(MISMATCH),
    };
    Ok(pb::LeaseKeepAliveResponse { header: Some(header), id: id.0, ttl })
}

/// What is left of a lease, or that there is none.
pub fn lease_time_to_live_response(
    header: pb::ResponseHeader,
    id: LeaseId,
    lease: Option<LeaseInfo>,
) -> pb::LeaseTimeToLiveResponse {
    let header = Some(header);
    match lease {
        Some(LeaseInfo { ttl_ms, left_ms, keys, .. }) => pb::LeaseTimeToLiveResponse {
            header,
            id: id.0,
            ttl: whole_seconds(left_ms),
            granted_ttl: whole_seconds(ttl_ms),
            keys,
        },
        None => pb::LeaseTimeToLiveResponse { header, id: id.0, ttl: -1, granted_ttl: 0, keys: Vec::new() },
    }
}

/// All leases.
pub fn lease_leases_response(header: pb::ResponseHeader, leases: Vec<LeaseInfo>) -> pb::LeaseLeasesResponse {
    let leases = leases.into_iter().map(|lease| pb::LeaseStatus { id: lease.id.0 }).collect();
    pb::LeaseLeasesResponse { header: Some(header), leases }
}

/// Rounded down: a client that counts from it lets go too early rather than too late.
fn whole_seconds(ms: u64) -> i64 {
    i64::try_from(ms / 1000).unwrap_or(i64::MAX)
}

fn carried_out(header: pb::ResponseHeader, outcome: Outcome) -> Result<(pb::ResponseHeader, Response), ApiError> {
    let response = outcome.result?;
    Ok((pb::ResponseHeader { revision: outcome.revision.0, ..header }, response))
}

/// The revision that the operations of a transaction see, as it moves.
struct SeenRevision {
    now: i64,
    after: i64,
}

impl SeenRevision {
    /// The header of an operation that changed something, or not.
    fn header(&mut self, changed: bool) -> pb::ResponseHeader {
        if changed {
            self.now = self.after;
        }
        pb::ResponseHeader { revision: self.now, ..pb::ResponseHeader::default() }
    }
}

/// Whether a transaction made a revision.
fn changes(response: &TxnResponse) -> bool {
    response.responses.iter().any(|op| match op {
        OpResponse::Range(_) => false,
        OpResponse::Put(_) => true,
        OpResponse::DeleteRange(deleted) => deleted.deleted > 0,
        OpResponse::Txn(nested) => changes(nested),
    })
}

fn nested_txn(header: pb::ResponseHeader, response: TxnResponse, seen: &mut SeenRevision) -> pb::TxnResponse {
    let responses = response.responses.into_iter();
    pb::TxnResponse {
        header: Some(header),
        succeeded: response.succeeded,
        responses: responses.map(|op| pb::ResponseOp { response: Some(op_answer(op, seen)) }).collect(),
    }
}

fn op_answer(op: OpResponse, seen: &mut SeenRevision) -> OpAnswer {
    match op {
        OpResponse::Range(result) => OpAnswer::ResponseRange(range_response(seen.header(false), result)),
        OpResponse::Put(previous) => OpAnswer::ResponsePut(put_response(seen.header(true), previous)),
        OpResponse::DeleteRange(deleted) => {
            OpAnswer::ResponseDeleteRange(delete_range_response(seen.header(deleted.deleted > 0), deleted))
        }
        OpResponse::Txn(nested) => OpAnswer::ResponseTxn(nested_txn(pb::ResponseHeader::default(), nested, seen)),
    }
}
