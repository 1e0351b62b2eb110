//! Locks on the wire, as etcd's clients use them: v3lockpb.

use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::v3lockpb::lock_client::LockClient;
use tenure_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::{Server, cluster, leader, run, within};

/// However busy the machine is, a leader stays the leader until it is stopped.
const FLAGS: [&str; 2] = ["--election-timeout=3000", "--heartbeat-interval=100"];

/// What a client needs of a member, over one connection.
#[derive(Clone)]
pub(crate) struct Client {
    locks: LockClient<Channel>,
    leases: LeaseClient<Channel>,
    kv: KvClient<Channel>,
}

impl Client {
    pub(crate) async fn of(server: &Server) -> Client {
        let channel = server.channel().await;
        Client {
            locks: LockClient::new(channel.clone()),
            leases: LeaseClient::new(channel.clone()),
            kv: KvClient::new(channel),
        }
    }

    pub(crate) async fn grant(&mut self, id: i64) {
        let request = pb::LeaseGrantRequest { id, ttl: 3600 };
        within("a grant", self.leases.lease_grant(request)).await.expect("a lease");
    }

    pub(crate) async fn revoke(&mut self, id: i64) {
        within("a revoke", self.leases.lease_revoke(pb::LeaseRevokeRequest { id })).await.expect("it was there");
    }

    async fn lock(&mut self, name: &str, lease: i64) -> Result<LockResponse, Status> {
        let request = LockRequest { name: name.to_owned().into(), lease };
        Ok(within("a lock", self.locks.lock(request)).await?.into_inner())
    }

    /// A call that goes on by itself until it is dropped.
    fn start(&self, name: &str, lease: i64) -> tokio::task::JoinHandle<Result<LockResponse, Status>> {
        let mut client = self.clone();
        let name = name.to_owned();
        tokio::spawn(async move { client.lock(&name, lease).await })
    }

    async fn unlock(&mut self, key: &str) -> Result<UnlockResponse, Status> {
        Ok(within("an unlock", self.locks.unlock(UnlockRequest { key: key.to_owned().into() })).await?.into_inner())
    }

    pub(crate) async fn put(&mut self, key: &str) {
        let put = pb::PutRequest { key: key.to_owned().into(), ..Default::default() };
        within("a put", self.kv.put(put)).await.expect("a put");
    }

    pub(crate) async fn delete(&mut self, key: &str) {
        let delete = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
        let deleted = within("a delete", self.kv.delete_range(delete)).await.expect("a delete");
        assert_eq!(deleted.into_inner().deleted, 1, "{key} was there");
    }

    /// Waits until the contest has so many contenders, and gives their keys in the order of their age.
    pub(crate) async fn contenders(&mut self, name: &str, count: usize) -> Vec<String> {
        let read = pb::RangeRequest {
            key: format!("{name}/").into(),
            range_end: format!("{name}0").into(),
            sort_order: pb::range_request::SortOrder::Ascend.into(),
            sort_target: pb::range_request::SortTarget::Create.into(),
            ..Default::default()
        };
        within("the contenders", async {
            loop {
                let answer = self.kv.range(read.clone()).await.expect("an answer").into_inner();
                if answer.kvs.len() == count {
                    let text = |kv: tenure_proto::mvccpb::KeyValue| String::from_utf8(kv.key.to_vec()).expect("text");
                    return answer.kvs.into_iter().map(text).collect();
                }
            }
        })
        .await
    }
}

