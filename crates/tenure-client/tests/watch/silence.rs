//! Connections that are dead without a sign, and quiet ones that are not.

use std::time::Duration;

use tenure_client::watch::{BatchKind, WatchPatience};
use tenure_client::{Client, ConnectOptions, KeyRange};

use crate::support::members::Cluster;
use crate::support::proxy::{Mode, Proxy};
use crate::support::{run, within};
use crate::{keys, next, put, read};

/// Only the watch itself finds out: endpoints are not asked for an hour.
fn watchful() -> ConnectOptions {
    let ms = Duration::from_millis;
    let patience = WatchPatience { silence: ms(100), answer: ms(400), lag: Duration::from_secs(60) };
    ConnectOptions::default().backoff(ms(2), ms(20)).probe_interval(Duration::from_secs(3600)).watch_patience(patience)
}

async fn a_watch_leaves_for_another_member_when_its_own(mode: Mode) {
    let cluster = Cluster::three().await;
    let proxies = Proxy::before_each(cluster.members.iter().map(|member| member.clients)).await;
    let client = within("a client", Client::connect([proxies[0].endpoint()], watchful())).await.expect("a client");
    let mut watcher = client.watch(keys()).open().await.expect("a watch");
    client.set_endpoints(proxies.iter().map(Proxy::endpoint)).expect("endpoints");
    proxies[0].set(mode);
    let direct = cluster.client().await;
    let revision = put(&direct, "k/0", "v").await;
    assert_eq!(read(&mut watcher, 1).await, [(revision.0, "k/0".into(), Some("v".into()))]);
    assert!(watcher.counts().reconnects > 0);
}

#[test]
fn a_connection_that_goes_silent_is_left() {
    run(a_watch_leaves_for_another_member_when_its_own(Mode::Stall));
}

#[test]
fn a_connection_that_goes_silent_in_one_direction_is_left() {
    run(a_watch_leaves_for_another_member_when_its_own(Mode::StallReplies));
}

#[test]
fn a_quiet_watch_keeps_its_connection_and_hears_how_far_it_is() {
    run(async {
        let cluster = Cluster::one().await;
        let client = within("a client", Client::connect([cluster.members[0].endpoint()], watchful()));
        let client = client.await.expect("a client");
        let mut quiet = client.watch("k/quiet").progress().open().await.expect("a watch");
        let revision = put(&client, "elsewhere", "v").await;
        let mut heard = 0;
        while heard < 5 || quiet.revision() < revision {
            assert_eq!(next(&mut quiet).await.kind, BatchKind::Progress);
            heard += 1;
        }
        assert_eq!((quiet.revision(), quiet.counts().reconnects), (revision, 0));
    });
}

#[test]
fn a_watch_that_only_waits_for_a_later_revision_keeps_its_connection() {
    run(async {
        let cluster = Cluster::one().await;
        let client = within("a client", Client::connect([cluster.members[0].endpoint()], watchful()));
        let client = client.await.expect("a client");
        let now = put(&client, "k/0", "v").await;
        let far = tenure_client::Revision(now.0 + 3);
        let mut future = client.watch(KeyRange::all()).from(far).open().await.expect("a watch");
        // A member has no progress to tell of this one. It is asked otherwise, and answers.
        let waited = tokio::time::timeout(Duration::from_secs(2), future.next()).await;
        assert!(waited.is_err(), "{waited:?}");
        for number in 0..3 {
            put(&client, "k/0", &format!("v{number}")).await;
        }
        assert_eq!(read(&mut future, 1).await, [(far.0, "k/0".into(), Some("v2".into()))]);
        assert_eq!(future.counts().reconnects, 0);
    });
}
