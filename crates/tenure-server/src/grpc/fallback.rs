//! What is answered to calls that nothing serves, and to messages that are too large to read.

use std::task::{Context, Poll};

use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures::TryFutureExt;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

/// How tonic begins its complaint about a message above the size limit.
const OVERSIZED: &str = "Error, decoded message length too large";

/// UNIMPLEMENTED with a text for gRPC, 404 for the rest.
pub(super) async fn answer(uri: Uri, headers: HeaderMap) -> Response {
    let is_grpc =
        headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    }
    let method = uri.path().trim_start_matches('/').to_owned();
    Status::new(Code::Unimplemented, format!("etcdserver: {method} is not implemented in this version of Tenure"))
        .into_http::<axum::body::Body>()
}

/// A gRPC service whose complaints about oversized messages carry etcd's code: tonic answers OutOfRange, etcd
/// ResourceExhausted, and clients tell "too large" by the code.
///
/// Wraps one service rather than all routes: a layer on the router would cost every request a copy of the router.
#[derive(Clone)]
pub(super) struct EtcdCodes<S>(pub(super) S);

impl<S: NamedService> NamedService for EtcdCodes<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, R> Service<R> for EtcdCodes<S>
where
    S: Service<R, Response = http::Response<tonic::body::Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = futures::future::MapOk<S::Future, fn(S::Response) -> S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.0.call(request).map_ok(etcd_code_for_oversized)
    }
}

fn etcd_code_for_oversized(mut response: http::Response<tonic::body::Body>) -> http::Response<tonic::body::Body> {
    let headers = response.headers();
    if headers.get("grpc-status").is_none_or(|code| code.as_bytes() != b"11") {
        return response;
    }
    let status = Status::from_header_map(headers);
    if status.is_some_and(|status| status.message().starts_with(OVERSIZED)) {
        let code = i32::from(Code::ResourceExhausted);
        response.headers_mut().insert("grpc-status", HeaderValue::from(code));
    }
    response
}
