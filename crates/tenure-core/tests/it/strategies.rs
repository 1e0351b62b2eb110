//! Random commands and outcomes over a small world: few keys, few leases, so that they meet each other often.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tenure_core::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, ExpiryGuard, Guarded, GuardedWrite, KeyRange,
    LeaseGrant, LeaseRevoke, LockAcquire, LockCancel, LockDelayEnd, LockForce, LockGuard, LockRelease, LockRequest, Op,
    Put, Range, SortOrder, SortTarget, Txn,
};
use tenure_core::lock::LockMode;
use tenure_core::outcome::{
    DeletedRange, KeyValue, LockAnswer, OpResponse, Outcome, RangeResult, Refusal, Response, TxnResponse,
};
use tenure_core::row::{AlarmKind, ClientName, Incarnation, LeaseHolder, MemberAttributes, RevokedBy};
use tenure_core::{LeaseId, LogIndex, MemberId, Revision};

/// Any bytes, short.
pub(crate) fn bytes() -> BoxedStrategy<Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from).boxed()
}

fn revision() -> impl Strategy<Value = Revision> {
    prop_oneof![3 => Just(0), 3 => -2..40i64, 1 => any::<i64>()].prop_map(Revision)
}

pub(crate) fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![3 => Just(0), 3 => -1..4i64, 1 => any::<i64>()].prop_map(LeaseId)
}

pub(crate) fn key_range(key: BoxedStrategy<Bytes>) -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key.clone().prop_map(KeyRange::One),
        (key.clone(), key.clone()).prop_map(|(start, end)| KeyRange::Between(start, end)),
        key.prop_map(KeyRange::From),
        Just(KeyRange::From(Bytes::new())),
    ]
}

pub(crate) fn sort() -> impl Strategy<Value = (SortOrder, SortTarget)> {
    let order = prop_oneof![Just(SortOrder::None), Just(SortOrder::Ascend), Just(SortOrder::Descend)];
    let target = prop_oneof![
        2 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::Create),
        1 => Just(SortTarget::Mod),
        1 => Just(SortTarget::Value),
    ];
    (order, target)
}

fn range() -> impl Strategy<Value = Range> {
    (key_range(bytes()), any::<i64>(), revision(), sort(), any::<(bool, bool)>(), [(); 4].map(|()| revision()))
        .prop_map(|(range, limit, revision, (order, target), (keys_only, count_only), bounds)| Range {
            range,
            limit,
            revision,
            order,
            target,
            keys_only,
            count_only,
            min_mod: bounds[0],
            max_mod: bounds[1],
            min_create: bounds[2],
            max_create: bounds[3],
        })
}

