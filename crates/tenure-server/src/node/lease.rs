//! What the lease service asks of the node: to renew and revoke through the log, and what is left of leases.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tenure_core::LeaseId;
use tenure_core::command::{Command, LeaseRevoke};
use tenure_core::outcome::{Outcome, Response};
use tenure_core::planted::{Bug, is_on};
use tenure_core::row::{ClientName, LeaseRow, RevokedBy};
use tenure_core::state::StateRead;
use tenure_raft::runtime::{self, BootInstant};
use tenure_storage::state_view::StateView;

use super::{Node, ReadAnswer, RequestError};

/// What a client may know of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its id.
    pub id: LeaseId,
    /// The TTL it was granted with.
    pub ttl_ms: u64,
    /// How much of it is left; 0 if it is due and not gone yet.
    pub left_ms: u64,
    /// The keys attached to it, in ascending order, if they were asked for.
    pub keys: Vec<Bytes>,
}

impl LeaseInfo {
    pub(super) fn new(id: LeaseId, row: &LeaseRow, reading: u64) -> LeaseInfo {
        let end = row.clock_ms.saturating_add(row.ttl_ms);
        LeaseInfo { id, ttl_ms: row.ttl_ms, left_ms: end.saturating_sub(reading).min(row.ttl_ms), keys: Vec::new() }
    }
}

impl Node {
    /// The shortest TTL for clients of etcd's API: a leader must be able to fail and be replaced within it. etcd's rule,
    /// 1.5 election timeouts, in whole seconds.
    pub fn lease_ttl_min(&self) -> Duration {
        let secs = (self.shared.raft.election_timeout() * 3 / 2).as_millis().div_ceil(1000);
        Duration::from_secs(u64::try_from(secs).unwrap_or(u64::MAX))
    }

    /// Revokes a lease for a client.
    pub async fn revoke_lease(&self, id: LeaseId, client: ClientName) -> Result<Outcome, RequestError> {
        let by = Some(RevokedBy { member: self.shared.raft.member(), client });
        let command = Command::LeaseRevoke(LeaseRevoke { id, expiry: None, by });
        Ok(self.proposer.propose_revoke(command.encode()).await?.outcome)
    }

    /// Renews a lease, once.
    pub async fn renew_lease(&self, id: LeaseId) -> Result<Outcome, RequestError> {
        if let Some(outcome) = self.renewed_a_moment_ago(id).await? {
            return Ok(outcome);
        }
        // From now on the lessor, if it is here, leaves the lease alone.
        let noted = self.shared.raft.renewals().note(vec![id]);
        if is_on(Bug::RenewalAckedEarly)
            && let Some(outcome) = self.renewed_so_far(id)
        {
            let node = self.clone();
            let later =
                async move { node.proposer.propose_renewal(Command::LeaseRenew(id).encode(), noted).await.is_ok() };
            drop(runtime::spawn(later));
            return Ok(outcome);
        }
        Ok(self.proposer.propose_renewal(Command::LeaseRenew(id).encode(), noted).await?.outcome)
    }

    /// What a renewal would be answered by this member alone.
    fn renewed_so_far(&self, id: LeaseId) -> Option<Outcome> {
        let view = self.shared.raft.view();
        let row = StateRead::lease(&*view, id).ok()??;
        Some(Outcome { revision: view.meta().revision, result: Ok(Response::LeaseRenew { ttl_ms: row.ttl_ms }) })
    }

    /// What is left of a lease, if there is one; with its keys or without.
    pub async fn lease(&self, id: LeaseId, with_keys: bool) -> Result<ReadAnswer<Option<LeaseInfo>>, RequestError> {
        let view = self.view(false).await?;
        let reading = self.shared.raft.lease_clock().reading(BootInstant::now());
        let evaluate = move |view: &StateView| {
            let Some(row) = StateRead::lease(view, id)? else { return Ok(Ok(None)) };
            let mut lease = LeaseInfo::new(id, &row, reading);
            if with_keys {
                view.scan_lease_keys(id, &mut |key| {
                    lease.keys.push(key);
                    ControlFlow::Continue(())
                })?;
            }
            Ok(Ok(Some(lease)))
        };
        self.read(view, !with_keys, evaluate).await
    }

    /// All leases: the one that ends first comes first.
    pub async fn leases(&self) -> Result<ReadAnswer<Vec<LeaseInfo>>, RequestError> {
        let view = self.view(false).await?;
        let reading = self.shared.raft.lease_clock().reading(BootInstant::now());
        let evaluate = move |view: &StateView| {
            let mut leases = Vec::new();
            view.scan_leases(&mut |id, row| {
                let end = row.clock_ms.saturating_add(row.ttl_ms);
                leases.push((end, LeaseInfo::new(id, &row, reading)));
                ControlFlow::Continue(())
            })?;
            leases.sort_unstable_by_key(|(end, lease)| (*end, lease.id));
            Ok(Ok(leases.into_iter().map(|(_, lease)| lease).collect()))
        };
        self.read(view, false, evaluate).await
    }
}

/// A positive id, as etcd picks them; with 63 random bits it is hardly ever taken.
pub fn pick_lease_id() -> LeaseId {
    LeaseId(rand::rng().random_range(1..=i64::MAX))
}
