//! Where each entry lies on the disk.
//!
//! Sixteen bytes per entry, and an entry is a whole group of commands: cheap enough to keep for all of the log, so that
//! any entry is one read away. This table is changed in the order of the log file, by the writer, and so runs behind
//! what readers were promised; who reads bounds the indexes by the state that is ahead.

use std::collections::VecDeque;

use super::segment::SegmentNumber;
use super::terms::Terms;
use crate::types::LogId;

/// The place of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) segment: SegmentNumber,
    pub(super) offset: u32,
    /// Header and body.
    pub(super) bytes: u32,
}

/// The places of consecutive entries, and their log ids.
#[derive(Clone, Debug, Default)]
pub(super) struct Positions {
    slots: VecDeque<Position>,
    terms: Terms,
}

impl Positions {
    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    pub(super) fn get(&self, index: u64) -> Option<Position> {
        let slot = index.checked_sub(self.terms.first_index()?)?;
        self.slots.get(usize::try_from(slot).ok()?).copied()
    }

    /// Adds the next entry.
    pub(super) fn push(&mut self, id: LogId, position: Position) {
        self.slots.push_back(position);
        self.terms.push(id);
    }

    /// Keeps the indexes below `end`.
    pub(super) fn truncate(&mut self, end: u64) {
        let kept = self.terms.first_index().map_or(0, |first| end.saturating_sub(first));
        self.slots.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        self.terms.truncate(end);
    }

    /// Keeps the indexes from `start` on.
    pub(super) fn purge(&mut self, start: u64) {
        let gone = self.terms.first_index().map_or(0, |first| start.saturating_sub(first));
        let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(self.slots.len());
        self.slots.drain(..gone);
        self.terms.purge(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::log_id;

    #[test]
    fn each_entry_keeps_its_place_whatever_is_cut_around_it() {
        for from in 0..10 {
            for to in 0..10 {
                let mut positions = Positions::default();
                let place = |n: u32| Position { segment: SegmentNumber(1), offset: n, bytes: 1 };
                (3..8).for_each(|n: u32| positions.push(log_id(1, n.into()), place(n)));
                positions.purge(from);
                positions.truncate(to);
                for n in 0..10u32 {
                    let index = u64::from(n);
                    let kept = (3..8).contains(&index) && (from..to).contains(&index);
                    assert_eq!(positions.get(index), kept.then_some(place(n)), "{index} of {from}..{to}");
                }
            }
        }
    }
}
