//! The keys of the tables as bytes. Integers are big-endian, so that byte order is numeric order.
//!
//! User keys stand as they are: wherever one is part of a table's key it comes last, so nothing needs an escape, and
//! a prefix of user keys is a prefix of table keys. Names of locks that something follows are the exception. The layout is pinned by golden bytes below: a change needs a new
//! [`FORMAT_VERSION`].

use bytes::Bytes;
use tenure_core::apply::LEASE_ENDS_MAX;
use tenure_core::command::KeyRange;
use tenure_core::lock::LockKey;
use tenure_core::{EventId, LeaseId, Revision};

use crate::engine::{Bounds, Table};
use crate::error::StorageError;

/// The version of the whole on-disk format. Data of another version is refused.
pub const FORMAT_VERSION: u32 = 1;

/// The row of `meta` that holds [`FORMAT_VERSION`].
pub const META_FORMAT: &[u8] = b"format";
/// The row of `meta` that holds the replicated scalars.
pub const META_STATE: &[u8] = b"state";
/// The row of `meta` that holds the applied index and term.
pub const META_APPLIED: &[u8] = b"applied";
/// The row of `meta` that holds the membership, as its owner encoded it.
pub const META_MEMBERSHIP: &[u8] = b"membership";
/// The row of `meta` that holds what is this node's alone: byte counts and the progress of purging.
pub const META_LOCAL: &[u8] = b"local";

const HISTORY_KEY_BYTES: usize = 12;
const LEASE_KEY_BYTES: usize = 8;
const LEASE_END_KEY_BYTES: usize = 8;

/// The key of an event in `history`: revision (8 bytes), sub (4).
pub fn history_key(id: EventId) -> [u8; HISTORY_KEY_BYTES] {
    let mut key = [0; HISTORY_KEY_BYTES];
    key[..8].copy_from_slice(&ordered(id.revision.0).to_be_bytes());
    key[8..].copy_from_slice(&id.sub.to_be_bytes());
    key
}

/// The event that a key of `history` names.
pub fn decode_history_key(key: &[u8]) -> Result<EventId, StorageError> {
    let wrong = StorageError::damaged(Table::History, "its key is not 12 bytes long");
    let Some((revision, rest)) = key.split_first_chunk::<8>() else {
        return Err(wrong);
    };
    let Ok(sub) = <[u8; 4]>::try_from(rest) else {
        return Err(wrong);
    };
    Ok(EventId { revision: Revision(unordered(u64::from_be_bytes(*revision))), sub: u32::from_be_bytes(sub) })
}

/// The key of a lease in `leases` and `lease_holders`.
pub fn lease_key(id: LeaseId) -> [u8; LEASE_KEY_BYTES] {
    ordered(id.0).to_be_bytes()
}

/// The lease that a key of `leases` names.
pub fn decode_lease_key(key: &[u8]) -> Result<LeaseId, StorageError> {
    match <[u8; LEASE_KEY_BYTES]>::try_from(key) {
        Ok(bytes) => Ok(LeaseId(unordered(u64::from_be_bytes(bytes)))),
        Err(_) => Err(StorageError::damaged(Table::Leases, "its key is not 8 bytes long")),
    }
}

/// The key of an attachment in `lease_keys`: lease id (8 bytes), user key.
pub fn lease_keys_key(id: LeaseId, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LEASE_KEY_BYTES + key.len());
    bytes.extend_from_slice(&lease_key(id));
    bytes.extend_from_slice(key);
    bytes
}

/// The user key of a key of `lease_keys`.
pub fn decode_attached_key(key: &[u8]) -> Result<&[u8], StorageError> {
    match key.split_first_chunk::<LEASE_KEY_BYTES>() {
        Some((_, user_key)) => Ok(user_key),
        None => Err(StorageError::damaged(Table::LeaseKeys, "its key is shorter than a lease id")),
    }
}

/// The key of a record in `lease_ends`.
pub fn lease_end_key(number: u64) -> [u8; LEASE_END_KEY_BYTES] {
    number.to_be_bytes()
}

/// The number of the record that a key of `lease_ends` names.
pub fn decode_lease_end_key(key: &[u8]) -> Result<u64, StorageError> {
    match <[u8; LEASE_END_KEY_BYTES]>::try_from(key) {
        Ok(bytes) => Ok(u64::from_be_bytes(bytes)),
        Err(_) => Err(StorageError::damaged(Table::LeaseEnds, "its key is not 8 bytes long")),
    }
}

