//! The record of ended leases is bounded, in an order that everybody agrees on.

use tenure_core::apply::LEASE_ENDS_MAX;
use tenure_core::codec::GroupBuilder;
use tenure_core::command::{Command, EntryPosition, GroupHeader, LeaseGrant, LeaseRevoke};
use tenure_core::hash::hash_state;
use tenure_core::memory::MemoryState;
use tenure_core::row::{LeaseEnd, LeaseHolder, RevokedBy};
use tenure_core::{ApplyError, LeaseId, LogIndex, Term, apply_group};

use crate::tables;

/// Grants and revokes a lease in one entry.
fn end(state: &mut MemoryState, index: u64, id: i64) -> Result<(), ApplyError<tenure_core::memory::MemoryError>> {
    let header = GroupHeader { lease_clock_ms: Some(index), origin_term: None };
    let mut builder = GroupBuilder::new(header);
    let id = LeaseId(id);
    builder.push(&Command::LeaseGrant(LeaseGrant { id, ttl_ms: 1000, holder: LeaseHolder::default() }).encode());
    let by = Some(RevokedBy::default());
    builder.push(&Command::LeaseRevoke(LeaseRevoke { id, expiry: None, by }).encode());
    apply_group(state, EntryPosition { index: LogIndex(index), term: Term(1) }, &builder.finish()).map(drop)
}

/// A state that remembers as many ends as it may.
fn full() -> MemoryState {
    let mut state = MemoryState::default();
    end(&mut state, 1, 1).unwrap();
    let first = state.lease_ends[&0].clone();
    for number in 1..LEASE_ENDS_MAX {
        state.lease_ends.insert(number, LeaseEnd { index: LogIndex(number + 1), ..first.clone() });
    }
    state.meta.lease_ends = LEASE_ENDS_MAX;
    tables::check(&state);
    state
}

#[test]
fn each_end_takes_the_place_of_the_oldest() {
    let mut state = full();
    for more in 0..3 {
        end(&mut state, LEASE_ENDS_MAX + 1 + more, 7).unwrap();
        tables::check(&state);
        let (oldest, newest) =
            (state.lease_ends.first_key_value().unwrap(), state.lease_ends.last_key_value().unwrap());
        assert_eq!((*oldest.0, *newest.0), (more + 1, LEASE_ENDS_MAX + more));
        assert_eq!((newest.1.id, newest.1.index.0), (LeaseId(7), LEASE_ENDS_MAX + 1 + more));
    }
}

#[test]
fn every_field_of_an_end_is_in_the_hash_of_the_state() {
    let mut state = MemoryState::default();
    end(&mut state, 5, 7).unwrap();
    let hash = hash_state(&state).unwrap();
    let changes: [fn(&mut LeaseEnd); 13] = [
        |end| end.id.0 += 1,
        |end| end.incarnation.index.0 += 1,
        |end| end.incarnation.place += 1,
        |end| end.ttl_ms += 1,
        |end| end.renewals += 1,
        |end| end.renewed_ms += 1,
        |end| end.ended_ms += 1,
        |end| end.index.0 += 1,
        |end| end.term.0 += 1,
        |end| end.expired = true,
        |end| end.by.member.0 += 1,
        |end| end.keys += 1,
        |end| end.revision.0 += 1,
    ];
    for (place, change) in changes.into_iter().enumerate() {
        let mut other = state.clone();
        change(other.lease_ends.get_mut(&0).unwrap());
        assert_ne!(hash_state(&other).unwrap(), hash, "change {place}");
    }
}

#[test]
fn an_end_without_a_number_stops_the_node() {
    let mut state = MemoryState::default();
    state.meta.lease_ends = u64::MAX;
    assert_eq!(end(&mut state, 1, 7), Err(ApplyError::Invariant("ends of leases have reached their end")));
}

#[test]
fn a_holder_that_is_missing_stops_the_node() {
    let mut state = MemoryState::default();
    let grant = LeaseGrant { id: LeaseId(7), ttl_ms: 1000, holder: LeaseHolder { name: "n".into(), text: "".into() } };
    let apply = |state: &mut MemoryState, command: Command| {
        let mut builder = GroupBuilder::new(GroupHeader { lease_clock_ms: Some(1), origin_term: None });
        builder.push(&command.encode());
        apply_group(state, EntryPosition { index: LogIndex(1), term: Term(1) }, &builder.finish()).map(drop)
    };
    apply(&mut state, Command::LeaseGrant(grant)).unwrap();
    state.lease_holders.clear();
    assert!(hash_state(&state).is_err());
    let revoke = Command::LeaseRevoke(LeaseRevoke { id: LeaseId(7), expiry: None, by: None });
    assert_eq!(apply(&mut state, revoke), Err(ApplyError::Invariant("a lease's holder is missing")));
}
