//! Leading.

use std::ops::Deref;

use bytes::Bytes;
use thiserror::Error;

use super::term::{self, EndOfTerm};
use crate::error::Error;
use crate::ids::Revision;
use crate::kv;
use crate::lock::{Holding, ReleaseError, Released};
use crate::session::LostReason;
use crate::watch::WatchError;

/// An election that was won. How it stands, its token and all else that a lock's guard can be asked is in [`Holding`].
///
/// Like a guard it is never cloned, and dropping it resigns, by the client's tasks.
#[derive(Debug)]
#[must_use = "to drop it resigns"]
pub struct Leadership(Holding);

impl Leadership {
    pub(super) fn new(holding: Holding) -> Leadership {
        Leadership(holding)
    }

    /// Shows observers another value. Only a leader can: the write depends on the token. Answers its revision.
    ///
    /// # Errors
    ///
    /// [`ProclaimError::Lost`] if it does not lead any more; then nothing was written.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the value may be written or not.
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<Revision, ProclaimError> {
        if let Some(reason) = self.state().lost_reason() {
            return Err(ProclaimError::Lost(reason));
        }
        let client = &self.0.grip().owner.client;
        let put = kv::put(self.key().clone(), value).lease(self.lease_id());
        let done = client.txn().when(self.compare()).and_then([put]).commit().await?;
        if done.succeeded {
            return Ok(done.header.revision);
        }
        // The key says so before anybody was told.
        Err(ProclaimError::Lost(self.state().lost_reason().unwrap_or(LostReason::KeyDeleted)))
    }

    /// Waits until somebody asks this leader to end its term ([`request_end_of_term`](super::Election::request_end_of_term)). Nothing is
    /// done about it: the leader finishes what it is at, and resigns.
    ///
    /// # Errors
    ///
    /// What the watch ended with, if that is for good.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing: it can be asked again.
    pub async fn end_of_term(&self) -> Result<EndOfTerm, WatchError> {
        let grip = self.0.grip();
        term::requested(grip.owner.client.clone(), self.name(), grip.grasp.token).await
    }

    /// Ends it, and waits until the server has acknowledged that.
    ///
    /// # Errors
    ///
    /// The leadership comes back in the error, as a guard does from [`LockGuard::release`](crate::lock::LockGuard::release):
    /// nothing is forgotten before it is acknowledged.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the client's tasks go on resigning.
    pub async fn resign(mut self) -> Result<Released, ReleaseError<Leadership>> {
        match self.0.let_go().await {
            Ok(released) => Ok(released),
            Err(error) => Err(ReleaseError::new(self, error)),
        }
    }
}

impl Deref for Leadership {
    type Target = Holding;

    fn deref(&self) -> &Holding {
        &self.0
    }
}

/// A value was not proclaimed, or nobody knows.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProclaimError {
    /// It does not lead any more. Nothing was written.
    #[error("lost: {0}")]
    Lost(LostReason),
    /// The write failed: [`Error::applied`] tells whether it may have been done.
    #[error(transparent)]
    Client(#[from] Error),
}
