//! A member of a cluster, put together: consensus, what its effects feed, the lessor, and what every runtime shares.
//!
//! There is one way to do it. The server does it over sockets and real disks, tests and the simulator over what they
//! carry and count themselves.

use std::sync::Arc;
use std::time::Duration;

use tenure_raft::log::FileLayer;
use tenure_raft::{Effects, NodeError, NodeOptions, PeerPort, RaftNode};
use tenure_storage::engine::EngineFactory;
use tokio::sync::Semaphore;

use crate::node::watch::WatchHub;
use crate::node::{Fates, LeaseFeed, LessorReports, LessorThread, LockHub, Shared};

/// What clients of the member see of its settings.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// No more is stored than this; `None` for no limit.
    pub quota_bytes: Option<u64>,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// Requests that take longer are logged.
    pub slow_request: Option<Duration>,
    /// Client connections at most.
    pub connections_max: usize,
    /// How often a quiet watcher that asked for it hears how far it is.
    pub watch_progress_interval: Duration,
    /// Recent events that watchers need no read for; 64 MiB unless somebody wants reads.
    pub watch_ring_bytes_max: usize,
}

/// A member that takes part.
pub struct Member {
    /// What the client runtimes share.
    pub shared: Arc<Shared>,
    /// Ends the lessor with the member.
    _lessor: LessorThread,
}

impl Member {
    /// Opens log and state, joins the cluster and returns once the member takes part in it. `observers` are told of
    /// everything that is applied, as its own parts are.
    pub async fn start(
        node: NodeOptions,
        options: MemberOptions,
        engines: Arc<dyn EngineFactory>,
        files: Arc<dyn FileLayer>,
        peers: PeerPort,
        observers: Vec<Arc<dyn Effects>>,
    ) -> Result<Member, NodeError> {
        let thread = |error| NodeError::Io("starting a thread".into(), error);
        let watches = WatchHub::start(options.watch_ring_bytes_max).map_err(thread)?;
        let leases = Arc::new(LeaseFeed::default());
        let fates = Arc::new(Fates::default());
        let locks = Arc::new(LockHub::default());
        let mut effects: Vec<Arc<dyn Effects>> =
            vec![Arc::new(watches.clone()), leases.clone(), locks.clone(), fates.clone()];
        effects.extend(observers);
        let raft = RaftNode::start(node, engines, files, peers, effects).await?;
        let shared = Shared {
            raft: raft.clone(),
            name: options.name,
            client_urls: options.client_urls,
            quota_bytes: options.quota_bytes,
            request_timeout: options.request_timeout,
            slow_request: options.slow_request,
            connections: Arc::new(Semaphore::new(options.connections_max)),
            raising_alarm: tokio::sync::Mutex::default(),
            groups: Arc::default(),
            lessor: LessorReports::default(),
            locks,
            watches,
            fates,
            contests: Arc::default(),
            watch_progress_interval: options.watch_progress_interval,
        };
        let lessor = LessorThread::start(raft, leases, shared.lessor.clone()).map_err(thread)?;
        Ok(Member { shared: Arc::new(shared), _lessor: lessor })
    }

    /// Consensus.
    pub fn raft(&self) -> &RaftNode {
        &self.shared.raft
    }
}
