//! The law of locks: whatever happens to their keys, those that hold are the front of the queue, and the answers are those
//! of a model that knows of no queue.
//!
//! The stories are those of `story`, in a world of few locks whose keys everybody writes: natively, with etcd's recipes,
//! by hand, and by leases that end.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestError, TestRng, TestRunner};
use tenure_core::command::{
    Command, DeleteRange, Guarded, GuardedWrite, KeyRange, LeaseGrant, LeaseRevoke, LockAcquire, LockCancel,
    LockDelayEnd, LockForce, LockGuard, LockRelease, LockRequest, Op, Txn,
};
use tenure_core::lock::{LockCause, LockEnd, LockMode, Native};
use tenure_core::outcome::{Outcome, Response};
use tenure_core::row::{LeaseHolder, RevokedBy};
use tenure_core::{LeaseId, MemberId, Revision};

use crate::model_lock::{key_of, plain_put};
use crate::mutant::{Bug, LOCK_BUGS};
use crate::story::{Checked, World};

const NAMES: [&str; 6] = ["l", "l", "l", "l", "l/m", "k"];
/// Contenders' keys of the leases 1 to 3, others under the names, and one that is under none.
const KEYS: [&str; 11] = ["l/1", "l/2", "l/3", "l/x", "l/", "l/m/1", "l/m/2", "l/m/x", "k/1", "k/x", "a"];

/// What happens. What has to hit something is aimed when its time has come.
#[derive(Clone, Debug)]
enum Deed {
    Plain(Command),
    /// Of a request that is in a queue, if there is one; off by an attach number.
    Cancel {
        which: usize,
        off: i64,
    },
    /// An acquire like one that was carried out: another try of it, or another request of the same lease.
    Again {
        which: usize,
        number: Option<u64>,
        attach: u64,
    },
    Expire(LeaseId, Option<RevokedBy>),
    Release {
        name: Bytes,
        lease: LeaseId,
        number: u64,
        off: i64,
    },
    Force {
        key: Bytes,
        off: i64,
    },
    EndDelay {
        which: usize,
        off: i64,
    },
    Guarded {
        key: Bytes,
        off: i64,
        write: GuardedWrite,
    },
}

#[derive(Clone, Debug)]
enum Step {
    Group { deeds: Vec<Deed>, later_ms: u64 },
    Purge { max_events: usize },
}

fn name() -> impl Strategy<Value = Bytes> {
    select(&NAMES[..]).prop_map(|name| Bytes::from_static(name.as_bytes()))
}

fn key() -> impl Strategy<Value = Bytes> {
    select(&KEYS[..]).prop_map(|key| Bytes::from_static(key.as_bytes()))
}

fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![12 => 1..4i64, 1 => Just(-1)].prop_map(LeaseId)
}

fn request() -> impl Strategy<Value = LockRequest> {
    let number = prop_oneof![12 => 1..6u64, 1 => 1020..1030u64, 1 => Just(0)];
    (lease(), number, 0..3u64, 0..3u64).prop_map(|(lease, number, lowest_open, attach)| LockRequest {
        lease,
        number,
        lowest_open: if lowest_open == 2 { number } else { 1 },
        attach,
    })
}

fn mode() -> impl Strategy<Value = LockMode> {
    prop_oneof![
        4 => Just(LockMode::Exclusive),
        4 => Just(LockMode::Shared),
        3 => (1..4u32).prop_map(|permits| LockMode::Semaphore { permits, limit: 3 }),
        1 => (0..3u32).prop_map(|permits| LockMode::Semaphore { permits, limit: 2 }),
    ]
}

fn acquire() -> impl Strategy<Value = LockAcquire> {
    let how = (proptest::bool::weighted(0.85), mode(), "o?", "v?", select(&[0, 1, 2][..]), select(&[0, 0, 700][..]));
    (name(), request(), how).prop_map(|(name, request, (wait, mode, owner, metadata, holds_max, delay_ms))| {
        LockAcquire { name, request, wait, mode, owner, metadata: metadata.into(), holds_max, delay_ms }
    })
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        4 => key().prop_map(KeyRange::One),
        1 => (key(), key()).prop_map(|(start, end)| KeyRange::Between(start, end)),
        1 => name().prop_map(|name| KeyRange::From([&name[..], b"/"].concat().into())),
    ]
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    range().prop_map(|range| DeleteRange { range, prev_kv: false })
}

fn put() -> impl Strategy<Value = tenure_core::command::Put> {
    let lease = prop_oneof![2 => Just(LeaseId::NONE), 3 => lease()];
    (key(), lease).prop_map(|(key, lease)| plain_put(key, Bytes::new(), lease))
}

fn txn() -> impl Strategy<Value = Txn> {
    let op = || prop_oneof![2 => put().prop_map(Op::Put), 1 => delete().prop_map(Op::DeleteRange)];
    vec(op(), 1..4).prop_map(|success| Txn { success, ..Txn::default() })
}

fn off() -> impl Strategy<Value = i64> {
    prop_oneof![9 => Just(0), 1 => -1..2i64]
}

