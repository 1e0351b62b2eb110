//! What applying a command answers. Part of the replicated result: every node computes the same.

use alloc::vec::Vec;
use bytes::Bytes;

use crate::ids::{LeaseId, Revision};
use crate::row::KeyMeta;

/// The result of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The store's revision right after this command, for the response header.
    pub revision: Revision,
    /// The answer, or why the command was refused. A refused command changed nothing.
    pub result: Result<Response, Refusal>,
}

/// The answer to a command that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A put, with the previous key-value if it was asked for and existed.
    Put(Option<KeyValue>),
    /// A delete.
    DeleteRange(DeletedRange),
    /// A transaction.
    Txn(TxnResponse),
    /// A compaction.
    Compact,
    /// The lease as granted.
    LeaseGrant {
        /// Its id.
        id: LeaseId,
        /// Its TTL in milliseconds.
        ttl_ms: u64,
    },
    /// The lease and its keys are gone.
    LeaseRevoke,
    /// The lease lives for another TTL.
    LeaseRenew {
        /// Its TTL in milliseconds.
        ttl_ms: u64,
    },
    /// The alarm is raised or cleared (or was so before).
    Alarm,
    /// The member's attributes are recorded.
    MemberPublish,
    /// An expiry whose guard no longer held: nothing was done.
    ExpiryStale,
    /// Where a request for a lock stands.
    LockAcquire(LockAnswer),
    /// A request for a lock is finished.
    LockCancel {
        /// Whether it was in the lock's queue, or held the lock, until now.
        ended: bool,
    },
    /// A cancel that came too late: the request was tried again since. Nothing was done.
    LockCancelStale,
    /// A lock was let go of.
    LockRelease {
        /// Whether it was held by that token and request until now.
        released: bool,
        /// How many holds are left.
        holds: u32,
    },
    /// A contender was removed.
    LockForce {
        /// Whether it was there.
        removed: bool,
    },
    /// The delay of a lock's key is over.
    LockDelayEnd,
    /// It was over already, or is not yet: nothing was done.
    LockDelayStale,
}

/// Where a request for a lock stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockAnswer {
    /// It holds the lock.
    Granted {
        /// The fencing token: the create revision of its key.
        token: Revision,
        /// How often it is held by now.
        holds: u32,
    },
    /// It waits.
    Queued {
        /// How many contenders are ahead of it; told to a request that just joined.
        ahead: Option<u64>,
    },
    /// It would have to wait and does not want to. The request is finished.
    Busy,
}

/// The answer of a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeletedRange {
    /// How many keys were deleted.
    pub deleted: i64,
    /// They, if asked for.
    pub prev_kvs: Vec<KeyValue>,
}

/// The answer of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResponse {
    /// Whether all compares held.
    pub succeeded: bool,
    /// One per operation of the branch taken.
    pub responses: Vec<OpResponse>,
}

/// The answer of one operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResponse {
    /// A read.
    Range(RangeResult),
    /// A put.
    Put(Option<KeyValue>),
    /// A delete.
    DeleteRange(DeletedRange),
    /// A nested transaction.
    Txn(TxnResponse),
}

/// The answer of a range read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    /// The key-values, ordered and cut as asked.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit left some out.
    pub more: bool,
    /// How many keys the range holds, whatever the limit and filters.
    pub count: i64,
}

/// One key at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty if left out.
    pub value: Bytes,
    /// Its creation.
    pub create: Revision,
    /// Its last modification.
    pub modified: Revision,
    /// Its version, from 1.
    pub version: i64,
    /// Its lease.
    pub lease: LeaseId,
}

impl KeyValue {
    /// The key-value that a row of `current` or `history` holds.
    pub fn of(key: Bytes, meta: &KeyMeta, value: Bytes) -> KeyValue {
        KeyValue {
            key,
            value,
            create: meta.create,
            modified: meta.modified.revision,
            version: meta.version,
            lease: meta.lease,
        }
    }
}

/// Why a well-formed command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A put with `ignore_value` or `ignore_lease` of an absent key.
    #[error("key not found")]
    KeyNotFound,
    /// The lease does not exist.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// The lease id is taken.
    #[error("lease already exists")]
    LeaseExists,
    /// The revision is compacted.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision is not reached yet.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// A NOSPACE alarm is raised.
    #[error("database space exceeded")]
    NoSpace,
    /// A CORRUPT alarm is raised.
    #[error("corrupt cluster")]
    Corrupt,
    /// A transaction would change one key twice; only a log written by a faulty proposer holds one.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// The group was proposed in another term than it was appended in.
    #[error("proposed by a former leader")]
    Fenced,
    /// A grant or renewal in a group that tells no time; only a log written by a faulty proposer holds one.
    #[error("granted or renewed without a reading of the lease clock")]
    NoReading,
    /// The lease holds the lock or waits for it by another request, and it is not re-entrant for this one.
    #[error("the lease already holds the lock or waits for it")]
    LockAlreadyHeld,
    /// The lock is held as often as its first request allowed.
    #[error("the lock is held as often as allowed")]
    LockHeldTooOften,
    /// The request is finished.
    #[error("the request is finished")]
    LockRequestFinished,
    /// The request's number is too far from the lowest one that is open.
    #[error("too many open requests of the lease")]
    LockRequestsTooMany,
    /// Others share the lock in another way.
    #[error("the lock is in use with another mode or limit")]
    LockModeMismatch,
    /// The lock has as many contenders as it may.
    #[error("too many contenders for the lock")]
    LockContendersTooMany,
    /// A guard does not hold.
    #[error("the lock is not held by that token and lease")]
    LockNotHeld,
    /// What is beyond the limits of a lock command; only a log written by a faulty proposer holds it.
    #[error("invalid lock command")]
    LockInvalid,
}
