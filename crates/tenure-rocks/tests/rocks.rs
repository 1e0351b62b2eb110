//! RocksDB keeps the contract of engines, and says clearly why it does not open.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tenure_rocks::{RocksEngine, RocksOptions};
use tenure_storage::engine::{Engine, EngineError, Table};
use tenure_storage::testing::{durability_suite, engine_suite, get_many, put, rows_of};

/// Small enough that the suite fills memtables and makes files.
fn small() -> RocksOptions {
    RocksOptions { block_cache_bytes: 1 << 20, memtable_bytes: 1 << 20, ..RocksOptions::default() }
}

fn open(dir: &Path) -> RocksEngine {
    RocksEngine::open(dir, &small()).unwrap()
}

fn refusal(dir: &Path) -> EngineError {
    match RocksEngine::open(dir, &small()) {
        Ok(_) => panic!("{} must not open", dir.display()),
        Err(error) => error,
    }
}

/// Directories numbered from 1 in a scratch directory.
struct Dirs {
    scratch: TempDir,
    made: RefCell<u32>,
}

impl Dirs {
    fn new() -> Dirs {
        Dirs { scratch: tempfile::tempdir().unwrap(), made: RefCell::new(0) }
    }

    fn next(&self) -> PathBuf {
        *self.made.borrow_mut() += 1;
        self.last()
    }

    fn last(&self) -> PathBuf {
        self.scratch.path().join(self.made.borrow().to_string())
    }
}

#[test]
fn rocksdb_is_an_engine() {
    let dirs = Dirs::new();
    engine_suite(|| Arc::new(open(&dirs.next())));
}

#[test]
fn rocksdb_survives_crashes() {
    let dirs = Dirs::new();
    let make = || Arc::new(open(&dirs.next())) as Arc<dyn Engine>;
    // The files as they are now are what a killed process leaves; closing the engine properly would flush it.
    let crash = |engine: Arc<dyn Engine>| {
        let (from, to) = (dirs.last(), dirs.next());
        copy_files(&from, &to);
        drop(engine);
        Arc::new(open(&to)) as Arc<dyn Engine>
    };
    let checkpoint = |dir: &Path| Arc::new(open(dir)) as Arc<dyn Engine>;
    durability_suite(make, crash, checkpoint, dirs.scratch.path());
}

/// Copies what is there at one moment: a background job may replace files meanwhile, and then it starts over.
fn copy_files(from: &Path, to: &Path) {
    for _ in 0..100 {
        std::fs::create_dir(to).unwrap();
        let before = files_with(from, "");
        let copied = before.iter().all(|path| std::fs::copy(path, to.join(path.file_name().unwrap())).is_ok());
        if copied && files_with(from, "") == before {
            return;
        }
        std::fs::remove_dir_all(to).unwrap();
    }
    panic!("the files of {} never rest", from.display());
}

#[test]
fn a_directory_in_use_is_refused_until_its_last_snapshot_is_gone() {
    let dirs = Dirs::new();
    let dir = dirs.next();
    let engine = open(&dir);
    assert!(matches!(refusal(&dir), EngineError::Locked(_)), "{}", refusal(&dir));
    engine.write(&put(Table::Current, b"key", b"value")).unwrap();
    let snapshot = engine.snapshot();
    drop(engine);
    assert!(matches!(refusal(&dir), EngineError::Locked(_)));
    assert_eq!(rows_of(&*snapshot, Table::Current).len(), 1, "a snapshot outlives the engine");
    drop(snapshot);
    assert_eq!(rows_of(&*open(&dir).snapshot(), Table::Current).len(), 1);
}

#[test]
fn a_checkpoint_is_looked_into_without_a_change_and_beside_others() {
    let dirs = Dirs::new();
    let engine = open(&dirs.next());
    engine.write(&put(Table::Current, b"key", b"value")).unwrap();
    let dir = dirs.next();
    engine.checkpoint(&dir).unwrap();
    let before = contents(&dir);
    let looks = [(); 2].map(|()| RocksEngine::inspect(&dir, &small()).unwrap());
    for look in &looks {
        assert_eq!(look.get(Table::Current, b"key").unwrap().as_deref(), Some(&b"value"[..]));
        assert_eq!(rows_of(&**look, Table::Meta), []);
    }
    assert_eq!(contents(&dir), before);
    drop(looks);
    assert!(RocksEngine::inspect(&dirs.next(), &small()).is_err(), "no database is made by a look");
}

