//! What need not go to a follower at once, and what it goes with.
//!
//! Consensus makes a request without entries, a *mark*, for each commit that finds no entry to travel with: it only tells
//! a follower how far the log is committed. A client that writes one key after the other thus costs two requests to each
//! follower where one would do: the commit of a write can travel with the entry of the next, which follows within a
//! millisecond. So such a request is kept back for [`WAIT`], and goes only if nothing overtakes it. It is left out as if
//! the network had lost it, but for one thing: what overtakes it says all that it said.
//!
//! A follower that commits do without (`spare.rs`) is not even asked for each entry: after a small request, consensus is not
//! asked for the next one for as long, and that one then has all that came meanwhile.
//!
//! A follower whose commits somebody waits for is told them at once, but for what waits when the first of these comes.
//! The leader knows it of members that forward writes to it or ask it for read indexes; of watches and of waiters for locks
//! a follower tells with each of its answers.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::Fuse;
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, Sleep};

use super::network::{Requests, entry_bytes};
use crate::runtime::BootInstant;
use crate::types::Config;

/// How long a mark waits for entries: longer than a lone client takes from one write to the next. Timers add up to a
/// millisecond.
const WAIT: Duration = Duration::from_millis(2);

/// Larger requests are worth a message of their own, and a sync.
const SMALL_BYTES: usize = 16 << 10;

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
///
/// While `is_spare` says that commits do without this follower, and `at_once` that nobody there waits for them, small
/// requests go at intervals of [`WAIT`]: what comes meanwhile stays where it is, and is then asked for as one request.
pub(super) fn in_company(
    input: Requests,
    at_once: impl Fn() -> bool + Send + 'static,
    is_spare: impl Fn() -> bool + Send + 'static,
) -> Requests {
    let alarm = Box::pin(tokio::time::sleep(WAIT));
    let waiting = Waiting { input: input.fuse(), at_once, is_spare, small_at: None, next: None, alarm };
    futures::stream::unfold(waiting, |mut waiting| async move { Some((waiting.request().await?, waiting)) }).boxed()
}

struct Waiting<F, G> {
    input: Fuse<Requests>,
    at_once: F,
    is_spare: G,
    /// When the last request went, if that was one with a few entries.
    small_at: Option<Instant>,
    /// Came while a mark waited that it does not stand for.
    next: Option<Request>,
    /// Rings when a mark has waited long enough, or earlier: it stays set when a mark was overtaken. To set it for each of
    /// them would wake the runtime each time, which had planned to sleep longer.
    alarm: Pin<Box<Sleep>>,
}

type Request = AppendEntriesRequest<Config>;

impl<F: Fn() -> bool, G: Fn() -> bool> Waiting<F, G> {
    async fn request(&mut self) -> Option<Request> {
        let mut request = match self.next.take() {
            Some(request) => request,
            None => {
                self.keep_pace().await;
                self.input.next().await?
            }
        };
        let deadline = Instant::now() + WAIT;
        while is_mark(&request) && !(self.at_once)() {
            match self.next_until(deadline).await {
                Some(Some(later)) if says_all_of(&later, &request) => request = later,
                Some(later) => {
                    self.next = later;
                    break;
                }
                None => break,
            }
        }
        self.small_at = is_small(&request).then(Instant::now);
        Some(request)
    }

    /// Leaves what comes where it is until a spare follower's turn has come again.
    async fn keep_pace(&mut self) {
        let Some(last) = self.small_at else { return };
        while last.elapsed() < WAIT && (self.is_spare)() && !(self.at_once)() {
            self.alarm.as_mut().reset(last + WAIT);
            (&mut self.alarm).await;
        }
    }

    /// The next request or the end of them, if that comes in time.
    async fn next_until(&mut self, deadline: Instant) -> Option<Option<Request>> {
        loop {
            tokio::select! {
                biased;
                next = self.input.next() => return Some(next),
                () = &mut self.alarm => {}
            }
            if self.alarm.deadline() >= deadline {
                return None;
            }
            self.alarm.as_mut().reset(deadline);
        }
    }
}

fn is_mark(request: &Request) -> bool {
    request.entries.is_empty()
}

