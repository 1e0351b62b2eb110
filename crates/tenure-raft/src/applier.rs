//! The apply loop: the one place that changes the state machine.
//!
//! One command can take long (a delete of a hundred thousand keys) and must not hold up heartbeats, which share a thread
//! with the consensus core: such runs are applied on a thread of their own. A run of a few plain puts takes less time than
//! waking that thread, so it is applied at once. Only one run is under way at any time, whichever way it goes. A run of committed entries becomes one engine
//! batch; the new view is published before anybody is answered, so that whoever hears of a write can read it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::storage::ApplyResponder;
use tenure_core::apply::apply_group;
use tenure_core::codec::Group;
use tenure_core::command::{Command, EntryPosition};
use tenure_core::{LogIndex, Term};
use tenure_faults::{Point, hit};
use tenure_storage::store::{Applied, StateStore};
use tokio::sync::{mpsc, oneshot};

use crate::entry_codec::encode_stored_membership;
use crate::runtime::{BootInstant, Looping, spawn_loop};
use crate::shared_store::SharedStore;
use crate::types::{Config, Entry, GroupReply, Payload, StoredMembership};

/// Runs waiting for the apply thread. openraft hands over one at a time.
const JOBS_MAX: usize = 4;

/// A committed entry and, on the node that proposed it, where its result goes.
pub(crate) type CommittedEntry = (Entry, Option<ApplyResponder<Config>>);

struct Job {
    entries: Vec<CommittedEntry>,
    done: oneshot::Sender<io::Result<()>>,
}

/// A run of at most this many bytes and commands, all of them plain puts, is applied where it arrives: at 5 to 10 µs a
/// put it costs less than two hand-overs between threads.
const LIGHT_RUN_BYTES_MAX: usize = 8 * 1024;
const LIGHT_RUN_COMMANDS_MAX: usize = 16;

/// Applies committed entries.
pub(crate) struct Applier {
    store: SharedStore,
    slow: Option<Duration>,
    jobs: mpsc::Sender<Job>,
    thread: Looping,
}

impl Applier {
    /// Starts the thread. Runs that take longer than `slow` are logged.
    pub(crate) fn start(store: SharedStore, slow: Option<Duration>) -> io::Result<Applier> {
        let (jobs, mut queue) = mpsc::channel::<Job>(JOBS_MAX);
        let shared = store.clone();
        let apply_loop = async move {
            while let Some(job) = queue.recv().await {
                let result = shared.lock().and_then(|mut store| apply_run(&shared, &mut store, job.entries, slow));
                // Nobody waits for the result when the core has shut down in the meantime.
                drop(job.done.send(result));
            }
        };
        let thread = spawn_loop("apply", apply_loop)?;
        Ok(Applier { store, slow, jobs, thread })
    }

    /// Applies entries in order and returns when their effects are visible.
    pub(crate) async fn apply(&self, entries: Vec<CommittedEntry>) -> io::Result<()> {
        if entries.iter().all(|(_, responder)| responder.is_none()) {
            // Nobody here waits for it, but the leader for the answer to what came with it.
            tokio::task::yield_now().await;
        }
        if is_light(&entries)
            && let Some(mut store) = self.store.try_lock()
        {
            return apply_run(&self.store, &mut store, entries, self.slow);
        }
        let (done, result) = oneshot::channel();
        let gone = || io::Error::other("the apply thread has stopped");
        self.jobs.send(Job { entries, done }).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.jobs = closed;
        self.thread.join();
    }
}

/// Whether a run is sure to take little time. What cannot be read is for the apply thread to complain of.
fn is_light(entries: &[CommittedEntry]) -> bool {
    let mut bytes = 0;
    let mut commands = 0;
    for (entry, _) in entries {
        if let Payload::Normal(proposal) = &entry.payload {
            bytes += proposal.0.len();
            if bytes > LIGHT_RUN_BYTES_MAX {
                return false;
            }
            let Ok(group) = Group::decode(&proposal.0) else { return false };
            commands += group.commands.len();
            let is_put = |command| matches!(Command::decode(command), Ok(Command::Put(_)));
            if commands > LIGHT_RUN_COMMANDS_MAX || !group.commands.iter().all(is_put) {
                return false;
            }
        }
    }
    true
}

