//! Did a guard let in anybody who did not hold the lock, or keep out a holder?

use core::fmt;

use super::Case;
use super::record::{Guarded, Passed};
use crate::ids::Revision;
use crate::verdict::{Verdict, Violation};

pub(super) const CHECKER: &str = "lock-writes";

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes that were carried out.
    pub passed: usize,
    /// Writes by those who could not be sure that they hold the lock.
    pub stale: usize,
    /// Those of them that were kept out.
    pub refused: usize,
}

pub(super) fn check(case: &Case<'_>) -> Verdict<Counts> {
    let mut counts = Counts::default();
    for write in &case.contests.writes {
        counts.stale += usize::from(!write.sure);
        match write.passed {
            Passed::Yes(revision) => {
                counts.passed += 1;
                if let Some(violation) = let_in(case, write, revision) {
                    return violation;
                }
            }
            Passed::No if write.sure && !case.contests.touched.iter().any(|touched| touched.key == write.key) => {
                let detail = format!("a holder of {} was kept out", write.lock);
                return Violation::verdict(CHECKER, "a holder may write", detail, vec![write.to_string()]);
            }
            Passed::No => counts.refused += usize::from(!write.sure),
            Passed::Unknown => {}
        }
    }
    Verdict::Ok(counts)
}

fn let_in(case: &Case<'_>, write: &Guarded, revision: Revision) -> Option<Verdict<Counts>> {
    let kv = case.truth.key_at(&write.key, revision);
    let there = kv.is_some_and(|kv| kv.create == write.token && kv.lease == write.lease);
    let (queue, holders) = case.queues.at(&write.lock, revision);
    let holds = queue[..holders].iter().any(|life| life.create == write.token && life.key == write.key);
    if there && (holds || queue.is_empty()) {
        return None;
    }
    let detail = format!("a write was carried out in revision {revision} by a token that did not hold {}", write.lock);
    let lines = queue.iter().enumerate().map(|(place, life)| life.line(place < holders));
    let lines = [write.to_string()].into_iter().chain(lines).collect();
    Some(Violation::verdict(CHECKER, "stale writes are refused", detail, lines))
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { passed, stale, refused } = self;
        write!(f, "{passed} guarded writes passed; {stale} were tried without being sure, {refused} of them refused")
    }
}
