//! Histories like those of real runs: clients with leases of their own, compare-and-swap on what they read, and failovers
//! that leave whole bursts of operations without an answer, of which some have happened, some happen later and some never.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tenure_history::model::Store;
use tenure_history::request::{Compare, DeleteRange, KeyRange, Put, Range, Relation, Request, Target, Txn, TxnOp};
use tenure_history::response::{Body, KeyValue, Outcome, RangeBody, Response};
use tenure_history::watch::{Event, Step};
use tenure_history::{ClientId, History, Initial, LeaseId, Moment, NodeId, Operation, Revision};

/// What kind of history to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) clients: u32,
    pub(crate) operations: usize,
    pub(crate) keys: u32,
    /// In a hundred thousand: operations outside failovers that end unknown.
    pub(crate) unknown_per_100k: u32,
    /// Operations between two failovers; 0 for none.
    pub(crate) failover_every: usize,
    /// Whether clients use leases.
    pub(crate) leases: bool,
}

impl Workload {
    /// 1.5 % unknown, most of them in bursts, and leases that end.
    pub(crate) const REAL: Workload = Workload {
        clients: 48,
        operations: 100_000,
        keys: 200,
        unknown_per_100k: 500,
        failover_every: 3_000,
        leases: true,
    };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Called,
    Applied,
    /// Nobody will be told.
    Lost,
}

struct Running {
    at: usize,
    phase: Phase,
}

#[derive(Default)]
struct Client {
    running: Option<Running>,
    lease: LeaseId,
    /// The key that it read last, with its modification revision.
    read: Option<(Bytes, Revision)>,
    /// The highest revision seen in a serializable read.
    seen: i64,
    silent_until: u64,
}

struct World {
    rng: SmallRng,
    shape: Workload,
    store: Store,
    now: u64,
    operations: Vec<Operation>,
    clients: Vec<Client>,
    lost: Vec<usize>,
    leases: i64,
    values: u64,
    /// Until when no leader works.
    failover_until: u64,
}

/// A history that is linearizable by construction, and the store it ends with.
pub(crate) fn history(seed: u64, shape: Workload) -> (History, Store) {
    let client = |_| Client { seen: 1, ..Client::default() };
    let mut world = World {
        rng: SmallRng::seed_from_u64(seed),
        shape,
        store: Store::new(&Initial::default()),
        now: 1,
        operations: Vec::new(),
        clients: (0..shape.clients).map(client).collect(),
        lost: Vec::new(),
        leases: 0,
        values: 0,
        failover_until: 0,
    };
    while world.operations.len() < shape.operations || world.clients.iter().any(|client| client.running.is_some()) {
        world.step();
    }
    (History::of(world.operations), world.store)
}

impl World {
    fn below(&mut self, limit: u32) -> u32 {
        self.rng.random_range(0..limit.max(1))
    }

    fn one_in(&mut self, many: u32) -> bool {
        self.below(many) == 0
    }

    fn step(&mut self) {
        self.now += 1_000;
        let every = self.shape.failover_every;
        if every > 0 && self.operations.len() % every == every - 1 && self.now > self.failover_until + 1_000_000 {
            self.failover_until = self.now + 300_000;
        }
        self.end_a_lease();
        if !self.lost.is_empty() && self.one_in(40) {
            let at = self.below(self.lost.len() as u32) as usize;
            let at = self.lost.swap_remove(at);
            let _refused = self.store.apply(&self.operations[at].request.clone());
        }
        let client = self.below(self.shape.clients) as usize;
        match self.clients[client].running.take() {
            // Its request waits for a time-out, and then for a leader.
            None if self.clients[client].silent_until > self.now => {}
            None if self.operations.len() < self.shape.operations => self.call(client),
            None => {}
            Some(running) if running.phase == Phase::Called => self.take_effect(client, running),
            Some(running) => self.give_back(&running),
        }
    }

    /// Some lease ends by itself: its owner did not renew it.
    fn end_a_lease(&mut self) {
        if !self.one_in(700) {
            return;
        }
        let live = self.store.leases();
        if !live.is_empty() {
            let lease = live[self.below(live.len() as u32) as usize];
            self.store.expire(lease);
            if let Some(owner) = self.clients.iter_mut().find(|client| client.lease == lease) {
                owner.lease = LeaseId::NONE;
            }
        }
    }

