//! Locks that are lost, and how their holders learn of it.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tenure_client::clock::{BootClock, Clock, Instant};
use tenure_client::lock::Interrupted;
use tenure_client::session::{EnsureError, LostReason, SessionState};
use tenure_client::watchdog::EventKind;
use tenure_client::{Client, ConnectOptions, Refusal};

use crate::help::{Stranger, behind_proxies, session};
use crate::support::members::Cluster;
use crate::support::proxy::Mode;
use crate::support::{run, within};

async fn one() -> (Cluster, Client, Stranger) {
    let cluster = Cluster::one().await;
    let (client, stranger) = (cluster.client().await, Stranger::of(&cluster).await);
    (cluster, client, stranger)
}

#[test]
fn a_lock_that_an_operator_takes_away_is_lost_as_forced_and_the_session_lives() {
    run(async {
        let (_cluster, client, stranger) = one().await;
        let session = session(&client).await;
        let (taken, kept) = (session.lock("a").acquire().await, session.lock("b").acquire().await);
        let (taken, kept) = (taken.expect("a lock"), kept.expect("a lock"));
        stranger.force(&taken).await;
        within("cancelled", taken.cancellation().cancelled()).await;
        assert!(!taken.is_safe() && taken.remaining() == Duration::ZERO);
        assert_eq!(within("lost", taken.lost()).await, LostReason::Forced);
        let refused = client.put("k", "v").under(&taken.fence()).await.expect_err("refused");
        assert_eq!(refused.refusal(), Some(Refusal::NotHeld));
        assert!(kept.is_safe() && session.is_safe());
    });
}

#[test]
fn a_lock_whose_key_is_deleted_is_lost() {
    run(async {
        let (_cluster, client, _) = one().await;
        let session = session(&client).await;
        let guard = session.lock("a").acquire().await.expect("a lock");
        client.delete(guard.key().clone()).await.expect("a delete");
        assert_eq!(within("lost", guard.lost()).await, LostReason::KeyDeleted);
        assert_eq!(guard.ensure(Duration::ZERO).await, Err(EnsureError::Lost(LostReason::KeyDeleted)));
        assert!(session.is_safe());
        // Releasing what is lost is no error, and says that it was not held.
        assert!(!guard.release().await.expect("released").was_held);
    });
}

#[test]
fn a_lock_whose_key_is_taken_off_its_lease_is_lost_and_the_watchdog_names_the_other() {
    run(async {
        let (_cluster, client, _) = one().await;
        let session = session(&client).await;
        let guard = session.lock("a").acquire().await.expect("a lock");
        let mut events = guard.events();
        // A value alone changes nothing.
        client.put(guard.key().clone(), "noted").keep_lease().await.expect("a put");
        client.put(guard.key().clone(), "mine now").await.expect("a put");
        within("lost", guard.lost()).await;
        let mut kinds = Vec::new();
        while let Some(event) = events.next().await {
            kinds.push(event.kind);
        }
        let stranger = kinds.iter().find_map(|kind| match kind {
            EventKind::NotOwner { token, lease } => Some((*token, lease.is_none())),
            _ => None,
        });
        assert_eq!(stranger, Some((guard.token().revision, true)));
        assert!(matches!(kinds.last(), Some(EventKind::Exited { .. })), "{kinds:?}");
    });
}

#[test]
fn locks_of_a_session_that_is_revoked_are_lost_as_revoked_before_any_renewal() {
    run(async {
        let (_cluster, client, stranger) = one().await;
        // The next renewal is ten seconds away.
        let session = session(&client).await;
        let guard = session.lock("a").acquire().await.expect("a lock");
        stranger.revoke(session.lease_id()).await;
        assert_eq!(within("lost", guard.lost()).await, LostReason::Revoked);
        // The lost key had the session asked at once.
        let told = tokio::time::timeout(Duration::from_secs(5), session.lost()).await;
        assert_eq!(told, Ok(LostReason::Revoked));
    });
}

#[test]
fn locks_of_a_session_that_is_closed_are_lost() {
    run(async {
        let (_cluster, client, stranger) = one().await;
        let session = session(&client).await;
        let guard = session.lock("a").acquire().await.expect("a lock");
        let working = guard.run(|_| pending::<()>());
        let (worked, closed) = tokio::join!(working, session.close());
        closed.expect("revoked");
        assert_eq!(worked, Err(Interrupted::Lost(LostReason::SessionClosed)));
        assert_eq!(guard.lost().await, LostReason::SessionClosed);
        assert_eq!(stranger.contenders("a").await, 0);
    });
}

