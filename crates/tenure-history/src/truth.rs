//! The known order of the writes: what each revision changed, and why.
//!
//! A linearizability check that succeeds makes one, and so can a run that reads its store's history back. The watch, lease
//! and lock checkers judge by it.

use std::collections::BTreeMap;

use crate::history::Initial;
use crate::ids::{LeaseId, Revision};
use crate::model::Change;
use crate::response::KeyValue;

/// Why a revision was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// By this operation of the history.
    Operation(usize),
    /// A lease ended by itself.
    Expired(LeaseId),
    /// Somebody else, or nobody knows.
    Other,
}

/// One revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// What it changed, in order.
    pub changes: Vec<Change>,
    /// Why.
    pub cause: Cause,
}

/// Every revision after the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    initial: Revision,
    compacted: Revision,
    made: Vec<Made>,
    /// Each key's versions in ascending order, those from before the history included.
    keys: BTreeMap<bytes::Bytes, Vec<(Revision, Option<KeyValue>)>>,
}

impl Truth {
    /// The truth about a store before anything was done to it.
    pub fn new(initial: &Initial) -> Truth {
        let of = |kv: &KeyValue| (kv.key.clone(), vec![(kv.modified, Some(kv.clone()))]);
        let keys = initial.kvs.iter().map(of).collect();
        Truth { initial: initial.revision, compacted: initial.compacted, made: Vec::new(), keys }
    }

    /// Adds the next revision.
    pub fn push(&mut self, changes: Vec<Change>, cause: Cause) {
        let revision = self.revision().next();
        for change in &changes {
            self.keys.entry(change.key.clone()).or_default().push((revision, change.kv.clone()));
        }
        self.made.push(Made { changes, cause });
    }

    /// Says how far anybody may have compacted.
    pub fn set_compacted(&mut self, compacted: Revision) {
        self.compacted = compacted;
    }

    /// How far anybody may have compacted.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The revision before the first that is known.
    pub fn initial(&self) -> Revision {
        self.initial
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        Revision(self.initial.0.saturating_add(i64::try_from(self.made.len()).unwrap_or(i64::MAX)))
    }

    /// What a revision did, if it is known.
    pub fn made(&self, revision: Revision) -> Option<&Made> {
        let at = usize::try_from(revision.0.checked_sub(self.initial.0)?.checked_sub(1)?).ok()?;
        self.made.get(at)
    }

    /// The revisions from one to another, both included, that are known.
    pub fn between(&self, from: Revision, to: Revision) -> impl Iterator<Item = (Revision, &Made)> {
        let first = from.max(self.initial.next()).0;
        (first..=to.min(self.revision()).0)
            .filter_map(|revision| Some((Revision(revision), self.made(Revision(revision))?)))
    }

    /// A key at a revision.
    pub fn key_at(&self, key: &[u8], revision: Revision) -> Option<&KeyValue> {
        let versions = self.keys.get(key)?;
        let newer = versions.partition_point(|(at, _)| *at <= revision);
        versions.get(newer.checked_sub(1)?)?.1.as_ref()
    }

    /// How many keys a lease has after the newest revision.
    pub fn present_keys_of(&self, lease: LeaseId) -> usize {
        let newest = self.keys.values().filter_map(|versions| versions.last()?.1.as_ref());
        newest.filter(|kv| kv.lease == lease).count()
    }

    /// The keys with a prefix that there ever were, each with its versions, oldest first.
    pub fn under<'a>(
        &'a self,
        prefix: &'a [u8],
    ) -> impl Iterator<Item = (&'a bytes::Bytes, &'a [(Revision, Option<KeyValue>)])> {
        let from = bytes::Bytes::copy_from_slice(prefix);
        let keys = self.keys.range(from..).take_while(move |(key, _)| key.starts_with(prefix));
        keys.map(|(key, versions)| (key, &versions[..]))
    }

    /// A key's versions, oldest first.
    pub fn versions(&self, key: &[u8]) -> &[(Revision, Option<KeyValue>)] {
        self.keys.get(key).map_or(&[], |versions| versions)
    }
}
