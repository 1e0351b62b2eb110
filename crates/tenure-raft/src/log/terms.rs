//! Which term each index of a stretch of the log belongs to, as runs: a few numbers for millions of entries.

use std::collections::VecDeque;

use crate::types::{LogId, log_id};

/// The log ids of consecutive entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    runs: VecDeque<Run>,
    /// One past the last index; without runs it means nothing.
    end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    term: u64,
}

impl Terms {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn first_index(&self) -> Option<u64> {
        self.runs.front().map(|run| run.start)
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.runs.back().map(|run| log_id(run.term, self.end - 1))
    }

    pub(super) fn term_at(&self, index: u64) -> Option<u64> {
        let after = self.runs.partition_point(|run| run.start <= index);
        let run = self.runs.get(after.checked_sub(1)?)?;
        (index < self.end).then_some(run.term)
    }

    /// Adds the next entry. The caller has checked that it is the next, or that there is none yet.
    pub(super) fn push(&mut self, id: LogId) {
        debug_assert!(self.is_empty() || self.end == id.index);
        let term = id.leader_id.term;
        if self.runs.back().is_none_or(|run| run.term != term) {
            self.runs.push_back(Run { start: id.index, term });
        }
        self.end = id.index + 1;
    }

    /// Keeps the indexes below `end`.
    pub(super) fn truncate(&mut self, end: u64) {
        while self.runs.back().is_some_and(|run| run.start >= end) {
            self.runs.pop_back();
        }
        self.end = self.end.min(end);
    }

    /// Keeps the indexes from `start` on.
    pub(super) fn purge(&mut self, start: u64) {
        if start >= self.end {
            self.runs.clear();
        }
        while self.runs.get(1).is_some_and(|run| run.start <= start) {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut() {
            run.start = run.start.max(start);
        }
    }

    /// The last log id of each term from `first` to `last`.
    pub(super) fn last_of_each_term(&self, first: LogId, last: LogId) -> Vec<LogId> {
        let ends = self.runs.iter().skip(1).map(|run| run.start).chain([self.end]);
        let lasts = self.runs.iter().zip(ends).map(|(run, end)| log_id(run.term, end - 1));
        let mut ids: Vec<LogId> = lasts.filter(|id| id.index >= first.index && id.index < last.index).collect();
        ids.pop_if(|id| id.leader_id == last.leader_id);
        ids.push(last);
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(ids: &[(u64, u64)]) -> Terms {
        let mut terms = Terms::default();
        ids.iter().for_each(|(term, index)| terms.push(log_id(*term, *index)));
        terms
    }

    #[test]
    fn every_index_has_the_term_it_was_pushed_with() {
        let terms = terms(&[(1, 3), (1, 4), (2, 5), (4, 6), (4, 7)]);
        let found: Vec<_> = (2..9).map(|index| terms.term_at(index)).collect();
        assert_eq!(found, [None, Some(1), Some(1), Some(2), Some(4), Some(4), None]);
        assert_eq!((terms.first_index(), terms.last()), (Some(3), Some(log_id(4, 7))));
    }

    #[test]
    fn cutting_either_end_leaves_what_pushing_the_rest_would_have_made() {
        let ids = [(1, 3), (1, 4), (2, 5), (4, 6), (4, 7)];
        for from in 0..12 {
            for to in from..12 {
                let mut cut = terms(&ids);
                cut.truncate(to);
                cut.purge(from);
                let rest: Vec<_> = ids.iter().copied().filter(|(_, i)| (from..to).contains(i)).collect();
                assert_eq!(cut.runs, terms(&rest).runs, "{from}..{to}");
                assert_eq!(cut.last(), terms(&rest).last(), "{from}..{to}");
            }
        }
    }

    #[test]
    fn key_log_ids_are_the_last_of_each_term() {
        let terms = terms(&[(1, 3), (1, 4), (2, 5), (4, 6), (4, 7)]);
        let of = |first, last| terms.last_of_each_term(first, last);
        assert_eq!(of(log_id(1, 3), log_id(4, 7)), [log_id(1, 4), log_id(2, 5), log_id(4, 7)]);
        assert_eq!(of(log_id(1, 4), log_id(2, 5)), [log_id(1, 4), log_id(2, 5)]);
        assert_eq!(of(log_id(4, 6), log_id(4, 6)), [log_id(4, 6)]);
    }
}
