//! Locks: asked for in all ways, let go, and what rests on them.

use std::time::Duration;

use tenure_client::lock::{AcquireError, FencingToken, Interrupted, Mode as LockMode, Wait};
use tenure_client::session::{EnsureError, LostReason, SessionState};
use tenure_client::{Applied, ConnectOptions, Refusal, kv};

use crate::help::{Stranger, behind_proxies, session};
use crate::support::members::Cluster;
use crate::support::proxy::Mode;
use crate::support::{run, within};

#[test]
fn a_lock_is_held_until_it_is_released_and_its_token_says_so() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let session = session(&client).await;
        let guard = session.lock("jobs/nightly").metadata("v42").acquire().await.expect("a lock");
        let token = guard.token();
        assert!(guard.is_safe() && guard.remaining() > Duration::from_secs(20));
        guard.ensure(Duration::from_secs(2)).await.expect("there is time");
        assert_eq!(guard.key(), &token.key());
        let read: FencingToken = token.to_string().parse().expect("a token");
        assert!(client.verify(&read).await.expect("a read"));
        let released = guard.release().await.expect("it is released");
        assert!(released.was_held && released.holds == 0);
        assert!(!client.verify(&token).await.expect("a read"));
        let again = session.lock("jobs/nightly").acquire().await.expect("a lock");
        assert!(again.token().is_newer_than(&token));
    });
}

#[test]
fn the_next_in_the_queue_holds_when_the_first_lets_go() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let stranger = Stranger::of(&cluster).await;
        let (one, two) = (session(&client).await, session(&client).await);
        let first = one.lock("a").acquire().await.expect("a lock");
        let waiting = tokio::spawn(two.lock("a").acquire());
        stranger.until_contenders("a", 2).await;
        let token = first.token();
        first.release().await.expect("it is released");
        let second = within("the second holds", waiting).await.expect("no panic").expect("a lock");
        assert!(second.token().is_newer_than(&token));
    });
}

#[test]
fn who_does_not_wait_or_not_for_long_is_told_who_holds_and_leaves_nothing_behind() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let stranger = Stranger::of(&cluster).await;
        let holding = client.session().owner("billing").start().await.expect("a session");
        let waiting = session(&client).await;
        let _guard = holding.lock("a").metadata("since monday").acquire().await.expect("a lock");
        match waiting.lock("a").wait(Wait::Try).acquire().await {
            Err(AcquireError::Busy { holder: Some(holder) }) => {
                assert_eq!((holder.owner.as_str(), &holder.metadata[..]), ("billing", &b"since monday"[..]));
            }
            other => panic!("{other:?}"),
        }
        match waiting.lock("a").wait(Wait::For(Duration::from_millis(200))).acquire().await {
            Err(AcquireError::Timeout { position: Some(1), holder: Some(holder) }) => {
                assert_eq!(holder.owner, "billing");
            }
            other => panic!("{other:?}"),
        }
        stranger.until_contenders("a", 1).await;
    });
}

#[test]
fn sharers_hold_together_and_permits_are_counted() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let mut sessions = Vec::new();
        for _ in 0..4 {
            sessions.push(session(&client).await);
        }
        let shared = |place: usize| sessions[place].lock("s").mode(LockMode::Shared).wait(Wait::Try).acquire();
        let readers = [shared(0).await.expect("a lock"), shared(1).await.expect("a lock")];
        let writer = sessions[2].lock("s").wait(Wait::Try).acquire().await;
        assert!(matches!(writer, Err(AcquireError::Busy { .. })));
        drop(readers);
        let permits = |place: usize, permits| {
            let mode = LockMode::Semaphore { permits, limit: 3 };
            sessions[place].lock("p").mode(mode).wait(Wait::Try).acquire()
        };
        let _two = permits(0, 2).await.expect("two permits");
        assert!(matches!(permits(1, 2).await, Err(AcquireError::Busy { .. })));
        let _one = permits(2, 1).await.expect("the third");
        let other = LockMode::Semaphore { permits: 1, limit: 9 };
        let mismatch = sessions[3].lock("p").mode(other).acquire().await;
        assert!(matches!(mismatch, Err(AcquireError::LimitMismatch)));
    });
}

