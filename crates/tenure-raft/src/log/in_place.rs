//! Writes what a follower appends there and then, without the log's thread, if it is *light*.
//!
//! To hand a small append to the thread and to hear back from it takes two switches between threads. On a quick disk
//! these take about as long as the sync, and the follower has nothing else to do meanwhile: its leader's client waits.
//! So a small append, with the marks that wait, is written and synced where it is appended, on a disk whose last sync was
//! quick, and into room that the file has. On a slow disk the thread does it: the runtime, which also carries heartbeats,
//! votes and what confirms reads, is held up by one slow sync and not by the next. What a leader appends always goes to
//! the thread, because it is sent to the followers meanwhile.
//!
//! The writer is behind a lock, and the queue is taken under it, so the order in the file is the order of the queue
//! whoever writes. Nobody waits for that lock here: while the thread has it, what is queued is the thread's.

use std::sync::{Arc, Mutex};

use super::shared::Shared;
use super::wal_thread::{PanicGuard, Worker};

/// More bytes than this are not light: groups of many clients, large values.
pub(super) const LIGHT_BYTES: usize = 4 << 10;

/// The writing side of a log, for whoever's turn it is. Empty once the log is closed.
pub(super) type Seat = Arc<Mutex<Option<Worker>>>;

/// Writes what is queued, if nobody else does and it is still light; else wakes the thread for it.
pub(super) fn write(shared: &Arc<Shared>, seat: Option<&Seat>) {
    let _panic = PanicGuard(shared.clone());
    let done = match seat.map(|seat| seat.try_lock()) {
        Some(Ok(mut worker)) => worker.as_mut().is_some_and(Worker::step_light),
        _ => false,
    };
    if !done {
        shared.rouse();
    }
}
