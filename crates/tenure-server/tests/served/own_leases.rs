//! Tenure's own lease service on the wire, beside etcd's: the same leases through two doors.

use std::collections::BTreeSet;

use tenure_proto::etcdserverpb as etcd;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::lease_end::{Cause, Client};
use tenure_proto::tenure::v1::leases_client::LeasesClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::support::{CALM, Server, cluster, leader, run, within};

/// The most leases of one message, and what a page holds.
const LEASES_PER_MESSAGE: i64 = 4096;
const LEASES_PER_PAGE: i64 = 1000;

const GONE: (Code, &str) = (Code::NotFound, "etcdserver: requested lease not found");

/// Both services of a member, over one connection.
struct Doors {
    own: LeasesClient<Channel>,
    etcd: LeaseClient<Channel>,
    kv: KvClient<Channel>,
}

impl Doors {
    async fn of(server: &Server) -> Doors {
        let channel = server.channel().await;
        Doors {
            own: LeasesClient::new(channel.clone()),
            etcd: LeaseClient::new(channel.clone()),
            kv: KvClient::new(channel),
        }
    }

    async fn grant(&mut self, id: i64, ttl_ms: u64, holder: (&str, &str)) -> Result<pb::LeaseGrantResponse, Status> {
        let (name, text) = (holder.0.to_owned(), holder.1.to_owned());
        let request = pb::LeaseGrantRequest { id, ttl_ms, holder: Some(pb::LeaseHolder { name, text }) };
        Ok(within("a grant", self.own.grant(request)).await?.into_inner())
    }

    async fn revoke(&mut self, id: i64) -> Result<pb::LeaseRevokeResponse, Status> {
        Ok(within("a revoke", self.own.revoke(pb::LeaseRevokeRequest { id })).await?.into_inner())
    }

    async fn look(&mut self, id: i64) -> Result<pb::LeaseState, Status> {
        let request = pb::LeaseTimeToLiveRequest { id, ..Default::default() };
        let answer = within("a look", self.own.time_to_live(request)).await?.into_inner();
        assert!(answer.keys.is_empty() && !answer.more_keys, "nobody asked for them");
        Ok(answer.lease.expect("a lease"))
    }

    async fn explain(&mut self, id: i64) -> pb::LeaseExplainResponse {
        let answer = within("an explanation", self.own.explain(pb::LeaseExplainRequest { id })).await;
        answer.expect("an answer").into_inner()
    }

    async fn list(&mut self, limit: u32, after: Option<i64>) -> pb::LeaseListResponse {
        let answer = within("a list", self.own.list(pb::LeaseListRequest { limit, after })).await;
        answer.expect("an answer").into_inner()
    }

    async fn put(&mut self, key: &str, lease: i64) -> i64 {
        let put = etcd::PutRequest { key: key.to_owned().into(), lease, ..Default::default() };
        let answer = within("a put", self.kv.put(put)).await.expect("a put").into_inner();
        answer.header.expect("a header").revision
    }

    async fn keep_alive(&mut self) -> (mpsc::Sender<pb::LeaseKeepAliveRequest>, KeepAlives) {
        let (ask, asked) = mpsc::channel(16);
        let answers = within("a stream", self.own.keep_alive(ReceiverStream::new(asked))).await.expect("a stream");
        (ask, answers.into_inner())
    }
}

type KeepAlives = Streaming<pb::LeaseKeepAliveResponse>;

async fn ask(stream: &mpsc::Sender<pb::LeaseKeepAliveRequest>, ids: &[i64]) {
    stream.send(pb::LeaseKeepAliveRequest { ids: ids.to_vec() }).await.expect("the stream is open");
}

async fn kept(answers: &mut KeepAlives) -> Vec<(i64, u64)> {
    let answer = within("an answer", answers.message()).await.expect("no error").expect("no end");
    assert!(answer.header.is_some());
    answer.leases.iter().map(|lease| (lease.id, lease.remaining_ms)).collect()
}

