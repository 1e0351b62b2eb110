//! The encoding of [`Outcome`], for the way back to a member that forwarded a write. It is never stored.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::wire::{Reader, flags, put_bytes, put_len, put_signed, put_varint};
use super::{DecodeError, TXN_DEPTH_MAX};
use crate::ids::{LeaseId, Revision};
use crate::outcome::{
    DeletedRange, KeyValue, LockAnswer, OpResponse, Outcome, RangeResult, Refusal, Response, TxnResponse,
};

const VERSION: u8 = 1;

impl Outcome {
    /// Appends the outcome. It delimits itself, so several may follow one another.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(VERSION);
        put_signed(out, self.revision.0);
        match &self.result {
            Err(refusal) => {
                out.put_u8(0);
                out.put_u8(refusal_code(*refusal));
            }
            Ok(Response::Put(previous)) => {
                out.put_u8(1);
                encode_previous(out, previous.as_ref());
            }
            Ok(Response::DeleteRange(deleted)) => {
                out.put_u8(2);
                encode_deleted(out, deleted);
            }
            Ok(Response::Txn(response)) => {
                out.put_u8(3);
                encode_txn(out, response);
            }
            Ok(Response::Compact) => out.put_u8(4),
            Ok(Response::LeaseGrant { id, ttl_ms }) => {
                out.put_u8(5);
                put_signed(out, id.0);
                put_varint(out, *ttl_ms);
            }
            Ok(Response::LeaseRevoke) => out.put_u8(6),
            Ok(Response::Alarm) => out.put_u8(7),
            Ok(Response::MemberPublish) => out.put_u8(8),
            Ok(Response::ExpiryStale) => out.put_u8(9),
            Ok(Response::LeaseRenew { ttl_ms }) => {
                out.put_u8(10);
                put_varint(out, *ttl_ms);
            }
            Ok(Response::LockAcquire(answer)) => {
                out.put_u8(11);
                encode_lock_answer(out, *answer);
            }
            Ok(Response::LockCancel { ended }) => out.put_slice(&[12, flags([*ended])]),
            Ok(Response::LockCancelStale) => out.put_u8(13),
            Ok(Response::LockRelease { released, holds }) => {
                out.put_slice(&[14, flags([*released])]);
                put_varint(out, u64::from(*holds));
            }
            Ok(Response::LockForce { removed }) => out.put_slice(&[15, flags([*removed])]),
            Ok(Response::LockDelayEnd) => out.put_u8(16),
            Ok(Response::LockDelayStale) => out.put_u8(17),
        }
    }

    /// Takes one outcome off the front. On an error `bytes` is left as it was.
    pub fn decode(bytes: &mut Bytes) -> Result<Outcome, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version(VERSION, "outcome")?;
        let revision = Revision(reader.signed()?);
        let response = match reader.byte()? {
            0 => {
                let result = Err(decode_refusal(&mut reader)?);
                bytes.advance(reader.position());
                return Ok(Outcome { revision, result });
            }
            1 => Response::Put(decode_previous(&mut reader)?),
            2 => Response::DeleteRange(decode_deleted(&mut reader)?),
            3 => Response::Txn(decode_txn(&mut reader, 1)?),
            4 => Response::Compact,
            5 => Response::LeaseGrant { id: LeaseId(reader.signed()?), ttl_ms: reader.varint()? },
            6 => Response::LeaseRevoke,
            7 => Response::Alarm,
            8 => Response::MemberPublish,
            9 => Response::ExpiryStale,
            10 => Response::LeaseRenew { ttl_ms: reader.varint()? },
            11 => Response::LockAcquire(decode_lock_answer(&mut reader)?),
            12 => Response::LockCancel { ended: reader.bool("cancel flags")? },
            13 => Response::LockCancelStale,
            14 => Response::LockRelease { released: reader.bool("release flags")?, holds: reader.u32()? },
            15 => Response::LockForce { removed: reader.bool("force flags")? },
            16 => Response::LockDelayEnd,
            17 => Response::LockDelayStale,
            found => return Err(DecodeError::UnknownTag { what: "response", found }),
        };
        bytes.advance(reader.position());
        Ok(Outcome { revision, result: Ok(response) })
    }
}

fn refusal_code(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::KeyNotFound => 1,
        Refusal::LeaseNotFound => 2,
        Refusal::LeaseExists => 3,
        Refusal::Compacted => 4,
        Refusal::FutureRevision => 5,
        Refusal::NoSpace => 6,
        Refusal::Corrupt => 7,
        Refusal::DuplicateKey => 8,
        Refusal::Fenced => 9,
        Refusal::NoReading => 10,
        Refusal::LockAlreadyHeld => 11,
        Refusal::LockHeldTooOften => 12,
        Refusal::LockRequestFinished => 13,
        Refusal::LockRequestsTooMany => 14,
        Refusal::LockModeMismatch => 15,
        Refusal::LockContendersTooMany => 16,
        Refusal::LockNotHeld => 17,
        Refusal::LockInvalid => 18,
    }
}