fn put() -> impl Strategy<Value = Put> {
    (bytes(), bytes(), lease(), any::<(bool, bool, bool)>()).prop_map(
        |(key, value, lease, (prev_kv, ignore_value, ignore_lease))| Put {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    (key_range(bytes()), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRange { range, prev_kv })
}

pub(crate) fn compare_result() -> impl Strategy<Value = CompareResult> {
    prop_oneof![
        Just(CompareResult::Equal),
        Just(CompareResult::Greater),
        Just(CompareResult::Less),
        Just(CompareResult::NotEqual),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        any::<i64>().prop_map(CompareTarget::Version),
        revision().prop_map(CompareTarget::Create),
        revision().prop_map(CompareTarget::Mod),
        bytes().prop_map(CompareTarget::Value),
        lease().prop_map(CompareTarget::Lease),
    ];
    (key_range(bytes()), compare_result(), target).prop_map(|(range, result, target)| Compare { range, result, target })
}

fn txn() -> impl Strategy<Value = Txn> {
    let leaf = prop_oneof![
        range().prop_map(Op::Range),
        put().prop_map(Op::Put),
        delete().prop_map(Op::DeleteRange),
        Just(Op::Txn(Txn::default())),
    ];
    let op = leaf.prop_recursive(3, 12, 3, |op| {
        (vec(compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3))
            .prop_map(|(compares, success, failure)| Op::Txn(Txn { compares, success, failure }))
    });
    (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4)).prop_map(|(compares, success, failure)| Txn {
        compares,
        success,
        failure,
    })
}

/// Whom a lease is for: nobody, or somebody.
pub(crate) fn holder() -> impl Strategy<Value = LeaseHolder> {
    prop_oneof![2 => Just(LeaseHolder::default()), 1 => (".{0,3}", ".{0,3}").prop_map(|(name, text)| LeaseHolder { name, text })]
}

/// Who wants a lease to end: somebody, if it is told.
pub(crate) fn revoked_by() -> impl Strategy<Value = Option<RevokedBy>> {
    let client = prop_oneof![
        Just(ClientName::Unknown),
        ".{0,3}".prop_map(ClientName::Certificate),
        ".{0,3}".prop_map(ClientName::Address),
    ];
    proptest::option::weighted(
        0.8,
        (any::<u64>(), client).prop_map(|(member, client)| RevokedBy { member: MemberId(member), client }),
    )
}

fn revoke() -> impl Strategy<Value = LeaseRevoke> {
    (lease(), proptest::option::of(any::<(u64, u32, u64)>()), revoked_by()).prop_map(|(id, guard, by)| LeaseRevoke {
        id,
        expiry: guard.map(|(index, place, renewals)| ExpiryGuard {
            incarnation: Incarnation { index: LogIndex(index), place },
            renewals,
        }),
        by,
    })
}

fn alarm() -> impl Strategy<Value = AlarmKind> {
    prop_oneof![Just(AlarmKind::NoSpace), Just(AlarmKind::Corrupt)]
}

pub(crate) fn lock_mode() -> impl Strategy<Value = LockMode> {
    prop_oneof![
        Just(LockMode::Exclusive),
        Just(LockMode::Shared),
        any::<(u32, u32)>().prop_map(|(permits, limit)| LockMode::Semaphore { permits, limit }),
    ]
}

fn lock_command() -> impl Strategy<Value = Command> {
    let request = || {
        (lease(), any::<[u64; 3]>()).prop_map(|(lease, [number, lowest_open, attach])| LockRequest {
            lease,
            number,
            lowest_open,
            attach,
        })
    };
    let who = revoked_by().prop_map(Option::unwrap_or_default);
    let guard = (bytes(), revision(), lease()).prop_map(|(key, token, lease)| LockGuard { key, token, lease });
    let write = prop_oneof![put().prop_map(GuardedWrite::Put), delete().prop_map(GuardedWrite::DeleteRange)];
    prop_oneof![
        (bytes(), request(), any::<bool>(), lock_mode(), ".{0,3}", bytes(), any::<(u32, u64)>()).prop_map(
            |(name, request, wait, mode, owner, metadata, (holds_max, delay_ms))| {
                Command::LockAcquire(LockAcquire { name, request, wait, mode, owner, metadata, holds_max, delay_ms })
            }
        ),
        (bytes(), request()).prop_map(|(name, request)| Command::LockCancel(LockCancel { name, request })),
        (bytes(), lease(), revision(), any::<u64>()).prop_map(|(name, lease, token, number)| {
            Command::LockRelease(LockRelease { name, lease, token, number })
        }),
        (bytes(), revision(), ".{0,3}", who).prop_map(|(key, token, reason, by)| Command::LockForce(LockForce {
            key,
            token,
            reason,
            by
        })),
        (lease(), bytes(), revision()).prop_map(|(lease, key, modified)| Command::LockDelayEnd(LockDelayEnd {
            lease,
            key,
            modified
        })),
        (guard, write).prop_map(|(guard, write)| Command::Guarded(Guarded { guard, write })),
    ]
}

/// Any command at all.
pub(crate) fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        1 => put().prop_map(Command::Put),
        1 => delete().prop_map(Command::DeleteRange),
        1 => txn().prop_map(Command::Txn),
        1 => any::<i64>().prop_map(|revision| Command::Compact(Revision(revision))),
        1 => (lease(), any::<u64>(), holder()).prop_map(|(id, ttl_ms, holder)| Command::LeaseGrant(LeaseGrant {
            id,
            ttl_ms,
            holder
        })),
        1 => revoke().prop_map(Command::LeaseRevoke),
        1 => lease().prop_map(Command::LeaseRenew),
        1 => (any::<u64>(), alarm()).prop_map(|(member, kind)| Command::AlarmRaise(MemberId(member), kind)),
        1 => (any::<u64>(), alarm()).prop_map(|(member, kind)| Command::AlarmClear(MemberId(member), kind)),
        1 => (any::<u64>(), ".{0,8}", vec(".{0,8}", 0..3)).prop_map(|(member, name, client_urls)| {
            Command::MemberPublish(MemberAttributes { member: MemberId(member), name, client_urls })
        }),
        4 => lock_command(),
    ]
}

