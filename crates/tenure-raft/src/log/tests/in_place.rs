//! Who writes: a follower what is light as it appends it, the thread everything else, and nothing twice or never.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// Whose log it is. Member 1 leads.
const FOLLOWER: u64 = 2;

/// A follower's log with its thread, on a disk that is quick however long it takes.
struct InPlace {
    store: LogStore,
    runtime: tokio::runtime::Runtime,
}

fn quick(options: LogOptions) -> LogOptions {
    LogOptions { member: Some(FOLLOWER), quick_sync: Duration::MAX, ..options }
}

impl InPlace {
    fn open(disk: &SimFiles, options: LogOptions) -> InPlace {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        InPlace { store: LogStore::open(Arc::new(disk.clone()), PathBuf::from(DIR), options).unwrap(), runtime }
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

    fn vote(&self, vote: Vote) {
        let durable = self.store.queue_vote(vote).unwrap();
        self.runtime.block_on(durable).unwrap().unwrap();
    }

    /// Appends one entry and waits until it is durable; whether it was written in place, and then it was so at once.
    fn is_light(&mut self, entry: Entry) -> bool {
        let before = self.store.counters();
        let mut done = self.append([entry]);
        let at_once = outcome(&mut done);
        let is_at_once = at_once.is_some();
        at_once.unwrap_or_else(|| self.wait(done)).unwrap();
        let after = self.store.counters();
        assert!(after.syncs > before.syncs);
        let is_light = after.syncs_in_place > before.syncs_in_place;
        assert!(is_at_once || !is_light);
        is_light
    }

    /// Appends until one entry was light; the index after that. The thread writes first, because nobody knows the disk yet,
    /// and it tells of what it wrote a moment before it lets go of the file.
    fn begin(&mut self) -> u64 {
        assert!(!self.is_light(entry(1, 0, 10)));
        (1..10_000).find(|index| self.is_light(entry(1, *index, 10))).expect("the thread lets go") + 1
    }
}

/// Segments with room for what is light.
fn medium() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
}

fn reopened(disk: &SimFiles) -> Seen {
    disk.crash(Keep::Nothing);
    Log::open(disk, LogOptions::default()).unwrap().seen().unwrap()
}

#[test]
fn what_is_light_is_durable_when_it_is_appended() {
    let disk = SimFiles::new();
    let mut log = InPlace::open(&disk, quick(LogOptions::default()));
    let begin = log.begin();
    now(log.store.save_committed(Some(log_id(1, begin - 1)))).unwrap();
    // The thread may just be looking whether the mark is alone.
    let next = (begin..begin + 100).find(|index| log.is_light(entry(1, *index, 900))).expect("a mark travels along");
    assert!(!log.is_light(entry(1, next + 1, 5000)), "too much");
    let before = log.store.counters().syncs_in_place;
    log.vote(Vote::new(2, 1));
    assert_eq!(log.store.counters().syncs_in_place, before);
    drop(log);
    let seen = reopened(&disk);
    assert_eq!((seen.entries.len() as u64, seen.last), (next + 2, Some(log_id(1, next + 1))));
    assert_eq!((seen.vote, seen.committed), (Some(Vote::new(2, 1)), Some(log_id(1, begin - 1))));
}

#[test]
fn a_slow_disk_is_waited_for_by_the_thread() {
    let disk = SimFiles::new();
    let options = LogOptions { quick_sync: Duration::ZERO, ..quick(LogOptions::default()) };
    let mut log = InPlace::open(&disk, options);
    assert!((0..5).all(|index| !log.is_light(entry(1, index, 10))));
}

#[test]
fn what_a_leader_appends_goes_to_the_thread() {
    let disk = SimFiles::new();
    let mut log = InPlace::open(&disk, quick(LogOptions::default()));
    let next = log.begin();
    log.vote(Vote::new(2, FOLLOWER));
    assert!((next..next + 5).all(|index| !log.is_light(entry(2, index, 10))));
    let mut nobodys = InPlace::open(&SimFiles::new(), LogOptions { member: None, ..quick(LogOptions::default()) });
    assert!((0..5).all(|index| !nobodys.is_light(entry(1, index, 10))));
}

