//! What a member answers to messages that are not for it, not from whom they say, or nonsense: an error, and nothing
//! changes. And to a vote asked for too soon after a restart: not yet.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_proto::tenure::peer::v1::peer_client::PeerClient;
use tenure_proto::tenure::peer::v1::{
    AppendRequest, AppendResponse, ProbeRequest, ProposeRequest, ReadIndexRequest, Refusal, Route,
    TransferLeaderRequest, VoteRequest, append_response,
};
use tenure_raft::log::Keep;
use tenure_server::node::Node;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::support::cluster::{Cluster, check, eventually, settled};
use crate::support::history::{Fate, History};
use crate::support::member::{CLUSTER, Member, Settings};
use crate::support::requests::put;
use crate::support::{run, within};
use tenure_raft::sim::Kept;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rpc {
    Append,
    Heartbeat,
    Vote,
    PreVote,
    TransferLeader,
    ReadIndex,
    Propose,
}

const EVERY_RPC: [Rpc; 7] =
    [Rpc::Append, Rpc::Heartbeat, Rpc::Vote, Rpc::PreVote, Rpc::TransferLeader, Rpc::ReadIndex, Rpc::Propose];

/// Somebody who speaks to a member as if it were another.
pub(crate) struct Impostor {
    pub(crate) client: PeerClient<Channel>,
    pub(crate) route: Route,
    /// The vote of the leader that the member follows.
    pub(crate) vote: Bytes,
}

/// The bytes that a request may carry; each request takes those that it has fields for.
#[derive(Clone, Debug, Default)]
struct Load {
    vote: Bytes,
    log_id: Bytes,
    commit: Bytes,
    entries: Vec<Bytes>,
    commands: Vec<Bytes>,
    acknowledged: u64,
}

pub(crate) fn vote_bytes(term: u64, member: u64, committed: u8) -> Bytes {
    let mut bytes = [term.to_be_bytes(), member.to_be_bytes()].concat();
    bytes.push(committed);
    bytes.into()
}

pub(crate) fn log_id_bytes(term: u64, index: u64) -> Bytes {
    [term.to_be_bytes(), index.to_be_bytes()].concat().into()
}

fn entry_bytes(term: u64, index: u64, kind: u8, payload: &[u8]) -> Bytes {
    [&log_id_bytes(term, index)[..], &[kind], payload].concat().into()
}

/// The number that tells a member's directory from others, as its identity file has it.
fn incarnation(member: &Member) -> u64 {
    let text = std::fs::read_to_string(member.data_dir().join("raft/identity")).expect("an identity file");
    let number = text.lines().find_map(|line| line.strip_prefix("incarnation ")).expect("an incarnation");
    u64::from_str_radix(number, 16).expect("a hexadecimal number")
}

impl Impostor {
    async fn new(cluster: &Cluster, as_member: usize, to: usize) -> Impostor {
        let (from, to) = (&cluster.members[as_member], &cluster.members[to]);
        let endpoint = Endpoint::from_shared(format!("http://{}", to.address)).expect("a URL");
        let channel = within("a connection", endpoint.connect()).await.expect("it listens");
        let route = Route {
            cluster_id: CLUSTER.0,
            from: from.founding.member.0,
            to: to.founding.member.0,
            from_incarnation: incarnation(from),
            to_incarnation: incarnation(to),
        };
        Impostor { client: PeerClient::new(channel), route, vote: Bytes::new() }
    }

