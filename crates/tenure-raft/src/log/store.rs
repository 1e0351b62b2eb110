//! The log as openraft knows it.
//!
//! A handle; clones share the log. Appending queues and returns: the entries can be read at once and their callback
//! comes after the sync, which a follower's append may make itself. Only a vote is waited for. When the last handle goes,
//! the log closes.

use std::fmt::Debug;
use std::io;
use std::ops::{RangeBounds, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use futures::stream::{self, Stream, TryStreamExt};
use openraft::errors::LeaderChanged;
use openraft::storage::{IOFlushed, LeaderBoundedStreamError, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, OptionalSync};
use rand::TryRng;

use super::arrivals::Arrivals;
use super::counters::LogCounters;
use super::error::LogError;
use super::files::FileLayer;
use super::in_place::{self, Seat};
use super::options::LogOptions;
use super::reader::{Plan, half_open};
use super::record::LogStamp;
use super::recovery::recover;
use super::segment::SegmentNumber;
use super::shared::Shared;
use super::wal_thread::{self, Worker};
use super::writer::Writer;
use crate::entry_codec::encode_entry_parts;
use crate::runtime::{self, BootInstant, ThreadRng, life};
use crate::types::{Config, Entry, LeaderId, LogId, Vote};

/// The file that keeps other processes out of the log's directory.
const LOCK_FILE: &str = "LOCK";

/// A handle to an open log.
#[derive(Clone, Debug)]
pub struct LogStore(Arc<Handle>);

/// What an entry is, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Of what it carries.
    pub checksum: u32,
}

impl Logged {
    fn of(entry: &Entry) -> Logged {
        let (_, payload) = encode_entry_parts(entry);
        let checksum = crc32fast::hash(&payload);
        Logged { index: entry.log_id.index, term: entry.log_id.leader_id.term, checksum }
    }
}

/// Works off the queue of a log that was opened without a thread.
#[derive(Debug)]
pub struct LogStepper(Worker);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The thread's, which is also why reads may leave the calling task for a thread that may block.
    seat: Option<Seat>,
    arrivals: Arc<Arrivals>,
}

impl LogStore {
    /// Whether a directory holds a log. Nothing is changed.
    pub fn is_in(files: &dyn FileLayer, dir: &Path) -> Result<bool, LogError> {
        match files.list(dir) {
            Ok(names) => Ok(names.iter().any(|name| SegmentNumber::from_file_name(name).is_some())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(LogError::io("list", dir, &error)),
        }
    }

    /// Opens the log in a directory, or makes one, and starts its thread. A log that is damaged is not opened.
    ///
    /// In a simulation a task steps the log, and each step takes the disk its time.
    pub fn open(files: Arc<dyn FileLayer>, dir: PathBuf, options: LogOptions) -> Result<LogStore, LogError> {
        if let Some(life) = life::at_hand() {
            let (store, stepper) = LogStore::open_stepped(files, &dir, options)?;
            drop(life.clone().spawn(step_loop(stepper, life)));
            return Ok(store);
        }
        let worker = open_worker(files, dir, options)?;
        let shared = worker.shared().clone();
        let seat = Seat::new(Mutex::new(Some(worker)));
        let thread = thread::Builder::new().name("raft-log".into()).spawn({
            let (shared, seat) = (shared.clone(), seat.clone());
            move || wal_thread::run(&shared, &seat)
        });
        let thread = thread.map_err(|e| LogError::io("start the thread for", &shared.dir, &e))?;
        Ok(LogStore(Arc::new(Handle::new(shared, Some((thread, seat))))))
    }

    /// Opens a log without a thread: nothing reaches the disk but by the stepper. For simulations and tests, where the
    /// order of everything must repeat; reads then block.
    pub fn open_stepped(
        files: Arc<dyn FileLayer>,
        dir: &Path,
        options: LogOptions,
    ) -> Result<(LogStore, LogStepper), LogError> {
        let worker = open_worker(files, dir.to_owned(), options)?;
        let shared = worker.shared().clone();
        let store = LogStore(Arc::new(Handle::new(shared, None)));
        Ok((store, LogStepper(worker)))
    }

    /// What the log counted.
    pub fn counters(&self) -> LogCounters {
        self.0.shared.counters.read()
    }

    /// The index of the first entry; one past the last if there is none.
    pub fn first_index(&self) -> u64 {
        self.0.shared.state().start()
    }

    /// The index of the last entry, or of what was purged; `None` in a log that never had an entry.
    pub fn last_index(&self) -> Option<u64> {
        self.0.shared.state().last().map(|last| last.index)
    }

    /// The vote that this member gave last, or the leader that it follows. It stands here before anybody is told of it.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.0.shared.state().vote
    }

