//! How a lock is asked for, and how a token is checked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tenure_proto::etcdserverpb as etcd;
use tenure_proto::etcdserverpb::kv_client::KvClient;

use super::cleanup::{self, Cleanup};
use super::error::AcquireError;
use super::grip::{Grasp, Grip, Telling};
use super::guard::LockGuard;
use super::holding::Holding;
use super::mode::{Mode, Wait};
use super::names::Claimed;
use super::native::{self, Wanted};
use super::recipe;
use super::token::FencingToken;
use crate::call::What;
use crate::client::{Client, ServerKind};
use crate::clock::Instant;
use crate::error::Error;
use crate::session::{LostReason, Owner, Session};
use crate::watchdog::{self, Subject, WatchdogFactory};

const NAME_BYTES_MAX: usize = 512;
const SLASHES_MAX: usize = 16;
const METADATA_BYTES_MAX: usize = 1024;
const HOLDS_MAX: u32 = 256;
const LIMIT_MAX: u32 = 1_000_000;
const DELAY_MAX: Duration = Duration::from_secs(60);

/// A lock that was not acquired yet. Made by [`Session::lock`].
#[derive(Clone)]
#[must_use = "nothing is asked for before `acquire`"]
pub struct LockBuilder {
    session: Session,
    wanted: Wanted,
    max_hold: Option<Duration>,
    is_cancelled_in_jeopardy: bool,
    factory: Option<Arc<dyn WatchdogFactory>>,
    way: Way,
}

/// By which of two ways that lead into the same queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Natively on Tenure, by the recipe on etcd.
    Best,
    Recipe,
}

impl Session {
    /// A lock of this name: 1 to 512 bytes, at most 16 of them slashes. All keys under `name/` contend for it, so names that begin
    /// with another name and a slash are best avoided.
    pub fn lock(&self, name: impl Into<Bytes>) -> LockBuilder {
        let wanted = Wanted {
            name: name.into(),
            mode: Mode::default(),
            wait: Wait::default(),
            metadata: Bytes::new(),
            delay: Duration::ZERO,
            holds_max: 0,
            is_deadlock_looked_for: false,
        };
        let (session, factory) = (self.clone(), self.owner_handle().factory.clone());
        LockBuilder { session, wanted, max_hold: None, is_cancelled_in_jeopardy: false, factory, way: Way::Best }
    }
}

impl LockBuilder {
    /// How it is wanted: alone unless set. Everything else needs Tenure.
    pub fn mode(mut self, mode: Mode) -> LockBuilder {
        self.wanted.mode = mode;
        self
    }

    /// For how long to wait for it: as long as the session lives, unless set.
    pub fn wait(mut self, wait: Wait) -> LockBuilder {
        self.wanted.wait = wait;
        self
    }

    /// For how long nobody else gets it once the session's lease has *expired*, so that what was sent before can arrive: at
    /// most a minute, in whole milliseconds. A release knows no delay. Needs Tenure.
    pub fn lock_delay(mut self, delay: Duration) -> LockBuilder {
        self.wanted.delay = delay;
        self
    }

    /// Let the session hold it so often at once, at most 256 times: each acquire has a guard of its own, and it is let go with the last.
    /// All must ask for this, in the same mode. Needs Tenure.
    pub fn reentrant(mut self, holds: Option<u32>) -> LockBuilder {
        self.wanted.holds_max = holds.unwrap_or(0);
        self
    }

    /// Lose it after so long, whatever the work does: [`LostReason::HeldTooLong`]. It is let go a session's margin later.
    pub fn max_hold(mut self, span: Option<Duration>) -> LockBuilder {
        self.max_hold = span;
        self
    }

    /// What others are to know of the holder, at most 1024 bytes: the value of the lock's key.
    pub fn metadata(mut self, metadata: impl Into<Bytes>) -> LockBuilder {
        self.wanted.metadata = metadata.into();
        self
    }

    /// Cancel the guard's [`cancellation`](Holding::cancellation), and the work of [`run`](Holding::run), when a renewal is
    /// overdue, and not only when it is lost.
    pub fn cancel_in_jeopardy(mut self) -> LockBuilder {
        self.is_cancelled_in_jeopardy = true;
        self
    }

