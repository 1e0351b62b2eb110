//! Is there one order of all operations that respects real time and explains every answer?
//!
//! The answer is exact, see the module `search`: `Ok` with the order that was found, a violation, or `Undecided` if the effort
//! was used up. Headers are taken at their word: a grant, revocation or compaction carries the revision at which it took
//! effect, as every other operation does. The headers of renewals and times to live are not looked at.
//!
//! Leases may end by themselves at any time here, with all their keys in one revision; whether that was too early is
//! the business of [`crate::lease`].

use core::fmt;

use crate::history::{History, Operation};
use crate::reads;
use crate::request::Request;
use crate::response::{Outcome, Refusal};
use crate::search::{End, Plan, Search};
use crate::seen::Seen;
use crate::shrink;
use crate::truth::{Cause, Truth};
use crate::verdict::{Verdict, Violation};
use crate::view::View;

pub(crate) const CHECKER: &str = "linearizability";

/// The part of the steps that is left to the complete search after the hasty one gave up: what the hasty one does not find
/// the complete one hardly ever does, unless there is little to search.
const COMPLETE_SHARE: u64 = 16;
/// Steps of the complete search before the hasty one is asked.
const FIRST_STEPS: u64 = 50_000;

/// How hard to try, and at what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Steps of the search before it gives up. A step is a move tried or a candidate looked at, about a microsecond.
    pub steps_max: u64,
    /// Whether serializable reads must fit into the same order, each at its header's revision.
    pub serializable: bool,
}

/// What was checked, and the order that explains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linearized {
    /// Figures.
    pub counts: Counts,
    /// The revisions in the order that was found.
    pub truth: Truth,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations in the history.
    pub operations: usize,
    /// Those that were answered.
    pub answered: usize,
    /// Those that the store refused for a reason of its state.
    pub refused: usize,
    /// Those of unknown outcome.
    pub unknown: usize,
    /// Revisions that an operation of unknown outcome made.
    pub unknown_placed: usize,
    /// Revisions that a lease's end made.
    pub expiries: usize,
    /// Revisions in all.
    pub revisions: usize,
    /// Steps of the search.
    pub steps: u64,
}

impl Default for Options {
    /// All reads; a few seconds at most.
    fn default() -> Self {
        Options { steps_max: 5_000_000, serializable: true }
    }
}

/// Checks a history.
pub fn linearize(history: &History, options: &Options) -> Verdict<Linearized> {
    linearize_seen(history, options, &[])
}

/// Checks a history with what watchers saw as advice: it tells who made a revision that nobody was acked. The verdict is
/// about the history alone, but the order found agrees with the watchers wherever some order does that it comes upon.
pub fn linearize_seen(history: &History, options: &Options, seen: &[Seen]) -> Verdict<Linearized> {
    if let Err(error) = history.validate() {
        return Violation::verdict("history", "history is sound", error.to_string(), Vec::new());
    }
    if let Some(operation) = history.operations.iter().find(|operation| refused_without_reason(operation)) {
        let detail = "a transaction was refused for a duplicate key that it does not have";
        return Violation::verdict(CHECKER, "wrong answer", detail, vec![operation.to_string()]);
    }
    let serializable = options.serializable;
    let include = |operation: &Operation| serializable || !operation.request.is_serializable();
    let mut plan = Plan::new(&history.initial, &history.operations, View::ALL, &include);
    plan.advise(seen);
    if let Some((one, other)) = plan.claimed_twice {
        let lines = [one, other].map(|at| plan.operations[at].to_string()).to_vec();
        return Violation::verdict(
            CHECKER,
            "revision given twice",
            "two writes were answered with one revision",
            lines,
        );
    }
    search(history, &plan, options.steps_max, &include)
}

/// The complete search where there is little to choose, which is then done at once, whichever way it ends; else the hasty
/// one, which finds orders; then a few keys at a time, which finds violations; and what is left of the steps to the
/// complete one.
fn search(
    history: &History,
    plan: &Plan<'_>,
    steps_max: u64,
    include: &dyn Fn(&Operation) -> bool,
) -> Verdict<Linearized> {
    let first = steps_max.min(FIRST_STEPS);
    let mut search = Search::new(plan);
    let mut end = search.run(first);
    if matches!(end, End::GaveUp(..)) && steps_max > first {
        if let Some(stale) = reads::stale_answer(history) {
            return Verdict::Violation(Box::new(stale));
        }
        let mut hasty = Search::hasty(plan);
        let rest = steps_max - first;
        let failure = match hasty.run(rest - rest / COMPLETE_SHARE) {
            End::Ordered(truth) => return Verdict::Ok(linearized(plan, truth, history, hasty.steps())),
            End::Failed(failure) | End::GaveUp(_, failure) => failure,
        };
        if let Some(violation) = shrink::by_few_keys(history, plan, &failure, include) {
            return Verdict::Violation(Box::new(violation));
        }
        end = search.run(first + rest / COMPLETE_SHARE);
    }
    match end {
        End::Ordered(truth) => Verdict::Ok(linearized(plan, truth, history, search.steps())),
        End::Failed(failure) => Verdict::Violation(Box::new(shrink::explain(history, plan, &failure, include))),
        End::GaveUp(window, _) => Verdict::Undecided(window),
    }
}

fn refused_without_reason(operation: &Operation) -> bool {
    let duplicates = matches!(&operation.request, Request::Txn(txn) if crate::model::has_duplicates(txn));
    matches!(operation.outcome, Outcome::Refused(Refusal::DuplicateKey)) && !duplicates
}

fn linearized(plan: &Plan<'_>, mut truth: Truth, history: &History, steps: u64) -> Linearized {
    let count =
        |is: &dyn Fn(&Outcome) -> bool| plan.operations.iter().filter(|operation| is(&operation.outcome)).count();
    let mut counts = Counts {
        operations: history.operations.len(),
        answered: count(&|outcome| matches!(outcome, Outcome::Ok(_))),
        refused: count(&|outcome| matches!(outcome, Outcome::Refused(_))),
        unknown: history.operations.iter().filter(|operation| operation.outcome == Outcome::Unknown).count(),
        steps,
        ..Counts::default()
    };
    let made: Vec<Cause> = truth.between(truth.initial(), truth.revision()).map(|(_, made)| made.cause).collect();
    counts.revisions = made.len();
    counts.expiries = made.iter().filter(|cause| matches!(cause, Cause::Expired(_))).count();
    let unknown =
        |cause: &&Cause| matches!(cause, Cause::Operation(at) if plan.operations[*at].outcome == Outcome::Unknown);
    counts.unknown_placed = made.iter().filter(unknown).count();
    truth.set_compacted(compacted_at_most(history, &truth));
    Linearized { counts, truth }
}

/// How far anybody may have compacted, compactions of unknown outcome included.
fn compacted_at_most(history: &History, truth: &Truth) -> crate::Revision {
    let asked = history.operations.iter().filter_map(|operation| match (&operation.request, &operation.outcome) {
        (Request::Compact { revision }, Outcome::Ok(_) | Outcome::Unknown) => Some(*revision),
        _ => None,
    });
    asked.fold(truth.compacted(), Ord::max)
}

impl fmt::Display for Linearized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { operations, answered, refused, unknown, unknown_placed, expiries, revisions, steps } = self.counts;
        write!(
            f,
            "{operations} operations ({answered} answered, {refused} refused, {unknown} unknown) make {revisions} revisions, \
             {unknown_placed} of them by unknown operations and {expiries} by leases that ended; {steps} steps"
        )
    }
}
