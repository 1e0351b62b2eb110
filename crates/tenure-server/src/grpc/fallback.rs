//! What is answered to calls that nothing serves, and to messages that are too large to read.

use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::Response;
use tonic::{Code, Status};

use crate::http;

/// How tonic begins its complaint about a message above the size limit.
const OVERSIZED: &str = "Error, decoded message length too large";

/// UNIMPLEMENTED with a text for gRPC, 404 for the rest.
pub(super) async fn answer(uri: Uri, headers: HeaderMap) -> Response {
    let is_grpc =
        headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return http::not_found();
    }
    let method = uri.path().trim_start_matches('/').to_owned();
    Status::new(Code::Unimplemented, format!("etcdserver: {method} is not implemented in this version of Tenure"))
        .into_http::<axum::body::Body>()
}

/// Gives a complaint about an oversized message etcd's code: tonic answers OutOfRange, etcd ResourceExhausted, and clients
/// tell "too large" by the code.
pub(super) fn etcd_code_for_oversized<B>(mut response: ::http::Response<B>) -> ::http::Response<B> {
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
