//! Breaks a good history in one place, or at least changes it: what a faulty store would have answered.

use rand::Rng;
use tenure_history::response::{Body, KeyValue, Outcome, Refusal, Response};
use tenure_history::{History, LeaseId, Moment, Operation, Revision};

use crate::generate::pick;

/// A change, by what kind of fault it looks like.
pub(crate) const KINDS: usize = 9;

/// Changes the history; false if this kind finds nothing to change.
pub(crate) fn mutate(history: &mut History, kind: usize, rng: &mut impl Rng) -> bool {
    let operations = &mut history.operations;
    if operations.is_empty() {
        return false;
    }
    let at = pick(rng, operations.len());
    match kind {
        // A value swapped, a version or lease or revision off.
        0 => operations[at].outcome_body().is_some_and(|body| in_kvs(body, &mut |kv| alter(kv, rng))),
        // A header off by one.
        1 => operations[at].response_mut().map(|response| response.revision.0 += [-1, 1][pick(rng, 2)]).is_some(),
        // An acked operation lost.
        2 => {
            operations.remove(at);
            true
        }
        // One done twice.
        3 => {
            let again = operations[at].clone();
            operations.push(again);
            true
        }
        // A stale answer: another's to the same request.
        4 => {
            let pairs = (0..operations.len()).flat_map(|one| (0..operations.len()).map(move |other| (one, other)));
            let mut pairs: Vec<(usize, usize)> = pairs
                .filter(|(one, other)| operations[*one].request == operations[*other].request)
                .filter(|(one, other)| operations[*one].outcome != operations[*other].outcome)
                .collect();
            if pairs.is_empty() {
                return false;
            }
            let (one, other) = pairs.swap_remove(pick(rng, pairs.len()));
            operations[one].outcome = operations[other].outcome.clone();
            true
        }
        // An unknown lost that may have been seen.
        5 => {
            let unknown = operations.iter().position(|operation| operation.outcome == Outcome::Unknown);
            unknown.map(|at| operations.remove(at)).is_some()
        }
        // Answered at another time.
        6 => {
            let by = pick(rng, 20) as u64;
            let operation = &mut operations[at];
            let sooner = pick(rng, 2) == 0;
            let shift =
                |moment: &mut Moment| moment.0 = if sooner { moment.0.saturating_sub(by) } else { moment.0 + by };
            shift(&mut operation.called);
            operation.returned.iter_mut().for_each(shift);
            true
        }
        // The other branch, one more or less deleted, a lease that lives or not.
        7 => operations[at].outcome_body().is_some_and(flip),
        // Refused for another reason.
        _ => {
            let refusals = [Refusal::Compacted, Refusal::LeaseNotFound, Refusal::LeaseExists, Refusal::FutureRevision];
            operations[at].outcome = Outcome::Refused(refusals[pick(rng, refusals.len())]);
            true
        }
    }
}

trait Answered {
    fn response_mut(&mut self) -> Option<&mut Response>;
    fn outcome_body(&mut self) -> Option<&mut Body>;
}

impl Answered for Operation {
    fn response_mut(&mut self) -> Option<&mut Response> {
        match &mut self.outcome {
            Outcome::Ok(response) => Some(response),
            _ => None,
        }
    }

    fn outcome_body(&mut self) -> Option<&mut Body> {
        self.response_mut().map(|response| &mut response.body)
    }
}

fn alter(kv: &mut KeyValue, rng: &mut impl Rng) {
    match pick(rng, 5) {
        0 => kv.value = format!("v{}", pick(rng, 3)).into(),
        1 => kv.version += 1,
        2 => kv.modified = Revision(kv.modified.0 + [-1, 1][pick(rng, 2)]),
        3 => kv.create = Revision(kv.create.0 + [-1, 1][pick(rng, 2)]),
        _ => kv.lease = LeaseId(1 - kv.lease.0.min(1)),
    }
}

fn in_kvs(body: &mut Body, change: &mut dyn FnMut(&mut KeyValue)) -> bool {
    match body {
        Body::Range(range) => range.kvs.first_mut().map(change).is_some(),
        Body::Put { prev_kv } => prev_kv.as_mut().map(change).is_some(),
        Body::DeleteRange { prev_kvs, .. } => prev_kvs.first_mut().map(change).is_some(),
        Body::Txn { responses, .. } => responses.iter_mut().any(|body| in_kvs(body, change)),
        _ => false,
    }
}

fn flip(body: &mut Body) -> bool {
    match body {
        Body::Range(range) if !range.kvs.is_empty() => {
            range.kvs.clear();
            range.count = 0;
        }
        Body::DeleteRange { deleted, prev_kvs } => {
            *deleted = 1 - (*deleted).min(1);
            prev_kvs.clear();
        }
        Body::Txn { succeeded, .. } => *succeeded = !*succeeded,
        Body::LeaseKeepAlive { ttl_secs } => *ttl_secs = 1 - (*ttl_secs).min(1),
        Body::LeaseTimeToLive { ttl_secs, granted_secs, keys } => {
            keys.clear();
            (*ttl_secs, *granted_secs) = if *ttl_secs == -1 { (1, 1) } else { (-1, 0) };
        }
        _ => return false,
    }
    true
}
