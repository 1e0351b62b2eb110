//! A store whose runs are fed to a hub by hand, and streams whose steps are taken by hand.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tenure_core::apply::apply_group;
use tenure_core::codec::GroupBuilder;
use tenure_core::command::{Command, DeleteRange, EntryPosition, GroupHeader, KeyRange, Op, Put, Txn};
use tenure_core::outcome::KeyValue;
use tenure_core::row::EventRow;
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, LogIndex, Revision, Term};
use tenure_raft::{AppliedRun, Effects};
use tenure_storage::mem::MemEngine;
use tenure_storage::purge::{PurgeProgress, PurgeWork};
use tenure_storage::state_view::StateView;
use tenure_storage::store::{Applied, StateStore};
use tokio::sync::Notify;

use super::super::hub::WatchHub;
use super::super::limits::StreamLimits;
use super::super::stream::WatchStream;
use super::super::turns::Turn;
use super::super::types::{CreateWatch, Kinds, Scope, WatchId, WatchMessage};
use super::super::work::Work;

/// A store, its hub, and everything that ever happened in it.
pub(super) struct World {
    store: StateStore,
    pub(super) hub: WatchHub,
    pub(super) events: Vec<EventRow>,
    /// The run that the hub was told of last, as long as anybody keeps it.
    pub(super) last_run: Weak<[EventRow]>,
}

/// Whether the hub is told of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Yes,
    /// As on a member that gets the run with a snapshot.
    No,
}

impl World {
    pub(super) fn new(ring_bytes_max: usize) -> World {
        let store = StateStore::open(Arc::new(MemEngine::new())).unwrap();
        let hub = WatchHub::by_hand(ring_bytes_max);
        hub.replaced(&store.view());
        World { store, hub, events: Vec::new(), last_run: Weak::<[EventRow; 0]>::new() }
    }

    pub(super) fn view(&self) -> Arc<StateView> {
        self.store.view()
    }

    pub(super) fn revision(&self) -> Revision {
        self.view().meta().revision
    }

    /// Applies one run of commands, each an entry of its own.
    pub(super) fn apply(&mut self, commands: &[Command], told: Told) -> Revision {
        let mut applied =
            Applied { term: Term(1), membership: Bytes::from_static(b"m"), ..self.store.applied().clone() };
        let mut log_bytes = 0;
        let mut run = self.store.begin();
        for command in commands {
            let mut group = GroupBuilder::new(GroupHeader::default());
            group.push(&command.encode());
            let group = group.finish();
            log_bytes += group.len();
            applied.index = LogIndex(applied.index.0 + 1);
            let outcomes =
                apply_group(&mut run, EntryPosition { index: applied.index, term: Term(1) }, &group).unwrap().outcomes;
            assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{command:?}: {outcomes:?}");
        }
        let committed = run.commit(applied).unwrap();
        self.events.extend(committed.events.iter().cloned());
        if told == Told::Yes {
            let events: Arc<[EventRow]> = committed.events.into();
            self.last_run = Arc::downgrade(&events);
            let (leases, locks) = (committed.leases.into(), committed.locks.into());
            self.hub.applied(&AppliedRun { view: committed.view, events, leases, locks, log_bytes });
        }
        self.revision()
    }

    /// One put in a run of its own.
    pub(super) fn put(&mut self, key: &str, value: &str) -> Revision {
        self.apply(&[put(key, value)], Told::Yes)
    }

    /// One delete in a run of its own.
    pub(super) fn delete(&mut self, key: &str) -> Revision {
        self.apply(&[delete(KeyRange::One(bytes(key)))], Told::Yes)
    }

    pub(super) fn compact(&mut self, revision: Revision) {
        self.apply(&[Command::Compact(revision)], Told::Yes);
    }

    /// Deletes what compaction made superfluous.
    pub(super) fn purge(&mut self) {
        while let Some(mut work) = PurgeWork::plan(&self.view()).unwrap() {
            while self.store.purge_step(&mut work).unwrap() == PurgeProgress::More {}
        }
    }

    /// Tells the hub what it was not told run by run.
    pub(super) fn replace(&self) {
        self.hub.replaced(&self.view());
    }

    /// Lets the hub match everything.
    pub(super) fn match_all(&self) {
        while self.hub.shared().match_some() {}
    }

    /// A key as it was at a revision, whatever was compacted since.
    pub(super) fn key_at(&self, key: &[u8], revision: Revision) -> Option<KeyValue> {
        let before = |event: &&EventRow| event.key == key && event.meta.modified.revision <= revision;
        let event = self.events.iter().rev().find(before)?;
        let kv = KeyValue::of(event.key.clone(), &event.meta, event.value.clone());
        (!event.meta.is_tombstone()).then_some(kv)
    }
}

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put_op(key: &str, value: &str) -> Put {
    let (key, value) = (bytes(key), bytes(value));
    Put { key, value, lease: LeaseId::NONE, prev_kv: false, ignore_value: false, ignore_lease: false }
}

