//! The naive model of locks. It knows nothing of queues: it sorts the keys under a name by their creation and asks how many
//! of the first may hold together. What is stored follows from that, and is compared row by row.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tenure_core::command::{
    Command, GuardedWrite, LockAcquire, LockCancel, LockDelayEnd, LockForce, LockGuard, LockRelease, LockRequest, Put,
};
use tenure_core::lock::{
    Attached, Contender, Granted, LockCause, LockClaim, LockDelay, LockEnd, LockKey, LockLeft, LockMode, LockRequests,
    LockRow, LockValue, Native, Sharing,
};
use tenure_core::outcome::{KeyValue, LockAnswer, Refusal, Response};
use tenure_core::row::{Incarnation, LockCounts, RevokedBy};
use tenure_core::{EventId, LeaseId, Revision};

use crate::model::{Keys, Model};

/// What is known of locks beside the keys.
#[derive(Clone, Default)]
pub(crate) struct Locks {
    /// What acquired the keys that are there.
    pub(crate) natives: BTreeMap<Bytes, Native>,
    /// The names that were acquired natively and have keys.
    pub(crate) names: BTreeSet<Bytes>,
    /// Since when the keys under a name hold it.
    pub(crate) granted: BTreeMap<(Bytes, Bytes), Granted>,
    /// The lowest number that was ever said to be open, and those that are finished, whatever they are.
    numbers: BTreeMap<LeaseId, (u64, BTreeSet<u64>)>,
    pub(crate) delays: BTreeMap<(LeaseId, Bytes), LockDelay>,
    pub(crate) causes: BTreeMap<EventId, LockCause>,
    /// All requests that were ever finished: of a lease, for a lock, by number. A number is for one lock, but not all
    /// clients know that.
    finished: BTreeSet<(LeaseId, Incarnation, Bytes, u64)>,
    /// The last token of an exclusive holder, by name.
    tokens: BTreeMap<Bytes, Revision>,
}

pub(crate) fn key_of(name: &Bytes, lease: LeaseId) -> Bytes {
    let text = if lease.0 < 0 { format!("-{:x}", -lease.0) } else { format!("{:x}", lease.0) };
    [name, &b"/"[..], text.as_bytes()].concat().into()
}

fn own_name(key: &Bytes) -> Option<Bytes> {
    key.iter().rposition(|byte| *byte == b'/').map(|slash| key.slice(..slash))
}

/// The keys under a name, the oldest first.
fn contenders<'a>(keys: &'a Keys, name: &Bytes) -> Vec<&'a KeyValue> {
    let prefix = [name, &b"/"[..]].concat();
    let mut found: Vec<&KeyValue> = keys.values().filter(|kv| kv.key.starts_with(&prefix)).collect();
    found.sort_by(|a, b| (a.create.0, &a.key).cmp(&(b.create.0, &b.key)));
    found
}

fn may_hold_together(modes: &[LockMode]) -> bool {
    let permits: Option<Vec<u32>> = modes
        .iter()
        .map(|mode| if let LockMode::Semaphore { permits, .. } = mode { Some(*permits) } else { None })
        .collect();
    let limit =
        modes.iter().find_map(|mode| if let LockMode::Semaphore { limit, .. } = mode { Some(*limit) } else { None });
    modes.len() <= 1
        || modes.iter().all(|mode| *mode == LockMode::Shared)
        || permits.is_some_and(|permits| permits.iter().sum::<u32>() <= limit.unwrap())
}

/// How many of the first may hold together.
fn front(modes: &[LockMode]) -> usize {
    (0..=modes.len()).rev().find(|count| may_hold_together(&modes[..*count])).unwrap()
}

impl Locks {
    fn mode(&self, name: &Bytes, key: &Bytes) -> LockMode {
        let native = self.natives.get(key).filter(|_| own_name(key).as_ref() == Some(name));
        native.map_or(LockMode::Exclusive, |native| native.mode)
    }

    fn modes(&self, name: &Bytes, keys: &Keys) -> Vec<LockMode> {
        contenders(keys, name).iter().map(|kv| self.mode(name, &kv.key)).collect()
    }

