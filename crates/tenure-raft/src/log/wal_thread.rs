//! The loop that takes what is queued, writes it, syncs once and tells whoever waits.
//!
//! It has an operating system thread of its own, because a sync blocks for as long as the disk likes; only what is light a
//! follower writes without it (`in_place.rs`). A simulation steps the same loop by hand. While a sync runs the queue
//! grows, and the next turn takes all of it: groups form by themselves, without timers.
//!
//! The first error ends the log: who waits is told, `on_failure` is called, nothing more is accepted. A failed sync may
//! have dropped the data it was asked for, so trying again would only hide the loss.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, PoisonError};

use openraft::storage::IOFlushed;
use tenure_core::planted::{Bug, is_on};
use tenure_faults::{Point, hit};
use tokio::sync::oneshot;

use super::counters::Counters;
use super::error::LogError;
use super::files::FileLock;
use super::in_place::{LIGHT_BYTES, Seat};
use super::shared::{Op, Shared};
use super::writer::Writer;
use crate::types::Config;

/// Whoever waits for one operation of a group.
enum Waiter {
    Append { permits: usize, done: IOFlushed<Config> },
    Vote(oneshot::Sender<io::Result<()>>),
}

/// The writing side of a log.
#[derive(Debug)]
pub(super) struct Worker {
    shared: Arc<Shared>,
    writer: Writer,
    /// Held until nothing more can be written.
    _lock: Box<dyn FileLock>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, writer: Writer, lock: Box<dyn FileLock>) -> Worker {
        Worker { shared, writer, _lock: lock }
    }

    /// Does what is queued if all of it is light, and nothing that may take longer; `false` if the thread is needed, to
    /// do it or to clear up.
    pub(super) fn step_light(&mut self) -> bool {
        if !self.writer.has_room(2 * LIGHT_BYTES) {
            return false;
        }
        let Some(ops) = self.shared.take_light() else { return false };
        let some = !ops.is_empty();
        // Whoever waited is told of an error, and the shared state keeps it.
        let done = self.work(ops).is_ok();
        Counters::add(&self.shared.counters.syncs_in_place, usize::from(some && done));
        done && !self.writer.has_purged_segment()
    }

    /// Does what is queued; whether anything was.
    pub(super) fn step(&mut self) -> bool {
        let ops = self.shared.take_ops();
        let some = !ops.is_empty();
        // Whoever waited was told of an error, and the shared state keeps it.
        drop(self.work(ops).and_then(|()| self.remove_purged_segment()));
        some
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn close(&mut self) -> Result<(), LogError> {
        self.shared.close();
        self.step();
        self.shared.failure().map_or_else(|| self.writer.close(), Err)
    }

    fn work(&mut self, ops: VecDeque<Op>) -> Result<(), LogError> {
        if let Some(error) = self.shared.failure() {
            fail(&self.shared, &error, waiters_of(ops));
            return Err(error);
        }
        let mut waiters = Vec::with_capacity(ops.len());
        let written = self.write(ops, &mut waiters);
        if let Err(error) = written {
            fail(&self.shared, &error, waiters);
            return Err(error);
        }
        let (moved, created) = self.writer.take_changes();
        self.shared.publish(moved, created, self.writer.last_sync());
        complete(&self.shared, waiters);
        Ok(())
    }

    fn remove_purged_segment(&mut self) -> Result<(), LogError> {
        match self.writer.remove_purged_segment() {
            Ok(None) => Ok(()),
            Ok(Some(number)) => {
                self.shared.removed(number);
                Ok(())
            }
            Err(error) => {
                fail(&self.shared, &error, Vec::new());
                Err(error)
            }
        }
    }

    /// Writes all of it, and syncs if anybody waits. Nobody is told before all of it is on the disk, so an order between
    /// votes and entries cannot show.
    fn write(&mut self, ops: VecDeque<Op>, waiters: &mut Vec<Waiter>) -> Result<(), LogError> {
        let mut result = hit(Point::RaftBeforeSave).map_err(|error| self.writer.io("save to", &error));
        for op in ops {
            match op {
                Op::Append { entries, permits, done, .. } => {
                    waiters.push(Waiter::Append { permits, done });
                    result = result.and_then(|()| entries.iter().try_for_each(|entry| self.writer.entry(entry)));
                }
                Op::Vote { vote, done } => {
                    waiters.push(Waiter::Vote(done));
                    result = result.and_then(|()| self.writer.vote(vote));
                }
                Op::Truncate(last) => result = result.and_then(|()| self.writer.truncate(last)),
                Op::Committed(mark) => result = result.and_then(|()| self.writer.committed(mark)),
                Op::Purge(upto, freed) => {
                    drop(freed);
                    result = result.and_then(|()| self.writer.purge(upto));
                }
            }
        }
        result?;
        let early = is_on(Bug::EarlyAppendAck) && waiters.iter().all(|waiter| matches!(waiter, Waiter::Append { .. }));
        if waiters.is_empty() || early { self.writer.write() } else { self.writer.flush() }?;
        hit(Point::RaftAfterSave).map_err(|error| self.writer.io("save to", &error))
    }
}

