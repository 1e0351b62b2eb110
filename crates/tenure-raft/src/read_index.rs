//! The index that a linearizable read waits for, and the confirmation that this member led after the read came.
//!
//! The index is what this member has applied, once that has reached its own term: whatever was acknowledged by an earlier leader is
//! before the first entry of the term, and whatever it acknowledged itself it had applied and published by then. What it told others to be
//! committed counts too, from before that left: another member may apply it earlier, and let a client read or hear of it that then reads
//! here. Both are looked at, and nobody is asked. What openraft publishes as committed would not do: it is published after the others were told.
//!
//! The confirmation is made by a question to each voter, which was asked after the read came, and counts for that question alone
//! (`peer/confirm.rs`). openraft (alpha 37) confirms by time: it takes an answer for one to the latest append that ends at the same entry. A
//! stream of appends also carries some without entries, which only tell how far the leader has committed. So an answer to
//! the entries, which waited in a socket while the leader was stopped, can be taken for one to an append that was sent when it went
//! on, after others had elected a leader of their own; and a read of the past would be served. The story is told by
//! `tests/src/stale_reads.rs`.

use std::collections::BTreeSet;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::alias::VoteOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{LinearizerOption, ServerState};
use tenure_core::planted::{Bug, is_on};
use tenure_core::{LogIndex, Term};

use crate::error::ReadIndexError;
use crate::node::{OpenRaft, RaftNode, leader_of};
use crate::peer::confirm::{Heard, Voters};
use crate::types::Config;

/// Tells read indexes while its member leads. One per runtime that asks; its connections belong to that.
pub struct ReadIndexes {
    node: RaftNode,
    voters: Voters,
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

impl ReadIndexes {
    pub(crate) fn new(node: RaftNode, voters: Voters) -> ReadIndexes {
        ReadIndexes { node, voters }
    }

    /// The index that a linearizable read has to wait for, once a majority has confirmed that this member led after this was called.
    /// Only a leader can tell.
    pub async fn read_index(&self) -> Result<LogIndex, ReadIndexError> {
        if is_on(Bug::UnconfirmedRead) && self.node.promoted().is_some() {
            return Ok(self.node.view().applied().index);
        }
        // Before the index: a leadership that began later is not confirmed by this vote.
        let leading = Leading::of(self.node.raft()).ok_or(ReadIndexError::NotLeader(None))?;
        match self.index(&leading) {
            Some(index) => self.confirm(&leading).await.map(|()| index),
            None => {
                let index = self.first_of_term().await?;
                self.confirm(&leading).await.map(|()| index)
            }
        }
    }

    /// As far as this member knows by itself. Nothing if it has applied nothing of its term.
    fn index(&self, leading: &Leading) -> Option<LogIndex> {
        let view = self.node.view();
        let applied = view.applied();
        (applied.term == Term(leading.vote.leader_id.term)).then(|| applied.index.max(self.node.told()))
    }

    /// As consensus knows: at least the first entry of the term, which is not applied yet.
    async fn first_of_term(&self) -> Result<LogIndex, ReadIndexError> {
        // It looks at its leader lease first, which costs nothing, and is not what the read rests on.
        match self.node.raft().get_read_linearizer(LinearizerOption::new(None, true)).await {
            Ok(linearizer) => Ok(LogIndex(linearizer.read_log_id().index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ReadIndexError::NotLeader(leader_of(&forward)))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ReadIndexError::NoQuorum),
            Err(RaftError::Fatal(_)) => Err(ReadIndexError::Stopped),
        }
    }

    async fn confirm(&self, leading: &Leading) -> Result<(), ReadIndexError> {
        // This member is a voter like the others, whatever consensus has published of it by now.
        if self.node.log().vote().is_some_and(|vote| vote.leader_id.term > leading.vote.leader_id.term) {
            return Err(ReadIndexError::NotLeader(None));
        }
        let mut confirmed = BTreeSet::from([leading.member]);
        let others: BTreeSet<u64> =
            leading.voters.iter().flatten().copied().filter(|id| *id != leading.member).collect();
        let ask = |voter| {
            let heard = self.voters.ask(voter, leading.vote);
            async move { (voter, heard.await) }
        };
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
