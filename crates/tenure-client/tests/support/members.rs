//! Members that found a cluster, each on a thread of its own: their engine is in memory, their log and their sockets are real.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use tempfile::TempDir;
use tenure_client::{Client, ConnectOptions};
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tenure_proto::etcdserverpb::{StatusRequest, StatusResponse};
use tenure_server::config::{Invocation, ServerConfig};
use tenure_server::{ServeError, serve};
use tenure_storage::engine::EngineFactory;
use tenure_storage::mem_engines::MemEngines;
use tokio::sync::watch;
use tonic::transport::Endpoint;

use super::eventually;

/// Flags by which a leader stays the leader until it is stopped, however busy the machine is.
pub const CALM: [&str; 2] = ["--election-timeout=3000", "--heartbeat-interval=100"];

/// One member. It is stopped, and its thread joined, when it is dropped.
pub struct Member {
    /// Where it listens for clients.
    pub clients: SocketAddr,
    /// What it is started with.
    pub flags: Vec<String>,
    engines: MemEngines,
    dir: TempDir,
    life: Option<Life>,
}

struct Life {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<(), ServeError>>,
}

impl Member {
    /// Starts it on what its directory and its engines hold.
    pub fn start(&mut self) {
        assert!(self.life.is_none(), "it runs already");
        let config = config(&self.flags);
        let (stop, stopping) = watch::channel(false);
        let engines: Arc<dyn EngineFactory> = Arc::new(self.engines.clone());
        let thread = std::thread::spawn(move || serve(config, engines, stopping));
        self.life = Some(Life { stop, thread });
    }

    /// Stops it as SIGTERM would. Returns once it is gone; that blocks the thread.
    pub fn stop(&mut self) {
        let Some(life) = self.life.take() else { return };
        life.stop.send_replace(true);
        let ended = life.thread.join().expect("a member panicked");
        ended.unwrap_or_else(|error| panic!("a member failed: {error}"));
    }

    pub fn is_running(&self) -> bool {
        self.life.is_some()
    }

    /// Its client address, as a client is given it.
    pub fn endpoint(&self) -> String {
        self.clients.to_string()
    }

    /// What it tells of itself, once it answers.
    pub async fn status(&self) -> StatusResponse {
        let url = format!("http://{}", self.clients);
        eventually("a member answers", async || {
            let channel = Endpoint::from_shared(url.clone()).expect("a URL").connect().await.ok()?;
            let status = MaintenanceClient::new(channel).status(StatusRequest::default()).await;
            status.ok().map(tonic::Response::into_inner)
        })
        .await
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Not `stop`: a member that failed must not hide the panic that ends the test.
        if let Some(life) = self.life.take() {
            life.stop.send_replace(true);
            drop(life.thread.join());
        }
    }
}

/// Some members.
pub struct Cluster {
    pub members: Vec<Member>,
}

impl Cluster {
    /// A cluster of one, which runs and leads.
    pub async fn one() -> Cluster {
        Cluster::start(1, &[]).await
    }

    /// A cluster of three, which runs and has a leader that is not easily deposed.
    pub async fn three() -> Cluster {
        Cluster::start(3, &CALM).await
    }

    /// A cluster that runs, and all of whose members know one leader. The flags go to all members.
    pub async fn start(size: usize, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::stopped("http", size, flags);
        cluster.members.iter_mut().for_each(Member::start);
        cluster.leader().await;
        cluster
    }

    /// Members that do not run yet, which speak this scheme with clients.
    pub fn stopped(scheme: &str, size: usize, flags: &[&str]) -> Cluster {
        let addresses: Vec<[SocketAddr; 2]> = (0..size).map(|_| free_addresses()).collect();
        let members: Vec<String> =
            (1..).zip(&addresses).map(|(n, [_, peers])| format!("n{n}=http://{peers}")).collect();
        let member = |(number, [clients, peers]): (usize, [SocketAddr; 2])| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let mut all = vec![
                format!("--name=n{number}"),
                format!("--data-dir={}", dir.path().display()),
                format!("--listen-client-urls={scheme}://{clients}"),
                format!("--advertise-client-urls={scheme}://{clients}"),
                format!("--listen-peer-urls=http://{peers}"),
                format!("--initial-advertise-peer-urls=http://{peers}"),
                format!("--initial-cluster={}", members.join(",")),
            ];
            all.extend(flags.iter().map(ToString::to_string));
            Member { clients, flags: all, engines: MemEngines::default(), dir, life: None }
        };
        Cluster { members: (1..).zip(addresses).map(member).collect() }
    }

    /// The client addresses of all members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// A client of all members.
    pub async fn client(&self) -> Client {
        self.client_with(ConnectOptions::default()).await
    }

    /// A client of all members, with these options.
    pub async fn client_with(&self, options: ConnectOptions) -> Client {
        super::within("a client", Client::connect(self.endpoints(), options)).await.expect("a client")
    }

    /// The member that leads, by its place, once all that run say so.
    pub async fn leader(&self) -> usize {
        let running: Vec<usize> = (0..self.members.len()).filter(|place| self.members[*place].is_running()).collect();
        eventually("a leader", async || {
            let mut statuses = Vec::new();
            for place in &running {
                statuses.push((*place, self.members[*place].status().await));
            }
            let named = statuses.first()?.1.leader;
            let agreed = named != 0 && statuses.iter().all(|(_, status)| status.leader == named);
            let id = |status: &StatusResponse| status.header.as_ref().map(|header| header.member_id);
            statuses.iter().find(|(_, status)| agreed && id(status) == Some(named)).map(|(place, _)| *place)
        })
        .await
    }
}

fn config(flags: &[String]) -> ServerConfig {
    match Invocation::from_args(flags.iter().map(OsString::from), []) {
        Ok(Invocation::Serve(config)) => *config,
        Ok(other) => panic!("{flags:?} are {other:?}"),
        Err(error) => panic!("{flags:?}: {error}"),
    }
}

/// Two addresses that are free now and that nobody else binds: the kernel gives connections other ones.
pub fn free_addresses() -> [SocketAddr; 2] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let octet = |n: u32| u8::try_from(n % 250 + 1).expect("at most 250");
    // Another part of loopback than those of the other tests that start members.
    let host = Ipv4Addr::new(127, octet(process), octet(number / 250 + process / 250 + 60), octet(number));
    let listeners = [0; 2].map(|_| TcpListener::bind((IpAddr::V4(host), 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address"))
}