    async fn send(&self, rpc: Rpc, route: Option<Route>, load: Load) -> Result<Option<AppendResponse>, Status> {
        let mut client = self.client.clone();
        let append = AppendRequest {
            route,
            vote: load.vote.clone(),
            prev_log_id: load.log_id.clone(),
            entries: load.entries.clone(),
            commit: load.commit.clone(),
            sequence: 1,
            acknowledged: load.acknowledged,
        };
        let (vote, last_log_id) = (load.vote.clone(), load.log_id.clone());
        let vote = VoteRequest { route, vote, last_log_id, leadership_transfer: false };
        let answer = async {
            match rpc {
                Rpc::Append => {
                    let stream = futures::stream::iter([append]);
                    return client.append(stream).await?.into_inner().message().await;
                }
                Rpc::Heartbeat => return client.heartbeat(append).await.map(|answer| Some(answer.into_inner())),
                Rpc::Vote => drop(client.vote(vote).await?),
                Rpc::PreVote => drop(client.pre_vote(vote).await?),
                Rpc::TransferLeader => {
                    let (from_leader, last_log_id) = (load.vote, load.log_id);
                    let target = route.map_or(0, |route| route.to);
                    drop(
                        client
                            .transfer_leader(TransferLeaderRequest { route, from_leader, target, last_log_id })
                            .await?,
                    );
                }
                Rpc::ReadIndex => drop(client.read_index(ReadIndexRequest { route, deadline_ms: 1000 }).await?),
                Rpc::Propose => {
                    let request = ProposeRequest { route, commands: load.commands, deadline_ms: 1000 };
                    drop(client.propose(request).await?);
                }
            }
            Ok(None)
        };
        within("an answer", answer).await
    }

    /// Everything that is well-formed and does no harm.
    fn harmless(&self) -> Load {
        Load { vote: self.vote.clone(), commands: vec![put("k", "v").command.encode()], ..Load::default() }
    }
}

/// What must not change. A leader goes on sending heartbeats, and they change nothing here.
#[derive(Debug, PartialEq, Eq)]
struct State {
    status: (u64, Option<u64>, u64, u64),
    identity: Vec<u8>,
}

fn state(member: &Member, node: &Node) -> State {
    let status = node.shared().raft.status();
    State {
        status: (status.term.0, status.leader.map(|id| id.0), status.last_log.0, status.applied.0),
        identity: std::fs::read(member.data_dir().join("raft/identity")).expect("an identity file"),
    }
}

/// A cluster at rest, and for each member somebody who speaks to it as if it were one of the others.
pub(crate) async fn with_impostors(history: &History) -> (Cluster, Vec<Node>, Vec<Impostor>) {
    let (cluster, nodes) = Cluster::running(3, &Settings::with_a_lasting_leader()).await;
    let acked = within("a write", history.write(&nodes[0], put("k", "before"))).await;
    assert!(matches!(acked, Fate::Acked(_)));
    settled(&nodes).await;
    let leader = cluster.leader(&nodes).await;
    let mut impostors = Vec::new();
    for to in 0..3 {
        let as_member = if to == leader { (leader + 1) % 3 } else { leader };
        let mut impostor = Impostor::new(&cluster, as_member, to).await;
        impostor.vote = vote_bytes(nodes[leader].term().0, u64::try_from(leader).expect("few") + 1, 1);
        impostors.push(impostor);
    }
    (cluster, nodes, impostors)
}

async fn unchanged_and_well(cluster: &Cluster, nodes: &[Node], history: &History, before: &[State]) {
    for ((member, node), before) in cluster.members.iter().zip(nodes).zip(before) {
        assert_eq!(state(member, node), *before);
    }
    for node in nodes {
        let failed = node.shared().raft.failed().now_or_never();
        assert!(failed.is_none(), "{failed:?}");
        let acked = within("a write", history.write(node, put("k", format!("{}", node.shared().raft.member())))).await;
        assert!(matches!(acked, Fate::Acked(_)));
    }
    check(nodes, history).await.expect("all is there");
}

