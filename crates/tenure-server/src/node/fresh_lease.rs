//! Keepalives of leases that were renewed a moment ago: answered without the log.
//!
//! A keepalive promises a TTL from the moment at which it is answered. Lessors let a lease live a little longer than
//! that from its last renewal in the log (`tenure_core::apply::ends_ms`). So while that renewal is no older than this
//! little, the promise holds already, and nothing needs to be written. How old it is goes by this leader's own clock,
//! which no clock that leases may end by is ahead of (`LeaseClock::leading`). That the lease is still there is read as
//! everything linearizable is: leadership is confirmed after the keepalive came, once for all that wait.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::LeaseId;
use tenure_core::apply::renewal_counts_ms;
use tenure_core::outcome::{Outcome, Response};
use tenure_core::planted::{Bug, is_on};
use tenure_core::state::StateRead;
use tenure_raft::OWN_READING_AGE_MAX_MS;
use tenure_raft::runtime::BootInstant;
use tenure_storage::state_view::StateView;

use super::{Node, RequestError};

/// By how much this leader's clock may be behind the one that the lease ends by: clocks differ by half a percent, since
/// a reading of at most that age, and readings are rounded to milliseconds.
const CLOCKS_APART_MS: u64 = OWN_READING_AGE_MAX_MS / 200 + 2;

/// How long a confirmation may take. A keepalive is in better hands on its way to the log then.
const CONFIRMATION_PATIENCE: Duration = Duration::from_millis(150);

/// Tells which renewals count for keepalives that are answered now.
pub struct CountingRenewals<'n> {
    node: &'n Node,
    view: Arc<StateView>,
    reading: u64,
}

impl CountingRenewals<'_> {
    /// What a keepalive is answered if the renewal that the view has of its lease counts for it.
    pub fn counted(&self, id: LeaseId) -> Result<Option<Outcome>, RequestError> {
        let row = StateRead::lease(&*self.view, id).map_err(|error| self.node.storage_failed(&error))?;
        let Some(row) = row else { return Ok(None) };
        let counts_ms = if is_on(Bug::RenewalCountsForLong) { row.ttl_ms / 2 } else { renewal_counts_ms(row.ttl_ms) };
        if self.reading.saturating_add(CLOCKS_APART_MS) > row.clock_ms.saturating_add(counts_ms) {
            return Ok(None);
        }
        let result = Ok(Response::LeaseRenew { ttl_ms: row.ttl_ms });
        Ok(Some(Outcome { revision: self.view.meta().revision, result }))
    }
}

impl Node {
    /// What a keepalive is answered if a renewal that is in the log already also counts for it. Nothing if it has to go there,
    /// as it has on members that do not lead.
    pub(super) async fn renewed_a_moment_ago(&self, id: LeaseId) -> Result<Option<Outcome>, RequestError> {
        // Most are renewed after a third of their TTL. They wait for nothing.
        if !self.looks_renewed(id)? {
            return Ok(None);
        }
        let Ok(view) = self.confirmation().await else { return Ok(None) };
        self.counting_renewals(view).map_or(Ok(None), |counting| counting.counted(id))
    }

    /// Whether a renewal counts by this member's state, which nobody confirmed: it may be worth a confirmation then.
    pub fn looks_renewed(&self, id: LeaseId) -> Result<bool, RequestError> {
        let counting = self.counting_renewals(self.shared.raft.view());
        counting.map_or(Ok(false), |counting| Ok(counting.counted(id)?.is_some()))
    }

    /// By what a leader knows now. To be made of a view that was confirmed after the keepalives came, and to be used at once.
    pub fn counting_renewals(&self, view: Arc<StateView>) -> Option<CountingRenewals<'_>> {
        let term = self.shared.raft.promoted()?;
        let reading = self.shared.raft.lease_clock().leading(term, BootInstant::now())?;
        Some(CountingRenewals { node: self, view, reading })
    }

    /// A state that contains every write acknowledged before this call, anywhere in the cluster.
    pub fn confirmation(&self) -> impl Future<Output = Result<Arc<StateView>, RequestError>> + Send + use<> {
        let reads = self.reads.clone();
        async move { reads.pass_within(CONFIRMATION_PATIENCE).await }
    }
}
