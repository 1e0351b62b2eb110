//! Compaction, the logical part: one number. Rows are purged in the background, see `purge`.

use crate::ids::Revision;
use crate::outcome::Refusal;
use crate::planted::{Bug, is_on};
use crate::state::StateWrite;

pub(super) fn apply<S: StateWrite>(state: &mut S, revision: Revision) -> Result<(), Refusal> {
    if revision <= state.meta().compacted && !is_on(Bug::CompactedGoesBack) {
        return Err(Refusal::Compacted);
    }
    if revision > state.meta().revision {
        return Err(Refusal::FutureRevision);
    }
    state.meta_mut().compacted = revision;
    Ok(())
}
