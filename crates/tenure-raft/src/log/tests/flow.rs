//! How operations travel: groups, order, completions, errors, the end.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use super::*;

/// Files whose syncs wait until the test lets them go on.
#[derive(Clone, Debug, Default)]
struct GatedFiles {
    disk: SimFiles,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    shut: bool,
    waiting: bool,
}

impl Gate {
    fn shut(&self) {
        self.state.lock().unwrap().shut = true;
    }

    fn open(&self) {
        self.state.lock().unwrap().shut = false;
        self.changed.notify_all();
    }

    /// Returns when a sync stands before the gate.
    fn wait_for_sync(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| !state.waiting).unwrap());
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting = true;
        self.changed.notify_all();
        state = self.changed.wait_while(state, |state| state.shut).unwrap();
        state.waiting = false;
    }
}

#[derive(Debug)]
struct GatedFile(Arc<dyn LogFile>, Arc<Gate>);

impl LogFile for GatedFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn truncate(&self, size: u64) -> io::Result<()> {
        self.0.truncate(size)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync_data()
    }
}

impl FileLayer for GatedFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list_dirs(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }
    fn bytes_free(&self, dir: &Path) -> io::Result<u64> {
        self.disk.bytes_free(dir)
    }
    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        self.disk.open_to_read(path)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(GatedFile(self.disk.create(path)?, self.gate.clone())))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(GatedFile(self.disk.open(path)?, self.gate.clone())))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        self.disk.lock(path)
    }
}

/// A log with its thread, and a way to wait for it.
struct Threaded {
    store: LogStore,
    runtime: tokio::runtime::Runtime,
}

impl Threaded {
    fn open(files: impl FileLayer, options: LogOptions) -> Threaded {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Threaded { store: LogStore::open(Arc::new(files), PathBuf::from(DIR), options).unwrap(), runtime }
    }

    fn append(&mut self, entries: impl IntoIterator<Item = Entry>) -> Done {
        let (tx, done) = Config::oneshot();
        let entries: Vec<Entry> = entries.into_iter().collect();
        now(self.store.append(entries, IOFlushed::signal(tx))).unwrap();
        done
    }

    fn wait(&self, done: Done) -> io::Result<()> {
        self.runtime.block_on(done).expect("every append is answered")
    }
}

#[test]
fn all_that_arrives_during_a_sync_shares_the_next_one() {
    let files = GatedFiles::default();
    let mut log = Threaded::open(files.clone(), LogOptions::default());
    files.gate.shut();
    let first = log.append([entry(1, 0, 100)]);
    files.gate.wait_for_sync();
    let mut later: Vec<Done> = (1..=50).map(|index| log.append([entry(1, index, 100)])).collect();
    let vote = log.store.queue_vote(Vote::new(2, 1)).unwrap();
    assert!(later.iter_mut().all(|done| outcome(done).is_none()), "nothing is told before it is durable");
    assert_eq!(now(log.store.try_get_log_entries(..)).unwrap().len(), 51, "all can be read before");
    files.gate.open();
    log.wait(first).unwrap();
    later.into_iter().for_each(|done| log.wait(done).unwrap());
    log.runtime.block_on(vote).unwrap().unwrap();
    let counters = log.store.counters();
    assert_eq!((counters.syncs, counters.entries_written), (2, 51));
}

#[test]
fn marks_need_no_sync_and_travel_with_the_next_append() {
    let disk = SimFiles::new();
    let mut log = Log::open(&disk, LogOptions::default()).unwrap();
    let mut done = log.append([entry(1, 0, 10), entry(1, 1, 10)]).unwrap();
    assert!(log.step());
    assert!(matches!(outcome(&mut done), Some(Ok(()))));
    for index in [0, 1] {
        log.committed(log_id(1, index)).unwrap();
    }
    log.purge(log_id(1, 0)).unwrap();
    assert!(log.step());
    assert_eq!(log.store.counters().syncs, 1);
    log.append([entry(1, 2, 10)]).unwrap();
    assert!(log.step());
    assert!(!log.step(), "nothing is left");
    assert_eq!(log.store.counters().syncs, 2);
    disk.crash(Keep::Nothing);
    let seen = Log::open(&disk, LogOptions::default()).unwrap().seen().unwrap();
    assert_eq!((seen.committed, seen.purged), (Some(log_id(1, 1)), Some(log_id(1, 0))));
}

#[test]
fn marks_reach_the_file_of_an_idle_log_without_an_append() {
    let disk = SimFiles::new();
    let log = Threaded::open(disk.clone(), LogOptions::default());
    let mut store = log.store.clone();
    now(store.save_committed(None)).unwrap();
    let before = store.bytes_on_disk();
    // The log's own timer does it; how long that takes does not matter here.
    while store.bytes_on_disk() == before {
        std::thread::yield_now();
    }
    assert_eq!(store.counters().syncs, 0);
}

