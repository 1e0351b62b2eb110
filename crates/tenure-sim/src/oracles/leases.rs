//! No lease that its client did not revoke ends before its TTL has passed since the client sent the last grant or renewal
//! that was acknowledged.
//!
//! The witness sees the very moment at which the first member applies the end; a client would find out later. That no
//! lease lives too long is judged by the checker of histories, which knows when there was nobody to end it.

use std::collections::{BTreeMap, BTreeSet};

use tenure_history::request::Request;
use tenure_history::response::Body;
use tenure_history::{LeaseId, Moment, Operation};

use super::Breach;

/// When each lease was first seen to be gone. Ids are used once.
#[derive(Debug, Default)]
pub struct Leases(BTreeMap<i64, Moment>);

impl Leases {
    pub(super) fn ended(&mut self, lease: i64, at: Moment) {
        self.0.entry(lease).or_insert(at);
    }

    /// How many ended.
    pub(super) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// Holds all ends against what clients were told.
    pub(super) fn judge(&self, operations: &[Operation]) -> Vec<Breach> {
        let mut revoked = BTreeSet::new();
        let mut breaches = Vec::new();
        for operation in operations {
            if let Request::LeaseRevoke { id } = operation.request {
                revoked.insert(id);
            }
        }
        for operation in operations {
            let Some((lease, ttl_secs)) = promise(operation) else { continue };
            let Some(ended) = self.0.get(&lease.0).copied().filter(|_| !revoked.contains(&lease)) else { continue };
            let due = operation.called.after(std::time::Duration::from_secs(ttl_secs.unsigned_abs()));
            if operation.called < ended && ended < due {
                let text = format!("lease {lease} ended at {ended}, and was promised until {due} by: {operation}");
                breaches.push(Breach { oracle: "leases never early", text });
            }
        }
        breaches
    }
}

/// The lease and the TTL that an answer promised.
fn promise(operation: &Operation) -> Option<(LeaseId, i64)> {
    match (&operation.request, &operation.response()?.body) {
        (Request::LeaseGrant { id, .. }, Body::LeaseGrant { ttl_secs, .. })
        | (Request::LeaseKeepAlive { id }, Body::LeaseKeepAlive { ttl_secs }) => Some((*id, *ttl_secs)),
        _ => None,
    }
    .filter(|(_, ttl_secs)| *ttl_secs > 0)
}
