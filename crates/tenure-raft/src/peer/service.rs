//! Answers peers. A message that is not meant for this member, or comes from one that is not who we knew, is refused.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use openraft::RaftLogReader;
use openraft::errors::RaftError;
use openraft::raft::{AppendEntriesResponse, StreamAppendError};
use tenure_core::codec::{DecodeError, GROUP_COMMANDS_MAX};
use tenure_core::planted::{Bug, is_on};
use tenure_faults::Point;
use tenure_proto::tenure::peer::v1::peer_server::Peer;
use tenure_proto::tenure::peer::v1::{
    AppendRequest, AppendResponse, ConfirmRequest, ConfirmResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    OfferSnapshotRequest, OfferSnapshotResponse, ProbeRequest, ProbeResponse, ProposeRequest, ProposeResponse,
    ReadIndexRequest, ReadIndexResponse, Refusal, Route, SendSnapshotResponse, SnapshotChunk, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use super::{meet, wire};
use crate::error::{ProposeError, ReadIndexError};
use crate::node::RaftNode;
use crate::read_index::ReadIndexes;
use crate::types::Vote;

/// Forwarded groups that may wait for consensus at once. A follower has at most a few in flight.
const FORWARDED_GROUPS_MAX: usize = 256;

/// The longest that a forwarded request is worked on, whatever its sender says.
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// See the module's header.
#[derive(Clone)]
pub(crate) struct PeerService {
    node: RaftNode,
    forwarded: Arc<Semaphore>,
    read_indexes: Arc<ReadIndexes>,
}

impl PeerService {
    pub(crate) fn new(node: RaftNode) -> PeerService {
        let read_indexes = Arc::new(node.read_indexes());
        PeerService { node, forwarded: Arc::new(Semaphore::new(FORWARDED_GROUPS_MAX)), read_indexes }
    }

    /// Refuses what is not for this member, or not from whom it says.
    fn check(&self, route: Option<&Route>) -> Result<(), Status> {
        let route = self.addressed(route)?;
        let identity = self.node.identity();
        if route.to_incarnation != identity.incarnation() {
            return Err(Status::failed_precondition("the sender knew another incarnation of this member"));
        }
        if identity.remembered(route.from) == Some(route.from_incarnation) {
            return Ok(());
        }
        identity
            .remember(route.from, route.from_incarnation)
            .map_err(|error| Status::failed_precondition(error.to_string()))
    }

    fn addressed<'r>(&self, route: Option<&'r Route>) -> Result<&'r Route, Status> {
        let route = route.ok_or_else(|| Status::invalid_argument("a request without a route"))?;
        if route.cluster_id != self.node.cluster().0 {
            return Err(Status::failed_precondition(format!(
                "this is a member of cluster {:x}, not of {:x}",
                self.node.cluster().0,
                route.cluster_id
            )));
        }
        if route.to != self.node.member().0 {
            return Err(Status::failed_precondition(format!(
                "this is member {:x}, not {:x}",
                self.node.member().0,
                route.to
            )));
        }
        let known = self.node.options().founding.members.iter().any(|(id, _)| id.0 == route.from);
        if !known || route.from == route.to || route.from_incarnation == 0 {
            return Err(Status::failed_precondition(format!("member {:x} is no peer of this member", route.from)));
        }
        Ok(route)
    }

    pub(super) fn node(&self) -> &RaftNode {
        &self.node
    }

    pub(super) fn admit(&self, route: Option<&Route>) -> Result<(), Status> {
        self.check(route)?;
        self.node.gate().admit().map_err(|shut| Status::unavailable(shut.to_string()))
    }

    /// Admits a request whose sender then waits until it has applied what the answer names.
    fn admit_waiting(&self, route: Option<&Route>) -> Result<(), Status> {
        self.admit(route)?;
        if let Some(route) = route {
            self.node.note_awaiting(route.from);
        }
        Ok(())
    }

    /// Refuses and ends everything if this member has lost what it once acknowledged to this very leader: its disk is
    /// not to be trusted, and the leader will never send those entries again.
    async fn check_kept(&self, acknowledged: u64, leader: &Vote) -> Result<(), Status> {
        let log = self.node.log();
        let last = log.last_index().unwrap_or_else(|| log.first_index().saturating_sub(1));
        if acknowledged <= last {
            return Ok(());
        }
        // Read after the log's end: a later leader, whose vote comes first, may have had this member drop entries.
        let known = log.clone().read_vote().await.map_err(|error| Status::unavailable(error.to_string()))?;
        if known.is_some_and(|vote| vote.leader_id.term > leader.leader_id.term) {
            return Ok(());
        }
        let text = format!(
            "the log ends at entry {last}, but this member acknowledged entry {acknowledged}: its disk lost what was \
             synced. Replace this member"
        );
        self.node.fail(text.clone());
        Err(Status::data_loss(text))
    }

    /// Takes the entries of a stream, from the first message on, and answers them.
    async fn replicate(&self, mut messages: Streaming<AppendRequest>) -> Result<AppendStream, Status> {
        let Some(first) = messages.message().await? else { return Ok(futures::stream::empty().boxed()) };
        self.admit(first.route.as_ref())?;
        let (route, acknowledged) = (first.route, first.acknowledged);
        let first = wire::read_append_request(first).map_err(invalid)?;
        self.check_kept(acknowledged, &first.vote).await?;
        let followed = Followed { node: self.node.clone(), leader: first.vote };
        let requests = messages.map(move |message| {
            let message = message?;
            if message.route != route {
                return Err(Status::failed_precondition("the route changed within a stream"));
            }
            wire::read_append_request(message).map_err(invalid)
        });
        // openraft takes plain requests: the input just ends at the first broken one.
        let requests = futures::stream::iter([Ok(first)]).chain(requests).take_while(|request| {
            if let Err(status) = request {
                tracing::debug!(%status, "a replication stream ended");
            }
            futures::future::ready(request.is_ok())
        });
        let requests = requests.filter_map(|request| futures::future::ready(request.ok()));
        let answers = self.node.raft().stream_append(requests).map(move |answer| match answer {
            Ok(result) => {
                if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
                    followed.node.leader_watch().note_heard();
                }
                Ok(wire::append_response(&result, followed.node.awaits_commits()))
            }
            Err(fatal) => Err(Status::unavailable(fatal.to_string())),
        });
        let answers = answers.then(async |answer| {
            meet(Point::RaftBeforeFollowerSend).await;
            answer
        });
        Ok(answers.boxed())
    }

    /// Answers whether this member's vote was given to a leader later than the one that asks.
    fn confirm_one(&self, question: &ConfirmRequest, admitted: &mut Option<Route>) -> Result<ConfirmResponse, Status> {
        if admitted.is_none() || *admitted != question.route {
            self.check(question.route.as_ref())?;
            *admitted = question.route;
        }
        self.node.gate().admit().map_err(|shut| Status::unavailable(shut.to_string()))?;
        let leader = wire::read_leaders_vote(&question.vote, question.route.as_ref()).map_err(invalid)?;
        let given = self.node.log().vote().map_or(0, |vote| vote.leader_id.term);
        let overruled = given > leader.leader_id.term && !is_on(Bug::ConfirmedByAll);
        Ok(ConfirmResponse { number: question.number, overruled })
    }

    fn admit_vote(&self, request: &VoteRequest) -> Result<(), Status> {
        self.check(request.route.as_ref())?;
        self.node.gate().admit_vote(request.leadership_transfer).map_err(|shut| Status::unavailable(shut.to_string()))
    }
}

