//! Requests, one table per kind: what they become, or which complaint they earn.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tenure_core::command::{
    Command, CompareTarget, DeleteRange, KeyRange, LeaseGrant, Op, Put, Range, SortOrder, SortTarget,
};
use tenure_core::row::LeaseHolder;
use tenure_core::{LeaseId, Revision};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::compare::TargetUnion;
use tenure_proto::etcdserverpb::request_op::Request;

use crate::grpc::convert::*;
use crate::grpc::errors::ApiError;

fn b(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn range_request(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: b(key), ..Default::default() }
}

fn put_request(key: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: b(key), ..Default::default() }
}

fn put_op(key: &'static str) -> pb::RequestOp {
    pb::RequestOp { request: Some(Request::RequestPut(put_request(key))) }
}

fn range_op(key: &'static str, serializable: bool) -> pb::RequestOp {
    pb::RequestOp { request: Some(Request::RequestRange(pb::RangeRequest { serializable, ..range_request(key) })) }
}

fn delete_op(key: &'static str, end: &'static str) -> pb::RequestOp {
    let request = pb::DeleteRangeRequest { key: b(key), range_end: b(end), prev_kv: false };
    pb::RequestOp { request: Some(Request::RequestDeleteRange(request)) }
}

fn txn_op(txn: pb::TxnRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(Request::RequestTxn(txn)) }
}

fn then(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..Default::default() }
}

fn compare(key: &'static str) -> pb::Compare {
    pb::Compare { key: b(key), ..Default::default() }
}

#[test]
fn key_and_range_end_mean_what_they_mean_in_etcd() {
    let cases = [
        ("", "", Err(ApiError::EmptyKey)),
        ("", "z", Err(ApiError::EmptyKey)),
        ("", "\0", Err(ApiError::EmptyKey)),
        ("a", "", Ok(KeyRange::One(b("a")))),
        ("\0", "", Ok(KeyRange::One(b("\0")))),
        ("a", "\0", Ok(KeyRange::From(b("a")))),
        ("\0", "\0", Ok(KeyRange::From(b("\0")))),
        ("a", "b", Ok(KeyRange::Between(b("a"), b("b")))),
        ("a", "a", Ok(KeyRange::Between(b("a"), b("a")))),
        ("b", "a", Ok(KeyRange::Between(b("b"), b("a")))),
        ("a", "\0\0", Ok(KeyRange::Between(b("a"), b("\0\0")))),
    ];
    for (key, end, expected) in cases {
        assert_eq!(key_range(b(key), b(end)), expected, "{key:?}..{end:?}");
    }
}

#[test]
fn a_range_request_passes_every_option_on() {
    let request = pb::RangeRequest {
        key: b("a"),
        range_end: b("z"),
        limit: -5,
        revision: -6,
        sort_order: 2,
        sort_target: 3,
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: -1,
        max_mod_revision: 2,
        min_create_revision: 3,
        max_create_revision: i64::MIN,
    };
    let range = Range {
        range: KeyRange::Between(b("a"), b("z")),
        limit: -5,
        revision: Revision(-6),
        order: SortOrder::Descend,
        target: SortTarget::Mod,
        keys_only: true,
        count_only: true,
        min_mod: Revision(-1),
        max_mod: Revision(2),
        min_create: Revision(3),
        max_create: Revision(i64::MIN),
    };
    assert_eq!(range_call(request), Ok(RangeCall { range, serializable: true }));
}

