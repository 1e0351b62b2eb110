//! Some members that found a cluster together.

use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use tenure_core::MemberId;
use tenure_raft::{Founding, Peer};
use tenure_server::node::Node;

use super::history::History;
use super::member::{CLUSTER, Member, Settings, Starting, free_address};
use super::within;

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
}

impl Cluster {
    /// Members that were never started.
    pub(crate) fn new(size: u64, settings: &Settings) -> Cluster {
        let addresses: Vec<_> = (0..size).map(|_| free_address()).collect();
        let members: Vec<(MemberId, Peer)> = (1..=size)
            .zip(&addresses)
            .map(|(id, address)| {
                (MemberId(id), Peer { name: format!("n{id}"), peer_urls: vec![format!("http://{address}")] })
            })
            .collect();
        let founding = |id| Founding { cluster: CLUSTER, member: MemberId(id), members: members.clone() };
        let member = |(id, address): (u64, &_)| Member::new(founding(id), *address, settings.clone());
        Cluster { members: (1..=size).zip(&addresses).map(member).collect() }
    }

    /// Members that run, and a leader among them.
    pub(crate) async fn running(size: u64, settings: &Settings) -> (Cluster, Vec<Node>) {
        let mut cluster = Cluster::new(size, settings);
        let nodes = cluster.up().await;
        (cluster, nodes)
    }

    /// Starts all members and waits until all of them have applied what a leader has committed.
    pub(crate) async fn up(&mut self) -> Vec<Node> {
        let mut starting: Vec<Starting> = self.members.iter_mut().map(Member::start).collect();
        let up = join_all(starting.iter_mut().map(Starting::up));
        let nodes: Vec<Node> = within("all members start", up)
            .await
            .into_iter()
            .map(|started| started.unwrap_or_else(|error| panic!("a member does not start: {error}")))
            .collect();
        settled(&nodes).await;
        nodes
    }

    /// Kills all members at once: first the power of all goes, then they are told.
    pub(crate) fn kill(&mut self) {
        self.members.iter().for_each(|member| member.machine.cut());
        self.members.iter_mut().for_each(Member::kill);
    }

    /// The member that leads, by its place.
    pub(crate) async fn leader(&self, nodes: &[Node]) -> usize {
        eventually("there is one leader", || {
            let mut leaders = (0..nodes.len()).filter(|place| nodes[*place].shared().raft.status().is_leader);
            let first = leaders.next()?;
            leaders.next().is_none().then_some(first)
        })
        .await
    }
}

/// Waits until every node has applied what was acknowledged before.
pub(crate) async fn settled(nodes: &[Node]) {
    join_all(nodes.iter().map(|node| {
        within("a linearizable read", async {
            while let Err(error) = node.barrier().await {
                assert!(!matches!(error, tenure_server::node::RequestError::Stopped), "a member has stopped");
            }
        })
    }))
    .await;
}

/// Holds all members against the history and against each other.
pub(crate) async fn check(nodes: &[Node], history: &History) -> Result<(), String> {
    settled(nodes).await;
    let mut hashes = Vec::new();
    for node in nodes {
        let view = node.view(true).await.map_err(|error| error.to_string())?;
        let member = node.shared().raft.member();
        if let Some(failed) = node.shared().raft.failed().now_or_never() {
            return Err(format!("member {member} has failed: {failed}"));
        }
        hashes.push(history.check(&view).map_err(|error| format!("member {member}: {error}"))?);
    }
    // Each member has applied all that was acknowledged, but one may know of more.
    let same = hashes.windows(2).all(|pair| pair[0].revision != pair[1].revision || pair[0] == pair[1]);
    if same { Ok(()) } else { Err(format!("members differ: {hashes:?}")) }
}

/// Looks again and again, until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(answer) = look() {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}