    /// Have this factory make its watchdog, instead of the session's.
    pub fn watchdog(mut self, factory: Arc<dyn WatchdogFactory>) -> LockBuilder {
        self.factory = Some(factory);
        self
    }

    /// Contend by etcd's recipe on Tenure too. The queue is the same; a native request costs less.
    pub fn by_recipe(mut self) -> LockBuilder {
        self.way = Way::Recipe;
        self
    }

    /// Look, while it waits, whether it waits for others that wait for what this session holds: then `acquire` ends with
    /// [`AcquireError::Deadlock`], and its request is cancelled. Off unless set. Needs Tenure.
    ///
    /// Of each cycle one request gives up, the youngest, and only if it was told to look: so have all look that could be in one. The
    /// others go on waiting, and hold once the session that was told lets go of what it holds.
    ///
    /// **For sessions of one task.** A server tells what sessions hold and wait for, not which of their tasks. If each session in the cycle is
    /// one task, which lets go of nothing while it waits, it is a deadlock for certain, which nothing ends but a limit that somebody set: a time to
    /// wait, a [`max_hold`](LockBuilder::max_hold), a lease that is not renewed. If the session of a holder has another task, that may be
    /// about to let go of it, and this is told all the same. That is why it is off unless set: to share a session among tasks is common.
    ///
    /// A wait of less than about a second costs nothing. A longer one costs a look then, and others after 2, 4, 8 and at last each 30 seconds: one request
    /// for its own lock, and for each session that holds this in its way one for its keys and as a rule one or two for what it waits
    /// for. A deadlock is told about a second and a half after it came to be. `docs/GUARDS.md` has the limits, and what is not found.
    pub fn find_deadlocks(mut self, is_wanted: bool) -> LockBuilder {
        self.wanted.is_deadlock_looked_for = is_wanted;
        self
    }

    /// Asks for it, and waits for it as long as it was told to.
    ///
    /// # Errors
    ///
    /// See [`AcquireError`].
    ///
    /// # Cancellation
    ///
    /// The future can be dropped at any point: what was asked for is cancelled by the client's tasks, which repeat it until it is
    /// acknowledged or the session is over. Nobody is left in the queue, and nothing is held that nobody knows of.
    pub async fn acquire(self) -> Result<LockGuard, AcquireError> {
        if self.wanted.metadata.len() > METADATA_BYTES_MAX {
            return Err(AcquireError::Invalid(format!("the metadata has more than {METADATA_BYTES_MAX} bytes")));
        }
        self.hold().await.map(LockGuard::new)
    }

    /// Has the way picked by somebody else, and any metadata.
    pub(crate) fn way(mut self, way: Way) -> LockBuilder {
        self.way = way;
        self
    }

    pub(crate) async fn hold(mut self) -> Result<Holding, AcquireError> {
        self.check()?;
        let owner = self.session.owner_handle().clone();
        let clock = owner.core.clock();
        // From here on it is one time for all that is waited for.
        let patience = match self.wanted.wait {
            Wait::Try => Some(clock.now() + owner.client.options().timeout),
            Wait::For(_) | Wait::Until(_) | Wait::Forever => self.wanted.wait.end(clock.now()),
        };
        if let (Wait::For(_), Some(end)) = (self.wanted.wait, patience) {
            self.wanted.wait = Wait::Until(end);
        }
        if let Some(reason) = owner.core.look().lost_reason() {
            return Err(AcquireError::SessionLost(reason));
        }
        let is_native = self.is_native(&owner).await?;
        // What this session dropped before would be taken for a rival.
        tokio::select! {
            biased;
            reason = owner.over() => return Err(AcquireError::SessionLost(reason)),
            () = owner.names.clean(&self.wanted.name) => {}
            () = clock.sleep_until(patience.unwrap_or(Instant::FAR_FUTURE)) => {
                return Err(AcquireError::Timeout { position: None, holder: None });
            }
        }
        let (grasp, claimed) = if is_native {
            (Box::pin(native::acquire(&owner, &self.wanted)).await?, None)
        } else {
            let (grasp, claimed) = Box::pin(recipe::acquire(&owner, &self.wanted)).await?;
            (grasp, Some(claimed))
        };
        self.take_hold(&owner, grasp, claimed)
    }

