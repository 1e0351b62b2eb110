//! Answers that no member of this API gives: a client says so, and neither panics, nor loops, nor takes them for something else.

use std::time::Duration;

use proptest::prelude::{any, prop};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use tenure_client::{Applied, Client, Compare, ConnectOptions, Error, KeyRange, kv};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::mvccpb::KeyValue;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::fake::Fake;
use crate::support::{run, within};

async fn client(fake: &Fake) -> Client {
    let options = ConnectOptions::default().namespace("app/").timeout(Duration::from_millis(500));
    Client::connect([fake.address.to_string()], options).await.expect("a client")
}

fn kv(key: &str) -> KeyValue {
    KeyValue { key: key.to_owned().into(), mod_revision: 5, ..KeyValue::default() }
}

fn page(keys: &[&str], more: bool) -> pb::RangeResponse {
    let header = Some(pb::ResponseHeader { revision: 7, ..pb::ResponseHeader::default() });
    pb::RangeResponse { header, kvs: keys.iter().map(|key| kv(key)).collect(), more, count: -9 }
}

#[test]
fn a_key_that_nobody_asked_for_is_nonsense() {
    run(async {
        let fake = Fake::start().await;
        let client = client(&fake).await;
        fake.script.ranges.lock().push_back(Ok(page(&["app/k", "other"], false)));
        let error = client.get("k").await.expect_err("it is of another namespace");
        assert!(matches!(error, Error::Protocol(_)) && !error.is_retryable(), "{error:?}");
        *fake.script.ranges.lock() = [Ok(page(&["app/k"], false))].into();
        let got = client.get("k").await.expect("a read");
        assert_eq!((got.count, &got.kvs[0].key[..]), (0, &b"k"[..]), "a count below zero is none");
    });
}

#[test]
fn a_transactions_answer_that_answers_nothing_is_nonsense() {
    run(async {
        let fake = Fake::start().await;
        let client = client(&fake).await;
        let empty =
            pb::TxnResponse { responses: vec![pb::ResponseOp { response: None }], ..pb::TxnResponse::default() };
        fake.script.txns.lock().push_back(Ok(empty));
        let error = client.txn().when([Compare::absent("k")]).and_then([kv::put("k", "v")]).await.expect_err("nothing");
        assert!(matches!(error, Error::Protocol(_)), "{error:?}");
        assert_eq!(error.applied(), Applied::Unknown, "it may have been done");

        let mut deep = pb::TxnResponse::default();
        for _ in 0..90 {
            let response = Some(pb::response_op::Response::ResponseTxn(deep));
            deep = pb::TxnResponse { responses: vec![pb::ResponseOp { response }], ..pb::TxnResponse::default() };
        }
        *fake.script.txns.lock() = [Ok(deep)].into();
        let error = client.txn().and_then([kv::put("k", "v")]).await.expect_err("too deep");
        assert_eq!(error.applied(), Applied::Unknown, "{error:?}");
    });
}

#[test]
fn a_range_stream_ends_however_its_server_goes_on() {
    run(async {
        let fake = Fake::start().await;
        let client = client(&fake).await;
        // There is always more, and never anything.
        fake.script.ranges.lock().push_back(Ok(page(&[], true)));
        let mut stream = client.get(KeyRange::all()).stream();
        assert_eq!(within("the end", stream.next_page()).await.expect("no error"), None);

        // Streams that break at once, again and again.
        *fake.script.ranges.lock() = [Ok(page(&["app/a"], true))].into();
        for _ in 0..1000 {
            fake.script.streams.lock().push_back(vec![Err(Status::unavailable("broken"))]);
        }
        let mut stream = client.get(KeyRange::all()).stream();
        assert_eq!(within("a page", stream.next_page()).await.expect("a page").expect("keys").len(), 1);
        let error = within("an end", stream.next_page()).await.expect_err("it never gets on");
        assert!(matches!(error, Error::Timeout(_)), "{error:?}");
        assert_eq!(stream.next_page().await.expect("nothing more"), None);
    });
}

