//! The lease service on the wire: what is answered, in which order, and when a stream ends.

use std::time::Duration;

use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::support::{CALM, Server, cluster, leader, run, within};

const FLAGS: [&str; 2] = ["--election-timeout=500", "--heartbeat-interval=50"];

/// 1.5 times the election timeout, in whole seconds.
const TTL_MIN: i64 = 1;

async fn leases(server: &Server) -> LeaseClient<Channel> {
    LeaseClient::new(server.channel().await)
}

async fn grant(client: &mut LeaseClient<Channel>, id: i64, ttl: i64) -> Result<pb::LeaseGrantResponse, Status> {
    let answer = within("a grant", client.lease_grant(pb::LeaseGrantRequest { id, ttl })).await?;
    Ok(answer.into_inner())
}

async fn left(client: &mut LeaseClient<Channel>, id: i64, keys: bool) -> pb::LeaseTimeToLiveResponse {
    let answer = client.lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys });
    within("a look", answer).await.expect("an answer").into_inner()
}

fn told(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

type KeepAlives = Streaming<pb::LeaseKeepAliveResponse>;

/// A stream of keepalives, as somebody who insists on a leader or not.
async fn keep_alive(
    client: &mut LeaseClient<Channel>,
    insisting: bool,
) -> (mpsc::Sender<pb::LeaseKeepAliveRequest>, KeepAlives) {
    let (ask, asked) = mpsc::channel(4096);
    let mut request = Request::new(ReceiverStream::new(asked));
    if insisting {
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    }
    let answers = within("a stream", client.lease_keep_alive(request)).await.expect("a stream");
    (ask, answers.into_inner())
}

async fn answer(answers: &mut KeepAlives) -> pb::LeaseKeepAliveResponse {
    within("an answer", answers.message()).await.expect("no error").expect("no end")
}

#[test]
fn leases_are_granted_told_of_listed_and_revoked_at_any_member() {
    run(async {
        let servers = cluster(3, &FLAGS).await;
        for server in &servers {
            let mut client = leases(server).await;
            let picked = grant(&mut client, 0, 60).await.expect("a lease");
            assert!(picked.id > 0 && picked.ttl == 60 && picked.error.is_empty(), "{picked:?}");
            assert_eq!(picked.header.as_ref().map(|header| header.revision), Some(1));
            let named = grant(&mut client, -9, 0).await.expect("a lease");
            assert_eq!((named.id, named.ttl), (-9, TTL_MIN), "the TTL is raised");
            for (id, ttl, refusal) in [
                (-9, 10, (Code::FailedPrecondition, "etcdserver: lease already exists")),
                (1, 9_000_000_001, (Code::OutOfRange, "etcdserver: too large lease TTL")),
            ] {
                assert_eq!(told(&grant(&mut client, id, ttl).await.expect_err("refused")), refusal);
            }
            let whole = left(&mut client, picked.id, true).await;
            assert_eq!((whole.id, whole.granted_ttl, whole.keys.len()), (picked.id, 60, 0));
            assert!((50..=60).contains(&whole.ttl), "{whole:?}");
            let unknown = left(&mut client, 12345, true).await;
            assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl, unknown.keys.len()), (12345, -1, 0, 0));
            assert_eq!(unknown.header.map(|header| header.revision), Some(1));
            let listed = within("a list", client.lease_leases(pb::LeaseLeasesRequest {})).await.expect("an answer");
            let ids: Vec<i64> = listed.into_inner().leases.iter().map(|lease| lease.id).collect();
            // The short one may have ended by itself.
            assert!(ids == [-9, picked.id] || ids == [picked.id], "{ids:?}");
            let revoke = |id| pb::LeaseRevokeRequest { id };
            within("a revoke", client.lease_revoke(revoke(picked.id))).await.expect("it was there");
            let gone = within("a revoke", client.lease_revoke(revoke(picked.id))).await.expect_err("it is gone");
            assert_eq!(told(&gone), (Code::NotFound, "etcdserver: requested lease not found"));
            drop(within("a revoke", client.lease_revoke(revoke(-9))).await);
        }
    });
}