fn wrong_routes(right: Route) -> BTreeMap<&'static str, Option<Route>> {
    let but = |change: fn(&mut Route)| {
        let mut route = right;
        change(&mut route);
        Some(route)
    };
    BTreeMap::from([
        ("none", None),
        ("empty", Some(Route::default())),
        ("another cluster", but(|route| route.cluster_id += 1)),
        ("another member", but(|route| route.to = 6 - route.to - route.from)),
        ("nobody", but(|route| route.to = 99)),
        ("from nobody", but(|route| route.from = 99)),
        ("from itself", but(|route| route.from = route.to)),
        ("no incarnation", but(|route| route.from_incarnation = 0)),
        ("from another incarnation", but(|route| route.from_incarnation ^= 1)),
        ("to another incarnation", but(|route| route.to_incarnation ^= 1)),
        ("to no incarnation", but(|route| route.to_incarnation = 0)),
    ])
}

#[test]
fn what_is_not_for_a_member_or_not_from_whom_it_says_is_refused() {
    run(async {
        let history = History::default();
        let (cluster, nodes, impostors) = with_impostors(&history).await;
        let before: Vec<State> = cluster.members.iter().zip(&nodes).map(|(member, node)| state(member, node)).collect();
        for impostor in &impostors {
            for (wrong, route) in wrong_routes(impostor.route) {
                for rpc in EVERY_RPC {
                    let refused = impostor.send(rpc, route, impostor.harmless()).await;
                    let code = refused.map_err(|status| status.code());
                    assert!(
                        matches!(code, Err(Code::FailedPrecondition | Code::InvalidArgument)),
                        "{rpc:?} with a route for {wrong}: {code:?}"
                    );
                }
            }
        }
        unchanged_and_well(&cluster, &nodes, &history, &before).await;
    });
}

#[test]
fn a_probe_tells_who_answers_and_only_those_it_knows() {
    run(async {
        let history = History::default();
        let (cluster, nodes, impostors) = with_impostors(&history).await;
        let before: Vec<State> = cluster.members.iter().zip(&nodes).map(|(member, node)| state(member, node)).collect();
        for impostor in &impostors {
            let mut client = impostor.client.clone();
            for (wrong, route) in wrong_routes(impostor.route) {
                let answer = client.probe(ProbeRequest { route }).await.map(tonic::Response::into_inner);
                match wrong {
                    // It asks exactly to learn these.
                    "to another incarnation" | "to no incarnation" => {
                        assert_eq!(answer.expect("an answer").incarnation, impostor.route.to_incarnation);
                    }
                    "from another incarnation" => {
                        let remembered = answer.expect("an answer").remembered_incarnation;
                        assert_eq!(remembered, impostor.route.from_incarnation);
                    }
                    _ => {
                        let code = answer.map_err(|status| status.code());
                        let refused = matches!(code, Err(Code::FailedPrecondition | Code::InvalidArgument));
                        assert!(refused, "a probe with a route for {wrong}: {code:?}");
                    }
                }
            }
        }
        unchanged_and_well(&cluster, &nodes, &history, &before).await;
    });
}

/// Loads that no member sends, by the requests that read the wrong part of them.
fn nonsense(vote: &Bytes, rng: &mut StdRng) -> Vec<(String, Load)> {
    let right = Load { vote: vote.clone(), ..Load::default() };
    let term = u64::from_be_bytes(vote[..8].try_into().expect("8 bytes"));
    let member = u64::from_be_bytes(vote[8..16].try_into().expect("8 bytes"));
    let mut wrong_votes =
        vec![Bytes::new(), vote.slice(..16), vote_bytes(term, member, 2), vote_bytes(u64::MAX, member, 1)];
    wrong_votes.push([&vote[..], &[0]].concat().into());
    let mut wrong_ids = vec![log_id_bytes(term, 1).slice(..15), log_id_bytes(u64::MAX, 1), log_id_bytes(1, u64::MAX)];
    for _ in 0..20 {
        let random = |rng: &mut StdRng, right: usize| -> Bytes {
            let len = rng.random_range(1..40);
            let len = if len == right { len + 1 } else { len };
            (0..len).map(|_| rng.random::<u8>()).collect::<Vec<_>>().into()
        };
        wrong_votes.push(random(rng, 17));
        wrong_ids.push(random(rng, 16));
    }
    let votes = wrong_votes.into_iter().map(|vote| (format!("vote {vote:?}"), Load { vote, ..right.clone() }));
    let ids = wrong_ids.into_iter().map(|id| (format!("log id {id:?}"), Load { log_id: id, ..right.clone() }));
    votes.chain(ids).collect()
}

