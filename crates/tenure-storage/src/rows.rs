//! The values of the tables as bytes.
//!
//! Every row starts with one byte: the row format in the high half, flags in the low half. Then come variable-length
//! integers (7 bits a byte, lowest first), because revisions, versions and lengths are mostly small and the metadata
//! of a key should not weigh more than the key. Keys and values stand last, as they are.
//!
//! A row of `current` either holds its value or says how long the value is that stands in the history row of the same
//! event; the writer chooses (see `store::Options::inline_value_bytes_max`), readers follow the flag.
//!
//! Decoding answers an error for any bytes that no encoder wrote: it never panics, and never leaves bytes unread.

mod lease;
mod lock;

use bytes::Bytes;
use tenure_core::lock::LockCause;
use tenure_core::row::{AlarmKind, AlarmRow, EventRow, KeyMeta, LockCounts, MemberAttributes, Meta};
use tenure_core::{EventId, LeaseId, LogIndex, MemberId, Revision, Term};

use crate::engine::Table;
use crate::error::StorageError;

pub(crate) use lease::lease_of_end;
pub use lease::{
    decode_lease, decode_lease_end, decode_lease_holder, encode_lease, encode_lease_end, encode_lease_holder,
};
pub use lock::{decode_lock_row, encode_lock_row};

/// The format of all rows, in the high half of their first byte.
const ROW_FORMAT: u8 = 1 << 4;
/// In `current`: the value stands in the history row.
const FLAG_VALUE_IN_HISTORY: u8 = 1;
/// In `current`: the event before the newest one is named. The first builds did not name it.
const FLAG_NAMES_PREVIOUS: u8 = 2;
/// In `history`: the key had an event before this one.
const FLAG_HAS_PREVIOUS: u8 = 1;
/// In `history`: what made the event is told.
const FLAG_HAS_CAUSE: u8 = 2;
/// In the scalars: ends of leases were recorded.
const FLAG_LEASE_ENDS: u8 = 1;
/// In the scalars: there are native locks, or what is kept of them.
const FLAG_LOCKS: u8 = 2;

/// Where the value of a row of `current` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredValue<'a> {
    /// Here.
    Inline(&'a [u8]),
    /// In the history row of the event, this long.
    InHistory {
        /// Its length in bytes.
        bytes: u64,
    },
}

impl StoredValue<'_> {
    /// The length of the value in bytes.
    pub fn value_bytes(&self) -> u64 {
        match self {
            StoredValue::Inline(value) => value.len() as u64,
            StoredValue::InHistory { bytes } => *bytes,
        }
    }
}

/// What is this node's alone: not replicated, not hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalState {
    /// Keys and values of all events that are not purged, and [`EVENT_OVERHEAD_BYTES`] for each.
    pub bytes_logical: u64,
    /// The same for the keys that exist now, at their newest version alone.
    pub bytes_in_use: u64,
    /// The revision from which purging goes on.
    pub purge_next: Revision,
    /// The compacted revision up to which purging is complete.
    pub purge_complete: Revision,
}

impl Default for LocalState {
    fn default() -> LocalState {
        // Revision -1 is how `compacted` starts: there is nothing to purge.
        LocalState { bytes_logical: 0, bytes_in_use: 0, purge_next: Revision(0), purge_complete: Revision(-1) }
    }
}

/// What one event adds to the logical byte counts beside its key and value: about the metadata of its rows.
pub const EVENT_OVERHEAD_BYTES: u64 = 32;

/// Appends a row of `current`. `previous` is as in the event's own row.
pub fn encode_current(out: &mut Vec<u8>, meta: &KeyMeta, previous: Option<EventId>, value: StoredValue<'_>) {
    let flag = match value {
        StoredValue::Inline(_) => 0,
        StoredValue::InHistory { .. } => FLAG_VALUE_IN_HISTORY,
    };
    out.push(ROW_FORMAT | flag | if previous.is_some() { FLAG_NAMES_PREVIOUS } else { 0 });
    put_signed(out, meta.modified.revision.0);
    put_unsigned(out, u64::from(meta.modified.sub));
    put_life(out, meta);
    if let Some(previous) = previous {
        put_previous(out, meta.modified, previous);
    }
    match value {
        StoredValue::Inline(value) => out.extend_from_slice(value),
        StoredValue::InHistory { bytes } => put_unsigned(out, bytes),
    }
}

