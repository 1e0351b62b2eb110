//! Did the lock of a holder that expired stay taken for the delay that it had asked for?
//!
//! The expiry must not delete the holder's key but take its lease away; and the key stays at least until TTL and delay have
//! passed since the *sending* of the lease's last acked grant or renewal. No more can be told from outside: a delay is counted
//! from the time that the entry bears that ended the lease, which is not before the lease was due, and how long that
//! entry waited for a disk or a quorum, while the delay passed, nobody sees.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;

use super::Case;
use super::queues::Life;
use super::record::Claim;
use crate::ids::{LeaseId, Revision};
use crate::lease::{self, Sure};
use crate::truth::Cause;
use crate::verdict::{Verdict, Violation};

pub(super) const CHECKER: &str = "lock-delays";

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
    let due = lease::sure_until(case.history, case.truth);
    for claim in case.contests.claims.iter().filter(|claim| claim.delay_ms > 0) {
        counts.asked += 1;
        let touched = case.contests.touched.iter().any(|touched| touched.key == claim.key);
        for life in case.queues.lives(&claim.lock).iter().filter(|life| life.key == claim.key && !touched) {
            let found = match began(case, life) {
                Some(began) => {
                    counts.kept += 1;
                    last(&due, claim.lease, began).and_then(|sure| too_short(case, claim, life, sure))
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

/// Until when the lease had to live that ended with a revision, and by what.
fn last<'d, 'a>(due: &'d BTreeMap<LeaseId, Vec<Sure<'a>>>, lease: LeaseId, ended: Revision) -> Option<&'d Sure<'a>> {
    due.get(&lease)?.iter().rev().find(|sure| sure.granted < ended)
}

fn too_short(case: &Case<'_>, claim: &Claim, life: &Life, sure: &Sure<'_>) -> Option<Verdict<Counts>> {
    let ended = life.gone?;
    let seen = case.told.reached(ended)?;
    let earliest = sure.until.after(Duration::from_millis(claim.delay_ms));
    let at = seen.returned.filter(|at| *at < earliest)?;
    let detail = format!(
        "lease {} had to live until {}, so that its key had to stay until {earliest}, and was gone at {at} with revision {ended}",
        claim.lease, sure.until
    );
    let lines = [sure.by.to_string(), seen.to_string()].into_iter().chain(claim.lines()).collect();
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
