//! What the table does, one phenomenon after the other.

use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::watch_request::RequestUnion;
use tenure_proto::mvccpb::{Event, KeyValue};

use crate::ids::Revision;
use crate::watch::joiner::Disorder;
use crate::watch::table::{Action, End, Scope, Table, Unusable, WatchKey};

const W: WatchKey = WatchKey(1);

fn scope() -> Scope {
    Scope { key: "k".into(), progress: true, revision_bytes_max: 10_000, ..Scope::default() }
}

/// What is asked next: the id and the start of a watch, or the id of one that is to go.
#[derive(Debug, PartialEq)]
enum Request {
    Create(i64, i64),
    Cancel(i64),
    Progress,
}

fn requests(table: &mut Table) -> Vec<Request> {
    let requests = std::iter::from_fn(|| table.next_request());
    let requests = requests.map(|request| match request.request_union.expect("a request") {
        RequestUnion::CreateRequest(create) => Request::Create(create.watch_id, create.start_revision),
        RequestUnion::CancelRequest(cancel) => Request::Cancel(cancel.watch_id),
        RequestUnion::ProgressRequest(_) => Request::Progress,
    });
    requests.collect()
}

fn about(watch_id: i64, revision: i64) -> pb::WatchResponse {
    let header = pb::ResponseHeader { revision, ..Default::default() };
    pb::WatchResponse { header: Some(header), watch_id, ..Default::default() }
}

fn created(id: i64, revision: i64) -> pb::WatchResponse {
    pb::WatchResponse { created: true, ..about(id, revision) }
}

fn refused(id: i64, reason: &str, compact_revision: i64) -> pb::WatchResponse {
    pb::WatchResponse { canceled: true, cancel_reason: reason.to_owned(), compact_revision, ..about(id, 9) }
}

fn events(id: i64, revisions: &[i64]) -> pb::WatchResponse {
    let event = |revision: &i64| Event {
        kv: Some(KeyValue { key: "k".into(), mod_revision: *revision, ..Default::default() }),
        ..Default::default()
    };
    pb::WatchResponse { events: revisions.iter().map(event).collect(), ..about(id, *revisions.last().expect("one")) }
}

fn message(table: &mut Table, message: pb::WatchResponse) -> Vec<Action> {
    table.message(message).expect("a message that may be")
}

fn delivered(actions: &[Action]) -> Vec<i64> {
    match actions {
        [Action::Deliver(W, wholes)] => wholes.iter().map(|whole| whole.revision.0).collect(),
        other => panic!("{other:?}"),
    }
}

/// A table with a watch that the server has made.
fn watching(start: Option<i64>) -> Table {
    let mut table = Table::default();
    table.connected(true);
    table.open(W, scope(), start.map(Revision));
    requests(&mut table);
    message(&mut table, created(1, 5));
    table
}

fn lose(table: &mut Table) -> Vec<Request> {
    assert_eq!(table.lost(), []);
    table.connected(true);
    requests(table)
}

#[test]
fn the_first_answer_fixes_the_start_so_a_cut_before_the_first_event_loses_nothing() {
    let mut table = Table::default();
    table.open(W, scope(), None);
    assert_eq!(requests(&mut table), [], "there is no stream");
    table.connected(true);
    assert_eq!(requests(&mut table), [Request::Create(1, 0)]);
    assert_eq!(lose(&mut table), [Request::Create(2, 0)], "it had not begun");
    assert_eq!(message(&mut table, created(2, 5)), [Action::Started(W, Revision(6))]);
    assert_eq!(lose(&mut table), [Request::Create(3, 6)]);
    assert_eq!(message(&mut table, created(3, 9)), [Action::Started(W, Revision(6))]);
}

