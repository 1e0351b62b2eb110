//! The queues of native locks are what a naive sort of the live keys says, in every state of every member.
//!
//! The contenders for a lock are the keys under its name, in the order of their creation; those that hold it are as much of
//! the front as may hold together: so nobody waits for a lock that is free, nobody overtakes, and no more hold it than may.
//! Whoever is in a queue by a request has a lease that lives, unless its delay runs, and the request is not finished.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use tenure_core::lock::{Contender, LockKey, LockMode, LockRequests, LockRow, LockValue, Native, lock_key, lock_range};
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, Revision};
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;

use super::{Breach, Counts};

const ORACLE: &str = "lock queues";

/// A contender: the create revision of its key, its key, and its row.
type Place = (Revision, Bytes, Contender);

/// All rows, by their kinds.
#[derive(Default)]
struct Rows {
    locks: BTreeMap<Bytes, LockRow>,
    queues: BTreeMap<Bytes, Vec<Place>>,
    requests: BTreeMap<LeaseId, LockRequests>,
    delays: Vec<(LeaseId, Bytes)>,
}

/// Looks at states until one is wrong: most of those that follow would be wrong in the same way.
#[derive(Debug, Default)]
pub struct LockQueues {
    found: bool,
}

impl LockQueues {
    pub(super) fn saw(&mut self, place: usize, view: &StateView, counts: &mut Counts) -> Option<Breach> {
        if self.found {
            return None;
        }
        let (node, at) = (place + 1, view.applied().index);
        let wrong = match look(view, counts) {
            Ok(wrong) => wrong?,
            Err(error) => format!("it cannot be read: {error}"),
        };
        self.found = true;
        Some(Breach { oracle: ORACLE, text: format!("the state of n{node} at {at}: {wrong}") })
    }
}

fn look(view: &StateView, counts: &mut Counts) -> Result<Option<String>, StorageError> {
    if view.meta().locks == tenure_core::row::LockCounts::default() {
        return Ok(None);
    }
    let rows = rows(view)?;
    for name in rows.queues.keys() {
        if !rows.locks.contains_key(name) {
            return Ok(Some(format!("{name:?} has a queue and is no lock")));
        }
    }
    for (name, row) in &rows.locks {
        let queue = rows.queues.get(name).map_or(&[][..], |queue| queue);
        counts.lock_queues += 1;
        counts.lock_waiters_max = counts.lock_waiters_max.max(queue.len() as u64);
        if let Some(wrong) = queue_differs(view, name, row, queue)? {
            return Ok(Some(format!("{name:?} {wrong}; its queue is {queue:?}")));
        }
        for (create, key, contender) in queue {
            let Some(native) = &contender.native else { continue };
            if *key != lock_key(name, native.lease) {
                continue;
            }
            if let Some(wrong) = native_wrong(view, &rows, key, native)? {
                return Ok(Some(format!("{key:?}, created at {create}, contends for {name:?}, and {wrong}")));
            }
        }
    }
    Ok(None)
}

