//! The encodings: pinned by golden bytes, since logs outlive versions; and safe against any bytes at all.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tenure_core::codec::{DecodeError, GROUP_COMMANDS_MAX, Group, GroupBuilder, TXN_DEPTH_MAX};
use tenure_core::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, ExpiryGuard, GroupHeader, Guarded, GuardedWrite,
    KeyRange, LeaseGrant, LeaseRevoke, LockAcquire, LockCancel, LockDelayEnd, LockForce, LockGuard, LockRelease,
    LockRequest, Op, Put, Range, SortOrder, SortTarget, Txn,
};
use tenure_core::lock::LockMode;
use tenure_core::outcome::{
    DeletedRange, KeyValue, LockAnswer, OpResponse, Outcome, RangeResult, Response, TxnResponse,
};
use tenure_core::row::{AlarmKind, ClientName, Incarnation, LeaseHolder, MemberAttributes, RevokedBy};
use tenure_core::{LeaseId, LogIndex, MemberId, Revision, Term};

use crate::strategies;

fn b(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn put(key: &'static str, value: &'static str) -> Put {
    Put { key: b(key), value: b(value), lease: LeaseId::NONE, prev_kv: false, ignore_value: false, ignore_lease: false }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn check(command: &Command, golden: &str) {
    let bytes = command.encode();
    assert_eq!(hex(&bytes), golden, "the encoding of {command:?} changed: old logs would not be read back");
    assert_eq!(Command::decode(&bytes).as_ref(), Ok(command));
}

#[test]
fn puts_and_deletes_keep_their_bytes() {
    check(&Command::Put(put("a", "b")), "01 01 00 01 61 01 62 00");
    let full = Put { lease: LeaseId(-300), prev_kv: true, ignore_value: true, ignore_lease: true, ..put("key", "") };
    check(&Command::Put(full), "01 01 07 03 6b 65 79 00 d7 04");
    let one = DeleteRange { range: KeyRange::One(b("a")), prev_kv: false };
    check(&Command::DeleteRange(one), "01 02 00 00 01 61");
    let between = DeleteRange { range: KeyRange::Between(b("a"), b("bc")), prev_kv: true };
    check(&Command::DeleteRange(between), "01 02 01 01 01 61 02 62 63");
    let everything = DeleteRange { range: KeyRange::From(b("")), prev_kv: false };
    check(&Command::DeleteRange(everything), "01 02 00 02 00");
}

#[test]
fn transactions_keep_their_bytes() {
    check(&Command::Txn(Txn::default()), "01 03 00 00 00");
    let compare = |result, target| Compare { range: KeyRange::One(b("k")), result, target };
    let full_range = Range {
        limit: -1,
        revision: Revision(2),
        order: SortOrder::Descend,
        target: SortTarget::Value,
        keys_only: true,
        count_only: true,
        min_mod: Revision(3),
        max_mod: Revision(4),
        min_create: Revision(5),
        max_create: Revision(6),
        ..Range::of(KeyRange::From(b("a")))
    };
    let txn = Txn {
        compares: vec![
            compare(CompareResult::Equal, CompareTarget::Version(1)),
            compare(CompareResult::Greater, CompareTarget::Create(Revision(2))),
            compare(CompareResult::Less, CompareTarget::Mod(Revision(64))),
            compare(CompareResult::NotEqual, CompareTarget::Value(b("v"))),
            compare(CompareResult::Equal, CompareTarget::Lease(LeaseId(-1))),
        ],
        success: vec![
            Op::Range(Range::of(KeyRange::One(b("r")))),
            Op::Range(full_range),
            Op::Put(put("p", "q")),
            Op::DeleteRange(DeleteRange { range: KeyRange::One(b("d")), prev_kv: true }),
        ],
        failure: vec![Op::Txn(Txn { failure: vec![Op::Put(put("x", ""))], ..Txn::default() })],
    };
    let golden = [
        "01 03",
        "05 00 00 01 6b 00 02 01 00 01 6b 01 04 02 00 01 6b 02 80 01 03 00 01 6b 03 01 76 00 00 01 6b 04 01",
        "04 00 00 00 01 72 00 00 00 ff 02 01 61 02 04 01 04 06 08 0a 0c 01 00 01 70 01 71 00 02 01 00 01 64",
        "01 03 00 00 01 01 00 01 78 00 00",
    ];
    check(&Command::Txn(txn), &golden.join(" "));
}

#[test]
fn other_commands_keep_their_bytes() {
    check(&Command::Compact(Revision(1000)), "01 04 d0 0f");
    let grant = |name: &str, text: &str| {
        let holder = LeaseHolder { name: name.into(), text: text.into() };
        Command::LeaseGrant(LeaseGrant { id: LeaseId(7), ttl_ms: 60_000, holder })
    };
    check(&grant("", ""), "01 05 0e e0 d4 03");
    check(&grant("n1", "up"), "01 0b 0e e0 d4 03 02 6e 31 02 75 70");
    check(&grant("", "u"), "01 0b 0e e0 d4 03 00 01 75");
    let revoke = |expiry, by| Command::LeaseRevoke(LeaseRevoke { id: LeaseId(7), expiry, by });
    let by = |client| Some(RevokedBy { member: MemberId(300), client });
    check(&revoke(None, None), "01 06 00 0e");
    check(&revoke(None, by(ClientName::Unknown)), "01 06 02 0e ac 02 00");
    check(&revoke(None, by(ClientName::Certificate("cn".into()))), "01 06 02 0e ac 02 01 02 63 6e");
    check(&revoke(None, by(ClientName::Address("a".into()))), "01 06 02 0e ac 02 02 01 61");
    let guard = ExpiryGuard { incarnation: Incarnation { index: LogIndex(300), place: 2 }, renewals: 5 };
    check(&revoke(Some(guard), None), "01 06 01 0e ac 02 02 05");
    check(&revoke(Some(guard), by(ClientName::Unknown)), "01 06 03 0e ac 02 02 05 ac 02 00");
    check(&Command::AlarmRaise(MemberId(1), AlarmKind::NoSpace), "01 07 01 01");
    check(&Command::AlarmClear(MemberId(1), AlarmKind::Corrupt), "01 08 01 02");
    let attributes = MemberAttributes { member: MemberId(9), name: "n1".into(), client_urls: vec!["u".into()] };
    check(&Command::MemberPublish(attributes), "01 09 09 02 6e 31 01 01 75");
    check(&Command::LeaseRenew(LeaseId(7)), "01 0a 0e");
    check(&Command::LeaseRenew(LeaseId(i64::MIN)), "01 0a ff ff ff ff ff ff ff ff ff 01");
}

#[test]
fn lock_commands_keep_their_bytes() {
    let request = LockRequest { lease: LeaseId(7), number: 300, lowest_open: 2, attach: 1 };
    let acquire = |wait, mode, owner: &str| {
        let (owner, metadata) = (owner.into(), b("v"));
        let acquire = LockAcquire { name: b("n"), request, wait, mode, owner, metadata, holds_max: 3, delay_ms: 300 };
        Command::LockAcquire(acquire)
    };
    check(&acquire(true, LockMode::Exclusive, "o"), "01 0c 01 01 6e 0e ac 02 02 01 00 01 6f 01 76 03 ac 02");
    check(&acquire(false, LockMode::Shared, ""), "01 0c 00 01 6e 0e ac 02 02 01 01 00 01 76 03 ac 02");
    let semaphore = LockMode::Semaphore { permits: 2, limit: 300 };
    check(&acquire(false, semaphore, ""), "01 0c 00 01 6e 0e ac 02 02 01 02 02 ac 02 00 01 76 03 ac 02");
    check(&Command::LockCancel(LockCancel { name: b("n"), request }), "01 0d 01 6e 0e ac 02 02 01");
    let release = LockRelease { name: b("n"), lease: LeaseId(7), token: Revision(5), number: 300 };
    check(&Command::LockRelease(release), "01 0e 01 6e 0e 0a ac 02");
    let by = RevokedBy { member: MemberId(300), client: ClientName::Address("a".into()) };
    let force = LockForce { key: b("n/7"), token: Revision(5), reason: "r".into(), by };
    check(&Command::LockForce(force), "01 0f 03 6e 2f 37 0a 01 72 ac 02 02 01 61");
    let end = LockDelayEnd { lease: LeaseId(7), key: b("n/7"), modified: Revision(5) };
    check(&Command::LockDelayEnd(end), "01 10 0e 03 6e 2f 37 0a");
    let guard = || LockGuard { key: b("n/7"), token: Revision(5), lease: LeaseId(7) };
    let write = GuardedWrite::Put(put("a", "b"));
    check(&Command::Guarded(Guarded { guard: guard(), write }), "01 11 03 6e 2f 37 0a 0e 01 00 01 61 01 62 00");
    let write = GuardedWrite::DeleteRange(DeleteRange { range: KeyRange::One(b("a")), prev_kv: false });
    check(&Command::Guarded(Guarded { guard: guard(), write }), "01 11 03 6e 2f 37 0a 0e 02 00 00 01 61");
}

#[test]
fn lock_outcomes_keep_their_bytes() {
    let granted = LockAnswer::Granted { token: Revision(5), holds: 2 };
    for (response, golden) in [
        (Response::LockAcquire(granted), "0b 00 0a 02"),
        (Response::LockAcquire(LockAnswer::Queued { ahead: None }), "0b 01"),
        (Response::LockAcquire(LockAnswer::Queued { ahead: Some(300) }), "0b 02 ac 02"),
        (Response::LockAcquire(LockAnswer::Busy), "0b 03"),
        (Response::LockCancel { ended: true }, "0c 01"),
        (Response::LockCancelStale, "0d"),
        (Response::LockRelease { released: true, holds: 300 }, "0e 01 ac 02"),
        (Response::LockForce { removed: true }, "0f 01"),
        (Response::LockDelayEnd, "10"),
        (Response::LockDelayStale, "11"),
    ] {
        let mut out = BytesMut::new();
        Outcome { revision: Revision(5), result: Ok(response) }.encode(&mut out);
        assert_eq!(hex(&out), format!("01 0a {golden}"));
    }
}

#[test]
fn a_group_keeps_its_bytes() {
    let header = GroupHeader { lease_clock_ms: Some(258), origin_term: Some(Term(3)) };
    let mut builder = GroupBuilder::new(header);
    builder.push(b"\x01\x04\x02");
    builder.push(b"");
    assert_eq!(builder.count(), 2);
    let len_bytes = builder.len_bytes();
    let bytes = builder.finish();
    assert_eq!(bytes.len(), len_bytes);
    assert_eq!(hex(&bytes), "01 03 00 00 00 00 00 00 01 02 00 00 00 00 00 00 00 03 00 00 00 02 03 01 04 02 00");
    let commands = vec![Bytes::from_static(b"\x01\x04\x02"), Bytes::new()];
    assert_eq!(Group::decode(&bytes), Ok(Group { header, commands }));

    let plain = GroupBuilder::new(GroupHeader::default()).finish();
    assert_eq!(hex(&plain), "01 00 00 00 00 00");

    // A tick of the lease clock: a reading and nothing else.
    let tick = GroupHeader { lease_clock_ms: Some(500), origin_term: Some(Term(3)) };
    let bytes = GroupBuilder::new(tick).finish();
    assert_eq!(hex(&bytes), "01 03 00 00 00 00 00 00 01 f4 00 00 00 00 00 00 00 03 00 00 00 00");
    assert_eq!(Group::decode(&bytes), Ok(Group { header: tick, commands: vec![] }));
}

#[test]
fn an_outcome_keeps_its_bytes() {
    let kv = |key| KeyValue {
        key: b(key),
        value: b("v"),
        create: Revision(1),
        modified: Revision(2),
        version: 3,
        lease: LeaseId(4),
    };
    let responses = vec![
        OpResponse::Range(RangeResult { kvs: vec![kv("r")], more: true, count: 9 }),
        OpResponse::Put(None),
        OpResponse::DeleteRange(DeletedRange { deleted: 1, prev_kvs: vec![] }),
        OpResponse::Txn(TxnResponse::default()),
    ];
    let response = Response::Txn(TxnResponse { succeeded: true, responses });
    let mut out = BytesMut::new();
    Outcome { revision: Revision(5), result: Ok(Response::Put(Some(kv("k")))) }.encode(&mut out);
    assert_eq!(hex(&out.split()), "01 0a 01 01 01 6b 01 76 02 04 06 08");
    Outcome { revision: Revision(5), result: Ok(response) }.encode(&mut out);
    assert_eq!(hex(&out.split()), "01 0a 03 01 04 00 01 12 01 01 72 01 76 02 04 06 08 01 00 02 02 00 03 00 00");
    Outcome { revision: Revision(5), result: Ok(Response::LeaseRenew { ttl_ms: 60_000 }) }.encode(&mut out);
    assert_eq!(hex(&out.split()), "01 0a 0a e0 d4 03");
    for (code, refusal) in (1u8..).zip(strategies::REFUSALS) {
        Outcome { revision: Revision(0), result: Err(refusal) }.encode(&mut out);
        assert_eq!(out.split()[..], [1, 0, 0, code]);
    }
}

#[test]
fn keys_and_values_are_slices_of_the_input() {
    let bytes = Command::Put(put("key", "value")).encode();
    let Ok(Command::Put(put)) = Command::decode(&bytes) else { panic!("a put was encoded") };
    let inside = bytes.as_ptr_range();
    assert!(inside.contains(&put.key.as_ptr()));
    assert!(inside.contains(&put.value.as_ptr()));
}

#[test]
fn what_this_version_does_not_know_is_an_error() {
    let decode = |bytes: &'static [u8]| Command::decode(&Bytes::from_static(bytes));
    assert_eq!(decode(b""), Err(DecodeError::Truncated));
    assert_eq!(decode(b"\x02\x04\x02"), Err(DecodeError::UnknownVersion { what: "command", found: 2 }));
    assert_eq!(decode(b"\x01\x12"), Err(DecodeError::UnknownTag { what: "command", found: 18 }));
    assert_eq!(decode(b"\x01\x06\x04\x02"), Err(DecodeError::UnknownTag { what: "revoke flags", found: 4 }));
    let client = decode(b"\x01\x06\x02\x0e\x01\x03\x00");
    assert_eq!(client, Err(DecodeError::UnknownTag { what: "client name", found: 3 }));
    assert_eq!(decode(b"\x01\x01\x08"), Err(DecodeError::UnknownTag { what: "put flags", found: 8 }));
    assert_eq!(decode(b"\x01\x02\x00\x03"), Err(DecodeError::UnknownTag { what: "key range", found: 3 }));
    assert_eq!(decode(b"\x01\x04\x02\x00"), Err(DecodeError::TrailingBytes));
    let group = Group::decode(&Bytes::from_static(b"\x01\x04\x00\x00\x00\x00"));
    assert_eq!(group, Err(DecodeError::UnknownTag { what: "group flags", found: 4 }));
}

#[test]
fn a_grant_to_nobody_has_one_form_only() {
    let held = Command::decode(&Bytes::from_static(b"\x01\x0b\x0e\x01\x00\x00"));
    assert_eq!(held, Err(DecodeError::NotCanonical("a grant that says whom it is for")));
    let text = Command::decode(&Bytes::from_static(b"\x01\x0b\x0e\x01\x01\xff\x00"));
    assert_eq!(text, Err(DecodeError::NotCanonical("a text")));
}

#[test]
fn a_number_has_one_form_only() {
    let decode = |bytes: &'static [u8]| Command::decode(&Bytes::from_static(bytes));
    assert_eq!(decode(b"\x01\x04\x82\x00"), Err(DecodeError::NotCanonical("a number")));
    let above = b"\x01\x04\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02";
    assert_eq!(decode(above), Err(DecodeError::NotCanonical("a number above 64 bits")));
    let endless = b"\x01\x04\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    assert_eq!(decode(endless), Err(DecodeError::NotCanonical("a number above 64 bits")));
    check(&Command::Compact(Revision(i64::MIN)), "01 04 ff ff ff ff ff ff ff ff ff 01");
    check(&Command::Compact(Revision(i64::MAX)), "01 04 fe ff ff ff ff ff ff ff ff 01");
}

#[test]
fn forged_counts_and_lengths_are_truncation() {
    let decode = |bytes: &'static [u8]| Command::decode(&Bytes::from_static(bytes));
    assert_eq!(decode(b"\x01\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff\x7fa"), Err(DecodeError::Truncated));
    assert_eq!(decode(b"\x01\x03\xff\xff\xff\xff\x0f\x00\x00"), Err(DecodeError::Truncated));
    let group = |bytes: &'static [u8]| Group::decode(&Bytes::from_static(bytes));
    assert_eq!(group(b"\x01\x00\x00\x01\x00\x00\x00"), Err(DecodeError::Truncated));
    assert_eq!(group(b"\x01\x00\xff\xff\xff\xff\x00"), Err(DecodeError::TooManyCommands));
}

#[test]
fn nesting_ends_at_the_limit() {
    let nested = |depth: u32| {
        (1..depth).fold(Txn::default(), |inner, _| Txn { success: vec![Op::Txn(inner)], ..Txn::default() })
    };
    let deepest = Command::Txn(nested(TXN_DEPTH_MAX));
    assert_eq!(Command::decode(&deepest.encode()), Ok(deepest));
    let too_deep = Command::Txn(nested(TXN_DEPTH_MAX + 1));
    assert_eq!(Command::decode(&too_deep.encode()), Err(DecodeError::TooDeep));
    let bottomless = [&b"\x01\x03"[..], &b"\x00\x01\x03".repeat(500_000)].concat();
    assert_eq!(Command::decode(&Bytes::from(bottomless)), Err(DecodeError::TooDeep));
    let bottomless = [&b"\x01\x00\x03"[..], &b"\x00\x01\x03".repeat(500_000)].concat();
    assert_eq!(Outcome::decode(&mut Bytes::from(bottomless)), Err(DecodeError::TooDeep));
}

#[test]
#[should_panic(expected = "a proposer closes its groups well before")]
fn a_group_takes_no_more_than_its_limit() {
    let mut builder = GroupBuilder::new(GroupHeader::default());
    for _ in 0..=GROUP_COMMANDS_MAX {
        builder.push(b"");
    }
}

/// What decoding accepts encodes to the same bytes: there is one form of everything.
fn check_any_bytes(bytes: &Bytes) {
    if let Ok(command) = Command::decode(bytes) {
        assert_eq!(command.encode(), bytes);
    }
    if let Ok(group) = Group::decode(bytes) {
        let mut builder = GroupBuilder::new(group.header);
        for command in &group.commands {
            builder.push(command);
        }
        assert_eq!(builder.finish(), bytes);
    }
    let mut rest = bytes.clone();
    match Outcome::decode(&mut rest) {
        Ok(outcome) => {
            let mut out = BytesMut::new();
            outcome.encode(&mut out);
            assert_eq!(out[..], bytes[..bytes.len() - rest.len()]);
        }
        Err(_) => assert_eq!(rest, bytes, "a failed decode takes nothing"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_command_comes_back(command in strategies::command()) {
        prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
    }

    #[test]
    fn grants_and_renewals_are_told_by_their_first_bytes(command in strategies::command()) {
        let encoded = command.encode();
        let needs = matches!(command, Command::LeaseGrant(_) | Command::LeaseRenew(_));
        prop_assert_eq!(Command::needs_reading(&encoded), needs);
        let renewed = if let Command::LeaseRenew(id) = command { Some(id) } else { None };
        prop_assert_eq!(Command::renewed_lease(&encoded), renewed);
        prop_assert_eq!(Command::renewed_lease(&encoded.slice(..encoded.len() - 1)), None);
    }

    #[test]
    fn every_group_comes_back(
        clock in proptest::option::of(any::<u64>()),
        term in proptest::option::of(any::<u64>()),
        commands in proptest::collection::vec(strategies::bytes(), 0..5),
    ) {
        let header = GroupHeader { lease_clock_ms: clock, origin_term: term.map(Term) };
        let mut builder = GroupBuilder::new(header);
        for command in &commands {
            builder.push(command);
        }
        prop_assert_eq!(Group::decode(&builder.finish()), Ok(Group { header, commands }));
    }

    #[test]
    fn outcomes_in_a_row_come_back(outcomes in proptest::collection::vec(strategies::outcome(), 0..4)) {
        let mut out = BytesMut::new();
        for outcome in &outcomes {
            outcome.encode(&mut out);
        }
        let mut bytes = out.freeze();
        for outcome in outcomes {
            prop_assert_eq!(Outcome::decode(&mut bytes), Ok(outcome));
        }
        prop_assert!(bytes.is_empty());
    }

    #[test]
    fn no_bytes_panic(version in 0u8..3, tag in 0u8..19, rest in proptest::collection::vec(0u8..6, 0..60)) {
        check_any_bytes(&[&[version, tag][..], &rest].concat().into());
    }

    #[test]
    fn no_damaged_command_panics(command in strategies::command(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = command.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        check_any_bytes(&bytes.clone().into());
        bytes.truncate(at);
        prop_assert!(Command::decode(&bytes.into()).is_err());
    }

    #[test]
    fn no_damaged_outcome_panics(outcome in strategies::outcome(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut out = BytesMut::new();
        outcome.encode(&mut out);
        let at = at.index(out.len());
        out[at] = byte;
        check_any_bytes(&out.freeze());
    }
}
