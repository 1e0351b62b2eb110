//! What every engine must do, as a suite to run on it.
//!
//! The state store relies on each of these; an engine that passes can carry it. An engine's own tests call
//! [`engine_suite`] with a way to make empty engines, and [`durability_suite`] with a way to crash them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::engine::{Batch, Bounds, Direction, Engine, EngineSnapshot, Table};

type Rows = Vec<(Vec<u8>, Vec<u8>)>;
/// By table and key.
type Model = BTreeMap<(usize, Vec<u8>), Vec<u8>>;

/// Runs every check that needs no crash. `make` is called once for each and gives an empty engine.
pub fn engine_suite(mut make: impl FnMut() -> Arc<dyn Engine>) {
    a_batch_is_applied_in_order_and_across_tables(&*make());
    tables_are_apart(&*make());
    many_rows_are_read_at_once(&*make());
    a_snapshot_never_changes(&*make());
    scans_keep_to_their_bounds_in_both_directions(&*make());
    a_visitor_may_read_and_may_stop(&*make());
    empty_and_binary_keys_and_values_are_kept(&*make());
    random_batches_equal_a_map(&*make());
    readers_see_whole_batches_while_a_writer_writes(&make());
    flushing_changes_nothing_that_can_be_read(&*make());
}

/// Runs the checks of durability. `crash` gives what a restarted process would open, having lost as much as it may;
/// `open` opens a checkpoint.
pub fn durability_suite(
    mut make: impl FnMut() -> Arc<dyn Engine>,
    mut crash: impl FnMut(Arc<dyn Engine>) -> Arc<dyn Engine>,
    mut open: impl FnMut(&Path) -> Arc<dyn Engine>,
    scratch: &Path,
) {
    what_was_flushed_survives(make(), &mut crash);
    all_tables_are_flushed_at_one_point(make(), &mut crash);
    a_checkpoint_is_the_store_at_one_moment(&*make(), &mut open, scratch);
}

/// The rows of a snapshot's table, by an ascending scan.
pub fn rows_of(snapshot: &dyn EngineSnapshot, table: Table) -> Rows {
    rows_within(snapshot, table, Bounds::ALL, Direction::Ascending)
}

/// One row that is put.
pub fn put(table: Table, key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(table, key, value);
    batch
}

fn rows_within(snapshot: &dyn EngineSnapshot, table: Table, bounds: Bounds<'_>, direction: Direction) -> Rows {
    let mut rows = Vec::new();
    let scanned = snapshot.scan(table, bounds, direction, &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    });
    scanned.expect("a scan of a healthy engine");
    rows
}

fn get(snapshot: &dyn EngineSnapshot, table: Table, key: &[u8]) -> Option<Vec<u8>> {
    snapshot.get(table, key).expect("a read of a healthy engine").map(|value| value.to_vec())
}

fn write(engine: &dyn Engine, batch: &Batch) {
    engine.write(batch).expect("a write to a healthy engine");
}

fn a_batch_is_applied_in_order_and_across_tables(engine: &dyn Engine) {
    let mut batch = Batch::new();
    batch.put(Table::Current, b"a", b"1");
    batch.put(Table::Current, b"a", b"2");
    batch.put(Table::Current, b"b", b"1");
    batch.delete(Table::Current, b"b");
    batch.delete(Table::Current, b"c");
    batch.put(Table::Current, b"c", b"3");
    batch.put(Table::Meta, b"m", b"4");
    batch.delete(Table::Live, b"never there");
    write(engine, &batch);
    let snapshot = engine.snapshot();
    assert_eq!(rows_of(&*snapshot, Table::Current), rows(&[("a", "2"), ("c", "3")]));
    assert_eq!(rows_of(&*snapshot, Table::Meta), rows(&[("m", "4")]));
    write(engine, &Batch::new());
    assert_eq!(rows_of(&*engine.snapshot(), Table::Live), rows(&[]));
}

fn tables_are_apart(engine: &dyn Engine) {
    for table in Table::ALL {
        write(engine, &put(table, b"key", table.name().as_bytes()));
    }
    let snapshot = engine.snapshot();
    for table in Table::ALL {
        assert_eq!(rows_of(&*snapshot, table), rows(&[("key", table.name())]));
    }
    let mut batch = Batch::new();
    batch.delete(Table::Leases, b"key");
    write(engine, &batch);
    let snapshot = engine.snapshot();
    for table in Table::ALL {
        assert_eq!(get(&*snapshot, table, b"key").is_some(), table != Table::Leases, "{table}");
    }
}

