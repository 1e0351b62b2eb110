//! What is compared: one work for each row of the table.
//!
//! Works are data. Those of one kind share a cluster, in this order, so what an earlier one wrote is there for all
//! programs alike.

use std::time::Duration;

use tenure_bench::workload::{
    LeaseGrant, LeaseKeepalive, LeaseRevoke, Lock, LockApi, Put, Range, TxnMixed, TxnPut, Watch, WatchCatchUp,
    WatchLatency,
};
use tenure_bench::{Keys, Order, Workload};

/// Of most keys, and of most values.
const KEY_BYTES: usize = 8;
const VALUE_BYTES: usize = 256;
const KEYS: u64 = 100_000;

/// One row.
#[derive(Clone, Debug)]
pub struct Work {
    /// By which it is chosen.
    pub name: &'static str,
    /// By which the table tells it.
    pub label: &'static str,
    pub kind: Kind,
}

/// How it is run.
#[derive(Clone, Debug)]
pub enum Kind {
    /// One load on the cluster that all loads share.
    Load(Box<Load>),
    /// The same, with writers beside it, whose latency is measured without it, too.
    Beside(Box<Beside>),
    /// Something that happens to a cluster of its own.
    Special(Special),
}

/// See [`Kind::Beside`].
#[derive(Clone, Debug)]
pub struct Beside {
    pub main: Load,
    pub writers: Load,
}

/// See [`Kind::Special`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Compaction,
    Failover { gracefully: bool },
    Big,
}

/// What the generator does for it.
#[derive(Clone, Debug)]
pub struct Load {
    pub workload: Workload,
    pub clients: usize,
    pub connections: usize,
    pub at: At,
    pub rate: Rate,
    /// Ends after so many operations instead of by time.
    pub total: Option<u64>,
    /// Only programs that have it.
    pub tenure_only: bool,
    /// Puts, whose groups are worth looking at.
    pub has_groups: bool,
}

/// Whom the clients ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Leader,
    All,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As often as they are answered.
    Closed,
    /// So often in a second.
    Fixed(f64),
    /// At this share of what the first program did in `put-1000`.
    OfReference(f64),
}

impl Load {
    fn new(workload: Workload, clients: usize) -> Load {
        let connections = clients.div_ceil(10);
        let (at, rate) = (At::Leader, Rate::Closed);
        Load { workload, clients, connections, at, rate, total: None, tenure_only: false, has_groups: false }
    }

    fn at(self, at: At) -> Load {
        Load { at, ..self }
    }
}

fn put(clients: usize) -> Load {
    let put = Put { keys: keys(""), value_bytes: VALUE_BYTES, fresh_values: true };
    Load { has_groups: true, ..Load::new(Workload::Put(put), clients) }
}

fn keys(prefix: &str) -> Keys {
    Keys::new(prefix, KEY_BYTES + prefix.len(), KEYS, Order::Sequential)
}

fn range_one(clients: usize, serializable: bool) -> Load {
    let range = Range {
        keys: Keys::new("read/", KEY_BYTES + 5, 1_000, Order::Random),
        value_bytes: VALUE_BYTES,
        fill: true,
        serializable,
        whole: false,
        keys_only: false,
        count_only: false,
        page: None,
        old_revision: false,
        revision: None,
    };
    Load::new(Workload::Range(range), clients)
}

fn keepalive(clients: usize) -> Load {
    Load::new(Workload::LeaseKeepalive(LeaseKeepalive { ttl: Duration::from_secs(600), streams: None }), clients)
}

fn lock(api: LockApi, clients: usize) -> Load {
    let lock = Lock { api, locks: None, prefix: "lock/".to_owned(), ttl: Duration::from_secs(600) };
    Load { tenure_only: api == LockApi::Native, ..Load::new(Workload::Lock(lock), clients) }
}

fn watch(rate: Rate) -> Load {
    let watch = Watch {
        keys: Keys::new("watched/", 9, 1, Order::Sequential),
        value_bytes: VALUE_BYTES,
        watchers: 1_000,
        streams: 100,
        prefix: false,
        ahead: 1,
    };
    Load { rate, connections: 100, ..Load::new(Workload::Watch(watch), 1) }
}

fn txn_put(operations: u64, clients: usize) -> Load {
    let txn = TxnPut { keys: keys(""), value_bytes: VALUE_BYTES, fresh_values: true, operations };
    Load { has_groups: true, ..Load::new(Workload::TxnPut(txn), clients) }
}

fn mixed(read_share: f64, clients: usize) -> Load {
    let keys = Keys::new("mixed/", KEY_BYTES + 6, 10_000, Order::Random);
    let mixed =
        TxnMixed { keys, value_bytes: VALUE_BYTES, read_share, serializable: false, compare: false, fill: true };
    Load::new(Workload::TxnMixed(mixed), clients)
}

/// Puts of large values, at keys enough that the store does not hold one and the same.
fn large(value_bytes: usize, clients: usize) -> Load {
    let keys = Keys::new("large/", KEY_BYTES + 6, 100, Order::Sequential);
    Load::new(Workload::Put(Put { keys, value_bytes, fresh_values: true }), clients)
}

/// All of 10,000 keys of 1 KiB in every operation.
fn list(change: fn(&mut Range)) -> Load {
    let mut range = Range {
        keys: Keys::new("list/", KEY_BYTES + 5, 10_000, Order::Sequential),
        value_bytes: 1024,
        fill: true,
        serializable: false,
        whole: true,
        keys_only: false,
        count_only: false,
        page: None,
        old_revision: false,
        revision: None,
    };
    change(&mut range);
    Load { connections: 4, ..Load::new(Workload::Range(range), 4) }
}