#[test]
fn it_goes_on_after_the_last_whole_revision() {
    let mut table = watching(None);
    assert_eq!(delivered(&message(&mut table, events(1, &[6, 7, 9]))), [6, 7, 9]);
    let partial = pb::WatchResponse { fragment: true, ..events(1, &[10, 11]) };
    assert_eq!(delivered(&message(&mut table, partial)), [10]);
    assert_eq!(lose(&mut table), [Request::Create(2, 11)]);
    message(&mut table, created(2, 9));
    assert_eq!(delivered(&message(&mut table, events(2, &[10, 11, 12]))), [11, 12]);
}

#[test]
fn progress_moves_a_quiet_watch_on() {
    let mut table = watching(Some(3));
    assert_eq!(message(&mut table, about(1, 20)), [Action::Progress(W, Revision(20))]);
    assert_eq!(message(&mut table, about(-1, 25)), [Action::Progress(W, Revision(25))]);
    assert_eq!(message(&mut table, about(1, 21)), [], "that is no news");
    assert_eq!(lose(&mut table), [Request::Create(2, 26)]);
    assert_eq!(message(&mut table, about(-1, 40)), [], "it is not made yet");
    message(&mut table, created(2, 40));
    assert_eq!(lose(&mut table), [Request::Create(3, 26)]);
}

#[test]
fn what_an_etcd_says_of_all_watches_at_once_is_no_progress() {
    let mut table = Table::default();
    table.connected(false);
    table.open(W, scope(), Some(Revision(3)));
    message(&mut table, created(1, 5));
    assert_eq!(message(&mut table, about(-1, 25)), []);
    assert_eq!(lose(&mut table)[0], Request::Create(2, 3));
}

#[test]
fn a_slow_reader_goes_on_where_it_stopped_under_another_id() {
    let mut table = watching(None);
    assert_eq!(delivered(&message(&mut table, events(1, &[6, 7, 8]))), [6, 7, 8]);
    table.detach(W, Revision(7));
    assert_eq!(requests(&mut table), [Request::Cancel(1)]);
    assert_eq!(message(&mut table, events(1, &[9])), [], "nobody takes it");
    table.attach(W);
    assert_eq!(requests(&mut table), [Request::Create(2, 7)]);
    assert_eq!(message(&mut table, refused(1, "", 0)), [], "that is the old one");
    message(&mut table, created(2, 9));
    assert_eq!(delivered(&message(&mut table, events(2, &[7, 8, 9]))), [7, 8, 9]);
}

#[test]
fn a_slow_reader_stays_away_when_the_stream_changes() {
    let mut table = watching(None);
    table.detach(W, Revision(6));
    assert_eq!(lose(&mut table), []);
    table.attach(W);
    assert_eq!(requests(&mut table), [Request::Create(2, 6)]);
}

#[test]
fn compaction_is_told_whether_at_the_start_or_later() {
    let mut table = watching(Some(3));
    assert_eq!(message(&mut table, refused(1, "", 8)), [Action::End(W, End::Compacted(Revision(8)))]);
    assert!(table.is_empty());
    let mut table = Table::default();
    table.connected(true);
    table.open(W, scope(), Some(Revision(-5)));
    let answer =
        pb::WatchResponse { created: true, ..refused(-1, "etcdserver: mvcc: required revision has been compacted", 0) };
    assert_eq!(message(&mut table, answer), [Action::End(W, End::Compacted(Revision(0)))]);
}

#[test]
fn a_refusal_ends_the_watch_that_was_asked_for_and_no_other() {
    let mut table = watching(None);
    table.open(WatchKey(2), scope(), None);
    table.open(WatchKey(3), scope(), None);
    let refusal = pb::WatchResponse { created: true, ..refused(-1, "etcdserver: permission denied", 0) };
    let end = End::Refused("etcdserver: permission denied".to_owned());
    assert_eq!(message(&mut table, refusal), [Action::End(WatchKey(2), end.clone())]);
    assert_eq!(message(&mut table, created(3, 5)), [Action::Started(WatchKey(3), Revision(6))]);
    let later = refused(1, "etcdserver: permission denied", 0);
    assert_eq!(message(&mut table, later), [Action::End(W, end)]);
    assert_eq!(table.keys().collect::<Vec<_>>(), [WatchKey(3)]);
}

