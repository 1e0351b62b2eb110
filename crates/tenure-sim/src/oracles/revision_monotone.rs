//! Within a member's life neither its revision nor how far it is compacted nor what it has applied ever goes back.

use std::collections::BTreeMap;

use tenure_core::state::StateRead as _;
use tenure_storage::state_view::StateView;

use super::Breach;

/// By member: its life, and the greatest index, revision and compacted revision in it.
#[derive(Debug, Default)]
pub struct RevisionMonotone(BTreeMap<usize, (u32, [u64; 3])>);

impl RevisionMonotone {
    pub(super) fn saw(&mut self, place: usize, life: u32, view: &StateView, replaced: bool) -> Option<Breach> {
        let meta = view.meta();
        let now = [view.applied().index.0, meta.revision.0.unsigned_abs(), meta.compacted.0.unsigned_abs()];
        let known = self.0.entry(place).or_insert((life, now));
        if known.0 != life {
            *known = (life, now);
            return None;
        }
        let before = std::mem::replace(&mut known.1, now);
        let back = now.iter().zip(&before).any(|(now, before)| now < before);
        // A run moves the index; a state that replaces another may be the same.
        let stands = !replaced && now[0] == before[0] && now[1] != before[1];
        (back || stands).then(|| Breach {
            oracle: "revision monotone",
            text: format!("n{} went from index, revision, compacted {before:?} to {now:?}", place + 1),
        })
    }
}
