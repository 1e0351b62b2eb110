//! What a request would be answered in a given state, and what it would change there.
//!
//! In the whole view the answer is computed from the state alone. In a narrow one parts of the state are not known; the
//! recorded answer then decides which branch of a transaction was taken, as far as the visible compares allow it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Change, Store};
use crate::ids::{LeaseId, Revision};
use crate::request::{Compare, DeleteRange, KeyRange, Put, Range, Relation, Request, Target, Txn, TxnOp};
use crate::response::{Body, KeyText, KeyValue, RangeBody, Refusal};
use crate::view::View;

/// An answer and the changes that go with it; no changes, no new revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The answer.
    pub body: Body,
    /// What the next revision changes, in the order of the operations.
    pub changes: Vec<Change>,
}

impl Store {
    /// What a request would be answered now. Renewals and times to live answer with a TTL of 1 where the lease lives: how
    /// much time it has is not known here.
    pub fn execute(&self, request: &Request) -> Result<Executed, Refusal> {
        self.execute_guided(request, None, &View::ALL)
    }

    /// The same, where only some keys are known and the recorded answer says which way a transaction went. An answer that
    /// contradicts a visible compare makes another answer come out.
    pub(crate) fn execute_guided(
        &self,
        request: &Request,
        recorded: Option<&Body>,
        view: &View,
    ) -> Result<Executed, Refusal> {
        let mut work = Work { store: self, view, overlay: BTreeMap::new(), order: Vec::new() };
        let body = match request {
            Request::Range(range) => Body::Range(work.range(range)?),
            Request::Put(put) => {
                work.check_lease(put.lease)?;
                work.put(put)
            }
            Request::DeleteRange(delete) => work.delete_range(delete),
            Request::Txn(txn) => {
                if has_duplicates(txn) {
                    return Err(Refusal::DuplicateKey);
                }
                let taken = work.decide(txn, recorded);
                work.check(txn, &taken)?;
                work.txn(txn, &taken)?
            }
            Request::Compact { revision } => self.compact(*revision)?,
            Request::LeaseGrant { id, ttl_secs } => self.grant(*id, *ttl_secs)?,
            Request::LeaseRevoke { id } => {
                if view.is_all() && !self.has_lease(*id) {
                    return Err(Refusal::LeaseNotFound);
                }
                self.ending(*id).into_iter().for_each(|change| work.change(change.key, None));
                Body::LeaseRevoke
            }
            Request::LeaseKeepAlive { id } => Body::LeaseKeepAlive { ttl_secs: i64::from(self.has_lease(*id)) },
            Request::LeaseTimeToLive { id, keys } => self.time_to_live(*id, *keys),
        };
        Ok(Executed { body, changes: work.changes() })
    }

    fn compact(&self, revision: Revision) -> Result<Body, Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if revision > self.revision { Err(Refusal::FutureRevision) } else { Ok(Body::Compact) }
    }

    fn grant(&self, id: LeaseId, ttl_secs: i64) -> Result<Body, Refusal> {
        if self.has_lease(id) { Err(Refusal::LeaseExists) } else { Ok(Body::LeaseGrant { id, ttl_secs }) }
    }

    fn time_to_live(&self, id: LeaseId, keys: bool) -> Body {
        if !self.has_lease(id) {
            return Body::LeaseTimeToLive { ttl_secs: -1, granted_secs: 0, keys: Vec::new() };
        }
        let keys = if keys { self.keys_of(id).cloned().map(KeyText).collect() } else { Vec::new() };
        Body::LeaseTimeToLive { ttl_secs: 1, granted_secs: 1, keys }
    }
}

/// Which branch each level of a transaction takes: decided for all levels before anything is written.
struct Taken {
    succeeded: bool,
    nested: Vec<Option<Taken>>,
}

struct Work<'a> {
    store: &'a Store,
    view: &'a View,
    /// What the operations before did.
    overlay: BTreeMap<Bytes, Option<KeyValue>>,
    order: Vec<Bytes>,
}

