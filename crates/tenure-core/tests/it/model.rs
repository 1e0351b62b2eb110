//! A deliberately naive model of the store: a full copy of all keys per revision, and etcd's rules written down a second
//! time, as directly as they can be said. It shares no code with the state machine but the types.

use std::collections::BTreeMap;

use bytes::Bytes;
use tenure_core::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, LeaseRevoke, Op, Put, Range, SortOrder,
    SortTarget, Txn,
};
use tenure_core::lock::{LockCause, LockDelay, LockLeft};
use tenure_core::outcome::{DeletedRange, KeyValue, OpResponse, Outcome, RangeResult, Refusal, Response, TxnResponse};
use tenure_core::row::{AlarmKind, AlarmRow, Incarnation, LeaseEnd, LeaseHolder, LeaseRow};
use tenure_core::{EventId, LeaseId, Revision, Term};

use crate::model_lock::{Locks, plain_put, unguarded, what_is_left};

pub(crate) type Keys = BTreeMap<Bytes, KeyValue>;

/// An event: its key, and what the key became (nothing if it was deleted).
pub(crate) type Event = (Bytes, Option<KeyValue>);

pub(crate) struct Model {
    /// The keys at each revision; places 0 and 1 are empty.
    pub(crate) at: Vec<Keys>,
    pub(crate) events: BTreeMap<EventId, Event>,
    pub(crate) compacted: i64,
    pub(crate) leases: BTreeMap<LeaseId, LeaseRow>,
    pub(crate) holders: BTreeMap<LeaseId, LeaseHolder>,
    /// The ends of leases that are to be remembered. Too few are told of for any to be forgotten.
    pub(crate) ends: Vec<LeaseEnd>,
    pub(crate) clock_ms: u64,
    /// Of all entries.
    pub(crate) term: Term,
    pub(crate) alarms: Vec<AlarmRow>,
    pub(crate) locks: Locks,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            at: vec![Keys::new(), Keys::new()],
            events: BTreeMap::new(),
            compacted: -1,
            leases: BTreeMap::new(),
            holders: BTreeMap::new(),
            ends: Vec::new(),
            clock_ms: 0,
            term: Term(3),
            alarms: Vec::new(),
            locks: Locks::default(),
        }
    }
}

/// The keys while a command changes them.
pub(crate) struct Draft {
    keys: Keys,
    revision: i64,
    events: Vec<Event>,
}

impl Model {
    pub(crate) fn revision(&self) -> i64 {
        i64::try_from(self.at.len()).unwrap() - 1
    }

    pub(crate) fn now(&self) -> &Keys {
        self.at.last().unwrap()
    }

    /// Carries out a command of a group, which carries a reading of the lease clock or not.
    pub(crate) fn apply(&mut self, command: &Command, place: Incarnation, timed: bool) -> Outcome {
        let (before, revision) = (self.now().clone(), self.revision());
        let result = match self.refused_by_alarm(command) {
            Some(refusal) => Err(refusal),
            None => self.carry_out(command, place, timed),
        };
        if result.is_ok() {
            self.follow_locks(command, &before, revision);
        }
        Outcome { revision: Revision(self.revision()), result }
    }

