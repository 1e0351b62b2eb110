//! Which directory counts, whatever is found beside it, and when one goes.

use std::time::{Duration, Instant};

use tenure_core::{LogIndex, Term};
use tenure_storage::store::Applied;

use super::*;
use crate::log::{Keep, OsFiles, SimFiles};

const DIR: &str = "/m/state";

fn dir() -> PathBuf {
    PathBuf::from(DIR)
}

/// A disk, and the engines on it as long as it does not crash.
struct Disk {
    files: SimFiles,
    engines: Arc<SimEngines>,
}

impl Disk {
    fn new() -> Disk {
        let files = SimFiles::new();
        Disk { engines: Arc::new(SimEngines::new(Arc::new(files.clone()))), files }
    }

    fn open(&self) -> Result<Found, NodeError> {
        Home::open(Arc::new(self.files.clone()), self.engines.clone(), dir())
    }

    fn crash(&mut self, keep: Keep) {
        self.files.crash(keep);
        self.engines = Arc::new(self.engines.crash(Arc::new(self.files.clone()), |batches| batches));
    }

    fn dirs(&self) -> Vec<String> {
        let mut dirs = self.files.list_dirs(&dir()).expect("the state directory");
        dirs.sort();
        dirs
    }
}

/// Applies an entry, so that the state can be told from others.
fn apply(housed: &mut Housed, index: u64) {
    let applied = Applied { index: LogIndex(index), term: Term(1), membership: "m".into() };
    housed.store.begin().commit(applied).expect("a commit");
}

fn applied(housed: &Housed) -> u64 {
    housed.store.applied().index.0
}

/// Waits for what another thread does soon.
fn eventually(what: &str, so: impl Fn() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::yield_now();
    }
}

fn refusal(opened: Result<Found, NodeError>) -> String {
    opened.map(|_| ()).expect_err("it must not open").to_string()
}

#[test]
fn a_fresh_directory_has_its_name_before_anything_is_in_it() {
    for operation in 0.. {
        let mut disk = Disk::new();
        disk.files.stop_at(operation);
        let opened = disk.open();
        let done = opened.is_ok();
        if let Ok(mut found) = opened {
            assert_eq!(found.housed.generation, Generation(1));
            apply(&mut found.housed, 7);
        }
        disk.crash(if operation % 2 == 0 { Keep::Nothing } else { Keep::Torn(operation) });
        let found = disk.open().expect("whatever was interrupted");
        assert_eq!(applied(&found.housed), if done { 7 } else { 0 });
        if done {
            return;
        }
    }
}

#[test]
fn the_name_says_what_counts_and_the_rest_goes() {
    let disk = Disk::new();
    let mut found = disk.open().expect("fresh");
    apply(&mut found.housed, 1);
    let home = found.home;
    let next = home.next_generation();
    assert_eq!(next, Generation(2));
    disk.files.create_dir(&home.dir_of(next)).unwrap();
    let mut other = home.open_store(next).expect("another engine");
    apply(&mut other, 50);
    drop(disk.open().expect("as it was"));
    assert_eq!(disk.dirs(), ["1"], "nothing led to the other one");

    disk.engines.forget(&home.dir_of(next));
    disk.files.create_dir(&home.dir_of(next)).unwrap();
    let mut other = home.open_store(next).expect("another engine");
    apply(&mut other, 60);
    home.name(next).expect("the name");
    let found = disk.open().expect("the new one");
    assert_eq!((found.housed.generation, applied(&found.housed)), (next, 60));
    assert_eq!(disk.dirs(), ["2"]);
    assert_eq!(found.home.next_generation(), Generation(3));
}

#[test]
fn a_name_that_is_torn_or_gone_is_not_guessed() {
    for damage in
        [Some(&b"tenure-state 1\ngeneration 2\nchecksum 00000000\n"[..]), Some(b""), Some(&[0xff; 5000]), None]
    {
        let disk = Disk::new();
        let mut found = disk.open().expect("fresh");
        apply(&mut found.housed, 7);
        let file = dir().join("generation");
        match damage {
            Some(bytes) => disk.files.overwrite(&file, bytes.to_vec()),
            None => disk.files.remove(&file).unwrap(),
        }
        let text = refusal(disk.open());
        assert!(text.contains("the file `generation` is") && text.contains("replace this member"), "{text}");
        assert_eq!(disk.dirs(), ["1"], "nothing is removed that may be the state");
        home_named(&disk, 1);
        assert_eq!(applied(&disk.open().expect("repaired").housed), 7);
    }
}

