//! The row encodings: golden bytes, round trips, and that no bytes make a decoder panic.

use bytes::Bytes;
use proptest::prelude::*;
use tenure_core::lock::{
    Attached, Contender, Granted, LockCause, LockClaim, LockDelay, LockEnd, LockKey, LockLeft, LockMode, LockRequests,
    LockRow, LockValue, Native, Sharing,
};
use tenure_core::row::{
    AlarmKind, AlarmRow, ClientName, EventRow, Incarnation, KeyMeta, LeaseEnd, LeaseHolder, LeaseRow, LockCounts,
    MemberAttributes, Meta, RevokedBy,
};
use tenure_core::{EventId, LeaseId, LogIndex, MemberId, Revision, Term};

use super::*;

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

fn meta_of_a_key() -> KeyMeta {
    let modified = EventId { revision: Revision(300), sub: 2 };
    KeyMeta { create: Revision(299), modified, version: 2, lease: LeaseId(-1) }
}

#[test]
fn current_rows_keep_their_golden_bytes() {
    let inline = encoded(|out| encode_current(out, &meta_of_a_key(), None, StoredValue::Inline(b"value")));
    assert_eq!(inline, [0x10, 0xd8, 0x04, 2, 2, 4, 1, b'v', b'a', b'l', b'u', b'e']);
    let apart = encoded(|out| encode_current(out, &meta_of_a_key(), None, StoredValue::InHistory { bytes: 200 }));
    assert_eq!(apart, [0x11, 0xd8, 0x04, 2, 2, 4, 1, 0xc8, 0x01]);
    let previous = Some(EventId { revision: Revision(290), sub: 5 });
    let inline = encoded(|out| encode_current(out, &meta_of_a_key(), previous, StoredValue::Inline(b"v")));
    assert_eq!(inline, [0x12, 0xd8, 0x04, 2, 2, 4, 1, 20, 5, b'v']);
    let apart = encoded(|out| encode_current(out, &meta_of_a_key(), previous, StoredValue::InHistory { bytes: 200 }));
    assert_eq!(apart, [0x13, 0xd8, 0x04, 2, 2, 4, 1, 20, 5, 0xc8, 0x01]);
}

#[test]
fn event_rows_keep_their_golden_bytes() {
    let mut event = EventRow {
        key: Bytes::from_static(b"key"),
        meta: meta_of_a_key(),
        value: Bytes::from_static(b"v"),
        previous: Some(EventId { revision: Revision(290), sub: 5 }),
        cause: None,
    };
    let row = encoded(|out| encode_event(out, &event));
    assert_eq!(row, [0x11, 2, 4, 1, 20, 5, 3, b'k', b'e', b'y', b'v']);
    event.previous = None;
    let row = encoded(|out| encode_event(out, &event));
    assert_eq!(row, [0x10, 2, 4, 1, 3, b'k', b'e', b'y', b'v']);
}

#[test]
fn a_back_pointer_that_does_not_point_back_is_refused() {
    let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(b"v"));
    let meta = meta_of_a_key();
    for (revision, sub, is_before) in
        [(300, 1, true), (299, 3, true), (300, 2, false), (300, 3, false), (301, 0, false)]
    {
        let previous = Some(EventId { revision: Revision(revision), sub });
        let event = EventRow { key: key.clone(), meta, value: value.clone(), previous, cause: None };
        let event = encoded(|out| encode_event(out, &event));
        let current = encoded(|out| encode_current(out, &meta, previous, StoredValue::Inline(b"v")));
        let found = [
            decode_event(meta.modified, &event).map(|row| row.previous),
            decode_current(&current).map(|row| row.previous),
        ];
        let wrong = StorageError::Contradiction("a back pointer does not point back");
        let expected = if is_before { Ok(previous) } else { Err(wrong) };
        assert_eq!(found, [expected.clone(), expected], "{previous:?}");
    }
}

