//! Connections to peers, made when first used, one per peer and lane, and forgotten when they break.
//!
//! Before anything else is said on a connection to a member whose incarnation is not known yet, the member is asked for
//! it and it is written down: a member that could ever count towards a quorum of ours is thus remembered, and can be
//! told from one that comes back with an emptied disk. Connections belong to the runtime that they were made on, so each
//! runtime has its own `Links`.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::raft::StreamAppendResult;
use tenure_core::outcome::Outcome;
use tenure_core::{LogIndex, MemberId, Term};
use tenure_proto::tenure::peer::v1::peer_client::PeerClient;
use tenure_proto::tenure::peer::v1::{ProbeRequest, ProposeRequest, ReadIndexRequest, Refusal, Route};

use super::MESSAGE_BYTES_MAX;
use super::dial::{Dialer, PeerChannel};
use super::marks::Awaiting;
use super::spare::Streams;
use crate::bootstrap::ProbeAnswer;
use crate::error::ReadIndexError;
use crate::identity::Identity;
use crate::node::NodeOptions;
use crate::types::{Config, LogId, Peer};

/// How long one probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Traffic that must not queue behind other traffic has a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Log replication.
    Log,
    /// Votes, heartbeats, probes.
    Control,
    /// Forwarded writes and read indexes.
    Forward,
    /// Questions by which reads are confirmed.
    Reads,
    /// Snapshots.
    Snapshot,
}

/// Why a peer could not be asked at all: nothing was sent.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("member {0:x} is not in the membership")]
    NoAddress(u64),
    #[error("member {0:x} at {1}: {2}")]
    Unreachable(u64, String, String),
    #[error("member {0:x}: {1}")]
    Stranger(u64, String),
}

/// A write that the leader carried out for this node.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// Where it stands in the log: answer the client once this is applied here.
    pub index: LogIndex,
    /// The entry's term.
    pub term: Term,
    /// One per command.
    pub outcomes: Vec<Outcome>,
}

/// Why a forwarded write has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Surely not done: ask again, of the one named if any.
    #[error("not the leader")]
    NotLeader(Option<MemberId>),
    /// Surely not done: the leader has too much to do.
    #[error("too many requests")]
    Overloaded,
    /// Perhaps done.
    #[error("the outcome is unknown")]
    Unknown,
}

/// See the module's header. Cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

struct Inner {
    cluster: u64,
    member: u64,
    identity: Arc<Identity>,
    dialer: Arc<dyn Dialer>,
    addresses: Mutex<HashMap<u64, Peer>>,
    channels: Mutex<HashMap<(u64, Lane), PeerChannel>>,
    /// Peers that could not be dialled last time, so that losing and finding one is logged once each.
    lost: Mutex<HashSet<u64>>,
    /// Peers that a snapshot could not be sent to last time, for the same reason.
    unserved: Mutex<HashSet<u64>>,
    /// The last entry that each member acknowledged to this leader, and the leader's term.
    acknowledged: Mutex<HashMap<u64, (u64, u64)>>,
    /// The last entry that any member was told to be committed, or was sent as part of a state.
    told: AtomicU64,
    /// Members that want to know at once what is committed.
    awaiting: Awaiting,
    /// The streams of entries to followers.
    streams: Streams,
    /// How many followers a commit needs.
    followers_needed: usize,
}

impl Links {
    pub(crate) fn new(options: &NodeOptions, identity: Arc<Identity>) -> Links {
        let addresses = options.founding.members.iter().map(|(id, peer)| (id.0, peer.clone())).collect();
        Links(Arc::new(Inner {
            cluster: options.founding.cluster.0,
            member: options.founding.member.0,
            identity,
            dialer: options.dialer.clone(),
            addresses: Mutex::new(addresses),
            channels: Mutex::default(),
            lost: Mutex::default(),
            unserved: Mutex::default(),
            acknowledged: Mutex::default(),
            told: AtomicU64::new(0),
            awaiting: Awaiting::default(),
            streams: Streams::default(),
            followers_needed: options.founding.members.len() / 2,
        }))
    }