fn by() -> impl Strategy<Value = Option<RevokedBy>> {
    proptest::option::of((1..3u64).prop_map(|member| RevokedBy { member: MemberId(member), ..RevokedBy::default() }))
}

fn deed() -> impl Strategy<Value = Deed> {
    let write = prop_oneof![put().prop_map(GuardedWrite::Put), delete().prop_map(GuardedWrite::DeleteRange)];
    prop_oneof![
        36 => acquire().prop_map(|acquire| Deed::Plain(Command::LockAcquire(acquire))),
        6 => (name(), request())
            .prop_map(|(name, request)| Deed::Plain(Command::LockCancel(LockCancel { name, request }))),
        12 => (0..20usize, proptest::option::of(1..9u64), 0..4u64)
            .prop_map(|(which, number, attach)| Deed::Again { which, number, attach }),
        8 => (0..20usize, off()).prop_map(|(which, off)| Deed::Cancel { which, off }),
        14 => (name(), lease(), prop_oneof![2 => Just(0), 3 => 1..5u64], off())
            .prop_map(|(name, lease, number, off)| Deed::Release { name, lease, number, off }),
        4 => (key(), off()).prop_map(|(key, off)| Deed::Force { key, off }),
        5 => (0..3usize, off()).prop_map(|(which, off)| Deed::EndDelay { which, off }),
        6 => (key(), off(), write).prop_map(|(key, off, write)| Deed::Guarded { key, off, write }),
        8 => put().prop_map(|put| Deed::Plain(Command::Put(put))),
        6 => delete().prop_map(|delete| Deed::Plain(Command::DeleteRange(delete))),
        5 => txn().prop_map(|txn| Deed::Plain(Command::Txn(txn))),
        20 => lease().prop_map(|id| Deed::Plain(grant(id))),
        10 => (lease(), by()).prop_map(|(id, by)| Deed::Expire(id, by)),
        2 => (lease(), by())
            .prop_map(|(id, by)| Deed::Plain(Command::LeaseRevoke(LeaseRevoke { id, expiry: None, by }))),
        1 => (1..40i64).prop_map(|revision| Deed::Plain(Command::Compact(Revision(revision)))),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        15 => (vec(deed(), 1..4), select(&[0, 0, 10, 300, 1200][..]))
            .prop_map(|(deeds, later_ms)| Step::Group { deeds, later_ms }),
        1 => (0..6usize).prop_map(|max_events| Step::Purge { max_events }),
    ];
    vec(step, 1..50)
}

/// What does nothing, for want of something to aim at.
fn aimless() -> Command {
    Command::LockDelayEnd(LockDelayEnd::default())
}

impl World {
    /// One of the contenders that came by an acquire, and the lock's name.
    fn a_native(&self, which: usize) -> Option<(Bytes, Native)> {
        let natives: Vec<_> = self.model.locks.natives.iter().collect();
        let (key, native) = natives.get(which % natives.len().max(1))?;
        let slash = key.iter().rposition(|byte| *byte == b'/').unwrap();
        Some((key.slice(..slash), (*native).clone()))
    }

    fn aim(&self, deed: &Deed) -> Command {
        let token = |key: &Bytes, off: i64| Revision(self.model.now().get(key).map_or(0, |kv| kv.create.0) + off);
        match deed {
            Deed::Plain(command) => command.clone(),
            Deed::Cancel { which, off } => {
                let Some((name, native)) = self.a_native(*which) else { return aimless() };
                let request = native.requests[which % native.requests.len()];
                let (number, attach) = (request.number, request.attach.saturating_add_signed(*off));
                let request = LockRequest { lease: native.lease, number, lowest_open: 1, attach };
                Command::LockCancel(LockCancel { name, request })
            }
            Deed::Again { which, number, attach } => {
                let Some((name, native)) = self.a_native(*which) else { return aimless() };
                let number = number.unwrap_or(native.requests[which % native.requests.len()].number);
                let Native { lease, mode, owner, holds_max, delay_ms, .. } = native;
                let request = LockRequest { lease, number, lowest_open: 1, attach: *attach };
                let metadata = Bytes::new();
                Command::LockAcquire(LockAcquire {
                    name,
                    request,
                    wait: true,
                    mode,
                    owner,
                    metadata,
                    holds_max,
                    delay_ms,
                })
            }
            Deed::Expire(lease, by) => self.expiry(*lease, (0, 0), by.clone()),
            Deed::Release { name, lease, number, off } => Command::LockRelease(LockRelease {
                name: name.clone(),
                lease: *lease,
                token: token(&key_of(name, *lease), *off),
                number: *number,
            }),
            Deed::Force { key, off } => Command::LockForce(LockForce {
                key: key.clone(),
                token: token(key, *off),
                reason: "stuck".into(),
                by: RevokedBy::default(),
            }),
            Deed::EndDelay { which, off } => {
                let delays: Vec<_> = self.model.locks.delays.iter().collect();
                let aimed = delays.get(which % delays.len().max(1));
                let end = aimed.map(|((lease, key), delay)| LockDelayEnd {
                    lease: *lease,
                    key: key.clone(),
                    modified: Revision(delay.modified.0 + off),
                });
                Command::LockDelayEnd(end.unwrap_or_default())
            }
            Deed::Guarded { key, off, write } => {
                let lease = self.model.now().get(key).map_or(LeaseId::NONE, |kv| kv.lease);
                let guard = LockGuard { key: key.clone(), token: token(key, *off), lease };
                Command::Guarded(Guarded { guard, write: write.clone() })
            }
        }
    }

