//! Many guards at once.

use std::time::Duration;

use futures::future::join_all;
use tenure_client::KeyRange;
use tenure_client::lock::{AcquireError, LockGuard, Wait};
use tenure_client::session::Session;

use crate::help::session;
use crate::support::members::Cluster;
use crate::support::{eventually, within};

const SESSIONS: usize = 10;
const LOCKS: usize = 100;

async fn take(session: &Session, place: usize) -> Vec<LockGuard> {
    let take = |lock: usize| session.lock(format!("many/{place}/{lock}")).acquire();
    join_all((0..LOCKS).map(take)).await.into_iter().map(|taken| taken.expect("a lock")).collect()
}

/// The leader goes while a thousand locks are held: none is lost, none is held twice, and nobody is told otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_guards_outlive_the_leader() {
    let mut cluster = Cluster::three().await;
    let client = cluster.client().await;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(client.session().ttl(Duration::from_secs(12)).start().await.expect("a session"));
    }
    let taking = sessions.iter().enumerate().map(|(place, session)| take(session, place));
    let guards: Vec<LockGuard> = within("all locks", join_all(taking)).await.into_iter().flatten().collect();
    assert_eq!(guards.len(), SESSIONS * LOCKS);
    let leader = cluster.leader().await;
    tokio::task::block_in_place(|| cluster.members[leader].stop());
    // Through the election, and until all sessions were renewed by whoever leads now.
    let renewed =
        guards.iter().map(|guard| eventually("renewed", async || guard.ensure(Duration::from_secs(9)).await.ok()));
    join_all(renewed).await;
    assert!(guards.iter().all(|guard| guard.is_safe() && !guard.cancellation().is_cancelled()));
    for verified in join_all(guards.iter().map(|guard| async { client.verify(&guard.token()).await })).await {
        assert!(verified.expect("a read"), "a lock is lost");
    }
    let rival = session(&client).await;
    let taking = guards.iter().step_by(50).map(|guard| rival.lock(guard.name().clone()).wait(Wait::Try).acquire());
    for taken in join_all(taking).await {
        assert!(matches!(taken, Err(AcquireError::Busy { .. })), "two hold one lock: {taken:?}");
    }
    let releases = guards.into_iter().map(LockGuard::release);
    for released in within("released", join_all(releases)).await {
        released.expect("released");
    }
    let all = client.get(KeyRange::prefix("many/")).count_only().await.expect("a count");
    assert_eq!(all.count, 0);
}
