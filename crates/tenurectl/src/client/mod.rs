//! A small client of the cluster: several endpoints, one preferred, failing over from one to the next.
//!
//! A request goes to the endpoint that worked last. Failing over is free as long as nothing was sent: an endpoint that
//! cannot be dialled, or whose member knows no leader, is left for the next one. Once a write is on its way it is never
//! sent again, because it may have been done; a read may go elsewhere. There is no background work: connections are made
//! when a request needs one.

mod endpoint;
mod error;
mod locks;
mod requests;
mod version;
mod watch;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

pub(crate) use endpoint::Endpoint;
pub(crate) use error::{ClientError, Refusal, Refused, Setback};
pub(crate) use version::ServerVersion;
pub(crate) use watch::{Update, WatchSpec, Watcher};

/// Pause after all endpoints were tried in vain, while there is hope: an election takes about a second.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// How patient a client is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// To connect to one endpoint and hear from it.
    pub dial: Duration,
    /// For one request, fail-over included.
    pub command: Duration,
}

/// What a request may do, which decides whether it can be sent twice, and whom it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Sent once at most. Needs a leader.
    Write,
    /// May be repeated. Needs a leader.
    Read,
    /// May be repeated. A member answers it alone.
    LocalRead,
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Client {
    slots: Vec<Slot>,
    preferred: AtomicUsize,
    timeouts: Timeouts,
}

#[derive(Debug)]
struct Slot {
    endpoint: Endpoint,
    channel: Mutex<Option<Channel>>,
}

/// Why an endpoint did not answer a request.
enum Miss {
    /// Nothing was sent.
    NotReached(Setback),
    /// It was refused without effect, because the member knows no leader.
    NoLeader(Setback),
    /// It was sent, and is lost.
    Lost(Setback),
    Refused(Refused),
}

impl Miss {
    /// For a request that is not sent to another endpoint.
    fn into_error(self, effect: Effect) -> ClientError {
        match self {
            Miss::NotReached(setback) => ClientError::Unreachable(vec![setback]),
            Miss::NoLeader(setback) => ClientError::NoLeader(vec![setback]),
            Miss::Lost(setback) if effect == Effect::Write => ClientError::Unknown(setback),
            Miss::Lost(setback) => ClientError::NoAnswer(vec![setback]),
            Miss::Refused(refused) => ClientError::Refused(refused),
        }
    }
}

impl Client {
    /// A client of these endpoints. Connects to nothing yet.
    pub(crate) fn new(endpoints: Vec<Endpoint>, timeouts: Timeouts) -> Client {
        let slots = endpoints.into_iter().map(|endpoint| Slot { endpoint, channel: Mutex::default() });
        Client { slots: slots.collect(), preferred: AtomicUsize::new(0), timeouts }
    }

    /// The same patience, other endpoints.
    pub(crate) fn with_endpoints(&self, endpoints: Vec<Endpoint>) -> Client {
        Client::new(endpoints, self.timeouts)
    }

