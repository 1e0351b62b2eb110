//! v3electionpb.Election.

use std::time::Instant;

use futures::stream::{BoxStream, StreamExt, unfold};
use prost::Message;
use tenure_core::{LeaseId, Revision};
use tenure_proto::v3electionpb as pb;
use tenure_proto::v3electionpb::election_server::Election;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::convert::{self, Limits, event_wire_bytes};
use super::errors::ApiError;
use super::header;
use super::lock::{stopping, told};
use crate::node::watch::StreamLimits;
use crate::node::{ContestError, LeaderKey, Node, RequestError, Wish};

/// See the module's header.
pub(super) struct ElectionService {
    node: Node,
    limits: Limits,
    observing: StreamLimits,
    draining: watch::Receiver<bool>,
}

impl ElectionService {
    /// Observers are told of changes as watchers are that take messages of `message_bytes_max`.
    pub(super) fn new(
        node: Node,
        limits: Limits,
        message_bytes_max: usize,
        draining: watch::Receiver<bool>,
    ) -> ElectionService {
        let observing = StreamLimits::new(message_bytes_max, event_wire_bytes);
        ElectionService { node, limits, observing, draining }
    }

    fn check_size(&self, request: &impl Message) -> Result<(), Status> {
        convert::check_size(request.encoded_len(), &self.limits).map_err(told)
    }
}

/// The proof of leadership in a request.
fn leader_key(leader: Option<pb::LeaderKey>) -> Result<LeaderKey, Status> {
    let leader = leader.ok_or(ApiError::MissingLeaderKey)?;
    if leader.key.is_empty() {
        return Err(told(ApiError::EmptyKey));
    }
    Ok(LeaderKey { key: leader.key, create: Revision(leader.rev), lease: LeaseId(leader.lease) })
}

fn not_leading(error: ContestError) -> Status {
    match error {
        ContestError::Lost => told(ApiError::ElectionNotLeader),
        ContestError::Request(error) => told(error),
    }
}

type Observing = BoxStream<'static, Result<pb::LeaderResponse, Status>>;

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(&self, request: Request<pb::CampaignRequest>) -> Result<Response<pb::CampaignResponse>, Status> {
        let request = request.into_inner();
        self.check_size(&request)?;
        let name = request.name.clone();
        let wish = Wish { name: request.name, lease: LeaseId(request.lease), value: Some(request.value) };
        let won = self.node.contend(wish, stopping(self.draining.clone())).await.map_err(not_leading)?;
        let leader = pb::LeaderKey { name, key: won.key, rev: won.create.0, lease: won.lease.0 };
        // etcd's header is of the candidacy, not of the victory.
        let header = header(&self.node, won.registered);
        Ok(Response::new(pb::CampaignResponse { header: Some(header), leader: Some(leader) }))
    }

    async fn proclaim(&self, request: Request<pb::ProclaimRequest>) -> Result<Response<pb::ProclaimResponse>, Status> {
        let started = Instant::now();
        let request = request.into_inner();
        self.check_size(&request)?;
        let leader = leader_key(request.leader)?;
        let revision = self.node.proclaim(&leader, request.value).await.map_err(not_leading)?;
        self.node.note_duration("Proclaim", started);
        Ok(Response::new(pb::ProclaimResponse { header: Some(header(&self.node, revision)) }))
    }

    async fn leader(&self, request: Request<pb::LeaderRequest>) -> Result<Response<pb::LeaderResponse>, Status> {
        let started = Instant::now();
        let answer = self.node.leader_of(request.into_inner().name).await.map_err(told)?;
        self.node.note_duration("Leader", started);
        let leader = answer.result.ok_or_else(|| told(ApiError::ElectionNoLeader))?;
        let (header, kv) = (header(&self.node, answer.revision), convert::key_value(leader));
        Ok(Response::new(pb::LeaderResponse { header: Some(header), kv: Some(kv) }))
    }

    type ObserveStream = Observing;

    async fn observe(&self, request: Request<pb::LeaderRequest>) -> Result<Response<Observing>, Status> {
        let observer = self.node.observe(request.into_inner().name, self.observing);
        let stopped = Box::pin(stopping(self.draining.clone()));
        let observing = Some((observer, stopped, self.node.clone()));
        let leaders = unfold(observing, |observing| async move {
            let (mut observer, mut stopped, node) = observing?;
            let observed = tokio::select! {
                observed = observer.next() => observed,
                () = &mut stopped => Err(RequestError::Stopped),
            };
            Some(match observed {
                Ok(observed) => {
                    let (header, kv) = (header(&node, observed.revision), convert::key_value(observed.leader));
                    let answer = pb::LeaderResponse { header: Some(header), kv: Some(kv) };
                    (Ok(answer), Some((observer, stopped, node)))
                }
                Err(error) => (Err(told(error)), None),
            })
        });
        Ok(Response::new(leaders.boxed()))
    }

    async fn resign(&self, request: Request<pb::ResignRequest>) -> Result<Response<pb::ResignResponse>, Status> {
        let started = Instant::now();
        let leader = leader_key(request.into_inner().leader)?;
        let revision = self.node.resign(&leader).await.map_err(told)?;
        self.node.note_duration("Resign", started);
        Ok(Response::new(pb::ResignResponse { header: Some(header(&self.node, revision)) }))
    }
}
