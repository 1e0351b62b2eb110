//! One member: its computer, its data, and while it runs its life.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::{ClusterId, MemberId};
use tenure_history::Moment;
use tenure_raft::log::{Keep, LogOptions};
use tenure_raft::runtime::Life;
use tenure_raft::{Effects, Founding, Housekeeping, NodeError, NodeOptions, Peer, PeerPort, RaftNode, SnapshotOptions};
use tenure_server::grpc::{channel_to, convert::Limits};
use tenure_server::member::{Member, MemberOptions};
use tenure_server::node::Node;
use tenure_server::node::watch::RING_BYTES_MAX;
use tokio::sync::{oneshot, watch};

use crate::clock::Clockwork;
use crate::net::{End, Gone, Net, SimDialer};
use crate::oracles::Witness;
use crate::trace::Trace;
use tenure_raft::sim::{Flaw, Kept, Machine};

const CLUSTER: ClusterId = ClusterId(0x51b);

/// The flag of that name.
pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(1000);

/// Small, so that a short run has many segments, flushes, purges and snapshots.
const SEGMENT_BYTES: u32 = 16 << 10;
/// Recent events that a member keeps in memory, life after life: all that there are, some, or none.
const WATCH_RINGS: [usize; 3] = [RING_BYTES_MAX, 16 << 10, 0];
const HOUSEKEEPING: Housekeeping = Housekeeping {
    flush_log_bytes: 32 << 10,
    flush_entries: 64,
    keep_log_bytes: 64 << 10,
    keep_log_entries: Some(128),
    round: Duration::from_millis(200),
};

/// See the module's header.
pub struct SimNode {
    /// Its place among the members, from 0.
    pub place: usize,
    /// Its disk and engine.
    pub machine: Machine,
    /// Its clock and the disk's pace.
    pub clockwork: Clockwork,
    /// A pause that has not ended.
    pub paused: bool,
    founding: Founding,
    dir: PathBuf,
    net: Net,
    trace: Trace,
    witness: Arc<Witness>,
    running: Option<Running>,
    lives: u32,
    /// When each life began.
    pub began: Vec<Moment>,
}

struct Running {
    life: Life,
    up: watch::Receiver<Option<Result<RaftNode, String>>>,
}

/// The members' founding, by number.
pub fn foundings(count: usize) -> Vec<Founding> {
    let members: Vec<(MemberId, Peer)> = (1..=count as u64)
        .map(|id| (MemberId(id), Peer { name: format!("n{id}"), peer_urls: vec![format!("sim://n{id}")] }))
        .collect();
    let founding = |(id, _): &(MemberId, Peer)| Founding { cluster: CLUSTER, member: *id, members: members.clone() };
    members.iter().map(founding).collect()
}

impl SimNode {
    /// A member that was never started.
    pub fn new(founding: Founding, clockwork: Clockwork, dir: PathBuf, net: &Net, witness: Arc<Witness>) -> SimNode {
        let place = usize::try_from(founding.member.0).unwrap_or(usize::MAX).saturating_sub(1);
        let trace = witness.trace().clone();
        let (machine, net) = (Machine::new(Flaw::None), net.clone());
        SimNode {
            place,
            machine,
            clockwork,
            paused: false,
            founding,
            dir,
            net,
            trace,
            witness,
            running: None,
            lives: 0,
            began: Vec::new(),
        }
    }

    /// Whether it was started and has not been killed.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Consensus, once the member takes part; an error if it could not.
    pub fn raft(&self) -> Option<Result<RaftNode, String>> {
        self.running.as_ref().and_then(|running| running.up.borrow().clone())
    }