    fn is_finished(&self, lease: LeaseId, number: u64) -> bool {
        self.numbers.get(&lease).is_some_and(|(floor, numbers)| number < *floor || numbers.contains(&number))
    }

    /// The lowest number that is not known to be finished.
    fn floor(&self, lease: LeaseId) -> u64 {
        let (floor, numbers) = self.numbers.get(&lease).cloned().unwrap_or((1, BTreeSet::new()));
        (floor.max(1)..).find(|number| !numbers.contains(number)).unwrap()
    }

    fn refused(&self, request: &LockRequest) -> Option<Refusal> {
        if self.is_finished(request.lease, request.number) {
            return Some(Refusal::LockRequestFinished);
        }
        let is_far = request.number >= self.floor(request.lease).max(request.lowest_open) + 1024;
        is_far.then_some(Refusal::LockRequestsTooMany)
    }

    fn raise(&mut self, request: &LockRequest) {
        let (floor, _) = self.numbers.entry(request.lease).or_insert((1, BTreeSet::new()));
        *floor = request.lowest_open.max(*floor);
    }

    fn finish(&mut self, (lease, incarnation): (LeaseId, Incarnation), name: &Bytes, number: u64) {
        self.numbers.entry(lease).or_insert((1, BTreeSet::new())).1.insert(number);
        self.finished.insert((lease, incarnation, name.clone(), number));
    }

    /// All rows, but for the frontiers, which are only bounds.
    pub(crate) fn rows(&self, keys: &Keys) -> BTreeMap<LockKey, LockValue> {
        let mut rows = BTreeMap::new();
        for name in &self.names {
            rows.insert(LockKey::Lock(name.clone()), LockValue::Lock(self.row(name, keys)));
            for kv in contenders(keys, name) {
                let native = self.natives.get(&kv.key).filter(|_| own_name(&kv.key).as_ref() == Some(name));
                let granted = self.granted.get(&(name.clone(), kv.key.clone())).copied();
                let row = LockValue::Place(Contender { granted, native: native.cloned() });
                rows.insert(LockKey::Place(name.clone(), kv.create, kv.key.clone()), row);
            }
        }
        for (lease, (_, numbers)) in &self.numbers {
            let floor = self.floor(*lease);
            let finished = numbers.iter().copied().filter(|number| *number > floor).collect();
            rows.insert(LockKey::Requests(*lease), LockValue::Requests(LockRequests { floor, finished }));
        }
        for ((lease, key), delay) in &self.delays {
            rows.insert(LockKey::Delay(*lease, key.clone()), LockValue::Delay(*delay));
        }
        rows
    }

    fn row(&self, name: &Bytes, keys: &Keys) -> LockRow {
        let modes = self.modes(name, keys);
        let holders = &modes[..front(&modes)];
        let sharing = |mode: &LockMode| match mode {
            LockMode::Exclusive => None,
            LockMode::Shared => Some(Sharing::Readers),
            LockMode::Semaphore { limit, .. } => Some(Sharing::Permits { limit: *limit }),
        };
        let sharing: Vec<Sharing> = modes.iter().filter_map(sharing).collect();
        assert!(sharing.windows(2).all(|pair| pair[0] == pair[1]), "a lock is shared in one way");
        let permits = holders
            .iter()
            .map(|mode| if let LockMode::Semaphore { permits, .. } = mode { u64::from(*permits) } else { 0 });
        LockRow {
            contenders: modes.len() as u64,
            granted: holders.len() as u64,
            exclusive: holders == [LockMode::Exclusive],
            permits: permits.sum(),
            oldest: contenders(keys, name)[0].create,
            frontier: Revision(0),
            sharing: sharing.first().map(|way| (*way, sharing.len() as u64)),
        }
    }

    pub(crate) fn counts(&self) -> LockCounts {
        LockCounts {
            locks: self.names.len() as u64,
            requests: self.numbers.len() as u64,
            delays: self.delays.len() as u64,
        }
    }
}

