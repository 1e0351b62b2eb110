//! The checks before the log: counts per level, duplicate keys, costs.

use bytes::Bytes;
use proptest::prelude::*;
use tenure_core::codec::TXN_DEPTH_MAX;
use tenure_core::command::{
    Command, DeleteRange, Guarded, GuardedWrite, KeyRange, LeaseGrant, LockAcquire, LockCancel, LockForce, LockGuard,
    LockRelease, LockRequest, Put, Txn,
};
use tenure_core::lock::{
    LOCK_DELAY_MS_MAX, LOCK_HOLDS_MAX, LOCK_METADATA_BYTES_MAX, LOCK_NAME_BYTES_MAX, LOCK_NAME_SLASHES_MAX,
    LOCK_OWNER_BYTES_MAX, LOCK_PERMITS_MAX, LOCK_REASON_BYTES_MAX, LOCK_REQUEST_MAX, LockMode,
};
use tenure_core::row::LeaseHolder;
use tenure_core::validate::{
    InvalidLock, InvalidTxn, cost_bytes, txn_is_read_only, validate_acquire, validate_cancel, validate_force,
    validate_txn,
};
use tenure_core::{LeaseId, Revision};

use crate::language::Tokens;

fn txn(text: &str) -> Txn {
    let words: Vec<String> = text.split_whitespace().map(String::from).collect();
    let mut tokens = Tokens::new(&words);
    let txn = tokens.txn().unwrap();
    tokens.end().unwrap();
    txn
}

fn check(text: &str, expected: Result<(), InvalidTxn>) {
    assert_eq!(validate_txn(&txn(text), 128), expected, "{text}");
}

#[test]
fn each_level_takes_its_longest_list_off_what_nested_levels_may_hold() {
    let nested = txn("if version a = 1 and version b = 1 then get a else { then get a ; get b ; get c }");
    assert_eq!(validate_txn(&nested, 5), Ok(()));
    assert_eq!(validate_txn(&nested, 4), Err(InvalidTxn::TooManyOps));
    assert_eq!(validate_txn(&txn("if version a = 1"), 0), Err(InvalidTxn::TooManyOps));
    assert_eq!(validate_txn(&Txn::default(), 0), Ok(()));
}

#[test]
fn a_key_is_put_once_on_every_path() {
    use InvalidTxn::DuplicateKey;
    check("then put a 1 ; put b 1 else put a 1", Ok(()));
    check("then put a 1 ; put a 1", Err(DuplicateKey));
    check("else put a 1 ; put a 1", Err(DuplicateKey));
    check("then put a 1 ; { then put a 1 }", Err(DuplicateKey));
    check("then { then put a 1 } ; { else put a 1 }", Err(DuplicateKey));
    check("then { then put a 1 else put a 1 }", Ok(()));
    check("then { then put a 1 else put a 1 } ; put a 1", Err(DuplicateKey));
    check("then { then { then put a 1 else put a 1 } else put a 1 }", Ok(()));
}

#[test]
fn a_key_is_not_put_and_deleted_on_one_path() {
    use InvalidTxn::DuplicateKey;
    check("then put a 1 ; del a", Err(DuplicateKey));
    check("then del a..c ; put b 1", Err(DuplicateKey));
    check("then del a..c ; put c 1", Ok(()));
    check("then del c..a ; put b 1", Ok(()));
    check("then del b.. ; put a 1", Ok(()));
    check("then del b.. ; put c 1", Err(DuplicateKey));
    check("then put a 1 ; del all", Err(DuplicateKey));
    check("then { then put a 1 } ; { then del a }", Err(DuplicateKey));
    check("then { then put a 1 else del a }", Ok(()));
    check("then { then put a 1 else del a } ; del a..b", Err(DuplicateKey));
    check("then del a ; del a ; del a..c ; del all", Ok(()));
    check("then del a..c ; del b..f ; del e..g ; put f 1", Err(DuplicateKey));
    check("then del e..g ; del a..c ; del b..d ; put d 1", Ok(()));
    check("then del a..z ; del b..c ; put d 1", Err(DuplicateKey));
    check("then del b..c ; del a.. ; put d 1", Err(DuplicateKey));
}

