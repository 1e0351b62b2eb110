//! Leases that other workloads need: many granted at once, and many revoked.

use std::time::Duration;

use tenure_proto::etcdserverpb as pb;
use tokio::task::JoinSet;

use super::{LEASE_GRANT, LEASE_REVOKE};
use crate::caller::Caller;
use crate::drive::Scope;
use crate::failure::{Error, Failure};
use crate::target::within;

/// Requests under way at once on one connection.
const AT_ONCE: usize = 16;

/// What was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub id: i64,
    pub ttl: Duration,
}

/// Grants a lease of an id that the server picks.
pub(crate) async fn grant(caller: &Caller, ttl: Duration) -> Result<Lease, Failure> {
    let ttl = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
    let answer: pb::LeaseGrantResponse = caller.call(LEASE_GRANT, &pb::LeaseGrantRequest { ttl, id: 0 }).await?;
    if answer.id == 0 {
        return Err(Failure::answer("a lease without an id"));
    }
    Ok(Lease { id: answer.id, ttl: Duration::from_secs(u64::try_from(answer.ttl).unwrap_or(0)) })
}

/// Grants many, in any order.
pub(crate) async fn grant_all(scope: &Scope, count: usize, ttl: Duration) -> Result<Vec<Lease>, Error> {
    scope.observer.stage("granting leases");
    let mut tasks = JoinSet::new();
    let parts = parts(count, scope.callers.len() * AT_ONCE);
    for (at, share) in parts.into_iter().enumerate() {
        let (caller, patience) = (scope.caller(at), scope.settings.patience);
        tasks.spawn_local(async move {
            let mut leases = Vec::with_capacity(share);
            for _ in 0..share {
                leases.push(within(patience, grant(&caller, ttl)).await?);
            }
            Ok::<_, Failure>(leases)
        });
    }
    let mut leases = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        if let Ok(granted) = done {
            leases.extend(granted.map_err(Error::preparing("granting leases"))?);
        }
    }
    Ok(leases)
}

/// Revokes leases after a run; what fails then expires by itself.
pub(crate) async fn revoke_all(scope: &Scope, leases: &[Lease]) {
    scope.observer.stage("revoking leases");
    let mut tasks = JoinSet::new();
    let share = leases.len().div_ceil((scope.callers.len() * AT_ONCE).max(1)).max(1);
    for (at, leases) in leases.chunks(share).enumerate() {
        let (caller, patience, leases) = (scope.caller(at), scope.settings.patience, leases.to_vec());
        tasks.spawn_local(async move {
            for lease in leases {
                let request = pb::LeaseRevokeRequest { id: lease.id };
                let revoked = caller.call::<pb::LeaseRevokeResponse>(LEASE_REVOKE, &request);
                let _expires_otherwise = within(patience, revoked).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// A count in parts of nearly the same size, none of them empty.
fn parts(count: usize, most: usize) -> Vec<usize> {
    let parts = most.clamp(1, count.max(1));
    (0..parts).map(|at| count / parts + usize::from(at < count % parts)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_dealt_out_evenly() {
        assert_eq!((parts(10, 4), parts(2, 9), parts(0, 3)), (vec![3, 3, 2, 2], vec![1, 1], vec![0]));
    }
}