#[test]
fn what_an_earlier_build_left_lacks_later_tables_and_is_looked_into_and_opened() {
    let dirs = Dirs::new();
    let dir = dirs.next();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let earlier = Table::ALL.into_iter().filter(|table| !table.came_later()).map(Table::name);
    let db = rocksdb::DB::open_cf(&options, &dir, earlier).unwrap();
    db.put_cf(db.cf_handle(Table::Meta.name()).unwrap(), b"key", b"value").unwrap();
    drop(db);
    let look = RocksEngine::inspect(&dir, &small()).unwrap();
    assert_eq!(look.get(Table::Meta, b"key").unwrap().as_deref(), Some(&b"value"[..]));
    for table in Table::ALL.into_iter().filter(|table| table.came_later()) {
        assert_eq!(rows_of(&*look, table), []);
        assert_eq!(look.get(table, b"key").unwrap(), None);
        assert_eq!(get_many(&*look, table, &[b"key"]), [None]);
    }
    drop(look);
    let engine = open(&dir);
    engine.write(&put(Table::LeaseEnds, b"key", b"value")).unwrap();
    assert_eq!(rows_of(&*engine.snapshot(), Table::LeaseEnds).len(), 1);
    assert_eq!(rows_of(&*engine.snapshot(), Table::Meta).len(), 1);
}

/// All files of a directory but RocksDB's own log.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = files_with(dir, "").into_iter().filter(|path| !path.ends_with("LOG"));
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn a_database_leaves_what_is_not_its_own_in_its_directory_alone() {
    let dirs = Dirs::new();
    let dir = dirs.next();
    let engine = open(&dir);
    std::fs::write(dir.join("generation"), b"a name").unwrap();
    std::fs::write(dir.join("1.incoming"), b"a mark").unwrap();
    let inner = open(&dir.join("1"));
    for number in 0..20_000u32 {
        for engine in [&engine, &inner] {
            engine.write(&put(Table::History, &number.to_be_bytes(), &[7; 100])).unwrap();
        }
    }
    engine.checkpoint(&dir.join("2")).unwrap();
    drop((engine, inner));
    for database in [dir.clone(), dir.join("1"), dir.join("2")] {
        let rows = rows_of(&*open(&database).snapshot(), Table::History).len();
        // An engine that is closed in good order flushes what it holds.
        assert_eq!(rows, 20_000, "{}", database.display());
    }
    assert_eq!(std::fs::read(dir.join("generation")).unwrap(), b"a name");
    assert_eq!(std::fs::read(dir.join("1.incoming")).unwrap(), b"a mark");
}

#[test]
fn a_path_that_cannot_be_a_directory_is_an_error() {
    let dirs = Dirs::new();
    let file = dirs.next();
    std::fs::write(&file, b"not a directory").unwrap();
    assert!(matches!(refusal(&file), EngineError::Io(_)));
    assert!(matches!(refusal(&file.join("below")), EngineError::Io(_)));
    assert_eq!(std::fs::read(&file).unwrap(), b"not a directory");
}

#[test]
fn a_flipped_byte_is_found_when_it_is_read() {
    let dirs = Dirs::new();
    let dir = dirs.next();
    let engine = open(&dir);
    for number in 0..2000u32 {
        engine.write(&put(Table::History, &number.to_be_bytes(), &[7; 100])).unwrap();
    }
    engine.flush().unwrap();
    drop(engine);
    let table_file = files_with(&dir, "sst").pop().unwrap();
    let mut bytes = std::fs::read(&table_file).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&table_file, &bytes).unwrap();

    let snapshot = open(&dir).snapshot();
    let mut failures = 0;
    for number in 0..2000u32 {
        match snapshot.get(Table::History, &number.to_be_bytes()) {
            Ok(row) => assert_eq!(row.as_deref(), Some(&[7; 100][..])),
            Err(EngineError::Corrupt(_)) => failures += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(failures > 0, "one block is damaged");
}

#[test]
fn a_damaged_or_missing_file_keeps_the_database_closed() {
    for (name, damage) in [("sst", Damage::Remove), ("MANIFEST", Damage::Cut), ("CURRENT", Damage::Cut)] {
        let dirs = Dirs::new();
        let dir = dirs.next();
        let engine = open(&dir);
        engine.write(&put(Table::Current, b"key", b"value")).unwrap();
        engine.flush().unwrap();
        drop(engine);
        for file in files_with(&dir, name) {
            match damage {
                Damage::Remove => std::fs::remove_file(&file).unwrap(),
                Damage::Cut => std::fs::write(&file, b"").unwrap(),
            }
        }
        assert!(matches!(refusal(&dir), EngineError::Corrupt(_)), "{name}: {}", refusal(&dir));
    }
}

#[derive(Clone, Copy)]
enum Damage {
    Remove,
    Cut,
}

/// The files whose name contains a text, in order.
fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(text)).collect();
    files.sort();
    files
}
