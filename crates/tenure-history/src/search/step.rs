//! Taking a move and taking it back; comparing answers.

use super::plan::granted;
use super::{Kind, Move, Reason, Search, Undo};
use crate::ids::LeaseId;
use crate::model::{Change, hash_of};
use crate::request::{Request, Txn, TxnOp};
use crate::response::{Body, KeyValue, Outcome, RangeBody, Refusal};
use crate::truth::Cause;
use crate::view::View;

impl Search<'_> {
    /// Makes a move and everything that follows from it. If that is impossible, some of it may be done: undo to before.
    pub(super) fn apply(&mut self, way: Move) -> bool {
        let before = self.store.revision();
        let made = match way {
            Move::Operation(operation) => self.apply_operation(operation),
            Move::Expire(lease) => self.end_lease(lease, Cause::Expired(lease)),
            Move::Other => {
                self.advance(Vec::new(), Cause::Other);
                true
            }
        };
        if !made {
            return false;
        }
        if self.store.revision() != before && !self.settle_slot() {
            return false;
        }
        self.settle_open();
        if self.snapshot.is_none() && self.stop_at == Some(self.store.revision()) {
            self.snapshot = Some((self.store.present(), self.done.clone()));
        }
        if self.states.is_some() && self.store.revision() != before {
            self.note_state();
        }
        true
    }

    fn note_state(&mut self) {
        let state = hash_of(&(self.store.hash(), self.remembered, self.done_hash));
        if let Some(states) = &mut self.states {
            let known = states.entry(self.store.revision()).or_insert(Some(state));
            *known = known.filter(|known| *known == state);
        }
    }

    fn apply_operation(&mut self, operation: usize) -> bool {
        let request = &self.plan.operations[operation].request;
        let recorded = self.plan.operations[operation].response().map(|response| &response.body);
        let executed = match self.store.execute_guided(request, recorded, &self.plan.view) {
            Ok(executed) => executed,
            Err(refusal) => return self.fail(operation, Reason::Answer(Err(refusal))),
        };
        if recorded.is_some_and(|recorded| !agrees(request, recorded, &executed.body, &self.plan.view)) {
            return self.fail(operation, Reason::Answer(Ok(executed.body)));
        }
        let cause = Cause::Operation(operation);
        match (request, self.plan.kinds[operation]) {
            (Request::LeaseGrant { id, .. }, _) => {
                let id = granted(self.plan.operations[operation]).unwrap_or(*id);
                if self.store.has_lease(id) {
                    return self.fail(operation, Reason::Answer(Err(Refusal::LeaseExists)));
                }
                self.set_lease(id, true);
            }
            (Request::LeaseRevoke { id }, Kind::Revoke(revision)) => {
                let makes_it = self.store.has_keys(*id);
                let at = if makes_it { self.store.revision().next() } else { self.store.revision() };
                if at != revision {
                    return self.fail(operation, Reason::Unreachable);
                }
                self.end_lease(*id, cause);
            }
            (Request::Compact { revision }, _) => {
                self.journal.push(Undo::Compacted(self.store.compacted()));
                self.store.set_compacted(*revision);
            }
            (_, Kind::Write(_)) => self.advance(executed.changes, cause),
            (_, _) if executed.changes.is_empty() => return false,
            (_, _) => self.advance(executed.changes, cause),
        }
        self.set_done(operation);
        true
    }

    fn end_lease(&mut self, lease: LeaseId, cause: Cause) -> bool {
        let changes: Vec<Change> = self.store.ending(lease);
        if !changes.is_empty() {
            self.advance(changes, cause);
        }
        self.set_lease(lease, false);
        true
    }

    fn advance(&mut self, changes: Vec<Change>, cause: Cause) {
        let remembered = self.remembered;
        let leaving = self.store.revision();
        if self.plan.read_later.contains(&leaving) {
            self.remembered ^= hash_of(&(leaving, self.store.kv_hash()));
        }
        self.store.advance(&changes);
        self.journal.push(Undo::Advanced { changes, remembered, cause });
    }

    fn set_lease(&mut self, lease: LeaseId, lives: bool) {
        self.journal.push(Undo::Lease { lease, lived: self.store.has_lease(lease) });
        self.store.set_lease(lease, lives);
    }

    fn set_done(&mut self, operation: usize) {
        self.done[operation] = true;
        self.done_hash ^= self.plan.marks[operation];
        self.journal.push(Undo::Done(operation));
    }

    /// Compares what was called and was answered at the revision just reached.
    fn settle_slot(&mut self) -> bool {
        let plan = self.plan;
        let Some(slot) = plan.slots.get(&self.store.revision()) else { return true };
        slot.iter().all(|operation| {
            let observes = matches!(plan.kinds[*operation], Kind::Slot(_)) && self.is_open(*operation);
            !observes || self.observe(*operation)
        })
    }

    /// Compares a read with the present state.
    pub(super) fn observe(&mut self, operation: usize) -> bool {
        let answer = self.answer(operation);
        let request = &self.plan.operations[operation].request;
        let agreed = match (self.outcome(operation), &answer) {
            (Outcome::Ok(response), Ok(body)) => agrees(request, &response.body, body, &self.plan.view),
            _ => false,
        };
        if !agreed {
            return self.fail(operation, Reason::Answer(answer));
        }
        self.set_done(operation);
        true
    }

    pub(super) fn answer(&self, operation: usize) -> Result<Body, Refusal> {
        let operation = self.plan.operations[operation];
        let recorded = operation.response().map(|response| &response.body);
        self.store.execute_guided(&operation.request, recorded, &self.plan.view).map(|executed| executed.body)
    }

    /// Places the floating operations that fit now. It never closes a way: they change nothing.
    pub(super) fn settle_open(&mut self) {
        let fitting: Vec<usize> = self.open.iter().copied().filter(|operation| self.fits(*operation)).collect();
        for operation in fitting {
            self.open.remove(&operation);
            self.journal.push(Undo::Closed(operation));
            self.set_done(operation);
        }
    }

    fn fits(&self, operation: usize) -> bool {
        let request = &self.plan.operations[operation].request;
        match (self.outcome(operation), self.answer(operation)) {
            (Outcome::Refused(refusal), Err(answer)) => *refusal == answer,
            (Outcome::Ok(response), Ok(body)) => agrees(request, &response.body, &body, &self.plan.view),
            _ => false,
        }
    }

    pub(super) fn undo_to(&mut self, mark: usize) {
        while self.journal.len() > mark {
            match self.journal.pop() {
                None => return,
                Some(Undo::Done(operation)) => {
                    self.done[operation] = false;
                    self.done_hash ^= self.plan.marks[operation];
                }
                Some(Undo::Opened(operation)) => drop(self.open.remove(&operation)),
                Some(Undo::Closed(operation)) => drop(self.open.insert(operation)),
                Some(Undo::Advanced { changes, remembered, .. }) => {
                    self.store.retreat(&changes);
                    self.remembered = remembered;
                }
                Some(Undo::Lease { lease, lived }) => self.store.set_lease(lease, lived),
                Some(Undo::Compacted(compacted)) => self.store.set_compacted(compacted),
            }
        }
    }
}

