//! Leases as clients use them, with the times that they may count on.

use std::ops::ControlFlow;
use std::time::Duration;

use tenure_core::LeaseId;
use tenure_core::Revision;
use tenure_core::command::{Command, LeaseGrant};
use tenure_core::outcome::{Outcome, Refusal, Response};
use tenure_core::row::{ClientName, EventRow, LeaseHolder};
use tenure_core::state::StateRead;
use tenure_raft::runtime::BootInstant;
use tenure_server::node::{Node, RequestError};

use super::within;

/// A lease that a client holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) id: LeaseId,
    pub(crate) ttl: Duration,
    /// When the last request that was acknowledged was sent: it lives for a TTL from then on at least.
    pub(crate) sent: BootInstant,
}

impl Held {
    /// Gets a lease, however often it must be asked for.
    pub(crate) async fn granted(node: &Node, id: i64, ttl: Duration) -> Held {
        let ttl_ms = u64::try_from(ttl.as_millis()).expect("a short time");
        let command = Command::LeaseGrant(LeaseGrant { id: LeaseId(id), ttl_ms, holder: LeaseHolder::default() });
        let mut held = Held { id: LeaseId(id), ttl, sent: BootInstant::now() };
        within("a grant", async {
            loop {
                held.sent = BootInstant::now();
                match node.write(&command).await {
                    Ok(Outcome { result: Ok(Response::LeaseGrant { .. }), .. }) => return,
                    // The first try was done after all, later than it was sent.
                    Ok(Outcome { result: Err(Refusal::LeaseExists), .. }) => return,
                    Ok(outcome) => panic!("a grant ends as {outcome:?}"),
                    Err(_) => {}
                }
            }
        })
        .await;
        held
    }

    /// Renews it once; false if it is gone.
    pub(crate) async fn renew(&mut self, node: &Node) -> Result<bool, RequestError> {
        let sent = BootInstant::now();
        match node.renew_lease(self.id).await?.result {
            Ok(Response::LeaseRenew { .. }) => {
                self.sent = sent;
                Ok(true)
            }
            Err(Refusal::LeaseNotFound) => Ok(false),
            other => panic!("a renewal ends as {other:?}"),
        }
    }

    /// Waits until it is gone from a member's state, and says when that was.
    pub(crate) async fn end(&self, node: &Node) -> BootInstant {
        let mut views = node.shared().raft.views();
        let gone = views.wait_for(|view| view.lease(self.id).expect("a state that can be read").is_none());
        drop(within("the end of a lease", gone).await.expect("the member runs"));
        BootInstant::now()
    }

    /// Whether it is there, as far as a member has applied.
    pub(crate) async fn is_there(&self, node: &Node) -> bool {
        node.view(true).await.expect("a view").lease(self.id).expect("a state that can be read").is_some()
    }

    /// How long after the last acknowledged request it ended; not before its TTL was over.
    pub(crate) fn lived(&self, end: BootInstant) -> Duration {
        let lived = end - self.sent;
        assert!(lived >= self.ttl, "lease {} ended {lived:?} after its last acknowledged request", self.id);
        lived
    }
}

/// A client's revoke.
pub(crate) async fn revoke(node: &Node, id: i64) -> Result<Response, Refusal> {
    within("a revoke", node.revoke_lease(LeaseId(id), ClientName::Unknown)).await.expect("an answer").result
}

/// The events from a revision on.
pub(crate) async fn events_from(node: &Node, first: Revision) -> Vec<EventRow> {
    let mut events = Vec::new();
    let view = node.view(false).await.expect("a view");
    let scanned = view.scan_events(first, Revision(i64::MAX), &mut |event| {
        events.push(event);
        ControlFlow::Continue(())
    });
    scanned.expect("a state that can be read");
    events
}
