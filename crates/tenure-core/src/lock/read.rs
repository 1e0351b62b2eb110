//! The rows of `locks` by their kinds.

use bytes::Bytes;
use core::ops::ControlFlow;

use super::{Contender, LockDelay, LockKey, LockRequests, LockRow, LockValue};
use crate::ids::{LeaseId, Revision};
use crate::state::StateRead;

const WRONG_KIND: &str = "a row of locks is not of its key's kind";

/// A lock that is native.
pub fn lock<S: StateRead>(state: &S, name: &Bytes) -> Result<Option<LockRow>, S::Error> {
    match state.lock_row(&LockKey::Lock(name.clone()))? {
        Some(LockValue::Lock(row)) => Ok(Some(row)),
        None => Ok(None),
        Some(LockValue::Delay(_) | LockValue::Place(_) | LockValue::Requests(_)) => Err(state.corrupt(WRONG_KIND)),
    }
}

/// A contender for a native lock, by the create revision of its key.
pub fn contender<S: StateRead>(
    state: &S,
    name: &Bytes,
    create: Revision,
    key: &Bytes,
) -> Result<Option<Contender>, S::Error> {
    match state.lock_row(&LockKey::Place(name.clone(), create, key.clone()))? {
        Some(LockValue::Place(row)) => Ok(Some(row)),
        None => Ok(None),
        Some(LockValue::Delay(_) | LockValue::Lock(_) | LockValue::Requests(_)) => Err(state.corrupt(WRONG_KIND)),
    }
}

/// The request numbers of a lease.
pub fn requests<S: StateRead>(state: &S, lease: LeaseId) -> Result<Option<LockRequests>, S::Error> {
    match state.lock_row(&LockKey::Requests(lease))? {
        Some(LockValue::Requests(row)) => Ok(Some(row)),
        None => Ok(None),
        Some(LockValue::Delay(_) | LockValue::Lock(_) | LockValue::Place(_)) => Err(state.corrupt(WRONG_KIND)),
    }
}

/// A key's delay.
pub fn delay<S: StateRead>(state: &S, lease: LeaseId, key: &Bytes) -> Result<Option<LockDelay>, S::Error> {
    match state.lock_row(&LockKey::Delay(lease, key.clone()))? {
        Some(LockValue::Delay(row)) => Ok(Some(row)),
        None => Ok(None),
        Some(LockValue::Lock(_) | LockValue::Place(_) | LockValue::Requests(_)) => Err(state.corrupt(WRONG_KIND)),
    }
}

/// The contenders for a native lock from a create revision on, in their order.
pub fn scan_contenders<S: StateRead>(
    state: &S,
    name: &Bytes,
    from: Revision,
    visit: &mut dyn FnMut(Revision, Bytes, Contender) -> ControlFlow<()>,
) -> Result<(), S::Error> {
    let mut damaged = false;
    let from = LockKey::Place(name.clone(), from, Bytes::new());
    state.scan_lock_rows(&from, &mut |key, row| match (key, row) {
        (LockKey::Place(of, create, key), LockValue::Place(row)) if of == name => visit(create, key, row),
        (LockKey::Place(of, ..), _) if of == name => {
            damaged = true;
            ControlFlow::Break(())
        }
        (LockKey::Delay(..) | LockKey::Lock(_) | LockKey::Place(..) | LockKey::Requests(_), _) => {
            ControlFlow::Break(())
        }
    })?;
    if damaged { Err(state.corrupt(WRONG_KIND)) } else { Ok(()) }
}

/// The delayed keys, those of a lease before those of the next: all, or from a lease on.
pub fn scan_delays<S: StateRead>(
    state: &S,
    from: LeaseId,
    visit: &mut dyn FnMut(LeaseId, Bytes, LockDelay) -> ControlFlow<()>,
) -> Result<(), S::Error> {
    let mut damaged = false;
    state.scan_lock_rows(&LockKey::Delay(from, Bytes::new()), &mut |key, row| match (key, row) {
        (LockKey::Delay(lease, key), LockValue::Delay(row)) => visit(lease, key, row),
        (LockKey::Delay(..), _) => {
            damaged = true;
            ControlFlow::Break(())
        }
        (LockKey::Lock(_) | LockKey::Place(..) | LockKey::Requests(_), _) => ControlFlow::Break(()),
    })?;
    if damaged { Err(state.corrupt(WRONG_KIND)) } else { Ok(()) }
}

/// Whether a lease that ended still has delayed keys. Its id cannot be granted meanwhile.
pub fn has_delays<S: StateRead>(state: &S, lease: LeaseId) -> Result<bool, S::Error> {
    let mut found = false;
    if state.meta().locks.delays > 0 {
        scan_delays(state, lease, &mut |of, _, _| {
            found = of == lease;
            ControlFlow::Break(())
        })?;
    }
    Ok(found)
}