impl Work<'_> {
    fn check_lease(&self, lease: LeaseId) -> Result<(), Refusal> {
        let lives = !self.view.is_all() || !lease.is_some() || self.store.has_lease(lease);
        if lives { Ok(()) } else { Err(Refusal::LeaseNotFound) }
    }

    /// The refusals of a transaction: all puts of the branches taken first, then all reads.
    fn check(&self, txn: &Txn, taken: &Taken) -> Result<(), Refusal> {
        let mut refused = Ok(());
        each_taken(txn, taken, &mut |op| {
            if let TxnOp::Put(put) = op {
                refused = refused.and_then(|()| self.check_lease(put.lease));
            }
        });
        each_taken(txn, taken, &mut |op| {
            if let TxnOp::Range(range) = op {
                refused = refused.and_then(|()| self.check_revision(range));
            }
        });
        refused
    }

    fn check_revision(&self, range: &Range) -> Result<(), Refusal> {
        if range.revision > self.store.revision {
            return Err(Refusal::FutureRevision);
        }
        let old = range.revision > Revision(0) && range.revision < self.store.revision;
        if old && range.revision < self.store.compacted { Err(Refusal::Compacted) } else { Ok(()) }
    }

    fn decide(&self, txn: &Txn, recorded: Option<&Body>) -> Taken {
        let (says, bodies) = match recorded {
            Some(Body::Txn { succeeded, responses }) => (Some(*succeeded), &responses[..]),
            _ => (None, &[][..]),
        };
        let succeeded = self.all_hold(&txn.compares, says);
        let agreed = says == Some(succeeded);
        let nested = txn.branch(succeeded).iter().enumerate().map(|(at, op)| match op {
            TxnOp::Txn(nested) => Some(self.decide(nested, bodies.get(at).filter(|_| agreed))),
            TxnOp::Range(_) | TxnOp::Put(_) | TxnOp::DeleteRange(_) => None,
        });
        Taken { succeeded, nested: nested.collect() }
    }

    /// Whether all compares hold. Those of keys that are not seen hold as the recorded answer wants it.
    fn all_hold(&self, compares: &[Compare], says: Option<bool>) -> bool {
        let (seen, unseen): (Vec<_>, Vec<_>) = compares.iter().partition(|compare| self.view.sees_compare(compare));
        let seen_hold = seen.into_iter().all(|compare| self.holds(compare));
        seen_hold && (unseen.is_empty() || says != Some(false))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let kvs = self.store.range_at(&compare.keys, self.store.revision);
        if !kvs.is_empty() {
            return kvs.into_iter().all(|kv| meets(compare, kv));
        }
        !matches!(compare.target, Target::Value(_)) && meets(compare, &KeyValue::default())
    }

    fn txn(&mut self, txn: &Txn, taken: &Taken) -> Result<Body, Refusal> {
        let mut responses = Vec::new();
        for (op, nested) in txn.branch(taken.succeeded).iter().zip(&taken.nested) {
            responses.push(match (op, nested) {
                (TxnOp::Txn(txn), Some(taken)) => self.txn(txn, taken)?,
                (TxnOp::Range(range), _) => Body::Range(self.range(range)?),
                (TxnOp::Put(put), _) => self.put(put),
                (TxnOp::DeleteRange(delete), _) => self.delete_range(delete),
                (TxnOp::Txn(_), None) => return Err(Refusal::DuplicateKey),
            });
        }
        Ok(Body::Txn { succeeded: taken.succeeded, responses })
    }

    fn range(&self, range: &Range) -> Result<RangeBody, Refusal> {
        self.check_revision(range)?;
        let kvs = if range.revision > Revision(0) {
            self.store.range_at(&range.keys, range.revision).into_iter().cloned().collect()
        } else {
            self.present(&range.keys)
        };
        Ok(cut(range, kvs))
    }

    fn put(&mut self, put: &Put) -> Body {
        let old = self.get(&put.key);
        let modified = self.store.revision.next();
        let kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            create: old.as_ref().map_or(modified, |old| old.create),
            modified,
            version: old.as_ref().map_or(1, |old| old.version + 1),
            lease: put.lease,
        };
        self.change(put.key.clone(), Some(kv));
        Body::Put { prev_kv: old.filter(|_| put.prev_kv) }
    }

    fn delete_range(&mut self, delete: &DeleteRange) -> Body {
        let gone = self.present(&delete.keys);
        gone.iter().for_each(|kv| self.change(kv.key.clone(), None));
        let deleted = i64::try_from(gone.len()).unwrap_or(i64::MAX);
        Body::DeleteRange { deleted, prev_kvs: if delete.prev_kv { gone } else { Vec::new() } }
    }

    fn get(&self, key: &Bytes) -> Option<KeyValue> {
        self.overlay.get(key).cloned().unwrap_or_else(|| self.store.get(key).cloned())
    }

    fn present(&self, keys: &KeyRange) -> Vec<KeyValue> {
        if let Some(key) = keys.single() {
            return self.get(key).into_iter().collect();
        }
        let stored = self.store.range_at(keys, self.store.revision);
        if self.overlay.is_empty() {
            return stored.into_iter().cloned().collect();
        }
        let mut all: BTreeMap<&Bytes, &KeyValue> = stored.into_iter().map(|kv| (&kv.key, kv)).collect();
        for (key, kv) in self.overlay.iter().filter(|(key, _)| keys.contains(key)) {
            match kv {
                Some(kv) => all.insert(key, kv),
                None => all.remove(key),
            };
        }
        all.into_values().cloned().collect()
    }

    fn change(&mut self, key: Bytes, kv: Option<KeyValue>) {
        if !self.view.sees(&key) {
            return;
        }
        if self.overlay.insert(key.clone(), kv).is_none() {
            self.order.push(key);
        }
    }

    fn changes(mut self) -> Vec<Change> {
        let order = core::mem::take(&mut self.order);
        order.into_iter().map(|key| Change { kv: self.overlay.remove(&key).flatten(), key }).collect()
    }
}

