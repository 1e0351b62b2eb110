//! The store's rules one by one.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use tenure_core::row::{EventRow, KeyMeta, LockCounts, Meta};
use tenure_core::state::{StateRead, StateWrite};
use tenure_core::{EventId, LeaseId, LogIndex, Revision, Term};

use super::*;
use crate::engine::EngineError;
use crate::mem::{Fault, MemEngine};
use crate::purge::{PurgeProgress, PurgeWork};
use crate::testing::rows_of;

fn open(engine: &MemEngine) -> Result<StateStore, StorageError> {
    StateStore::open(Arc::new(engine.clone()))
}

fn refusal(engine: &MemEngine) -> StorageError {
    open(engine).err().expect("the store must not open")
}

fn record(run: &mut Run<'_>, key: &str, value: Option<&str>) {
    let before = run.current_meta(key.as_bytes()).unwrap();
    let live = before.filter(|meta| !meta.is_tombstone());
    let revision = Revision(run.meta().revision.0 + 1);
    let (create, version) = match (value, live) {
        (None, _) => (Revision(0), 0),
        (Some(_), None) => (revision, 1),
        (Some(_), Some(meta)) => (meta.create, meta.version + 1),
    };
    let meta = KeyMeta { create, modified: EventId { revision, sub: 0 }, version, lease: LeaseId::NONE };
    run.record(EventRow {
        key: Bytes::copy_from_slice(key.as_bytes()),
        meta,
        value: Bytes::copy_from_slice(value.unwrap_or_default().as_bytes()),
        previous: before.map(|meta| meta.modified),
        cause: None,
    });
    run.meta_mut().revision = revision;
}

fn next(store: &StateStore) -> Applied {
    Applied { index: LogIndex(store.applied().index.0 + 1), term: Term(1), membership: Bytes::from_static(b"m") }
}

/// One run of puts (`Some`) and deletes.
fn run(store: &mut StateStore, writes: &[(&str, Option<&str>)]) -> Committed {
    let applied = next(store);
    let mut run = store.begin();
    for (key, value) in writes {
        record(&mut run, key, *value);
    }
    run.commit(applied).unwrap()
}

fn compact(store: &mut StateStore, revision: i64) {
    let applied = next(store);
    let mut run = store.begin();
    run.meta_mut().compacted = Revision(revision);
    run.commit(applied).unwrap();
}

#[test]
fn a_fresh_store_is_at_revision_1_with_nothing_applied() {
    let store = open(&MemEngine::new()).unwrap();
    assert_eq!(store.applied(), &Applied::default());
    assert_eq!(store.view().meta(), &Meta::default());
    assert_eq!(store.view().bytes(), ByteCounts::default());
    assert_eq!(store.flusher().durable(), LogIndex(0));
}

#[test]
fn opening_reads_back_what_was_committed() {
    let engine = MemEngine::new();
    let mut store = open(&engine).unwrap();
    let committed = run(&mut store, &[("a", Some("1")), ("b", Some(&"long".repeat(100))), ("a", None)]);
    assert_eq!(committed.events.len(), 3);
    assert_eq!(committed.view.applied(), store.applied());
    let again = open(&engine).unwrap();
    assert_eq!(again.applied(), store.applied());
    assert_eq!(again.view().meta(), store.view().meta());
    assert_eq!(again.view().bytes(), store.view().bytes());
    assert_eq!(again.view().current(b"b").unwrap().unwrap().value, "long".repeat(100));
    assert!(again.view().current_meta(b"a").unwrap().unwrap().is_tombstone());
    assert_eq!(rows_of(again.view().engine_snapshot(), Table::Live).len(), 1);
}

#[test]
fn a_run_without_events_moves_the_applied_index_alone() {
    let engine = MemEngine::new();
    let mut store = open(&engine).unwrap();
    run(&mut store, &[("a", Some("1"))]);
    let before = engine.unflushed_batches();
    let committed = run(&mut store, &[]);
    assert!(committed.events.is_empty());
    assert_eq!(committed.view.applied().index, LogIndex(2));
    assert_eq!(engine.unflushed_batches(), before + 1);
    assert_eq!(open(&engine).unwrap().applied().index, LogIndex(2));
}