    /// Entries of a range as they are in this log, for whoever compares logs. Those that are purged are left out.
    pub async fn logged(&self, start: u64, end: u64) -> io::Result<Vec<Logged>> {
        let (from, to) = self.held(start, end);
        let entries = if from < to { self.read(from, to, usize::MAX).await? } else { Vec::new() };
        Ok(entries.iter().map(Logged::of).collect())
    }

    /// When entries reached this process.
    pub(crate) fn arrivals(&self) -> Arc<Arrivals> {
        self.0.arrivals.clone()
    }

    /// Bytes of all segments, but for the room behind the last records.
    pub fn bytes_on_disk(&self) -> u64 {
        self.counters().bytes_on_disk
    }

    /// Writes and syncs all that is queued, ends the thread and waits for it. Returns the error if the log has failed.
    pub fn close(&self) -> Result<(), LogError> {
        self.0.close();
        self.0.shared.failure().map_or(Ok(()), Err)
    }

    #[cfg(test)]
    pub(super) fn queue_vote(&self, vote: Vote) -> Result<tokio::sync::oneshot::Receiver<io::Result<()>>, LogError> {
        self.0.shared.vote(vote)
    }

    /// The part of a range that the log has at this moment.
    fn held(&self, start: u64, end: u64) -> (u64, u64) {
        let state = self.0.shared.state();
        (start.max(state.start()), end.min(state.end()))
    }

    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, io::Error> {
        let shared = &self.0.shared;
        let plan = Plan::new(shared, start, end, bytes_max)?;
        if plan.needs_disk() && self.0.seat.is_some() {
            let shared = shared.clone();
            let read = runtime::blocking(move || plan.carry_out(&shared));
            return Ok(read.await.map_err(io::Error::other)??);
        }
        Ok(plan.carry_out(shared)?)
    }

    /// The entries of a range in order and in portions, as the log has them; ends early only where the log ended when
    /// the stream began.
    fn portions(
        &self,
        leader: Option<LeaderId>,
        (start, end): (u64, u64),
    ) -> impl Stream<Item = Result<Vec<Entry>, LeaderBoundedStreamError<Config>>> + use<> {
        let (from, to) = self.held(start, end);
        stream::try_unfold((self.clone(), from), move |(store, next)| async move {
            store.ensure_leader(leader)?;
            if next >= to {
                return Ok(None);
            }
            let entries = store.read(next, to, store.0.shared.options.read_bytes_max).await?;
            store.ensure_leader(leader)?;
            let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
                return Err(io::Error::other(format!("entry {next} vanished while it was read")).into());
            };
            if first.log_id.index != next {
                return Err(io::Error::other(format!("entry {next} was purged while it was read")).into());
            }
            let after = last.log_id.index + 1;
            Ok(Some((entries, (store, after))))
        })
    }

    fn ensure_leader(&self, leader: Option<LeaderId>) -> Result<(), LeaderBoundedStreamError<Config>> {
        let Some(expected_leader) = leader else { return Ok(()) };
        let current_vote = self.0.shared.state().vote;
        match current_vote {
            Some(vote) if vote.committed && vote.leader_id == expected_leader => Ok(()),
            _ => Err(LeaderChanged { expected_leader, current_vote }.into()),
        }
    }
}

impl LogStepper {
    /// Writes and syncs what is queued, as one group; whether there was anything.
    pub fn step(&mut self) -> bool {
        self.0.step()
    }

    /// Waits until somebody waits for the disk, or the log was closed.
    pub async fn wait(&self) {
        self.0.shared().urgent().await;
    }

    /// Whether the log was closed and nothing is left to be written.
    pub fn is_closed(&self) -> bool {
        self.0.shared().is_closed()
    }

    /// What [`LogStore::close`] does.
    pub fn close(mut self) -> Result<(), LogError> {
        self.0.close()
    }
}

