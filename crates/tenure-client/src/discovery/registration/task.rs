//! The task that keeps a registration.
//!
//! It does one thing at a time: it is the only one that writes the key in this process, and an attempt that is given up is dropped
//! and its lease ended, so nothing of it can come late. The key is written by transactions that depend on what was found there
//! (`stamp`), so that no two processes fight for it. It watches its own key, too: a key that somebody deletes is written again.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::super::cache::Change;
use super::super::error::DiscoveryError;
use super::super::feed::{Fed, Feed};
use super::super::instance::Instance;
use super::super::keep::Keep;
use super::super::record::Record;
use super::super::stamp::{Found, Stamp};
use super::super::store::{InstanceKey, Store, Wrote};
use super::claim::{Claimant, Refusal};
use super::{Command, RegisterOptions, RegistrationFailure, RegistrationState};
use crate::{Error, Instant, Revision};

/// How much later than its deadline a deregistration may answer.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// How long the lease of a registration whose handles were all dropped is tried to be ended.
const FAREWELL: Duration = Duration::from_secs(2);

type UpdateTold = oneshot::Sender<Result<Revision, DiscoveryError>>;

/// A registration that stands.
struct Standing {
    keep: Keep,
    feed: Feed,
    mod_revision: i64,
}

/// What ended a stay in a state.
enum Next {
    /// The lease is lost, or the key cannot be written: register again.
    Again,
    /// A successor has the key.
    Superseded,
    /// The holder ends it.
    Deregister { until: Instant, told: Option<oneshot::Sender<Result<(), DiscoveryError>>> },
}

/// What came while the key could not be written: the latest content, and who waits for it.
#[derive(Default)]
struct Updates {
    content: Option<Instance>,
    told: Vec<UpdateTold>,
}

impl Updates {
    fn add(&mut self, content: Instance, told: UpdateTold) {
        self.content = Some(content);
        // Callers that gave up must not pile up while the cluster is away.
        self.told.retain(|told| !told.is_closed());
        self.told.push(told);
    }
}

/// See the module's header.
pub(super) struct Registrar {
    claimant: Claimant,
    state: watch::Sender<RegistrationState>,
    standing: Option<Standing>,
    /// Updates that wait until the key can be written.
    waiting: Vec<UpdateTold>,
}

impl Registrar {
    /// Registers for the first time. Gives up at the first error, so that a wrong configuration is seen at once.
    pub(super) async fn register(
        store: Store,
        key: InstanceKey,
        instance: Instance,
        options: RegisterOptions,
    ) -> Result<(Self, watch::Receiver<RegistrationState>), DiscoveryError> {
        let instance = Instance { kind: key.kind.clone(), ..instance };
        let record = Record { instance, stamp: Stamp::default(), leaving: false };
        let (state, receiver) = watch::channel(RegistrationState::Reregistering { attempt: 1 });
        let mut claimant = Claimant { store, key, record, options };
        // If it fails, the lease is dropped, and ends in the background.
        let keep = claimant.keep().await?;
        let mod_revision = claimant.claim_first(keep.lease()).await?;
        let mut new = Self { claimant, state, standing: None, waiting: Vec::new() };
        new.stand(keep, mod_revision);
        Ok((new, receiver))
    }

