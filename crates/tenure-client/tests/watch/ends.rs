//! Every end of a watch is told.

use std::time::Duration;

use tenure_client::watch::{EventKind, WatchError};
use tenure_client::{Client, ConnectOptions, Error, KeyRange, Refusal};

use crate::support::members::{Cluster, free_addresses};
use crate::support::{run, within};
use crate::{done, hasty, keys, put, read};

#[test]
fn closing_the_client_ends_its_watches_and_new_ones_are_refused() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client_with(hasty()).await;
        let mut watchers =
            [client.watch("k/1").open().await.expect("a watch"), client.watch("k/2").open().await.expect("a watch")];
        let revision = put(&client, "k/1", "unread").await;
        within("the event", async {
            while client.watch("k/1").from(revision).open().await.expect("a watch").next().await.is_err() {}
        })
        .await;
        within("the close", client.close()).await;
        for watcher in &mut watchers {
            let end = within("the end", async {
                loop {
                    if let Err(end) = watcher.next().await {
                        return end;
                    }
                }
            });
            assert!(matches!(end.await, WatchError::Closed));
        }
        let refused = within("a refusal", client.watch("k/1").open()).await.expect_err("it is closed");
        assert!(matches!(refused, WatchError::Closed | WatchError::Failed(Error::Closed)), "{refused}");
    });
}

#[test]
fn a_watch_that_a_server_will_not_make_is_refused_in_its_words() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client_with(hasty()).await;
        let empty = client.watch(KeyRange::between("b", "a")).open().await.expect_err("no key is in it");
        assert_eq!(empty.refusal(), Some(Refusal::Other));
        assert!(empty.to_string().contains("range is empty"), "{empty}");
    });
}

#[test]
fn a_watch_that_nobody_makes_in_time_says_why() {
    run(async {
        let nobody = free_addresses()[0].to_string();
        let options = ConnectOptions::default().lazy();
        let client = Client::connect([nobody], options).await.expect("a client");
        let opening = client.watch("k").timeout(Duration::from_millis(300)).open();
        let error = within("an error", opening).await.expect_err("nobody is there");
        assert!(matches!(error, WatchError::Failed(Error::Timeout(_) | Error::Unreachable(_))), "{error}");
    });
}

#[test]
fn events_of_one_kind_are_told_alone() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client_with(hasty()).await;
        let mut puts = client.watch(keys()).only(EventKind::Put).open().await.expect("a watch");
        let mut deletes = client.watch(keys()).only(EventKind::Delete).prev_kv().open().await.expect("a watch");
        let put_at = put(&client, "k/0", "v").await;
        let deleted_at = done("a delete", client.delete("k/0")).await.expect("a delete").header.revision;
        let put_again_at = put(&client, "k/0", "w").await;
        assert_eq!(
            read(&mut puts, 2).await,
            [(put_at.0, "k/0".into(), Some("v".into())), (put_again_at.0, "k/0".into(), Some("w".into())),]
        );
        assert_eq!(read(&mut deletes, 1).await, [(deleted_at.0, "k/0".into(), None)]);
    });
}

#[test]
fn a_watch_lives_on_without_the_handles_of_its_client() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client_with(hasty()).await;
        let mut watcher = client.watch("k/0").open().await.expect("a watch");
        drop(client);
        let revision = put(&cluster.client().await, "k/0", "v").await;
        assert_eq!(read(&mut watcher, 1).await, [(revision.0, "k/0".into(), Some("v".into()))]);
    });
}

#[test]
fn a_watch_can_be_moved_to_another_thread_at_any_point() {
    fn is_send<T: Send>(_: &T) {}
    fn is_sync<T: Sync>(_: &T) {}
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client_with(hasty()).await;
        let opening = client.watch("k/0").open();
        is_send(&opening);
        let mut watcher = within("a watch", opening).await.expect("a watch");
        is_send(&watcher.next());
        is_send(&watcher);
        is_sync(&watcher);
        let cancelling = watcher.cancel();
        is_send(&cancelling);
        within("the end", cancelling).await;
    });
}

#[test]
fn a_watch_does_not_go_on_in_another_cluster() {
    run(async {
        let (mut one, other) = (Cluster::one().await, Cluster::one().await);
        let client = one.client_with(hasty()).await;
        put(&client, "k/0", "v").await;
        let mut watcher = client.watch("k/0").open().await.expect("a watch");
        client.set_endpoints(other.endpoints()).expect("endpoints");
        one.members[0].stop();
        let end = within("the end", async {
            loop {
                if let Err(end) = watcher.next().await {
                    return end;
                }
            }
        });
        assert!(matches!(end.await, WatchError::OtherCluster));
        // A new one knows of no other.
        let mut anew = within("a watch", client.watch("k/0").open()).await.expect("a watch");
        let revision = put(&client, "k/0", "v").await;
        assert_eq!(read(&mut anew, 1).await, [(revision.0, "k/0".into(), Some("v".into()))]);
    });
}