/// A row of `current`, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentRef<'a> {
    /// The newest event.
    pub meta: KeyMeta,
    /// The event before it. Where none is named there may be one nevertheless: the event's own row tells.
    pub previous: Option<EventId>,
    /// The value.
    pub value: StoredValue<'a>,
}

/// Reads a row of `current`.
pub fn decode_current(row: &[u8]) -> Result<CurrentRef<'_>, StorageError> {
    let mut reader = Reader { table: Table::Current, rest: row };
    let flags = reader.head(FLAG_VALUE_IN_HISTORY | FLAG_NAMES_PREVIOUS)?;
    let revision = Revision(reader.signed()?);
    let modified = EventId { revision, sub: reader.narrow()? };
    let meta = reader.life(modified)?;
    let previous = if flags & FLAG_NAMES_PREVIOUS == 0 { None } else { Some(reader.previous(modified)?) };
    let value = if flags & FLAG_VALUE_IN_HISTORY == 0 {
        StoredValue::Inline(std::mem::take(&mut reader.rest))
    } else {
        StoredValue::InHistory { bytes: reader.unsigned()? }
    };
    reader.end()?;
    Ok(CurrentRef { meta, previous, value })
}

/// Appends a row of `history`. The event's own id is in the row's key.
pub fn encode_event(out: &mut Vec<u8>, event: &EventRow) {
    let previous = if event.previous.is_some() { FLAG_HAS_PREVIOUS } else { 0 };
    let cause = if event.cause.is_some() { FLAG_HAS_CAUSE } else { 0 };
    out.push(ROW_FORMAT | previous | cause);
    put_life(out, &event.meta);
    if let Some(previous) = event.previous {
        put_previous(out, event.meta.modified, previous);
    }
    if let Some(cause) = &event.cause {
        let mut bytes = Vec::new();
        cause.encode(&mut bytes);
        put_bytes(out, &bytes);
    }
    put_unsigned(out, event.key.len() as u64);
    out.extend_from_slice(&event.key);
    out.extend_from_slice(&event.value);
}

/// A row of `history`, borrowed but for what is rare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// See [`EventRow`].
    pub key: &'a [u8],
    /// See [`EventRow`].
    pub meta: KeyMeta,
    /// See [`EventRow`].
    pub value: &'a [u8],
    /// See [`EventRow`].
    pub previous: Option<EventId>,
    /// See [`EventRow`].
    pub cause: Option<Box<LockCause>>,
}

impl EventRef<'_> {
    /// The row, owned.
    pub fn to_row(self) -> EventRow {
        EventRow {
            key: Bytes::copy_from_slice(self.key),
            meta: self.meta,
            value: Bytes::copy_from_slice(self.value),
            previous: self.previous,
            cause: self.cause,
        }
    }
}

/// Reads the row of `history` that stands under `id`.
pub fn decode_event(id: EventId, row: &[u8]) -> Result<EventRef<'_>, StorageError> {
    let mut reader = Reader { table: Table::History, rest: row };
    let flags = reader.head(FLAG_HAS_PREVIOUS | FLAG_HAS_CAUSE)?;
    let meta = reader.life(id)?;
    let previous = if flags & FLAG_HAS_PREVIOUS == 0 { None } else { Some(reader.previous(id)?) };
    let cause = if flags & FLAG_HAS_CAUSE == 0 {
        None
    } else {
        let cause = LockCause::decode(&Bytes::copy_from_slice(reader.bytes()?));
        Some(Box::new(cause.map_err(|_| reader.wrong("it does not say what made the event"))?))
    };
    let key = reader.bytes()?;
    Ok(EventRef { key, meta, value: reader.rest, previous, cause })
}

