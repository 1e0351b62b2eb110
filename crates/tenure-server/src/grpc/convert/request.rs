//! Single requests: range, put, delete, compaction, leases.
//!
//! Numbers pass through as they are, negative ones too: a limit below zero is no limit, a revision below one is the
//! present, a lease id may be any. Only a TTL is bounded here, since it becomes a time.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tenure_core::command::{Command, DeleteRange, KeyRange, LeaseGrant, Put, Range, SortOrder, SortTarget};
use tenure_core::row::LeaseHolder;
use tenure_core::{LeaseId, Revision};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::range_request;

use super::Limits;
use crate::grpc::errors::ApiError;

/// etcd's bound on a TTL, about 285 years: from there on its own arithmetic in nanoseconds would overflow.
pub(super) const LEASE_TTL_SECS_MAX: i64 = 9_000_000_000;

/// A read, and how fresh it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeCall {
    /// What to read.
    pub range: Range,
    /// Whether what this member has applied is fresh enough.
    pub serializable: bool,
}

/// The keys that `key` and `range_end` mean together.
///
/// No end is the one key, an end of one zero byte is everything from `key` on, and an end at or before `key` is the
/// empty range, which is no error.
pub fn key_range(key: Bytes, range_end: Bytes) -> Result<KeyRange, ApiError> {
    if key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    Ok(range_from(key, range_end))
}

/// The same for a key that is there.
pub(super) fn range_from(key: Bytes, range_end: Bytes) -> KeyRange {
    match range_end.as_ref() {
        b"" => KeyRange::One(key),
        b"\0" => KeyRange::From(key),
        _ => KeyRange::Between(key, range_end),
    }
}

/// A range request.
pub fn range_call(request: pb::RangeRequest) -> Result<RangeCall, ApiError> {
    let serializable = request.serializable;
    Ok(RangeCall { range: range(request)?, serializable })
}

/// A range request whose answer is streamed: in key order and without revision bounds, because chunks are sent before
/// the rest of the range is known.
pub fn range_stream_call(request: pb::RangeRequest) -> Result<RangeCall, ApiError> {
    let call = range_call(request)?;
    let range = &call.range;
    // etcd lets a target without an order pass and then ignores it; the merged chunks must equal what Range answers.
    if range.order == SortOrder::Descend || range.target != SortTarget::Key {
        return Err(ApiError::StreamSortOrder);
    }
    if [range.min_mod, range.max_mod, range.min_create, range.max_create].iter().any(|bound| *bound != Revision(0)) {
        return Err(ApiError::StreamRevisionFilters);
    }
    Ok(call)
}

pub(super) fn range(request: pb::RangeRequest) -> Result<Range, ApiError> {
    let range = key_range(request.key, request.range_end)?;
    let order = range_request::SortOrder::try_from(request.sort_order).map_err(|_| ApiError::InvalidSortOption)?;
    let target = range_request::SortTarget::try_from(request.sort_target).map_err(|_| ApiError::InvalidSortOption)?;
    Ok(Range {
        range,
        limit: request.limit,
        revision: Revision(request.revision),
        order: match order {
            range_request::SortOrder::None => SortOrder::None,
            range_request::SortOrder::Ascend => SortOrder::Ascend,
            range_request::SortOrder::Descend => SortOrder::Descend,
        },
        target: match target {
            range_request::SortTarget::Key => SortTarget::Key,
            range_request::SortTarget::Version => SortTarget::Version,
            range_request::SortTarget::Create => SortTarget::Create,
            range_request::SortTarget::Mod => SortTarget::Mod,
            range_request::SortTarget::Value => SortTarget::Value,
        },
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod: Revision(request.min_mod_revision),
        max_mod: Revision(request.max_mod_revision),
        min_create: Revision(request.min_create_revision),
        max_create: Revision(request.max_create_revision),
    })
}

/// A put.
pub fn put_command(request: pb::PutRequest, limits: &Limits) -> Result<Command, ApiError> {
    let size = request.encoded_len();
    let put = put(request)?;
    check_size(size, limits)?;
    Ok(Command::Put(put))
}

pub(super) fn put(request: pb::PutRequest) -> Result<Put, ApiError> {
    if request.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(ApiError::ValueProvided);
    }
    let lease = LeaseId(request.lease);
    if request.ignore_lease && lease.is_some() {
        return Err(ApiError::LeaseProvided);
    }
    Ok(Put {
        key: request.key,
        value: request.value,
        lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

/// A delete.
pub fn delete_range_command(request: pb::DeleteRangeRequest, limits: &Limits) -> Result<Command, ApiError> {
    let size = request.encoded_len();
    let delete = delete_range(request)?;
    check_size(size, limits)?;
    Ok(Command::DeleteRange(delete))
}

pub(super) fn delete_range(request: pb::DeleteRangeRequest) -> Result<DeleteRange, ApiError> {
    let range = key_range(request.key, request.range_end)?;
    Ok(DeleteRange { range, prev_kv: request.prev_kv })
}

/// A compaction. Whether the caller waits for the space to be free is not part of the command.
pub fn compact_command(request: &pb::CompactionRequest) -> Command {
    Command::Compact(Revision(request.revision))
}

/// A lease grant. `picked` becomes the id if the client leaves that to the server, and must not be
/// [`LeaseId::NONE`]; a TTL below `ttl_min`, negative ones too, is raised to it.
pub fn lease_grant_command(
    request: &pb::LeaseGrantRequest,
    picked: LeaseId,
    ttl_min: Duration,
) -> Result<Command, ApiError> {
    if request.ttl > LEASE_TTL_SECS_MAX {
        return Err(ApiError::LeaseTtlTooLarge);
    }
    let asked = Duration::from_secs(u64::try_from(request.ttl).unwrap_or(0));
    let ttl_ms = u64::try_from(asked.max(ttl_min).as_millis()).map_err(|_| ApiError::LeaseTtlTooLarge)?;
    let asked_id = LeaseId(request.id);
    let id = if asked_id.is_some() { asked_id } else { picked };
    Ok(Command::LeaseGrant(LeaseGrant { id, ttl_ms, holder: LeaseHolder::default() }))
}

/// Refuses a write that is too large.
pub fn check_size(size: usize, limits: &Limits) -> Result<(), ApiError> {
    if size > limits.max_request_bytes { Err(ApiError::RequestTooLarge) } else { Ok(()) }
}
