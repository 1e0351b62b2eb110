//! Checkpoints of a store that is written, purged and flushed all the time: each opens as the state of its own entry.
//!
//! What an entry does is a function of its number, so a second store on the engine in memory, which never purges and
//! never flushes, says what the state at any entry must be.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tenure_core::apply::apply_group;
use tenure_core::codec::GroupBuilder;
use tenure_core::command::{Command, DeleteRange, EntryPosition, GroupHeader, KeyRange, Put};
use tenure_core::hash::{HashKv, hash_kv};
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, LogIndex, Revision, Term};
use tenure_rocks::{RocksEngine, RocksEngines, RocksOptions};
use tenure_storage::engine::EngineFactory;
use tenure_storage::mem::MemEngine;
use tenure_storage::purge::{PurgeProgress, PurgeWork};
use tenure_storage::state_view::StateView;
use tenure_storage::store::{Applied, StateStore};

const CHECKPOINTS: u32 = 100;

/// Entries between two checkpoints, at least. More are written while one is made and looked at.
const ENTRIES_BETWEEN: u64 = 50;

/// How far the writer may be ahead of the checks.
const ENTRIES_AHEAD_MAX: usize = 300;

const KEYS: u64 = 1000;

/// Entries from one compaction to the next.
const ENTRIES_PER_COMPACTION: u64 = 40;

/// Small enough that files are made and merged all the time.
fn options() -> RocksOptions {
    RocksOptions { block_cache_bytes: 4 << 20, memtable_bytes: 512 << 10, ..RocksOptions::default() }
}

/// What the entry of a number does: puts, a delete now and then, and sometimes a compaction to a little while ago.
fn apply_entry(store: &mut StateStore, number: u64) {
    let mut group = GroupBuilder::new(GroupHeader::default());
    for place in 0..1 + number % 9 {
        let key = Bytes::from(format!("key {:05}", (number * 7919 + place * 104_729) % KEYS));
        let command = if (number + place).is_multiple_of(11) {
            Command::DeleteRange(DeleteRange { range: KeyRange::One(key), prev_kv: false })
        } else {
            let length = usize::try_from(number * 37 % 300).unwrap();
            let value = Bytes::from(vec![number.to_le_bytes()[0]; length]);
            let lease = LeaseId::NONE;
            Command::Put(Put { key, value, lease, prev_kv: false, ignore_value: false, ignore_lease: false })
        };
        group.push(&command.encode());
    }
    let revision = store.view().meta().revision.0;
    if number.is_multiple_of(ENTRIES_PER_COMPACTION) {
        group.push(&Command::Compact(Revision(revision - revision.min(100))).encode());
    }
    let position = EntryPosition { index: LogIndex(number), term: Term(1) };
    let mut run = store.begin();
    apply_group(&mut run, position, &group.finish()).unwrap();
    let applied = Applied { index: position.index, term: position.term, membership: Bytes::from_static(b"members") };
    run.commit(applied).unwrap();
}

fn hash(view: &StateView) -> HashKv {
    hash_kv(view, Revision(0)).unwrap().unwrap()
}

/// Writes until nobody wants to know of it any more.
fn write_on(store: &Mutex<StateStore>, written: &SyncSender<u64>, compacted: &SyncSender<()>) {
    for number in 1.. {
        apply_entry(&mut store.lock().unwrap(), number);
        if number.is_multiple_of(ENTRIES_PER_COMPACTION) {
            // One notice that waits is enough.
            compacted.try_send(()).ok();
        }
        if written.send(number).is_err() {
            return;
        }
    }
}

/// Purges after every compaction until there will be no more; returns how many steps it took.
fn purge_on(store: &Mutex<StateStore>, compacted: &Receiver<()>) -> u64 {
    let mut steps = 0;
    while let Ok(()) = compacted.recv() {
        let view = store.lock().unwrap().view();
        let Some(mut work) = PurgeWork::plan_at_most(&view, 500).unwrap() else { continue };
        while store.lock().unwrap().purge_step_at_most(&mut work, 64).unwrap() == PurgeProgress::More {
            steps += 1;
        }
    }
    steps
}

/// The state as it must be, entry by entry.
struct Model {
    store: StateStore,
    written: Receiver<u64>,
}

impl Model {
    /// Waits until `entries` more are written and applies what is written.
    fn go_on(&mut self, entries: u64) {
        for _ in 0..entries {
            let number = self.written.recv().unwrap();
            apply_entry(&mut self.store, number);
        }
    }

    fn go_to(&mut self, index: u64) {
        let next = self.store.applied().index.0;
        assert!(index >= next, "a checkpoint holds what was written before it: entry {next}, not just {index}");
        self.go_on(index - next);
    }
}

fn check(model: &mut Model, dir: &Path, open_it: bool) {
    let view = StateView::of_snapshot(RocksEngines::new(options()).inspect(dir).unwrap()).unwrap();
    model.go_to(view.applied().index.0);
    let expected = model.store.view();
    assert_eq!(view.applied(), expected.applied());
    assert_eq!(view.meta(), expected.meta());
    assert_eq!(view.bytes().in_use, expected.bytes().in_use);
    assert_eq!(hash(&view), hash(&expected), "at {}", view.applied().index);
    drop(view);
    if open_it {
        let store = StateStore::open(Arc::new(RocksEngine::open(dir, &options()).unwrap())).unwrap();
        assert_eq!(hash(&store.view()), hash(&expected));
    }
}

#[test]
fn every_checkpoint_under_load_is_the_state_of_its_own_entry() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = Arc::new(RocksEngine::open(&scratch.path().join("data"), &options()).unwrap());
    let store = Mutex::new(StateStore::open(engine).unwrap());
    let flusher = store.lock().unwrap().flusher();
    let (written, receiver) = sync_channel(ENTRIES_AHEAD_MAX);
    let (compacted, notices) = sync_channel(1);
    let purged = std::thread::scope(|scope| {
        let shared = &store;
        scope.spawn(move || write_on(shared, &written, &compacted));
        let purging = scope.spawn(move || purge_on(shared, &notices));
        let in_memory = StateStore::open(Arc::new(MemEngine::new())).unwrap();
        let mut model = Model { store: in_memory, written: receiver };
        for number in 0..CHECKPOINTS {
            model.go_on(ENTRIES_BETWEEN);
            let dir = scratch.path().join(format!("checkpoint {number}"));
            flusher.checkpoint(&dir).unwrap();
            check(&mut model, &dir, number % 10 == 0);
            std::fs::remove_dir_all(&dir).unwrap();
        }
        println!("{CHECKPOINTS} checkpoints, the last at entry {}", model.store.applied().index);
        drop(model);
        purging.join().unwrap()
    });
    assert!(purged > 50, "history was purged meanwhile: {purged} steps");
}
