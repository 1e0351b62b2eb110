//! Drives a connection on its socket, in one task.
//!
//! A turn of the task reads what is there, hands requests to the service, takes what is in the outbox, polls what was woken,
//! and writes all that came of it at once. It ends when there is nothing left to do; whatever happens next wakes it once.
//!
//! Timers and the wish to shut down are woken like the futures of calls, by tickets of their own, so that a turn does not
//! poll them in vain.

mod calls;
mod socket;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

use crate::connection::Connection;
use crate::error::{Reason, ServeError};
use crate::options::Options;
use crate::outbox::{Contents, Outbox, Ticket};
use crate::seat::Seat;
use crate::service::Service;
use socket::Socket;

/// The slots of what is polled beside streams.
const TIMER: u32 = u32::MAX;
const SHUTDOWN: u32 = u32::MAX - 1;

/// Turns before other tasks get theirs.
const TURNS_MAX: usize = 16;

/// Requests and pieces of bodies before other tasks get their turn, and what one reading counts: that much may be read
/// without any of them.
const EVENTS_MAX: usize = 1000;
const EVENTS_PER_READ: usize = EVENTS_MAX / 4;

/// Looks into the outbox before the output is written.
const DELIVERIES_MAX: usize = 4;

/// How long a client that was told why its connection ends may take to read that.
const LINGER: Duration = Duration::from_millis(500);

/// Serves a connection until it ends, by the client or for a failure; or, after `shutdown` is done, once the requests that
/// it has are answered.
pub fn serve_connection<I, S, D>(
    io: I,
    options: &Options,
    service: S,
    shutdown: D,
) -> impl Future<Output = Result<(), ServeError>> + use<I, S, D>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service,
    D: Future<Output = ()>,
{
    let outbox = Arc::new(Outbox::new(options.unsent_bytes_max));
    let now = Instant::now();
    let serving = Serving {
        socket: Socket::new(io),
        core: Connection::new(options, now),
        service,
        taken: Contents { ready: vec![TIMER, SHUTDOWN], ..Contents::default() },
        roomy: Vec::new(),
        timer: Some((Box::pin(tokio::time::sleep(options.handshake_timeout)), Awaited::Handshake)),
        timer_ticket: Arc::new(Ticket::new(outbox.clone(), TIMER)),
        heard: now,
        shutdown: Some(Box::pin(shutdown)),
        shutdown_ticket: Arc::new(Ticket::new(outbox.clone(), SHUTDOWN)),
        events_left: 0,
        ending: None,
        limits: Limits {
            message_bytes_max: options.message_bytes_max,
            unfinished_bytes_max: options.unfinished_bytes_max,
            stream_window_bytes: options.stream_window_bytes,
            keepalive: options.keepalive_interval.map(|interval| (interval, options.keepalive_timeout)),
        },
        outbox,
    };
    // It gives way to other tasks by itself. A budget for all that it polls would end within a thousand streams that have
    // something to say, each of which would then have to be polled again.
    unconstrained(serving)
}

/// What the timer is set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Handshake,
    /// The time to send a ping.
    Silence,
    Pong,
    /// The end of lingering.
    Eof,
}

struct Limits {
    message_bytes_max: usize,
    unfinished_bytes_max: usize,
    stream_window_bytes: u32,
    /// Interval and timeout.
    keepalive: Option<(Duration, Duration)>,
}

struct Serving<I, S: Service, D> {
    socket: Socket<I>,
    core: Connection<Seat<S>>,
    service: S,
    outbox: Arc<Outbox>,
    taken: Contents,
    roomy: Vec<u32>,
    timer: Option<(Pin<Box<Sleep>>, Awaited)>,
    timer_ticket: Arc<Ticket>,
    /// When the client was last heard of.
    heard: Instant,
    shutdown: Option<Pin<Box<D>>>,
    shutdown_ticket: Arc<Ticket>,
    /// How much may be read before other tasks have had their turn.
    events_left: usize,
    /// The connection ends once the output is written, with this result.
    ending: Option<Result<(), ServeError>>,
    limits: Limits,
}

/// Nothing in it is pinned where it lies.
impl<I, S: Service, D> Unpin for Serving<I, S, D> {}

impl<I, S: Service, D> Drop for Serving<I, S, D> {
    fn drop(&mut self) {
        self.outbox.close();
        self.core.streams.abandon(Reason::CANCEL);
    }
}