#[test]
fn votes_and_log_ids_that_are_none_are_refused() {
    run(async {
        let history = History::default();
        let (cluster, nodes, impostors) = with_impostors(&history).await;
        let before: Vec<State> = cluster.members.iter().zip(&nodes).map(|(member, node)| state(member, node)).collect();
        let mut rng = StdRng::seed_from_u64(5);
        for impostor in &impostors {
            for (what, load) in nonsense(&impostor.vote, &mut rng) {
                for rpc in [Rpc::Heartbeat, Rpc::Vote, Rpc::PreVote, Rpc::TransferLeader] {
                    let refused = impostor.send(rpc, Some(impostor.route), load.clone()).await;
                    let code = refused.map_err(|status| status.code());
                    assert_eq!(code, Err(Code::InvalidArgument), "{rpc:?} with {what}");
                }
                let answer = impostor.send(Rpc::Append, Some(impostor.route), load).await;
                assert!(matches!(answer, Ok(None) | Err(_)), "a stream with {what}: {answer:?}");
            }
        }
        unchanged_and_well(&cluster, &nodes, &history, &before).await;
    });
}

#[test]
fn entries_that_are_none_or_do_not_follow_each_other_are_refused() {
    run(async {
        let history = History::default();
        let (cluster, nodes, impostors) = with_impostors(&history).await;
        let before: Vec<State> = cluster.members.iter().zip(&nodes).map(|(member, node)| state(member, node)).collect();
        let term = nodes[0].term().0;
        let blank = |index| entry_bytes(term, index, 0, b"");
        let wrong: Vec<(&str, Bytes, Vec<Bytes>)> = vec![
            ("an empty entry", Bytes::new(), vec![Bytes::new()]),
            ("half a log id", Bytes::new(), vec![blank(0).slice(..9)]),
            ("an unknown kind", Bytes::new(), vec![entry_bytes(term, 0, 7, b"")]),
            ("a blank entry that is not", Bytes::new(), vec![entry_bytes(term, 0, 0, b"x")]),
            ("half a membership", Bytes::new(), vec![entry_bytes(term, 0, 2, &[0; 5])]),
            ("a membership of 2^64 members", Bytes::new(), vec![entry_bytes(term, 0, 2, &[0xff; 64])]),
            ("a gap at the beginning", Bytes::new(), vec![blank(1)]),
            ("a gap", log_id_bytes(term, 2), vec![blank(3), blank(5)]),
            ("entries twice", log_id_bytes(term, 2), vec![blank(3), blank(3)]),
            ("entries backwards", log_id_bytes(term, 2), vec![blank(4), blank(3)]),
            ("a term that falls", log_id_bytes(term, 2), vec![entry_bytes(term - 1, 3, 0, b"")]),
            ("a term after the leader's", log_id_bytes(term, 2), vec![entry_bytes(term + 1, 3, 0, b"")]),
            ("the last entry of all", log_id_bytes(term, u64::MAX - 1), vec![blank(u64::MAX)]),
        ];
        for impostor in &impostors {
            for (what, prev, entries) in &wrong {
                let load = Load { log_id: prev.clone(), entries: entries.clone(), ..impostor.harmless() };
                let refused = impostor.send(Rpc::Heartbeat, Some(impostor.route), load.clone()).await;
                let code = refused.map_err(|status| status.code());
                assert_eq!(code, Err(Code::InvalidArgument), "{what}");
                let answer = impostor.send(Rpc::Append, Some(impostor.route), load).await;
                assert!(matches!(answer, Ok(None) | Err(_)), "a stream with {what}: {answer:?}");
            }
        }
        unchanged_and_well(&cluster, &nodes, &history, &before).await;
    });
}

