//! The encoding of the commands on locks.

use bytes::{BufMut, BytesMut};

use super::DecodeError;
use super::command::{decode_delete, decode_put, decode_revoked_by, encode_delete, encode_put, encode_revoked_by};
use super::wire::{Reader, flags, put_bytes, put_signed, put_varint};
use crate::command::{
    Guarded, GuardedWrite, LockAcquire, LockCancel, LockDelayEnd, LockForce, LockGuard, LockRelease, LockRequest,
};
use crate::ids::{LeaseId, Revision};
use crate::lock::LockMode;

pub(super) const TAG_LOCK_ACQUIRE: u8 = 12;
pub(super) const TAG_LOCK_CANCEL: u8 = 13;
pub(super) const TAG_LOCK_RELEASE: u8 = 14;
pub(super) const TAG_LOCK_FORCE: u8 = 15;
pub(super) const TAG_LOCK_DELAY_END: u8 = 16;
pub(super) const TAG_GUARDED: u8 = 17;

pub(super) fn encode_acquire(out: &mut BytesMut, acquire: &LockAcquire) {
    out.put_u8(TAG_LOCK_ACQUIRE);
    out.put_u8(flags([acquire.wait]));
    put_bytes(out, &acquire.name);
    encode_request(out, &acquire.request);
    encode_mode(out, acquire.mode);
    put_bytes(out, acquire.owner.as_bytes());
    put_bytes(out, &acquire.metadata);
    put_varint(out, u64::from(acquire.holds_max));
    put_varint(out, acquire.delay_ms);
}

pub(super) fn decode_acquire(reader: &mut Reader) -> Result<LockAcquire, DecodeError> {
    Ok(LockAcquire {
        wait: reader.bool("acquire flags")?,
        name: reader.bytes()?,
        request: decode_request(reader)?,
        mode: decode_mode(reader)?,
        owner: reader.string()?,
        metadata: reader.bytes()?,
        holds_max: reader.u32()?,
        delay_ms: reader.varint()?,
    })
}

pub(super) fn encode_cancel(out: &mut BytesMut, cancel: &LockCancel) {
    out.put_u8(TAG_LOCK_CANCEL);
    put_bytes(out, &cancel.name);
    encode_request(out, &cancel.request);
}

pub(super) fn decode_cancel(reader: &mut Reader) -> Result<LockCancel, DecodeError> {
    Ok(LockCancel { name: reader.bytes()?, request: decode_request(reader)? })
}

pub(super) fn encode_release(out: &mut BytesMut, release: &LockRelease) {
    out.put_u8(TAG_LOCK_RELEASE);
    put_bytes(out, &release.name);
    put_signed(out, release.lease.0);
    put_signed(out, release.token.0);
    put_varint(out, release.number);
}

pub(super) fn decode_release(reader: &mut Reader) -> Result<LockRelease, DecodeError> {
    Ok(LockRelease {
        name: reader.bytes()?,
        lease: LeaseId(reader.signed()?),
        token: Revision(reader.signed()?),
        number: reader.varint()?,
    })
}

pub(super) fn encode_force(out: &mut BytesMut, force: &LockForce) {
    out.put_u8(TAG_LOCK_FORCE);
    put_bytes(out, &force.key);
    put_signed(out, force.token.0);
    put_bytes(out, force.reason.as_bytes());
    encode_revoked_by(out, &force.by);
}

pub(super) fn decode_force(reader: &mut Reader) -> Result<LockForce, DecodeError> {
    Ok(LockForce {
        key: reader.bytes()?,
        token: Revision(reader.signed()?),
        reason: reader.string()?,
        by: decode_revoked_by(reader)?,
    })
}

pub(super) fn encode_delay_end(out: &mut BytesMut, end: &LockDelayEnd) {
    out.put_u8(TAG_LOCK_DELAY_END);
    put_signed(out, end.lease.0);
    put_bytes(out, &end.key);
    put_signed(out, end.modified.0);
}

pub(super) fn decode_delay_end(reader: &mut Reader) -> Result<LockDelayEnd, DecodeError> {
    let lease = LeaseId(reader.signed()?);
    Ok(LockDelayEnd { lease, key: reader.bytes()?, modified: Revision(reader.signed()?) })
}

pub(super) fn encode_guarded(out: &mut BytesMut, guarded: &Guarded) {
    out.put_u8(TAG_GUARDED);
    put_bytes(out, &guarded.guard.key);
    put_signed(out, guarded.guard.token.0);
    put_signed(out, guarded.guard.lease.0);
    match &guarded.write {
        GuardedWrite::Put(put) => {
            out.put_u8(1);
            encode_put(out, put);
        }
        GuardedWrite::DeleteRange(delete) => {
            out.put_u8(2);
            encode_delete(out, delete);
        }
    }
}

pub(super) fn decode_guarded(reader: &mut Reader) -> Result<Guarded, DecodeError> {
    let key = reader.bytes()?;
    let guard = LockGuard { key, token: Revision(reader.signed()?), lease: LeaseId(reader.signed()?) };
    let write = match reader.byte()? {
        1 => GuardedWrite::Put(decode_put(reader)?),
        2 => GuardedWrite::DeleteRange(decode_delete(reader)?),
        found => return Err(DecodeError::UnknownTag { what: "guarded write", found }),
    };
    Ok(Guarded { guard, write })
}

fn encode_request(out: &mut BytesMut, request: &LockRequest) {
    put_signed(out, request.lease.0);
    put_varint(out, request.number);
    put_varint(out, request.lowest_open);
    put_varint(out, request.attach);
}

fn decode_request(reader: &mut Reader) -> Result<LockRequest, DecodeError> {
    Ok(LockRequest {
        lease: LeaseId(reader.signed()?),
        number: reader.varint()?,
        lowest_open: reader.varint()?,
        attach: reader.varint()?,
    })
}

pub(super) fn encode_mode(out: &mut impl BufMut, mode: LockMode) {
    match mode {
        LockMode::Exclusive => out.put_u8(0),
        LockMode::Shared => out.put_u8(1),
        LockMode::Semaphore { permits, limit } => {
            out.put_u8(2);
            put_varint(out, u64::from(permits));
            put_varint(out, u64::from(limit));
        }
    }
}

pub(super) fn decode_mode(reader: &mut Reader) -> Result<LockMode, DecodeError> {
    Ok(match reader.byte()? {
        0 => LockMode::Exclusive,
        1 => LockMode::Shared,
        2 => LockMode::Semaphore { permits: reader.u32()?, limit: reader.u32()? },
        found => return Err(DecodeError::UnknownTag { what: "lock mode", found }),
    })
}
