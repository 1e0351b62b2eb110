//! The law of the state machine: whatever is applied, its answers are the naive model's, at every revision that can still
//! be read, purged or not.
//!
//! A story is a list of steps in a small world. It is told to the model and to two copies of the state: one that is
//! never purged and one that is purged now and then. All three must answer alike, and the copies must hash alike.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestError, TestRng, TestRunner};
use tenure_core::codec::GroupBuilder;
use tenure_core::command::{
    Command, Compare, CompareTarget, DeleteRange, EntryPosition, ExpiryGuard, GroupHeader, LeaseGrant, LeaseRevoke, Op,
    Put, Range, Txn,
};
use tenure_core::hash::{hash_kv, hash_state};
use tenure_core::lock::LockValue;
use tenure_core::outcome::{Outcome, RangeResult, Refusal, Response};
use tenure_core::purge::plan_purge;
use tenure_core::range::{key_at, prev_kv, read_range};
use tenure_core::row::{AlarmKind, Incarnation, RevokedBy};
use tenure_core::txn::read_txn;
use tenure_core::{LeaseId, LogIndex, MemberId, Revision, Term, apply_group};

use crate::model::Model;
use crate::mutant::{BUGS, Bug, Mutant};
use crate::strategies::{compare_result, holder, key_range, revoked_by, sort};
use crate::tables;

const KEYS: [&str; 6] = ["a", "a\0", "ab", "b", "c", "d"];
const VALUES: [&str; 4] = ["", "0", "1", "two"];
const TERM: Term = Term(3);

#[derive(Clone, Debug)]
enum Step {
    Group {
        commands: Vec<Command>,
        clock_ms: Option<u64>,
        fenced: bool,
    },
    /// The lessor's revoke of a lease, by its row as it is, or as it is not.
    Expire {
        lease: LeaseId,
        /// How far off its incarnation's place and its renewals are.
        off: (u32, u64),
        by: Option<RevokedBy>,
    },
    Read(Range),
    ReadTxn(Txn),
    /// A part of a purge pass.
    Purge {
        max_events: usize,
    },
}

fn key() -> BoxedStrategy<Bytes> {
    select(&KEYS[..]).prop_map(|key| Bytes::from_static(key.as_bytes())).boxed()
}

fn value() -> impl Strategy<Value = Bytes> {
    select(&VALUES[..]).prop_map(|value| Bytes::from_static(value.as_bytes()))
}

fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![2 => Just(0), 3 => 1..4i64].prop_map(LeaseId)
}

/// A lease that may well be there.
fn granted() -> impl Strategy<Value = LeaseId> {
    prop_oneof![1 => Just(0), 9 => 1..4i64].prop_map(LeaseId)
}

fn revision() -> impl Strategy<Value = Revision> {
    prop_oneof![3 => Just(0), 5 => 1..25i64, 1 => -2..1i64].prop_map(Revision)
}

fn bound() -> impl Strategy<Value = Revision> {
    prop_oneof![6 => Just(0), 2 => 1..15i64, 1 => Just(-1)].prop_map(Revision)
}

