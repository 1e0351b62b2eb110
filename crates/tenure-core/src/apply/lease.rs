//! Leases: granted and revoked through the log, time included.
//!
//! A lease's row keeps the reading of the replicated lease clock at its grant or last renewal. That reading must have been
//! taken after the client asked: a grant or renewal that went by an older one would end too early, so one whose group
//! carries no reading is refused. The leader's lessor proposes the revoke of a lease that is due as a compare-and-set: it
//! names the incarnation and the number of renewals that it saw, and apply ignores it if either differs or the clock has
//! not come that far. So no leader, however stale, ends a lease early, and ids may be used again.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::changes::change;
use super::lease_end::{self, Leaves};
use super::lock::queue::Why;
use super::lock::{self, requests};
use super::{Applied, ApplyError, At};
use crate::command::{LeaseGrant, LeaseRevoke};
use crate::ids::LeaseId;
use crate::lock::read::has_delays;
use crate::outcome::{Refusal, Response};
use crate::planted::{Bug, is_on};
use crate::row::{LeaseHolder, LeaseRow};
use crate::state::StateWrite;

/// How much longer than its TTL a lease lives by the lease clock, in percent. The rates of any
/// two clocks, a client's included, differ by half a percent at most; the other half covers rounding to milliseconds.
pub const LEASE_MARGIN_PERCENT: u64 = 1;

/// The reading of the lease clock, in milliseconds, at which a lease is due.
pub fn due_ms(lease: &LeaseRow) -> u64 {
    if is_on(Bug::DueWithoutMargin) {
        return lease.clock_ms.saturating_add(lease.ttl_ms);
    }
    let margin_ms = lease.ttl_ms.saturating_mul(LEASE_MARGIN_PERCENT).div_ceil(100);
    lease.clock_ms.saturating_add(lease.ttl_ms).saturating_add(margin_ms)
}

/// For how long a renewal in the log also counts for the keepalives that follow it, in percent of the TTL, and in milliseconds at
/// most. They are answered without the log; in return a lessor lets a lease live so much longer, see [`ends_ms`].
const RENEWAL_COUNTS_PERCENT: u64 = 1;
/// See [`RENEWAL_COUNTS_PERCENT`].
const RENEWAL_COUNTS_MAX_MS: u64 = 500;

/// For how long a renewal of a lease with this TTL counts, in milliseconds.
pub fn renewal_counts_ms(ttl_ms: u64) -> u64 {
    (ttl_ms.saturating_mul(RENEWAL_COUNTS_PERCENT) / 100).min(RENEWAL_COUNTS_MAX_MS)
}

/// The reading of the lease clock, in milliseconds, at which lessors end a lease: when it is due, and the last keepalive that
/// its renewal may have counted for is a TTL ago as well. A matter of lessors, who alone propose ends: apply refuses what is not due.
pub fn ends_ms(lease: &LeaseRow) -> u64 {
    if is_on(Bug::DueWithoutMargin) {
        return due_ms(lease);
    }
    due_ms(lease).saturating_add(renewal_counts_ms(lease.ttl_ms))
}

pub(super) fn grant<S: StateWrite>(state: &mut S, at: At, grant: LeaseGrant) -> Applied<Response, S::Error> {
    let LeaseGrant { id, ttl_ms, holder } = grant;
    if !at.timed {
        return Ok(Err(Refusal::NoReading));
    }
    if !id.is_some() {
        return Ok(Err(Refusal::LeaseNotFound));
    }
    // The keys of its locks would be those that are still delayed.
    if state.lease(id)?.is_some() || has_delays(state, id)? {
        return Ok(Err(Refusal::LeaseExists));
    }
    let clock_ms = state.meta().lease_clock_ms;
    let has_holder = !holder.is_empty();
    state.put_lease(id, LeaseRow { incarnation: at.place, ttl_ms, renewals: 0, clock_ms, has_holder });
    if has_holder {
        state.put_lease_holder(id, holder);
    }
    Ok(Ok(Response::LeaseGrant { id, ttl_ms }))
}

/// Starts a lease's TTL anew. The clock is the largest reading applied, which is the group's own or one ahead of it.
pub(super) fn renew<S: StateWrite>(state: &mut S, at: At, id: LeaseId) -> Applied<Response, S::Error> {
    if !at.timed {
        return Ok(Err(Refusal::NoReading));
    }
    let Some(lease) = state.lease(id)? else {
        return Ok(Err(Refusal::LeaseNotFound));
    };
    let clock_ms = state.meta().lease_clock_ms;
    if clock_ms < lease.clock_ms {
        return Err(ApplyError::Invariant("a lease is ahead of the lease clock"));
    }
    let renewals = lease.renewals.checked_add(1);
    let renewals = renewals.ok_or(ApplyError::Invariant("a lease's renewals have reached their end"))?;
    let clock_ms = if is_on(Bug::RenewalWithoutTime) { lease.clock_ms } else { clock_ms };
    state.put_lease(id, LeaseRow { renewals, clock_ms, ..lease });
    Ok(Ok(Response::LeaseRenew { ttl_ms: lease.ttl_ms }))
}

/// Revokes a lease and deletes its keys in ascending order, in one revision.
pub(super) fn revoke<S: StateWrite>(state: &mut S, at: At, revoke: &LeaseRevoke) -> Applied<Response, S::Error> {
    let Some(lease) = state.lease(revoke.id)? else {
        return Ok(if revoke.expiry.is_some() { Ok(Response::ExpiryStale) } else { Err(Refusal::LeaseNotFound) });
    };
    if let Some(guard) = revoke.expiry {
        let is_same = lease.incarnation == guard.incarnation && lease.renewals == guard.renewals;
        let holds = is_same && state.meta().lease_clock_ms >= due_ms(&lease);
        if !holds && !is_on(Bug::UnguardedExpiry) && !is_on(Bug::StaleLessor) {
            return Ok(Ok(Response::ExpiryStale));
        }
    }
    let deleted = end_keys(state, revoke)?;
    state.delete_lease(revoke.id);
    let mut holder = LeaseHolder::default();
    if lease.has_holder {
        let missing = ApplyError::Invariant("a lease's holder is missing");
        holder = state.lease_holder(revoke.id)?.ok_or(missing)?;
        state.delete_lease_holder(revoke.id);
    }
    lease_end::record(state, at, revoke, &lease, Leaves { keys: deleted, holder: holder.name })?;
    Ok(Ok(Response::LeaseRevoke))
}

/// Ends the keys of a lease that ends, and answers how many are gone.
fn end_keys<S: StateWrite>(state: &mut S, revoke: &LeaseRevoke) -> Result<u64, ApplyError<S::Error>> {
    requests::end(state, revoke.id)?;
    let mut keys = Vec::new();
    state.scan_lease_keys(revoke.id, &mut |key| {
        keys.push(key);
        ControlFlow::Continue(())
    })?;
    let by = revoke.by.as_ref();
    let expired = revoke.expiry.is_some();
    change(state, if expired { Why::Expired(by) } else { Why::Revoked(by) }, |changes| {
        changes.detach_all(revoke.id, &keys);
        let mut deleted = 0;
        for key in keys {
            let live = changes.newest(&key)?.live.filter(|live| live.lease == revoke.id);
            let live = live.ok_or(ApplyError::Invariant("a lease holds a key that is not attached to it"))?;
            if !expired || !lock::begin_delay(changes, &key, &live, by)? {
                changes.delete(key, &live)?;
                deleted += 1;
            }
        }
        Ok(deleted)
    })
}
