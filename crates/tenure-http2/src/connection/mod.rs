//! A connection without its socket: bytes in and events out, answers in and bytes out.
//!
//! [`Connection::next`] reads one frame after the other until one of them is of interest to a caller; everything else, such
//! as settings, windows and pings, is dealt with here, and so is every check of the protocol. No clock, no waiting: the
//! caller says what time it is, and writes what is in the output.
//!
//! An error of a stream resets that stream and is not told; its seat is (see [`Seat`]). An error of the connection is
//! returned, and the caller ends it with [`Connection::fail`].

mod receive;
mod send;
#[cfg(test)]
mod tests;

pub(crate) use send::Message;

use std::collections::VecDeque;
use std::sync::Arc;

use http::HeaderMap;
use tokio::time::Instant;

use crate::budget::Budget;
use crate::error::{ConnectionError, Reason};
use crate::flow::{ReceiveWindow, SendWindow, WINDOW_MAX};
use crate::frame;
use crate::head::{Head, Heads};
use crate::hpack::Encoder;
use crate::options::Options;
use crate::output::Output;
use crate::settings::{self, DEFAULT_WINDOW, PeerSettings};
use crate::streams::{Key, Seat, Stream, Streams};

/// What the output may hold before bodies wait, and nothing more is read.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// What one stream may hold that waits for the peer, before who fills it has to wait.
const STREAM_UNSENT_BYTES_MAX: usize = 64 * 1024;

/// What a piece that waits takes beside its bytes, with its share of its stream.
const PIECE_BYTES: usize = 256;

/// What our pings carry: whether the peer is there, and whether it has seen that the connection is ending.
const KEEPALIVE_PING: [u8; 8] = *b"tenure-k";
const SHUTDOWN_PING: [u8; 8] = *b"tenure-s";

/// What happened that is not dealt with here.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// A stream began; `ended` if nothing follows its head.
    Request { key: Key, head: Arc<Head>, ended: bool },
    /// A part of a body. It counts against the stream's window until it is released.
    Data { key: Key, bytes: &'a [u8], ended: bool },
    /// A body ended, with trailers.
    Trailers { key: Key, fields: HeaderMap },
}

/// A header block that lacks its end.
struct Block {
    stream: u32,
    ends_stream: bool,
    bytes: Vec<u8>,
    frames: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preface,
    Settings,
    Open,
}

/// How far the end of the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// The peer was told, but may not have seen it: its new streams are still served.
    Announced,
    /// New streams are ignored.
    Final,
}

/// See the module's header.
pub(crate) struct Connection<S> {
    pub(crate) streams: Streams<S>,
    pub(crate) output: Output,
    heads: Heads,
    encoder: Encoder,
    phase: Phase,
    leaving: Leaving,
    block: Option<Block>,
    /// The highest stream that the peer began.
    last_stream: u32,
    /// The highest that was handed on: beyond it, nothing was done for the peer.
    last_served: u32,
    receive_window: ReceiveWindow,
    send_window: SendWindow,
    peer: PeerSettings,
    budget: Budget,
    /// Streams with something to send and windows that may let them.
    sendable: VecDeque<Key>,
    /// The frame that the next message may be put into.
    said: Option<send::Said>,
    /// Streams whose filler waits for the connection's window.
    starved: VecDeque<Key>,
    /// Slots whose filler waited for room, and has it.
    roomy: Vec<u32>,
    /// What waits in all streams, and in how many pieces.
    unsent_bytes: usize,
    unsent_pieces: usize,
    is_ping_answered: bool,
    block_bytes_max: usize,
    concurrent_streams_max: usize,
    stream_window_bytes: u32,
    unsent_bytes_max: usize,
}

