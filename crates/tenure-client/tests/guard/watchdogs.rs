//! Watchdogs of real locks: what they are told, and in which order.

use std::error::Error;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure_client::lock::AcquireError;
use tenure_client::watchdog::{EventKind, ID_PREFIX, Subject, Watchdog, WatchdogEvent, WatchdogFactory, WatchdogId};

use crate::help::{Stranger, session};
use crate::support::members::Cluster;
use crate::support::{run, within};

const PATIENCE: Duration = Duration::from_secs(30);

/// Hands on all that its watchdogs hear of locks.
struct Recorder(SyncSender<WatchdogEvent>);

impl WatchdogFactory for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn make(&self, _: &WatchdogId, _: &Subject) -> Result<Box<dyn Watchdog>, Box<dyn Error + Send + Sync>> {
        let tell = self.0.clone();
        Ok(Box::new(move |event: &WatchdogEvent| {
            // Nobody listens any more when a test is over.
            drop(tell.send(event.clone()));
        }))
    }
}

fn recorder() -> (Arc<dyn WatchdogFactory>, Receiver<WatchdogEvent>) {
    let (tell, told) = sync_channel(10_000);
    (Arc::new(Recorder(tell)), told)
}

fn until_exit(told: &Receiver<WatchdogEvent>) -> Vec<WatchdogEvent> {
    let mut events = Vec::new();
    loop {
        let event = told.recv_timeout(PATIENCE).expect("an event");
        let is_last = matches!(event.kind, EventKind::Exited { .. });
        events.push(event);
        if is_last {
            return events;
        }
    }
}

#[test]
fn a_locks_watchdog_hears_its_whole_life_in_order_and_exits_once() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let session = client.session().ttl(Duration::from_secs(2)).owner("me").start().await.expect("a session");
        let (factory, told) = recorder();
        let guard = session.lock("a").watchdog(factory).acquire().await.expect("a lock");
        guard.set_payload(Some("build 7"));
        let mut heard = guard.events();
        within("a renewal", async {
            while !matches!(heard.next().await.expect("it lives").kind, EventKind::Refreshed { .. }) {}
        })
        .await;
        let (id, token) = (guard.watchdog_id(), guard.token().revision);
        guard.release().await.expect("released");
        let events = within("exited", async { tokio::task::spawn_blocking(move || until_exit(&told)).await }).await;
        let events = events.expect("no panic");
        let kinds: Vec<_> = events.iter().map(|event| &event.kind).collect();
        assert!(matches!(kinds[..3], [EventKind::Created, EventKind::Started, EventKind::PayloadSet]), "{kinds:?}");
        let renewed =
            kinds.windows(2).any(|pair| matches!(pair, [EventKind::RefreshBegin, EventKind::Refreshed { .. }]));
        assert!(renewed, "{kinds:?}");
        assert!(matches!(
            kinds[kinds.len() - 3..],
            [EventKind::Stopping, EventKind::Stopped, EventKind::Exited { refreshes: 1.., consecutive_errors: 0 }]
        ));
        assert_eq!(
            events.iter().map(|event| event.sequence).collect::<Vec<_>>(),
            (1..=events.len() as u64).collect::<Vec<_>>()
        );
        for event in &events {
            assert_eq!(event.watchdog, id);
            assert!(event.watchdog.as_str().starts_with(ID_PREFIX));
            assert_eq!(&*event.implementation, "recorder");
            let subject = &event.subject;
            assert_eq!((subject.token, subject.lease, &*subject.owner), (Some(token), session.lease_id(), "me"));
            assert_eq!((subject.lock.as_deref(), subject.store), (Some(&b"a"[..]), "tenure"));
        }
        assert_eq!(events.last().and_then(|event| event.payload.as_deref()), Some("build 7"));
    });
}

struct Refusing(Mutex<u32>);

impl WatchdogFactory for Refusing {
    fn name(&self) -> &'static str {
        "refusing"
    }

    fn make(&self, _: &WatchdogId, _: &Subject) -> Result<Box<dyn Watchdog>, Box<dyn Error + Send + Sync>> {
        *self.0.lock().expect("no panic") += 1;
        Err("not today".into())
    }
}

#[test]
fn a_lock_is_let_go_if_its_watchdog_cannot_be_made() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let stranger = Stranger::of(&cluster).await;
        let session = session(&client).await;
        let factory = Arc::new(Refusing(Mutex::new(0)));
        let failed = session.lock("a").watchdog(factory.clone()).acquire().await.expect_err("no watchdog");
        assert!(matches!(&failed, AcquireError::Watchdog(_)), "{failed}");
        assert_eq!(*factory.0.lock().expect("no panic"), 1);
        stranger.until_contenders("a", 0).await;
        assert!(session.is_safe());
    });
}

/// Watchdogs that never come back from their first event: sessions are renewed, locks work.
#[test]
fn a_watchdog_that_blocks_for_ever_delays_no_renewal() {
    struct Blocking;
    impl WatchdogFactory for Blocking {
        fn name(&self) -> &'static str {
            "blocking"
        }

        fn make(&self, _: &WatchdogId, _: &Subject) -> Result<Box<dyn Watchdog>, Box<dyn Error + Send + Sync>> {
            Ok(Box::new(|_: &WatchdogEvent| std::thread::park_timeout(PATIENCE)))
        }
    }
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let starting = client.session().ttl(Duration::from_secs(2)).watchdog(Arc::new(Blocking));
        let session = starting.start().await.expect("a session");
        let mut events = session.events().expect("a watchdog");
        let guard = session.lock("a").acquire().await.expect("a lock");
        let mut renewed = 0;
        within("renewals", async {
            while renewed < 5 {
                match events.next().await.expect("it lives").kind {
                    EventKind::Refreshed { .. } => renewed += 1,
                    EventKind::Jeopardy { .. } | EventKind::Lost { .. } => panic!("a watchdog delayed a renewal"),
                    _ => {}
                }
            }
        })
        .await;
        guard.release().await.expect("released");
    });
}
