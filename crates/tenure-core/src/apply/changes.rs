//! The events of one command: all in one revision, numbered in order, none if nothing changes.
//!
//! Keys that come and go may be contenders for locks, whoever writes them. So every change of a key goes through here,
//! and what follows for locks is settled once all changes of the command are made: who is granted a lock and loses
//! its key in the same revision was never granted it.

use alloc::boxed::Box;
use bytes::Bytes;

use super::ApplyError;
use super::lock::queue::{self, Joining, Touched, Why};
use crate::ids::{EventId, LeaseId, Revision};
use crate::lock::LockCause;
use crate::row::{EventRow, KeyMeta};
use crate::state::StateWrite;

/// What a command changes. The store's revision rises with its first event.
pub(super) struct Changes<'a, S> {
    pub(super) state: &'a mut S,
    last: Option<EventId>,
    why: Why<'a>,
    touched: Touched,
    /// The lease that all keys were detached from at once.
    emptied: LeaseId,
}

/// Makes the changes of a command, which come about for a reason.
pub(super) fn change<'a, S: StateWrite, T>(
    state: &'a mut S,
    why: Why<'a>,
    make: impl FnOnce(&mut Changes<'a, S>) -> Result<T, ApplyError<S::Error>>,
) -> Result<T, ApplyError<S::Error>> {
    let mut changes = Changes { state, last: None, why, touched: Touched::default(), emptied: LeaseId::NONE };
    let made = make(&mut changes)?;
    queue::settle(changes.state, changes.touched)?;
    Ok(made)
}

/// What is known of a key about to change.
#[derive(Clone, Copy)]
pub(super) struct Newest {
    /// The key's metadata, if it exists.
    pub(super) live: Option<KeyMeta>,
    /// The event that the next one points back to.
    previous: Option<EventId>,
}

impl Newest {
    /// From the key's row of `current`, which may be a tombstone. One at or below the compacted revision counts as
    /// absent, purged or not, so that all nodes record the same.
    pub(super) fn of(meta: Option<KeyMeta>, compacted: Revision) -> Newest {
        match meta {
            Some(meta) if !meta.is_tombstone() => Newest { live: Some(meta), previous: Some(meta.modified) },
            Some(tombstone) if tombstone.modified.revision > compacted => {
                Newest { live: None, previous: Some(tombstone.modified) }
            }
            Some(_) | None => Newest { live: None, previous: None },
        }
    }
}

impl<S: StateWrite> Changes<'_, S> {
    /// Says that so many changes follow.
    pub(super) fn expect(&mut self, count: usize) {
        self.state.expect_events(count);
    }

    /// Detaches all its keys from a lease that ends. What becomes of each follows.
    pub(super) fn detach_all(&mut self, lease: LeaseId, keys: &[Bytes]) {
        self.state.detach_all(lease, keys);
        self.emptied = lease;
        self.expect(keys.len());
    }

    /// Detaches a key from its lease, if it is on any.
    fn detach(&mut self, lease: LeaseId, key: &Bytes) {
        if lease.is_some() && lease != self.emptied {
            self.state.detach(lease, key);
        }
    }

    /// What is known of a key.
    pub(super) fn newest(&self, key: &[u8]) -> Result<Newest, S::Error> {
        Ok(Newest::of(self.state.current_meta(key)?, self.state.meta().compacted))
    }

    /// Records a put. The lease, if any, exists.
    pub(super) fn put(
        &mut self,
        key: Bytes,
        newest: Newest,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<(), ApplyError<S::Error>> {
        self.record(key, newest, (value, lease), (Joining::Plain, None)).map(|_| ())
    }

    /// The same for a key whose locks know more of it. Answers its metadata.
    pub(super) fn record(
        &mut self,
        key: Bytes,
        newest: Newest,
        (value, lease): (Bytes, LeaseId),
        (joining, cause): (Joining, Option<LockCause>),
    ) -> Result<KeyMeta, ApplyError<S::Error>> {
        let modified = self.next_event(newest.previous)?;
        let (create, version, old_lease) = match newest.live {
            Some(live) => (live.create, live.version, live.lease),
            None => (modified.revision, 0, LeaseId::NONE),
        };
        let version = version.checked_add(1).ok_or(ApplyError::Invariant("a version has reached its end"))?;
        if old_lease != lease {
            self.detach(old_lease, &key);
            if lease.is_some() {
                self.state.attach(lease, &key);
            }
        }
        let meta = KeyMeta { create, modified, version, lease };
        if newest.live.is_none() {
            queue::join(self.state, &mut self.touched, (&key, create), joining)?;
        }
        let cause = cause.map(Box::new);
        self.state.record(EventRow { key, meta, value, previous: newest.previous, cause });
        Ok(meta)
    }

    /// Records a delete of a key that exists, as `live` says.
    pub(super) fn delete(&mut self, key: Bytes, live: &KeyMeta) -> Result<(), ApplyError<S::Error>> {
        let modified = self.next_event(Some(live.modified))?;
        self.detach(live.lease, &key);
        let cause = queue::leave(self.state, &mut self.touched, (&key, live), &self.why)?.map(Box::new);
        let meta = KeyMeta { create: Revision(0), modified, version: 0, lease: LeaseId::NONE };
        self.state.record(EventRow { key, meta, value: Bytes::new(), previous: Some(live.modified), cause });
        Ok(())
    }

    /// The id of the next event, of a key whose last one was `previous`.
    fn next_event(&mut self, previous: Option<EventId>) -> Result<EventId, ApplyError<S::Error>> {
        let next = match self.last {
            Some(last) => {
                let sub = last.sub.checked_add(1).ok_or(ApplyError::Invariant("too many events in a revision"))?;
                EventId { revision: last.revision, sub }
            }
            None => {
                let meta = self.state.meta_mut();
                let revision = meta.revision.0.checked_add(1);
                meta.revision = Revision(revision.ok_or(ApplyError::Invariant("revisions have reached their end"))?);
                EventId { revision: meta.revision, sub: 0 }
            }
        };
        if previous.is_some_and(|previous| previous.revision >= next.revision) {
            return Err(ApplyError::Invariant("a key changes twice in one revision, or in an old one"));
        }
        self.last = Some(next);
        Ok(next)
    }
}