impl<S: Seat> Connection<S> {
    /// A connection on which nothing was said. What we say first is in the output.
    pub(crate) fn new(options: &Options, now: Instant) -> Connection<S> {
        let index = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        // Clients may send as much before they have seen our settings.
        let stream_window_bytes = options.stream_window_bytes.clamp(DEFAULT_WINDOW, WINDOW_MAX);
        let mut output = Output::default();
        let first = output.buffer();
        settings::put_own(first, options.concurrent_streams_max, stream_window_bytes, options.header_list_bytes_max);
        // The connection's window is the RFC's, and can only grow.
        let window = options.connection_window_bytes.clamp(DEFAULT_WINDOW, WINDOW_MAX);
        if window > DEFAULT_WINDOW {
            frame::put_window_update(first, 0, window - DEFAULT_WINDOW);
        }
        Connection {
            streams: Streams::new(),
            output,
            heads: Heads::new(index(options.header_list_bytes_max)),
            encoder: Encoder::new(),
            phase: Phase::Preface,
            leaving: Leaving::No,
            block: None,
            last_stream: 0,
            last_served: 0,
            receive_window: ReceiveWindow::new(window),
            send_window: SendWindow::new(DEFAULT_WINDOW),
            peer: PeerSettings::default(),
            budget: Budget::new(now),
            sendable: VecDeque::new(),
            said: None,
            starved: VecDeque::new(),
            roomy: Vec::new(),
            unsent_bytes: 0,
            unsent_pieces: 0,
            is_ping_answered: false,
            // Coded text is hardly longer than what it stands for.
            block_bytes_max: index(options.header_list_bytes_max).saturating_mul(2).max(frame::PAYLOAD_BYTES_MAX),
            concurrent_streams_max: index(options.concurrent_streams_max),
            stream_window_bytes,
            unsent_bytes_max: options.unsent_bytes_max,
        }
    }

    /// Whether the peer has spoken HTTP/2.
    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether more may be read: a peer that does not take what it asked for is not asked what more it wants.
    pub(crate) fn may_read(&self) -> bool {
        self.output.len() < OUTPUT_BYTES_MAX
    }

    /// The memory of all answers that the peer has not taken: those that wait for its windows, and those that wait for the
    /// socket. Reading goes on whatever waits for windows, because windows are opened by what is read; so it is new streams
    /// that are refused when this is much, and answers that are given up when it is too much.
    pub(crate) fn held_bytes(&self) -> usize {
        self.output.len() + self.unsent_bytes + self.unsent_pieces * PIECE_BYTES
    }

    /// Tells the peer that no more streams are welcome; those that it has are served to their end.
    pub(crate) fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Announced;
            let out = self.output.buffer();
            frame::put_goaway(out, WINDOW_MAX, Reason::NO_ERROR, "");
            frame::put_ping(out, 0, SHUTDOWN_PING);
        }
    }

    /// Whether everything is done that was to be done before the end.
    pub(crate) fn is_drained(&self) -> bool {
        self.leaving == Leaving::Final && self.streams.len() == 0
    }

    /// Says why the connection ends. Nothing more is to be read.
    pub(crate) fn fail(&mut self, error: ConnectionError) {
        frame::put_goaway(self.output.buffer(), self.last_served, error.reason, error.what);
    }

    /// Asks the peer whether it is there.
    pub(crate) fn ping(&mut self) {
        self.is_ping_answered = false;
        frame::put_ping(self.output.buffer(), 0, KEEPALIVE_PING);
    }

    pub(crate) fn is_ping_answered(&self) -> bool {
        self.is_ping_answered
    }

    /// Lets the peer send as much more on all streams together.
    pub(crate) fn release_connection(&mut self, count: usize) {
        if let Some(increment) = self.receive_window.release(count) {
            frame::put_window_update(self.output.buffer(), 0, increment);
        }
    }

    /// Lets the peer send as much more on a stream.
    pub(crate) fn release_stream(&mut self, key: Key, count: usize) {
        let Some(stream) = self.streams.get(key).filter(|stream| !stream.is_received) else { return };
        if let Some(increment) = stream.receive_window.release(count) {
            frame::put_window_update(self.output.buffer(), key.id, increment);
        }
    }

    /// Ends a stream for a reason.
    pub(crate) fn reset(&mut self, key: Key, reason: Reason) {
        if self.streams.get(key).is_some() {
            frame::put_reset(self.output.buffer(), key.id, reason);
            self.forget(key, Some(reason));
        }
    }

    fn forget(&mut self, key: Key, reset: Option<Reason>) {
        let stream: Option<Stream> = self.streams.remove(key, reset);
        if let Some(unsent) = stream.and_then(|stream| stream.unsent) {
            self.unsent_bytes -= unsent.bytes;
            self.unsent_pieces -= unsent.pieces.len();
        }
    }
}
