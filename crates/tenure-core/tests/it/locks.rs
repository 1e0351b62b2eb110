//! What locks may cost, how much of them there may be, and what stops a node.

use bytes::Bytes;
use tenure_core::apply::ApplyError;
use tenure_core::codec::GroupBuilder;
use tenure_core::command::{
    Command, DeleteRange, EntryPosition, GroupHeader, KeyRange, LeaseGrant, LockAcquire, LockRelease, LockRequest,
};
use tenure_core::hash::hash_state;
use tenure_core::lock::{
    Contender, Granted, LOCK_CONTENDERS_MAX, LockKey, LockMode, LockRow, LockValue, Native, Sharing, lock_key,
};
use tenure_core::memory::{MemoryError, MemoryState};
use tenure_core::outcome::{LockAnswer, Outcome, Refusal, Response};
use tenure_core::row::LeaseHolder;
use tenure_core::state::StateWrite;
use tenure_core::{LeaseId, LogIndex, Revision, Term, apply_group};

use crate::language::{Tokens, command};
use crate::model_lock::plain_put;
use crate::mutant::{Mutant, Reads};
use crate::tables;

fn apply<S: StateWrite>(state: &mut S, command: &Command) -> Result<Outcome, ApplyError<S::Error>> {
    let mut builder = GroupBuilder::new(GroupHeader { lease_clock_ms: Some(0), origin_term: None });
    builder.push(&command.encode());
    let position = EntryPosition { index: LogIndex(1), term: Term(1) };
    Ok(apply_group(state, position, &builder.finish())?.outcomes.remove(0))
}

fn must<S: StateWrite<Error = MemoryError>>(state: &mut S, command: &Command) -> Response {
    apply(state, command).unwrap().result.unwrap()
}

fn grant(lease: i64) -> Command {
    Command::LeaseGrant(LeaseGrant { id: LeaseId(lease), ttl_ms: 1000, holder: LeaseHolder::default() })
}

fn acquire(lease: i64, mode: LockMode) -> Command {
    let request = LockRequest { lease: LeaseId(lease), number: 1, lowest_open: 1, attach: 1 };
    Command::LockAcquire(LockAcquire { name: NAME, request, wait: true, mode, ..LockAcquire::default() })
}

fn delete(key: Bytes) -> Command {
    Command::DeleteRange(DeleteRange { range: KeyRange::One(key), prev_kv: false })
}

const NAME: Bytes = Bytes::from_static(b"jobs/nightly");

/// What one hand-off reads, with so many waiters behind the one that gets the lock.
fn reads_of_a_hand_off(waiters: i64) -> Reads {
    let mut state = Mutant::new(None);
    for lease in 1..=waiters + 2 {
        must(&mut state, &grant(lease));
        must(&mut state, &acquire(lease, LockMode::Exclusive));
    }
    state.take_reads();
    // The first create revision after the fresh store's.
    let release = LockRelease { name: NAME, lease: LeaseId(1), token: Revision(2), number: 0 };
    must(&mut state, &Command::LockRelease(release));
    let reads = state.take_reads();
    tables::check(&state.state);
    reads
}

#[test]
fn a_hand_off_costs_the_same_however_many_wait() {
    let few = reads_of_a_hand_off(10);
    assert_eq!(few, reads_of_a_hand_off(10_000));
    assert!(few.locks <= 10 && few.live == 0 && few.rows == 0, "{few:?}");
}

#[test]
fn puts_cost_nothing_where_there_are_no_native_locks() {
    let mut state = Mutant::new(None);
    for key in ["a/b/c", "a/b/d", "a/b/c"] {
        must(&mut state, &Command::Put(plain_put(key.into(), Bytes::new(), LeaseId::NONE)));
    }
    must(&mut state, &delete("a/b/c".into()));
    assert_eq!(state.take_reads().locks, 0);
}

#[test]
fn a_full_queue_takes_no_more_native_contenders() {
    let mut state = MemoryState::default();
    let key = |number: u64| Bytes::from(format!("jobs/nightly/by-hand-{number}"));
    for number in 0..LOCK_CONTENDERS_MAX {
        must(&mut state, &Command::Put(plain_put(key(number), Bytes::new(), LeaseId::NONE)));
    }
    must(&mut state, &grant(1));
    must(&mut state, &grant(2));
    let full = apply(&mut state, &acquire(1, LockMode::Exclusive)).unwrap();
    assert_eq!(full.result, Err(Refusal::LockContendersTooMany));
    assert!(state.locks.is_empty());
    must(&mut state, &delete(key(7)));
    let ahead = Some(LOCK_CONTENDERS_MAX - 1);
    let answer = must(&mut state, &acquire(1, LockMode::Exclusive));
    assert_eq!(answer, Response::LockAcquire(LockAnswer::Queued { ahead }));
    // Now it is native, and counted instead of surveyed; others may still come by hand.
    let full = apply(&mut state, &acquire(2, LockMode::Exclusive)).unwrap();
    assert_eq!(full.result, Err(Refusal::LockContendersTooMany));
    must(&mut state, &Command::Put(plain_put(key(7), Bytes::new(), LeaseId::NONE)));
    let everything = KeyRange::From(Bytes::from_static(b"jobs/nightly/b"));
    must(&mut state, &Command::DeleteRange(DeleteRange { range: everything, prev_kv: false }));
    tables::check(&state);
    let token = state.current[&lock_key(&NAME, LeaseId(1))].meta.create;
    let answer = must(&mut state, &acquire(1, LockMode::Exclusive));
    assert_eq!(answer, Response::LockAcquire(LockAnswer::Granted { token, holds: 1 }));
}

