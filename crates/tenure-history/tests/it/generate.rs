//! Makes histories by really running the model under clients that overlap: each operation takes effect at a random instant
//! between its call and its return; an unknown one before its client gives up, after it, or never; leases end at random.

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use tenure_history::model::Store;
use tenure_history::request::{Compare, DeleteRange, KeyRange, Put, Range, Relation, Request, Target, Txn, TxnOp};
use tenure_history::response::{Body, Outcome, RangeBody, Response};
use tenure_history::{ClientId, History, Initial, LeaseId, Moment, NodeId, Operation, Revision};

/// What kind of history to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) clients: u32,
    pub(crate) operations: usize,
    pub(crate) keys: u32,
    pub(crate) values: u32,
    pub(crate) leases: i64,
    pub(crate) unknown_percent: u32,
    pub(crate) compactions: bool,
    /// How often some lease ends by itself, per thousand steps; an operation takes some four.
    pub(crate) expiries_per_mille: u32,
}

impl Shape {
    pub(crate) const TINY: Shape = Shape {
        clients: 3,
        operations: 7,
        keys: 2,
        values: 2,
        leases: 1,
        unknown_percent: 25,
        compactions: true,
        expiries_per_mille: 30,
    };
}

struct Running {
    at: usize,
    applied: bool,
    gives_up: bool,
}

struct World {
    rng: SmallRng,
    shape: Shape,
    store: Store,
    now: u64,
    operations: Vec<Operation>,
    /// Each client's operation.
    running: Vec<Option<Running>>,
    /// Operations that nobody waits for any more and that may still happen.
    lost: Vec<usize>,
    /// The highest revision that each client saw in a serializable read.
    seen: Vec<i64>,
}

/// A history that is linearizable by construction, and the store it ends with.
pub(crate) fn history(seed: u64, shape: Shape) -> (History, Store) {
    let mut world = World {
        rng: SmallRng::seed_from_u64(seed),
        shape,
        store: Store::new(&Initial::default()),
        now: 1,
        operations: Vec::new(),
        running: (0..shape.clients).map(|_| None).collect(),
        lost: Vec::new(),
        seen: vec![1; shape.clients as usize],
    };
    while world.operations.len() < shape.operations || world.running.iter().any(Option::is_some) {
        world.step();
    }
    (History::of(world.operations), world.store)
}

