//! The model: an etcd-like store that says what a request would be answered, and that can go back.
//!
//! Answering never changes it ([`Store::execute`] returns the changes); the search applies changes one revision at a time
//! and takes them back when it was wrong. All versions of a key are kept, so that reads of old revisions are answered too.
//! A hash of the present state is kept up to date with every change, 128 bits wide: the search takes two states with one
//! hash for the same, and a chance collision would need some 2^60 states to become likely.

mod execute;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

use crate::history::Initial;
use crate::ids::{LeaseId, Revision};
use crate::request::{KeyRange, Request};
use crate::response::{KeyValue, Refusal, Response};

pub use execute::Executed;
pub(crate) use execute::has_duplicates;

/// What one revision does to one key: its new key-value, or none for a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which key.
    pub key: Bytes,
    /// What it becomes.
    pub kv: Option<KeyValue>,
}

/// The store.
#[derive(Clone, Debug)]
pub struct Store {
    revision: Revision,
    compacted: Revision,
    /// The versions of each key in ascending order of their revision.
    keys: BTreeMap<Bytes, Vec<Version>>,
    leases: BTreeSet<LeaseId>,
    attached: HashMap<LeaseId, BTreeSet<Bytes>>,
    kv_hash: u128,
    lease_hash: u128,
}

#[derive(Clone, Debug)]
struct Version {
    revision: Revision,
    kv: Option<KeyValue>,
}

impl Store {
    /// The store that a history begins with.
    pub fn new(initial: &Initial) -> Store {
        let mut store = Store {
            revision: initial.revision,
            compacted: initial.compacted,
            keys: BTreeMap::new(),
            leases: BTreeSet::new(),
            attached: HashMap::new(),
            kv_hash: 0,
            lease_hash: 0,
        };
        for kv in &initial.kvs {
            store.push(&Change { key: kv.key.clone(), kv: Some(kv.clone()) }, kv.modified);
        }
        for lease in &initial.leases {
            store.set_lease(*lease, true);
        }
        store
    }

    /// Its revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Its compacted revision.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Whether a lease lives.
    pub fn has_lease(&self, lease: LeaseId) -> bool {
        self.leases.contains(&lease)
    }

    /// The keys of a lease, ascending.
    pub fn keys_of(&self, lease: LeaseId) -> impl Iterator<Item = &Bytes> {
        self.attached.get(&lease).into_iter().flatten()
    }

    /// Whether a lease has keys.
    pub fn has_keys(&self, lease: LeaseId) -> bool {
        self.attached.get(&lease).is_some_and(|keys| !keys.is_empty())
    }

    /// Leases that live or have keys, ascending.
    pub fn leases_with_keys(&self) -> Vec<LeaseId> {
        let mut leases: Vec<LeaseId> =
            self.attached.iter().filter(|(_, keys)| !keys.is_empty()).map(|(lease, _)| *lease).collect();
        leases.sort_unstable();
        leases
    }

    /// The leases that a key had at some time.
    pub(crate) fn leases_ever_of(&self, key: &[u8]) -> impl Iterator<Item = LeaseId> {
        let versions = self.keys.get(key).into_iter().flatten();
        versions.filter_map(|version| version.kv.as_ref()).map(|kv| kv.lease)
    }

    /// The keys of a range that were ever there.
    pub(crate) fn keys_ever_in(&self, range: &KeyRange) -> impl Iterator<Item = &Bytes> {
        self.keys.range(range.key.clone()..).map(|(key, _)| key).take_while(|key| range.contains(key))
    }

