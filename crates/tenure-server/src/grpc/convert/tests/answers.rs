//! Answers: every field in its place, headers as etcd fills them, refusals as errors.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use tenure_core::outcome::{DeletedRange, KeyValue, OpResponse, Outcome, RangeResult, Refusal, Response, TxnResponse};
use tenure_core::{LeaseId, Revision};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::response_op::Response as OpAnswer;
use tenure_proto::mvccpb;

use crate::grpc::convert::*;
use crate::grpc::errors::ApiError;
use crate::node::LeaseInfo;

const HEADER: pb::ResponseHeader = pb::ResponseHeader { cluster_id: 11, member_id: 12, revision: 0, raft_term: 14 };

fn header_at(revision: i64) -> pb::ResponseHeader {
    pb::ResponseHeader { revision, ..HEADER }
}

fn kv(key: &'static str) -> KeyValue {
    KeyValue {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(b"value"),
        create: Revision(1),
        modified: Revision(2),
        version: 3,
        lease: LeaseId(-4),
    }
}

fn message(key: &'static str) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: Bytes::from_static(key.as_bytes()),
        create_revision: 1,
        mod_revision: 2,
        version: 3,
        value: Bytes::from_static(b"value"),
        lease: -4,
    }
}

fn outcome(response: Response) -> Outcome {
    Outcome { revision: Revision(9), result: Ok(response) }
}

#[test]
fn a_range_answer_holds_the_result() {
    let result = RangeResult { kvs: vec![kv("a"), kv("b")], more: true, count: 5 };
    let expected =
        pb::RangeResponse { header: Some(header_at(9)), kvs: vec![message("a"), message("b")], more: true, count: 5 };
    assert_eq!(range_response(header_at(9), result), expected);
}

/// Short texts and long ones, and such that end where a piece does.
fn text(bytes_max: usize) -> impl Strategy<Value = Bytes> {
    let length = prop_oneof![Just(0), 1..200_usize, 3_900..4_200_usize, 0..bytes_max];
    (length, any::<u8>()).prop_map(|(length, byte)| vec![byte; length].into())
}

fn any_kv() -> impl Strategy<Value = KeyValue> {
    let number = || prop_oneof![Just(0), Just(1), Just(127), Just(128), Just(i64::MAX), Just(-1), any::<i64>()];
    let numbers = [number(), number(), number(), number()];
    (text(5_000), text(140_000), numbers).prop_map(|(key, value, [create, modified, version, lease])| KeyValue {
        key,
        value,
        create: Revision(create),
        modified: Revision(modified),
        version,
        lease: LeaseId(lease),
    })
}

proptest! {
    #[test]
    fn a_list_is_written_as_the_generated_code_writes_it(
        kvs in prop::collection::vec(any_kv(), 0..12),
        more: bool,
        count in prop_oneof![Just(0_i64), any::<i64>()],
    ) {
        let mut list = KvList::default();
        kvs.iter().for_each(|kv| list.push(kv.into()));
        let pieces = list.finish(header_at(9), more, count);
        let expected = range_response(header_at(9), RangeResult { kvs, more, count }).encode_to_vec();
        prop_assert!(pieces.concat() == expected, "the bytes differ");
        // All but the header and the last are full, so that little memory is held in vain.
        let longest = pieces.iter().map(Bytes::len).max().unwrap_or(0);
        prop_assert!(longest <= 64 * 1024);
        prop_assert!(pieces.len() <= 8 + expected.len() / (63 * 1024));
    }
}

#[test]
fn each_outcome_becomes_its_answer_at_its_own_revision() {
    let header = Some(header_at(9));
    let put = pb::PutResponse { header, prev_kv: Some(message("a")) };
    assert_eq!(put_answer(HEADER, outcome(Response::Put(Some(kv("a"))))), Ok(put));
    let put = pb::PutResponse { header, prev_kv: None };
    assert_eq!(put_answer(HEADER, outcome(Response::Put(None))), Ok(put));

    let deleted = DeletedRange { deleted: 2, prev_kvs: vec![kv("a"), kv("b")] };
    let expected = pb::DeleteRangeResponse { header, deleted: 2, prev_kvs: vec![message("a"), message("b")] };
    assert_eq!(delete_range_answer(HEADER, outcome(Response::DeleteRange(deleted))), Ok(expected));

    assert_eq!(compaction_answer(HEADER, outcome(Response::Compact)), Ok(pb::CompactionResponse { header }));
    assert_eq!(lease_revoke_answer(HEADER, outcome(Response::LeaseRevoke)), Ok(pb::LeaseRevokeResponse { header }));
}

