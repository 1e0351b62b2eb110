//! The encoding of [`Command`].

use bytes::{BufMut, Bytes, BytesMut};

use super::lock;
use super::wire::{Reader, flags, put_bytes, put_len, put_signed, put_varint};
use super::{DecodeError, TXN_DEPTH_MAX};
use crate::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, ExpiryGuard, KeyRange, LeaseGrant, LeaseRevoke, Op,
    Put, Range, SortOrder, SortTarget, Txn,
};
use crate::ids::{LeaseId, LogIndex, MemberId, Revision};
use crate::row::{AlarmKind, ClientName, Incarnation, LeaseHolder, MemberAttributes, RevokedBy};

const VERSION: u8 = 1;

const TAG_LEASE_GRANT: u8 = 5;
const TAG_LEASE_RENEW: u8 = 10;
/// A grant that says whom it is for.
const TAG_LEASE_GRANT_HELD: u8 = 11;

/// What a command takes besides its keys and values: a guess that spares a plain put a reallocation.
const OVERHEAD_BYTES_GUESS: usize = 32;

impl Command {
    /// The bytes that go into the log.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.payload_bytes() + OVERHEAD_BYTES_GUESS);
        out.put_u8(VERSION);
        match self {
            Command::Put(put) => {
                out.put_u8(1);
                encode_put(&mut out, put);
            }
            Command::DeleteRange(delete) => {
                out.put_u8(2);
                encode_delete(&mut out, delete);
            }
            Command::Txn(txn) => {
                out.put_u8(3);
                encode_txn(&mut out, txn);
            }
            Command::Compact(revision) => {
                out.put_u8(4);
                put_signed(&mut out, revision.0);
            }
            Command::LeaseGrant(grant) => {
                let is_held = !grant.holder.is_empty();
                out.put_u8(if is_held { TAG_LEASE_GRANT_HELD } else { TAG_LEASE_GRANT });
                put_signed(&mut out, grant.id.0);
                put_varint(&mut out, grant.ttl_ms);
                if is_held {
                    put_bytes(&mut out, grant.holder.name.as_bytes());
                    put_bytes(&mut out, grant.holder.text.as_bytes());
                }
            }
            Command::LeaseRevoke(revoke) => {
                out.put_u8(6);
                encode_revoke(&mut out, revoke);
            }
            Command::AlarmRaise(member, kind) => {
                out.put_u8(7);
                encode_alarm(&mut out, *member, *kind);
            }
            Command::AlarmClear(member, kind) => {
                out.put_u8(8);
                encode_alarm(&mut out, *member, *kind);
            }
            Command::MemberPublish(attributes) => {
                out.put_u8(9);
                encode_attributes(&mut out, attributes);
            }
            Command::LeaseRenew(id) => {
                out.put_u8(TAG_LEASE_RENEW);
                put_signed(&mut out, id.0);
            }
            Command::LockAcquire(acquire) => lock::encode_acquire(&mut out, acquire),
            Command::LockCancel(cancel) => lock::encode_cancel(&mut out, cancel),
            Command::LockRelease(release) => lock::encode_release(&mut out, release),
            Command::LockForce(force) => lock::encode_force(&mut out, force),
            Command::LockDelayEnd(end) => lock::encode_delay_end(&mut out, end),
            Command::Guarded(guarded) => lock::encode_guarded(&mut out, guarded),
        }
        out.freeze()
    }

    /// Reads a command back. Its keys and values are slices of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Command, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version(VERSION, "command")?;
        let command = match reader.byte()? {
            1 => Command::Put(decode_put(&mut reader)?),
            2 => Command::DeleteRange(decode_delete(&mut reader)?),
            3 => Command::Txn(decode_txn(&mut reader, 1)?),
            4 => Command::Compact(Revision(reader.signed()?)),
            TAG_LEASE_GRANT => Command::LeaseGrant(decode_grant(&mut reader)?),
            TAG_LEASE_GRANT_HELD => {
                let grant = decode_grant(&mut reader)?;
                let holder = LeaseHolder { name: reader.string()?, text: reader.string()? };
                if holder.is_empty() {
                    return Err(DecodeError::NotCanonical("a grant that says whom it is for"));
                }
                Command::LeaseGrant(LeaseGrant { holder, ..grant })
            }
            6 => Command::LeaseRevoke(decode_revoke(&mut reader)?),
            7 => Command::AlarmRaise(MemberId(reader.varint()?), decode_alarm_kind(&mut reader)?),
            8 => Command::AlarmClear(MemberId(reader.varint()?), decode_alarm_kind(&mut reader)?),
            9 => Command::MemberPublish(decode_attributes(&mut reader)?),
            TAG_LEASE_RENEW => Command::LeaseRenew(LeaseId(reader.signed()?)),
            lock::TAG_LOCK_ACQUIRE => Command::LockAcquire(lock::decode_acquire(&mut reader)?),
            lock::TAG_LOCK_CANCEL => Command::LockCancel(lock::decode_cancel(&mut reader)?),
            lock::TAG_LOCK_RELEASE => Command::LockRelease(lock::decode_release(&mut reader)?),
            lock::TAG_LOCK_FORCE => Command::LockForce(lock::decode_force(&mut reader)?),
            lock::TAG_LOCK_DELAY_END => Command::LockDelayEnd(lock::decode_delay_end(&mut reader)?),
            lock::TAG_GUARDED => Command::Guarded(lock::decode_guarded(&mut reader)?),
            found => return Err(DecodeError::UnknownTag { what: "command", found }),
        };
        reader.finish()?;
        Ok(command)
    }

    /// Whether an encoded command is one that needs its group to carry a reading of the lease clock: a grant or a
    /// renewal. Looks at two bytes, so that it can be asked of every command that is proposed.
    pub fn needs_reading(encoded: &[u8]) -> bool {
        matches!(encoded, [VERSION, TAG_LEASE_GRANT | TAG_LEASE_GRANT_HELD | TAG_LEASE_RENEW, ..])
    }

    /// The lease that an encoded command renews, if it is a renewal.
    pub fn renewed_lease(encoded: &Bytes) -> Option<LeaseId> {
        if !matches!(encoded[..], [VERSION, TAG_LEASE_RENEW, ..]) {
            return None;
        }
        match Command::decode(encoded) {
            Ok(Command::LeaseRenew(id)) => Some(id),
            Ok(_) | Err(_) => None,
        }
    }

    /// The bytes of the key and value of a put; other commands are rare or small enough to let the buffer grow.
    fn payload_bytes(&self) -> usize {
        match self {
            Command::Put(put) => put.key.len() + put.value.len(),
            Command::LockAcquire(acquire) => acquire.name.len() + acquire.owner.len() + acquire.metadata.len(),
            Command::DeleteRange(_)
            | Command::Txn(_)
            | Command::Compact(_)
            | Command::LeaseGrant(_)
            | Command::LeaseRevoke(_)
            | Command::LeaseRenew(_)
            | Command::AlarmRaise(..)
            | Command::AlarmClear(..)
            | Command::MemberPublish(_)
            | Command::LockCancel(_)
            | Command::LockRelease(_)
            | Command::LockForce(_)
            | Command::LockDelayEnd(_)
            | Command::Guarded(_) => 0,
        }
    }
}

