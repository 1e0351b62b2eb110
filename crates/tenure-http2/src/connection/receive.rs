//! What the peer sends.

use std::time::Duration;

use tokio::time::Instant;

use super::{Block, Connection, Event, KEEPALIVE_PING, Leaving, Phase, SHUTDOWN_PING};
use crate::error::{ConnectionError, Reason};
use crate::flow::{ReceiveWindow, SendWindow};
use crate::frame::{self, HEAD_BYTES, Head, PAYLOAD_BYTES_MAX, PREFACE};
use crate::head::Unusable;
use crate::hpack::HpackError;
use crate::streams::{Key, Seat, Stream};

/// CONTINUATION frames of one header block: those of a client that fills its frames are few.
const CONTINUATIONS_MAX: usize = 16;

/// An increment of a window this small is a nuisance.
const INCREMENT_MIN: u32 = 64;

/// A stream that is reset when it is younger was hardly worth its beginning. Clients with short deadlines give up soon, and
/// many calls together if the server is late.
const YOUNG: Duration = Duration::from_millis(20);

/// So many streams' windows are changed for the price of one nuisance.
const CHANGES_FOR_ONE: usize = 64;

type Received<'a> = Result<Option<Event<'a>>, ConnectionError>;

impl From<HpackError> for ConnectionError {
    fn from(error: HpackError) -> ConnectionError {
        let what = match error {
            HpackError::Truncated => "a header block ends within a field",
            HpackError::Integer => "an integer in a header block is too large",
            HpackError::Huffman => "text in a header block is not coded as it should be",
            HpackError::Index => "a header block names a field that is not in the table",
            HpackError::TableSize => "a header block changes the table's size where it may not",
            HpackError::TooLong => {
                let what = "a header block stands for far too much";
                return ConnectionError::new(Reason::ENHANCE_YOUR_CALM, what);
            }
        };
        ConnectionError::new(Reason::COMPRESSION_ERROR, what)
    }
}