fn apply_run(
    shared: &SharedStore,
    store: &mut StateStore,
    entries: Vec<CommittedEntry>,
    slow: Option<Duration>,
) -> io::Result<()> {
    let started = BootInstant::now();
    hit(Point::RaftBeforeApply)?;
    let count = entries.len();
    let mut decided = Vec::with_capacity(entries.len());
    let mut applied = store.applied().clone();
    let (mut telling, mut log_bytes) = (Vec::new(), 0);
    let mut run = store.begin();
    for (entry, responder) in entries {
        let group = match &entry.payload {
            Payload::Normal(proposal) => proposal.0.clone(),
            Payload::Blank | Payload::Membership(_) => Bytes::new(),
        };
        log_bytes += group.len();
        hit(Point::RaftBeforeApplyEntry)?;
        let Carried { reply, membership, tells_time } = apply_entry(&mut run, entry)?;
        if tells_time {
            note_telling(&mut telling, reply.term, reply.index);
        }
        applied.index = reply.index;
        applied.term = reply.term;
        if let Some(membership) = membership {
            applied.membership = membership;
        }
        decided.push((group, reply, responder));
    }
    let committed = run.commit(applied).map_err(io::Error::other)?;
    shared.tell_time(&committed.view, &telling);
    shared.publish(store);
    shared.tell(committed, log_bytes);
    for (group, reply, _) in decided.iter().filter(|(group, ..)| !group.is_empty()) {
        shared.tell_decided(group, &reply.outcomes);
    }
    hit(Point::RaftAfterApply)?;
    let took = started.elapsed();
    if slow.is_some_and(|limit| took > limit) {
        tracing::warn!(entries = count, ?took, "slow apply");
    }
    for (_, reply, responder) in decided {
        if let Some(responder) = responder {
            responder.send(reply);
        }
    }
    Ok(())
}

/// Keeps the last entry of each term that tells the time.
fn note_telling(telling: &mut Vec<(Term, LogIndex)>, term: Term, index: LogIndex) {
    match telling.last_mut() {
        Some((last_term, last)) if *last_term == term => *last = index,
        _ => telling.push((term, index)),
    }
}

/// What carrying out an entry gave.
struct Carried {
    reply: GroupReply,
    /// The membership that it puts in force.
    membership: Option<Bytes>,
    /// Whether it carried a reading of the lease clock.
    tells_time: bool,
}

fn apply_entry(run: &mut tenure_storage::store::Run<'_>, entry: Entry) -> io::Result<Carried> {
    let log_id = entry.log_id();
    let position = EntryPosition { index: LogIndex(log_id.index()), term: Term(log_id.committed_leader_id().term) };
    let mut reply = GroupReply { index: position.index, term: position.term, outcomes: Vec::new() };
    let (mut membership, mut tells_time) = (None, false);
    match entry.payload {
        Payload::Blank => {}
        Payload::Normal(proposal) => {
            let applied = apply_group(run, position, &proposal.0)
                .map_err(|error| io::Error::other(format!("entry {} cannot be applied: {error}", position.index)))?;
            (reply.outcomes, tells_time) = (applied.outcomes, applied.told_time);
        }
        Payload::Membership(change) => {
            membership = Some(encode_stored_membership(&StoredMembership::new(Some(log_id), change)));
        }
    }
    Ok(Carried { reply, membership, tells_time })
}

/// What was applied before anything was: no membership yet.
pub(crate) fn nothing_applied(applied: &Applied) -> bool {
    applied.membership.is_empty()
}
