//! Faults of a store, planted into a history that was right: each must be found, wherever it stands.

use tenure_history::History;
use tenure_history::request::{KeyRange, Request};
use tenure_history::response::{Body, KeyValue, Outcome, Response};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A key that a read shows is not there.
    LostWrite,
    /// A read shows what an earlier one showed.
    StaleRead,
    /// Two writes, one after the other, with their revisions swapped.
    SwappedRevisions,
    /// Two writes with one revision.
    RevisionTwice,
    /// A read shows a key of a lease with another lease.
    OtherLease,
    /// A put shows another previous value than there was.
    WrongPrevious,
    /// A transaction took the other branch.
    WrongBranch,
    /// A delete says that it deleted what was not there, or the reverse.
    WrongCount,
}

/// All of them.
pub(crate) const FAULTS: [Fault; 8] = [
    Fault::LostWrite,
    Fault::StaleRead,
    Fault::SwappedRevisions,
    Fault::RevisionTwice,
    Fault::OtherLease,
    Fault::WrongPrevious,
    Fault::WrongBranch,
    Fault::WrongCount,
];

impl Fault {
    /// Plants it past the middle of the history; false if nothing there suits.
    pub(crate) fn plant(self, history: &mut History) -> bool {
        let from = history.operations.len() / 2;
        match self {
            Fault::StaleRead => crate::workload::spoil(history).is_some(),
            Fault::SwappedRevisions | Fault::RevisionTwice => self.plant_revision(history, from),
            _ => history.operations[from..].iter_mut().any(|operation| {
                let linearizable = !operation.request.is_serializable();
                let Outcome::Ok(Response { body, .. }) = &mut operation.outcome else { return false };
                linearizable && self.plant_in(&operation.request, body)
            }),
        }
    }

    fn plant_in(self, request: &Request, body: &mut Body) -> bool {
        let single = |keys: &KeyRange| keys.single().is_some();
        match (self, request, body) {
            (Fault::LostWrite, Request::Range(range), Body::Range(body)) if single(&range.keys) && body.count == 1 => {
                body.kvs.clear();
                body.count = 0;
                true
            }
            (Fault::OtherLease, Request::Range(_), Body::Range(body)) => {
                let leased = body.kvs.iter_mut().find(|kv| kv.lease.is_some());
                leased.map(|kv| kv.lease.0 += 1).is_some()
            }
            (Fault::WrongPrevious, Request::Put(_), Body::Put { prev_kv: Some(KeyValue { version, .. }) }) => {
                *version += 1;
                true
            }
            (Fault::WrongBranch, Request::Txn(_), Body::Txn { succeeded, responses }) if !*succeeded => {
                *succeeded = true;
                *responses = vec![Body::Put { prev_kv: None }];
                true
            }
            (Fault::WrongCount, Request::DeleteRange(delete), Body::DeleteRange { deleted, .. })
                if single(&delete.keys) && *deleted == 0 =>
            {
                *deleted = 1;
                true
            }
            _ => false,
        }
    }

    /// Changes the revision of a put that follows another in time.
    fn plant_revision(self, history: &mut History, from: usize) -> bool {
        let operations = &mut history.operations;
        let puts = |at: &usize| matches!(&operations[*at].request, Request::Put(put) if !put.prev_kv);
        let acked = |at: &usize| matches!(operations[*at].outcome, Outcome::Ok(_));
        let puts: Vec<usize> = (from..operations.len()).filter(puts).filter(acked).collect();
        let first = puts[0];
        let Some(second) = puts.iter().copied().find(|at| Some(operations[*at].called) > operations[first].returned)
        else {
            return false;
        };
        if matches!(self, Fault::RevisionTwice) {
            operations[second].outcome = operations[first].outcome.clone();
        } else {
            let outcome = operations[second].outcome.clone();
            operations[second].outcome = core::mem::replace(&mut operations[first].outcome, outcome);
        }
        true
    }
}