pub(super) fn put(key: &str, value: &str) -> Command {
    Command::Put(put_op(key, value))
}

pub(super) fn delete(range: KeyRange) -> Command {
    Command::DeleteRange(DeleteRange { range, prev_kv: false })
}

/// Puts of different keys in one revision.
pub(super) fn puts(keys: &BTreeMap<String, String>) -> Command {
    let success = keys.iter().map(|(key, value)| Op::Put(put_op(key, value))).collect();
    Command::Txn(Txn { compares: Vec::new(), success, failure: Vec::new() })
}

/// What an event takes in these tests' messages.
pub(super) fn event_bytes(event: &EventRow, previous: Option<&KeyValue>) -> usize {
    10 + event.key.len() + event.value.len() + previous.map_or(0, |kv| kv.value.len())
}

/// A stream whose work is done when the test says so.
pub(super) struct Client {
    pub(super) stream: WatchStream,
    pub(super) works: Vec<Work>,
}

impl Client {
    pub(super) fn new(world: &World) -> Client {
        Client::with(world, StreamLimits::new(1 << 20, event_bytes))
    }

    pub(super) fn with(world: &World, limits: StreamLimits) -> Client {
        let stream = WatchStream::open(&world.hub, limits, Arc::new(Notify::new())).unwrap();
        Client { stream, works: Vec::new() }
    }

    /// One turn, if there is any.
    pub(super) fn turn(&mut self, world: &World) {
        if self.stream.has_turn() {
            match self.stream.turn(&|| world.view()).unwrap() {
                Turn::Work(work) => self.works.push(work),
                Turn::More | Turn::Idle => {}
            }
        }
    }

    /// Finishes the work at a place.
    pub(super) fn work(&mut self, place: usize, world: &World) {
        let done = self.works.swap_remove(place).run(&|| world.view()).unwrap();
        self.stream.finish(done);
    }

    /// Everything that there is to tell now.
    pub(super) fn everything(&mut self, world: &World) -> Vec<WatchMessage> {
        world.match_all();
        self.stream.collect();
        let mut messages = Vec::new();
        loop {
            messages.extend(std::iter::from_fn(|| self.stream.message()));
            if !self.works.is_empty() {
                self.work(0, world);
            } else if self.stream.has_turn() {
                self.turn(world);
            } else {
                return messages;
            }
        }
    }
}

/// A plain watcher.
pub(super) fn watch(range: KeyRange, start: Revision) -> CreateWatch {
    let scope = Scope { range, kinds: Kinds::ALL, prev_kv: false, fragment: false };
    CreateWatch { id: None, start, scope, progress_notify: false }
}

pub(super) fn watch_key(key: &str) -> CreateWatch {
    watch(KeyRange::One(bytes(key)), Revision(0))
}

/// The revisions of the events that a watcher was told, and the kinds of its other messages, as text.
pub(super) fn told(messages: &[WatchMessage]) -> Vec<String> {
    let told = |message: &WatchMessage| match message {
        WatchMessage::Created { id: WatchId(id), revision } => format!("{id} created at {revision}"),
        WatchMessage::Refused { refusal, revision } => format!("refused at {revision}: {refusal}"),
        WatchMessage::Canceled { id: WatchId(id), revision } => format!("{id} canceled at {revision}"),
        WatchMessage::Compacted { id: WatchId(id), compacted } => format!("{id} compacted to {compacted}"),
        WatchMessage::Failed { id: WatchId(id), refusal, .. } => format!("{id} failed: {refusal}"),
        WatchMessage::Progress { id: Some(WatchId(id)), revision } => format!("{id} at {revision}"),
        WatchMessage::Progress { id: None, revision } => format!("all at {revision}"),
        WatchMessage::Events { id: WatchId(id), revision, events, fragment } => {
            let events: Vec<String> = events
                .iter()
                .map(|told| {
                    let event = &told.event;
                    let sign = if event.meta.is_tombstone() { "-" } else { "+" };
                    let previous = told
                        .previous
                        .as_ref()
                        .map_or(String::new(), |kv| format!(" was {}", String::from_utf8_lossy(&kv.value)));
                    let key = String::from_utf8_lossy(&event.key);
                    format!("{}{sign}{key}{previous}", event.meta.modified.revision)
                })
                .collect();
            let more = if *fragment { ", more follows" } else { "" };
            format!("{id} up to {revision}: {}{more}", events.join(", "))
        }
    };
    messages.iter().map(told).collect()
}
