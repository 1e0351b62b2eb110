//! What is stored of native locks, and the layout of their keys.
//!
//! A lock is its keys: all that lie under `name/`, in the order of their create revisions, as in etcd's recipe. What
//! is here stands beside those keys, in one table whose rows are of four kinds. `docs/LOCKS.md` has the rules.

pub mod read;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};

use crate::command::KeyRange;
use crate::ids::{LeaseId, Revision};
use crate::row::{Incarnation, RevokedBy};

/// The longest name of a lock: what a create or delete of any key may have to look up is bounded by it.
pub const LOCK_NAME_BYTES_MAX: usize = 512;
/// The longest name of an owner, as of a lease's holder.
pub const LOCK_OWNER_BYTES_MAX: usize = 128;
/// The longest metadata, which is the value of the lock's key.
pub const LOCK_METADATA_BYTES_MAX: usize = 1024;
/// The most slashes in a lock's name: each one in a key that comes or goes may end a name, and costs a look.
pub const LOCK_NAME_SLASHES_MAX: usize = 16;
/// The longest reason for a forced release.
pub const LOCK_REASON_BYTES_MAX: usize = 256;
/// The contenders among which a native one may join. When a writer leaves, as many readers may be granted by one command,
/// which takes about two microseconds for each.
pub const LOCK_CONTENDERS_MAX: u64 = 32_768;
/// The most permits of a semaphore, far more than contenders.
pub const LOCK_PERMITS_MAX: u32 = 1_000_000;
/// The most holds of one key: each is a number in its row, which is written anew by each.
pub const LOCK_HOLDS_MAX: u32 = 256;
/// How far the request numbers of a lease may be apart. The finished ones among them are kept.
pub const LOCK_REQUESTS_OPEN_MAX: u64 = 1024;
/// The longest lock-delay. For so long a lease's id cannot be granted again.
pub const LOCK_DELAY_MS_MAX: u64 = 60_000;
/// The greatest request number: one can always be added.
pub const LOCK_REQUEST_MAX: u64 = u64::MAX >> 1;

/// How a lock is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockMode {
    /// Alone.
    #[default]
    Exclusive,
    /// Together with others that want it so.
    Shared,
    /// Together with others, as long as the permits suffice.
    Semaphore {
        /// How many this one takes.
        permits: u32,
        /// How many there are.
        limit: u32,
    },
}

impl LockMode {
    /// How it is shared, if it is.
    pub(crate) fn sharing(self) -> Option<Sharing> {
        match self {
            LockMode::Exclusive => None,
            LockMode::Shared => Some(Sharing::Readers),
            LockMode::Semaphore { limit, .. } => Some(Sharing::Permits { limit }),
        }
    }
}

/// In which way those share a lock that do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Any number of them.
    Readers,
    /// As far as the permits suffice.
    Permits {
        /// How many there are.
        limit: u32,
    },
}

/// The key of a row of `locks`. Their order is that of their bytes in storage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockKey {
    /// The delay of a key, which was its lease's.
    Delay(LeaseId, Bytes),
    /// A lock, by name.
    Lock(Bytes),
    /// A contender: the lock's name, the create revision of its key, its key.
    Place(Bytes, Revision, Bytes),
    /// The request numbers of a lease.
    Requests(LeaseId),
}

/// A row of `locks`, of the kind that its key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockValue {
    /// See [`LockDelay`].
    Delay(LockDelay),
    /// See [`LockRow`].
    Lock(LockRow),
    /// See [`Contender`].
    Place(Contender),
    /// See [`LockRequests`].
    Requests(LockRequests),
}

/// A lock that somebody acquired natively, for as long as a key is under its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockRow {
    /// How many keys are under its name: more than none.
    pub contenders: u64,
    /// How many of them hold it: the oldest ones.
    pub granted: u64,
    /// Whether those that hold it are one that does not share.
    pub exclusive: bool,
    /// The permits that are taken.
    pub permits: u64,
    /// The create revision of the oldest contender.
    pub oldest: Revision,
    /// Nobody that waits is older than this.
    pub frontier: Revision,
    /// In which way contenders share it, and how many of them there are, if there are any.
    pub sharing: Option<(Sharing, u64)>,
}

/// A key under a lock's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contender {
    /// Since when it holds the lock, if it does.
    pub granted: Option<Granted>,
    /// What is known of it if it came by an Acquire of this lock. One that did not is exclusive.
    pub native: Option<Native>,
}

