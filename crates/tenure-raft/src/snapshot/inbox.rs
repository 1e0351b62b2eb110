//! The receiving end: one snapshot at a time, from its offer to its installation.
//!
//! Nothing here waits for the network, and all of it may wait for the disk: callers keep it off the thread of consensus.
//! An offer ends what an earlier one began, so that no two streams write the same files; a stream says which offer it
//! belongs to in every piece. What was received stays when a stream breaks, and at the end of the process, until the state
//! has overtaken it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure_proto::tenure::peer::v1 as pb;

use super::counters::Counters;
use super::incoming::{Incoming, ReceiveError, SPARE_BYTES};
use super::manifest::{Manifest, Place};
use crate::home::{Generation, Home, Housed};
use crate::runtime::BootInstant;

/// See the module's header.
pub(crate) struct Inbox {
    home: Arc<Home>,
    counters: Arc<Counters>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// The last offer that was answered.
    session: u64,
    stage: Stage,
    /// When this snapshot was first offered.
    begun: BootInstant,
}

enum Stage {
    Idle,
    /// An earlier life received some of the state at an entry; nobody has looked how much.
    Left(Generation, u64),
    Receiving(Box<Incoming>),
    /// Somebody reads back, or syncs and opens, what was received.
    Working,
    Ready(u64, Box<Housed>),
}

/// What to answer to an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    Busy,
    Send { at: Place, session: u64, there: u64 },
    Ready,
}

/// Why a stream does not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("another offer has come since")]
    Superseded,
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

impl Inbox {
    /// `unfinished` is what an earlier life was receiving.
    pub(crate) fn new(home: Arc<Home>, counters: Arc<Counters>, unfinished: Option<Generation>) -> Inbox {
        let mut stage = Stage::Idle;
        if let Some(generation) = unfinished {
            // Whoever died of a full disk must be able to start.
            let room = home.files().bytes_free(home.dir()).is_ok_and(|free| free >= SPARE_BYTES);
            match Incoming::index(&home, generation).filter(|_| room) {
                Some(index) => stage = Stage::Left(generation, index),
                None => abandon(&home, generation),
            }
        }
        Inbox { home, counters, inner: Mutex::new(Inner { session: 0, stage, begun: BootInstant::now() }) }
    }

    /// Takes up what is offered: goes on with it if it was begun, else begins it in place of what was begun.
    pub(crate) fn offer(&self, manifest: Manifest) -> Result<Offered, ReceiveError> {
        let mut inner = self.inner();
        let begun = match inner.put(Stage::Working) {
            Stage::Working => return Ok(Offered::Busy),
            Stage::Ready(id, housed) if id == manifest.id => {
                inner.put(Stage::Ready(id, housed));
                return Ok(Offered::Ready);
            }
            Stage::Receiving(incoming) if *incoming.manifest() == manifest => Some(incoming),
            Stage::Left(generation, _) => {
                drop(inner);
                let found = self.take_up(generation, &manifest);
                inner = self.inner();
                found
            }
            other @ (Stage::Idle | Stage::Receiving(_) | Stage::Ready(..)) => {
                self.give_up(other);
                None
            }
        };
        let incoming = match begun.map_or_else(|| self.begin(&mut inner, manifest), Ok) {
            Ok(incoming) => incoming,
            Err(error) => {
                inner.put(Stage::Idle);
                return Err(error);
            }
        };
        let at = incoming.next().map_or_else(|| incoming.place(), |piece| piece.at);
        let there = incoming.manifest().bytes_before(at);
        inner.put(Stage::Receiving(incoming));
        inner.session += 1;
        Ok(Offered::Send { at, session: inner.session, there })
    }

    /// Whether a state that was received is no newer than what is applied. Says no if somebody is just at it.
    pub(crate) fn is_overtaken(&self, applied: u64) -> bool {
        self.inner.try_lock().is_ok_and(|inner| inner.stage.index().is_some_and(|index| index <= applied))
    }

    /// Drops it.
    pub(crate) fn clear_up(&self, applied: u64) {
        let mut inner = self.inner();
        if inner.stage.index().is_some_and(|index| index <= applied) {
            let overtaken = inner.put(Stage::Idle);
            self.give_up(overtaken);
        }
    }

