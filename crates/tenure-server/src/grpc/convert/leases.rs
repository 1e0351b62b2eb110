//! tenure.v1.Leases: requests to commands, and what is known of leases to messages.

use tenure_core::LeaseId;
use tenure_core::command::{Command, LeaseGrant};
use tenure_core::outcome::{Outcome, Refusal, Response};
use tenure_core::row::{ClientName, LeaseEnd, LeaseHolder};
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::lease_end::{Cause, Client};

use super::request::LEASE_TTL_SECS_MAX;
use super::response::MISMATCH;
use crate::grpc::errors::ApiError;
use crate::node::{LEASES_PER_BATCH_MAX, LeaseDetail, LeaseExplained};

/// The shortest TTL. Below it the half percent by which clocks may differ, and the time that a renewal takes on a busy
/// cluster, leave too little.
const LEASE_TTL_MS_MIN: u64 = 1000;

const LEASE_TTL_MS_MAX: u64 = LEASE_TTL_SECS_MAX.unsigned_abs() * 1000;

/// The longest name and text of a holder: they are kept with every lease, and told in lists.
const HOLDER_NAME_BYTES_MAX: usize = 128;
const HOLDER_TEXT_BYTES_MAX: usize = 1024;

/// A grant. `picked` becomes the id if the client leaves that to the server.
pub fn leases_grant_command(request: &pb::LeaseGrantRequest, picked: LeaseId) -> Result<Command, ApiError> {
    if request.ttl_ms < LEASE_TTL_MS_MIN {
        return Err(ApiError::Invalid("a lease's TTL must be at least 1000 ms"));
    }
    if request.ttl_ms > LEASE_TTL_MS_MAX {
        return Err(ApiError::LeaseTtlTooLarge);
    }
    let holder = request.holder.as_ref().map(|holder| (&holder.name, &holder.text));
    if holder.is_some_and(|(name, text)| name.len() > HOLDER_NAME_BYTES_MAX || text.len() > HOLDER_TEXT_BYTES_MAX) {
        return Err(ApiError::Invalid("a lease's holder may have a name of 128 bytes and a text of 1024 bytes"));
    }
    let holder = holder.map(|(name, text)| LeaseHolder { name: name.clone(), text: text.clone() });
    let asked = LeaseId(request.id);
    let id = if asked.is_some() { asked } else { picked };
    Ok(Command::LeaseGrant(LeaseGrant { id, ttl_ms: request.ttl_ms, holder: holder.unwrap_or_default() }))
}

/// What a grant's outcome answers.
pub fn leases_grant_answer(header: pb::Header, outcome: &Outcome) -> Result<pb::LeaseGrantResponse, ApiError> {
    match &outcome.result {
        Ok(Response::LeaseGrant { id, ttl_ms }) => {
            Ok(pb::LeaseGrantResponse { header: Some(header), id: id.0, ttl_ms: *ttl_ms })
        }
        Ok(_) => Err(MISMATCH),
        Err(refusal) => Err((*refusal).into()),
    }
}

/// What a revoke's outcome answers.
pub fn leases_revoke_answer(header: pb::Header, outcome: &Outcome) -> Result<pb::LeaseRevokeResponse, ApiError> {
    match &outcome.result {
        Ok(Response::LeaseRevoke) => Ok(pb::LeaseRevokeResponse { header: Some(header) }),
        Ok(_) => Err(MISMATCH),
        Err(refusal) => Err((*refusal).into()),
    }
}

/// The leases of a keepalive message.
pub fn leases_to_renew(request: &pb::LeaseKeepAliveRequest) -> Result<Vec<LeaseId>, ApiError> {
    if request.ids.len() > LEASES_PER_BATCH_MAX {
        return Err(ApiError::Invalid("a message may name at most 4096 leases"));
    }
    Ok(request.ids.iter().copied().map(LeaseId).collect())
}

/// What became of a renewal. A lease that is gone is no error: nothing remains of it.
pub fn lease_kept(id: LeaseId, outcome: &Outcome) -> Result<pb::LeaseKept, ApiError> {
    let remaining_ms = match &outcome.result {
        Ok(Response::LeaseRenew { ttl_ms }) => *ttl_ms,
        Err(Refusal::LeaseNotFound) => 0,
        Err(refusal) => return Err((*refusal).into()),
        Ok(_) => return Err(MISMATCH),
    };
    Ok(pb::LeaseKept { id: id.0, remaining_ms })
}

/// A lease that is there.
pub fn lease_state(lease: LeaseDetail) -> pb::LeaseState {
    let LeaseHolder { name, text } = lease.holder;
    let is_held = !name.is_empty() || !text.is_empty();
    pb::LeaseState {
        id: lease.id.0,
        ttl_ms: lease.ttl_ms,
        remaining_ms: lease.left_ms,
        renewals: lease.renewals,
        renewed_ms_ago: lease.renewed_ms_ago,
        granted_index: lease.granted_at.0,
        holder: is_held.then_some(pb::LeaseHolder { name, text }),
    }
}

/// What became of a lease.
pub fn lease_explain_response(header: pb::Header, id: LeaseId, found: LeaseExplained) -> pb::LeaseExplainResponse {
    let clock_ms = found.clock_ms;
    pb::LeaseExplainResponse {
        header: Some(header),
        id: id.0,
        alive: found.alive.map(lease_state),
        ended: found.ended.map(|end| lease_end(end, clock_ms)),
        ends_kept: found.ends_kept,
        ends_dropped: found.ends_dropped,
    }
}

fn lease_end(end: LeaseEnd, clock_ms: u64) -> pb::LeaseEnd {
    let ttl_over_ms = end.renewed_ms.saturating_add(end.ttl_ms);
    pb::LeaseEnd {
        id: end.id.0,
        cause: if end.expired { Cause::Expired } else { Cause::Revoked }.into(),
        ttl_ms: end.ttl_ms,
        renewals: end.renewals,
        renewed_ms_before: end.ended_ms.saturating_sub(end.renewed_ms),
        late_ms: if end.expired { end.ended_ms.saturating_sub(ttl_over_ms) } else { 0 },
        ended_ms_ago: clock_ms.saturating_sub(end.ended_ms),
        granted_index: end.incarnation.index.0,
        index: end.index.0,
        term: end.term.0,
        member_id: end.by.member.0,
        client: match end.by.client {
            ClientName::Unknown => None,
            ClientName::Certificate(name) => Some(Client::CertificateName(name)),
            ClientName::Address(address) => Some(Client::Address(address)),
        },
        keys: end.keys,
        revision: end.revision.0,
        holder_name: end.holder,
    }
}