fn parse(line: &str) -> Command {
    let words: Vec<String> = line.split_whitespace().map(String::from).collect();
    command(&words[0], &mut Tokens::new(&words[1..])).unwrap().unwrap()
}

/// A holder with a delay to come and one that waits.
fn contended() -> MemoryState {
    let mut state = MemoryState::default();
    for line in ["grant 1 1000", "grant 2 1000", "acquire n 1 1 mode=shared owner=o delay=5", "acquire n 2 3"] {
        must(&mut state, &parse(line));
    }
    tables::check(&state);
    state
}

fn place(state: &MemoryState, lease: i64) -> LockKey {
    let key = lock_key(b"n", LeaseId(lease));
    LockKey::Place("n".into(), state.current[&key].meta.create, key)
}

#[test]
fn every_row_of_locks_is_in_the_hash_of_the_state() {
    let state = contended();
    let hash = hash_state(&state).unwrap();
    let check = |change: &dyn Fn(&mut MemoryState)| {
        let mut other = state.clone();
        change(&mut other);
        assert_ne!(hash_state(&other).unwrap(), hash);
    };
    for key in state.locks.keys() {
        check(&|state| drop(state.locks.remove(key)));
    }
    check(&|state| state.meta.locks.delays += 1);
    let lock = LockKey::Lock("n".into());
    let row = |change: fn(&mut LockRow)| {
        check(&|state| {
            let Some(LockValue::Lock(row)) = state.locks.get_mut(&lock) else { panic!("there is a lock") };
            change(row);
        });
    };
    row(|row| row.contenders += 1);
    row(|row| row.granted += 1);
    row(|row| row.exclusive = !row.exclusive);
    row(|row| row.permits += 1);
    row(|row| row.oldest.0 += 1);
    row(|row| row.frontier.0 += 1);
    row(|row| row.sharing = None);
    row(|row| row.sharing = Some((Sharing::Permits { limit: 1 }, 1)));
    let native = |change: fn(&mut Native)| {
        check(&|state| {
            let place = place(state, 1);
            let Some(LockValue::Place(Contender { native: Some(native), .. })) = state.locks.get_mut(&place) else {
                panic!("there is a native contender")
            };
            change(native);
        });
    };
    native(|native| native.lease.0 += 1);
    native(|native| native.incarnation.place += 1);
    native(|native| native.mode = LockMode::Exclusive);
    native(|native| native.owner.clear());
    native(|native| native.holds_max += 1);
    native(|native| native.delay_ms += 1);
    native(|native| native.since_ms += 1);
    native(|native| native.delayed = true);
    native(|native| native.requests[0].number += 1);
    native(|native| native.requests[0].attach += 1);
    let newest = state.history.last_key_value().unwrap().0;
    check(&|state| state.history.get_mut(newest).unwrap().cause = None);
}

#[test]
fn locks_that_contradict_themselves_stop_the_node() {
    let state = contended();
    let check = |damage: &dyn Fn(&mut MemoryState), line: &str, expected| {
        let mut damaged = state.clone();
        damage(&mut damaged);
        assert_eq!(apply(&mut damaged, &parse(line)).unwrap_err(), expected);
    };
    let lock = LockKey::Lock("n".into());
    let row = |state: &mut MemoryState, change: &dyn Fn(&mut LockRow)| {
        let Some(LockValue::Lock(row)) = state.locks.get_mut(&lock) else { panic!("there is a lock") };
        change(row);
    };
    let wrong_kind = ApplyError::Storage(MemoryError("a row of locks is not of its key's kind"));
    let other = LockValue::Place(Contender::default());
    check(&|state| drop(state.locks.insert(lock.clone(), other.clone())), "put n/x 1", wrong_kind);
    let missing = "a key is missing from the queue of its lock";
    let lose = |state: &mut MemoryState, lease| drop(state.locks.remove(&place(state, lease)));
    check(&|state| lose(state, 1), "del n/1", ApplyError::Invariant(missing));
    check(&|state| lose(state, 1), "release n 1 2", ApplyError::Storage(MemoryError(missing)));
    check(&|state| lose(state, 1), "guarded n/1 2 1 put a 1", ApplyError::Storage(MemoryError(missing)));
    let nobody = ApplyError::Invariant("a lock's queue lacks those that wait");
    check(&|state| lose(state, 2), "del n/1", nobody);
    let count = ApplyError::Invariant("a lock has lost count");
    check(&|state| row(state, &|row| row.granted = 0), "del n/1", count);
    check(&|state| row(state, &|row| row.sharing = None), "del n/1", count);
    check(&|state| row(state, &|row| row.contenders = 0), "del n/1", count);
    let behind = ApplyError::Invariant("a holder is behind the frontier of its lock");
    let hold = |state: &mut MemoryState| {
        let place = place(state, 2);
        let Some(LockValue::Place(contender)) = state.locks.get_mut(&place) else { panic!("there is a contender") };
        contender.granted = Some(Granted { revision: Revision(1), clock_ms: 0 });
    };
    check(&hold, "del n/1", behind);
}