#[test]
fn a_granted_ttl_is_told_in_whole_seconds_rounded_down() {
    for (ttl_ms, ttl) in [(2000, 2), (2999, 2), (999, 0), (u64::MAX, 18_446_744_073_709_551)] {
        let answer = lease_grant_answer(HEADER, outcome(Response::LeaseGrant { id: LeaseId(-7), ttl_ms }));
        let expected = pb::LeaseGrantResponse { header: Some(header_at(9)), id: -7, ttl, error: String::new() };
        assert_eq!(answer, Ok(expected));
    }
}

#[test]
fn a_refused_command_is_an_error() {
    let refused = || Outcome { revision: Revision(9), result: Err(Refusal::Compacted) };
    assert_eq!(put_answer(HEADER, refused()), Err(ApiError::Compacted));
    assert_eq!(delete_range_answer(HEADER, refused()), Err(ApiError::Compacted));
    assert_eq!(txn_answer(HEADER, refused()), Err(ApiError::Compacted));
    assert_eq!(compaction_answer(HEADER, refused()), Err(ApiError::Compacted));
    assert_eq!(lease_grant_answer(HEADER, refused()), Err(ApiError::Compacted));
    assert_eq!(lease_revoke_answer(HEADER, refused()), Err(ApiError::Compacted));
}

#[test]
fn an_outcome_of_another_command_is_never_passed_off_as_an_answer() {
    let other = || outcome(Response::Alarm);
    let codes = [
        put_answer(HEADER, other()).map(drop),
        delete_range_answer(HEADER, other()).map(drop),
        txn_answer(HEADER, other()).map(drop),
        compaction_answer(HEADER, other()).map(drop),
        lease_grant_answer(HEADER, other()).map(drop),
        lease_revoke_answer(HEADER, outcome(Response::ExpiryStale)).map(drop),
    ];
    for code in codes {
        assert_eq!(code.map_err(ApiError::code), Err(tonic::Code::Internal));
    }
}

#[test]
fn a_keepalive_answers_whole_seconds_and_zero_for_a_lease_that_is_gone() {
    let answer = |result| lease_keep_alive_answer(HEADER, LeaseId(-7), &Outcome { revision: Revision(9), result });
    let renewed = |ttl| Ok(pb::LeaseKeepAliveResponse { header: Some(header_at(9)), id: -7, ttl });
    assert_eq!(answer(Ok(Response::LeaseRenew { ttl_ms: 2999 })), renewed(2));
    assert_eq!(answer(Ok(Response::LeaseRenew { ttl_ms: u64::MAX })), renewed(18_446_744_073_709_551));
    assert_eq!(answer(Err(Refusal::LeaseNotFound)), renewed(0));
    assert_eq!(answer(Err(Refusal::Corrupt)), Err(ApiError::Corrupt));
    assert_eq!(answer(Ok(Response::LeaseRevoke)).map_err(ApiError::code), Err(tonic::Code::Internal));
}

#[test]
fn a_lease_tells_what_is_left_of_it_and_an_unknown_one_is_no_error() {
    let lease = |left_ms| LeaseInfo { id: LeaseId(7), ttl_ms: 60_999, left_ms, keys: vec!["a".into(), "b".into()] };
    let answer = |lease| lease_time_to_live_response(header_at(9), LeaseId(7), lease);
    let expected = |ttl, granted_ttl, keys: &[&'static str]| pb::LeaseTimeToLiveResponse {
        header: Some(header_at(9)),
        id: 7,
        ttl,
        granted_ttl,
        keys: keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect(),
    };
    assert_eq!(answer(Some(lease(59_999))), expected(59, 60, &["a", "b"]));
    assert_eq!(answer(Some(lease(999))), expected(0, 60, &["a", "b"]), "it is there until it is gone");
    assert_eq!(answer(None), expected(-1, 0, &[]));
}

