//! The body of a request that is streamed, as it arrives.
//!
//! What the client may send depends on what was read: the stream's window opens as the pieces are taken. Small pieces that
//! were not taken yet are put together, so that a client cannot have a piece's memory for each byte that it sends.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::error::Reason;
use crate::outbox::{Item, Outbox};
use crate::streams::Key;

/// Why a body ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client's stream ended: {0}")]
pub struct IncomingError(pub Reason);

/// Pieces are put together until they are this large.
const PIECE_BYTES_MIN: usize = 4096;

#[derive(Default)]
struct State {
    pieces: VecDeque<Bytes>,
    /// What came after them, and is less than a piece.
    tail: Vec<u8>,
    trailers: Option<HeaderMap>,
    is_ended: bool,
    failure: Option<IncomingError>,
    waker: Option<Waker>,
    /// What was taken, and the connection not told of.
    taken: usize,
    is_abandoned: bool,
}

impl State {
    fn push(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        if self.tail.len() >= PIECE_BYTES_MIN {
            self.pieces.push_back(std::mem::take(&mut self.tail).into());
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let tail = |tail: &mut Vec<u8>| (!tail.is_empty()).then(|| std::mem::take(tail).into());
        self.pieces.pop_front().or_else(|| tail(&mut self.tail))
    }

    fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum::<usize>() + self.tail.len()
    }
}

/// The body, between the connection and who reads it.
pub(crate) struct Pipe {
    state: Mutex<State>,
    outbox: Arc<Outbox>,
    key: Key,
    /// So much is taken before the connection is told.
    taken_min: usize,
}

impl Pipe {
    pub(crate) fn new(outbox: Arc<Outbox>, key: Key, window_bytes: u32, is_ended: bool) -> Arc<Pipe> {
        let state = Mutex::new(State { is_ended, ..State::default() });
        Arc::new(Pipe { state, outbox, key, taken_min: usize::try_from(window_bytes / 4).unwrap_or(0) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, update: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        update(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Adds a piece; answers false if nobody wants it.
    pub(crate) fn push(&self, bytes: &[u8], is_ended: bool) -> bool {
        let mut is_wanted = true;
        self.update(|state| {
            is_wanted = !state.is_abandoned;
            state.is_ended |= is_ended;
            if is_wanted && !bytes.is_empty() {
                state.push(bytes);
                self.outbox.unfinished_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
            }
        });
        is_wanted
    }

    pub(crate) fn end(&self, trailers: HeaderMap) {
        self.update(|state| {
            state.is_ended = true;
            state.trailers = Some(trailers);
        });
    }

    /// The stream is gone; what arrived as a whole may still be read.
    pub(crate) fn fail(&self, reason: Reason) {
        self.update(|state| {
            if !state.is_ended {
                state.failure = Some(IncomingError(reason));
                self.forget(state);
            }
        });
    }

    fn forget(&self, state: &mut State) {
        let count = state.bytes();
        (state.pieces, state.tail) = (VecDeque::new(), Vec::new());
        self.outbox.unfinished_bytes.fetch_sub(count, Ordering::Relaxed);
        state.taken += count;
    }

    fn tell(&self, state: &mut State) {
        let count = std::mem::take(&mut state.taken);
        if count > 0 && !state.is_ended {
            self.outbox.put(|contents| contents.items.push((self.key, Item::Read(count))));
        }
    }
}

/// See the module's header.
pub struct Incoming {
    pipe: Arc<Pipe>,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("stream", &self.pipe.key.id).finish_non_exhaustive()
    }
}

impl Incoming {
    pub(crate) fn new(pipe: Arc<Pipe>) -> Incoming {
        Incoming { pipe }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut state = self.pipe.lock();
        state.is_abandoned = true;
        self.pipe.forget(&mut state);
        self.pipe.tell(&mut state);
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        let mut state = self.pipe.lock();
        if let Some(piece) = state.pop() {
            self.pipe.outbox.unfinished_bytes.fetch_sub(piece.len(), Ordering::Relaxed);
            state.taken += piece.len();
            if state.taken >= self.pipe.taken_min {
                self.pipe.tell(&mut state);
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(failure) = state.failure.take() {
            state.is_ended = true;
            return Poll::Ready(Some(Err(failure)));
        }
        if state.is_ended {
            return Poll::Ready(state.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if state.waker.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let state = self.pipe.lock();
        state.is_ended && state.pieces.is_empty() && state.tail.is_empty() && state.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.pipe.lock();
        let count = u64::try_from(state.bytes()).unwrap_or(u64::MAX);
        let mut hint = SizeHint::new();
        hint.set_lower(count);
        if state.is_ended {
            hint.set_upper(count);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (Arc<Pipe>, Incoming) {
        let pipe = Pipe::new(Arc::new(Outbox::new(usize::MAX)), Key { slot: 0, id: 1 }, 1 << 20, false);
        (pipe.clone(), Incoming::new(pipe))
    }

    fn read(incoming: &mut Incoming) -> Option<Bytes> {
        match Pin::new(incoming).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
            _ => None,
        }
    }

    #[test]
    fn a_body_in_single_bytes_is_kept_in_few_pieces() {
        let (pipe, mut incoming) = pipe();
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
        for byte in &sent {
            assert!(pipe.push(&[*byte], false));
        }
        assert_eq!(incoming.size_hint().lower(), 100_000);
        let pieces: Vec<Bytes> = std::iter::from_fn(|| read(&mut incoming)).collect();
        assert!(pieces.len() <= 100_000 / 4096 + 1, "{} pieces", pieces.len());
        assert!(pieces.concat() == sent);
        assert_eq!(pipe.outbox.unfinished_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn pieces_of_any_size_stay_in_order_and_what_is_left_is_not_counted() {
        let (pipe, mut incoming) = pipe();
        let mut sent = Vec::new();
        for (number, length) in (0..).zip([1, 5000, 3, 4096, 4095, 2, 10_000]) {
            pipe.push(&vec![number; length], false);
            sent.extend(vec![number; length]);
        }
        let mut read_bytes = read(&mut incoming).expect("a piece").to_vec();
        read_bytes.extend(std::iter::from_fn(|| read(&mut incoming)).flatten());
        assert!(read_bytes == sent);
        pipe.push(b"more", false);
        drop(incoming);
        assert_eq!(pipe.outbox.unfinished_bytes.load(Ordering::Relaxed), 0);
        assert!(!pipe.push(b"in vain", false));
    }
}
