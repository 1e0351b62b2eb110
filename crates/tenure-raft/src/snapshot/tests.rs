//! A snapshot from a checkpoint to the state that counts, without the network: what is received, what goes on where it
//! broke off, and that the power may fail at any step.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use openraft::storage::RaftLogStorage;
use tenure_core::{LogIndex, Term};
use tenure_proto::tenure::peer::v1 as pb;
use tenure_storage::store::Applied;

use super::incoming::Incoming;
use super::manifest::FileEntry;
use super::*;
use crate::entry_codec::encode_stored_membership;
use crate::home::{Found, Housed, SimEngines};
use crate::log::{FileLayer, Keep, LogOptions, SimFiles};
use crate::runtime::BootInstant;
use crate::types::{StoredMembership, log_id};

const CHUNK: u32 = 64;

fn state_dir() -> PathBuf {
    PathBuf::from("/m/state")
}

/// A follower's disk.
struct Follower {
    files: SimFiles,
    engines: Arc<SimEngines>,
}

/// A follower's life between two crashes.
struct Life {
    home: Arc<Home>,
    housed: Housed,
    inbox: Inbox,
    counters: Arc<Counters>,
}

impl Follower {
    fn new() -> Follower {
        let files = SimFiles::new();
        Follower { engines: Arc::new(SimEngines::new(Arc::new(files.clone()))), files }
    }

    fn start(&self) -> Life {
        let opened = Home::open(Arc::new(self.files.clone()), self.engines.clone(), state_dir());
        let Found { home, housed, unfinished } = opened.expect("the state opens, whatever happened");
        let (home, counters) = (Arc::new(home), Arc::<Counters>::default());
        let inbox = Inbox::new(home.clone(), counters.clone(), unfinished);
        Life { home, housed, inbox, counters }
    }

    fn crash(&mut self, keep: Keep) {
        self.files.crash(keep);
        self.engines = Arc::new(self.engines.crash(Arc::new(self.files.clone()), |batches| batches));
    }
}

fn membership() -> Bytes {
    encode_stored_membership(&StoredMembership::default())
}

fn apply(housed: &mut Housed, index: u64) {
    let applied = Applied { index: LogIndex(index), term: Term(1), membership: membership() };
    housed.store.begin().commit(applied).expect("a commit");
}

/// A leader's files: an engine's checkpoint, and others that the engine in memory does not mind.
struct Source {
    manifest: Manifest,
    contents: Vec<Vec<u8>>,
}

impl Source {
    /// The state at an entry.
    fn at(index: u64) -> Source {
        let leader = Follower::new();
        let mut life = leader.start();
        apply(&mut life.housed, index);
        let flusher = life.housed.store.flusher();
        let checkpoint = Checkpoint::make(&flusher, &life.home, Path::new("/m/snapshots"), CHUNK);
        let checkpoint = checkpoint.expect("a checkpoint");
        assert_eq!(checkpoint.meta().last_log_id, Some(log_id(1, index)), "read from the checkpoint itself");
        let mut manifest = checkpoint.manifest().clone();
        let tables = checkpoint.open(0).expect("its file");
        let mut contents = vec![read_all(&*tables)];
        for (name, bytes) in [("000001.sst", 200), ("000002.sst", 128), ("empty", 0), ("CURRENT", 5)] {
            manifest.files.push(FileEntry { name: name.into(), bytes });
            contents.push((0..bytes).map(|n| ((n * 7 + index) % 251).to_le_bytes()[0]).collect());
        }
        Source { manifest, contents }
    }

    fn chunk(&self, piece: Piece, session: u64) -> pb::SnapshotChunk {
        let Place { file, offset } = piece.at;
        let start = usize::try_from(offset).unwrap();
        let bytes = Bytes::copy_from_slice(&self.contents[file as usize][start..start + piece.bytes as usize]);
        pb::SnapshotChunk { route: None, session, file, offset, crc: crc32fast::hash(&bytes), bytes }
    }

