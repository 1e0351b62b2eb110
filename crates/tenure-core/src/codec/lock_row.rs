//! The encoding of the rows of `locks`, and of what an event says of a lock.
//!
//! It stands here and not with the other rows in storage because the hash of the state covers these rows in the same form.
//! Whoever stores them puts a version in front.

use bytes::{BufMut, Bytes};

use super::DecodeError;
use super::command::{decode_revoked_by, encode_revoked_by};
use super::lock::{decode_mode, encode_mode};
use super::wire::{Reader, flags, put_bytes, put_len, put_signed, put_varint};
use crate::ids::{LeaseId, LogIndex, Revision};
use crate::lock::{
    Attached, Contender, Granted, LockCause, LockClaim, LockDelay, LockEnd, LockKey, LockLeft, LockRequests, LockRow,
    LockValue, Native, Sharing,
};
use crate::row::Incarnation;

impl LockValue {
    /// Appends the row.
    pub fn encode(&self, out: &mut impl BufMut) {
        match self {
            LockValue::Delay(LockDelay { modified, ends_ms }) => {
                put_signed(out, modified.0);
                put_varint(out, *ends_ms);
            }
            LockValue::Lock(row) => encode_lock(out, row),
            LockValue::Place(row) => encode_contender(out, row),
            LockValue::Requests(row) => encode_requests(out, row),
        }
    }

    /// Reads the row that stands under a key.
    pub fn decode(key: &LockKey, bytes: &Bytes) -> Result<LockValue, DecodeError> {
        let mut reader = Reader::new(bytes);
        let row = match key {
            LockKey::Delay(..) => {
                let modified = Revision(reader.signed()?);
                LockValue::Delay(LockDelay { modified, ends_ms: reader.varint()? })
            }
            LockKey::Lock(_) => LockValue::Lock(decode_lock(&mut reader)?),
            LockKey::Place(..) => LockValue::Place(decode_contender(&mut reader)?),
            LockKey::Requests(_) => LockValue::Requests(decode_requests(&mut reader)?),
        };
        reader.finish()?;
        Ok(row)
    }
}

fn encode_lock(out: &mut impl BufMut, row: &LockRow) {
    let readers = matches!(row.sharing, Some((Sharing::Readers, _)));
    let permits = matches!(row.sharing, Some((Sharing::Permits { .. }, _)));
    out.put_u8(flags([row.exclusive, readers, permits]));
    put_varint(out, row.contenders);
    put_varint(out, row.granted);
    put_varint(out, row.permits);
    put_signed(out, row.oldest.0);
    put_signed(out, row.frontier.0);
    if let Some((sharing, count)) = row.sharing {
        if let Sharing::Permits { limit } = sharing {
            put_varint(out, u64::from(limit));
        }
        put_varint(out, count);
    }
}

fn decode_lock(reader: &mut Reader) -> Result<LockRow, DecodeError> {
    let [exclusive, readers, permits] = reader.flags("lock flags")?;
    let mut row = LockRow {
        exclusive,
        contenders: reader.varint()?,
        granted: reader.varint()?,
        permits: reader.varint()?,
        oldest: Revision(reader.signed()?),
        frontier: Revision(reader.signed()?),
        sharing: None,
    };
    row.sharing = match (readers, permits) {
        (false, false) => None,
        (true, false) => Some((Sharing::Readers, reader.varint()?)),
        (false, true) => Some((Sharing::Permits { limit: reader.u32()? }, reader.varint()?)),
        (true, true) => return Err(DecodeError::NotCanonical("how a lock is shared")),
    };
    Ok(row)
}

fn encode_contender(out: &mut impl BufMut, row: &Contender) {
    out.put_u8(flags([row.granted.is_some(), row.native.is_some()]));
    if let Some(granted) = row.granted {
        put_signed(out, granted.revision.0);
        put_varint(out, granted.clock_ms);
    }
    let Some(native) = &row.native else { return };
    out.put_u8(flags([native.delayed]));
    put_signed(out, native.lease.0);
    put_varint(out, native.incarnation.index.0);
    put_varint(out, u64::from(native.incarnation.place));
    encode_mode(out, native.mode);
    put_bytes(out, native.owner.as_bytes());
    put_varint(out, u64::from(native.holds_max));
    put_varint(out, native.delay_ms);
    put_varint(out, native.since_ms);
    put_len(out, native.requests.len());
    for request in &native.requests {
        put_varint(out, request.number);
        put_varint(out, request.attach);
    }
}

