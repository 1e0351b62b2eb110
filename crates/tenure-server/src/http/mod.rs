//! The plain HTTP endpoints of the client port: health, version, metrics. For probes, people and scrapers.

mod metrics;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tenure_core::row::AlarmKind;
use tenure_core::state::StateRead;

use crate::config::ETCD_API_VERSION;
use crate::node::Node;

/// The storage version that goes with [`ETCD_API_VERSION`].
pub(crate) const STORAGE_VERSION: &str = "3.7.0";

/// The routes, to be served beside the gRPC services.
pub(crate) fn router(node: Node) -> Router {
    Router::new()
        .route("/health", any(health))
        .route("/version", get(version))
        .route("/metrics", get(metrics::render))
        .with_state(node)
}

/// What a probe asked to leave out.
#[derive(Debug, Default, PartialEq, Eq)]
struct HealthQuery {
    serializable: bool,
    exclude: Vec<String>,
}

impl HealthQuery {
    fn parse(query: &str) -> HealthQuery {
        let mut parsed = HealthQuery::default();
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("serializable", value)) => parsed.serializable = value == "true",
                Some(("exclude", alarm)) => parsed.exclude.push(alarm.to_ascii_uppercase()),
                Some(_) | None => {}
            }
        }
        parsed
    }

    fn excludes(&self, alarm: &str) -> bool {
        self.exclude.iter().any(|excluded| excluded == alarm)
    }
}

async fn health(State(node): State<Node>, method: Method, RawQuery(query): RawQuery) -> Response {
    if method != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, HeaderValue::from_static("GET"))], "")
            .into_response();
    }
    let query = HealthQuery::parse(query.as_deref().unwrap_or_default());
    let (status, reason) = match unhealthy(&node, &query).await {
        None => (StatusCode::OK, String::new()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
    };
    let body = serde_json::json!({ "health": (status == StatusCode::OK).to_string(), "reason": reason });
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.to_string()).into_response()
}

/// Why the member is not healthy, in etcd's words.
async fn unhealthy(node: &Node, query: &HealthQuery) -> Option<String> {
    for alarm in &node.shared().raft.view().meta().alarms {
        let name = match alarm.kind {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        if !query.excludes(name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if node.shared().raft.present_leader().is_none() {
        return Some("RAFT NO LEADER".to_owned());
    }
    match node.view(query.serializable).await {
        Ok(_) => None,
        Err(error) => Some(format!("RANGE ERROR:{error}")),
    }
}

async fn version() -> Response {
    let body = serde_json::json!({
        "etcdserver": ETCD_API_VERSION,
        "etcdcluster": STORAGE_VERSION,
        "storage": STORAGE_VERSION,
        "tenure": crate::config::TENURE_VERSION,
    });
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_query_reads_what_probes_send() {
        let query = HealthQuery::parse("exclude=NOSPACE&serializable=true&exclude=corrupt&x");
        assert!(query.serializable && query.excludes("NOSPACE") && query.excludes("CORRUPT"));
        assert_eq!(HealthQuery::parse(""), HealthQuery::default());
        assert!(!HealthQuery::parse("serializable=1").serializable);
    }
}
