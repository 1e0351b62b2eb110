//! Carries out the commands of a group: the only place where replicated state changes.
//!
//! A group is the payload of one Raft entry. Its commands are carried out in order, each with its own outcome, and a
//! refused one leaves no trace, so a refusal is decided before the first write:
//!
//! ```text
//! revision 5   put a=1                          → revision 6: (6,0) put a
//!              txn if version(a)=1
//!                  then put b=2; delete a       → revision 7: (7,0) put b, (7,1) delete a
//!              put c=3 lease 9 (unknown)        → refused: lease not found; still revision 7
//!              delete z (absent)                → 0 deleted; still revision 7
//! ```
//!
//! Nothing here looks at a clock, at configuration, at physical sizes or at how far a purge has come. A tombstone at or
//! below the compacted revision counts as absent whether its row is still there or not.

mod alarm;
mod changes;
mod compact;
mod delete;
mod lease;
mod lease_end;
mod lock;
mod put;
mod txn;

use alloc::vec::Vec;
use bytes::Bytes;

use crate::codec::{DecodeError, Group};
use crate::command::{Command, EntryPosition, Guarded, GuardedWrite};
use crate::ids::Term;
use crate::outcome::{Outcome, Refusal, Response};
use crate::row::Incarnation;
use crate::state::StateWrite;

pub use lease::{LEASE_MARGIN_PERCENT, due_ms, ends_ms, renewal_counts_ms};
pub use lease_end::LEASE_ENDS_MAX;

/// Why apply cannot go on. Each of these stops the node: to skip an entry would make its state differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError<E> {
    /// Storage failed.
    #[error("storage failed: {0}")]
    Storage(E),
    /// The entry is not what this version can read.
    #[error("the log holds an entry that this version cannot read: {0}")]
    Decode(DecodeError),
    /// The state contradicts itself.
    #[error("the state contradicts itself: {0}")]
    Invariant(&'static str),
}

impl<E> From<E> for ApplyError<E> {
    fn from(error: E) -> ApplyError<E> {
        ApplyError::Storage(error)
    }
}

/// What carrying out a command gives: an error of this node, or a replicated answer or refusal.
type Applied<T, E> = Result<Result<T, Refusal>, ApplyError<E>>;

/// What became of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedGroup {
    /// One per command, in order.
    pub outcomes: Vec<Outcome>,
    /// Whether it told the time: its reading of the lease clock counted, even if an earlier one was ahead of it.
    pub told_time: bool,
}

/// Carries out a group of commands. There is one outcome per command, in order. A group without commands may still carry
/// a reading of the lease clock: a tick.
///
/// After an error the state must be thrown away: it may hold a part of a command.
pub fn apply_group<S: StateWrite>(
    state: &mut S,
    position: EntryPosition,
    group: &Bytes,
) -> Result<AppliedGroup, ApplyError<S::Error>> {
    let group = Group::decode(group).map_err(ApplyError::Decode)?;
    if group.header.origin_term.is_some_and(|term| term != position.term) {
        let fenced = Outcome { revision: state.meta().revision, result: Err(Refusal::Fenced) };
        return Ok(AppliedGroup {
            outcomes: group.commands.iter().map(|_| fenced.clone()).collect(),
            told_time: false,
        });
    }
    let reading = group.header.lease_clock_ms;
    if let Some(reading) = reading
        && reading > state.meta().lease_clock_ms
    {
        state.meta_mut().lease_clock_ms = reading;
    }
    let mut outcomes = Vec::with_capacity(group.commands.len());
    for (place, bytes) in (0..).zip(&group.commands) {
        let command = Command::decode(bytes).map_err(ApplyError::Decode)?;
        let place = Incarnation { index: position.index, place };
        let at = At { place, term: position.term, timed: reading.is_some() };
        let result = apply(state, at, command)?;
        outcomes.push(Outcome { revision: state.meta().revision, result });
    }
    Ok(AppliedGroup { outcomes, told_time: reading.is_some() })
}

/// Where a command stands.
#[derive(Clone, Copy, Debug)]
struct At {
    /// Names it, and the lease that it may grant.
    place: Incarnation,
    /// Its entry's term.
    term: Term,
    /// Whether its group carries a reading of the lease clock.
    timed: bool,
}

/// Carries out one command.
fn apply<S: StateWrite>(state: &mut S, at: At, command: Command) -> Applied<Response, S::Error> {
    if let Some(refusal) = alarm::refusal(state.meta(), &command) {
        return Ok(Err(refusal));
    }
    match command {
        Command::Put(put) => Ok(put::apply(state, put)?.map(Response::Put)),
        Command::DeleteRange(delete) => Ok(Ok(Response::DeleteRange(delete::apply(state, &delete)?))),
        Command::Txn(txn) => Ok(txn::apply(state, &txn)?.map(Response::Txn)),
        Command::Compact(revision) => Ok(compact::apply(state, revision).map(|()| Response::Compact)),
        Command::LeaseGrant(grant) => lease::grant(state, at, grant),
        Command::LeaseRevoke(revoke) => lease::revoke(state, at, &revoke),
        Command::LeaseRenew(id) => lease::renew(state, at, id),
        Command::AlarmRaise(member, kind) => {
            alarm::raise(state, member, kind);
            Ok(Ok(Response::Alarm))
        }
        Command::AlarmClear(member, kind) => {
            alarm::clear(state, member, kind);
            Ok(Ok(Response::Alarm))
        }
        Command::MemberPublish(attributes) => {
            publish(state, attributes);
            Ok(Ok(Response::MemberPublish))
        }
        Command::LockAcquire(acquire) => lock::acquire(state, acquire),
        Command::LockCancel(cancel) => lock::cancel(state, cancel),
        Command::LockRelease(release) => lock::release(state, release),
        Command::LockForce(force) => lock::force(state, &force),
        Command::LockDelayEnd(end) => lock::end_delay(state, end),
        Command::Guarded(guarded) => write_guarded(state, guarded),
    }
}

fn write_guarded<S: StateWrite>(state: &mut S, guarded: Guarded) -> Applied<Response, S::Error> {
    if !lock::is_held(state, &guarded.guard)? {
        return Ok(Err(Refusal::LockNotHeld));
    }
    match guarded.write {
        GuardedWrite::Put(put) => Ok(put::apply(state, put)?.map(Response::Put)),
        GuardedWrite::DeleteRange(delete) => Ok(Ok(Response::DeleteRange(delete::apply(state, &delete)?))),
    }
}

fn publish<S: StateWrite>(state: &mut S, attributes: crate::row::MemberAttributes) {
    let members = &mut state.meta_mut().members;
    match members.binary_search_by_key(&attributes.member, |known| known.member) {
        Ok(at) => members[at] = attributes,
        Err(at) => members.insert(at, attributes),
    }
}
