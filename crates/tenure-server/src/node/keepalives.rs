//! Streams of keepalives: many leases are renewed at a time, and answered in the order of the requests.
//!
//! A client counts from when it gets an answer, the lessor from when it got the request. So an answer that had to wait, for
//! the log, for its turn or for the client to read, tells what is left of the TTL, and one that is too old for that is not
//! told: its lease is renewed once more. That happens after every hiccup, to all leases of a stream, so it is done for all
//! of them side by side; one after another, the last would be gone before its turn.
//!
//! A request names one lease (etcd's API) or a batch of them (Tenure's own). Either way each lease is a renewal of its own on
//! its way into the log, where the lane of lease traffic makes groups of them, whatever they came in with.

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

/// Leases of one batch: a group of the log. It bounds what a message makes of memory.
pub const LEASES_PER_BATCH_MAX: usize = 4096;

/// Batches of one stream that are carried out at once: one gathers while the other is in the log.
const BATCHES_AT_ONCE_MAX: usize = 2;

/// An answer that is older than this part of the TTL tells what is left instead of the TTL.
const ANSWER_AGE_PARTS: u64 = 3;

/// When less is left, the lease is renewed once more. Those who are told whole seconds must not be told 0: that means gone.
const TTL_TOLD_MIN_MS: u64 = 1000;

/// What became of a keepalive, and of which lease.
pub type KeptAlive = (LeaseId, Result<Outcome, RequestError>);

/// In what the client is told times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Seconds,
    Millis,
}

impl Unit {
    /// The least that is told of a TTL. In milliseconds a third of a short one is worth telling.
    fn told_min_ms(self, ttl_ms: u64) -> u64 {
        match self {
            Unit::Seconds => TTL_TOLD_MIN_MS,
            Unit::Millis => TTL_TOLD_MIN_MS.min(ttl_ms / ANSWER_AGE_PARTS),
        }
    }

