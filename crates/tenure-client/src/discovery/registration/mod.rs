//! A registration: an instance's key, kept in the store for as long as its process lives.
//!
//! A task of the client owns the lease and the key (`task`); this file is the handle on it. Whatever becomes of the
//! cluster, the handle's state says how the registration stands, and nothing of it ever blocks the task or is blocked by it.

mod backoff;
mod claim;
mod options;
mod task;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

pub use options::{RegisterOptions, RegistrationFailure, RegistrationState};

use super::error::DiscoveryError;
use super::instance::Instance;
use super::store::{InstanceKey, Store};
use crate::{Client, Revision};

/// Commands that may wait for the task. A caller waits for its own turn, and few call at the same time.
const COMMANDS_MAX: usize = 16;

/// What a handle asks the task for.
enum Command {
    Update { instance: Instance, told: oneshot::Sender<Result<Revision, DiscoveryError>> },
    Deregister { until: crate::Instant, told: oneshot::Sender<Result<(), DiscoveryError>> },
}

/// An instance that is registered, and is registered again whenever its lease or its key is lost.
///
/// Cloning gives another handle on the same registration. When the last one is dropped the instance is deregistered
/// in the background, without the drain. When the client is closed, its lease ends with the client's sessions.
#[derive(Clone, Debug)]
pub struct Registration {
    client: Client,
    key: Arc<str>,
    kind: Arc<str>,
    id: Arc<str>,
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<RegistrationState>,
}

impl Registration {
    pub(super) async fn start(
        client: &Client,
        key: InstanceKey,
        instance: Instance,
        options: RegisterOptions,
    ) -> Result<Self, DiscoveryError> {
        options.check()?;
        let (name, kind, id) = (key.key.as_str().into(), key.kind.as_str().into(), key.id.as_str().into());
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (task, state) = task::Registrar::register(Store(client.clone()), key, instance, options).await?;
        client.tasks().spawn_finishing("registration", task.run(receiver));
        Ok(Self { client: client.clone(), key: name, kind, id, commands, state })
    }

    /// The instance's kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The instance's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its key in the store, without the client's namespace.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it stands, now and from now on. A receiver that is not read misses what was between, and holds nobody up.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// Has the instance say something else of itself: the whole of it. Gives the revision that wrote it.
    ///
    /// While the registration is being made again it waits for that, and is written with it.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::BadName`] if the id is another one: nothing is done then. [`DiscoveryError::Superseded`] or
    /// [`DiscoveryError::Ended`] if the registration is over. What the client said, if the write failed: it is written then
    /// when the registration is written next.
    ///
    /// # Cancellation
    ///
    /// A dropped call that had begun to wait may be carried out.
    pub async fn update(&self, instance: Instance) -> Result<Revision, DiscoveryError> {
        if instance.id() != &*self.id {
            return Err(DiscoveryError::BadName { what: "id", name: instance.id().chars().take(64).collect() });
        }
        let (told, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Update { instance, told }).await;
        sent.map_err(|_| self.end())?;
        answer.await.map_err(|_| self.end())?
    }

    /// Ends the registration: says that the instance goes, ends its lease, and then waits for as long as the options' `drain` says, so that
    /// who was told of it late still reaches it. All of it takes no longer than `timeout`.
    ///
    /// To call it again, or when the registration has failed, does no harm.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::TimedOut`], or what the client said, if the cluster could not be told. The registration is over all the same: nothing
    /// renews its lease any more, so that the key goes at most its TTL later.
    ///
    /// # Cancellation
    ///
    /// Once the call has begun to wait it is carried out, dropped or not.
    pub async fn deregister(&self, timeout: Duration) -> Result<(), DiscoveryError> {
        let until = self.client.clock().now() + timeout;
        let (told, answer) = oneshot::channel();
        // The task is gone: it has deregistered, or failed and ended its lease.
        if self.commands.send(Command::Deregister { until, told }).await.is_err() {
            return Ok(());
        }
        match self.client.clock().timeout(until + task::GRACE, answer).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(DiscoveryError::TimedOut),
        }
    }

    fn end(&self) -> DiscoveryError {
        match &*self.state.borrow() {
            RegistrationState::Failed { why: RegistrationFailure::Superseded } => {
                DiscoveryError::Superseded { kind: self.kind.to_string(), id: self.id.to_string() }
            }
            RegistrationState::Failed { why: RegistrationFailure::GaveUp { .. } }
            | RegistrationState::Registered { .. }
            | RegistrationState::Reregistering { .. }
            | RegistrationState::Deregistered => DiscoveryError::Ended,
        }
    }
}