fn each_taken<'a>(txn: &'a Txn, taken: &Taken, visit: &mut dyn FnMut(&'a TxnOp)) {
    for (op, nested) in txn.branch(taken.succeeded).iter().zip(&taken.nested) {
        match (op, nested) {
            (TxnOp::Txn(txn), Some(taken)) => each_taken(txn, taken, visit),
            _ => visit(op),
        }
    }
}

fn meets(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match &compare.target {
        Target::Version(version) => kv.version.cmp(version),
        Target::Create(revision) => kv.create.cmp(revision),
        Target::Mod(revision) => kv.modified.cmp(revision),
        Target::Value(value) => kv.value.cmp(value),
        Target::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.relation {
        Relation::Equal => ordering.is_eq(),
        Relation::Greater => ordering.is_gt(),
        Relation::Less => ordering.is_lt(),
        Relation::NotEqual => ordering.is_ne(),
    }
}

fn cut(range: &Range, mut kvs: Vec<KeyValue>) -> RangeBody {
    let count = i64::try_from(kvs.len()).unwrap_or(i64::MAX);
    if range.count_only {
        return RangeBody { kvs: Vec::new(), count, more: false };
    }
    let limit = usize::try_from(range.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let more = kvs.len() > limit;
    kvs.truncate(limit);
    RangeBody { kvs, count, more }
}

/// Whether one branch would put a key twice, or put and delete it. The branches of a nested transaction exclude each
/// other, so what either touches counts once.
pub(crate) fn has_duplicates(txn: &Txn) -> bool {
    Touched::by(&txn.success).is_none() || Touched::by(&txn.failure).is_none()
}

#[derive(Default)]
struct Touched<'a> {
    puts: BTreeSet<&'a Bytes>,
    deletes: Vec<&'a KeyRange>,
}

impl<'a> Touched<'a> {
    /// What a branch may touch, or nothing if it touches a key twice.
    fn by(ops: &'a [TxnOp]) -> Option<Touched<'a>> {
        let mut all = Touched::default();
        for op in ops {
            let more = match op {
                TxnOp::Range(_) => Touched::default(),
                TxnOp::Put(put) => Touched { puts: BTreeSet::from([&put.key]), deletes: Vec::new() },
                TxnOp::DeleteRange(delete) => Touched { puts: BTreeSet::new(), deletes: vec![&delete.keys] },
                TxnOp::Txn(nested) => {
                    let (mut either, other) = (Touched::by(&nested.success)?, Touched::by(&nested.failure)?);
                    either.merge(other);
                    either
                }
            };
            if all.conflicts(&more) {
                return None;
            }
            all.merge(more);
        }
        Some(all)
    }

    fn conflicts(&self, other: &Touched<'_>) -> bool {
        self.puts.intersection(&other.puts).next().is_some()
            || self.puts.iter().any(|key| other.deletes.iter().any(|range| range.contains(key)))
            || other.puts.iter().any(|key| self.deletes.iter().any(|range| range.contains(key)))
    }

    fn merge(&mut self, other: Touched<'a>) {
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
    }
}