    /// A key now.
    pub fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.kv.as_ref()
    }

    /// A key at a revision.
    pub fn get_at(&self, key: &[u8], revision: Revision) -> Option<&KeyValue> {
        at(self.keys.get(key)?, revision)
    }

    /// The key-values of a range at a revision, ascending.
    pub fn range_at(&self, range: &KeyRange, revision: Revision) -> Vec<&KeyValue> {
        if let Some(key) = range.single() {
            return self.get_at(key, revision).into_iter().collect();
        }
        let from = self.keys.range(range.key.clone()..);
        from.take_while(|(key, _)| range.contains(key)).filter_map(|(_, versions)| at(versions, revision)).collect()
    }

    /// What ending a lease changes.
    pub fn ending(&self, lease: LeaseId) -> Vec<Change> {
        self.keys_of(lease).map(|key| Change { key: key.clone(), kv: None }).collect()
    }

    /// Carries out a request, as a store alone with one client would.
    pub fn apply(&mut self, request: &Request) -> Result<Response, Refusal> {
        let Executed { body, changes } = self.execute(request)?;
        if !changes.is_empty() {
            self.advance(&changes);
        }
        match request {
            Request::LeaseGrant { id, .. } => self.set_lease(*id, true),
            Request::LeaseRevoke { id } => self.set_lease(*id, false),
            Request::Compact { revision } => self.set_compacted(*revision),
            Request::Range(_)
            | Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Txn(_)
            | Request::LeaseKeepAlive { .. }
            | Request::LeaseTimeToLive { .. } => {}
        }
        Ok(Response { revision: self.revision, body })
    }

    /// Ends a lease and deletes its keys.
    pub fn expire(&mut self, lease: LeaseId) {
        let changes = self.ending(lease);
        if !changes.is_empty() {
            self.advance(&changes);
        }
        self.set_lease(lease, false);
    }

    /// Makes the next revision of these changes, which may be none: then nothing that is looked at changes in it.
    pub fn advance(&mut self, changes: &[Change]) {
        self.revision = self.revision.next();
        let revision = self.revision;
        changes.iter().for_each(|change| self.push(change, revision));
    }

    /// Takes back the newest revision, which these changes made.
    pub fn retreat(&mut self, changes: &[Change]) {
        changes.iter().rev().for_each(|change| self.pop(&change.key));
        self.revision = self.revision.previous();
    }

    /// Lets a lease begin or end. Its keys are another matter.
    pub fn set_lease(&mut self, lease: LeaseId, lives: bool) {
        let changed = if lives { self.leases.insert(lease) } else { self.leases.remove(&lease) };
        if changed {
            self.lease_hash ^= hash_of(&lease);
        }
    }

    /// Sets the compacted revision.
    pub fn set_compacted(&mut self, compacted: Revision) {
        self.compacted = compacted;
    }

    /// The hash of the present keys.
    pub fn kv_hash(&self) -> u128 {
        self.kv_hash
    }

    /// The hash of everything present.
    pub fn hash(&self) -> u128 {
        self.kv_hash ^ self.lease_hash ^ hash_of(&("counters", self.revision, self.compacted))
    }

    /// All present key-values, ascending.
    pub fn present(&self) -> Vec<KeyValue> {
        self.keys.values().filter_map(|versions| versions.last()?.kv.clone()).collect()
    }

    /// The leases that live.
    pub fn leases(&self) -> Vec<LeaseId> {
        self.leases.iter().copied().collect()
    }

    fn push(&mut self, change: &Change, revision: Revision) {
        self.note(&change.key, false);
        match self.keys.get_mut(&change.key) {
            Some(versions) => versions.push(Version { revision, kv: change.kv.clone() }),
            None => {
                let first = vec![Version { revision, kv: change.kv.clone() }];
                self.keys.insert(change.key.clone(), first);
            }
        }
        self.note(&change.key, true);
    }

    fn pop(&mut self, key: &Bytes) {
        self.note(key, false);
        if let Some(versions) = self.keys.get_mut(key) {
            versions.pop();
            if versions.is_empty() {
                self.keys.remove(key);
            }
        }
        self.note(key, true);
    }

    /// Keeps the hash and the leases' keys in step, before and after a key's newest version changes.
    fn note(&mut self, key: &Bytes, attach: bool) {
        let Some(kv) = self.keys.get(key).and_then(|versions| versions.last()?.kv.as_ref()) else { return };
        let (hash, lease) = (hash_of(kv), kv.lease);
        self.kv_hash ^= hash;
        if !lease.is_some() {
            return;
        }
        let keys = self.attached.entry(lease).or_default();
        if attach {
            keys.insert(key.clone());
        } else {
            keys.remove(key);
        }
    }
}

fn at(versions: &[Version], revision: Revision) -> Option<&KeyValue> {
    let newer = versions.partition_point(|version| version.revision <= revision);
    versions.get(newer.checked_sub(1)?)?.kv.as_ref()
}

/// A hash of 128 bits: two of 64 with different beginnings.
pub(crate) fn hash_of(value: &impl Hash) -> u128 {
    let half = |seed: u64| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        value.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}