    fn pieces(&self) -> Vec<Piece> {
        let mut place = Place::default();
        std::iter::from_fn(|| {
            let piece = self.manifest.piece_at(place)?;
            place = piece.end();
            Some(piece)
        })
        .collect()
    }

    /// Offers itself and sends what is asked for, at most `pieces_max` pieces. Returns whether it is ready.
    fn send(&self, inbox: &Inbox, pieces_max: usize) -> Result<bool, String> {
        let offered = inbox.offer(self.manifest.clone()).map_err(|error| error.to_string())?;
        let Offered::Send { at, session, .. } = offered else { return Ok(offered == Offered::Ready) };
        let mut place = at;
        for _ in 0..pieces_max {
            let Some(piece) = self.manifest.piece_at(place) else {
                inbox.finish(session).map_err(|error| error.to_string())?;
                return Ok(true);
            };
            inbox.take(&self.chunk(piece, session)).map_err(|error| error.to_string())?;
            place = piece.end();
        }
        Ok(false)
    }
}

fn read_all(file: &dyn crate::log::LogFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Makes a state that is ready the one that counts.
fn install(life: &Life, source: &Source) -> Result<Housed, String> {
    let (housed, _) = life.inbox.ready(source.manifest.id).ok_or("it is not ready")?;
    housed.tenancy.settle();
    life.home.name(housed.generation).map_err(|error| error.to_string())?;
    life.housed.tenancy.give_up();
    Ok(housed)
}

#[test]
fn what_is_received_is_the_state_that_was_sent() {
    let (follower, source) = (Follower::new(), Source::at(40));
    let mut life = follower.start();
    apply(&mut life.housed, 7);
    assert_eq!(source.send(&life.inbox, usize::MAX), Ok(true));
    let bytes: usize = source.contents.iter().map(Vec::len).sum();
    assert_eq!(life.counters.read().bytes_received, bytes as u64);
    let housed = install(&life, &source).expect("installed");
    assert_eq!(housed.store.applied().index, LogIndex(40));
    for (entry, expected) in source.manifest.files.iter().zip(&source.contents) {
        assert_eq!(follower.files.contents(&state_dir().join("2").join(&entry.name)).as_ref(), Some(expected));
    }
    assert_eq!(follower.files.contents(&state_dir().join("2.incoming")), None);
}

#[test]
fn a_transfer_goes_on_where_it_broke_off() {
    let (mut follower, source) = (Follower::new(), Source::at(40));
    let pieces = source.pieces().len();
    let life = follower.start();
    assert_eq!(source.send(&life.inbox, 3), Ok(false));
    let there = 3 * u64::from(CHUNK);
    assert_eq!(
        life.inbox.offer(source.manifest.clone()).unwrap(),
        Offered::Send { at: source.pieces()[3].at, session: 2, there }
    );
    drop(life);

    // The process ends: everything is there. Then the machine: what was not synced may not be.
    follower.crash(Keep::Everything);
    let life = follower.start();
    let offered = life.inbox.offer(source.manifest.clone()).unwrap();
    assert_eq!(offered, Offered::Send { at: source.pieces()[3].at, session: 1, there });
    assert_eq!(source.send(&life.inbox, pieces - 5), Ok(false));
    drop(life);
    follower.crash(Keep::Nothing);
    let life = follower.start();
    let offered = life.inbox.offer(source.manifest.clone()).unwrap();
    let began = Place { file: 2, offset: 0 };
    let there = source.manifest.bytes_before(began);
    assert_eq!(offered, Offered::Send { at: began, session: 1, there }, "files that are whole are durable");
    assert_eq!(source.send(&life.inbox, usize::MAX), Ok(true));
    assert_eq!(life.inbox.offer(source.manifest.clone()).unwrap(), Offered::Ready);
    assert_eq!(install(&life, &source).unwrap().store.applied().index, LogIndex(40));
}

#[test]
fn a_piece_that_changed_on_its_way_is_asked_for_again() {
    let (follower, source) = (Follower::new(), Source::at(40));
    let life = follower.start();
    let Offered::Send { session, .. } = life.inbox.offer(source.manifest.clone()).unwrap() else {
        panic!("not wanted")
    };
    for (number, piece) in source.pieces().into_iter().enumerate() {
        let chunk = source.chunk(piece, session);
        for flip in [0, chunk.bytes.len() - 1] {
            let mut bytes = chunk.bytes.to_vec();
            bytes[flip] ^= 0x20;
            let changed = pb::SnapshotChunk { bytes: bytes.into(), ..chunk.clone() };
            assert!(matches!(life.inbox.take(&changed), Err(StreamError::Receive(ReceiveError::Corrupt(_)))));
        }
        life.inbox.take(&chunk).unwrap_or_else(|error| panic!("piece {number}: {error}"));
    }
    assert_eq!(life.counters.read().corrupt_pieces, 2 * source.pieces().len() as u64);
    life.inbox.finish(session).expect("all is right");
}

#[test]
fn pieces_that_were_not_asked_for_change_nothing() {
    let (follower, source) = (Follower::new(), Source::at(40));
    let life = follower.start();
    let first = source.pieces()[0];
    assert!(matches!(life.inbox.take(&source.chunk(first, 0)), Err(StreamError::Superseded)), "nothing was offered");
    let Offered::Send { session, .. } = life.inbox.offer(source.manifest.clone()).unwrap() else {
        panic!("not wanted")
    };
    let right = source.chunk(first, session);
    let short = right.bytes.slice(1..);
    let wrong = [
        pb::SnapshotChunk { file: u32::MAX, ..right.clone() },
        pb::SnapshotChunk { offset: u64::MAX, ..right.clone() },
        pb::SnapshotChunk { offset: 1, ..right.clone() },
        source.chunk(source.pieces()[1], session),
        pb::SnapshotChunk { crc: crc32fast::hash(&short), bytes: short, ..right.clone() },
        pb::SnapshotChunk { bytes: Bytes::new(), crc: 0, ..right.clone() },
    ];
    for chunk in wrong {
        assert!(matches!(life.inbox.take(&chunk), Err(StreamError::Receive(ReceiveError::OutOfOrder(_)))));
    }
    assert!(matches!(life.inbox.finish(session), Err(StreamError::Receive(ReceiveError::OutOfOrder(_)))));
    life.inbox.offer(source.manifest.clone()).expect("a second sender");
    assert!(matches!(life.inbox.take(&right), Err(StreamError::Superseded)));
    assert!(life.inbox.ready(source.manifest.id).is_none());
}

#[test]
fn another_snapshot_takes_the_place_of_one_that_was_begun_or_is_ready() {
    let (follower, first, second) = (Follower::new(), Source::at(40), Source::at(50));
    let life = follower.start();
    assert_eq!(first.send(&life.inbox, 3), Ok(false));
    assert_eq!(second.send(&life.inbox, usize::MAX), Ok(true));
    assert!(life.inbox.ready(first.manifest.id).is_none());
    let third = Source::at(60);
    assert_eq!(third.send(&life.inbox, usize::MAX), Ok(true));
    let generations = || follower.files.list_dirs(&state_dir()).unwrap();
    let started = std::time::Instant::now();
    while generations() != ["1", "4"] {
        assert!(started.elapsed().as_secs() < 30, "{:?}", generations());
        std::thread::yield_now();
    }
    assert_eq!(install(&life, &third).unwrap().store.applied().index, LogIndex(60));
}

#[test]
fn files_that_are_no_state_or_another_are_of_no_use() {
    let follower = Follower::new();
    let life = follower.start();
    let mut damaged = Source::at(40);
    let last = damaged.contents[0].len() - 1;
    damaged.contents[0][last] ^= 1;
    let refused = damaged.send(&life.inbox, usize::MAX).expect_err("its own checksum is wrong");
    assert!(refused.contains("cannot be opened"), "{refused}");
    let mut other = Source::at(40);
    other.manifest.log_id = log_id(1, 41);
    let refused = other.send(&life.inbox, usize::MAX).expect_err("it is not the state at that entry");
    assert!(refused.contains("offered as the state at"), "{refused}");
    let mut empty = Source::at(40);
    (empty.manifest.files[0].name, empty.manifest.log_id) = ("nobody-reads-this".into(), log_id(0, 0));
    assert!(empty.send(&life.inbox, usize::MAX).is_err(), "an empty store is nobody's state");
    let whole = Source::at(42);
    assert_eq!(whole.send(&life.inbox, usize::MAX), Ok(true));
}

#[test]
fn what_was_received_goes_once_the_state_has_overtaken_it() {
    let source = Source::at(40);
    for pieces in [0, 3, usize::MAX] {
        for restarts in [false, true] {
            let mut follower = Follower::new();
            let mut life = follower.start();
            assert_eq!(source.send(&life.inbox, pieces), Ok(pieces == usize::MAX));
            if restarts {
                drop(life);
                follower.crash(Keep::Everything);
                life = follower.start();
            }
            assert!(!life.inbox.is_overtaken(39));
            life.inbox.clear_up(39);
            // What was opened and not installed does not outlive its process.
            let is_there = !(restarts && pieces == usize::MAX);
            assert_eq!(life.inbox.is_overtaken(40), is_there, "it was still needed before");
            life.inbox.clear_up(40);
            assert!(!life.inbox.is_overtaken(u64::MAX));
            let started = std::time::Instant::now();
            while follower.files.list_dirs(&state_dir()).unwrap() != ["1"] {
                assert!(started.elapsed().as_secs() < 30, "it is left");
                std::thread::yield_now();
            }
            assert_eq!(follower.files.list(&state_dir()).unwrap(), ["generation"]);
        }
    }
}

#[test]
fn a_disk_without_room_refuses_the_offer_and_drops_what_does_not_fit() {
    let (follower, source) = (Follower::new(), Source::at(40));
    let life = follower.start();
    follower.files.set_bytes_free(Some(1 << 20));
    let refused = life.inbox.offer(source.manifest.clone()).expect_err("the log needs room too").to_string();
    assert!(refused.contains("1048576 bytes left in /m/state"), "{refused}");
    follower.files.set_bytes_free(None);
    assert_eq!(source.send(&life.inbox, 2), Ok(false));
    follower.files.set_bytes_free(Some(10));
    source.send(&life.inbox, usize::MAX).expect_err("the disk is full");
    follower.files.set_bytes_free(None);
    assert_eq!(follower.files.list_dirs(&state_dir()).unwrap(), ["1"], "half a snapshot is in nobody's way");
    assert_eq!(source.send(&life.inbox, usize::MAX), Ok(true));
}

#[test]
fn nothing_that_an_earlier_life_left_can_stop_a_member() {
    let source = Source::at(40);
    let left = |damage: &dyn Fn(&SimFiles, &Path)| {
        let mut follower = Follower::new();
        let life = follower.start();
        assert_eq!(source.send(&life.inbox, 4), Ok(false));
        drop(life);
        follower.crash(Keep::Everything);
        damage(&follower.files, &state_dir().join("2.incoming"));
        let life = follower.start();
        assert_eq!(source.send(&life.inbox, usize::MAX), Ok(true));
        assert_eq!(install(&life, &source).unwrap().store.applied().index, LogIndex(40));
    };
    let whole = {
        let follower = Follower::new();
        let life = follower.start();
        assert_eq!(source.send(&life.inbox, 4), Ok(false));
        follower.files.contents(&state_dir().join("2.incoming")).unwrap()
    };
    for cut in 0..whole.len() {
        left(&|files, path| files.overwrite(path, whole[..cut].to_vec()));
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x80;
        left(&|files, path| files.overwrite(path, flipped.clone()));
    }
    left(&|files, _| files.remove(&state_dir().join("2").join("tables")).unwrap());
    left(&|files, _| files.overwrite(&state_dir().join("2").join("tables"), vec![0; 10_000]));
    left(&|files, _| files.remove_dir(&state_dir().join("2")).unwrap());
    left(&|files, path| files.remove(path).unwrap());
}

/// Receives and installs, as far as the machine lets it.
fn receive_and_install(follower: &Follower, source: &Source) -> Result<Housed, String> {
    let opened = Home::open(Arc::new(follower.files.clone()), follower.engines.clone(), state_dir());
    let Found { home, mut housed, unfinished } = opened.map_err(|error| error.to_string())?;
    if housed.store.applied().index == LogIndex(0) {
        apply(&mut housed, 7);
        housed.store.flusher().flush().map_err(|error| error.to_string())?;
    }
    let (home, counters) = (Arc::new(home), Arc::<Counters>::default());
    let life = Life { inbox: Inbox::new(home.clone(), counters.clone(), unfinished), home, housed, counters };
    source.send(&life.inbox, 3)?;
    source.send(&life.inbox, usize::MAX)?;
    install(&life, source)
}

#[test]
fn the_power_may_fail_at_every_step_of_an_installation() {
    let source = Source::at(40);
    let (mut old, mut new) = (0, 0);
    for operation in 0.. {
        let mut ended = false;
        for keep in [Keep::Nothing, Keep::Everything, Keep::Torn(operation), Keep::Holes(operation)] {
            let case = format!("operation {operation}, {keep:?}");
            let mut follower = Follower::new();
            follower.files.stop_at(operation);
            let installed = receive_and_install(&follower, &source).is_ok();
            ended = installed;
            follower.crash(keep);
            let life = follower.start();
            let index = life.housed.store.applied().index.0;
            assert!([0, 7, 40].contains(&index), "{case}: entry {index}");
            assert!(!installed || index == 40, "{case}: what was installed is gone");
            assert!(follower.files.list_dirs(&state_dir()).unwrap().len() <= 2, "{case}: something is left over");
            (old, new) = if index == 40 { (old, new + 1) } else { (old + 1, new) };
            drop(life);
            // A second crash at once: what the first left readable must not have been taken for durable.
            follower.crash(Keep::Nothing);
            if index < 40 {
                let housed = receive_and_install(&follower, &source).unwrap_or_else(|error| panic!("{case}: {error}"));
                assert_eq!(housed.store.applied().index, LogIndex(40), "{case}");
                drop(housed);
                follower.crash(Keep::Nothing);
            }
            assert_eq!(follower.start().housed.store.applied().index, LogIndex(40), "{case}");
        }
        if ended {
            break;
        }
    }
    assert!(old > 50 && new > 4, "{old} and {new}");
}

#[test]
fn a_transfer_that_was_ended_with_its_process_is_durable_once_it_is_installed() {
    // Every piece arrived, nothing but the last sync of a file is missing, and the process ends.
    let source = Source::at(40);
    for pieces in 1..=source.pieces().len() {
        let mut follower = Follower::new();
        let life = follower.start();
        drop(source.send(&life.inbox, pieces));
        drop(life);
        follower.crash(Keep::Everything);
        drop(receive_and_install(&follower, &source).expect("installed"));
        follower.crash(Keep::Nothing);
        assert_eq!(follower.start().housed.store.applied().index, LogIndex(40), "after {pieces} pieces");
    }
}

#[test]
fn an_incoming_snapshot_without_a_first_byte_can_be_resumed() {
    let (follower, source) = (Follower::new(), Source::at(40));
    let life = follower.start();
    let begun = Incoming::begin(&life.home, source.manifest.clone()).expect("room");
    let resumed = Incoming::resume(life.home.clone(), begun.generation()).expect("readable").expect("whole");
    assert_eq!((resumed.place(), resumed.manifest()), (Place::default(), &source.manifest));
}

/// A leader with a log that begins anywhere and a state at entry 40.
struct Leader {
    files: SimFiles,
    log: LogStore,
    outbox: Arc<Outbox>,
    runtime: tokio::runtime::Runtime,
    _stepper: crate::log::LogStepper,
}

fn sent_dir() -> PathBuf {
    PathBuf::from("/m/snapshots")
}

impl Leader {
    fn new() -> Leader {
        let disk = Follower::new();
        let mut life = disk.start();
        apply(&mut life.housed, 40);
        let (files, home) = (disk.files.clone(), life.home.clone());
        files.create_dir(&sent_dir().join("left-over")).unwrap();
        let log = LogStore::open_stepped(Arc::new(files.clone()), Path::new("/m/raft/log"), LogOptions::default());
        let (log, stepper) = log.expect("a log");
        let store = SharedStore::new(life.housed, Arc::new([]), log.arrivals());
        let options = SnapshotOptions::default();
        let outbox = Outbox::open(store, log.clone(), home, sent_dir(), options, Arc::default()).expect("an outbox");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Leader { files, log, outbox: Arc::new(outbox), runtime, _stepper: stepper }
    }

    fn make(&self) -> Arc<Checkpoint> {
        self.runtime.block_on(self.outbox.make()).expect("a checkpoint");
        self.outbox.current().expect("it is there")
    }

    fn directories(&self) -> usize {
        self.files.list_dirs(&sent_dir()).unwrap().len()
    }

    fn eventually_has(&self, directories: usize) {
        let started = std::time::Instant::now();
        while self.directories() != directories {
            assert!(started.elapsed().as_secs() < 30, "{} checkpoints", self.directories());
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_checkpoint_is_made_once_and_kept_as_long_as_somebody_makes_progress() {
    let leader = Leader::new();
    let idle = SnapshotOptions::default().keep_idle;
    assert_eq!(leader.directories(), 0, "what an earlier life left is removed");
    assert_eq!((leader.outbox.hold(), leader.outbox.current().is_some()), (None, false));
    let first = leader.make();
    assert_eq!(leader.outbox.hold(), Some(40), "the log behind it is needed");
    assert_eq!(leader.make().manifest().id, first.manifest().id, "one is enough for all");

    let second = std::time::Duration::from_secs(1);
    let mut now = BootInstant::now();
    for round in 1..=10 {
        now += idle - second;
        leader.outbox.expire(now);
        assert!(leader.outbox.current().is_some(), "somebody received some of it not long ago");
        first.note_sent(2, 64 * round, now);
    }
    now += idle - second;
    first.note_sent(3, 64, now);
    now += idle - second;
    first.note_at_work(now);
    now += idle - second;
    leader.outbox.expire(now);
    assert!(leader.outbox.current().is_some(), "another follower has come, and its disk was at work");
    for _ in 0..7 {
        now += idle - second;
        first.note_asked(2, 0, now);
        first.note_sent(2, 64, now);
    }
    leader.outbox.expire(now);
    assert!(leader.outbox.current().is_some(), "followers may crash");
    for _ in 0..10 {
        now += second;
        first.note_asked(2, 0, now);
        first.note_sent(2, 64, now);
        first.note_asked(3, 64, now);
    }
    now += idle;
    leader.outbox.expire(now);
    assert_eq!(
        (leader.outbox.hold(), leader.outbox.current().is_some()),
        (None, false),
        "the same again is no progress"
    );
    assert_eq!(leader.directories(), 1, "who sends it may go on");
    drop(first);
    leader.eventually_has(0);
}

#[test]
fn who_asks_for_a_checkpoint_and_goes_leaves_nothing_behind() {
    let leader = Leader::new();
    leader.runtime.block_on(async {
        let mut making = Box::pin(leader.outbox.make());
        assert!(futures::poll!(&mut making).is_pending(), "it takes a thread");
        drop(making);
    });
    let made = leader.make();
    assert_eq!((made.index(), leader.outbox.hold()), (40, Some(40)));
    leader.outbox.discard(made.manifest().id);
    assert_eq!(leader.outbox.hold(), None, "nobody makes one any more");
    drop(made);
    leader.eventually_has(0);
}

#[test]
fn the_log_is_held_for_a_follower_until_it_has_caught_up() {
    let leader = Leader::new();
    let idle = SnapshotOptions::default().keep_idle;
    let second = std::time::Duration::from_secs(1);
    let mut now = BootInstant::now();
    let made = leader.make();
    leader.outbox.discard(made.manifest().id);
    leader.outbox.note_installed(2, 40, now);
    leader.outbox.note_installed(3, 90, now);
    for matched in 40..60 {
        assert_eq!(leader.outbox.hold(), Some(matched));
        now += idle - second;
        leader.outbox.note_matched(|_| Some(matched + 1), now);
    }
    assert_eq!(leader.outbox.hold(), Some(60), "one that is behind what it installed is not heard of any more");
    now += second;
    leader.outbox.note_matched(|_| None, now);
    assert_eq!(leader.outbox.hold(), None, "another leader looks after them");
}

#[test]
fn a_log_that_is_held_leaves_room_for_everything_else() {
    const GIB: u64 = 1 << 30;
    let leader = Leader::new();
    let held = |log_bytes: u64, free: Option<u64>| {
        let made = leader.make();
        leader.outbox.note_installed(2, 30, BootInstant::now());
        leader.files.set_bytes_free(free);
        leader.outbox.bound_log(log_bytes, GIB).expect("the room is known");
        leader.files.set_bytes_free(None);
        let hold = leader.outbox.hold();
        leader.outbox.note_matched(|_| None, BootInstant::now());
        leader.outbox.discard(made.manifest().id);
        hold
    };
    assert_eq!(held(GIB, Some(0)), Some(30), "so much is kept in any case");
    assert_eq!(held(4 * GIB, Some(3 * GIB)), Some(30));
    assert_eq!(held(4 * GIB + 1, Some(3 * GIB)), None, "it takes more than it leaves");
    assert_eq!(held(17 * GIB, Some(1000 * GIB)), Some(30));
    assert_eq!(held(17 * GIB + 1, Some(1000 * GIB)), None, "files are not for free");
}

#[test]
fn a_disk_that_fails_once_costs_what_was_received_and_nothing_else() {
    let source = Source::at(40);
    let (mut failures, mut done) = (0, false);
    for operation in 0.. {
        let follower = Follower::new();
        let life = follower.start();
        follower.files.fail_at(follower.files.operations() + operation, std::io::ErrorKind::Other);
        if source.send(&life.inbox, usize::MAX).is_err() {
            failures += 1;
            // The failed operation may have been that of the first removal.
            assert!(follower.files.list_dirs(&state_dir()).unwrap().len() <= 2, "operation {operation}");
            assert_eq!(
                life.inbox
                    .offer(source.manifest.clone())
                    .map(|offered| matches!(offered, Offered::Send { there: 0, .. }))
                    .ok(),
                Some(true),
                "operation {operation}: what a failed sync may have lost is not built upon"
            );
            assert_eq!(source.send(&life.inbox, usize::MAX), Ok(true), "operation {operation}");
        } else {
            done = true;
        }
        follower.files.fail_at(u64::MAX, std::io::ErrorKind::Other);
        let housed = install(&life, &source).unwrap_or_else(|error| panic!("operation {operation}: {error}"));
        assert_eq!(housed.store.applied().index, LogIndex(40));
        if done {
            break;
        }
    }
    assert!(failures > 20, "{failures} operations");
}

#[test]
fn a_checkpoint_that_the_log_does_not_go_on_from_is_replaced() {
    let leader = Leader::new();
    let first = leader.make();
    leader.runtime.block_on(leader.log.clone().purge(log_id(1, 40))).unwrap();
    assert!(leader.outbox.current().is_some(), "the next entry is there");
    leader.runtime.block_on(leader.log.clone().purge(log_id(1, 41))).unwrap();
    assert!(leader.outbox.current().is_none(), "a follower would at once need another");
    leader.outbox.discard(first.manifest().id + 1);
    assert_eq!(leader.outbox.hold(), Some(40), "another one was meant");
    leader.outbox.discard(first.manifest().id);
    assert_eq!(leader.outbox.hold(), None);
}