#[test]
fn nesting_has_an_end() {
    let nested = |depth: u32| {
        let wrap = |inner, _| Txn { success: vec![tenure_core::command::Op::Txn(inner)], ..Txn::default() };
        (1..depth).fold(Txn::default(), wrap)
    };
    assert_eq!(validate_txn(&nested(TXN_DEPTH_MAX), 1000), Ok(()));
    assert_eq!(validate_txn(&nested(TXN_DEPTH_MAX + 1), 1000), Err(InvalidTxn::TooDeep));
    assert_eq!(validate_txn(&nested(100_000.min(TXN_DEPTH_MAX * 10)), 10), Err(InvalidTxn::TooManyOps));
}

#[test]
fn only_top_level_ranges_make_a_read() {
    assert!(txn_is_read_only(&txn("if version a = 1 then get a else get b")));
    assert!(txn_is_read_only(&Txn::default()));
    assert!(!txn_is_read_only(&txn("then get a ; put b 1")));
    assert!(!txn_is_read_only(&txn("else del a")));
    assert!(!txn_is_read_only(&txn("then { then get a }")));
}

#[test]
fn costs_are_those_of_the_dearest_branch() {
    let cost = |text| cost_bytes(&Command::Txn(txn(text)));
    assert_eq!(cost("then get a ; del b"), 0);
    assert_eq!(cost("then put a 1 else put bb 22 ; put c 3"), 256 + 4 + 256 + 2);
    assert_eq!(cost("then put a 1 ; { then put b 22 else put c 4444 }"), 256 + 2 + 256 + 5);
    let grant = |holder| Command::LeaseGrant(LeaseGrant { id: LeaseId(1), ttl_ms: 1, holder });
    assert_eq!(cost_bytes(&grant(LeaseHolder::default())), 64);
    assert_eq!(cost_bytes(&grant(LeaseHolder { name: "name".into(), text: "text".into() })), 72);
    assert_eq!(cost_bytes(&Command::Compact(Revision(1))), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a plain reading of the rule: ranges overlap a key or they do not.
    #[test]
    fn many_deletes_are_one_union(
        deletes in proptest::collection::vec((0..30u8, 0..30u8, 0..10u8), 0..8),
        put in 0..30u8,
    ) {
        let mut words = vec!["then put".to_string(), format!("k{put:02}"), "v".into()];
        let mut expected = Ok(());
        let mut before = vec!["then".to_string()];
        for (start, end, kind) in deletes {
            let (range, hit) = match kind {
                0 => (format!("k{start:02}.."), put >= start),
                1..=3 => (format!("k{start:02}"), put == start),
                _ => (format!("k{start:02}..k{end:02}"), put >= start && put < end),
            };
            words.push(format!("; del {range}"));
            before.push(format!("del {range} ;"));
            if hit {
                expected = Err(InvalidTxn::DuplicateKey);
            }
        }
        before.push(format!("put k{put:02} v"));
        prop_assert_eq!(validate_txn(&txn(&words.join(" ")), 128), expected);
        prop_assert_eq!(validate_txn(&txn(&before.join(" ")), 128), expected);
    }
}

#[test]
fn a_txn_of_many_operations_is_checked_in_a_moment() {
    use tenure_core::command::Op;
    let key = |at: u32| Bytes::from(format!("{at:08}"));
    let mut success = Vec::new();
    for at in 0..50_000 {
        let range = KeyRange::Between(key(4 * at), key(4 * at + 2));
        success.push(Op::DeleteRange(DeleteRange { range, prev_kv: false }));
        success.push(Op::DeleteRange(DeleteRange { range: KeyRange::One(key(4 * at + 3)), prev_kv: false }));
    }
    let Some(Op::Put(mut put)) = txn("then put a b").success.pop() else { panic!("a put was written") };
    for at in 0..50_000 {
        put.key = key(4 * at + 2);
        success.push(Op::Put(put.clone()));
    }
    assert_eq!(validate_txn(&Txn { success, ..Txn::default() }, 150_000), Ok(()));
}

fn an_acquire() -> LockAcquire {
    let request = LockRequest { lease: LeaseId(1), number: 1, lowest_open: 1, attach: 0 };
    LockAcquire { name: Bytes::from_static(b"n"), request, ..LockAcquire::default() }
}

#[test]
fn acquires_are_bounded() {
    let check = |change: &dyn Fn(&mut LockAcquire), expected: Option<InvalidLock>| {
        let mut acquire = an_acquire();
        change(&mut acquire);
        assert_eq!(validate_acquire(&acquire).err(), expected, "{acquire:?}");
    };
    let name = |bytes: usize| move |acquire: &mut LockAcquire| acquire.name = vec![b'n'; bytes].into();
    check(&name(0), Some(InvalidLock::Name));
    check(&name(LOCK_NAME_BYTES_MAX), None);
    check(&name(LOCK_NAME_BYTES_MAX + 1), Some(InvalidLock::Name));
    check(&|acquire| acquire.name = "n/".repeat(LOCK_NAME_SLASHES_MAX).into(), None);
    check(&|acquire| acquire.name = "n/".repeat(LOCK_NAME_SLASHES_MAX + 1).into(), Some(InvalidLock::Name));
    check(&|acquire| acquire.owner = "o".repeat(LOCK_OWNER_BYTES_MAX), None);
    check(&|acquire| acquire.owner = "o".repeat(LOCK_OWNER_BYTES_MAX + 1), Some(InvalidLock::Owner));
    check(&|acquire| acquire.metadata = vec![0; LOCK_METADATA_BYTES_MAX].into(), None);
    check(&|acquire| acquire.metadata = vec![0; LOCK_METADATA_BYTES_MAX + 1].into(), Some(InvalidLock::Metadata));
    check(&|acquire| acquire.holds_max = LOCK_HOLDS_MAX, None);
    check(&|acquire| acquire.holds_max = LOCK_HOLDS_MAX + 1, Some(InvalidLock::Holds));
    check(&|acquire| acquire.delay_ms = LOCK_DELAY_MS_MAX, None);
    check(&|acquire| acquire.delay_ms = LOCK_DELAY_MS_MAX + 1, Some(InvalidLock::Delay));
    let most = LOCK_PERMITS_MAX;
    for (permits, limit) in [(1, 1), (most, most)] {
        check(&|acquire| acquire.mode = LockMode::Semaphore { permits, limit }, None);
    }
    for (permits, limit) in [(0, 0), (0, 1), (2, 1), (1, most + 1)] {
        check(&|acquire| acquire.mode = LockMode::Semaphore { permits, limit }, Some(InvalidLock::Permits));
    }
    for (number, lowest_open, expected) in [
        (LOCK_REQUEST_MAX, LOCK_REQUEST_MAX, None),
        (LOCK_REQUEST_MAX + 1, 1, Some(InvalidLock::Request)),
        (0, 0, Some(InvalidLock::Request)),
        (1, 0, Some(InvalidLock::Request)),
        (1, 2, Some(InvalidLock::Request)),
    ] {
        let numbers =
            |acquire: &mut LockAcquire| (acquire.request.number, acquire.request.lowest_open) = (number, lowest_open);
        check(&numbers, expected);
        let LockAcquire { name, request, .. } = an_acquire();
        let cancel = LockCancel { name, request: LockRequest { number, lowest_open, ..request } };
        assert_eq!(validate_cancel(&cancel).err(), expected);
    }
    let text = InvalidLock::Name.to_string();
    assert_eq!(text, "a lock's name has 1 to 512 bytes, at most 16 of them slashes");
}

#[test]
fn forced_releases_are_bounded() {
    let force = |bytes| LockForce { reason: "r".repeat(bytes), ..LockForce::default() };
    assert_eq!(validate_force(&force(LOCK_REASON_BYTES_MAX)), Ok(()));
    assert_eq!(validate_force(&force(LOCK_REASON_BYTES_MAX + 1)), Err(InvalidLock::Reason));
}

#[test]
fn locks_cost_space_as_long_as_they_are_kept() {
    let acquire = LockAcquire { owner: "me".into(), metadata: Bytes::from_static(b"v42"), ..an_acquire() };
    assert_eq!(cost_bytes(&Command::LockAcquire(acquire)), 256 + 64 + 2 + 2 + 3);
    assert_eq!(cost_bytes(&Command::LockRelease(LockRelease::default())), 0);
    let put = |key: &'static str| Put {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(b"12"),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    };
    let guarded = |write| Command::Guarded(Guarded { guard: LockGuard::default(), write });
    assert_eq!(cost_bytes(&guarded(GuardedWrite::Put(put("abc")))), cost_bytes(&Command::Put(put("abc"))));
    let delete = DeleteRange { range: KeyRange::From(Bytes::new()), prev_kv: false };
    assert_eq!(cost_bytes(&guarded(GuardedWrite::DeleteRange(delete))), 0);
}
