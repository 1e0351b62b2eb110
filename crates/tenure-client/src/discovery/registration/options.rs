//! How an instance is registered, and how a registration stands.

use std::time::Duration;

use super::super::error::DiscoveryError;
use crate::{Error, LeaseId, Revision};

/// How an instance is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterOptions {
    /// How long the instance stays in the registry when its process is gone or cut off: at least a second. 15 s by default.
    pub ttl: Duration,
    /// How many tries in a row to register again may fail before the registration does. Without a number, which is the default, it is tried
    /// until the handle is dropped.
    pub retries: Option<u32>,
    /// The first and the longest wait between two tries; they double, with jitter. 100 ms and 10 s by default.
    pub backoff: [Duration; 2],
    /// How long [`Registration::deregister`](super::Registration::deregister) waits once others can know that the instance goes. Nothing by default.
    pub drain: Duration,
    /// Whether to take the place of a registration of the same id that is there. It is what a process wants that is started again
    /// after a crash, so it is the default; the one that was there is superseded. Else
    /// [`DiscoveryError::Taken`] tells that there is one.
    pub replace: bool,
}

impl Default for RegisterOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(15),
            retries: None,
            backoff: [Duration::from_millis(100), Duration::from_secs(10)],
            drain: Duration::ZERO,
            replace: true,
        }
    }
}

impl RegisterOptions {
    pub(super) fn check(&self) -> Result<(), DiscoveryError> {
        let [first, longest] = self.backoff;
        if self.ttl < Duration::from_secs(1) {
            return Err(DiscoveryError::BadOption("the TTL of a registration is at least a second"));
        }
        if first.is_zero() || longest < first {
            return Err(DiscoveryError::BadOption(
                "the waits between tries are more than nothing, and the longest is no less than the first",
            ));
        }
        Ok(())
    }
}

/// How a registration stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RegistrationState {
    /// The key is there, on a lease that is being renewed.
    Registered {
        /// The revision that wrote it last.
        revision: Revision,
        /// The lease that it is on.
        lease: LeaseId,
    },
    /// The lease or the key was lost, or is taken for lost since no renewal was acknowledged: it is being written again.
    Reregistering {
        /// Which try is under way or next, from 1.
        attempt: u32,
    },
    /// It is given up, and the lease with it.
    Failed {
        /// Why.
        why: RegistrationFailure,
    },
    /// It was ended by its holder.
    Deregistered,
}

impl RegistrationState {
    /// Whether it is there, as far as is known.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        matches!(self, Self::Registered { .. })
    }

    /// Whether nothing changes any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Deregistered)
    }
}

/// Why a registration was given up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RegistrationFailure {
    /// A process that came later registered the same instance.
    Superseded,
    /// As many tries as the options allow failed.
    GaveUp {
        /// The last one's error.
        last: Error,
    },
}
