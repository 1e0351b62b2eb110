//! A hash of what the store says at a revision, to compare members with.
//!
//! It covers logical content only, so that members agree whatever they have purged: for each key the versions above the
//! compacted revision up to the asked one, and the version that was newest at the compacted revision unless that is a
//! tombstone. Back pointers are not in it. Keys are taken in ascending order, a key's versions from the newest down.
//! On the way each key's row of `current` is held against its newest event: if they differ this node is broken.

use alloc::vec::Vec;
use core::ops::ControlFlow;
use crc32fast::Hasher;

use crate::command::KeyRange;
use crate::history::{newest_event, previous_event};
use crate::ids::{LeaseId, Revision};
use crate::lock::LockKey;
use crate::outcome::Refusal;
use crate::row::{
    AlarmKind, AlarmRow, ClientName, CurrentRow, EventRow, Incarnation, LeaseEnd, LeaseRow, LockCounts,
    MemberAttributes, Meta,
};
use crate::scan::try_scan_current;
use crate::state::StateRead;
use bytes::Bytes;

/// A hash and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The CRC-32 of the versions covered.
    pub hash: u32,
    /// The compacted revision.
    pub compacted: Revision,
    /// The revision hashed at.
    pub revision: Revision,
}

/// Hashes the store at a revision; 0 or less means the present.
pub fn hash_kv<S: StateRead>(state: &S, revision: Revision) -> Result<Result<HashKv, Refusal>, S::Error> {
    let meta = state.meta();
    let compacted = meta.compacted;
    let revision = if revision.0 <= 0 { meta.revision } else { revision };
    if revision > meta.revision {
        return Ok(Err(Refusal::FutureRevision));
    }
    if revision < compacted {
        return Ok(Err(Refusal::Compacted));
    }
    let mut hasher = Hasher::new();
    try_scan_current(state, &KeyRange::From(Bytes::new()), &mut |key, row| {
        hash_key(state, &mut hasher, &key, &row, revision)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Ok(HashKv { hash: hasher.finalize(), compacted, revision }))
}

/// A hash of everything that is replicated: the key-values as [`hash_kv`] takes them, leases and how they ended,
/// alarms, members and the scalars. Members that applied the same entries agree on it, whatever they have purged.
pub fn hash_state<S: StateRead>(state: &S) -> Result<u32, S::Error> {
    let Ok(keys) = hash_kv(state, Revision(0))? else {
        return Err(state.corrupt("the present is compacted, or lies ahead"));
    };
    let mut hasher = Hasher::new_with_initial(keys.hash);
    let Meta { revision, compacted, lease_clock_ms, alarms, members, lease_ends, locks } = state.meta();
    let scalars = [revision.0.cast_unsigned(), compacted.0.cast_unsigned(), *lease_clock_ms, alarms.len() as u64];
    hash_numbers(&mut hasher, &scalars);
    for AlarmRow { member, kind } in alarms {
        let kind = match kind {
            AlarmKind::NoSpace => 1,
            AlarmKind::Corrupt => 2,
        };
        hash_numbers(&mut hasher, &[member.0, kind]);
    }
    let leases = hash_leases(state, &mut hasher)?;
    hash_numbers(&mut hasher, &[leases, members.len() as u64]);
    for MemberAttributes { member, name, client_urls } in members {
        hash_numbers(&mut hasher, &[member.0]);
        core::iter::once(name).chain(client_urls).for_each(|text| hash_bytes(&mut hasher, text.as_bytes()));
    }
    hash_numbers(&mut hasher, &[*lease_ends]);
    state.scan_lease_ends(&mut |number, end| {
        hash_lease_end(&mut hasher, number, &end);
        ControlFlow::Continue(())
    })?;
    hash_locks(state, &mut hasher, locks)?;
    Ok(hasher.finalize())
}

/// Hashes the native locks. A store without any hashes as it did before there were any.
fn hash_locks<S: StateRead>(state: &S, hasher: &mut Hasher, counts: &LockCounts) -> Result<(), S::Error> {
    if *counts != LockCounts::default() {
        hash_numbers(hasher, &[counts.locks, counts.requests, counts.delays]);
    }
    let mut bytes = Vec::new();
    state.scan_lock_rows(&LockKey::Delay(LeaseId(i64::MIN), Bytes::new()), &mut |key, row| {
        match &key {
            LockKey::Delay(lease, key) => hash_place(hasher, (1, lease.0), &[key]),
            LockKey::Lock(name) => hash_place(hasher, (2, 0), &[name]),
            LockKey::Place(name, create, key) => hash_place(hasher, (3, create.0), &[name, key]),
            LockKey::Requests(lease) => hash_place(hasher, (4, lease.0), &[]),
        }
        bytes.clear();
        row.encode(&mut bytes);
        hash_bytes(hasher, &bytes);
        ControlFlow::Continue(())
    })
}

fn hash_place(hasher: &mut Hasher, (kind, number): (u64, i64), texts: &[&[u8]]) {
    hash_numbers(hasher, &[kind, number.cast_unsigned()]);
    texts.iter().for_each(|text| hash_bytes(hasher, text));
}

/// Hashes the leases and whom they are for, and counts them.
fn hash_leases<S: StateRead>(state: &S, hasher: &mut Hasher) -> Result<u64, S::Error> {
    let (mut leases, mut failure) = (0, None);
    state.scan_leases(&mut |id, row| {
        let LeaseRow { incarnation: Incarnation { index, place }, ttl_ms, renewals, clock_ms, has_holder } = row;
        hash_numbers(hasher, &[id.0.cast_unsigned(), index.0, u64::from(place), ttl_ms, renewals, clock_ms]);
        leases += 1;
        if has_holder {
            match state.lease_holder(id) {
                Ok(Some(holder)) => {
                    hash_bytes(hasher, holder.name.as_bytes());
                    hash_bytes(hasher, holder.text.as_bytes());
                }
                Ok(None) => failure = Some(state.corrupt("a lease's holder is missing")),
                Err(error) => failure = Some(error),
            }
        }
        if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failure.map_or(Ok(leases), Err)
}

fn hash_lease_end(hasher: &mut Hasher, number: u64, end: &LeaseEnd) {
    let Incarnation { index, place } = end.incarnation;
    hash_numbers(hasher, &[number, end.id.0.cast_unsigned(), index.0, u64::from(place), end.ttl_ms, end.renewals]);
    let when = [end.renewed_ms, end.ended_ms, end.index.0, end.term.0, u64::from(end.expired), end.by.member.0];
    hash_numbers(hasher, &when);
    hash_numbers(hasher, &[end.keys, end.revision.0.cast_unsigned()]);
    let (kind, name) = match &end.by.client {
        ClientName::Unknown => (0, ""),
        ClientName::Certificate(name) => (1, &name[..]),
        ClientName::Address(address) => (2, &address[..]),
    };
    hash_numbers(hasher, &[kind]);
    hash_bytes(hasher, name.as_bytes());
    hash_bytes(hasher, end.holder.as_bytes());
}

fn hash_numbers(hasher: &mut Hasher, numbers: &[u64]) {
    numbers.iter().for_each(|number| hasher.update(&number.to_be_bytes()));
}

fn hash_bytes(hasher: &mut Hasher, bytes: &[u8]) {
    hash_numbers(hasher, &[bytes.len() as u64]);
    hasher.update(bytes);
}

fn hash_key<S: StateRead>(
    state: &S,
    hasher: &mut Hasher,
    key: &Bytes,
    row: &CurrentRow,
    revision: Revision,
) -> Result<(), S::Error> {
    let compacted = state.meta().compacted;
    if row.meta.is_tombstone() && row.meta.modified.revision <= compacted {
        return Ok(());
    }
    let mut event = newest_event(state, key, row.meta.modified)?;
    if event.meta != row.meta || event.value != row.value {
        return Err(state.corrupt("a key's row differs from its newest event"));
    }
    loop {
        let at = event.meta.modified.revision;
        let survives = at > compacted || !event.meta.is_tombstone();
        if at <= revision && survives {
            hash_version(hasher, &event);
        }
        if at <= compacted {
            return Ok(());
        }
        match previous_event(state, &event)? {
            Some(previous) => event = previous,
            None => return Ok(()),
        }
    }
}

/// Every field at a fixed width and every string after its length, so that different versions never hash as one.
fn hash_version(hasher: &mut Hasher, event: &EventRow) {
    let meta = &event.meta;
    hasher.update(&(event.key.len() as u64).to_be_bytes());
    hasher.update(&event.key);
    hasher.update(&meta.create.0.to_be_bytes());
    hasher.update(&meta.modified.revision.0.to_be_bytes());
    hasher.update(&meta.modified.sub.to_be_bytes());
    hasher.update(&meta.version.to_be_bytes());
    hasher.update(&meta.lease.0.to_be_bytes());
    hasher.update(&(event.value.len() as u64).to_be_bytes());
    hasher.update(&event.value);
    if let Some(cause) = &event.cause {
        let mut bytes = Vec::new();
        cause.encode(&mut bytes);
        hash_bytes(hasher, &bytes);
    }
}
