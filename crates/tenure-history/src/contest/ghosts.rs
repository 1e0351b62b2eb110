//! Is a key left under a lock's name of a request that is over?
//!
//! - Nothing is there at the end: every lease has ended by then, and every delay.
//! - A request that was ended has no key at the revision of the answer, and none comes after it: not even by a try that was
//!   on its way.
//! - Once nothing goes wrong any more, a waiter whose stream was broken off is gone soon, although its lease lives on.

use core::fmt;
use core::time::Duration;

use super::Case;
use super::record::{Came, Claim, Ended};
use crate::ids::{Moment, Revision};
use crate::lease::Told;
use crate::verdict::{Verdict, Violation};

pub(super) const CHECKER: &str = "lock-ghosts";

/// A member that sees a stream end proposes the cancel at once, and tries again if that is lost.
const LEFT_MAX: Duration = Duration::from_secs(5);

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were ended by a cancel or a release.
    pub ended: usize,
    /// Streams that were broken off or lost.
    pub left: usize,
    /// Keys that are left at the end.
    pub ghosts: usize,
}

pub(super) fn check(case: &Case<'_>) -> Verdict<Counts> {
    let mut counts = Counts::default();
    let last = case.truth.revision();
    for lock in case.queues.locks() {
        let (queue, holders) = case.queues.at(lock, last);
        if !queue.is_empty() {
            let detail = format!("{} keys are left of {lock} at the end, revision {last}", queue.len());
            let lines = queue.iter().enumerate().map(|(place, life)| life.line(place < holders));
            return Violation::verdict(CHECKER, "no ghosts at the end", detail, lines.collect());
        }
    }
    for claim in &case.contests.claims {
        counts.left += claim.tries.iter().filter(|tried| matches!(tried.came, Came::Left | Came::Lost)).count();
        if let Some(violation) = lingers(case, claim) {
            return violation;
        }
        let Some(ended) = ended_at(claim) else { continue };
        counts.ended += 1;
        let later = case.contests.claims.iter().any(|other| other.key == claim.key && other.number > claim.number);
        let lives = case.queues.lives(&claim.lock).iter().filter(|life| life.key == claim.key);
        let ghost = lives
            .into_iter()
            .find(|life| life.gone.is_none_or(|gone| gone > ended) && (life.create <= ended || !later));
        if let Some(life) = ghost {
            let detail = format!("a request that had ended at revision {ended} has a key from {} on", life.create);
            let lines = claim.lines().into_iter().chain([life.line(false)]).collect();
            return Violation::verdict(CHECKER, "no ghost after an end", detail, lines);
        }
    }
    Verdict::Ok(counts)
}

/// The revision at which all that the claim had was over for certain.
fn ended_at(claim: &Claim) -> Option<Revision> {
    // What is held more than once has a key although one of its requests has ended.
    if claim.holds_max > 1 {
        return None;
    }
    let over = claim.ends.iter().filter_map(|end| match end.came {
        Ended::Done(revision) => Some(revision),
        Ended::Nothing(revision) if matches!(end.how, super::How::Cancel { .. }) => Some(revision),
        _ => None,
    });
    over.min()
}

/// A waiter that left when all was well, and whose key was seen much later.
fn lingers(case: &Case<'_>, claim: &Claim) -> Option<Verdict<Counts>> {
    let calm = case.contests.calm_from?;
    let left = claim.tries.last().filter(|tried| tried.came == Came::Left && tried.waits.is_some())?;
    if left.called < calm || claim.holds_max > 1 {
        return None;
    }
    let life = case.queues.lives(&claim.lock).iter().rfind(|life| life.key == claim.key)?;
    let seen = seen_until(&case.told, life.gone?)?;
    if seen.since(left.returned) <= LEFT_MAX {
        return None;
    }
    let detail = format!("a stream was broken off at {}, and its waiter was there until {seen}", left.returned);
    Some(Violation::verdict(CHECKER, "no ghost after a broken stream", detail, claim.lines()))
}

/// The latest moment at which a revision had certainly not come.
fn seen_until(told: &Told<'_>, revision: Revision) -> Option<Moment> {
    told.not_passed(revision).map(|operation| operation.called)
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { ended, left, ghosts } = self;
        write!(
            f,
            "{ended} requests ended by their clients, {left} streams broken off or lost; {ghosts} ghosts at the end"
        )
    }
}
