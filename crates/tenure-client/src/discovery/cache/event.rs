//! What a cache tells those who listen.
//!
//! An event says what changed in what the cache serves, which is not always what changed in the store: a registration that is written
//! again on a new lease with the same content is no event, and an instance that is held back from going is not removed yet.

use std::sync::Arc;
use std::time::Duration;

use super::super::instance::Instance;
use crate::Revision;

/// A change of what a cache serves, or of how far it can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An instance is there that was not.
    Added(Arc<Instance>),
    /// An instance says something else of itself.
    Updated {
        /// What it said before.
        old: Arc<Instance>,
        /// What it says now.
        new: Arc<Instance>,
    },
    /// An instance is gone.
    Removed {
        /// What it said last.
        instance: Arc<Instance>,
        /// Why, as far as that can be known.
        why: RemovedWhy,
    },
    /// A key of the registry is not read as an instance. It is told once for each time that the key is written.
    Skipped {
        /// The key; what is not UTF-8 is replaced.
        key: String,
        /// What is wrong with it or its value.
        why: String,
    },
    /// The cache was compared with a whole listing of the store, and what differed was told before this.
    Resynced {
        /// The revision of the listing.
        revision: Revision,
        /// How many instances were told as added, updated or removed for it, or are held since.
        differences: usize,
    },
    /// What is served may be out of date. Told again if another reason is added.
    Stale(StaleWhy),
    /// There is no reason left for [`Event::Stale`].
    Fresh,
    /// This listener was too slow, and missed so many steps. What it missed is told after this as differences, ended by
    /// [`Event::Resynced`]; removals among them have the reason [`RemovedWhy::Unknown`].
    Lagged {
        /// How many steps of the cache were missed.
        missed: u64,
    },
}

/// Why an instance is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemovedWhy {
    /// It said that it goes.
    Deregistered,
    /// Its key was deleted without that: its lease ended. (Or somebody deleted the key of a living instance by hand; no
    /// event of a watch tells these apart. The instance then writes it again.)
    Expired,
    /// Its key, which was on no lease, was deleted.
    Deleted,
    /// Its key was overwritten with something that is no instance; [`Event::Skipped`] says what is wrong.
    Unreadable,
    /// It was missing from a listing, so its end was not seen.
    Unknown,
}

/// Why what is served may be out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StaleWhy {
    /// More instances than [`Protection`] allows were gone at once: these are kept for its grace, marked as stale.
    ManyGone {
        /// How many are kept.
        held: usize,
        /// Of how many that were there.
        of: usize,
    },
    /// The cluster has not confirmed the content for longer than the bound.
    NoContact {
        /// For how long.
        staleness: Duration,
    },
}

/// When to distrust a store that says that many instances are gone, as it is after an outage in which nobody could renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// If more than this many of a hundred instances are gone within `window` without having said that they go, those over it are held.
    pub percent: u8,
    /// With fewer instances than this nothing is held.
    pub instances_min: usize,
    /// How far apart two ends may be to be counted as at once.
    pub window: Duration,
    /// For how long what is held is served as stale, before it is removed.
    pub grace: Duration,
}

impl Default for Protection {
    /// More than 50 % of 3 or more within 10 s are held for 30 s.
    fn default() -> Self {
        Self { percent: 50, instances_min: 3, window: Duration::from_secs(10), grace: Duration::from_secs(30) }
    }
}