    /// From the answer to the guard there is no waiting, so nothing is lost between them.
    fn take_hold(self, owner: &Arc<Owner>, grasp: Grasp, claimed: Option<Claimed>) -> Result<Holding, AcquireError> {
        let clock = owner.core.clock();
        let now = clock.now();
        let subject = Subject {
            lease: owner.core.lease,
            lock: Some(grasp.name.clone()),
            token: Some(grasp.token),
            owner: owner.core.owner.clone(),
            store: owner.store,
        };
        let chance = (now, clock.random());
        let dog = watchdog::start(&owner.sessions.kennel, self.factory.as_ref(), subject, chance);
        let dog = dog.inspect_err(|_| cleanup::hand_over(owner, Cleanup::Release(grasp.clone())))?;
        let hold_until = self.max_hold.map(|span| now + span);
        let telling = Telling { is_cancelled_in_jeopardy: self.is_cancelled_in_jeopardy, hold_until };
        Ok(Holding::new(Grip::new(owner.clone(), grasp, telling, dog, claimed)))
    }

    async fn is_native(&self, owner: &Owner) -> Result<bool, AcquireError> {
        let kind = match owner.client.kind().await {
            Ok(kind) => kind,
            Err(Error::Closed) => return Err(AcquireError::SessionLost(LostReason::ClientClosed)),
            Err(error) => return Err(AcquireError::Unavailable(error)),
        };
        let is_native = kind == ServerKind::Tenure && self.way == Way::Best;
        let Wanted { mode, delay, holds_max, is_deadlock_looked_for, .. } = self.wanted;
        for (is_wanted, what) in [
            (mode != Mode::Exclusive, "a lock that several hold"),
            (!delay.is_zero(), "a lock-delay"),
            (holds_max > 0, "a re-entrant lock"),
            (is_deadlock_looked_for, "looking for deadlocks"),
        ] {
            if is_wanted && !is_native {
                return Err(AcquireError::NeedsTenure { what });
            }
        }
        Ok(is_native)
    }

    /// What a server would refuse.
    fn check(&self) -> Result<(), AcquireError> {
        let Wanted { name, mode, delay, holds_max, .. } = &self.wanted;
        let slashes = name.iter().filter(|byte| **byte == b'/').count();
        let is_semaphore_right = match *mode {
            Mode::Exclusive | Mode::Shared => true,
            Mode::Semaphore { permits, limit } => (1..=limit).contains(&permits) && limit <= LIMIT_MAX,
        };
        for (is_right, what) in [
            ((1..=NAME_BYTES_MAX).contains(&name.len()), "a lock's name has 1 to 512 bytes"),
            (slashes <= SLASHES_MAX, "a lock's name has at most 16 slashes"),
            (*delay <= DELAY_MAX, "a lock-delay is a minute at most"),
            (*holds_max <= HOLDS_MAX, "a lock is held 256 times at most"),
            (is_semaphore_right, "a semaphore has 1 to 1,000,000 permits, of which 1 to all are taken"),
        ] {
            if !is_right {
                return Err(AcquireError::Invalid(what.to_owned()));
            }
        }
        Ok(())
    }
}

impl Client {
    /// Whether a lock is held with this token, by one linearizable read: its key has that create revision and that lease.
    ///
    /// It tells what was so at some moment between the call and its answer. A resource outside of the store that cannot remember the highest
    /// token is as safe as that.
    ///
    /// # Errors
    ///
    /// Those of a read.
    ///
    /// # Cancellation
    ///
    /// Dropping the future changes nothing.
    pub async fn verify(&self, token: &FencingToken) -> Result<bool, Error> {
        let key = self.namespace().wrap(token.key());
        // With the value: an etcd 3.7 does not tell the lease of a key that is asked for without it.
        let request = etcd::RangeRequest { key, ..etcd::RangeRequest::default() };
        let range = |link| {
            let request = request.clone();
            async move { KvClient::new(link).range(request).await }
        };
        let answer = self.call(What::read("verify a token"), range).await?;
        let is_it = |kv: &tenure_proto::mvccpb::KeyValue| {
            kv.create_revision == token.revision.0 && kv.lease == token.lease.0 && !token.lease.is_none()
        };
        Ok(answer.kvs.iter().any(is_it))
    }
}

impl fmt::Debug for LockBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LockBuilder").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}
