//! What the callers of a log and its thread share: the state that readers see, and the queue to the disk.
//!
//! One lock holds both, so that the order in which operations change the state is the order in which they reach the
//! file. The state is ahead of the disk by what is queued. Under the lock nothing is read, written or awaited.
//!
//! Only appends and votes wake the thread, unless whoever appends writes in place. Marks (committed, purge, truncation)
//! need their place in the order but no sync of their own, so they wait in the queue and travel with the next append, or go
//! out when the log falls idle.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::storage::IOFlushed;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::counters::Counters;
use super::error::LogError;
use super::files::LogFile;
use super::in_place::LIGHT_BYTES;
use super::options::LogOptions;
use super::positions::Positions;
use super::record::{BODY_BYTES_MAX, LogStamp, entry_record_bytes};
use super::recovery::{Recovered, next_index};
use super::segment::SegmentNumber;
use super::tail::{Tail, payload_bytes};
use super::terms::Terms;
use super::writer::{Moved, NumberedFile};
use crate::types::{Config, Entry, LogId, Vote};

/// How long marks wait for company in an idle log before they are written without a sync.
const MARKS_WAIT: Duration = Duration::from_millis(50);
/// The queue's bytes are counted in units of this.
const PERMIT_BYTES: usize = 1024;

/// Something to be written.
pub(super) enum Op {
    Append {
        entries: Vec<Entry>,
        /// What its records take.
        bytes: usize,
        permits: usize,
        done: IOFlushed<Config>,
    },
    Vote {
        vote: Vote,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// The last log id that is left.
    Truncate(Option<LogId>),
    Committed(Option<LogId>),
    /// With what can be dropped from memory: the log's thread has the time to.
    Purge(LogId, Vec<Entry>),
}

/// Shared by all handles of a log, its thread and nobody else.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// The same signal for whoever drives the log in place of the thread.
    stepper: Notify,
    /// Room in the queue.
    room: Semaphore,
    room_total: usize,
    pub(super) dir: PathBuf,
    pub(super) stamp: LogStamp,
    pub(super) counters: Arc<Counters>,
    pub(super) options: LogOptions,
}

/// The log as readers see it.
pub(super) struct State {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    /// Of all entries that are not purged.
    pub(super) terms: Terms,
    pub(super) tail: Tail,
    /// As far as the writer got.
    pub(super) positions: Positions,
    pub(super) segments: BTreeMap<SegmentNumber, Arc<dyn LogFile>>,
    queue: VecDeque<Op>,
    /// The thread, or whoever is in its place, is called for.
    urgent: bool,
    /// Whether the last sync was quick.
    is_quick: bool,
    /// The thread has stopped waiting for marks, so the next one must wake it.
    dormant: bool,
    closing: bool,
    failed: Option<LogError>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("vote", &self.vote).field("last", &self.last()).finish_non_exhaustive()
    }
}

impl State {
    /// The last entry, or what was purged if there is none.
    pub(super) fn last(&self) -> Option<LogId> {
        self.terms.last().or(self.purged)
    }

    /// Where the log's entries begin.
    pub(super) fn start(&self) -> u64 {
        self.terms.first_index().unwrap_or(next_index(self.purged))
    }

    /// One past the last entry.
    pub(super) fn end(&self) -> u64 {
        next_index(self.last())
    }

    /// Whether all that is queued is so little that it need not go to the thread.
    fn is_light(&self) -> bool {
        let bytes_of = |op: &Op| match op {
            Op::Append { bytes, .. } => Some(*bytes),
            Op::Committed(_) => Some(0),
            Op::Vote { .. } | Op::Truncate(_) | Op::Purge(..) => None,
        };
        let bytes = || self.queue.iter().try_fold(0usize, |sum, op| Some(sum.saturating_add(bytes_of(op)?)));
        self.is_quick && bytes().is_some_and(|bytes| bytes <= LIGHT_BYTES)
    }

    /// Whether another member leads. What this one proposes itself is on its way to the others while the thread syncs it.
    fn follows(&self, member: Option<u64>) -> bool {
        member.is_some() && self.vote.map(|vote| vote.leader_id.voted_for) != member
    }

    fn ensure_open(&self) -> Result<(), LogError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.closing => Err(LogError::Closed),
            None => Ok(()),
        }
    }
}