fn many_rows_are_read_at_once(engine: &dyn Engine) {
    for number in (0..600u32).step_by(2) {
        write(engine, &put(Table::History, &number.to_be_bytes(), &number.to_le_bytes()));
        if number == 300 {
            engine.flush().expect("a flush of a healthy engine");
        }
    }
    let snapshot = engine.snapshot();
    write(engine, &put(Table::History, &1u32.to_be_bytes(), b"later"));
    let keys: Vec<[u8; 4]> = (0..700u32).map(u32::to_be_bytes).collect();
    let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let rows = get_many(&*snapshot, Table::History, &keys);
    for (number, row) in (0u32..).zip(rows) {
        let expected = (number < 600 && number % 2 == 0).then(|| number.to_le_bytes().to_vec());
        assert_eq!(row, expected, "row {number}");
    }
    assert_eq!(get_many(&*snapshot, Table::History, &[]), []);
    assert_eq!(get_many(&*snapshot, Table::Current, &keys[..1]), [None]);
}

/// The rows of keys that were looked up together. Each is answered once, in order.
pub fn get_many(snapshot: &dyn EngineSnapshot, table: Table, keys: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
    let mut rows = Vec::new();
    let read = snapshot.get_many(table, keys, &mut |place, row| {
        assert_eq!(place, rows.len(), "in order");
        rows.push(row.map(<[u8]>::to_vec));
    });
    assert_eq!(read, Ok(()), "a read of a healthy engine");
    assert_eq!(rows.len(), keys.len());
    rows
}

fn a_snapshot_never_changes(engine: &dyn Engine) {
    write(engine, &put(Table::Current, b"a", b"1"));
    let first = engine.snapshot();
    let same = engine.snapshot();
    write(engine, &put(Table::Current, b"a", b"2"));
    write(engine, &put(Table::Current, b"b", b"2"));
    let second = engine.snapshot();
    let mut batch = Batch::new();
    batch.delete(Table::Current, b"a");
    write(engine, &batch);
    for round in 0..2000u32 {
        write(engine, &put(Table::Current, b"b", &round.to_be_bytes()));
        write(engine, &put(Table::Current, &round.to_be_bytes(), b"x"));
    }
    engine.flush().expect("a flush of a healthy engine");
    drop(same);
    assert_eq!(rows_of(&*first, Table::Current), rows(&[("a", "1")]));
    assert_eq!(get(&*first, Table::Current, b"b"), None);
    drop(first);
    assert_eq!(rows_of(&*second, Table::Current), rows(&[("a", "2"), ("b", "2")]));
    assert_eq!(get(&*engine.snapshot(), Table::Current, b"a"), None);
}

fn scans_keep_to_their_bounds_in_both_directions(engine: &dyn Engine) {
    // More rows than any engine takes at once, some in files and some in memory.
    let mut expected = Vec::new();
    for number in (0..3000u32).step_by(3) {
        write(engine, &put(Table::History, &number.to_be_bytes(), b"v"));
        expected.push((number.to_be_bytes().to_vec(), b"v".to_vec()));
        if number == 1500 {
            engine.flush().expect("a flush of a healthy engine");
        }
    }
    let snapshot = engine.snapshot();
    for (lower, upper) in [(0, 3000), (3, 4), (3, 6), (4, 6), (5, 5), (6, 3), (299, 2001), (2999, 9999)] {
        let (low, high): (u32, u32) = (lower, upper);
        let (low, high) = (low.to_be_bytes(), high.to_be_bytes());
        let bounds = Bounds { lower: &low, upper: Some(&high) };
        let mut inside = expected.clone();
        inside.retain(|(key, _)| key[..] >= low[..] && key[..] < high[..]);
        assert_eq!(rows_within(&*snapshot, Table::History, bounds, Direction::Ascending), inside);
        inside.reverse();
        assert_eq!(rows_within(&*snapshot, Table::History, bounds, Direction::Descending), inside);
    }
    let from = 1000u32.to_be_bytes();
    let bounds = Bounds { lower: &from, upper: None };
    let mut inside = expected;
    inside.retain(|(key, _)| key[..] >= from[..]);
    assert_eq!(rows_within(&*snapshot, Table::History, bounds, Direction::Ascending), inside);
}