    /// Hands client writes to the leader and waits until it has applied them.
    pub async fn propose(
        &self,
        leader: MemberId,
        commands: Vec<Bytes>,
        deadline: Duration,
    ) -> Result<Forwarded, ForwardError> {
        let count = commands.len();
        let Ok((mut client, route)) = self.client(leader.0, Lane::Forward).await else {
            return Err(ForwardError::NotLeader(None));
        };
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let request = ProposeRequest { route: Some(route), commands, deadline_ms };
        // A call that is given up half-way may be stuck in a dead connection: the next one dials anew.
        let mut unanswered = ForgetUnlessAnswered { links: self, to: leader.0, answered: false };
        let response = match tokio::time::timeout(deadline, client.propose(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(%status, leader = %leader, "a forwarded write got no answer");
                return Err(ForwardError::Unknown);
            }
            Err(_) => return Err(ForwardError::Unknown),
        };
        unanswered.answered = true;
        match response.refusal() {
            Refusal::None => {}
            Refusal::NotLeader => return Err(ForwardError::NotLeader(hint(response.leader_hint))),
            Refusal::TooManyRequests => return Err(ForwardError::Overloaded),
            Refusal::Unknown => return Err(ForwardError::Unknown),
        }
        let outcomes: Result<Vec<Outcome>, _> =
            response.outcomes.into_iter().map(|mut bytes| Outcome::decode(&mut bytes)).collect();
        match outcomes {
            Ok(outcomes) if outcomes.len() == count => {
                Ok(Forwarded { index: LogIndex(response.log_index), term: Term(response.term), outcomes })
            }
            Ok(_) | Err(_) => Err(ForwardError::Unknown),
        }
    }

    /// Asks the leader for the index that a linearizable read must wait for.
    pub async fn read_index(&self, leader: MemberId, deadline: Duration) -> Result<LogIndex, ReadIndexError> {
        let Ok((mut client, route)) = self.client(leader.0, Lane::Forward).await else {
            return Err(ReadIndexError::NotLeader(None));
        };
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let request = ReadIndexRequest { route: Some(route), deadline_ms };
        let mut unanswered = ForgetUnlessAnswered { links: self, to: leader.0, answered: false };
        let response = match tokio::time::timeout(deadline, client.read_index(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(_)) | Err(_) => return Err(ReadIndexError::NoQuorum),
        };
        unanswered.answered = true;
        match response.refusal() {
            Refusal::None => Ok(LogIndex(response.log_index)),
            Refusal::NotLeader => Err(ReadIndexError::NotLeader(hint(response.leader_hint))),
            Refusal::TooManyRequests | Refusal::Unknown => Err(ReadIndexError::NoQuorum),
        }
    }

    /// Asks a peer what it holds and what it remembers of us.
    pub(crate) async fn probe(&self, peer: MemberId) -> Result<ProbeAnswer, LinkError> {
        let channel = self.channel(peer.0, Lane::Control).await?;
        self.probe_over(peer.0, channel).await
    }