fn decode_contender(reader: &mut Reader) -> Result<Contender, DecodeError> {
    let [is_granted, is_native] = reader.flags("contender flags")?;
    let mut row = Contender::default();
    if is_granted {
        row.granted = Some(Granted { revision: Revision(reader.signed()?), clock_ms: reader.varint()? });
    }
    if is_native {
        let delayed = reader.bool("native contender flags")?;
        let lease = LeaseId(reader.signed()?);
        let index = LogIndex(reader.varint()?);
        row.native = Some(Native {
            lease,
            incarnation: Incarnation { index, place: reader.u32()? },
            mode: decode_mode(reader)?,
            owner: reader.string()?,
            holds_max: reader.u32()?,
            delay_ms: reader.varint()?,
            since_ms: reader.varint()?,
            delayed,
            requests: reader.list(|reader| Ok(Attached { number: reader.varint()?, attach: reader.varint()? }))?,
        });
    }
    Ok(row)
}

/// The finished numbers as distances, each from the one before.
fn encode_requests(out: &mut impl BufMut, row: &LockRequests) {
    put_varint(out, row.floor);
    put_len(out, row.finished.len());
    let mut before = row.floor;
    for number in &row.finished {
        put_varint(out, number.saturating_sub(before));
        before = *number;
    }
}

fn decode_requests(reader: &mut Reader) -> Result<LockRequests, DecodeError> {
    let floor = reader.varint()?;
    let mut before = floor;
    let finished = reader.list(|reader| {
        let distance = reader.varint()?;
        let number = before.checked_add(distance).filter(|_| distance > 0);
        before = number.ok_or(DecodeError::NotCanonical("finished requests"))?;
        Ok(before)
    })?;
    Ok(LockRequests { floor, finished })
}

impl LockCause {
    /// Appends the cause.
    pub fn encode(&self, out: &mut impl BufMut) {
        let left = match self {
            LockCause::Acquired(LockClaim { owner, mode, number }) => {
                out.put_u8(0);
                put_bytes(out, owner.as_bytes());
                encode_mode(out, *mode);
                put_varint(out, *number);
                return;
            }
            LockCause::Delayed(left) => {
                out.put_u8(1);
                left
            }
            LockCause::Left(end, left) => {
                out.put_u8(match end {
                    LockEnd::Released => 2,
                    LockEnd::Cancelled => 3,
                    LockEnd::Expired => 4,
                    LockEnd::Revoked => 5,
                    LockEnd::Forced => 6,
                    LockEnd::Deleted => 7,
                    LockEnd::Lapsed => 8,
                });
                left
            }
        };
        encode_left(out, left);
    }

    /// Reads a cause.
    pub fn decode(bytes: &Bytes) -> Result<LockCause, DecodeError> {
        let mut reader = Reader::new(bytes);
        let end = match reader.byte()? {
            0 => {
                let owner = reader.string()?;
                let mode = decode_mode(&mut reader)?;
                let claim = LockClaim { owner, mode, number: reader.varint()? };
                reader.finish()?;
                return Ok(LockCause::Acquired(claim));
            }
            1 => None,
            2 => Some(LockEnd::Released),
            3 => Some(LockEnd::Cancelled),
            4 => Some(LockEnd::Expired),
            5 => Some(LockEnd::Revoked),
            6 => Some(LockEnd::Forced),
            7 => Some(LockEnd::Deleted),
            8 => Some(LockEnd::Lapsed),
            found => return Err(DecodeError::UnknownTag { what: "cause of a lock's event", found }),
        };
        let left = decode_left(&mut reader)?;
        reader.finish()?;
        Ok(match end {
            Some(end) => LockCause::Left(end, left),
            None => LockCause::Delayed(left),
        })
    }
}

fn encode_left(out: &mut impl BufMut, left: &LockLeft) {
    out.put_u8(flags([left.granted.is_some(), left.by.is_some()]));
    put_signed(out, left.lease.0);
    put_bytes(out, left.owner.as_bytes());
    put_varint(out, left.held_ms);
    put_bytes(out, left.reason.as_bytes());
    if let Some(granted) = left.granted {
        put_signed(out, granted.0);
    }
    if let Some(by) = &left.by {
        encode_revoked_by(out, by);
    }
}

fn decode_left(reader: &mut Reader) -> Result<LockLeft, DecodeError> {
    let [was_granted, is_told] = reader.flags("flags of what left a lock")?;
    let mut left = LockLeft {
        lease: LeaseId(reader.signed()?),
        owner: reader.string()?,
        held_ms: reader.varint()?,
        reason: reader.string()?,
        granted: None,
        by: None,
    };
    if was_granted {
        left.granted = Some(Revision(reader.signed()?));
    }
    if is_told {
        left.by = Some(decode_revoked_by(reader)?);
    }
    Ok(left)
}
