//! Puts a member together and runs it: threads, runtimes, listeners, and the order in which they end.
//!
//! Threads: one for consensus, peers and housekeeping; one or more for clients, each with a runtime of its own, its own
//! connections (the kernel spreads them by `SO_REUSEPORT`) and its own queues of writes; one for the watch hub and one for
//! the lessor; one for apply and one for the log's syncs, which belong to `tenure-raft`. On a stop, leadership is handed over while requests are still served, then
//! no more are accepted, then consensus ends. Killing the process at any moment is as good a stop.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tenure_core::MemberId;
use tenure_raft::accept::Listening;
use tenure_raft::log::{LogOptions, OsFiles};
use tenure_raft::{
    Dialer, Founding, Housekeeping, NodeError, NodeOptions, PartitionedDialer, Peer, PeerPort, SnapshotOptions,
    TcpDialer,
};
use tenure_storage::engine::EngineFactory;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};

use crate::config::{ClusterState, ConfigError, InitialCluster, ServerConfig, Url};
use crate::faults;
use crate::grpc;
use crate::listen;
use crate::member::{Member, MemberOptions};
use crate::node::watch::RING_BYTES_MAX;
use crate::node::{Node, Shared, auto_compaction_loop};
use crate::tls::{PortError, Ports};

/// Open files that are not for clients: 512 tables of the storage engine, as many of the one that replaces it when a
/// snapshot is installed, 256 connections of peers, and the log.
const FILES_RESERVED: usize = 1536;

/// Client connections, however many files may be open.
const CLIENT_CONNECTIONS_MAX: usize = 1 << 20;

/// How long open requests may take to end once a stop was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What a request may take beside two election timeouts.
const REQUEST_TIMEOUT_BASE: Duration = Duration::from_secs(5);

