//! Makes a failing history short enough to read, and says what is wrong with it.
//!
//! Every cut is a relaxation, so what still fails is a violation of the whole history:
//!
//! 1. look at the keys of the failing operation alone ([`crate::view`]);
//! 2. forget what was called after the failure, and take what returned after it for unknown;
//! 3. begin at the latest revision at which every way of the search found the same state, with that state;
//! 4. leave out reads, in halves, quarters and so on, as long as it still fails.
//!
//! Each try is a search of its own with few steps, and there are few tries: a long failing history is better than none.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::history::{History, Initial, Operation};
use crate::ids::{Moment, Revision};
use crate::linearize::CHECKER;
use crate::request::{KeyRange, Request, TxnOp};
use crate::response::{Body, Outcome};
use crate::search::{End, Failure, Kind, Plan, Reason, Search};
use crate::verdict::Violation;
use crate::view::View;

const STEPS_PER_TRY: u64 = 200_000;
const TRIES_MAX: usize = 200;
/// Operations planned for in all tries together: bounds the time with long histories.
const PLANNED_MAX: usize = 20_000_000;
const KEYS_TRIED_MAX: usize = 8;
const LINES_MAX: usize = 80;

type Include<'a> = &'a dyn Fn(&Operation) -> bool;

/// A history that fails, seen through a view.
struct Failing {
    initial: Initial,
    operations: Vec<Operation>,
    view: View,
    failure: Failure,
}

/// Explains a failure of the whole search.
pub(crate) fn explain(history: &History, plan: &Plan<'_>, failure: &Failure, include: Include<'_>) -> Violation {
    let mut effort = Effort { tries: TRIES_MAX, planned: PLANNED_MAX };
    let failing = narrow(history, plan, failure, include, &mut effort).unwrap_or_else(|| Failing {
        initial: history.initial.clone(),
        operations: history.operations.iter().filter(|operation| include(operation)).cloned().collect(),
        view: View::ALL,
        failure: failure.clone(),
    });
    describe(&shrink(failing, &mut effort))
}

/// Looks for a violation through narrow views, where the whole search gave up.
pub(crate) fn by_few_keys(
    history: &History,
    plan: &Plan<'_>,
    failure: &Failure,
    include: Include<'_>,
) -> Option<Violation> {
    let mut effort = Effort { tries: TRIES_MAX, planned: PLANNED_MAX };
    let found = narrow(history, plan, failure, include, &mut effort).or_else(|| {
        let mut keys = BTreeSet::new();
        plan.operations.iter().for_each(|operation| keys.extend(keys_of(operation)));
        keys.into_iter().find_map(|key| try_view(history, BTreeSet::from([key]), include, &mut effort))
    })?;
    effort = Effort { tries: TRIES_MAX, planned: PLANNED_MAX };
    Some(describe(&shrink(found, &mut effort)))
}

struct Effort {
    tries: usize,
    planned: usize,
}

impl Effort {
    fn allows(&mut self, operations: usize) -> bool {
        let allowed = self.tries > 0 && self.planned >= operations;
        self.tries = self.tries.saturating_sub(1);
        self.planned = self.planned.saturating_sub(operations);
        allowed
    }
}

fn narrow(
    history: &History,
    plan: &Plan<'_>,
    failure: &Failure,
    include: Include<'_>,
    effort: &mut Effort,
) -> Option<Failing> {
    let mut keys = keys_of(plan.operations.get(failure.operation)?);
    if let Reason::CalledLater(other) | Reason::Passed(other) = failure.reason {
        keys.extend(keys_of(plan.operations[other]));
    }
    let single = keys.iter().take(KEYS_TRIED_MAX).map(|key| BTreeSet::from([key.clone()]));
    let all = (keys.len() > 1).then(|| keys.clone());
    single.chain(all).find_map(|keys| try_view(history, keys, include, effort))
}

fn try_view(history: &History, keys: BTreeSet<Bytes>, include: Include<'_>, effort: &mut Effort) -> Option<Failing> {
    let view = View::of(with_compared(history, keys)?);
    let operations = history.operations.iter().filter(|operation| include(operation)).cloned().collect();
    fails(history.initial.clone(), operations, view, effort)
}

