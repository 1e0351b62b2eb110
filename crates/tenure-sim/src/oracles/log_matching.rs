//! Entries of the same index and term carry the same, in all logs, and so does everything before them.

use std::collections::BTreeMap;

use super::{Breach, Look};

/// By index and term: what the entry carries, and the term of the one before it, once that is known.
#[derive(Debug, Default)]
pub struct LogMatching(BTreeMap<(u64, u64), (u32, Option<u64>)>);

impl LogMatching {
    pub(super) fn look(&mut self, look: &Look) -> Option<Breach> {
        let mut before: Option<(u64, u64)> = None;
        for entry in &look.entries {
            let term_before = before.filter(|(index, _)| index + 1 == entry.index).map(|(_, term)| term);
            before = Some((entry.index, entry.term));
            let known = self.0.entry((entry.index, entry.term)).or_insert((entry.checksum, term_before));
            let differs = known.0 != entry.checksum;
            let follows_another = matches!((known.1, term_before), (Some(known), Some(here)) if known != here);
            if differs || follows_another {
                let what = if differs { "carries something else" } else { "follows an entry of another term" };
                let (index, term, node) = (entry.index, entry.term, look.place + 1);
                let text = format!("entry {index} of term {term} {what} on n{node} than on another member");
                return Some(Breach { oracle: "log matching", text });
            }
            known.1 = known.1.or(term_before);
        }
        None
    }
}
