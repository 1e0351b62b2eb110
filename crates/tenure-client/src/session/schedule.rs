//! When which lease is renewed: a plan for all sessions of a client.
//!
//! It is pure. A renewal that is due takes its neighbours along, so sessions that were started one by one are soon renewed
//! together. A try that is silent for too long is joined by another one and not given up: a cluster that is slow is not
//! taken for one that is gone. Answers name the try that they answer, so that a late failure does not count against a newer try.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::terms::Terms;
use crate::clock::Instant;
use crate::ids::LeaseId;

/// What one message may name, by tenure.v1.Leases.
pub(crate) const BATCH_MAX: usize = 4096;

/// The number of a batch of renewals, rising.
pub(crate) type RoundId = u64;

/// See the module's header.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    entries: HashMap<LeaseId, Entry>,
    due: BTreeSet<(Instant, LeaseId)>,
    /// The largest that any entry ever had.
    neighbourhood: Duration,
}

#[derive(Debug)]
struct Entry {
    terms: Terms,
    /// When the last renewal was sent that was acknowledged, or the grant.
    renewed: Instant,
    due: Instant,
    /// The latest round that it is a part of, unless that was answered.
    round: Option<RoundId>,
    /// Tries in a row that failed or were silent.
    failures: u32,
}

/// A lease that is to be renewed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) lease: LeaseId,
    /// How many tries in a row failed before, if the last of them was silent: nobody told of that one yet.
    pub(crate) silent: Option<u32>,
    /// Whether the last try failed, so that another endpoint is better.
    pub(crate) is_retry: bool,
}

impl Schedule {
    /// Adds a lease whose grant was sent then.
    pub(crate) fn add(&mut self, lease: LeaseId, terms: Terms, sent: Instant, random: u64) {
        let due = sent + terms.due_after(random);
        self.neighbourhood = self.neighbourhood.max(terms.neighbourhood());
        self.remove(lease);
        self.entries.insert(lease, Entry { terms, renewed: sent, due, round: None, failures: 0 });
        self.due.insert((due, lease));
    }

    /// Removes a lease, whatever is under way for it.
    pub(crate) fn remove(&mut self, lease: LeaseId) {
        if let Some(entry) = self.entries.remove(&lease) {
            self.due.remove(&(entry.due, lease));
        }
    }

    /// When there is something to do.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes what is due, and what will soon be, into rounds of at most [`BATCH_MAX`], the first of which has this number.
    /// `left` is the time until a lease's deadline.
    pub(crate) fn take_due(
        &mut self,
        now: Instant,
        first: RoundId,
        left: impl Fn(LeaseId) -> Duration,
    ) -> Vec<Vec<Due>> {
        if self.next().is_none_or(|next| next > now) {
            return Vec::new();
        }
        let horizon = now + self.neighbourhood;
        let near: Vec<LeaseId> = self.due.range(..=(horizon, LeaseId(i64::MAX))).map(|(_, lease)| *lease).collect();
        let (mut rounds, mut round) = (Vec::new(), first);
        let mut batch = Vec::new();
        for lease in near {
            batch.extend(self.take(lease, now, round, left(lease)));
            if batch.len() == BATCH_MAX {
                rounds.push(std::mem::take(&mut batch));
                round += 1;
            }
        }
        rounds.push(batch);
        rounds.retain(|batch| !batch.is_empty());
        rounds
    }

    fn take(&mut self, lease: LeaseId, now: Instant, round: RoundId, left: Duration) -> Option<Due> {
        let entry = self.entries.get_mut(&lease)?;
        let is_near = entry.round.is_none() && entry.failures == 0 && entry.due <= now + entry.terms.neighbourhood();
        if entry.due > now && !is_near {
            return None;
        }
        let silent = entry.round.replace(round).map(|_| {
            entry.failures = entry.failures.saturating_add(1);
            entry.failures
        });
        let is_retry = entry.failures > 0;
        let due = now + entry.terms.patience(left);
        self.file(lease, due);
        Some(Due { lease, silent, is_retry })
    }

