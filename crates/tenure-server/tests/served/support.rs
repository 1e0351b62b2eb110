//! Servers that found a cluster, each on a thread of its own, and how to talk to them.

use std::ffi::OsString;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tenure_server::config::{Invocation, ServerConfig};
use tenure_server::snapshot_file::{self, SnapshotFileError};
use tenure_server::{ServeError, serve};
use tenure_storage::engine::EngineFactory;
use tenure_storage::mem_engines::MemEngines;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

/// The longest that anything here may take. Hit only by a bug: a loaded machine may be slow, but not this slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Flags by which a leader stays the leader until it is stopped, however busy the machine is.
pub(crate) const CALM: [&str; 2] = ["--election-timeout=3000", "--heartbeat-interval=100"];

/// One server.
pub(crate) struct Server {
    pub(crate) clients: SocketAddr,
    pub(crate) peers: SocketAddr,
    pub(crate) flags: Vec<String>,
    engines: MemEngines,
    pub(crate) dir: TempDir,
    life: Option<Life>,
}

struct Life {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    /// Starts it on what its directory and its engines hold.
    pub(crate) fn start(&mut self) {
        assert!(self.life.is_none(), "it runs already");
        let config = config(&self.flags);
        let (stop, stopping) = watch::channel(false);
        let engines: Arc<dyn EngineFactory> = Arc::new(self.engines.clone());
        let thread = std::thread::spawn(move || serve(config, engines, stopping));
        self.life = Some(Life { stop, thread });
    }

    /// Stops it as SIGTERM would.
    pub(crate) fn stop(&mut self) {
        let Some(life) = self.life.take() else { return };
        life.stop.send_replace(true);
        let ended = life.thread.join().expect("a server panicked");
        ended.unwrap_or_else(|error| panic!("a server failed: {error}"));
    }

    /// Makes its data directory from a snapshot, by the command line of `tenured`.
    pub(crate) fn restore(&self, file: &Path, more: &[&str]) -> Result<String, SnapshotFileError> {
        const FOUNDING: [&str; 4] = ["--name=", "--data-dir=", "--initial-cluster=", "--initial-advertise-peer-urls="];
        let founding = self.flags.iter().filter(|flag| FOUNDING.iter().any(|name| flag.starts_with(name)));
        let words = founding.map(String::as_str).chain(more.iter().copied());
        snapshot(
            &self.engines,
            &[&["restore", file.to_str().expect("a path")][..], &words.collect::<Vec<_>>()].concat(),
        )
    }

    /// Why it ended by itself.
    pub(crate) fn failure(&mut self) -> ServeError {
        let life = self.life.take().expect("it was started");
        life.thread.join().expect("a server panicked").expect_err("it fails")
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.clients)).expect("a URL");
        within("a connection", async {
            loop {
                if let Ok(channel) = endpoint.connect().await {
                    return channel;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    pub(crate) async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await)
    }

    pub(crate) async fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel().await)
    }

    pub(crate) async fn status(&self) -> pb::StatusResponse {
        let answer = self.maintenance().await.status(pb::StatusRequest::default()).await;
        answer.expect("a status").into_inner()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not `stop`: a server that failed must not hide the panic that ends the test.
        if let Some(life) = self.life.take() {
            life.stop.send_replace(true);
            drop(life.thread.join());
        }
    }
}

/// What `tenured snapshot` does and prints.
pub(crate) fn snapshot(engines: &MemEngines, words: &[&str]) -> Result<String, SnapshotFileError> {
    let words = ["snapshot"].iter().chain(words).map(OsString::from);
    match Invocation::from_args(words, []) {
        Ok(Invocation::Snapshot(command)) => {
            // It blocks, and has a runtime of its own for a while.
            let work = move || snapshot_file::run(&command, engines.clone());
            std::thread::scope(|scope| scope.spawn(work).join().expect("it does not panic"))
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn config(flags: &[String]) -> ServerConfig {
    match Invocation::from_args(flags.iter().map(OsString::from), []) {
        Ok(Invocation::Serve(config)) => *config,
        Ok(other) => panic!("{flags:?} are {other:?}"),
        Err(error) => panic!("{flags:?}: {error}"),
    }
}

/// Servers that do not run yet; the flags go to all of them.
pub(crate) fn servers(size: usize, flags: &[&str]) -> Vec<Server> {
    servers_over(["http", "http"], size, flags)
}

/// Servers that do not run yet, with these schemes for clients and peers.
pub(crate) fn servers_over([client, peer]: [&str; 2], size: usize, flags: &[&str]) -> Vec<Server> {
    let addresses: Vec<[SocketAddr; 2]> = (0..size).map(|_| free_addresses()).collect();
    let members: Vec<String> = (1..).zip(&addresses).map(|(n, [_, peers])| format!("n{n}={peer}://{peers}")).collect();
    let server = |(number, [clients, peers]): (usize, [SocketAddr; 2])| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut all = vec![
            format!("--name=n{number}"),
            format!("--data-dir={}", dir.path().display()),
            format!("--listen-client-urls={client}://{clients}"),
            format!("--advertise-client-urls={client}://{clients}"),
            format!("--listen-peer-urls={peer}://{peers}"),
            format!("--initial-advertise-peer-urls={peer}://{peers}"),
            format!("--initial-cluster={}", members.join(",")),
        ];
        all.extend(flags.iter().map(ToString::to_string));
        Server { clients, peers, flags: all, engines: MemEngines::default(), dir, life: None }
    };
    (1..).zip(addresses).map(server).collect()
}

/// Servers that run, and all of which know one leader.
pub(crate) async fn cluster(size: usize, flags: &[&str]) -> Vec<Server> {
    let mut servers = servers(size, flags);
    servers.iter_mut().for_each(Server::start);
    leader(&servers).await;
    servers
}

/// The server that leads, by its place, once all of them say so.
pub(crate) async fn leader(servers: &[Server]) -> usize {
    within("a leader", async {
        loop {
            let mut statuses = Vec::new();
            for server in servers {
                statuses.push(server.status().await);
            }
            let named = statuses[0].leader;
            let agreed = named != 0 && statuses.iter().all(|status| status.leader == named);
            let id = |status: &pb::StatusResponse| status.header.as_ref().map(|header| header.member_id);
            if let Some(place) = statuses.iter().position(|status| agreed && id(status) == Some(named)) {
                return place;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Waits for something that must happen.
pub(crate) async fn within<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, happens).await {
        Ok(result) => result,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Runs a test on a runtime of its own.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test)
}

/// Two addresses that are free now and that nobody else binds: the kernel gives connections other ones.
pub(crate) fn free_addresses() -> [SocketAddr; 2] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let octet = |n: u32| u8::try_from(n % 250 + 1).expect("at most 250");
    // Another part of loopback than that of the tests that take members apart.
    let host = Ipv4Addr::new(127, octet(process), octet(number / 250 + process / 250 + 125), octet(number));
    let listeners = [0; 2].map(|_| TcpListener::bind((IpAddr::V4(host), 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address"))
}
