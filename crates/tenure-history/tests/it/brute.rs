//! The judge of the judge: tries every order of a tiny history, knowing nothing of revisions.

use tenure_history::model::Store;
use tenure_history::request::Request;
use tenure_history::response::{Body, Outcome};
use tenure_history::{History, Moment, Operation};

const STEPS_MAX: u64 = 300_000;

/// Whether some order explains the history; nothing if there are too many to try.
pub(crate) fn linearizable(history: &History, serializable: bool) -> Option<bool> {
    // What a lagging node refuses says nothing about the state, nor does a failure.
    let counts = |operation: &&Operation| match operation.outcome {
        Outcome::Failed(_) => false,
        Outcome::Ok(_) => serializable || !operation.request.is_serializable(),
        Outcome::Refused(_) | Outcome::Unknown => !operation.request.is_serializable(),
    };
    let operations: Vec<&Operation> = history.operations.iter().filter(counts).collect();
    let mut brute = Brute { operations, steps: 0 };
    let found = brute.search(&Store::new(&history.initial), 0);
    (found || brute.steps < STEPS_MAX).then_some(found)
}

struct Brute<'a> {
    operations: Vec<&'a Operation>,
    steps: u64,
}

impl Brute<'_> {
    fn search(&mut self, store: &Store, done: u64) -> bool {
        self.steps += 1;
        if self.steps >= STEPS_MAX {
            return false;
        }
        let open = |at: &usize| done & 1 << at == 0;
        let must = (0..self.operations.len()).filter(open).map(|at| self.operations[at].deadline());
        let earliest = must.min().unwrap_or(Moment::NEVER);
        if earliest == Moment::NEVER {
            return true;
        }
        for lease in store.leases() {
            let mut next = store.clone();
            next.expire(lease);
            if self.search(&next, done) {
                return true;
            }
        }
        for at in (0..self.operations.len()).filter(open) {
            let called =
                if self.operations[at].request.is_serializable() { Moment(0) } else { self.operations[at].called };
            let mut next = store.clone();
            if called <= earliest && take(self.operations[at], &mut next) && self.search(&next, done | 1 << at) {
                return true;
            }
        }
        false
    }
}

/// Whether the operation may take effect here.
fn take(operation: &Operation, store: &mut Store) -> bool {
    let result = store.apply(&operation.request);
    match (&operation.outcome, result) {
        (Outcome::Unknown, result) => result.is_ok(),
        (Outcome::Refused(refusal), Err(refused)) => *refusal == refused,
        (Outcome::Ok(recorded), Ok(response)) => match (&operation.request, &recorded.body, &response.body) {
            (_, Body::LeaseKeepAlive { ttl_secs: one }, Body::LeaseKeepAlive { ttl_secs: other }) => {
                (*one > 0) == (*other > 0)
            }
            (Request::LeaseTimeToLive { .. }, _, _) => recorded.body == response.body,
            _ => *recorded == response,
        },
        _ => false,
    }
}