fn decode_refusal(reader: &mut Reader) -> Result<Refusal, DecodeError> {
    Ok(match reader.byte()? {
        1 => Refusal::KeyNotFound,
        2 => Refusal::LeaseNotFound,
        3 => Refusal::LeaseExists,
        4 => Refusal::Compacted,
        5 => Refusal::FutureRevision,
        6 => Refusal::NoSpace,
        7 => Refusal::Corrupt,
        8 => Refusal::DuplicateKey,
        9 => Refusal::Fenced,
        10 => Refusal::NoReading,
        11 => Refusal::LockAlreadyHeld,
        12 => Refusal::LockHeldTooOften,
        13 => Refusal::LockRequestFinished,
        14 => Refusal::LockRequestsTooMany,
        15 => Refusal::LockModeMismatch,
        16 => Refusal::LockContendersTooMany,
        17 => Refusal::LockNotHeld,
        18 => Refusal::LockInvalid,
        found => return Err(DecodeError::UnknownTag { what: "refusal", found }),
    })
}

fn encode_lock_answer(out: &mut BytesMut, answer: LockAnswer) {
    match answer {
        LockAnswer::Granted { token, holds } => {
            out.put_u8(0);
            put_signed(out, token.0);
            put_varint(out, u64::from(holds));
        }
        LockAnswer::Queued { ahead: None } => out.put_u8(1),
        LockAnswer::Queued { ahead: Some(ahead) } => {
            out.put_u8(2);
            put_varint(out, ahead);
        }
        LockAnswer::Busy => out.put_u8(3),
    }
}

fn decode_lock_answer(reader: &mut Reader) -> Result<LockAnswer, DecodeError> {
    Ok(match reader.byte()? {
        0 => LockAnswer::Granted { token: Revision(reader.signed()?), holds: reader.u32()? },
        1 => LockAnswer::Queued { ahead: None },
        2 => LockAnswer::Queued { ahead: Some(reader.varint()?) },
        3 => LockAnswer::Busy,
        found => return Err(DecodeError::UnknownTag { what: "lock answer", found }),
    })
}

fn encode_previous(out: &mut BytesMut, previous: Option<&KeyValue>) {
    out.put_u8(flags([previous.is_some()]));
    if let Some(kv) = previous {
        encode_kv(out, kv);
    }
}

fn decode_previous(reader: &mut Reader) -> Result<Option<KeyValue>, DecodeError> {
    if reader.bool("previous key-value flag")? { decode_kv(reader).map(Some) } else { Ok(None) }
}

fn encode_kv(out: &mut BytesMut, kv: &KeyValue) {
    put_bytes(out, &kv.key);
    put_bytes(out, &kv.value);
    put_signed(out, kv.create.0);
    put_signed(out, kv.modified.0);
    put_signed(out, kv.version);
    put_signed(out, kv.lease.0);
}

fn decode_kv(reader: &mut Reader) -> Result<KeyValue, DecodeError> {
    Ok(KeyValue {
        key: reader.bytes()?,
        value: reader.bytes()?,
        create: Revision(reader.signed()?),
        modified: Revision(reader.signed()?),
        version: reader.signed()?,
        lease: LeaseId(reader.signed()?),
    })
}

fn encode_kvs(out: &mut BytesMut, kvs: &[KeyValue]) {
    put_len(out, kvs.len());
    for kv in kvs {
        encode_kv(out, kv);
    }
}

fn encode_deleted(out: &mut BytesMut, deleted: &DeletedRange) {
    put_signed(out, deleted.deleted);
    encode_kvs(out, &deleted.prev_kvs);
}

fn decode_deleted(reader: &mut Reader) -> Result<DeletedRange, DecodeError> {
    Ok(DeletedRange { deleted: reader.signed()?, prev_kvs: reader.list(decode_kv)? })
}

fn encode_range(out: &mut BytesMut, result: &RangeResult) {
    out.put_u8(flags([result.more]));
    put_signed(out, result.count);
    encode_kvs(out, &result.kvs);
}

fn decode_range(reader: &mut Reader) -> Result<RangeResult, DecodeError> {
    let more = reader.bool("range result flags")?;
    let count = reader.signed()?;
    Ok(RangeResult { kvs: reader.list(decode_kv)?, more, count })
}

fn encode_txn(out: &mut BytesMut, response: &TxnResponse) {
    out.put_u8(flags([response.succeeded]));
    put_len(out, response.responses.len());
    for response in &response.responses {
        match response {
            OpResponse::Range(result) => {
                out.put_u8(0);
                encode_range(out, result);
            }
            OpResponse::Put(previous) => {
                out.put_u8(1);
                encode_previous(out, previous.as_ref());
            }
            OpResponse::DeleteRange(deleted) => {
                out.put_u8(2);
                encode_deleted(out, deleted);
            }
            OpResponse::Txn(nested) => {
                out.put_u8(3);
                encode_txn(out, nested);
            }
        }
    }
}

fn decode_txn(reader: &mut Reader, depth: u32) -> Result<TxnResponse, DecodeError> {
    if depth > TXN_DEPTH_MAX {
        return Err(DecodeError::TooDeep);
    }
    let succeeded = reader.bool("transaction response flags")?;
    let responses = reader.list(|reader| {
        Ok(match reader.byte()? {
            0 => OpResponse::Range(decode_range(reader)?),
            1 => OpResponse::Put(decode_previous(reader)?),
            2 => OpResponse::DeleteRange(decode_deleted(reader)?),
            3 => OpResponse::Txn(decode_txn(reader, depth + 1)?),
            found => return Err(DecodeError::UnknownTag { what: "operation response", found }),
        })
    })?;
    Ok(TxnResponse { succeeded, responses })
}
