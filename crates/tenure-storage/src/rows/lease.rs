//! The rows of leases: what they are, whom they are for, and how they ended.

use tenure_core::row::{ClientName, Incarnation, LeaseEnd, LeaseHolder, LeaseRow, RevokedBy};
use tenure_core::{LeaseId, LogIndex, MemberId, Revision, Term};

use super::{ROW_FORMAT, Reader, put_bytes, put_signed, put_unsigned};
use crate::engine::Table;
use crate::error::StorageError;

/// In `leases`: there is a row of `lease_holders`.
const FLAG_HAS_HOLDER: u8 = 1;
/// In `lease_ends`: the lease was due.
const FLAG_EXPIRED: u8 = 1;

/// Appends a row of `leases`.
pub fn encode_lease(out: &mut Vec<u8>, lease: &LeaseRow) {
    out.push(ROW_FORMAT | if lease.has_holder { FLAG_HAS_HOLDER } else { 0 });
    put_incarnation(out, lease.incarnation);
    put_unsigned(out, lease.ttl_ms);
    put_unsigned(out, lease.renewals);
    put_unsigned(out, lease.clock_ms);
}

/// Reads a row of `leases`.
pub fn decode_lease(row: &[u8]) -> Result<LeaseRow, StorageError> {
    let mut reader = Reader { table: Table::Leases, rest: row };
    let flags = reader.head(FLAG_HAS_HOLDER)?;
    let lease = LeaseRow {
        incarnation: reader.incarnation()?,
        ttl_ms: reader.unsigned()?,
        renewals: reader.unsigned()?,
        clock_ms: reader.unsigned()?,
        has_holder: flags & FLAG_HAS_HOLDER != 0,
    };
    reader.end()?;
    Ok(lease)
}

/// Appends a row of `lease_holders`.
pub fn encode_lease_holder(out: &mut Vec<u8>, holder: &LeaseHolder) {
    out.push(ROW_FORMAT);
    put_bytes(out, holder.name.as_bytes());
    put_bytes(out, holder.text.as_bytes());
}

/// Reads a row of `lease_holders`.
pub fn decode_lease_holder(row: &[u8]) -> Result<LeaseHolder, StorageError> {
    let mut reader = Reader { table: Table::LeaseHolders, rest: row };
    reader.head(0)?;
    let holder = LeaseHolder { name: reader.text()?, text: reader.text()? };
    reader.end()?;
    Ok(holder)
}

/// Appends a row of `lease_ends`. The lease comes first: who looks for one reads no further in others' rows.
pub fn encode_lease_end(out: &mut Vec<u8>, end: &LeaseEnd) {
    out.push(ROW_FORMAT | if end.expired { FLAG_EXPIRED } else { 0 });
    put_signed(out, end.id.0);
    put_incarnation(out, end.incarnation);
    for number in [end.ttl_ms, end.renewals, end.renewed_ms, end.ended_ms, end.index.0, end.term.0, end.keys] {
        put_unsigned(out, number);
    }
    put_signed(out, end.revision.0);
    put_bytes(out, end.holder.as_bytes());
    put_unsigned(out, end.by.member.0);
    match &end.by.client {
        ClientName::Unknown => out.push(0),
        ClientName::Certificate(name) => {
            out.push(1);
            put_bytes(out, name.as_bytes());
        }
        ClientName::Address(address) => {
            out.push(2);
            put_bytes(out, address.as_bytes());
        }
    }
}

/// Reads a row of `lease_ends`.
pub fn decode_lease_end(row: &[u8]) -> Result<LeaseEnd, StorageError> {
    let mut reader = Reader { table: Table::LeaseEnds, rest: row };
    let flags = reader.head(FLAG_EXPIRED)?;
    let end = LeaseEnd {
        id: LeaseId(reader.signed()?),
        incarnation: reader.incarnation()?,
        ttl_ms: reader.unsigned()?,
        renewals: reader.unsigned()?,
        renewed_ms: reader.unsigned()?,
        ended_ms: reader.unsigned()?,
        index: LogIndex(reader.unsigned()?),
        term: Term(reader.unsigned()?),
        keys: reader.unsigned()?,
        revision: Revision(reader.signed()?),
        holder: reader.text()?,
        expired: flags & FLAG_EXPIRED != 0,
        by: reader.revoked_by()?,
    };
    reader.end()?;
    Ok(end)
}

/// The lease that a row of `lease_ends` is about.
pub(crate) fn lease_of_end(row: &[u8]) -> Result<LeaseId, StorageError> {
    let mut reader = Reader { table: Table::LeaseEnds, rest: row };
    reader.head(FLAG_EXPIRED)?;
    Ok(LeaseId(reader.signed()?))
}

fn put_incarnation(out: &mut Vec<u8>, incarnation: Incarnation) {
    put_unsigned(out, incarnation.index.0);
    put_unsigned(out, u64::from(incarnation.place));
}

impl Reader<'_> {
    fn incarnation(&mut self) -> Result<Incarnation, StorageError> {
        Ok(Incarnation { index: LogIndex(self.unsigned()?), place: self.narrow()? })
    }

    fn revoked_by(&mut self) -> Result<RevokedBy, StorageError> {
        let member = MemberId(self.unsigned()?);
        let client = match self.byte()? {
            0 => ClientName::Unknown,
            1 => ClientName::Certificate(self.text()?),
            2 => ClientName::Address(self.text()?),
            _ => return Err(self.wrong("it names a client in an unknown way")),
        };
        Ok(RevokedBy { member, client })
    }
}
