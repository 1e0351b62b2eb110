//! Replacing a leader whose process has ended, without waiting until it has been silent for long.
//!
//! A leader that is killed leaves its machine behind, which closes its connections and refuses new ones. That is no
//! silence, which may be a slow network: it is an answer. So a follower whose stream of entries ended asks whether the
//! leader's port refuses. If it does so twice, the follower no longer keeps its vote for that leader, and campaigns, with a
//! pre-vote first. A leader that only a minority is refused by goes on: the others keep their votes for it. A follower that was wrong
//! is readier to vote for somebody else until the next election, because openraft has no way to take the vote back; that can
//! cost an election, and nothing else: reads, leases and writes ask a majority (docs/ARCHITECTURE.md).
//!
//! All followers find out at the same moment. Two that campaigned at once would share the votes between them and have to
//! wait, so each has its turn; the first by id comes first, and the next one follows for the case that it lacks entries.
//! A machine that lost its power, or a network that was cut, refuses nothing: then the election timeout decides.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::TransferLeaderRequest;

use crate::node::RaftNode;
use crate::runtime::BootInstant;
use crate::types::Vote;

/// Between two questions whether the port refuses, and for the other followers to find out, too.
const PAUSE: Duration = Duration::from_millis(10);

/// Between the campaigns of two members: enough for a vote to be asked for and written down.
const TURN: Duration = Duration::from_millis(40);

/// How often a leader whose stream ended is looked at again. Its process may end after its streams: it has more to close.
const ROUNDS: u32 = 5;

/// Replaces every leader that is seen to be gone, for as long as the member runs.
pub(crate) async fn succession_loop(node: RaftNode) {
    let mut left = node.leader_watch().left();
    while left.changed().await.is_ok() {
        let leader = *left.borrow_and_update();
        if let Some(leader) = leader {
            replace(&node, leader).await;
        }
    }
}

/// Replaces the leader that has this vote, if it is gone and nobody else did.
async fn replace(node: &RaftNode, leader: Vote) {
    let mut voters: Vec<u64> = node.members().iter().filter(|member| !member.is_learner).map(|m| m.id.0).collect();
    voters.sort_unstable();
    let Some(turn) = turn(&voters, node.member().0, leader.leader_id.voted_for) else { return };
    let round = TURN * u32::try_from(voters.len()).unwrap_or(u32::MAX);
    let began = BootInstant::now();
    let mut said = false;
    for _ in 0..ROUNDS {
        // It leads on over another stream.
        let is_heard = node.leader_watch().silence().is_some_and(|silence| silence < began.elapsed());
        if is_heard || !may_campaign(node, &leader) {
            return;
        }
        if is_gone(node, &leader).await && may_campaign(node, &leader) {
            if !std::mem::replace(&mut said, true) {
                tracing::info!(leader = format!("{:x}", leader.leader_id.voted_for), "the leader's process is gone");
            }
            if !campaign(node, &leader, turn).await {
                return;
            }
        }
        tokio::time::sleep(round.saturating_sub(turn)).await;
    }
}

/// Keeps the vote for the leader no longer, and campaigns in turn. Answers whether that could be begun.
async fn campaign(node: &RaftNode, leader: &Vote, turn: Duration) -> bool {
    // Named as the successor is the member that is gone: nobody is asked to campaign, only votes are kept no longer.
    let release = TransferLeaderRequest::new(*leader, leader.leader_id.voted_for, None);
    if !matches!(node.raft().handle_transfer_leader(release).await, Ok(Ok(()))) {
        return false;
    }
    tokio::time::sleep(PAUSE + turn).await;
    may_campaign(node, leader) && node.raft().trigger().elect(true).await.is_ok()
}

/// Whether the leader is still the one that this member knows, and nothing forbids to campaign against it.
fn may_campaign(node: &RaftNode, leader: &Vote) -> bool {
    // A member that has restarted keeps its vote for a while.
    node.raft().server_metrics().borrow_watched().vote == *leader && node.gate().admit_vote(false).is_ok()
}

/// Whether the leader's machine says that nobody listens any more, and says so again.
async fn is_gone(node: &RaftNode, leader: &Vote) -> bool {
    let links = node.links();
    if !links.is_refused(leader.leader_id.voted_for).await {
        return false;
    }
    tokio::time::sleep(PAUSE).await;
    links.is_refused(leader.leader_id.voted_for).await
}

/// How long a voter waits for those that come before it. Nothing if it is no voter, or leads itself.
fn turn(voters: &[u64], member: u64, leader: u64) -> Option<Duration> {
    if member == leader {
        return None;
    }
    let place = voters.iter().filter(|id| **id != leader).position(|id| *id == member)?;
    Some(TURN * u32::try_from(place).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_take_their_turns_in_the_order_of_their_ids() {
        let turns = |leader| [1, 2, 3].map(|member| turn(&[1, 2, 3], member, leader));
        assert_eq!(turns(1), [None, Some(Duration::ZERO), Some(TURN)]);
        assert_eq!(turns(2), [Some(Duration::ZERO), None, Some(TURN)]);
        assert_eq!(turns(9), [Some(Duration::ZERO), Some(TURN), Some(2 * TURN)], "a leader that lost its vote");
        assert_eq!(turn(&[1, 2, 3], 4, 1), None, "a member without a vote");
    }
}