/// The log's thread: works until the log is closed or fails.
pub(super) fn run(shared: &Arc<Shared>, seat: &Seat) {
    let _panic = PanicGuard(shared.clone());
    while shared.wait_for_ops() {
        if let Some(worker) = seat.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            worker.step();
        }
        if shared.failure().is_some() {
            break;
        }
    }
    // With it goes the lock on the directory.
    let worker = seat.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let (Some(mut worker), None) = (worker, shared.failure())
        && let Err(error) = worker.writer.close()
    {
        fail(shared, &error, Vec::new());
    }
}

fn waiters_of(ops: VecDeque<Op>) -> Vec<Waiter> {
    let waiter = |op| match op {
        Op::Append { permits, done, .. } => Some(Waiter::Append { permits, done }),
        Op::Vote { done, .. } => Some(Waiter::Vote(done)),
        Op::Truncate(_) | Op::Committed(_) | Op::Purge(..) => None,
    };
    ops.into_iter().filter_map(waiter).collect()
}

fn complete(shared: &Shared, waiters: Vec<Waiter>) {
    // openraft keeps only the newest completion, and each one wakes its core: of a group, the last append's is enough.
    let is_notify = |waiter: &Waiter| matches!(waiter, Waiter::Append { done: IOFlushed::Notify(_), .. });
    let last_notify = waiters.iter().rposition(is_notify);
    for (position, waiter) in waiters.into_iter().enumerate() {
        let superseded = is_notify(&waiter) && Some(position) != last_notify;
        match waiter {
            Waiter::Append { permits, done } => {
                shared.release(permits);
                if !superseded {
                    done.io_completed(Ok(()));
                }
            }
            // Whoever saved the vote has gone; it is saved all the same.
            Waiter::Vote(done) => drop(done.send(Ok(()))),
        }
    }
}

fn fail(shared: &Shared, error: &LogError, mut waiters: Vec<Waiter>) {
    let (queued, first) = shared.fail(error);
    waiters.extend(waiters_of(queued));
    for waiter in waiters {
        match waiter {
            Waiter::Append { done, .. } => done.io_completed(Err(error.clone().into())),
            // As above.
            Waiter::Vote(done) => drop(done.send(Err(error.clone().into()))),
        }
    }
    if first {
        tracing::error!("{error}");
        if let Some(on_failure) = &shared.options.on_failure {
            on_failure(error);
        }
    }
}

/// Makes a panic of whoever writes an error of the log: else callers would wait for ever.
pub(super) struct PanicGuard(pub(super) Arc<Shared>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            fail(&self.0, &LogError::Refused("its writer has panicked".into()), Vec::new());
        }
    }
}
