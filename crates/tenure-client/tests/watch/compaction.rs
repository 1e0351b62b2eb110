//! History that is compacted before a watch has told it.

use futures::StreamExt;
use tenure_client::watch::{BatchKind, OnCompacted, WatchError, Watcher};
use tenure_client::{Client, KeyRange, Refusal, Revision};

use crate::support::members::Cluster;
use crate::support::proxy::{Mode, Proxy};
use crate::support::{run, within};
use crate::{done, hasty, keys, next, put, read, text, told};

struct Cut {
    _cluster: Cluster,
    proxy: Proxy,
    /// Over the proxy.
    client: Client,
    direct: Client,
}

async fn cluster() -> Cut {
    let cluster = Cluster::one().await;
    let proxy = Proxy::before(cluster.members[0].clients).await;
    let client = within("a client", Client::connect([proxy.endpoint()], hasty())).await.expect("a client");
    let direct = cluster.client().await;
    Cut { _cluster: cluster, proxy, client, direct }
}

async fn compact(client: &Client, revision: Revision) {
    done("a compaction", client.compact(revision)).await.expect("a compaction");
}

/// What ends it.
async fn end(watcher: &mut Watcher) -> WatchError {
    within("the end", async {
        loop {
            if let Err(end) = watcher.next().await {
                return end;
            }
        }
    })
    .await
}

#[test]
fn compaction_during_a_cut_is_told_and_nothing_is_left_out_in_silence() {
    run(async {
        let cut = cluster().await;
        let mut watcher = cut.client.watch(keys()).open().await.expect("a watch");
        let seen = put(&cut.direct, "k/0", "seen").await;
        assert_eq!(read(&mut watcher, 1).await, [(seen.0, "k/0".into(), Some("seen".into()))]);
        cut.proxy.set(Mode::Refuse);
        put(&cut.direct, "k/1", "missed").await;
        let last = put(&cut.direct, "k/1", "missed, too").await;
        let after = put(&cut.direct, "elsewhere", "v").await;
        compact(&cut.direct, after).await;
        cut.proxy.set(Mode::Pass);
        let error = end(&mut watcher).await;
        let WatchError::Compacted { at } = error else { panic!("{error}") };
        assert!(at > last, "{at}");
        assert_eq!(watcher.revision(), seen);
        assert!(matches!(watcher.next().await, Err(WatchError::Compacted { .. })), "it stays so");
        assert!(matches!(watcher.next().await, Err(WatchError::Compacted { .. })), "it stays so");
        // As a stream it says so once.
        assert!(matches!(watcher.next().await, Err(WatchError::Compacted { .. })));
        assert!(matches!(StreamExt::next(&mut watcher).await, Some(Err(WatchError::Compacted { .. }))));
        assert!(StreamExt::next(&mut watcher).await.is_none());
    });
}

#[test]
fn a_start_that_is_compacted_is_told_before_anything_else() {
    run(async {
        let cut = cluster().await;
        for number in 0..9 {
            put(&cut.direct, "k/0", &number.to_string()).await;
        }
        compact(&cut.direct, Revision(8)).await;
        let mut watcher = cut.client.watch(keys()).from(Revision(3)).open().await.expect("a watch");
        let error = within("the end", watcher.next()).await.expect_err("it is compacted");
        assert_eq!(error.refusal(), Some(Refusal::Compacted));
        assert!(matches!(error, WatchError::Compacted { at } if at.0 >= 8), "{error}");
    });
}