pub(crate) fn told(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

#[test]
fn a_lock_goes_from_one_to_the_next_whoever_writes_its_keys() {
    run(async {
        let servers = cluster(3, &FLAGS).await;
        let mut first = Client::of(&servers[0]).await;
        for lease in [10, 11, 12] {
            first.grant(lease).await;
        }
        let held = first.lock("jobs", 10).await.expect("it is free");
        assert_eq!(held.key, "jobs/a");
        // Somebody who contends by etcd's recipe, without a lease.
        first.put("jobs/by-hand").await;
        let calls = [(1, 11), (2, 12)];
        let mut waiting = Vec::new();
        for (number, (place, lease)) in calls.into_iter().enumerate() {
            waiting.push(Client::of(&servers[place]).await.start("jobs", lease));
            first.contenders("jobs", 3 + number).await;
        }
        assert_eq!(first.contenders("jobs", 4).await, ["jobs/a", "jobs/by-hand", "jobs/b", "jobs/c"]);
        let unlocked = first.unlock("jobs/a").await.expect("it was held");
        assert!(unlocked.header.expect("a header").revision > held.header.expect("a header").revision);
        assert!(waiting.iter().all(|call| !call.is_finished()), "another one is next");
        first.delete("jobs/by-hand").await;
        let next = within("its turn", waiting.remove(0)).await.expect("no panic").expect("it is the first");
        assert_eq!(next.key, "jobs/b");
        first.revoke(11).await;
        let next = within("its turn", waiting.remove(0)).await.expect("no panic").expect("it is the first");
        assert_eq!(next.key, "jobs/c");
        first.unlock("jobs/c").await.expect("it was held");
        first.unlock("jobs/c").await.expect("what is not there is unlocked");
        assert!(first.contenders("jobs", 0).await.is_empty());
    });
}

#[test]
fn a_call_that_its_client_ends_leaves_the_queue() {
    run(async {
        let servers = cluster(3, &FLAGS).await;
        let mut observer = Client::of(&servers[0]).await;
        for lease in [10, 11, 12] {
            observer.grant(lease).await;
        }
        observer.lock("jobs", 10).await.expect("it is free");
        for server in &servers {
            // One that is cancelled, one whose deadline passes, and one whose connection breaks.
            let client = Client::of(server).await;
            let call = client.start("jobs", 11);
            observer.contenders("jobs", 2).await;
            call.abort();
            observer.contenders("jobs", 1).await;

            let mut request = tonic::Request::new(LockRequest { name: "jobs".into(), lease: 11 });
            request.set_timeout(std::time::Duration::from_millis(100));
            let late = within("its deadline", client.clone().locks.lock(request)).await.expect_err("it is held");
            assert!([Code::Cancelled, Code::DeadlineExceeded].contains(&late.code()), "{late:?}");
            observer.contenders("jobs", 1).await;

            let broken = std::thread::scope(|scope| {
                scope.spawn(|| run(async { drop(Client::of(server).await.start("jobs", 11)) })).join().is_ok()
            });
            assert!(broken);
            let waiting = client.start("jobs", 12);
            observer.contenders("jobs", 2).await;
            waiting.abort();
            observer.contenders("jobs", 1).await;
        }
    });
}

#[test]
fn errors_have_etcds_words() {
    run(async {
        let servers = cluster(1, &["--max-request-bytes=4096"]).await;
        let mut client = Client::of(&servers[0]).await;
        let unknown = client.lock("jobs", 99).await.expect_err("no such lease");
        assert_eq!(told(&unknown), (Code::Unknown, "etcdserver: requested lease not found"));
        let nothing = client.unlock("").await.expect_err("no key");
        assert_eq!(told(&nothing), (Code::Unknown, "etcdserver: key is not provided"));
        let large = client.lock(&"x".repeat(5000), 99).await.expect_err("too large");
        assert_eq!(told(&large), (Code::Unknown, "etcdserver: request is too large"));
        client.grant(7).await;
        client.put("jobs/older").await;
        let waiting = client.start("jobs", 7);
        client.contenders("jobs", 2).await;
        client.revoke(7).await;
        let lost = within("its end", waiting).await.expect("no panic").expect_err("its lease is gone");
        assert_eq!(told(&lost), (Code::Unknown, "mutex: session is expired"));
        // Any name will do, none too.
        client.grant(7).await;
        for (name, key) in [("", "/7"), ("a/", "a//7"), ("a b", "a b/7")] {
            assert_eq!(client.lock(name, 7).await.expect("it is free").key, key);
        }
        let made = client.lock("made", 0).await.expect("it is free");
        let key = String::from_utf8(made.key.to_vec()).expect("text");
        let lease = i64::from_str_radix(key.strip_prefix("made/").expect("the name"), 16).expect("a lease");
        let request = pb::LeaseTimeToLiveRequest { id: lease, keys: true };
        let lease = client.leases.lease_time_to_live(request).await.expect("an answer").into_inner();
        assert_eq!((lease.granted_ttl, lease.keys), (60, vec![made.key]));
    });
}

#[test]
fn a_member_that_stops_tells_those_who_wait_and_takes_their_keys_away() {
    run(async {
        let mut servers = cluster(3, &FLAGS).await;
        let stays = leader(&servers).await;
        let goes = (stays + 1) % 3;
        let mut observer = Client::of(&servers[stays]).await;
        observer.grant(7).await;
        observer.put("jobs/older").await;
        let waiting = Client::of(&servers[goes]).await.start("jobs", 7);
        observer.contenders("jobs", 2).await;
        let stopping = tokio::task::spawn_blocking(move || {
            servers[goes].stop();
            servers
        });
        let stopped = within("its end", waiting).await.expect("no panic").expect_err("it stops");
        assert_eq!(told(&stopped), (Code::Unavailable, "etcdserver: server stopped"));
        assert_eq!(observer.contenders("jobs", 1).await, ["jobs/older"]);
        drop(within("a stop", stopping).await.expect("no panic"));
    });
}
