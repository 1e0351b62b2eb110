//! etcdserverpb.Lease.

use std::pin::Pin;
use std::time::Instant;

use futures::StreamExt;
use tenure_core::LeaseId;
use tenure_core::outcome::{Outcome, Refusal};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::lease_server::Lease;
use tenure_raft::runtime::BootInstant;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::errors::ApiError;
use super::header;
use crate::node::{Node, RequestError, pick_lease_id};

/// Keepalives of one stream that are carried out at once; further ones wait in the connection. A client that renews more
/// leases on one stream gets this many per round through the log.
const KEEPALIVES_AT_ONCE_MAX: usize = 1024;

/// See the module's header.
pub(super) struct LeaseService {
    node: Node,
}

impl LeaseService {
    pub(super) fn new(node: Node) -> LeaseService {
        LeaseService { node }
    }

    /// Grants a lease. One whose id the client left to the server gets ids picked until one is free.
    async fn grant(&self, request: &pb::LeaseGrantRequest) -> Result<Outcome, ApiError> {
        loop {
            let command = convert::lease_grant_command(request, pick_lease_id(), self.node.lease_ttl_min())?;
            let outcome = self.node.write(&command).await?;
            let picked = !LeaseId(request.id).is_some();
            if !picked || outcome.result != Err(Refusal::LeaseExists) {
                return Ok(outcome);
            }
        }
    }
}

/// Renews what is asked for, many at a time, and answers in the order of the requests.
fn keep_alive(node: Node, requests: Streaming<pb::LeaseKeepAliveRequest>) -> KeepAlives {
    let answering = node.clone();
    let renewed = requests.map(move |request| {
        let (node, asked) = (node.clone(), BootInstant::now());
        async move {
            let id = LeaseId(request?.id);
            Ok((id, asked, node.renew_lease(id).await))
        }
    });
    let answers = renewed.buffered(KEEPALIVES_AT_ONCE_MAX).then(move |renewed| {
        let node = answering.clone();
        async move {
            // An error ends the stream, with its code.
            let (id, asked, outcome) = renewed.map_err(|status: Status| status)?;
            // Its turn to be answered may have come late.
            let outcome = node.renewed_in_time(id, asked, outcome).await.map_err(|error| unanswered(&node, error))?;
            Ok(convert::lease_keep_alive_answer(header(&node, outcome.revision), id, &outcome)?)
        }
    });
    answers.boxed()
}

/// As in etcd, a keepalive that waited for a leader in vain says so; other requests time out.
fn unanswered(node: &Node, error: RequestError) -> ApiError {
    match error {
        RequestError::Timeout if node.shared().raft.present_leader().is_none() => ApiError::NoLeader,
        error => error.into(),
    }
}

type KeepAlives = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

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
        let command = convert::lease_revoke_command(&request.into_inner());
        let outcome = self.node.revoke_lease(&command).await.map_err(ApiError::from)?;
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
