//! The metadata that may come with any call.

use std::time::{Duration, Instant};

use tenure_proto::etcdserverpb as pb;
use tenure_proto::grpc::health::v1::HealthCheckRequest;
use tenure_proto::grpc::health::v1::health_client::HealthClient;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};

use crate::support::{cluster, leader, run, within};

const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
const FLAGS: [&str; 2] = ["--election-timeout=500", "--heartbeat-interval=50"];

fn insisting<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

fn local_read() -> pb::RangeRequest {
    pb::RangeRequest { key: "k".into(), serializable: true, ..Default::default() }
}

fn told(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

const NO_LEADER: (Code, &str) = (Code::Unavailable, "etcdserver: no leader");

#[test]
fn who_insists_on_a_leader_is_refused_without_one_and_cut_off_later() {
    run(async {
        let mut servers = cluster(3, &FLAGS).await;
        let first = leader(&servers).await;
        // One case in which the leader dies, and one in which it is left alone.
        for survivor in [(first + 1) % 3, first] {
            let mut health = HealthClient::new(servers[survivor].channel().await);
            let mut kv = servers[survivor].kv().await;
            let check = HealthCheckRequest::default();
            let mut insisting_stream = health.watch(insisting(check.clone())).await.expect("a stream").into_inner();
            let mut plain_stream = health.watch(check.clone()).await.expect("a stream").into_inner();
            insisting_stream.message().await.expect("an answer");
            plain_stream.message().await.expect("an answer");
            kv.range(insisting(local_read())).await.expect("there is a leader");

            let others = (0..3).filter(|place| *place != survivor);
            let stopped = Instant::now();
            others.clone().for_each(|place| servers[place].stop());
            let refusal = within("a refusal", async {
                loop {
                    if let Err(refusal) = kv.range(insisting(local_read())).await {
                        return refusal;
                    }
                }
            })
            .await;
            assert_eq!(told(&refusal), NO_LEADER);
            assert_eq!(told(&health.watch(insisting(check)).await.expect_err("no leader")), NO_LEADER);
            let cut = within("the end of the stream", insisting_stream.message()).await.expect_err("no leader");
            assert_eq!(told(&cut), NO_LEADER);
            // Less by at most the last heartbeat's age.
            assert!(stopped.elapsed() > 5 * ELECTION_TIMEOUT / 2, "cut after {:?}", stopped.elapsed());

            kv.range(local_read()).await.expect("nobody insisted");
            assert!(futures::future::poll_immediate(plain_stream.message()).await.is_none(), "nobody insisted");
            let status = servers[survivor].status().await;
            assert_eq!((status.leader, status.errors), (0, vec!["etcdserver: no leader".to_owned()]));

            others.for_each(|place| servers[place].start());
            leader(&servers).await;
            kv.range(insisting(local_read())).await.expect("there is a leader again");
        }
    });
}

#[test]
fn any_other_value_insists_on_nothing() {
    run(async {
        let servers = cluster(1, &FLAGS).await;
        let mut kv = servers[0].kv().await;
        for value in ["false", "True", "", "1"] {
            let mut request = Request::new(local_read());
            request.metadata_mut().insert("hasleader", value.parse().expect("ASCII"));
            kv.range(request).await.expect("it insists on nothing");
        }
    });
}

#[test]
fn a_client_version_that_is_no_text_is_refused() {
    run(async {
        let servers = cluster(1, &[]).await;
        let mut kv = servers[0].kv().await;
        let with = |bytes: &'static [u8]| {
            let value = http::HeaderValue::from_bytes(bytes).expect("a header can say it");
            let mut headers = http::HeaderMap::new();
            headers.insert("client-api-version", value);
            let mut request = Request::new(local_read());
            *request.metadata_mut() = MetadataMap::from_headers(headers);
            request
        };
        kv.range(with(b"3.7")).await.expect("a version");
        kv.range(with("ü".as_bytes())).await.expect("a strange version");
        let refused = kv.range(with(b"3.\xff")).await.expect_err("no text");
        assert_eq!(told(&refused), (Code::InvalidArgument, "etcdserver: invalid client api version"));
    });
}
