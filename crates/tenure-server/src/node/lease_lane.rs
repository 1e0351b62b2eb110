//! The lane of lease traffic: renewals and clients' revokes, grouped apart from the writes so that they pass a flood of them.
//!
//! A group costs one log append whatever its size, and most clients renew long before they must, so this lane waits for
//! company where the other never does: a short while when writes sync the log anyway, longer when nothing else does. One
//! group is under way at a time, and the next gathers meanwhile.
//!
//! Unlike a write, a renewal may be sent again when its fate is unknown: done twice it does no harm. So a leader that dies
//! or hangs costs its clients nothing but time. A revoke whose fate is unknown ends as an error, like a write.
//!
//! Nor is a renewal anything that a client could read here next. So it is answered when the leader has applied it, and a
//! member whose own state stands still for a while does not lose its clients' leases. A revoke is waited for, outside the
//! lane.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tenure_core::command::Command;
use tenure_raft::runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::error::RequestError;
use super::proposer::{Attempt, Done, Flight, Pending, RETRY_INTERVAL, answer, refuse};

/// Renewals and revokes that may wait; beyond it, "too many requests". Two seconds' worth of a million leases of 30 s on
/// one member.
pub(super) const QUEUE_COMMANDS_MAX: usize = 128 * 1024;

/// Commands of one group. Applying them takes about 20 ms, and the log's next entry waits so long.
const GROUP_COMMANDS_MAX: usize = 4096;

/// How long a group gathers while writes keep the log busy: it shares their syncs, so waiting saves only entries.
const WINDOW_BUSY: Duration = Duration::from_millis(4);

/// How long it gathers when nothing else is written: at most 50 groups a second and member. Clients renew after a third
/// of a TTL of at least a second; they do not feel this.
const WINDOW_IDLE: Duration = Duration::from_millis(20);

pub(super) async fn group_loop(flight: Flight, mut queue: mpsc::Receiver<Pending>) {
    let mut writes_seen = 0;
    let mut group: Vec<Pending> = Vec::new();
    while queue.recv_many(&mut group, GROUP_COMMANDS_MAX).await > 0 {
        let writes = flight.write_groups();
        let window = if writes == writes_seen { WINDOW_IDLE } else { WINDOW_BUSY };
        writes_seen = writes;
        gather(&mut group, &mut queue, window).await;
        flight.carry_out_for_leases(std::mem::take(&mut group)).await;
    }
}