#[test]
fn what_follows_something_that_waits_for_the_thread_waits_behind_it() {
    let disk = SimFiles::new();
    let mut log = InPlace::open(&disk, quick(LogOptions::default()));
    let next = log.begin();
    let heavy = log.append([entry(1, next, 9000)]);
    let vote = log.store.queue_vote(Vote::new(2, 1)).unwrap();
    let light = log.append([entry(2, next + 1, 10)]);
    log.wait(light).unwrap();
    // Whatever comes later is durable no earlier.
    assert!(vote.now_or_never().is_some_and(|vote| vote.unwrap().is_ok()));
    assert!(heavy.now_or_never().is_some_and(|heavy| heavy.unwrap().is_ok()));
    drop(log);
    assert_eq!(reopened(&disk).last, Some(log_id(2, next + 1)));
}

#[test]
fn a_failed_write_in_place_ends_the_log() {
    let disk = SimFiles::new();
    let mut log = InPlace::open(&disk, quick(LogOptions::default()));
    let next = log.begin();
    disk.fail_at(disk.operations(), io::ErrorKind::Other);
    let mut done = log.append([entry(1, next, 10)]);
    let error = outcome(&mut done).unwrap_or_else(|| log.wait(done)).unwrap_err().to_string();
    assert!(error.starts_with("the Raft log cannot write"), "{error}");
    assert!(now(log.store.save_committed(None)).is_err());
    assert!(matches!(log.store.close(), Err(LogError::Io { .. })));
    assert!(LogStore::open(Arc::new(disk), PathBuf::from(DIR), LogOptions::default()).is_ok(), "the lock is free");
}

#[test]
fn purged_segments_go_though_only_light_work_follows() {
    let disk = SimFiles::new();
    let mut log = InPlace::open(&disk, quick(medium()));
    for index in 0..100 {
        log.is_light(entry(1, index, 3000));
    }
    let segments = log.store.counters().segments_created;
    assert!(segments > 3);
    now(log.store.purge(log_id(1, 98))).unwrap();
    // The thread removes one at a time, woken by each light write that sees another.
    for index in 100..10_000 {
        log.is_light(entry(1, index, 1));
        if log.store.counters().segments_removed >= segments {
            return;
        }
    }
    panic!("segments stay: {:?}", log.store.counters());
}

#[test]
fn an_order_is_an_order_whoever_writes() {
    let disk = SimFiles::new();
    let mut log = InPlace::open(&disk, quick(medium()));
    let (mut waiting, mut votes) = (Vec::new(), Vec::new());
    let begin = log.begin();
    for index in begin..begin + 600 {
        let bytes = if index % 7 == 3 { 6000 } else { 20 };
        waiting.push(log.append([entry(1, index, bytes)]));
        match index % 11 {
            2 => now(log.store.save_committed(Some(log_id(1, index)))).unwrap(),
            5 => votes.push(log.store.queue_vote(Vote::new(2 + index, 1)).unwrap()),
            _ => {}
        }
        if index % 4 > 1 {
            waiting.drain(..).for_each(|done| log.wait(done).unwrap());
        }
    }
    waiting.into_iter().for_each(|done| log.wait(done).unwrap());
    votes.into_iter().for_each(|vote| log.runtime.block_on(vote).unwrap().unwrap());
    let counters = log.store.counters();
    assert!(counters.syncs_in_place > 1 && counters.syncs > counters.syncs_in_place, "{counters:?}");
    drop(log);
    let seen = reopened(&disk);
    let indexes: Vec<u64> = seen.entries.iter().map(|entry| entry.log_id.index).collect();
    assert_eq!(indexes, (0..begin + 600).collect::<Vec<_>>());
    let last_vote = (begin..begin + 600).rfind(|index| index % 11 == 5).map(|index| Vote::new(2 + index, 1));
    assert_eq!(seen.vote, last_vote);
}