fn rows(view: &StateView) -> Result<Rows, StorageError> {
    let mut rows = Rows::default();
    view.scan_lock_rows(&LockKey::Delay(LeaseId(i64::MIN), Bytes::new()), &mut |key, value| {
        match (key, value) {
            (LockKey::Lock(name), LockValue::Lock(row)) => drop(rows.locks.insert(name, row)),
            (LockKey::Place(name, create, key), LockValue::Place(row)) => {
                rows.queues.entry(name).or_default().push((create, key, row));
            }
            (LockKey::Requests(lease), LockValue::Requests(row)) => drop(rows.requests.insert(lease, row)),
            (LockKey::Delay(lease, key), _) => rows.delays.push((lease, key)),
            (LockKey::Lock(_) | LockKey::Place(..) | LockKey::Requests(_), _) => {}
        }
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

fn queue_differs(
    view: &StateView,
    name: &Bytes,
    row: &LockRow,
    queue: &[Place],
) -> Result<Option<String>, StorageError> {
    let mut keys = Vec::new();
    view.scan_live(&lock_range(name), &mut |key| {
        keys.push(key);
        ControlFlow::Continue(())
    })?;
    let mut sorted = Vec::new();
    for key in keys {
        let create = view.current_meta(&key)?.map_or(Revision(0), |meta| meta.create);
        sorted.push((create, key));
    }
    sorted.sort_unstable();
    if !sorted.iter().map(|(create, key)| (create, key)).eq(queue.iter().map(|(create, key, _)| (create, key))) {
        return Ok(Some(format!("has the keys {sorted:?}")));
    }
    let front = front(queue);
    if let Some((create, ..)) = queue[..front].iter().find(|(_, _, contender)| contender.granted.is_none()) {
        return Ok(Some(format!("is not granted to the contender of {create}, which is in the front of {front}")));
    }
    if let Some((create, ..)) = queue[front..].iter().find(|(_, _, contender)| contender.granted.is_some()) {
        return Ok(Some(format!("is granted to the contender of {create}, which is behind the front of {front}")));
    }
    let counted = (row.contenders, row.granted) == (queue.len() as u64, front as u64);
    Ok((!counted || queue.is_empty()).then(|| format!("is counted wrong: {row:?}")))
}

/// How many of a queue hold its lock: the first, and all after it that may join.
fn front(queue: &[Place]) -> usize {
    let modes: Vec<LockMode> = queue.iter().map(|(_, _, contender)| mode(contender)).collect();
    let together = |modes: &[LockMode]| {
        let readers = modes.iter().all(|mode| *mode == LockMode::Shared);
        let permits = modes.iter().map(|mode| match mode {
            LockMode::Semaphore { permits, limit } => Some((u64::from(*permits), u64::from(*limit))),
            LockMode::Exclusive | LockMode::Shared => None,
        });
        let permits: Option<Vec<(u64, u64)>> = permits.collect();
        let fit = permits.is_some_and(|permits| {
            let taken: u64 = permits.iter().map(|(taken, _)| taken).sum();
            permits.iter().all(|(_, limit)| taken <= *limit)
        });
        modes.len() <= 1 || readers || fit
    };
    (0..=queue.len()).rev().find(|count| together(&modes[..*count])).unwrap_or(0)
}

fn mode(contender: &Contender) -> LockMode {
    contender.native.as_ref().map_or(LockMode::Exclusive, |native| native.mode)
}

fn native_wrong(view: &StateView, rows: &Rows, key: &Bytes, native: &Native) -> Result<Option<String>, StorageError> {
    let is_delayed = rows.delays.iter().any(|(lease, delayed)| *lease == native.lease && delayed == key);
    if is_delayed != native.delayed {
        return Ok(Some("its delay and its row differ".to_owned()));
    }
    let on = view.current_meta(key)?.map_or(LeaseId::NONE, |meta| meta.lease);
    let lease = StateRead::lease(view, native.lease)?.filter(|lease| lease.incarnation == native.incarnation);
    if lease.is_none() {
        // Whoever wrote the key since has it on another lease.
        let dead = on == native.lease && !native.delayed;
        return Ok(dead.then(|| format!("its lease {} is gone", native.lease)));
    }
    let finished = rows.requests.get(&native.lease);
    let back = native.requests.iter().find(|request| finished.is_some_and(|known| known.is_finished(request.number)));
    Ok(back.map(|request| format!("its request {} is finished", request.number)))
}

#[cfg(test)]
mod tests {
    use tenure_core::lock::Granted;

    use super::*;

    fn places(modes: &[LockMode]) -> Vec<Place> {
        let place = |(at, mode): (i64, &LockMode)| {
            let native = Some(Native { mode: *mode, ..Native::default() });
            (Revision(at), Bytes::new(), Contender { granted: Some(Granted::default()), native })
        };
        (1..).zip(modes).map(place).collect()
    }

    #[test]
    fn the_front_is_as_much_as_may_hold_together() {
        let (alone, reader) = (LockMode::Exclusive, LockMode::Shared);
        let of = |permits| LockMode::Semaphore { permits, limit: 3 };
        for (queue, holders) in [
            (vec![], 0),
            (vec![alone, alone], 1),
            (vec![reader, reader, alone, reader], 2),
            (vec![alone, reader], 1),
            (vec![of(1), of(2), of(1)], 2),
            (vec![of(2), of(2), of(1)], 1),
            (vec![of(1), alone, of(1)], 1),
        ] {
            assert_eq!(front(&places(&queue)), holders, "{queue:?}");
        }
    }
}