#[test]
fn lease_rows_keep_their_golden_bytes() {
    let mut lease = LeaseRow {
        incarnation: Incarnation { index: LogIndex(9), place: 3 },
        ttl_ms: 1000,
        renewals: 128,
        clock_ms: 1,
        has_holder: false,
    };
    assert_eq!(encoded(|out| encode_lease(out, &lease)), [0x10, 9, 3, 0xe8, 7, 0x80, 1, 1]);
    lease.has_holder = true;
    assert_eq!(encoded(|out| encode_lease(out, &lease)), [0x11, 9, 3, 0xe8, 7, 0x80, 1, 1]);
    let holder = LeaseHolder { name: "n1".into(), text: "up".into() };
    assert_eq!(encoded(|out| encode_lease_holder(out, &holder)), *b"\x10\x02n1\x02up");
}

#[test]
fn rows_of_ends_keep_their_golden_bytes() {
    let mut end = LeaseEnd {
        id: LeaseId(-1),
        incarnation: Incarnation { index: LogIndex(9), place: 3 },
        ttl_ms: 1000,
        renewals: 2,
        renewed_ms: 3,
        ended_ms: 300,
        index: LogIndex(11),
        term: Term(4),
        expired: true,
        by: RevokedBy { member: MemberId(5), client: ClientName::Unknown },
        keys: 6,
        revision: Revision(8),
        holder: "n1".into(),
    };
    let row = encoded(|out| encode_lease_end(out, &end));
    assert_eq!(row, [0x11, 1, 9, 3, 0xe8, 7, 2, 3, 0xac, 2, 11, 4, 6, 16, 2, b'n', b'1', 5, 0]);
    end.expired = false;
    for (client, last) in
        [(ClientName::Certificate("c".into()), [5, 1, 1, b'c']), (ClientName::Address("a".into()), [5, 2, 1, b'a'])]
    {
        end.by.client = client;
        let row = encoded(|out| encode_lease_end(out, &end));
        assert_eq!(row[0], 0x10);
        assert!(row.ends_with(&last), "{row:?}");
    }
    let row = encoded(|out| encode_lease_end(out, &end));
    assert!(decode_lease_end(&[&row[..row.len() - 3], &[3, 1, b'a']].concat()).is_err(), "an unknown kind of client");
}

#[test]
fn scalar_rows_keep_their_golden_bytes() {
    let meta = Meta {
        revision: Revision(5),
        compacted: Revision(-1),
        lease_clock_ms: 7,
        alarms: vec![
            AlarmRow { member: MemberId(1), kind: AlarmKind::NoSpace },
            AlarmRow { member: MemberId(2), kind: AlarmKind::Corrupt },
        ],
        members: vec![MemberAttributes {
            member: MemberId(3),
            name: "n".into(),
            client_urls: vec!["u".into(), String::new()],
        }],
        lease_ends: 0,
        locks: LockCounts::default(),
    };
    let row = encoded(|out| encode_state(out, &meta));
    assert_eq!(row, [0x10, 10, 1, 7, 2, 1, 1, 2, 2, 1, 3, 1, b'n', 2, 1, b'u', 0]);
    assert_eq!(decode_state(&row).unwrap(), meta);
    let meta = Meta { lease_ends: 300, ..Meta::default() };
    let row = encoded(|out| encode_state(out, &meta));
    assert_eq!(row, [0x11, 2, 1, 0, 0, 0, 0xac, 2]);
    assert_eq!(decode_state(&row).unwrap(), meta);
    let meta = Meta { locks: LockCounts { locks: 1, requests: 300, delays: 3 }, ..meta };
    let row = encoded(|out| encode_state(out, &meta));
    assert_eq!(row, [0x13, 2, 1, 0, 0, 0, 0xac, 2, 1, 0xac, 2, 3]);
    assert_eq!(decode_state(&row).unwrap(), meta);
    let meta = Meta { lease_ends: 0, ..meta };
    let row = encoded(|out| encode_state(out, &meta));
    assert_eq!(row, [0x12, 2, 1, 0, 0, 0, 1, 0xac, 2, 3]);
    assert_eq!(decode_state(&row).unwrap(), meta);
    assert_eq!(encoded(|out| encode_applied(out, LogIndex(200), Term(3))), [0x10, 0xc8, 1, 3]);
    let (purge_next, purge_complete) = (Revision(4), Revision(-1));
    let local = LocalState { bytes_logical: 130, bytes_in_use: 2, purge_next, purge_complete };
    assert_eq!(encoded(|out| encode_local(out, &local)), [0x10, 0x82, 1, 2, 8, 1]);
}

