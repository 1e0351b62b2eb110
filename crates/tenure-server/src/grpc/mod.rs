//! The gRPC services, thin: decode, convert, ask the node, convert back. And the listener that serves them beside HTTP.

mod client;
mod cluster;
pub mod convert;
mod cut;
mod election;
pub mod errors;
mod fallback;
mod front;
mod gate;
mod guard;
mod health;
mod kv;
mod lease;
mod leases;
mod lock;
mod locks;
mod maintenance;
mod services;
mod snapshot;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tenure_core::Revision;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::cluster_server::ClusterServer;
use tenure_proto::etcdserverpb::kv_server::KvServer;
use tenure_proto::etcdserverpb::lease_server::LeaseServer;
use tenure_proto::etcdserverpb::maintenance_server::MaintenanceServer;
use tenure_proto::etcdserverpb::watch_server::WatchServer;
use tenure_proto::grpc::health::v1::health_server::HealthServer;
use tenure_proto::tenure::v1::leases_server::LeasesServer;
use tenure_proto::tenure::v1::locks_server::LocksServer;
use tenure_proto::v3electionpb::election_server::ElectionServer;
use tenure_proto::v3lockpb::lock_server::LockServer;
use tenure_raft::PeerChannel;
use tenure_raft::accept::{Listening, connections};
use tokio::task::JoinSet;
use tonic::service::Routes;
use tower::Layer as _;

use crate::config::ServerConfig;
use crate::grpc::convert::Limits;
use crate::grpc::front::{Calls, Front, Streams};
use crate::http;
use crate::node::Node;

/// What gRPC may receive beyond the largest request: etcd's allowance for framing.
const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;

/// HTTP/2 flow control towards clients: a large value should not need many round trips.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// How long connections may finish what they are doing once a stop was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Serves all listeners on the calling runtime until `draining` turns true.
pub(crate) async fn serve(
    node: &Node,
    config: &ServerConfig,
    listeners: Vec<Listening>,
    draining: tokio::sync::watch::Receiver<bool>,
) {
    let mut servers = JoinSet::new();
    let served = Served::new(node, limits(config), &draining);
    let front = Front::new(node, config, served, &draining);
    for listener in listeners {
        servers.spawn(front.clone().serve(listener, node.clone()));
    }
    let mut stop = draining;
    drop(stop.wait_for(|stop| *stop).await);
    let drained = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::debug!("connections that did not end by themselves are cut");
    }
}

/// Serves health and metrics alone, for as long as the runtime lives.
pub(crate) async fn serve_metrics(node: &Node, listeners: Vec<Listening>) {
    let mut servers = JoinSet::new();
    for listener in listeners {
        let Ok(incoming) = connections(listener, node.shared().connections.clone()) else { continue };
        let routes = Routes::from(http::router(node.clone()));
        let server = tonic::transport::Server::builder().accept_http1(true).add_routes(routes);
        servers.spawn(server.serve_with_incoming(incoming));
    }
    while let Some(ended) = servers.join_next().await {
        tracing::error!(?ended, "a metrics listener stopped serving");
    }
}

fn limits(config: &ServerConfig) -> Limits {
    Limits { max_request_bytes: config.max_request_bytes as usize, max_txn_ops: config.max_txn_ops as usize }
}

/// A connection to the client port of a member in this process, with nothing between.
pub fn channel_to(node: &Node, limits: Limits, draining: &tokio::sync::watch::Receiver<bool>) -> PeerChannel {
    let gated = gate::GateLayer::new(&node.shared().raft).layer(Served::new(node, limits, draining).routes);
    tenure_raft::channel_to(gated)
}

/// What the client port serves.
struct Served {
    /// All of it.
    routes: Routes,
    /// Some of it by a shorter way.
    calls: Calls,
    streams: Streams,
    message_bytes_max: usize,
}

impl Served {
    fn new(node: &Node, limits: Limits, draining: &tokio::sync::watch::Receiver<bool>) -> Served {
        let message_bytes_max = limits.max_request_bytes.saturating_add(REQUEST_OVERHEAD_BYTES);
        let kv_service = Arc::new(kv::KvService::new(node.clone(), limits));
        let lease_service = Arc::new(lease::LeaseService::new(node.clone()));
        let locks_service = Arc::new(locks::LocksService::new(node.clone(), draining.clone()));
        let kv = KvServer::from_arc(kv_service.clone())
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(usize::MAX);
        let lease = LeaseServer::from_arc(lease_service.clone());
        let leases = LeasesServer::new(leases::LeasesService::new(node.clone()))
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(usize::MAX);
        let locks = LocksServer::from_arc(locks_service.clone())
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(usize::MAX);
        let cluster = ClusterServer::new(cluster::ClusterService::new(node.clone()));
        let maintenance = MaintenanceServer::new(maintenance::MaintenanceService::new(node.clone()));
        let watch_service = Arc::new(watch::WatchService::new(node.clone(), message_bytes_max, draining.clone()));
        let watch = WatchServer::from_arc(watch_service.clone())
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(usize::MAX);
        let lock = LockServer::new(lock::LockService::new(node.clone(), limits, draining.clone()))
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(usize::MAX);
        let election = election::ElectionService::new(node.clone(), limits, message_bytes_max, draining.clone());
        let election = ElectionServer::new(election)
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(usize::MAX);
        let health = HealthServer::new(health::HealthService);
        let of_etcd = services::Services::default().add(kv).add(watch).add(lease).add(cluster).add(maintenance);
        let services = of_etcd.add(lock).add(election).add(leases).add(locks).add(health);
        let router = services.routes().into_axum_router().merge(http::router(node.clone())).fallback(fallback::answer);
        let admission = gate::Admission::new(&node.shared().raft);
        let calls = Calls::new(admission, kv_service, lease_service, locks_service.clone());
        let streams = Streams::new(node, watch_service, locks_service);
        Served { routes: Routes::from(router), calls, streams, message_bytes_max }
    }
}

/// A response's header, with the revision that the response is about.
fn header(node: &Node, revision: Revision) -> pb::ResponseHeader {
    let raft = &node.shared().raft;
    pb::ResponseHeader {
        cluster_id: raft.cluster().0,
        member_id: raft.member().0,
        revision: revision.0,
        raft_term: node.term().0,
    }
}