impl Model {
    pub(crate) fn acquire(&mut self, acquire: &LockAcquire) -> Result<Response, Refusal> {
        let LockAcquire { name, request, .. } = acquire;
        let is_odd = match acquire.mode {
            LockMode::Semaphore { permits, limit } => permits == 0 || permits > limit,
            LockMode::Exclusive | LockMode::Shared => false,
        };
        if name.is_empty() || request.number == 0 || request.lowest_open > request.number || is_odd {
            return Err(Refusal::LockInvalid);
        }
        let incarnation = self.leases.get(&request.lease).ok_or(Refusal::LeaseNotFound)?.incarnation;
        let key = key_of(name, request.lease);
        let own = self.own(&key, request.lease);
        let granted = self.locks.granted.contains_key(&(name.clone(), key.clone()));
        let finished = (request.lease, incarnation, name.clone(), request.number);
        let ever_finished = self.locks.finished.contains(&finished);
        if let Some(Some(place)) =
            own.as_ref().map(|own| own.requests.iter().position(|known| known.number == request.number))
        {
            assert!(!ever_finished, "what was ever finished is not granted again");
            self.locks.raise(request);
            let attach = &mut self.locks.natives.get_mut(&key).unwrap().requests[place].attach;
            *attach = request.attach.max(*attach);
            return Ok(Response::LockAcquire(self.answer(name, &key)));
        }
        if self.locks.is_finished(request.lease, request.number) {
            return Err(Refusal::LockRequestFinished);
        }
        assert!(!ever_finished, "what was ever finished is not granted again");
        if let Some(refusal) = self.locks.refused(request) {
            return Err(refusal);
        }
        let attached = Attached { number: request.number, attach: request.attach };
        if let Some(own) = own {
            let both_ask = own.holds_max > 0 && acquire.holds_max > 0;
            if !both_ask || own.owner != acquire.owner || own.mode != acquire.mode || !granted {
                return Err(Refusal::LockAlreadyHeld);
            }
            if own.requests.len() >= own.holds_max as usize {
                return Err(Refusal::LockHeldTooOften);
            }
            self.locks.raise(request);
            self.locks.natives.get_mut(&key).unwrap().requests.push(attached);
            return Ok(Response::LockAcquire(self.answer(name, &key)));
        }
        if self.now().contains_key(&key) {
            return Err(Refusal::LockAlreadyHeld);
        }
        self.join(acquire, &key, incarnation)
    }

    fn join(&mut self, acquire: &LockAcquire, key: &Bytes, incarnation: Incarnation) -> Result<Response, Refusal> {
        let LockAcquire { name, request, mode, .. } = acquire;
        let mut modes = self.locks.modes(name, self.now());
        let differs = |other: &LockMode| match (mode, other) {
            (LockMode::Exclusive, _) | (_, LockMode::Exclusive) | (LockMode::Shared, LockMode::Shared) => false,
            (LockMode::Semaphore { limit, .. }, LockMode::Semaphore { limit: other, .. }) => limit != other,
            _ => true,
        };
        if modes.iter().any(differs) {
            return Err(Refusal::LockModeMismatch);
        }
        self.locks.raise(request);
        modes.push(*mode);
        if !acquire.wait && front(&modes) < modes.len() {
            self.locks.finish((request.lease, incarnation), name, request.number);
            return Ok(Response::LockAcquire(LockAnswer::Busy));
        }
        let native = Native {
            lease: request.lease,
            incarnation,
            mode: *mode,
            owner: acquire.owner.clone(),
            holds_max: acquire.holds_max,
            delay_ms: acquire.delay_ms,
            since_ms: self.clock_ms,
            delayed: false,
            requests: vec![Attached { number: request.number, attach: request.attach }],
        };
        // Of those that were there before the lock was native, the oldest holds it, since it came.
        if self.locks.names.insert(name.clone())
            && let Some(oldest) = contenders(self.now(), name).first()
        {
            let granted = Granted { revision: oldest.create, clock_ms: self.clock_ms };
            let oldest = oldest.key.clone();
            self.locks.granted.insert((name.clone(), oldest), granted);
        }
        self.locks.natives.insert(key.clone(), native);
        let put = plain_put(key.clone(), acquire.metadata.clone(), request.lease);
        let answer = self.change(|_, draft| draft.put(&put));
        assert_eq!(answer, Ok(None));
        self.note_grants();
        let claim = LockClaim { owner: acquire.owner.clone(), mode: *mode, number: request.number };
        let id = EventId { revision: Revision(self.revision()), sub: 0 };
        self.locks.causes.insert(id, LockCause::Acquired(claim));
        Ok(Response::LockAcquire(match self.answer(name, key) {
            LockAnswer::Queued { .. } => LockAnswer::Queued { ahead: Some(modes.len() as u64 - 1) },
            answer => answer,
        }))
    }