/// Why a server could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The flags do not fit together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A URL could not be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(Url, io::Error),
    /// The address for faults could not be listened on.
    #[error("cannot listen on {0} for faults: {1}")]
    Faults(SocketAddr, io::Error),
    /// A fault to inject means nothing.
    #[error(transparent)]
    Failpoints(#[from] tenure_faults::SetError),
    /// A port cannot speak TLS.
    #[error(transparent)]
    Tls(#[from] PortError),
    /// The member could not start, or failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A thread or runtime could not be made.
    #[error("starting: {0}")]
    Start(#[from] io::Error),
}

/// Runs a member until `shutdown` turns true or it fails. Blocks the calling thread.
pub fn serve(
    config: ServerConfig,
    engines: Arc<dyn EngineFactory>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    if tenure_faults::INJECTS {
        inject(&config)?;
    }
    let founding = founding(&config)?;
    let tls = Ports::open(&config)?;
    let peers = listen::on(&config.listen_peer_urls, 1, tls.peer.as_ref())?.remove(0);
    let clients = listen::on(&config.listen_client_urls, client_threads(), tls.client.as_ref())?;
    let metrics = listen::on(&config.listen_metrics_urls, 1, tls.client.as_ref())?.remove(0);
    let dialer = dialer(founding.member, TcpDialer::new(tls.dial.clone()));
    let options = NodeOptions {
        founding,
        may_found: config.initial_cluster_state == ClusterState::New,
        data_dir: config.data_dir.clone(),
        heartbeat: config.heartbeat_interval,
        election_timeout: config.election_timeout,
        slow_apply: config.warning_apply_duration,
        log: LogOptions::default(),
        housekeeping: Housekeeping {
            flush_entries: config.snapshot_count,
            keep_log_entries: config.snapshot_catchup_entries.map(NonZeroU64::get),
            ..Housekeeping::default()
        },
        snapshots: SnapshotOptions {
            bytes_per_second: config.snapshot_send_bytes_per_second,
            ..SnapshotOptions::default()
        },
        dialer,
    };
    let runtime = current_thread()?;
    let result = runtime.block_on(run(config, options, engines, Listeners { peers, clients, metrics }, shutdown));
    // Work on other threads, a flush or a purge, is not worth waiting for: it is done again, or not needed.
    runtime.shutdown_timeout(DRAIN_TIMEOUT);
    result
}

/// How peers are dialled.
fn dialer(member: MemberId, dialer: TcpDialer) -> Arc<dyn Dialer> {
    if tenure_faults::INJECTS {
        return Arc::new(PartitionedDialer::new(member, tenure_raft::partition(), dialer));
    }
    Arc::new(dialer)
}

/// Lets the faults wait that the flags name, and serves the port for others.
fn inject(config: &ServerConfig) -> Result<(), ServeError> {
    tenure_faults::registry().set_all(&config.failpoints)?;
    if let Some(address) = config.fault_injection {
        faults::serve(address).map_err(|error| ServeError::Faults(address, error))?;
    }
    Ok(())
}

/// Bound before anything else is done, so that a port in use is a clear error and not a half-started member.
struct Listeners {
    peers: Vec<Listening>,
    /// One set per client thread.
    clients: Vec<Vec<Listening>>,
    metrics: Vec<Listening>,
}

async fn run(
    config: ServerConfig,
    options: NodeOptions,
    engines: Arc<dyn EngineFactory>,
    listeners: Listeners,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let peers = PeerPort::Sockets(listeners.peers);
    let starting = Member::start(options, member_options(&config), engines, Arc::new(OsFiles), peers, Vec::new());
    let member = tokio::select! {
        started = starting => started?,
        () = stop_asked(&mut shutdown) => return Ok(()),
    };
    let (shared, raft) = (member.shared.clone(), member.raft().clone());
    let (drain, draining) = watch::channel(false);
    let config = Arc::new(config);
    let mut threads = Vec::new();
    let mut metrics = Some(listeners.metrics);
    for (number, sockets) in listeners.clients.into_iter().enumerate() {
        let sockets = ClientSockets { number, clients: sockets, metrics: metrics.take() };
        threads.push(spawn_clients(config.clone(), shared.clone(), sockets, draining.clone())?);
    }
    let result = tokio::select! {
        error = raft.failed() => Err(ServeError::Node(error)),
        () = stop_asked(&mut shutdown) => {
            tracing::info!("stopping");
            raft.hand_over().await;
            Ok(())
        }
    };
    drain.send_replace(true);
    for (thread, done) in threads {
        if tokio::time::timeout(DRAIN_TIMEOUT, done).await.is_ok() && thread.join().is_err() {
            tracing::error!("a client thread panicked");
        }
    }
    drop(member);
    raft.stop().await;
    result
}

/// Returns once the flag is up; a dropped sender counts as a stop.
async fn stop_asked(shutdown: &mut watch::Receiver<bool>) {
    if shutdown.wait_for(|stop| *stop).await.is_err() {
        tracing::debug!("nobody can ask for a stop any more");
    }
}

fn member_options(config: &ServerConfig) -> MemberOptions {
    MemberOptions {
        name: config.name.clone(),
        client_urls: config.advertise_client_urls.iter().map(|url| url.as_str().to_owned()).collect(),
        quota_bytes: config.quota_backend_bytes,
        request_timeout: REQUEST_TIMEOUT_BASE + 2 * config.election_timeout,
        slow_request: config.warning_unary_request_duration,
        connections_max: client_connections_max(),
        watch_progress_interval: config.watch_progress_notify_interval,
        watch_ring_bytes_max: RING_BYTES_MAX,
    }
}

type ClientThread = (JoinHandle<()>, oneshot::Receiver<()>);

/// What one client thread listens on.
struct ClientSockets {
    number: usize,
    clients: Vec<Listening>,
    /// The first thread has the metrics listeners too, and tells the cluster and the operator that this member serves.
    metrics: Option<Vec<Listening>>,
}

fn spawn_clients(
    config: Arc<ServerConfig>,
    shared: Arc<Shared>,
    sockets: ClientSockets,
    draining: watch::Receiver<bool>,
) -> Result<ClientThread, ServeError> {
    let runtime = current_thread()?;
    let (done, ended) = oneshot::channel::<()>();
    let thread = thread::Builder::new().name(format!("clients-{}", sockets.number)).spawn(move || {
        runtime.block_on(async {
            let node = Node::start(shared);
            let serving = grpc::serve(&node, &config, sockets.clients, draining);
            let first = async {
                if let Some(listeners) = sockets.metrics {
                    let compacting = async {
                        if let Some(keep) = config.auto_compaction {
                            auto_compaction_loop(node.clone(), keep).await;
                        }
                    };
                    tokio::join!(announce_member(&node, &config), grpc::serve_metrics(&node, listeners), compacting);
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = serving => {}
                () = first => {}
            }
        });
        runtime.shutdown_background();
        drop(done);
    })?;
    Ok((thread, ended))
}

async fn announce_member(node: &Node, config: &ServerConfig) {
    if let Err(error) = node.publish().await {
        tracing::warn!(%error, "this member's name and client URLs could not be published");
        return;
    }
    let urls: Vec<&str> = config.advertise_client_urls.iter().map(|url| url.as_str()).collect();
    tracing::info!(
        name = config.name,
        member = format!("{:x}", node.shared().raft.member().0),
        cluster = format!("{:x}", node.shared().raft.cluster().0),
        client_urls = urls.join(","),
        "ready to serve client requests"
    );
}

/// Who this member is: what its directory says, or what the flags say of a directory that is empty.
fn founding(config: &ServerConfig) -> Result<Founding, ServeError> {
    let Some(stored) = Founding::stored(&config.data_dir)? else {
        return Ok(founding_of_flags(config)?);
    };
    let own_name = stored.members.iter().find(|(id, _)| *id == stored.member).map(|(_, peer)| peer.name.as_str());
    // Without --initial-cluster, the flags know of this member alone; its directory knows the rest.
    let flags_tell_the_cluster = config.initial_cluster.len() > 1 || stored.members.len() == 1;
    if own_name == Some(config.name.as_str()) && !flags_tell_the_cluster {
        return Ok(stored);
    }
    let given = founding_of_flags(config)?;
    if (given.cluster, given.member) == (stored.cluster, stored.member) {
        return Ok(stored);
    }
    Err(NodeError::foreign(&config.data_dir, &stored, &given).into())
}

fn founding_of_flags(config: &ServerConfig) -> Result<Founding, ConfigError> {
    Ok(founding_of(&config.bootstrap()?))
}

pub(crate) fn founding_of(cluster: &InitialCluster) -> Founding {
    let peer = |name: &str, urls: &[Url]| Peer {
        name: name.to_owned(),
        peer_urls: urls.iter().map(|url| url.as_str().to_owned()).collect(),
    };
    Founding {
        cluster: cluster.cluster_id,
        member: cluster.member_id,
        members: cluster.members.iter().map(|m| (m.id, peer(&m.name, &m.peer_urls))).collect(),
    }
}

/// How many client connections there may be: what the limit of open files leaves when the storage engine, the log and
/// the peers have theirs.
fn client_connections_max() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let files = usize::try_from(files).unwrap_or(usize::MAX).min(CLIENT_CONNECTIONS_MAX);
    // A limit this low is warned of at the start; half of it is the best that can be done.
    if files > 2 * FILES_RESERVED { files - FILES_RESERVED } else { files / 2 }
}

/// One thread on small machines; beyond that, all cores but the one that consensus keeps busy.
fn client_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1)
}

fn current_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