impl Shared {
    pub(super) fn new(
        dir: PathBuf,
        recovered: Recovered,
        segments: BTreeMap<SegmentNumber, Arc<dyn LogFile>>,
        counters: Arc<Counters>,
        options: LogOptions,
    ) -> Shared {
        let committed = recovered.committed();
        let Recovered { stamp, state, mut positions, .. } = recovered;
        positions.purge(next_index(state.purged));
        let state = State {
            vote: state.vote,
            committed,
            purged: state.purged,
            terms: positions.terms().clone(),
            tail: Tail::new(options.tail_bytes_max, options.tail_entries_max),
            positions,
            segments,
            queue: VecDeque::new(),
            urgent: false,
            is_quick: false,
            dormant: false,
            closing: false,
            failed: None,
        };
        let room_total = (options.queue_bytes_max / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Shared {
            state: Mutex::new(state),
            wake: Condvar::new(),
            stepper: Notify::new(),
            room: Semaphore::new(room_total),
            room_total,
            dir,
            stamp,
            counters,
            options,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room in the queue, then queues the entries; they can be read when this returns. Answers whether they are
    /// left to the caller, who may write what is light in place.
    pub(super) async fn append(&self, entries: Vec<Entry>, done: IOFlushed<Config>) -> Result<bool, LogError> {
        let bytes = entries.iter().try_fold(0, |sum: usize, entry| {
            let bytes = entry_record_bytes(payload_bytes(entry));
            (bytes <= BODY_BYTES_MAX).then(|| sum.saturating_add(bytes))
        });
        let Some(bytes) = bytes else {
            return Err(LogError::Refused(format!("an entry is larger than {BODY_BYTES_MAX} bytes")));
        };
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, self.room_total);
        match self.room.acquire_many(u32::try_from(permits).unwrap_or(u32::MAX)).await {
            Ok(room) => room.forget(),
            Err(_closed) => return Err(self.state().ensure_open().err().unwrap_or(LogError::Closed)),
        }
        let mut state = self.state();
        state.ensure_open()?;
        ensure_next(&state, &entries)?;
        for entry in &entries {
            state.terms.push(entry.log_id);
            state.tail.push(entry.clone());
        }
        state.queue.push_back(Op::Append { entries, bytes, permits, done });
        let in_place = !state.urgent && state.is_light() && state.follows(self.options.member);
        if !in_place {
            self.alert(state);
        }
        Ok(in_place)
    }

    pub(super) fn vote(&self, vote: Vote) -> Result<oneshot::Receiver<io::Result<()>>, LogError> {
        let (done, durable) = oneshot::channel();
        let mut state = self.state();
        state.ensure_open()?;
        state.vote = Some(vote);
        state.queue.push_back(Op::Vote { vote, done });
        self.alert(state);
        Ok(durable)
    }

    pub(super) fn committed(&self, committed: Option<LogId>) -> Result<(), LogError> {
        let mut state = self.state();
        state.ensure_open()?;
        state.committed = committed;
        match state.queue.back_mut() {
            // Nothing lies between the two, so only the later one matters.
            Some(Op::Committed(mark)) => *mark = committed,
            _ => state.queue.push_back(Op::Committed(committed)),
        }
        self.hint(state);
        Ok(())
    }

    /// Removes the entries after an index, or all.
    pub(super) fn truncate_after(&self, index: Option<u64>) -> Result<(), LogError> {
        let mut state = self.state();
        state.ensure_open()?;
        // What is purged is committed, so a truncation can only be meant for what follows.
        let end = index.map_or(0, |index| index.saturating_add(1)).max(next_index(state.purged));
        if end >= state.end() {
            return Ok(());
        }
        state.terms.truncate(end);
        state.tail.truncate(end);
        let last = state.last();
        state.queue.push_back(Op::Truncate(last));
        self.hint(state);
        Ok(())
    }

    /// Forgets the entries up to a log id, which may lie beyond the last one.
    pub(super) fn purge(&self, upto: LogId) -> Result<(), LogError> {
        let mut state = self.state();
        state.ensure_open()?;
        if state.purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        let start = next_index(Some(upto));
        state.terms.purge(start);
        let freed = state.tail.purge(start);
        state.purged = Some(upto);
        state.queue.push_back(Op::Purge(upto, freed));
        self.hint(state);
        Ok(())
    }

    /// The lock is let go before anybody is woken, who would only wait for it.
    fn alert(&self, mut state: MutexGuard<'_, State>) {
        // One wake-up per batch: later operations join what the thread was woken for.
        let is_first = !std::mem::replace(&mut state.urgent, true);
        drop(state);
        if is_first {
            self.wake.notify_one();
            self.stepper.notify_one();
        }
    }

    /// Tells of a mark. While anything else happens, that wakes nobody.
    fn hint(&self, mut state: MutexGuard<'_, State>) {
        let is_dormant = std::mem::take(&mut state.dormant);
        drop(state);
        if is_dormant {
            self.wake.notify_one();
        }
    }

    /// Refuses further operations; what is queued is still done.
    pub(super) fn close(&self) {
        self.state().closing = true;
        self.room.close();
        self.wake.notify_one();
        self.stepper.notify_one();
    }

    /// Blocks until there is something to do. `false` once the log is closed and the queue empty.
    pub(super) fn wait_for_ops(&self) -> bool {
        let mut state = self.state();
        let mut marks_may_come = true;
        loop {
            if state.urgent || (state.closing && !state.queue.is_empty()) {
                return true;
            }
            if state.closing {
                return false;
            }
            if !marks_may_come && state.queue.is_empty() {
                state.dormant = true;
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.dormant = false;
                continue;
            }
            let (guard, waited) = self.wake.wait_timeout(state, MARKS_WAIT).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if waited.timed_out() {
                if !state.queue.is_empty() {
                    return true;
                }
                marks_may_come = false;
            }
        }
    }

    /// Takes what is queued, if anything is.
    pub(super) fn take_ops(&self) -> VecDeque<Op> {
        take_queue(&mut self.state())
    }

    /// The same if all of it is light.
    pub(super) fn take_light(&self) -> Option<VecDeque<Op>> {
        let mut state = self.state();
        state.is_light().then(|| take_queue(&mut state))
    }

    /// Wakes the thread, for what is already queued or for what it does besides.
    pub(super) fn rouse(&self) {
        self.alert(self.state());
    }

    pub(super) fn is_closed(&self) -> bool {
        let state = self.state();
        state.closing && state.queue.is_empty()
    }

    /// Waits until something is queued that somebody waits for, or the log is closed.
    pub(super) async fn urgent(&self) {
        loop {
            let notified = self.stepper.notified();
            {
                let state = self.state();
                if state.urgent || state.closing {
                    return;
                }
            }
            notified.await;
        }
    }

    /// Shows readers where entries are now, and lets go of those that need no longer be in memory.
    pub(super) fn publish(&self, moved: Vec<Moved>, created: Vec<NumberedFile>, last_sync: Duration) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.is_quick = last_sync <= self.options.quick_sync;
        state.segments.extend(created);
        for change in moved {
            match change {
                Moved::Entry(id, position) => state.positions.push(id, position),
                Moved::Truncated(end) => state.positions.truncate(end),
                Moved::Purged(start) => state.positions.purge(start),
            }
        }
        let freed = state.tail.shrink(state.positions.terms());
        drop(guard);
        drop(freed);
    }

    pub(super) fn removed(&self, segment: SegmentNumber) {
        self.state().segments.remove(&segment);
    }

    pub(super) fn release(&self, permits: usize) {
        self.room.add_permits(permits);
    }

    /// Remembers the first error for good. Returns what was still queued, and whether this is the first error.
    pub(super) fn fail(&self, error: &LogError) -> (VecDeque<Op>, bool) {
        let mut state = self.state();
        let first = state.failed.is_none();
        state.failed.get_or_insert_with(|| error.clone());
        self.room.close();
        (take_queue(&mut state), first)
    }

    pub(super) fn failure(&self) -> Option<LogError> {
        self.state().failed.clone()
    }
}

fn take_queue(state: &mut State) -> VecDeque<Op> {
    state.urgent = false;
    std::mem::take(&mut state.queue)
}

fn ensure_next(state: &State, entries: &[Entry]) -> Result<(), LogError> {
    // The first entry of an empty log may have any index.
    let mut expected = state.last().map(|last| next_index(Some(last)));
    for entry in entries {
        let index = entry.log_id.index;
        if expected.is_some_and(|expected| expected != index) || index == u64::MAX {
            let last = state.last();
            return Err(LogError::Refused(format!("entry {} does not follow {last:?} without a gap", entry.log_id)));
        }
        expected = Some(index + 1);
    }
    Ok(())
}
