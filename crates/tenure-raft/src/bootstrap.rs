//! How a member begins: with what it has, or, with nothing, only after its peers had a say.
//!
//! A wiped disk cannot know that it was wiped, and a member that lost its log and votes again can lose committed
//! writes. So a member with an empty directory asks its peers first (they remember the incarnations of the members they
//! dealt with) and neither initialises nor votes until
//! - every peer that answered is empty too, or founding, and they make a majority with itself: a new cluster; or
//! - all peers answered, some hold more than that, and none of them ever knew it as somebody else: a member that starts for the
//!   first time, late. All must answer because any one of them may be the one that dealt with the lost incarnation.
//!
//! If a peer with data remembers another incarnation of it, the member gives up with instructions.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::RaftLogReader;
use tenure_core::MemberId;
use tenure_storage::store::StateStore;

use crate::applier::nothing_applied;
use crate::error::NodeError;
use crate::log::LogStore;
use crate::node::RaftNode;
use crate::peer::Links;
use crate::runtime;

/// How long to wait before peers that did not answer are asked again.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// How often waiting is mentioned in the log: every so many rounds of probes.
const PROBE_ROUNDS_PER_NOTICE: u32 = 100;

/// What the directory held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// Neither a vote, nor an entry, nor state.
    Empty,
    /// Something that must not be forgotten.
    WithData,
}

impl Beginning {
    pub(crate) async fn of(log: &LogStore, store: &StateStore) -> std::io::Result<Beginning> {
        let vote = log.clone().read_vote().await?;
        let empty_log = vote.is_none() && log.last_index().is_none() && log.first_index() == 0;
        Ok(if empty_log && nothing_applied(store.applied()) { Beginning::Empty } else { Beginning::WithData })
    }
}

/// What a peer said of itself and of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeAnswer {
    /// Whether it holds a vote, entries or state. What it remembers then counts.
    pub(crate) has_data: bool,
    /// Whether it holds more than the founding entry. A peer that has just decided to found the cluster does not, and
    /// waits for others to decide the same.
    pub(crate) established: bool,
    /// The incarnation of ours that it dealt with before this probe, if it holds data.
    pub(crate) remembers: Option<u64>,
}

/// What an empty member may do after the answers so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Wait for more peers.
    Wait,
    /// A new cluster.
    Initialize,
    /// Join the cluster that is there.
    Join,
    /// This member was wiped; the peer knows better.
    Wiped(MemberId),
}

fn judge(own: u64, members: usize, answers: &[(MemberId, ProbeAnswer)]) -> Verdict {
    for (peer, answer) in answers {
        if answer.has_data && answer.remembers.is_some_and(|incarnation| incarnation != own) {
            return Verdict::Wiped(*peer);
        }
    }
    if answers.iter().any(|(_, answer)| answer.established) {
        return if answers.len() + 1 == members { Verdict::Join } else { Verdict::Wait };
    }
    if answers.len() + 1 > members / 2 { Verdict::Initialize } else { Verdict::Wait }
}

/// Starts consensus once it is safe to.
pub(crate) async fn begin(node: &RaftNode, links: &Links, beginning: Beginning) -> Result<(), NodeError> {
    match beginning {
        Beginning::WithData => {
            resume(node);
            Ok(())
        }
        Beginning::Empty => begin_empty(node, links).await,
    }
}

fn resume(node: &RaftNode) {
    let alone = node.options().founding.members.len() == 1;
    if alone {
        node.raft().run();
        node.gate().open();
        return;
    }
    let lease = node.options().leader_lease();
    node.gate().quarantine(lease);
    node.raft().runtime_config().elect(false);
    node.raft().run();
    let node = node.clone();
    // Detached on purpose: it ends by itself after one lease, and a stopped core ignores the switch.
    drop(runtime::spawn(async move {
        tokio::time::sleep(lease).await;
        node.raft().runtime_config().elect(true);
    }));
}

async fn begin_empty(node: &RaftNode, links: &Links) -> Result<(), NodeError> {
    let verdict = ask_peers(node, links).await;
    if let Verdict::Wiped(peer) = verdict {
        return Err(NodeError::Wiped(wiped_text(node, peer)));
    }
    node.gate().open();
    node.raft().run();
    if verdict == Verdict::Initialize {
        tracing::info!(
            members = node.options().founding.members.len(),
            "all peers heard are empty: a new cluster begins"
        );
        if let Err(error) = node.raft().initialize(node.initial_membership()).await {
            // A peer that decided the same a moment earlier has replicated to us: the cluster is there.
            tracing::info!(%error, "a peer initialised the cluster first");
        }
    } else {
        tracing::info!("joining the cluster for the first time");
    }
    Ok(())
}