#[test]
fn a_lock_is_re_entrant_only_for_those_who_ask_and_goes_with_the_last_guard() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let session = session(&client).await;
        let plain = session.lock("plain").acquire().await.expect("a lock");
        assert!(matches!(session.lock("plain").acquire().await, Err(AcquireError::AlreadyHeld)));
        drop(plain);
        let again = || session.lock("again").reentrant(Some(2)).acquire();
        let (first, second) = (again().await.expect("a lock"), again().await.expect("once more"));
        assert_eq!((first.holds(), second.holds()), (1, 2));
        assert_eq!(first.token(), second.token());
        assert!(matches!(again().await, Err(AcquireError::HeldTooOften)));
        assert_eq!(first.release().await.expect("released").holds, 1);
        assert!(second.is_safe() && client.verify(&second.token()).await.expect("a read"));
        let token = second.token();
        assert_eq!(second.release().await.expect("released").holds, 0);
        assert!(!client.verify(&token).await.expect("a read"));
    });
}

#[test]
fn a_lock_that_was_dropped_can_be_asked_for_at_once() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let session = session(&client).await;
        let mut last = None;
        for _ in 0..20 {
            let guard = within("a lock", session.lock("a").acquire()).await.expect("no rival of itself");
            assert!(last.as_ref().is_none_or(|last| guard.token().is_newer_than(last)));
            last = Some(guard.token());
        }
    });
}

#[test]
fn a_lock_is_held_no_longer_than_it_was_to_be() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let (one, two) = (client.session().ttl(Duration::from_secs(2)), session(&client).await);
        let one = one.start().await.expect("a session");
        let span = Duration::from_millis(300);
        let guard = one.lock("a").max_hold(Some(span)).acquire().await.expect("a lock");
        assert!(guard.remaining() <= span);
        assert!(matches!(guard.ensure(Duration::from_secs(1)).await, Err(EnsureError::TooLong { .. })));
        let worked = guard.run(|_| std::future::pending::<()>()).await;
        assert_eq!(worked, Err(Interrupted::Lost(LostReason::HeldTooLong)));
        assert!(guard.cancellation().is_cancelled() && one.is_safe());
        // It goes although the guard is there still.
        let next = within("the next holds", two.lock("a").acquire()).await.expect("a lock");
        assert!(next.token().is_newer_than(&guard.token()));
    });
}

#[test]
fn writes_that_depend_on_a_lock_are_refused_without_it() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let session = session(&client).await;
        let guard = session.lock("a").acquire().await.expect("a lock");
        let fence = guard.fence();
        client.put("k", "1").under(&fence).await.expect("it is held");
        let done = client.txn().when(guard.held()).and_then([kv::put("k", "2")]).commit().await.expect("a txn");
        assert!(done.succeeded);
        let held = guard.compare();
        guard.release().await.expect("it is released");
        let refused = client.put("k", "3").under(&fence).await.expect_err("it is not held");
        assert_eq!(refused.refusal(), Some(Refusal::NotHeld));
        let done = client.txn().when(held).and_then([kv::put("k", "4")]).commit().await.expect("a txn");
        assert!(!done.succeeded);
        assert_eq!(&client.get("k").await.expect("a get").kvs[0].value[..], b"2");
    });
}