/// The first byte of each kind of key in `locks`, in the order of [`LockKey`].
const LOCK_KIND_DELAY: u8 = b'D';
const LOCK_KIND_LOCK: u8 = b'L';
const LOCK_KIND_PLACE: u8 = b'Q';
const LOCK_KIND_REQUESTS: u8 = b'R';
/// What a 0 becomes in a name that something follows, and what ends the name: less than any name that goes on.
const ESCAPED_ZERO: [u8; 2] = [0, 0xff];
const NAME_END: [u8; 2] = [0, 1];

/// A key of `locks`.
pub fn lock_key(key: &LockKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    match key {
        LockKey::Delay(lease, key) => {
            out.push(LOCK_KIND_DELAY);
            out.extend_from_slice(&lease_keys_key(*lease, key));
        }
        LockKey::Lock(name) => {
            out.push(LOCK_KIND_LOCK);
            out.extend_from_slice(name);
        }
        LockKey::Place(name, create, key) => {
            out.push(LOCK_KIND_PLACE);
            for byte in name {
                match byte {
                    0 => out.extend_from_slice(&ESCAPED_ZERO),
                    byte => out.push(*byte),
                }
            }
            out.extend_from_slice(&NAME_END);
            out.extend_from_slice(&ordered(create.0).to_be_bytes());
            out.extend_from_slice(key);
        }
        LockKey::Requests(lease) => {
            out.push(LOCK_KIND_REQUESTS);
            out.extend_from_slice(&lease_key(*lease));
        }
    }
    out
}

/// What a key of `locks` names.
pub fn decode_lock_key(key: &[u8]) -> Result<LockKey, StorageError> {
    let wrong = || StorageError::damaged(Table::Locks, "it stands under no key of a kind that is known");
    let (kind, rest) = key.split_first().ok_or_else(wrong)?;
    match *kind {
        LOCK_KIND_DELAY => {
            let (lease, key) = rest.split_at_checked(LEASE_KEY_BYTES).ok_or_else(wrong)?;
            Ok(LockKey::Delay(decode_lease_key(lease)?, Bytes::copy_from_slice(key)))
        }
        LOCK_KIND_LOCK => Ok(LockKey::Lock(Bytes::copy_from_slice(rest))),
        LOCK_KIND_PLACE => {
            let (name, rest) = decode_name(rest).ok_or_else(wrong)?;
            let (create, key) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
            let create = Revision(unordered(u64::from_be_bytes(*create)));
            Ok(LockKey::Place(name, create, Bytes::copy_from_slice(key)))
        }
        LOCK_KIND_REQUESTS => {
            let lease = <[u8; LEASE_KEY_BYTES]>::try_from(rest).map_err(|_| wrong())?;
            Ok(LockKey::Requests(decode_lease_key(&lease)?))
        }
        _ => Err(wrong()),
    }
}

/// Takes an escaped name off the front.
fn decode_name(mut bytes: &[u8]) -> Option<(Bytes, &[u8])> {
    let mut name = Vec::new();
    loop {
        let zero = bytes.iter().position(|byte| *byte == 0)?;
        name.extend_from_slice(&bytes[..zero]);
        let (mark, rest) = bytes[zero..].split_first_chunk::<2>()?;
        match *mark {
            ESCAPED_ZERO => name.push(0),
            NAME_END => return Some((name.into(), rest)),
            _ => return None,
        }
        bytes = rest;
    }
}

/// The bounds of a scan, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanBounds {
    lower: Vec<u8>,
    upper: Option<Vec<u8>>,
}

impl ScanBounds {
    /// The keys of a range of user keys, in `current` and `live`.
    pub fn of_keys(range: &KeyRange) -> ScanBounds {
        match range {
            KeyRange::One(key) => {
                let mut upper = Vec::with_capacity(key.len() + 1);
                upper.extend_from_slice(key);
                upper.push(0);
                ScanBounds { lower: key.to_vec(), upper: Some(upper) }
            }
            KeyRange::Between(start, end) => ScanBounds { lower: start.to_vec(), upper: Some(end.to_vec()) },
            KeyRange::From(start) => ScanBounds { lower: start.to_vec(), upper: None },
        }
    }

    /// The keys of the events of `first..=last` in `history`.
    pub fn of_revisions(first: Revision, last: Revision) -> ScanBounds {
        let upper = last.0.checked_add(1).map(|beyond| event_floor(Revision(beyond)).to_vec());
        ScanBounds { lower: event_floor(first).to_vec(), upper }
    }