/// Appends the row of the replicated scalars.
pub fn encode_state(out: &mut Vec<u8>, meta: &Meta) {
    let has_locks = meta.locks != LockCounts::default();
    let ends = if meta.lease_ends > 0 { FLAG_LEASE_ENDS } else { 0 };
    out.push(ROW_FORMAT | ends | if has_locks { FLAG_LOCKS } else { 0 });
    put_signed(out, meta.revision.0);
    put_signed(out, meta.compacted.0);
    put_unsigned(out, meta.lease_clock_ms);
    put_unsigned(out, meta.alarms.len() as u64);
    for alarm in &meta.alarms {
        put_unsigned(out, alarm.member.0);
        out.push(match alarm.kind {
            AlarmKind::NoSpace => 1,
            AlarmKind::Corrupt => 2,
        });
    }
    put_unsigned(out, meta.members.len() as u64);
    for member in &meta.members {
        put_unsigned(out, member.member.0);
        put_bytes(out, member.name.as_bytes());
        put_unsigned(out, member.client_urls.len() as u64);
        for url in &member.client_urls {
            put_bytes(out, url.as_bytes());
        }
    }
    if meta.lease_ends > 0 {
        put_unsigned(out, meta.lease_ends);
    }
    if has_locks {
        let LockCounts { locks, requests, delays } = meta.locks;
        [locks, requests, delays].into_iter().for_each(|count| put_unsigned(out, count));
    }
}

/// Reads the row of the replicated scalars.
pub fn decode_state(row: &[u8]) -> Result<Meta, StorageError> {
    let mut reader = Reader { table: Table::Meta, rest: row };
    let flags = reader.head(FLAG_LEASE_ENDS | FLAG_LOCKS)?;
    let mut meta = Meta {
        revision: Revision(reader.signed()?),
        compacted: Revision(reader.signed()?),
        lease_clock_ms: reader.unsigned()?,
        alarms: Vec::new(),
        members: Vec::new(),
        lease_ends: 0,
        locks: LockCounts::default(),
    };
    // The counts are not trusted with an allocation: a wrong one runs out of bytes first.
    for _ in 0..reader.unsigned()? {
        let member = MemberId(reader.unsigned()?);
        let kind = match reader.byte()? {
            1 => AlarmKind::NoSpace,
            2 => AlarmKind::Corrupt,
            _ => return Err(reader.wrong("it names an unknown alarm")),
        };
        meta.alarms.push(AlarmRow { member, kind });
    }
    for _ in 0..reader.unsigned()? {
        let member = MemberId(reader.unsigned()?);
        let mut attributes = MemberAttributes { member, name: reader.text()?, client_urls: Vec::new() };
        for _ in 0..reader.unsigned()? {
            attributes.client_urls.push(reader.text()?);
        }
        meta.members.push(attributes);
    }
    if flags & FLAG_LEASE_ENDS != 0 {
        meta.lease_ends = reader.unsigned()?;
    }
    if flags & FLAG_LOCKS != 0 {
        let (locks, requests) = (reader.unsigned()?, reader.unsigned()?);
        meta.locks = LockCounts { locks, requests, delays: reader.unsigned()? };
    }
    reader.end()?;
    Ok(meta)
}

/// Appends the row of the applied index and term.
pub fn encode_applied(out: &mut Vec<u8>, index: LogIndex, term: Term) {
    out.push(ROW_FORMAT);
    put_unsigned(out, index.0);
    put_unsigned(out, term.0);
}

/// Reads the row of the applied index and term.
pub fn decode_applied(row: &[u8]) -> Result<(LogIndex, Term), StorageError> {
    let mut reader = Reader { table: Table::Meta, rest: row };
    reader.head(0)?;
    let applied = (LogIndex(reader.unsigned()?), Term(reader.unsigned()?));
    reader.end()?;
    Ok(applied)
}