pub(super) fn encode_put(out: &mut BytesMut, put: &Put) {
    out.put_u8(flags([put.prev_kv, put.ignore_value, put.ignore_lease]));
    put_bytes(out, &put.key);
    put_bytes(out, &put.value);
    put_signed(out, put.lease.0);
}

pub(super) fn decode_put(reader: &mut Reader) -> Result<Put, DecodeError> {
    let [prev_kv, ignore_value, ignore_lease] = reader.flags("put flags")?;
    let key = reader.bytes()?;
    let value = reader.bytes()?;
    let lease = LeaseId(reader.signed()?);
    Ok(Put { key, value, lease, prev_kv, ignore_value, ignore_lease })
}

pub(super) fn encode_delete(out: &mut BytesMut, delete: &DeleteRange) {
    out.put_u8(flags([delete.prev_kv]));
    encode_key_range(out, &delete.range);
}

pub(super) fn decode_delete(reader: &mut Reader) -> Result<DeleteRange, DecodeError> {
    let prev_kv = reader.bool("delete flags")?;
    Ok(DeleteRange { range: decode_key_range(reader)?, prev_kv })
}

fn encode_key_range(out: &mut BytesMut, range: &KeyRange) {
    match range {
        KeyRange::One(key) => {
            out.put_u8(0);
            put_bytes(out, key);
        }
        KeyRange::Between(start, end) => {
            out.put_u8(1);
            put_bytes(out, start);
            put_bytes(out, end);
        }
        KeyRange::From(start) => {
            out.put_u8(2);
            put_bytes(out, start);
        }
    }
}

fn decode_key_range(reader: &mut Reader) -> Result<KeyRange, DecodeError> {
    Ok(match reader.byte()? {
        0 => KeyRange::One(reader.bytes()?),
        1 => {
            let start = reader.bytes()?;
            KeyRange::Between(start, reader.bytes()?)
        }
        2 => KeyRange::From(reader.bytes()?),
        found => return Err(DecodeError::UnknownTag { what: "key range", found }),
    })
}

