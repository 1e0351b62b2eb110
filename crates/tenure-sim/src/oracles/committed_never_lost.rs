//! What one member knows to be committed is in every log that says so too, and stays what it is.

use std::collections::BTreeMap;

use super::{Breach, Look};

/// By index: term and content of each committed entry that was seen, and the term in which it was seen to be committed.
#[derive(Debug, Default)]
pub struct CommittedNeverLost {
    entries: BTreeMap<u64, Committed>,
}

/// A committed entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Committed {
    pub(super) term: u64,
    pub(super) checksum: u32,
    pub(super) seen_in: u64,
}

impl CommittedNeverLost {
    pub(super) fn look(&mut self, look: &Look) -> Option<Breach> {
        for entry in look.entries.iter().filter(|entry| entry.index <= look.committed) {
            let new = Committed { term: entry.term, checksum: entry.checksum, seen_in: look.term };
            let known = self.entries.entry(entry.index).or_insert(new);
            if (known.term, known.checksum) != (entry.term, entry.checksum) {
                let (index, node) = (entry.index, look.place + 1);
                let text = format!(
                    "entry {index} is committed as one of term {} on n{node}, and as one of term {} elsewhere",
                    entry.term, known.term
                );
                return Some(Breach { oracle: "committed never lost", text });
            }
        }
        None
    }

    /// Entries that were seen to be committed.
    pub(super) fn entries(&self) -> &BTreeMap<u64, Committed> {
        &self.entries
    }
}