fn told(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

#[test]
fn both_services_tell_of_the_same_leases_at_every_member() {
    run(async {
        let servers = cluster(3, &CALM).await;
        for server in &servers {
            let mut doors = Doors::of(server).await;
            let granted = doors.grant(0, 61_500, ("web-1", "10.0.0.1")).await.expect("a lease");
            assert!(granted.id > 0 && granted.ttl_ms == 61_500, "{granted:?}");
            let id = granted.id;
            let seen = doors.look(id).await.expect("a lease");
            assert!((30_000..=61_500).contains(&seen.remaining_ms), "{seen:?}");
            assert!(seen.renewed_ms_ago < 30_000 && seen.granted_index > 0, "{seen:?}");
            let holder = Some(pb::LeaseHolder { name: "web-1".into(), text: "10.0.0.1".into() });
            assert_eq!((seen.id, seen.ttl_ms, seen.renewals, &seen.holder), (id, 61_500, 0, &holder));

            let request = etcd::LeaseTimeToLiveRequest { id, keys: false };
            let by_etcd =
                within("a look", doors.etcd.lease_time_to_live(request)).await.expect("an answer").into_inner();
            assert_eq!(by_etcd.granted_ttl, 61, "whole seconds, rounded down");
            let (stream, mut answers) = doors.keep_alive().await;
            ask(&stream, &[id]).await;
            assert_eq!(kept(&mut answers).await, [(id, 61_500)]);
            let kept_by_etcd = etcd::LeaseKeepAliveRequest { id };
            let asked = tokio_stream::once(kept_by_etcd);
            let mut kept = within("a stream", doors.etcd.lease_keep_alive(asked)).await.expect("a stream").into_inner();
            assert_eq!(within("an answer", kept.message()).await.expect("no error").expect("an answer").ttl, 61);
            let seen = doors.look(id).await.expect("a lease");
            // At the leader a grant or renewal in the log also counts for those right after it.
            assert!(seen.renewals <= 2, "{seen:?}");
            assert_eq!(seen.holder, holder, "both doors renew, and neither forgets the holder");

            let request = etcd::LeaseGrantRequest { id: -5, ttl: 60 };
            within("a grant", doors.etcd.lease_grant(request)).await.expect("a lease");
            let seen = doors.look(-5).await.expect("a lease");
            assert_eq!((seen.ttl_ms, seen.holder), (60_000, None));
            assert_eq!(
                told(&doors.grant(-5, 60_000, ("", "")).await.expect_err("taken")),
                (Code::FailedPrecondition, "etcdserver: lease already exists")
            );
            doors.revoke(-5).await.expect("it was there");
            within("a revoke", doors.etcd.lease_revoke(etcd::LeaseRevokeRequest { id })).await.expect("it was there");
            for id in [-5, id] {
                assert_eq!(told(&doors.look(id).await.expect_err("gone")), GONE);
                assert_eq!(told(&doors.revoke(id).await.expect_err("gone")), GONE);
            }
        }
    });
}

#[test]
fn what_nobody_can_mean_is_refused_with_what_is_allowed() {
    run(async {
        let servers = cluster(1, &CALM).await;
        let mut doors = Doors::of(&servers[0]).await;
        let short = "tenure: a lease's TTL must be at least 1000 ms";
        let long = "etcdserver: too large lease TTL";
        let largest = 9_000_000_000_000;
        for (ttl_ms, refusal) in [
            (0, Some((Code::InvalidArgument, short))),
            (999, Some((Code::InvalidArgument, short))),
            (1000, None),
            (largest, None),
            (largest + 1, Some((Code::OutOfRange, long))),
            (u64::MAX, Some((Code::OutOfRange, long))),
        ] {
            let answer = doors.grant(0, ttl_ms, ("", "")).await;
            assert_eq!(answer.as_ref().err().map(told), refusal, "{ttl_ms} ms");
            assert_eq!(answer.map_or(ttl_ms, |granted| granted.ttl_ms), ttl_ms);
        }
        let too_long = "tenure: a lease's holder may have a name of 128 bytes and a text of 1024 bytes";
        let refusal = (Code::InvalidArgument, too_long);
        let (name, text) = ("é".repeat(64), "é".repeat(512));
        for (name_more, text_more, refused) in [("", "", None), ("x", "", Some(refusal)), ("", "x", Some(refusal))] {
            let holder = (format!("{name}{name_more}"), format!("{text}{text_more}"));
            let answer = doors.grant(0, 60_000, (&holder.0, &holder.1)).await;
            assert_eq!(answer.as_ref().err().map(told), refused);
            if let Ok(granted) = answer {
                let seen = doors.look(granted.id).await.expect("a lease").holder.expect("a holder");
                assert_eq!((seen.name, seen.text), holder);
            }
        }
        for id in [0, 7, i64::MIN] {
            assert_eq!(told(&doors.revoke(id).await.expect_err("none")), GONE);
            assert_eq!(told(&doors.look(id).await.expect_err("none")), GONE);
            let explained = doors.explain(id).await;
            assert_eq!((explained.id, explained.alive, explained.ended), (id, None, None));
            assert_eq!((explained.ends_kept, explained.ends_dropped), (0, 0));
        }
    });
}

#[test]
fn one_message_renews_many_leases_in_their_order() {
    run(async {
        let servers = cluster(3, &CALM).await;
        let leading = leader(&servers).await;
        for place in [leading, (leading + 1) % 3] {
            let mut doors = Doors::of(&servers[place]).await;
            // Leases here and there among ids that nobody granted; negative ones, the absent lease, and some twice.
            let granted: Vec<i64> = (-20..20).filter(|id| id % 3 != 0).collect();
            for id in &granted {
                doors.grant(*id, 60_000 + id.unsigned_abs(), ("", "")).await.expect("a lease");
            }
            let remaining = |id: i64| if granted.contains(&id) { 60_000 + id.unsigned_abs() } else { 0 };
            let (stream, mut answers) = doors.keep_alive().await;
            let messages: Vec<Vec<i64>> = vec![
                (0..LEASES_PER_MESSAGE).map(|n| n * 7 % 60 - 30).collect(),
                vec![],
                vec![5],
                vec![5, 5, 0, i64::MIN, 5, i64::MAX],
                (0..LEASES_PER_MESSAGE).map(|n| 20 - n % 40).collect(),
            ];
            let asking = async {
                for message in &messages {
                    ask(&stream, message).await;
                }
            };
            let answering = async {
                for message in &messages {
                    let expected: Vec<_> = message.iter().map(|id| (*id, remaining(*id))).collect();
                    assert_eq!(kept(&mut answers).await, expected);
                }
            };
            tokio::join!(asking, answering);
            drop(stream);
            assert!(within("the end", answers.message()).await.expect("no error").is_none(), "the client has finished");
            let seen = doors.look(-20).await.expect("a lease");
            let named = |message: &Vec<i64>| message.iter().filter(|id| **id == -20).count() as u64;
            let named: u64 = messages.iter().map(named).sum();
            // At the leader a grant or renewal in the log also counts for those right after it.
            assert!(seen.renewals == named || place == leading && seen.renewals < named, "{seen:?} of {named}");
            for id in granted {
                doors.revoke(id).await.expect("it was there");
            }
        }
    });
}

#[test]
fn a_message_that_is_too_large_ends_its_stream_and_nothing_else() {
    run(async {
        let servers = cluster(1, &CALM).await;
        let mut doors = Doors::of(&servers[0]).await;
        doors.grant(7, 60_000, ("", "")).await.expect("a lease");
        let beyond = vec![7; usize::try_from(LEASES_PER_MESSAGE).expect("small") + 1];
        // Ten bytes each.
        let huge = vec![-1; 1 << 20];
        for (ids, refused) in [
            (beyond, (Code::InvalidArgument, "tenure: a message may name at most 4096 leases")),
            (huge, (Code::OutOfRange, "Error, decoded message length too large: ")),
        ] {
            let (stream, mut answers) = doors.keep_alive().await;
            ask(&stream, &[7]).await;
            assert_eq!(kept(&mut answers).await, [(7, 60_000)]);
            ask(&stream, &ids).await;
            let ended = within("the end", answers.message()).await.expect_err("refused");
            assert_eq!(ended.code(), refused.0);
            assert!(ended.message().starts_with(refused.1), "{ended:?}");
            assert_eq!(doors.look(7).await.expect("a lease").id, 7);
        }
        // At the leader a grant or renewal in the log also counts for those right after it.
        assert!(doors.look(7).await.expect("a lease").renewals <= 2, "what was refused renewed nothing");
    });
}

#[test]
fn long_lists_of_leases_and_keys_come_in_pages() {
    run(async {
        let servers = cluster(1, &CALM).await;
        let mut doors = Doors::of(&servers[0]).await;
        assert_eq!(doors.list(0, None).await.leases, []);
        let ids: BTreeSet<i64> = [i64::MIN, -7, 1, 2, 3, i64::MAX].into();
        for id in &ids {
            doors.grant(*id, 60_000, (&format!("holder {id}"), "")).await.expect("a lease");
        }
        for limit in [1, 2, 5, 6, 7, 0, u32::MAX] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = doors.list(limit, after).await;
                assert!(limit == 0 || page.leases.len() <= limit as usize);
                for lease in &page.leases {
                    assert_eq!(lease.holder.as_ref().expect("a holder").name, format!("holder {}", lease.id));
                }
                found.extend(page.leases.iter().map(|lease| lease.id));
                if !page.more {
                    break;
                }
                after = found.last().copied();
            }
            assert!(found.iter().eq(&ids), "{found:?} by {limit}");
        }
        assert_eq!(doors.list(0, Some(i64::MAX)).await.leases, []);
        for id in 10..10 + LEASES_PER_PAGE {
            doors.grant(id, 60_000, ("", "")).await.expect("a lease");
        }
        let page = doors.list(u32::MAX, None).await;
        assert_eq!((page.leases.len(), page.more), (1000, true));

        let long = "k".repeat(300_000);
        let keys: Vec<String> = ["a", "b", "c", "d", "e"].into_iter().map(|key| format!("{key}{long}")).collect();
        for key in &keys {
            doors.put(key, 1).await;
        }
        let (mut found, mut pages, mut keys_after) = (Vec::new(), 0, bytes::Bytes::new());
        loop {
            let request = pb::LeaseTimeToLiveRequest { id: 1, keys: true, keys_after };
            let page = within("a page", doors.own.time_to_live(request)).await.expect("an answer").into_inner();
            found.extend(page.keys);
            pages += 1;
            if !page.more_keys {
                break;
            }
            keys_after = found.last().cloned().expect("a page is not empty");
        }
        assert!(found == keys, "{} keys instead of {}", found.len(), keys.len());
        assert_eq!(pages, 2, "a mebibyte, and what is begun of the next key");
    });
}