    fn begin(&self, inner: &mut Inner, manifest: Manifest) -> Result<Box<Incoming>, ReceiveError> {
        inner.begun = BootInstant::now();
        Incoming::begin(&self.home, manifest).map(Box::new)
    }

    /// What an earlier life received of this very snapshot; anything else is dropped.
    fn take_up(&self, generation: Generation, manifest: &Manifest) -> Option<Box<Incoming>> {
        match Incoming::resume(self.home.clone(), generation) {
            Ok(Some(incoming)) if incoming.manifest() == manifest => return Some(Box::new(incoming)),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "what was received of a snapshot cannot be read and is dropped"),
        }
        abandon(&self.home, generation);
        None
    }

    /// Writes a piece.
    pub(crate) fn take(&self, chunk: &pb::SnapshotChunk) -> Result<(), StreamError> {
        let mut inner = self.inner();
        let taken = inner.receiving(chunk.session)?.take(chunk);
        match &taken {
            Ok(()) => self.counters.bytes_received.add(chunk.bytes.len() as u64),
            Err(ReceiveError::Corrupt(_)) => self.counters.corrupt_pieces.add(1),
            // A write or a sync that failed may have left a hole that no later sync tells of, and a disk that is full is
            // needed for other things than half a snapshot.
            Err(ReceiveError::Io(_)) => {
                let failed = inner.put(Stage::Idle);
                self.give_up(failed);
            }
            Err(_) => {}
        }
        Ok(taken?)
    }

    /// Makes what was received ready to be installed. Takes its time; offers are answered meanwhile.
    pub(crate) fn finish(&self, session: u64) -> Result<(), StreamError> {
        let mut inner = self.inner();
        let incoming = inner.receiving(session)?;
        if incoming.next().is_some() {
            return Err(ReceiveError::OutOfOrder("there is more to come").into());
        }
        let (id, generation) = (incoming.manifest().id, incoming.generation());
        let Stage::Receiving(incoming) = inner.put(Stage::Working) else { return Err(StreamError::Superseded) };
        drop(inner);
        let finished = incoming.finish();
        let mut inner = self.inner();
        match finished {
            Ok(housed) => drop(inner.put(Stage::Ready(id, Box::new(housed)))),
            Err(error) => {
                inner.put(Stage::Idle);
                abandon(&self.home, generation);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Hands out what is ready to be installed, and when it was first offered.
    pub(crate) fn ready(&self, id: u64) -> Option<(Housed, BootInstant)> {
        let mut inner = self.inner();
        match inner.put(Stage::Idle) {
            Stage::Ready(ready, housed) if ready == id => Some((*housed, inner.begun)),
            other => {
                inner.put(other);
                None
            }
        }
    }

    fn give_up(&self, stage: Stage) {
        match stage {
            Stage::Receiving(incoming) => abandon(&self.home, incoming.generation()),
            Stage::Left(generation, _) => abandon(&self.home, generation),
            // The directory of a state that is ready goes with it.
            Stage::Ready(..) | Stage::Idle | Stage::Working => {}
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic of another holder ends the process.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stage {
    /// The entry that the state stands at.
    fn index(&self) -> Option<u64> {
        match self {
            Stage::Idle | Stage::Working => None,
            Stage::Left(_, index) => Some(*index),
            Stage::Receiving(incoming) => Some(incoming.manifest().log_id.index),
            Stage::Ready(_, housed) => Some(housed.store.applied().index.0),
        }
    }
}

impl Inner {
    fn put(&mut self, stage: Stage) -> Stage {
        std::mem::replace(&mut self.stage, stage)
    }

    fn receiving(&mut self, session: u64) -> Result<&mut Incoming, StreamError> {
        match &mut self.stage {
            Stage::Receiving(incoming) if self.session == session => Ok(incoming),
            Stage::Idle | Stage::Left(..) | Stage::Receiving(_) | Stage::Working | Stage::Ready(..) => {
                Err(StreamError::Superseded)
            }
        }
    }
}

fn abandon(home: &Home, generation: Generation) {
    if let Err(error) = home.abandon(generation) {
        tracing::warn!(%error, "what was received of a snapshot is left until the next start");
    }
}