/// Nothing comes through: the guard is told by the clock, in order, and while the key is there still.
#[test]
fn a_guard_behind_a_dead_network_is_in_jeopardy_then_lost_before_its_key_goes() {
    run(async {
        let cluster = Cluster::three().await;
        let (client, proxies) = behind_proxies(&cluster, ConnectOptions::default()).await;
        let (stranger, other) = (Stranger::of(&cluster).await, cluster.client().await);
        let session = client.session().ttl(Duration::from_secs(3)).start().await.expect("a session");
        let guard = session.lock("a").cancel_in_jeopardy().acquire().await.expect("a lock");
        let plain = session.lock("b").acquire().await.expect("a lock");
        proxies.iter().for_each(|proxy| proxy.set(Mode::Stall));
        let worked = within("interrupted", guard.run(|_| pending::<()>())).await;
        assert_eq!(worked, Err(Interrupted::Jeopardy));
        assert!(matches!(guard.state(), SessionState::Jeopardy { .. }));
        assert!(guard.cancellation().is_cancelled() && !plain.cancellation().is_cancelled());
        within("lost", plain.cancellation().cancelled()).await;
        assert!(other.verify(&guard.token()).await.expect("a read"), "the key went before its holder was told");
        assert!(matches!(guard.lost().await, LostReason::DeadlinePassed { .. }));
        // Then the server ends it, and the next one holds.
        stranger.until_contenders("a", 0).await;
        let refused = other.put("k", "late").under(&guard.fence()).await.expect_err("refused");
        assert_eq!(refused.refusal(), Some(Refusal::NotHeld));
    });
}

#[test]
fn a_request_that_waits_learns_that_its_session_or_its_key_is_gone() {
    run(async {
        let (_cluster, client, stranger) = one().await;
        let (holder, waiter) = (session(&client).await, session(&client).await);
        for recipe in [false, true] {
            let _held = holder.lock("a").acquire().await.expect("a lock");
            let lock = waiter.lock("a");
            let waiting = tokio::spawn(if recipe { lock.by_recipe() } else { lock }.acquire());
            stranger.until_contenders("a", 2).await;
            let key = stranger.inspect("a").await.queue[1].key.clone();
            client.delete(key).await.expect("a delete");
            let told = within("told", waiting).await.expect("no panic");
            assert!(matches!(told, Err(tenure_client::lock::AcquireError::TakenAway)), "{told:?}");
            drop(_held);
            stranger.until_contenders("a", 0).await;
        }
        let _held = holder.lock("a").acquire().await.expect("a lock");
        let waiting = tokio::spawn(waiter.lock("a").acquire());
        stranger.until_contenders("a", 2).await;
        stranger.revoke(waiter.lease_id()).await;
        let told = within("told", waiting).await.expect("no panic");
        let is_told = matches!(
            told,
            Err(tenure_client::lock::AcquireError::SessionLost(LostReason::Revoked)
                | tenure_client::lock::AcquireError::TakenAway)
        );
        assert!(is_told, "{told:?}");
    });
}

/// A clock that goes on by leaps, as it does for a process that is stopped: no timer fires for them.
#[derive(Debug, Default)]
struct Leaping {
    boot: BootClock,
    ahead_ms: AtomicU64,
}

impl Clock for Leaping {
    fn now(&self) -> Instant {
        self.boot.now() + Duration::from_millis(self.ahead_ms.load(Ordering::SeqCst))
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        self.boot.sleep_until(at)
    }

    fn random(&self) -> u64 {
        self.boot.random()
    }
}

#[test]
fn whoever_polls_first_after_a_stop_finds_the_lock_lost() {
    run(async {
        let cluster = Cluster::one().await;
        let clock = Arc::new(Leaping::default());
        let (client, _proxies) = behind_proxies(&cluster, ConnectOptions::default().clock(clock.clone())).await;
        let session = session(&client).await;
        let guard = session.lock("a").acquire().await.expect("a lock");
        let (mut lost, mut over) = (pin!(guard.lost()), pin!(session.lost()));
        let mut work = pin!(guard.run(|_| pending::<()>()));
        assert!(lost.as_mut().now_or_never().is_none() && over.as_mut().now_or_never().is_none());
        assert!(work.as_mut().now_or_never().is_none());
        clock.ahead_ms.store(60_000, Ordering::SeqCst);
        // No task of the client has run since.
        assert!(matches!(lost.now_or_never(), Some(LostReason::DeadlinePassed { .. })));
        assert!(matches!(over.now_or_never(), Some(LostReason::DeadlinePassed { .. })));
        assert!(matches!(work.now_or_never(), Some(Err(Interrupted::Lost(LostReason::DeadlinePassed { .. })))));
    });
}
