//! Laws that hold for whatever a client sends: nothing panics, and what is admitted survives the log.
//!
//! The second matters most. A command that cannot be decoded from the log stops every member, so no request may
//! become one.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use proptest::bool::weighted;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;
use tenure_core::LeaseId;
use tenure_core::command::Command;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::compare::TargetUnion;
use tenure_proto::etcdserverpb::request_op::Request;
use tenure_proto::tenure::v1;

use crate::grpc::convert::*;

/// Small enough that limits are met often.
const LIMITS: Limits = Limits { max_request_bytes: 100, max_txn_ops: 9 };

/// From a small alphabet, so that keys collide and ends meet their keys. Seldom empty: that refuses the whole request.
fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![1 => bytes(0..1), 199 => bytes(1..3)]
}

fn bytes(length: Range<usize>) -> impl Strategy<Value = Bytes> {
    vec(prop_oneof![Just(0_u8), Just(b'a'), Just(b'b'), Just(0xff)], length).prop_map(Bytes::from)
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), Just(i64::MIN), Just(i64::MAX), -3..10_i64, any::<i64>()]
}

/// Mostly one of the `known` values.
fn enumeration(known: i32) -> impl Strategy<Value = i32> {
    prop_oneof![200 => 0..known, 1 => any::<i32>()]
}

fn range() -> impl Strategy<Value = pb::RangeRequest> {
    let keys = (key(), bytes(0..3), number(), number(), enumeration(3), enumeration(5));
    let flags = any::<[bool; 3]>();
    let bounds = [number(), number(), number(), number()];
    (keys, flags, bounds).prop_map(|((key, range_end, limit, revision, sort_order, sort_target), flags, bounds)| {
        pb::RangeRequest {
            key,
            range_end,
            limit,
            revision,
            sort_order,
            sort_target,
            serializable: flags[0],
            keys_only: flags[1],
            count_only: flags[2],
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
        }
    })
}

fn put() -> impl Strategy<Value = pb::PutRequest> {
    let ignores = (weighted(0.05), weighted(0.05));
    (key(), bytes(0..2), number(), any::<bool>(), ignores).prop_map(
        |(key, value, lease, prev_kv, (ignore_value, ignore_lease))| pb::PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete_range() -> impl Strategy<Value = pb::DeleteRangeRequest> {
    (key(), bytes(0..3), any::<bool>()).prop_map(|(key, range_end, prev_kv)| pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = pb::Compare> {
    let union = option::of(prop_oneof![
        number().prop_map(TargetUnion::Version),
        number().prop_map(TargetUnion::CreateRevision),
        number().prop_map(TargetUnion::ModRevision),
        bytes(0..3).prop_map(TargetUnion::Value),
        number().prop_map(TargetUnion::Lease),
    ]);
    (enumeration(4), enumeration(5), key(), bytes(0..3), union).prop_map(
        |(result, target, key, range_end, target_union)| pb::Compare { result, target, key, target_union, range_end },
    )
}

fn txn() -> impl Strategy<Value = pb::TxnRequest> {
    let flat = prop_oneof![
        1 => Just(None),
        199 => prop_oneof![
            range().prop_map(Request::RequestRange),
            put().prop_map(Request::RequestPut),
            delete_range().prop_map(Request::RequestDeleteRange),
        ]
        .prop_map(Some),
    ]
    .prop_map(|request| pb::RequestOp { request });
    let op = flat.prop_recursive(6, 24, 3, |op| {
        let nested = (vec(compare(), 0..3), vec(op.clone(), 0..3), vec(op, 0..3));
        nested.prop_map(|(compare, success, failure)| pb::RequestOp {
            request: Some(Request::RequestTxn(pb::TxnRequest { compare, success, failure })),
        })
    });
    (vec(compare(), 0..3), vec(op.clone(), 0..5), vec(op, 0..3))
        .prop_map(|(compare, success, failure)| pb::TxnRequest { compare, success, failure })
}

fn survives_the_log(command: Command) -> Result<(), TestCaseError> {
    prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
    Ok(())
}

proptest! {
    #[test]
    fn a_range_request_is_converted_or_refused(request in range()) {
        let streamed = range_stream_call(request.clone());
        let whole = range_call(request);
        if let Ok(call) = streamed {
            prop_assert_eq!(Ok(call), whole, "a stream reads what Range reads");
        }
    }

    #[test]
    fn an_admitted_put_survives_the_log(request in put()) {
        if let Ok(command) = put_command(request, &LIMITS) {
            survives_the_log(command)?;
        }
    }

    #[test]
    fn an_admitted_delete_survives_the_log(request in delete_range()) {
        if let Ok(command) = delete_range_command(request, &LIMITS) {
            survives_the_log(command)?;
        }
    }

    #[test]
    fn an_admitted_transaction_survives_the_log(request in txn()) {
        for limits in [LIMITS, Limits::default()] {
            let encoded = request.encoded_len();
            if let Ok(call) = txn_call(request.clone(), &limits) {
                prop_assert!(call.read_only || encoded <= limits.max_request_bytes);
                survives_the_log(Command::Txn(call.txn))?;
            }
        }
    }

    #[test]
    fn an_admitted_lease_survives_the_log(
        id in number(), ttl in number(), ttl_min in any::<u64>(), name in 0..200usize, text in 0..2000usize,
    ) {
        let request = pb::LeaseGrantRequest { ttl, id };
        if let Ok(command) = lease_grant_command(&request, LeaseId(7), Duration::from_millis(ttl_min)) {
            survives_the_log(command)?;
        }
        let ttl_ms = ttl.unsigned_abs();
        let holder = Some(v1::LeaseHolder { name: "n".repeat(name), text: "t".repeat(text) });
        if let Ok(command) = leases_grant_command(&v1::LeaseGrantRequest { id, ttl_ms, holder }, LeaseId(7)) {
            prop_assert!(ttl_ms >= 1000 && name <= 128 && text <= 1024);
            survives_the_log(command)?;
        }
        survives_the_log(compact_command(&pb::CompactionRequest { revision: id, physical: true }))?;
    }

    #[test]
    fn bytes_that_decode_to_a_request_are_converted_or_refused(bytes in vec(any::<u8>(), 0..64)) {
        let bytes = Bytes::from(bytes);
        if let Ok(request) = pb::TxnRequest::decode(bytes.clone()) {
            drop(txn_call(request, &LIMITS));
        }
        if let Ok(request) = pb::RangeRequest::decode(bytes.clone()) {
            drop(range_call(request));
        }
        if let Ok(request) = pb::PutRequest::decode(bytes) {
            drop(put_command(request, &LIMITS));
        }
    }
}