/// When a contender became a holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// The revision. For one that was there before the lock was native: that of its creation.
    pub revision: Revision,
    /// The lease clock, in milliseconds.
    pub clock_ms: u64,
}

/// A contender that came by an Acquire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Native {
    /// Whose it is.
    pub lease: LeaseId,
    /// Which life of the lease.
    pub incarnation: Incarnation,
    /// How it wants the lock.
    pub mode: LockMode,
    /// The owner, in the client's words.
    pub owner: String,
    /// How often it may be held: 0 if it is not re-entrant.
    pub holds_max: u32,
    /// For how long the lock stays taken once the lease has expired, in milliseconds.
    pub delay_ms: u64,
    /// The lease clock when it joined, in milliseconds.
    pub since_ms: u64,
    /// Whether its lease has expired, and there is a row for its delay.
    pub delayed: bool,
    /// What it was asked for by, at least once; each after the first is a hold more.
    pub requests: Vec<Attached>,
}

impl Contender {
    /// How it wants the lock.
    pub(crate) fn mode(&self) -> LockMode {
        self.native.as_ref().map_or(LockMode::Exclusive, |native| native.mode)
    }
}

/// A request, and the try that stands for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// The request.
    pub number: u64,
    /// The highest attach number that it was tried with.
    pub attach: u64,
}

/// The request numbers of a lease that are finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRequests {
    /// All below are.
    pub floor: u64,
    /// Those above it that are, ascending. The floor itself is not.
    pub finished: Vec<u64>,
}

impl Default for LockRequests {
    fn default() -> LockRequests {
        LockRequests { floor: 1, finished: Vec::new() }
    }
}

impl LockRequests {
    /// Whether a number is finished.
    pub fn is_finished(&self, number: u64) -> bool {
        number < self.floor || self.finished.binary_search(&number).is_ok()
    }

    /// Whether a number may be asked with, when the client names the lowest one that is open.
    pub(crate) fn admits(&self, number: u64, lowest_open: u64) -> bool {
        let floor = self.floor.max(lowest_open);
        number < floor.saturating_add(LOCK_REQUESTS_OPEN_MAX)
    }

    /// Notes that all below a number are finished.
    pub(crate) fn raise(&mut self, lowest_open: u64) {
        self.floor = self.floor.max(lowest_open);
        self.settle();
    }

    /// Notes that a number is finished.
    pub(crate) fn finish(&mut self, number: u64) {
        if number >= self.floor
            && let Err(at) = self.finished.binary_search(&number)
        {
            self.finished.insert(at, number);
            self.settle();
        }
    }

    /// One form for each set of numbers.
    fn settle(&mut self) {
        let mut covered = 0;
        for number in &self.finished {
            if *number > self.floor {
                break;
            }
            self.floor = self.floor.max(number.saturating_add(1));
            covered += 1;
        }
        self.finished.drain(..covered);
    }
}

/// A key that stays for a while although its lease expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockDelay {
    /// The revision that wrote it without its lease. It is deleted only if that is still its last.
    pub modified: Revision,
    /// The reading of the lease clock, in milliseconds, from which on it may go.
    pub ends_ms: u64,
}

/// What is kept of an event of a lock's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockCause {
    /// It was created by an Acquire.
    Acquired(LockClaim),
    /// Its lease expired, and it stays for its delay.
    Delayed(LockLeft),
    /// It was deleted.
    Left(LockEnd, LockLeft),
}

/// Who acquires, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockClaim {
    /// The owner, in the client's words.
    pub owner: String,
    /// How the lock is wanted.
    pub mode: LockMode,
    /// The request's number.
    pub number: u64,
}

/// How a contender left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockEnd {
    /// It let go.
    Released,
    /// Its request was cancelled.
    Cancelled,
    /// Its lease was not renewed.
    Expired,
    /// Its lease was revoked by a client.
    Revoked,
    /// An operator took it away.
    Forced,
    /// A plain client deleted its key.
    Deleted,
    /// Its delay was over.
    Lapsed,
}

