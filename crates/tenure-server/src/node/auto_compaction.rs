//! Automatic compaction: forgetting history that is older than a time, or more than a number of revisions.
//!
//! What is compacted when is etcd's, so that a cluster that moves over keeps as much history as it did. Every member
//! notes revisions as they pass, but only the leader compacts: a member that comes to lead knows what it has seen itself,
//! and starts with that. Nothing of this is replicated but the compactions.
//!
//! ```text
//! periodic 10h     a note each 6 min; the first compaction after 10 h, then one each hour, to the note of 10 h ago
//! periodic 10m     a note each minute; the first compaction after 10 min, then one each 10 min
//! revision 1000    each 5 min: to 1000 revisions below the present
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use tenure_core::Revision;
use tenure_core::command::Command;
use tenure_core::outcome::Refusal;
use tenure_core::state::StateRead;
use tenure_raft::runtime::BootInstant;

use super::{Node, RequestError};

/// Compactions of a periodic schedule are at most this far apart, however long it keeps history.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Notes, and tries, per interval.
const NOTES_PER_INTERVAL: u32 = 10;

/// A note costs nothing, but not nothing a million times a second.
const NOTE_PAUSE_MIN: Duration = Duration::from_millis(100);

/// How often a schedule by revisions looks.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// What history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// The history of this time.
    Periodic(Duration),
    /// This many revisions.
    Revision(u64),
}

/// Compacts for as long as the runtime lives, whenever this member leads.
pub(crate) async fn auto_compaction_loop(node: Node, keep: AutoCompaction) {
    let mut schedule = Schedule::new(keep, BootInstant::now());
    loop {
        schedule.note(node.shared().raft.view().meta().revision);
        tokio::time::sleep(schedule.pause()).await;
        let leads = node.shared().raft.present_leader() == Some(node.shared().raft.member());
        let now = node.shared().raft.view().meta().revision;
        let Some(revision) = schedule.due(BootInstant::now(), leads, now) else { continue };
        match compact(&node, revision).await {
            Ok(()) => schedule.compacted(BootInstant::now(), revision),
            Err(error) => tracing::warn!(%error, revision = revision.0, "automatic compaction is tried again"),
        }
    }
}

/// Compacts to a revision. That somebody else was faster is no failure.
async fn compact(node: &Node, revision: Revision) -> Result<(), RequestError> {
    match node.write(&Command::Compact(revision)).await?.result {
        Ok(_) => tracing::info!(revision = revision.0, "compacted automatically"),
        Err(Refusal::Compacted) => {}
        Err(refusal) => return Err(refusal.into()),
    }
    Ok(())
}

/// When to compact to what. Time is handed in.
#[derive(Debug)]
enum Schedule {
    Periodic(Periodic),
    Revision { keep: u64, last: Revision },
}

impl Schedule {
    fn new(keep: AutoCompaction, now: BootInstant) -> Schedule {
        match keep {
            AutoCompaction::Periodic(period) => Schedule::Periodic(Periodic::new(period, now)),
            AutoCompaction::Revision(keep) => Schedule::Revision { keep, last: Revision(0) },
        }
    }

    /// How long to wait before the next look.
    fn pause(&self) -> Duration {
        match self {
            Schedule::Periodic(periodic) => periodic.note_pause(),
            Schedule::Revision { .. } => REVISION_INTERVAL,
        }
    }

    /// Notes the present revision, before each pause.
    fn note(&mut self, revision: Revision) {
        match self {
            Schedule::Periodic(periodic) => periodic.note(revision),
            Schedule::Revision { .. } => {}
        }
    }

    /// What to compact to now, if anything.
    fn due(&mut self, now: BootInstant, leads: bool, present: Revision) -> Option<Revision> {
        if !leads {
            return None;
        }
        match self {
            Schedule::Periodic(periodic) => periodic.due(now),
            Schedule::Revision { keep, last } => {
                let revision = Revision(present.0.checked_sub_unsigned(*keep)?);
                (revision.0 > 0 && revision != *last).then_some(revision)
            }
        }
    }

    /// Notes that a compaction was done.
    fn compacted(&mut self, now: BootInstant, revision: Revision) {
        match self {
            Schedule::Periodic(periodic) => periodic.compacted(now, revision),
            Schedule::Revision { last, .. } => *last = revision,
        }
    }
}

#[derive(Debug)]
struct Periodic {
    period: Duration,
    /// The revisions of the last period, the oldest first.
    notes: VecDeque<Revision>,
    last_success: BootInstant,
    last: Revision,
    is_first: bool,
}

impl Periodic {
    fn new(period: Duration, now: BootInstant) -> Periodic {
        Periodic { period, notes: VecDeque::new(), last_success: now, last: Revision(0), is_first: true }
    }

    fn interval(&self) -> Duration {
        self.period.min(INTERVAL_MAX)
    }

    fn note_pause(&self) -> Duration {
        (self.interval() / NOTES_PER_INTERVAL).max(NOTE_PAUSE_MIN)
    }

