//! Asks each node for its status, and the operating system for its process, a few times a second.

use std::sync::Arc;

use tenure_proto::etcdserverpb::StatusResponse;
use tokio::time::{MissedTickBehavior, interval};

use crate::cluster::Cluster;
use crate::limits::STATUS_EVERY;
use crate::load::Teller;
use crate::model::{Answer, News};
use crate::store::{Store, revision};

/// Asks one node until it is cut off. Nodes are asked apart from each other: one that is paused takes its time.
pub(crate) async fn status_loop(store: Store, teller: Teller, node: usize) {
    let mut ticks = interval(STATUS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        if let Ok(status) = store.status(node).await {
            teller.tell(News::Answered { node, answer: answer(&status) });
        }
    }
}

fn answer(status: &StatusResponse) -> Answer {
    let header = status.header.as_ref();
    Answer {
        member: header.map_or(0, |header| header.member_id),
        leader: status.leader,
        term: status.raft_term,
        revision: revision(header),
        applied: status.raft_applied_index,
    }
}

/// Looks at the processes of all nodes until it is cut off.
pub(crate) async fn process_loop(cluster: Arc<Cluster>, teller: Teller, nodes: usize) {
    let mut ticks = interval(STATUS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        for node in 0..nodes {
            teller.tell(News::ProcessIs { node, process: cluster.process(node) });
        }
    }
}
