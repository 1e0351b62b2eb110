//! etcdserverpb.Lease.

use std::time::Instant;

use futures::stream::{BoxStream, Stream, StreamExt};
use tenure_core::LeaseId;
use tenure_core::command::Command;
use tenure_core::outcome::{Outcome, Refusal};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::lease_server::Lease;
use tonic::{Request, Response, Status, Streaming};

use super::client::client_name;
use super::convert;
use super::errors::ApiError;
use super::header;
use crate::node::{Node, RequestError, pick_lease_id};

/// See the module's header.
pub(super) struct LeaseService {
    node: Node,
}

impl LeaseService {
    pub(super) fn new(node: Node) -> LeaseService {
        LeaseService { node }
    }

    async fn grant(&self, request: &pb::LeaseGrantRequest) -> Result<Outcome, ApiError> {
        let ttl_min = self.node.lease_ttl_min();
        grant(&self.node, LeaseId(request.id), |picked| convert::lease_grant_command(request, picked, ttl_min)).await
    }
}

/// Grants a lease. One whose id the client left to the server gets ids picked until one is free.
pub(super) async fn grant(
    node: &Node,
    asked: LeaseId,
    command: impl Fn(LeaseId) -> Result<Command, ApiError>,
) -> Result<Outcome, ApiError> {
    loop {
        let outcome = node.write(&command(pick_lease_id())?).await?;
        if asked.is_some() || outcome.result != Err(Refusal::LeaseExists) {
            return Ok(outcome);
        }
    }
}

/// The way of keepalives through the log.
pub(super) fn keep_alive<R>(node: Node, requests: R) -> KeepAlives
where
    R: Stream<Item = Result<pb::LeaseKeepAliveRequest, Status>> + Send + 'static,
{
    let ids = requests.map(|request| Ok(LeaseId(request?.id)));
    let renewed = node.keep_leases_alive(ids);
    // An error ends the stream, with its code.
    let answers = renewed.map(move |renewed: Result<_, Status>| {
        let (id, outcome) = renewed?;
        let outcome = outcome.map_err(|error| unanswered(&node, error))?;
        Ok(convert::lease_keep_alive_answer(header(&node, outcome.revision), id, &outcome)?)
    });
    answers.boxed()
}

/// As in etcd, a keepalive that waited for a leader in vain says so; other requests time out.
pub(super) fn unanswered(node: &Node, error: RequestError) -> ApiError {
    match error {
        RequestError::Timeout if node.shared().raft.present_leader().is_none() => ApiError::NoLeader,
        error => error.into(),
    }
}

pub(super) type KeepAlives = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

#[tonic::async_trait]
impl Lease for LeaseService {
    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let started = Instant::now();
        let request = request.into_inner();
        let outcome = self.grant(&request).await?;
        self.node.note_duration("LeaseGrant", started);
        Ok(Response::new(convert::lease_grant_answer(header(&self.node, outcome.revision), outcome)?))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let started = Instant::now();
        let client = client_name(request.extensions());
        let id = LeaseId(request.into_inner().id);
        let outcome = self.node.revoke_lease(id, client).await.map_err(ApiError::from)?;
        self.node.note_duration("LeaseRevoke", started);
        Ok(Response::new(convert::lease_revoke_answer(header(&self.node, outcome.revision), outcome)?))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        Ok(Response::new(keep_alive(self.node.clone(), request.into_inner())))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let started = Instant::now();
        let request = request.into_inner();
        let id = LeaseId(request.id);
        let answer = self.node.lease(id, request.keys).await.map_err(ApiError::from)?;
        self.node.note_duration("LeaseTimeToLive", started);
        let header = header(&self.node, answer.revision);
        Ok(Response::new(convert::lease_time_to_live_response(header, id, answer.result)))
    }

    async fn lease_leases(
        &self,
        _request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let started = Instant::now();
        let answer = self.node.leases().await.map_err(ApiError::from)?;
        self.node.note_duration("LeaseLeases", started);
        Ok(Response::new(convert::lease_leases_response(header(&self.node, answer.revision), answer.result)))
    }
}
