//! The types that openraft is instantiated with.
//!
//! Leader ids are the standard kind, one leader per term, so that a term identifies its leader: fencing and the
//! `raft_term` of response headers rely on it.

use std::fmt;

use bytes::Bytes;
use openraft::impls::{BoxedErrorSource, leader_id_std};
use openraft::raft::responder::Responder;
use openraft::vote::RaftLeaderId;
use openraft::{OptionalSend, RaftTypeConfig, alias};
use tenure_core::outcome::Outcome;
use tenure_core::{LogIndex, Term};
use tokio::sync::oneshot;

use crate::runtime::Runtime;

/// openraft's parameters, all in one type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Config;

pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type Committed = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<Committed>;
pub(crate) type Vote = openraft::impls::Vote<LeaderId>;
pub(crate) type Payload = openraft::EntryPayload<Proposal, u64, Peer>;
pub(crate) type Entry = openraft::impls::Entry<Committed, Payload>;
pub(crate) type Membership = openraft::Membership<u64, Peer>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<Config>;

impl RaftTypeConfig for Config {
    type D = Proposal;
    type R = GroupReply;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = GroupResponder<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// A log id, from its parts.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(alias::CommittedLeaderIdOf::<Config>::new(term), index)
}

/// A member as the replicated membership knows it: enough to dial it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The name from `--initial-cluster`; empty until known.
    pub name: String,
    /// Its peer URLs.
    pub peer_urls: Vec<String>,
}

/// A group of commands, encoded once by `tenure_core::codec`: the same bytes go to the log, to peers and to apply.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proposal(pub(crate) Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group of {} bytes", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying a group answered.
#[derive(Clone, Debug, Default)]
pub struct GroupReply {
    /// The entry's index.
    pub index: LogIndex,
    /// The entry's term.
    pub term: Term,
    /// One per command.
    pub outcomes: Vec<Outcome>,
}

/// Carries a result out of openraft to whoever proposed the group.
///
/// Dropped without an answer, the receiver fails: the proposer reads that as "unknown".
#[derive(Debug)]
pub(crate) struct GroupResponder<T>(pub(crate) oneshot::Sender<T>);

impl<T: OptionalSend + 'static> Responder<Config, T> for GroupResponder<T> {
    fn on_complete(self, result: T) {
        // The proposer may have given up on this group; nobody else wants the answer.
        drop(self.0.send(result));
    }
}
