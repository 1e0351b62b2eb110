//! What a cache serves at one revision: immutable, and shared by all that read it.
//!
//! Each kind has a map of its own behind an `Arc`. A step of the cache copies the maps of the kinds that it changes and
//! shares the others, so readers never wait for the writer, and hold what they took for as long as they like.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::instance::Instance;
use super::event::RemovedWhy;
use crate::{LeaseId, Revision};

/// An instance, and what the store knows of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(super) instance: Arc<Instance>,
    pub(super) create_revision: i64,
    pub(super) mod_revision: i64,
    pub(super) lease: i64,
    pub(super) held: Option<RemovedWhy>,
}

impl Entry {
    /// What the instance says of itself.
    #[must_use]
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// The revision in which its key was created: since when it has been there without a break.
    #[must_use]
    pub fn create_revision(&self) -> Revision {
        Revision(self.create_revision)
    }

    /// The revision in which its key was written last.
    #[must_use]
    pub fn mod_revision(&self) -> Revision {
        Revision(self.mod_revision)
    }

    /// The lease that its key is on, if it is on one.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        LeaseId(self.lease)
    }

    /// Whether it is gone from the store, and only held because too many were gone at once.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.held.is_some()
    }
}

pub(super) type KindMap = BTreeMap<Arc<str>, Entry>;

/// All that a cache served at one revision. Reading it takes no lock and no time of the cluster's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub(super) revision: i64,
    pub(super) kinds: BTreeMap<Arc<str>, Arc<KindMap>>,
}

impl Snapshot {
    /// The store's revision that it shows: what was written to the registry up to this one is in it, and nothing later.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    /// The instance with this id. If several kinds have one, that of the first kind in the order of their names.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Instance>> {
        self.kinds.values().find_map(|instances| instances.get(id)).map(Entry::instance)
    }

    /// An instance with what the store knows of its key.
    #[must_use]
    pub fn entry(&self, kind: &str, id: &str) -> Option<&Entry> {
        self.kinds.get(kind)?.get(id)
    }

    /// The instances of a kind, by id.
    pub fn by_kind<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Arc<Instance>> + use<'a> {
        self.kinds.get(kind).into_iter().flat_map(|instances| instances.values()).map(Entry::instance)
    }

    /// All instances, by kind and id.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.entries().map(Entry::instance)
    }

    /// All instances with what the store knows of their keys, by kind and id.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.kinds.values().flat_map(|instances| instances.values())
    }

    /// The kinds that have instances, in the order of their names.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.kinds.keys().map(AsRef::as_ref)
    }

    /// How many instances there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kinds.values().map(|instances| instances.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    pub(super) fn set(&mut self, entry: Entry) {
        let kind: &str = entry.instance.kind();
        let id: Arc<str> = entry.instance.id().into();
        if let Some(instances) = self.kinds.get_mut(kind) {
            Arc::make_mut(instances).insert(id, entry);
        } else {
            self.kinds.insert(kind.into(), Arc::new(BTreeMap::from([(id, entry)])));
        }
    }

    pub(super) fn remove(&mut self, instance: &Instance) {
        let Some(instances) = self.kinds.get_mut(instance.kind()) else { return };
        let instances = Arc::make_mut(instances);
        instances.remove(instance.id());
        if instances.is_empty() {
            self.kinds.remove(instance.kind());
        }
    }
}