/// Whether it has entries, but so few that one might as well have waited for more.
fn is_small(request: &Request) -> bool {
    !is_mark(request) && request.entries.iter().map(entry_bytes).sum::<usize>() <= SMALL_BYTES
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
    use crate::types::{Entry, Payload, Proposal, log_id};

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
        let sent: Vec<_> = in_company(futures::stream::iter(input).boxed(), || false, || false).collect().await;
        assert_eq!(told(&sent), [(4, 1, 4), (5, 1, 5), (6, 0, 6)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_without_company_goes_after_a_while() {
        let began = Instant::now();
        let input = futures::stream::iter([request(5, false, 5)]).chain(futures::stream::pending()).boxed();
        let mut sent = in_company(input, || false, || false);
        assert_eq!(told(&[sent.next().await.expect("it is sent")]), [(5, 0, 5)]);
        assert!(began.elapsed() >= WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn marks_stand_for_earlier_ones_but_wait_no_longer() {
        let began = Instant::now();
        let marks = futures::stream::unfold(5, |commit| async move {
            tokio::time::sleep(WAIT / 4).await;
            Some((request(9, false, commit), commit + 1))
        });
        let mut sent = in_company(marks.boxed(), || false, || false);
        let first = sent.next().await.expect("one is sent");
        assert!(began.elapsed() <= WAIT / 4 + WAIT + Duration::from_millis(1), "{:?}", began.elapsed());
        assert!(first.leader_commit > Some(log_id(1, 6)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_is_not_dropped_for_what_does_not_follow_it() {
        let input = vec![request(5, false, 5), request(3, true, 5), request(7, false, 7), request(7, true, 6)];
        let sent: Vec<_> = in_company(futures::stream::iter(input.clone()).boxed(), || false, || false).collect().await;
        assert_eq!(told(&sent), told(&input));
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_that_is_awaited_goes_at_once() {
        let began = Instant::now();
        let input = futures::stream::iter([request(5, false, 5)]).chain(futures::stream::pending()).boxed();
        assert_eq!(told(&[in_company(input, || true, || false).next().await.expect("it is sent")]), [(5, 0, 5)]);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    /// What consensus has: one entry more every quarter of a wait. A request has all that there are when it is asked for.
    fn entries_as_they_come(bytes: usize) -> Requests {
        let began = Instant::now();
        let next = move |sent: u64| async move {
            tokio::time::sleep_until(began + (WAIT / 4) * u32::try_from(sent + 1).expect("few")).await;
            let last = u64::try_from(began.elapsed().as_micros() / (WAIT / 4).as_micros()).expect("few");
            let entry = |index| Entry {
                log_id: log_id(1, index),
                payload: Payload::Normal(Proposal(bytes::Bytes::from(vec![0; bytes]))),
            };
            let entries = (sent + 1..=last).map(entry).collect();
            Some((Request { entries, ..request(sent, false, 0) }, last))
        };
        futures::stream::unfold(0, next).boxed()
    }

    /// How many entries each of so many requests has.
    async fn gathered(requests: Requests, count: usize) -> Vec<usize> {
        requests.take(count).map(|request| request.entries.len()).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_spare_follower_gets_what_gathered_in_one_request() {
        let sent = in_company(entries_as_they_come(100), || false, || true);
        let counts = gathered(sent, 4).await;
        // The first one waits for nothing; timers take up to a millisecond more.
        assert!(counts[0] <= 2 && counts[1..].iter().all(|count| (4..=6).contains(count)), "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn others_get_each_entry_at_once() {
        let counts = |at_once: bool, is_spare: bool, bytes| {
            gathered(in_company(entries_as_they_come(bytes), move || at_once, move || is_spare), 6)
        };
        assert!(counts(false, true, 100).await.iter().any(|count| *count > 2));
        for sent in [counts(false, false, 100).await, counts(true, true, 100).await] {
            assert!(sent.iter().all(|count| *count <= 2), "{sent:?}");
        }
        let large = counts(false, true, SMALL_BYTES + 1).await;
        assert!(large.iter().all(|count| *count <= 2), "what is large goes at once: {large:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_that_is_spare_no_longer_waits_for_its_turn_once_at_most() {
        let spare = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let is_spare = spare.clone();
        let mut sent = in_company(
            entries_as_they_come(100),
            || false,
            move || is_spare.load(std::sync::atomic::Ordering::Relaxed),
        );
        drop(sent.next().await);
        let began = Instant::now();
        spare.store(false, std::sync::atomic::Ordering::Relaxed);
        drop(sent.next().await);
        assert!(began.elapsed() <= WAIT / 2, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_is_awaiting_for_a_while_after_a_sign_of_it() {
        let awaiting = Awaiting::default();
        assert!(!awaiting.is_awaited_by(2));
        awaiting.note(2);
        assert!(awaiting.is_awaited_by(2) && !awaiting.is_awaited_by(3));
    }
}
