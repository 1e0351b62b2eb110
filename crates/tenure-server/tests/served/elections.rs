//! Elections on the wire, as etcd's clients use them: v3electionpb.

use tenure_proto::v3electionpb::election_client::ElectionClient;
use tenure_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ResignRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::etcd_locks::{Client, told};
use crate::support::{Server, cluster, leader, run, within};

const FLAGS: [&str; 2] = ["--election-timeout=1000", "--heartbeat-interval=50"];

struct Elections(ElectionClient<Channel>);

impl Elections {
    async fn of(server: &Server) -> Elections {
        Elections(ElectionClient::new(server.channel().await))
    }

    fn campaign(&self, name: &str, lease: i64, value: &str) -> Campaign {
        let mut client = self.0.clone();
        let request = CampaignRequest { name: name.to_owned().into(), lease, value: value.to_owned().into() };
        tokio::spawn(async move { Ok(client.campaign(request).await?.into_inner()) })
    }

    async fn proclaim(&mut self, leader: Option<LeaderKey>, value: &str) -> Result<i64, Status> {
        let request = ProclaimRequest { leader, value: value.to_owned().into() };
        let answer = within("a proclamation", self.0.proclaim(request)).await?.into_inner();
        Ok(answer.header.expect("a header").revision)
    }

    async fn resign(&mut self, leader: Option<LeaderKey>) -> Result<i64, Status> {
        let answer = within("a resignation", self.0.resign(ResignRequest { leader })).await?.into_inner();
        Ok(answer.header.expect("a header").revision)
    }

    async fn leader(&mut self, name: &str) -> Result<LeaderResponse, Status> {
        let request = LeaderRequest { name: name.to_owned().into() };
        Ok(within("an answer", self.0.leader(request)).await?.into_inner())
    }

    async fn observe(&mut self, name: &str) -> Streaming<LeaderResponse> {
        let request = LeaderRequest { name: name.to_owned().into() };
        within("a stream", self.0.observe(request)).await.expect("a stream").into_inner()
    }
}

type Campaign = tokio::task::JoinHandle<Result<CampaignResponse, Status>>;

async fn won(campaign: Campaign) -> (LeaderKey, i64) {
    let answer = within("a victory", campaign).await.expect("no panic").expect("it wins");
    (answer.leader.expect("a key"), answer.header.expect("a header").revision)
}

async fn seen(observer: &mut Streaming<LeaderResponse>) -> (String, String, i64) {
    let answer = within("a leader", observer.message()).await.expect("no error").expect("no end");
    let kv = answer.kv.expect("a leader");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (text(&kv.key), text(&kv.value), answer.header.expect("a header").revision)
}

#[test]
fn a_leader_wins_speaks_and_resigns_and_the_next_one_follows() {
    run(async {
        let servers = cluster(3, &FLAGS).await;
        let mut client = Client::of(&servers[0]).await;
        let [mut first, mut second, mut third] =
            [Elections::of(&servers[0]).await, Elections::of(&servers[1]).await, Elections::of(&servers[2]).await];
        for lease in [10, 11, 12] {
            client.grant(lease).await;
        }
        let (leader, revision) = won(first.campaign("e", 10, "one")).await;
        assert_eq!((&leader.name[..], &leader.key[..], leader.lease), (&b"e"[..], &b"e/a"[..], 10));
        assert_eq!(leader.rev, revision, "it was nobody's turn before");
        let mut observer = third.observe("e").await;
        let (key, value, at) = seen(&mut observer).await;
        assert_eq!((&*key, &*value), ("e/a", "one"));
        assert!(at >= revision);

        let campaign = second.campaign("e", 11, "two");
        client.contenders("e", 2).await;
        let spoken = first.proclaim(Some(leader.clone()), "still one").await.expect("it leads");
        assert_eq!(seen(&mut observer).await, ("e/a".into(), "still one".into(), spoken));
        let found = second.leader("e").await.expect("a leader").kv.expect("a leader");
        assert_eq!(
            (&found.key[..], &found.value[..], found.create_revision),
            (&b"e/a"[..], &b"still one"[..], leader.rev)
        );
        assert!(!campaign.is_finished());

        let resigned = first.resign(Some(leader.clone())).await.expect("it led");
        let (next, candidacy) = won(campaign).await;
        assert_eq!((&next.key[..], next.rev), (&b"e/b"[..], candidacy), "the header is of the candidacy");
        assert!(candidacy < resigned);
        let (key, value, _) = seen(&mut observer).await;
        assert_eq!((&*key, &*value), ("e/b", "two"));
        // Who has resigned leads no more, and cannot resign for anybody else.
        let late = first.proclaim(Some(leader.clone()), "one again").await.expect_err("it resigned");
        assert_eq!(told(&late), (Code::Unknown, "election: not leader"));
        first.resign(Some(leader)).await.expect("it is done already");
        assert_eq!(first.leader("e").await.expect("a leader").kv.expect("a leader").key, "e/b");

        // While there is none, nobody is told of anybody.
        client.revoke(11).await;
        let nobody = first.leader("e").await.expect_err("nobody leads");
        assert_eq!(told(&nobody), (Code::Unknown, "election: no leader"));
        assert!(futures::future::poll_immediate(observer.message()).await.is_none(), "there is nobody to tell of");
        let (last, _) = won(third.campaign("e", 12, "three")).await;
        let (key, value, _) = seen(&mut observer).await;
        assert_eq!((&*key, &*value), ("e/c", "three"));
        for n in 0..5 {
            let spoken = third.proclaim(Some(last.clone()), &format!("three {n}")).await.expect("it leads");
            assert_eq!(seen(&mut observer).await, ("e/c".into(), format!("three {n}"), spoken), "each is told");
        }
    });
}

