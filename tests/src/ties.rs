//! Sorted answers whose ties may stand in any order.
//!
//! etcd sorts with Go's `sort.Sort`, which is not stable: keys with equal versions, values or revisions come in an order
//! that nobody promises, and a limit may cut anywhere between them. Tenure promises more (ties ascend by key). So both
//! answers are brought into one form before they are compared, and Tenure's promise is checked by itself.

use std::cmp::Ordering;

use bytes::Bytes;
use tenure_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use tenure_proto::etcdserverpb::request_op::Request as Op;
use tenure_proto::etcdserverpb::response_op::Response as OpResponse;
use tenure_proto::etcdserverpb::{RangeRequest, RangeResponse, TxnRequest, TxnResponse};
use tenure_proto::mvccpb::KeyValue;

use crate::requests::Request;
use crate::wire::Answer;

/// The answer with every group of ties in ascending key order, and a group that a limit cut reduced to what is certain.
pub fn without_tie_order(request: &Request, mut answer: Answer) -> Answer {
    each_range(request, &mut answer, &mut |request, response| canonical(request, response));
    answer
}

/// Whether all ties in the answer ascend by key, and nothing is out of order.
pub fn ties_ascend(request: &Request, answer: &Answer) -> bool {
    let mut answer = answer.clone();
    let mut sorted = true;
    each_range(request, &mut answer, &mut |request, response| sorted &= is_sorted(request, &response.kvs));
    sorted
}

fn each_range(request: &Request, answer: &mut Answer, visit: &mut dyn FnMut(&RangeRequest, &mut RangeResponse)) {
    match (request, answer) {
        (Request::Range(request), Answer::Range(response)) => visit(request, response),
        (Request::Txn(request), Answer::Txn(response)) => each_range_in_txn(request, response, visit),
        _ => {}
    }
}

fn each_range_in_txn(
    request: &TxnRequest,
    response: &mut TxnResponse,
    visit: &mut dyn FnMut(&RangeRequest, &mut RangeResponse),
) {
    let ops = if response.succeeded { &request.success } else { &request.failure };
    for (op, response) in ops.iter().zip(&mut response.responses) {
        match (&op.request, &mut response.response) {
            (Some(Op::RequestRange(request)), Some(OpResponse::ResponseRange(response))) => visit(request, response),
            (Some(Op::RequestTxn(request)), Some(OpResponse::ResponseTxn(response))) => {
                each_range_in_txn(request, response, visit);
            }
            _ => {}
        }
    }
}

fn compare(target: SortTarget, one: &KeyValue, other: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => one.key.cmp(&other.key),
        SortTarget::Version => one.version.cmp(&other.version),
        SortTarget::Create => one.create_revision.cmp(&other.create_revision),
        SortTarget::Mod => one.mod_revision.cmp(&other.mod_revision),
        SortTarget::Value => one.value.cmp(&other.value),
    }
}

/// Values are taken out of a keys-only answer after it was sorted by them.
fn sorted_by_what_is_gone(request: &RangeRequest) -> bool {
    request.keys_only && request.sort_target() == SortTarget::Value
}

fn canonical(request: &RangeRequest, response: &mut RangeResponse) {
    let target = request.sort_target();
    if target == SortTarget::Key {
        return;
    }
    let kvs = &mut response.kvs;
    // With no order, a limit cuts in key order before anything is sorted, so that nothing is uncertain about the set.
    let cut = response.more && request.sort_order() != SortOrder::None;
    let same = |one: &KeyValue, other: &KeyValue| {
        sorted_by_what_is_gone(request) || compare(target, one, other) == Ordering::Equal
    };
    let mut from = 0;
    while from < kvs.len() {
        let to = (from..kvs.len()).find(|at| !same(&kvs[from], &kvs[*at])).unwrap_or(kvs.len());
        let ties = &mut kvs[from..to];
        ties.sort_by(|one, other| one.key.cmp(&other.key));
        if cut && to == kvs.len() {
            kvs[from..to].iter_mut().for_each(|kv| *kv = certain(target, kv));
        }
        from = to;
    }
}

/// What a tie at the cut certainly has: the value that it was sorted by.
fn certain(target: SortTarget, kv: &KeyValue) -> KeyValue {
    let mut rest = KeyValue::default();
    match target {
        SortTarget::Key => rest.key = kv.key.clone(),
        SortTarget::Version => rest.version = kv.version,
        SortTarget::Create => rest.create_revision = kv.create_revision,
        SortTarget::Mod => rest.mod_revision = kv.mod_revision,
        SortTarget::Value => rest.value = Bytes::clone(&kv.value),
    }
    rest
}

fn is_sorted(request: &RangeRequest, kvs: &[KeyValue]) -> bool {
    if sorted_by_what_is_gone(request) {
        return true;
    }
    let target = request.sort_target();
    kvs.windows(2).all(|pair| {
        let order = compare(target, &pair[0], &pair[1]);
        let order = if request.sort_order() == SortOrder::Descend { order.reverse() } else { order };
        order == Ordering::Less || (order == Ordering::Equal && pair[0].key < pair[1].key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &'static str, version: i64) -> KeyValue {
        KeyValue { key: key.into(), version, ..KeyValue::default() }
    }

    fn answer(kvs: &[KeyValue], more: bool) -> Answer {
        Answer::Range(RangeResponse { header: None, kvs: kvs.to_vec(), more, count: 9 })
    }

    fn by_version_descending() -> Request {
        let request = RangeRequest { sort_order: 2, sort_target: 1, ..RangeRequest::default() };
        Request::Range(request)
    }

    #[test]
    fn ties_may_stand_in_any_order_but_nothing_else_may() {
        let request = by_version_descending();
        let one = answer(&[kv("x", 3), kv("a", 2), kv("b", 2)], false);
        let other = answer(&[kv("x", 3), kv("b", 2), kv("a", 2)], false);
        let wrong = answer(&[kv("a", 2), kv("x", 3), kv("b", 2)], false);
        let canonical = |answer: &Answer| without_tie_order(&request, answer.clone());
        assert_eq!(canonical(&one), canonical(&other));
        assert_ne!(canonical(&one), canonical(&wrong));
        assert!(ties_ascend(&request, &one));
        assert!(!ties_ascend(&request, &other));
        assert!(!ties_ascend(&request, &wrong));
    }

    #[test]
    fn a_limit_may_cut_anywhere_between_ties() {
        let request = by_version_descending();
        let one = answer(&[kv("x", 3), kv("a", 2)], true);
        let other = answer(&[kv("x", 3), kv("b", 2)], true);
        let wrong = answer(&[kv("y", 3), kv("b", 2)], true);
        let canonical = |answer: &Answer| without_tie_order(&request, answer.clone());
        assert_eq!(canonical(&one), canonical(&other));
        assert_ne!(canonical(&one), canonical(&wrong));
    }
}
