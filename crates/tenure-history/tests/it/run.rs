//! All checkers over one run.

use tenure_history::request::KeyRange;
use tenure_history::response::Outcome;
use tenure_history::run::{Run, Status, Watcher};
use tenure_history::watch::{Event, Spec, Step};
use tenure_history::{History, Moment, Revision};

use crate::build::*;

fn run() -> Run {
    let history = History::of(vec![
        op(1, 0, 1, put("a", "1"), put_ok(2)),
        op(1, 2, 3, put("a", "2"), Outcome::Unknown),
        op(2, 2, 3, put("b", "2"), Outcome::Unknown),
        op(2, 6, 7, get("c"), got(3, &[])),
    ]);
    let event = |value: &str, at: i64| Event { delete: false, kv: kv("a", value, 2, at, at - 1), prev_kv: None };
    let message = |at: i64, value: &str| Step::Message {
        at: Moment(at as u64),
        revision: Revision(at),
        fragment: false,
        events: vec![event(value, at)],
    };
    let watcher = Watcher {
        name: "node 1".into(),
        spec: Spec { keys: KeyRange::all(), puts: true, deletes: true, prev_kv: false },
        steps: vec![Step::From(Revision(1)), message(2, "1"), message(3, "2")],
        last: Some(Revision(3)),
    };
    Run { history, watchers: vec![watcher], ..Run::default() }
}

#[test]
fn a_right_run_passes_every_checker() {
    let findings = run().check();
    assert!(findings.is_ok(), "{findings}");
    let checkers: Vec<&str> = findings.all.iter().map(|finding| &finding.checker[..]).collect();
    assert_eq!(checkers, ["linearizability", "reads", "watch", "leases"]);
}

#[test]
fn a_watcher_that_missed_an_event_is_named_and_the_rest_is_not_blamed() {
    let mut run = run();
    run.watchers[0].steps.remove(1);
    let findings = run.check();
    let wrong: Vec<&str> = findings.violations().map(|finding| &finding.checker[..]).collect();
    assert_eq!(wrong, ["watch (node 1)"], "{findings}");
    assert!(findings.to_string().contains("reliable"), "{findings}");
}

#[test]
fn without_an_order_of_the_writes_watchers_and_leases_say_that_they_were_not_checked() {
    let mut run = run();
    run.history.operations.push(op(3, 8, 9, get("a"), got(2, &[kv("a", "1", 2, 2, 1)])));
    let findings = run.check();
    let status = |checker: &str| findings.all.iter().find(|finding| finding.checker == checker).unwrap().status;
    assert_eq!(status("linearizability"), Status::Violation);
    assert_eq!(status("reads"), Status::Violation);
    assert_eq!(status("watch"), Status::Unchecked);
    assert_eq!(status("leases"), Status::Unchecked);
    assert!(!findings.is_ok());
}
