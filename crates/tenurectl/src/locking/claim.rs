//! A claim to a lock: asking for it until it is granted or it is clear that it will not be.
//!
//! Every try goes to one member. If the connection breaks, the next try goes to another one, by the same number and a higher
//! attach number, so the request keeps its place. A member that notices the break first may have cancelled the request
//! by then: it is finished, and another number begins at the end of the queue.

use std::time::Duration;

use bytes::Bytes;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::lock_acquire_response::State;
use tokio::time::{Instant, sleep, timeout_at};

use super::Notes;
use super::numbers::Numbers;
use crate::client::{Client, ClientError, Refusal};
use crate::ids::{LeaseId, Revision};

/// Between tries when nobody answers.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How much longer than the time to wait the server may take to say that it is over.
const LATE_MAX: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub name: Bytes,
    pub mode: Option<pb::LockMode>,
    pub owner: String,
    pub metadata: Bytes,
    pub delay: Duration,
    /// Do not wait.
    pub at_once: bool,
}

/// What was got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub key: Bytes,
    pub token: Revision,
}

/// Why it was not got.
#[derive(Debug)]
pub(crate) enum Unclaimed {
    /// Somebody else has it, and there is no time to wait, or no more.
    Busy(Option<Box<pb::LockContender>>),
    /// The lease is gone, and with it the place in the queue.
    LeaseGone,
    /// Somebody took the place in the queue away.
    TakenAway,
    Failed(ClientError),
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    client: &'a Client,
    wanted: &'a Wanted,
    numbers: Numbers,
    /// Until when to wait.
    until: Option<Instant>,
}

impl<'a> Claim<'a> {
    pub(crate) fn new(client: &'a Client, wanted: &'a Wanted, lease: LeaseId, until: Option<Instant>) -> Claim<'a> {
        Claim { client, wanted, numbers: Numbers::of(lease), until }
    }

    /// Asks until there is an answer. It may be dropped at any time, and is to be cancelled then.
    pub(crate) async fn acquire(&mut self, notes: &Notes) -> Result<Granted, Unclaimed> {
        let mut has_told = false;
        loop {
            let tried = match self.until {
                Some(until) => timeout_at(until + LATE_MAX, self.attempt(notes, &mut has_told)).await,
                None => Ok(self.attempt(notes, &mut has_told).await),
            };
            let error = match tried {
                Ok(Ok(granted)) => return Ok(granted),
                Ok(Err(Unclaimed::Failed(error))) => error,
                Ok(Err(unclaimed)) => return Err(unclaimed),
                Err(_) => return Err(Unclaimed::Failed(ClientError::NoAnswer(Vec::new()))),
            };
            let is_finished =
                matches!(&error, ClientError::Refused(refused) if refused.refusal == Refusal::LockFinished);
            let is_over = self.until.is_some_and(|until| Instant::now() + RETRY_PAUSE >= until);
            match (is_finished, is_over) {
                (true, true) => return Err(Unclaimed::Busy(None)),
                (false, true) => return Err(Unclaimed::Failed(error)),
                (false, false) if !is_passing(&error) => return Err(Unclaimed::Failed(error)),
                (_, false) => {}
            }
            if is_finished {
                self.numbers.begin_anew();
                has_told = false;
            } else {
                notes.tell(&format!("asking again: {error}"));
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn attempt(&mut self, notes: &Notes, has_told: &mut bool) -> Result<Granted, Unclaimed> {
        let mut acquiring = self.client.lock_acquire(self.request()).await.map_err(unclaimed)?;
        loop {
            match acquiring.step().await.map_err(unclaimed)? {
                State::Granted(granted) => return Ok(Granted { key: granted.key, token: Revision(granted.token) }),
                State::Busy(busy) => return Err(Unclaimed::Busy(busy.holder.map(Box::new))),
                State::Waiting(waiting) => {
                    // A later try is told the same once more.
                    if !std::mem::replace(has_told, true) {
                        notes.tell(&waits(&waiting));
                    }
                }
            }
        }
    }

    fn request(&mut self) -> pb::LockAcquireRequest {
        let Wanted { name, mode, owner, metadata, delay, at_once } = self.wanted.clone();
        // Zero would be for ever.
        let left = self.until.map(|until| millis(until.saturating_duration_since(Instant::now())).max(1));
        pb::LockAcquireRequest {
            name,
            request: Some(self.numbers.next_try()),
            mode,
            r#try: at_once,
            wait_ms: left.filter(|_| !at_once).unwrap_or(0),
            owner,
            metadata,
            holds_max: 0,
            delay_ms: millis(delay),
        }
    }

    /// Ends the request, wherever it stands.
    pub(crate) async fn cancel(&self) -> Result<(), ClientError> {
        let request = pb::LockCancelRequest { name: self.wanted.name.clone(), request: Some(self.numbers.latest()) };
        self.client.lock_cancel(request).await
    }
}

/// In whole milliseconds, rounded up.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

fn waits(waiting: &pb::LockWaiting) -> String {
    let ahead = match waiting.ahead {
        Some(1) => "behind 1 other".to_owned(),
        Some(ahead) => format!("behind {ahead} others"),
        None => "as before".to_owned(),
    };
    let holder = waiting.holder.as_ref().map_or_else(String::new, |holder| format!("; {}", super::holds(holder)));
    format!("waiting, {ahead}{holder}")
}

fn unclaimed(error: ClientError) -> Unclaimed {
    let ClientError::Refused(refused) = &error else { return Unclaimed::Failed(error) };
    match refused.refusal {
        Refusal::LockTimeOver => Unclaimed::Busy(None),
        Refusal::LockTakenAway => Unclaimed::TakenAway,
        Refusal::LeaseNotFound => Unclaimed::LeaseGone,
        _ => Unclaimed::Failed(error),
    }
}

/// Whether it may be otherwise in a moment, or at another member.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable(_) | ClientError::NoLeader(_) | ClientError::NoAnswer(_) => true,
        ClientError::Refused(refused) => refused.refusal == Refusal::TooManyRequests,
        ClientError::Unknown(_) | ClientError::WatchCompacted { .. } | ClientError::WatchRefused(_) => false,
    }
}
