//! Acquires that are given up, at every point at which they wait.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tenure_client::ConnectOptions;
use tenure_client::lock::{AcquireError, LockBuilder, LockGuard};

use crate::help::{Stranger, behind_proxies, session};
use crate::support::members::Cluster;
use crate::support::proxy::Mode;
use crate::support::{run, within};

/// Polls a future so many times, and drops it then.
struct Limited<F> {
    future: Option<Pin<Box<F>>>,
    polls: usize,
}

impl<F: Future> Future for Limited<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(left) = self.polls.checked_sub(1) else {
            self.future = None;
            return Poll::Ready(None);
        };
        self.polls = left;
        let Some(future) = self.future.as_mut() else { return Poll::Ready(None) };
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => {
                self.future = None;
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// What came of an acquire that was dropped after so many polls, unless it was done before.
async fn limited(lock: LockBuilder, polls: usize) -> Option<Result<LockGuard, AcquireError>> {
    let limited = Limited { future: Some(Box::pin(lock.acquire())), polls };
    // A waiter is not polled again before the lock is free.
    tokio::time::timeout(Duration::from_millis(100), limited).await.ok().flatten()
}

#[test]
fn a_start_that_is_dropped_at_any_point_leaves_no_lease() {
    run(async {
        let cluster = Cluster::one().await;
        let stranger = cluster.client().await;
        let (mut started, mut dropped) = (0, 0);
        for polls in 0..8 {
            let client = cluster.client().await;
            let start = client.session().ttl(Duration::from_secs(60)).start();
            let session = within("begun", Limited { future: Some(Box::pin(start)), polls }).await;
            if polls > 0 && session.is_none() {
                dropped += 1;
            }
            started += usize::from(session.is_some());
            drop(session);
            within("the client is closed", client.close()).await;
            let left = stranger.leases().await.expect("a read");
            assert!(left.is_empty(), "after {polls} polls: {left:?}");
        }
        assert!(started > 0 && dropped > 0, "{started} started, {dropped} dropped");
    });
}

async fn give_up_everywhere(native: bool) {
    let cluster = Cluster::one().await;
    let (client, stranger) = (cluster.client().await, Stranger::of(&cluster).await);
    let (holder, waiter) = (session(&client).await, session(&client).await);
    let lock = |session: &tenure_client::session::Session, name: String| {
        let lock = session.lock(name);
        if native { lock } else { lock.by_recipe() }
    };
    let (mut granted, mut dropped) = (0, 0);
    for polls in 1..=24 {
        // A free lock.
        let name = format!("free/{polls}");
        match limited(lock(&waiter, name.clone()), polls).await {
            Some(taken) => {
                granted += 1;
                taken.expect("a free lock").release().await.expect("released");
            }
            None => dropped += 1,
        }
        stranger.until_contenders(&name, 0).await;
        // One that somebody has.
        let name = format!("held/{polls}");
        let held = lock(&holder, name.clone()).acquire().await.expect("a lock");
        assert!(limited(lock(&waiter, name.clone()), polls).await.is_none(), "two hold {name}");
        stranger.until_contenders(&name, 1).await;
        held.release().await.expect("released");
        // The session that gave up can ask again, and is no ghost to itself.
        let again = within("asked again", lock(&waiter, name.clone()).acquire()).await.expect("a lock");
        again.release().await.expect("released");
        stranger.until_contenders(&name, 0).await;
    }
    assert!(granted >= 3 && dropped >= 2, "{granted} were granted and {dropped} dropped: not every point was tried");
}

#[test]
fn an_acquire_that_is_dropped_at_any_point_leaves_no_ghost() {
    run(give_up_everywhere(true));
}

#[test]
fn an_acquire_by_the_recipe_that_is_dropped_at_any_point_leaves_no_ghost() {
    run(give_up_everywhere(false));
}

/// The member granted it, and the answer is under way when the future is dropped: only a cancel gives it back. It is repeated
/// until the network lets it through.
#[test]
fn a_grant_that_nobody_reads_is_given_back() {
    run(async {
        let cluster = Cluster::one().await;
        let options = ConnectOptions::default().timeout(Duration::from_secs(1)).try_timeout(Duration::from_millis(300));
        let (client, proxies) = behind_proxies(&cluster, options).await;
        let stranger = Stranger::of(&cluster).await;
        let session = session(&client).await;
        for (name, later) in [("native", Mode::StallReplies), ("native/later", Mode::Stall), ("recipe", Mode::Stall)] {
            let lock = session.lock(name);
            let lock = if name == "recipe" { lock.by_recipe() } else { lock };
            proxies[0].set(Mode::StallReplies);
            let acquiring = tokio::spawn(lock.acquire());
            stranger.until_contenders(name, 1).await;
            proxies[0].set(later);
            acquiring.abort();
            assert!(acquiring.await.expect_err("it was dropped").is_cancelled());
            proxies[0].set(Mode::Pass);
            stranger.until_contenders(name, 0).await;
            let again = within("asked again", session.lock(name).acquire()).await.expect("a lock");
            assert!(again.release().await.expect("released").was_held);
        }
        assert!(session.is_safe());
    });
}

#[test]
fn a_guard_that_is_dropped_on_a_thread_without_a_runtime_is_released() {
    run(async {
        let cluster = Cluster::one().await;
        let (client, stranger) = (cluster.client().await, Stranger::of(&cluster).await);
        let session = session(&client).await;
        let guard = session.lock("a").acquire().await.expect("a lock");
        std::thread::spawn(move || drop(guard)).join().expect("no panic");
        stranger.until_contenders("a", 0).await;
        assert!(session.is_safe());
    });
}

#[test]
fn a_release_that_is_dropped_half_way_is_finished_by_the_client() {
    run(async {
        let cluster = Cluster::one().await;
        let (client, stranger) = (cluster.client().await, Stranger::of(&cluster).await);
        let session = session(&client).await;
        for polls in 1..8 {
            let name = format!("a/{polls}");
            let guard = session.lock(name.clone()).acquire().await.expect("a lock");
            drop(Limited { future: Some(Box::pin(guard.release())), polls }.await);
            stranger.until_contenders(&name, 0).await;
        }
    });
}
