//! What is compared: one work for each row of the table.
//!
//! Works are data. Those of one kind share a cluster, in this order, so what an earlier one wrote is there for all
//! programs alike.

use std::time::Duration;

use tenure_bench::workload::{LeaseKeepalive, Lock, LockApi, Put, Range, Watch};
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
    pub load: Load,
}

/// What the generator does for it.
#[derive(Clone, Debug)]
pub struct Load {
    pub workload: Workload,
    pub clients: usize,
    pub connections: usize,
    pub at: At,
    pub rate: Rate,
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
        Load { workload, clients, connections, at, rate, tenure_only: false, has_groups: false }
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

/// All of them.
pub fn works() -> Vec<Work> {
    let work = |name, label, load| Work { name, label, load };
    vec![
        work("put-1000", "put, 1000 clients at the leader", put(1000)),
        work("put-1000-all", "put, 1000 clients at all members", put(1000).at(At::All)),
        work("put-128", "put, 128 clients", put(128)),
        work("put-32", "put, 32 clients", put(32)),
        work("put-8", "put, 8 clients", put(8)),
        work("put-1", "put, 1 client", put(1)),
        work(
            "put-open",
            "put, open loop at half of the reference's maximum",
            Load { rate: Rate::OfReference(0.5), ..put(1000) },
        ),
        work("range-1000", "linearizable range of one key, 1000 clients", range_one(1000, false)),
        work("range-1", "linearizable range of one key, 1 client", range_one(1, false)),
        work("range-serializable-1000", "serializable range of one key, 1000 clients", range_one(1000, true)),
        work("range-serializable-1", "serializable range of one key, 1 client", range_one(1, true)),
        work("lease-keepalive-1000", "lease keepalive, 1000 clients", keepalive(1000)),
        work("lock-v3lock-1000", "lock and unlock (v3lock), 1000 clients", lock(LockApi::V3lock, 1000)),
        work("lock-v3lock-1", "lock and unlock (v3lock), 1 client", lock(LockApi::V3lock, 1)),
        work("lock-native-1000", "lock and unlock (native), 1000 clients", lock(LockApi::Native, 1000)),
        work("lock-native-1", "lock and unlock (native), 1 client", lock(LockApi::Native, 1)),
        work("watch-1000", "watch: 1 writer in step with 1000 watchers of its key", watch(Rate::Closed)),
        work("watch-1000-open", "watch: 20 puts per s to 1000 watchers of their key", watch(Rate::Fixed(20.0))),
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
