//! What a stream hands out because it takes time, and what comes back.

use std::sync::Arc;

use tenure_core::Revision;
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;

use super::catch_up::{CatchUpRead, CaughtUp};
use super::hub::Shared;
use super::limits::StreamLimits;
use super::prev_kvs::find_prev_kv;
use super::pull::{Pulled, Stretch};
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
    pub(super) view: Arc<StateView>,
    pub(super) name: Name,
    pub(super) scope: Arc<Scope>,
    pub(super) limits: StreamLimits,
    pub(super) stretch: Stretch,
}

/// What [`Work`] brings.
pub(crate) enum WorkDone {
    CaughtUp(CaughtUp),
    Gathered(Gathered),
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
    pub(crate) fn run(self) -> Result<WorkDone, StorageError> {
        match self {
            Work::CatchUp(read) => read.run().map(WorkDone::CaughtUp),
            Work::Gather(gather) => {
                let Gather { hub, view, name, scope, limits, stretch } = *gather;
                let mut pulled = stretch.pull(&scope, &limits, |event| find_prev_kv(&hub, &view, event))?;
                pulled.detach();
                Ok(WorkDone::Gathered(Gathered::new(name, &scope, stretch, pulled)))
            }
        }
    }
}