    /// What the client was made with.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.slots.iter().map(|slot| &slot.endpoint)
    }

    /// How patient it is.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Sends a request to one endpoint after the other until one has answered it, or it may not be sent again.
    async fn call<Q, A, F>(
        &self,
        effect: Effect,
        patience: Duration,
        request: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Instant::now() + patience;
        loop {
            let mut setbacks = Vec::new();
            let (mut is_reached, mut is_leaderless) = (false, false);
            for at in self.order() {
                match self.attempt(at, effect, deadline, request.clone(), &send).await {
                    Ok(answer) => {
                        self.preferred.store(at, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Err(Miss::NotReached(setback)) => setbacks.push(setback),
                    Err(Miss::NoLeader(setback)) => {
                        (is_reached, is_leaderless) = (true, true);
                        setbacks.push(setback);
                    }
                    Err(Miss::Lost(setback)) if effect == Effect::Write => return Err(ClientError::Unknown(setback)),
                    Err(Miss::Lost(setback)) => {
                        is_reached = true;
                        setbacks.push(setback);
                    }
                    Err(Miss::Refused(refused)) => return Err(ClientError::Refused(refused)),
                }
            }
            if !is_reached {
                return Err(ClientError::Unreachable(setbacks));
            }
            if Instant::now() + ROUND_PAUSE >= deadline {
                let error = if is_leaderless { ClientError::NoLeader } else { ClientError::NoAnswer };
                return Err(error(setbacks));
            }
            sleep(ROUND_PAUSE).await;
        }
    }

    /// Sends a request to this endpoint and no other.
    async fn call_at<Q, A, F>(
        &self,
        at: usize,
        effect: Effect,
        request: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_once(at, effect, self.timeouts.command, request, send).await
    }

    async fn call_once<Q, A, F>(
        &self,
        at: usize,
        effect: Effect,
        patience: Duration,
        request: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Instant::now() + patience;
        self.attempt(at, effect, deadline, request, &send).await.map_err(|miss| miss.into_error(effect))
    }

    /// Sends a request once, to the endpoint whose turn it is, and tells which that was. If nothing comes of it, it is the
    /// next one's turn.
    async fn call_in_turn<Q, A, F>(
        &self,
        effect: Effect,
        request: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<(usize, A), ClientError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let at = self.turn();
        match self.call_at(at, effect, request, send).await {
            Ok(answer) => Ok((at, answer)),
            Err(error) => {
                self.pass_over(at);
                Err(error)
            }
        }
    }

    async fn attempt<Q, A, F>(
        &self,
        at: usize,
        effect: Effect,
        deadline: Instant,
        request: Q,
        send: &impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, Miss>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let setback = |reason| Setback { endpoint: self.slots[at].endpoint.clone(), reason };
        let channel = self.channel(at, deadline).await.map_err(|reason| Miss::NotReached(setback(reason)))?;
        let request = with_metadata(effect, request);
        let Ok(answered) = timeout_at(deadline, send(channel, request)).await else {
            self.forget(at).await;
            return Err(Miss::Lost(setback("no answer in time".to_owned())));
        };
        match answered {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.missed(at, status).await),
        }
    }

    /// What a status means that this endpoint, or the connection to it, answered.
    async fn missed(&self, at: usize, status: Status) -> Miss {
        let setback = |reason| Setback { endpoint: self.slots[at].endpoint.clone(), reason };
        if endpoint::is_broken(&status) {
            self.forget(at).await;
            return Miss::Lost(setback(endpoint::broken(&status)));
        }
        let refused = Refused::new(self.slots[at].endpoint.clone(), status);
        match refused.refusal {
            Refusal::NoLeader => Miss::NoLeader(setback("knows no leader".to_owned())),
            _ if refused.is_vague() => Miss::Lost(setback(refused.text())),
            _ => Miss::Refused(refused),
        }
    }

    /// The endpoint's connection, made if there is none.
    async fn channel(&self, at: usize, deadline: Instant) -> Result<Channel, String> {
        let slot = &self.slots[at];
        let mut channel = slot.channel.lock().await;
        if let Some(channel) = &*channel {
            return Ok(channel.clone());
        }
        let patience = self.timeouts.dial.min(deadline.saturating_duration_since(Instant::now()));
        let dialled = slot.endpoint.dial(patience).await?;
        *channel = Some(dialled.clone());
        Ok(dialled)
    }

    /// Dials again before the next request.
    async fn forget(&self, at: usize) {
        *self.slots[at].channel.lock().await = None;
        self.pass_over(at);
    }

    /// The endpoint that the next request goes to.
    pub(crate) fn turn(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// Goes to another endpoint with the next request.
    pub(crate) fn pass_over(&self, at: usize) {
        if self.preferred.load(Ordering::Relaxed) == at {
            self.preferred.store((at + 1) % self.slots.len(), Ordering::Relaxed);
        }
    }

    /// All endpoints, the preferred one first.
    fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.preferred.load(Ordering::Relaxed), self.slots.len());
        (0..count).map(move |step| (first + step) % count)
    }
}

/// `hasleader` lets a member that knows no leader say so at once, instead of letting the request wait for one.
fn with_metadata<Q>(effect: Effect, request: Q) -> Request<Q> {
    let mut request = Request::new(request);
    if effect != Effect::LocalRead {
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    }
    request
}

#[cfg(test)]
mod tests;