impl<I, S, D> Future for Serving<I, S, D>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service,
    D: Future<Output = ()>,
{
    type Output = Result<(), ServeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.outbox.awake(cx.waker());
        self.events_left = EVENTS_MAX;
        for _ in 0..TURNS_MAX {
            match self.turn(cx) {
                Ok(Turn::Idle) if self.outbox.sleep(self.core.held_bytes()) => {
                    self.core.streams.rest();
                    return Poll::Pending;
                }
                Ok(Turn::Idle | Turn::Again) => {}
                Ok(Turn::Over) => return Poll::Ready(self.ending.take().unwrap_or(Ok(()))),
                // What was to be said cannot be.
                Err(error) => return Poll::Ready(self.ending.take().unwrap_or(Err(error))),
            }
            if self.events_left == 0 {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

enum Turn {
    /// Nothing is left to do.
    Idle,
    Again,
    Over,
}

impl<I, S, D> Serving<I, S, D>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service,
    D: Future<Output = ()>,
{
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Turn, ServeError> {
        if self.ending.is_some() {
            return self.end(cx);
        }
        let more_to_read = match self.read(cx) {
            Ok(more) => more,
            Err(ServeError::Peer(error)) => {
                tracing::debug!(%error, "a client's connection is ended");
                self.core.fail(error);
                return self.begin_end(Err(ServeError::Peer(error)));
            }
            Err(error) => return Err(error),
        };
        // What is delivered may make more ready; what comes of it is written together.
        for _ in 0..DELIVERIES_MAX {
            if self.taken.ready.is_empty() && !self.outbox.take(&mut self.taken, self.core.held_bytes()) {
                break;
            }
            self.deliver()?;
        }
        if self.ending.is_some() {
            return Ok(Turn::Again);
        }
        self.core.pump();
        self.fill();
        let is_written = self.write(cx)?;
        if self.core.is_drained() && is_written {
            return self.begin_end(Ok(()));
        }
        // Reading goes on until nothing is there, or too much waits to be written; so do those who wait for room.
        let may_read_on = more_to_read && self.core.may_read();
        let may_fill = is_written && (!self.roomy.is_empty() || self.core.has_sendable());
        Ok(if may_read_on || may_fill || !self.taken.ready.is_empty() { Turn::Again } else { Turn::Idle })
    }

    /// Reads what is there and hands it on. Answers whether there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, ServeError> {
        if !self.core.may_read() {
            return Ok(true);
        }
        let Some(input) = self.socket.read(cx)? else { return Ok(false) };
        if input.is_end() {
            self.begin_end(Ok(()))?;
            return Ok(false);
        }
        let now = Instant::now();
        self.heard = now;
        self.events_left = self.events_left.saturating_sub(EVENTS_PER_READ);
        let was_open = self.core.is_open();
        let mut unread = input.bytes();
        let mut has_more = true;
        while has_more && self.events_left > 0 {
            match self.core.next(now, &mut unread)? {
                Some(event) => self.handle(now, event)?,
                None => has_more = false,
            }
            self.events_left -= 1;
        }
        let left = unread.len();
        self.socket.keep(input, left, has_more);
        if !was_open && self.core.is_open() {
            self.set_timer(self.limits.keepalive.map(|(interval, _)| (interval, Awaited::Silence)));
        }
        Ok(true)
    }

    /// Writes what it can. A client that takes what it was long in taking is there, though its answer to a ping may be stuck
    /// behind what we do not read meanwhile.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, ServeError> {
        let was_blocked = self.socket.is_blocked();
        let before = self.core.output.len();
        let is_written = self.socket.write(cx, &mut self.core.output)?;
        if was_blocked && self.core.output.len() < before {
            self.heard = Instant::now();
        }
        Ok(is_written)
    }

    fn begin_end(&mut self, result: Result<(), ServeError>) -> Result<Turn, ServeError> {
        self.ending.get_or_insert(result);
        self.outbox.close();
        self.core.streams.abandon(Reason::CANCEL);
        Ok(Turn::Again)
    }

    /// Writes what is left, and closes the socket. One that has unread bytes is closed by a reset, which may overtake the
    /// reason that was given, and a client that cannot write may not read: so it is read from until it has closed its side.
    /// All that may take a while, and no longer.
    fn end(&mut self, cx: &mut Context<'_>) -> Result<Turn, ServeError> {
        if self.timer.as_ref().is_none_or(|(_, awaited)| *awaited != Awaited::Eof) {
            self.timer = Some((Box::pin(tokio::time::sleep(LINGER)), Awaited::Eof));
        }
        let is_late = self.timer.as_mut().is_none_or(|(sleep, _)| sleep.as_mut().poll(cx).is_ready());
        let Some(is_closed) = self.socket.drain(cx)? else { return Ok(Turn::Again) };
        let is_written = self.socket.write(cx, &mut self.core.output)? && self.socket.shut_down(cx)?;
        Ok(if is_late || (is_closed && is_written) { Turn::Over } else { Turn::Idle })
    }

    fn set_timer(&mut self, timer: Option<(Duration, Awaited)>) {
        self.timer = timer.map(|(duration, awaited)| (Box::pin(tokio::time::sleep(duration)), awaited));
        self.poll_timer_later();
    }

    fn poll_timer_later(&self) {
        if self.timer.is_some() {
            std::task::Wake::wake_by_ref(&self.timer_ticket);
        }
    }

    fn poll_timer(&mut self) -> Result<(), ServeError> {
        self.timer_ticket.unready();
        let waker = Waker::from(self.timer_ticket.clone());
        let Some((sleep, awaited)) = &mut self.timer else { return Ok(()) };
        if sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            return Ok(());
        }
        let Some((interval, timeout)) = self.limits.keepalive.filter(|_| *awaited != Awaited::Handshake) else {
            return Err(ServeError::HandshakeTimeout);
        };
        let silent = self.heard.elapsed();
        let next = if *awaited == Awaited::Pong && !self.core.is_ping_answered() && silent >= timeout {
            return Err(ServeError::KeepaliveTimeout);
        } else if silent >= interval && *awaited == Awaited::Silence {
            self.core.ping();
            (timeout, Awaited::Pong)
        } else {
            (interval.saturating_sub(silent).max(Duration::from_millis(1)), Awaited::Silence)
        };
        self.set_timer(Some(next));
        Ok(())
    }

    fn poll_shutdown(&mut self) {
        let Some(shutdown) = &mut self.shutdown else { return };
        self.shutdown_ticket.unready();
        let waker = Waker::from(self.shutdown_ticket.clone());
        if shutdown.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.shutdown = None;
            self.core.leave();
        }
    }
}
