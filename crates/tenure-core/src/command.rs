//! The commands of the replicated log, as types. Their encoding is in `codec`.
//!
//! A command says what a client asked for after syntax, limits and rights were checked, and nothing that could differ
//! between nodes: ids are picked and TTLs raised before it is made. Whether keys and leases exist is decided in apply.

use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::Bound;

use crate::ids::{LeaseId, LogIndex, MemberId, Revision, Term};
use crate::lock::LockMode;
use crate::row::{AlarmKind, Incarnation, LeaseHolder, MemberAttributes, RevokedBy};

/// One replicated operation. Each makes its own [`crate::outcome::Outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Write one key.
    Put(Put),
    /// Delete the keys of a range.
    DeleteRange(DeleteRange),
    /// A transaction that may write.
    Txn(Txn),
    /// Compact history up to a revision.
    Compact(Revision),
    /// Grant a lease. The id is picked and the TTL raised already.
    LeaseGrant(LeaseGrant),
    /// Revoke a lease and delete its keys.
    LeaseRevoke(LeaseRevoke),
    /// Let a lease live for another TTL from now on.
    LeaseRenew(LeaseId),
    /// Raise an alarm.
    AlarmRaise(MemberId, AlarmKind),
    /// Clear an alarm.
    AlarmClear(MemberId, AlarmKind),
    /// A member tells its name and client URLs, once it serves.
    MemberPublish(MemberAttributes),
    /// Take a lock, or a place in its queue.
    LockAcquire(LockAcquire),
    /// End a request for a lock, whatever has become of it.
    LockCancel(LockCancel),
    /// Let go of a lock.
    LockRelease(LockRelease),
    /// Take a lock away from a contender.
    LockForce(LockForce),
    /// End the delay of a lock's key, if it is over.
    LockDelayEnd(LockDelayEnd),
    /// A write that depends on a lock being held.
    Guarded(Guarded),
}

/// A set of keys, from a request's `key` and `range_end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// Exactly one key.
    One(Bytes),
    /// `[start, end)`. Empty if `end <= start`.
    Between(Bytes, Bytes),
    /// Every key from this one on. `From(b"")` is everything.
    From(Bytes),
}

impl KeyRange {
    /// Whether the range holds this key.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::One(only) => only == key,
            KeyRange::Between(start, end) => start <= key && key < &end[..],
            KeyRange::From(start) => start <= key,
        }
    }

    /// Whether no key can be in the range. Such a range must not become bounds: an ordered map panics on them.
    pub fn is_empty(&self) -> bool {
        match self {
            KeyRange::Between(start, end) => end <= start,
            KeyRange::One(_) | KeyRange::From(_) => false,
        }
    }

    /// The range as the bounds of an ordered map.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        match self {
            KeyRange::One(only) => (Bound::Included(only), Bound::Included(only)),
            KeyRange::Between(start, end) => (Bound::Included(start), Bound::Excluded(end)),
            KeyRange::From(start) => (Bound::Included(start), Bound::Unbounded),
        }
    }
}

/// Writes one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Never empty.
    pub key: Bytes,
    /// Empty if `ignore_value`.
    pub value: Bytes,
    /// The lease to attach to, or none.
    pub lease: LeaseId,
    /// Answer with the previous key-value.
    pub prev_kv: bool,
    /// Keep the present value; refused if the key is absent.
    pub ignore_value: bool,
    /// Keep the present lease; refused if the key is absent.
    pub ignore_lease: bool,
}

/// Deletes the keys of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRange {
    /// What to delete.
    pub range: KeyRange,
    /// Answer with the deleted key-values.
    pub prev_kv: bool,
}

/// A read of a range, from a read request or inside a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// What to read.
    pub range: KeyRange,
    /// At most this many key-values; 0 or less means all.
    pub limit: i64,
    /// The revision to read at; 0 or less means the present.
    pub revision: Revision,
    /// The order asked for.
    pub order: SortOrder,
    /// What to order by.
    pub target: SortTarget,
    /// Leave values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Drop keys modified before this; 0 means no bound. (All four bounds filter key-values, never `count`.)
    pub min_mod: Revision,
    /// Drop keys modified after this; 0 means no bound.
    pub max_mod: Revision,
    /// Drop keys created before this; 0 means no bound.
    pub min_create: Revision,
    /// Drop keys created after this; 0 means no bound.
    pub max_create: Revision,
}

impl Range {
    /// All of these keys, as they are now, with their values and in the order in which they are found.
    pub fn of(range: KeyRange) -> Range {
        let none = Revision(0);
        Range {
            range,
            limit: 0,
            revision: none,
            order: SortOrder::None,
            target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            min_mod: none,
            max_mod: none,
            min_create: none,
            max_create: none,
        }
    }
}

/// etcd's sort orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// As found (ascending keys), unless a target other than the key is named: then ascending by it.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// etcd's sort targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// By key.
    #[default]
    Key,
    /// By version.
    Version,
    /// By create revision.
    Create,
    /// By modification revision.
    Mod,
    /// By value.
    Value,
}

