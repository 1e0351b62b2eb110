//! Programs that read slowly, and revisions that are large.

use tenure_client::kv;
use tenure_client::watch::BatchKind;

use crate::support::members::Cluster;
use crate::support::proxy::Proxy;
use crate::support::{run, within};
use crate::{Writer, done, hasty, keys, next, read, told};

#[test]
fn a_slow_reader_gets_everything_once_and_delays_nobody() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client_with(hasty()).await;
        let mut slow = client.watch(keys()).unread(10, 100_000).open().await.expect("a watch");
        let mut quick = client.watch(keys()).open().await.expect("a watch");
        let mut writer = Writer::new(client.clone(), 3);
        let mut quick_events = Vec::new();
        // The quick one is up to date after every write, although the slow one reads nothing.
        for _ in 0..300 {
            let before = writer.done.len();
            writer.write().await;
            quick_events.extend(read(&mut quick, writer.done.len() - before).await);
        }
        assert_eq!(quick_events, writer.done);
        assert_eq!(quick.counts().lags, 0);
        let (mut events, mut signs) = (Vec::new(), 0);
        while events.len() < writer.done.len() {
            let batch = within("a batch", slow.next()).await.expect("the watch goes on");
            assert!(batch.events.len() <= 15, "a mailbox holds no more");
            signs += u64::from(batch.kind == BatchKind::Lagged);
            events.extend(told(&batch));
        }
        assert_eq!(events, writer.done);
        assert!(signs > 0 && slow.counts().lags >= signs, "{signs} {:?}", slow.counts());
    });
}

#[test]
fn a_slow_reader_whose_connection_is_cut_misses_nothing() {
    run(async {
        let cluster = Cluster::one().await;
        let proxy = Proxy::before(cluster.members[0].clients).await;
        let client = tenure_client::Client::connect([proxy.endpoint()], hasty());
        let client = within("a client", client).await.expect("a client");
        let mut slow = client.watch(keys()).unread(7, 100_000).open().await.expect("a watch");
        let mut writer = Writer::new(cluster.client().await, 4);
        let mut events = Vec::new();
        for _ in 0..30 {
            writer.write_many(5).await;
            proxy.cut();
            if events.len() < writer.done.len() {
                events.extend(told(&next(&mut slow).await));
            }
        }
        while events.len() < writer.done.len() {
            events.extend(told(&next(&mut slow).await));
        }
        assert_eq!(events, writer.done);
    });
}

#[test]
fn a_large_revision_is_given_in_one_batch_whatever_is_cut_while_it_comes_in_parts() {
    run(async {
        let cluster = Cluster::one().await;
        let proxy = Proxy::before(cluster.members[0].clients).await;
        let client = tenure_client::Client::connect([proxy.endpoint()], hasty());
        let client = within("a client", client).await.expect("a client");
        let direct = cluster.client().await;
        let value = "x".repeat(500 << 10);
        let mut watcher = client.watch(keys()).prev_kv().open().await.expect("a watch");
        // A request may hold a megabyte and a half; deleting what many of them put takes one revision, told with what was.
        for number in 0..12 {
            done("a put", direct.put(format!("k/{number:02}"), value.clone())).await.expect("a put");
        }
        assert_eq!(read(&mut watcher, 12).await.len(), 12);
        let deleted = done("a delete", direct.txn().and_then([kv::delete("k/").prefix()])).await.expect("a delete");
        proxy.cut();
        let batch = next(&mut watcher).await;
        assert_eq!((batch.events.len(), batch.revision), (12, deleted.header.revision));
        assert!(
            batch.events.iter().all(|event| event.prev.as_ref().is_some_and(|prev| prev.value.len() == value.len()))
        );
        assert_eq!(batch.revisions().count(), 1);
    });
}
