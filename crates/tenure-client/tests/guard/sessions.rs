//! Sessions: granted, renewed, lost, closed.

use std::time::Duration;

use tenure_client::ConnectOptions;
use tenure_client::lock::Wait;
use tenure_client::session::{EnsureError, LostReason, Session, SessionState, StartError, TermsError};
use tenure_client::watchdog::EventKind;

use crate::help::{LONG, Stranger, behind_proxies, session};
use crate::support::members::Cluster;
use crate::support::proxy::Mode;
use crate::support::{eventually, run, within};

fn is_shared<T: Send + Sync>() {}

#[test]
fn handles_can_be_sent_and_shared() {
    is_shared::<Session>();
    is_shared::<tenure_client::lock::LockBuilder>();
    is_shared::<tenure_client::lock::LockGuard>();
    is_shared::<tenure_client::election::Leadership>();
    is_shared::<tenure_client::election::Election>();
}

#[test]
fn a_session_is_renewed_until_it_is_closed_and_its_lease_goes_with_it() {
    run(async {
        let cluster = Cluster::one().await;
        let (client, stranger) = (cluster.client().await, Stranger::of(&cluster).await);
        let session = client.session().ttl(Duration::from_secs(2)).start().await.expect("a session");
        let mut events = session.events().expect("a watchdog");
        client.put("k", "v").lease(session.lease_id()).await.expect("a put");
        // Longer than the TTL.
        within("five renewals", async {
            loop {
                match events.next().await.expect("it lives").kind {
                    EventKind::Refreshed { n: 5.., .. } => break,
                    EventKind::Lost { reason } => panic!("lost: {reason}"),
                    _ => {}
                }
            }
        })
        .await;
        assert!(session.is_safe() && stranger.has_lease(session.lease_id()).await);
        assert!(!client.get("k").await.expect("a get").kvs.is_empty());
        session.close().await.expect("it is revoked");
        assert_eq!(session.current(), SessionState::Closed);
        assert!(!stranger.has_lease(session.lease_id()).await);
        assert!(client.get("k").await.expect("a get").kvs.is_empty());
        session.close().await.expect("closing again does no harm");
        // `Exited` is the last.
        let mut last = None;
        while let Some(event) = events.next().await {
            last = Some(event.kind);
        }
        assert!(matches!(last, Some(EventKind::Exited { refreshes: 5.., consecutive_errors: 0 })), "{last:?}");
    });
}

#[test]
fn a_lease_that_somebody_revokes_is_lost_as_revoked_with_the_next_renewal() {
    run(async {
        let cluster = Cluster::one().await;
        let (client, stranger) = (cluster.client().await, Stranger::of(&cluster).await);
        let session = client.session().ttl(Duration::from_secs(3)).start().await.expect("a session");
        stranger.revoke(session.lease_id()).await;
        assert_eq!(within("it is lost", session.lost()).await, LostReason::Revoked);
        assert_eq!(session.ensure(Duration::ZERO).await, Err(EnsureError::Lost(LostReason::Revoked)));
        assert_eq!(session.remaining(), Duration::ZERO);
    });
}

#[test]
fn a_session_that_is_dropped_on_a_thread_without_a_runtime_is_revoked() {
    run(async {
        let cluster = Cluster::one().await;
        let (client, stranger) = (cluster.client().await, Stranger::of(&cluster).await);
        let session = session(&client).await;
        let lease = session.lease_id();
        assert!(stranger.has_lease(lease).await);
        std::thread::spawn(move || drop(session)).join().expect("no panic");
        eventually("the lease is gone", async || (!stranger.has_lease(lease).await).then_some(())).await;
    });
}

#[test]
fn a_client_that_is_closed_takes_its_sessions_along() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let session = session(&client).await;
        within("the client is closed", client.close()).await;
        assert_eq!(within("it is lost", session.lost()).await, LostReason::ClientClosed);
    });
}

#[test]
fn what_is_dropped_right_before_the_client_closes_is_given_back_by_then() {
    run(async {
        let cluster = Cluster::one().await;
        let stranger = Stranger::of(&cluster).await;
        for is_recipe in [false, true] {
            let client = cluster.client().await;
            let (holder, waiter) = (session(&client).await, session(&client).await);
            let (held, waiting) = (holder.lease_id(), waiter.lease_id());
            let lock = |session: &Session| {
                let lock = session.lock("job").wait(Wait::Forever);
                if is_recipe { lock.by_recipe() } else { lock }
            };
            let guard = lock(&holder).acquire().await.expect("it is free");
            let mut second = Box::pin(lock(&waiter).acquire());
            tokio::select! {
                _ = &mut second => panic!("the lock is held"),
                () = stranger.until_contenders("job", 2) => {}
            }
            drop((second, guard, holder, waiter));
            // As a program does that is told to stop.
            within("the client is closed", client.close()).await;
            assert_eq!(stranger.contenders("job").await, 0, "by recipe: {is_recipe}");
            assert!(!stranger.has_lease(held).await && !stranger.has_lease(waiting).await, "by recipe: {is_recipe}");
        }
    });
}