    fn refused_by_alarm(&self, command: &Command) -> Option<Refusal> {
        let grows = match command {
            Command::AlarmRaise(..) | Command::AlarmClear(..) | Command::MemberPublish(_) | Command::LeaseRenew(_) => {
                return None;
            }
            Command::Put(_) | Command::LeaseGrant(_) | Command::LockAcquire(_) => true,
            Command::Guarded(guarded) => matches!(unguarded(&guarded.write), Command::Put(_)),
            Command::Txn(txn) => paths(txn).iter().flatten().any(|op| matches!(op, Op::Put(_))),
            _ => false,
        };
        if self.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt) {
            return Some(Refusal::Corrupt);
        }
        (grows && !self.alarms.is_empty()).then_some(Refusal::NoSpace)
    }

    fn carry_out(&mut self, command: &Command, place: Incarnation, timed: bool) -> Result<Response, Refusal> {
        match command {
            Command::Put(put) => {
                if put.lease.0 != 0 && !self.leases.contains_key(&put.lease) {
                    return Err(Refusal::LeaseNotFound);
                }
                if (put.ignore_value || put.ignore_lease) && !self.now().contains_key(&put.key) {
                    return Err(Refusal::KeyNotFound);
                }
                self.change(|_, draft| Response::Put(draft.put(put)))
            }
            Command::DeleteRange(delete) => self.change(|_, draft| Response::DeleteRange(draft.delete(delete))),
            Command::Txn(txn) => self.txn(txn).map(Response::Txn),
            Command::Compact(Revision(revision)) => {
                if *revision <= self.compacted {
                    return Err(Refusal::Compacted);
                }
                if *revision > self.revision() {
                    return Err(Refusal::FutureRevision);
                }
                self.compacted = *revision;
                Ok(Response::Compact)
            }
            Command::LeaseGrant(_) | Command::LeaseRenew(_) if !timed => Err(Refusal::NoReading),
            Command::LeaseGrant(grant) => {
                if grant.id.0 == 0 {
                    return Err(Refusal::LeaseNotFound);
                }
                if self.leases.contains_key(&grant.id) || self.locks.delays.keys().any(|(id, _)| *id == grant.id) {
                    return Err(Refusal::LeaseExists);
                }
                let (ttl_ms, clock_ms) = (grant.ttl_ms, self.clock_ms);
                let has_holder = grant.holder != LeaseHolder::default();
                self.leases
                    .insert(grant.id, LeaseRow { incarnation: place, ttl_ms, renewals: 0, clock_ms, has_holder });
                if has_holder {
                    self.holders.insert(grant.id, grant.holder.clone());
                }
                Ok(Response::LeaseGrant { id: grant.id, ttl_ms: grant.ttl_ms })
            }
            Command::LeaseRevoke(revoke) => self.revoke(revoke, place),
            Command::LeaseRenew(id) => {
                let lease = self.leases.get_mut(id).ok_or(Refusal::LeaseNotFound)?;
                lease.renewals += 1;
                lease.clock_ms = self.clock_ms;
                Ok(Response::LeaseRenew { ttl_ms: lease.ttl_ms })
            }
            Command::AlarmRaise(member, kind) => {
                self.alarms.retain(|alarm| *alarm != AlarmRow { member: *member, kind: *kind });
                self.alarms.push(AlarmRow { member: *member, kind: *kind });
                Ok(Response::Alarm)
            }
            Command::AlarmClear(member, kind) => {
                self.alarms.retain(|alarm| *alarm != AlarmRow { member: *member, kind: *kind });
                Ok(Response::Alarm)
            }
            Command::MemberPublish(_) => Ok(Response::MemberPublish),
            Command::LockAcquire(acquire) => self.acquire(acquire),
            Command::LockCancel(cancel) => self.cancel(cancel),
            Command::LockRelease(release) => self.release(release),
            Command::LockForce(force) => self.force(force),
            Command::LockDelayEnd(end) => self.end_delay(end),
            Command::Guarded(guarded) if !self.guard_holds(&guarded.guard) => Err(Refusal::LockNotHeld),
            Command::Guarded(guarded) => self.carry_out(&unguarded(&guarded.write), place, timed),
        }
    }

    fn revoke(&mut self, revoke: &LeaseRevoke, place: Incarnation) -> Result<Response, Refusal> {
        let lease = self.leases.get(&revoke.id);
        if let Some(guard) = revoke.expiry {
            let due = |lease: &LeaseRow| lease.clock_ms + lease.ttl_ms + lease.ttl_ms.div_ceil(100);
            let holds = lease.is_some_and(|lease| {
                lease.incarnation == guard.incarnation
                    && lease.renewals == guard.renewals
                    && self.clock_ms >= due(lease)
            });
            if !holds {
                return Ok(Response::ExpiryStale);
            }
        } else if lease.is_none() {
            return Err(Refusal::LeaseNotFound);
        }
        let keys: Vec<KeyValue> = self.now().values().filter(|kv| kv.lease == revoke.id).cloned().collect();
        let delay = |kv: &KeyValue| revoke.expiry.and_then(|_| self.delay_of(&kv.key, revoke.id));
        let delays: Vec<Option<u64>> = keys.iter().map(delay).collect();
        let before = self.locks.clone();
        let lease = self.leases.remove(&revoke.id).unwrap();
        let holder = self.holders.remove(&revoke.id).unwrap_or_default();
        let gone = delays.iter().filter(|delay| delay.is_none()).count();
        let answer = self.change(|_, draft| {
            for (kv, delay) in keys.iter().zip(&delays) {
                if delay.is_some() {
                    drop(draft.put(&plain_put(kv.key.clone(), kv.value.clone(), LeaseId::NONE)));
                } else {
                    draft.delete_key(&kv.key);
                }
            }
            Response::LeaseRevoke
        });
        self.note_delays(revoke, &before, &keys, &delays);
        if let Some(by) = &revoke.by {
            self.ends.push(LeaseEnd {
                id: revoke.id,
                incarnation: lease.incarnation,
                ttl_ms: lease.ttl_ms,
                renewals: lease.renewals,
                renewed_ms: lease.clock_ms,
                ended_ms: self.clock_ms,
                index: place.index,
                term: self.term,
                expired: revoke.expiry.is_some(),
                by: by.clone(),
                keys: gone as u64,
                revision: Revision(self.revision()),
                holder: holder.name,
            });
        }
        answer
    }

    /// The keys of a lease that just expired are delayed, if that was asked for.
    fn note_delays(&mut self, revoke: &LeaseRevoke, before: &Locks, keys: &[KeyValue], delays: &[Option<u64>]) {
        let revision = Revision(self.revision());
        for ((sub, kv), ends_ms) in (0..).zip(keys).zip(delays) {
            let Some(ends_ms) = *ends_ms else { continue };
            self.locks.natives.get_mut(&kv.key).unwrap().delayed = true;
            let delay = LockDelay { modified: revision, ends_ms };
            self.locks.delays.insert((revoke.id, kv.key.clone()), delay);
            let name = kv.key.slice(..kv.key.iter().rposition(|byte| *byte == b'/').unwrap());
            let left = LockLeft { by: revoke.by.clone(), ..what_is_left(before, Some(&name), kv, self.clock_ms) };
            self.locks.causes.insert(EventId { revision, sub }, LockCause::Delayed(left));
        }
    }

    /// Makes a revision of what `change` does, if it does anything.
    pub(crate) fn change<T>(&mut self, change: impl FnOnce(&Model, &mut Draft) -> T) -> Result<T, Refusal> {
        let revision = self.revision() + 1;
        let mut draft = Draft { keys: self.now().clone(), revision, events: Vec::new() };
        let result = change(self, &mut draft);
        if !draft.events.is_empty() {
            self.at.push(draft.keys);
            for (sub, event) in (0..).zip(draft.events) {
                self.events.insert(EventId { revision: Revision(revision), sub }, event);
            }
        }
        Ok(result)
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnResponse, Refusal> {
        if [&txn.success, &txn.failure].into_iter().any(|branch| branch_paths(branch).iter().any(|ops| collides(ops))) {
            return Err(Refusal::DuplicateKey);
        }
        let taken = self.taken(txn);
        for put in taken.iter().filter_map(|op| if let Op::Put(put) = op { Some(put) } else { None }) {
            if (put.ignore_value || put.ignore_lease) && !self.now().contains_key(&put.key) {
                return Err(Refusal::KeyNotFound);
            }
            if put.lease.0 != 0 && !self.leases.contains_key(&put.lease) {
                return Err(Refusal::LeaseNotFound);
            }
        }
        self.check_txn_ranges(&taken)?;
        self.change(|model, draft| model.run(txn, draft))
    }

    fn check_txn_ranges(&self, taken: &[Op]) -> Result<(), Refusal> {
        for range in taken.iter().filter_map(|op| if let Op::Range(range) = op { Some(range) } else { None }) {
            match range.revision.0 {
                0 => {}
                revision if revision > self.revision() => return Err(Refusal::FutureRevision),
                revision if revision < self.compacted => return Err(Refusal::Compacted),
                _ => {}
            }
        }
        Ok(())
    }

    /// A transaction that only reads.
    pub(crate) fn read_txn(&self, txn: &Txn) -> Result<TxnResponse, Refusal> {
        self.check_txn_ranges(&self.taken(txn))?;
        let mut draft = Draft { keys: self.now().clone(), revision: self.revision() + 1, events: Vec::new() };
        Ok(self.run(txn, &mut draft))
    }

    /// The operations of the path taken, nested ones in their place.
    fn taken(&self, txn: &Txn) -> Vec<Op> {
        let ops = if self.all_hold(&txn.compares) { &txn.success } else { &txn.failure };
        ops.iter().flat_map(|op| if let Op::Txn(nested) = op { self.taken(nested) } else { vec![op.clone()] }).collect()
    }

    fn run(&self, txn: &Txn, draft: &mut Draft) -> TxnResponse {
        let succeeded = self.all_hold(&txn.compares);
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let responses = ops.iter().map(|op| match op {
            Op::Range(range) => OpResponse::Range(self.read_during(range, &draft.keys).unwrap()),
            Op::Put(put) => OpResponse::Put(draft.put(put)),
            Op::DeleteRange(delete) => OpResponse::DeleteRange(draft.delete(delete)),
            Op::Txn(nested) => OpResponse::Txn(self.run(nested, draft)),
        });
        TxnResponse { succeeded, responses: responses.collect() }
    }

    fn all_hold(&self, compares: &[Compare]) -> bool {
        compares.iter().all(|compare| {
            let kvs: Vec<&KeyValue> = select(self.now(), &compare.range);
            match (kvs.is_empty(), &compare.target) {
                (true, CompareTarget::Value(_)) => false,
                (true, _) => holds(compare, &KeyValue::default()),
                (false, _) => kvs.iter().all(|kv| holds(compare, kv)),
            }
        })
    }

    pub(crate) fn read(&self, range: &Range) -> Result<RangeResult, Refusal> {
        self.read_during(range, self.now())
    }

    /// etcd's order of steps: fetch (cut at limit + 1 if nothing sorts or filters), filter, sort, cut.
    fn read_during(&self, range: &Range, present: &Keys) -> Result<RangeResult, Refusal> {
        let keys = match range.revision.0 {
            revision if revision > self.revision() => return Err(Refusal::FutureRevision),
            revision if revision <= 0 => present,
            revision if revision < self.compacted => return Err(Refusal::Compacted),
            revision => &self.at[usize::try_from(revision).unwrap()],
        };
        let mut kvs: Vec<KeyValue> = select(keys, &range.range).into_iter().cloned().collect();
        let count = i64::try_from(kvs.len()).unwrap();
        if range.count_only {
            return Ok(RangeResult { kvs: vec![], more: false, count });
        }
        let filters = [range.min_mod, range.max_mod, range.min_create, range.max_create].map(|bound| bound.0);
        let limit = if range.limit > 0 { usize::try_from(range.limit).unwrap() } else { usize::MAX };
        if range.order == SortOrder::None && filters == [0; 4] {
            kvs.truncate(limit.saturating_add(1));
        }
        let [min_mod, max_mod, min_create, max_create] = filters;
        kvs.retain(|kv| max_mod == 0 || kv.modified.0 <= max_mod);
        kvs.retain(|kv| min_mod == 0 || kv.modified.0 >= min_mod);
        kvs.retain(|kv| max_create == 0 || kv.create.0 <= max_create);
        kvs.retain(|kv| min_create == 0 || kv.create.0 >= min_create);
        sort(&mut kvs, range);
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if range.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeResult { kvs, more, count })
    }

    /// The value before an event, if it is not compacted.
    pub(crate) fn before(&self, id: EventId) -> Option<KeyValue> {
        let revision = id.revision.0 - 1;
        if revision < self.compacted {
            return None;
        }
        self.at[usize::try_from(revision).unwrap()].get(&self.events[&id].0).cloned()
    }
}

