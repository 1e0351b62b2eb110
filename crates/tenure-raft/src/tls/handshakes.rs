//! The handshakes that are under way at a port: so many at once, and the slowest of them make room.
//!
//! Honest clients are through in milliseconds, so whoever is at it for longest is the likeliest to mean ill. To refuse the
//! newest instead would let a few thousand silent connections keep everybody else out.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// Handshakes under way at one port. Each may hold 64 KiB of what a client sent, the most that rustls takes before one is done:
/// half a GiB, in the worst case.
pub(super) const HANDSHAKES_MAX: usize = 8192;

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Handshakes(Mutex<UnderWay>);

#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    /// By age.
    turns: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Handshakes {
    /// Counts a handshake until its turn is dropped.
    pub(super) fn begin(self: &Arc<Handshakes>) -> Turn {
        let (push_out, pushed_out) = oneshot::channel();
        let mut under_way = self.under_way();
        let number = under_way.next;
        under_way.next += 1;
        if under_way.turns.len() >= HANDSHAKES_MAX {
            // Its other end, dropped or told, means the same.
            drop(under_way.turns.pop_first());
        }
        under_way.turns.insert(number, push_out);
        drop(under_way);
        Turn { number, handshakes: self.clone(), pushed_out }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handshake that is under way.
#[derive(Debug)]
pub(super) struct Turn {
    number: u64,
    handshakes: Arc<Handshakes>,
    pushed_out: oneshot::Receiver<()>,
}

impl Turn {
    /// Ready once it has to make room.
    pub(super) fn poll_pushed_out(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.pushed_out).poll(cx).map(|_| ())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.handshakes.under_way().turns.remove(&self.number);
    }
}
