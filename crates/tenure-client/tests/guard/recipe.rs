//! Etcd's recipe and Tenure's own requests in one queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tenure_client::lock::{AcquireError, Mode, Wait};

use crate::help::{Stranger, session};
use crate::support::members::Cluster;
use crate::support::{run, within};

#[test]
fn both_kinds_of_contenders_exclude_each_other_and_come_in_turn() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let stranger = Stranger::of(&cluster).await;
        let first = session(&client).await;
        let held = first.lock("mixed").acquire().await.expect("a lock");
        let (inside, last) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut waiting = Vec::new();
        for place in 0..8 {
            let session = session(&client).await;
            let (inside, last) = (inside.clone(), last.clone());
            waiting.push(tokio::spawn(async move {
                let lock = session.lock("mixed").metadata(place.to_string());
                let lock = if place % 2 == 0 { lock.by_recipe() } else { lock };
                let guard = lock.acquire().await.expect("a lock");
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two inside");
                let token = guard.token().revision.0.cast_unsigned();
                assert!(last.swap(token, Ordering::SeqCst) < token, "not in turn");
                tokio::task::yield_now().await;
                assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1, "two inside");
                guard.release().await.expect("released");
                place
            }));
            stranger.until_contenders("mixed", place + 2).await;
        }
        held.release().await.expect("released");
        for waiting in waiting {
            within("each gets its turn", waiting).await.expect("no panic");
        }
        assert_eq!(stranger.contenders("mixed").await, 0);
    });
}

#[test]
fn the_recipe_tells_what_it_can_and_needs_tenure_for_the_rest() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let stranger = Stranger::of(&cluster).await;
        let (one, two) = (session(&client).await, session(&client).await);
        let held = one.lock("a").by_recipe().metadata("m").acquire().await.expect("a lock");
        assert!(client.verify(&held.token()).await.expect("a read"));
        assert!(matches!(one.lock("a").by_recipe().acquire().await, Err(AcquireError::AlreadyHeld)));
        match two.lock("a").by_recipe().wait(Wait::Try).acquire().await {
            Err(AcquireError::Busy { holder: Some(holder) }) => assert_eq!(holder.lease, one.lease_id()),
            other => panic!("{other:?}"),
        }
        let late = two.lock("a").by_recipe().wait(Wait::For(Duration::from_millis(150))).acquire().await;
        assert!(matches!(late, Err(AcquireError::Timeout { .. })));
        stranger.until_contenders("a", 1).await;
        let shared = two.lock("b").by_recipe().mode(Mode::Shared).acquire().await;
        assert!(matches!(shared, Err(AcquireError::NeedsTenure { .. })));
        assert!(held.release().await.expect("released").was_held);
        assert_eq!(stranger.contenders("a").await, 0);
    });
}
