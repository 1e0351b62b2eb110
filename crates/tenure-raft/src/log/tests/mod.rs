//! Tests of the log as a whole, mostly on files that forget what was not synced.

mod crash;
mod damage;
mod flow;
mod in_place;
mod reading;
mod suite;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::OneshotReceiverOf;

use super::*;
use crate::types::{Config, Entry, LogId, Payload, Proposal, Vote, log_id};

pub(super) const DIR: &str = "/data/log";

/// An entry whose bytes say which one it is.
fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let mut payload = format!("{term}/{index}:").into_bytes();
    payload.resize(payload.len().max(bytes), 0xa5);
    Entry { log_id: log_id(term, index), payload: Payload::Normal(Proposal(Bytes::from(payload))) }
}

fn small() -> LogOptions {
    LogOptions { segment_bytes: 1024, tail_bytes_max: 512, ..LogOptions::default() }
}

type Done = OneshotReceiverOf<Config, Result<(), io::Error>>;

/// A log without a thread, driven from a plain test.
struct Log {
    store: LogStore,
    stepper: LogStepper,
}

/// All that a reader can see.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    entries: Vec<Entry>,
}

impl Log {
    fn open(disk: &SimFiles, options: LogOptions) -> Result<Log, LogError> {
        let (store, stepper) = LogStore::open_stepped(Arc::new(disk.clone()), Path::new(DIR), options)?;
        Ok(Log { store, stepper })
    }

    fn append(&mut self, entries: impl IntoIterator<Item = Entry>) -> io::Result<Done> {
        let (tx, done) = Config::oneshot();
        let entries: Vec<Entry> = entries.into_iter().collect();
        now(self.store.append(entries, IOFlushed::signal(tx)))?;
        Ok(done)
    }

    fn vote(&mut self, vote: Vote) -> Result<tokio::sync::oneshot::Receiver<io::Result<()>>, LogError> {
        self.store.queue_vote(vote)
    }

    fn committed(&mut self, at: LogId) -> io::Result<()> {
        now(self.store.save_committed(Some(at)))
    }

    fn truncate_after(&mut self, at: Option<LogId>) -> io::Result<()> {
        now(self.store.truncate_after(at))
    }

    fn purge(&mut self, upto: LogId) -> io::Result<()> {
        now(self.store.purge(upto))
    }

    fn step(&mut self) -> bool {
        self.stepper.step()
    }

    fn seen(&mut self) -> io::Result<Seen> {
        let state = now(self.store.get_log_state())?;
        Ok(Seen {
            vote: now(self.store.read_vote())?,
            committed: now(self.store.read_committed())?,
            purged: state.last_purged_log_id,
            last: state.last_log_id,
            entries: now(self.store.try_get_log_entries(..))?,
        })
    }
}

/// The result of something that need not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("it waits for something")
}

/// What became of an append, if that is known yet.
fn outcome(done: &mut Done) -> Option<Result<(), io::Error>> {
    done.now_or_never()?.ok()
}