#[test]
fn a_failed_sync_is_told_to_all_who_wait_and_to_all_who_come() {
    let files = GatedFiles::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let on_failure: OnFailure = Arc::new(move |error: &LogError| {
        assert!(matches!(error, LogError::Io { action: "sync", .. }), "{error}");
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let mut log = Threaded::open(files.clone(), LogOptions { on_failure: Some(on_failure), ..small() });
    files.gate.shut();
    let first = log.append([entry(1, 0, 10)]);
    files.gate.wait_for_sync();
    let second = log.append([entry(1, 1, 10)]);
    let vote = log.store.queue_vote(Vote::new(1, 1)).unwrap();
    files.disk.fail_at(files.disk.operations(), io::ErrorKind::Other);
    files.gate.open();
    assert!(log.wait(first).is_err());
    assert!(log.wait(second).is_err());
    assert!(log.runtime.block_on(vote).unwrap().is_err());
    assert!(log.runtime.block_on(log.store.save_vote(&Vote::new(2, 1))).is_err());
    assert!(now(log.store.purge(log_id(1, 0))).is_err());
    assert!(matches!(log.store.close(), Err(LogError::Io { .. })));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn a_full_disk_ends_the_log_and_leaves_what_was_there() {
    let disk = SimFiles::new();
    let mut log = Threaded::open(disk.clone(), LogOptions::default());
    let done = log.append([entry(1, 0, 100)]);
    log.wait(done).unwrap();
    disk.set_bytes_free(Some(1000));
    let done = log.append([entry(1, 1, 500), entry(1, 2, 300_000)]);
    let error = log.wait(done).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().starts_with("the Raft log cannot write /data/log/00000000000000000001.wal"), "{error}");
    drop(log);
    disk.set_bytes_free(None);
    let seen = Log::open(&disk, LogOptions::default()).unwrap().seen().unwrap();
    assert_eq!(seen.entries, [entry(1, 0, 100), entry(1, 1, 500)], "the second was written whole, so it may stay");
}

#[test]
fn who_appends_more_than_the_queue_holds_waits_for_the_disk() {
    let files = GatedFiles::default();
    let mut log = Threaded::open(files.clone(), LogOptions { queue_bytes_max: 8 << 10, ..LogOptions::default() });
    files.gate.shut();
    let first = log.append([entry(1, 0, 6 << 10)]);
    files.gate.wait_for_sync();
    let (tx, second) = Config::oneshot();
    let mut store = log.store.clone();
    {
        let mut append = Box::pin(store.append([entry(1, 1, 6 << 10)], IOFlushed::signal(tx)));
        assert!((&mut append).now_or_never().is_none(), "there is no room");
        files.gate.open();
        log.runtime.block_on(append).unwrap();
    }
    log.wait(first).unwrap();
    log.wait(second).unwrap();
    let larger_than_the_queue = log.append([entry(1, 2, 100 << 10)]);
    log.wait(larger_than_the_queue).unwrap();
}

#[test]
fn closing_writes_what_is_queued_and_refuses_what_comes() {
    let disk = SimFiles::new();
    let mut log = Threaded::open(disk.clone(), LogOptions::default());
    let done = log.append([entry(1, 0, 10)]);
    now(log.store.save_committed(Some(log_id(1, 0)))).unwrap();
    log.store.close().unwrap();
    log.wait(done).unwrap();
    log.store.close().unwrap();
    assert_eq!(now(log.store.save_committed(None)).unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert!(log.runtime.block_on(log.store.save_vote(&Vote::new(2, 1))).is_err());
    disk.crash(Keep::Nothing);
    let seen = Log::open(&disk, LogOptions::default()).unwrap().seen().unwrap();
    assert_eq!((seen.last, seen.committed), (Some(log_id(1, 0)), Some(log_id(1, 0))));
}

#[test]
fn a_log_is_open_once() {
    let disk = SimFiles::new();
    let log = Log::open(&disk, small()).unwrap();
    assert_eq!(Log::open(&disk, small()).err(), Some(LogError::InUse { dir: DIR.into() }));
    drop(log);
    assert!(Log::open(&disk, small()).is_ok());
}

#[test]
fn entries_that_do_not_follow_are_refused_and_change_nothing() {
    let disk = SimFiles::new();
    let mut log = Log::open(&disk, small()).unwrap();
    log.append([entry(1, 5, 10), entry(1, 6, 10)]).unwrap();
    let before = log.seen().unwrap();
    for wrong in [vec![entry(1, 8, 1)], vec![entry(1, 6, 1)], vec![entry(1, 7, 1), entry(1, 9, 1)]] {
        assert_eq!(log.append(wrong).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(log.seen().unwrap(), before);
    log.append([entry(1, 7, 10)]).unwrap();
}

#[test]
fn the_same_history_lies_on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("below/log");
    let open = || LogStore::open_stepped(Arc::new(OsFiles), &dir, small());
    let (store, stepper) = open().unwrap();
    let mut log = Log { store, stepper };
    for index in 0..50 {
        log.append([entry(1, index, 100)]).unwrap();
        log.committed(log_id(1, index)).unwrap();
        log.step();
    }
    log.vote(Vote::new(4, 2)).unwrap();
    log.purge(log_id(1, 20)).unwrap();
    log.truncate_after(Some(log_id(1, 49))).unwrap();
    log.append([entry(2, 50, 100)]).unwrap();
    log.step();
    assert!(matches!(open().err(), Some(LogError::InUse { .. })));
    let seen = log.seen().unwrap();
    assert_eq!(seen.entries.len(), 30);
    drop(log);
    let (store, stepper) = open().unwrap();
    let mut log = Log { store, stepper };
    assert_eq!(log.seen().unwrap(), seen);
    for index in 51..60 {
        log.append([entry(2, index, 100)]).unwrap();
        log.step();
    }
    log.stepper.close().unwrap();
    let counters = log.store.counters();
    assert!(counters.segments_removed > 0, "{counters:?}");
    let on_disk: u64 = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(log.store.bytes_on_disk(), on_disk);
}