    fn call(&mut self, client: usize) {
        let request = self.request(client);
        let at = self.operations.len();
        self.operations.push(Operation {
            client: ClientId(client as u32),
            node: Some(NodeId(client as u32 % 3)),
            called: Moment(self.now),
            returned: None,
            request,
            outcome: Outcome::Unknown,
        });
        self.clients[client].running = Some(Running { at, phase: Phase::Called });
    }

    fn take_effect(&mut self, client: usize, mut running: Running) {
        let in_failover = self.now < self.failover_until;
        let is_lost = if in_failover { self.below(10) < 8 } else { self.below(100_000) < self.shape.unknown_per_100k };
        running.phase = if is_lost { Phase::Lost } else { Phase::Applied };
        let at = running.at;
        self.clients[client].running = Some(running);
        if is_lost {
            self.clients[client].silent_until = self.failover_until;
            // Before its client gives up, after, or never.
            match self.below(3) {
                0 => drop(self.store.apply(&self.operations[at].request.clone())),
                1 => self.lost.push(at),
                _ => {}
            }
            return;
        }
        let request = self.operations[at].request.clone();
        self.operations[at].outcome = match &request {
            Request::Range(range) if range.serializable => self.read_behind(client, range),
            _ => match self.store.apply(&request) {
                Ok(response) => Outcome::Ok(response),
                Err(refusal) => Outcome::Refused(refusal),
            },
        };
        self.remember(client, at);
    }

    /// What its client makes of an answer.
    fn remember(&mut self, client: usize, at: usize) {
        let (operation, client) = (&self.operations[at], &mut self.clients[client]);
        let Outcome::Ok(response) = &operation.outcome else { return };
        match (&operation.request, &response.body) {
            (Request::Range(range), Body::Range(body)) => {
                let modified = body.kvs.first().map_or(Revision(0), |kv| kv.modified);
                client.read = range.keys.single().map(|key| (key.clone(), modified));
            }
            (_, Body::LeaseGrant { id, .. }) => client.lease = *id,
            (Request::LeaseKeepAlive { .. }, Body::LeaseKeepAlive { ttl_secs: 0 }) | (_, Body::LeaseRevoke) => {
                client.lease = LeaseId::NONE;
            }
            _ => {}
        }
    }

    /// What a node that lags behind answers.
    fn read_behind(&mut self, client: usize, range: &Range) -> Outcome {
        let newest = self.store.revision().0;
        let oldest = self.clients[client].seen.max(newest - 200);
        let revision = Revision(self.rng.random_range(oldest..=newest));
        self.clients[client].seen = revision.0;
        let kvs: Vec<_> = self.store.range_at(&range.keys, revision).into_iter().cloned().collect();
        let body = RangeBody { count: kvs.len() as i64, kvs, more: false };
        Outcome::Ok(Response { revision, body: Body::Range(body) })
    }

    fn give_back(&mut self, running: &Running) {
        self.operations[running.at].returned = Some(Moment(self.now));
    }

    fn key(&mut self) -> Bytes {
        format!("k{:03}", self.below(self.shape.keys)).into()
    }

    fn value(&mut self) -> Bytes {
        self.values += 1;
        format!("v{}", self.values).into()
    }

    fn put(&mut self, client: usize) -> Put {
        let lease = if self.shape.leases && self.one_in(3) { self.clients[client].lease } else { LeaseId::NONE };
        Put { key: self.key(), value: self.value(), lease, prev_kv: self.one_in(5) }
    }

    fn keys(&mut self) -> KeyRange {
        let from = self.below(self.shape.keys);
        KeyRange::between(format!("k{from:03}"), format!("k{:03}", from + 5))
    }

    /// Swaps what the client read last, or makes a key that must not be there, with a second key beside it now and then.
    fn swap(&mut self, client: usize) -> Txn {
        let mut put = self.put(client);
        let read = self.clients[client].read.take();
        let target = match &read {
            Some((key, modified)) => {
                put.key = key.clone();
                Target::Mod(*modified)
            }
            None => Target::Create(Revision(0)),
        };
        let compare = Compare { keys: KeyRange::one(put.key.clone()), relation: Relation::Equal, target };
        let get = TxnOp::Range(Range { keys: KeyRange::one(put.key.clone()), ..Range::default() });
        let mut success = if self.one_in(5) {
            vec![TxnOp::DeleteRange(DeleteRange { keys: KeyRange::one(put.key.clone()), prev_kv: true })]
        } else {
            vec![TxnOp::Put(put.clone())]
        };
        let second = self.put(client);
        // Ascending, as in every other revision of several events.
        if self.one_in(4) && second.key > put.key {
            success.push(TxnOp::Put(second));
        }
        Txn { compares: vec![compare], success, failure: vec![get] }
    }