    /// A renewal that was sent then was acknowledged; an earlier one than the last does not count. The next is due an interval
    /// later, and not before the floor has passed: a server that is slow is not asked more often for that.
    pub(crate) fn acknowledged(&mut self, lease: LeaseId, terms: Terms, sent: Instant, now: Instant, random: u64) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        (entry.terms, entry.renewed, entry.round, entry.failures) = (terms, sent, None, 0);
        let due = (sent + terms.due_after(random)).max(now + terms.floor());
        self.neighbourhood = self.neighbourhood.max(terms.neighbourhood());
        self.file(lease, due);
    }

    /// A round failed for this lease. Answers how many did in a row, or nothing if a later round has taken its place.
    pub(crate) fn failed(&mut self, lease: LeaseId, round: RoundId, now: Instant, random: u64) -> Option<u32> {
        let entry = self.entries.get_mut(&lease).filter(|entry| entry.round == Some(round))?;
        entry.round = None;
        entry.failures = entry.failures.saturating_add(1);
        let (failures, due) = (entry.failures, now + entry.terms.wait_after(entry.failures, random));
        self.file(lease, due);
        Some(failures)
    }

    /// Has a lease renewed as soon as may be: not before the floor after the last renewal, however often somebody hurries.
    pub(crate) fn hurry(&mut self, lease: LeaseId, now: Instant) {
        let Some(entry) = self.entries.get(&lease) else { return };
        let soon = now.max(entry.renewed + entry.terms.floor());
        if entry.round.is_none() && entry.failures == 0 && entry.due > soon {
            self.file(lease, soon);
        }
    }

    fn file(&mut self, lease: LeaseId, due: Instant) {
        if let Some(entry) = self.entries.get_mut(&lease) {
            self.due.remove(&(entry.due, lease));
            entry.due = due;
            self.due.insert((due, lease));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::terms::Asked;

    const TTL: Duration = Duration::from_secs(9);

    fn at(ms: u64) -> Instant {
        Instant::since_origin(Duration::from_millis(ms))
    }

    fn terms() -> Terms {
        Asked { ttl: TTL, margin: None, interval: None, is_margin_skipped: false }.check().unwrap()
    }

    fn plan(sent_ms: &[u64]) -> Schedule {
        let mut schedule = Schedule::default();
        for (lease, sent) in (1..).zip(sent_ms) {
            schedule.add(LeaseId(lease), terms(), at(*sent), 0);
        }
        schedule
    }

    fn taken(schedule: &mut Schedule, now_ms: u64, round: RoundId) -> Vec<i64> {
        schedule.take_due(at(now_ms), round, |_| TTL).concat().into_iter().map(|due| due.lease.0).collect()
    }

    #[test]
    fn neighbours_are_renewed_together_and_others_are_not() {
        let mut schedule = plan(&[0, 700, 900]);
        assert_eq!(schedule.next(), Some(at(3000)));
        assert!(taken(&mut schedule, 2999, 1).is_empty());
        // A quarter of the interval is 750 ms.
        assert_eq!(taken(&mut schedule, 3000, 2), [1, 2]);
        assert_eq!(schedule.next(), Some(at(3900)));
    }

    #[test]
    fn sessions_that_began_apart_are_soon_in_step() {
        let mut schedule = plan(&[0, 500, 1000, 1500, 2000, 2500]);
        let mut rounds = Vec::new();
        for round in 1..60 {
            let now = schedule.next().unwrap();
            let due = schedule.take_due(now, round, |_| TTL).concat();
            rounds.push(due.len());
            for Due { lease, .. } in due {
                schedule.acknowledged(lease, terms(), now, now + Duration::from_millis(3), round * 7919);
            }
        }
        // Jitter alone would let them drift apart again; being taken along brings them back.
        let late = &rounds[40..];
        assert!(late.iter().sum::<usize>() >= 2 * late.len(), "{rounds:?}");
    }

    #[test]
    fn a_silent_try_is_joined_by_another_and_then_counts_as_failed_once() {
        let mut schedule = plan(&[0]);
        assert_eq!(taken(&mut schedule, 3000, 1), [1]);
        // A sixth of the TTL later.
        assert!(taken(&mut schedule, 4499, 2).is_empty());
        let due = schedule.take_due(at(4500), 2, |_| TTL).concat();
        assert_eq!(due, [Due { lease: LeaseId(1), silent: Some(1), is_retry: true }]);
        // The first try fails after all: the second one is under way, and the first was counted.
        assert_eq!(schedule.failed(LeaseId(1), 1, at(4600), 0), None);
        assert_eq!(schedule.failed(LeaseId(1), 2, at(4700), 0), Some(2));
    }

    #[test]
    fn patience_shrinks_with_the_time_that_is_left() {
        let mut schedule = plan(&[0]);
        schedule.take_due(at(3000), 1, |_| Duration::from_millis(600));
        assert_eq!(schedule.next(), Some(at(3300)));
    }

    #[test]
    fn the_first_failure_is_repeated_at_once_and_later_ones_wait() {
        let mut schedule = plan(&[0]);
        schedule.take_due(at(3000), 1, |_| TTL);
        assert_eq!(schedule.failed(LeaseId(1), 1, at(3010), 0), Some(1));
        assert_eq!(schedule.next(), Some(at(3010)));
        schedule.take_due(at(3010), 2, |_| TTL);
        assert_eq!(schedule.failed(LeaseId(1), 2, at(3020), 0), Some(2));
        assert!(schedule.next().unwrap() >= at(3020) + terms().floor());
    }

    #[test]
    fn tries_against_refusals_are_bounded_whatever_their_number() {
        let mut schedule = plan(&[0]);
        let (mut tries, mut round) = (0, 0);
        while let Some(now) = schedule.next().filter(|now| *now < at(9000)) {
            round += 1;
            tries += schedule.take_due(now, round, |_| TTL).concat().len();
            schedule.failed(LeaseId(1), round, now, round);
        }
        assert!((5..=30).contains(&tries), "{tries} tries in 6 s of refusals");
    }

    #[test]
    fn a_slow_server_is_not_asked_more_often_for_that() {
        let mut schedule = plan(&[0]);
        schedule.take_due(at(3000), 1, |_| TTL);
        // The answer takes longer than the interval: what is due is past, and the floor holds.
        schedule.acknowledged(LeaseId(1), terms(), at(3000), at(6500), 0);
        assert_eq!(schedule.next(), Some(at(6500) + terms().floor()));
    }

    #[test]
    fn a_batch_has_no_more_than_a_message_may_name() {
        let mut schedule = plan(&[0; 10_000]);
        let rounds = schedule.take_due(at(3000), 5, |_| TTL);
        assert_eq!(rounds.iter().map(Vec::len).collect::<Vec<_>>(), [4096, 4096, 1808]);
        // Each knows its own round.
        assert_eq!(schedule.failed(rounds[2][0].lease, 5, at(3001), 0), None);
        assert_eq!(schedule.failed(rounds[2][0].lease, 7, at(3001), 0), Some(1));
    }

    #[test]
    fn what_was_removed_is_not_renewed_again() {
        let mut schedule = plan(&[0, 0]);
        schedule.take_due(at(3000), 1, |_| TTL);
        schedule.remove(LeaseId(1));
        schedule.acknowledged(LeaseId(1), terms(), at(3000), at(3001), 0);
        assert_eq!(schedule.failed(LeaseId(1), 1, at(3001), 0), None);
        assert_eq!(taken(&mut schedule, 20_000, 2), [2]);
    }

    #[test]
    fn who_hurries_is_renewed_now_unless_a_try_is_under_way() {
        let mut schedule = plan(&[0]);
        schedule.hurry(LeaseId(1), at(500));
        assert_eq!(taken(&mut schedule, 500, 1), [1]);
        schedule.hurry(LeaseId(1), at(600));
        assert!(taken(&mut schedule, 600, 2).is_empty());
    }

    #[test]
    fn hurrying_again_and_again_makes_no_storm() {
        let mut schedule = plan(&[0]);
        let mut rounds = 0;
        for now in 0..3000 {
            schedule.hurry(LeaseId(1), at(now));
            for due in schedule.take_due(at(now), now, |_| TTL).concat() {
                rounds += 1;
                schedule.acknowledged(due.lease, terms(), at(now), at(now), now);
            }
        }
        // The floor is a tenth of the interval.
        assert!((5..=10).contains(&rounds), "{rounds}");
    }
}