#[test]
fn rows_of_another_format_or_with_unknown_flags_are_refused() {
    let lease = encoded(|out| {
        let incarnation = Incarnation::default();
        encode_lease(out, &LeaseRow { incarnation, ttl_ms: 1, renewals: 0, clock_ms: 0, has_holder: false });
    });
    assert!(decode_lease(&lease).is_ok());
    for first in (0..=255u8).filter(|first| first & !1 != lease[0]) {
        let mut other = lease.clone();
        other[0] = first;
        assert!(decode_lease(&other).is_err());
    }
}

#[test]
fn numbers_beyond_64_bits_are_refused() {
    let mut row = vec![0x10];
    row.extend_from_slice(&[0xff; 9]);
    row.extend_from_slice(&[0x01, 0x00]);
    assert_eq!(decode_applied(&row).unwrap(), (LogIndex(u64::MAX), Term(0)));
    row[10] = 0x02;
    assert!(decode_applied(&row).is_err());
    row[10] = 0x80;
    assert!(decode_applied(&row).is_err());
}

fn lock_keys() -> [LockKey; 4] {
    let text = Bytes::from_static(b"n");
    [
        LockKey::Delay(LeaseId(1), text.clone()),
        LockKey::Lock(text.clone()),
        LockKey::Place(text.clone(), Revision(1), text),
        LockKey::Requests(LeaseId(1)),
    ]
}

#[test]
fn rows_of_locks_keep_their_golden_bytes() {
    let [delay, lock, place, requests] = lock_keys();
    let check = |key: &LockKey, row: LockValue, golden: &[u8]| {
        let bytes = encoded(|out| encode_lock_row(out, &row));
        assert_eq!(bytes, golden, "{row:?}");
        assert_eq!(decode_lock_row(key, &bytes).unwrap(), row);
        for length in 0..bytes.len() {
            assert!(decode_lock_row(key, &bytes[..length]).is_err());
        }
        assert!(decode_lock_row(key, &[&bytes[..], &[0]].concat()).is_err());
        assert!(decode_lock_row(key, &[&[0x11], &bytes[1..]].concat()).is_err(), "an unknown flag");
    };
    check(&delay, LockValue::Delay(LockDelay { modified: Revision(5), ends_ms: 300 }), &[0x10, 10, 0xac, 2]);
    let row = LockRow {
        contenders: 300,
        granted: 2,
        permits: 5,
        oldest: Revision(7),
        frontier: Revision(9),
        exclusive: false,
        sharing: Some((Sharing::Permits { limit: 6 }, 3)),
    };
    check(&lock, LockValue::Lock(row), &[0x10, 4, 0xac, 2, 2, 5, 14, 18, 6, 3]);
    let row = LockRow { sharing: Some((Sharing::Readers, 3)), ..row };
    check(&lock, LockValue::Lock(row), &[0x10, 2, 0xac, 2, 2, 5, 14, 18, 3]);
    let row = LockRow { exclusive: true, sharing: None, ..row };
    check(&lock, LockValue::Lock(row), &[0x10, 1, 0xac, 2, 2, 5, 14, 18]);
    check(&place, LockValue::Place(Contender::default()), &[0x10, 0]);
    let native = Native {
        lease: LeaseId(1),
        incarnation: Incarnation { index: LogIndex(9), place: 3 },
        mode: LockMode::Semaphore { permits: 2, limit: 300 },
        owner: "me".into(),
        holds_max: 4,
        delay_ms: 5,
        since_ms: 6,
        delayed: true,
        requests: vec![Attached { number: 1, attach: 7 }, Attached { number: 300, attach: 0 }],
    };
    let granted = Some(Granted { revision: Revision(8), clock_ms: 10 });
    let row = LockValue::Place(Contender { granted, native: Some(native) });
    let bytes = [0x10, 3, 16, 10, 1, 2, 9, 3, 2, 2, 0xac, 2, 2, b'm', b'e', 4, 5, 6, 2, 1, 7, 0xac, 2, 0];
    check(&place, row, &bytes);
    let row = LockRequests { floor: 300, finished: vec![301, 401] };
    check(&requests, LockValue::Requests(row), &[0x10, 0xac, 2, 2, 1, 100]);
    assert!(decode_lock_row(&requests, &[0x10, 1, 1, 0]).is_err(), "the floor is not finished");
}