#[test]
fn commands_that_are_none_are_refused_before_they_reach_the_log() {
    run(async {
        let history = History::default();
        let (cluster, nodes, impostors) = with_impostors(&history).await;
        let before: Vec<State> = cluster.members.iter().zip(&nodes).map(|(member, node)| state(member, node)).collect();
        let right = put("k", "v").command.encode();
        let mut wrong: Vec<Bytes> = (0..right.len()).map(|end| right.slice(..end)).collect();
        wrong.push([&right[..], &[0]].concat().into());
        wrong.push(vec![0xff; 100].into());
        for impostor in &impostors {
            for command in &wrong {
                let load = Load { commands: vec![right.clone(), command.clone()], ..Load::default() };
                let refused = impostor.send(Rpc::Propose, Some(impostor.route), load).await;
                assert_eq!(refused.map_err(|status| status.code()), Err(Code::InvalidArgument), "{command:?}");
            }
        }
        // More than one entry may hold, which no member could read again.
        let too_many = Load { commands: vec![right; 70_000], ..Load::default() };
        let leader = cluster.leader(&nodes).await;
        let refused = impostors[leader].send(Rpc::Propose, Some(impostors[leader].route), too_many).await;
        assert_eq!(refused.map_err(|status| status.code()), Err(Code::InvalidArgument));
        unchanged_and_well(&cluster, &nodes, &history, &before).await;
    });
}

#[test]
fn a_leader_of_the_past_is_told_so_whatever_it_says() {
    run(async {
        let history = History::default();
        let (cluster, nodes, impostors) = with_impostors(&history).await;
        let leader = cluster.leader(&nodes).await;
        // A second term, so that there is a leader of the past.
        assert!(within("a hand-over", nodes[leader].shared().raft.hand_over()).await);
        settled(&nodes).await;
        let term = nodes[0].term().0;
        eventually("all follow", || nodes.iter().all(|node| node.term().0 == term).then_some(())).await;
        let before: Vec<State> = cluster.members.iter().zip(&nodes).map(|(member, node)| state(member, node)).collect();
        for impostor in &impostors {
            let load = Load {
                vote: vote_bytes(term - 1, impostor.route.from, 1),
                log_id: log_id_bytes(term - 1, 1),
                commit: log_id_bytes(term - 1, 1000),
                entries: vec![entry_bytes(term - 1, 2, 0, b"")],
                // What a member acknowledged to a leader of the past, it may have had to drop for a later one.
                acknowledged: 1000,
                ..Load::default()
            };
            for rpc in [Rpc::Heartbeat, Rpc::Append] {
                let answer = within("an answer", impostor.send(rpc, Some(impostor.route), load.clone())).await;
                let result = answer.map(|answer| answer.and_then(|answer| answer.result));
                let is_refused = matches!(result, Ok(Some(append_response::Result::HigherVote(_))));
                assert!(is_refused, "{rpc:?}: {result:?}");
            }
        }
        unchanged_and_well(&cluster, &nodes, &history, &before).await;
    });
}

#[test]
fn a_vote_that_is_not_the_senders_own_is_refused() {
    run(async {
        let history = History::default();
        let (cluster, nodes, impostors) = with_impostors(&history).await;
        let before: Vec<State> = cluster.members.iter().zip(&nodes).map(|(member, node)| state(member, node)).collect();
        let term = nodes[0].term().0;
        for impostor in &impostors {
            for other in [0, impostor.route.to, 6 - impostor.route.to - impostor.route.from, 99] {
                let load = Load { vote: vote_bytes(term, other, 1), ..Load::default() };
                for rpc in [Rpc::Heartbeat, Rpc::Vote, Rpc::PreVote, Rpc::TransferLeader] {
                    let refused = impostor.send(rpc, Some(impostor.route), load.clone()).await;
                    let code = refused.map_err(|status| status.code());
                    assert_eq!(code, Err(Code::InvalidArgument), "{rpc:?} with the vote of {other}");
                }
                let answer = impostor.send(Rpc::Append, Some(impostor.route), load).await;
                assert!(matches!(answer, Ok(None) | Err(_)), "a stream with the vote of {other}: {answer:?}");
            }
        }
        unchanged_and_well(&cluster, &nodes, &history, &before).await;
    });
}