fn home_named(disk: &Disk, number: u64) {
    pointer::write(&disk.files, &dir(), Generation(number)).expect("a name");
}

#[test]
fn what_an_interrupted_renaming_left_is_never_read() {
    let disk = Disk::new();
    let mut found = disk.open().expect("fresh");
    apply(&mut found.housed, 7);
    disk.files.overwrite(&dir().join("generation.new"), b"tenure-state 1\ngeneration 9\n".to_vec());
    assert_eq!(applied(&disk.open().expect("as it was").housed), 7);
}

#[test]
fn renaming_leaves_the_old_name_or_the_new_one_whatever_the_moment() {
    let mut seen = [0, 0];
    for operation in 0..8 {
        for keep in [Keep::Nothing, Keep::Everything, Keep::Torn(operation), Keep::Holes(operation)] {
            let mut disk = Disk::new();
            let found = disk.open().expect("fresh");
            disk.files.create_dir(&dir().join("2")).unwrap();
            disk.files.stop_at(disk.files.operations() + operation);
            let done = found.home.name(Generation(2)).is_ok();
            disk.crash(keep);
            let found = disk.open().expect("whole");
            assert!(!done || found.housed.generation == Generation(2), "it was durable");
            seen[usize::from(found.housed.generation == Generation(2))] += 1;
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

#[test]
fn a_directory_from_before_there_were_generations_is_taken_as_it_is() {
    let disk = Disk::new();
    // What the engine in memory has instead of files.
    let mut old = StateStore::open(disk.engines.open(&dir()).expect("an engine")).expect("a store");
    let applied_before = Applied { index: LogIndex(42), term: Term(1), membership: "m".into() };
    old.begin().commit(applied_before).expect("a commit");
    drop(old);
    disk.files.create_dir(&dir()).unwrap();
    for name in ["CURRENT", "LOCK", "000012.sst"] {
        disk.files.overwrite(&dir().join(name), b"of the engine".to_vec());
    }
    let found = disk.open().expect("the old layout");
    assert_eq!((found.housed.generation, applied(&found.housed)), (Generation(0), 42));
    drop(found);
    let found = disk.open().expect("again");
    assert_eq!((found.housed.generation, applied(&found.housed)), (Generation(0), 42));

    let Found { home, housed, .. } = found;
    let next = home.next_generation();
    disk.files.create_dir(&home.dir_of(next)).unwrap();
    let mut received = home.open_store(next).expect("a snapshot");
    apply(&mut received, 50);
    home.name(next).expect("the name");
    let view = housed.store.view();
    housed.tenancy.give_up();
    drop(housed);
    assert!(disk.files.contents(&dir().join("CURRENT")).is_some(), "somebody still reads there");
    drop(view);
    eventually("the old files go", || disk.files.contents(&dir().join("CURRENT")).is_none());
    eventually("all of them", || disk.files.list(&dir()).unwrap() == ["generation"]);
    assert_eq!(disk.dirs(), ["1"]);
    assert_eq!(applied(&disk.open().expect("the new one").housed), 50);
}

#[test]
fn what_is_left_of_the_old_layout_goes_at_the_next_start() {
    let disk = Disk::new();
    let mut found = disk.open().expect("fresh");
    apply(&mut found.housed, 7);
    disk.files.overwrite(&dir().join("000012.sst"), b"of an engine".to_vec());
    disk.files.overwrite(&dir().join("9.incoming"), b"of a snapshot that is gone".to_vec());
    let found = disk.open().expect("as it was");
    assert_eq!(applied(&found.housed), 7);
    assert_eq!(disk.files.list(&dir()).unwrap(), ["generation"]);
    assert_eq!(found.home.next_generation(), Generation(10), "no number is used twice");
}

#[test]
fn a_state_that_is_given_up_goes_with_its_last_view_and_no_other_does() {
    let scratch = tempfile::tempdir().expect("a directory");
    let engines = Arc::new(tenure_storage::mem_engines::MemEngines::default());
    let dir = scratch.path().join("state");
    let open = || Home::open(Arc::new(OsFiles), engines.clone(), dir.clone()).expect("it opens");
    let Found { housed, .. } = open();
    let home = dir.join("1");
    drop(housed);
    assert!(home.is_dir(), "stopping removes nothing");

    let Found { housed, .. } = open();
    let (view, flusher) = (housed.store.view(), housed.store.flusher());
    housed.tenancy.give_up();
    drop(housed);
    drop(view);
    assert!(home.is_dir(), "somebody may still flush there");
    drop(flusher);
    eventually("the directory goes", || !home.exists());
}
