//! The handle on a session, and what ends its lease when the last one goes.

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;

use super::core::Core;
use super::keeper::Keeper;
use super::state::{LostReason, SessionState};
use super::wire::{self, ClientWire};
use crate::client::{Client, WeakClient};
use crate::error::Error;
use crate::ids::LeaseId;
use crate::lock::{Names, Requests};
use crate::tasks::Tasks;
use crate::watchdog::{Dog, Events, Kennel, WatchdogFactory, WatchdogId};

/// Between tries to revoke a lease that nobody waits for.
const REVOKE_PAUSE: Duration = Duration::from_millis(250);

/// What all sessions of a client share.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) kennel: Kennel,
}

impl Sessions {
    /// Makes it, and starts the task that renews.
    pub(crate) fn new(client: WeakClient, clock: Arc<dyn crate::clock::Clock>, tasks: &Tasks) -> Arc<Sessions> {
        let keeper = Keeper::new(clock, Arc::new(ClientWire::new(client)));
        // The client owns it and ends it.
        drop(tasks.spawn("renew sessions", keeper.clone().run()));
        Arc::new(Sessions { keeper, kennel: Kennel::default() })
    }
}

/// A lease that is renewed until this ends.
///
/// Cloning it is cheap, and gives another handle on the same session. The lease is revoked when the last handle, lock and
/// leadership of it have been dropped, by the client's tasks: that needs no runtime at hand. [`Session::close`] does so at
/// once, and says whether it was done.
#[derive(Clone)]
pub struct Session {
    owner: Arc<Owner>,
}

/// What keeps a session alive: its handles, and what it holds.
pub(crate) struct Owner {
    pub(crate) client: Client,
    pub(crate) core: Arc<Core>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) factory: Option<Arc<dyn WatchdogFactory>>,
    pub(crate) store: &'static str,
    /// The requests for locks on its lease.
    pub(crate) requests: Requests,
    pub(crate) names: Arc<Names>,
    is_revoked: AtomicBool,
}

impl Session {
    pub(super) fn new(
        client: Client,
        core: Arc<Core>,
        sessions: Arc<Sessions>,
        (factory, store): (Option<Arc<dyn WatchdogFactory>>, &'static str),
    ) -> Session {
        let (requests, names, is_revoked) = (Requests::of(core.lease), Names::new(), AtomicBool::new(false));
        Session { owner: Arc::new(Owner { client, core, sessions, factory, store, requests, names, is_revoked }) }
    }

    pub(crate) fn owner_handle(&self) -> &Arc<Owner> {
        &self.owner
    }

    /// The lease. Keys that are put with it go when the session ends.
    #[must_use]
    pub fn lease_id(&self) -> LeaseId {
        self.owner.core.lease
    }

    /// The TTL, as the server granted it.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.owner.core.terms().ttl
    }

    /// Who holds what this session holds.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner.core.owner
    }

    /// The client that it was made by.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.owner.client
    }

    /// How it stands, and whenever that changes. What is in the receiver is as old as the last time that somebody looked;
    /// [`Session::current`] looks.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.owner.core.subscribe()
    }

    /// How it stands now. Asks nobody.
    #[must_use]
    pub fn current(&self) -> SessionState {
        self.owner.core.look()
    }

    /// Whether it is `Safe` now. Asks nobody.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.current().is_safe()
    }

    /// The time until the deadline; zero if it is over. Asks nobody.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.owner.remaining()
    }

    /// Waits until at least `least` is left until the deadline: no time at all if it is, else until a renewal succeeds, which is
    /// begun at once.
    ///
    /// # Errors
    ///
    /// [`EnsureError::Lost`] if the session is over, or its deadline comes first; [`EnsureError::TooLong`] if no renewal
    /// would leave so much, or the one that was begun did not.
    ///
    /// # Cancellation
    ///
    /// Dropping the future changes nothing.
    pub async fn ensure(&self, least: Duration) -> Result<(), EnsureError> {
        self.owner.ensure(least).await
    }

    /// Waits until it is over, and says why. `Closed` counts as [`LostReason::SessionClosed`].
    pub async fn lost(&self) -> LostReason {
        self.owner.over().await
    }

    /// The events of its watchdog, from now on.
    #[must_use]
    pub fn events(&self) -> Option<Events> {
        self.owner.core.dog().map(Dog::subscribe)
    }

    /// The id of its watchdog.
    #[must_use]
    pub fn watchdog_id(&self) -> Option<WatchdogId> {
        self.owner.core.dog().map(|dog| dog.id().clone())
    }

    /// How many events its listeners lost by being slow.
    #[must_use]
    pub fn missed_events(&self) -> u64 {
        self.owner.core.dog().map_or(0, |dog| dog.missed())
    }

    /// Attaches something to the events of its watchdog from now on.
    pub fn set_payload(&self, payload: Option<&str>) {
        if let Some(dog) = self.owner.core.dog() {
            dog.set_payload(payload.map(Arc::from), self.owner.core.clock().now());
        }
    }

    /// Ends it: nothing is renewed from the moment of the call on, all that it holds is lost, and the lease is revoked. Closing
    /// again does no harm, and revokes again if that had failed.
    ///
    /// # Errors
    ///
    /// What the revoke failed for, after as long as the client's options say. The session is over all the same; the lease ends
    /// after its TTL at the latest.
    ///
    /// # Cancellation
    ///
    /// The session is over once the future was polled. A lease that was not revoked then is when the last handle is dropped.
    pub async fn close(&self) -> Result<(), Error> {
        let owner = &self.owner;
        owner.stop();
        if owner.is_revoked.load(Ordering::SeqCst) {
            return Ok(());
        }
        let revoked = wire::revoke(&owner.client, owner.core.lease).await;
        owner.core.stopped(revoked.as_ref().copied());
        owner.is_revoked.store(revoked.is_ok(), Ordering::SeqCst);
        revoked
    }
}