impl World {
    fn below(&mut self, limit: u32) -> u32 {
        self.rng.random_range(0..limit.max(1))
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    fn step(&mut self) {
        self.now += 1;
        if self.shape.leases > 0 && self.below(1000) < self.shape.expiries_per_mille {
            let lease = LeaseId(i64::from(self.below(self.shape.leases as u32)) + 1);
            if self.store.has_lease(lease) {
                self.store.expire(lease);
            }
        }
        if !self.lost.is_empty() && self.chance(15) {
            let at = self.below(self.lost.len() as u32) as usize;
            let at = self.lost.swap_remove(at);
            let _refused = self.store.apply(&self.operations[at].request.clone());
        }
        let client = self.below(self.shape.clients) as usize;
        match self.running[client].take() {
            None if self.operations.len() < self.shape.operations => self.call(client),
            None => {}
            Some(running) if !running.applied && !running.gives_up => self.take_effect(client, running),
            Some(running) => self.give_back(&running),
        }
    }

    fn call(&mut self, client: usize) {
        let request = self.request();
        let gives_up = self.chance(self.shape.unknown_percent);
        let at = self.operations.len();
        self.operations.push(Operation {
            client: ClientId(client as u32),
            node: Some(NodeId(client as u32 % 3)),
            called: Moment(self.now),
            returned: None,
            request,
            outcome: Outcome::Unknown,
        });
        self.running[client] = Some(Running { at, applied: false, gives_up });
    }

    fn take_effect(&mut self, client: usize, mut running: Running) {
        let request = self.operations[running.at].request.clone();
        self.operations[running.at].outcome = match &request {
            Request::Range(range) if range.serializable => self.read_behind(client, range),
            _ => match self.store.apply(&request) {
                Ok(response) => Outcome::Ok(response),
                Err(refusal) => Outcome::Refused(refusal),
            },
        };
        running.applied = true;
        self.running[client] = Some(running);
    }

    /// What a node that lags behind would answer.
    fn read_behind(&mut self, client: usize, range: &Range) -> Outcome {
        let revision = Revision(self.rng.random_range(self.seen[client]..=self.store.revision().0));
        self.seen[client] = revision.0;
        let kvs: Vec<_> = self.store.range_at(&range.keys, revision).into_iter().cloned().collect();
        let body = RangeBody { count: kvs.len() as i64, kvs, more: false };
        Outcome::Ok(Response { revision, body: Body::Range(body) })
    }

    fn give_back(&mut self, running: &Running) {
        if running.gives_up {
            // Before, after, or never.
            match self.below(3) {
                0 => drop(self.store.apply(&self.operations[running.at].request.clone())),
                1 => self.lost.push(running.at),
                _ => {}
            }
        }
        self.operations[running.at].returned = Some(Moment(self.now));
    }

    fn key(&mut self) -> Bytes {
        format!("k{}", self.below(self.shape.keys)).into()
    }

    fn value(&mut self) -> Bytes {
        format!("v{}", self.below(self.shape.values)).into()
    }

    fn lease(&mut self) -> LeaseId {
        if self.shape.leases == 0 || self.chance(60) {
            return LeaseId::NONE;
        }
        LeaseId(i64::from(self.below(self.shape.leases as u32)) + 1)
    }

    fn range(&mut self) -> KeyRange {
        match self.below(10) {
            0 if self.shape.keys < 50 => KeyRange::all(),
            0 => {
                let from = self.below(self.shape.keys - 5);
                KeyRange::between(format!("k{from}"), format!("k{from}~"))
            }
            1 if self.shape.keys < 50 => KeyRange::between(&b"k0"[..], &b"k1"[..]),
            _ => KeyRange::one(self.key()),
        }
    }

    fn read(&mut self) -> Range {
        let revision = if self.chance(10) { Revision(i64::from(self.below(8)) + 1) } else { Revision(0) };
        let limit = i64::from(self.chance(10));
        Range { keys: self.range(), revision, limit, count_only: self.chance(5), serializable: false }
    }

    fn put(&mut self) -> Put {
        Put { key: self.key(), value: self.value(), lease: self.lease(), prev_kv: self.chance(30) }
    }

    fn txn(&mut self, depth: u32) -> Txn {
        let compares = (0..self.below(2) + 1).map(|_| self.compare()).collect();
        Txn { compares, success: self.ops(depth), failure: self.ops(depth) }
    }

    fn ops(&mut self, depth: u32) -> Vec<TxnOp> {
        (0..self.below(3))
            .map(|_| match self.below(10) {
                0..4 => TxnOp::Put(self.put()),
                4..7 => TxnOp::Range(self.read()),
                7..9 => TxnOp::DeleteRange(DeleteRange { keys: self.range(), prev_kv: self.chance(50) }),
                _ if depth > 0 => TxnOp::Txn(self.txn(depth - 1)),
                _ => TxnOp::Put(self.put()),
            })
            .collect()
    }

    fn compare(&mut self) -> Compare {
        let target = match self.below(5) {
            0 => Target::Version(i64::from(self.below(3))),
            1 => Target::Create(Revision(0)),
            2 => Target::Mod(Revision(i64::from(self.below(6)))),
            3 => Target::Lease(self.lease()),
            _ => Target::Value(self.value()),
        };
        let relation = [Relation::Equal, Relation::Greater, Relation::Less, Relation::NotEqual][self.below(4) as usize];
        Compare { keys: self.range(), relation, target }
    }

    fn request(&mut self) -> Request {
        let lease = LeaseId(i64::from(self.below(self.shape.leases as u32)) + 1);
        let leases = if self.shape.leases > 0 { 100 } else { 88 };
        match self.rng.random_range(0..leases) {
            0..30 => Request::Put(self.put()),
            30..58 => Request::Range(self.read()),
            58..62 => Request::Range(Range { keys: self.range(), serializable: true, ..Range::default() }),
            62..72 => Request::DeleteRange(DeleteRange { keys: self.range(), prev_kv: self.chance(50) }),
            72..85 => Request::Txn(self.txn(1)),
            85..88 if self.shape.compactions => Request::Compact { revision: Revision(i64::from(self.below(9)) + 1) },
            85..88 => Request::Put(self.put()),
            88..92 => Request::LeaseGrant { id: lease, ttl_secs: 10 },
            92..95 => Request::LeaseRevoke { id: lease },
            95..98 => Request::LeaseKeepAlive { id: lease },
            _ => Request::LeaseTimeToLive { id: lease, keys: true },
        }
    }
}

/// A random number from a seed, for tests that choose among cases.
pub(crate) fn pick(rng: &mut impl Rng, limit: usize) -> usize {
    rng.random_range(0..limit.max(1))
}
