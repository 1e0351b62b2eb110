//! What a lock's guard and a leadership have in common: asking how it stands, and letting go.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::cleanup::{self, Cleanup};
use super::error::{Interrupted, Released};
use super::grip::{Grip, Phase};
use super::sentry;
use super::token::FencingToken;
use crate::clock::Instant;
use crate::error::{Applied, Error};
use crate::fence::Fence;
use crate::ids::LeaseId;
use crate::session::{EnsureError, LostReason, SessionState};
use crate::txn::Compare;
use crate::watchdog::{Dog, Events, WatchdogId};

/// Something that is held: what [`LockGuard`](crate::lock::LockGuard) and [`Leadership`](crate::election::Leadership) have in
/// common. Both dereference to it.
///
/// It is never cloned: it is held once, and let go once. Dropping it hands the release to the client's tasks, which repeat it
/// until it is acknowledged or the session is over; that needs no runtime at hand.
#[must_use = "to drop it lets go of the lock"]
pub struct Holding {
    grip: Arc<Grip>,
    /// Whether dropping it has to release it.
    is_armed: bool,
}

impl Holding {
    /// Has it watched over.
    pub(crate) fn new(grip: Arc<Grip>) -> Holding {
        sentry::watch_over(&grip);
        Holding { grip, is_armed: true }
    }

    pub(crate) fn grip(&self) -> &Arc<Grip> {
        &self.grip
    }

    /// The lock or election, as it was named.
    #[must_use]
    pub fn name(&self) -> &Bytes {
        &self.grip.grasp.name
    }

