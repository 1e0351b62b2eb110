//! The members of one run, and what only somebody outside can see of them: who leads, and whether anybody could.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::Term;
use tenure_raft::RaftNode;
use tenure_raft::log::Keep;

use crate::clock::Clockwork;
use crate::net::{End, Gone, Net};
use crate::node::{SimNode, foundings};
use crate::oracles::Witness;
use tenure_raft::sim::Kept;

/// See the module's header.
pub struct Cluster {
    /// By place, from 0.
    pub nodes: Vec<SimNode>,
    /// What lies between them.
    pub net: Net,
}

impl Cluster {
    /// Members that were never started, with what they keep under `home`.
    pub fn new(seed: u64, size: usize, home: &Path, net: &Net, witness: &Arc<Witness>) -> Cluster {
        let node = |(place, founding)| {
            let dir = home.join(format!("n{}", place + 1));
            SimNode::new(founding, Clockwork::new(seed, place), dir, net, witness.clone())
        };
        let nodes = foundings(size).into_iter().enumerate().map(node).collect();
        Cluster { nodes, net: net.clone() }
    }

    /// How many members there are.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// A majority of them.
    pub fn majority(&self) -> usize {
        self.size() / 2 + 1
    }

    /// Members that take part at the moment, with their consensus.
    pub fn up(&self) -> impl Iterator<Item = (usize, RaftNode)> {
        self.nodes.iter().filter_map(|node| Some((node.place, node.raft()?.ok()?)))
    }

    /// The member that leads in the newest term, if one says so.
    pub fn leader(&self) -> Option<(usize, Term)> {
        let leads = |(place, raft): (usize, RaftNode)| {
            let status = self.nodes[place].enter(|| raft.status())?;
            status.is_leader.then_some((place, status.term))
        };
        self.up().filter_map(leads).max_by_key(|(_, term)| *term)
    }

    /// Whether there is a leader that knows its term's beginning, moves, and reaches a majority both ways that has not gone on
    /// to a later term: a leader that was voted out commits nothing, even before an answer has come through that tells it.
    pub fn works(&self) -> bool {
        self.up().any(|(place, raft)| self.leads(place, &raft))
    }

    /// Whether such a leader has heard of a majority lately, too: it may reach one and still wait for connections that it
    /// began to make when it did not. Until it hears of one it ends no lease.
    pub fn is_heard(&self) -> bool {
        let is_heard = |place: usize, raft: &RaftNode| self.nodes[place].enter(|| raft.quorum_heard()) == Some(true);
        self.up().any(|(place, raft)| self.leads(place, &raft) && is_heard(place, &raft))
    }

    fn leads(&self, place: usize, raft: &RaftNode) -> bool {
        let node = &self.nodes[place];
        let term = node.enter(|| raft.promoted()).flatten().filter(|_| !node.paused);
        term.is_some_and(|term| self.reaches_majority(place, term))
    }

    fn reaches_majority(&self, from: usize, term: Term) -> bool {
        let open = |a: usize, b: usize| self.net.is_open(End::Peer(a), End::Peer(b));
        let reaches = |(to, raft): &(usize, RaftNode)| {
            let node = &self.nodes[*to];
            let follows = || node.enter(|| raft.status()).is_some_and(|status| status.term <= term);
            *to == from || (!node.paused && open(from, *to) && open(*to, from) && follows())
        };
        self.up().filter(reaches).count() >= self.majority()
    }

    /// Ends every member that has failed although its computer has power.
    pub async fn end_failed(&mut self) -> Vec<(usize, String)> {
        let mut failed = Vec::new();
        for node in self.nodes.iter_mut().filter(|node| !node.machine.off()) {
            let Some(Err(error)) = node.raft() else { continue };
            failed.push((node.place, error));
            node.end(Gone::Killed, Keep::Everything, Kept::All).await;
        }
        failed
    }

    /// Waits until every member takes part.
    pub async fn all_up(&self, patience: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        while self.up().count() < self.size() {
            if tokio::time::Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}