/// The keys, and those that transactions of unknown outcome compare before they write one of them: without them nobody
/// could say which way such a transaction went. Nothing if that cannot be listed.
fn with_compared(history: &History, mut keys: BTreeSet<Bytes>) -> Option<BTreeSet<Bytes>> {
    loop {
        let before = keys.len();
        for operation in history.operations.iter().filter(|operation| operation.outcome == Outcome::Unknown) {
            let Request::Txn(txn) = &operation.request else { continue };
            let view = View::of(keys.clone());
            let mut touches = false;
            txn.each_op(&mut |op| {
                touches |= match op {
                    TxnOp::Put(put) => view.sees(&put.key),
                    TxnOp::DeleteRange(delete) => view.touches(&delete.keys),
                    TxnOp::Range(_) | TxnOp::Txn(_) => false,
                }
            });
            let mut listable = true;
            txn.each_compare(&mut |compare| match compare.keys.single() {
                Some(key) if touches => drop(keys.insert(key.clone())),
                Some(_) => {}
                None => listable &= !touches,
            });
            if !listable {
                return None;
            }
        }
        if keys.len() == before {
            return Some(keys);
        }
    }
}

fn fails(initial: Initial, operations: Vec<Operation>, view: View, effort: &mut Effort) -> Option<Failing> {
    if !effort.allows(operations.len()) {
        return None;
    }
    let plan = Plan::new(&initial, &operations, view.clone(), &|_| true);
    match Search::new(&plan).run(STEPS_PER_TRY) {
        End::Failed(failure) => Some(Failing { initial, operations, view, failure }),
        End::Ordered(_) | End::GaveUp(..) => None,
    }
}

fn shrink(mut failing: Failing, effort: &mut Effort) -> Failing {
    if let Some(shorter) = without_tail(&failing, effort) {
        failing = shorter;
    }
    if let Some(shorter) = without_head(&failing, effort) {
        failing = shorter;
    }
    without_reads(failing, effort)
}

fn without_tail(failing: &Failing, effort: &mut Effort) -> Option<Failing> {
    let plan = Plan::new(&failing.initial, &failing.operations, failing.view.clone(), &|_| true);
    let end = plan.events.get(failing.failure.event)?.at;
    let named = match failing.failure.reason {
        Reason::CalledLater(other) | Reason::Passed(other) => plan.operations.get(other).copied(),
        _ => None,
    };
    let is_kept = |operation: &&Operation| {
        called(operation) <= end || named.is_some_and(|named| core::ptr::eq(named, *operation))
    };
    let kept: Vec<Operation> = failing.operations.iter().filter(is_kept).cloned().collect();
    // A revision whose writer is forgotten may be anybody's in a narrow view; in the whole one it must be above all others.
    let revision = |operation: &Operation| operation.response().map(|response| response.revision);
    let highest = kept.iter().filter_map(revision).max();
    let forgotten = failing.operations.iter().filter(|operation| !is_kept(operation)).filter_map(revision).min();
    if !failing.view.is_all() || forgotten.is_none_or(|lowest| highest < Some(lowest)) {
        let shorter = fails(failing.initial.clone(), kept.clone(), failing.view.clone(), effort);
        if shorter.is_some() {
            return shorter;
        }
    }
    let cut = kept.into_iter().map(|mut operation| {
        if operation.deadline() > end {
            operation.outcome = Outcome::Unknown;
        }
        operation
    });
    fails(failing.initial.clone(), cut.collect(), failing.view.clone(), effort)
}

fn called(operation: &Operation) -> Moment {
    if operation.request.is_serializable() { Moment(0) } else { operation.called }
}