/// Waits for company, unless somebody revokes: whoever waits for the end of a lease wants it now.
async fn gather(group: &mut Vec<Pending>, queue: &mut mpsc::Receiver<Pending>, window: Duration) {
    let end = Instant::now() + window;
    let mut looked_at = 0;
    while group.len() < GROUP_COMMANDS_MAX && group[looked_at..].iter().all(is_renewal) {
        looked_at = group.len();
        let room = GROUP_COMMANDS_MAX - group.len();
        match tokio::time::timeout_at(end, queue.recv_many(group, room)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn is_renewal(pending: &Pending) -> bool {
    Command::renewed_lease(&pending.command).is_some()
}

impl Flight {
    /// The groups of other lanes.
    fn write_groups(&self) -> u64 {
        let of_leases = self.counters.of_leases.load(Ordering::Relaxed);
        self.counters.groups.load(Ordering::Relaxed).saturating_sub(of_leases)
    }

    async fn carry_out_for_leases(&self, mut group: Vec<Pending>) {
        let deadline = Instant::now() + self.timeout;
        loop {
            // Clients that gave up meanwhile.
            group.retain(|pending| !pending.answer.is_closed());
            if group.is_empty() {
                return;
            }
            match tokio::time::timeout_at(deadline, self.attempt_for_leases(&group)).await {
                Ok(Attempt::Done(done)) => {
                    self.counters.of_leases.fetch_add(1, Ordering::Relaxed);
                    return self.answer_for_leases(group, done, deadline);
                }
                Ok(Attempt::Again) => {}
                // A refused renewal would end a stream with all that its client renews there.
                Ok(Attempt::Failed(error @ (RequestError::LeaderLost | RequestError::TooManyRequests))) => {
                    let (renewals, others) = group.into_iter().partition(is_renewal);
                    refuse(others, error);
                    group = renewals;
                }
                Ok(Attempt::Failed(error)) => return refuse(group, error),
                Err(_) => return refuse(group, RequestError::Timeout),
            }
            if tokio::time::timeout_at(deadline, tokio::time::sleep(RETRY_INTERVAL)).await.is_err() {
                return refuse(group, RequestError::Timeout);
            }
        }
    }

    /// Answers renewals at once, and revokes when they can be seen here.
    fn answer_for_leases(&self, group: Vec<Pending>, done: Done, deadline: Instant) {
        let Done { outcomes, term, forwarded_at } = done;
        let both = group.into_iter().zip(outcomes);
        let (renewals, revokes): (Vec<_>, Vec<_>) = both.partition(|(pending, _)| is_renewal(pending));
        let (group, outcomes) = renewals.into_iter().unzip();
        answer(group, Done { outcomes, term, forwarded_at });
        if revokes.is_empty() {
            return;
        }
        let (group, outcomes) = revokes.into_iter().unzip();
        let (flight, done) = (self.clone(), Done { outcomes, term, forwarded_at });
        // Ends by the deadline, and holds what its commands took of the lane's bytes.
        drop(runtime::spawn(async move {
            match tokio::time::timeout_at(deadline, flight.visible_here(&done)).await {
                Ok(Ok(())) => answer(group, done),
                Ok(Err(error)) => refuse(group, error),
                Err(_) => refuse(group, RequestError::Timeout),
            }
        }));
    }

    /// One attempt, given up when leadership moves: what a former leader holds may hang there for long.
    async fn attempt_for_leases(&self, group: &[Pending]) -> Attempt {
        let Some(leader) = self.node.leader() else { return Attempt::Again };
        tokio::select! {
            attempt = self.attempt(group) => attempt,
            () = self.node.leader_is_not(leader) => Attempt::Failed(RequestError::LeaderLost),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tenure_core::LeaseId;
    use tenure_core::command::LeaseRevoke;
    use tokio::sync::{Semaphore, oneshot};

    use super::*;

    /// So long that a test which waited for it would be noticed.
    const NEVER: Duration = Duration::from_secs(3600);

    async fn pending(command: &Command) -> Pending {
        let bytes = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("an open semaphore");
        Pending::new(command.encode(), None, oneshot::channel().0, bytes)
    }

    async fn renewal() -> Pending {
        pending(&Command::LeaseRenew(LeaseId(7))).await
    }

    async fn revoke() -> Pending {
        pending(&Command::LeaseRevoke(LeaseRevoke { id: LeaseId(7), expiry: None, by: None })).await
    }

    #[tokio::test]
    async fn a_revoke_waits_for_no_company() {
        let (queue, mut queued) = mpsc::channel(8);
        let mut group = vec![revoke().await];
        gather(&mut group, &mut queued, NEVER).await;
        assert_eq!(group.len(), 1);
        // Nor does one that comes while others wait.
        for pending in [renewal().await, revoke().await] {
            queue.try_send(pending).expect("room");
        }
        let mut group = vec![renewal().await];
        gather(&mut group, &mut queued, NEVER).await;
        assert_eq!(group.len(), 3);
    }

    #[tokio::test]
    async fn renewals_gather_for_the_window_and_no_longer() {
        let (queue, mut queued) = mpsc::channel(8);
        queue.try_send(renewal().await).expect("room");
        let mut group = vec![renewal().await];
        gather(&mut group, &mut queued, Duration::from_millis(5)).await;
        assert_eq!(group.len(), 2);
        drop(queue);
        gather(&mut group, &mut queued, NEVER).await;
        assert_eq!(group.len(), 2, "nobody can come any more");
    }

    #[tokio::test]
    async fn a_full_group_goes_at_once_and_is_no_fuller() {
        let (queue, mut queued) = mpsc::channel(GROUP_COMMANDS_MAX);
        let mut group = vec![renewal().await];
        for _ in 0..GROUP_COMMANDS_MAX {
            queue.try_send(renewal().await).expect("room");
        }
        gather(&mut group, &mut queued, NEVER).await;
        assert_eq!((group.len(), queued.len()), (GROUP_COMMANDS_MAX, 1));
    }
}