    /// The keys of a lease's attachments in `lease_keys`: all, or those that follow a user key.
    pub fn of_lease_after(id: LeaseId, after: Option<&[u8]>) -> ScanBounds {
        let mut lower = lease_keys_key(id, after.unwrap_or_default());
        if after.is_some() {
            // The first key that can follow.
            lower.push(0);
        }
        let upper = id.0.checked_add(1).map(|beyond| lease_key(LeaseId(beyond)).to_vec());
        ScanBounds { lower, upper }
    }

    /// The leases that follow one, or all. Nothing follows the last.
    pub fn of_leases_after(after: Option<LeaseId>) -> Option<ScanBounds> {
        let lower = match after {
            None => Vec::new(),
            Some(id) => lease_key(LeaseId(id.0.checked_add(1)?)).to_vec(),
        };
        Some(ScanBounds { lower, upper: None })
    }

    /// The records of `lease_ends` that are kept, when `count` were made. Those before may be gone from the table and not
    /// from its files, where a scan would walk over them.
    pub fn of_lease_ends(count: u64) -> ScanBounds {
        ScanBounds { lower: lease_end_key(count.saturating_sub(LEASE_ENDS_MAX)).to_vec(), upper: None }
    }

    /// The rows of `locks` from a key on.
    pub fn of_locks_from(key: &LockKey) -> ScanBounds {
        ScanBounds { lower: lock_key(key), upper: None }
    }

    /// The bounds to hand to an engine.
    pub fn as_bounds(&self) -> Bounds<'_> {
        Bounds { lower: &self.lower, upper: self.upper.as_deref() }
    }
}

fn event_floor(revision: Revision) -> [u8; HISTORY_KEY_BYTES] {
    history_key(EventId { revision, sub: 0 })
}

