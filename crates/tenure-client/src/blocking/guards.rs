//! Locks and leaderships for programs that wait.

use std::fmt::Debug;
use std::ops::Deref;
use std::time::Duration;

use bytes::Bytes;

use super::Blocking;
use crate::election::{Campaign, Leadership, ProclaimError};
use crate::ids::Revision;
use crate::lock::{AcquireError, Holding, Interrupted, LockBuilder, LockGuard, ReleaseError, Released};
use crate::session::{EnsureError, LostReason};

/// The guard of a lock or of a leadership, with methods that wait. What asks nobody, as [`Holding::token`] and
/// [`Holding::remaining`], it has from the guard itself.
///
/// It is kept alive on the client's own thread, whatever this one does. What no thread can do is to stop another: a program that
/// computes for long looks at [`Guarded::check`] between its steps, and lets what it writes depend on [`Holding::fence`].
///
/// Dropping it lets go, as with the guard itself.
///
/// ```no_run
/// # fn example(tenure: tenure_client::blocking::Blocking) -> Result<(), Box<dyn std::error::Error>> {
/// let session = tenure.wait(tenure.client().session().start())?;
/// let guard = tenure.acquire(session.lock("jobs/nightly"))?;
/// let sum = guard.run(|guard| {
///     let mut sum = 0_u64;
///     for step in 0..100 {
///         guard.check()?;
///         sum += step;
///     }
///     Ok(sum)
/// })?;
/// tenure.wait(tenure.client().put("sum", sum.to_string()).under(&guard.fence()))?;
/// guard.release().map_err(|failed| failed.error().clone())?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "to drop it lets go"]
pub struct Guarded<G> {
    blocking: Blocking,
    guard: G,
}

impl<G: Deref<Target = Holding>> Deref for Guarded<G> {
    type Target = Holding;

    fn deref(&self) -> &Holding {
        &self.guard
    }
}

impl<G: Deref<Target = Holding>> Guarded<G> {
    /// Whether it is held still, by the client's clock. Asks nobody, so it can be called often.
    ///
    /// # Errors
    ///
    /// [`Interrupted::Lost`] if it is not.
    pub fn check(&self) -> Result<(), Interrupted> {
        self.guard.state().lost_reason().map_or(Ok(()), |reason| Err(Interrupted::Lost(reason)))
    }

    /// Waits until so much time is surely left, as [`Holding::ensure`].
    ///
    /// # Errors
    ///
    /// As [`Holding::ensure`].
    pub fn ensure(&self, least: Duration) -> Result<(), EnsureError> {
        self.blocking.wait(self.guard.ensure(least))
    }

    /// Waits until it is lost, for so long; none if it is held still.
    pub fn lost_within(&self, timeout: Duration) -> Option<LostReason> {
        self.blocking.wait_for(timeout, self.guard.lost()).ok()
    }

    /// Does some work on this thread as long as it is held. The work is what stops itself, by passing on what
    /// [`Guarded::check`] says between its steps.
    ///
    /// # Errors
    ///
    /// What the work passes on; [`Interrupted::Lost`] also if it was lost by the end of the work. What was done by then is done.
    pub fn run<T>(&self, work: impl FnOnce(&Guarded<G>) -> Result<T, Interrupted>) -> Result<T, Interrupted> {
        self.check()?;
        let output = work(self)?;
        self.check()?;
        Ok(output)
    }

    /// The guard, for what awaits.
    pub fn into_guard(self) -> G {
        self.guard
    }

    /// What failed to be let go, with methods that wait again.
    fn kept(blocking: Blocking, failed: ReleaseError<G>) -> ReleaseError<Guarded<G>> {
        let error = failed.error().clone();
        ReleaseError::new(Guarded { blocking, guard: failed.into_guard() }, error)
    }
}

impl Guarded<LockGuard> {
    /// Lets go, and waits until that is acknowledged.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::release`]: the guard is in the error.
    pub fn release(self) -> Result<Released, ReleaseError<Guarded<LockGuard>>> {
        let Guarded { blocking, guard } = self;
        blocking.wait(guard.release()).map_err(|failed| Guarded::kept(blocking, failed))
    }
}

impl Guarded<Leadership> {
    /// Tells observers a new value, as [`Leadership::proclaim`].
    ///
    /// # Errors
    ///
    /// As [`Leadership::proclaim`].
    pub fn proclaim(&self, value: impl Into<Bytes>) -> Result<Revision, ProclaimError> {
        self.blocking.wait(self.guard.proclaim(value))
    }

    /// Ends the leadership, and waits until that is acknowledged.
    ///
    /// # Errors
    ///
    /// As [`Leadership::resign`]: the leadership is in the error.
    pub fn resign(self) -> Result<Released, ReleaseError<Guarded<Leadership>>> {
        let Guarded { blocking, guard } = self;
        blocking.wait(guard.resign()).map_err(|failed| Guarded::kept(blocking, failed))
    }
}

impl Blocking {
    /// Takes a lock, as [`LockBuilder::acquire`].
    ///
    /// # Errors
    ///
    /// As [`LockBuilder::acquire`].
    pub fn acquire(&self, lock: LockBuilder) -> Result<Guarded<LockGuard>, AcquireError> {
        let guard = self.wait(lock.acquire())?;
        Ok(Guarded { blocking: self.clone(), guard })
    }

    /// Stands for election until it leads, as [`Campaign::campaign`].
    ///
    /// # Errors
    ///
    /// As [`Campaign::campaign`].
    pub fn campaign(&self, campaign: Campaign) -> Result<Guarded<Leadership>, AcquireError> {
        let guard = self.wait(campaign.campaign())?;
        Ok(Guarded { blocking: self.clone(), guard })
    }
}