async fn ask_peers(node: &RaftNode, links: &Links) -> Verdict {
    let own = node.identity().incarnation();
    let members = node.options().founding.members.len();
    let may_found = node.options().may_found;
    let mut round = 0_u32;
    loop {
        let peers: Vec<MemberId> =
            node.options().founding.members.iter().map(|(id, _)| *id).filter(|id| *id != node.member()).collect();
        let mut probes: FuturesUnordered<_> =
            peers.iter().map(|peer| async move { (*peer, links.probe(*peer).await) }).collect();
        let mut answers = Vec::new();
        let mut verdict = judge(own, members, &answers);
        while let Some((peer, result)) = probes.next().await {
            if let Ok(answer) = result {
                answers.push((peer, answer));
                verdict = judge(own, members, &answers);
            }
            if matches!(verdict, Verdict::Wiped(_)) {
                return verdict;
            }
        }
        if verdict == Verdict::Join || (verdict == Verdict::Initialize && may_found) {
            return verdict;
        }
        round += 1;
        if round % PROBE_ROUNDS_PER_NOTICE == 1 {
            let heard: Vec<String> = answers.iter().map(|(id, _)| format!("{:x}", id.0)).collect();
            tracing::info!(members, may_found, heard = heard.join(","), "this member is empty and waits for its peers");
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

fn wiped_text(node: &RaftNode, peer: MemberId) -> String {
    format!(
        "member {:x} has an empty data directory ({}), but member {:x} has dealt with it before: its log and its votes \
         are lost, and starting it could lose acknowledged writes. Restore the directory if you still have it. \
         Otherwise remove this member from the cluster and add it again as a new one (new peer URL or new cluster \
         token); never start it empty under its old identity",
        node.member().0,
        node.options().data_dir.display(),
        peer.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u64 = 7;

    fn answers(list: &[(u64, bool, Option<u64>)]) -> Vec<(MemberId, ProbeAnswer)> {
        list.iter()
            .map(|(id, has_data, remembers)| {
                let answer = ProbeAnswer { has_data: *has_data, established: *has_data, remembers: *remembers };
                (MemberId(*id), answer)
            })
            .collect()
    }

    #[test]
    fn single_member_initialises_alone() {
        assert_eq!(judge(OWN, 1, &[]), Verdict::Initialize);
    }

    #[test]
    fn empty_member_waits_for_a_majority_of_empty_peers() {
        assert_eq!(judge(OWN, 3, &[]), Verdict::Wait);
        assert_eq!(judge(OWN, 3, &answers(&[(2, false, None)])), Verdict::Initialize);
        assert_eq!(judge(OWN, 5, &answers(&[(2, false, None)])), Verdict::Wait);
        assert_eq!(judge(OWN, 5, &answers(&[(2, false, None), (3, false, None)])), Verdict::Initialize);
    }

    #[test]
    fn late_first_start_needs_every_peer() {
        assert_eq!(judge(OWN, 3, &answers(&[(2, true, None)])), Verdict::Wait);
        assert_eq!(judge(OWN, 3, &answers(&[(2, true, None), (3, false, None)])), Verdict::Join);
        assert_eq!(judge(OWN, 3, &answers(&[(2, true, Some(OWN)), (3, true, Some(OWN))])), Verdict::Join);
    }

    #[test]
    fn peer_that_knew_another_incarnation_is_believed_at_once() {
        assert_eq!(judge(OWN, 3, &answers(&[(2, true, Some(8))])), Verdict::Wiped(MemberId(2)));
        assert_eq!(judge(OWN, 3, &answers(&[(2, true, Some(8)), (3, false, None)])), Verdict::Wiped(MemberId(2)));
    }

    #[test]
    fn a_peer_that_is_founding_counts_as_empty_but_its_memory_counts() {
        let founding = |remembers| {
            let answer = ProbeAnswer { has_data: true, established: false, remembers };
            vec![(MemberId(2), answer)]
        };
        assert_eq!(judge(OWN, 3, &founding(Some(OWN))), Verdict::Initialize);
        assert_eq!(judge(OWN, 3, &founding(None)), Verdict::Initialize);
        assert_eq!(judge(OWN, 3, &founding(Some(8))), Verdict::Wiped(MemberId(2)));
    }

    #[test]
    fn memory_of_a_peer_without_data_binds_nobody() {
        assert_eq!(judge(OWN, 3, &answers(&[(2, false, Some(8))])), Verdict::Initialize);
    }
}
