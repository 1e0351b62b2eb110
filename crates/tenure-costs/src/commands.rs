//! Commands as clients send them: keys of 24 bytes and values of 256, under one prefix.

use bytes::Bytes;
use tenure_core::codec::GroupBuilder;
use tenure_core::command::{
    Command, DeleteRange, EntryPosition, GroupHeader, KeyRange, LeaseGrant, LockAcquire, LockRelease, LockRequest, Op,
    Put, Txn,
};
use tenure_core::outcome::{Outcome, Response};
use tenure_core::row::LeaseHolder;
use tenure_core::state::StateWrite;
use tenure_core::{LeaseId, LogIndex, Revision, Term, apply_group};

/// A lock's name.
const NAME: Bytes = Bytes::from_static(b"jobs/nightly");

const LEASE: LeaseId = LeaseId(7);

pub(crate) fn key(number: u64) -> Bytes {
    format!("bench/keys/{number:013}").into()
}

pub(crate) fn value() -> Bytes {
    Bytes::from_static(&[b'v'; 256])
}

pub(crate) fn put_of(number: u64) -> Put {
    let lease = LeaseId::NONE;
    Put { key: key(number), value: value(), lease, prev_kv: false, ignore_value: false, ignore_lease: false }
}

pub(crate) fn put(number: u64) -> Command {
    Command::Put(put_of(number))
}

pub(crate) fn delete(number: u64) -> Command {
    Command::DeleteRange(DeleteRange { range: KeyRange::One(key(number)), prev_kv: false })
}

/// Ten puts.
pub(crate) fn txn(number: u64) -> Command {
    let success = (0..10).map(|at| Op::Put(put_of(number * 10 + at))).collect();
    Command::Txn(Txn { compares: Vec::new(), success, failure: Vec::new() })
}

pub(crate) fn grant() -> Command {
    Command::LeaseGrant(LeaseGrant { id: LEASE, ttl_ms: 60_000, holder: LeaseHolder::default() })
}

pub(crate) fn renew() -> Command {
    Command::LeaseRenew(LEASE)
}

pub(crate) fn acquire(number: u64) -> Command {
    let request = LockRequest { lease: LEASE, number, lowest_open: number, attach: 1 };
    Command::LockAcquire(LockAcquire { name: NAME, request, wait: true, ..LockAcquire::default() })
}

pub(crate) fn release(number: u64, token: Revision) -> Command {
    Command::LockRelease(LockRelease { name: NAME, lease: LEASE, token, number })
}

/// The payload of an entry.
pub(crate) fn group(commands: impl IntoIterator<Item = Command>) -> Bytes {
    let mut builder = GroupBuilder::new(GroupHeader { lease_clock_ms: Some(1), origin_term: None });
    commands.into_iter().for_each(|command| builder.push(&command.encode()));
    builder.finish()
}

/// Applies a group that nothing is wrong with.
pub(crate) fn apply<S: StateWrite<Error: std::fmt::Debug>>(state: &mut S, index: u64, group: &Bytes) -> Vec<Outcome> {
    let position = EntryPosition { index: LogIndex(index), term: Term(1) };
    let outcomes = apply_group(state, position, group).expect("the state is sound").outcomes;
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "a command is refused: {outcomes:?}");
    outcomes
}

/// What a command answers.
pub(crate) fn response<S: StateWrite<Error: std::fmt::Debug>>(state: &mut S, command: Command) -> Response {
    let outcome = apply(state, 1, &group([command])).remove(0);
    outcome.result.expect("nothing is refused")
}
