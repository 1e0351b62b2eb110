//! Did anybody wait for a lock that was its own?
//!
//! While things go wrong nobody can say when a waiter must have been told. Once they do not, whoever waits on a stream and
//! is in the front is told within a bound.

use core::fmt;
use core::time::Duration;

use super::Case;
use super::record::{Claim, Heard, Try};
use crate::ids::{Moment, Revision};
use crate::verdict::{Verdict, Violation};

pub(super) const CHECKER: &str = "lock-wakeups";

/// A grant is in the entry that frees the lock; the rest is the way to the waiter.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tries that waited.
    pub waited: usize,
    /// Those of them that came to their end when nothing went wrong.
    pub calm: usize,
    /// The longest of those.
    pub longest: Duration,
}

pub(super) fn check(case: &Case<'_>) -> Verdict<Counts> {
    let mut counts = Counts::default();
    let calm_from = case.contests.calm_from;
    for claim in &case.contests.claims {
        for tried in &claim.tries {
            let Some(heard) = tried.waits else { continue };
            counts.waited += 1;
            let Some(from) = calm_from.map(|calm| calm.max(heard.at)).filter(|from| *from < tried.returned) else {
                continue;
            };
            counts.calm += 1;
            counts.longest = counts.longest.max(tried.returned.since(from));
            if let Some(violation) = lost(case, claim, tried, heard, from) {
                return violation;
            }
        }
    }
    Verdict::Ok(counts)
}

fn lost(case: &Case<'_>, claim: &Claim, tried: &Try, heard: Heard, from: Moment) -> Option<Verdict<Counts>> {
    if tried.returned.since(from) <= TOLD_WITHIN {
        return None;
    }
    let ready = first_front(case, claim, heard.revision)?;
    let known = case.told.reached(ready)?;
    let since = known.returned.filter(|known| *known < tried.returned)?.max(from);
    if tried.returned.since(since) <= TOLD_WITHIN {
        return None;
    }
    let detail =
        format!("{} was the waiter's from revision {ready} on, and it was not told by {}", claim.lock, tried.returned);
    let lines = [known.to_string()].into_iter().chain(claim.lines()).collect();
    Some(Violation::verdict(CHECKER, "no lost wake-up", detail, lines))
}

/// The first revision at which what waits at `from` is in the front.
fn first_front(case: &Case<'_>, claim: &Claim, from: Revision) -> Option<Revision> {
    let lives = case.queues.lives(&claim.lock);
    let own = lives.iter().find(|life| life.key == claim.key && life.is_there(from))?;
    let mut changes: Vec<Revision> = lives.iter().filter_map(|life| life.gone).filter(|gone| *gone > from).collect();
    changes.push(from);
    changes.sort_unstable();
    let there = changes.into_iter().take_while(|at| own.is_there(*at));
    there.into_iter().find(|at| case.queues.holds(&claim.lock, *at, own.create, &own.key))
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { waited, calm, longest } = self;
        write!(f, "{waited} waits, {calm} of them when all was well, the longest {:.2} s", longest.as_secs_f64())
    }
}
