//! Hand-written histories of keys and leases: good ones pass, and what is wrong with a bad one is named.

use tenure_history::linearize::{Options, linearize};
use tenure_history::request::{Compare, KeyRange, Relation, Request, Target, Txn, TxnOp};
use tenure_history::response::{Body, Outcome, Refusal};
use tenure_history::{History, LeaseId, Operation, Revision, Verdict};

use crate::build::*;

fn verdict(operations: &[Operation]) -> Verdict<tenure_history::linearize::Linearized> {
    linearize(&History::of(operations.to_vec()), &Options { serializable: true, ..Options::default() })
}

#[track_caller]
fn good(operations: &[Operation]) {
    let verdict = verdict(operations);
    assert!(verdict.is_ok(), "{verdict}");
}

#[track_caller]
fn bad(promise: &str, operations: &[Operation]) {
    let verdict = verdict(operations);
    assert_eq!(broken(&verdict), promise, "{verdict}");
    assert!(!verdict.violation().expect("a violation").evidence.is_empty());
}

#[test]
fn overlapping_operations_may_take_effect_in_either_order() {
    let put = op(1, 0, 10, put("a", "1"), put_ok(2));
    good(&[put.clone(), op(2, 5, 8, get("a"), got(1, &[]))]);
    good(&[put.clone(), op(2, 5, 8, get("a"), got(2, &[kv("a", "1", 2, 2, 1)]))]);
    bad("wrong answer", &[put.clone(), op(2, 5, 8, get("a"), got(2, &[]))]);
    bad("wrong answer", &[put, op(2, 5, 8, get("a"), got(2, &[kv("a", "2", 2, 2, 1)]))]);
}

#[test]
fn a_read_after_an_acked_write_sees_it() {
    let stale = op(2, 11, 12, get("a"), got(1, &[]));
    bad("stale read", &[op(1, 0, 10, put("a", "1"), put_ok(2)), stale]);
}

#[test]
fn a_read_sees_nothing_of_writes_called_after_it() {
    let read = op(2, 0, 5, get("a"), got(2, &[kv("a", "1", 2, 2, 1)]));
    bad("revisions against real time", &[read, op(1, 6, 10, put("a", "1"), put_ok(2))]);
}

#[test]
fn revisions_of_writes_follow_real_time_and_are_given_once() {
    let first = op(1, 0, 1, put("a", "1"), put_ok(3));
    bad("revisions against real time", &[first.clone(), op(1, 2, 3, put("b", "1"), put_ok(2))]);
    bad("revision given twice", &[first, op(2, 0, 3, put("b", "1"), put_ok(3))]);
    bad("unexplained revision", &[op(1, 0, 1, put("a", "1"), put_ok(3))]);
}

#[test]
fn a_lost_write_is_found_in_a_long_history_and_shown_in_few_lines() {
    let mut operations = Vec::new();
    for at in 0..500_u64 {
        let key = format!("k{}", at % 7);
        operations.push(op(1, at * 10, at * 10 + 1, put(&key, &at.to_string()), put_ok(at as i64 + 2)));
    }
    // The write of revision 496 to k4 is forgotten.
    let lost = kv("k4", "487", 6, 489, 70);
    operations.push(op(2, 5_000, 5_001, get("k4"), got(501, &[lost])));
    let verdict = verdict(&operations);
    let violation = verdict.violation().expect("a violation");
    assert_eq!(violation.promise, "wrong answer", "{verdict}");
    assert!(violation.evidence.len() <= 6, "{verdict}");
    assert!(verdict.to_string().contains("k4=494"), "{verdict}");
}

#[test]
fn an_unknown_write_may_happen_late_or_never_but_not_before_its_call() {
    let unknown = op(1, 10, 20, put("a", "1"), Outcome::Unknown);
    let seen = |at: u64| op(2, at, at + 1, get("a"), got(2, &[kv("a", "1", 2, 2, 1)]));
    let unseen = |at: u64| op(2, at, at + 1, get("a"), got(1, &[]));
    good(&[unknown.clone(), unseen(15), unseen(30), seen(40)]);
    good(&[unknown.clone(), unseen(40)]);
    bad("unexplained revision", &[unknown.clone(), seen(5)]);
    bad("stale read", &[unknown, seen(30), unseen(40)]);
    bad("unexplained revision", &[seen(30)]);
}

#[test]
fn a_definite_failure_never_shows() {
    let failed = op(1, 10, 20, put("a", "1"), Outcome::Failed("no leader".into()));
    bad("unexplained revision", &[failed, op(2, 30, 31, get("a"), got(2, &[kv("a", "1", 2, 2, 1)]))]);
}

#[test]
fn an_unknown_write_is_done_once() {
    let unknown = op(1, 0, 20, put("a", "1"), Outcome::Unknown);
    let twice = op(2, 30, 31, get("a"), got(3, &[kv("a", "1", 2, 3, 2)]));
    bad("unexplained revision", &[unknown, twice]);
}

fn register(version: i64, value: &str) -> Request {
    let compare = Compare { keys: KeyRange::one("a"), relation: Relation::Equal, target: Target::Version(version) };
    let Request::Put(put) = put("a", value) else { unreachable!() };
    Request::Txn(Txn { compares: vec![compare], success: vec![TxnOp::Put(put)], failure: vec![] })
}

fn swapped(revision: i64, succeeded: bool) -> Outcome {
    let responses = if succeeded { vec![Body::Put { prev_kv: None }] } else { vec![] };
    ok(revision, Body::Txn { succeeded, responses })
}