/// Only through a narrow view, where leases play no part: there a state is keys and nothing else.
fn without_head(failing: &Failing, effort: &mut Effort) -> Option<Failing> {
    if failing.view.is_all() {
        return None;
    }
    let plan = Plan::new(&failing.initial, &failing.operations, failing.view.clone(), &|_| true);
    let mut search = Search::new(&plan);
    search.states = Some(std::collections::BTreeMap::new());
    search.run(STEPS_PER_TRY);
    let certain: Vec<Revision> =
        search.states.unwrap_or_default().into_iter().filter_map(|(at, state)| state.map(|_| at)).collect();
    let mut back = 1;
    while back <= certain.len() {
        if let Some(shorter) = from_revision(failing, &plan, certain[certain.len() - back], effort) {
            return Some(shorter);
        }
        back = if back < 32 { back + 1 } else { back * 2 };
    }
    None
}

fn from_revision(failing: &Failing, plan: &Plan<'_>, revision: Revision, effort: &mut Effort) -> Option<Failing> {
    let mut search = Search::new(plan);
    search.stop_at = Some(revision);
    search.run(STEPS_PER_TRY);
    let (kvs, done) = search.snapshot?;
    let initial = Initial { revision, compacted: failing.initial.compacted, kvs, leases: Vec::new() };
    let later = |at: usize| match plan.kinds[at] {
        Kind::Write(of) => of > revision,
        Kind::Slot(of) | Kind::Silent(of) | Kind::Revoke(of) => of >= revision,
        Kind::Floating | Kind::Unknown => true,
    };
    let kept = (0..plan.operations.len()).filter(|at| !done[*at] && later(*at));
    let mut operations: Vec<Operation> = kept.map(|at| plan.operations[at].clone()).collect();
    // The revisions of writes outside the view stay claimed.
    let shown: std::collections::HashSet<*const Operation> =
        plan.operations.iter().map(|operation| core::ptr::from_ref(*operation)).collect();
    let is_outside = |operation: &&Operation| {
        !shown.contains(&core::ptr::from_ref(*operation))
            && operation.response().is_some_and(|response| response.revision > revision)
    };
    operations.extend(failing.operations.iter().filter(is_outside).cloned());
    fails(initial, operations, failing.view.clone(), effort)
}

/// Zeller's delta debugging on what can be left out alone: operations that changed nothing.
fn without_reads(mut failing: Failing, effort: &mut Effort) -> Failing {
    let mut parts = 2;
    loop {
        let reads: Vec<usize> = (0..failing.operations.len()).filter(|at| is_read(&failing.operations[*at])).collect();
        let size = reads.len().div_ceil(parts).max(1);
        let shorter = reads.chunks(size).find_map(|left_out| {
            let kept = failing.operations.iter().enumerate().filter(|(at, _)| left_out.binary_search(at).is_err());
            let kept = kept.map(|(_, operation)| operation.clone()).collect();
            fails(failing.initial.clone(), kept, failing.view.clone(), effort)
        });
        match shorter {
            Some(shorter) => {
                failing = shorter;
                parts = parts.saturating_sub(1).max(2);
            }
            None if size <= 1 || effort.tries == 0 => return failing,
            None => parts *= 2,
        }
    }
}

fn is_read(operation: &Operation) -> bool {
    match &operation.outcome {
        Outcome::Ok(response) => match &response.body {
            Body::Compact | Body::LeaseGrant { .. } | Body::LeaseRevoke => false,
            body => body.changed_keys() == Some(false),
        },
        Outcome::Refused(_) | Outcome::Failed(_) => true,
        Outcome::Unknown => matches!(operation.request, Request::Range(_)),
    }
}

fn describe(failing: &Failing) -> Violation {
    let plan = Plan::new(&failing.initial, &failing.operations, failing.view.clone(), &|_| true);
    let failure = &failing.failure;
    let mut lines = Vec::new();
    if failing.initial.revision > Revision::FRESH {
        lines.push(format!("at revision {} the store holds:", failing.initial.revision));
        let seen = failing.initial.kvs.iter().filter(|kv| failing.view.sees(&kv.key));
        lines.extend(seen.map(|kv| format!("    {kv}")));
    }
    let mut shown: Vec<&Operation> = plan.operations.clone();
    shown.sort_by_key(|operation| operation.called);
    let mut text: Vec<String> = shown.iter().map(ToString::to_string).collect();
    if text.len() > LINES_MAX {
        let left_out = text.len() - LINES_MAX;
        text.splice(LINES_MAX / 2..LINES_MAX / 2 + left_out, [format!("… {left_out} more …")]);
    }
    lines.extend(text);
    let operation = plan.operations.get(failure.operation).map(ToString::to_string).unwrap_or_default();
    let (promise, why) = reason(&plan, failure);
    Violation { checker: CHECKER, promise, detail: format!("{operation}\n    {why}"), evidence: lines }
}