#[test]
fn a_stream_is_open_before_there_is_anything_to_replicate() {
    run(async {
        let history = History::default();
        let (cluster, nodes, impostors) = with_impostors(&history).await;
        let follower = (cluster.leader(&nodes).await + 1) % 3;
        let mut client = impostors[follower].client.clone();
        let silent = futures::stream::pending::<AppendRequest>();
        let opened = tokio::time::timeout(Duration::from_secs(5), client.append(silent)).await;
        assert!(opened.is_ok_and(|opened| opened.is_ok()), "an idle leader would take this member for unreachable");
    });
}

#[test]
fn a_member_that_does_not_lead_says_so() {
    run(async {
        let history = History::default();
        let (cluster, nodes, impostors) = with_impostors(&history).await;
        let leader = cluster.leader(&nodes).await;
        for (place, impostor) in impostors.iter().enumerate().filter(|(place, _)| *place != leader) {
            let mut client = impostor.client.clone();
            let request = ReadIndexRequest { route: Some(impostor.route), deadline_ms: 1000 };
            let answer = client.read_index(request).await.expect("an answer").into_inner();
            assert_eq!(answer.refusal(), Refusal::NotLeader, "member {place}");
            let commands = impostor.harmless().commands;
            let request = ProposeRequest { route: Some(impostor.route), commands, deadline_ms: 1000 };
            let answer = client.propose(request).await.expect("an answer").into_inner();
            assert_eq!((answer.refusal(), answer.log_index), (Refusal::NotLeader, 0), "member {place}");
            assert_eq!(answer.leader_hint, u64::try_from(leader).expect("few") + 1);
        }
        check(&nodes, &history).await.expect("nothing was written");
    });
}

#[test]
fn a_restarted_member_keeps_its_vote_for_one_lease() {
    run(async {
        let settings = Settings { election_timeout: Duration::from_secs(2), ..Settings::default() };
        let history = History::default();
        let (mut cluster, mut nodes) = Cluster::running(3, &settings).await;
        let leader = cluster.leader(&nodes).await;
        let (restarted, asking) = ((leader + 1) % 3, (leader + 2) % 3);
        let term = nodes[leader].term().0;
        cluster.members[restarted].crash(Keep::Nothing, Kept::None);
        let began = std::time::Instant::now();
        nodes[restarted] = within("a start", cluster.members[restarted].up()).await.expect("it starts");
        let impostor = Impostor::new(&cluster, asking, restarted).await;
        let leads = Impostor::new(&cluster, leader, restarted).await;
        let load = Load { vote: vote_bytes(term + 1, impostor.route.from, 0), ..Load::default() };
        let mut refusals = 0;
        let ended = async {
            loop {
                for rpc in [Rpc::Vote, Rpc::PreVote] {
                    match impostor.send(rpc, Some(impostor.route), load.clone()).await {
                        Err(status) if status.code() == Code::Unavailable => refusals += 1,
                        _ => return,
                    }
                    let append = Load { vote: vote_bytes(term, leads.route.from, 1), ..Load::default() };
                    let appends = leads.send(Rpc::Heartbeat, Some(leads.route), append).await;
                    assert!(appends.is_ok(), "replication is not held back: {appends:?}");
                }
            }
        };
        within("the quarantine ends", ended).await;
        assert!(refusals > 0);
        assert!(began.elapsed() >= settings.election_timeout * 7 / 10, "it ended after {:?}", began.elapsed());
        settled(&nodes).await;
        check(&nodes, &history).await.expect("all is there");
    });
}