/// If all compares hold, `success`, else `failure`; all of it in one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Done if they do.
    pub success: Vec<Op>,
    /// Done if they do not.
    pub failure: Vec<Op>,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read.
    Range(Range),
    /// A write.
    Put(Put),
    /// A delete.
    DeleteRange(DeleteRange),
    /// A nested transaction.
    Txn(Txn),
}

/// One condition. Over a range, every key must meet it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The keys looked at.
    pub range: KeyRange,
    /// How.
    pub result: CompareResult,
    /// With what.
    pub target: CompareTarget,
}

/// The relation that must hold between the key's side and the given side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    /// The same.
    Equal,
    /// The key's is greater.
    Greater,
    /// The key's is less.
    Less,
    /// Not the same.
    NotEqual,
}

/// What is compared, and the given side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// The version (0 if absent).
    Version(i64),
    /// The create revision (0 if absent).
    Create(Revision),
    /// The modification revision (0 if absent).
    Mod(Revision),
    /// The value. An absent key never meets a value compare.
    Value(Bytes),
    /// The lease (0 if none or absent).
    Lease(LeaseId),
}

/// Grants a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Never [`LeaseId::NONE`].
    pub id: LeaseId,
    /// At least the configured minimum.
    pub ttl_ms: u64,
    /// Whom it is for; empty if that was not said.
    pub holder: LeaseHolder,
}

/// Revokes a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRevoke {
    /// Which.
    pub id: LeaseId,
    /// Set by the lessor, absent from a client's revoke: ignored unless the lease is still this one and is due.
    pub expiry: Option<ExpiryGuard>,
    /// Who wants it. Not told by entries of the first builds, whose members keep no record of ends: a revoke that does not
    /// tell it leaves none, so that members of both agree on the state.
    pub by: Option<RevokedBy>,
}

/// The compare side of an expiry (design: "expiry is a compare-and-set").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryGuard {
    /// The lease must be this incarnation.
    pub incarnation: Incarnation,
    /// It must have been renewed this often.
    pub renewals: u64,
}

/// The header of a group: what the leader adds to the commands that share one Raft entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupHeader {
    /// The leader's reading of the lease clock, in milliseconds, if the group carries one. Grants and renewals need it,
    /// taken after they were asked for: without one they are refused, since the last reading applied may be old.
    pub lease_clock_ms: Option<u64>,
    /// The term the group was proposed in, if it must not be applied in another.
    pub origin_term: Option<Term>,
}

/// Where in the log a group stands; names incarnations and fences terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPosition {
    /// The entry's index.
    pub index: LogIndex,
    /// The entry's term.
    pub term: Term,
}

/// A request for a lock, as the client numbers them, and one of the tries that it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockRequest {
    /// Whose it is.
    pub lease: LeaseId,
    /// From 1.
    pub number: u64,
    /// All numbers of the lease below this one are settled for the client. At most the number itself.
    pub lowest_open: u64,
    /// Rises from try to try.
    pub attach: u64,
}

/// Takes a lock, or a place in its queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockAcquire {
    /// The lock.
    pub name: Bytes,
    /// Which request it is.
    pub request: LockRequest,
    /// Whether to wait for the lock; else it is taken now or not at all.
    pub wait: bool,
    /// How it is wanted.
    pub mode: LockMode,
    /// The owner, in the client's words.
    pub owner: String,
    /// The value of the lock's key.
    pub metadata: Bytes,
    /// How often it may be held by this owner: 0 if it is not re-entrant.
    pub holds_max: u32,
    /// For how long it stays taken once the lease has expired, in milliseconds.
    pub delay_ms: u64,
}

/// Ends a request for a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockCancel {
    /// The lock.
    pub name: Bytes,
    /// Which request it is. A later try than the one named here is not touched.
    pub request: LockRequest,
}

/// Lets go of a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockRelease {
    /// The lock.
    pub name: Bytes,
    /// Whose it is.
    pub lease: LeaseId,
    /// The token that it was granted with.
    pub token: Revision,
    /// The request that ends; 0 for all of them.
    pub number: u64,
}

/// Takes a lock away from a contender, native or not, waiting or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockForce {
    /// Its key.
    pub key: Bytes,
    /// The key's create revision.
    pub token: Revision,
    /// Why, in an operator's words.
    pub reason: String,
    /// Who wants it.
    pub by: RevokedBy,
}

/// Ends the delay of a lock's key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockDelayEnd {
    /// The lease that expired.
    pub lease: LeaseId,
    /// The key.
    pub key: Bytes,
    /// The revision that wrote it without its lease.
    pub modified: Revision,
}

/// That a lock is held: two compares, as any client can put them into a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockGuard {
    /// The holder's key.
    pub key: Bytes,
    /// Its create revision.
    pub token: Revision,
    /// Its lease.
    pub lease: LeaseId,
}

/// A write that depends on a lock being held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// What must hold.
    pub guard: LockGuard,
    /// What is written then.
    pub write: GuardedWrite,
}

/// What can be guarded. A transaction has compares of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardedWrite {
    /// A put.
    Put(Put),
    /// A delete.
    DeleteRange(DeleteRange),
}
