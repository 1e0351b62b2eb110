//! Requests without entries, which only tell a follower how far the log is committed, and the company that they wait for.
//!
//! Consensus makes such a request for each commit that finds no entry to travel with. A client that writes one key after
//! the other thus costs two requests to each follower where one would do: the commit of a write can travel with the entry
//! of the next, which follows within a millisecond. So such a request is kept back for [`WAIT`], and goes only if nothing
//! overtakes it. It is left out as if the network had lost it, but for one thing: what overtakes it says all that it said.
//!
//! A follower whose commits somebody waits for is told them at once. The leader knows it of members that forward writes to
//! it or ask it for read indexes; of watches and of waiters for locks a follower tells with each of its answers.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::Fuse;
use openraft::raft::AppendEntriesRequest;

use super::network::Requests;
use crate::runtime::BootInstant;
use crate::types::Config;

/// How long a mark waits for entries: longer than a lone client takes from one write to the next. Timers add up to a
/// millisecond.
const WAIT: Duration = Duration::from_millis(2);

/// For how long a member counts as waiting after a sign of it. Who asks again and again is never kept waiting.
const AWAITED: Duration = Duration::from_secs(1);

/// The members where somebody waits for commits.
#[derive(Debug, Default)]
pub(super) struct Awaiting(Mutex<HashMap<u64, BootInstant>>);

impl Awaiting {
    /// Somebody waits there now.
    pub(super) fn note(&self, member: u64) {
        self.until().insert(member, BootInstant::now() + AWAITED);
    }

    pub(super) fn is_awaited_by(&self, member: u64) -> bool {
        self.until().get(&member).is_some_and(|until| BootInstant::now() < *until)
    }

    fn until(&self) -> MutexGuard<'_, HashMap<u64, BootInstant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The requests, but for marks that were overtaken while they waited.
pub(super) fn in_company(input: Requests, at_once: impl Fn() -> bool + Send + 'static) -> Requests {
    let waiting = Waiting { input: input.fuse(), at_once, next: None };
    futures::stream::unfold(waiting, |mut waiting| async move { Some((waiting.request().await?, waiting)) }).boxed()
}

struct Waiting<F> {
    input: Fuse<Requests>,
    at_once: F,
    /// Came while a mark waited that it does not stand for.
    next: Option<Request>,
}

type Request = AppendEntriesRequest<Config>;

impl<F: Fn() -> bool> Waiting<F> {
    async fn request(&mut self) -> Option<Request> {
        let mut request = match self.next.take() {
            Some(request) => request,
            None => self.input.next().await?,
        };
        let deadline = tokio::time::Instant::now() + WAIT;
        while is_mark(&request) && !(self.at_once)() {
            match tokio::time::timeout_at(deadline, self.input.next()).await {
                Ok(Some(later)) if says_all_of(&later, &request) => request = later,
                Ok(later) => {
                    self.next = later;
                    break;
                }
                Err(_) => break,
            }
        }
        Some(request)
    }
}

fn is_mark(request: &Request) -> bool {
    request.entries.is_empty()
}

/// Whether a follower that gets the one learns from it what it would have learnt from the mark before.
fn says_all_of(later: &Request, mark: &Request) -> bool {
    later.vote == mark.vote && later.prev_log_id == mark.prev_log_id && later.leader_commit >= mark.leader_commit
}

#[cfg(test)]
mod tests {
    use openraft::alias::VoteOf;
    use openraft::entry::RaftEntry;

    use super::*;
    use crate::types::{Entry, log_id};

    /// A request behind entry `prev`, with one entry if `entry`.
    fn request(prev: u64, entry: bool, commit: u64) -> Request {
        let entries = entry.then(|| Entry::new_blank(log_id(1, prev + 1)));
        Request {
            vote: VoteOf::<Config>::new_committed(1, 1),
            prev_log_id: Some(log_id(1, prev)),
            entries: entries.into_iter().collect(),
            leader_commit: Some(log_id(1, commit)),
        }
    }

    fn told(requests: &[Request]) -> Vec<(u64, usize, u64)> {
        let index = |id: Option<crate::types::LogId>| id.map_or(0, |id| id.index());
        requests.iter().map(|r| (index(r.prev_log_id), r.entries.len(), index(r.leader_commit))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_travels_with_the_entry_that_follows_it() {
        let input = vec![request(4, true, 4), request(5, false, 5), request(5, true, 5), request(6, false, 6)];
        let sent: Vec<_> = in_company(futures::stream::iter(input).boxed(), || false).collect().await;
        assert_eq!(told(&sent), [(4, 1, 4), (5, 1, 5), (6, 0, 6)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_without_company_goes_after_a_while() {
        let began = tokio::time::Instant::now();
        let input = futures::stream::iter([request(5, false, 5)]).chain(futures::stream::pending()).boxed();
        let mut sent = in_company(input, || false);
        assert_eq!(told(&[sent.next().await.expect("it is sent")]), [(5, 0, 5)]);
        assert!(began.elapsed() >= WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn marks_stand_for_earlier_ones_but_wait_no_longer() {
        let began = tokio::time::Instant::now();
        let marks = futures::stream::unfold(5, |commit| async move {
            tokio::time::sleep(WAIT / 4).await;
            Some((request(9, false, commit), commit + 1))
        });
        let mut sent = in_company(marks.boxed(), || false);
        let first = sent.next().await.expect("one is sent");
        assert!(began.elapsed() <= WAIT / 4 + WAIT + Duration::from_millis(1), "{:?}", began.elapsed());
        assert!(first.leader_commit > Some(log_id(1, 6)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_is_not_dropped_for_what_does_not_follow_it() {
        let input = vec![request(5, false, 5), request(3, true, 5), request(7, false, 7), request(7, true, 6)];
        let sent: Vec<_> = in_company(futures::stream::iter(input.clone()).boxed(), || false).collect().await;
        assert_eq!(told(&sent), told(&input));
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_that_is_awaited_goes_at_once() {
        let began = tokio::time::Instant::now();
        let input = futures::stream::iter([request(5, false, 5)]).chain(futures::stream::pending()).boxed();
        assert_eq!(told(&[in_company(input, || true).next().await.expect("it is sent")]), [(5, 0, 5)]);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_is_awaiting_for_a_while_after_a_sign_of_it() {
        let awaiting = Awaiting::default();
        assert!(!awaiting.is_awaited_by(2));
        awaiting.note(2);
        assert!(awaiting.is_awaited_by(2) && !awaiting.is_awaited_by(3));
    }
}