    /// Keeps the registration until it is over.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let closing = self.claimant.store.0.tasks().closing().clone();
        loop {
            let next = tokio::select! {
                next = self.next(&mut commands) => next,
                // The session ends with the client.
                () = closing.cancelled() => return self.finish(RegistrationState::Deregistered),
            };
            match next {
                Next::Again => {
                    // Its lease must not keep the key of an attempt that is over.
                    self.fall();
                }
                Next::Superseded => {
                    self.fall();
                    return self.finish(RegistrationState::Failed { why: RegistrationFailure::Superseded });
                }
                Next::Deregister { until, told } => {
                    let done = self.leave(until, told.is_some()).await;
                    self.finish(RegistrationState::Deregistered);
                    if let Some(told) = told {
                        // Whoever asked may have gone.
                        let _is_heard = told.send(done).is_ok();
                    }
                    return;
                }
            }
            if let Some(next) = self.recover(&mut commands).await {
                return self.give_up(next).await;
            }
        }
    }

    async fn next(&mut self, commands: &mut mpsc::Receiver<Command>) -> Next {
        loop {
            let Some(standing) = &mut self.standing else { return Next::Again };
            let again = tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Update { instance, told }) => {
                        self.claimant.record.instance = Instance { kind: self.claimant.key.kind.clone(), ..instance };
                        self.waiting.push(told);
                        Some((Found::Nothing, true))
                    }
                    Some(Command::Deregister { until, told }) => return Next::Deregister { until, told: Some(told) },
                    None => return Next::Deregister { until: self.now() + FAREWELL, told: None },
                },
                () = standing.keep.lost() => return Next::Again,
                fed = standing.feed.next() => self.seen(fed).map(|found| (found, false)),
            };
            let Some((found, again)) = again else { continue };
            if let Some(next) = self.write(found, again).await {
                return next;
            }
        }
    }

    /// What the watch of the own key says that the key is now, if that is not what was written last.
    fn seen(&mut self, fed: Fed) -> Option<Found> {
        let standing = self.standing.as_ref()?;
        match fed {
            Fed::Changes { changes, .. } => changes.into_iter().next_back().and_then(|change| match change {
                Change::Put(stored) if stored.mod_revision > standing.mod_revision => {
                    Some(self.claimant.key.found(&stored.value, stored.mod_revision, stored.lease))
                }
                Change::Delete { revision, .. } if revision > standing.mod_revision => Some(Found::Nothing),
                Change::Put(_) | Change::Delete { .. } => None,
            }),
            // What happened meanwhile is not known: the transaction finds out.
            Fed::Broken(error) => {
                tracing::debug!(key = self.claimant.key.key, %error, "the watch of a registration's key is opened again");
                Some(Found::Nothing)
            }
        }
    }

    /// Writes the key while the lease stands; gives what is next if that fails.
    async fn write(&mut self, found: Found, again: bool) -> Option<Next> {
        let lease = self.standing.as_ref()?.keep.lease();
        // A guess: if there is something, the transaction shows it.
        let found = if again { self.last_written() } else { found };
        match self.claimant.claim(lease, found, again).await {
            Ok(mod_revision) => {
                let standing = self.standing.take()?;
                if standing.feed.is_broken() || mod_revision != standing.mod_revision {
                    self.stand(standing.keep, mod_revision);
                } else {
                    self.standing = Some(standing);
                }
                None
            }
            Err(Refusal::Superseded) => Some(Next::Superseded),
            Err(Refusal::Client(error)) => {
                tracing::debug!(key = self.claimant.key.key, %error, "a registration could not be written");
                for told in self.waiting.drain(..) {
                    let _is_heard = told.send(Err(error.clone().into())).is_ok();
                }
                Some(Next::Again)
            }
        }
    }

    fn last_written(&self) -> Found {
        self.standing.as_ref().map_or(Found::Nothing, |standing| Found::Registration {
            stamp: self.claimant.record.stamp.clone(),
            mod_revision: standing.mod_revision,
            lease: standing.keep.lease().0,
            leaving: false,
        })
    }

    /// Registers again, try after try. Gives how it ends if it does not end with a registration.
    async fn recover(&mut self, commands: &mut mpsc::Receiver<Command>) -> Option<Next> {
        let mut attempt = 1_u32;
        loop {
            self.tell(RegistrationState::Reregistering { attempt });
            let mut updates = Updates::default();
            let tried = {
                let trying = self.claimant.attempt(attempt);
                tokio::pin!(trying);
                loop {
                    tokio::select! {
                        tried = &mut trying => break Ok(tried),
                        command = commands.recv() => match command {
                            // Not a reason to begin anew: those who update often would never be registered.
                            Some(Command::Update { instance, told }) => updates.add(instance, told),
                            Some(Command::Deregister { until, told }) => break Err((until, Some(told))),
                            None => break Err((self.now() + FAREWELL, None)),
                        },
                    }
                }
            };
            let is_updated = updates.content.is_some();
            if let Some(instance) = updates.content {
                self.claimant.record.instance = Instance { kind: self.claimant.key.kind.clone(), ..instance };
            }
            match tried {
                Ok(Ok((keep, mod_revision))) => {
                    self.stand(keep, mod_revision);
                    self.waiting = updates.told;
                    if !is_updated {
                        return None;
                    }
                    match self.write(Found::Nothing, true).await {
                        Some(Next::Again) => self.fall(),
                        end => return end,
                    }
                }
                Ok(Err(Refusal::Superseded)) => return Some(Next::Superseded),
                Ok(Err(Refusal::Client(error))) => {
                    tracing::debug!(key = self.claimant.key.key, attempt, %error, "a try to register again failed");
                    let is_last = self.claimant.options.retries.is_some_and(|retries| attempt >= retries);
                    if is_last || matches!(error, Error::Closed) {
                        self.finish(RegistrationState::Failed { why: RegistrationFailure::GaveUp { last: error } });
                        return Some(Next::Superseded);
                    }
                    attempt = attempt.saturating_add(1);
                    self.waiting.retain(|told| !told.is_closed());
                    self.waiting.extend(updates.told);
                }
                Err((until, told)) => return Some(Next::Deregister { until, told }),
            }
        }
    }

    /// Ends what `recover` could not mend.
    async fn give_up(mut self, next: Next) {
        match next {
            Next::Again => {}
            Next::Superseded => {
                if !self.state.borrow().is_final() {
                    self.finish(RegistrationState::Failed { why: RegistrationFailure::Superseded });
                }
            }
            Next::Deregister { until, told } => {
                let done = self.leave(until, told.is_some()).await;
                self.finish(RegistrationState::Deregistered);
                if let Some(told) = told {
                    let _is_heard = told.send(done).is_ok();
                }
            }
        }
    }

    /// Says that the instance goes, ends the lease, and waits for those who know it still.
    async fn leave(&mut self, until: Instant, drain: bool) -> Result<(), DiscoveryError> {
        let Some(standing) = self.standing.take() else { return Ok(()) };
        let clock = self.claimant.store.0.clock().clone();
        let lease = standing.keep.lease();
        let value = Record { leaving: true, ..self.claimant.record.clone() }.encode();
        // That it was said is better; that the lease ends is enough.
        let half = clock.now() + until.saturating_duration_since(clock.now()) / 2;
        let marked = clock
            .timeout(half, self.claimant.store.put_if(&self.claimant.key, value, lease.0, standing.mod_revision))
            .await;
        if !matches!(marked, Ok(Ok(Wrote::Yes { .. }))) {
            tracing::debug!(key = self.claimant.key.key, "a registration goes without saying so");
        }
        let ended = standing.keep.end(until).await;
        if drain {
            clock.sleep_until(until.min(clock.now() + self.claimant.options.drain)).await;
        }
        ended
    }

    /// The key is ours: watches it, and tells everybody.
    fn stand(&mut self, keep: Keep, mod_revision: i64) {
        let lease = keep.lease();
        let feed = Feed::of_key(&self.claimant.store.0, &self.claimant.key.key, mod_revision + 1);
        self.standing = Some(Standing { keep, feed, mod_revision });
        self.tell(RegistrationState::Registered { revision: Revision(mod_revision), lease });
        for told in self.waiting.drain(..) {
            // Whoever asked may have gone.
            let _is_heard = told.send(Ok(Revision(mod_revision))).is_ok();
        }
    }

    /// Lets go of the lease without waiting for its end.
    fn fall(&mut self) {
        self.standing = None;
    }

    fn finish(&mut self, state: RegistrationState) {
        self.tell(state);
        for told in self.waiting.drain(..) {
            let _is_heard = told.send(Err(DiscoveryError::Ended)).is_ok();
        }
    }

    fn tell(&self, state: RegistrationState) {
        self.state.send_replace(state);
    }

    fn now(&self) -> Instant {
        self.claimant.store.0.clock().now()
    }
}
