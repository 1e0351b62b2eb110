//! Random histories: the store, crashed and purged at will, against the state tables as plain maps.
//!
//! The model applies every entry once and never purges. The store applies them in runs, loses what was not flushed
//! whenever the test says so and replays from the log, purges in steps of any size between runs, and must still say
//! the same as the model: outcomes, scalars, reads at every revision, hashes. Views taken on the way must not change.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tenure_core::apply::AppliedGroup;
use tenure_core::codec::GroupBuilder;
use tenure_core::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, EntryPosition, ExpiryGuard, GroupHeader, KeyRange,
    LeaseGrant, LeaseRevoke, LockAcquire, LockCancel, LockForce, LockRequest, Op, Put, Range, Txn,
};
use tenure_core::hash::{hash_kv, hash_state};
use tenure_core::lock::{LockKey, LockMode, LockValue, lock_names};
use tenure_core::memory::MemoryState;
use tenure_core::range::read_range;
use tenure_core::row::{
    AlarmKind, ClientName, EventRow, Incarnation, LeaseEnd, LeaseHolder, MemberAttributes, RevokedBy,
};
use tenure_core::state::StateRead;
use tenure_core::{EventId, LeaseId, LogIndex, MemberId, Revision, Term, apply_group};

use super::*;
use crate::mem::MemEngine;
use crate::purge::{PurgeProgress, PurgeWork};
use crate::rows::decode_current;
use crate::testing::rows_of;

/// Some values on either side of it, so that both places of a value are met.
const INLINE_MAX: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    /// Apply entries, as one run.
    Run(Vec<Entry>),
    /// Start a run and drop it.
    Abandon(Entry),
    Flush,
    /// Lose the unflushed batches but this share of them, in percent.
    Crash(usize),
    /// Plan a purge over this many events.
    Plan(usize),
    /// Delete this many rows.
    Purge(usize),
    /// Take a view and look at it again at the end.
    KeepView,
}

#[derive(Clone, Debug)]
struct Entry {
    lease_clock_ms: Option<u64>,
    commands: Vec<Command>,
}

impl Entry {
    fn encoded(&self) -> Bytes {
        let header = GroupHeader { lease_clock_ms: self.lease_clock_ms, origin_term: None };
        let mut group = GroupBuilder::new(header);
        for command in &self.commands {
            group.push(&command.encode());
        }
        group.finish()
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    let plain = (0..7u8).prop_map(|number| Bytes::from(vec![b'a' + number; 1 + usize::from(number % 2)]));
    let contender = prop::sample::select(&["n/-1", "n/1", "n/2", "n/x"][..]).prop_map(Bytes::from);
    prop_oneof![4 => plain, 1 => contender]
}

fn key_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => key().prop_map(KeyRange::One),
        2 => (key(), key()).prop_map(|(start, end)| KeyRange::Between(start, end)),
        1 => key().prop_map(KeyRange::From),
    ]
}

fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![2 => Just(LeaseId::NONE), 3 => (-1..3i64).prop_map(LeaseId)]
}