/// A leader's stream of entries. Dropped when that ends, however it does.
struct Followed {
    node: RaftNode,
    leader: Vote,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.node.leader_watch().note_left(self.leader);
    }
}

type AppendStream = Pin<Box<dyn Stream<Item = Result<AppendResponse, Status>> + Send>>;
type ConfirmStream = Pin<Box<dyn Stream<Item = Result<ConfirmResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = AppendStream;

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Result<Response<AppendStream>, Status> {
        // Answered before there is a message: a leader that has nothing to replicate would take this member for absent.
        let service = self.clone();
        let answers = async move { service.replicate(request.into_inner()).await };
        Ok(Response::new(futures::stream::once(answers).try_flatten().boxed()))
    }

    async fn heartbeat(&self, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.route.as_ref())?;
        let acknowledged = request.acknowledged;
        let request = wire::read_append_request(request).map_err(invalid)?;
        self.check_kept(acknowledged, &request.vote).await?;
        let (prev, last) = wire::append_bounds(&request);
        let answer = self.node.raft().append_entries(request).await.map_err(stopped)?;
        // A leader of the past is answered with the vote that overruled it, and leads nobody.
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.node.leader_watch().note_heard();
        }
        meet(Point::RaftBeforeFollowerSend).await;
        let result = answer.into_stream_result(prev, last);
        Ok(Response::new(wire::append_response(&result, self.node.awaits_commits())))
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        let request = request.into_inner();
        self.admit_vote(&request)?;
        let answer = self.node.raft().vote(wire::read_vote_request(&request).map_err(invalid)?).await;
        Ok(Response::new(wire::vote_response(&answer.map_err(stopped)?)))
    }

    async fn pre_vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        let request = request.into_inner();
        self.admit_vote(&request)?;
        let answer = self.node.raft().pre_vote(wire::read_vote_request(&request).map_err(invalid)?).await;
        Ok(Response::new(wire::vote_response(&answer.map_err(stopped)?)))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        self.admit(request.route.as_ref())?;
        let request = wire::read_transfer_request(&request).map_err(invalid)?;
        let refused = match self.node.raft().handle_transfer_leader(request).await {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(fatal) => return Err(Status::unavailable(fatal.to_string())),
        };
        Ok(Response::new(TransferLeaderResponse { refused }))
    }

    type ConfirmStream = ConfirmStream;

    async fn confirm(&self, request: Request<Streaming<ConfirmRequest>>) -> Result<Response<ConfirmStream>, Status> {
        let (service, mut route) = (self.clone(), None);
        let answers = request.into_inner().then(move |question| {
            let answer = question.and_then(|question| service.confirm_one(&question, &mut route));
            async move {
                meet(Point::RaftBeforeFollowerSend).await;
                answer
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn read_index(&self, request: Request<ReadIndexRequest>) -> Result<Response<ReadIndexResponse>, Status> {
        let request = request.into_inner();
        self.admit_waiting(request.route.as_ref())?;
        let deadline = Duration::from_millis(request.deadline_ms).min(DEADLINE_MAX);
        let mut answer = ReadIndexResponse::default();
        match tokio::time::timeout(deadline, self.read_indexes.read_index()).await {
            Ok(Ok(index)) => answer.log_index = index.0,
            Ok(Err(ReadIndexError::NotLeader(leader))) => {
                answer.set_refusal(Refusal::NotLeader);
                answer.leader_hint = leader.map_or(0, |id| id.0);
            }
            Ok(Err(ReadIndexError::NoQuorum | ReadIndexError::Stopped)) | Err(_) => {
                answer.set_refusal(Refusal::Unknown);
            }
        }
        Ok(Response::new(answer))
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeResponse>, Status> {
        let request = request.into_inner();
        self.admit_waiting(request.route.as_ref())?;
        let mut answer = ProposeResponse::default();
        let Ok(_permit) = self.forwarded.try_acquire() else {
            answer.set_refusal(Refusal::TooManyRequests);
            return Ok(Response::new(answer));
        };
        if request.commands.len() > GROUP_COMMANDS_MAX as usize {
            return Err(invalid(DecodeError::TooManyCommands));
        }
        for command in &request.commands {
            tenure_core::command::Command::decode(command).map_err(invalid)?;
        }
        let deadline = Duration::from_millis(request.deadline_ms).min(DEADLINE_MAX);
        let result = tokio::time::timeout(deadline, self.node.propose(request.commands.iter())).await;
        match result.unwrap_or(Err(ProposeError::Unknown)) {
            Ok(reply) => {
                answer.log_index = reply.index.0;
                answer.term = reply.term.0;
                answer.outcomes = reply.outcomes.iter().map(wire::outcome).collect();
            }
            Err(ProposeError::NotLeader(leader)) => {
                answer.set_refusal(Refusal::NotLeader);
                answer.leader_hint = leader.map_or(0, |id| id.0);
            }
            Err(ProposeError::Overloaded) => answer.set_refusal(Refusal::TooManyRequests),
            Err(ProposeError::Unknown | ProposeError::Stopped) => answer.set_refusal(Refusal::Unknown),
        }
        Ok(Response::new(answer))
    }

    async fn offer_snapshot(
        &self,
        request: Request<OfferSnapshotRequest>,
    ) -> Result<Response<OfferSnapshotResponse>, Status> {
        self.take_offer(request.into_inner()).await.map(Response::new)
    }

    async fn send_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<SendSnapshotResponse>, Status> {
        self.take_pieces(request.into_inner()).await.map(Response::new)
    }

    async fn install_snapshot(
        &self,
        request: Request<InstallSnapshotRequest>,
    ) -> Result<Response<InstallSnapshotResponse>, Status> {
        self.install(request.into_inner()).await.map(Response::new)
    }

    async fn probe(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let request = request.into_inner();
        let route = self.addressed(request.route.as_ref())?;
        let identity = self.node.identity();
        let has_data = self.node.has_data();
        let remembered = identity
            .meet(route.from, route.from_incarnation, has_data)
            .map_err(|error| Status::internal(format!("the identity file: {error}")))?;
        let status = self.node.status();
        Ok(Response::new(ProbeResponse {
            cluster_id: self.node.cluster().0,
            member_id: self.node.member().0,
            has_data,
            established: self.node.is_established(),
            incarnation: identity.incarnation(),
            remembered_incarnation: remembered,
            last_log_index: status.last_log.0,
            leader_id: status.leader.map_or(0, |id| id.0),
        }))
    }
}

fn invalid(error: impl std::error::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "a function for map_err")]
fn stopped(error: RaftError<crate::types::Config>) -> Status {
    Status::unavailable(error.to_string())
}