#[test]
fn every_member_tells_why_a_lease_is_gone_whoever_leads_then() {
    run(async {
        let mut servers = cluster(3, &CALM).await;
        let first = leader(&servers).await;
        let follower = (first + 1) % 3;
        let mut doors = Doors::of(&servers[follower]).await;
        let leader_id = servers[first].status().await.leader;
        doors.grant(7, 1000, ("web-1", "text")).await.expect("a lease");
        doors.grant(8, 60_000, ("", "")).await.expect("a lease");
        let (stream, mut answers) = doors.keep_alive().await;
        ask(&stream, &[7, 8]).await;
        assert_eq!(kept(&mut answers).await, [(7, 1000), (8, 60_000)]);
        doors.put("a", 8).await;
        let last = doors.put("b", 8).await;
        let alive = doors.explain(8).await;
        assert_eq!(alive.ended, None);
        assert_eq!(alive.alive.map(|lease| (lease.id, lease.ttl_ms, lease.renewals)), Some((8, 60_000, 1)));
        let revoked = doors.revoke(8).await.expect("it was there").header.expect("a header");
        assert_eq!(revoked.revision, last + 1);
        let gone = async {
            while doors.look(7).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        within("the end of lease 7", gone).await;
        let mut before = Vec::new();
        for id in [7, 8] {
            before.push(doors.explain(id).await.ended.expect("an end"));
        }
        let [expired, revoked] = &before[..] else { unreachable!("two were asked for") };
        assert_eq!((expired.cause(), expired.client.clone()), (Cause::Expired, None));
        assert!(expired.renewed_ms_before >= 1010 && expired.late_ms >= 10, "{expired:?}");
        assert_eq!(expired.late_ms, expired.renewed_ms_before - 1000);
        assert_eq!((expired.ttl_ms, expired.renewals, expired.keys), (1000, 1, 0));
        assert_eq!((expired.holder_name.as_str(), expired.revision), ("web-1", last + 1));
        assert_eq!(expired.member_id, leader_id);
        assert_eq!(
            (revoked.cause(), revoked.member_id),
            (Cause::Revoked, servers[follower].status().await.header.expect("a header").member_id)
        );
        assert_eq!((revoked.keys, revoked.revision, revoked.late_ms), (2, last + 1, 0));
        let Some(Client::Address(address)) = &revoked.client else { panic!("{revoked:?}") };
        assert!(address.parse::<std::net::SocketAddr>().is_ok_and(|from| from.ip().is_loopback()), "{address}");

        servers[first].stop();
        let next = leader_of(&servers, first).await;
        let mut doors = Doors::of(&servers[next]).await;
        // The id has another life, and the end of the first is still told.
        doors.grant(7, 60_000, ("", "")).await.expect("a lease");
        servers[first].start();
        for server in &servers {
            let mut doors = Doors::of(server).await;
            for (id, before) in [7, 8].into_iter().zip(&before) {
                let told = doors.explain(id).await;
                let ended = told.ended.expect("an end");
                let same = pb::LeaseEnd { ended_ms_ago: before.ended_ms_ago, ..ended.clone() };
                assert_eq!(same, *before);
                assert!(ended.ended_ms_ago >= before.ended_ms_ago.saturating_sub(1000), "{ended:?} was {before:?}");
                assert_eq!(told.alive.map(|lease| lease.id), (id == 7).then_some(7));
                assert_eq!((told.ends_kept, told.ends_dropped), (2, 0));
            }
        }
    });
}

/// Who leads among those that run.
async fn leader_of(servers: &[Server], stopped: usize) -> usize {
    within("another leader", async {
        loop {
            for (place, server) in servers.iter().enumerate().filter(|(place, _)| *place != stopped) {
                let status = server.status().await;
                if status.leader != 0 && status.leader == status.header.expect("a header").member_id {
                    return place;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
}
