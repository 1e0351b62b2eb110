//! The streams that are open, each in a slot that is used again.
//!
//! A slot outlives its streams together with what belongs to its seat: buffers, handles and futures' memory that the next
//! stream there uses again. A [`Key`] names slot and stream, so that who answers late finds its stream without a look-up,
//! or finds that it is gone.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Instant;

use crate::error::Reason;
use crate::flow::{ReceiveWindow, SendWindow};
use crate::head::Head;

/// Names a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) id: u32,
}

/// What belongs to a slot beside its stream.
pub(crate) trait Seat: Default {
    /// The slot's stream is gone: reset for a reason, or ended well. What is kept is for the next one.
    fn leave(&mut self, reset: Option<Reason>);
}

/// How a body ends.
#[derive(Debug)]
pub(crate) enum End {
    /// With END_STREAM on its last frame.
    Plain,
    /// With the trailers of a call that went well.
    GrpcOk,
    Trailers(HeaderMap),
}

/// What waits for the peer's windows.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    pub(crate) pieces: VecDeque<Bytes>,
    pub(crate) bytes: usize,
    pub(crate) end: Option<End>,
}

/// An open stream.
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) begun: Instant,
    pub(crate) head: Arc<Head>,
    /// The peer ended its side.
    pub(crate) is_received: bool,
    pub(crate) has_sent_head: bool,
    /// In the queue of those that may send.
    pub(crate) is_queued: bool,
    /// Who fills it waits until less is unsent.
    pub(crate) wants_room: bool,
    /// In the queue of those that wait for the connection's window before they are filled.
    pub(crate) is_starved: bool,
    pub(crate) receive_window: ReceiveWindow,
    pub(crate) send_window: SendWindow,
    /// What is still to come of a body whose length was announced.
    pub(crate) body_left: Option<u64>,
    pub(crate) unsent: Option<Box<Unsent>>,
}

impl Stream {
    /// Whether its filler waited for its window alone, and that is open.
    pub(crate) fn may_be_filled(&self) -> bool {
        self.wants_room && !self.is_starved && self.unsent.is_none() && self.send_window.open() > 0
    }
}

struct Slot<S> {
    stream: Option<Stream>,
    seat: S,
}

/// Slots that are kept for a connection that has nothing to do.
const IDLE_SLOTS_MAX: usize = 16;

pub(crate) struct Streams<S> {
    slots: Vec<Slot<S>>,
    free: Vec<u32>,
    ids: HashMap<u32, u32, Spread>,
    /// The stream that was looked up last: DATA mostly follows the HEADERS of the same.
    last: Key,
}

impl<S: Seat> Streams<S> {
    pub(crate) fn new() -> Streams<S> {
        let ids = HashMap::with_hasher(Spread::new());
        Streams { slots: Vec::new(), free: Vec::new(), ids, last: Key { slot: 0, id: 0 } }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// How many there are to go through, open or not.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn insert(&mut self, stream: Stream) -> Key {
        let id = stream.id;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { stream: None, seat: S::default() });
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        self.slots[index(slot)].stream = Some(stream);
        self.ids.insert(id, slot);
        self.last = Key { slot, id };
        self.last
    }

    pub(crate) fn find(&mut self, id: u32) -> Option<Key> {
        if self.last.id != id || id == 0 {
            let slot = *self.ids.get(&id)?;
            self.last = Key { slot, id };
        }
        Some(self.last)
    }

    pub(crate) fn get(&mut self, key: Key) -> Option<&mut Stream> {
        self.slots.get_mut(index(key.slot))?.stream.as_mut().filter(|stream| stream.id == key.id)
    }

    /// The seat of a stream that is open.
    pub(crate) fn seat(&mut self, key: Key) -> Option<&mut S> {
        let slot = self.slots.get_mut(index(key.slot))?;
        slot.stream.as_ref().filter(|stream| stream.id == key.id)?;
        Some(&mut slot.seat)
    }

    /// The seat of a slot and the stream there, if one is.
    pub(crate) fn at(&mut self, slot: u32) -> Option<(Key, &mut S)> {
        let found = self.slots.get_mut(index(slot))?;
        let id = found.stream.as_ref()?.id;
        Some((Key { slot, id }, &mut found.seat))
    }

    pub(crate) fn remove(&mut self, key: Key, reset: Option<Reason>) -> Option<Stream> {
        let slot = self.slots.get_mut(index(key.slot))?;
        let stream = slot.stream.take_if(|stream| stream.id == key.id)?;
        slot.seat.leave(reset);
        self.ids.remove(&key.id);
        self.free.push(key.slot);
        if self.last == key {
            self.last = Key { slot: 0, id: 0 };
        }
        Some(stream)
    }

    /// Everyone leaves: the connection is at its end.
    pub(crate) fn abandon(&mut self, reason: Reason) {
        for slot in &mut self.slots {
            if slot.stream.take().is_some() {
                slot.seat.leave(Some(reason));
            }
        }
        self.ids.clear();
    }

    /// Gives memory back when nothing is open.
    pub(crate) fn rest(&mut self) {
        if self.ids.is_empty() && self.slots.len() > IDLE_SLOTS_MAX {
            self.slots.truncate(IDLE_SLOTS_MAX);
            self.slots.shrink_to_fit();
            self.free = (0..u32::try_from(self.slots.len()).unwrap_or(0)).rev().collect();
            self.ids.shrink_to_fit();
        }
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Stream)> {
        self.slots.iter_mut().zip(0..).filter_map(|(slot, number)| Some((number, slot.stream.as_mut()?)))
    }
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}

/// Spreads ids that the peer chooses with a factor that it does not know.
#[derive(Clone)]
struct Spread(u64);

impl Spread {
    fn new() -> Spread {
        Spread(RandomState::new().build_hasher().finish() | 1)
    }
}

impl BuildHasher for Spread {
    type Hasher = Spreading;

    fn build_hasher(&self) -> Spreading {
        Spreading(self.0)
    }
}

struct Spreading(u64);

impl Hasher for Spreading {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        // The high half of the product depends on all of the id; the table looks at both ends of the hash.
        let product = self.0.wrapping_mul(u64::from(id) + 1);
        self.0 = product ^ product.rotate_right(32);
    }
}
