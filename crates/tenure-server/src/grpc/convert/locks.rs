//! tenure.v1.Locks: requests to commands, and what is known of locks to messages.

use std::time::Duration;

use tenure_core::command::{
    Command, Guarded, GuardedWrite, LockAcquire, LockCancel, LockForce, LockGuard, LockRelease, LockRequest,
};
use tenure_core::lock::{LockCause, LockEnd, LockLeft, LockMode};
use tenure_core::outcome::{Outcome, Response};
use tenure_core::row::{ClientName, RevokedBy};
use tenure_core::validate::{validate_acquire, validate_cancel, validate_force, validate_lock_name};
use tenure_core::{LeaseId, Revision};
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::lock_acquire_response::State;
use tenure_proto::tenure::v1::lock_mode::{Mode, Semaphore};
use tenure_proto::tenure::v1::lock_transition::{Client, Kind};

use super::response::MISMATCH;
use crate::grpc::errors::ApiError;
use crate::node::{LockDetail, LockStanding, LockStep, LockSummary, LockTransition, LockWanted, LockWhy, Page};

/// An acquire.
pub fn lock_acquire(request: pb::LockAcquireRequest) -> Result<LockWanted, ApiError> {
    let wait = Duration::from_millis(request.wait_ms);
    let acquire = LockAcquire {
        name: request.name,
        request: lock_request(request.request)?,
        wait: !request.r#try,
        mode: lock_mode(request.mode),
        owner: request.owner,
        metadata: request.metadata,
        holds_max: request.holds_max,
        delay_ms: request.delay_ms,
    };
    validate_acquire(&acquire)?;
    Ok(LockWanted { acquire, wait: (!wait.is_zero()).then_some(wait) })
}

fn lock_request(request: Option<pb::LockRequest>) -> Result<LockRequest, ApiError> {
    let request = request.ok_or(ApiError::Invalid("a request for a lock has a lease and a number"))?;
    Ok(LockRequest {
        lease: LeaseId(request.lease),
        number: request.number,
        lowest_open: request.lowest_open.max(1),
        attach: request.attach,
    })
}

fn lock_mode(mode: Option<pb::LockMode>) -> LockMode {
    match mode.and_then(|mode| mode.mode) {
        None | Some(Mode::Shared(false)) => LockMode::Exclusive,
        Some(Mode::Shared(true)) => LockMode::Shared,
        Some(Mode::Semaphore(Semaphore { permits, limit })) => LockMode::Semaphore { permits, limit },
    }
}

fn lock_mode_message(mode: LockMode) -> Option<pb::LockMode> {
    let mode = match mode {
        LockMode::Exclusive => return None,
        LockMode::Shared => Mode::Shared(true),
        LockMode::Semaphore { permits, limit } => Mode::Semaphore(Semaphore { permits, limit }),
    };
    Some(pb::LockMode { mode: Some(mode) })
}

/// What an acquire tells.
pub fn lock_step(step: LockStep, header: impl FnOnce(Revision) -> pb::Header) -> pb::LockAcquireResponse {
    let (revision, state) = match step {
        LockStep::Waiting { ahead, holder, revision } => {
            (revision, State::Waiting(pb::LockWaiting { ahead, holder: holder.map(contender) }))
        }
        LockStep::Granted { token, key, holds, revision } => {
            (revision, State::Granted(pb::LockGranted { token: token.0, key, holds }))
        }
        LockStep::Busy { holder, revision } => (revision, State::Busy(pb::LockBusy { holder: holder.map(contender) })),
    };
    pb::LockAcquireResponse { header: Some(header(revision)), state: Some(state) }
}

/// A release.
pub fn lock_release_command(request: pb::LockReleaseRequest) -> Result<Command, ApiError> {
    let pb::LockReleaseRequest { name, lease, token, number } = request;
    validate_lock_name(&name)?;
    Ok(Command::LockRelease(LockRelease { name, lease: LeaseId(lease), token: Revision(token), number }))
}

/// What a release's outcome answers.
pub fn lock_release_answer(header: pb::Header, outcome: &Outcome) -> Result<pb::LockReleaseResponse, ApiError> {
    match outcome.result {
        Ok(Response::LockRelease { released, holds }) => {
            Ok(pb::LockReleaseResponse { header: Some(header), released, holds })
        }
        Ok(_) => Err(MISMATCH),
        Err(refusal) => Err(refusal.into()),
    }
}

/// A cancel.
pub fn lock_cancel_command(request: pb::LockCancelRequest) -> Result<Command, ApiError> {
    let cancel = LockCancel { name: request.name, request: lock_request(request.request)? };
    validate_cancel(&cancel)?;
    Ok(Command::LockCancel(cancel))
}

/// What a cancel's outcome answers.
pub fn lock_cancel_answer(header: pb::Header, outcome: &Outcome) -> Result<pb::LockCancelResponse, ApiError> {
    let header = Some(header);
    match outcome.result {
        Ok(Response::LockCancel { ended }) => Ok(pb::LockCancelResponse { header, ended, stale: false }),
        Ok(Response::LockCancelStale) => Ok(pb::LockCancelResponse { header, ended: false, stale: true }),
        Ok(_) => Err(MISMATCH),
        Err(refusal) => Err(refusal.into()),
    }
}

/// A forced release.
pub fn lock_force_command(request: pb::LockForceReleaseRequest, by: RevokedBy) -> Result<Command, ApiError> {
    let pb::LockForceReleaseRequest { key, token, reason } = request;
    if key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    let force = LockForce { key, token: Revision(token), reason, by };
    validate_force(&force)?;
    Ok(Command::LockForce(force))
}