fn sort(kvs: &mut [KeyValue], range: &Range) {
    if range.order == SortOrder::None && range.target == SortTarget::Key {
        return;
    }
    kvs.sort_by(|a, b| {
        let ascending = match range.target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create.0.cmp(&b.create.0),
            SortTarget::Mod => a.modified.0.cmp(&b.modified.0),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        if range.order == SortOrder::Descend { ascending.reverse() } else { ascending }
    });
}

fn in_range(range: &KeyRange, key: &Bytes) -> bool {
    match range {
        KeyRange::One(one) => key == one,
        KeyRange::Between(start, end) => key >= start && key < end,
        KeyRange::From(start) => key >= start,
    }
}

fn select<'a>(keys: &'a Keys, range: &KeyRange) -> Vec<&'a KeyValue> {
    keys.values().filter(|kv| in_range(range, &kv.key)).collect()
}

fn holds(compare: &Compare, kv: &KeyValue) -> bool {
    let (less, equal) = match &compare.target {
        CompareTarget::Version(version) => (kv.version < *version, kv.version == *version),
        CompareTarget::Create(revision) => (kv.create.0 < revision.0, kv.create == *revision),
        CompareTarget::Mod(revision) => (kv.modified.0 < revision.0, kv.modified == *revision),
        CompareTarget::Value(value) => (kv.value[..] < value[..], kv.value == value),
        CompareTarget::Lease(lease) => (kv.lease.0 < lease.0, kv.lease == *lease),
    };
    match compare.result {
        CompareResult::Equal => equal,
        CompareResult::NotEqual => !equal,
        CompareResult::Less => less,
        CompareResult::Greater => !less && !equal,
    }
}

