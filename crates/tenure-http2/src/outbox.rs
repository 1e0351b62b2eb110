//! What reaches a connection from elsewhere: answers that are complete, bodies that were read, futures that were woken.
//!
//! All of it goes into one box, and the first thing that is put there wakes the connection's task; what follows until that
//! runs costs no more than the push. While the task runs it needs no waking: it looks into the box before it sleeps.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use http::HeaderMap;

use crate::pieces::Pieces;
use crate::streams::Key;

/// A box that was filled more than this is not kept.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// Something for a stream.
pub(crate) enum Item {
    /// The answer of a unary call: where its message lies in [`Contents::text`].
    Message { start: usize, end: usize, metadata: Option<Box<HeaderMap>> },
    /// The same with a message of its own, in pieces.
    SharedMessage { pieces: Pieces, metadata: Option<Box<HeaderMap>> },
    /// The status of a call that failed.
    Status { code: u32, message: Cow<'static, str>, metadata: Option<Box<HeaderMap>> },
    /// The answer of a unary call that is given up: too much waits for the client already.
    Excess,
    /// So much of a request's body was read.
    Read(usize),
}

/// What is in the box.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) items: Vec<(Key, Item)>,
    pub(crate) text: Vec<u8>,
    /// What messages have that are not in the text.
    pub(crate) shared_bytes: usize,
    /// Slots whose futures were woken.
    pub(crate) ready: Vec<u32>,
}

impl Contents {
    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.ready.is_empty()
    }

    fn bytes(&self) -> usize {
        self.text.len() + self.shared_bytes
    }

    /// Makes it ready to be filled again.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.text.clear();
        self.ready.clear();
        self.shared_bytes = 0;
        self.text.shrink_to(KEPT_BYTES_MAX);
        self.items.shrink_to(KEPT_BYTES_MAX / size_of::<(Key, Item)>());
    }
}

struct Inside {
    contents: Contents,
    /// What else waits for the client, in the connection.
    held_bytes: usize,
    waker: Option<Waker>,
    /// The connection's task runs or was woken.
    is_awake: bool,
    is_closed: bool,
}

/// See the module's header.
pub(crate) struct Outbox {
    inside: Mutex<Inside>,
    /// Bytes of requests that their services have not taken.
    pub(crate) unfinished_bytes: AtomicUsize,
    /// What may wait for the client before answers are given up.
    held_bytes_max: usize,
}

impl Outbox {
    pub(crate) fn new(held_bytes_max: usize) -> Outbox {
        let contents = Contents::default();
        let inside = Inside { contents, held_bytes: 0, waker: None, is_awake: true, is_closed: false };
        Outbox { inside: Mutex::new(inside), unfinished_bytes: AtomicUsize::new(0), held_bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // A message that panics while it is written leaves text behind that nothing refers to.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, put: impl FnOnce(&mut Contents)) {
        self.enter(|inside| put(&mut inside.contents));
    }

    /// Puts an answer; or, if too much waits for the client already, that there is none. One answer may be as large as it is.
    pub(crate) fn put_answer(&self, key: Key, put: impl FnOnce(&mut Contents)) {
        self.enter(|inside| {
            if inside.held_bytes + inside.contents.bytes() > self.held_bytes_max {
                inside.contents.items.push((key, Item::Excess));
            } else {
                put(&mut inside.contents);
            }
        });
    }

    fn enter(&self, put: impl FnOnce(&mut Inside)) {
        let waker = {
            let mut inside = self.lock();
            if inside.is_closed {
                return;
            }
            put(&mut inside);
            if inside.is_awake {
                return;
            }
            inside.is_awake = true;
            inside.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The task runs: it is `waker` that wakes it next time.
    pub(crate) fn awake(&self, waker: &Waker) {
        let mut inside = self.lock();
        inside.is_awake = true;
        if inside.waker.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            inside.waker = Some(waker.clone());
        }
    }

    /// Takes what is there, for an empty box; answers whether there was anything. The connection holds so many bytes for its
    /// client already.
    pub(crate) fn take(&self, empty: &mut Contents, held_bytes: usize) -> bool {
        let mut inside = self.lock();
        inside.held_bytes = held_bytes + inside.contents.bytes();
        if inside.contents.is_empty() {
            return false;
        }
        std::mem::swap(&mut inside.contents, empty);
        true
    }

    /// Whether there is nothing, so that the task may sleep: the next thing wakes it.
    pub(crate) fn sleep(&self, held_bytes: usize) -> bool {
        let mut inside = self.lock();
        inside.held_bytes = held_bytes;
        inside.is_awake = !inside.contents.is_empty();
        !inside.is_awake
    }

    /// Nobody looks into it any more.
    pub(crate) fn close(&self) {
        let mut inside = self.lock();
        inside.is_closed = true;
        inside.waker = None;
        let contents = std::mem::take(&mut inside.contents);
        drop(inside);
        drop(contents);
    }
}

/// A slot as others see it: where its answers go, what wakes its future, whether its stream is still there. It belongs to
/// the slot for good, so that a call makes none.
pub(crate) struct Ticket {
    pub(crate) outbox: Arc<Outbox>,
    slot: u32,
    /// The stream that is in the slot; none if zero.
    stream: AtomicU32,
    is_ready: AtomicBool,
    /// Who waits for the stream to be gone.
    waiting: Mutex<Option<Waker>>,
}

impl Ticket {
    pub(crate) fn new(outbox: Arc<Outbox>, slot: u32) -> Ticket {
        Ticket { outbox, slot, stream: AtomicU32::new(0), is_ready: AtomicBool::new(false), waiting: Mutex::new(None) }
    }

    pub(crate) fn enter(&self, stream: u32) {
        self.stream.store(stream, Ordering::Release);
    }

    pub(crate) fn leave(&self) {
        self.stream.store(0, Ordering::Release);
        if let Some(waker) = self.waiting().take() {
            waker.wake();
        }
    }

    pub(crate) fn holds(&self, key: Key) -> bool {
        self.stream.load(Ordering::Acquire) == key.id
    }

    /// Whether the stream is gone; if not, `waker` is told once it is.
    pub(crate) fn is_gone(&self, key: Key, waker: &Waker) -> bool {
        let mut waiting = self.waiting();
        if !self.holds(key) {
            return true;
        }
        if waiting.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            *waiting = Some(waker.clone());
        }
        false
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The future is to be polled, whatever wakes it: whether it was not to be before.
    pub(crate) fn make_ready(&self) -> bool {
        !self.is_ready.swap(true, Ordering::AcqRel)
    }

    /// The future is about to be polled: what wakes it from now on counts.
    pub(crate) fn unready(&self) {
        self.is_ready.store(false, Ordering::Release);
    }
}

impl Wake for Ticket {
    fn wake(self: Arc<Ticket>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Ticket>) {
        if self.make_ready() {
            self.outbox.put(|contents| contents.ready.push(self.slot));
        }
    }
}