fn reason(plan: &Plan<'_>, failure: &Failure) -> (&'static str, String) {
    let now = failure.revision;
    let is_write = matches!(plan.kinds.get(failure.operation), Some(Kind::Write(_)));
    let is_range = |at: &Operation| matches!(at.request, Request::Range(_));
    let stale = if plan.operations.get(failure.operation).is_some_and(|at| is_range(at)) {
        "stale read"
    } else {
        "stale answer"
    };
    match &failure.reason {
        Reason::Answer(Ok(body)) => ("wrong answer", format!("at revision {now} the answer is: {body}")),
        Reason::Answer(Err(refusal)) => ("wrong answer", format!("at revision {now} it is refused: {refusal}")),
        Reason::CalledLater(other) => (
            "revisions against real time",
            format!(
                "it needs revision {}, but what was answered there was called later: {}",
                now, plan.operations[*other]
            ),
        ),
        Reason::Overtaken if is_write => {
            ("revisions against real time", format!("revision {now} had been reached before it was called"))
        }
        Reason::Overtaken => (stale, format!("revision {now} had been reached before it was called")),
        Reason::Passed(other) => {
            (stale, format!("a later revision had been told before it was called: {}", plan.operations[*other]))
        }
        Reason::Unexplained(revision) => {
            ("unexplained revision", format!("nothing that was asked can have made revision {revision}"))
        }
        Reason::LeaseGone(lease) => ("wrong lease", format!("lease {lease} cannot be as it must be at revision {now}")),
        Reason::Unreachable => ("no order", format!("nothing that can follow revision {now} explains it")),
    }
}

/// The keys that an operation names or shows.
pub(crate) fn keys_of(operation: &Operation) -> BTreeSet<Bytes> {
    let mut keys = BTreeSet::new();
    let add = |range: &KeyRange, keys: &mut BTreeSet<Bytes>| keys.extend(range.single().cloned());
    match &operation.request {
        Request::Range(range) => add(&range.keys, &mut keys),
        Request::Put(put) => drop(keys.insert(put.key.clone())),
        Request::DeleteRange(delete) => add(&delete.keys, &mut keys),
        Request::Txn(txn) => {
            txn.each_compare(&mut |compare| add(&compare.keys, &mut keys));
            txn.each_op(&mut |op| match op {
                TxnOp::Range(range) => add(&range.keys, &mut keys),
                TxnOp::Put(put) => drop(keys.insert(put.key.clone())),
                TxnOp::DeleteRange(delete) => add(&delete.keys, &mut keys),
                TxnOp::Txn(_) => {}
            });
        }
        Request::Compact { .. }
        | Request::LeaseGrant { .. }
        | Request::LeaseKeepAlive { .. }
        | Request::LeaseRevoke { .. }
        | Request::LeaseTimeToLive { .. } => {}
    }
    if let Some(response) = operation.response() {
        shown_keys(&response.body, &mut keys);
    }
    keys
}

pub(crate) fn shown_keys(body: &Body, keys: &mut BTreeSet<Bytes>) {
    match body {
        Body::Range(range) => keys.extend(range.kvs.iter().map(|kv| kv.key.clone())),
        Body::DeleteRange { prev_kvs, .. } => keys.extend(prev_kvs.iter().map(|kv| kv.key.clone())),
        Body::Txn { responses, .. } => responses.iter().for_each(|body| shown_keys(body, keys)),
        Body::Put { .. }
        | Body::Compact
        | Body::LeaseGrant { .. }
        | Body::LeaseKeepAlive { .. }
        | Body::LeaseRevoke
        | Body::LeaseTimeToLive { .. } => {}
    }
}