fn key_value() -> impl Strategy<Value = KeyValue> {
    (bytes(), bytes(), any::<[i64; 3]>(), lease()).prop_map(|(key, value, [create, modified, version], lease)| {
        KeyValue { key, value, create: Revision(create), modified: Revision(modified), version, lease }
    })
}

fn deleted() -> impl Strategy<Value = DeletedRange> {
    (any::<i64>(), vec(key_value(), 0..3)).prop_map(|(deleted, prev_kvs)| DeletedRange { deleted, prev_kvs })
}

fn txn_response() -> impl Strategy<Value = TxnResponse> {
    let range = (vec(key_value(), 0..3), any::<bool>(), any::<i64>())
        .prop_map(|(kvs, more, count)| OpResponse::Range(RangeResult { kvs, more, count }));
    let leaf = prop_oneof![
        range,
        proptest::option::of(key_value()).prop_map(OpResponse::Put),
        deleted().prop_map(OpResponse::DeleteRange),
    ];
    let response = leaf.prop_recursive(3, 12, 3, |response| {
        (any::<bool>(), vec(response, 0..3))
            .prop_map(|(succeeded, responses)| OpResponse::Txn(TxnResponse { succeeded, responses }))
    });
    (any::<bool>(), vec(response, 0..4)).prop_map(|(succeeded, responses)| TxnResponse { succeeded, responses })
}

pub(crate) const REFUSALS: [Refusal; 18] = [
    Refusal::KeyNotFound,
    Refusal::LeaseNotFound,
    Refusal::LeaseExists,
    Refusal::Compacted,
    Refusal::FutureRevision,
    Refusal::NoSpace,
    Refusal::Corrupt,
    Refusal::DuplicateKey,
    Refusal::Fenced,
    Refusal::NoReading,
    Refusal::LockAlreadyHeld,
    Refusal::LockHeldTooOften,
    Refusal::LockRequestFinished,
    Refusal::LockRequestsTooMany,
    Refusal::LockModeMismatch,
    Refusal::LockContendersTooMany,
    Refusal::LockNotHeld,
    Refusal::LockInvalid,
];

fn lock_response() -> impl Strategy<Value = Response> {
    prop_oneof![
        (any::<i64>(), any::<u32>()).prop_map(|(token, holds)| {
            Response::LockAcquire(LockAnswer::Granted { token: Revision(token), holds })
        }),
        proptest::option::of(any::<u64>()).prop_map(|ahead| Response::LockAcquire(LockAnswer::Queued { ahead })),
        Just(Response::LockAcquire(LockAnswer::Busy)),
        any::<bool>().prop_map(|ended| Response::LockCancel { ended }),
        Just(Response::LockCancelStale),
        any::<(bool, u32)>().prop_map(|(released, holds)| Response::LockRelease { released, holds }),
        any::<bool>().prop_map(|removed| Response::LockForce { removed }),
        Just(Response::LockDelayEnd),
        Just(Response::LockDelayStale),
    ]
}

/// Any outcome at all.
pub(crate) fn outcome() -> impl Strategy<Value = Outcome> {
    let response = prop_oneof![
        proptest::option::of(key_value()).prop_map(Response::Put),
        deleted().prop_map(Response::DeleteRange),
        txn_response().prop_map(Response::Txn),
        Just(Response::Compact),
        (lease(), any::<u64>()).prop_map(|(id, ttl_ms)| Response::LeaseGrant { id, ttl_ms }),
        Just(Response::LeaseRevoke),
        Just(Response::Alarm),
        Just(Response::MemberPublish),
        Just(Response::ExpiryStale),
        any::<u64>().prop_map(|ttl_ms| Response::LeaseRenew { ttl_ms }),
        lock_response(),
    ];
    let result = prop_oneof![4 => response.prop_map(Ok), 1 => proptest::sample::select(&REFUSALS[..]).prop_map(Err)];
    (any::<i64>(), result).prop_map(|(revision, result)| Outcome { revision: Revision(revision), result })
}