/// What its outcome answers.
pub fn lock_force_answer(header: pb::Header, outcome: &Outcome) -> Result<pb::LockForceReleaseResponse, ApiError> {
    match outcome.result {
        Ok(Response::LockForce { removed }) => Ok(pb::LockForceReleaseResponse { header: Some(header), removed }),
        Ok(_) => Err(MISMATCH),
        Err(refusal) => Err(refusal.into()),
    }
}

/// The contenders for a lock.
pub fn lock_inspect_response(
    header: pb::Header,
    (contenders, queue): (u64, Vec<LockDetail>),
) -> pb::LockInspectResponse {
    let queue = queue.into_iter().map(contender).collect();
    pb::LockInspectResponse { header: Some(header), contenders, queue }
}

/// A page of locks.
pub fn lock_list_response(header: pb::Header, page: Page<LockSummary>) -> pb::LockListResponse {
    let locks = page.items.into_iter().map(|lock| pb::LockSummary {
        name: lock.name,
        contenders: lock.contenders,
        holders: lock.holders,
        holder: lock.holder.map(contender),
    });
    pb::LockListResponse { header: Some(header), locks: locks.collect(), more: page.more }
}

fn contender(detail: LockDetail) -> pb::LockContender {
    let native = detail.native.is_some();
    let LockStanding { owner, mode, age_ms, holds, delayed } = detail.native.unwrap_or_default();
    pb::LockContender {
        key: detail.key,
        token: detail.token.0,
        lease: detail.lease.0,
        lease_remaining_ms: detail.lease_left_ms,
        holds_lock: detail.holds_lock,
        held_ms: detail.held_ms,
        native,
        owner,
        metadata: detail.metadata,
        mode: lock_mode_message(mode),
        age_ms,
        holds: u32::try_from(holds).unwrap_or(u32::MAX),
        delayed,
    }
}

/// What became of a lock's contenders.
pub fn lock_why_response(header: pb::Header, why: LockWhy) -> pb::LockWhyResponse {
    let transitions = why.transitions.into_iter().map(transition).collect();
    let compacted = why.compacted.0.max(0);
    pb::LockWhyResponse { header: Some(header), transitions, complete: why.complete, compacted }
}

fn transition(told: LockTransition) -> pb::LockTransition {
    let mut message = pb::LockTransition {
        kind: if told.deleted { Kind::Deleted } else { Kind::Created }.into(),
        key: told.key,
        revision: told.revision.0,
        token: told.token.0,
        lease: told.lease.0,
        ..pb::LockTransition::default()
    };
    let (kind, left) = match told.cause {
        None => return message,
        Some(LockCause::Acquired(claim)) => {
            message.kind = Kind::Acquired.into();
            message.owner = claim.owner;
            message.mode = lock_mode_message(claim.mode);
            return message;
        }
        Some(LockCause::Delayed(left)) => (Kind::Delayed, left),
        Some(LockCause::Left(end, left)) => (kind_of(end), left),
    };
    let LockLeft { owner, granted, held_ms, by, reason, .. } = left;
    let by = by.unwrap_or_default();
    message.kind = kind.into();
    message.owner = owner;
    message.held_since = granted.map_or(0, |granted| granted.0);
    message.held_ms = held_ms;
    message.member = by.member.0;
    message.client = match by.client {
        ClientName::Unknown => None,
        ClientName::Certificate(name) => Some(Client::Certificate(name)),
        ClientName::Address(address) => Some(Client::Address(address)),
    };
    message.reason = reason;
    message
}

fn kind_of(end: LockEnd) -> Kind {
    match end {
        LockEnd::Released => Kind::Released,
        LockEnd::Cancelled => Kind::Cancelled,
        LockEnd::Expired => Kind::Expired,
        LockEnd::Revoked => Kind::Revoked,
        LockEnd::Forced => Kind::Forced,
        LockEnd::Deleted => Kind::Deleted,
        LockEnd::Lapsed => Kind::Lapsed,
    }
}

/// A write, guarded if its request says by what.
pub fn lock_guard(command: Command, guard: Option<LockGuard>) -> Command {
    let Some(guard) = guard else { return command };
    match command {
        Command::Put(put) => Command::Guarded(Guarded { guard, write: GuardedWrite::Put(put) }),
        Command::DeleteRange(delete) => Command::Guarded(Guarded { guard, write: GuardedWrite::DeleteRange(delete) }),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_acquire_is_checked_before_the_log() {
        let request = pb::LockAcquireRequest {
            name: Bytes::from_static(b"n"),
            request: Some(pb::LockRequest { lease: 7, number: 1, lowest_open: 0, attach: 3 }),
            ..pb::LockAcquireRequest::default()
        };
        let wanted = lock_acquire(request.clone()).expect("it is good");
        let expected = LockRequest { lease: LeaseId(7), number: 1, lowest_open: 1, attach: 3 };
        assert_eq!((wanted.acquire.request, wanted.acquire.wait, wanted.wait), (expected, true, None));
        let none = pb::LockAcquireRequest { request: None, ..request.clone() };
        assert!(matches!(lock_acquire(none), Err(ApiError::Invalid(_))));
        let nameless = pb::LockAcquireRequest { name: Bytes::new(), ..request.clone() };
        assert!(matches!(lock_acquire(nameless), Err(ApiError::InvalidLock(_))));
        let timed = pb::LockAcquireRequest { wait_ms: 5, r#try: true, ..request };
        let wanted = lock_acquire(timed).expect("it is good");
        assert_eq!((wanted.acquire.wait, wanted.wait), (false, Some(Duration::from_millis(5))));
    }

    #[test]
    fn modes_come_back() {
        for mode in [LockMode::Exclusive, LockMode::Shared, LockMode::Semaphore { permits: 2, limit: 3 }] {
            assert_eq!(lock_mode(lock_mode_message(mode)), mode);
        }
    }
}