#[test]
fn keepalives_are_answered_in_order_and_a_lease_that_is_gone_ends_no_stream() {
    run(async {
        let servers = cluster(3, &CALM).await;
        for server in &servers {
            let mut client = leases(server).await;
            for id in 1..=40 {
                grant(&mut client, id, 60 + id).await.expect("a lease");
            }
            let (ask, mut answers) = keep_alive(&mut client, false).await;
            // Many more than are carried out at once, some of leases that nobody granted.
            let asked: Vec<i64> = (0..3000).map(|n| n * 7 % 60).collect();
            let asking = async {
                for id in &asked {
                    ask.send(pb::LeaseKeepAliveRequest { id: *id }).await.expect("the stream is open");
                }
            };
            let answering = async {
                for id in &asked {
                    let answer = answer(&mut answers).await;
                    let ttl = if (1..=40).contains(id) { 60 + id } else { 0 };
                    assert_eq!((answer.id, answer.ttl), (*id, ttl));
                    assert_eq!(answer.header.expect("a header").revision, 1);
                }
            };
            tokio::join!(asking, answering);
            drop(ask);
            assert!(within("the end", answers.message()).await.expect("no error").is_none(), "the client has finished");
            for id in 1..=40 {
                within("a revoke", client.lease_revoke(pb::LeaseRevokeRequest { id })).await.expect("it was there");
            }
        }
    });
}

#[test]
fn a_keepalive_stream_outlives_its_leader_and_is_cut_for_who_insists_when_none_comes() {
    run(async {
        let mut servers = cluster(3, &FLAGS).await;
        let first = leader(&servers).await;
        let place = (first + 1) % 3;
        let mut client = leases(&servers[place]).await;
        grant(&mut client, 7, 60).await.expect("a lease");
        let (ask, mut answers) = keep_alive(&mut client, false).await;
        let (insist, mut insisting) = keep_alive(&mut client, true).await;
        let ask_once = |sender: mpsc::Sender<pb::LeaseKeepAliveRequest>| async move {
            sender.send(pb::LeaseKeepAliveRequest { id: 7 }).await.expect("the stream is open");
        };
        ask_once(insist.clone()).await;
        assert_eq!(answer(&mut insisting).await.ttl, 60);
        servers[first].stop();
        ask_once(ask.clone()).await;
        assert_eq!(answer(&mut answers).await.ttl, 60, "another leader is found within the request");
        servers[(first + 2) % 3].stop();
        let cut = within("the end of the stream", insisting.message()).await.expect_err("no leader");
        assert_eq!(told(&cut), (Code::Unavailable, "etcdserver: no leader"));
        drop(insist);
        assert_eq!(told(&keep_alive_refused(&mut client).await), (Code::Unavailable, "etcdserver: no leader"));
        // Whoever does not insist waits, and is told when nobody came.
        ask_once(ask).await;
        let late = within("a time-out", answers.message()).await.expect_err("nobody leads");
        assert_eq!(told(&late), (Code::Unavailable, "etcdserver: no leader"));
        for stopped in [first, (first + 2) % 3] {
            servers[stopped].start();
        }
        leader(&servers).await;
        let (ask, mut answers) = keep_alive(&mut client, true).await;
        ask_once(ask).await;
        assert_eq!(answer(&mut answers).await.ttl, 60);
    });
}

async fn keep_alive_refused(client: &mut LeaseClient<Channel>) -> Status {
    let mut request = Request::new(tokio_stream::pending());
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    within("a refusal", client.lease_keep_alive(request)).await.expect_err("no leader")
}

#[test]
fn a_lease_ends_by_itself_and_says_so() {
    run(async {
        let servers = cluster(3, &FLAGS).await;
        let mut client = leases(&servers[0]).await;
        let mut kv = servers[1].kv().await;
        grant(&mut client, 7, TTL_MIN).await.expect("a lease");
        let put = pb::PutRequest { key: "k".into(), lease: 7, ..Default::default() };
        kv.put(put.clone()).await.expect("a put");
        assert_eq!(left(&mut client, 7, true).await.keys, ["k"]);
        let gone = async {
            while left(&mut client, 7, false).await.ttl >= 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("the end", gone).await;
        let (ask, mut answers) = keep_alive(&mut client, false).await;
        ask.send(pb::LeaseKeepAliveRequest { id: 7 }).await.expect("the stream is open");
        assert_eq!(answer(&mut answers).await.ttl, 0);
        let refused = kv.put(put).await.expect_err("no such lease");
        assert_eq!(told(&refused), (Code::NotFound, "etcdserver: requested lease not found"));
        let range = kv.range(pb::RangeRequest { key: "k".into(), ..Default::default() }).await.expect("an answer");
        assert_eq!(range.into_inner().count, 0);
    });
}
