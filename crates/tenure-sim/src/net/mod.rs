//! What lies between members, and between them and their clients.
//!
//! Requests are carried as they are, without sockets, as a connection would carry them: each direction of each pair of
//! ends is a link with a delay of its own; what is sent over one call arrives in order; calls overtake each other. A link
//! may be cut: what was sent is then held back until it heals, and a connection that gets nothing through for a while
//! breaks, as keepalives make it. A loss costs a retransmission's time. A member that is killed resets its connections;
//! one whose computer loses power falls silent. Votes and heartbeats, which carry no promise to arrive once, may arrive
//! twice.

mod body;
mod line;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tenure_core::MemberId;
use tenure_raft::runtime::Life;
use tenure_raft::{Dialer, PeerChannel};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tower::util::BoxCloneSyncService;

use crate::dice::Dice;
use crate::net::line::Line;

/// A connection that gets nothing through for this long is given up: members' and clients' keepalives see to that.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// How long it is tried to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// What a lost packet costs: TCP sends it again after this.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// One end: a member's peer port, a member's client port, or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A member, as its peers reach it.
    Peer(usize),
    /// The same member, as clients reach it.
    Server(usize),
    /// A client.
    Client(usize),
}

/// What links do to what is sent over them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// Delays lie between these.
    pub delay: (Duration, Duration),
    /// How often something is lost, and sent again later.
    pub loss: f64,
    /// How often a vote or a heartbeat arrives twice.
    pub twice: f64,
}

impl Default for Weather {
    fn default() -> Weather {
        Weather { delay: (Duration::from_micros(100), Duration::from_millis(3)), loss: 0.0, twice: 0.0 }
    }
}

/// How a member went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Its kernel resets its connections.
    Killed,
    /// Nobody is told anything.
    Dark,
}

/// See the module's header. Clones share it.
#[derive(Clone, Debug)]
pub struct Net(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Bumped when a link heals.
    healed: watch::Sender<u64>,
}

struct State {
    dice: Dice,
    ends: BTreeMap<End, Host>,
    /// Where nobody listens although the computer has power.
    killed: BTreeSet<End>,
    cut: BTreeSet<(End, End)>,
    weather: Weather,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("cut", &self.cut).finish_non_exhaustive()
    }
}

/// Who answers at an end.
#[derive(Clone)]
struct Host {
    life: Life,
    service: PeerChannel,
    gone: watch::Sender<Option<Gone>>,
}

impl Net {
    /// A network without anybody.
    pub fn new(seed: u64) -> Net {
        let state = State {
            dice: Dice::new(seed, "network"),
            ends: BTreeMap::new(),
            killed: BTreeSet::new(),
            cut: BTreeSet::new(),
            weather: Weather::default(),
        };
        Net(Arc::new(Inner { state: Mutex::new(state), healed: watch::Sender::new(0) }))
    }

    /// Puts a service at an end.
    pub fn serve(&self, at: End, life: &Life, service: PeerChannel) {
        let host = Host { life: life.clone(), service, gone: watch::Sender::new(None) };
        let mut state = self.state();
        state.ends.insert(at, host);
        state.killed.remove(&at);
    }

    /// Takes away who answers at a member's ends.
    pub fn remove(&self, node: usize, how: Gone) {
        for end in [End::Peer(node), End::Server(node)] {
            let host = {
                let mut state = self.state();
                if how == Gone::Killed {
                    state.killed.insert(end)
                } else {
                    state.killed.remove(&end)
                };
                state.ends.remove(&end)
            };
            if let Some(host) = host {
                host.gone.send_replace(Some(how));
            }
        }
    }

    /// Cuts one direction between two ends.
    pub fn cut(&self, from: End, to: End) {
        self.state().cut.insert((from, to));
    }

    /// Cuts one direction between two members' peer ports.
    pub fn cut_peers(&self, from: usize, to: usize) {
        self.cut(End::Peer(from), End::Peer(to));
    }

    /// Makes all links whole again, and the weather as usual.
    pub fn heal(&self) {
        {
            let mut state = self.state();
            state.cut.clear();
            state.weather = Weather::default();
        }
        self.0.healed.send_modify(|count| *count += 1);
    }

    /// The weather of all links.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Whether a message could go one way at the moment.
    pub fn is_open(&self, from: End, to: End) -> bool {
        !self.state().cut.contains(&(from, to))
    }

    /// Connects.
    pub async fn connect(&self, from: End, to: End) -> Result<PeerChannel, String> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        for (from, to) in [(from, to), (to, from)] {
            if timeout(CONNECT_TIMEOUT, self.pass(from, to)).await.is_err() {
                return Err("the connection timed out".to_owned());
            }
        }
        if Instant::now() > deadline {
            return Err("the connection timed out".to_owned());
        }
        let host = self.state().ends.get(&to).cloned();
        let Some(host) = host else { return Err("connection refused".to_owned()) };
        Ok(BoxCloneSyncService::new(Line::new(self.clone(), (from, to), host)))
    }

    /// Whether a computer says in time that nobody listens at an end of it: that it has power, and the member was killed.
    async fn refuses(&self, from: End, to: End) -> bool {
        let asked = async {
            self.pass(from, to).await;
            let refuses = self.state().killed.contains(&to);
            self.pass(to, from).await;
            refuses
        };
        timeout(CONNECT_TIMEOUT, asked).await.unwrap_or(false)
    }

    /// Takes as long as one message takes one way; for ever while the link is cut.
    async fn pass(&self, from: End, to: End) {
        tokio::time::sleep(self.draw_delay()).await;
        self.until_open(from, to).await;
    }

    async fn until_open(&self, from: End, to: End) {
        let mut healed = self.0.healed.subscribe();
        while !self.is_open(from, to) {
            if healed.changed().await.is_err() {
                return;
            }
        }
    }

    fn draw_delay(&self) -> Duration {
        let mut state = self.state();
        let weather = state.weather;
        let delay = state.dice.between(weather.delay.0, weather.delay.1);
        if state.dice.chance(weather.loss) { delay + RETRANSMISSION } else { delay }
    }

    fn draw_twice(&self) -> bool {
        let mut state = self.state();
        let twice = state.weather.twice;
        twice > 0.0 && state.dice.chance(twice)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a member dials its peers.
#[derive(Clone, Debug)]
pub struct SimDialer {
    net: Net,
    from: usize,
}

impl SimDialer {
    /// For one member; members are numbered from 0, their ids from 1.
    pub fn new(net: &Net, from: usize) -> SimDialer {
        SimDialer { net: net.clone(), from }
    }

    /// The link to a member's peer port, if there may be such a member.
    fn link_to(&self, peer: MemberId) -> (Net, End, Option<End>) {
        let to = usize::try_from(peer.0).ok().and_then(|id| id.checked_sub(1)).map(End::Peer);
        (self.net.clone(), End::Peer(self.from), to)
    }
}

impl Dialer for SimDialer {
    fn dial(&self, peer: MemberId, _: &str) -> BoxFuture<'static, Result<PeerChannel, String>> {
        let (net, from, to) = self.link_to(peer);
        Box::pin(async move {
            match to {
                Some(to) => net.connect(from, to).await,
                None => Err("no such member".to_owned()),
            }
        })
    }

    fn is_refused(&self, peer: MemberId, _: &str) -> BoxFuture<'static, bool> {
        let (net, from, to) = self.link_to(peer);
        Box::pin(async move {
            match to {
                Some(to) => net.refuses(from, to).await,
                None => false,
            }
        })
    }
}
