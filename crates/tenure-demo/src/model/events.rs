//! The list of things that happened, newest last, bounded.

use std::collections::VecDeque;

use crate::clock::Moment;
use crate::limits::EVENTS_KEPT;

/// What an entry is about: the screen colours by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A script of `cluster-scripts/` was run.
    Command,
    Node,
    Leader,
    Lease,
    Lock,
    Write,
    /// A check at the end.
    Check,
    /// Something is not as it should be.
    Problem,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub at: Moment,
    pub kind: Kind,
    pub text: String,
    /// Counts all entries ever made, so that a reader knows which are new to it.
    pub number: u64,
}

/// The newest entries.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    entries: VecDeque<Entry>,
    count: u64,
}

impl EventLog {
    /// Adds an entry; the oldest goes when there are too many.
    pub fn add(&mut self, at: Moment, kind: Kind, text: impl Into<String>) {
        if self.entries.len() == EVENTS_KEPT {
            self.entries.pop_front();
        }
        self.count += 1;
        self.entries.push_back(Entry { at, kind, text: text.into(), number: self.count });
    }

    /// Adds an entry in the place of the newest one if that is of the same kind: the lock changes hands every second, and
    /// its lines would push out everything else.
    pub fn add_over(&mut self, at: Moment, kind: Kind, text: impl Into<String>) {
        if self.entries.back().is_some_and(|entry| entry.kind == kind) {
            self.entries.pop_back();
        }
        self.add(at, kind, text);
    }

    /// The entries, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_and_numbers_go_on() {
        let mut log = EventLog::default();
        for round in 0..EVENTS_KEPT + 3 {
            log.add(Moment::ZERO, Kind::Node, round.to_string());
        }
        assert_eq!(log.iter().len(), EVENTS_KEPT);
        assert_eq!(log.iter().next().unwrap().number, 4);
    }

    #[test]
    fn a_line_replaces_its_own_kind_only() {
        let mut log = EventLog::default();
        log.add_over(Moment::ZERO, Kind::Lock, "a");
        log.add_over(Moment::ZERO, Kind::Lock, "b");
        log.add(Moment::ZERO, Kind::Node, "c");
        log.add_over(Moment::ZERO, Kind::Lock, "d");
        let texts: Vec<_> = log.iter().map(|entry| entry.text.as_str()).collect();
        assert_eq!(texts, ["b", "c", "d"]);
    }
}