/// A flag announces each of the numbers that are mostly 0.
fn encode_range(out: &mut BytesMut, range: &Range) {
    let numbers =
        [range.limit, range.revision.0, range.min_mod.0, range.max_mod.0, range.min_create.0, range.max_create.0];
    let present = numbers.map(|number| number != 0);
    out.put_u8(flags([
        range.keys_only,
        range.count_only,
        present[0],
        present[1],
        present[2],
        present[3],
        present[4],
        present[5],
    ]));
    encode_key_range(out, &range.range);
    out.put_u8(match range.order {
        SortOrder::None => 0,
        SortOrder::Ascend => 1,
        SortOrder::Descend => 2,
    });
    out.put_u8(match range.target {
        SortTarget::Key => 0,
        SortTarget::Version => 1,
        SortTarget::Create => 2,
        SortTarget::Mod => 3,
        SortTarget::Value => 4,
    });
    for number in numbers {
        if number != 0 {
            put_signed(out, number);
        }
    }
}

fn decode_range(reader: &mut Reader) -> Result<Range, DecodeError> {
    let [keys_only, count_only, limit, revision, min_mod, max_mod, min_create, max_create] =
        reader.flags("range flags")?;
    Ok(Range {
        range: decode_key_range(reader)?,
        order: match reader.byte()? {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            found => return Err(DecodeError::UnknownTag { what: "sort order", found }),
        },
        target: match reader.byte()? {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            found => return Err(DecodeError::UnknownTag { what: "sort target", found }),
        },
        keys_only,
        count_only,
        limit: reader.signed_if(limit)?,
        revision: Revision(reader.signed_if(revision)?),
        min_mod: Revision(reader.signed_if(min_mod)?),
        max_mod: Revision(reader.signed_if(max_mod)?),
        min_create: Revision(reader.signed_if(min_create)?),
        max_create: Revision(reader.signed_if(max_create)?),
    })
}

fn encode_txn(out: &mut BytesMut, txn: &Txn) {
    put_len(out, txn.compares.len());
    for compare in &txn.compares {
        encode_compare(out, compare);
    }
    for branch in [&txn.success, &txn.failure] {
        put_len(out, branch.len());
        for op in branch {
            encode_op(out, op);
        }
    }
}

fn decode_txn(reader: &mut Reader, depth: u32) -> Result<Txn, DecodeError> {
    if depth > TXN_DEPTH_MAX {
        return Err(DecodeError::TooDeep);
    }
    Ok(Txn {
        compares: reader.list(decode_compare)?,
        success: reader.list(|reader| decode_op(reader, depth))?,
        failure: reader.list(|reader| decode_op(reader, depth))?,
    })
}

fn encode_op(out: &mut BytesMut, op: &Op) {
    match op {
        Op::Range(range) => {
            out.put_u8(0);
            encode_range(out, range);
        }
        Op::Put(put) => {
            out.put_u8(1);
            encode_put(out, put);
        }
        Op::DeleteRange(delete) => {
            out.put_u8(2);
            encode_delete(out, delete);
        }
        Op::Txn(txn) => {
            out.put_u8(3);
            encode_txn(out, txn);
        }
    }
}

fn decode_op(reader: &mut Reader, depth: u32) -> Result<Op, DecodeError> {
    Ok(match reader.byte()? {
        0 => Op::Range(decode_range(reader)?),
        1 => Op::Put(decode_put(reader)?),
        2 => Op::DeleteRange(decode_delete(reader)?),
        3 => Op::Txn(decode_txn(reader, depth + 1)?),
        found => return Err(DecodeError::UnknownTag { what: "operation", found }),
    })
}

fn encode_compare(out: &mut BytesMut, compare: &Compare) {
    out.put_u8(match compare.result {
        CompareResult::Equal => 0,
        CompareResult::Greater => 1,
        CompareResult::Less => 2,
        CompareResult::NotEqual => 3,
    });
    encode_key_range(out, &compare.range);
    match &compare.target {
        CompareTarget::Version(version) => {
            out.put_u8(0);
            put_signed(out, *version);
        }
        CompareTarget::Create(revision) => {
            out.put_u8(1);
            put_signed(out, revision.0);
        }
        CompareTarget::Mod(revision) => {
            out.put_u8(2);
            put_signed(out, revision.0);
        }
        CompareTarget::Value(value) => {
            out.put_u8(3);
            put_bytes(out, value);
        }
        CompareTarget::Lease(lease) => {
            out.put_u8(4);
            put_signed(out, lease.0);
        }
    }
}