fn put() -> impl Strategy<Value = Put> {
    let rarely = || proptest::bool::weighted(0.2);
    (key(), value(), lease(), any::<bool>(), rarely(), rarely()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| Put {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { LeaseId::NONE } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    (key_range(key()), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRange { range, prev_kv })
}

fn range() -> impl Strategy<Value = Range> {
    let rarely = || proptest::bool::weighted(0.2);
    (key_range(key()), -1..5i64, revision(), sort(), rarely(), rarely(), [bound(), bound(), bound(), bound()]).prop_map(
        |(range, limit, revision, (order, target), keys_only, count_only, bounds)| Range {
            range,
            limit,
            revision,
            order,
            target,
            keys_only,
            count_only,
            min_mod: bounds[0],
            max_mod: bounds[1],
            min_create: bounds[2],
            max_create: bounds[3],
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0..4i64).prop_map(CompareTarget::Version),
        (0..15i64).prop_map(|revision| CompareTarget::Create(Revision(revision))),
        (0..15i64).prop_map(|revision| CompareTarget::Mod(Revision(revision))),
        value().prop_map(CompareTarget::Value),
        lease().prop_map(CompareTarget::Lease),
    ];
    (key_range(key()), compare_result(), target).prop_map(|(range, result, target)| Compare { range, result, target })
}

fn txn() -> impl Strategy<Value = Txn> {
    // Mostly the present: a path is refused as a whole for one revision out of reach.
    let present = (range(), proptest::bool::weighted(0.1)).prop_map(|(mut range, keep)| {
        range.revision = if keep { range.revision } else { Revision(0) };
        range
    });
    let leaf = prop_oneof![
        2 => present.prop_map(Op::Range),
        4 => put().prop_map(Op::Put),
        1 => delete().prop_map(Op::DeleteRange),
    ];
    let op = leaf.prop_recursive(2, 6, 2, |op| {
        (vec(compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3))
            .prop_map(|(compares, success, failure)| Op::Txn(Txn { compares, success, failure }))
    });
    (vec(compare(), 0..2), vec(op.clone(), 0..4), vec(op, 0..3)).prop_map(|(compares, success, failure)| Txn {
        compares,
        success,
        failure,
    })
}

fn read_only_txn() -> impl Strategy<Value = Txn> {
    let ranges = || vec(range().prop_map(Op::Range), 0..3);
    (vec(compare(), 0..2), ranges(), ranges()).prop_map(|(compares, success, failure)| Txn {
        compares,
        success,
        failure,
    })
}

fn command() -> impl Strategy<Value = Command> {
    let alarm = || (1..3u64, prop_oneof![3 => Just(AlarmKind::NoSpace), 1 => Just(AlarmKind::Corrupt)]);
    prop_oneof![
        30 => put().prop_map(Command::Put),
        12 => delete().prop_map(Command::DeleteRange),
        20 => txn().prop_map(Command::Txn),
        8 => (-2..20i64).prop_map(|revision| Command::Compact(Revision(revision))),
        16 => (0..4i64, 1..1500u64, holder())
            .prop_map(|(id, ttl_ms, holder)| Command::LeaseGrant(LeaseGrant { id: LeaseId(id), ttl_ms, holder })),
        10 => granted().prop_map(Command::LeaseRenew),
        6 => (granted(), revoked_by())
            .prop_map(|(id, by)| Command::LeaseRevoke(LeaseRevoke { id, expiry: None, by })),
        1 => alarm().prop_map(|(member, kind)| Command::AlarmRaise(MemberId(member), kind)),
        4 => alarm().prop_map(|(member, kind)| Command::AlarmClear(MemberId(member), kind)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let clock = proptest::option::weighted(0.85, 0..8000u64);
    let off = prop_oneof![5 => Just((0, 0)), 1 => Just((1, 0)), 1 => Just((0, 1))];
    prop_oneof![
        12 => (vec(command(), 0..3), clock, proptest::bool::weighted(0.03))
            .prop_map(|(commands, clock_ms, fenced)| Step::Group { commands, clock_ms, fenced }),
        3 => (granted(), off, revoked_by()).prop_map(|(lease, off, by)| Step::Expire { lease, off, by }),
        5 => range().prop_map(Step::Read),
        2 => read_only_txn().prop_map(Step::ReadTxn),
        2 => (0..6usize).prop_map(|max_events| Step::Purge { max_events }),
    ]
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) model: Model,
    pub(crate) kept: Mutant,
    pub(crate) purged: Mutant,
    /// How far `purged` is purged.
    progress: Revision,
    index: u64,
}

pub(crate) type Checked = Result<(), TestCaseError>;

impl World {
    pub(crate) fn new(bug: Option<Bug>) -> World {
        World { kept: Mutant::new(bug), purged: Mutant::new(bug), ..World::default() }
    }

    fn step(&mut self, step: &Step) -> Checked {
        match step {
            Step::Group { commands, clock_ms, fenced } => self.apply(commands, *clock_ms, *fenced),
            Step::Expire { lease, off, by } => {
                let expiry = self.expiry(*lease, *off, by.clone());
                self.apply(&[expiry], None, false)
            }
            Step::Read(range) => self.check_read(range),
            Step::ReadTxn(txn) => {
                let expected = self.model.read_txn(txn);
                prop_assert_eq!(&read_txn(&self.kept, txn).unwrap(), &expected);
                prop_assert_eq!(&read_txn(&self.purged, txn).unwrap(), &expected);
                Ok(())
            }
            Step::Purge { max_events } => self.purge(*max_events),
        }
    }

    pub(crate) fn expiry(&self, id: LeaseId, off: (u32, u64), by: Option<RevokedBy>) -> Command {
        let row = self.model.leases.get(&id);
        let (mut incarnation, mut renewals) = row.map(|row| (row.incarnation, row.renewals)).unwrap_or_default();
        incarnation.place += off.0;
        renewals += off.1;
        Command::LeaseRevoke(LeaseRevoke { id, expiry: Some(ExpiryGuard { incarnation, renewals }), by })
    }

    pub(crate) fn apply(&mut self, commands: &[Command], clock_ms: Option<u64>, fenced: bool) -> Checked {
        self.tell(commands, clock_ms, fenced).map(drop)
    }

    /// The same, and answers the outcomes.
    pub(crate) fn tell(
        &mut self,
        commands: &[Command],
        clock_ms: Option<u64>,
        fenced: bool,
    ) -> Result<Vec<Outcome>, TestCaseError> {
        self.index += 1;
        let origin_term = fenced.then_some(Term(TERM.0 + 1));
        let mut builder = GroupBuilder::new(GroupHeader { lease_clock_ms: clock_ms, origin_term });
        commands.iter().for_each(|command| builder.push(&command.encode()));
        let group = builder.finish();

        let expected = self.expect(commands, clock_ms, fenced);
        let position = EntryPosition { index: LogIndex(self.index), term: TERM };
        for state in [&mut self.kept, &mut self.purged] {
            let applied =
                apply_group(state, position, &group).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(&applied.outcomes, &expected);
            prop_assert_eq!(applied.told_time, clock_ms.is_some() && !fenced);
        }
        Ok(expected)
    }

    fn expect(&mut self, commands: &[Command], clock_ms: Option<u64>, fenced: bool) -> Vec<Outcome> {
        if fenced {
            let fenced = Outcome { revision: Revision(self.model.revision()), result: Err(Refusal::Fenced) };
            return vec![fenced; commands.len()];
        }
        self.model.clock_ms = self.model.clock_ms.max(clock_ms.unwrap_or(0));
        let places = (0..).map(|place| Incarnation { index: LogIndex(self.index), place });
        let timed = clock_ms.is_some();
        commands.iter().zip(places).map(|(command, place)| self.model.apply(command, place, timed)).collect()
    }

    pub(crate) fn purge(&mut self, max_events: usize) -> Checked {
        let plan = plan_purge(&self.purged, self.progress, max_events).unwrap();
        self.purged.state.purge(&plan);
        prop_assert!(plan.next >= self.progress);
        prop_assert!(plan.done || plan.next > self.progress || max_events == 0);
        self.progress = plan.next;
        // A plan may be carried out again, and made again.
        self.purged.state.purge(&plan);
        let before = self.purged.state.clone();
        let again = plan_purge(&self.purged, Revision(0), usize::MAX).unwrap();
        if plan.done {
            self.purged.state.purge(&again);
            prop_assert_eq!(&self.purged.state, &before, "a finished pass leaves nothing to another from the start");
        }
        Ok(())
    }

    fn check_read(&self, range: &Range) -> Checked {
        let expected = self.model.read(range);
        prop_assert_eq!(&read_range(&self.kept, range).unwrap(), &expected);
        prop_assert_eq!(&read_range(&self.purged, range).unwrap(), &expected);
        Ok(())
    }

    /// What must hold after each step. A planted bug is for the model to notice, before it is in the tables.
    pub(crate) fn check_step(&self, bug: Option<Bug>) -> Checked {
        self.check_all()?;
        if bug.is_none() {
            tables::check(&self.kept.state);
            tables::check(&self.purged.state);
        }
        Ok(())
    }

    /// Everything that can be asked about what is there.
    fn check_all(&self) -> Checked {
        let model = &self.model;
        prop_assert_eq!(self.kept.state.meta.revision.0, model.revision());
        prop_assert_eq!(self.kept.state.meta.lease_clock_ms, model.clock_ms);
        prop_assert_eq!(&self.kept.state.leases, &model.leases);
        prop_assert_eq!(&self.purged.state.leases, &model.leases);
        prop_assert_eq!(&self.kept.state.lease_holders, &model.holders);
        let ends: Vec<_> = self.kept.state.lease_ends.values().cloned().collect();
        prop_assert_eq!(&ends, &model.ends);
        prop_assert_eq!(&self.purged.state.lease_ends, &self.kept.state.lease_ends);
        self.check_locks()?;
        prop_assert_eq!(hash_state(&self.purged).unwrap(), hash_state(&self.kept).unwrap());
        for revision in model.compacted.max(1)..=model.revision() {
            let revision = Revision(revision);
            let expected = &model.at[usize::try_from(revision.0).unwrap()];
            for state in [&self.kept, &self.purged] {
                let all = Range { revision, ..everything() };
                let kvs = expected.values().cloned().collect::<Vec<_>>();
                let count = i64::try_from(kvs.len()).unwrap();
                prop_assert_eq!(read_range(state, &all).unwrap(), Ok(RangeResult { kvs, more: false, count }));
                let counted = read_range(state, &Range { count_only: true, ..all }).unwrap().unwrap();
                prop_assert_eq!(counted.count, count);
                for key in KEYS {
                    let found = key_at(state, key.as_bytes(), revision).unwrap();
                    prop_assert_eq!(found.as_ref(), expected.get(key.as_bytes()));
                }
            }
            let hash = hash_kv(&self.kept, revision).unwrap();
            prop_assert_eq!(hash_kv(&self.purged, revision).unwrap(), hash);
            prop_assert!(hash.is_ok());
        }
        self.check_events()
    }

    fn check_locks(&self) -> Checked {
        let expected = self.model.locks.rows(self.model.now());
        prop_assert_eq!(self.kept.state.meta.locks, self.model.locks.counts());
        prop_assert_eq!(&self.purged.state.locks, &self.kept.state.locks);
        let mut rows = self.kept.state.locks.clone();
        for row in rows.values_mut() {
            if let LockValue::Lock(row) = row {
                row.frontier = Revision(0);
            }
        }
        prop_assert_eq!(&rows, &expected);
        Ok(())
    }

    fn check_events(&self) -> Checked {
        let recent = |state: &Mutant| {
            let events = state.state.history.values();
            events.filter(|event| event.meta.modified.revision.0 > self.model.compacted).cloned().collect::<Vec<_>>()
        };
        let events = recent(&self.kept);
        prop_assert_eq!(&recent(&self.purged), &events);
        let expected = self.model.events.iter().filter(|(id, _)| id.revision.0 > self.model.compacted);
        for (event, (id, (key, kv))) in events.iter().zip(expected.clone()) {
            prop_assert_eq!(event.meta.modified, *id);
            prop_assert_eq!(&event.key, key);
            prop_assert_eq!(event.meta.is_tombstone(), kv.is_none());
            let value = kv.as_ref().map(|kv| kv.value.clone()).unwrap_or_default();
            prop_assert_eq!(&event.value, &value);
            prop_assert_eq!(event.cause.as_deref(), self.model.locks.causes.get(id));
            prop_assert_eq!(prev_kv(&self.kept, event).unwrap(), self.model.before(*id));
            prop_assert_eq!(prev_kv(&self.purged, event).unwrap(), self.model.before(*id));
        }
        prop_assert_eq!(events.len(), expected.count());
        Ok(())
    }
}

fn everything() -> Range {
    Range::of(tenure_core::command::KeyRange::From(Bytes::new()))
}

fn check_story(steps: &[Step], bug: Option<Bug>) -> Checked {
    let mut world = World::new(bug);
    for step in steps {
        world.step(step)?;
        world.check_step(bug)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_state_machine_answers_as_the_model_does(steps in vec(step(), 1..40)) {
        check_story(&steps, None)?;
    }

    #[test]
    fn a_changed_byte_of_any_version_changes_the_hash(
        steps in vec(step(), 5..20),
        victim in any::<prop::sample::Index>(),
        bit in 0..8u32,
    ) {
        let mut world = World::new(None);
        for step in &steps {
            world.step(step)?;
        }
        let state = &mut world.kept;
        let compacted = state.state.meta.compacted;
        let newest: Vec<_> = state.state.current.values().map(|row| row.meta.modified).collect();
        let old: Vec<_> = state.state.history.values()
            .filter(|event| event.meta.modified.revision > compacted && !event.value.is_empty())
            .map(|event| event.meta.modified)
            .collect();
        // Stories that end with nothing to damage prove nothing, and are about half.
        if old.is_empty() {
            return Ok(());
        }
        let id = old[victim.index(old.len())];
        let before = hash_kv(state, Revision(0)).unwrap().unwrap();
        let event = state.state.history.get_mut(&id).unwrap();
        let mut value = event.value.to_vec();
        value[0] ^= 1 << bit;
        event.value = value.into();
        match hash_kv(state, Revision(0)) {
            Ok(after) => prop_assert_ne!(after.unwrap().hash, before.hash),
            Err(_) => prop_assert!(newest.contains(&id), "only a newest event is held against a row"),
        }
    }
}

/// Each planted bug is found within the cases that the law is checked with, so the law is not vacuous.
#[test]
fn planted_bugs_are_found() {
    for bug in BUGS {
        let config = ProptestConfig { failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default() };
        let rng = TestRng::deterministic_rng(config.rng_algorithm);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let result = runner.run(&vec(step(), 1..40), |steps| check_story(&steps, Some(bug)));
        assert!(matches!(result, Err(TestError::Fail(..))), "{bug:?} was not found");
    }
}

/// The stories reach the corners that they are there for.
#[test]
fn stories_are_eventful() {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let seen = std::cell::RefCell::new(std::collections::BTreeMap::<String, usize>::new());
    let note = |what: String| *seen.borrow_mut().entry(what).or_default() += 1;
    let told = runner.run(&vec(step(), 1..40), |steps| {
        let mut world = World::new(None);
        for step in &steps {
            if let Step::Expire { lease, off, by } = step {
                world.index += 1;
                let expiry = world.expiry(*lease, *off, by.clone());
                for outcome in world.expect(&[expiry], None, false) {
                    note(format!("expiry {:?}", outcome.result));
                }
            }
            if let Step::Group { commands, clock_ms, fenced } = step {
                world.index += 1;
                for outcome in world.expect(commands, *clock_ms, *fenced) {
                    note(match outcome.result {
                        Err(refusal) => format!("{refusal:?}"),
                        Ok(Response::Txn(txn)) => format!("txn {}", txn.succeeded),
                        Ok(Response::Compact) => "compact".into(),
                        Ok(Response::LeaseRevoke) => "revoke".into(),
                        Ok(Response::LeaseRenew { .. }) => "renew".into(),
                        Ok(_) => "other".into(),
                    });
                }
            }
        }
        Ok(())
    });
    told.unwrap();
    let seen = seen.into_inner();
    for what in [
        "KeyNotFound",
        "LeaseNotFound",
        "LeaseExists",
        "Compacted",
        "FutureRevision",
        "NoSpace",
        "Corrupt",
        "DuplicateKey",
        "Fenced",
        "NoReading",
        "txn true",
        "txn false",
        "compact",
        "revoke",
        "renew",
        "expiry Ok(LeaseRevoke)",
        "expiry Ok(ExpiryStale)",
    ] {
        assert!(seen.get(what).is_some_and(|times| *times >= 5), "{what} hardly happens: {seen:?}");
    }
}
