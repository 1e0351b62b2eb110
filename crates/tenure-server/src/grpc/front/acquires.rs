//! Acquires of native locks: one request, then what becomes of it until the lock is held.
//!
//! One that is granted at once is a write like a unary call, polled by the connection, with its grant and the stream's end in one
//! go. One that waits is told by its task (`node/locks`). When the client goes away this is dropped, and whatever of the
//! acquire was not told yet is cancelled by that, as with a body that is dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use futures::future::BoxFuture;
use tenure_http2::{Dialogue, Farewell, Heard, Line};
use tokio::time::Sleep;
use tonic::Status;

use super::super::locks::LocksService;
use super::deadline::exceeded;
use super::spoken::{LeaderLost, decode, failed, farewell, say};
use crate::node::{LockAcquired, LockSteps};

/// How far it is.
enum Stage {
    /// Nothing was asked yet.
    Silent,
    /// Its entry is under way.
    Joining(BoxFuture<'static, LockAcquired>),
    /// It waits, or has waited.
    Waiting(LockSteps),
}

/// See the module's header.
pub(super) struct Acquire {
    locks: Arc<LocksService>,
    lost: LeaderLost,
    /// The client's, if it named one.
    deadline: Option<Pin<Box<Sleep>>>,
    stage: Stage,
    is_decided: bool,
}

impl Acquire {
    pub(super) fn new(locks: &Arc<LocksService>, lost: LeaderLost, deadline: Option<Pin<Box<Sleep>>>) -> Acquire {
        Acquire { locks: locks.clone(), lost, deadline, stage: Stage::Silent, is_decided: false }
    }

    /// Goes on to its end, or to where it waits for something.
    fn go_on(&mut self, cx: &mut Context<'_>, line: &mut dyn Line) -> Poll<Result<(), Status>> {
        loop {
            match &mut self.stage {
                // What follows the first message is not heard, and holds up nothing but this stream.
                Stage::Silent => match line.hear() {
                    Heard::Message(bytes) => self.stage = Stage::Joining(self.locks.join(decode(bytes)?)?),
                    Heard::Nothing => return Poll::Pending,
                    Heard::End => return Poll::Ready(Err(Status::internal("Missing request message."))),
                    Heard::Failed { code, message } => return Poll::Ready(Err(failed(code, &message))),
                },
                Stage::Joining(joining) => {
                    let joined = ready!(joining.poll_unpin(cx));
                    self.is_decided = true;
                    match joined {
                        LockAcquired::Ended(step) => {
                            say(line, &self.locks.told(step)?);
                            return Poll::Ready(Ok(()));
                        }
                        LockAcquired::Waits(steps) => self.stage = Stage::Waiting(steps),
                    }
                }
                Stage::Waiting(steps) => {
                    if let Poll::Ready(lost) = self.lost.poll(cx) {
                        return Poll::Ready(Err(lost));
                    }
                    if !line.has_room() {
                        return Poll::Pending;
                    }
                    match steps.poll_recv(cx) {
                        Poll::Ready(Some(step)) => say(line, &self.locks.told(step)?),
                        Poll::Ready(None) => return Poll::Ready(Ok(())),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            }
        }
    }
}

impl Dialogue for Acquire {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, line: &mut dyn Line) -> Poll<Farewell> {
        let polled = match self.go_on(cx, line) {
            Poll::Pending => {
                let is_over = self.deadline.as_mut().is_some_and(|deadline| deadline.poll_unpin(cx).is_ready());
                if is_over { Poll::Ready(Err(exceeded())) } else { Poll::Pending }
            }
            ended => ended,
        };
        polled.map(|ended| ended.map_or_else(|status| farewell(&status), |()| Farewell::OK))
    }

    /// Once its entry is decided, whatever that came to: for so long a client waits for the call, and not for the stream.
    fn begins(&self, _: bool) -> bool {
        self.is_decided
    }
}
