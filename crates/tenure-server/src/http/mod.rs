//! The plain HTTP endpoints of the client port: health, version, metrics. For probes, people and scrapers.

mod health;
mod metrics;
mod process;

use axum::Router;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;

use crate::config::{ETCD_API_VERSION, TENURE_VERSION};
use crate::node::Node;

/// The storage version that goes with [`ETCD_API_VERSION`].
pub(crate) const STORAGE_VERSION: &str = "3.7.0";

/// The routes, to be served beside the gRPC services.
pub(crate) fn router(node: Node) -> Router {
    Router::new()
        .merge(health::routes())
        .route("/version", any(version))
        .route("/metrics", any(metrics::render))
        .with_state(node)
}

async fn version(method: Method) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    let body = format!(
        "{{\"etcdserver\":\"{ETCD_API_VERSION}\",\"etcdcluster\":\"{STORAGE_VERSION}\",\
         \"storage\":\"{STORAGE_VERSION}\",\"tenure\":\"{TENURE_VERSION}\"}}"
    );
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// 404, in the words of Go's library: what etcd says of a path that it does not know.
pub(crate) fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}

fn method_not_allowed() -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".to_owned());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}

fn text(status: StatusCode, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, headers, body).into_response()
}