fn put() -> impl Strategy<Value = Put> {
    let flags = (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (key(), vec(any::<u8>(), 0..3 * INLINE_MAX), lease(), flags).prop_map(
        |(key, value, lease, (prev_kv, ignore_value, ignore_lease))| Put {
            key,
            value: if ignore_value { Bytes::new() } else { value.into() },
            lease: if ignore_lease { LeaseId::NONE } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    (key_range(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRange { range, prev_kv })
}

fn range() -> impl Strategy<Value = Range> {
    (key_range(), 0..4i64, 0..20i64, any::<bool>())
        .prop_map(|(range, limit, revision, count_only)| reading(range, limit, revision, count_only))
}

fn reading(range: KeyRange, limit: i64, revision: i64, count_only: bool) -> Range {
    Range { limit, revision: Revision(revision), count_only, ..Range::of(range) }
}

fn txn() -> impl Strategy<Value = Txn> {
    let compare = (key_range(), 0..3i64).prop_map(|(range, version)| Compare {
        range,
        result: CompareResult::NotEqual,
        target: CompareTarget::Version(version),
    });
    let op = prop_oneof![
        range().prop_map(Op::Range),
        put().prop_map(Op::Put),
        delete().prop_map(Op::DeleteRange),
        range().prop_map(Op::Range),
    ];
    (vec(compare, 0..2), vec(op.clone(), 0..5), vec(op, 0..3)).prop_map(|(compares, success, failure)| Txn {
        compares,
        success,
        failure,
    })
}

fn holder() -> impl Strategy<Value = LeaseHolder> {
    ("n{0,2}", "t{0,2}").prop_map(|(name, text)| LeaseHolder { name, text })
}

fn revoked_by() -> impl Strategy<Value = Option<RevokedBy>> {
    let by = (0..3u64).prop_map(|member| RevokedBy { member: MemberId(member), client: ClientName::Unknown });
    proptest::option::weighted(0.8, by)
}

fn lock_command() -> impl Strategy<Value = Command> {
    let request = || {
        (-1..3i64, 1..6u64, any::<bool>()).prop_map(|(lease, number, raises)| LockRequest {
            lease: LeaseId(lease),
            number,
            lowest_open: if raises { number } else { 1 },
            attach: 1,
        })
    };
    let name = || Bytes::from_static(b"n");
    let mode = prop_oneof![Just(LockMode::Exclusive), Just(LockMode::Shared)];
    prop_oneof![
        4 => (request(), mode, any::<bool>(), "o{0,1}").prop_map(move |(request, mode, delayed, owner)| {
            let delay_ms = if delayed { 100 } else { 0 };
            let acquire = LockAcquire { name: name(), request, wait: true, mode, owner, delay_ms, ..LockAcquire::default() };
            Command::LockAcquire(acquire)
        }),
        1 => request().prop_map(move |request| Command::LockCancel(LockCancel { name: name(), request })),
        2 => (key(), 2..20i64).prop_map(|(key, token)| {
            Command::LockForce(LockForce { key, token: Revision(token), ..LockForce::default() })
        }),
    ]
}

/// The lessor's revokes of leases that were granted in the first entries.
fn expiry() -> impl Strategy<Value = Command> {
    (-1..3i64, 1..6u64, 0..3u32).prop_map(|(id, index, place)| {
        let incarnation = Incarnation { index: LogIndex(index), place };
        let expiry = Some(ExpiryGuard { incarnation, renewals: 0 });
        Command::LeaseRevoke(LeaseRevoke { id: LeaseId(id), expiry, by: None })
    })
}

fn command() -> impl Strategy<Value = Command> {
    let member = (0..2u64).prop_map(MemberId);
    prop_oneof![
        12 => put().prop_map(Command::Put),
        4 => delete().prop_map(Command::DeleteRange),
        6 => txn().prop_map(Command::Txn),
        3 => (0..60i64).prop_map(|revision| Command::Compact(Revision(revision))),
        2 => (-1..3i64, holder())
            .prop_map(|(id, holder)| Command::LeaseGrant(LeaseGrant { id: LeaseId(id), ttl_ms: 1000, holder })),
        3 => (-1..3i64).prop_map(|id| Command::LeaseRenew(LeaseId(id))),
        2 => (-1..3i64, revoked_by())
            .prop_map(|(id, by)| Command::LeaseRevoke(LeaseRevoke { id: LeaseId(id), expiry: None, by })),
        6 => lock_command(),
        2 => expiry(),
        1 => member.clone().prop_map(|member| Command::AlarmClear(member, AlarmKind::NoSpace)),
        1 => member.prop_map(|member| Command::MemberPublish(MemberAttributes {
            member,
            name: "name".into(),
            client_urls: vec!["http://127.0.0.1:2379".into()],
        })),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    (proptest::option::weighted(0.7, 0..10_000u64), vec(command(), 0..5))
        .prop_map(|(lease_clock_ms, commands)| Entry { lease_clock_ms, commands })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => vec(entry(), 1..4).prop_map(Step::Run),
        1 => entry().prop_map(Step::Abandon),
        3 => Just(Step::Flush),
        3 => (0..=100usize).prop_map(Step::Crash),
        4 => (1..8usize).prop_map(Step::Plan),
        8 => (1..4usize).prop_map(Step::Purge),
        1 => Just(Step::KeepView),
    ]
}

/// The store under test with what a node has around it.
struct Node {
    engine: MemEngine,
    store: StateStore,
    log: Vec<Bytes>,
    model: MemoryState,
    outcomes: Vec<AppliedGroup>,
    /// The rows of locks, from what the commits said since the last start.
    locks: BTreeMap<LockKey, LockValue>,
    work: Option<PurgeWork>,
    kept: Vec<(Arc<StateView>, Dump)>,
}

type Dump = Vec<Vec<(Vec<u8>, Vec<u8>)>>;

fn dump(view: &StateView) -> Dump {
    Table::ALL.into_iter().map(|table| rows_of(view.engine_snapshot(), table)).collect()
}

fn open(engine: &MemEngine) -> StateStore {
    // Room for two short keys in each shard of the cache, and for no long one.
    let options = Options {
        inline_value_bytes_max: INLINE_MAX,
        meta_cache_bytes_max: 258 << 10,
        lease_cache_bytes_max: 200 << 10,
        lock_cache_bytes_max: 300 << 10,
        lease_keys_one_by_one_max: 1,
        counted_keys_min: 0,
    };
    StateStore::open_with(Arc::new(engine.clone()), options).unwrap()
}

fn position(index: u64) -> EntryPosition {
    EntryPosition { index: LogIndex(index), term: Term(1) }
}

impl Node {
    fn new() -> Node {
        let engine = MemEngine::new();
        let store = open(&engine);
        let (log, outcomes, kept) = (Vec::new(), Vec::new(), Vec::new());
        let locks = BTreeMap::new();
        Node { engine, store, log, model: MemoryState::default(), outcomes, locks, work: None, kept }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Run(entries) => {
                for entry in entries {
                    self.log.push(entry.encoded());
                    let at = position(self.log.len() as u64);
                    let outcomes = apply_group(&mut self.model, at, &entry.encoded()).unwrap();
                    self.outcomes.push(outcomes);
                }
                self.catch_up();
            }
            Step::Abandon(entry) => {
                let before = dump(&self.store.view());
                let index = self.log.len() as u64 + 1;
                let mut run = self.store.begin();
                apply_group(&mut run, position(index), &entry.encoded()).unwrap();
                drop(run);
                assert_eq!(dump(&self.store.view()), before);
            }
            Step::Flush => {
                let durable = self.store.flusher().flush().unwrap();
                assert_eq!(durable, self.store.applied().index);
            }
            Step::Crash(percent) => {
                let durable = self.store.flusher().durable();
                let kept = self.engine.unflushed_batches() * percent / 100;
                self.engine = self.engine.crash(kept);
                self.store = open(&self.engine);
                assert!(self.store.applied().index >= durable);
                self.locks = lock_rows(&*self.store.view());
                self.catch_up();
            }
            Step::Plan(events_max) => {
                self.work = PurgeWork::plan_at_most(&self.store.view(), events_max).unwrap();
            }
            Step::Purge(rows_max) => {
                if let Some(work) = &mut self.work {
                    self.store.purge_step_at_most(work, rows_max).unwrap();
                }
            }
            Step::KeepView => {
                let view = self.store.view();
                let rows = dump(&view);
                self.kept.push((view, rows));
            }
        }
    }

    /// Applies what the log holds beyond the store, as one run.
    fn catch_up(&mut self) {
        let mut applied = self.store.applied().clone();
        let first = usize::try_from(applied.index.0).unwrap();
        if first == self.log.len() {
            return;
        }
        let events_before = self.store.view().meta().revision;
        let mut run = self.store.begin();
        for (place, group) in self.log.iter().enumerate().skip(first) {
            let at = position(place as u64 + 1);
            assert_eq!(apply_group(&mut run, at, group).unwrap(), self.outcomes[place], "entry {place}");
            applied = Applied { index: at.index, term: at.term, membership: Bytes::from(place.to_string()) };
        }
        let committed = run.commit(applied.clone()).unwrap();
        assert_eq!(committed.view.applied(), &applied);
        let new: Vec<EventRow> =
            self.model.history.values().filter(|event| event.meta.modified.revision > events_before).cloned().collect();
        assert_eq!(committed.events, new);
        for (key, row) in committed.locks {
            match row {
                Some(row) => drop(self.locks.insert(key, row)),
                None => drop(self.locks.remove(&key)),
            }
        }
        assert_eq!(self.locks, self.model.locks);
        assert_eq!(lock_rows(&*committed.view), self.model.locks);
        let run = self.store.begin();
        for name in self.model.live.iter().flat_map(|key| lock_names(key)).chain([&b"n"[..], b"a", b"a/b"]) {
            for max in [1, 100] {
                assert_eq!(run.contending_keys(name, max), Ok(self.model.contending_keys(name, max).unwrap()));
            }
        }
    }

    fn check(&self) {
        let view = self.store.view();
        assert_eq!(view.meta(), &self.model.meta);
        assert_eq!(view.applied().index.0, self.log.len() as u64);
        assert_eq!(leases(&*view), leases(&self.model));
        assert_eq!(
            rows_of(view.engine_snapshot(), Table::LeaseKeys).len(),
            self.model.lease_keys.len(),
            "none is left behind"
        );
        assert_eq!(hash_state(&*view).unwrap(), hash_state(&self.model).unwrap());
        self.check_ends(&view);
        let everything = KeyRange::From(Bytes::new());
        for revision in view.meta().compacted.0.max(0)..=view.meta().revision.0 + 1 {
            let at = Revision(revision);
            assert_eq!(hash_kv(&*view, at).unwrap(), hash_kv(&self.model, at).unwrap(), "hash at {at}");
            for count_only in [false, true] {
                let request = reading(everything.clone(), 0, revision, count_only);
                assert_eq!(read_range(&*view, &request).unwrap(), read_range(&self.model, &request).unwrap());
            }
        }
        self.check_counts();
        for (_, row) in rows_of(view.engine_snapshot(), Table::Current) {
            let row = decode_current(&row).unwrap();
            assert_eq!(row.previous, view.event(row.meta.modified).unwrap().unwrap().previous);
        }
        for (view, rows) in &self.kept {
            assert_eq!(&dump(view), rows, "a view changed");
        }
    }

    fn check_ends(&self, view: &StateView) {
        let mut ends: Vec<(u64, LeaseEnd)> = Vec::new();
        let scanned = view.scan_lease_ends(&mut |number, end| {
            ends.push((number, end));
            ControlFlow::Continue(())
        });
        assert!(scanned.is_ok());
        assert!(ends.iter().map(|(number, end)| (number, end)).eq(&self.model.lease_ends));
        let first = ends.first().map(|(_, end)| end);
        assert_eq!(first, self.model.lease_ends.values().next());
        for id in (-1..4).map(LeaseId) {
            let last = self.model.lease_ends.values().rfind(|end| end.id == id);
            assert_eq!(view.last_lease_end(id).unwrap().as_ref(), last);
            assert_eq!(view.lease_holder(id).unwrap().as_ref(), self.model.lease_holders.get(&id));
        }
    }

    fn check_counts(&self) {
        let view = self.store.view();
        let (mut logical, mut in_use) = (0, 0);
        for event in events(&*view) {
            logical += event_bytes(event.key.len(), event.value.len() as u64);
            if self.model.live.contains(&event.key)
                && self.model.current[&event.key].meta.modified == event.meta.modified
            {
                in_use += event_bytes(event.key.len(), event.value.len() as u64);
            }
        }
        let holders: u64 = self.model.lease_holders.values().map(|holder| holder_bytes(Some(holder))).sum();
        assert_eq!(view.bytes(), ByteCounts { logical: logical + holders, in_use: in_use + holders });
    }

    /// Purges to the end and checks that exactly what compaction asks for is left.
    fn purge_all(&mut self) {
        while let Some(mut work) = PurgeWork::plan_at_most(&self.store.view(), 3).unwrap() {
            while self.store.purge_step_at_most(&mut work, 2).unwrap() == PurgeProgress::More {}
        }
        let compacted = self.model.meta.compacted;
        let superseded = |event: &EventRow| {
            let later = self.model.history.values().filter(|other| other.key == event.key);
            later
                .into_iter()
                .any(|other| other.meta.modified > event.meta.modified && other.meta.modified.revision <= compacted)
        };
        let left: Vec<EventId> = self
            .model
            .history
            .values()
            .filter(|event| !superseded(event))
            .filter(|event| !(event.meta.is_tombstone() && event.meta.modified.revision < compacted))
            .map(|event| event.meta.modified)
            .collect();
        let found: Vec<EventId> = events(&*self.store.view()).iter().map(|event| event.meta.modified).collect();
        assert_eq!(found, left, "compacted at {compacted}");
        let forgotten = |revision: Revision| revision < compacted;
        let current = self
            .model
            .current
            .iter()
            .filter(|(_, row)| !(row.meta.is_tombstone() && forgotten(row.meta.modified.revision)));
        let keys: Vec<Vec<u8>> = current.map(|(key, _)| key.to_vec()).collect();
        let rows = rows_of(self.store.view().engine_snapshot(), Table::Current);
        assert_eq!(rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), keys);
    }
}

fn events<S: StateRead>(state: &S) -> Vec<EventRow> {
    let mut events = Vec::new();
    let scanned = state.scan_events(Revision(0), Revision(i64::MAX), &mut |event| {
        events.push(event);
        ControlFlow::Continue(())
    });
    assert!(scanned.is_ok());
    events
}

fn lock_rows<S: StateRead>(state: &S) -> BTreeMap<LockKey, LockValue> {
    let mut rows = BTreeMap::new();
    let first = LockKey::Delay(LeaseId(i64::MIN), Bytes::new());
    let scanned = state.scan_lock_rows(&first, &mut |key, row| {
        assert!(state.lock_row(&key).is_ok_and(|found| found.as_ref() == Some(&row)));
        rows.insert(key, row);
        ControlFlow::Continue(())
    });
    assert!(scanned.is_ok());
    rows
}

fn leases<S: StateRead>(state: &S) -> Vec<(LeaseId, String, Vec<Bytes>)> {
    let mut leases = Vec::new();
    let scanned = state.scan_leases(&mut |id, row| {
        leases.push((id, format!("{row:?}"), Vec::new()));
        ControlFlow::Continue(())
    });
    assert!(scanned.is_ok());
    for (id, _, keys) in &mut leases {
        let scanned = state.scan_lease_keys(*id, &mut |key| {
            keys.push(key);
            ControlFlow::Continue(())
        });
        assert!(scanned.is_ok());
    }
    leases
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_store_that_crashes_and_purges_says_what_the_model_says(steps in vec(step(), 1..40)) {
        let mut node = Node::new();
        for step in steps {
            node.take(step);
            node.check_counts();
        }
        node.check();
        node.take(Step::Crash(0));
        node.check();
        node.purge_all();
        node.check();
    }
}
