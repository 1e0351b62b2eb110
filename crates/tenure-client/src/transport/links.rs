//! The endpoints of a client, and the choice between them.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::dial::Probe;
use super::endpoint::{Endpoint, Phase};
use super::health::Outcome;
use super::keeper::keep;
use super::{Address, Connector, EndpointId, Link};
use crate::auth::{Credentials, MetadataHook};
use crate::clock::Clock;
use crate::error::{Setback, Setbacks};
use crate::ids::MemberId;
use crate::options::{ConnectOptions, Prefer};
use crate::tasks::Tasks;
use crate::tls::Tls;

/// What all endpoints have in common.
pub(crate) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) connector: Arc<dyn Connector>,
    pub(super) tls: Option<Tls>,
    pub(super) metadata: Option<MetadataHook>,
    pub(super) credentials: Credentials,
    pub(super) backoff: [Duration; 2],
    pub(super) dial_timeout: Duration,
    pub(super) probe_interval: Duration,
    prefer: Prefer,
    /// The member that leads, as far as is known.
    leader: AtomicU64,
    /// Changes whenever an endpoint has become better or worse.
    changed: watch::Sender<u64>,
}

impl Shared {
    /// Tells those that wait for an endpoint to look again.
    pub(super) fn announce(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Takes note of what a member told of itself.
    pub(super) fn learn(&self, endpoint: &Endpoint, probe: Probe) {
        match probe.leader {
            Some(MemberId(0)) => endpoint.note(0, Outcome::Leaderless, self.clock.now()),
            Some(leader) => self.leader.store(leader.0, Ordering::Relaxed),
            None => {}
        }
        endpoint.set_learner(probe.is_learner);
    }
}

/// See the module's header.
pub(crate) struct Links {
    shared: Arc<Shared>,
    endpoints: RwLock<Arc<[Arc<Endpoint>]>>,
    next_id: AtomicU64,
    turn: AtomicUsize,
}

/// Why there is no link.
#[derive(Debug)]
pub(crate) enum NoLink {
    /// All that work were tried already.
    AllTried,
    /// None works.
    AllDown,
}

impl Links {
    pub(crate) fn new(options: &ConnectOptions) -> Links {
        let shared = Shared {
            clock: options.clock.clone(),
            connector: options.connector.clone(),
            tls: options.tls.clone(),
            metadata: options.metadata.clone(),
            credentials: Credentials::new(options.user.clone()),
            backoff: options.backoff,
            dial_timeout: options.dial_timeout,
            probe_interval: options.probe_interval,
            prefer: options.prefer,
            leader: AtomicU64::new(0),
            changed: watch::Sender::new(0),
        };
        Links {
            shared: Arc::new(shared),
            endpoints: RwLock::new(Arc::new([])),
            next_id: AtomicU64::new(1),
            turn: AtomicUsize::new(0),
        }
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.shared.credentials
    }

    /// Has exactly these endpoints from now on. Those that stay keep their connections; calls at those that go are not cut off.
    pub(crate) fn set(&self, addresses: Vec<Address>, tasks: &Tasks) {
        let mut known = self.endpoints.write();
        let mut seen = HashSet::new();
        let mut kept = Vec::new();
        for address in addresses.into_iter().filter(|address| seen.insert(address.clone())) {
            if let Some(endpoint) = known.iter().find(|endpoint| endpoint.address == address) {
                kept.push(endpoint.clone());
                continue;
            }
            let id = EndpointId(self.next_id.fetch_add(1, Ordering::Relaxed));
            let endpoint = Arc::new(Endpoint::new(id, address));
            drop(tasks.spawn("endpoint", keep(endpoint.clone(), self.shared.clone())));
            kept.push(endpoint);
        }
        let gone = known.iter().filter(|endpoint| !seen.contains(&endpoint.address));
        gone.for_each(|endpoint| endpoint.removed.cancel());
        *known = kept.into();
        drop(known);
        self.shared.announce();
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.all().iter().map(|endpoint| endpoint.shown.clone()).collect()
    }

    fn all(&self) -> Arc<[Arc<Endpoint>]> {
        self.endpoints.read().clone()
    }