#[test]
fn a_list_of_leases_keeps_its_order() {
    let lease = |id| LeaseInfo { id: LeaseId(id), ttl_ms: 1000, left_ms: 0, keys: Vec::new() };
    let leases = [9, -1, 4].map(|id| pb::LeaseStatus { id }).to_vec();
    let expected = pb::LeaseLeasesResponse { header: Some(header_at(9)), leases };
    assert_eq!(lease_leases_response(header_at(9), vec![lease(9), lease(-1), lease(4)]), expected);
}

fn range() -> OpResponse {
    OpResponse::Range(RangeResult::default())
}

fn deleted(deleted: i64) -> OpResponse {
    OpResponse::DeleteRange(DeletedRange { deleted, prev_kvs: Vec::new() })
}

fn nested(responses: Vec<OpResponse>) -> OpResponse {
    OpResponse::Txn(TxnResponse { succeeded: true, responses })
}

/// The revisions in the headers of a transaction's operations, in order; a nested transaction shows its own header's
/// before those of its operations.
fn revisions(answer: &pb::TxnResponse) -> Vec<i64> {
    let mut all = Vec::new();
    for op in &answer.responses {
        let header = match op.response.as_ref().unwrap() {
            OpAnswer::ResponseRange(range) => range.header,
            OpAnswer::ResponsePut(put) => put.header,
            OpAnswer::ResponseDeleteRange(delete) => delete.header,
            OpAnswer::ResponseTxn(txn) => txn.header,
        };
        let header = header.expect("etcd sets the header of every operation");
        assert_eq!(header, pb::ResponseHeader { revision: header.revision, ..Default::default() });
        all.push(header.revision);
        if let Some(OpAnswer::ResponseTxn(txn)) = &op.response {
            all.extend(revisions(txn));
        }
    }
    all
}

#[test]
fn the_operations_of_a_transaction_show_the_revision_that_they_saw() {
    let put = || OpResponse::Put(None);
    let cases = [
        (vec![], vec![]),
        (vec![range(), deleted(0), range()], vec![9, 9, 9]),
        (vec![range(), put(), deleted(0), range()], vec![8, 9, 9, 9]),
        (vec![deleted(0), deleted(2), range()], vec![8, 9, 9]),
        (vec![range(), nested(vec![range(), put(), range()]), range()], vec![8, 0, 8, 9, 9, 9]),
        (vec![nested(vec![]), nested(vec![nested(vec![deleted(1)])])], vec![0, 0, 0, 9]),
    ];
    for (responses, expected) in cases {
        let response = TxnResponse { succeeded: true, responses };
        let answer = txn_answer(HEADER, outcome(Response::Txn(response.clone()))).unwrap();
        assert_eq!((answer.header, answer.succeeded), (Some(header_at(9)), true));
        assert_eq!(revisions(&answer), expected, "{response:?}");
    }
}

#[test]
fn a_transaction_that_only_read_is_at_the_stores_revision() {
    let response = TxnResponse { succeeded: false, responses: vec![range()] };
    let answer = txn_response(header_at(7), response);
    assert_eq!((answer.header, answer.succeeded, revisions(&answer)), (Some(header_at(7)), false, vec![7]));
}

#[test]
fn the_operations_of_a_transaction_answer_with_their_results() {
    let result = RangeResult { kvs: vec![kv("a")], more: true, count: 2 };
    let removed = DeletedRange { deleted: 1, prev_kvs: vec![kv("c")] };
    let responses = vec![OpResponse::Range(result), OpResponse::Put(Some(kv("b"))), OpResponse::DeleteRange(removed)];
    let answer = txn_response(header_at(9), TxnResponse { succeeded: true, responses });
    let header = |revision| Some(pb::ResponseHeader { revision, ..Default::default() });
    let range = pb::RangeResponse { header: header(8), kvs: vec![message("a")], more: true, count: 2 };
    let put = pb::PutResponse { header: header(9), prev_kv: Some(message("b")) };
    let delete = pb::DeleteRangeResponse { header: header(9), deleted: 1, prev_kvs: vec![message("c")] };
    let answers: Vec<_> = answer.responses.into_iter().filter_map(|op| op.response).collect();
    assert_eq!(
        answers,
        [OpAnswer::ResponseRange(range), OpAnswer::ResponsePut(put), OpAnswer::ResponseDeleteRange(delete)]
    );
}
