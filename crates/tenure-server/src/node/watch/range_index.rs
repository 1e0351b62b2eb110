//! Which of many ranges hold a key: single keys by hash, everything else by the interval tree.

use std::collections::HashMap;

use bytes::Bytes;
use tenure_core::command::KeyRange;

use super::interval_tree::{End, IntervalTree};
use super::members::Members;

/// See the module's header. `M` is what the ranges belong to.
#[derive(Debug)]
pub(super) struct RangeIndex<M> {
    keys: HashMap<Bytes, Members<M>>,
    ranges: IntervalTree<M>,
}

impl<M: Copy> RangeIndex<M> {
    /// An empty index.
    pub(super) fn new() -> RangeIndex<M> {
        RangeIndex { keys: HashMap::new(), ranges: IntervalTree::new(rand::random()) }
    }

    /// Adds a member and returns its place among those of the same range.
    pub(super) fn add(&mut self, range: &KeyRange, member: M) -> usize {
        let members = match interval(range) {
            None => self.keys.entry(start(range).clone()).or_insert_with(Members::new),
            Some(end) => self.ranges.members_mut(start(range), &end),
        };
        members.add(member)
    }

    /// Removes the member at a place. Returns the one that is at this place now, if another moved there.
    pub(super) fn remove(&mut self, range: &KeyRange, place: usize) -> Option<M> {
        match interval(range) {
            None => {
                let members = self.keys.get_mut(start(range))?;
                let moved = members.remove(place);
                if members.is_empty() {
                    self.keys.remove(start(range));
                }
                moved
            }
            Some(end) => {
                let moved = self.ranges.members_mut(start(range), &end).remove(place);
                self.ranges.prune(start(range), &end);
                moved
            }
        }
    }

    /// Visits the members of every range that holds `key`.
    pub(super) fn visit(&self, key: &[u8], mut visit: impl FnMut(&Members<M>)) {
        if let Some(members) = self.keys.get(key) {
            visit(members);
        }
        self.ranges.visit(key, &mut visit);
    }

    /// Whether any range holds `key`.
    pub(super) fn holds(&self, key: &[u8]) -> bool {
        let mut held = false;
        self.visit(key, |_| held = true);
        held
    }
}

fn start(range: &KeyRange) -> &Bytes {
    match range {
        KeyRange::One(key) | KeyRange::Between(key, _) | KeyRange::From(key) => key,
    }
}

/// The end of a range of more than one key.
fn interval(range: &KeyRange) -> Option<End> {
    match range {
        KeyRange::One(_) => None,
        KeyRange::Between(_, end) => Some(End::Before(end.clone())),
        KeyRange::From(_) => Some(End::Unbounded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ranges_are_found_until_they_are_removed() {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let mut index = RangeIndex::new();
        let ranges = [
            KeyRange::One(bytes("b")),
            KeyRange::One(bytes("b")),
            KeyRange::Between(bytes("a"), bytes("c")),
            KeyRange::From(bytes("b")),
            KeyRange::From(bytes("")),
            KeyRange::One(bytes("c")),
        ];
        for (name, range) in ranges.iter().enumerate() {
            index.add(range, name);
        }
        let found = |index: &RangeIndex<usize>, key: &str| {
            let mut found = Vec::new();
            index.visit(key.as_bytes(), |members| found.extend_from_slice(members.as_slice()));
            found.sort_unstable();
            found
        };
        assert_eq!(found(&index, "b"), [0, 1, 2, 3, 4]);
        assert_eq!(found(&index, "c"), [3, 4, 5]);
        assert_eq!(index.remove(&ranges[0], 0), Some(1), "the other one of this key has moved");
        assert_eq!(index.remove(&ranges[4], 0), None);
        assert_eq!(found(&index, "b"), [1, 2, 3]);
        assert!(index.holds(b"a") && !index.holds(b"0"));
    }
}