#[test]
fn events_of_locks_keep_their_golden_bytes() {
    let left = LockLeft { lease: LeaseId(1), owner: "o".into(), held_ms: 300, ..LockLeft::default() };
    let by = RevokedBy { member: MemberId(5), client: ClientName::Address("a".into()) };
    let told = LockLeft { granted: Some(Revision(3)), by: Some(by), reason: "r".into(), ..left.clone() };
    let claim = LockClaim { owner: "o".into(), mode: LockMode::Shared, number: 2 };
    for (cause, golden) in [
        (LockCause::Acquired(claim), &[0, 1, b'o', 1, 2][..]),
        (LockCause::Delayed(left.clone()), &[1, 0, 2, 1, b'o', 0xac, 2, 0]),
        (LockCause::Left(LockEnd::Forced, told), &[6, 3, 2, 1, b'o', 0xac, 2, 1, b'r', 6, 5, 2, 1, b'a']),
        (LockCause::Left(LockEnd::Released, left.clone()), &[2, 0, 2, 1, b'o', 0xac, 2, 0]),
        (LockCause::Left(LockEnd::Lapsed, left), &[8, 0, 2, 1, b'o', 0xac, 2, 0]),
    ] {
        let event = EventRow {
            key: Bytes::from_static(b"key"),
            meta: meta_of_a_key(),
            value: Bytes::from_static(b"v"),
            previous: None,
            cause: Some(Box::new(cause)),
        };
        let row = encoded(|out| encode_event(out, &event));
        let length = u8::try_from(golden.len()).unwrap();
        assert_eq!(row, [&[0x12, 2, 4, 1, length], golden, b"\x03keyv"].concat());
        assert_eq!(decode_event(event.meta.modified, &row).unwrap().to_row(), event);
    }
}

fn any_cause() -> impl Strategy<Value = LockCause> {
    let left = (any::<(i64, u64)>(), "o{0,3}", proptest::option::of(any::<i64>()), "r{0,3}", any::<bool>());
    let left = left.prop_map(|((lease, held_ms), owner, granted, reason, told)| LockLeft {
        lease: LeaseId(lease),
        owner,
        granted: granted.map(Revision),
        held_ms,
        by: told.then(RevokedBy::default),
        reason,
    });
    let end = prop_oneof![Just(LockEnd::Cancelled), Just(LockEnd::Expired), Just(LockEnd::Deleted)];
    prop_oneof![
        left.clone().prop_map(LockCause::Delayed),
        (end, left).prop_map(|(end, left)| LockCause::Left(end, left)),
        ("o{0,3}", any::<u64>()).prop_map(|(owner, number)| {
            LockCause::Acquired(LockClaim { owner, mode: LockMode::Exclusive, number })
        }),
    ]
}

/// The metadata of a key, and an event before it.
fn any_key_meta() -> impl Strategy<Value = (KeyMeta, EventId)> {
    let id = || (any::<i64>(), any::<u32>()).prop_map(|(revision, sub)| EventId { revision: Revision(revision), sub });
    let ids = (id(), id()).prop_filter("one is before the other", |(one, other)| one != other);
    (any::<i64>(), ids, any::<i64>(), any::<i64>()).prop_map(|(create, (one, other), version, lease)| {
        let (create, lease) = (Revision(create), LeaseId(lease));
        (KeyMeta { create, modified: one.max(other), version, lease }, one.min(other))
    })
}

