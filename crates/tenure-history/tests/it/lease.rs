//! Lives of leases, in milliseconds.

use std::time::Duration;

use tenure_history::lease::{Bounds, Counts, check};
use tenure_history::linearize::{Options, linearize};
use tenure_history::request::Request;
use tenure_history::response::{Body, Outcome};
use tenure_history::{History, LeaseId, Moment, Operation, Verdict};

use crate::build::*;

fn judge_with(bounds: &Bounds, operations: &[Operation]) -> Verdict<Counts> {
    let history = History::of(operations.to_vec());
    let Verdict::Ok(found) = linearize(&history, &Options::default()) else { panic!("not linearizable") };
    check(&history, &found.truth, bounds)
}

fn judge(operations: &[Operation]) -> String {
    broken(&judge_with(&Bounds::default(), operations)).to_owned()
}

/// A lease of 5 s granted at 100 and renewed at 3000, with a key.
fn life() -> Vec<Operation> {
    vec![
        op(1, 100, 110, grant(7, 5), granted(1, 7, 5)),
        op(1, 120, 130, put_leased("a", "1", 7), put_ok(2)),
        op(1, 3_000, 3_010, keep_alive(7), kept(2, 5)),
    ]
}

fn with(more: &[Operation]) -> Vec<Operation> {
    [life(), more.to_vec()].concat()
}

fn time_to_live(at: u64, ttl_secs: i64, granted_secs: i64) -> Operation {
    let request = Request::LeaseTimeToLive { id: LeaseId(7), keys: false };
    op(1, at, at + 1, request, ok(2, Body::LeaseTimeToLive { ttl_secs, granted_secs, keys: vec![] }))
}

fn seen(at: u64) -> Operation {
    op(2, at, at + 1, get("a"), got(2, &[leased(kv("a", "1", 2, 2, 1), 7)]))
}

fn unseen(at: u64) -> Operation {
    op(2, at, at + 1, get("a"), got(3, &[]))
}

#[test]
fn a_lease_lives_until_ttl_after_its_last_renewal_was_sent() {
    assert_eq!(judge(&with(&[seen(7_900), unseen(8_100)])), "");
    assert_eq!(judge(&with(&[unseen(7_900)])), "never early");
    assert_eq!(judge(&with(&[op(1, 7_000, 7_100, keep_alive(7), kept(2, 0))])), "never early");
    assert_eq!(judge(&with(&[time_to_live(7_000, -1, 0)])), "never early");
    assert_eq!(judge(&with(&[time_to_live(8_000, -1, 0)])), "");
}

#[test]
fn whoever_asks_for_a_revocation_gets_one() {
    let revoke = |outcome| op(3, 4_000, 4_100, Request::LeaseRevoke { id: LeaseId(7) }, outcome);
    assert_eq!(judge(&with(&[revoke(ok(3, Body::LeaseRevoke)), unseen(5_000)])), "");
    assert_eq!(judge(&with(&[revoke(Outcome::Unknown), unseen(5_000)])), "");
    assert_eq!(judge(&with(&[revoke(Outcome::Failed("no leader".into())), unseen(5_000)])), "never early");
}

#[test]
fn a_lease_is_gone_within_the_bound() {
    // Gone at 3010 + 5000 + 100; one grace and one second more.
    assert_eq!(judge(&with(&[seen(10_100)])), "");
    assert_eq!(judge(&with(&[seen(10_120)])), "never late");
    assert_eq!(judge(&with(&[time_to_live(10_120, 0, 5)])), "never late");
    let at = |ms: u64| Moment(ms * 1_000_000);
    let outages = vec![(at(1_000), at(8_560)), (at(8_300), at(9_060))];
    let bounds = Bounds { outages, ..Bounds::default() };
    assert!(judge_with(&bounds, &with(&[seen(11_050)])).is_ok());
    assert_eq!(broken(&judge_with(&bounds, &with(&[seen(11_070)]))), "never late");
    let patient = Bounds { unknown_settles: Duration::from_secs(1), ..Bounds::default() };
    let unknown = op(1, 6_000, 6_500, keep_alive(7), Outcome::Unknown);
    assert!(judge_with(&patient, &with(&[unknown.clone(), seen(14_500)])).is_ok());
    assert_eq!(broken(&judge_with(&patient, &with(&[unknown, seen(14_620)]))), "never late");
}