fn grant(clients: usize) -> Load {
    Load::new(Workload::LeaseGrant(LeaseGrant { ttl: Duration::from_secs(600) }), clients)
}

fn revoke(clients: usize) -> Load {
    let keys = Keys::new("leased/", KEY_BYTES + 7, 100_000_000, Order::Sequential);
    let revoke = LeaseRevoke { keys, value_bytes: VALUE_BYTES, attached: 10 };
    Load { total: Some(5_000), ..Load::new(Workload::LeaseRevoke(revoke), clients) }
}

fn catch_up(clients: usize) -> Load {
    let keys = Keys::new("history/", KEY_BYTES + 8, 1_000, Order::Sequential);
    let watch = WatchCatchUp { keys, value_bytes: VALUE_BYTES, history: 20_000 };
    Load { total: Some(clients as u64), ..Load::new(Workload::WatchCatchUp(watch), clients) }
}

fn watch_latency(clients: usize) -> Load {
    let keys = Keys::new("own/", KEY_BYTES + 4, 10_000, Order::Sequential);
    let watch = WatchLatency { keys, value_bytes: VALUE_BYTES };
    Load::new(Workload::WatchLatency(watch), clients)
}

/// All of them. Those that need a cluster of their own come last.
pub fn works() -> Vec<Work> {
    let work = |name, label, load| Work { name, label, kind: Kind::Load(Box::new(load)) };
    let special = |name, label, special| Work { name, label, kind: Kind::Special(special) };
    let half = Load { rate: Rate::OfReference(0.5), ..put(1000) };
    vec![
        work("put-1000", "put, 1000 clients at the leader", put(1000)),
        work("put-1000-all", "put, 1000 clients at all members", put(1000).at(At::All)),
        work("put-128", "put, 128 clients", put(128)),
        work("put-32", "put, 32 clients", put(32)),
        work("put-8", "put, 8 clients", put(8)),
        work("put-1", "put, 1 client", put(1)),
        work("put-open", "put, open loop at half of the reference's maximum", half),
        work("txn-put-10", "transaction of 10 puts, 1000 clients", txn_put(10, 1000)),
        work("range-1000", "linearizable range of one key, 1000 clients", range_one(1000, false)),
        work("range-1", "linearizable range of one key, 1 client", range_one(1, false)),
        work("range-serializable-1000", "serializable range of one key, 1000 clients", range_one(1000, true)),
        work("range-serializable-1", "serializable range of one key, 1 client", range_one(1, true)),
        work("mixed-90", "9 ranges to 1 put, 1000 clients", mixed(0.9, 1000)),
        work("mixed-50", "1 range to 1 put, 1000 clients", mixed(0.5, 1000)),
        work("list-whole", "list of 10,000 keys x 1 KiB, 4 clients", list(|_| {})),
        work("list-pages", "list of 10,000 keys in pages of 500", list(|range| range.page = Some(500))),
        work("list-count", "list of 10,000 keys, count only", list(|range| range.count_only = true)),
        work("list-old", "list of 10,000 keys at an old revision", list(|range| range.old_revision = true)),
        work(
            "list-old-pages",
            "list of 10,000 keys at an old revision, in pages of 500",
            list(|range| {
                (range.old_revision, range.page) = (true, Some(500));
            }),
        ),
        Work {
            name: "list-writers",
            label: "list of 10,000 keys in pages of 500, beside 1000 puts per s",
            kind: Kind::Beside(Box::new(Beside {
                main: list(|range| range.page = Some(500)),
                writers: Load { rate: Rate::Fixed(1_000.0), ..put(100) },
            })),
        },
        work("put-16k", "put of 16 KiB, 100 clients", large(16 << 10, 100)),
        work("put-1m", "put of 1 MiB, 8 clients", large(1 << 20, 8)),
        work("lease-keepalive-1000", "lease keepalive, 1000 clients", keepalive(1000)),
        work("lease-grant-1000", "lease grant, 1000 clients", grant(1000)),
        work("lease-revoke-10", "lease revoke with 10 keys, 100 clients", revoke(100)),
        work("lock-v3lock-1000", "lock and unlock (v3lock), 1000 clients", lock(LockApi::V3lock, 1000)),
        work("lock-v3lock-1", "lock and unlock (v3lock), 1 client", lock(LockApi::V3lock, 1)),
        work("lock-recipe-1000", "lock and unlock (client's recipe), 1000 clients", lock(LockApi::Recipe, 1000)),
        work("lock-native-1000", "lock and unlock (native), 1000 clients", lock(LockApi::Native, 1000)),
        work("lock-native-1", "lock and unlock (native), 1 client", lock(LockApi::Native, 1)),
        work("watch-1000", "watch: 1 writer in step with 1000 watchers of its key", watch(Rate::Closed)),
        work("watch-1000-open", "watch: 20 puts per s to 1000 watchers of their key", watch(Rate::Fixed(20.0))),
        work("watch-latency-100", "put until one's own watcher has it, 100 clients", watch_latency(100)),
        work("watch-catch-up", "20 watchers from 20,000 revisions ago", catch_up(20)),
        special("compaction", "2000 puts per s while compacting (etcd: and defragmenting)", Special::Compaction),
        special("failover-kill", "a writer while the leader is killed", Special::Failover { gracefully: false }),
        special("failover-stop", "a writer while the leader stops gracefully", Special::Failover { gracefully: true }),
        special("big", "2 million keys x 256 B: memory, and start after kill -9", Special::Big),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_work_has_a_name_of_its_own() {
        let works = works();
        let names: BTreeSet<&str> = works.iter().map(|work| work.name).collect();
        assert_eq!(names.len(), works.len());
    }
}