#[test]
fn an_unknown_format_is_refused() {
    let engine = MemEngine::new();
    drop(open(&engine).unwrap());
    let mut batch = Batch::new();
    batch.put(Table::Meta, META_FORMAT, &2u32.to_be_bytes());
    engine.write(&batch).unwrap();
    assert_eq!(refusal(&engine), StorageError::Format { found: 2, known: 1 });
    let mut batch = Batch::new();
    batch.put(Table::Meta, META_FORMAT, b"1");
    engine.write(&batch).unwrap();
    assert!(matches!(refusal(&engine), StorageError::Damaged { table: Table::Meta, .. }));
}

#[test]
fn a_missing_scalar_and_rows_without_scalars_are_refused() {
    for name in [META_STATE, META_APPLIED, META_MEMBERSHIP, META_LOCAL] {
        let engine = MemEngine::new();
        drop(open(&engine).unwrap());
        let mut batch = Batch::new();
        batch.delete(Table::Meta, name);
        engine.write(&batch).unwrap();
        assert!(matches!(refusal(&engine), StorageError::Damaged { table: Table::Meta, .. }));
    }
    for table in Table::ALL {
        let engine = MemEngine::new();
        let mut batch = Batch::new();
        batch.put(table, b"something", b"");
        engine.write(&batch).unwrap();
        assert!(matches!(refusal(&engine), StorageError::Damaged { table: found, .. } if found == table));
    }
}

#[test]
fn scalars_that_contradict_each_other_are_refused() {
    let wrong_meta = Meta { revision: Revision(5), compacted: Revision(6), ..Meta::default() };
    let later_event = EventId { revision: Revision(9), sub: 0 };
    let local = LocalState::default();
    let changes: [&dyn Fn(&mut Batch); 9] = [
        &|batch| batch.put_with(Table::Meta, META_STATE, |out| encode_state(out, &wrong_meta)),
        &|batch| batch.put_with(Table::Meta, META_APPLIED, |out| encode_applied(out, LogIndex(0), Term(0))),
        &|batch| batch.put(Table::History, &history_key(later_event), b""),
        &|batch| {
            let local = LocalState { bytes_in_use: 1 << 40, ..local };
            batch.put_with(Table::Meta, META_LOCAL, |out| encode_local(out, &local));
        },
        &|batch| batch.put(Table::LeaseEnds, &lease_end_key(0), b""),
        &|batch| {
            let meta = Meta { revision: Revision(5), lease_ends: 1, ..Meta::default() };
            batch.put_with(Table::Meta, META_STATE, |out| encode_state(out, &meta));
        },
        &|batch| batch.put(Table::Locks, b"Ln", b""),
        &|batch| {
            let locks = LockCounts { requests: 1, ..LockCounts::default() };
            let meta = Meta { revision: Revision(5), locks, ..Meta::default() };
            batch.put_with(Table::Meta, META_STATE, |out| encode_state(out, &meta));
        },
        &|batch| {
            let local = LocalState { purge_complete: Revision(3), ..local };
            batch.put_with(Table::Meta, META_LOCAL, |out| encode_local(out, &local));
        },
    ];
    for (place, change) in changes.into_iter().enumerate() {
        let engine = MemEngine::new();
        run(&mut open(&engine).unwrap(), &[("a", Some("1"))]);
        drop(open(&engine).unwrap());
        let mut batch = Batch::new();
        change(&mut batch);
        engine.write(&batch).unwrap();
        assert!(matches!(refusal(&engine), StorageError::Damaged { .. }), "change {place}");
    }
}

