//! Acquiring a lock by Tenure's own service: one entry in the log, and the grant is pushed.
//!
//! Every try goes to one member. If the connection breaks, the next try goes to another one, by the same number and a higher attach
//! number, so the request keeps its place. A member that notices the break first may have cancelled the request by
//! then: it is finished, and another number begins at the end of the queue. A request that is given up is cancelled by the
//! client's tasks, and its number stays open until that is acknowledged: no try that comes late can hold a lock that nobody knows of.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::lock_acquire_response::State;
use tenure_proto::tenure::v1::locks_client::LocksClient;
use tonic::Status;

use super::cleanup::{self, Cleanup};
use super::deadlock;
use super::error::{AcquireError, Contender};
use super::grip::Grasp;
use super::mode::{Mode, Wait};
use super::requests::RequestNumber;
use super::token::contender_key;
use crate::clock::{Clock, Instant};
use crate::error::{Error, Refusal};
use crate::ids::Revision;
use crate::session::{LostReason, Owner};
use crate::transport::{EndpointId, Link};

/// Between tries when nobody answers.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];
/// How much longer than the time to wait a server may take to say that it is over.
const LATE_MAX: Duration = Duration::from_secs(2);

/// What is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) name: Bytes,
    pub(crate) mode: Mode,
    pub(crate) wait: Wait,
    pub(crate) metadata: Bytes,
    pub(crate) delay: Duration,
    pub(crate) holds_max: u32,
    pub(crate) is_deadlock_looked_for: bool,
}

/// A request that is open, and is cancelled if it is dropped.
struct Ticket<'o> {
    owner: &'o Arc<Owner>,
    name: Bytes,
    number: RequestNumber,
    is_armed: bool,
}

impl<'o> Ticket<'o> {
    fn new(owner: &'o Arc<Owner>, name: &Bytes) -> Result<Ticket<'o>, AcquireError> {
        let number = owner.requests.begin().ok_or(AcquireError::TooMany)?;
        Ok(Ticket { owner, name: name.clone(), number, is_armed: true })
    }

    /// There is an answer that leaves nothing behind that nobody knows of.
    fn answered(mut self) -> RequestNumber {
        self.is_armed = false;
        self.owner.requests.finish(self.number);
        self.number
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        if self.owner.requests.was_tried(self.number) {
            let name = self.name.clone();
            cleanup::hand_over(self.owner, Cleanup::Cancel { name, number: self.number });
        } else {
            self.owner.requests.finish(self.number);
        }
    }
}

/// What a waiting request was told.
#[derive(Debug, Default)]
struct Place {
    position: Option<u64>,
    holder: Option<Box<Contender>>,
}

/// How a try ended.
enum Tried {
    Granted(pb::LockGranted),
    Busy(Option<pb::LockContender>),
    Failed(Error),
}

/// Asks until there is an answer, the time to wait is over, or the session is. It may be dropped at any time.
pub(crate) async fn acquire(owner: &Arc<Owner>, wanted: &Wanted) -> Result<Grasp, AcquireError> {
    let clock = owner.core.clock().clone();
    let end = wanted.wait.end(clock.now());
    // Who does not wait for the lock waits for an answer, as long as for any other.
    let patience = match wanted.wait {
        Wait::Try => Some(clock.now() + owner.client.options().timeout),
        Wait::For(_) | Wait::Until(_) | Wait::Forever => end.map(|end| end + LATE_MAX),
    };
    let mut claim = Claim { owner, wanted, end, place: Place::default(), avoid: None, last: None };
    let over = clock.sleep_until(patience.unwrap_or(Instant::FAR_FUTURE));
    tokio::select! {
        biased;
        reason = owner.over() => Err(AcquireError::SessionLost(reason)),
        granted = claim.run(&clock) => granted,
        () = over => Err(claim.given_up()),
        cycle = deadlock::found(owner, wanted) => Err(AcquireError::Deadlock { cycle }),
    }
}

struct Claim<'o> {
    owner: &'o Arc<Owner>,
    wanted: &'o Wanted,
    end: Option<Instant>,
    place: Place,
    /// Where the last try failed.
    avoid: Option<EndpointId>,
    last: Option<Error>,
}