#[test]
fn errors_have_etcds_words() {
    run(async {
        let servers = cluster(1, &FLAGS).await;
        let mut client = Client::of(&servers[0]).await;
        let mut elections = Elections::of(&servers[0]).await;
        let missing = (Code::Unknown, "\"leader\" field must be provided");
        assert_eq!(told(&elections.proclaim(None, "x").await.expect_err("no key")), missing);
        assert_eq!(told(&elections.resign(None).await.expect_err("no key")), missing);
        let empty = elections.proclaim(Some(LeaderKey::default()), "x").await.expect_err("no key");
        assert_eq!(told(&empty), (Code::Unknown, "etcdserver: key is not provided"));
        let unknown = within("its end", elections.campaign("e", 99, "x")).await.expect("no panic");
        assert_eq!(told(&unknown.expect_err("no lease")), (Code::Unknown, "etcdserver: requested lease not found"));
        // A victory that comes too late is none: etcd tells of it.
        client.grant(7).await;
        client.put("e/older").await;
        let campaign = elections.campaign("e", 7, "x");
        client.contenders("e", 2).await;
        client.revoke(7).await;
        let lost = within("its end", campaign).await.expect("no panic").expect_err("its lease is gone");
        assert_eq!(told(&lost), (Code::Unknown, "election: not leader"));
        // A leader keeps its lease if it does not name one.
        client.delete("e/older").await;
        client.grant(7).await;
        let (leader, _) = won(elections.campaign("e", 7, "x")).await;
        elections.proclaim(Some(LeaderKey { lease: 0, ..leader }), "y").await.expect("it leads");
        let kv = elections.leader("e").await.expect("a leader").kv.expect("a leader");
        assert_eq!((&kv.value[..], kv.lease), (&b"y"[..], 7));
        let (made, _) = won(elections.campaign("made", 0, "x")).await;
        assert_eq!(made.key, format!("made/{:x}", made.lease));
    });
}

#[test]
fn a_campaign_that_its_client_ends_leaves_no_candidate() {
    run(async {
        let servers = cluster(3, &FLAGS).await;
        let mut client = Client::of(&servers[0]).await;
        client.grant(7).await;
        client.put("e/older").await;
        for server in &servers {
            let campaign = Elections::of(server).await.campaign("e", 7, "x");
            client.contenders("e", 2).await;
            campaign.abort();
            assert_eq!(client.contenders("e", 1).await, ["e/older"]);
        }
    });
}

#[test]
fn observers_outlast_a_leader_of_the_cluster_and_are_cut_if_they_insist_on_one() {
    run(async {
        let mut servers = cluster(3, &FLAGS).await;
        let first = leader(&servers).await;
        let place = (first + 1) % 3;
        let mut client = Client::of(&servers[place]).await;
        let mut elections = Elections::of(&servers[place]).await;
        client.grant(7).await;
        let mut observer = elections.observe("e").await;
        let mut request = Request::new(LeaderRequest { name: "e".into() });
        request.metadata_mut().insert("hasleader", "true".parse().expect("a value"));
        let mut insisting = within("a stream", elections.0.observe(request)).await.expect("a stream").into_inner();
        let others = [first, (first + 2) % 3];
        others.into_iter().for_each(|other| servers[other].stop());
        let cut = within("the end of the stream", insisting.message()).await.expect_err("no leader");
        assert_eq!(told(&cut), (Code::Unavailable, "etcdserver: no leader"));
        others.into_iter().for_each(|other| servers[other].start());
        leader(&servers).await;
        won(elections.campaign("e", 7, "x")).await;
        let (key, value, _) = seen(&mut observer).await;
        assert_eq!((&*key, &*value), ("e/7", "x"));
        servers[place].stop();
        let stopped = within("the end of the stream", observer.message()).await.expect_err("it stops");
        assert_eq!(told(&stopped), (Code::Unavailable, "etcdserver: server stopped"));
    });
}
