//! What holds for every call, whatever its service: the metadata that clients may send with it, and etcd's own codes.
//!
//! A client that sends `hasleader: true` would rather be refused than served by a member that has no leader. Its streams
//! are cut when the leader is lost later, by ending the response here: services need not know.
//!
//! It wraps the routes as a whole, once a connection. A layer on the router would cost every request a copy of the
//! router.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::HeaderMap;
use tenure_raft::RaftNode;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::cut::cut;
use super::errors::ApiError;
use super::fallback::etcd_code_for_oversized;

/// Metadata by which a client insists on a leader, with the value `true`.
const HAS_LEADER: &str = "hasleader";

/// Metadata by which a client tells its version.
const CLIENT_API_VERSION: &str = "client-api-version";

/// Calls whose answer is a stream: what may outlive the leader.
const STREAMS: &[&str] = &[
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.Watch/Watch",
    "/grpc.health.v1.Health/Watch",
    "/tenure.v1.Leases/KeepAlive",
    "/tenure.v1.Locks/Acquire",
    "/v3electionpb.Election/Observe",
];

/// Puts a [`Gate`] before a service.
#[derive(Clone)]
pub(super) struct GateLayer {
    raft: RaftNode,
}

impl GateLayer {
    pub(super) fn new(raft: &RaftNode) -> GateLayer {
        GateLayer { raft: raft.clone() }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, admission: Admission::new(&self.raft) }
    }
}

/// Decides which calls may pass, by their metadata.
#[derive(Clone)]
pub(super) struct Admission(RaftNode);

impl Admission {
    pub(super) fn new(raft: &RaftNode) -> Admission {
        Admission(raft.clone())
    }

    /// Lets a call pass, or says why not; and whether it insists on a leader.
    pub(super) fn admit<'m>(&self, metadata: impl Fn(&str) -> Option<&'m [u8]>) -> Result<bool, ApiError> {
        if metadata(CLIENT_API_VERSION).is_some_and(|version| std::str::from_utf8(version).is_err()) {
            return Err(ApiError::InvalidClientApiVersion);
        }
        let insists = metadata(HAS_LEADER).is_some_and(|insists| insists == b"true");
        if insists && self.0.present_leader().is_none() {
            return Err(ApiError::NoLeader);
        }
        Ok(insists)
    }
}

/// See the module's header.
#[derive(Clone)]
pub(super) struct Gate<S> {
    inner: S,
    admission: Admission,
}

impl<S> Gate<S> {
    /// Lets a call pass, or says why not. For a stream that insists on a leader: with what tells that it is lost.
    fn admit(&self, path: &str, metadata: &HeaderMap) -> Result<Option<watch::Receiver<bool>>, ApiError> {
        let insists = self.admission.admit(|name| metadata.get(name).map(http::HeaderValue::as_bytes))?;
        Ok((insists && STREAMS.contains(&path)).then(|| self.admission.0.leader_lost()))
    }
}

impl<S, B> Service<http::Request<B>> for Gate<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Passing<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        match self.admit(request.uri().path(), request.headers()) {
            Ok(lost) => Passing::Admitted(self.inner.call(request), lost),
            Err(refusal) => Passing::Refused(refusal),
        }
    }
}

/// The answer to a call, or to none.
pub(super) enum Passing<F> {
    Admitted(F, Option<watch::Receiver<bool>>),
    Refused(ApiError),
}

impl<F> Future for Passing<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match &mut *self {
            Passing::Refused(refusal) => Poll::Ready(Ok(Status::from(*refusal).into_http())),
            Passing::Admitted(answer, lost) => Pin::new(answer).poll(cx).map_ok(|response| match lost.take() {
                Some(lost) => response.map(|body| until_leader_lost(body, lost)),
                None => etcd_code_for_oversized(response),
            }),
        }
    }
}

/// A stream's body that ends with "no leader" when the leader is lost.
fn until_leader_lost(body: Body, lost: watch::Receiver<bool>) -> Body {
    cut(body, leader_lost(lost))
}

/// How a stream that insists on a leader ends, once the leader is lost.
pub(super) async fn leader_lost(mut lost: watch::Receiver<bool>) -> Status {
    if lost.wait_for(|lost| *lost).await.is_err() {
        // The member is stopping, which ends the connection by itself.
        std::future::pending::<()>().await;
    }
    ApiError::NoLeader.into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::future::poll_immediate;
    use http_body::Frame;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_stream_ends_with_etcds_words_when_the_leader_is_lost() {
        let (lost, receiver) = watch::channel(false);
        let endless = futures::stream::pending::<Result<Frame<Bytes>, Status>>();
        let mut body = until_leader_lost(Body::new(http_body_util::StreamBody::new(endless)), receiver);
        assert!(poll_immediate(body.frame()).await.is_none(), "it is not lost");
        lost.send_replace(true);
        let last = body.frame().await.expect("a frame").expect("no error");
        let status = Status::from_header_map(&last.into_trailers().expect("trailers")).expect("a status");
        assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "etcdserver: no leader"));
    }

    #[test]
    fn every_call_that_is_answered_by_a_stream_is_listed() {
        let protocols = [
            include_str!("../../../../proto/etcdserverpb/rpc.proto"),
            include_str!("../../../../proto/grpc/health/v1/health.proto"),
            include_str!("../../../../proto/tenure/v1/leases.proto"),
            include_str!("../../../../proto/tenure/v1/locks.proto"),
            include_str!("../../../../proto/v3electionpb/v3election.proto"),
            include_str!("../../../../proto/v3lockpb/v3lock.proto"),
        ];
        let mut streams: Vec<String> = protocols.iter().flat_map(|protocol| answered_by_streams(protocol)).collect();
        streams.sort();
        assert_eq!(streams, STREAMS);
    }

    fn answered_by_streams(protocol: &str) -> Vec<String> {
        let word = |line: &str| line.split([' ', '(', '{', ';']).nth(1).unwrap_or_default().to_owned();
        let (mut package, mut service, mut streams) = (String::new(), String::new(), Vec::new());
        for line in protocol.lines().map(str::trim) {
            if line.starts_with("package ") {
                package = word(line);
            } else if line.starts_with("service ") {
                service = word(line);
            } else if line.starts_with("rpc ") && line.contains("returns (stream ") {
                streams.push(format!("/{package}.{service}/{}", word(line)));
            }
        }
        streams
    }
}