impl Claim<'_> {
    async fn run(&mut self, clock: &Arc<dyn Clock>) -> Result<Grasp, AcquireError> {
        let mut ticket = Ticket::new(self.owner, &self.wanted.name)?;
        loop {
            let is_first = !self.owner.requests.was_tried(ticket.number);
            match self.attempt(ticket.number).await {
                Tried::Granted(granted) => return self.granted(ticket, &granted),
                Tried::Busy(holder) => {
                    ticket.answered();
                    let holder = holder.map(|holder| Box::new(Contender::from_wire(holder)));
                    return Err(AcquireError::Busy { holder });
                }
                Tried::Failed(error) => match error.refusal() {
                    // An earlier try was taken for one that was given up: its place is lost, and another one is asked for.
                    Some(Refusal::LockFinished) => {
                        ticket.answered();
                        if self.end.is_some_and(|end| clock.now() >= end) {
                            return Err(self.given_up());
                        }
                        self.place = Place::default();
                        ticket = Ticket::new(self.owner, &self.wanted.name)?;
                    }
                    Some(refusal) => return Err(self.refused(ticket, refusal, error, is_first)),
                    None if matches!(error, Error::Closed) => {
                        return Err(AcquireError::SessionLost(LostReason::ClientClosed));
                    }
                    None => self.last = Some(error),
                },
            }
            clock.sleep(clock.between(PAUSE[0], PAUSE[1])).await;
        }
    }

    fn granted(&self, ticket: Ticket<'_>, granted: &pb::LockGranted) -> Result<Grasp, AcquireError> {
        // The answer may have been under way for longer than the session lived: then it is dropped, and so cancelled.
        if let Some(reason) = self.owner.core.look().lost_reason() {
            return Err(AcquireError::SessionLost(reason));
        }
        let name = self.wanted.name.clone();
        let key = contender_key(&name, self.owner.core.lease);
        let number = Some(ticket.answered());
        Ok(Grasp { name, key, token: Revision(granted.token), number, holds: granted.holds.max(1) })
    }

    /// A refusal is the answer to one try. If there was another one before, nobody knows what became of that, and the request is
    /// cancelled.
    fn refused(&mut self, ticket: Ticket<'_>, refusal: Refusal, error: Error, is_first: bool) -> AcquireError {
        let is_end = matches!(refusal, Refusal::LockTimeOver | Refusal::LockTakenAway | Refusal::LeaseNotFound);
        if is_first || is_end {
            ticket.answered();
        }
        match refusal {
            Refusal::LockTimeOver => self.given_up(),
            Refusal::LockTakenAway => AcquireError::TakenAway,
            Refusal::LeaseNotFound => {
                self.owner.core.not_found();
                self.owner.sessions.keeper.hurry(self.owner.core.lease);
                AcquireError::SessionLost(self.owner.core.look().lost_reason().unwrap_or(LostReason::Revoked))
            }
            Refusal::LockAlreadyHeld => AcquireError::AlreadyHeld,
            Refusal::LockHeldTooOften => AcquireError::HeldTooOften,
            Refusal::LockModeMismatch => AcquireError::LimitMismatch,
            Refusal::LockContendersTooMany | Refusal::LockRequestsTooMany => AcquireError::TooMany,
            Refusal::InvalidRequest => AcquireError::Invalid(error.to_string()),
            Refusal::Unimplemented => AcquireError::NeedsTenure { what: "a lock of Tenure's own service" },
            _ => AcquireError::Denied(error),
        }
    }

    /// The time is over.
    fn given_up(&mut self) -> AcquireError {
        let Place { position, holder } = std::mem::take(&mut self.place);
        match self.last.take() {
            // Nobody ever said that it waits.
            Some(error) if position.is_none() && holder.is_none() => AcquireError::Unavailable(error),
            _ => AcquireError::Timeout { position, holder },
        }
    }

    async fn attempt(&mut self, number: RequestNumber) -> Tried {
        let (client, clock) = (&self.owner.client, self.owner.core.clock());
        let link = match client.link(self.avoid).await {
            Ok(link) => link,
            Err(error) => return Tried::Failed(error),
        };
        // Until it is known to be otherwise.
        self.avoid = Some(link.endpoint());
        let request = self.request(number, clock.now());
        let silence_at = clock.now() + client.options().try_timeout;
        let failed = |status: &Status| {
            link.report(Err(status));
            Tried::Failed(Error::from_status(&link, true, status))
        };
        let mut service = LocksClient::new(link.clone());
        let opening = async { service.acquire(request).await?.into_inner().message_first().await };
        // The first answer says how the request stands, and comes soon.
        let (mut answers, first) = match clock.timeout(silence_at, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return failed(&status),
            Err(_) => {
                link.report_silence();
                return Tried::Failed(silent(&link));
            }
        };
        link.report(Ok(()));
        let mut answer = first;
        loop {
            match answer.and_then(|answer| answer.state) {
                Some(State::Granted(granted)) => return Tried::Granted(granted),
                Some(State::Busy(busy)) => return Tried::Busy(busy.holder),
                Some(State::Waiting(waiting)) => {
                    self.avoid = None;
                    let holder = waiting.holder.map(|holder| Box::new(Contender::from_wire(holder)));
                    self.place.position = waiting.ahead.or(self.place.position);
                    self.place.holder = holder.or(self.place.holder.take());
                }
                None => {
                    return Tried::Failed(Error::nonsense(link.address(), "an answer that says nothing of the lock"));
                }
            }
            answer = match answers.message().await {
                Ok(answer) => answer,
                Err(status) => {
                    self.avoid = Some(link.endpoint());
                    return failed(&status);
                }
            };
        }
    }

    fn request(&self, number: RequestNumber, now: Instant) -> pb::LockAcquireRequest {
        let Wanted { name, mode, wait, metadata, delay, holds_max, is_deadlock_looked_for: _ } = self.wanted;
        // Zero would be for ever.
        let left = self.end.map(|end| millis(end.saturating_duration_since(now)).max(1));
        pb::LockAcquireRequest {
            name: self.owner.client.namespace().wrap(name.clone()),
            request: Some(self.owner.requests.next_try(number)),
            mode: mode.to_wire(),
            r#try: *wait == Wait::Try,
            wait_ms: left.unwrap_or(0),
            owner: self.owner.core.owner.to_string(),
            metadata: metadata.clone(),
            holds_max: *holds_max,
            delay_ms: millis(*delay),
        }
    }
}

/// A stream with its first message.
trait MessageFirst<A>: Sized {
    async fn message_first(self) -> Result<(Self, Option<A>), Status>;
}

impl<A> MessageFirst<A> for tonic::Streaming<A> {
    async fn message_first(mut self) -> Result<(Self, Option<A>), Status> {
        let first = self.message().await?;
        Ok((self, first))
    }
}

fn silent(link: &Link) -> Error {
    Error::from_status(link, true, &Status::unavailable("no answer in time"))
}

/// In whole milliseconds, rounded up.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