/// Every path through a transaction, as the operations on it.
fn paths(txn: &Txn) -> Vec<Vec<Op>> {
    [branch_paths(&txn.success), branch_paths(&txn.failure)].concat()
}

fn branch_paths(ops: &[Op]) -> Vec<Vec<Op>> {
    let mut all = vec![vec![]];
    for op in ops {
        let ways = if let Op::Txn(nested) = op { paths(nested) } else { vec![vec![op.clone()]] };
        all = all.iter().flat_map(|path| ways.iter().map(|way| [path.clone(), way.clone()].concat())).collect();
    }
    all
}

/// Whether a path changes a key twice, other than by deleting it twice.
fn collides(path: &[Op]) -> bool {
    path.iter().enumerate().any(|(at, op)| {
        let Op::Put(put) = op else { return false };
        path.iter().enumerate().any(|(other, op)| match op {
            Op::Put(second) => other != at && second.key == put.key,
            Op::DeleteRange(delete) => in_range(&delete.range, &put.key),
            Op::Range(_) | Op::Txn(_) => false,
        })
    })
}

impl Draft {
    pub(crate) fn delete_key(&mut self, key: &Bytes) -> i64 {
        self.delete(&DeleteRange { range: KeyRange::One(key.clone()), prev_kv: false }).deleted
    }

    pub(crate) fn put(&mut self, put: &Put) -> Option<KeyValue> {
        let old = self.keys.get(&put.key).cloned();
        let kept = old.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            value: if put.ignore_value { kept.value } else { put.value.clone() },
            create: if old.is_some() { kept.create } else { Revision(self.revision) },
            modified: Revision(self.revision),
            version: kept.version + 1,
            lease: if put.ignore_lease { kept.lease } else { put.lease },
        };
        self.events.push((put.key.clone(), Some(kv.clone())));
        self.keys.insert(put.key.clone(), kv);
        old.filter(|_| put.prev_kv)
    }

    fn delete(&mut self, delete: &DeleteRange) -> DeletedRange {
        let doomed: Vec<KeyValue> = select(&self.keys, &delete.range).into_iter().cloned().collect();
        for kv in &doomed {
            self.keys.remove(&kv.key);
            self.events.push((kv.key.clone(), None));
        }
        let deleted = i64::try_from(doomed.len()).unwrap();
        DeletedRange { deleted, prev_kvs: if delete.prev_kv { doomed } else { vec![] } }
    }
}