    /// One more than pauses in a period: a look comes a pause after the last note, so the oldest is that much older than
    /// the period, and never younger.
    fn notes_max(&self) -> usize {
        usize::try_from(self.period.as_millis() / self.note_pause().as_millis()).unwrap_or(usize::MAX).saturating_add(1)
    }

    fn note(&mut self, revision: Revision) {
        self.notes.push_back(revision);
        while self.notes.len() > self.notes_max() {
            self.notes.pop_front();
        }
    }

    fn due(&mut self, now: BootInstant) -> Option<Revision> {
        let wait = if self.is_first { self.period } else { self.interval() };
        let oldest = *self.notes.front()?;
        if now - self.last_success < wait || oldest == self.last {
            return None;
        }
        self.is_first = false;
        Some(oldest)
    }

    fn compacted(&mut self, now: BootInstant, revision: Revision) {
        self.last_success = now;
        self.last = revision;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    /// Runs a schedule on a clock that stands at each look where it should, with one revision a minute, and tells at
    /// which minute it compacted to what. `leads` is asked at each look.
    fn run(keep: AutoCompaction, minutes: u32, leads: impl Fn(u32) -> bool) -> Vec<(u32, i64)> {
        let start = BootInstant::default();
        let mut schedule = Schedule::new(keep, start);
        let mut passed = Duration::ZERO;
        let mut compactions = Vec::new();
        let revision = |passed: Duration| Revision(1 + i64::try_from(passed.as_secs() / 60).unwrap());
        loop {
            schedule.note(revision(passed));
            passed += schedule.pause();
            let minute = u32::try_from(passed.as_secs() / 60).unwrap();
            if minute > minutes {
                return compactions;
            }
            let now = start + passed;
            if let Some(to) = schedule.due(now, leads(minute), revision(passed)) {
                compactions.push((minute, to.0));
                schedule.compacted(now, to);
            }
        }
    }

    #[test]
    fn a_long_period_is_kept_whole_and_compacted_by_the_hour() {
        let compactions = run(AutoCompaction::Periodic(10 * HOUR), 13 * 60, |_| true);
        assert_eq!(compactions, [(600, 1), (660, 55), (720, 115), (780, 175)]);
    }

    #[test]
    fn a_short_period_is_compacted_once_in_each() {
        let compactions = run(AutoCompaction::Periodic(10 * MINUTE), 45, |_| true);
        assert_eq!(compactions, [(10, 1), (20, 10), (30, 20), (40, 30)]);
    }

    #[test]
    fn a_member_that_comes_to_lead_compacts_what_it_has_seen_pass() {
        let compactions =
            run(AutoCompaction::Periodic(10 * MINUTE), 45, |minute| (25..32).contains(&minute) || minute > 40);
        assert_eq!(compactions, [(25, 15), (41, 31)]);
    }

    #[test]
    fn a_number_of_revisions_is_kept() {
        let compactions = run(AutoCompaction::Revision(12), 30, |minute| minute != 25);
        assert_eq!(compactions, [(15, 4), (20, 9), (30, 19)]);
        assert_eq!(run(AutoCompaction::Revision(u64::MAX), 30, |_| true), []);
    }

    #[test]
    fn what_did_not_change_is_not_compacted_again() {
        let start = BootInstant::default();
        for keep in [AutoCompaction::Periodic(10 * MINUTE), AutoCompaction::Revision(1)] {
            let mut schedule = Schedule::new(keep, start);
            let mut compactions = 0;
            for look in 1..100 {
                schedule.note(Revision(7));
                let now = start + look * schedule.pause();
                if let Some(revision) = schedule.due(now, true, Revision(7)) {
                    compactions += 1;
                    schedule.compacted(now, revision);
                }
            }
            assert_eq!(compactions, 1, "{keep:?}");
        }
    }

    #[test]
    fn a_compaction_that_failed_is_tried_again_at_the_next_look() {
        let start = BootInstant::default();
        let mut schedule = Schedule::new(AutoCompaction::Periodic(10 * MINUTE), start);
        let mut tried = Vec::new();
        for look in 1..=13 {
            schedule.note(Revision(i64::from(look)));
            tried.extend(schedule.due(start + look * schedule.pause(), true, Revision(100)));
        }
        assert_eq!(tried, [1, 1, 2, 3].map(Revision), "never less history than was asked for");
    }

    #[test]
    fn no_period_is_too_short_or_too_long() {
        let looks = |period| {
            let schedule = Schedule::new(AutoCompaction::Periodic(period), BootInstant::default());
            let Schedule::Periodic(periodic) = &schedule else { panic!("{schedule:?}") };
            (schedule.pause(), periodic.notes_max())
        };
        assert_eq!(looks(Duration::from_nanos(1)), (NOTE_PAUSE_MIN, 1));
        assert_eq!(looks(5 * Duration::from_secs(1)), (Duration::from_millis(500), 11));
        assert_eq!(looks(10 * HOUR), (6 * MINUTE, 101));
        assert_eq!(looks(Duration::from_secs(u64::MAX / 1000)).0, 6 * MINUTE);
    }
}