    /// Changes whenever [`Links::choose`] may answer otherwise.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// The best endpoint that works, other than these.
    pub(crate) fn choose(&self, avoid: &[EndpointId]) -> Result<Link, NoLink> {
        let endpoints = self.all();
        let now = self.shared.clock.now();
        let mut tiers: [Vec<_>; 3] = Default::default();
        let mut is_any_up = false;
        for endpoint in endpoints.iter() {
            let (tier, connection) = match endpoint.phase() {
                Phase::Ready(connection) if endpoint.is_learner() || endpoint.is_leaderless(now) => (1, connection),
                Phase::Ready(connection) => (0, connection),
                Phase::Suspect(connection) => (2, connection),
                Phase::Connecting | Phase::Down { .. } => continue,
            };
            is_any_up = true;
            if !avoid.contains(&endpoint.id) {
                tiers[tier].push((endpoint, connection));
            }
        }
        let Some(tier) = tiers.into_iter().find(|tier| !tier.is_empty()) else {
            return Err(if is_any_up { NoLink::AllTried } else { NoLink::AllDown });
        };
        let place = self.place(&tier.iter().map(|(endpoint, _)| *endpoint).collect::<Vec<_>>());
        let (endpoint, connection) = &tier[place];
        Ok(Link::new((*endpoint).clone(), connection.clone(), self.shared.clone()))
    }

    /// Which of these, which are not none.
    fn place(&self, endpoints: &[&Arc<Endpoint>]) -> usize {
        let count = endpoints.len();
        let leader = MemberId(self.shared.leader.load(Ordering::Relaxed));
        match self.shared.prefer {
            Prefer::Leader if leader != MemberId(0) => {
                if let Some(place) = endpoints.iter().position(|endpoint| endpoint.member() == leader) {
                    return place;
                }
            }
            Prefer::Spread => return self.turn.fetch_add(1, Ordering::Relaxed) % count,
            Prefer::Leader | Prefer::Fastest => {}
        }
        if count == 1 {
            return 0;
        }
        // The better of two that are drawn: the best of all would get everybody's requests at once.
        let random = self.shared.clock.random();
        let draw = |random: u64, of: usize| usize::try_from(random % of as u64).unwrap_or(0);
        let one = draw(random >> 32, count);
        let other = (one + 1 + draw(random & 0xffff_ffff, count - 1)) % count;
        if endpoints[other].score() < endpoints[one].score() { other } else { one }
    }

    /// Whether every endpoint failed when it was last dialled.
    pub(crate) fn are_all_down(&self) -> bool {
        self.all().iter().all(|endpoint| matches!(endpoint.phase(), Phase::Down { .. }))
    }

    /// Why the endpoints do not work that do not.
    pub(crate) fn setbacks(&self) -> Setbacks {
        let mut setbacks = Vec::new();
        for endpoint in self.all().iter() {
            match endpoint.phase() {
                Phase::Connecting => setbacks.push(Setback::new(&*endpoint.shown, "not connected yet")),
                Phase::Down { reason } => setbacks.push(Setback::new(&*endpoint.shown, reason)),
                Phase::Ready(_) | Phase::Suspect(_) => {}
            }
        }
        setbacks.into()
    }

    /// How every endpoint does now.
    pub(crate) fn states(&self) -> Vec<EndpointState> {
        let leader = self.shared.leader.load(Ordering::Relaxed);
        let state = |endpoint: &Arc<Endpoint>| {
            let (is_connected, setback) = match endpoint.phase() {
                Phase::Ready(_) => (true, None),
                Phase::Suspect(_) => (true, Some("no answer in time".to_owned())),
                Phase::Connecting => (false, None),
                Phase::Down { reason } => (false, Some(reason)),
            };
            let member = endpoint.member();
            let is_leader = member.0 != 0 && member.0 == leader;
            EndpointState { address: endpoint.shown.clone(), member, is_connected, is_leader, setback }
        };
        self.all().iter().map(state).collect()
    }
}

/// How an endpoint of a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointState {
    /// Its address.
    pub address: String,
    /// The member behind it; 0 while that is not known.
    pub member: MemberId,
    /// Whether there is a connection on which it answered.
    pub is_connected: bool,
    /// Whether its member leads, as far as the client heard.
    pub is_leader: bool,
    /// What is wrong with it, if something is.
    pub setback: Option<String>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.states()).finish()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