#[test]
fn a_failed_write_halts_the_store_for_good() {
    for fault in [Fault::Io, Fault::DiskFull] {
        let engine = MemEngine::new();
        let mut store = open(&engine).unwrap();
        run(&mut store, &[("a", Some("1"))]);
        engine.fail_writes_from(1, fault);
        let applied = next(&store);
        let mut failing = store.begin();
        record(&mut failing, "a", Some("2"));
        let error = failing.commit(applied).err().expect("the write fails");
        assert_eq!(matches!(error, StorageError::Engine(EngineError::DiskFull(_))), fault == Fault::DiskFull);
        engine.heal();
        let applied = next(&store);
        assert_eq!(store.begin().commit(applied).err(), Some(StorageError::Halted));
        assert_eq!(store.applied().index, LogIndex(1), "what was published before stays");
        assert_eq!(store.view().current(b"a").unwrap().unwrap().value, "1");
        assert_eq!(open(&engine).unwrap().applied().index, LogIndex(1));
    }
}

#[test]
fn a_flush_covers_what_was_applied_when_it_began() {
    let engine = MemEngine::new();
    let mut store = open(&engine).unwrap();
    let flusher = store.flusher();
    run(&mut store, &[("a", Some("1"))]);
    assert_eq!(flusher.flush().unwrap(), LogIndex(1));
    run(&mut store, &[("a", Some("2"))]);
    assert_eq!(flusher.durable(), LogIndex(1));
    engine.fail_flushes_from(1, Fault::DiskFull);
    assert!(matches!(flusher.flush(), Err(StorageError::Engine(EngineError::DiskFull(_)))));
    assert_eq!(flusher.durable(), LogIndex(1));
    assert_eq!(open(&engine.crash(0)).unwrap().applied().index, LogIndex(1));
    engine.heal();
    assert_eq!(flusher.clone().flush().unwrap(), LogIndex(2));
    let after = open(&engine.crash(0)).unwrap();
    assert_eq!(after.applied().index, LogIndex(2));
    assert_eq!(after.flusher().durable(), LogIndex(2), "what was opened is durable");
}

#[test]
fn a_checkpoint_says_itself_how_far_it_is_applied() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = MemEngine::new();
    let mut store = open(&engine).unwrap();
    run(&mut store, &[("a", Some("1"))]);
    let dir = scratch.path().join("checkpoint");
    store.checkpoint(&dir).unwrap();
    run(&mut store, &[("a", Some("2"))]);
    let copy = open(&MemEngine::open_checkpoint(&dir).unwrap()).unwrap();
    assert_eq!(copy.applied().index, LogIndex(1));
    assert_eq!(copy.applied().membership, "m");
    assert_eq!(copy.view().current(b"a").unwrap().unwrap().value, "1");
}

#[test]
fn a_checkpoint_can_be_looked_at_without_being_opened() {
    let scratch = tempfile::tempdir().unwrap();
    let mut store = open(&MemEngine::new()).unwrap();
    run(&mut store, &[("a", Some("1"))]);
    let dir = scratch.path().join("checkpoint");
    store.checkpoint(&dir).unwrap();
    run(&mut store, &[("a", Some("2"))]);
    let view = StateView::of_snapshot(MemEngine::open_checkpoint(&dir).unwrap().snapshot()).unwrap();
    assert_eq!((view.applied().index, &view.applied().membership[..]), (LogIndex(1), &b"m"[..]));
    assert_eq!(view.current(b"a").unwrap().unwrap().value, "1");
    let empty = StateView::of_snapshot(MemEngine::new().snapshot());
    assert!(matches!(empty.err(), Some(StorageError::Damaged { .. })), "nobody made it a store");
}