    /// The key that stands for it, within the client's namespace.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.grip.grasp.key
    }

    /// The fencing token, for resources that check it.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.grip.token()
    }

    /// The lease that it is held on.
    #[must_use]
    pub fn lease_id(&self) -> LeaseId {
        self.grip.lease()
    }

    /// How often its session held it when it was granted, this time included: more than one only if it is held re-entrantly.
    #[must_use]
    pub fn holds(&self) -> u32 {
        self.grip.grasp.holds
    }

    /// How it stands now, by the client's clock and what the store told. Asks nobody. `Jeopardy` also if a release was sent
    /// whose outcome is not known.
    #[must_use]
    pub fn state(&self) -> SessionState {
        self.grip.look()
    }

    /// The time that is surely left; zero if it is lost. Asks nobody.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let state = self.grip.look();
        state.remaining(self.grip.now())
    }

    /// Whether it is `Safe` now. Asks nobody.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.grip.look().is_safe()
    }

    /// Waits until at least `least` is surely left: no time at all if it is, else until a renewal succeeds, which is begun at
    /// once.
    ///
    /// # Errors
    ///
    /// [`EnsureError::Lost`] if it is lost first; [`EnsureError::TooLong`] if no renewal would leave so much;
    /// [`EnsureError::Released`] after a release whose outcome is not known.
    ///
    /// # Cancellation
    ///
    /// Dropping the future changes nothing.
    pub async fn ensure(&self, least: Duration) -> Result<(), EnsureError> {
        let end = self.grip.telling.hold_until;
        if let Some(left) = end.map(|end| end.saturating_duration_since(self.grip.now())).filter(|left| *left < least) {
            return Err(self.grip.look().lost_reason().map_or(EnsureError::TooLong { most: left }, EnsureError::Lost));
        }
        let ensured = tokio::select! {
            biased;
            reason = self.over() => Err(EnsureError::Lost(reason)),
            ensured = self.grip.owner.ensure(least) => ensured,
        };
        // The key may have gone while the lease was renewed.
        if let Some(reason) = self.grip.look().lost_reason() {
            return Err(EnsureError::Lost(reason));
        }
        if self.grip.phase() == Phase::Doubtful {
            return Err(EnsureError::Released);
        }
        ensured
    }

    /// Waits until it is lost, and says why. If its key went, that takes a moment longer than [`Holding::cancellation`], until it is
    /// known why.
    ///
    /// # Cancellation
    ///
    /// Dropping the future changes nothing.
    pub async fn lost(&self) -> LostReason {
        self.until(|| self.grip.settled_reason()).await
    }

    /// As [`Holding::lost`], without waiting for the reason to be certain.
    async fn over(&self) -> LostReason {
        self.until(|| self.grip.look().lost_reason()).await
    }

    /// Waits until there is something to tell, and asks at every poll: in a process that was stopped whatever wakes the task
    /// first finds it, and be it another branch of a `select!`.
    async fn until<T>(&self, told: impl Fn() -> Option<T>) -> T {
        let mut changes = self.grip.changes();
        loop {
            changes.mark_unchanged();
            let mut change = pin!(self.change(&mut changes));
            let found = poll_fn(|context| match told() {
                Some(found) => Poll::Ready(Some(found)),
                None => change.as_mut().poll(context).map(|()| None),
            });
            if let Some(found) = found.await {
                return found;
            }
        }
    }

    /// Waits for a change that was told, or for the one that only the clock tells.
    async fn change(&self, changes: &mut tokio::sync::watch::Receiver<()>) {
        let held = self.grip.telling.hold_until.filter(|_| !self.grip.look().is_final());
        let held = self.grip.owner.core.clock().sleep_until(held.unwrap_or(Instant::FAR_FUTURE));
        tokio::select! {
            // The sender is in the grip.
            _ = changes.changed() => {}
            () = held => {}
        }
    }

    /// Cancelled when it is lost or let go; by option already when a renewal is overdue. It is told by the task that renews:
    /// in a process that was stopped, a moment after it runs again. [`Holding::is_safe`] needs no moment.
    #[must_use]
    pub fn cancellation(&self) -> CancellationToken {
        self.grip.cancellation().clone()
    }

    /// Does some work as long as it is held, and drops the work when it is lost.
    ///
    /// # Errors
    ///
    /// [`Interrupted::Lost`] if it was lost before the work was finished, and be it in the same moment; whatever the work had done
    /// by then is done. [`Interrupted::Jeopardy`] likewise if the guard is to be cancelled in jeopardy.
    ///
    /// # Cancellation
    ///
    /// Dropping the future drops the work.
    pub async fn run<'h, W, F, T>(&'h self, work: W) -> Result<T, Interrupted>
    where
        W: FnOnce(&'h Holding) -> F,
        F: Future<Output = T>,
    {
        if let Some(interrupted) = self.interrupted() {
            return Err(interrupted);
        }
        if self.grip.phase() == Phase::Doubtful {
            return Err(Interrupted::Released);
        }
        let work = work(self);
        let interruption = self.until(|| self.interrupted());
        let output = tokio::select! {
            biased;
            interrupted = interruption => return Err(interrupted),
            output = work => output,
        };
        // A process that was stopped meanwhile sees the end of the work before any timer.
        self.interrupted().map_or(Ok(output), Err)
    }

    fn interrupted(&self) -> Option<Interrupted> {
        match self.grip.look() {
            SessionState::Safe { .. } => None,
            SessionState::Jeopardy { .. } => {
                self.grip.telling.is_cancelled_in_jeopardy.then_some(Interrupted::Jeopardy)
            }
            SessionState::Lost { reason, .. } => Some(Interrupted::Lost(reason)),
            SessionState::Closed => Some(Interrupted::Lost(LostReason::SessionClosed)),
        }
    }

    /// What lets a single write depend on it, on Tenure: `client.put(..).under(guard.fence())`.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.grip.fence()
    }

    /// Two conditions for a transaction, on etcd too: they hold as long as this is held.
    #[must_use]
    pub fn compare(&self) -> [Compare; 2] {
        self.grip.fence().compare()
    }

    /// The conditions of [`Holding::compare`], by the name that they have in `docs/LOCKS.md`: held with this token on this
    /// lease. On Tenure they also fail while the key of a holder whose lease expired stays for its lock-delay.
    #[must_use]
    pub fn held(&self) -> [Compare; 2] {
        self.compare()
    }

    /// The events of its watchdog, from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        Dog::subscribe(self.grip.dog())
    }

    /// The id of its watchdog.
    #[must_use]
    pub fn watchdog_id(&self) -> WatchdogId {
        self.grip.dog().id().clone()
    }

    /// How many events its listeners lost by being slow.
    #[must_use]
    pub fn missed_events(&self) -> u64 {
        self.grip.dog().missed()
    }

    /// Attaches something to the events of its watchdog from now on.
    pub fn set_payload(&self, payload: Option<&str>) {
        self.grip.dog().set_payload(payload.map(Arc::from), self.grip.now());
    }

    /// Lets go and waits until that is acknowledged. On an error it is held as before, or in doubt.
    pub(crate) async fn let_go(&mut self) -> Result<Released, Error> {
        self.grip.release_begins();
        match cleanup::release(&self.grip.owner, &self.grip.grasp).await {
            Ok(released) => {
                self.is_armed = false;
                self.grip.released();
                Ok(released)
            }
            Err(error) => {
                self.grip.release_failed(&error.to_string(), error.applied() == Applied::No);
                Err(error)
            }
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        let grip = &self.grip;
        let is_gone = matches!(
            grip.look().lost_reason(),
            Some(LostReason::Expired | LostReason::Revoked | LostReason::Forced | LostReason::SessionClosed)
        );
        if !is_gone {
            cleanup::hand_over(&grip.owner, Cleanup::Release(grip.grasp.clone()));
        }
        // Its name is handed over by now: nobody asks for it in between.
        grip.let_go();
    }
}

impl fmt::Debug for Holding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Holding")
            .field("token", &self.grip.token().to_string())
            .field("state", &self.grip.look())
            .finish_non_exhaustive()
    }
}
