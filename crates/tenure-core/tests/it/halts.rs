//! What stops a node: entries that it cannot read, and state that contradicts itself. Refusals never do.

use bytes::Bytes;
use tenure_core::apply::ApplyError;
use tenure_core::codec::{DecodeError, GroupBuilder};
use tenure_core::command::{Command, EntryPosition, GroupHeader};
use tenure_core::memory::{MemoryError, MemoryState};
use tenure_core::outcome::Outcome;
use tenure_core::range::read_range;
use tenure_core::{LeaseId, LogIndex, Revision, Term, apply_group};

use crate::language::{Tokens, command};

const POSITION: EntryPosition = EntryPosition { index: LogIndex(1), term: Term(1) };

fn parse(line: &str) -> Command {
    let words: Vec<String> = line.split_whitespace().map(String::from).collect();
    command(&words[0], &mut Tokens::new(&words[1..])).unwrap().unwrap()
}

fn apply_bytes(state: &mut MemoryState, commands: &[&[u8]]) -> Result<Vec<Outcome>, ApplyError<MemoryError>> {
    let header = GroupHeader { lease_clock_ms: Some(state.meta.lease_clock_ms), origin_term: None };
    let mut builder = GroupBuilder::new(header);
    commands.iter().for_each(|command| builder.push(command));
    apply_group(state, POSITION, &builder.finish()).map(|applied| applied.outcomes)
}

fn apply(state: &mut MemoryState, line: &str) -> Result<Vec<Outcome>, ApplyError<MemoryError>> {
    apply_bytes(state, &[&parse(line).encode()])
}

#[test]
fn an_entry_of_another_version_stops_the_node() {
    let mut state = MemoryState::default();
    let unknown = apply_group(&mut state, POSITION, &Bytes::from_static(b"\x02\x00\x00\x00\x00\x00"));
    let expected = DecodeError::UnknownVersion { what: "group", found: 2 };
    assert_eq!(unknown, Err(ApplyError::Decode(expected)));
    let unknown = apply_bytes(&mut state, &[&parse("put a 1").encode(), b"\x01\x7f"]);
    let expected = DecodeError::UnknownTag { what: "command", found: 0x7f };
    assert_eq!(unknown, Err(ApplyError::Decode(expected)));
    let text = unknown.unwrap_err().to_string();
    assert_eq!(text, "the log holds an entry that this version cannot read: unknown command 127");
}

#[test]
fn a_fenced_group_is_not_read_at_all() {
    let mut state = MemoryState::default();
    let mut builder = GroupBuilder::new(GroupHeader { lease_clock_ms: Some(9), origin_term: Some(Term(2)) });
    builder.push(b"\x01\x7f");
    let applied = apply_group(&mut state, POSITION, &builder.finish()).unwrap();
    assert_eq!((applied.outcomes.len(), applied.told_time), (1, false));
    assert_eq!(state, MemoryState::default());
}

#[test]
fn a_lease_that_holds_a_foreign_key_stops_the_node() {
    let mut state = MemoryState::default();
    apply(&mut state, "grant 1 1000").unwrap();
    apply(&mut state, "put a 1").unwrap();
    for key in ["a", "absent"] {
        let mut damaged = state.clone();
        damaged.lease_keys.insert((LeaseId(1), Bytes::from(key)));
        let expected = ApplyError::Invariant("a lease holds a key that is not attached to it");
        assert_eq!(apply(&mut damaged, "revoke 1"), Err(expected));
    }
}

#[test]
fn a_lease_ahead_of_the_clock_stops_the_node() {
    let mut state = MemoryState::default();
    apply(&mut state, "grant 1 1000").unwrap();
    state.leases.get_mut(&LeaseId(1)).unwrap().clock_ms = 1;
    assert_eq!(apply(&mut state, "renew 1"), Err(ApplyError::Invariant("a lease is ahead of the lease clock")));
}

#[test]
fn counters_that_have_reached_their_end_stop_the_node() {
    let mut state = MemoryState::default();
    apply(&mut state, "put a 1").unwrap();
    let mut worn = state.clone();
    worn.current.get_mut(&b"a"[..]).unwrap().meta.version = i64::MAX;
    assert_eq!(apply(&mut worn, "put a 2"), Err(ApplyError::Invariant("a version has reached its end")));
    apply(&mut state, "grant 1 1000").unwrap();
    let mut worn = state.clone();
    worn.leases.get_mut(&LeaseId(1)).unwrap().renewals = u64::MAX;
    let expected = ApplyError::Invariant("a lease's renewals have reached their end");
    assert_eq!(apply(&mut worn, "renew 1"), Err(expected));
    state.meta.revision = Revision(i64::MAX);
    assert_eq!(apply(&mut state, "put a 2"), Err(ApplyError::Invariant("revisions have reached their end")));
}

#[test]
fn a_key_from_the_future_stops_the_node() {
    let mut state = MemoryState::default();
    apply(&mut state, "put a 1").unwrap();
    state.meta.revision = Revision(1);
    let expected = ApplyError::Invariant("a key changes twice in one revision, or in an old one");
    assert_eq!(apply(&mut state, "put a 2"), Err(expected));
}

#[test]
fn rows_that_contradict_each_other_stop_the_node() {
    let mut state = MemoryState::default();
    for line in ["put a 1", "put b 1", "put a 2", "put a 3"] {
        apply(&mut state, line).unwrap();
    }
    let words = ["a".to_string(), "rev=3".to_string()];
    let old = Tokens::new(&words).range().unwrap();
    let newest = state.current[&b"a"[..]].meta.modified;
    let check = |damage: &dyn Fn(&mut MemoryState), what| {
        let mut damaged = state.clone();
        damage(&mut damaged);
        assert_eq!(read_range(&damaged, &old), Err(MemoryError(what)));
    };
    let event = |state: &mut MemoryState| state.history.remove(&newest).unwrap();
    check(&|state| drop(event(state)), "a key's newest event is not in the history");
    let rewrite = |state: &mut MemoryState, change: &dyn Fn(&mut tenure_core::row::EventRow)| {
        let mut row = event(state);
        change(&mut row);
        state.history.insert(newest, row);
    };
    check(&|state| rewrite(state, &|row| row.key = "b".into()), "an event belongs to another key");
    check(&|state| rewrite(state, &|row| row.meta.modified.sub = 9), "an event carries another id than its place");
    check(&|state| rewrite(state, &|row| row.previous = Some(newest)), "a back pointer does not point back");
}