#[test]
fn one_of_two_transactions_with_the_same_compare_wins() {
    let first = op(1, 0, 10, register(0, "1"), swapped(2, true));
    good(&[first.clone(), op(2, 0, 10, register(0, "2"), swapped(2, false))]);
    good(&[first.clone(), op(2, 0, 10, register(1, "2"), swapped(3, true))]);
    bad("wrong answer", &[first, op(2, 0, 10, register(0, "2"), swapped(3, true))]);
}

#[test]
fn a_leases_keys_go_together_in_one_revision() {
    let before = [
        op(1, 0, 1, grant(7, 5), granted(1, 7, 5)),
        op(1, 2, 3, put_leased("a", "1", 7), put_ok(2)),
        op(1, 4, 5, put_leased("b", "1", 7), put_ok(3)),
    ];
    let with = |last: Operation| [&before[..], &[last]].concat();
    good(&with(op(2, 9, 10, get("a"), got(4, &[]))));
    good(&[with(op(2, 9, 10, get("a"), got(4, &[]))), vec![op(2, 11, 12, get("b"), got(4, &[]))]].concat());
    let half = leased(kv("b", "1", 3, 3, 1), 7);
    let torn = [with(op(2, 9, 10, get("a"), got(4, &[]))), vec![op(2, 11, 12, get("b"), got(4, &[half]))]].concat();
    bad("unexplained revision", &torn);
    bad("wrong lease", &with(op(2, 9, 10, put_leased("c", "1", 8), put_ok(4))));
}

#[test]
fn a_lease_that_is_gone_refuses_and_one_that_lives_does_not() {
    let granted_once = op(1, 0, 1, grant(7, 5), granted(1, 7, 5));
    let again = op(1, 2, 3, grant(7, 5), refused(Refusal::LeaseExists));
    good(&[granted_once.clone(), again.clone(), op(1, 4, 5, keep_alive(7), kept(1, 5))]);
    bad("wrong answer", &[again]);
    // It may have ended by itself, but without another grant it does not live again.
    let gone = op(1, 2, 3, put_leased("a", "1", 7), refused(Refusal::LeaseNotFound));
    good(&[granted_once.clone(), gone.clone()]);
    bad("wrong answer", &[granted_once, gone, op(1, 4, 5, keep_alive(7), kept(1, 5))]);
}

#[test]
fn compaction_and_the_future_are_refused_only_where_they_are() {
    let writes = [op(1, 0, 1, put("a", "1"), put_ok(2)), op(1, 2, 3, put("a", "2"), put_ok(3))];
    let read = |at: i64, outcome: Outcome| {
        let Request::Range(range) = get("a") else { unreachable!() };
        let range = tenure_history::request::Range { revision: Revision(at), ..range };
        op(1, 8, 9, Request::Range(range), outcome)
    };
    let compact = op(1, 5, 6, Request::Compact { revision: Revision(3) }, ok(3, Body::Compact));
    let unknown = Operation { outcome: Outcome::Unknown, ..compact.clone() };
    let with = |more: &[Operation]| [&writes[..], more].concat();
    good(&with(&[read(2, got(3, &[kv("a", "1", 2, 2, 1)]))]));
    good(&with(&[compact.clone(), read(2, refused(Refusal::Compacted))]));
    good(&with(&[unknown, read(2, refused(Refusal::Compacted))]));
    bad("wrong answer", &with(&[read(2, refused(Refusal::Compacted))]));
    bad("wrong answer", &with(&[compact.clone(), read(2, got(3, &[kv("a", "1", 2, 2, 1)]))]));
    bad("wrong answer", &with(&[compact, read(3, refused(Refusal::FutureRevision))]));
    good(&with(&[read(4, refused(Refusal::FutureRevision))]));
}

#[test]
fn a_serializable_read_shows_some_real_past_and_no_future() {
    let writes = [op(1, 0, 1, put("a", "1"), put_ok(2)), op(1, 2, 3, put("a", "2"), put_ok(3))];
    let with = |outcome| [&writes[..], &[op(2, 8, 9, get_serializable("a"), outcome)]].concat();
    good(&with(got(2, &[kv("a", "1", 2, 2, 1)])));
    bad("wrong answer", &with(got(2, &[kv("a", "2", 2, 3, 2)])));
    bad("unexplained revision", &with(got(4, &[kv("a", "2", 2, 3, 2)])));
}

#[test]
fn an_unsound_history_is_refused() {
    let backwards = op(1, 5, 1, put("a", "1"), put_ok(2));
    bad_history(&backwards);
    let duplicate = op(1, 0, 1, register(0, "1"), refused(Refusal::DuplicateKey));
    assert_eq!(broken(&verdict(&[duplicate])), "wrong answer");
    let revoke = Request::LeaseRevoke { id: LeaseId(1) };
    bad_history(&op(1, 0, 1, revoke, put_ok(2)));
}

#[track_caller]
fn bad_history(operation: &Operation) {
    assert_eq!(broken(&verdict(std::slice::from_ref(operation))), "history is sound");
}

#[test]
fn a_search_that_is_cut_short_says_so() {
    let operations: Vec<Operation> =
        (0..20).map(|at| op(1, at * 10, at * 10 + 1, put("a", "1"), put_ok(at as i64 + 2))).collect();
    let options = Options { steps_max: 5, serializable: false };
    let verdict = linearize(&History::of(operations), &options);
    let Verdict::Undecided(window) = &verdict else { panic!("{verdict}") };
    assert!(window.steps <= 5, "{verdict}");
}
