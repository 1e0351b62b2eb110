//! Members that have applied up to the same entry have the same state.

use std::collections::BTreeMap;

use tenure_core::hash::hash_state;
use tenure_storage::state_view::StateView;

use super::{Breach, Counts};

/// By applied index: the entry's term, the state's hash, and who had it first.
#[derive(Debug, Default)]
pub struct AppliedEqual(BTreeMap<u64, (u64, u32, usize)>);

impl AppliedEqual {
    pub(super) fn saw(&mut self, place: usize, view: &StateView, counts: &mut Counts) -> Option<Breach> {
        let oracle = "applied equal";
        let applied = view.applied();
        let hash = match hash_state(view) {
            Ok(hash) => hash,
            Err(error) => {
                let text = format!("the state of n{} at {} cannot be read: {error}", place + 1, applied.index);
                return Some(Breach { oracle, text });
            }
        };
        counts.hashes += 1;
        let new = (applied.term.0, hash, place);
        let known = *self.0.entry(applied.index.0).or_insert(new);
        counts.compared += u64::from(known.2 != place);
        ((known.0, known.1) != (new.0, new.1)).then(|| Breach {
            oracle,
            text: format!(
                "at entry {} n{} has the state {:08x} of term {}, and n{} {:08x} of term {}",
                applied.index,
                known.2 + 1,
                known.1,
                known.0,
                place + 1,
                new.1,
                new.0
            ),
        })
    }
}