    /// Does something as this node would, if it runs.
    pub fn enter<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        self.running.as_ref().map(|running| running.life.enter(act))
    }

    /// Starts it on what its machine and directory hold.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "it runs");
        self.lives += 1;
        self.began.push(self.trace.moment());
        self.trace.note(format_args!("n{} starts, life {}", self.place + 1, self.lives));
        let life = Life::new(Box::new(self.clockwork.clone()));
        let (told, up) = watch::channel(None);
        let parts = Parts {
            options: self.options(),
            machine: self.machine.clone(),
            net: self.net.clone(),
            life: life.clone(),
            place: self.place,
            watch_ring_bytes_max: WATCH_RINGS[(self.place + self.lives as usize) % WATCH_RINGS.len()],
            observers: vec![Arc::new(self.witness.of_node(self.place, self.lives)) as Arc<dyn Effects>],
        };
        drop(life.spawn(live(parts, told)));
        self.running = Some(Running { life, up });
    }

    /// Ends it at once. Its disk has what was written; what was synced is what a later crash leaves.
    pub async fn end(&mut self, how: Gone, keep: Keep, kept: Kept) {
        let Some(running) = self.running.take() else { return };
        self.trace.note(format_args!("n{} ends: {how:?}, {keep:?}, {kept:?}", self.place + 1));
        self.paused = false;
        self.machine.cut();
        self.net.remove(self.place, how);
        running.life.end();
        drop(running);
        // Its tasks are dropped when they would have moved next.
        tokio::time::sleep(Duration::from_micros(1)).await;
        self.machine = self.machine.remains(keep).boot(kept, Flaw::None);
    }

    /// Lets it stand still.
    pub fn pause(&mut self) {
        if let Some(running) = &self.running {
            self.trace.note(format_args!("n{} is paused", self.place + 1));
            running.life.pause();
            self.paused = true;
        }
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        if let Some(running) = &self.running
            && std::mem::take(&mut self.paused)
        {
            self.trace.note(format_args!("n{} goes on", self.place + 1));
            running.life.resume();
        }
    }

    fn options(&self) -> NodeOptions {
        NodeOptions {
            founding: self.founding.clone(),
            may_found: true,
            data_dir: self.dir.clone(),
            heartbeat: ELECTION_TIMEOUT / 10,
            election_timeout: ELECTION_TIMEOUT,
            log: LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::default() },
            housekeeping: HOUSEKEEPING,
            snapshots: SnapshotOptions { chunk_bytes: 4 << 10, ..SnapshotOptions::default() },
            slow_apply: None,
            dialer: Arc::new(SimDialer::new(&self.net, self.place)),
        }
    }
}

/// What a life begins with.
struct Parts {
    options: NodeOptions,
    machine: Machine,
    net: Net,
    life: Life,
    place: usize,
    watch_ring_bytes_max: usize,
    observers: Vec<Arc<dyn Effects>>,
}

/// Runs a member as the server does, until its life ends.
async fn live(parts: Parts, told: watch::Sender<Option<Result<RaftNode, String>>>) {
    let Parts { options, machine, net, life, place, watch_ring_bytes_max, observers } = parts;
    let member_options = MemberOptions {
        name: format!("n{}", place + 1),
        client_urls: Vec::new(),
        quota_bytes: None,
        request_timeout: Duration::from_secs(5) + 2 * ELECTION_TIMEOUT,
        slow_request: None,
        connections_max: 1024,
        watch_progress_interval: Duration::from_secs(5),
        watch_ring_bytes_max,
    };
    let (to_peers, of_peers) = (net.clone(), life.clone());
    let port = PeerPort::Carried(Box::new(move |service| to_peers.serve(End::Peer(place), &of_peers, service)));
    let started: Result<Member, NodeError> =
        Member::start(options, member_options, machine.engines(), machine.files(), port, observers).await;
    let member = match started {
        Ok(member) => member,
        Err(error) => {
            told.send_replace(Some(Err(error.to_string())));
            return;
        }
    };
    let node = Node::start(member.shared.clone());
    let (_drain, draining) = watch::channel(false);
    net.serve(End::Server(place), &life, channel_to(&node, Limits::default(), &draining));
    told.send_replace(Some(Ok(member.raft().clone())));
    let failed = member.raft().failed().await;
    // A process would exit here.
    told.send_replace(Some(Err(failed.to_string())));
    net.remove(place, Gone::Killed);
    let (_never, never): (oneshot::Sender<()>, _) = oneshot::channel();
    drop(never.await);
}
