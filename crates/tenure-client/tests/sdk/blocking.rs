//! The client in programs without async.

use std::time::Duration;

use tenure_client::blocking::Blocking;
use tenure_client::lock::Interrupted;
use tenure_client::session::LostReason;
use tenure_client::{ConnectOptions, KeyRange, Refusal, kv};

use crate::support::members::Cluster;
use crate::support::run;

#[test]
fn requests_and_streams_are_waited_for() {
    let cluster = run(Cluster::one());
    let tenure = Blocking::connect(cluster.endpoints(), ConnectOptions::default()).expect("a client");
    let client = tenure.client();
    tenure
        .wait(client.txn().and_then((0..300).map(|n| kv::put(format!("k/{n}"), "v"))))
        .expect_err("too many operations");
    for chunk in 0..3 {
        let puts = (0..100).map(|n| kv::put(format!("k/{chunk}/{n}"), "v"));
        tenure.wait(client.txn().and_then(puts)).expect("a transaction");
    }
    let pages = tenure.each(client.get(KeyRange::all()).stream());
    let keys: usize = pages.map(|page| page.expect("a page").len()).sum();
    assert_eq!(keys, 300);
    // From several threads at once, and after a clone is gone.
    std::thread::scope(|scope| {
        for n in 0..4 {
            let tenure = tenure.clone();
            scope.spawn(move || tenure.wait(tenure.client().put(format!("t/{n}"), "v")).expect("a put"));
        }
    });
    assert_eq!(tenure.wait(client.get("t/").prefix().count_only()).expect("a read").count, 4);
    let never = tenure.wait_for(Duration::from_millis(10), std::future::pending::<()>());
    assert!(never.is_err());
    tenure.close();
    assert!(tenure.wait(client.get("k")).is_err());
}

#[test]
fn a_client_of_a_runtime_is_used_by_threads_beside_it() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (_cluster, client) = runtime.block_on(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        (cluster, client)
    });
    let tenure = Blocking::of(client);
    std::thread::spawn(move || tenure.wait(tenure.client().put("k", "v")).expect("a put")).join().expect("no panic");
}

#[test]
fn a_lock_is_kept_by_the_clients_thread_and_checked_between_steps() {
    let cluster = run(Cluster::one());
    let tenure = Blocking::connect(cluster.endpoints(), ConnectOptions::default()).expect("a client");
    let session = tenure.wait(tenure.client().session().ttl(Duration::from_secs(30)).start()).expect("a session");
    let mut states = tenure.states(session.state());
    assert!(states.next().expect("there is one").is_safe());
    let guard = tenure.acquire(session.lock("job")).expect("a lock");
    guard.ensure(Duration::from_secs(5)).expect("there is time");
    assert_eq!(guard.lost_within(Duration::from_millis(10)), None);
    let done = guard.run(|guard| guard.check().map(|()| 7)).expect("it is held");
    tenure.wait(tenure.client().put("k", format!("{done}")).under(&guard.fence())).expect("it is held");

    // An operator takes it away.
    let fence = guard.fence();
    tenure.wait(tenure.client().delete(fence.key.clone())).expect("a delete");
    assert_eq!(guard.lost_within(Duration::from_secs(50)), Some(LostReason::KeyDeleted));
    let interrupted = guard.run(|_| -> Result<(), Interrupted> { panic!("it is not begun") });
    assert_eq!(interrupted, Err(Interrupted::Lost(LostReason::KeyDeleted)));
    let refused = tenure.wait(tenure.client().put("k", "late").under(&fence)).expect_err("it is not held");
    assert_eq!(refused.refusal(), Some(Refusal::NotHeld));
    let refused = tenure.wait(tenure.client().delete("k").under(&fence)).expect_err("it is not held");
    assert_eq!(refused.refusal(), Some(Refusal::NotHeld));
    let released = guard.release().expect("it can be let go");
    assert!(!released.was_held);

    let again = tenure.acquire(session.lock("job")).expect("a lock");
    assert!(again.token().revision > fence.token);
    assert!(again.release().expect("it is let go").was_held);
    tenure.wait(session.close()).expect("it ends");
    assert!(states.any(|state| state.is_final()), "the last state is told");
}

#[test]
fn elections_and_watches_are_waited_for() {
    let cluster = run(Cluster::one());
    let tenure = Blocking::connect(cluster.endpoints(), ConnectOptions::default()).expect("a client");
    let mut watch = tenure.watch(tenure.client().watch(KeyRange::prefix("w/"))).expect("a watch");
    tenure.wait(tenure.client().put("w/1", "v")).expect("a put");
    let batch = watch.next().expect("it goes on").expect("no error");
    assert_eq!(batch.events.iter().map(|event| event.key().clone()).collect::<Vec<_>>(), ["w/1"]);

    let session = tenure.wait(tenure.client().session().start()).expect("a session");
    let leader = tenure.campaign(session.election("e").value("n1")).expect("it leads");
    leader.proclaim("n1 again").expect("it is told");
    let told = tenure.wait(tenure.client().election("e").leader()).expect("a read").expect("there is one");
    assert_eq!(told.value, "n1 again");
    leader.resign().expect("it ends");
    assert!(tenure.wait(tenure.client().election("e").leader()).expect("a read").is_none());
}

#[test]
fn the_last_clone_can_be_dropped_where_nothing_may_block() {
    let cluster = run(Cluster::one());
    let tenure = Blocking::connect(cluster.endpoints(), ConnectOptions::default()).expect("a client");
    run(async move { drop(tenure) });
}