    fn take(&mut self, step: &Step) -> Result<Vec<Outcome>, TestCaseError> {
        match step {
            Step::Group { deeds, later_ms } => {
                let commands: Vec<Command> = deeds.iter().map(|deed| self.aim(deed)).collect();
                let clock_ms = self.model.clock_ms + later_ms;
                self.tell(&commands, Some(clock_ms), false)
            }
            Step::Purge { max_events } => self.purge(*max_events).map(|()| Vec::new()),
        }
    }
}

fn grant(id: LeaseId) -> Command {
    Command::LeaseGrant(LeaseGrant { id, ttl_ms: 1000, holder: LeaseHolder::default() })
}

/// A world with leases.
fn beginning(bug: Option<Bug>) -> Result<World, TestCaseError> {
    let mut world = World::new(bug);
    world.tell(&[1, 2, 3].map(|id| grant(LeaseId(id))), Some(0), false)?;
    Ok(world)
}

fn check_story(steps: &[Step], bug: Option<Bug>) -> Checked {
    let mut world = beginning(bug)?;
    for step in steps {
        world.take(step)?;
        world.check_step(bug)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn locks_go_to_whom_the_model_says(steps in steps()) {
        check_story(&steps, None)?;
    }
}

/// A story has a hundred commands, after each of which everything is compared; half as many as usual take seconds.
fn config() -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    ProptestConfig { cases: config.cases / 2, ..config }
}

fn runner() -> TestRunner {
    let config = ProptestConfig { max_shrink_iters: 0, ..config() };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    TestRunner::new_with_rng(config, rng)
}

/// Each planted bug is found within the cases that the law is checked with, so the law is not vacuous.
#[test]
fn planted_bugs_of_locks_are_found() {
    for bug in LOCK_BUGS {
        let result = runner().run(&steps(), |steps| check_story(&steps, Some(bug)));
        assert!(matches!(result, Err(TestError::Fail(..))), "{bug:?} was not found");
    }
}

/// The stories reach the corners that they are there for.
#[test]
fn stories_of_locks_are_eventful() {
    let seen = RefCell::new(BTreeMap::<String, usize>::new());
    let note = |what: String| *seen.borrow_mut().entry(what).or_default() += 1;
    let told = runner().run(&steps(), |steps| {
        let mut world = beginning(None)?;
        for step in &steps {
            for outcome in world.take(step)? {
                match outcome.result {
                    Err(refusal) => note(format!("{refusal:?}")),
                    Ok(Response::LockAcquire(answer)) => {
                        let text = format!("{answer:?}");
                        note(text.split(['{', ' ']).next().unwrap().to_string());
                    }
                    Ok(response) => note(format!("{response:?}").chars().take(25).collect()),
                }
            }
            let holders = world.model.locks.granted.len();
            note(format!("{} hold {} locks", holders.min(3), world.model.locks.names.len()));
        }
        for cause in world.model.locks.causes.values() {
            note(match cause {
                LockCause::Acquired(_) => "acquired".into(),
                LockCause::Delayed(_) => "delayed".into(),
                LockCause::Left(end, left) => {
                    format!("{end:?} by a {}", if left.granted.is_some() { "holder" } else { "waiter" })
                }
            });
        }
        Ok(())
    });
    told.unwrap();
    let seen = seen.into_inner();
    let ends = [LockEnd::Cancelled, LockEnd::Expired, LockEnd::Revoked, LockEnd::Forced, LockEnd::Deleted];
    let ends = ends.iter().flat_map(|end| [format!("{end:?} by a holder"), format!("{end:?} by a waiter")]);
    let others = [
        "Granted",
        "Queued",
        "Busy",
        "LockAlreadyHeld",
        "LockHeldTooOften",
        "LockRequestFinished",
        "LockRequestsTooMany",
        "LockModeMismatch",
        "LockNotHeld",
        "LockInvalid",
        "LeaseNotFound",
        "LeaseExists",
        "LockCancel { ended: true }",
        "LockCancel { ended: false",
        "LockCancelStale",
        "LockRelease { released: t",
        "LockRelease { released: f",
        "LockForce { removed: true",
        "LockDelayEnd",
        "LockDelayStale",
        "Released by a holder",
        "Lapsed by a holder",
        "acquired",
        "delayed",
        "2 hold 1 locks",
    ];
    for what in ends.chain(others.map(|what| what.chars().take(25).collect())) {
        assert!(seen.get(&what).is_some_and(|times| *times >= 5), "{what} hardly happens: {seen:?}");
    }
}