#[test]
fn work_under_a_guard_is_finished_or_dropped() {
    run(async {
        let cluster = Cluster::one().await;
        let (client, stranger) = (cluster.client().await, Stranger::of(&cluster).await);
        let session = session(&client).await;
        let guard = session.lock("a").acquire().await.expect("a lock");
        let name = guard.run(async |guard| guard.name().clone()).await;
        assert_eq!(name, Ok("a".into()));
        let (dropped, mut is_dropped) = tokio::sync::oneshot::channel::<()>();
        let working = guard.run(|_| async move {
            let _dropped = dropped;
            std::future::pending::<()>().await;
        });
        let (worked, ()) = tokio::join!(working, stranger.force(&guard));
        assert!(matches!(worked, Err(Interrupted::Lost(_))), "{worked:?}");
        assert!(is_dropped.try_recv().is_err_and(|gone| gone == tokio::sync::oneshot::error::TryRecvError::Closed));
        assert!(guard.run(|_| std::future::ready(1)).await.is_err(), "nothing begins under a lost guard");
    });
}

#[test]
fn locks_of_a_namespace_are_apart_from_others() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let inside = client.namespaced("app/");
        let (one, two) = (session(&client).await, session(&inside).await);
        let outer = one.lock("a").acquire().await.expect("a lock");
        let inner = two.lock("a").wait(Wait::Try).acquire().await.expect("another lock");
        assert!(inside.verify(&inner.token()).await.expect("a read"));
        assert!(!client.verify(&inner.token()).await.expect("a read"));
        let busy = one.lock("app/a").wait(Wait::Try).acquire().await;
        assert!(matches!(busy, Err(AcquireError::Busy { .. })));
        inside.put("k", "v").under(&inner.fence()).await.expect("it is held");
        drop(outer);
    });
}

/// Nothing was sent: the guard that comes back is as good as before, and renewed.
#[test]
fn a_release_that_surely_failed_gives_the_guard_back_as_good_as_before() {
    run(async {
        let cluster = Cluster::one().await;
        let (client, proxies) =
            behind_proxies(&cluster, ConnectOptions::default().timeout(Duration::from_secs(1))).await;
        let session = session(&client).await;
        let guard = session.lock("a").acquire().await.expect("a lock");
        proxies[0].set(Mode::Refuse);
        // Until the client knows: a release that is sent on a dead connection is another matter.
        crate::support::eventually("the client knows", async || client.get("k").await.err()).await;
        let failed = guard.release().await.expect_err("nobody can be reached");
        assert_eq!(failed.applied(), Applied::No, "{failed}");
        let guard = failed.into_guard();
        assert!(guard.is_safe() && !guard.cancellation().is_cancelled());
        proxies[0].set(Mode::Pass);
        // A renewal that is slow on a busy machine leaves less than that; the next one may not.
        crate::support::eventually("it is renewed", async || guard.ensure(Duration::from_secs(26)).await.ok()).await;
        assert!(client.verify(&guard.token()).await.expect("a read"));
        guard.release().await.expect("it is released");
    });
}

/// It was sent, and no answer came: the lock may be gone, so the guard never says that it is safe again.
#[test]
fn a_release_with_an_unknown_outcome_gives_back_a_guard_in_doubt() {
    run(async {
        let cluster = Cluster::one().await;
        let options = ConnectOptions::default().timeout(Duration::from_secs(1)).try_timeout(Duration::from_millis(300));
        let (client, proxies) = behind_proxies(&cluster, options).await;
        let session = session(&client).await;
        let guard = session.lock("a").acquire().await.expect("a lock");
        proxies[0].set(Mode::StallReplies);
        let failed = guard.release().await.expect_err("no answer comes");
        assert_eq!(failed.applied(), Applied::Unknown, "{failed}");
        let guard = failed.into_guard();
        assert!(!guard.is_safe() && guard.remaining() == Duration::ZERO);
        assert!(matches!(guard.state(), SessionState::Jeopardy { .. } | SessionState::Lost { .. }));
        assert!(guard.ensure(Duration::ZERO).await.is_err());
        assert!(guard.run(|_| std::future::ready(())).await.is_err());
        proxies[0].set(Mode::Pass);
        crate::support::eventually("the network is back", async || client.get("k").await.ok()).await;
        let released = within("released again", guard.release()).await;
        assert!(!released.expect("it is released").was_held, "the first release was done");
    });
}