    fn answer(&self, name: &Bytes, key: &Bytes) -> LockAnswer {
        let native = &self.locks.natives[key];
        if self.locks.granted.contains_key(&(name.clone(), key.clone())) {
            let holds = u32::try_from(native.requests.len()).unwrap();
            return LockAnswer::Granted { token: self.now()[key].create, holds };
        }
        LockAnswer::Queued { ahead: None }
    }

    /// What a lease that lives has acquired and nobody else has taken over.
    fn own(&self, key: &Bytes, lease: LeaseId) -> Option<Native> {
        let incarnation = self.leases.get(&lease)?.incarnation;
        let native = self.locks.natives.get(key).filter(|native| native.incarnation == incarnation);
        native.filter(|_| self.now()[key].lease == lease).cloned()
    }

    pub(crate) fn cancel(&mut self, cancel: &LockCancel) -> Result<Response, Refusal> {
        let LockCancel { name, request } = cancel;
        if name.is_empty() || request.number == 0 || request.lowest_open > request.number {
            return Err(Refusal::LockInvalid);
        }
        let incarnation = self.leases.get(&request.lease).ok_or(Refusal::LeaseNotFound)?.incarnation;
        let key = key_of(name, request.lease);
        let own = self.own(&key, request.lease);
        let known = own.and_then(|own| own.requests.into_iter().find(|known| known.number == request.number));
        match known {
            Some(known) if known.attach > request.attach => Ok(Response::LockCancelStale),
            Some(_) => {
                self.locks.raise(request);
                self.end_hold(&key, Some(request.number));
                Ok(Response::LockCancel { ended: true })
            }
            None if self.locks.is_finished(request.lease, request.number) => Ok(Response::LockCancel { ended: false }),
            None => {
                if let Some(refusal) = self.locks.refused(request) {
                    return Err(refusal);
                }
                self.locks.raise(request);
                self.locks.finish((request.lease, incarnation), name, request.number);
                Ok(Response::LockCancel { ended: false })
            }
        }
    }

    pub(crate) fn release(&mut self, release: &LockRelease) -> Result<Response, Refusal> {
        let LockRelease { name, lease, token, number } = release;
        if name.is_empty() {
            return Err(Refusal::LockInvalid);
        }
        let key = key_of(name, *lease);
        let own = self.own(&key, *lease).filter(|_| self.now()[&key].create == *token);
        let own = own.filter(|_| self.locks.granted.contains_key(&(name.clone(), key.clone())));
        let Some(own) = own else { return Ok(Response::LockRelease { released: false, holds: 0 }) };
        let holds = u32::try_from(own.requests.len()).unwrap();
        if *number != 0 && !own.requests.iter().any(|request| request.number == *number) {
            return Ok(Response::LockRelease { released: false, holds });
        }
        self.end_hold(&key, Some(*number).filter(|number| *number != 0));
        Ok(Response::LockRelease { released: true, holds: if *number == 0 { 0 } else { holds - 1 } })
    }

