//! One member: a data directory, a machine, an address, and while it runs a thread with a runtime of its own.
//!
//! Killing it is what a power cut does to a process: the disk stops first, then everything of it is dropped at once. Its
//! address is one that nobody else binds: loopback has 2^24 of them, and only the port is left to the kernel.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use tenure_core::ClusterId;
use tenure_raft::log::{Keep, LogOptions, LogStore};
use tenure_raft::{Founding, Housekeeping, NodeError, NodeOptions, PeerPort, SnapshotOptions, TcpDialer};
use tenure_server::member::{self as server, MemberOptions};
use tenure_server::node::Node;
use tenure_server::node::watch::RING_BYTES_MAX;
use tenure_storage::engine::Engine;
use tenure_storage::store::StateStore;
use tokio::sync::oneshot;

use tenure_raft::sim::{Flaw, Kept, Machine, Remains};

/// How a member of a test behaves.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) election_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) quota_bytes: Option<u64>,
    pub(crate) may_found: bool,
    pub(crate) segment_bytes: u32,
    pub(crate) quick_sync: Duration,
    pub(crate) housekeeping: Housekeeping,
    pub(crate) snapshots: SnapshotOptions,
    pub(crate) flaw: Flaw,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            election_timeout: Duration::from_millis(400),
            request_timeout: Duration::from_secs(10),
            quota_bytes: None,
            may_found: true,
            segment_bytes: 1 << 20,
            quick_sync: LogOptions::default().quick_sync,
            housekeeping: Housekeeping::default(),
            snapshots: SnapshotOptions::default(),
            flaw: Flaw::None,
        }
    }
}

impl Settings {
    /// For tests that watch one leader: however busy the machine is, it stays the leader.
    pub(crate) fn with_a_lasting_leader() -> Settings {
        Settings { election_timeout: Duration::from_secs(2), ..Settings::default() }
    }
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) founding: Founding,
    pub(crate) settings: Settings,
    pub(crate) machine: Machine,
    pub(crate) address: SocketAddr,
    dir: TempDir,
    life: Option<Life>,
}

#[derive(Debug)]
struct Life {
    end: oneshot::Sender<End>,
    thread: JoinHandle<()>,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Killed,
    Stopped,
}

/// A member on its way up.
pub(crate) struct Starting(oneshot::Receiver<Result<Node, NodeError>>);

impl Starting {
    /// Returns once the member takes part, or cannot.
    pub(crate) async fn up(&mut self) -> Result<Node, NodeError> {
        (&mut self.0).await.unwrap_or_else(|_| Err(NodeError::Raft("killed while it started".into())))
    }
}

impl Member {
    pub(crate) fn new(founding: Founding, address: SocketAddr, settings: Settings) -> Member {
        let machine = Machine::new(settings.flaw);
        let dir = tempfile::tempdir().expect("a temporary directory");
        Member { founding, settings, machine, address, dir, life: None }
    }