#[test]
fn a_token_that_ran_out_costs_the_stream_and_no_watch() {
    let mut table = watching(None);
    let refusal = table.message(refused(1, "etcdserver: invalid auth token", 0));
    assert_eq!(refusal, Err(Unusable::Token("etcdserver: invalid auth token".to_owned())));
    assert_eq!(lose(&mut table), [Request::Create(2, 6)]);
}

#[test]
fn a_close_is_confirmed_by_the_server_or_by_the_end_of_the_stream() {
    let mut table = watching(None);
    assert_eq!(table.close(W), None);
    assert_eq!(requests(&mut table), [Request::Cancel(1)]);
    assert!(!table.is_empty());
    assert_eq!(message(&mut table, refused(1, "", 0)), [Action::Closed(W)]);
    assert!(table.is_empty());
    let mut table = watching(None);
    assert_eq!(table.close(W), None);
    assert_eq!(table.lost(), [Action::Closed(W)]);
    table.open(W, scope(), None);
    assert_eq!(table.close(W), Some(Action::Closed(W)), "no server knows of it");
}

#[test]
fn a_watch_that_is_closed_before_it_is_made_tells_nothing() {
    let mut table = Table::default();
    table.connected(true);
    table.open(W, scope(), None);
    assert_eq!(table.close(W), None);
    assert_eq!(requests(&mut table), [Request::Create(1, 0), Request::Cancel(1)]);
    assert_eq!(message(&mut table, created(1, 5)), []);
    assert_eq!(message(&mut table, events(1, &[6])), []);
    assert_eq!(message(&mut table, refused(1, "", 0)), [Action::Closed(W)]);
}

#[test]
fn a_knock_is_answered_in_its_turn_and_moves_nothing() {
    let mut table = watching(None);
    table.knock();
    table.ask_progress();
    table.open(WatchKey(2), scope(), None);
    assert_eq!(requests(&mut table), [Request::Create(0, 0), Request::Progress, Request::Create(2, 0)]);
    assert_eq!(message(&mut table, pb::WatchResponse { created: true, ..refused(-1, "empty", 0) }), []);
    assert_eq!(message(&mut table, created(2, 5)), [Action::Started(WatchKey(2), Revision(6))]);
    table.knock();
    requests(&mut table);
    assert_eq!(message(&mut table, created(77, 5)), [], "a server that watches nothing");
    assert_eq!(requests(&mut table), [Request::Cancel(77)]);
}

#[test]
fn a_revision_that_is_too_large_ends_the_watch_before_it_fills_the_memory() {
    let mut table = watching(None);
    let mut part = pb::WatchResponse { fragment: true, ..events(1, &[6, 7]) };
    part.events[1].kv.as_mut().expect("a key").value = vec![0; 20_000].into();
    let actions = message(&mut table, part);
    assert_eq!(delivered(&actions[..1]), [6]);
    assert_eq!(actions[1..], [Action::End(W, End::TooLarge(Revision(7)))]);
    assert_eq!(requests(&mut table), [Request::Cancel(1)]);
}

#[test]
fn a_server_that_makes_no_sense_costs_the_stream() {
    let unusable = |table: &mut Table, message| table.message(message).expect_err("nonsense");
    let mut table = watching(None);
    assert_eq!(unusable(&mut table, created(1, 5)), Unusable::Unasked);
    assert_eq!(unusable(&mut table, events(1, &[8, 7])), Unusable::Disorder(Disorder::Backwards));
    let mut table = watching(None);
    table.open(WatchKey(2), scope(), None);
    assert_eq!(unusable(&mut table, events(2, &[8])), Unusable::TooEarly);
    assert_eq!(unusable(&mut table, created(1, 8)), Unusable::Unasked);
    let mut table = watching(None);
    message(&mut table, pb::WatchResponse { fragment: true, ..events(1, &[6]) });
    assert_eq!(unusable(&mut table, about(1, 9)), Unusable::ProgressWithin);
}
