//! What a stream hands out because it takes time, and what comes back.

use std::sync::Arc;

use tenure_core::Revision;
use tenure_storage::StorageError;

use super::catch_up::{CatchUpRead, CaughtUp};
use super::hub::Shared;
use super::limits::StreamLimits;
use super::prev_kvs::find_prev_kv;
use super::pull::{Origin, Pulled, Stretch};
use super::stream::Pending;
use super::turns::Views;
use super::types::{Scope, WatchId};

/// Which watcher: an id can be given again while work for its former owner is under way, a serial number cannot.
pub(super) type Name = (WatchId, u64);

/// Something that takes time. At most one of each kind is under way for a stream.
pub(crate) enum Work {
    /// Reads the history.
    CatchUp(Box<CatchUpRead>),
    /// Gathers a message with many previous values.
    Gather(Box<Gather>),
}

/// See [`Work::Gather`].
pub(crate) struct Gather {
    pub(super) hub: Arc<Shared>,
    pub(super) name: Name,
    pub(super) scope: Arc<Scope>,
    pub(super) limits: StreamLimits,
    pub(super) source: Source,
}

/// Where a message's events are. While it waits for its place, nothing is kept for it that its stream would not hold anyway.
pub(super) enum Source {
    /// Where the ring is asked for them.
    Recent(Pending),
    Held(Stretch),
}

impl Source {
    pub(super) fn of(stretch: Stretch) -> Source {
        let Stretch { next, last, origin, .. } = stretch;
        if origin == Origin::Recent { Source::Recent(Pending { next, last }) } else { Source::Held(stretch) }
    }
}

/// What [`Work`] brings.
pub(crate) enum WorkDone {
    CaughtUp(CaughtUp),
    Gathered(Gathered),
    /// The watcher's events have left the ring.
    Missed(Name),
}

/// See [`Work::Gather`].
pub(crate) struct Gathered {
    pub(super) name: Name,
    /// The last revision of the stretch that was looked through.
    pub(super) last: Revision,
    pub(super) pulled: Pulled,
    /// The rest of the revision in whose midst the message ends.
    pub(super) rest: Option<Stretch>,
}

impl Gathered {
    /// Lets go of the stretch but for what follows at once.
    pub(super) fn new(name: Name, scope: &Scope, stretch: Stretch, pulled: Pulled) -> Gathered {
        let last = stretch.last;
        let rest = pulled.rest.filter(|_| pulled.fragment).map(|next| stretch.rest_of_revision(scope, next));
        Gathered { name, last, pulled, rest }
    }
}

impl Work {
    /// Does it.
    pub(crate) fn run(self, views: Views<'_>) -> Result<WorkDone, StorageError> {
        match self {
            Work::CatchUp(read) => read.run(&views()).map(WorkDone::CaughtUp),
            Work::Gather(gather) => {
                let Gather { hub, name, scope, limits, source } = *gather;
                let stretch = match source {
                    Source::Recent(pending) => recent(&hub, pending, &limits),
                    Source::Held(stretch) => Some(stretch),
                };
                let Some(stretch) = stretch else { return Ok(WorkDone::Missed(name)) };
                let view = views();
                let mut pulled = stretch.pull(&scope, &limits, |event| find_prev_kv(&hub, &view, event))?;
                pulled.detach();
                Ok(WorkDone::Gathered(Gathered::new(name, &scope, stretch, pulled)))
            }
        }
    }
}

/// A stretch of what is pending, if it is among the recent events.
pub(super) fn recent(hub: &Shared, pending: Pending, limits: &StreamLimits) -> Option<Stretch> {
    let Pending { next, last } = pending;
    let (runs, last) = hub.recent(next.revision, last, limits.turn_events)?;
    Some(Stretch { runs, next, last, origin: Origin::Recent })
}
