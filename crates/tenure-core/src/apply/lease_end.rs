//! Why leases are gone: the last so many that ended, each with who ended it and when.
//!
//! The records are numbered as they are made and kept in a ring: each new one removes the one that is [`LEASE_ENDS_MAX`]
//! older, without a look at it. That is all the work that an end costs. To find a lease one reads the ring from its newest
//! record on, which is for people who ask why, and not for programs on their way.

use alloc::string::String;

use super::{ApplyError, At};
use crate::command::LeaseRevoke;
use crate::row::{LeaseEnd, LeaseRow};
use crate::state::StateWrite;

/// Ends of leases that are kept: all of a storm in which a hundred thousand end at once. A record takes about 70 bytes,
/// 600 at most. Reading all of them, for a lease that is in none, takes tenths of a second.
///
/// It is part of what the members agree on. A build with a smaller one would have to remove what is between.
pub const LEASE_ENDS_MAX: u64 = 128 * 1024;

/// What a lease leaves behind.
pub(super) struct Leaves {
    /// How many keys were deleted with it.
    pub(super) keys: u64,
    /// The name of its holder.
    pub(super) holder: String,
}

/// Records that a lease ended just now.
pub(super) fn record<S: StateWrite>(
    state: &mut S,
    at: At,
    revoke: &LeaseRevoke,
    lease: &LeaseRow,
    leaves: Leaves,
) -> Result<(), ApplyError<S::Error>> {
    let Some(by) = &revoke.by else { return Ok(()) };
    let meta = state.meta_mut();
    let number = meta.lease_ends;
    meta.lease_ends = number.checked_add(1).ok_or(ApplyError::Invariant("ends of leases have reached their end"))?;
    let end = LeaseEnd {
        id: revoke.id,
        incarnation: lease.incarnation,
        ttl_ms: lease.ttl_ms,
        renewals: lease.renewals,
        renewed_ms: lease.clock_ms,
        ended_ms: meta.lease_clock_ms,
        index: at.place.index,
        term: at.term,
        expired: revoke.expiry.is_some(),
        by: by.clone(),
        keys: leaves.keys,
        revision: meta.revision,
        holder: leaves.holder,
    };
    state.put_lease_end(number, end);
    if let Some(oldest) = number.checked_sub(LEASE_ENDS_MAX) {
        state.delete_lease_end(oldest);
    }
    Ok(())
}