/// Flips the sign bit, so that negative numbers sort before positive ones.
fn ordered(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

fn unordered(value: u64) -> i64 {
    (value ^ (1 << 63)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_keep_their_golden_bytes() {
        let id = EventId { revision: Revision(0x0102_0304), sub: 7 };
        assert_eq!(history_key(id), [0x80, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 7]);
        assert_eq!(lease_key(LeaseId(-1)), [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(lease_end_key(258), [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(lease_keys_key(LeaseId(258), b"a\0b"), [0x80, 0, 0, 0, 0, 0, 1, 2, b'a', 0, b'b']);
        assert_eq!(
            [META_FORMAT, META_STATE, META_APPLIED, META_MEMBERSHIP, META_LOCAL],
            [&b"format"[..], b"state", b"applied", b"membership", b"local"]
        );
    }

    #[test]
    fn keys_of_locks_keep_their_golden_bytes() {
        let text = Bytes::from_static;
        assert_eq!(lock_key(&LockKey::Lock(text(b"a/\0"))), b"La/\0");
        let place = LockKey::Place(text(b"a\0b"), Revision(258), text(b"k\0"));
        assert_eq!(lock_key(&place), b"Qa\0\xffb\0\x01\x80\0\0\0\0\0\x01\x02k\0");
        assert_eq!(lock_key(&LockKey::Requests(LeaseId(-1))), b"R\x7f\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!(lock_key(&LockKey::Delay(LeaseId(1), text(b"a/1"))), b"D\x80\0\0\0\0\0\0\x01a/1");
    }

    #[test]
    fn no_key_of_locks_is_of_an_unknown_kind() {
        for wrong in
            [&b""[..], b"M", b"D1234567", b"R1234567", b"R123456789", b"Qa", b"Qa\0", b"Qa\0\x02", b"Qa\0\x01xxxxxxx"]
        {
            assert!(decode_lock_key(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        for length in (0..40).filter(|length| *length != 12) {
            assert!(decode_history_key(&vec![0xff; length]).is_err());
        }
        for length in (0..40).filter(|length| *length != 8) {
            assert!(decode_lease_key(&vec![0xff; length]).is_err());
            assert!(decode_lease_end_key(&vec![0xff; length]).is_err());
        }
        for length in 0..8 {
            assert!(decode_attached_key(&vec![0xff; length]).is_err());
        }
        assert_eq!(decode_attached_key(b"12345678").unwrap(), b"");
    }

    #[test]
    fn a_range_of_one_key_holds_nothing_else() {
        let bounds = ScanBounds::of_keys(&KeyRange::One(Bytes::from_static(b"k")));
        let bounds = bounds.as_bounds();
        let inside = |key: &[u8]| key >= bounds.lower && bounds.upper.is_none_or(|upper| key < upper);
        assert!(inside(b"k"));
        for key in [&b"j\xff\xff"[..], b"k\0", b"l", b""] {
            assert!(!inside(key));
        }
    }

    #[test]
    fn pages_begin_right_behind_what_was_seen() {
        let inside = |bounds: &ScanBounds, key: &[u8]| {
            let bounds = bounds.as_bounds();
            key >= bounds.lower && bounds.upper.is_none_or(|upper| key < upper)
        };
        let keys = ScanBounds::of_lease_after(LeaseId(7), Some(b"b"));
        for (key, is_inside) in [(&b""[..], false), (b"a", false), (b"b", false), (b"b\0", true), (b"c", true)] {
            assert_eq!(inside(&keys, &lease_keys_key(LeaseId(7), key)), is_inside, "{key:?}");
        }
        assert!(!inside(&keys, &lease_keys_key(LeaseId(8), b"c")));
        let leases = ScanBounds::of_leases_after(Some(LeaseId(-1))).unwrap();
        for (id, is_inside) in [(i64::MIN, false), (-1, false), (0, true), (1, true), (i64::MAX, true)] {
            assert_eq!(inside(&leases, &lease_key(LeaseId(id))), is_inside, "{id}");
        }
        assert!(inside(&ScanBounds::of_leases_after(None).unwrap(), &lease_key(LeaseId(i64::MIN))));
        assert_eq!(ScanBounds::of_leases_after(Some(LeaseId(i64::MAX))), None);
    }

    #[test]
    fn the_largest_numbers_have_bounds() {
        assert!(ScanBounds::of_revisions(Revision(1), Revision(i64::MAX)).as_bounds().upper.is_none());
        assert!(ScanBounds::of_lease_after(LeaseId(i64::MAX), None).as_bounds().upper.is_none());
        assert!(ScanBounds::of_revisions(Revision(5), Revision(3)).as_bounds().is_empty());
    }

    fn any_lock_key() -> impl Strategy<Value = LockKey> {
        let text = || proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()], 0..4);
        let text = move || text().prop_map(Bytes::from);
        let number = || prop_oneof![-1..2i64, any::<i64>()];
        prop_oneof![
            (number(), text()).prop_map(|(lease, key)| LockKey::Delay(LeaseId(lease), key)),
            text().prop_map(LockKey::Lock),
            (text(), number(), text()).prop_map(|(name, create, key)| LockKey::Place(name, Revision(create), key)),
            number().prop_map(|lease| LockKey::Requests(LeaseId(lease))),
        ]
    }

    proptest! {
        #[test]
        fn byte_order_is_event_order(a: (i64, u32), b: (i64, u32)) {
            let id = |(revision, sub)| EventId { revision: Revision(revision), sub };
            prop_assert_eq!(history_key(id(a)).cmp(&history_key(id(b))), a.cmp(&b));
            prop_assert_eq!(decode_history_key(&history_key(id(a))).unwrap(), id(a));
        }

        #[test]
        fn byte_order_is_the_order_of_locks(a in any_lock_key(), b in any_lock_key()) {
            prop_assert_eq!(lock_key(&a).cmp(&lock_key(&b)), a.cmp(&b));
            prop_assert_eq!(decode_lock_key(&lock_key(&a)).unwrap(), a);
        }

        #[test]
        fn no_key_of_locks_panics(key in proptest::collection::vec(0u8..4, 0..20), kind in 65u8..91) {
            if let Ok(decoded) = decode_lock_key(&[&[kind], &key[..]].concat()) {
                prop_assert_eq!(lock_key(&decoded), [&[kind], &key[..]].concat());
            }
        }

        #[test]
        fn byte_order_is_lease_and_key_order(a: (i64, Vec<u8>), b: (i64, Vec<u8>)) {
            let bytes = |(id, key): &(i64, Vec<u8>)| lease_keys_key(LeaseId(*id), key);
            prop_assert_eq!(bytes(&a).cmp(&bytes(&b)), a.cmp(&b));
            let encoded = bytes(&a);
            prop_assert_eq!(decode_attached_key(&encoded).unwrap(), &a.1[..]);
            prop_assert_eq!(decode_lease_key(&encoded[..8]).unwrap(), LeaseId(a.0));
        }
    }
}
