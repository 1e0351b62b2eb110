//! What can be said of a command by looking at it alone, before it enters the log.
//!
//! The rules are etcd's `checkTxnRequest` and `checkIntervals`, with one difference: etcd overlooks a put that a later
//! operation of the same transaction deletes through a nested transaction or a range without end. Here a revision
//! changes a key at most once, so every such overlap is refused.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::codec::TXN_DEPTH_MAX;
use crate::command::{
    Command, Guarded, GuardedWrite, KeyRange, LockAcquire, LockCancel, LockForce, LockRequest, Op, Put, Txn,
};
use crate::lock::{
    LOCK_DELAY_MS_MAX, LOCK_HOLDS_MAX, LOCK_METADATA_BYTES_MAX, LOCK_NAME_BYTES_MAX, LOCK_NAME_SLASHES_MAX,
    LOCK_OWNER_BYTES_MAX, LOCK_PERMITS_MAX, LOCK_REASON_BYTES_MAX, LOCK_REQUEST_MAX, LockMode,
};

/// The space that a put takes besides its key and value, as etcd's quota counts it.
const PUT_OVERHEAD_BYTES: u64 = 256;
/// The space that a lease takes, as etcd's quota counts it.
const LEASE_BYTES: u64 = 64;

/// Why a transaction is refused unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTxn {
    /// A list of compares or operations is longer than allowed.
    #[error("too many operations in txn request")]
    TooManyOps,
    /// It nests deeper than [`TXN_DEPTH_MAX`]. etcd, which knows no such limit, would say "too many operations".
    #[error("transactions nest too deep")]
    TooDeep,
    /// It puts a key twice, or puts a key that it also deletes.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
}

/// Why a command on a lock is refused unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLock {
    /// No name, or one above [`LOCK_NAME_BYTES_MAX`] or [`LOCK_NAME_SLASHES_MAX`].
    #[error("a lock's name has 1 to {LOCK_NAME_BYTES_MAX} bytes, at most {LOCK_NAME_SLASHES_MAX} of them slashes")]
    Name,
    /// An owner above [`LOCK_OWNER_BYTES_MAX`].
    #[error("a lock's owner has at most {LOCK_OWNER_BYTES_MAX} bytes")]
    Owner,
    /// Metadata above [`LOCK_METADATA_BYTES_MAX`].
    #[error("a lock's metadata has at most {LOCK_METADATA_BYTES_MAX} bytes")]
    Metadata,
    /// A reason above [`LOCK_REASON_BYTES_MAX`].
    #[error("a reason has at most {LOCK_REASON_BYTES_MAX} bytes")]
    Reason,
    /// Permits or a limit that no semaphore has.
    #[error("a semaphore has 1 to {LOCK_PERMITS_MAX} permits, and one that takes some takes 1 to all of them")]
    Permits,
    /// More holds than [`LOCK_HOLDS_MAX`].
    #[error("a lock is held at most {LOCK_HOLDS_MAX} times")]
    Holds,
    /// A delay above [`LOCK_DELAY_MS_MAX`].
    #[error("a lock-delay is at most {LOCK_DELAY_MS_MAX} ms")]
    Delay,
    /// A request number or lowest open one that no client has.
    #[error("request numbers are 1 to {LOCK_REQUEST_MAX}, and the lowest open one is not above the request's own")]
    Request,
}

/// Checks the name of a lock.
pub fn validate_lock_name(name: &[u8]) -> Result<(), InvalidLock> {
    let slashes = name.iter().filter(|byte| **byte == b'/').count();
    let is_right = !name.is_empty() && name.len() <= LOCK_NAME_BYTES_MAX && slashes <= LOCK_NAME_SLASHES_MAX;
    check(is_right, InvalidLock::Name)
}

/// Checks an acquire.
pub fn validate_acquire(acquire: &LockAcquire) -> Result<(), InvalidLock> {
    validate_lock_name(&acquire.name)?;
    check_request(&acquire.request)?;
    check(acquire.owner.len() <= LOCK_OWNER_BYTES_MAX, InvalidLock::Owner)?;
    check(acquire.metadata.len() <= LOCK_METADATA_BYTES_MAX, InvalidLock::Metadata)?;
    check(acquire.holds_max <= LOCK_HOLDS_MAX, InvalidLock::Holds)?;
    check(acquire.delay_ms <= LOCK_DELAY_MS_MAX, InvalidLock::Delay)?;
    match acquire.mode {
        LockMode::Exclusive | LockMode::Shared => Ok(()),
        LockMode::Semaphore { permits, limit } => {
            check((1..=limit).contains(&permits) && limit <= LOCK_PERMITS_MAX, InvalidLock::Permits)
        }
    }
}