fn a_visitor_may_read_and_may_stop(engine: &dyn Engine) {
    for number in 0..1000u32 {
        write(engine, &put(Table::Live, &number.to_be_bytes(), b""));
        write(engine, &put(Table::Current, &number.to_be_bytes(), &number.to_le_bytes()));
    }
    let snapshot = engine.snapshot();
    for stop_at in [1, 2, 256, 257, 999] {
        let mut seen = 0u32;
        let visited = snapshot.scan(Table::Live, Bounds::ALL, Direction::Ascending, &mut |key, _| {
            assert_eq!(get(&*snapshot, Table::Current, key), Some(seen.to_le_bytes().to_vec()));
            // A writer must be able to go on while a scan visits.
            write(engine, &put(Table::Locks, key, b""));
            seen += 1;
            if seen == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        visited.expect("a scan of a healthy engine");
        assert_eq!(seen, stop_at);
    }
}

fn empty_and_binary_keys_and_values_are_kept(engine: &dyn Engine) {
    let keys: [&[u8]; 6] = [b"", b"\0", b"\0\0", b"\x7f", b"\xff", b"\xff\xff"];
    for (place, key) in keys.iter().enumerate() {
        write(engine, &put(Table::Current, key, &vec![0xff; place]));
    }
    let large = vec![7u8; 3 << 20];
    write(engine, &put(Table::History, b"large", &large));
    for flushed in [false, true] {
        if flushed {
            engine.flush().expect("a flush of a healthy engine");
        }
        let snapshot = engine.snapshot();
        for (place, key) in keys.iter().enumerate() {
            assert_eq!(get(&*snapshot, Table::Current, key), Some(vec![0xff; place]));
        }
        let found: Vec<Vec<u8>> = rows_of(&*snapshot, Table::Current).into_iter().map(|(key, _)| key).collect();
        assert_eq!(found, keys);
        assert_eq!(get(&*snapshot, Table::History, b"large"), Some(large.clone()));
    }
}

/// A small generator: the suite is also for crates without a source of randomness.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn random_batches_equal_a_map(engine: &dyn Engine) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut model = Model::new();
    let mut past: Option<(Arc<dyn EngineSnapshot>, Model)> = None;
    for round in 0..300u64 {
        let mut batch = Batch::new();
        for _ in 0..dice.roll(20) {
            let table = Table::ALL[usize::try_from(dice.roll(Table::ALL.len() as u64)).unwrap_or(0)];
            let key = dice.roll(40).to_string().into_bytes();
            if dice.roll(3) == 0 {
                batch.delete(table, &key);
                model.remove(&(table.index(), key));
            } else if dice.roll(10) == 0 {
                let upper = dice.roll(40).to_string().into_bytes();
                batch.delete_range(table, &key, &upper);
                let inside = |other: &Vec<u8>| (&key..&upper).contains(&other);
                model.retain(|(index, other), _| *index != table.index() || !inside(other));
            } else {
                let value = round.to_be_bytes().to_vec();
                batch.put(table, &key, &value);
                model.insert((table.index(), key), value);
            }
        }
        write(engine, &batch);
        if round % 37 == 0 {
            engine.flush().expect("a flush of a healthy engine");
        }
        if round % 11 == 0 {
            assert_equal(&*engine.snapshot(), &model);
            if let Some((snapshot, content)) = past.replace((engine.snapshot(), model.clone())) {
                assert_equal(&*snapshot, &content);
            }
        }
    }
}

fn assert_equal(snapshot: &dyn EngineSnapshot, model: &Model) {
    for table in Table::ALL {
        let expected: Rows = model
            .iter()
            .filter(|((index, _), _)| *index == table.index())
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        assert_eq!(rows_of(snapshot, table), expected, "{table}");
    }
}

fn readers_see_whole_batches_while_a_writer_writes(engine: &Arc<dyn Engine>) {
    const ROUNDS: u32 = 2000;
    let writer = {
        let engine = Arc::clone(engine);
        std::thread::spawn(move || {
            for round in 0..ROUNDS {
                let mut batch = Batch::new();
                for table in [Table::Current, Table::History, Table::Meta] {
                    batch.put(table, b"round", &round.to_be_bytes());
                }
                write(&*engine, &batch);
            }
        })
    };
    let mut last = None;
    while last != Some((ROUNDS - 1).to_be_bytes().to_vec()) {
        let all_written = writer.is_finished();
        let snapshot = engine.snapshot();
        let round = get(&*snapshot, Table::Current, b"round");
        assert_eq!(get(&*snapshot, Table::History, b"round"), round);
        assert_eq!(get(&*snapshot, Table::Meta, b"round"), round);
        assert!(round >= last, "a later snapshot is not older");
        last = round;
        assert!(last.is_some() || !all_written, "the writer has written");
    }
    writer.join().expect("the writer");
}

fn flushing_changes_nothing_that_can_be_read(engine: &dyn Engine) {
    engine.flush().expect("a flush of nothing");
    for number in 0..500u32 {
        write(engine, &put(Table::Current, &(number % 50).to_be_bytes(), &number.to_be_bytes()));
    }
    let before = rows_of(&*engine.snapshot(), Table::Current);
    engine.flush().expect("a flush of a healthy engine");
    engine.flush().expect("a second flush");
    assert_eq!(rows_of(&*engine.snapshot(), Table::Current), before);
    assert_eq!(before.len(), 50);
}

fn what_was_flushed_survives(engine: Arc<dyn Engine>, crash: &mut dyn FnMut(Arc<dyn Engine>) -> Arc<dyn Engine>) {
    write(&*engine, &put(Table::Current, b"a", b"1"));
    engine.flush().expect("a flush of a healthy engine");
    write(&*engine, &put(Table::Current, b"a", b"2"));
    let engine = crash(engine);
    let found = get(&*engine.snapshot(), Table::Current, b"a");
    assert!(found == Some(b"1".to_vec()) || found == Some(b"2".to_vec()), "flushed rows were lost: {found:?}");
    write(&*engine, &put(Table::Current, b"b", b"3"));
    engine.flush().expect("a flush after a crash");
    assert_eq!(get(&*crash(engine).snapshot(), Table::Current, b"b"), Some(b"3".to_vec()));
}

fn all_tables_are_flushed_at_one_point(
    engine: Arc<dyn Engine>,
    crash: &mut dyn FnMut(Arc<dyn Engine>) -> Arc<dyn Engine>,
) {
    for round in 0..1000u32 {
        let mut batch = Batch::new();
        for table in Table::ALL {
            batch.put(table, b"round", &round.to_be_bytes());
            batch.put(table, &round.to_be_bytes(), b"");
        }
        write(&*engine, &batch);
        if round % 300 == 100 {
            engine.flush().expect("a flush of a healthy engine");
        }
    }
    let snapshot = crash(engine).snapshot();
    let round = get(&*snapshot, Table::Meta, b"round").expect("the first flush survives");
    assert!(round >= 700u32.to_be_bytes().to_vec(), "the last flush survives");
    for table in Table::ALL {
        assert_eq!(get(&*snapshot, table, b"round"), Some(round.clone()), "{table}");
        let last = rows_of(&*snapshot, table).into_iter().rev().nth(1).map(|(key, _)| key);
        assert_eq!(last, Some(round.clone()), "{table}");
    }
}

fn a_checkpoint_is_the_store_at_one_moment(
    engine: &dyn Engine,
    open: &mut dyn FnMut(&Path) -> Arc<dyn Engine>,
    scratch: &Path,
) {
    write(engine, &put(Table::Current, b"a", b"1"));
    engine.flush().expect("a flush of a healthy engine");
    write(engine, &put(Table::History, b"unflushed", b"2"));
    let dir = scratch.join("checkpoint");
    engine.checkpoint(&dir).expect("a checkpoint of a healthy engine");
    write(engine, &put(Table::Current, b"a", b"3"));
    engine.flush().expect("a flush of a healthy engine");
    let copy = open(&dir);
    let snapshot = copy.snapshot();
    assert_eq!(get(&*snapshot, Table::Current, b"a"), Some(b"1".to_vec()));
    assert_eq!(get(&*snapshot, Table::History, b"unflushed"), Some(b"2".to_vec()));
    write(&*copy, &put(Table::Current, b"a", b"4"));
    assert_eq!(get(&*engine.snapshot(), Table::Current, b"a"), Some(b"3".to_vec()), "the two stores are apart");
    assert!(engine.checkpoint(&dir).is_err(), "a checkpoint never writes over another");
}

fn rows(rows: &[(&str, &str)]) -> Rows {
    rows.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}
