//! A proxy between a client and a member, which fails as networks do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How the proxy treats what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Hands on everything.
    Pass,
    /// Nothing comes through in either direction; connections stay, and new ones are accepted. What was sent meanwhile comes
    /// through when it passes again, as after a network was down.
    Stall,
    /// What clients send comes through, and no answer does, until it passes again.
    StallReplies,
    /// Connections are closed, and new ones at once.
    Refuse,
}

/// See the module's header. Must be made on a runtime, and stops when it is dropped.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Counts what was cut.
    cuts: watch::Sender<u64>,
    accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// A proxy before this address, which passes everything.
    pub async fn before(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (mode, cuts) = (watch::Sender::new(Mode::Pass), watch::Sender::new(0));
        let accepted = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, mode.clone(), cuts.clone(), accepted.clone()));
        Proxy { address, mode, cuts, accepted, _tasks: tasks }
    }

    /// One before each.
    pub async fn before_each(targets: impl IntoIterator<Item = SocketAddr>) -> Vec<Proxy> {
        let mut proxies = Vec::new();
        for target in targets {
            proxies.push(Proxy::before(target).await);
        }
        proxies
    }

    /// As a client is given it.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Closes the connections that there are.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// How many connections were made.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    mode: watch::Sender<Mode>,
    cuts: watch::Sender<u64>,
    accepted: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        accepted.fetch_add(1, Ordering::Relaxed);
        if *mode.borrow() == Mode::Refuse {
            continue;
        }
        connections.spawn(serve(client, target, mode.subscribe(), cuts.subscribe()));
        // Those that have ended are not kept.
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(client: TcpStream, target: SocketAddr, mode: watch::Receiver<Mode>, mut cuts: watch::Receiver<u64>) {
    let Ok(member) = TcpStream::connect(target).await else { return };
    drop(client.set_nodelay(true).and_then(|()| member.set_nodelay(true)));
    let ((from_client, to_client), (from_member, to_member)) = (client.into_split(), member.into_split());
    let mut refused = mode.clone();
    tokio::select! {
        _ = pump(from_client, to_member, mode.clone(), |mode| matches!(mode, Mode::Pass | Mode::StallReplies)) => {}
        _ = pump(from_member, to_client, mode, |mode| mode == Mode::Pass) => {}
        _ = refused.wait_for(|mode| *mode == Mode::Refuse) => {}
        _ = cuts.changed() => {}
    }
}

/// Hands on what comes, while the mode lets it through.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    passes: impl Fn(Mode) -> bool,
) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut bytes).await?;
        // Also the end of a connection is not told while nothing comes through.
        mode.wait_for(|mode| passes(*mode)).await.map_err(io::Error::other)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&bytes[..count]).await?;
    }
}
