//! Was everybody who was told of a grant in the front of the queue, at the revision of the answer?
//!
//! That is first come, first served by create revisions; one owner at a time, or as many as may be together; no more permits
//! than there are; and no reader before a writer that came earlier.

use core::fmt;

use super::Case;
use super::queues::Life;
use super::record::Claim;
use crate::ids::Revision;
use crate::lock::Share;
use crate::verdict::{Verdict, Violation};

pub(super) const CHECKER: &str = "lock-turns";

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Grants to those who want a lock alone.
    pub alone: usize,
    /// Grants to readers.
    pub readers: usize,
    /// Grants of permits.
    pub permits: usize,
    /// Grants that somebody else waited behind.
    pub wanted: usize,
}

pub(super) fn check(case: &Case<'_>) -> Verdict<Counts> {
    let mut counts = Counts::default();
    for claim in &case.contests.claims {
        for (_, token, revision) in claim.grants() {
            // Whether the key was there at all is another question.
            let there = case.queues.find(&claim.lock, token, &claim.key).is_some_and(|life| life.is_there(revision));
            if !there {
                continue;
            }
            let (queue, holders) = case.queues.at(&claim.lock, revision);
            if !queue[..holders].iter().any(|life| life.create == token && life.key == claim.key) {
                return out_of_turn(claim, token, revision, (&queue, holders));
            }
            match claim.share {
                Share::Alone => counts.alone += 1,
                Share::Readers => counts.readers += 1,
                Share::Permits { .. } => counts.permits += 1,
            }
            counts.wanted += usize::from(queue.len() > holders);
        }
    }
    Verdict::Ok(counts)
}

fn out_of_turn(
    claim: &Claim,
    token: Revision,
    revision: Revision,
    (queue, holders): (&[&Life], usize),
) -> Verdict<Counts> {
    let is_next = queue.get(holders).is_some_and(|life| life.create == token);
    let promise = match (claim.share, is_next) {
        (Share::Permits { .. }, true) => "semaphore bound",
        (_, true) => "one owner",
        (Share::Readers, false) => "no reader before a writer that came earlier",
        (_, false) => "first come, first served",
    };
    let detail = format!("token {token} was granted at revision {revision}, when others held {}", claim.lock);
    let lines = queue.iter().enumerate().map(|(place, life)| life.line(place < holders));
    Violation::verdict(CHECKER, promise, detail, claim.lines().into_iter().chain(lines).collect())
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { alone, readers, permits, wanted } = self;
        write!(
            f,
            "native grants: {alone} exclusive, {readers} shared, {permits} of a semaphore; others waited behind {wanted}"
        )
    }
}
