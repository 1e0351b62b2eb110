//! `/health`, `/livez` and `/readyz`: what probes ask, answered in etcd's words and codes.
//!
//! `/health` is the old question, is all well with this member and its cluster. `/livez` asks whether the process works at
//! all, `/readyz` whether it should be sent clients; both can be asked check by check, and are made of these:
//!
//! ```text
//! livez   serializable_read
//! readyz  data_corruption  serializable_read  linearizable_read  non_learner
//! ```

use axum::extract::{RawQuery, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::any;
use axum::{Extension, Router};
use bytes::Bytes;
use tenure_core::command::{KeyRange, Range};
use tenure_core::row::AlarmKind;
use tenure_core::state::StateRead;

use super::{method_not_allowed, text};
use crate::grpc::errors::ApiError;
use crate::node::Node;

/// One question about this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] = &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run(self, node: &Node) -> Result<(), String> {
        match self {
            Check::DataCorruption if is_raised(node, AlarmKind::Corrupt) => Err("alarm activated: CORRUPT".to_owned()),
            Check::SerializableRead => read(node, true).await.map_err(|error| error.to_string()),
            Check::LinearizableRead => read(node, false).await.map_err(|error| error.to_string()),
            Check::NonLearner if node.shared().raft.status().is_learner => Err("not supported for learner".to_owned()),
            Check::DataCorruption | Check::NonLearner => Ok(()),
        }
    }
}

/// The routes of all health checks.
pub(super) fn routes() -> Router<Node> {
    let mut routes = Router::new().route("/health", any(health));
    for (path, checks) in [("/livez", LIVEZ), ("/readyz", READYZ)] {
        routes = routes.route(path, any(answer_checks).layer(Extension(checks)));
        for check in checks {
            let alone = Extension(std::slice::from_ref(check));
            routes = routes.route(&format!("{path}/{}", check.name()), any(answer_checks).layer(alone));
        }
    }
    routes
}

/// What a probe asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    serializable: bool,
    verbose: bool,
    exclude: Vec<String>,
}

impl Query {
    fn parse(query: Option<&str>) -> Query {
        let mut parsed = Query::default();
        for pair in query.unwrap_or_default().split('&') {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("serializable", value) => parsed.serializable = value == "true",
                ("verbose", _) => parsed.verbose = true,
                ("exclude", name) => parsed.exclude.push(name.to_owned()),
                _ => {}
            }
        }
        parsed
    }

    fn excludes(&self, name: &str) -> bool {
        self.exclude.iter().any(|excluded| excluded == name)
    }
}

async fn health(State(node): State<Node>, method: Method, RawQuery(query): RawQuery) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    let (healthy, reason) = match unhealthy(&node, &Query::parse(query.as_deref())).await {
        None => (true, String::new()),
        Some(reason) => (false, reason),
    };
    let reason = serde_json::Value::from(reason);
    let body = format!("{{\"health\":\"{healthy}\",\"reason\":{reason}}}");
    if healthy { text(StatusCode::OK, body) } else { text(StatusCode::SERVICE_UNAVAILABLE, body + "\n") }
}

/// Why the member is not healthy.
async fn unhealthy(node: &Node, query: &Query) -> Option<String> {
    for (kind, name) in [(AlarmKind::NoSpace, "NOSPACE"), (AlarmKind::Corrupt, "CORRUPT")] {
        if is_raised(node, kind) && !query.excludes(name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if !query.serializable && node.shared().raft.present_leader().is_none() {
        return Some("RAFT NO LEADER".to_owned());
    }
    read(node, query.serializable).await.err().map(|error| format!("RANGE ERROR:{error}"))
}

async fn answer_checks(
    State(node): State<Node>,
    Extension(checks): Extension<&'static [Check]>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    let query = Query::parse(query.as_deref());
    let (mut all_ok, mut details) = (true, String::new());
    // A single check cannot be excluded from itself.
    for check in checks.iter().filter(|check| checks.len() == 1 || !query.excludes(check.name())) {
        match check.run(&node).await {
            Ok(()) => details += &format!("[+]{} ok\n", check.name()),
            Err(error) => {
                all_ok = false;
                details += &format!("[-]{} failed: {error}\n", check.name());
            }
        }
    }
    match (all_ok, query.verbose) {
        (true, true) => text(StatusCode::OK, details + "ok\n"),
        (true, false) => text(StatusCode::OK, "ok\n".to_owned()),
        (false, _) => text(StatusCode::SERVICE_UNAVAILABLE, details + "\n"),
    }
}

fn is_raised(node: &Node, kind: AlarmKind) -> bool {
    node.shared().raft.view().meta().alarms.iter().any(|alarm| alarm.kind == kind)
}

/// Reads a key, whatever it holds.
async fn read(node: &Node, serializable: bool) -> Result<(), ApiError> {
    let key = KeyRange::One(Bytes::from_static(b"\0"));
    let range = Range { limit: 1, keys_only: true, ..Range::of(key) };
    node.range(range, serializable).await.map(drop).map_err(ApiError::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_by_etcd() {
        let query = Query::parse(Some("exclude=NOSPACE&serializable=true&exclude=corrupt&x&verbose"));
        assert!(query.serializable && query.verbose && query.excludes("NOSPACE") && query.excludes("corrupt"));
        assert!(!query.excludes("CORRUPT") && !query.excludes(""), "names are taken as they are");
        assert_eq!(Query::parse(None), Query::default());
        assert_eq!(Query::parse(Some("")), Query::default());
        for not_true in ["serializable", "serializable=1", "serializable=TRUE", "serializable=false"] {
            assert!(!Query::parse(Some(not_true)).serializable, "{not_true}");
        }
        for verbose in ["verbose", "verbose=", "verbose=false", "exclude=x&verbose"] {
            assert!(Query::parse(Some(verbose)).verbose, "{verbose}");
        }
    }
}
