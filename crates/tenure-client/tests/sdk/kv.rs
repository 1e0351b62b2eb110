//! Reads, writes, transactions, as programs write them.

use futures::TryStreamExt as _;
use tenure_client::kv::{self, Order, SortBy};
use tenure_client::txn::{OpDone, txn};
use tenure_client::{Compare, ConnectOptions, KeyRange, Refusal, Revision};

use crate::support::members::Cluster;
use crate::support::{run, within};

#[test]
fn what_was_put_is_read_deleted_and_told() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let put = client.put("a", "1").await.expect("a put");
        let again = client.put("a", "2").prev_kv().await.expect("a put");
        assert_eq!(again.header.revision, put.header.revision.next());
        assert_eq!(again.prev.expect("there was one").value, "1");

        let got = client.get("a").one().await.expect("a read").expect("it is there");
        assert_eq!((&got.key[..], &got.value[..], got.version), (&b"a"[..], &b"2"[..], 2));
        assert_eq!((got.create_revision, got.mod_revision), (put.header.revision, again.header.revision));
        let old = client.get("a").at(put.header.revision).await.expect("a read");
        assert_eq!(old.first().expect("it was there").value, "1");

        client.put("b", "3").await.expect("a put");
        let deleted = client.delete(KeyRange::all()).prev_kv().await.expect("a delete");
        assert_eq!((deleted.count, deleted.prev.len()), (2, 2));
        let gone = client.get(KeyRange::all()).count_only().await.expect("a read");
        assert_eq!((gone.count, gone.kvs.len(), gone.more), (0, 0, false));
    });
}

#[test]
fn reads_are_limited_sorted_and_bounded() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let mut revisions = Vec::new();
        for (key, value) in [("k/1", "c"), ("k/2", "a"), ("k/3", "b"), ("l", "d")] {
            revisions.push(client.put(key, value).await.expect("a put").header.revision);
        }
        let keys =
            |got: kv::Got| got.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect::<Vec<_>>();
        let got = client.get("k/").prefix().limit(2).await.expect("a read");
        assert!(got.more && got.count == 3);
        assert_eq!(keys(got), ["k/1", "k/2"]);
        let sorted = client.get("k/").prefix().sorted(SortBy::Value, Order::Ascending).serializable().await;
        assert_eq!(keys(sorted.expect("a read")), ["k/2", "k/3", "k/1"]);
        let late = client.get(KeyRange::all()).modified_within(revisions[2], Revision::NONE).keys_only().await;
        assert_eq!(keys(late.expect("a read")), ["k/3", "l"]);
        assert_eq!(keys(client.get(KeyRange::between("k/2", "l")).await.expect("a read")), ["k/2", "k/3"]);
    });
}

#[test]
fn a_transaction_does_one_thing_or_the_other_in_one_revision() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let create = || {
            client
                .txn()
                .when([Compare::absent("job")])
                .and_then([kv::put("job", "new"), kv::put("log", "created")])
                .or_else([kv::get("job")])
        };
        let first = create().commit().await.expect("a transaction");
        assert!(first.succeeded);
        let second = create().await.expect("a transaction");
        assert!(!second.succeeded);
        let found = second.reads().next().and_then(kv::Got::first).expect("it was read");
        assert_eq!((&found.value[..], found.create_revision), (&b"new"[..], first.header.revision));
        let log = client.get("log").one().await.expect("a read").expect("it is there");
        assert_eq!(log.mod_revision, first.header.revision, "both in one revision");

        let nested = txn().when([Compare::value("job").equals("new")]).and_then([kv::delete("job").prev_kv()]);
        let done = client.txn().and_then([nested]).commit().await.expect("a transaction");
        let [OpDone::Txn(inner)] = &done.done[..] else { panic!("{done:?}") };
        assert!(matches!(&inner.done[..], [OpDone::Delete(deleted)] if deleted.count == 1 && deleted.prev.len() == 1));

        let twice = client.txn().and_then([kv::put("k", "1"), kv::put("k", "2")]).await.expect_err("a key put twice");
        assert_eq!(twice.refusal(), Some(Refusal::DuplicateKey));
    });
}

#[test]
fn a_namespace_shows_its_part_of_the_store_as_the_whole() {
    run(async {
        let cluster = Cluster::one().await;
        let whole = cluster.client().await;
        let part = cluster.client_with(ConnectOptions::default().namespace("app/")).await.namespaced("eu/");
        whole.put("app/us/k", "other").await.expect("a put");
        whole.put("app/eu0", "other").await.expect("a put");
        part.put("k", "v").await.expect("a put");
        assert_eq!(whole.get("app/eu/k").one().await.expect("a read").expect("it is there").value, "v");
        let all = part.get(KeyRange::all()).await.expect("a read");
        assert_eq!((all.kvs.len(), &all.kvs[0].key[..]), (1, &b"k"[..]));
        let done = part.txn().when([Compare::present("k")]).and_then([kv::get("k")]).await.expect("a transaction");
        assert_eq!(done.reads().next().and_then(kv::Got::first).expect("it was read").key, "k");
        let deleted = part.delete(KeyRange::starting_at("a")).prev_kv().await.expect("a delete");
        assert_eq!((deleted.count, &deleted.prev[0].key[..]), (1, &b"k"[..]));
        assert_eq!(whole.get(KeyRange::all()).count_only().await.expect("a read").count, 2, "the others stay");
    });
}

#[test]
fn a_range_stream_tells_a_range_as_of_one_revision_whatever_is_written_meanwhile() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        for chunk in (0..1000).collect::<Vec<u32>>().chunks(100) {
            let puts = chunk.iter().map(|n| kv::put(format!("k/{n:04}"), format!("{n}")));
            client.txn().and_then(puts).await.expect("a transaction");
        }
        let mut stream = client.get("k/").prefix().stream();
        let first = within("a page", stream.next_page()).await.expect("a page").expect("there are keys");
        assert!(first.len() < 1000);
        client.delete("k/").prefix().await.expect("a delete");
        let rest: Vec<_> = within("the rest", stream.try_collect::<Vec<_>>()).await.expect("no error");
        let keys: Vec<_> = first.iter().chain(rest.iter().flatten()).map(|kv| kv.key.clone()).collect();
        let expected: Vec<_> = (0..1000).map(|n| format!("k/{n:04}")).collect();
        assert_eq!(keys, expected);
        assert_eq!(client.get("k/").prefix().stream().try_collect::<Vec<_>>().await.expect("no error").len(), 0);

        let limited = client.get(KeyRange::all()).at(first[0].mod_revision).limit(7).stream();
        let limited: usize = limited.try_collect::<Vec<_>>().await.expect("no error").iter().map(Vec::len).sum();
        assert_eq!(limited, 7);
    });
}

#[test]
fn a_compacted_revision_is_refused_as_such() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let old = client.put("k", "1").await.expect("a put").header.revision;
        let new = client.put("k", "2").await.expect("a put").header.revision;
        client.compact(new).physical().await.expect("a compaction");
        let refused = client.get("k").at(old).await.expect_err("it is compacted");
        assert_eq!(refused.refusal(), Some(Refusal::Compacted));
        let again = client.compact(new).await.expect_err("it is compacted");
        assert_eq!(again.refusal(), Some(Refusal::Compacted));
        let future = client.get("k").at(Revision(1_000_000)).await.expect_err("it has not come");
        assert_eq!(future.refusal(), Some(Refusal::FutureRevision));
    });
}
