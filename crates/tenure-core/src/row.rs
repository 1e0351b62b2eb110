//! The rows of the state tables as the state machine sees them. Their byte layout belongs to `tenure-storage`.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

use crate::ids::{EventId, LeaseId, LogIndex, MemberId, Revision, Term};
use crate::lock::LockCause;

/// What is known of a key's newest event, without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMeta {
    /// The revision that created the key's present life. `Revision(0)` on a tombstone.
    pub create: Revision,
    /// The newest event of the key.
    pub modified: EventId,
    /// 1 on creation, +1 per put. 0 marks a tombstone.
    pub version: i64,
    /// The attached lease, or [`LeaseId::NONE`].
    pub lease: LeaseId,
}

impl KeyMeta {
    /// Whether the newest event deleted the key.
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }
}

/// A row of `current`: a key's newest event with its value (empty on a tombstone).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentRow {
    /// The newest event.
    pub meta: KeyMeta,
    /// The value it wrote.
    pub value: Bytes,
}

/// A row of `history`: one event, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// The key that changed.
    pub key: Bytes,
    /// What it became. `meta.modified` is this event's own id.
    pub meta: KeyMeta,
    /// The value it wrote, empty for a delete.
    pub value: Bytes,
    /// The key's previous event (a tombstone counts), if it had one when this event was applied.
    ///
    /// The target may be gone: a missing target means "absent" at or below the compacted revision, and corruption
    /// above it.
    pub previous: Option<EventId>,
    /// What made it, if it is of a lock's contender and that is known.
    pub cause: Option<Box<LockCause>>,
}

/// Tells two leases with the same id apart: the log entry that granted it and its place in that entry's group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation {
    /// The entry's index.
    pub index: LogIndex,
    /// The command's place in the group, from 0.
    pub place: u32,
}

/// A row of `leases`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// Which grant this is.
    pub incarnation: Incarnation,
    /// The granted TTL in milliseconds.
    pub ttl_ms: u64,
    /// How often it was renewed.
    pub renewals: u64,
    /// The lease clock's reading, in milliseconds, at the grant or the last renewal.
    pub clock_ms: u64,
    /// Whether there is a row of `lease_holders` for it.
    pub has_holder: bool,
}

/// A row of `lease_holders`: whom a lease is for, as its client said at the grant. It stands apart from the lease, whose
/// row is written anew by every renewal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseHolder {
    /// A name for lists. Not unique, and not checked against anything.
    pub name: String,
    /// Whatever else the client wants to be told with the lease.
    pub text: String,
}

impl LeaseHolder {
    /// Whether it says nothing. Then there is no row.
    pub fn is_empty(&self) -> bool {
        self.name.is_empty() && self.text.is_empty()
    }

    /// The bytes of what it says.
    pub fn len_bytes(&self) -> u64 {
        self.name.len() as u64 + self.text.len() as u64
    }
}

/// A client, by what the member that it spoke to knows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientName {
    /// Nothing: it came by a unix socket, or it is the lessor and no client.
    #[default]
    Unknown,
    /// The common name of the certificate that it showed.
    Certificate(String),
    /// Its address and port.
    Address(String),
}

/// Who wanted a lease to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevokedBy {
    /// The member that proposed it: the leader whose lessor it was, or the one that the client spoke to.
    pub member: MemberId,
    /// The client.
    pub client: ClientName,
}

/// A row of `lease_ends`: how a lease ended. Readings of the lease clock are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseEnd {
    /// Which.
    pub id: LeaseId,
    /// Which grant of the id.
    pub incarnation: Incarnation,
    /// Its TTL in milliseconds.
    pub ttl_ms: u64,
    /// How often it was renewed.
    pub renewals: u64,
    /// The lease clock at its grant or last renewal.
    pub renewed_ms: u64,
    /// The lease clock at its end: the largest reading applied until then.
    pub ended_ms: u64,
    /// The log entry that ended it.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// Whether it was due; else a client revoked it.
    pub expired: bool,
    /// Who wanted it.
    pub by: RevokedBy,
    /// How many keys went with it.
    pub keys: u64,
    /// The revision in which they went, if there were any; else the store's.
    pub revision: Revision,
    /// The name of its holder, or empty.
    pub holder: String,
}

/// An alarm that a member raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlarmRow {
    /// Who raised it.
    pub member: MemberId,
    /// What it is about.
    pub kind: AlarmKind,
}

/// The kinds of alarm, as in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// The space quota is used up: nothing that grows the store is accepted.
    NoSpace,
    /// Members disagree: nothing that goes through apply is accepted.
    Corrupt,
}

/// What a member says of itself. Its peer URLs are part of the Raft membership, not of this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberAttributes {
    /// Who.
    pub member: MemberId,
    /// Its name.
    pub name: String,
    /// The URLs that clients reach it at.
    pub client_urls: Vec<String>,
}

/// The replicated scalars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The store's revision.
    pub revision: Revision,
    /// The revision compacted to. `Revision(-1)` if never compacted, as in etcd, so that `Compact(0)` succeeds once.
    pub compacted: Revision,
    /// The lease clock, in milliseconds: the largest reading applied.
    pub lease_clock_ms: u64,
    /// The alarms that are raised, sorted.
    pub alarms: Vec<AlarmRow>,
    /// What the members said of themselves, sorted by member.
    pub members: Vec<MemberAttributes>,
    /// How many ends of leases were recorded, and so the number of the next one.
    pub lease_ends: u64,
    /// How many rows of `locks` there are.
    pub locks: LockCounts,
}

/// How many rows of `locks` there are of the kinds that other commands have to look for. A store without native locks
/// looks for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockCounts {
    /// Locks.
    pub locks: u64,
    /// Leases with request numbers.
    pub requests: u64,
    /// Delayed keys.
    pub delays: u64,
}

impl Default for Meta {
    fn default() -> Self {
        Meta {
            revision: Revision::FRESH,
            compacted: Revision(-1),
            lease_clock_ms: 0,
            alarms: Vec::new(),
            members: Vec::new(),
            lease_ends: 0,
            locks: LockCounts::default(),
        }
    }
}