/// Checks a cancel.
pub fn validate_cancel(cancel: &LockCancel) -> Result<(), InvalidLock> {
    validate_lock_name(&cancel.name)?;
    check_request(&cancel.request)
}

/// Checks a forced release.
pub fn validate_force(force: &LockForce) -> Result<(), InvalidLock> {
    check(force.reason.len() <= LOCK_REASON_BYTES_MAX, InvalidLock::Reason)
}

fn check_request(request: &LockRequest) -> Result<(), InvalidLock> {
    let numbers = 1..=LOCK_REQUEST_MAX;
    let is_known = numbers.contains(&request.number) && numbers.contains(&request.lowest_open);
    check(is_known && request.lowest_open <= request.number, InvalidLock::Request)
}

fn check(holds: bool, otherwise: InvalidLock) -> Result<(), InvalidLock> {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// Checks a transaction. The longest list of each level counts against `max_ops`, and nested levels get what is left.
pub fn validate_txn(txn: &Txn, max_ops: usize) -> Result<(), InvalidTxn> {
    check_ops(txn, max_ops, 1)?;
    check_duplicates(txn)
}

fn check_ops(txn: &Txn, max_ops: usize, depth: u32) -> Result<(), InvalidTxn> {
    if depth > TXN_DEPTH_MAX {
        return Err(InvalidTxn::TooDeep);
    }
    let ops = txn.compares.len().max(txn.success.len()).max(txn.failure.len());
    let left = max_ops.checked_sub(ops).ok_or(InvalidTxn::TooManyOps)?;
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Txn(nested) => check_ops(nested, left, depth + 1)?,
            Op::Range(_) | Op::Put(_) | Op::DeleteRange(_) => {}
        }
    }
    Ok(())
}

/// Checks that no path through a transaction changes a key twice. (Deleting it twice is no second change.)
pub(crate) fn check_duplicates(txn: &Txn) -> Result<(), InvalidTxn> {
    Touched::by(&txn.success)?;
    Touched::by(&txn.failure)?;
    Ok(())
}

/// Whether a transaction is answered as a read: only ranges, none of them nested, as in etcd.
pub fn txn_is_read_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match op {
        Op::Range(_) => true,
        Op::Put(_) | Op::DeleteRange(_) | Op::Txn(_) => false,
    })
}

/// Whether a transaction holds a put on any path.
pub(crate) fn txn_puts(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(nested) => txn_puts(nested),
        Op::Range(_) | Op::DeleteRange(_) => false,
    })
}

/// The space that a command may take, for the quota: 0 for one that takes none and is let through when space is out.
///
/// Unlike etcd's, the cost of a transaction counts its nested transactions.
pub fn cost_bytes(command: &Command) -> u64 {
    match command {
        Command::Put(put) => cost_put(put),
        Command::Txn(txn) => cost_txn(txn),
        Command::LeaseGrant(grant) => LEASE_BYTES + grant.holder.len_bytes(),
        Command::LockAcquire(acquire) => cost_acquire(acquire),
        Command::Guarded(Guarded { write: GuardedWrite::Put(put), .. }) => cost_put(put),
        Command::DeleteRange(_)
        | Command::Compact(_)
        | Command::LeaseRevoke(_)
        | Command::LeaseRenew(_)
        | Command::AlarmRaise(..)
        | Command::AlarmClear(..)
        | Command::MemberPublish(_)
        | Command::LockCancel(_)
        | Command::LockRelease(_)
        | Command::LockForce(_)
        | Command::LockDelayEnd(_)
        | Command::Guarded(Guarded { write: GuardedWrite::DeleteRange(_), .. }) => 0,
    }
}

/// A key with its value, and the row beside it.
fn cost_acquire(acquire: &LockAcquire) -> u64 {
    let bytes = 2 * acquire.name.len() + acquire.metadata.len() + acquire.owner.len();
    PUT_OVERHEAD_BYTES + LEASE_BYTES + bytes as u64
}

fn cost_put(put: &Put) -> u64 {
    PUT_OVERHEAD_BYTES + put.key.len() as u64 + put.value.len() as u64
}