impl<S: Seat> Connection<S> {
    /// Reads on until something happens that the caller has to know; nothing if more input is needed for that. `input` is
    /// moved past what was read, and what is left has to be given again, with more behind it.
    pub(crate) fn next<'a>(&mut self, now: Instant, input: &mut &'a [u8]) -> Received<'a> {
        if self.phase == Phase::Preface && !self.read_preface(input)? {
            return Ok(None);
        }
        while let Some(head) = Head::read(input) {
            if head.length > PAYLOAD_BYTES_MAX {
                return Err(ConnectionError::new(Reason::FRAME_SIZE_ERROR, "a frame is too long"));
            }
            let Some(payload) = input.get(HEAD_BYTES..HEAD_BYTES + head.length) else { break };
            *input = &input[HEAD_BYTES + head.length..];
            if let Some(event) = self.frame(now, head, payload)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn read_preface(&mut self, input: &mut &[u8]) -> Result<bool, ConnectionError> {
        let count = input.len().min(PREFACE.len());
        if input[..count] != PREFACE[..count] {
            return Err(ConnectionError::protocol("no preface"));
        }
        if count < PREFACE.len() {
            return Ok(false);
        }
        *input = &input[count..];
        self.phase = Phase::Settings;
        Ok(true)
    }

    fn frame<'a>(&mut self, now: Instant, head: Head, payload: &'a [u8]) -> Received<'a> {
        if self.block.is_some() && head.kind != frame::CONTINUATION {
            return Err(ConnectionError::protocol("a header block is interrupted"));
        }
        if self.phase == Phase::Settings && (head.kind != frame::SETTINGS || head.has(frame::ACK)) {
            return Err(ConnectionError::protocol("the first frame is not SETTINGS"));
        }
        match head.kind {
            frame::DATA => return self.data(now, head, payload),
            frame::HEADERS => return self.headers(now, head, payload),
            frame::CONTINUATION => return self.continuation(now, head, payload),
            frame::WINDOW_UPDATE => self.window_update(now, head, payload)?,
            frame::RST_STREAM => self.peer_resets(now, head, payload)?,
            frame::SETTINGS => self.settings(now, head, payload)?,
            frame::PING => self.peer_pings(now, head, payload)?,
            frame::GOAWAY => {
                on_connection(head)?;
                // What it says is for servers that push. The peer closes the connection when it is done.
                if payload.len() < 8 {
                    return Err(FRAME_SIZE);
                }
            }
            frame::PRIORITY => {
                self.budget.spend(now)?;
                let key = self.known_stream(head.stream);
                if head.stream == 0 {
                    return Err(ConnectionError::protocol("PRIORITY of the connection"));
                }
                if let (Ok(Some(key)), true) = (key, payload.len() != 5) {
                    self.break_stream(now, key, Reason::FRAME_SIZE_ERROR)?;
                }
            }
            frame::PUSH_PROMISE => return Err(ConnectionError::protocol("a client promises to push")),
            _ => self.budget.spend(now)?,
        }
        Ok(None)
    }

    /// The stream of a frame that may only follow HEADERS: nothing if it is closed, an error if it never was open.
    fn known_stream(&mut self, id: u32) -> Result<Option<Key>, ConnectionError> {
        if id > self.last_stream || id.is_multiple_of(2) {
            return Err(ConnectionError::protocol("a frame on a stream that is idle"));
        }
        Ok(self.streams.find(id))
    }

    fn data<'a>(&mut self, now: Instant, head: Head, payload: &'a [u8]) -> Received<'a> {
        let bytes = head.without_padding(payload)?;
        let ended = head.has(frame::END_STREAM);
        let overflow = |_| ConnectionError::new(Reason::FLOW_CONTROL_ERROR, "more data than the connection's window");
        self.receive_window.receive(payload.len()).map_err(overflow)?;
        // What is kept of it is bounded by the streams' windows: one that is read slowly does not hold up the others.
        self.release_connection(payload.len());
        let Some(key) = self.known_stream(head.stream)? else {
            // It may have been on its way when we closed the stream.
            return Ok(None);
        };
        let Some(stream) = self.streams.get(key) else { return Ok(None) };
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let left = stream.body_left.map(|left| left.checked_sub(count).filter(|left| !ended || *left == 0));
        let failure = if stream.is_received {
            Some(Reason::STREAM_CLOSED)
        } else if stream.receive_window.receive(payload.len()).is_err() {
            Some(Reason::FLOW_CONTROL_ERROR)
        } else if left == Some(None) {
            Some(Reason::PROTOCOL_ERROR)
        } else {
            None
        };
        if let Some(reason) = failure {
            self.break_stream(now, key, reason)?;
            return Ok(None);
        }
        stream.body_left = left.flatten();
        stream.is_received = ended;
        if payload.len() > bytes.len() {
            self.release_stream(key, payload.len() - bytes.len());
        }
        if bytes.is_empty() && !ended {
            self.budget.spend(now)?;
            return Ok(None);
        }
        Ok(Some(Event::Data { key, bytes, ended }))
    }

    fn headers<'a>(&mut self, now: Instant, head: Head, payload: &[u8]) -> Received<'a> {
        if head.stream.is_multiple_of(2) {
            return Err(ConnectionError::protocol("HEADERS on a stream that no client opens"));
        }
        let bytes = head.header_block(payload)?;
        let ends_stream = head.has(frame::END_STREAM);
        if head.has(frame::END_HEADERS) {
            return self.header_block(now, head.stream, bytes, ends_stream);
        }
        self.block = Some(Block { stream: head.stream, ends_stream, bytes: bytes.to_vec(), frames: 0 });
        Ok(None)
    }

    fn continuation<'a>(&mut self, now: Instant, head: Head, payload: &[u8]) -> Received<'a> {
        let Some(mut block) = self.block.take().filter(|block| block.stream == head.stream) else {
            return Err(ConnectionError::protocol("CONTINUATION of nothing"));
        };
        block.bytes.extend_from_slice(payload);
        block.frames += 1;
        if block.bytes.len() > self.block_bytes_max || block.frames > CONTINUATIONS_MAX {
            return Err(ConnectionError::new(Reason::ENHANCE_YOUR_CALM, "a header block without end"));
        }
        if head.has(frame::END_HEADERS) {
            return self.header_block(now, block.stream, &block.bytes, block.ends_stream);
        }
        self.block = Some(block);
        Ok(None)
    }

    fn header_block<'a>(&mut self, now: Instant, id: u32, block: &[u8], ended: bool) -> Received<'a> {
        if id <= self.last_stream {
            return self.trailers(now, id, block, ended);
        }
        self.last_stream = id;
        let head = self.heads.read(block)?;
        if self.leaving == Leaving::Final {
            return Ok(None);
        }
        let head = match head {
            Ok(head) => head,
            Err(Unusable::Malformed) => return self.refuse(now, id, Reason::PROTOCOL_ERROR),
            Err(Unusable::TooLarge) => {
                self.budget.spend(now)?;
                self.put_too_large(id);
                return if ended { Ok(None) } else { self.refuse(now, id, Reason::NO_ERROR) };
            }
        };
        // Refused early enough that the calls that are under way can still be answered: these a client may try again.
        if self.streams.len() >= self.concurrent_streams_max || self.held_bytes() > self.unsent_bytes_max / 2 {
            return self.refuse(now, id, Reason::REFUSED_STREAM);
        }
        if ended && head.content_length().is_some_and(|length| length > 0) {
            return self.refuse(now, id, Reason::PROTOCOL_ERROR);
        }
        self.last_served = id;
        let key = self.streams.insert(Stream {
            id,
            begun: now,
            head: head.clone(),
            is_received: ended,
            has_sent_head: false,
            is_queued: false,
            wants_room: false,
            is_starved: false,
            receive_window: ReceiveWindow::new(self.stream_window_bytes),
            send_window: SendWindow::new(self.peer.initial_window),
            body_left: head.content_length(),
            unsent: None,
        });
        Ok(Some(Event::Request { key, head, ended }))
    }

    fn refuse<'a>(&mut self, now: Instant, id: u32, reason: Reason) -> Received<'a> {
        self.budget.spend(now)?;
        frame::put_reset(self.output.buffer(), id, reason);
        Ok(None)
    }

    /// Resets a stream for what the peer did. That ends a call whose work goes on for a while, just as if the peer had reset
    /// it, and it is no cheaper.
    pub(crate) fn break_stream(&mut self, now: Instant, key: Key, reason: Reason) -> Result<(), ConnectionError> {
        self.reset(key, reason);
        self.budget.spend(now)
    }

    fn trailers<'a>(&mut self, now: Instant, id: u32, block: &[u8], ended: bool) -> Received<'a> {
        // Read in any case: the table has to follow.
        let fields = self.heads.read_trailers(block)?;
        let Some(key) = self.streams.find(id) else {
            self.budget.spend(now)?;
            return Ok(None);
        };
        let Some(stream) = self.streams.get(key) else { return Ok(None) };
        if stream.is_received {
            self.break_stream(now, key, Reason::STREAM_CLOSED)?;
            return Ok(None);
        }
        match fields {
            Ok(fields) if ended && stream.body_left.is_none_or(|left| left == 0) => {
                stream.is_received = true;
                Ok(Some(Event::Trailers { key, fields }))
            }
            _ => {
                self.break_stream(now, key, Reason::PROTOCOL_ERROR)?;
                Ok(None)
            }
        }
    }

    fn window_update(&mut self, now: Instant, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        let increment = u32::from_be_bytes(payload.try_into().map_err(|_| FRAME_SIZE)?) & 0x7fff_ffff;
        if increment < INCREMENT_MIN {
            self.budget.spend(now)?;
        }
        if head.stream == 0 {
            if increment == 0 {
                return Err(ConnectionError::protocol("a window is opened by nothing"));
            }
            let overflow = |_| ConnectionError::new(Reason::FLOW_CONTROL_ERROR, "the connection's window overflows");
            return self.send_window.grant(increment).map_err(overflow);
        }
        let Some(key) = self.known_stream(head.stream)? else { return Ok(()) };
        if increment == 0 {
            return self.break_stream(now, key, Reason::PROTOCOL_ERROR);
        }
        let Some(stream) = self.streams.get(key) else { return Ok(()) };
        if stream.send_window.grant(increment).is_err() {
            return self.break_stream(now, key, Reason::FLOW_CONTROL_ERROR);
        }
        if stream.may_be_filled() {
            stream.wants_room = false;
            self.roomy.push(key.slot);
        }
        self.queue(key);
        Ok(())
    }

    fn peer_resets(&mut self, now: Instant, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        let reason = Reason(u32::from_be_bytes(payload.try_into().map_err(|_| FRAME_SIZE)?));
        let key = self.known_stream(head.stream)?;
        let stream = key.and_then(|key| self.streams.get(key));
        // Many old streams may well end together; to begin streams only to reset them is an attack.
        if stream.is_none_or(|stream| now.saturating_duration_since(stream.begun) < YOUNG) {
            self.budget.spend(now)?;
        }
        if let Some(key) = key {
            self.forget(key, Some(reason));
        }
        Ok(())
    }

    fn settings(&mut self, now: Instant, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        on_connection(head)?;
        if head.has(frame::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(FRAME_SIZE) };
        }
        self.budget.spend(now)?;
        let before = self.peer.initial_window;
        self.peer.apply(payload)?;
        self.phase = Phase::Open;
        self.encoder.set_table_bytes_max(self.peer.header_table_bytes);
        let change = i64::from(self.peer.initial_window) - i64::from(before);
        if change != 0 {
            self.budget.spend_many(now, self.streams.slots() / CHANGES_FOR_ONE)?;
            let overflow = |_| ConnectionError::new(Reason::FLOW_CONTROL_ERROR, "a stream's window overflows");
            for (slot, stream) in self.streams.iter_mut() {
                stream.send_window.shift(change).map_err(overflow)?;
                if stream.may_be_filled() {
                    stream.wants_room = false;
                    self.roomy.push(slot);
                }
                if stream.unsent.is_some() && !stream.is_queued {
                    stream.is_queued = true;
                    self.sendable.push_back(Key { slot, id: stream.id });
                }
            }
        }
        frame::put_head(self.output.buffer(), 0, frame::SETTINGS, frame::ACK, 0);
        Ok(())
    }

    fn peer_pings(&mut self, now: Instant, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        on_connection(head)?;
        let payload: [u8; 8] = payload.try_into().map_err(|_| FRAME_SIZE)?;
        if !head.has(frame::ACK) {
            self.budget.spend(now)?;
            frame::put_ping(self.output.buffer(), frame::ACK, payload);
        } else if payload == KEEPALIVE_PING {
            self.is_ping_answered = true;
        } else if payload == SHUTDOWN_PING && self.leaving == Leaving::Announced {
            self.leaving = Leaving::Final;
            frame::put_goaway(self.output.buffer(), self.last_served, Reason::NO_ERROR, "");
        }
        Ok(())
    }
}

const FRAME_SIZE: ConnectionError = ConnectionError::new(Reason::FRAME_SIZE_ERROR, "a frame has a wrong length");

fn on_connection(head: Head) -> Result<(), ConnectionError> {
    if head.stream == 0 { Ok(()) } else { Err(ConnectionError::protocol("a frame of the connection on a stream")) }
}
