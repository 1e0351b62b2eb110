//! Streams of keepalives: many leases are renewed at a time, and answered in the order of the requests.
//!
//! A client counts from when it gets an answer, the lessor from when it got the request. So an answer that had to wait, for
//! the log, for its turn or for the client to read, tells what is left of the TTL, and one that is too old for that is not
//! told: its lease is renewed once more. That happens after every hiccup, to all leases of a stream, so it is done for all
//! of them side by side; one after another, the last would be gone before its turn.

use std::collections::VecDeque;
use std::time::Duration;

use futures::Stream;
use futures::future::{FutureExt, join_all};
use futures::stream::{BoxStream, StreamExt};
use tenure_core::LeaseId;
use tenure_core::outcome::{Outcome, Response};
use tenure_raft::runtime::BootInstant;
use tokio::time::Instant;

use super::proposer::RETRY_INTERVAL;
use super::{Node, RequestError};

/// Keepalives of one stream that are carried out at once; further ones wait in the connection. A client that renews more
/// leases on one stream gets this many per round through the log.
const AT_ONCE_MAX: usize = 1024;

/// An answer that is older than this part of the TTL tells what is left instead of the TTL.
const ANSWER_AGE_PARTS: u64 = 3;

/// When less is left, the lease is renewed once more: etcd's clients know whole seconds, and 0 means that it is gone.
const TTL_TOLD_MIN_MS: u64 = 1000;

/// What became of a keepalive, and of which lease.
pub type KeptAlive = (LeaseId, Result<Outcome, RequestError>);

impl Node {
    /// Renews the leases of a stream. Errors of the requests are passed on in their places.
    pub fn keep_leases_alive<E: Send + 'static>(
        &self,
        ids: impl Stream<Item = Result<LeaseId, E>> + Send + 'static,
    ) -> BoxStream<'static, Result<KeptAlive, E>> {
        let node = self.clone();
        let renewed = ids.map(move |id| {
            let node = node.clone();
            async move { Ok(node.keep_lease_alive(id?).await) }
        });
        let renewed = renewed.buffered(AT_ONCE_MAX).boxed();
        let answers = Answers { node: self.clone(), renewed, waiting: VecDeque::new() };
        futures::stream::unfold(answers, |mut answers| async move { Some((answers.next().await?, answers)) }).boxed()
    }

    /// Renews a lease, again if the answer comes too late to be told. While too much waits here, it waits, too: a refusal
    /// would end the stream with all that its client renews there.
    async fn keep_lease_alive(&self, id: LeaseId) -> Renewed {
        let deadline = Instant::now() + self.shared.request_timeout;
        loop {
            let asked = BootInstant::now();
            let renewed = Renewed { id, asked, outcome: self.renew_lease(id).await };
            let refused = matches!(renewed.outcome, Err(RequestError::TooManyRequests));
            if !refused && renewed.is_in_time() {
                return renewed;
            }
            if Instant::now() > deadline {
                let outcome = renewed.outcome.and(Err(RequestError::Timeout));
                return Renewed { outcome, ..renewed };
            }
            if refused {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

/// What became of a renewal, to be told to its client some time.
struct Renewed {
    id: LeaseId,
    /// When it was asked for. The lessor counts from then on, or from later.
    asked: BootInstant,
    outcome: Result<Outcome, RequestError>,
}

impl Renewed {
    fn is_in_time(&self) -> bool {
        match &self.outcome {
            Ok(Outcome { result: Ok(Response::LeaseRenew { ttl_ms }), .. }) => {
                told_ttl_ms(*ttl_ms, self.asked.elapsed()).is_some()
            }
            _ => true,
        }
    }

    /// Makes it what is to be told now. False if it is too old to be told.
    fn bring_up_to_date(&mut self) -> bool {
        if let Ok(Outcome { result: Ok(Response::LeaseRenew { ttl_ms }), .. }) = &mut self.outcome {
            match told_ttl_ms(*ttl_ms, self.asked.elapsed()) {
                Some(told_ms) => *ttl_ms = told_ms,
                None => return false,
            }
        }
        true
    }
}

/// The TTL to tell in an answer of this age.
fn told_ttl_ms(ttl_ms: u64, age: Duration) -> Option<u64> {
    // What has begun of a millisecond counts as over.
    let age_ms = u64::try_from(age.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    if age_ms <= ttl_ms / ANSWER_AGE_PARTS {
        return Some(ttl_ms);
    }
    ttl_ms.checked_sub(age_ms).filter(|left_ms| *left_ms >= TTL_TOLD_MIN_MS)
}

/// The answers of a stream.
struct Answers<E> {
    node: Node,
    renewed: BoxStream<'static, Result<Renewed, E>>,
    /// What was taken from there already, because a lease was to be renewed again.
    waiting: VecDeque<Result<Renewed, E>>,
}

impl<E> Answers<E> {
    async fn next(&mut self) -> Option<Result<KeptAlive, E>> {
        loop {
            let renewed = match self.waiting.pop_front() {
                Some(renewed) => renewed,
                None => self.renewed.next().await?,
            };
            let mut renewed = match renewed {
                Ok(renewed) => renewed,
                Err(error) => return Some(Err(error)),
            };
            if renewed.bring_up_to_date() {
                return Some(Ok((renewed.id, renewed.outcome)));
            }
            self.renew_again(renewed).await;
        }
    }

    async fn renew_again(&mut self, first: Renewed) {
        self.waiting.push_front(Ok(first));
        while self.waiting.len() < AT_ONCE_MAX
            && let Some(Some(renewed)) = self.renewed.next().now_or_never()
        {
            self.waiting.push_back(renewed);
        }
        let node = &self.node;
        let too_old = self.waiting.iter_mut().flatten().filter(|renewed| !renewed.is_in_time());
        join_all(too_old.map(|renewed| async { *renewed = node.keep_lease_alive(renewed.id).await })).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_never_promises_more_than_is_left_and_no_less_than_a_second() {
        for (ttl_ms, age_ms, told) in [
            (9000, 0, Some(9000)),
            (9000, 3000, Some(9000)),
            (9000, 3001, Some(5999)),
            (9000, 8000, Some(1000)),
            (9000, 8001, None),
            (9000, 9001, None),
            (2000, 666, Some(2000)),
            (2000, 667, Some(1333)),
            (2000, 1001, None),
            (1000, 333, Some(1000)),
            (1000, 334, None),
        ] {
            assert_eq!(told_ttl_ms(ttl_ms, Duration::from_millis(age_ms)), told, "{ttl_ms} ms, {age_ms} ms ago");
        }
        assert_eq!(told_ttl_ms(u64::MAX, Duration::MAX), None);
        assert_eq!(told_ttl_ms(9000, Duration::from_micros(3_000_001)), Some(5999));
    }
}