async fn step_loop(mut stepper: LogStepper, life: life::Life) {
    while !stepper.is_closed() {
        stepper.wait().await;
        tokio::time::sleep(life.disk_time()).await;
        stepper.step();
    }
    // Whoever closed it was told of an error, if there was one.
    drop(stepper.close());
}

impl Handle {
    fn new(shared: Arc<Shared>, writing: Option<(JoinHandle<()>, Seat)>) -> Handle {
        let last = shared.state().last().map(|last| last.index);
        let arrivals = Arc::new(Arrivals::of_opened(last, BootInstant::now()));
        let (thread, seat) = writing.unzip();
        Handle { shared, thread: Mutex::new(thread), seat, arrivals }
    }

    fn close(&self) {
        self.shared.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of the thread was made an error of the log where it happened.
        drop(thread.map(JoinHandle::join));
        if let Some(seat) = &self.seat {
            // With the writer goes the lock on the directory, also after such a panic.
            drop(seat.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

fn open_worker(files: Arc<dyn FileLayer>, dir: PathBuf, options: LogOptions) -> Result<Worker, LogError> {
    files.create_dir(&dir).map_err(|e| LogError::io("create", &dir, &e))?;
    let lock = files.lock(&dir.join(LOCK_FILE)).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => LogError::InUse { dir: dir.clone() },
        _ => LogError::io("lock", &dir, &e),
    })?;
    let Ok(stamp) = ThreadRng.try_next_u64();
    let mut recovered = recover(&*files, &dir, LogStamp(stamp))?;
    let segment_bytes = options.segment_bytes.min(LogOptions::SEGMENT_BYTES_LIMIT);
    let segments = std::mem::take(&mut recovered.segments);
    let handles = segments.iter().map(|(number, segment)| (*number, segment.file.clone())).collect();
    let (stamp, state) = (recovered.stamp, recovered.state.clone());
    let mut writer = Writer::new(files, dir.clone(), stamp, segment_bytes, state, segments);
    // What the log goes on from must be what it says it goes on from, before entries of another term fill the gap.
    let committed = recovered.committed();
    if committed != recovered.state.committed {
        writer.committed(committed)?;
    }
    let shared = Shared::new(dir, recovered, handles, writer.counters().clone(), options);
    Ok(Worker::new(Arc::new(shared), writer, lock))
}

impl RaftLogReader<Config> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = half_open(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, self.0.shared.options.read_bytes_max).await?;
        // Replication takes what it gets for the entries that follow `start - 1`. If those were purged meanwhile, nothing
        // is better than others: openraft then sends a heartbeat and goes on to a snapshot.
        let in_place = entries.first().is_some_and(|first| first.log_id.index == start);
        Ok(if in_place { entries } else { Vec::new() })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.vote())
    }

    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderId,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, LeaderBoundedStreamError<Config>>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let portions = self.portions(Some(leader), half_open(&range));
        portions.map_ok(|entries| stream::iter(entries.into_iter().map(Ok))).try_flatten()
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let portions = self.portions(None, half_open(&range)).map_err(|error| match error {
            LeaderBoundedStreamError::IoError(error) => error,
            // No leader was asked for, so this does not come.
            LeaderBoundedStreamError::LeaderChanged(changed) => io::Error::other(changed),
        });
        portions.map_ok(|entries| stream::iter(entries.into_iter().map(Ok))).try_flatten()
    }

    /// The last log id of each term: that is what openraft's own implementation finds and what its list of log ids is
    /// made of.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> Result<Vec<LogId>, io::Error> {
        Ok(self.0.shared.state().terms.last_of_each_term(*range.start(), *range.end()))
    }
}

impl RaftLogStorage<Config> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Config>, io::Error> {
        let state = self.0.shared.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last() })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let durable = self.0.shared.vote(*vote)?;
        durable.await.unwrap_or_else(|_gone| Err(LogError::Closed.into()))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.0.shared.committed(committed)?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.0.shared.state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Config>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            self.0.arrivals.note(first.log_id.index, last.log_id.index, BootInstant::now());
        }
        if self.0.shared.append(entries, callback).await? {
            in_place::write(&self.0.shared, self.0.seat.as_ref());
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.0.shared.truncate_after(last_log_id.map(|id| id.index))?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        Ok(self.0.shared.purge(log_id)?)
    }
}

const _: fn() = || {
    fn shared_by_tasks<T: OptionalSend + OptionalSync + 'static>() {}
    shared_by_tasks::<LogStore>();
};
