//! Was anybody told of a grant whose key had gone, whose lease was known to be over when it asked, or by a state from before?

use core::fmt;
use std::collections::BTreeMap;

use super::Case;
use super::record::{Claim, Try};
use crate::history::Operation;
use crate::ids::{LeaseId, Revision};
use crate::request::Request;
use crate::response::{Body, Outcome, Refusal};
use crate::verdict::{Verdict, Violation};

pub(super) const CHECKER: &str = "lock-sessions";

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Grants.
    pub grants: usize,
    /// Tries that were told that their lease is gone.
    pub no_lease: usize,
    /// Tries whose key was taken away while they waited.
    pub taken_away: usize,
}

pub(super) fn check(case: &Case<'_>) -> Verdict<Counts> {
    let mut counts = Counts::default();
    let gone = gone(&case.history.operations);
    for claim in &case.contests.claims {
        for tried in &claim.tries {
            counts.no_lease += usize::from(tried.came == super::Came::NoLease);
            counts.taken_away += usize::from(tried.came == super::Came::TakenAway);
        }
        for (tried, token, revision) in claim.grants() {
            counts.grants += 1;
            let found = key_gone(case, claim, token, revision)
                .or_else(|| lease_gone(claim, tried, &gone))
                .or_else(|| from_before(case, claim, tried, revision));
            if let Some(violation) = found {
                return violation;
            }
        }
    }
    Verdict::Ok(counts)
}

fn key_gone(case: &Case<'_>, claim: &Claim, token: Revision, revision: Revision) -> Option<Verdict<Counts>> {
    let kv = case.truth.key_at(&claim.key, revision);
    if kv.is_some_and(|kv| kv.create == token && kv.lease == claim.lease) {
        return None;
    }
    let is = kv.map_or_else(
        || "absent".to_owned(),
        |kv| format!("one that was created at {} and is on lease {}", kv.create, kv.lease),
    );
    let detail = format!("token {token} was granted at revision {revision}, when the key was {is}");
    Some(Violation::verdict(CHECKER, "no grant once the key is gone", detail, claim.lines()))
}

fn lease_gone(claim: &Claim, tried: &Try, gone: &BTreeMap<LeaseId, &Operation>) -> Option<Verdict<Counts>> {
    let proof = gone.get(&claim.lease).filter(|proof| proof.returned.is_some_and(|told| told < tried.called))?;
    let detail = format!("lease {} was gone before the lock was asked for", claim.lease);
    let lines = [proof.to_string()].into_iter().chain(claim.lines()).collect();
    Some(Violation::verdict(CHECKER, "no grant to a dead session", detail, lines))
}

fn from_before(case: &Case<'_>, claim: &Claim, tried: &Try, revision: Revision) -> Option<Verdict<Counts>> {
    let known =
        case.told.reached(revision.next()).filter(|known| known.returned.is_some_and(|at| at < tried.called))?;
    let detail = format!("answered at revision {revision}, and somebody had been told of a later one before");
    let lines = [known.to_string()].into_iter().chain(claim.lines()).collect();
    Some(Violation::verdict(CHECKER, "no grant from before", detail, lines))
}

/// The first answer that says of a lease that it is over. Ids are used once.
pub(super) fn gone(operations: &[Operation]) -> BTreeMap<LeaseId, &Operation> {
    let mut first: BTreeMap<LeaseId, &Operation> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| says_gone(operation)) {
        let Some(lease) = operation.request.lease() else { continue };
        let known = first.entry(lease).or_insert(operation);
        if operation.returned < known.returned {
            *known = operation;
        }
    }
    first
}

fn says_gone(operation: &Operation) -> bool {
    match &operation.outcome {
        Outcome::Ok(response) => matches!(
            response.body,
            Body::LeaseRevoke | Body::LeaseKeepAlive { ttl_secs: 0 } | Body::LeaseTimeToLive { ttl_secs: -1, .. }
        ),
        Outcome::Refused(Refusal::LeaseNotFound) => matches!(operation.request, Request::LeaseRevoke { .. }),
        Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Unknown => false,
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { grants, no_lease, taken_away } = self;
        write!(
            f,
            "{grants} grants with their key there; {no_lease} tries told that their lease was gone, {taken_away} that their \
             key was"
        )
    }
}