    fn request(&mut self, client: usize) -> Request {
        let range = |keys, serializable| Request::Range(Range { keys, serializable, ..Range::default() });
        let leases = if self.shape.leases { 100 } else { 92 };
        match self.below(leases) {
            0..30 => range(KeyRange::one(self.key()), false),
            30..34 => range(self.keys(), false),
            34..40 => range(KeyRange::one(self.key()), true),
            40..70 => Request::Put(self.put(client)),
            70..78 => Request::DeleteRange(DeleteRange { keys: KeyRange::one(self.key()), prev_kv: self.one_in(4) }),
            78..79 => Request::DeleteRange(DeleteRange { keys: self.keys(), prev_kv: true }),
            79..92 => Request::Txn(self.swap(client)),
            _ => self.about_lease(client),
        }
    }

    fn about_lease(&mut self, client: usize) -> Request {
        let id = self.clients[client].lease;
        if !id.is_some() {
            self.leases += 1;
            return Request::LeaseGrant { id: LeaseId(self.leases), ttl_secs: 10 };
        }
        match self.below(10) {
            0..7 => Request::LeaseKeepAlive { id },
            7 => Request::LeaseRevoke { id },
            _ => Request::LeaseTimeToLive { id, keys: false },
        }
    }
}

/// What a watcher over everything is told that sees all of it but some spans of revisions: those that `misses`.
pub(crate) fn watch_all(store: &Store, keys: u32, misses: &dyn Fn(Revision) -> bool) -> Vec<Step> {
    let mut changes: BTreeMap<Revision, Vec<Event>> = BTreeMap::new();
    for key in (0..keys).map(|key| Bytes::from(format!("k{key:03}"))) {
        let mut before: Option<KeyValue> = None;
        for revision in (2..=store.revision().0).map(Revision) {
            let now = store.get_at(&key, revision).cloned();
            if now != before {
                let gone = KeyValue { key: key.clone(), modified: revision, ..KeyValue::default() };
                let event = Event { delete: now.is_none(), kv: now.clone().unwrap_or(gone), prev_kv: None };
                changes.entry(revision).or_default().push(event);
            }
            before = now;
        }
    }
    let mut steps = vec![Step::From(Revision(2))];
    let mut missed = false;
    for (revision, events) in changes {
        if misses(revision) {
            missed = true;
            continue;
        }
        if core::mem::take(&mut missed) {
            steps.push(Step::From(revision));
        }
        steps.push(Step::Message { at: Moment(revision.0 as u64), revision, fragment: false, events });
    }
    steps
}

/// Gives a late read of one key the answer, header included, that an earlier read of it got: a stale read. Where.
pub(crate) fn spoil(history: &mut History) -> Option<usize> {
    let kvs = |operation: &Operation| match &operation.outcome {
        Outcome::Ok(Response { body: Body::Range(body), .. }) => body.kvs.clone(),
        _ => Vec::new(),
    };
    let late = history.operations.len() * 9 / 10;
    for at in late..history.operations.len() {
        let Request::Range(range) = &history.operations[at].request else { continue };
        if range.serializable
            || range.keys.single().is_none()
            || range.revision > Revision(0)
            || kvs(&history.operations[at]).is_empty()
        {
            continue;
        }
        let earlier = (0..at).rev().find(|earlier| {
            let earlier = &history.operations[*earlier];
            earlier.request == history.operations[at].request
                && earlier.returned < Some(history.operations[at].called)
                && kvs(earlier) != kvs(&history.operations[at])
                && matches!(earlier.outcome, Outcome::Ok(_))
        });
        if let Some(earlier) = earlier {
            history.operations[at].outcome = history.operations[earlier].outcome.clone();
            return Some(at);
        }
    }
    None
}