#[test]
fn a_range_stream_goes_on_after_the_last_key_at_the_same_revision_when_it_breaks() {
    run(async {
        let fake = Fake::start().await;
        let client = client(&fake).await;
        let chunk = |keys: &[&str]| Ok(pb::RangeStreamResponse { range_response: Some(page(keys, false)) });
        fake.script.ranges.lock().push_back(Ok(page(&["app/a", "app/b"], true)));
        fake.script.streams.lock().extend([
            vec![chunk(&["app/c"]), Err(Status::unavailable("etcdserver: server stopped"))],
            vec![chunk(&["app/d", "app/e"])],
        ]);
        let mut keys = Vec::new();
        let mut stream = client.get(KeyRange::all()).limit(100).stream();
        while let Some(page) = within("a page", stream.next_page()).await.expect("a page") {
            keys.extend(page.into_iter().map(|kv| kv.key));
        }
        assert_eq!(keys, ["a", "b", "c", "d", "e"]);
        let asked: Vec<_> = fake.script.asked.lock().iter().map(|r| (r.key.clone(), r.revision, r.limit)).collect();
        assert_eq!(
            asked,
            [
                (bytes::Bytes::from("app/\0"), 0, 100),
                (bytes::Bytes::from("app/b\0"), 7, 98),
                (bytes::Bytes::from("app/c\0"), 7, 97)
            ]
        );
    });
}

#[test]
fn a_server_without_range_streams_is_read_page_by_page() {
    run(async {
        let fake = Fake::start().await;
        let client = client(&fake).await;
        fake.script.ranges.lock().extend([
            Ok(page(&["app/a"], true)),
            Err(Status::unavailable("etcdserver: request timed out")),
            Ok(page(&["app/b"], true)),
            Ok(page(&["app/c"], false)),
        ]);
        let mut keys = Vec::new();
        let mut stream = client.get(KeyRange::all()).stream();
        while let Some(page) = within("a page", stream.next_page()).await.expect("a page") {
            keys.extend(page.into_iter().map(|kv| kv.key));
        }
        assert_eq!(keys, ["a", "b", "c"]);
    });
}

#[test]
fn a_write_is_sent_again_if_and_only_if_it_is_known_not_to_be_done() {
    run(async {
        let fake = Fake::start().await;
        let client = client(&fake).await;
        let sent = || std::mem::take(&mut *fake.script.headers.lock()).len();
        for (text, tries) in [
            ("etcdserver: no leader", 2),
            ("etcdserver: too many requests", 2),
            ("etcdserver: leader changed", 2),
            ("etcdserver: request timed out", 1),
            ("etcdserver: server stopped", 1),
            ("", 1),
        ] {
            *fake.script.puts.lock() = [Err(Status::unavailable(text)), Ok(pb::PutResponse::default())].into();
            let put = client.put("k", "v").timeout(Duration::from_secs(50)).await;
            assert_eq!(sent(), tries, "{text}");
            match put {
                Ok(_) => assert_eq!(tries, 2, "{text}"),
                Err(error) => assert!(matches!(error, Error::Unknown(_)) && tries == 1, "{text}: {error:?}"),
            }
            *fake.script.ranges.lock() = [Err(Status::unavailable(text)), Ok(page(&[], false))].into();
            client.get("k").timeout(Duration::from_secs(50)).await.expect("a read is sent again");
            assert_eq!(sent(), 2, "{text}");
        }
    });
}

/// Any code, any text, any metadata and details: there is an error, and it is told in time.
#[test]
fn any_status_that_a_server_can_send_ends_a_request_with_an_error() {
    let statuses = (
        1..17_i32,
        prop::string::string_regex("(etcdserver: |tenure: )?\\PC{0,60}").expect("a pattern"),
        prop::collection::vec(any::<u8>(), 0..100),
        prop::collection::vec(any::<u8>(), 0..40),
    );
    run(async {
        let fake = Fake::start().await;
        let client = client(&fake).await;
        let mut runner = TestRunner::deterministic();
        for _ in 0..200 {
            let (code, text, details, value) = statuses.new_tree(&mut runner).expect("a status").current();
            let mut metadata = MetadataMap::new();
            metadata.insert_bin("grpc-whatever-bin", MetadataValue::from_bytes(&value));
            let status =
                Status::with_details_and_metadata(Code::from_i32(code), text.clone(), details.into(), metadata);
            *fake.script.puts.lock() = [Err(status)].into();
            let put = client.put("k", "v").timeout(Duration::from_millis(20)).await;
            let error = put.expect_err("no put is answered");
            assert!(!error.to_string().is_empty(), "{text}");
        }
    });
}
