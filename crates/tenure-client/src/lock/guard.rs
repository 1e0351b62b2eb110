//! The guard of a lock.

use std::ops::Deref;

use super::error::{ReleaseError, Released};
use super::holding::Holding;

/// A lock that is held. What can be asked of it is in [`Holding`].
///
/// ```
/// fn is_neither_cloned_nor_bound_to_a_thread(guard: tenure_client::lock::LockGuard) -> impl Send + Sync {
///     guard
/// }
/// ```
///
/// ```compile_fail
/// fn twice(guard: &tenure_client::lock::LockGuard) -> tenure_client::lock::LockGuard {
///     guard.clone()
/// }
/// ```
#[derive(Debug)]
#[must_use = "to drop it lets go of the lock"]
pub struct LockGuard(Holding);

impl LockGuard {
    pub(crate) fn new(holding: Holding) -> LockGuard {
        LockGuard(holding)
    }

    /// Lets go, and waits until the server has acknowledged it. Of a lock that is held re-entrantly, this once.
    ///
    /// # Errors
    ///
    /// The guard comes back in the error. If it is known that nothing was done, it is as good as before; else it holds a lock
    /// that may be gone at any moment, is never safe again, and can be released again.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the client's tasks go on releasing it.
    pub async fn release(mut self) -> Result<Released, ReleaseError<LockGuard>> {
        match self.0.let_go().await {
            Ok(released) => Ok(released),
            Err(error) => Err(ReleaseError::new(self, error)),
        }
    }
}

impl Deref for LockGuard {
    type Target = Holding;

    fn deref(&self) -> &Holding {
        &self.0
    }
}
