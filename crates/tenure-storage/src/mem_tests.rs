//! The engine in memory keeps the contract of engines, and fails as its test asks it to.

use super::*;
use crate::testing::{durability_suite, engine_suite, put, rows_of};

#[test]
fn the_engine_in_memory_is_an_engine() {
    engine_suite(|| Arc::new(MemEngine::new()));
}

#[test]
fn the_engine_in_memory_survives_crashes() {
    let scratch = tempfile::tempdir().unwrap();
    // The suite only knows the trait, so the engine made last is kept here to be crashed.
    let last = std::cell::RefCell::new(MemEngine::new());
    let make = || {
        *last.borrow_mut() = MemEngine::new();
        Arc::new(last.borrow().clone()) as Arc<dyn Engine>
    };
    let crash = |_| {
        let crashed = last.borrow().crash(0);
        *last.borrow_mut() = crashed;
        Arc::new(last.borrow().clone()) as Arc<dyn Engine>
    };
    durability_suite(make, crash, |dir| Arc::new(MemEngine::open_checkpoint(dir).unwrap()), scratch.path());
}

#[test]
fn a_crash_keeps_the_flushed_batches_and_the_chosen_prefix_of_the_others() {
    let engine = MemEngine::new();
    for number in 0..10u8 {
        engine.write(&put(Table::Current, &[number], b"")).unwrap();
        if number == 3 {
            engine.flush().unwrap();
        }
    }
    assert_eq!(engine.unflushed_batches(), 6);
    for kept in 0..=6 {
        let after = engine.crash(kept);
        assert_eq!(rows_of(&*after.snapshot(), Table::Current).len(), 4 + kept);
        assert_eq!(after.unflushed_batches(), 0, "what a process opens is on disk");
    }
    assert_eq!(rows_of(&*engine.snapshot(), Table::Current).len(), 10, "the crashed engine's readers go on");
}

#[test]
fn injected_failures_come_when_asked_and_change_nothing() {
    let engine = MemEngine::new();
    engine.fail_writes_from(3, Fault::DiskFull);
    engine.fail_flushes_from(2, Fault::Io);
    engine.write(&put(Table::Current, b"1", b"")).unwrap();
    engine.write(&put(Table::Current, b"2", b"")).unwrap();
    for _ in 0..2 {
        let failure = engine.write(&put(Table::Current, b"3", b"")).unwrap_err();
        assert!(matches!(failure, EngineError::DiskFull(_)));
    }
    engine.flush().unwrap();
    assert!(matches!(engine.flush().unwrap_err(), EngineError::Io(_)));
    assert_eq!(rows_of(&*engine.snapshot(), Table::Current).len(), 2);
    engine.heal();
    engine.write(&put(Table::Current, b"3", b"")).unwrap();
    engine.flush().unwrap();
    assert_eq!(rows_of(&*engine.crash(0).snapshot(), Table::Current).len(), 3);
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = MemEngine::new();
    engine.write(&put(Table::Current, b"key", b"value")).unwrap();
    let dir = scratch.path().join("checkpoint");
    engine.checkpoint(&dir).unwrap();
    let file = dir.join("tables");
    let whole = std::fs::read(&file).unwrap();
    for place in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x10;
        std::fs::write(&file, &flipped).unwrap();
        assert!(matches!(MemEngine::open_checkpoint(&dir), Err(EngineError::Corrupt(_))), "byte {place}");
        std::fs::write(&file, &whole[..place]).unwrap();
        assert!(matches!(MemEngine::open_checkpoint(&dir), Err(EngineError::Corrupt(_))), "cut at {place}");
    }
    assert!(matches!(MemEngine::open_checkpoint(scratch.path()), Err(EngineError::Io(_))));
}
