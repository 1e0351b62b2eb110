//! A bounded cache of rows: of what `current` says of keys, without their values, and of locks.
//!
//! A put must know its key's predecessor, and asking the engine is the dearest part of a put; a native lock has several
//! rows that come and go with its holders. Two generations make
//! the bound cheap: entries are added to the young one; when it is full it becomes the old one and the old one is
//! dropped; a hit in the old one moves the entry back. So what was used lately survives, at O(1) per use and without
//! lists. It is cut into shards, each with its own generations, for dropping or growing one of half a million entries
//! takes a tenth of a second, and the writer would wait for it. The cache belongs to the writer, which updates it after
//! every batch: it is never stale.

use std::collections::HashMap;

use tenure_core::row::KeyMeta;

/// What is known of a key's newest event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownKey {
    pub(crate) meta: KeyMeta,
    /// The length of its value, for the byte counts.
    pub(crate) value_bytes: u64,
}

/// What an entry costs beside its key and its value: its place in the table at the usual load, and the key's allocation.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// So many that a shard of a cache of 128 MiB drops fewer than a thousand entries at once.
const SHARDS: usize = 1024;

#[derive(Debug)]
pub(crate) struct RowCache<V> {
    shards: Vec<Shard<V>>,
}

#[derive(Debug)]
struct Shard<V> {
    young: HashMap<Box<[u8]>, V>,
    old: HashMap<Box<[u8]>, V>,
    young_bytes: usize,
    /// Half the budget: there are two generations.
    generation_bytes_max: usize,
}

impl<V: Clone> RowCache<V> {
    pub(crate) fn new(bytes_max: usize) -> RowCache<V> {
        RowCache { shards: (0..SHARDS).map(|_| Shard::new(bytes_max / SHARDS)).collect() }
    }

    pub(crate) fn get(&mut self, key: &[u8]) -> Option<V> {
        self.shard(key).get(key)
    }

    pub(crate) fn insert(&mut self, key: &[u8], known: V) {
        self.shard(key).insert(key, known);
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        self.shard(key).remove(key);
    }

    /// Keys that somebody chose to meet in one shard only make the cache small for themselves; the maps inside hash
    /// with a secret.
    fn shard(&mut self, key: &[u8]) -> &mut Shard<V> {
        let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        let hash = key.iter().rev().take(SHARD_KEY_BYTES).fold(0x811c_9dc5, mix);
        // The low bits of a product know little of the bits above them.
        &mut self.shards[((hash ^ (hash >> 16)) as usize) % SHARDS]
    }
}

/// The end of a key that picks its shard: where the keys of one prefix differ.
const SHARD_KEY_BYTES: usize = 16;

impl<V: Clone> Shard<V> {
    fn new(bytes_max: usize) -> Shard<V> {
        Shard { young: HashMap::new(), old: HashMap::new(), young_bytes: 0, generation_bytes_max: bytes_max / 2 }
    }

    fn get(&mut self, key: &[u8]) -> Option<V> {
        if let Some(known) = self.young.get(key) {
            return Some(known.clone());
        }
        let (key, known) = self.old.remove_entry(key)?;
        self.add(key, known.clone());
        Some(known)
    }

    fn insert(&mut self, key: &[u8], known: V) {
        if let Some(place) = self.young.get_mut(key) {
            *place = known;
            return;
        }
        let key = match self.old.remove_entry(key) {
            Some((key, _)) => key,
            None => key.into(),
        };
        self.add(key, known);
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some((key, _)) = self.young.remove_entry(key) {
            self.young_bytes -= entry_bytes::<V>(&key);
        }
        self.old.remove(key);
    }

    fn add(&mut self, key: Box<[u8]>, known: V) {
        let bytes = entry_bytes::<V>(&key);
        if bytes > self.generation_bytes_max {
            return;
        }
        if self.young_bytes + bytes > self.generation_bytes_max {
            std::mem::swap(&mut self.old, &mut self.young);
            self.young.clear();
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(key, known);
    }
}

/// What a value has elsewhere is not counted.
fn entry_bytes<V>(key: &[u8]) -> usize {
    key.len() + size_of::<V>() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_core::{EventId, LeaseId, Revision};

    fn known(revision: i64) -> KnownKey {
        let modified = EventId { revision: Revision(revision), sub: 0 };
        let meta = KeyMeta { create: Revision(1), modified, version: 1, lease: LeaseId::NONE };
        KnownKey { meta, value_bytes: 0 }
    }

    /// Room for two generations of two keys of one byte.
    fn small_shard() -> Shard<KnownKey> {
        Shard::new(4 * entry_bytes::<KnownKey>(b"k"))
    }

    #[test]
    fn the_newest_insert_wins_in_whichever_generation_the_key_was() {
        let mut cache = small_shard();
        for (key, revision) in [(b"a", 1), (b"b", 2), (b"c", 3)] {
            cache.insert(key, known(revision));
        }
        cache.insert(b"a", known(4));
        assert_eq!(cache.get(b"a"), Some(known(4)));
        cache.insert(b"d", known(5));
        cache.insert(b"e", known(6));
        assert_eq!(cache.get(b"a"), Some(known(4)));
    }

    #[test]
    fn a_key_in_use_survives_and_the_bound_holds() {
        let mut cache = small_shard();
        cache.insert(b"hot", known(1));
        for revision in 2..2000 {
            cache.insert(&revision.to_string().into_bytes(), known(revision));
            assert_eq!(cache.get(b"hot"), Some(known(1)), "after {revision}");
            assert!(cache.young.len() + cache.old.len() <= 4);
        }
        assert_eq!(cache.get(b"2"), None);
    }

    #[test]
    fn a_removed_key_is_gone_from_both_generations() {
        let mut cache = small_shard();
        cache.insert(b"a", known(1));
        cache.remove(b"a");
        assert_eq!(cache.get(b"a"), None);
        assert_eq!(cache.young_bytes, 0);
        for key in [b"a", b"b", b"c"] {
            cache.insert(key, known(2));
        }
        cache.remove(b"a");
        assert_eq!(cache.get(b"a"), None);
    }

    #[test]
    fn a_cache_without_room_remembers_nothing() {
        let mut cache = Shard::new(0);
        cache.insert(b"a", known(1));
        assert_eq!(cache.get(b"a"), None);
    }

    #[test]
    fn the_shards_share_the_load_and_the_budget() {
        let mut cache = RowCache::new(1 << 20);
        let key = |number: i64| format!("/registry/things/{number:08}").into_bytes();
        for number in 0..100_000 {
            cache.insert(&key(number), known(number));
        }
        let bytes = |shard: &Shard<KnownKey>| {
            shard.young.keys().chain(shard.old.keys()).map(|key| entry_bytes::<KnownKey>(key)).sum()
        };
        let per_shard: Vec<usize> = cache.shards.iter().map(bytes).collect();
        assert!(per_shard.iter().sum::<usize>() <= 1 << 20);
        assert!(per_shard.iter().all(|bytes| *bytes > 0), "every shard is used");
        assert_eq!(cache.get(&key(99_999)), Some(known(99_999)));
        cache.remove(&key(99_999));
        assert_eq!(cache.get(&key(99_999)), None);
    }
}
