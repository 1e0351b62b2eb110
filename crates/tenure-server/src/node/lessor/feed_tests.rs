//! The feed forgets nothing without saying so, and holds nothing when nobody listens.

use tenure_core::row::Incarnation;
use tenure_storage::mem::MemEngine;
use tenure_storage::store::StateStore;

use super::*;

fn view() -> Arc<StateView> {
    StateStore::open(Arc::new(MemEngine::new())).expect("an empty store").view()
}

fn run(view: &Arc<StateView>, leases: usize) -> AppliedRun {
    let row =
        LeaseRow { incarnation: Incarnation::default(), ttl_ms: 1000, renewals: 0, clock_ms: 0, has_holder: false };
    let leases: Vec<_> = (1..).map(|id| (LeaseId(id), Some(row))).take(leases).collect();
    AppliedRun { view: view.clone(), events: Arc::from([]), leases: leases.into(), locks: Arc::from([]), log_bytes: 0 }
}

fn taken(feed: &LeaseFeed) -> Option<Vec<usize>> {
    match feed.take() {
        Waiting::Changes(runs) => Some(runs.iter().map(|(_, leases)| leases.len()).collect()),
        Waiting::Latest(leases) => Some(vec![leases.len()]),
        Waiting::Missed => None,
    }
}

#[test]
fn only_an_open_feed_keeps_changes() {
    let (feed, view) = (LeaseFeed::default(), view());
    feed.applied(&run(&view, 1));
    assert_eq!(taken(&feed), Some(vec![]));
    feed.open();
    feed.applied(&run(&view, 2));
    feed.applied(&run(&view, 0));
    feed.applied(&run(&view, 3));
    assert_eq!(taken(&feed), Some(vec![2, 3]), "runs without lease changes are no news");
    assert_eq!(taken(&feed), Some(vec![]));
    feed.applied(&run(&view, 4));
    feed.close();
    feed.applied(&run(&view, 5));
    assert_eq!(taken(&feed), Some(vec![]));
}

#[test]
fn a_reader_that_falls_behind_gets_the_last_change_of_each_lease() {
    let (feed, view) = (LeaseFeed::default(), view());
    feed.open();
    // As many renewals as there are while a table of millions is read, and more.
    for _ in 0..100 {
        feed.applied(&run(&view, WAITING_MAX / 4));
    }
    let last =
        LeaseRow { incarnation: Incarnation::default(), ttl_ms: 1000, renewals: 9, clock_ms: 7, has_holder: false };
    let leases = Arc::from([(LeaseId(1), Some(last)), (LeaseId(2), None)]);
    feed.applied(&AppliedRun { leases, ..run(&view, 0) });
    let Waiting::Latest(latest) = feed.take() else { panic!("too many to be told one by one") };
    assert_eq!(latest.len(), WAITING_MAX / 4);
    let index = view.applied().index;
    assert_eq!((latest[&LeaseId(1)], latest[&LeaseId(2)]), ((index, Some(last)), (index, None)));
    feed.applied(&run(&view, 3));
    assert_eq!(taken(&feed), Some(vec![3]), "one by one again");
}

#[test]
fn a_reader_that_falls_too_far_behind_is_told() {
    let (feed, view) = (LeaseFeed::bounded(2 * WAITING_MAX), view());
    feed.open();
    feed.applied(&run(&view, 2 * WAITING_MAX));
    assert_eq!(taken(&feed), Some(vec![2 * WAITING_MAX]));
    feed.applied(&run(&view, 2 * WAITING_MAX + 1));
    feed.applied(&run(&view, 1));
    assert_eq!(taken(&feed), None);
    assert_eq!(taken(&feed), None, "until it begins again");
    feed.open();
    feed.applied(&run(&view, 1));
    assert_eq!(taken(&feed), Some(vec![1]));
}

#[test]
fn a_snapshot_is_nothing_that_changes_tell() {
    let (feed, view) = (LeaseFeed::default(), view());
    feed.replaced(&view);
    assert_eq!(taken(&feed), Some(vec![]), "nobody listens");
    feed.open();
    feed.applied(&run(&view, 1));
    feed.replaced(&view);
    assert_eq!(taken(&feed), None);
}
