//! Who leads has every entry that was committed in an earlier term.

use std::collections::BTreeMap;

use super::committed_never_lost::CommittedNeverLost;
use super::{Breach, Look};

/// Holds a leader's log against what is known to be committed.
pub(super) fn look(look: &Look, committed: &CommittedNeverLost) -> Option<Breach> {
    let first = look.entries.first().filter(|_| look.leads)?.index;
    let own: BTreeMap<u64, (u64, u32)> =
        look.entries.iter().map(|entry| (entry.index, (entry.term, entry.checksum))).collect();
    // What is purged here is in the state, and was compared when it was applied.
    let earlier = committed.entries().range(first..).filter(|(_, entry)| entry.seen_in < look.term);
    for (index, entry) in earlier {
        if own.get(index) != Some(&(entry.term, entry.checksum)) {
            let (node, term) = (look.place + 1, look.term);
            let text =
                format!("n{node} leads in term {term} without the committed entry {index} of term {}", entry.term);
            return Some(Breach { oracle: "leader completeness", text });
        }
    }
    None
}