#[test]
fn the_guard_goes_with_the_last_of_a_store_its_views_and_its_flushers() {
    let mut places: Vec<usize> = (0..3).collect();
    for _ in 0..places.len() {
        places.rotate_left(1);
        let guard: Arc<()> = Arc::default();
        let kept: Guard = guard.clone();
        let store = StateStore::open_guarded(Arc::new(MemEngine::new()), Some(kept), Options::default()).unwrap();
        let (view, flusher) = (store.view(), store.flusher());
        let mut holders: [Option<Box<dyn std::any::Any>>; 3] =
            [Some(Box::new(store)), Some(Box::new(view)), Some(Box::new(flusher))];
        for place in &places {
            assert!(Arc::strong_count(&guard) > 1, "somebody is left");
            holders[*place] = None;
        }
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}

#[test]
fn a_tombstone_that_was_put_again_since_the_plan_keeps_its_key() {
    let mut store = open(&MemEngine::new()).unwrap();
    run(&mut store, &[("a", Some("1")), ("a", None), ("b", Some("1")), ("b", None), ("c", Some("1"))]);
    compact(&mut store, 6);
    let mut work = PurgeWork::plan(&store.view()).unwrap().expect("there is work");
    run(&mut store, &[("a", Some("2"))]);
    let old = store.view();
    assert_eq!(store.purge_step(&mut work).unwrap(), PurgeProgress::Done);
    let view = store.view();
    assert_eq!(view.current(b"a").unwrap().unwrap().value, "2");
    assert_eq!(view.current(b"b").unwrap(), None);
    assert!(old.current(b"b").unwrap().is_some(), "an older view still sees the tombstone");
    assert_eq!(view.applied(), old.applied());
    // The cache must have forgotten the tombstone as well.
    run(&mut store, &[("b", Some("2"))]);
    assert_eq!(store.view().current_meta(b"b").unwrap().unwrap().version, 1);
    assert!(PurgeWork::plan(&store.view()).unwrap().is_none());
}

#[test]
fn a_crash_between_steps_leaves_no_event_behind() {
    // An event that goes before its predecessor takes the only pointer to it along.
    for steps_before_crash in 0..6 {
        let engine = MemEngine::new();
        let mut store = open(&engine).unwrap();
        run(&mut store, &[("a", Some("1")), ("b", Some("1")), ("a", Some("2")), ("a", None), ("b", None)]);
        run(&mut store, &[("c", Some("1"))]);
        compact(&mut store, 7);
        let mut work = PurgeWork::plan(&store.view()).unwrap().unwrap();
        for _ in 0..steps_before_crash {
            assert_eq!(store.purge_step_at_most(&mut work, 1).unwrap(), PurgeProgress::More);
        }
        let mut store = open(&engine.crash(usize::MAX)).unwrap();
        while let Some(mut work) = PurgeWork::plan(&store.view()).unwrap() {
            assert_eq!(store.purge_step(&mut work).unwrap(), PurgeProgress::Done);
        }
        let rows = rows_of(store.view().engine_snapshot(), Table::History);
        assert_eq!(rows.len(), 1, "only c is left, after {steps_before_crash} steps");
    }
}

#[test]
fn work_planned_before_other_work_was_done_is_stale() {
    let mut store = open(&MemEngine::new()).unwrap();
    run(&mut store, &[("a", Some("1")), ("a", Some("2")), ("a", Some("3"))]);
    compact(&mut store, 4);
    let (mut first, mut second) =
        (PurgeWork::plan(&store.view()).unwrap().unwrap(), PurgeWork::plan(&store.view()).unwrap().unwrap());
    assert_eq!(store.purge_step_at_most(&mut first, 1).unwrap(), PurgeProgress::More);
    let bytes = store.view().bytes();
    assert_eq!(store.purge_step(&mut second).unwrap(), PurgeProgress::Stale);
    assert_eq!(store.view().bytes(), bytes);
    assert_eq!(store.purge_step(&mut first).unwrap(), PurgeProgress::Done);
    assert_eq!(store.view().bytes().logical, store.view().bytes().in_use);
}

#[test]
fn keys_beyond_the_greatest_are_absent_and_others_are_looked_up() {
    let engine = MemEngine::new();
    let mut store = open(&engine).unwrap();
    for key in ["m", "x", "b"] {
        run(&mut store, &[(key, Some("1"))]);
    }
    // A store that opens knows the greatest key from the table.
    let mut store = open(&engine).unwrap();
    for key in ["m", "x", "b"] {
        run(&mut store, &[(key, Some("2"))]);
        assert_eq!(store.view().current_meta(key.as_bytes()).unwrap().unwrap().version, 2, "{key}");
    }
}

#[test]
fn a_value_whose_history_row_is_gone_or_changed_is_damage() {
    let engine = MemEngine::new();
    let mut store = open(&engine).unwrap();
    run(&mut store, &[("a", Some(&"long".repeat(100)))]);
    let id = EventId { revision: Revision(2), sub: 0 };
    let row = rows_of(store.view().engine_snapshot(), Table::History).remove(0).1;
    let mut changed = Batch::new();
    changed.put(Table::History, &history_key(id), &row[..row.len() - 1]);
    engine.write(&changed).unwrap();
    assert!(matches!(open(&engine).unwrap().view().current(b"a"), Err(StorageError::Damaged { .. })));
    let mut gone = Batch::new();
    gone.delete(Table::History, &history_key(id));
    engine.write(&gone).unwrap();
    let view = open(&engine).unwrap().view();
    assert!(matches!(view.current(b"a"), Err(StorageError::Damaged { .. })));
    let scanned =
        view.scan_current(&tenure_core::command::KeyRange::From(Bytes::new()), &mut |_, _| ControlFlow::Continue(()));
    assert!(matches!(scanned, Err(StorageError::Damaged { .. })));
}

#[test]
#[should_panic(expected = "events are recorded in order")]
fn events_out_of_order_are_a_bug() {
    let mut store = open(&MemEngine::new()).unwrap();
    let mut run = store.begin();
    record(&mut run, "a", Some("1"));
    run.meta_mut().revision = Revision(1);
    record(&mut run, "b", Some("1"));
}

#[test]
#[should_panic(expected = "a run moves the applied index forward")]
fn applying_an_entry_twice_is_a_bug() {
    let mut store = open(&MemEngine::new()).unwrap();
    run(&mut store, &[]);
    let again = store.applied().clone();
    drop(store.begin().commit(again));
}

fn attached(state: &impl StateRead<Error = StorageError>, lease: LeaseId) -> Vec<Bytes> {
    let mut found = Vec::new();
    let scanned = state.scan_lease_keys(lease, &mut |key| {
        found.push(key);
        ControlFlow::Continue(())
    });
    scanned.unwrap();
    found
}

#[test]
fn a_lease_that_is_emptied_at_once_can_be_filled_again_in_the_same_run() {
    let keys = |names: &[&str]| names.iter().map(|name| Bytes::copy_from_slice(name.as_bytes())).collect::<Vec<_>>();
    for (few, lease) in [(0, LeaseId(7)), (9, LeaseId(7)), (0, LeaseId(i64::MAX))] {
        let engine = MemEngine::new();
        let options = Options { lease_keys_one_by_one_max: few, ..Options::default() };
        let mut store = StateStore::open_with(Arc::new(engine.clone()), options).unwrap();
        let applied = next(&store);
        let mut run = store.begin();
        keys(&["a", "b", "c"]).iter().for_each(|key| run.attach(lease, key));
        run.attach(LeaseId(8), &keys(&["other"])[0]);
        run.commit(applied).unwrap();
        let applied = next(&store);
        let mut run = store.begin();
        run.attach(lease, &keys(&["d"])[0]);
        run.detach_all(lease, &keys(&["a", "b", "c", "d"]));
        assert_eq!(attached(&run, lease), keys(&[]), "{few} {lease}");
        keys(&["b", "e"]).iter().for_each(|key| run.attach(lease, key));
        assert_eq!(attached(&run, lease), keys(&["b", "e"]), "{few} {lease}");
        run.commit(applied).unwrap();
        for store in [&store, &StateStore::open(Arc::new(engine.clone())).unwrap()] {
            let view = store.view();
            assert_eq!(attached(&*view, lease), keys(&["b", "e"]), "{few} {lease}");
            assert_eq!(attached(&*view, LeaseId(8)), keys(&["other"]));
        }
    }
}