#[test]
fn every_sort_order_and_target_is_known_and_no_other() {
    let orders = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
    let targets = [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
    for (sort_order, order) in (0..).zip(orders) {
        for (sort_target, target) in (0..).zip(targets) {
            let call = range_call(pb::RangeRequest { sort_order, sort_target, ..range_request("a") }).unwrap();
            assert_eq!((call.range.order, call.range.target), (order, target));
        }
    }
    for unknown in [-1, i32::MIN, i32::MAX] {
        let by_order = pb::RangeRequest { sort_order: unknown, ..range_request("a") };
        let by_target = pb::RangeRequest { sort_target: unknown, ..range_request("a") };
        assert_eq!(range_call(by_order), Err(ApiError::InvalidSortOption));
        assert_eq!(range_call(by_target), Err(ApiError::InvalidSortOption));
    }
    assert_eq!(range_call(pb::RangeRequest { sort_order: 3, ..range_request("a") }), Err(ApiError::InvalidSortOption));
    assert_eq!(range_call(pb::RangeRequest { sort_target: 5, ..range_request("a") }), Err(ApiError::InvalidSortOption));
    // The key comes first in etcd's order of complaints.
    assert_eq!(range_call(pb::RangeRequest { sort_order: 9, ..range_request("") }), Err(ApiError::EmptyKey));
}

#[test]
fn a_streamed_range_is_in_key_order_and_unfiltered() {
    let request = || range_request("a");
    assert!(range_stream_call(request()).is_ok());
    assert!(range_stream_call(pb::RangeRequest { sort_order: 1, limit: 7, revision: 3, ..request() }).is_ok());
    assert_eq!(range_stream_call(range_request("")), Err(ApiError::EmptyKey));
    for refused in [
        pb::RangeRequest { sort_order: 2, ..request() },
        pb::RangeRequest { sort_target: 1, ..request() },
        pb::RangeRequest { sort_order: 1, sort_target: 4, ..request() },
    ] {
        assert_eq!(range_stream_call(refused), Err(ApiError::StreamSortOrder));
    }
    for refused in [
        pb::RangeRequest { min_mod_revision: 1, ..request() },
        pb::RangeRequest { max_mod_revision: -1, ..request() },
        pb::RangeRequest { min_create_revision: 1, ..request() },
        pb::RangeRequest { max_create_revision: 1, ..request() },
    ] {
        assert_eq!(range_stream_call(refused), Err(ApiError::StreamRevisionFilters));
    }
}

#[test]
fn a_put_is_taken_whole_or_refused_in_etcds_order() {
    let request = pb::PutRequest { value: b("v"), lease: -9, prev_kv: true, ..put_request("k") };
    let put =
        Put { key: b("k"), value: b("v"), lease: LeaseId(-9), prev_kv: true, ignore_value: false, ignore_lease: false };
    assert_eq!(put_command(request, &Limits::default()), Ok(Command::Put(put)));

    let ignoring = pb::PutRequest { ignore_value: true, ignore_lease: true, ..put_request("k") };
    assert!(put_command(ignoring.clone(), &Limits::default()).is_ok());
    for (request, error) in [
        (pb::PutRequest { key: Bytes::new(), value: b("v"), ..ignoring.clone() }, ApiError::EmptyKey),
        (pb::PutRequest { value: b("v"), lease: 1, ..ignoring.clone() }, ApiError::ValueProvided),
        (pb::PutRequest { value: b("v"), ignore_value: true, ..put_request("k") }, ApiError::ValueProvided),
        (pb::PutRequest { lease: 1, ignore_lease: true, ..put_request("k") }, ApiError::LeaseProvided),
        (pb::PutRequest { lease: -1, ..ignoring }, ApiError::LeaseProvided),
    ] {
        assert_eq!(put_command(request, &Limits::default()), Err(error));
    }
}

#[test]
fn a_write_may_be_as_large_as_the_limit_and_no_larger() {
    let value = Bytes::from(vec![7; 1000]);
    let put = pb::PutRequest { value: value.clone(), ..put_request("k") };
    let delete = pb::DeleteRangeRequest { key: value.clone(), ..Default::default() };
    let write = then(vec![pb::RequestOp { request: Some(Request::RequestPut(put.clone())) }]);
    let limits = |max_request_bytes| Limits { max_request_bytes, ..Limits::default() };

    assert!(put_command(put.clone(), &limits(put.encoded_len())).is_ok());
    assert_eq!(put_command(put.clone(), &limits(put.encoded_len() - 1)), Err(ApiError::RequestTooLarge));
    assert!(delete_range_command(delete.clone(), &limits(delete.encoded_len())).is_ok());
    assert_eq!(delete_range_command(delete.clone(), &limits(delete.encoded_len() - 1)), Err(ApiError::RequestTooLarge));
    assert!(txn_call(write.clone(), &limits(write.encoded_len())).is_ok());
    assert_eq!(txn_call(write.clone(), &limits(write.encoded_len() - 1)), Err(ApiError::RequestTooLarge));
    // A read takes no place in the log, so its size is bounded by gRPC's limit on messages alone.
    assert!(txn_call(then(vec![range_op("k", false)]), &limits(0)).is_ok());
    // What is wrong in itself is said first.
    assert_eq!(put_command(put_request(""), &limits(0)), Err(ApiError::EmptyKey));
}

#[test]
fn a_delete_request_becomes_its_range() {
    let request = pb::DeleteRangeRequest { key: b("a"), range_end: b("\0"), prev_kv: true };
    let delete = DeleteRange { range: KeyRange::From(b("a")), prev_kv: true };
    assert_eq!(delete_range_command(request, &Limits::default()), Ok(Command::DeleteRange(delete)));
    let empty = pb::DeleteRangeRequest { range_end: b("z"), ..Default::default() };
    assert_eq!(delete_range_command(empty, &Limits::default()), Err(ApiError::EmptyKey));
}

#[test]
fn a_compaction_passes_any_revision_on() {
    for revision in [i64::MIN, -1, 0, 1, i64::MAX] {
        let request = pb::CompactionRequest { revision, physical: true };
        assert_eq!(compact_command(&request), Command::Compact(Revision(revision)));
    }
}

#[test]
fn a_lease_has_an_id_and_at_least_the_least_ttl() {
    let cases = [
        (0, 60, Ok((77, 60_000))),
        (5, 60, Ok((5, 60_000))),
        (-5, 60, Ok((-5, 60_000))),
        (5, 2, Ok((5, 2_000))),
        (5, 1, Ok((5, 2_000))),
        (5, 0, Ok((5, 2_000))),
        (5, -1, Ok((5, 2_000))),
        (5, i64::MIN, Ok((5, 2_000))),
        (5, 9_000_000_000, Ok((5, 9_000_000_000_000))),
        (5, 9_000_000_001, Err(ApiError::LeaseTtlTooLarge)),
        (0, i64::MAX, Err(ApiError::LeaseTtlTooLarge)),
    ];
    for (id, ttl, expected) in cases {
        let request = pb::LeaseGrantRequest { id, ttl };
        let expected = expected.map(|(id, ttl_ms)| {
            Command::LeaseGrant(LeaseGrant { id: LeaseId(id), ttl_ms, holder: LeaseHolder::default() })
        });
        assert_eq!(lease_grant_command(&request, LeaseId(77), Duration::from_secs(2)), expected, "{request:?}");
    }
    let longest = lease_grant_command(&pb::LeaseGrantRequest::default(), LeaseId(1), Duration::MAX);
    assert_eq!(longest, Err(ApiError::LeaseTtlTooLarge));
}

#[test]
fn a_transaction_is_refused_in_etcds_order() {
    let full = || (0..3).map(|_| range_op("a", false)).collect::<Vec<_>>();
    let limits = Limits { max_txn_ops: 3, ..Limits::default() };
    let nested = |depth: usize| (0..depth).fold(then(vec![]), |txn, _| then(vec![txn_op(txn)]));
    let cases = [
        (then(vec![]), None),
        (then(full()), None),
        (pb::TxnRequest { compare: vec![compare("a"); 3], success: full(), failure: full() }, None),
        (then([full(), full()].concat()), Some(ApiError::TooManyOps)),
        (pb::TxnRequest { failure: vec![range_op("a", false); 4], ..Default::default() }, Some(ApiError::TooManyOps)),
        (pb::TxnRequest { compare: vec![compare("a"); 4], ..Default::default() }, Some(ApiError::TooManyOps)),
        // The count of a level comes before its content, and compares before operations.
        (pb::TxnRequest { compare: vec![compare(""); 4], ..Default::default() }, Some(ApiError::TooManyOps)),
        (
            pb::TxnRequest { compare: vec![compare("")], ..then(vec![pb::RequestOp::default()]) },
            Some(ApiError::EmptyKey),
        ),
        (then(vec![pb::RequestOp::default()]), Some(ApiError::KeyNotFound)),
        (then(vec![put_op("")]), Some(ApiError::EmptyKey)),
        (then(vec![range_op("", false)]), Some(ApiError::EmptyKey)),
        (then(vec![delete_op("", "z")]), Some(ApiError::EmptyKey)),
        (then(vec![txn_op(then(vec![put_op("")]))]), Some(ApiError::EmptyKey)),
        (
            pb::TxnRequest { failure: vec![put_op("")], ..then(vec![pb::RequestOp::default()]) },
            Some(ApiError::KeyNotFound),
        ),
        (pb::TxnRequest { failure: vec![put_op(""); 4], ..Default::default() }, Some(ApiError::TooManyOps)),
        (then(vec![txn_op(then(vec![put_op(""); 3]))]), Some(ApiError::TooManyOps)),
        // Nested levels get what is left.
        (then(vec![txn_op(then(vec![put_op("a"), put_op("b")]))]), None),
        (then(vec![txn_op(then(vec![put_op("a"), put_op("b"), put_op("c")]))]), Some(ApiError::TooManyOps)),
        (nested(3), None),
        (nested(4), Some(ApiError::TooManyOps)),
        // One key, one change.
        (then(vec![put_op("a"), put_op("a")]), Some(ApiError::DuplicateKey)),
        (then(vec![put_op("a"), txn_op(then(vec![put_op("a")]))]), Some(ApiError::DuplicateKey)),
        (then(vec![put_op("b"), delete_op("a", "c")]), Some(ApiError::DuplicateKey)),
        (then(vec![put_op("b"), delete_op("a", "\0")]), Some(ApiError::DuplicateKey)),
        (then(vec![delete_op("a", "c"), delete_op("b", "d")]), None),
        (pb::TxnRequest { success: vec![put_op("a")], failure: vec![put_op("a")], ..Default::default() }, None),
        // A missing key is said before a duplicate one.
        (then(vec![put_op("a"), put_op("a"), put_op("")]), Some(ApiError::EmptyKey)),
    ];
    for (request, expected) in cases {
        assert_eq!(txn_call(request.clone(), &limits).err(), expected, "{request:?}");
    }
}

#[test]
fn no_limit_on_operations_admits_what_the_log_could_not_hold() {
    let limits = Limits { max_txn_ops: usize::MAX, max_request_bytes: usize::MAX };
    let nested = |depth: u32| (1..depth).fold(then(vec![put_op("a")]), |txn, _| then(vec![txn_op(txn)]));
    let deepest = txn_call(nested(tenure_core::codec::TXN_DEPTH_MAX), &limits).unwrap();
    let command = Command::Txn(deepest.txn);
    assert_eq!(Command::decode(&command.encode()), Ok(command));
    assert_eq!(txn_call(nested(tenure_core::codec::TXN_DEPTH_MAX + 1), &limits), Err(ApiError::TooManyOps));
}

#[test]
fn a_transaction_of_top_level_reads_alone_stays_out_of_the_log() {
    let read = |serializable| range_op("a", serializable);
    let cases = [
        (then(vec![read(false)]), (true, false)),
        (then(vec![read(true)]), (true, true)),
        (then(vec![read(true), read(false)]), (true, false)),
        (pb::TxnRequest { success: vec![read(true)], failure: vec![read(false)], ..Default::default() }, (true, false)),
        (pb::TxnRequest { failure: vec![read(true)], ..Default::default() }, (true, true)),
        // Here etcd would say serializable.
        (pb::TxnRequest { compare: vec![compare("a")], ..Default::default() }, (true, false)),
        (then(vec![txn_op(then(vec![read(true)]))]), (false, false)),
        (then(vec![read(true), put_op("a")]), (false, false)),
        (pb::TxnRequest { failure: vec![delete_op("a", "")], ..Default::default() }, (false, false)),
    ];
    for (request, expected) in cases {
        let call = txn_call(request.clone(), &Limits::default()).unwrap();
        assert_eq!((call.read_only, call.serializable), expected, "{request:?}");
    }
}

#[test]
fn a_transaction_keeps_its_operations_in_order() {
    let request = pb::TxnRequest {
        compare: vec![compare("c"), compare("d")],
        success: vec![put_op("a"), range_op("b", false), delete_op("d", "e")],
        failure: vec![txn_op(then(vec![put_op("f")]))],
    };
    let txn = txn_call(request, &Limits::default()).unwrap().txn;
    let compared: Vec<_> = txn.compares.iter().map(|compare| compare.range.clone()).collect();
    assert_eq!(compared, [KeyRange::One(b("c")), KeyRange::One(b("d"))]);
    assert!(matches!(&txn.success[..], [Op::Put(put), Op::Range(_), Op::DeleteRange(_)] if put.key == "a"));
    assert!(matches!(&txn.failure[..], [Op::Txn(nested)] if matches!(&nested.success[..], [Op::Put(_)])));
}

#[test]
fn a_compare_without_its_own_given_side_compares_with_nothing() {
    let all = [
        TargetUnion::Version(-1),
        TargetUnion::CreateRevision(-2),
        TargetUnion::ModRevision(-3),
        TargetUnion::Value(b("v")),
        TargetUnion::Lease(-4),
    ];
    let given = [
        CompareTarget::Version(-1),
        CompareTarget::Create(Revision(-2)),
        CompareTarget::Mod(Revision(-3)),
        CompareTarget::Value(b("v")),
        CompareTarget::Lease(LeaseId(-4)),
    ];
    let nothing = [
        CompareTarget::Version(0),
        CompareTarget::Create(Revision(0)),
        CompareTarget::Mod(Revision(0)),
        CompareTarget::Value(Bytes::new()),
        CompareTarget::Lease(LeaseId::NONE),
    ];
    for target in 0..5_usize {
        let convert = |target_union: Option<TargetUnion>| {
            let target = i32::try_from(target).unwrap();
            let compare = pb::Compare { target, target_union, ..compare("k") };
            let request = pb::TxnRequest { compare: vec![compare], ..Default::default() };
            txn_call(request, &Limits::default()).unwrap().txn.compares.remove(0).target
        };
        assert_eq!(convert(None), nothing[target]);
        for (union, side) in all.iter().enumerate() {
            let expected = if union == target { &given[target] } else { &nothing[target] };
            assert_eq!(&convert(Some(side.clone())), expected);
        }
    }
}

#[test]
fn a_compare_that_nobody_knows_is_refused_by_its_number() {
    let refused =
        |compare| txn_call(pb::TxnRequest { compare: vec![compare], ..Default::default() }, &Limits::default());
    for value in [-1, 4, i32::MAX] {
        let error = ApiError::UnknownEnum { what: "compare result", value };
        assert_eq!(refused(pb::Compare { result: value, ..compare("k") }), Err(error));
    }
    for value in [-1, 5, i32::MIN] {
        let error = ApiError::UnknownEnum { what: "compare target", value };
        assert_eq!(refused(pb::Compare { target: value, ..compare("k") }), Err(error));
    }
}