    /// The TTL to tell in an answer of this age.
    fn told_ttl_ms(self, ttl_ms: u64, age: Duration) -> Option<u64> {
        // What has begun of a millisecond counts as over.
        let age_ms = u64::try_from(age.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        if age_ms <= ttl_ms / ANSWER_AGE_PARTS {
            return Some(ttl_ms);
        }
        ttl_ms.checked_sub(age_ms).filter(|left_ms| *left_ms >= self.told_min_ms(ttl_ms))
    }
}

impl Node {
    /// Renews the leases of a stream, for a client that is told whole seconds. Errors of the requests are passed on in
    /// their places.
    pub fn keep_leases_alive<E: Send + 'static>(
        &self,
        ids: impl Stream<Item = Result<LeaseId, E>> + Send + 'static,
    ) -> BoxStream<'static, Result<KeptAlive, E>> {
        let node = self.clone();
        let renewed = ids.map(move |id| {
            let node = node.clone();
            async move { Ok([node.keep_lease_alive(id?, Unit::Seconds).await]) }
        });
        let answers = self.answers(Unit::Seconds, AT_ONCE_MAX, renewed.buffered(AT_ONCE_MAX).boxed());
        answers.map(|answer| answer.map(|[renewed]| renewed.into())).boxed()
    }

    /// Renews the leases of a stream, a batch of at most [`LEASES_PER_BATCH_MAX`] at a time, for a client that is told
    /// milliseconds. An answer has the leases in the order of the request. Errors are passed on likewise.
    pub fn keep_batches_alive<E: Send + 'static>(
        &self,
        batches: impl Stream<Item = Result<Vec<LeaseId>, E>> + Send + 'static,
    ) -> BoxStream<'static, Result<Vec<KeptAlive>, E>> {
        let node = self.clone();
        let renewed = batches.map(move |ids| {
            let node = node.clone();
            async move { Ok(join_all(ids?.into_iter().map(|id| node.keep_lease_alive(id, Unit::Millis))).await) }
        });
        let renewed = renewed.buffered(BATCHES_AT_ONCE_MAX).boxed();
        let answers = self.answers(Unit::Millis, BATCHES_AT_ONCE_MAX, renewed);
        answers.map(|answer| answer.map(|batch| batch.into_iter().map(Renewed::into).collect())).boxed()
    }

    fn answers<B, E>(
        &self,
        unit: Unit,
        at_once_max: usize,
        renewed: BoxStream<'static, Result<B, E>>,
    ) -> impl Stream<Item = Result<B, E>> + Send + use<B, E>
    where
        B: AsMut<[Renewed]> + AsRef<[Renewed]> + Send + 'static,
        E: Send + 'static,
    {
        let answers = Answers { node: self.clone(), unit, at_once_max, renewed, waiting: VecDeque::new() };
        futures::stream::unfold(answers, |mut answers| async move { Some((answers.next().await?, answers)) })
    }

    /// Renews a lease, again if the answer comes too late to be told. While too much waits here, it waits, too: a refusal
    /// would end the stream with all that its client renews there.
    async fn keep_lease_alive(&self, id: LeaseId, unit: Unit) -> Renewed {
        let deadline = Instant::now() + self.shared.request_timeout;
        loop {
            let asked = BootInstant::now();
            let renewed = Renewed { id, asked, outcome: self.renew_lease(id).await };
            let refused = matches!(renewed.outcome, Err(RequestError::TooManyRequests));
            if !refused && renewed.is_in_time(unit, BootInstant::now()) {
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
    /// Whether it can be told at `now`.
    fn is_in_time(&self, unit: Unit, now: BootInstant) -> bool {
        match &self.outcome {
            Ok(Outcome { result: Ok(Response::LeaseRenew { ttl_ms }), .. }) => {
                unit.told_ttl_ms(*ttl_ms, now - self.asked).is_some()
            }
            _ => true,
        }
    }

    /// Makes it what is to be told at `now`, when it can be told.
    fn bring_up_to_date(&mut self, unit: Unit, now: BootInstant) {
        if let Ok(Outcome { result: Ok(Response::LeaseRenew { ttl_ms }), .. }) = &mut self.outcome
            && let Some(told_ms) = unit.told_ttl_ms(*ttl_ms, now - self.asked)
        {
            *ttl_ms = told_ms;
        }
    }
}

impl From<Renewed> for KeptAlive {
    fn from(renewed: Renewed) -> KeptAlive {
        (renewed.id, renewed.outcome)
    }
}

/// The answers of a stream, each about one lease or many.
struct Answers<B, E> {
    node: Node,
    unit: Unit,
    at_once_max: usize,
    renewed: BoxStream<'static, Result<B, E>>,
    /// What was taken from there already, because a lease was to be renewed again.
    waiting: VecDeque<Result<B, E>>,
}

impl<B: AsMut<[Renewed]> + AsRef<[Renewed]>, E> Answers<B, E> {
    async fn next(&mut self) -> Option<Result<B, E>> {
        loop {
            let answer = match self.waiting.pop_front() {
                Some(answer) => answer,
                None => self.renewed.next().await?,
            };
            let mut answer = match answer {
                Ok(answer) => answer,
                Err(error) => return Some(Err(error)),
            };
            // One moment for all of an answer: what was found in time stays so.
            let (unit, now) = (self.unit, BootInstant::now());
            if answer.as_ref().iter().all(|renewed| renewed.is_in_time(unit, now)) {
                answer.as_mut().iter_mut().for_each(|renewed| renewed.bring_up_to_date(unit, now));
                return Some(Ok(answer));
            }
            self.renew_again(answer).await;
        }
    }

    async fn renew_again(&mut self, first: B) {
        self.waiting.push_front(Ok(first));
        while self.waiting.len() < self.at_once_max
            && let Some(Some(renewed)) = self.renewed.next().now_or_never()
        {
            self.waiting.push_back(renewed);
        }
        let (node, unit, now) = (&self.node, self.unit, BootInstant::now());
        let waiting = self.waiting.iter_mut().flatten().flat_map(|answer| answer.as_mut().iter_mut());
        let too_old = waiting.filter(|renewed| !renewed.is_in_time(unit, now));
        join_all(too_old.map(|renewed| async { *renewed = node.keep_lease_alive(renewed.id, unit).await })).await;
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
            let age = Duration::from_millis(age_ms);
            assert_eq!(Unit::Seconds.told_ttl_ms(ttl_ms, age), told, "{ttl_ms} ms, {age_ms} ms ago");
            if told.is_some() {
                assert_eq!(Unit::Millis.told_ttl_ms(ttl_ms, age), told, "{ttl_ms} ms, {age_ms} ms ago");
            }
        }
        assert_eq!(Unit::Seconds.told_ttl_ms(u64::MAX, Duration::MAX), None);
        assert_eq!(Unit::Millis.told_ttl_ms(0, Duration::ZERO), Some(0), "no such TTL is granted");
        assert_eq!(Unit::Seconds.told_ttl_ms(9000, Duration::from_micros(3_000_001)), Some(5999));
    }

    #[test]
    fn in_milliseconds_a_third_of_a_short_ttl_is_told() {
        for (ttl_ms, age_ms, told) in [
            (1000, 333, Some(1000)),
            (1000, 334, Some(666)),
            (1000, 667, Some(333)),
            (1000, 668, None),
            (9000, 8000, Some(1000)),
            (9000, 8001, None),
        ] {
            let age = Duration::from_millis(age_ms);
            assert_eq!(Unit::Millis.told_ttl_ms(ttl_ms, age), told, "{ttl_ms} ms, {age_ms} ms ago");
        }
    }
}