/// What a contender leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockLeft {
    /// Its lease.
    pub lease: LeaseId,
    /// The owner, in the client's words; empty if it was not native.
    pub owner: String,
    /// Since which revision it held the lock, if it did and that is known.
    pub granted: Option<Revision>,
    /// For how long by the lease clock, in milliseconds.
    pub held_ms: u64,
    /// Who ended it, if that is told.
    pub by: Option<RevokedBy>,
    /// Why, in an operator's words.
    pub reason: String,
}

/// The key by which a lease contends for a lock, as etcd's clients write it.
pub fn lock_key(name: &[u8], lease: LeaseId) -> Bytes {
    let sign = if lease.0 < 0 { "-" } else { "" };
    let suffix = format!("/{sign}{:x}", lease.0.unsigned_abs());
    let mut key = BytesMut::with_capacity(name.len() + suffix.len());
    key.put_slice(name);
    key.put_slice(suffix.as_bytes());
    key.freeze()
}

/// The keys of a lock's contenders: all under `name/`.
pub fn lock_range(name: &[u8]) -> KeyRange {
    let ending = |last: u8| {
        let mut key = BytesMut::with_capacity(name.len() + 1);
        key.put_slice(name);
        key.put_u8(last);
        key.freeze()
    };
    KeyRange::Between(ending(b'/'), ending(b'/' + 1))
}

/// The names of the locks that a key is a contender for, the shortest first.
pub fn lock_names(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let names = slashes.take(LOCK_NAME_SLASHES_MAX + 1).skip_while(|at| *at == 0);
    names.take_while(|at| *at <= LOCK_NAME_BYTES_MAX).map(|at| &key[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_etcds_clients() {
        assert_eq!(lock_key(b"a", LeaseId(0x7587_1f2a)), "a/75871f2a");
        // Go's %x of a negative number.
        assert_eq!(lock_key(b"a/b", LeaseId(-255)), "a/b/-ff");
        assert_eq!(lock_key(b"", LeaseId(i64::MIN)), "/-8000000000000000");
    }

    #[test]
    fn a_key_contends_for_each_name_that_it_lies_under() {
        let names = |key: &'static str| lock_names(key.as_bytes()).collect::<Vec<_>>();
        assert_eq!(names("a"), Vec::<&[u8]>::new());
        assert_eq!(names("/a"), Vec::<&[u8]>::new());
        assert_eq!(names("a/"), [b"a"]);
        assert_eq!(names("a/b//c"), [&b"a"[..], b"a/b", b"a/b/"]);
        for (key, name) in ["a/1", "a/", "a//"].into_iter().zip([b"a"; 3]) {
            assert!(lock_range(name).contains(key.as_bytes()), "{key}");
        }
        for key in ["a", "a0", "b/1", "a.1"] {
            assert!(!lock_range(b"a").contains(key.as_bytes()), "{key}");
        }
        let longest = [&b"n".repeat(LOCK_NAME_BYTES_MAX)[..], b"/1"].concat();
        assert_eq!(lock_names(&longest).count(), 1);
        let longer = [&b"n".repeat(LOCK_NAME_BYTES_MAX + 1)[..], b"/1"].concat();
        assert_eq!(lock_names(&longer).count(), 0);
        let deep = b"n/".repeat(2 * LOCK_NAME_SLASHES_MAX);
        let deepest = lock_names(&deep).last().expect("some names");
        assert_eq!(deepest.iter().filter(|byte| **byte == b'/').count(), LOCK_NAME_SLASHES_MAX);
    }

    #[test]
    fn finished_numbers_have_one_form() {
        let mut requests = LockRequests::default();
        requests.finish(3);
        requests.finish(2);
        assert_eq!(requests, LockRequests { floor: 1, finished: [2, 3].into() });
        requests.finish(1);
        assert_eq!(requests, LockRequests { floor: 4, finished: Vec::new() });
        requests.finish(1);
        requests.finish(6);
        requests.finish(9);
        requests.raise(6);
        assert_eq!(requests, LockRequests { floor: 7, finished: [9].into() });
        requests.raise(2);
        assert!([1, 6, 9].iter().all(|number| requests.is_finished(*number)));
        assert!([7, 8, 10].iter().all(|number| !requests.is_finished(*number)));
        assert!(requests.admits(6 + LOCK_REQUESTS_OPEN_MAX, 0));
        assert!(!requests.admits(7 + LOCK_REQUESTS_OPEN_MAX, 0));
        assert!(requests.admits(7 + LOCK_REQUESTS_OPEN_MAX, 8));
    }
}
