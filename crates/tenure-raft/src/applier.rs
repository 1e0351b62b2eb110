//! The apply loop: the one place that changes the state machine.
//!
//! One command can take long (a delete of a hundred thousand keys) and must not hold up heartbeats, which share a thread
//! with the consensus core: such runs are applied on a thread of their own. A run of a few plain puts takes less time than
//! waking that thread, so it is applied at once. Only one run is under way at any time, whichever way it goes. A run of committed entries becomes one engine
//! batch; the new view is published before anybody is answered, so that whoever hears of a write can read it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::storage::ApplyResponder;
use tenure_core::apply::apply_group;
use tenure_core::codec::Group;
use tenure_core::command::{Command, EntryPosition};
use tenure_core::state::StateRead;
use tenure_core::{LogIndex, Term};
use tenure_storage::flusher::Flusher;
use tenure_storage::state_view::StateView;
use tenure_storage::store::{Applied, Committed, StateStore};
use tokio::sync::{mpsc, oneshot, watch};

use crate::effects::{AppliedRun, Effects};
use crate::entry_codec::encode_stored_membership;
use crate::lease_clock::LeaseClock;
use crate::runtime::BootInstant;
use crate::types::{Config, Entry, GroupReply, Payload, StoredMembership};

/// Runs waiting for the apply thread. openraft hands over one at a time.
const JOBS_MAX: usize = 4;

/// A committed entry and, on the node that proposed it, where its result goes.
pub(crate) type CommittedEntry = (Entry, Option<ApplyResponder<Config>>);

struct Job {
    entries: Vec<CommittedEntry>,
    done: oneshot::Sender<io::Result<()>>,
}

/// The state store, shared between the apply thread and the purge of compacted history, which commits between runs.
#[derive(Clone)]
pub(crate) struct SharedStore {
    store: Arc<Mutex<StateStore>>,
    published: watch::Sender<Arc<StateView>>,
    flusher: Flusher,
    effects: Arc<[Arc<dyn Effects>]>,
    lease_clock: Arc<LeaseClock>,
}

impl SharedStore {
    /// The effects are told of the state as it is now.
    pub(crate) fn new(store: StateStore, effects: Vec<Arc<dyn Effects>>) -> SharedStore {
        let published = watch::Sender::new(store.view());
        let flusher = store.flusher();
        for effect in &effects {
            effect.replaced(&store.view());
        }
        let lease_clock = Arc::new(LeaseClock::new(store.view().meta().lease_clock_ms, BootInstant::now()));
        SharedStore { store: Arc::new(Mutex::new(store)), published, flusher, effects: effects.into(), lease_clock }
    }

    /// The view published last.
    pub(crate) fn view(&self) -> Arc<StateView> {
        self.published.borrow().clone()
    }

    /// The lease clock as this node reckons it.
    pub(crate) fn lease_clock(&self) -> Arc<LeaseClock> {
        self.lease_clock.clone()
    }

    /// Makes what is applied durable, without the store's lock.
    pub(crate) fn flusher(&self) -> Flusher {
        self.flusher.clone()
    }

    /// The views, as they are published.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<StateView>> {
        self.published.subscribe()
    }

    /// The store, for a change of it: when the change is done, [`SharedStore::publish`] is called under this lock, so
    /// that views are published in the order in which they came to be.
    ///
    /// A poisoned lock means that apply panicked: the process is about to abort.
    pub(crate) fn lock(&self) -> io::Result<MutexGuard<'_, StateStore>> {
        self.store.lock().map_err(|_| io::Error::other("the state store was left half-way by a panic"))
    }

    pub(crate) fn publish(&self, store: &StateStore) {
        self.published.send_replace(store.view());
    }

    /// Tells the lease clock what the entries of a run told, before the run's view is published: whoever sees that this
    /// node has applied all of earlier terms may go by the clock.
    fn tell_time(&self, view: &StateView, terms: &[Term]) {
        let now = BootInstant::now();
        for term in terms {
            self.lease_clock.told(view.meta().lease_clock_ms, *term, now);
        }
    }

    /// Hands on what a run changed, once its view is published and still under the store's lock: in log order.
    fn tell(&self, committed: Committed, log_bytes: usize) {
        let Committed { view, events, leases } = committed;
        let run = AppliedRun { view, events: events.into(), leases: leases.into(), log_bytes };
        for effect in self.effects.iter() {
            effect.applied(&run);
        }
    }
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
    thread: Option<JoinHandle<()>>,
}

impl Applier {
    /// Starts the thread. Runs that take longer than `slow` are logged.
    pub(crate) fn start(store: SharedStore, slow: Option<Duration>) -> io::Result<Applier> {
        let (jobs, mut queue) = mpsc::channel::<Job>(JOBS_MAX);
        let shared = store.clone();
        let thread = std::thread::Builder::new().name("apply".into()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                let result = shared.lock().and_then(|mut store| apply_run(&shared, &mut store, job.entries, slow));
                // Nobody waits for the result when the core has shut down in the meantime.
                drop(job.done.send(result));
            }
        })?;
        Ok(Applier { store, slow, jobs, thread: Some(thread) })
    }

    /// Applies entries in order and returns when their effects are visible.
    pub(crate) async fn apply(&self, entries: Vec<CommittedEntry>) -> io::Result<()> {
        if is_light(&entries)
            && let Ok(mut store) = self.store.store.try_lock()
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
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the apply thread panicked");
        }
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
    let count = entries.len();
    let mut answers = Vec::with_capacity(entries.len());
    let mut applied = store.applied().clone();
    let (mut told_time, mut log_bytes) = (Vec::new(), 0);
    let mut run = store.begin();
    for (entry, responder) in entries {
        if let Payload::Normal(proposal) = &entry.payload {
            log_bytes += proposal.0.len();
        }
        let Carried { reply, membership, tells_time } = apply_entry(&mut run, entry)?;
        if tells_time && told_time.last() != Some(&reply.term) {
            told_time.push(reply.term);
        }
        applied.index = reply.index;
        applied.term = reply.term;
        if let Some(membership) = membership {
            applied.membership = membership;
        }
        if let Some(responder) = responder {
            answers.push((responder, reply));
        }
    }
    let committed = run.commit(applied).map_err(io::Error::other)?;
    shared.tell_time(&committed.view, &told_time);
    shared.publish(store);
    shared.tell(committed, log_bytes);
    let took = started.elapsed();
    if slow.is_some_and(|limit| took > limit) {
        tracing::warn!(entries = count, ?took, "slow apply");
    }
    for (responder, reply) in answers {
        responder.send(reply);
    }
    Ok(())
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