fn cost_txn(txn: &Txn) -> u64 {
    cost_branch(&txn.success).max(cost_branch(&txn.failure))
}

fn cost_branch(ops: &[Op]) -> u64 {
    ops.iter()
        .map(|op| match op {
            Op::Put(put) => cost_put(put),
            Op::Txn(nested) => cost_txn(nested),
            Op::Range(_) | Op::DeleteRange(_) => 0,
        })
        .sum()
}

/// The keys that a branch may put and the ranges that it may delete.
#[derive(Default)]
struct Touched<'a> {
    puts: BTreeSet<&'a [u8]>,
    deleted_keys: BTreeSet<&'a [u8]>,
    deleted_ranges: RangeUnion<'a>,
}

impl<'a> Touched<'a> {
    fn by(ops: &'a [Op]) -> Result<Touched<'a>, InvalidTxn> {
        let mut all = Touched::default();
        for op in ops {
            match op {
                Op::Range(_) => {}
                Op::Put(put) => {
                    if all.puts.contains(&put.key[..]) || all.deletes(&put.key) {
                        return Err(InvalidTxn::DuplicateKey);
                    }
                    all.puts.insert(&put.key);
                }
                Op::DeleteRange(delete) => {
                    if all.puts_in(&delete.range) {
                        return Err(InvalidTxn::DuplicateKey);
                    }
                    all.delete(&delete.range);
                }
                // Only one branch of a nested transaction is taken, so its branches may overlap each other.
                Op::Txn(nested) => {
                    let mut either = Touched::by(&nested.success)?;
                    either.merge(Touched::by(&nested.failure)?);
                    if all.conflicts_with(&either) {
                        return Err(InvalidTxn::DuplicateKey);
                    }
                    all.merge(either);
                }
            }
        }
        Ok(all)
    }

    fn deletes(&self, key: &[u8]) -> bool {
        self.deleted_keys.contains(key) || self.deleted_ranges.contains(key)
    }

    fn puts_in(&self, range: &KeyRange) -> bool {
        match range {
            KeyRange::One(key) => self.puts.contains(&key[..]),
            KeyRange::Between(start, end) => self.puts_between(start, End::Before(end)),
            KeyRange::From(start) => self.puts_between(start, End::Never),
        }
    }

    fn puts_between(&self, start: &[u8], end: End<'_>) -> bool {
        self.puts.range(start..).next().is_some_and(|key| end.is_after(key))
    }

    fn delete(&mut self, range: &'a KeyRange) {
        match range {
            KeyRange::One(key) => {
                self.deleted_keys.insert(key);
            }
            KeyRange::Between(start, end) if start < end => self.deleted_ranges.add(start, End::Before(end)),
            KeyRange::Between(..) => {}
            KeyRange::From(start) => self.deleted_ranges.add(start, End::Never),
        }
    }

    fn conflicts_with(&self, other: &Touched<'_>) -> bool {
        other.puts.iter().any(|key| self.puts.contains(key) || self.deletes(key))
            || other.deleted_keys.iter().any(|key| self.puts.contains(key))
            || other.deleted_ranges.0.iter().any(|(start, end)| self.puts_between(start, *end))
    }

    fn merge(&mut self, other: Touched<'a>) {
        self.puts.extend(other.puts);
        self.deleted_keys.extend(other.deleted_keys);
        for (start, end) in other.deleted_ranges.0 {
            self.deleted_ranges.add(start, end);
        }
    }
}

/// Where a range ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End<'a> {
    Before(&'a [u8]),
    Never,
}

impl End<'_> {
    fn is_after(self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < end,
            End::Never => true,
        }
    }
}

/// A union of ranges as disjoint ones, so that a look-up is logarithmic however many there are.
#[derive(Default)]
struct RangeUnion<'a>(BTreeMap<&'a [u8], End<'a>>);

impl<'a> RangeUnion<'a> {
    fn contains(&self, key: &[u8]) -> bool {
        self.0.range(..=key).next_back().is_some_and(|(_, end)| end.is_after(key))
    }

    fn add(&mut self, mut start: &'a [u8], mut end: End<'a>) {
        if let Some((&earlier, &reach)) = self.0.range(..=start).next_back()
            && reach.is_after(start)
        {
            start = earlier;
            end = end.max(reach);
        }
        while let Some((&later, &reach)) = self.0.range(start..).next()
            && end.is_after(later)
        {
            self.0.remove(later);
            end = end.max(reach);
        }
        self.0.insert(start, end);
    }
}
