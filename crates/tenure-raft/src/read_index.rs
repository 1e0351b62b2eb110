//! The index that a linearizable read waits for, and the confirmation that this member led after the read came.
//!
//! The index is openraft's: what is committed, and at least the first entry of the leader's own term. The confirmation is made
//! here: each voter is asked once whether it still follows this vote, and its answer counts for that question alone.
//!
//! openraft (alpha 37) confirms by time: it takes an answer for one to the latest append that ends at the same entry. A
//! stream of appends also carries some without entries, which only tell how far the leader has committed. So an answer to
//! the entries, which waited in a socket while the leader was stopped, can be taken for one to an append that was sent when it went
//! on, after others had elected a leader of their own; and a read of the past would be served. The story is told by
//! `tests/src/stale_reads.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::alias::VoteOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{LinearizerOption, ServerState};
use tenure_core::LogIndex;
use tokio::sync::Semaphore;

use crate::error::ReadIndexError;
use crate::node::{OpenRaft, leader_of};
use crate::peer::Links;
use crate::peer::network::{Heard, follows};
use crate::runtime;
use crate::types::Config;

/// Confirms the leadership of a member. Each voter is asked one question at a time: what a slow one still has to answer says
/// nothing of later reads, and must not pile up.
#[derive(Debug, Default)]
pub(crate) struct Confirming {
    turns: Mutex<BTreeMap<u64, Arc<Semaphore>>>,
}

/// What a member leads by.
struct Leading {
    member: u64,
    vote: VoteOf<Config>,
    /// The voters; two sets while the membership changes, and a majority of each is needed.
    voters: Vec<BTreeSet<u64>>,
}

impl Leading {
    /// As published: it may be over, and then no majority confirms it.
    fn of(raft: &OpenRaft) -> Option<Leading> {
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let (member, vote) = (metrics.id, metrics.vote);
        let leads = metrics.state == ServerState::Leader && vote.committed && vote.leader_id.voted_for == member;
        let voters = metrics.membership_config.membership().get_joint_config().clone();
        leads.then_some(Leading { member, vote, voters })
    }

    fn is_confirmed(&self, by: &BTreeSet<u64>) -> bool {
        let majority = |voters: &BTreeSet<u64>| voters.intersection(by).count() * 2 > voters.len();
        self.voters.iter().all(majority)
    }
}

impl Confirming {
    /// The index, once a majority has confirmed that this member led after this was called.
    pub(crate) async fn read_index(
        &self,
        raft: &OpenRaft,
        links: &Links,
        patience: Duration,
    ) -> Result<LogIndex, ReadIndexError> {
        // Before the index: a leadership that began later is not confirmed by this vote.
        let leading = Leading::of(raft).ok_or(ReadIndexError::NotLeader(None))?;
        // It looks at its leader lease first, which costs nothing, and is not what the read rests on.
        match raft.get_read_linearizer(LinearizerOption::new(None, true)).await {
            Ok(linearizer) => {
                self.confirm(links, &leading, patience).await?;
                Ok(LogIndex(linearizer.read_log_id().index()))
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ReadIndexError::NotLeader(leader_of(&forward)))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ReadIndexError::NoQuorum),
            Err(RaftError::Fatal(_)) => Err(ReadIndexError::Stopped),
        }
    }

    async fn confirm(&self, links: &Links, leading: &Leading, patience: Duration) -> Result<(), ReadIndexError> {
        let mut confirmed = BTreeSet::from([leading.member]);
        let others: BTreeSet<u64> =
            leading.voters.iter().flatten().copied().filter(|id| *id != leading.member).collect();
        let ask = |voter| async move { (voter, self.ask(links, voter, leading.vote, patience).await) };
        let mut asked: FuturesUnordered<_> = others.into_iter().map(ask).collect();
        while !leading.is_confirmed(&confirmed) {
            match asked.next().await {
                Some((voter, Heard::Follows)) => drop(confirmed.insert(voter)),
                Some((_, Heard::Overruled)) => return Err(ReadIndexError::NotLeader(None)),
                Some((_, Heard::Nothing)) => {}
                None => return Err(ReadIndexError::NoQuorum),
            }
        }
        Ok(())
    }

    /// Waits for the voter's turn, so that the question is asked after this was called, and for the answer.
    async fn ask(&self, links: &Links, voter: u64, vote: VoteOf<Config>, patience: Duration) -> Heard {
        let Ok(turn) = self.turn(voter).acquire_owned().await else { return Heard::Nothing };
        let links = links.clone();
        // A question that was sent is not taken back when others suffice: resets of streams are bounded. It ends in time.
        let asked = runtime::spawn(async move {
            let heard = tokio::time::timeout(patience, follows(&links, voter, vote)).await;
            drop(turn);
            heard.unwrap_or(Heard::Nothing)
        });
        asked.await.unwrap_or(Heard::Nothing)
    }

    fn turn(&self, voter: u64) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(voter).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leading(voters: &[&[u64]]) -> Leading {
        let voters = voters.iter().map(|set| set.iter().copied().collect()).collect();
        Leading { member: 1, vote: VoteOf::<Config>::new_committed(1, 1), voters }
    }

    #[test]
    fn a_majority_of_each_set_of_voters_confirms() {
        let by = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        assert!(leading(&[&[1]]).is_confirmed(&by(&[1])));
        assert!(!leading(&[&[1, 2]]).is_confirmed(&by(&[1])));
        assert!(leading(&[&[1, 2, 3]]).is_confirmed(&by(&[1, 3])));
        assert!(!leading(&[&[1, 2, 3, 4]]).is_confirmed(&by(&[1, 3])));
        assert!(!leading(&[&[1, 2, 3], &[3, 4, 5]]).is_confirmed(&by(&[1, 2, 3])));
        assert!(leading(&[&[1, 2, 3], &[3, 4, 5]]).is_confirmed(&by(&[1, 3, 4])));
        // A member that is no voter leads by the others alone.
        assert!(!leading(&[&[2, 3, 4]]).is_confirmed(&by(&[1, 2])));
    }
}
