//! tenure.v1.Leases: milliseconds, holders, many renewals in one message, and why a lease is gone.
//!
//! It is another door to the same leases: what etcd's service does, it does by the same calls of the node.

use std::time::Instant;

use futures::stream::{BoxStream, StreamExt};
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, Revision};
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::leases_server::Leases;
use tonic::{Request, Response, Status, Streaming};

use super::client::client_name;
use super::convert;
use super::errors::ApiError;
use super::lease::{grant, unanswered};
use crate::node::{KeptAlive, KeysAfter, LEASES_PER_PAGE_MAX, Node};

/// See the module's header.
pub(super) struct LeasesService {
    node: Node,
}

impl LeasesService {
    pub(super) fn new(node: Node) -> LeasesService {
        LeasesService { node }
    }
}

pub(super) fn header(node: &Node, revision: Revision) -> pb::Header {
    let raft = &node.shared().raft;
    let (cluster, member) = (raft.cluster(), raft.member());
    pb::Header { cluster_id: cluster.0, member_id: member.0, revision: revision.0, term: node.term().0 }
}

type KeepAlives = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

fn keep_alive(node: Node, requests: Streaming<pb::LeaseKeepAliveRequest>) -> KeepAlives {
    let batches = requests.map(|request| Ok(convert::leases_to_renew(&request?)?));
    let kept = node.keep_batches_alive(batches);
    // An error ends the stream, with its code.
    let answers = kept.map(move |kept: Result<_, Status>| Ok(answer(&node, kept?)?));
    answers.boxed()
}

fn answer(node: &Node, kept: Vec<KeptAlive>) -> Result<pb::LeaseKeepAliveResponse, ApiError> {
    // The earliest, so that no lease was revoked before it that is told to live.
    let mut revision = node.shared().raft.view().meta().revision;
    let mut leases = Vec::with_capacity(kept.len());
    for (id, outcome) in kept {
        let outcome = outcome.map_err(|error| unanswered(node, error))?;
        revision = revision.min(outcome.revision);
        leases.push(convert::lease_kept(id, &outcome)?);
    }
    Ok(pb::LeaseKeepAliveResponse { header: Some(header(node, revision)), leases })
}

#[tonic::async_trait]
impl Leases for LeasesService {
    type KeepAliveStream = KeepAlives;

    async fn grant(&self, request: Request<pb::LeaseGrantRequest>) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let started = Instant::now();
        let request = request.into_inner();
        let command = |picked| convert::leases_grant_command(&request, picked);
        let outcome = grant(&self.node, LeaseId(request.id), command).await?;
        self.node.note_duration("Leases.Grant", started);
        Ok(Response::new(convert::leases_grant_answer(header(&self.node, outcome.revision), &outcome)?))
    }

    async fn revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let started = Instant::now();
        let client = client_name(request.extensions());
        let id = LeaseId(request.into_inner().id);
        let outcome = self.node.revoke_lease(id, client).await.map_err(ApiError::from)?;
        self.node.note_duration("Leases.Revoke", started);
        Ok(Response::new(convert::leases_revoke_answer(header(&self.node, outcome.revision), &outcome)?))
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        Ok(Response::new(keep_alive(self.node.clone(), request.into_inner())))
    }

    async fn time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let started = Instant::now();
        let request = request.into_inner();
        let after = Some(request.keys_after).filter(|key| !key.is_empty());
        let keys = request.keys.then_some(KeysAfter(after));
        let answer = self.node.lease_detail(LeaseId(request.id), keys).await.map_err(ApiError::from)?;
        self.node.note_duration("Leases.TimeToLive", started);
        let (lease, keys) = answer.result.ok_or(ApiError::LeaseNotFound)?;
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            header: Some(header(&self.node, answer.revision)),
            lease: Some(convert::lease_state(lease)),
            keys: keys.items,
            more_keys: keys.more,
        }))
    }

    async fn list(&self, request: Request<pb::LeaseListRequest>) -> Result<Response<pb::LeaseListResponse>, Status> {
        let started = Instant::now();
        let request = request.into_inner();
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let limit = if limit == 0 { LEASES_PER_PAGE_MAX } else { limit };
        let answer = self.node.leases_after(request.after.map(LeaseId), limit).await.map_err(ApiError::from)?;
        self.node.note_duration("Leases.List", started);
        Ok(Response::new(pb::LeaseListResponse {
            header: Some(header(&self.node, answer.revision)),
            leases: answer.result.items.into_iter().map(convert::lease_state).collect(),
            more: answer.result.more,
        }))
    }

    async fn explain(
        &self,
        request: Request<pb::LeaseExplainRequest>,
    ) -> Result<Response<pb::LeaseExplainResponse>, Status> {
        let started = Instant::now();
        let id = LeaseId(request.into_inner().id);
        let answer = self.node.explain_lease(id).await.map_err(ApiError::from)?;
        self.node.note_duration("Leases.Explain", started);
        let header = header(&self.node, answer.revision);
        Ok(Response::new(convert::lease_explain_response(header, id, answer.result)))
    }
}
