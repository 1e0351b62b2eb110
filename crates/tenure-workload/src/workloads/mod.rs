//! What clients do all the time. Each workload keeps to keys of its own, so that each can also be run alone.
//!
//! A workload's task makes its choices from the run's seed, but its course is not repeatable: what it is answered, and
//! when, is up to the cluster.

mod append;
mod leases;
mod locks;
mod mix;
mod queue;
mod register;
mod watcher;
mod watches;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use tenure_history::request::{Compare, KeyRange, Put, Range, Relation, Request, Target, Txn, TxnOp};
use tenure_history::response::{Body, KeyValue, RangeBody, Response};
use tenure_history::{ClientId, Revision};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::stage::Stage;

pub use append::LISTS;
pub use leases::Holding;
pub use locks::Resources;
pub use queue::QUEUES;

/// How many leases a client holds that renews them together.
const LEASES_PER_BATCH: u32 = 4;
/// Contenders for locks: enough that somebody always waits.
const ETCD_CONTENDERS: usize = 4;
const NATIVE_CONTENDERS: usize = 8;

/// The tasks of a round.
#[derive(Debug, Default)]
pub struct Tasks {
    pub clients: JoinSet<Result<()>>,
    pub watchers: JoinSet<Result<()>>,
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// Puts, reads, deletes and transactions on a few keys.
    Mix,
    /// Registers changed by compare-and-set.
    Register,
    /// Lists that everybody appends to.
    Append,
    /// Queues with several producers and consumers.
    Queue,
    /// Leases that are renewed for a while, with keys.
    Leases,
    /// Locks by etcd's recipe, by its service and by Tenure's own, and what they guard.
    Locks,
    /// Watchers of all kinds while the store is compacted.
    Watch,
    /// The harness's own reads at the end of a round. Always there.
    Ending,
}

impl Workload {
    /// Those that can be chosen.
    pub const ALL: [Workload; 7] = [
        Workload::Mix,
        Workload::Register,
        Workload::Append,
        Workload::Queue,
        Workload::Leases,
        Workload::Locks,
        Workload::Watch,
    ];

