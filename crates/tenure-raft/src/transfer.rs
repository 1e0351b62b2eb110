//! Giving leadership away: to the member that is furthest along before a stop, or to the one that an operator names.
//!
//! From the moment that it is asked to, consensus takes no more writes until somebody else has won, with no way back. So
//! the target must have been heard lately and must have nearly all of the log before it is asked.

use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tenure_core::MemberId;

use crate::node::RaftNode;

/// Heartbeats within which a member must have answered to be given leadership.
const FRESH_HEARTBEATS: u32 = 3;

/// Entries that it may lack: it gets them while it is waited for, and writes stand still meanwhile.
const LAG_ENTRIES_MAX: u64 = 64;

/// Why leadership was not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// Only the leader can.
    #[error("not the leader")]
    NotLeader,
    /// No such member, or one without a vote.
    #[error("no member that could lead")]
    BadTarget,
    /// It did not come to lead in time. It may yet.
    #[error("leader transfer took too long")]
    Timeout,
}

impl RaftNode {
    /// Moves leadership from this member to another, and returns once that one leads.
    pub async fn move_leader(&self, target: MemberId, timeout: Duration) -> Result<(), MoveError> {
        if self.leader() != Some(self.member()) {
            return Err(MoveError::NotLeader);
        }
        if !self.members().iter().any(|member| member.id == target && !member.is_learner) {
            return Err(MoveError::BadTarget);
        }
        if target == self.member() {
            return Ok(());
        }
        tracing::info!(from = format!("{:x}", self.member().0), to = format!("{:x}", target.0), "moving leadership");
        tokio::time::timeout(timeout, self.until_led_by(target)).await.map_err(|_| MoveError::Timeout)
    }

    async fn until_led_by(&self, target: MemberId) {
        let heartbeat = self.options().heartbeat;
        while self.leader() != Some(target) {
            let leads = self.leader() == Some(self.member());
            if !leads || !self.successors(LAG_ENTRIES_MAX).contains(&target) {
                tokio::time::sleep(heartbeat).await;
                continue;
            }
            if self.raft().trigger().transfer_leader(target.0).await.is_ok() {
                self.other_leader_within(self.options().election_timeout).await;
            }
        }
    }

    /// Hands leadership to the follower that is furthest along, if this member leads and there is one.
    ///
    /// Returns whether another leader was seen within an election timeout.
    pub async fn hand_over(&self) -> bool {
        let Some(target) = self.successors(u64::MAX).pop() else { return false };
        tracing::info!(to = format!("{:x}", target.0), "handing leadership over");
        let timeout = self.options().election_timeout;
        if !matches!(tokio::time::timeout(timeout, self.raft().trigger().transfer_leader(target.0)).await, Ok(Ok(()))) {
            return false;
        }
        self.other_leader_within(timeout).await
    }

    /// Whether another member is seen to lead within the time.
    async fn other_leader_within(&self, timeout: Duration) -> bool {
        let mut metrics = self.raft().server_metrics();
        let moved = async {
            loop {
                let leader = metrics.borrow_watched().current_leader;
                if leader.is_some_and(|leader| leader != self.member().0) {
                    return true;
                }
                if metrics.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::time::timeout(timeout, moved).await.unwrap_or(false)
    }

    /// The members that answer and lack at most `lag_max` entries, the best last; none if this member does not lead.
    fn successors(&self, lag_max: u64) -> Vec<MemberId> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return Vec::new();
        }
        let (Some(heard), Some(replication)) = (&metrics.heartbeat, &metrics.replication) else { return Vec::new() };
        let fresh = self.options().heartbeat * FRESH_HEARTBEATS;
        let needed = metrics.last_log_index.unwrap_or(0).saturating_sub(lag_max);
        let mut found: Vec<(u64, MemberId)> = metrics
            .membership_config
            .membership()
            .voter_ids()
            .filter(|id| *id != self.member().0)
            .filter(|id| heard.get(id).and_then(Option::as_ref).is_some_and(|at| at.elapsed() < fresh))
            .filter_map(|id| Some((replication.get(&id)?.as_ref()?.index(), MemberId(id))))
            .filter(|(matched, _)| *matched >= needed)
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }
}
