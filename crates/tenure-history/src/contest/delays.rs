//! Did the lock of a holder that expired stay taken for the delay that it had asked for?
//!
//! The expiry must not delete the holder's key but take its lease away; and from then until the key is deleted at least the
//! delay passes, as far as those can tell who watch the store. A delay is counted from the time that the entry bears that ended
//! the lease; if that had to wait for a quorum, the delay passed meanwhile.

use core::fmt;
use core::time::Duration;

use super::Case;
use super::queues::Life;
use super::record::Claim;
use crate::ids::{LeaseId, Moment, Revision};
use crate::truth::Cause;
use crate::verdict::{Verdict, Violation};

pub(super) const CHECKER: &str = "lock-delays";

/// What waited for the end of an outage has taken effect by then.
const BACKLOG: Duration = Duration::from_millis(250);

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that asked for a delay.
    pub asked: usize,
    /// Delays that were kept.
    pub kept: usize,
}

pub(super) fn check(case: &Case<'_>) -> Verdict<Counts> {
    let mut counts = Counts::default();
    for claim in case.contests.claims.iter().filter(|claim| claim.delay_ms > 0) {
        counts.asked += 1;
        let touched = case.contests.touched.iter().any(|touched| touched.key == claim.key);
        for life in case.queues.lives(&claim.lock).iter().filter(|life| life.key == claim.key && !touched) {
            let found = match began(case, life) {
                Some(began) => {
                    counts.kept += 1;
                    too_short(case, claim, life, began)
                }
                None => skipped(case, claim, life),
            };
            if let Some(violation) = found {
                return violation;
            }
        }
    }
    Verdict::Ok(counts)
}

/// The revision that took the lease from a key.
fn began(case: &Case<'_>, life: &Life) -> Option<Revision> {
    let versions = case.truth.versions(&life.key).iter();
    let mut of_life =
        versions.filter_map(|(at, kv)| Some((*at, kv.as_ref()?))).filter(|(_, kv)| kv.create == life.create);
    of_life.find(|(_, kv)| kv.lease == LeaseId::NONE).map(|(at, _)| at)
}

fn too_short(case: &Case<'_>, claim: &Claim, life: &Life, began: Revision) -> Option<Verdict<Counts>> {
    let ended = life.gone?;
    let (before, after) = (case.told.not_passed(began)?, case.told.reached(ended)?);
    let told = case.told.reached(began)?.returned?;
    let waited = case.contests.outages.iter().filter(|(from, to)| *from <= told && before.called <= to.after(BACKLOG));
    let proposed = waited.map(|(from, _)| *from).fold(before.called, Moment::min);
    let lasted = after.returned?.since(proposed);
    if lasted >= Duration::from_millis(claim.delay_ms) {
        return None;
    }
    let detail = format!("the delay began with revision {began} and ended with {ended}, {lasted:?} later at most");
    let lines = [before.to_string(), after.to_string()].into_iter().chain(claim.lines()).collect();
    Some(Violation::verdict(CHECKER, "the delay is kept", detail, lines))
}

/// A holder whom nobody ended but its lease, which took the key along.
fn skipped(case: &Case<'_>, claim: &Claim, life: &Life) -> Option<Verdict<Counts>> {
    let alone = case.contests.claims.iter().filter(|other| other.key == claim.key).all(Claim::was_left_alone);
    let granted = claim.grants().any(|(_, token, _)| token == life.create);
    let gone = life.gone.filter(|_| alone && granted)?;
    let expired = case.truth.made(gone).is_some_and(|made| made.cause == Cause::Expired(claim.lease));
    if !expired {
        return None;
    }
    let detail = format!("the end of lease {} deleted the key of its holder in revision {gone}", claim.lease);
    Some(Violation::verdict(CHECKER, "a holder's lock stays for the delay", detail, claim.lines()))
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { asked, kept } = self;
        write!(f, "{asked} requests asked for a delay, {kept} holders expired and kept it")
    }
}
