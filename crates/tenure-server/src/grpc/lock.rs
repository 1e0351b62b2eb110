//! v3lockpb.Lock.

use std::time::Instant;

use prost::Message;
use tenure_core::LeaseId;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::v3lockpb::lock_server::Lock;
use tenure_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::convert::{self, Limits};
use super::errors::ApiError;
use super::header;
use crate::node::{ContestError, Node, Wish};

/// See the module's header.
pub(super) struct LockService {
    node: Node,
    limits: Limits,
    draining: watch::Receiver<bool>,
}

impl LockService {
    pub(super) fn new(node: Node, limits: Limits, draining: watch::Receiver<bool>) -> LockService {
        LockService { node, limits, draining }
    }
}

/// Returns once the member is stopping.
pub(super) async fn stopping(mut draining: watch::Receiver<bool>) {
    // A dropped sender means that the process is ending, too.
    drop(draining.wait_for(|draining| *draining).await);
}

/// What a client is told of an error. These services of etcd are clients of its own server, and what a request is refused
/// for there reaches the wire by its text alone, as an unknown error. What says something of the cluster instead keeps its
/// code here: it tells clients that they may try again.
pub(super) fn told(error: impl Into<ApiError>) -> Status {
    let error = error.into();
    if error.is_of_the_cluster() { error.into() } else { Status::unknown(error.to_string()) }
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let request = request.into_inner();
        convert::check_size(request.encoded_len(), &self.limits).map_err(told)?;
        let wish = Wish { name: request.name, lease: LeaseId(request.lease), value: None };
        let won = self.node.contend(wish, stopping(self.draining.clone())).await.map_err(|error| match error {
            ContestError::Lost => told(ApiError::SessionExpired),
            ContestError::Request(error) => told(error),
        })?;
        Ok(Response::new(LockResponse { header: Some(header(&self.node, won.seen)), key: won.key }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let started = Instant::now();
        let delete = pb::DeleteRangeRequest { key: request.into_inner().key, ..Default::default() };
        let command = convert::delete_range_command(delete, &self.limits).map_err(told)?;
        let outcome = self.node.write(&command).await.map_err(told)?;
        self.node.note_duration("Unlock", started);
        let deleted = convert::delete_range_answer(header(&self.node, outcome.revision), outcome).map_err(told)?;
        Ok(Response::new(UnlockResponse { header: deleted.header }))
    }
}