/// Whether an answer is the model's, as far as the view shows it.
pub(crate) fn agrees(request: &Request, recorded: &Body, computed: &Body, view: &View) -> bool {
    match (request, recorded, computed) {
        (Request::Range(range), Body::Range(one), Body::Range(other)) => ranges_agree(&range.keys, one, other, view),
        (Request::Put(_), Body::Put { prev_kv: one }, Body::Put { prev_kv: other }) => one == other,
        (Request::DeleteRange(delete), one, other) => deletes_agree(&delete.keys, one, other, view),
        (Request::Txn(txn), one, other) => txns_agree(txn, one, other, view),
        // The id may be the store's choice, the TTL be raised, and how much of it is left is another checker's business.
        (Request::LeaseGrant { .. }, Body::LeaseGrant { .. }, Body::LeaseGrant { .. }) => true,
        (_, Body::LeaseKeepAlive { ttl_secs: one }, Body::LeaseKeepAlive { ttl_secs: other }) => {
            (*one > 0) == (*other > 0)
        }
        (
            Request::LeaseTimeToLive { keys: asked, .. },
            Body::LeaseTimeToLive { ttl_secs: one, keys: some, .. },
            Body::LeaseTimeToLive { ttl_secs: other, keys: others, .. },
        ) => (*one == -1) == (*other == -1) && (!*asked || some == others),
        _ => recorded == computed,
    }
}

fn ranges_agree(keys: &crate::request::KeyRange, one: &RangeBody, other: &RangeBody, view: &View) -> bool {
    if view.sees_whole(keys) {
        return one == other;
    }
    // A key that the answer lacks may have been cut off, if it was cut; one that it shows must be right.
    let cut = one.more || one.kvs.len() != usize::try_from(one.count).unwrap_or(0);
    let shown: Vec<&KeyValue> = one.kvs.iter().filter(|kv| view.sees(&kv.key)).collect();
    let there: Vec<&KeyValue> = other.kvs.iter().filter(|kv| view.sees(&kv.key)).collect();
    if cut { shown.iter().all(|kv| there.contains(kv)) } else { shown == there }
}

fn deletes_agree(keys: &crate::request::KeyRange, one: &Body, other: &Body, view: &View) -> bool {
    if view.sees_whole(keys) {
        return one == other;
    }
    let (Body::DeleteRange { prev_kvs: one, deleted }, Body::DeleteRange { prev_kvs: other, .. }) = (one, other) else {
        return false;
    };
    let of = |kvs: &[KeyValue]| kvs.iter().filter(|kv| view.sees(&kv.key)).cloned().collect::<Vec<_>>();
    let told = !one.is_empty() || *deleted == 0;
    !told || of(one) == of(other)
}

fn txns_agree(txn: &Txn, one: &Body, other: &Body, view: &View) -> bool {
    let (Body::Txn { succeeded, responses }, Body::Txn { succeeded: also, responses: others }) = (one, other) else {
        return false;
    };
    let ops = txn.branch(*succeeded);
    succeeded == also
        && responses.len() == others.len()
        && ops.len() == responses.len()
        && ops.iter().zip(responses.iter().zip(others)).all(|(op, (one, other))| op_agrees(op, one, other, view))
}

fn op_agrees(op: &TxnOp, one: &Body, other: &Body, view: &View) -> bool {
    match (op, one, other) {
        (TxnOp::Range(range), Body::Range(one), Body::Range(other)) => ranges_agree(&range.keys, one, other, view),
        (TxnOp::Put(put), one, other) => !view.sees(&put.key) || one == other,
        (TxnOp::DeleteRange(delete), one, other) => deletes_agree(&delete.keys, one, other, view),
        (TxnOp::Txn(nested), one, other) => txns_agree(nested, one, other, view),
        (TxnOp::Range(_), _, _) => false,
    }
}
