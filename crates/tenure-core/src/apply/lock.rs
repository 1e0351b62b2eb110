//! Native locks: acquired, cancelled, released, taken away; and writes that depend on them.
//!
//! A request is found by its lock's key: `name/<lease>` is there for at most one contender of each lease, and its row says
//! by which requests. What is no longer there is finished, and its number is kept, so that a try that comes late changes
//! nothing. The queue itself is in [`queue`], because any command may change it.

mod acquire;
mod delay;
mod end;
pub(super) mod queue;
pub(super) mod requests;

use bytes::Bytes;

use super::changes::Newest;
use crate::command::LockGuard;
use crate::ids::LeaseId;
use crate::lock::{Contender, Granted, LockKey, LockValue, Native, read};
use crate::planted::{Bug, is_on};
use crate::row::{Incarnation, KeyMeta};
use crate::state::{StateRead, StateWrite};

pub(super) use acquire::acquire;
pub(super) use delay::{begin as begin_delay, end as end_delay};
pub(super) use end::{cancel, force, release};

/// A key that contends for a lock by an Acquire of a lease that lives.
struct Own {
    live: KeyMeta,
    granted: Option<Granted>,
    native: Native,
}

impl Own {
    /// What a lease has in a lock's queue by its key, as far as that exists. A key that somebody else has written since, with another lease, is not its own.
    fn of<S: StateRead>(
        state: &S,
        (name, key): (&Bytes, &Bytes),
        live: Option<KeyMeta>,
        (lease, incarnation): (LeaseId, Incarnation),
    ) -> Result<Option<Own>, S::Error> {
        let Some(live) = live.filter(|live| live.lease == lease) else { return Ok(None) };
        if read::lock(state, name)?.is_none() {
            return Ok(None);
        }
        let Some(Contender { granted, native }) = read::contender(state, name, live.create, key)? else {
            return Err(state.corrupt("a key is missing from the queue of its lock"));
        };
        let native = native.filter(|native| native.incarnation == incarnation);
        Ok(native.map(|native| Own { live, granted, native }))
    }

    /// The place in the native row of a request.
    fn place_of(&self, number: u64) -> Option<usize> {
        self.native.requests.iter().position(|request| request.number == number)
    }

    /// Writes the native row anew.
    fn write<S: StateWrite>(self, state: &mut S, name: Bytes, key: Bytes) {
        let contender = Contender { granted: self.granted, native: Some(self.native) };
        state.put_lock_row(LockKey::Place(name, self.live.create, key), LockValue::Place(contender));
    }
}

/// A key, if it exists.
fn live<S: StateRead>(state: &S, key: &[u8]) -> Result<Option<KeyMeta>, S::Error> {
    Ok(Newest::of(state.current_meta(key)?, state.meta().compacted).live)
}

/// The name of the lock that a native contender's key is of.
fn own_name(key: &Bytes) -> Option<Bytes> {
    let slash = key.iter().rposition(|byte| *byte == b'/')?;
    Some(key.slice(..slash))
}

/// Whether a lock is held: the two compares, and not by one that is known to wait.
pub(super) fn is_held<S: StateRead>(state: &S, guard: &LockGuard) -> Result<bool, S::Error> {
    if is_on(Bug::LockGuardUnchecked) {
        return Ok(true);
    }
    let Some(live) = live(state, &guard.key)? else { return Ok(false) };
    if live.create != guard.token || live.lease != guard.lease {
        return Ok(false);
    }
    let Some(name) = own_name(&guard.key) else { return Ok(true) };
    if state.meta().locks.locks == 0 || read::lock(state, &name)?.is_none() {
        return Ok(true);
    }
    match read::contender(state, &name, live.create, &guard.key)? {
        Some(contender) => Ok(contender.granted.is_some()),
        None => Err(state.corrupt("a key is missing from the queue of its lock")),
    }
}