/// Appends the row of what is this node's alone.
pub fn encode_local(out: &mut Vec<u8>, local: &LocalState) {
    out.push(ROW_FORMAT);
    put_unsigned(out, local.bytes_logical);
    put_unsigned(out, local.bytes_in_use);
    put_signed(out, local.purge_next.0);
    put_signed(out, local.purge_complete.0);
}

/// Reads the row of what is this node's alone.
pub fn decode_local(row: &[u8]) -> Result<LocalState, StorageError> {
    let mut reader = Reader { table: Table::Meta, rest: row };
    reader.head(0)?;
    let bytes_logical = reader.unsigned()?;
    let bytes_in_use = reader.unsigned()?;
    let (purge_next, purge_complete) = (Revision(reader.signed()?), Revision(reader.signed()?));
    reader.end()?;
    Ok(LocalState { bytes_logical, bytes_in_use, purge_next, purge_complete })
}

fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Small magnitudes of either sign stay short.
fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_unsigned(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The event before one, as a distance.
fn put_previous(out: &mut Vec<u8>, id: EventId, previous: EventId) {
    put_signed(out, id.revision.0.wrapping_sub(previous.revision.0));
    put_unsigned(out, u64::from(previous.sub));
}

/// What both tables of events say of a key's life. The creation is a distance, which is short for short lives.
fn put_life(out: &mut Vec<u8>, meta: &KeyMeta) {
    put_signed(out, meta.modified.revision.0.wrapping_sub(meta.create.0));
    put_signed(out, meta.version);
    put_signed(out, meta.lease.0);
}

/// Takes a row apart from the front.
struct Reader<'a> {
    table: Table,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn wrong(&self, reason: &'static str) -> StorageError {
        StorageError::damaged(self.table, reason)
    }

    fn byte(&mut self) -> Result<u8, StorageError> {
        let Some((byte, rest)) = self.rest.split_first() else {
            return Err(self.wrong("it is too short"));
        };
        self.rest = rest;
        Ok(*byte)
    }

    fn head(&mut self, flags_known: u8) -> Result<u8, StorageError> {
        let head = self.byte()?;
        if head & 0xf0 != ROW_FORMAT {
            return Err(self.wrong("its format is unknown"));
        }
        let flags = head & 0x0f;
        if flags & !flags_known != 0 {
            return Err(self.wrong("it has unknown flags"));
        }
        Ok(flags)
    }

    fn unsigned(&mut self) -> Result<u64, StorageError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.wrong("it holds a number beyond 64 bits"))
    }

    fn signed(&mut self) -> Result<i64, StorageError> {
        let value = self.unsigned()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn narrow(&mut self) -> Result<u32, StorageError> {
        u32::try_from(self.unsigned()?).map_err(|_| self.wrong("it holds a number beyond 32 bits"))
    }

    fn bytes(&mut self) -> Result<&'a [u8], StorageError> {
        let length = self.unsigned()?;
        let split = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let Some((bytes, rest)) = split else {
            return Err(self.wrong("it is shorter than it says"));
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String, StorageError> {
        let bytes = self.bytes()?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.wrong("it holds text that is not UTF-8")),
        }
    }

    fn life(&mut self, modified: EventId) -> Result<KeyMeta, StorageError> {
        let create = Revision(modified.revision.0.wrapping_sub(self.signed()?));
        let version = self.signed()?;
        let lease = LeaseId(self.signed()?);
        Ok(KeyMeta { create, modified, version, lease })
    }

    /// The event before one. Whoever follows such pointers goes back with each, and so comes to an end.
    fn previous(&mut self, id: EventId) -> Result<EventId, StorageError> {
        let revision = Revision(id.revision.0.wrapping_sub(self.signed()?));
        let previous = EventId { revision, sub: self.narrow()? };
        if previous >= id {
            return Err(StorageError::Contradiction("a back pointer does not point back"));
        }
        Ok(previous)
    }

    fn end(&self) -> Result<(), StorageError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong("it is longer than it should be")) }
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
