//! Keepalives of leases that were renewed a moment ago: answered without the log.
//!
//! A keepalive promises a TTL from the moment at which it is answered. Lessors let a lease live a little longer than that
//! from its last renewal in the log (`tenure_core::apply::ends_ms`). So while that renewal is no older than this little, the promise holds
//! already, and nothing needs to be written. How old it is goes by this leader's own clock, which no clock that leases may
//! end by is ahead of (`LeaseClock::leading`). That the lease is still there is read as everything linearizable is: leadership is
//! confirmed after the keepalive came, once for all that wait.

use std::sync::Arc;

use tenure_core::apply::renewal_counts_ms;
use tenure_core::outcome::{Outcome, Response};
use tenure_core::planted::{Bug, is_on};
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, Term};
use tenure_raft::OWN_READING_AGE_MAX_MS;
use tenure_raft::runtime::BootInstant;
use tenure_storage::state_view::StateView;

use super::{Node, RequestError};

/// By how much this leader's clock may be behind the one that the lease ends by: clocks differ by half a percent, since a reading of at most that
/// age, and readings are rounded to milliseconds.
const CLOCKS_APART_MS: u64 = OWN_READING_AGE_MAX_MS / 200 + 2;

impl Node {
    /// What a keepalive is answered if a renewal that is in the log already also counts for it. Nothing if it has to go there,
    /// as it has on members that do not lead.
    pub(super) async fn renewed_a_moment_ago(&self, id: LeaseId) -> Result<Option<Outcome>, RequestError> {
        let Some(term) = self.shared.raft.promoted() else { return Ok(None) };
        // Most are renewed after a third of their TTL. They wait for nothing.
        if self.counted(term, id, &self.shared.raft.view())?.is_none() {
            return Ok(None);
        }
        let view = self.reads.pass().await?;
        self.counted(term, id, &view)
    }

    fn counted(&self, term: Term, id: LeaseId, view: &Arc<StateView>) -> Result<Option<Outcome>, RequestError> {
        let Some(reading) = self.shared.raft.lease_clock().leading(term, BootInstant::now()) else { return Ok(None) };
        let row = StateRead::lease(&**view, id).map_err(|error| self.storage_failed(&error))?;
        let Some(row) = row else { return Ok(None) };
        let counts_ms = if is_on(Bug::RenewalCountsForLong) { row.ttl_ms / 2 } else { renewal_counts_ms(row.ttl_ms) };
        if reading.saturating_add(CLOCKS_APART_MS) > row.clock_ms.saturating_add(counts_ms) {
            return Ok(None);
        }
        let result = Ok(Response::LeaseRenew { ttl_ms: row.ttl_ms });
        Ok(Some(Outcome { revision: view.meta().revision, result }))
    }
}