#[test]
fn ensure_renews_at_once_if_too_little_is_left_and_says_what_can_never_be() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let session = session(&client).await;
        // 30 s less 0.3 and 3: right after a renewal almost all of it is there.
        let most = Duration::from_millis(26_700);
        assert_eq!(session.ensure(LONG).await, Err(EnsureError::TooLong { most }));
        // More than is left a second after the grant. The next renewal is due after ten seconds.
        let mut events = session.events().expect("a watchdog");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = tokio::time::Instant::now();
        // A renewal that is slow on a busy machine leaves less than that; the next one may not.
        eventually("a renewal", async || session.ensure(Duration::from_secs(26)).await.ok()).await;
        assert!(begun.elapsed() < Duration::from_secs(7));
        assert_eq!(events.next().await.expect("it lives").kind, EventKind::RefreshBegin);
        // No answer comes in no time at all, and it does not try for ever.
        let never = within("an answer", session.ensure(most - Duration::from_nanos(1))).await;
        assert!(matches!(never, Err(EnsureError::TooLong { .. })), "{never:?}");
    });
}

#[test]
fn terms_that_do_not_fit_are_refused_before_anything_is_sent() {
    run(async {
        // Nobody listens there.
        let client = tenure_client::Client::connect(["127.0.0.1:1"], ConnectOptions::default().lazy()).await;
        let client = client.expect("a lazy client");
        let ttl = Duration::from_millis(900);
        let short = client.session().ttl(ttl).start().await.expect_err("refused");
        assert!(matches!(short, StartError::Terms(TermsError::TtlTooShort { .. })), "{short}");
        let close = client.session().ttl(LONG).refresh_interval(Duration::from_secs(25)).start().await;
        assert!(matches!(close, Err(StartError::Terms(TermsError::IntervalTooClose { .. }))));
    });
}

/// The partition of one client, on a real network: it is told in order, and before the lease ends.
#[test]
fn a_client_that_is_cut_off_is_in_jeopardy_then_lost_and_only_then_its_lease_ends() {
    run(async {
        let cluster = Cluster::three().await;
        let (client, proxies) = behind_proxies(&cluster, ConnectOptions::default()).await;
        let stranger = Stranger::of(&cluster).await;
        let session = client.session().ttl(Duration::from_secs(3)).start().await.expect("a session");
        let mut states = session.state();
        proxies.iter().for_each(|proxy| proxy.set(Mode::Stall));
        let mut seen = Vec::new();
        within("it is lost", async {
            while !session.current().is_final() {
                states.changed().await.expect("the session is there");
                seen.push(*states.borrow_and_update());
            }
        })
        .await;
        // The moment it is lost, the lease is there still.
        assert!(stranger.has_lease(session.lease_id()).await, "the lease ended before its holder was told");
        let jeopardy = seen.iter().position(|state| matches!(state, SessionState::Jeopardy { .. }));
        let lost = seen.iter().position(SessionState::is_final);
        assert!(jeopardy.is_some() && jeopardy < lost, "{seen:?}");
        assert!(matches!(session.current().lost_reason(), Some(LostReason::DeadlinePassed { .. })));
        // It stays lost, although the network comes back.
        proxies.iter().for_each(|proxy| proxy.set(Mode::Pass));
        client.get("k").await.expect("the network is back");
        assert!(session.current().is_final());
    });
}

#[test]
fn a_renewal_finds_another_endpoint_when_one_is_silent() {
    run(async {
        let cluster = Cluster::three().await;
        let (client, proxies) = behind_proxies(&cluster, ConnectOptions::default()).await;
        let session = client.session().ttl(Duration::from_secs(4)).start().await.expect("a session");
        let mut events = session.events().expect("a watchdog");
        for silent in &proxies {
            silent.set(Mode::StallReplies);
            let mut renewed = 0;
            within("renewals go on", async {
                while renewed < 3 {
                    match events.next().await.expect("it lives").kind {
                        EventKind::Refreshed { .. } => renewed += 1,
                        EventKind::Lost { reason } => panic!("lost with two endpoints left: {reason}"),
                        _ => {}
                    }
                }
            })
            .await;
            silent.set(Mode::Pass);
        }
    });
}

#[test]
fn who_gives_up_after_some_failures_is_lost_before_the_deadline() {
    run(async {
        let cluster = Cluster::one().await;
        let (client, proxies) = behind_proxies(&cluster, ConnectOptions::default().fail_fast()).await;
        let starting = client.session().ttl(Duration::from_secs(20)).refresh_interval(Duration::from_millis(300));
        let session = starting.give_up_after(3).start().await.expect("a session");
        proxies[0].set(Mode::Refuse);
        proxies[0].cut();
        let reason = within("it gives up", session.lost()).await;
        assert_eq!(reason, LostReason::GaveUp { failures: 3 });
    });
}