fn decode_compare(reader: &mut Reader) -> Result<Compare, DecodeError> {
    let result = match reader.byte()? {
        0 => CompareResult::Equal,
        1 => CompareResult::Greater,
        2 => CompareResult::Less,
        3 => CompareResult::NotEqual,
        found => return Err(DecodeError::UnknownTag { what: "compare result", found }),
    };
    let range = decode_key_range(reader)?;
    let target = match reader.byte()? {
        0 => CompareTarget::Version(reader.signed()?),
        1 => CompareTarget::Create(Revision(reader.signed()?)),
        2 => CompareTarget::Mod(Revision(reader.signed()?)),
        3 => CompareTarget::Value(reader.bytes()?),
        4 => CompareTarget::Lease(LeaseId(reader.signed()?)),
        found => return Err(DecodeError::UnknownTag { what: "compare target", found }),
    };
    Ok(Compare { range, result, target })
}

fn decode_grant(reader: &mut Reader) -> Result<LeaseGrant, DecodeError> {
    let id = LeaseId(reader.signed()?);
    Ok(LeaseGrant { id, ttl_ms: reader.varint()?, holder: LeaseHolder::default() })
}

fn encode_revoke(out: &mut BytesMut, revoke: &LeaseRevoke) {
    out.put_u8(flags([revoke.expiry.is_some(), revoke.by.is_some()]));
    put_signed(out, revoke.id.0);
    if let Some(guard) = &revoke.expiry {
        put_varint(out, guard.incarnation.index.0);
        put_varint(out, u64::from(guard.incarnation.place));
        put_varint(out, guard.renewals);
    }
    if let Some(by) = &revoke.by {
        encode_revoked_by(out, by);
    }
}

fn decode_revoke(reader: &mut Reader) -> Result<LeaseRevoke, DecodeError> {
    let [guarded, told] = reader.flags("revoke flags")?;
    let id = LeaseId(reader.signed()?);
    let mut revoke = LeaseRevoke { id, expiry: None, by: None };
    if guarded {
        let index = LogIndex(reader.varint()?);
        let incarnation = Incarnation { index, place: reader.u32()? };
        revoke.expiry = Some(ExpiryGuard { incarnation, renewals: reader.varint()? });
    }
    if told {
        revoke.by = Some(decode_revoked_by(reader)?);
    }
    Ok(revoke)
}

pub(super) fn encode_revoked_by(out: &mut impl BufMut, by: &RevokedBy) {
    put_varint(out, by.member.0);
    match &by.client {
        ClientName::Unknown => out.put_u8(0),
        ClientName::Certificate(name) => {
            out.put_u8(1);
            put_bytes(out, name.as_bytes());
        }
        ClientName::Address(address) => {
            out.put_u8(2);
            put_bytes(out, address.as_bytes());
        }
    }
}

pub(super) fn decode_revoked_by(reader: &mut Reader) -> Result<RevokedBy, DecodeError> {
    let member = MemberId(reader.varint()?);
    let client = match reader.byte()? {
        0 => ClientName::Unknown,
        1 => ClientName::Certificate(reader.string()?),
        2 => ClientName::Address(reader.string()?),
        found => return Err(DecodeError::UnknownTag { what: "client name", found }),
    };
    Ok(RevokedBy { member, client })
}

fn encode_alarm(out: &mut BytesMut, member: MemberId, kind: AlarmKind) {
    put_varint(out, member.0);
    out.put_u8(match kind {
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    });
}

fn decode_alarm_kind(reader: &mut Reader) -> Result<AlarmKind, DecodeError> {
    Ok(match reader.byte()? {
        1 => AlarmKind::NoSpace,
        2 => AlarmKind::Corrupt,
        found => return Err(DecodeError::UnknownTag { what: "alarm", found }),
    })
}

fn encode_attributes(out: &mut BytesMut, attributes: &MemberAttributes) {
    put_varint(out, attributes.member.0);
    put_bytes(out, attributes.name.as_bytes());
    put_len(out, attributes.client_urls.len());
    for url in &attributes.client_urls {
        put_bytes(out, url.as_bytes());
    }
}

fn decode_attributes(reader: &mut Reader) -> Result<MemberAttributes, DecodeError> {
    let member = MemberId(reader.varint()?);
    let name = reader.string()?;
    Ok(MemberAttributes { member, name, client_urls: reader.list(Reader::string)? })
}