    fn end_hold(&mut self, key: &Bytes, number: Option<u64>) {
        let native = self.locks.natives.get_mut(key).unwrap();
        match number {
            Some(number) if native.requests.len() > 1 => {
                native.requests.retain(|request| request.number != number);
                let lease = (native.lease, native.incarnation);
                self.locks.finish(lease, &own_name(key).unwrap(), number);
            }
            _ => self.delete_one(key),
        }
    }

    fn delete_one(&mut self, key: &Bytes) {
        let deleted = self.change(|_, draft| draft.delete_key(key));
        assert_eq!(deleted, Ok(1));
    }

    pub(crate) fn force(&mut self, force: &LockForce) -> Result<Response, Refusal> {
        let removed = self.now().get(&force.key).is_some_and(|kv| kv.create == force.token);
        if removed {
            self.delete_one(&force.key);
        }
        Ok(Response::LockForce { removed })
    }

    pub(crate) fn end_delay(&mut self, end: &LockDelayEnd) -> Result<Response, Refusal> {
        let delay = self.locks.delays.get(&(end.lease, end.key.clone())).copied();
        let delay = delay.filter(|delay| delay.modified == end.modified && delay.ends_ms <= self.clock_ms);
        let Some(delay) = delay else { return Ok(Response::LockDelayStale) };
        if self.now()[&end.key].modified == delay.modified {
            self.delete_one(&end.key);
        } else {
            self.locks.delays.remove(&(end.lease, end.key.clone()));
            self.locks.natives.get_mut(&end.key).unwrap().delayed = false;
        }
        Ok(Response::LockDelayEnd)
    }

    pub(crate) fn guard_holds(&self, guard: &LockGuard) -> bool {
        let kv = self.now().get(&guard.key);
        let is_it = kv.is_some_and(|kv| kv.create == guard.token && kv.lease == guard.lease);
        let name = own_name(&guard.key).filter(|name| self.locks.names.contains(name));
        is_it && name.is_none_or(|name| self.locks.granted.contains_key(&(name, guard.key.clone())))
    }

    /// When the delay of a key would end that is on a lease that expires now, if it has one.
    pub(crate) fn delay_of(&self, key: &Bytes, lease: LeaseId) -> Option<u64> {
        let native = self.own(key, lease).filter(|native| native.delay_ms > 0)?;
        let name = own_name(key).unwrap();
        self.locks
            .granted
            .contains_key(&(name, key.clone()))
            .then(|| self.clock_ms + native.delay_ms + native.delay_ms.div_ceil(100))
    }

    /// Notes what became of locks by a command that has changed keys.
    pub(crate) fn follow_locks(&mut self, command: &Command, before: &Keys, revision_before: i64) {
        let known = self.locks.clone();
        if let Command::LeaseRevoke(revoke) = command
            && !self.leases.contains_key(&revoke.id)
        {
            self.locks.numbers.remove(&revoke.id);
        }
        if self.revision() > revision_before {
            let revision = Revision(self.revision());
            let from = EventId { revision, sub: 0 };
            let gone: Vec<(EventId, Bytes)> = self
                .events
                .range(from..)
                .filter(|(_, (_, kv))| kv.is_none())
                .map(|(id, (key, _))| (*id, key.clone()))
                .collect();
            for (id, key) in gone {
                if let Some(cause) = left(&known, &before[&key], command, self.clock_ms) {
                    self.locks.causes.insert(id, cause);
                }
                self.forget(&key);
            }
        }
        self.note_grants();
        for (key, native) in &self.locks.natives {
            let lives = self.leases.get(&native.lease).is_some_and(|lease| lease.incarnation == native.incarnation);
            assert!(
                lives || self.now()[key].version > 1,
                "no dead lease is in a queue, unless its key was written since"
            );
        }
    }

    fn forget(&mut self, key: &Bytes) {
        let Some(native) = self.locks.natives.remove(key) else { return };
        self.locks.delays.remove(&(native.lease, key.clone()));
        if self.leases.get(&native.lease).is_some_and(|lease| lease.incarnation == native.incarnation) {
            for request in native.requests {
                let lease = (native.lease, native.incarnation);
                self.locks.finish(lease, &own_name(key).unwrap(), request.number);
            }
        }
    }