impl Owner {
    /// Nothing is renewed any more.
    fn stop(&self) {
        self.core.close();
        self.sessions.keeper.remove(self.core.lease);
    }

    pub(crate) fn remaining(&self) -> Duration {
        let state = self.core.look();
        state.remaining(self.core.clock().now())
    }

    pub(crate) async fn ensure(&self, least: Duration) -> Result<(), EnsureError> {
        let mut states = self.core.subscribe();
        let begun = self.core.clock().now();
        loop {
            states.mark_unchanged();
            let state = self.core.look();
            if let Some(reason) = state.lost_reason() {
                return Err(EnsureError::Lost(reason));
            }
            let left = state.remaining(self.core.clock().now());
            if left >= least {
                return Ok(());
            }
            let most = self.core.terms().certain();
            if least >= most {
                return Err(EnsureError::TooLong { most });
            }
            // A renewal since then left no more: its answer takes too long for that.
            if self.core.anchor() > begun {
                return Err(EnsureError::TooLong { most: left });
            }
            self.sessions.keeper.hurry(self.core.lease);
            // The sender is in the core, which lives as long as this.
            if states.changed().await.is_err() {
                return Err(EnsureError::Lost(LostReason::ClientClosed));
            }
        }
    }

    /// It asks at every poll: in a process that was stopped whatever wakes the task first finds it.
    pub(crate) async fn over(&self) -> LostReason {
        let mut states = self.core.subscribe();
        loop {
            states.mark_unchanged();
            let mut change = pin!(states.changed());
            let found = poll_fn(|context| match self.core.look().lost_reason() {
                Some(reason) => Poll::Ready(Some(reason)),
                None => change.as_mut().poll(context).map(|told| told.is_err().then_some(LostReason::ClientClosed)),
            });
            if let Some(reason) = found.await {
                return reason;
            }
        }
    }
}

/// The last handle went: the client's tasks revoke the lease, until it is done or must have ended by itself.
impl Drop for Owner {
    fn drop(&mut self) {
        self.stop();
        if self.is_revoked.load(Ordering::SeqCst) {
            return;
        }
        let (client, core) = (self.client.clone(), self.core.clone());
        let last = Last(core.clone());
        let revoking = async move {
            let _last = last;
            let end = client.clock().now() + core.terms().ttl;
            while let Err(error) = wire::revoke(&client, core.lease).await {
                if matches!(error, Error::Closed) || client.clock().now() + REVOKE_PAUSE >= end {
                    tracing::debug!(lease = %core.lease, %error, "a lease was not revoked, and ends by itself");
                    return;
                }
                client.clock().sleep(REVOKE_PAUSE).await;
            }
            core.stopped(Ok(()));
        };
        // The client owns it, and gives it time when it is closed.
        drop(self.client.tasks().spawn_finishing("revoke a lease", revoking));
    }
}

/// Lets the watchdog go, whatever becomes of the task that has this.
struct Last(Arc<Core>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.exit();
    }
}

/// There is not as much time left as was wanted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnsureError {
    /// It is lost.
    #[error("lost: {0}")]
    Lost(LostReason),
    /// It is never certain for so long: the TTL is too short for that, or the time for which it is to be held, or an answer takes
    /// too long.
    #[error("it is certain for {most:?} at most")]
    TooLong {
        /// For how long it is.
        most: Duration,
    },
    /// A release was sent and its outcome is not known: the lock may be gone at any moment.
    #[error("a release was sent, and nobody knows whether it was done")]
    Released,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("lease", &self.owner.core.lease)
            .field("state", &self.owner.core.look())
            .finish_non_exhaustive()
    }
}