    /// Its word on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Mix => "mix",
            Workload::Register => "register",
            Workload::Append => "append",
            Workload::Queue => "queue",
            Workload::Leases => "leases",
            Workload::Locks => "locks",
            Workload::Watch => "watch",
            Workload::Ending => "ending",
        }
    }

    /// What it does, for people.
    pub fn about(self) -> &'static str {
        match self {
            Workload::Mix => "puts, reads (old ones and serializable ones too), deletes and transactions on 30 keys",
            Workload::Register => "compare-and-set on three registers",
            Workload::Append => "appends to lists, by transactions that compare what was read",
            Workload::Queue => "items put into queues and taken from them",
            Workload::Leases => {
                "leases of 2 to 6 s that are granted, renewed one by one or together, revoked and run out, with keys"
            }
            Workload::Locks => {
                "locks by etcd's recipe, its service and Tenure's own, in the same queues, and what fencing tokens guard"
            }
            Workload::Watch => "compactions, ten a second, under watchers of all kinds",
            Workload::Ending => "the harness's own requests at the end of a round",
        }
    }

    /// How long one client waits between two requests. Together they make some 500 requests a second, which leaves a
    /// machine of two cores time for the servers, and a round's history small enough to be judged in seconds.
    pub fn pace(self) -> Duration {
        Duration::from_millis(match self {
            Workload::Mix => 35,
            Workload::Register | Workload::Append | Workload::Queue => 45,
            Workload::Leases | Workload::Locks => 60,
            // Compactions.
            Workload::Watch => 100,
            Workload::Ending => 0,
        })
    }

    /// Operations a minute that must be answered, or the run shows nothing. About a tenth of what a healthy cluster does.
    pub fn answered_min_per_minute(self) -> usize {
        match self {
            Workload::Mix => 800,
            Workload::Register | Workload::Append | Workload::Queue => 250,
            Workload::Leases | Workload::Locks => 200,
            Workload::Watch => 30,
            Workload::Ending => 0,
        }
    }

    /// Puts the workload's clients to work.
    pub fn start(self, stage: &Arc<Stage>, resources: &Arc<Resources>, tasks: &mut Tasks) {
        let client = || Client::new(stage, self, stage.new_client());
        let Tasks { clients, watchers } = tasks;
        match self {
            Workload::Mix => (0..6).for_each(|_| drop(clients.spawn(mix::run(client())))),
            Workload::Register => (0..3).for_each(|_| drop(clients.spawn(register::run(client())))),
            Workload::Append => (0..3).for_each(|_| drop(clients.spawn(append::run(client())))),
            Workload::Queue => {
                (0..2).for_each(|_| drop(clients.spawn(queue::produce(client()))));
                (0..2).for_each(|_| drop(clients.spawn(queue::consume(client()))));
            }
            Workload::Leases => {
                (0..6).for_each(|_| drop(clients.spawn(leases::run(client()))));
                let sharers = (0..LEASES_PER_BATCH).map(|_| ClientId(stage.new_client())).collect();
                clients.spawn(leases::hold_many(client(), sharers));
            }
            Workload::Locks => Workload::start_contenders(stage, 0, resources, tasks),
            Workload::Watch => {
                clients.spawn(watches::compact(client()));
                watches::start(stage, watchers);
            }
            Workload::Ending => {}
        }
    }

    /// Puts so many to work who hold leases and do nothing else. They count as [`Workload::Leases`].
    pub fn start_holders(stage: &Arc<Stage>, count: usize, holding: &Holding, tasks: &mut Tasks) {
        for _ in 0..count {
            let client = Client::new(stage, Workload::Leases, stage.new_client());
            tasks.clients.spawn(leases::hold(client, holding.clone()));
        }
    }

    /// Puts those to work who contend for locks: some of each kind, and so many more, half of them native.
    pub fn start_contenders(stage: &Arc<Stage>, more: usize, resources: &Arc<Resources>, tasks: &mut Tasks) {
        let locks = locks::Locks::of(more);
        let client = || Client::new(stage, Workload::Locks, stage.new_client()).slower(locks.slowness());
        for _ in 0..ETCD_CONTENDERS + more / 2 {
            tasks.clients.spawn(locks::run_etcd(client(), resources.clone(), locks));
        }
        for _ in 0..NATIVE_CONTENDERS + more.div_ceil(2) {
            tasks.clients.spawn(locks::run_native(client(), resources.clone(), locks));
        }
        tasks.clients.spawn(locks::meddle(client(), locks));
    }

    /// Puts those to work who see every revision, whatever the workloads.
    pub fn start_observers(stage: &Arc<Stage>, tasks: &mut JoinSet<Result<()>>) {
        watches::start_observers(stage, tasks);
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Workload {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Workload::ALL.into_iter().find(|workload| workload.name() == text);
        let Some(found) = found else {
            let names = Workload::ALL.map(Workload::name).join(", ");
            bail!("there is no workload {text:?}; there are: {names}");
        };
        Ok(found)
    }
}

/// A linearizable read of one key.
fn get(key: &Bytes) -> Request {
    Request::Range(Range { keys: KeyRange::one(key.clone()), ..Range::default() })
}

/// The key-values of a read's answer.
fn kvs(response: &Response) -> &[KeyValue] {
    match &response.body {
        Body::Range(RangeBody { kvs, .. }) => kvs,
        _ => &[],
    }
}

/// The condition that a key is as it was read: at this revision, or absent for 0.
fn unchanged(key: &Bytes, modified: Revision) -> Compare {
    Compare { keys: KeyRange::one(key.clone()), relation: Relation::Equal, target: Target::Mod(modified) }
}

/// A write under one condition.
fn put_if(compare: Compare, put: Put) -> Request {
    Request::Txn(Txn { compares: vec![compare], success: vec![TxnOp::Put(put)], failure: Vec::new() })
}

/// Whether the answer is a transaction's whose conditions held.
fn succeeded(response: &Response) -> bool {
    matches!(response.body, Body::Txn { succeeded: true, .. })
}

/// The first key behind all keys with this prefix, which ends in a slash.
fn behind(prefix: &str) -> Bytes {
    debug_assert!(prefix.ends_with('/'));
    Bytes::from(format!("{}0", prefix.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_found_by_its_name() {
        for workload in Workload::ALL {
            assert_eq!(workload.name().parse::<Workload>().unwrap(), workload);
        }
        assert!("ending".parse::<Workload>().is_err());
        assert_eq!(behind("mix/"), "mix0");
    }
}
