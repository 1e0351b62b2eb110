//! SIGKILL of a process that writes: what it reported as flushed is there, and what is there is a prefix of its runs.
//!
//! The binary starts itself again as the process to kill, so it has a `main` of its own. Each run is a function of
//! its number: the parent replays the runs that survived on the engine in memory and compares every table.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use tenure_core::row::{EventRow, KeyMeta, Meta};
use tenure_core::state::{StateRead, StateWrite};
use tenure_core::{EventId, LeaseId, LogIndex, Revision, Term};
use tenure_rocks::{RocksEngine, RocksOptions};
use tenure_storage::engine::Table;
use tenure_storage::mem::MemEngine;
use tenure_storage::store::{Applied, StateStore};
use tenure_storage::testing::rows_of;

/// Set in the process to kill; its value is the data directory.
const CHILD_DIR: &str = "TENURE_ROCKS_KILL_TEST_DIR";
/// How often a process is killed.
const KILLS: u64 = 6;
/// Rare enough that RocksDB also flushes by itself in between, when its memtables are full.
const RUNS_PER_FLUSH: u64 = 700;
const RUNS_PER_REPORT: u64 = 90;

fn main() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        write_until_killed(Path::new(&dir));
    }
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let dir = scratch.path().join("data");
    let mut survived = 0;
    for kill in 0..KILLS {
        let flushed = kill_after_reports(&dir, 4 + kill * 4);
        let store = StateStore::open(Arc::new(open(&dir))).expect("what a killed process left opens");
        let applied = store.applied().index.0;
        assert!(applied >= flushed, "run {flushed} was flushed, but {applied} is the last one left");
        assert!(applied >= survived, "runs never go back from one start to the next");
        assert_holds_exactly(&store, applied);
        survived = applied;
    }
    assert!(survived > RUNS_PER_REPORT, "the processes wrote something");
}

fn open(dir: &Path) -> RocksEngine {
    let options = RocksOptions { memtable_bytes: 1 << 20, ..RocksOptions::default() };
    RocksEngine::open(dir, &options).expect("the database opens")
}

/// Kills a writer after some reports, and returns the last flushed run that it reported.
fn kill_after_reports(dir: &Path, reports: u64) -> u64 {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    let child = command.env(CHILD_DIR, dir).stdout(Stdio::piped()).spawn().expect("the writer starts");
    let mut child = KillOnDrop(child);
    let lines = BufReader::new(child.0.stdout.take().expect("its output is piped")).lines();
    let mut flushed = 0;
    for line in lines.take(usize::try_from(reports).expect("a small number")) {
        flushed = line.expect("the writer reports").parse().expect("a report is a number");
    }
    child.0.kill().expect("the writer is killed");
    let status = child.0.wait().expect("the writer ends");
    assert!(!status.success() && status.code().is_none(), "the writer ended by the signal: {status}");
    flushed
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // It has ended already unless an assertion failed.
        drop(self.0.kill());
    }
}

fn write_until_killed(dir: &Path) -> ! {
    let mut store = StateStore::open(Arc::new(open(dir))).expect("the store opens");
    let flusher = store.flusher();
    loop {
        let next = store.applied().index.0 + 1;
        apply_run(&mut store, next);
        if next.is_multiple_of(RUNS_PER_FLUSH) {
            flusher.flush().expect("the store flushes");
        }
        if next.is_multiple_of(RUNS_PER_REPORT) {
            writeln!(std::io::stdout(), "{}", flusher.durable()).expect("the parent listens");
        }
    }
}

/// The run of a number: a few puts, a delete now and then, one revision each.
fn apply_run(store: &mut StateStore, number: u64) {
    let mut run = store.begin();
    for place in 0..1 + number % 7 {
        let key = Bytes::from(format!("key {}", (number * 31 + place * 17) % 200));
        let before = run.current_meta(&key).expect("a read");
        let live = before.filter(|meta| !meta.is_tombstone());
        let revision = Revision(run.meta().revision.0 + 1);
        let modified = EventId { revision, sub: 0 };
        let delete = live.is_some() && (number + place).is_multiple_of(5);
        let meta = if delete {
            KeyMeta { create: Revision(0), modified, version: 0, lease: LeaseId::NONE }
        } else {
            let (create, version) = live.map_or((revision, 1), |meta| (meta.create, meta.version + 1));
            KeyMeta { create, modified, version, lease: LeaseId::NONE }
        };
        let length = if delete { 0 } else { usize::try_from(number * 37 % 3000).expect("a small number") };
        let value = Bytes::from(vec![number.to_le_bytes()[0]; length]);
        run.record(EventRow { key, meta, value, previous: before.map(|meta| meta.modified), cause: None });
        run.meta_mut().revision = revision;
    }
    let applied = Applied { index: LogIndex(number), term: Term(1), membership: Bytes::from_static(b"members") };
    run.commit(applied).expect("the run is written");
}

fn assert_holds_exactly(store: &StateStore, runs: u64) {
    let mut model = StateStore::open(Arc::new(MemEngine::new())).expect("an empty store opens");
    for number in 1..=runs {
        apply_run(&mut model, number);
    }
    let (expected, found) = (model.view(), store.view());
    assert_eq!(found.meta(), expected.meta(), "after {runs} runs");
    assert_ne!(found.meta(), &Meta::default());
    assert_eq!(found.bytes(), expected.bytes());
    for table in Table::ALL {
        let rows = rows_of(found.engine_snapshot(), table);
        assert!(rows == rows_of(expected.engine_snapshot(), table), "table {table} after {runs} runs");
    }
}
