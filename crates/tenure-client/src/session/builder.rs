//! How a session is asked for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tenure_proto::tenure::v1::LeaseHolder;
use thiserror::Error;
use tokio::sync::oneshot;

use super::core::{Core, Made};
use super::handle::Session;
use super::keeper::RenewalCounts;
use super::owner;
use super::standing::Standing;
use super::state::LostReason;
use super::terms::{Asked, TermsError};
use super::wire;
use crate::client::{Client, ServerKind};
use crate::error::Error;
use crate::watchdog::{self, Subject, WatchdogError, WatchdogFactory};

/// The TTL of a session that asks for none.
const TTL_DEFAULT: Duration = Duration::from_secs(10);

/// What a server takes as the name of a lease's holder.
const NAME_BYTES_MAX: usize = 128;

/// A session that was not started yet. Made by [`Client::session`].
#[derive(Clone)]
#[must_use = "a session begins with `start`"]
pub struct SessionBuilder {
    client: Client,
    asked: Asked,
    give_up_after: Option<u32>,
    name: String,
    owner: Option<String>,
    factory: Option<Arc<dyn WatchdogFactory>>,
}

impl Client {
    /// A session: a lease that this client renews.
    pub fn session(&self) -> SessionBuilder {
        let asked = Asked { ttl: TTL_DEFAULT, margin: None, interval: None, is_margin_skipped: false };
        let (client, name) = (self.clone(), String::new());
        SessionBuilder { client, asked, give_up_after: None, name, owner: None, factory: None }
    }

    /// What this client has done so far to renew its sessions. All of its handles count together.
    #[must_use]
    pub fn renewal_counts(&self) -> RenewalCounts {
        self.sessions().keeper.counts()
    }
}

impl SessionBuilder {
    /// How long the lease lives without renewal: at least 1 s, in whole milliseconds on Tenure and rounded up to seconds on
    /// etcd. A server may raise it, and the session goes by what it says. 10 s unless set.
    pub fn ttl(mut self, ttl: Duration) -> SessionBuilder {
        self.asked.ttl = ttl;
        self
    }

    /// How long before the lease could end the session counts as lost: the time that work has to stop in. At most a third
    /// of the TTL; unless set the larger of a tenth of the TTL and 200 ms.
    pub fn margin(mut self, margin: Duration) -> SessionBuilder {
        self.asked.margin = Some(margin);
        self
    }

    /// From the sending of one renewal to that of the next, less a little chance. A third of the TTL unless set.
    pub fn refresh_interval(mut self, interval: Duration) -> SessionBuilder {
        self.asked.interval = Some(interval);
        self
    }

    /// Allow an interval after which less than the larger of a second and a third of the TTL is left. One renewal that is
    /// lost or slow then ends the session. A TTL below 1.5 s needs this.
    pub fn dangerously_skip_margin(mut self) -> SessionBuilder {
        self.asked.is_margin_skipped = true;
        self
    }

    /// Count the session as lost after so many renewals in a row that failed. Unless set, it is renewed until its deadline,
    /// however many fail.
    pub fn give_up_after(mut self, failures: u32) -> SessionBuilder {
        self.give_up_after = Some(failures.max(1));
        self
    }

    /// A name for those who list leases; at most 128 bytes, and kept by Tenure alone.
    pub fn name(mut self, name: impl Into<String>) -> SessionBuilder {
        self.name = name.into();
        self
    }

    /// Who holds what this session holds: at most 128 bytes. Unless set, the process: `host-pid-boot-random`.
    pub fn owner(mut self, owner: impl Into<String>) -> SessionBuilder {
        self.owner = Some(owner.into());
        self
    }

    /// Have this factory make a watchdog for the session, and for each lock and leadership of it that names no other.
    pub fn watchdog(mut self, factory: Arc<dyn WatchdogFactory>) -> SessionBuilder {
        self.factory = Some(factory);
        self
    }

    /// Grants the lease, and begins to renew it.
    ///
    /// # Errors
    ///
    /// [`StartError::Terms`] and [`StartError::Client`] with [`Error::Invalid`] before anything is sent; else what the grant
    /// failed for. Of a grant that nobody knows of, a lease may be left that nobody renews.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the client's tasks revoke the lease once it is granted.
    pub async fn start(self) -> Result<Session, StartError> {
        self.asked.check()?;
        let owner = self.owner.clone().unwrap_or_else(|| owner::of_this_process().to_owned());
        for (what, text, most) in [("name", &self.name, NAME_BYTES_MAX), ("owner", &owner, owner::OWNER_BYTES_MAX)] {
            if text.len() > most {
                return Err(Error::Invalid(format!("the {what} of a session has more than {most} bytes")).into());
            }
        }
        let client = self.client.clone();
        let (told, waiting) = oneshot::channel();
        // A session that nobody waits for any more is dropped, and that ends its lease.
        let starting = async move { drop(told.send(self.begin(owner).await)) };
        drop(client.tasks().spawn_finishing("start a session", starting));
        waiting.await.unwrap_or(Err(StartError::Client(Error::Closed)))
    }

    /// What was asked for can be done.
    async fn begin(self, owner: String) -> Result<Session, StartError> {
        let SessionBuilder { client, asked, give_up_after, name, owner: _, factory } = self;
        let holder = LeaseHolder { name, text: owner.clone() };
        let granted = wire::grant(&client, asked.ttl, holder).await?;
        let store = match granted.kind {
            ServerKind::Etcd => "etcd",
            ServerKind::Tenure => "tenure",
        };
        let now = client.clock().now();
        let standing = Standing::granted(asked.terms(granted.ttl), granted.sent, now);
        let owner: Arc<str> = owner.into();
        let made = Made { lease: granted.lease, owner: owner.clone(), give_up_after, standing };
        let core = Core::new(client.clock().clone(), made);
        let sessions = client.sessions().clone();
        // From here on, dropping it ends the lease.
        let session = Session::new(client, core.clone(), sessions.clone(), (factory.clone(), store));
        let subject = Subject { lease: granted.lease, lock: None, token: None, owner, store };
        let chance = (now, core.clock().random());
        core.watch_by(watchdog::start(&sessions.kennel, factory.as_ref(), subject, chance)?);
        sessions.keeper.add(&core, granted.sent);
        match core.look().lost_reason() {
            Some(reason) => Err(StartError::Lost(reason)),
            None => Ok(session),
        }
    }
}

/// Why a session was not started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The times that were asked for do not fit together. Nothing was sent.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// The lease was not granted.
    #[error(transparent)]
    Client(#[from] Error),
    /// The watchdog could not be made. The lease is revoked.
    #[error(transparent)]
    Watchdog(#[from] WatchdogError),
    /// The answer came when the session was as good as over. The lease is revoked.
    #[error("the session was lost before it began: {0}")]
    Lost(LostReason),
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SessionBuilder").field("asked", &self.asked).finish_non_exhaustive()
    }
}
