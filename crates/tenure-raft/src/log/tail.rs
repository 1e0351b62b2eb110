//! The newest entries, in memory.
//!
//! Replication and apply read the log's end over and over; from here an entry costs a reference count. The tail is
//! bounded by bytes and count, but never drops what is not on the disk yet: the bound on the writer's queue bounds that.

use std::collections::VecDeque;

use openraft::EntryPayload;
use tenure_core::planted::{Bug, is_on};

use super::terms::Terms;
use crate::types::Entry;

/// Consecutive entries up to the last one of the log.
#[derive(Debug)]
pub(super) struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
    entries_max: usize,
}

impl Tail {
    pub(super) fn new(bytes_max: usize, entries_max: usize) -> Tail {
        Tail { entries: VecDeque::new(), bytes: 0, bytes_max, entries_max }
    }

    pub(super) fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let has_it = |last: &Entry| last.log_id.index >= entry.log_id.index;
        if is_on(Bug::StaleTail) && self.entries.back().is_some_and(has_it) {
            return;
        }
        debug_assert!(self.entries.back().is_none_or(|last| last.log_id.index + 1 == entry.log_id.index));
        self.bytes += memory_bytes(&entry);
        self.entries.push_back(entry);
    }

    /// Entries from `start` on, below `end`: all that are here, but at most `bytes_max` bytes of them, and at least one.
    pub(super) fn read(&self, start: u64, end: u64, bytes_max: usize) -> Vec<Entry> {
        let skip = self.first_index().map_or(0, |first| start.saturating_sub(first));
        let Ok(skip) = usize::try_from(skip) else { return Vec::new() };
        let count = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX).min(self.entries.len());
        let mut out = Vec::with_capacity(count.min(self.entries.len().saturating_sub(skip)));
        let mut bytes = 0usize;
        for entry in self.entries.iter().skip(skip).take(count) {
            bytes = bytes.saturating_add(memory_bytes(entry));
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        out
    }

    /// Keeps the indexes below `end`.
    pub(super) fn truncate(&mut self, end: u64) {
        if is_on(Bug::StaleTail) {
            return;
        }
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= end) {
            let entry = self.entries.pop_back();
            self.bytes -= entry.as_ref().map_or(0, memory_bytes);
        }
    }

    /// Keeps the indexes from `start` on. Returns the others, for the caller to drop where that disturbs nobody: giving
    /// megabytes back to the system takes a while.
    pub(super) fn purge(&mut self, start: u64) -> Vec<Entry> {
        self.take_while(|_, entry| entry.log_id.index < start)
    }

    /// Gives up the oldest entries until the bounds hold, as far as they are `written`; returns them, as above.
    pub(super) fn shrink(&mut self, written: &Terms) -> Vec<Entry> {
        self.take_while(|tail, entry| {
            let too_much = tail.bytes > tail.bytes_max || tail.entries.len() > tail.entries_max;
            // An index may still be on the disk with the entry that a truncation removed: the term tells them apart.
            too_much && written.term_at(entry.log_id.index) == Some(entry.log_id.leader_id.term)
        })
    }

    fn take_while(&mut self, gone: impl Fn(&Tail, &Entry) -> bool) -> Vec<Entry> {
        let mut taken = Vec::new();
        while self.entries.front().is_some_and(|entry| gone(self, entry)) {
            let Some(entry) = self.entries.pop_front() else { break };
            self.bytes -= memory_bytes(&entry);
            taken.push(entry);
        }
        taken
    }
}

/// What an entry holds in memory, roughly.
pub(super) fn memory_bytes(entry: &Entry) -> usize {
    size_of::<Entry>() + payload_bytes(entry)
}

/// The length of an entry's payload; a membership's is an estimate.
pub(super) fn payload_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(proposal) => proposal.0.len(),
        EntryPayload::Membership(membership) => membership.nodes().count() * 256,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{Payload, Proposal, log_id};

    fn entry(term: u64, index: u64) -> Entry {
        Entry { log_id: log_id(term, index), payload: Payload::Normal(Proposal(Bytes::from(vec![0; 100]))) }
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn reading_stops_at_the_byte_limit_but_never_returns_nothing() {
        let mut tail = Tail::new(usize::MAX, usize::MAX);
        (5..10).for_each(|index| tail.push(entry(1, index)));
        assert_eq!(indexes(&tail.read(6, 100, usize::MAX)), [6, 7, 8, 9]);
        assert_eq!(indexes(&tail.read(6, 8, usize::MAX)), [6, 7]);
        assert_eq!(indexes(&tail.read(6, 100, 1)), [6]);
        assert_eq!(indexes(&tail.read(6, 100, 2 * memory_bytes(&entry(1, 6)))), [6, 7]);
        assert_eq!(indexes(&tail.read(10, 12, usize::MAX)), [0u64; 0]);
    }

    #[test]
    fn only_what_is_written_is_dropped() {
        let mut tail = Tail::new(0, 2);
        (1..6).for_each(|index| tail.push(entry(2, index)));
        let mut written = Terms::default();
        assert!(tail.shrink(&written).is_empty());
        assert_eq!(tail.first_index(), Some(1), "nothing is written");
        written.push(log_id(2, 1));
        written.push(log_id(2, 2));
        assert_eq!(indexes(&tail.shrink(&written)), [1, 2]);
        assert_eq!(tail.first_index(), Some(3));
        let mut stale = Terms::default();
        (1..6).for_each(|index| stale.push(log_id(1, index)));
        assert!(tail.shrink(&stale).is_empty());
        assert_eq!(tail.first_index(), Some(3), "the disk still holds what was truncated");
    }

    #[test]
    fn bytes_are_counted_back_when_entries_go() {
        let mut tail = Tail::new(usize::MAX, usize::MAX);
        (1..9).for_each(|index| tail.push(entry(1, index)));
        tail.truncate(6);
        assert_eq!(indexes(&tail.purge(3)), [1, 2]);
        assert_eq!(indexes(&tail.read(3, 9, usize::MAX)), [3, 4, 5]);
        assert_eq!(tail.bytes, 3 * memory_bytes(&entry(1, 1)));
    }
}