    fn note_grants(&mut self) {
        let now = self.now().clone();
        self.locks.granted.retain(|(_, key), granted| now.get(key).is_some_and(|kv| kv.create <= granted.revision));
        let names = self.locks.names.clone();
        for name in names {
            let modes = self.locks.modes(&name, &now);
            let keys = contenders(&now, &name);
            let (holders, waiting) = keys.split_at(front(&modes));
            for kv in waiting {
                assert!(!self.locks.granted.contains_key(&(name.clone(), kv.key.clone())), "a grant is not withdrawn");
            }
            for kv in holders {
                let granted = Granted { revision: Revision(self.revision()), clock_ms: self.clock_ms };
                let place = (name.clone(), kv.key.clone());
                if self.locks.granted.contains_key(&place) {
                    continue;
                }
                self.locks.granted.insert(place, granted);
                if self.locks.mode(&name, &kv.key) == LockMode::Exclusive {
                    let last = self.locks.tokens.insert(name.clone(), kv.create);
                    assert!(last.is_none_or(|last| last <= kv.create), "tokens rise");
                }
            }
            if keys.is_empty() {
                self.locks.names.remove(&name);
            }
        }
    }
}

/// What is told of a key that was deleted, from what was known before the command.
fn left(known: &Locks, kv: &KeyValue, command: &Command, clock_ms: u64) -> Option<LockCause> {
    let innermost = known.names.iter().filter(|name| kv.key.starts_with(&[name, &b"/"[..]].concat()));
    let innermost = innermost.max_by_key(|name| name.len());
    let native = known.natives.get(&kv.key).filter(|_| own_name(&kv.key).as_ref() == innermost);
    let nobody = None;
    let (end, by, reason): (LockEnd, &Option<RevokedBy>, &str) = match command {
        Command::LockForce(force) => (LockEnd::Forced, &Some(force.by.clone()), &force.reason),
        Command::LockRelease(_) => (LockEnd::Released, &nobody, ""),
        Command::LockCancel(_) => (LockEnd::Cancelled, &nobody, ""),
        Command::LockDelayEnd(_) => (LockEnd::Lapsed, &nobody, ""),
        Command::LeaseRevoke(revoke) if innermost.is_some() && revoke.expiry.is_some() => {
            (LockEnd::Expired, &revoke.by, "")
        }
        Command::LeaseRevoke(revoke) if innermost.is_some() => (LockEnd::Revoked, &revoke.by, ""),
        Command::LeaseRevoke(_) => return None,
        _ if native.is_some() => (LockEnd::Deleted, &nobody, ""),
        _ => return None,
    };
    let left = what_is_left(known, innermost, kv, clock_ms);
    Some(LockCause::Left(end, LockLeft { by: by.clone(), reason: reason.into(), ..left }))
}

pub(crate) fn what_is_left(known: &Locks, innermost: Option<&Bytes>, kv: &KeyValue, clock_ms: u64) -> LockLeft {
    let native = known.natives.get(&kv.key).filter(|_| own_name(&kv.key).as_ref() == innermost);
    let granted = innermost.and_then(|name| known.granted.get(&(name.clone(), kv.key.clone())));
    LockLeft {
        lease: native.map_or(kv.lease, |native| native.lease),
        owner: native.map_or(String::new(), |native| native.owner.clone()),
        granted: granted.map(|granted| granted.revision),
        held_ms: granted.map_or(0, |granted| clock_ms - granted.clock_ms),
        by: None,
        reason: String::new(),
    }
}

pub(crate) fn plain_put(key: Bytes, value: Bytes, lease: LeaseId) -> Put {
    Put { key, value, lease, prev_kv: false, ignore_value: false, ignore_lease: false }
}

/// The command that a guarded write is, if the guard holds.
pub(crate) fn unguarded(write: &GuardedWrite) -> Command {
    match write {
        GuardedWrite::Put(put) => Command::Put(put.clone()),
        GuardedWrite::DeleteRange(delete) => Command::DeleteRange(delete.clone()),
    }
}