#[test]
fn a_watch_that_lists_tells_what_changed_and_goes_on_from_there() {
    run(async {
        let cut = cluster().await;
        let (direct, client) = (cut.direct.namespaced("app/"), cut.client.namespaced("app/"));
        for key in ["k/deleted", "k/changed", "k/stays", "k/deleted before", "other"] {
            put(&direct, key, "0").await;
        }
        let mut watcher = client.watch(keys()).on_compacted(OnCompacted::Relist).open().await.expect("a watch");
        put(&direct, "k/told", "1").await;
        done("a delete", direct.delete("k/deleted before")).await.expect("a delete");
        assert_eq!(read(&mut watcher, 2).await.len(), 2);
        cut.proxy.set(Mode::Refuse);
        put(&direct, "k/passing", "2").await;
        let changed = put(&direct, "k/changed", "2").await;
        let new = put(&direct, "k/new", "2").await;
        for key in ["k/deleted", "k/told", "k/passing"] {
            done("a delete", direct.delete(key)).await.expect("a delete");
        }
        let last = put(&direct, "other", "2").await;
        compact(&direct, last).await;
        cut.proxy.set(Mode::Pass);
        let batch = next(&mut watcher).await;
        assert!(matches!(batch.kind, BatchKind::Relisted { is_complete: false, compacted } if compacted > changed));
        assert_eq!(batch.revision, last);
        assert_eq!(
            told(&batch),
            [
                (changed.0, "k/changed".into(), Some("2".into())),
                (new.0, "k/new".into(), Some("2".into())),
                (last.0, "k/deleted".into(), None),
                (last.0, "k/told".into(), None),
            ]
        );
        let next_one = put(&direct, "k/new", "3").await;
        assert_eq!(read(&mut watcher, 1).await, [(next_one.0, "k/new".into(), Some("3".into()))]);
    });
}

#[test]
fn a_watch_that_lists_and_has_no_earlier_state_tells_everything() {
    run(async {
        let cut = cluster().await;
        for number in 0..2500 {
            let keys = (number..number + 100).map(|n| tenure_client::kv::put(format!("k/{n:04}"), "v"));
            if number % 100 == 0 {
                done("a write", cut.direct.txn().and_then(keys)).await.expect("a write");
            }
        }
        let last = put(&cut.direct, "elsewhere", "v").await;
        compact(&cut.direct, last).await;
        let watch = cut.client.watch(keys()).from(Revision(3)).on_compacted(OnCompacted::Relist);
        let mut watcher = watch.open().await.expect("a watch");
        let batch = next(&mut watcher).await;
        assert!(matches!(batch.kind, BatchKind::Relisted { is_complete: true, .. }), "{:?}", batch.kind);
        let mut keys: Vec<String> = batch.events.iter().map(|event| text(event.key())).collect();
        keys.sort();
        assert_eq!(keys, (0..2500).map(|n| format!("k/{n:04}")).collect::<Vec<_>>(), "in three pages");
        assert_eq!(batch.revision, last);
    });
}

#[test]
fn compaction_does_not_overtake_a_quiet_watch_that_had_heard_how_far_it_is() {
    run(async {
        let cluster = Cluster::one().await;
        let proxy = Proxy::before(cluster.members[0].clients).await;
        let ms = std::time::Duration::from_millis;
        let patience = tenure_client::watch::WatchPatience { silence: ms(50), answer: ms(5000), ..Default::default() };
        let options = hasty().watch_patience(patience);
        let client = within("a client", Client::connect([proxy.endpoint()], options)).await.expect("a client");
        let direct = cluster.client().await;
        let mut quiet = client.watch("k/quiet").progress().open().await.expect("a watch");
        let mut last = Revision::NONE;
        for number in 0..50 {
            last = put(&direct, "elsewhere", &number.to_string()).await;
        }
        while quiet.revision() < last {
            next(&mut quiet).await;
        }
        proxy.set(Mode::Refuse);
        compact(&direct, last).await;
        proxy.set(Mode::Pass);
        let revision = put(&direct, "k/quiet", "v").await;
        let event = loop {
            let batch = next(&mut quiet).await;
            if batch.kind == BatchKind::Changes {
                break told(&batch);
            }
        };
        assert_eq!(event, [(revision.0, "k/quiet".into(), Some("v".into()))]);
        assert!(KeyRange::all().contains(b"k/quiet"));
    });
}