    /// A client for requests to a member whose incarnation is known, and the envelope for them.
    ///
    /// Boxed, because the compiler cannot see that the plain future is `Send` where openraft asks for it.
    pub(crate) fn client(
        &self,
        to: u64,
        lane: Lane,
    ) -> BoxFuture<'static, Result<(PeerClient<PeerChannel>, Route), LinkError>> {
        let links = self.clone();
        Box::pin(async move {
            let channel = links.channel(to, lane).await?;
            if links.0.identity.remembered(to).is_none() {
                links.probe_over(to, channel.clone()).await?;
            }
            Ok((client(channel), links.route(to)))
        })
    }

    /// Whether a member's machine says of all its addresses that nobody listens there.
    pub(crate) async fn is_refused(&self, member: u64) -> bool {
        let urls = self.peer(member).map(|peer| peer.peer_urls).unwrap_or_default();
        let asked = urls.iter().map(|url| self.0.dialer.is_refused(MemberId(member), url));
        let refused = futures::future::join_all(asked).await;
        !refused.is_empty() && refused.into_iter().all(|refused| refused)
    }

    /// Drops a connection that failed, so that the next request dials anew.
    pub(crate) fn forget(&self, to: u64, lane: Lane) {
        self.channels().remove(&(to, lane));
    }

    /// Learns where a member is.
    pub(crate) fn learn(&self, member: u64, peer: &Peer) {
        let mut addresses = self.0.addresses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        addresses.insert(member, peer.clone());
    }

    fn peer(&self, member: u64) -> Option<Peer> {
        let addresses = self.0.addresses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        addresses.get(&member).cloned()
    }

    fn route(&self, to: u64) -> Route {
        Route {
            cluster_id: self.0.cluster,
            from: self.0.member,
            to,
            from_incarnation: self.0.identity.incarnation(),
            to_incarnation: self.0.identity.remembered(to).unwrap_or(0),
        }
    }

    async fn probe_over(&self, to: u64, channel: PeerChannel) -> Result<ProbeAnswer, LinkError> {
        let mut client = client(channel);
        let call = client.probe(ProbeRequest { route: Some(self.route(to)) });
        let late = |_| tonic::Status::deadline_exceeded("the peer did not answer in time");
        let answer = match tokio::time::timeout(PROBE_TIMEOUT, call).await.map_err(late).flatten() {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                self.forget(to, Lane::Control);
                return Err(LinkError::Unreachable(to, String::new(), status.message().to_owned()));
            }
        };
        if answer.cluster_id != self.0.cluster || answer.member_id != to {
            let text =
                format!("its address answers as member {:x} of cluster {:x}", answer.member_id, answer.cluster_id);
            return Err(LinkError::Stranger(to, text));
        }
        self.0.identity.remember(to, answer.incarnation).map_err(|e| LinkError::Stranger(to, e.to_string()))?;
        let remembers = Some(answer.remembered_incarnation).filter(|incarnation| *incarnation != 0);
        Ok(ProbeAnswer { has_data: answer.has_data, established: answer.established, remembers })
    }

    async fn channel(&self, to: u64, lane: Lane) -> Result<PeerChannel, LinkError> {
        if let Some(channel) = self.channels().get(&(to, lane)) {
            return Ok(channel.clone());
        }
        let peer = self.peer(to).ok_or(LinkError::NoAddress(to))?;
        let mut failure = LinkError::NoAddress(to);
        for url in peer.peer_urls {
            match self.0.dialer.dial(MemberId(to), &url).await {
                Ok(channel) => {
                    self.note_reachable(to);
                    self.channels().insert((to, lane), channel.clone());
                    return Ok(channel);
                }
                Err(text) => failure = LinkError::Unreachable(to, url, text),
            }
        }
        self.note_unreachable(to, &failure);
        Err(failure)
    }

    fn note_reachable(&self, to: u64) {
        if self.lost().remove(&to) {
            tracing::info!(peer = format!("{to:x}"), "a peer is reachable again");
        }
    }

    fn note_unreachable(&self, to: u64, why: &LinkError) {
        if self.lost().insert(to) {
            tracing::warn!(peer = format!("{to:x}"), %why, "a peer cannot be reached; it is tried again and again");
        }
    }

    /// Notes what a member acknowledged in a term.
    pub(crate) fn note_acknowledged(&self, member: u64, term: u64, result: &StreamAppendResult<Config>) {
        let Ok(Some(matched)) = result else { return };
        let mut acknowledged = self.0.acknowledged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = acknowledged.entry(member).or_default();
        *known = (*known).max((term, matched.index()));
    }

    /// The last entry that a member acknowledged in a term, or 0. It may never lose it while that term lasts: a member
    /// that did is told so, and stops.
    pub(crate) fn acknowledged(&self, member: u64, term: u64) -> u64 {
        let acknowledged = self.0.acknowledged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        acknowledged.get(&member).filter(|(of, _)| *of == term).map_or(0, |(_, index)| *index)
    }

    /// Notes that others are about to be told that this is committed. Before it leaves: from then on somebody may read it there.
    pub(crate) fn note_told(&self, committed: Option<&LogId>) {
        if let Some(id) = committed {
            self.0.told.fetch_max(id.index(), Ordering::SeqCst);
        }
    }

    /// The last entry that others may know to be committed, if it is by this member.
    pub(crate) fn told(&self) -> LogIndex {
        LogIndex(self.0.told.load(Ordering::SeqCst))
    }

    pub(super) fn awaiting(&self) -> &Awaiting {
        &self.0.awaiting
    }

    pub(super) fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// Whether commits do without a member for now.
    pub(super) fn is_spare(&self, member: u64) -> bool {
        let acknowledged = self.0.acknowledged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let last_of = |member: &u64| acknowledged.get(member).copied().unwrap_or_default();
        let has_as_much = |other| last_of(&other) >= last_of(&member);
        self.0.streams.is_spare(member, self.0.followers_needed, has_as_much)
    }

    /// Notes that somebody at a member waits for commits.
    pub(crate) fn note_awaiting(&self, member: u64) {
        self.0.awaiting.note(member);
    }

    /// Notes whether a snapshot could be sent to a member; returns whether that is news.
    pub(crate) fn note_served(&self, member: u64, served: bool) -> bool {
        let mut unserved = self.0.unserved.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if served { unserved.remove(&member) } else { unserved.insert(member) }
    }

    fn lost(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.0.lost.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn channels(&self) -> std::sync::MutexGuard<'_, HashMap<(u64, Lane), PeerChannel>> {
        self.0.channels.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Forgets the connection for forwarded requests when a call over it fails, or is dropped before it was answered.
struct ForgetUnlessAnswered<'l> {
    links: &'l Links,
    to: u64,
    answered: bool,
}

impl Drop for ForgetUnlessAnswered<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.links.forget(self.to, Lane::Forward);
        }
    }
}

fn client(channel: PeerChannel) -> PeerClient<PeerChannel> {
    PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn hint(leader: u64) -> Option<MemberId> {
    Some(leader).filter(|id| *id != 0).map(MemberId)
}