proptest! {
    #[test]
    fn events_and_current_rows_survive_a_round_trip(
        (meta, previous) in any_key_meta(),
        has_previous: bool,
        key: Vec<u8>,
        value: Vec<u8>,
        bytes: u64,
        cause in proptest::option::of(any_cause()),
    ) {
        let previous = has_previous.then_some(previous);
        let event = EventRow { key: key.into(), meta, value: value.clone().into(), previous, cause: cause.clone().map(Box::new) };
        let row = encoded(|out| encode_event(out, &event));
        prop_assert_eq!(decode_event(meta.modified, &row).unwrap().to_row(), event);

        for stored in [StoredValue::Inline(&value), StoredValue::InHistory { bytes }] {
            let row = encoded(|out| encode_current(out, &meta, previous, stored));
            prop_assert_eq!(decode_current(&row).unwrap(), CurrentRef { meta, previous, value: stored });
        }
    }

    #[test]
    fn scalars_survive_a_round_trip(
        incarnation: (u64, u32), numbers: [u64; 5], purged: (i64, i64), flag: bool, texts: (String, String),
    ) {
        let lease = LeaseRow {
            incarnation: Incarnation { index: LogIndex(incarnation.0), place: incarnation.1 },
            ttl_ms: numbers[0],
            renewals: numbers[1],
            clock_ms: numbers[2],
            has_holder: flag,
        };
        prop_assert_eq!(decode_lease(&encoded(|out| encode_lease(out, &lease))).unwrap(), lease);
        let holder = LeaseHolder { name: texts.0.clone(), text: texts.1.clone() };
        prop_assert_eq!(decode_lease_holder(&encoded(|out| encode_lease_holder(out, &holder))).unwrap(), holder);
        let client = if flag { ClientName::Certificate(texts.0) } else { ClientName::Address(texts.0) };
        let end = LeaseEnd {
            id: LeaseId(purged.0),
            incarnation: lease.incarnation,
            ttl_ms: numbers[0],
            renewals: numbers[1],
            renewed_ms: numbers[2],
            ended_ms: numbers[3],
            index: LogIndex(numbers[4]),
            term: Term(numbers[0]),
            expired: flag,
            by: RevokedBy { member: MemberId(numbers[1]), client },
            keys: numbers[2],
            revision: Revision(purged.1),
            holder: texts.1,
        };
        let row = encoded(|out| encode_lease_end(out, &end));
        prop_assert_eq!(lease_of_end(&row).unwrap(), end.id);
        prop_assert_eq!(decode_lease_end(&row).unwrap(), end);
        let local = LocalState {
            bytes_logical: numbers[3],
            bytes_in_use: numbers[4],
            purge_next: Revision(purged.0),
            purge_complete: Revision(purged.1),
        };
        prop_assert_eq!(decode_local(&encoded(|out| encode_local(out, &local))).unwrap(), local);
        let applied = (LogIndex(numbers[0]), Term(numbers[1]));
        prop_assert_eq!(decode_applied(&encoded(|out| encode_applied(out, applied.0, applied.1))).unwrap(), applied);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut row: Vec<u8>, with_a_known_head: bool) {
        if with_a_known_head && let Some(first) = row.first_mut() {
            *first = 0x10 | (*first & 3);
        }
        // Whether they decode does not matter, only that the decoders return.
        drop(decode_current(&row));
        drop(decode_event(EventId::default(), &row));
        drop(decode_lease(&row));
        drop(decode_lease_holder(&row));
        drop(decode_lease_end(&row));
        for key in lock_keys() {
            drop(decode_lock_row(&key, &row));
        }
        drop(lease_of_end(&row));
        drop(decode_state(&row));
        drop(decode_applied(&row));
        drop(decode_local(&row));
    }

    #[test]
    fn a_row_cut_short_is_an_error(
        (meta, previous) in any_key_meta(),
        key in proptest::collection::vec(any::<u8>(), 1..9),
    ) {
        let event = EventRow { key: key.into(), meta, value: Bytes::new(), previous: Some(previous), cause: None };
        let row = encoded(|out| encode_event(out, &event));
        for length in 0..row.len() {
            prop_assert!(decode_event(meta.modified, &row[..length]).is_err());
        }
    }
}