    /// The engine under the member's state.
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        self.machine.engine_in(&self.state_dir().expect("it was started before"))
    }

    /// The directory that holds the state, if there is one.
    pub(crate) fn state_dir(&self) -> Option<PathBuf> {
        let dir = self.data_dir().join("state");
        let name = String::from_utf8(self.machine.contents(&dir.join("generation"))?).expect("text");
        let number = name.lines().find_map(|line| line.strip_prefix("generation ")).expect("a number");
        Some(dir.join(number))
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the member on what its directory and machine hold.
    pub(crate) fn start(&mut self) -> Starting {
        assert!(self.life.is_none(), "it runs already");
        let (ready, starting) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (options, shared) = (self.options(), self.settings.clone());
        let (machine, address) = (self.machine.clone(), self.address);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(live(options, shared, &machine, address, ready, ended));
            runtime.shutdown_background();
        });
        self.life = Some(Life { end, thread });
        Starting(starting)
    }

    /// Starts the member and waits until it takes part.
    pub(crate) async fn up(&mut self) -> Result<Node, NodeError> {
        let mut starting = self.start();
        starting.up().await
    }

    /// Cuts the machine's power. The member is gone when this returns.
    pub(crate) fn kill(&mut self) {
        self.machine.cut();
        self.end(End::Killed);
    }

    /// Stops the member as an operator would.
    pub(crate) fn stop(&mut self) {
        self.end(End::Stopped);
    }

    fn end(&mut self, end: End) {
        let Some(life) = self.life.take() else { return };
        // A member that failed to start has ended by itself.
        drop(life.end.send(end));
        life.thread.join().expect("a member panicked");
    }

    /// Kills the member and gives it a machine with what is left on the disk.
    pub(crate) fn crash(&mut self, keep: Keep, kept: Kept) {
        self.kill();
        self.reboot(&self.machine.remains(keep), kept);
    }

    /// A machine that finds what another one left.
    pub(crate) fn reboot(&mut self, remains: &Remains, kept: Kept) {
        assert!(self.life.is_none(), "it runs");
        self.machine = remains.boot(kept, self.settings.flaw);
    }

    /// Kills the member and empties its disk and its directory.
    pub(crate) fn wipe(&mut self) {
        self.kill();
        self.machine = Machine::new(self.settings.flaw);
        self.dir = tempfile::tempdir().expect("a temporary directory");
    }

    /// Empties the engine of a member that does not run; log and identity stay.
    pub(crate) fn lose_state(&mut self) {
        assert!(self.life.is_none(), "it runs");
        self.machine = self.machine.remains(Keep::Everything).boot_without_state();
    }

    /// Exchanges the data of two members that do not run.
    pub(crate) fn swap_data(&mut self, other: &mut Member) {
        assert!(self.life.is_none() && other.life.is_none(), "one runs");
        std::mem::swap(&mut self.machine, &mut other.machine);
        std::mem::swap(&mut self.dir, &mut other.dir);
    }

    /// Looks at log and state as they are found at a start. The member does not run.
    pub(crate) fn findings(&self) -> Result<Findings, NodeError> {
        assert!(self.life.is_none(), "it runs");
        let log_dir = self.data_dir().join("raft").join("log");
        let log = LogStore::open(self.machine.files(), log_dir, self.log_options())?;
        let state = self.state_dir().map(|dir| StateStore::open(self.machine.engine_in(&dir))).transpose()?;
        let applied = state.as_ref().map(StateStore::applied).filter(|applied| !applied.membership.is_empty());
        let applied = applied.map(|applied| applied.index.0);
        Ok(Findings { first_entry: log.first_index(), last_entry: log.last_index(), applied })
    }

    fn log_options(&self) -> LogOptions {
        let Settings { segment_bytes, quick_sync, .. } = self.settings;
        LogOptions { segment_bytes, quick_sync, ..LogOptions::default() }
    }

    fn options(&self) -> NodeOptions {
        NodeOptions {
            founding: self.founding.clone(),
            may_found: self.settings.may_found,
            data_dir: self.data_dir().to_owned(),
            heartbeat: self.settings.election_timeout / 10,
            election_timeout: self.settings.election_timeout,
            log: self.log_options(),
            housekeeping: self.settings.housekeeping,
            snapshots: self.settings.snapshots,
            slow_apply: None,
            dialer: Arc::new(TcpDialer::default()),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Not `kill`: a panic of the member's thread must not hide the panic that ends the test.
        self.machine.cut();
        if let Some(life) = self.life.take() {
            drop(life.end);
            drop(life.thread.join());
        }
    }
}

/// What a member finds when it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Findings {
    pub(crate) first_entry: u64,
    pub(crate) last_entry: Option<u64>,
    /// The last entry that the state holds.
    pub(crate) applied: Option<u64>,
}

/// Runs a member until its end.
async fn live(
    options: NodeOptions,
    settings: Settings,
    machine: &Machine,
    address: SocketAddr,
    ready: oneshot::Sender<Result<Node, NodeError>>,
    mut ended: oneshot::Receiver<End>,
) {
    let listener = bind(address);
    let member = MemberOptions {
        name: format!("n{}", options.founding.member),
        client_urls: Vec::new(),
        quota_bytes: settings.quota_bytes,
        request_timeout: settings.request_timeout,
        slow_request: None,
        connections_max: 1024,
        watch_progress_interval: Duration::from_secs(600),
        watch_ring_bytes_max: RING_BYTES_MAX,
    };
    let peers = PeerPort::Sockets(vec![listener.into()]);
    let starting = server::Member::start(options, member, machine.engines(), machine.files(), peers, Vec::new());
    let member = tokio::select! {
        started = starting => match started {
            Ok(member) => member,
            Err(error) => return drop(ready.send(Err(error))),
        },
        _ = &mut ended => return,
    };
    let raft = member.raft().clone();
    let node = Node::start(member.shared.clone());
    // A test that was not interested has ended the wait.
    drop(ready.send(Ok(node)));
    let end = ended.await;
    drop(member);
    if end == Ok(End::Stopped) {
        raft.hand_over().await;
        raft.stop().await;
    }
}

fn bind(address: SocketAddr) -> TcpListener {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    // Connections of the last life linger.
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("{address}: {error}"));
    socket.listen(128).expect("to listen");
    socket.into()
}

/// An address that is free now and that nobody takes while a member is down: the kernel gives connections other ones.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let octet = |n: u32| u8::try_from(n % 250 + 1).expect("at most 250");
    let host = Ipv4Addr::new(127, octet(process), octet(number / 250 + process / 250), octet(number));
    let listener = TcpListener::bind((IpAddr::V4(host), 0)).expect("a free port");
    listener.local_addr().expect("an address")
}

/// The cluster that a test's members found.
pub(crate) const CLUSTER: ClusterId = ClusterId(0xc1);