#[test]
fn time_in_which_the_clock_stood_counts_before_a_lease_is_due_too() {
    let at = |ms: u64| Moment(ms * 1_000_000);
    let bounds =
        |stood| Bounds { outages: vec![(at(4_000), at(6_000)), (at(8_500), at(9_000))], stood, ..Bounds::default() };
    assert_eq!(broken(&judge_with(&bounds(Vec::new()), &with(&[seen(12_000)]))), "never late");
    let stood = vec![(at(4_000), at(6_000))];
    assert!(judge_with(&bounds(stood.clone()), &with(&[seen(12_990)])).is_ok());
    assert_eq!(broken(&judge_with(&bounds(stood), &with(&[seen(13_010)]))), "never late");
}

#[test]
fn a_leader_that_does_not_outlive_its_grace_need_not_end_a_lease() {
    let at = |ms: u64| Moment(ms * 1_000_000);
    // Gone at 8110; a leader from 9000 to 10900, and another from 12000 on.
    let short = Bounds { outages: vec![(at(8_000), at(9_000)), (at(10_900), at(12_000))], ..Bounds::default() };
    assert!(judge_with(&short, &with(&[seen(13_990)])).is_ok());
    assert_eq!(broken(&judge_with(&short, &with(&[seen(14_010)]))), "never late");
    // One that goes on until 11100 must.
    let long = Bounds { outages: vec![(at(8_000), at(9_000)), (at(11_100), at(12_000))], ..Bounds::default() };
    assert_eq!(broken(&judge_with(&long, &with(&[seen(12_100)]))), "never late");
    // One that had worked before must end it within a second of its time.
    let busy = Bounds { outages: vec![(at(9_150), at(12_000))], ..Bounds::default() };
    assert!(judge_with(&busy, &with(&[seen(12_900)])).is_ok());
    assert_eq!(broken(&judge_with(&busy, &with(&[seen(13_000)]))), "never late");
}

#[test]
fn an_exempt_lease_is_left_out_and_counted() {
    let bounds = Bounds { exempt: [LeaseId(7)].into(), ..Bounds::default() };
    let Verdict::Ok(counts) = judge_with(&bounds, &with(&[seen(20_000)])) else { panic!() };
    assert_eq!((counts.granted, counts.exempt), (0, 1));
}

#[test]
fn a_lease_never_comes_back() {
    // Linearizable, since nobody says when the renewal took effect but its two instants, which reach back.
    let renewed = |called, header| op(1, called, 9_500, keep_alive(7), kept(header, 5));
    assert_eq!(judge(&with(&[unseen(8_100), renewed(8_000, 3)])), "never early");
    let mut history = History::of(with(&[unseen(8_100)]));
    let Verdict::Ok(found) = linearize(&history, &Options::default()) else { panic!() };
    history.operations.push(renewed(9_000, 2));
    assert_eq!(broken(&check(&history, &found.truth, &Bounds::default())), "never back");
    history.operations.pop();
    history.operations[2].outcome = kept(3, 5);
    assert_eq!(broken(&check(&history, &found.truth, &Bounds::default())), "never back");
}

#[test]
fn times_to_live_are_plausible() {
    assert_eq!(judge(&with(&[time_to_live(4_000, 4, 5)])), "");
    assert_eq!(judge(&with(&[time_to_live(4_000, 9, 5)])), "plausible time to live");
    assert_eq!(judge(&with(&[time_to_live(4_000, 1, 5)])), "plausible time to live");
    assert_eq!(judge(&with(&[time_to_live(4_000, 4, 6)])), "plausible time to live");
}

#[test]
fn an_id_may_be_used_again() {
    let again = [
        op(1, 20_000, 20_010, grant(7, 5), granted(3, 7, 5)),
        op(1, 20_100, 20_110, put_leased("a", "1", 7), put_ok(4)),
    ];
    let gone = |at| op(2, at, at + 1, get("a"), got(5, &[]));
    let history = |at| [with(&[unseen(8_100)]), again.to_vec(), vec![gone(at)]].concat();
    let verdict = judge_with(&Bounds::default(), &history(25_100));
    assert!(matches!(&verdict, Verdict::Ok(counts) if counts.granted == 2 && counts.ended == 2), "{verdict}");
    assert_eq!(judge(&history(24_000)), "never early");
}
