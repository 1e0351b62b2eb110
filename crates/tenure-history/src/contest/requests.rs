//! Was a request that had ended ever granted or let in again, was it given two tokens, or was one ended whose later try had
//! taken it over?

use core::fmt;

use super::Case;
use super::record::{Came, Claim, Ended, How, Try};
use crate::ids::{Moment, Revision};
use crate::verdict::{Verdict, Violation};

pub(super) const CHECKER: &str = "lock-requests";

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests.
    pub requests: usize,
    /// Tries after the first.
    pub retries: usize,
    /// Those of them that found the request in the queue or granted.
    pub taken_over: usize,
    /// Those that were told that the request is finished.
    pub finished: usize,
    /// Cancels that were answered.
    pub cancels: usize,
    /// Those of them that named a try that was of the past.
    pub stale: usize,
}

pub(super) fn check(case: &Case<'_>) -> Verdict<Counts> {
    let mut counts = Counts::default();
    for claim in &case.contests.claims {
        let found = back(claim).or_else(|| two_tokens(claim)).or_else(|| ended_by_nobody(case, claim));
        if let Some(violation) = found {
            return violation;
        }
        counts.requests += 1;
        for tried in claim.tries.iter().skip(1) {
            counts.retries += 1;
            counts.taken_over += usize::from(is_in(tried));
            counts.finished += usize::from(tried.came == Came::Finished);
        }
        for end in claim.ends.iter().filter(|end| matches!(end.how, How::Cancel { .. })) {
            counts.cancels += usize::from(end.came != Ended::Unknown);
            counts.stale += usize::from(matches!(end.came, Ended::Stale(_)));
        }
    }
    Verdict::Ok(counts)
}

/// Whether a try found its request waiting or holding.
fn is_in(tried: &Try) -> bool {
    tried.waits.is_some() || matches!(tried.came, Came::Granted { .. })
}

/// When the client was told for certain that the request is over.
fn over(claim: &Claim) -> Option<Moment> {
    let by_end = claim.ends.iter().filter_map(|end| match (end.how, end.came) {
        (How::Cancel { .. }, Ended::Done(_) | Ended::OneLess(_) | Ended::Nothing(_)) => Some(end.returned),
        (How::Release, Ended::Done(_) | Ended::OneLess(_)) => Some(end.returned),
        (How::Revoke, Ended::Done(_)) => Some(end.returned),
        _ => None,
    });
    let by_try = claim.tries.iter().filter_map(|tried| match tried.came {
        Came::Busy | Came::Finished | Came::TakenAway | Came::TimeOver => Some(tried.returned),
        _ => None,
    });
    by_end.chain(by_try).min()
}

fn back(claim: &Claim) -> Option<Verdict<Counts>> {
    let over = over(claim)?;
    let late = claim.tries.iter().find(|tried| tried.called > over && is_in(tried))?;
    let detail = format!("try {} of request {} was let in after the request had ended", late.attach, claim.number);
    Some(Violation::verdict(CHECKER, "a request that is finished stays so", detail, claim.lines()))
}

fn two_tokens(claim: &Claim) -> Option<Verdict<Counts>> {
    let tokens: Vec<Revision> = claim.grants().map(|(_, token, _)| token).collect();
    let (first, other) = (tokens.first()?, tokens.iter().find(|token| **token != tokens[0])?);
    let detail = format!("request {} was granted token {first} and token {other}", claim.number);
    Some(Violation::verdict(CHECKER, "a request is granted once", detail, claim.lines()))
}

/// A request lost its place although nobody ended it: no client did, its lease lived, and only earlier tries were left.
fn ended_by_nobody(case: &Case<'_>, claim: &Claim) -> Option<Verdict<Counts>> {
    let lost = claim.tries.iter().find(|tried| tried.came == Came::TakenAway)?;
    let by_client = claim.ends.iter().any(|end| match end.how {
        How::Cancel { attach } => end.called < lost.returned && attach >= lost.attach,
        How::Release | How::Revoke => end.called < lost.returned,
    });
    let by_others = case.contests.touched.iter().any(|it| it.key == claim.key && it.called < lost.returned);
    if by_client || by_others {
        return None;
    }
    // A later try takes it over only once it has come into the queue: what waits there is not ended by earlier ones.
    lost.waits?;
    let detail = format!("request {} lost its place, and nobody had ended it since try {}", claim.number, lost.attach);
    Some(Violation::verdict(CHECKER, "a later try keeps the place", detail, claim.lines()))
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { requests, retries, taken_over, finished, cancels, stale } = self;
        write!(
            f,
            "{requests} requests, {retries} retries: {taken_over} took their request over, {finished} found it finished; \
             {cancels} cancels, {stale} of them stale"
        )
    }
}
