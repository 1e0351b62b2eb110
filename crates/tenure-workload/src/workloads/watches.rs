//! Watchers of all kinds on all members while the store is compacted ten times a second.
//!
//! Observers are watchers of everything, from the round's first revision on. The store is only compacted up to where one
//! of them has been told everything, so together they know every revision there was: the checkers learn from them what
//! writes of unknown outcome did. They run whatever the workloads are.

use std::sync::Arc;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_history::Revision;
use tenure_history::request::{KeyRange, Request};
use tenure_history::response::Outcome;
use tenure_history::watch::Spec;
use tokio::task::JoinSet;

use super::watcher::{Manner, Start, StreamPlan, WatchClient};
use crate::client::Client;
use crate::stage::{Phase, Stage};

/// Streams for each member.
const STREAMS_PER_MEMBER: usize = 4;
const WATCHERS_PER_STREAM_MAX: usize = 3;
/// The store is compacted at most so far behind what an observer has seen.
const KEPT_MAX: i64 = 12;

/// Compacts again and again until the round's work is over.
pub(super) async fn compact(mut client: Client) -> Result<()> {
    let mut compacted = client.stage.first;
    while client.stage.phase() == Phase::Work {
        tokio::time::sleep(super::Workload::Watch.pace()).await;
        let back = client.rng.random_range(0..KEPT_MAX);
        let revision = Revision(client.stage.observed().0 - back);
        if revision > compacted {
            compacted = revision;
            if let Outcome::Ok(_) = client.ask(Request::Compact { revision }).await {
                client.stage.has_compacted(revision);
            }
        }
        let behind = Revision(compacted.0 - back);
        if behind > client.stage.first && client.rng.random_ratio(1, 8) {
            // To where the store is compacted already: must be refused, and change nothing.
            client.ask(Request::Compact { revision: behind }).await;
        }
    }
    Ok(())
}

/// Puts the watchers to work.
pub(super) fn start(stage: &Arc<Stage>, tasks: &mut JoinSet<Result<()>>) {
    let mut rng = StdRng::seed_from_u64(stage.seed ^ 0x57a7);
    let manners = [Manner::Steady, Manner::Slow, Manner::Restless, Manner::Asking, Manner::Fickle];
    for number in 0..STREAMS_PER_MEMBER * stage.connect.members() {
        let count = if rng.random_ratio(1, 3) { rng.random_range(2..=WATCHERS_PER_STREAM_MAX) } else { 1 };
        let watchers = (0..count).map(|_| (spec(&mut rng), rng.random_ratio(1, 2), begin(&mut rng))).collect();
        let manner = manners[number % manners.len()];
        let plan = StreamPlan { watchers, manner, member: number, seed: rng.random() };
        tasks.spawn(WatchClient::new(plan, stage.clone()).run());
    }
}

/// Puts an observer to work for each member.
pub(super) fn start_observers(stage: &Arc<Stage>, tasks: &mut JoinSet<Result<()>>) {
    for member in 0..stage.connect.members() {
        let everything = Spec { keys: KeyRange::all(), puts: true, deletes: true, prev_kv: true };
        let watchers = vec![(everything, true, Start::Round)];
        let plan = StreamPlan { watchers, manner: Manner::Observer, member, seed: stage.seed };
        tasks.spawn(WatchClient::new(plan, stage.clone()).run());
    }
}

fn spec(rng: &mut StdRng) -> Spec {
    let keys = match rng.random_range(0..8) {
        0 => KeyRange::one(format!("mix/{:02}", rng.random_range(0..30))),
        1 => KeyRange::between("mix/1", "mix/2"),
        2 => KeyRange::between("mix/", "mix0"),
        3 => KeyRange::between("lease/", "lock0"),
        4 => KeyRange::between("queue/", "queue0"),
        5 => KeyRange::between(format!("mix/{:02}", rng.random_range(0..30)), "\0"),
        _ => KeyRange::all(),
    };
    let filter = rng.random_range(0..8);
    Spec { keys, puts: filter != 0, deletes: filter != 1, prev_kv: rng.random_ratio(1, 2) }
}

fn begin(rng: &mut StdRng) -> Start {
    match rng.random_range(0..6) {
        0 | 1 => Start::Now,
        2 => Start::Ahead(rng.random_range(0..100)),
        _ => Start::Back(rng.random_range(0..40)),
    }
}
