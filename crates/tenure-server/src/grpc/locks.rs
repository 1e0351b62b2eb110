//! tenure.v1.Locks: native locks, and what is known of any.

use std::time::Instant;

use futures::future::{BoxFuture, ready};
use futures::stream::{self, BoxStream, StreamExt};
use tenure_core::command::Command;
use tenure_core::outcome::Outcome;
use tenure_core::row::RevokedBy;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::locks_server::Locks;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::client::client_name;
use super::convert;
use super::errors::ApiError;
use super::leases::header;
use super::lock::stopping;
use crate::node::{LOCKS_PER_PAGE_MAX, LockAcquired, LockStep, LockUngranted, Node, TRANSITIONS_MAX};

/// Transitions that are told to those who do not say how many they want.
const TRANSITIONS_DEFAULT: usize = 100;

/// See the module's header.
pub(super) struct LocksService {
    node: Node,
    draining: watch::Receiver<bool>,
}

impl LocksService {
    pub(super) fn new(node: Node, draining: watch::Receiver<bool>) -> LocksService {
        LocksService { node, draining }
    }

    /// Begins an acquire.
    pub(super) fn join(&self, request: pb::LockAcquireRequest) -> Result<BoxFuture<'static, LockAcquired>, Status> {
        let wanted = convert::lock_acquire(request)?;
        let (node, stop) = (self.node.clone(), stopping(self.draining.clone()));
        Ok(Box::pin(async move { node.acquire_lock(wanted, stop).await }))
    }

    /// What its client is told of it.
    pub(super) fn told(&self, step: Result<LockStep, LockUngranted>) -> Result<pb::LockAcquireResponse, Status> {
        told(&self.node, step)
    }

    async fn write(&self, command: &Command) -> Result<Outcome, ApiError> {
        Ok(self.node.write(command).await?)
    }
}

#[tonic::async_trait]
impl Locks for LocksService {
    type AcquireStream = BoxStream<'static, Result<pb::LockAcquireResponse, Status>>;

    async fn acquire(&self, request: Request<pb::LockAcquireRequest>) -> Result<Response<Self::AcquireStream>, Status> {
        let node = self.node.clone();
        let steps = match self.join(request.into_inner())?.await {
            LockAcquired::Ended(step) => stream::once(ready(told(&node, step))).boxed(),
            LockAcquired::Waits(steps) => ReceiverStream::new(steps).map(move |step| told(&node, step)).boxed(),
        };
        Ok(Response::new(steps))
    }

    async fn release(
        &self,
        request: Request<pb::LockReleaseRequest>,
    ) -> Result<Response<pb::LockReleaseResponse>, Status> {
        let started = Instant::now();
        let outcome = self.write(&convert::lock_release_command(request.into_inner())?).await?;
        self.node.note_duration("Locks.Release", started);
        Ok(Response::new(convert::lock_release_answer(header(&self.node, outcome.revision), &outcome)?))
    }

    async fn cancel(
        &self,
        request: Request<pb::LockCancelRequest>,
    ) -> Result<Response<pb::LockCancelResponse>, Status> {
        let started = Instant::now();
        let outcome = self.write(&convert::lock_cancel_command(request.into_inner())?).await?;
        self.node.note_duration("Locks.Cancel", started);
        Ok(Response::new(convert::lock_cancel_answer(header(&self.node, outcome.revision), &outcome)?))
    }

    async fn force_release(
        &self,
        request: Request<pb::LockForceReleaseRequest>,
    ) -> Result<Response<pb::LockForceReleaseResponse>, Status> {
        let started = Instant::now();
        let by = RevokedBy { member: self.node.shared().raft.member(), client: client_name(request.extensions()) };
        let outcome = self.write(&convert::lock_force_command(request.into_inner(), by)?).await?;
        self.node.note_duration("Locks.ForceRelease", started);
        Ok(Response::new(convert::lock_force_answer(header(&self.node, outcome.revision), &outcome)?))
    }

    async fn inspect(
        &self,
        request: Request<pb::LockInspectRequest>,
    ) -> Result<Response<pb::LockInspectResponse>, Status> {
        let started = Instant::now();
        let request = request.into_inner();
        let limit = limit(request.limit, LOCKS_PER_PAGE_MAX);
        let answer = self.node.inspect_lock(request.name, limit).await.map_err(ApiError::from)?;
        self.node.note_duration("Locks.Inspect", started);
        Ok(Response::new(convert::lock_inspect_response(header(&self.node, answer.revision), answer.result)))
    }

    async fn list(&self, request: Request<pb::LockListRequest>) -> Result<Response<pb::LockListResponse>, Status> {
        let started = Instant::now();
        let pb::LockListRequest { prefix, limit: asked, after } = request.into_inner();
        let limit = limit(asked, LOCKS_PER_PAGE_MAX);
        let answer = self.node.locks_after(prefix, after, limit).await.map_err(ApiError::from)?;
        self.node.note_duration("Locks.List", started);
        Ok(Response::new(convert::lock_list_response(header(&self.node, answer.revision), answer.result)))
    }

    async fn why(&self, request: Request<pb::LockWhyRequest>) -> Result<Response<pb::LockWhyResponse>, Status> {
        let started = Instant::now();
        let pb::LockWhyRequest { name, limit: asked } = request.into_inner();
        let limit = limit(asked, TRANSITIONS_DEFAULT).min(TRANSITIONS_MAX);
        let answer = self.node.lock_why(name, limit).await.map_err(ApiError::from)?;
        self.node.note_duration("Locks.Why", started);
        Ok(Response::new(convert::lock_why_response(header(&self.node, answer.revision), answer.result)))
    }
}

fn told(node: &Node, step: Result<LockStep, LockUngranted>) -> Result<pb::LockAcquireResponse, Status> {
    match step {
        Ok(step) => Ok(convert::lock_step(step, |revision| header(node, revision))),
        Err(ungranted) => Err(ApiError::from(ungranted).into()),
    }
}

/// How many a client wants: those who do not say get the usual number.
fn limit(asked: u32, usual: usize) -> usize {
    if asked == 0 { usual } else { usize::try_from(asked).unwrap_or(usize::MAX) }
}
