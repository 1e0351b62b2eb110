//! What a stream's slot holds for its service: the message that gathers, the future that is polled, the body that flows.
//!
//! The memory of a unary call's future stays with the slot, and so does its ticket: a connection that serves one call after
//! the other allocates neither again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use crate::dialogue::Talk;
use crate::error::Reason;
use crate::incoming::Pipe;
use crate::outbox::{Outbox, Ticket};
use crate::service::Service;
use crate::streams;

/// What a message of gRPC has before it.
pub(crate) const PREFIX_BYTES: usize = 5;

/// A message that claims to be larger gets its memory only once a part of it has arrived.
const TRUSTED_BYTES_MAX: usize = 16 * 1024;

/// The message of a unary call, as far as it is there.
#[derive(Default)]
pub(crate) struct Gathering {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    message: Vec<u8>,
}

impl Gathering {
    pub(crate) fn is_new(&self) -> bool {
        self.prefix_bytes == 0
    }

    /// The length that the message announces, once that is known.
    pub(crate) fn length(&self) -> Option<usize> {
        (self.prefix_bytes == PREFIX_BYTES).then(|| length_of(self.prefix))
    }

    /// Adds what arrived; answers false if it is more than one message.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> bool {
        let count = bytes.len().min(PREFIX_BYTES - self.prefix_bytes);
        self.prefix[self.prefix_bytes..self.prefix_bytes + count].copy_from_slice(&bytes[..count]);
        self.prefix_bytes += count;
        bytes = &bytes[count..];
        let length = length_of(self.prefix);
        let sum = self.message.len() + bytes.len();
        if bytes.is_empty() || sum > length {
            return bytes.is_empty();
        }
        if length <= TRUSTED_BYTES_MAX || sum >= length / 4 {
            self.message.reserve_exact(length - self.message.len());
        }
        self.message.extend_from_slice(bytes);
        true
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.prefix[0] != 0
    }

    /// The message, if all of it is there.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        (self.length() == Some(self.message.len())).then_some(self.message)
    }

    /// The memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.message.capacity()
    }
}

pub(crate) fn length_of(prefix: [u8; PREFIX_BYTES]) -> usize {
    let [_, l0, l1, l2, l3] = prefix;
    usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX)
}

/// An answer that is streamed.
pub(crate) enum Exchange<S: Service> {
    Answering(Pin<Box<S::Answer>>),
    Sending(Pin<Box<S::Body>>),
}

/// How far a stream is.
pub(crate) enum Stage<S: Service> {
    Empty,
    Gathering(Gathering),
    /// The call was handed over; what completes it may be in the seat.
    Called,
    /// What the client sends is of no use any more.
    Answered,
    Streaming(Arc<Pipe>, Option<Exchange<S>>),
    /// A dialogue; none while it is polled.
    Conversing(Option<Box<Talk<S::Dialogue>>>),
}

/// See the module's header.
pub(crate) struct Seat<S: Service> {
    pub(crate) stage: Stage<S>,
    ticket: Option<(Arc<Ticket>, Waker)>,
    call: Option<Pin<Box<Option<S::Call>>>>,
}

impl<S: Service> Default for Seat<S> {
    fn default() -> Seat<S> {
        Seat { stage: Stage::Empty, ticket: None, call: None }
    }
}

impl<S: Service> Seat<S> {
    /// A stream takes the seat.
    pub(crate) fn enter(&mut self, outbox: &Arc<Outbox>, key: streams::Key) {
        let (ticket, _) = self.ticket.get_or_insert_with(|| {
            let ticket = Arc::new(Ticket::new(outbox.clone(), key.slot));
            let waker = Waker::from(ticket.clone());
            (ticket, waker)
        });
        ticket.enter(key.id);
        // What the last stream here was to be polled for is over.
        ticket.unready();
    }

    pub(crate) fn ticket(&self) -> Option<&Arc<Ticket>> {
        self.ticket.as_ref().map(|(ticket, _)| ticket)
    }

    /// Whether what is in the seat is to be polled now, and was not to be before.
    pub(crate) fn make_ready(&self) -> bool {
        self.ticket.as_ref().is_some_and(|(ticket, _)| ticket.make_ready())
    }

    /// The waker of what is in the seat, which is about to be polled.
    pub(crate) fn waker(&self) -> Option<Waker> {
        let (ticket, waker) = self.ticket.as_ref()?;
        ticket.unready();
        Some(waker.clone())
    }

    /// Keeps and polls what completes a call.
    pub(crate) fn begin(&mut self, call: S::Call) {
        match &mut self.call {
            Some(place) => place.set(Some(call)),
            None => self.call = Some(Box::pin(Some(call))),
        }
        self.poll_call();
    }

    pub(crate) fn poll_call(&mut self) {
        let (Some((ticket, waker)), Some(place)) = (&self.ticket, &mut self.call) else { return };
        ticket.unready();
        if let Some(call) = place.as_mut().as_pin_mut()
            && call.poll(&mut Context::from_waker(waker)) == Poll::Ready(())
        {
            place.set(None);
        }
    }
}

impl<S: Service> streams::Seat for Seat<S> {
    fn leave(&mut self, reset: Option<Reason>) {
        if let Some((ticket, _)) = &self.ticket {
            ticket.leave();
        }
        if let Some(call) = &mut self.call {
            call.set(None);
        }
        match std::mem::replace(&mut self.stage, Stage::Empty) {
            Stage::Gathering(gathering) => {
                if let Some((ticket, _)) = &self.ticket {
                    ticket.outbox.unfinished_bytes.fetch_sub(gathering.bytes(), Ordering::Relaxed);
                }
            }
            Stage::Streaming(pipe, exchange) => {
                drop(exchange);
                pipe.fail(reset.unwrap_or(Reason::NO_ERROR));
            }
            Stage::Conversing(Some(talk)) => {
                if let Some((ticket, _)) = &self.ticket {
                    talk.leave(&ticket.outbox);
                }
            }
            Stage::Empty | Stage::Called | Stage::Answered | Stage::Conversing(None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(parts: &[&[u8]]) -> Option<Vec<u8>> {
        let mut gathering = Gathering::default();
        parts.iter().all(|part| gathering.push(part)).then(|| gathering.finish()).flatten()
    }

    #[test]
    fn what_a_message_announces_is_counted_once_it_has_its_memory() {
        let mut gathering = Gathering::default();
        assert!(gathering.push(&[0, 0, 0, 0x40, 0]));
        assert_eq!(gathering.bytes(), 0);
        assert!(gathering.push(b"x"));
        assert_eq!(gathering.bytes(), 0x4000);
        let mut large = Gathering::default();
        assert!(large.push(&[0, 0x40, 0, 0, 0, b'x']));
        assert!(large.bytes() < 100);
    }

    #[test]
    fn a_message_gathers_from_any_parts_and_is_one_alone() {
        let whole = [0, 0, 0, 0, 3, b'a', b'b', b'c'];
        for cut in 0..=whole.len() {
            assert_eq!(gathered(&[&whole[..cut], &whole[cut..]]).as_deref(), Some(&b"abc"[..]));
        }
        let single: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(gathered(&single).as_deref(), Some(&b"abc"[..]));
        assert_eq!(gathered(&[&whole, b"d"]), None);
        assert_eq!(gathered(&[&whole[..7]]), None);
        assert_eq!(gathered(&[]), None);
        assert_eq!(gathered(&[&[0; 5]]), Some(vec![]));
    }
}
