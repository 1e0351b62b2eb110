//! What is sent to the peer: heads, bodies as far as the windows let them, and ends.
//!
//! The answer of a unary call is written in one go if the windows hold it, which they nearly always do. Otherwise its body
//! waits in its stream, and takes turns with others, a frame each.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::{Connection, OUTPUT_BYTES_MAX, STREAM_UNSENT_BYTES_MAX};
use crate::dialogue::Farewell;
use crate::error::Reason;
use crate::frame::{self, END_HEADERS, END_STREAM, HEAD_BYTES};
use crate::hpack::Encoder;
use crate::pieces::Pieces;
use crate::streams::{End, Key, Seat, Unsent};

/// What a message of gRPC has before it: that it is not compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Streams that are gone and may still be in a queue, beside as many as there are.
const GONE_MAX: usize = 64;

/// Streams that are asked at once for what the connection's window lets them send.
const STARVED_AT_ONCE: usize = 16;

/// Fields that have no place in HTTP/2; a service made for HTTP/1 may set them.
const HOP_BY_HOP: [&str; 5] = ["connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"];

/// Bytes of `grpc-message` that are written as they are.
fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) && byte != b'%'
}

/// The message of an answer.
pub(crate) enum Message<'a> {
    Borrowed(&'a [u8]),
    Shared(Pieces),
}

impl Message<'_> {
    fn len(&self) -> usize {
        match self {
            Message::Borrowed(bytes) => bytes.len(),
            Message::Shared(pieces) => pieces.len(),
        }
    }
}

/// The frame of messages that was last put into the output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    stream: u32,
    /// Where it begins in the output's buffer.
    at: usize,
    /// Where the output ended behind it.
    end: (u64, usize),
}

impl<S: Seat> Connection<S> {
    /// Answers a unary call that went well.
    pub(crate) fn answer(&mut self, key: Key, metadata: Option<&HeaderMap>, message: Message<'_>) {
        let length = PREFIX_BYTES + message.len();
        let frame_bytes_max = self.peer.frame_bytes_max;
        let connection_window = self.send_window.open();
        let Some(stream) = self.streams.get(key).filter(|stream| !stream.has_sent_head) else { return };
        let fits = length <= frame_bytes_max.min(connection_window).min(stream.send_window.open());
        let prefix = prefix_of(message.len());
        if !fits {
            stream.has_sent_head = true;
            self.put_grpc_head(key.id, metadata);
            match message {
                Message::Borrowed(bytes) => self.push(key, Bytes::from([&prefix[..], bytes].concat())),
                Message::Shared(pieces) => {
                    self.push(key, Bytes::copy_from_slice(&prefix));
                    pieces.into_list().into_iter().for_each(|piece| self.push(key, piece));
                }
            }
            self.end(key, End::GrpcOk);
            return;
        }
        stream.send_window.take(length);
        self.send_window.take(length);
        let primes = metadata.is_none() && self.encoder.may_prime();
        if primes {
            let out = self.output.buffer();
            put_block(out, key.id, 0, |out| self.encoder.prime_head(out));
        } else {
            self.put_grpc_head(key.id, metadata);
        }
        let out = self.output.buffer();
        frame::put_head(out, length, frame::DATA, 0, key.id);
        out.extend_from_slice(&prefix);
        match message {
            Message::Borrowed(bytes) => out.extend_from_slice(bytes),
            Message::Shared(pieces) => pieces.into_list().into_iter().for_each(|piece| self.output.push(piece)),
        }
        let out = self.output.buffer();
        let encoder = &mut self.encoder;
        put_block(out, key.id, END_STREAM, |out| if primes { encoder.prime_ok(out) } else { encoder.put_grpc_ok(out) });
        self.finish(key);
    }

    /// Answers a call that failed, with nothing but its status.
    pub(crate) fn answer_status(&mut self, key: Key, code: u32, message: &str, metadata: Option<&HeaderMap>) {
        if self.streams.get(key).is_none_or(|stream| stream.has_sent_head) {
            return;
        }
        let encoder = &mut self.encoder;
        put_head_frames(self.output.buffer(), self.peer.frame_bytes_max, key.id, END_STREAM, |out| {
            encoder.put_grpc_head(out);
            encoder.put_field(out, b"grpc-status", code.to_string().as_bytes());
            if !message.is_empty() {
                encoder.put_field(out, b"grpc-message", &escaped(message));
            }
            put_fields(encoder, out, metadata);
        });
        self.finish(key);
    }

    /// Begins an answer of many messages, unless it has begun.
    pub(crate) fn begin_grpc(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key).filter(|stream| !stream.has_sent_head) else { return };
        stream.has_sent_head = true;
        self.put_grpc_head(key.id, None);
    }

    /// Sends one of many messages, of about `length` bytes: at once if the windows hold it and nothing waits before it.
    pub(crate) fn say(&mut self, key: Key, length: usize, write: &mut dyn FnMut(&mut Vec<u8>)) {
        self.begin_grpc(key);
        let window = self.peer.frame_bytes_max.min(self.send_window.open());
        let is_full = self.output.len() >= OUTPUT_BYTES_MAX;
        let Some(stream) = self.streams.get(key) else { return };
        let fits = PREFIX_BYTES + length <= window.min(stream.send_window.open());
        if !fits || is_full || stream.unsent.is_some() {
            let mut message = Vec::with_capacity(PREFIX_BYTES + length);
            message.extend_from_slice(&[0; PREFIX_BYTES]);
            write(&mut message);
            let prefix = prefix_of(message.len() - PREFIX_BYTES);
            message[..PREFIX_BYTES].copy_from_slice(&prefix);
            return self.push(key, message.into());
        }
        // What is said on one stream at a time goes into one frame: clients count small ones against us.
        let whole = PREFIX_BYTES + length;
        let begun = self.said.filter(|said| said.stream == key.id && said.end == self.output.end());
        let begun = begun.filter(|said| said.end.1 - said.at + whole <= HEAD_BYTES + self.peer.frame_bytes_max);
        let out = self.output.buffer();
        let at = begun.map_or(out.len(), |said| said.at);
        if begun.is_none() {
            frame::put_head(out, 0, frame::DATA, 0, key.id);
            self.budget.answered();
        }
        let prefix_at = out.len();
        out.extend_from_slice(&[0; PREFIX_BYTES]);
        write(out);
        let count = out.len() - prefix_at;
        debug_assert_eq!(count, whole, "the length that was announced");
        out[prefix_at..prefix_at + PREFIX_BYTES].copy_from_slice(&prefix_of(count - PREFIX_BYTES));
        frame::patch_length(out, at);
        stream.send_window.take(count);
        self.send_window.take(count);
        self.said = Some(Said { stream: key.id, at, end: self.output.end() });
    }

    /// Ends an answer of many messages, which may be none.
    pub(crate) fn end_grpc(&mut self, key: Key, farewell: &Farewell) {
        let Farewell { code, message, metadata } = farewell;
        if self.streams.get(key).is_some_and(|stream| !stream.has_sent_head) && *code != 0 {
            return self.answer_status(key, *code, message, metadata.as_deref());
        }
        self.begin_grpc(key);
        if *code == 0 {
            return self.end(key, End::GrpcOk);
        }
        let mut trailers = metadata.as_deref().cloned().unwrap_or_default();
        trailers.insert("grpc-status", HeaderValue::from(*code));
        if let Ok(message) = HeaderValue::from_bytes(&escaped(message)) {
            trailers.insert("grpc-message", message);
        }
        self.end(key, End::Trailers(trailers));
    }

    fn put_grpc_head(&mut self, id: u32, metadata: Option<&HeaderMap>) {
        let encoder = &mut self.encoder;
        put_head_frames(self.output.buffer(), self.peer.frame_bytes_max, id, 0, |out| {
            encoder.put_grpc_head(out);
            put_fields(encoder, out, metadata);
        });
    }

    /// Sends the head of any answer; `ended` if there is no body.
    pub(crate) fn send_head(&mut self, key: Key, status: u16, fields: &HeaderMap, ended: bool) {
        let Some(stream) = self.streams.get(key).filter(|stream| !stream.has_sent_head) else { return };
        stream.has_sent_head = true;
        let encoder = &mut self.encoder;
        let flags = if ended { END_STREAM } else { 0 };
        put_head_frames(self.output.buffer(), self.peer.frame_bytes_max, key.id, flags, |out| {
            encoder.put_status(out, status);
            put_fields(encoder, out, Some(fields));
        });
        if ended {
            self.finish(key);
        }
    }

    /// Adds a piece to a body, which is sent as the windows allow.
    pub(crate) fn push(&mut self, key: Key, piece: Bytes) {
        let Some(stream) = self.streams.get(key).filter(|_| !piece.is_empty()) else { return };
        let unsent = stream.unsent.get_or_insert_default();
        unsent.bytes += piece.len();
        let count = piece.len();
        unsent.pieces.push_back(piece);
        self.unsent_bytes += count;
        self.unsent_pieces += 1;
        self.queue(key);
    }

    /// Says how a body ends. Nothing may follow. An end needs no window, so it waits only for what is before it.
    pub(crate) fn end(&mut self, key: Key, end: End) {
        let Some(stream) = self.streams.get(key) else { return };
        let mut unsent = stream.unsent.take().unwrap_or_default();
        unsent.end = Some(end);
        if !unsent.pieces.is_empty() {
            stream.unsent = Some(unsent);
            self.queue(key);
        } else if self.send_some(key, &mut unsent) {
            self.finish(key);
        }
    }

    /// Whether a stream takes more: not what its windows do not let it send, for that is better kept where it comes from; nor
    /// much that waits for the socket, least of all if much waits in all streams. If it has no room, its slot is among
    /// [`Connection::take_roomy`] once it may have some.
    pub(crate) fn has_room(&mut self, key: Key) -> bool {
        let is_crowded = self.held_bytes() > self.unsent_bytes_max;
        let connection_window = self.send_window.open();
        let Some(stream) = self.streams.get(key) else { return true };
        let unsent_bytes = stream.unsent.as_ref().map_or(0, |unsent| unsent.bytes);
        let window = stream.send_window.open().min(connection_window);
        let has_room = unsent_bytes < window.min(STREAM_UNSENT_BYTES_MAX) && (unsent_bytes == 0 || !is_crowded);
        stream.wants_room = !has_room;
        if !has_room && unsent_bytes == 0 && stream.send_window.open() > 0 && !stream.is_starved {
            stream.is_starved = true;
            self.starved.push_back(key);
            if self.starved.len() > 2 * self.streams.len() + GONE_MAX {
                let streams = &mut self.streams;
                self.starved.retain(|key| streams.get(*key).is_some());
            }
        }
        has_room
    }

    /// The slots that were told to wait and need not any more; a few at a time of those that wait for the connection's window,
    /// because the first of them may use it up.
    pub(crate) fn take_roomy(&mut self, slots: &mut Vec<u32>) {
        slots.append(&mut self.roomy);
        for _ in 0..STARVED_AT_ONCE {
            if self.send_window.open() == 0 {
                return;
            }
            let Some(key) = self.starved.pop_front() else { return };
            if let Some(stream) = self.streams.get(key) {
                stream.is_starved = false;
                slots.push(key.slot);
            }
        }
    }

    /// Puts a stream into the queue of those that may send, if it has something.
    pub(super) fn queue(&mut self, key: Key) {
        if let Some(stream) = self.streams.get(key)
            && stream.unsent.is_some()
            && !stream.is_queued
        {
            stream.is_queued = true;
            self.sendable.push_back(key);
            if self.sendable.len() > 2 * self.streams.len() + GONE_MAX {
                let streams = &mut self.streams;
                self.sendable.retain(|key| streams.get(*key).is_some());
            }
        }
    }

    /// Whether there are bodies that could go on if the output were empty.
    pub(crate) fn has_sendable(&self) -> bool {
        self.send_window.open() > 0 && !(self.sendable.is_empty() && self.starved.is_empty())
    }

    /// Writes bodies, as far as the windows and the output let it.
    pub(crate) fn pump(&mut self) {
        while self.output.len() < OUTPUT_BYTES_MAX
            && let Some(key) = self.sendable.pop_front()
        {
            let Some(stream) = self.streams.get(key) else { continue };
            stream.is_queued = false;
            let Some(mut unsent) = stream.unsent.take() else { continue };
            let is_blocked = !unsent.pieces.is_empty() && self.send_window.open() == 0;
            if is_blocked {
                stream.unsent = Some(unsent);
                stream.is_queued = true;
                self.sendable.push_front(key);
                return;
            }
            if self.send_some(key, &mut unsent) {
                self.finish(key);
            } else {
                self.keep(key, unsent);
            }
        }
    }

    /// Writes one frame of a body, and its end if that is reached.
    fn send_some(&mut self, key: Key, unsent: &mut Unsent) -> bool {
        let Some(stream) = self.streams.get(key) else { return false };
        let window = stream.send_window.open().min(self.send_window.open()).min(self.peer.frame_bytes_max);
        let count = unsent.bytes.min(window);
        if count == 0 && unsent.bytes > 0 {
            return false;
        }
        stream.send_window.take(count);
        self.send_window.take(count);
        self.unsent_bytes -= count;
        unsent.bytes -= count;
        let is_last = unsent.bytes == 0 && matches!(unsent.end, Some(End::Plain));
        if count > 0 || is_last {
            // A client may ping for each piece that it gets, to learn how much it should let us send.
            self.budget.answered();
            let flags = if is_last { END_STREAM } else { 0 };
            frame::put_head(self.output.buffer(), count, frame::DATA, flags, key.id);
        }
        let mut left = count;
        while left > 0
            && let Some(mut piece) = unsent.pieces.pop_front()
        {
            let part = piece.split_to(left.min(piece.len()));
            left -= part.len();
            self.output.push(part);
            if piece.is_empty() {
                self.unsent_pieces -= 1;
            } else {
                unsent.pieces.push_front(piece);
            }
        }
        if unsent.bytes > 0 {
            return false;
        }
        let encoder = &mut self.encoder;
        let (out, frame_bytes_max) = (self.output.buffer(), self.peer.frame_bytes_max);
        match unsent.end.take() {
            None => return false,
            Some(End::Plain) => {}
            Some(End::GrpcOk) => put_block(out, key.id, END_STREAM, |out| encoder.put_grpc_ok(out)),
            Some(End::Trailers(fields)) => put_head_frames(out, frame_bytes_max, key.id, END_STREAM, |out| {
                put_fields(encoder, out, Some(&fields));
            }),
        }
        true
    }

    /// Puts back what is left of a body, and tells its filler if there is room again.
    fn keep(&mut self, key: Key, unsent: Box<Unsent>) {
        let Some(stream) = self.streams.get(key) else { return };
        if stream.wants_room && unsent.bytes < STREAM_UNSENT_BYTES_MAX / 2 {
            stream.wants_room = false;
            self.roomy.push(key.slot);
        }
        if unsent.bytes == 0 {
            return;
        }
        let may_go_on = stream.send_window.open() > 0;
        stream.unsent = Some(unsent);
        if may_go_on {
            stream.is_queued = true;
            self.sendable.push_back(key);
        }
    }

    /// Our side of a stream has ended. A request that has not is of no use any more.
    fn finish(&mut self, key: Key) {
        self.budget.answered();
        if self.streams.get(key).is_some_and(|stream| !stream.is_received) {
            frame::put_reset(self.output.buffer(), key.id, Reason::NO_ERROR);
        }
        self.forget(key, None);
    }

    /// Answers a request whose head is too long to be kept.
    pub(super) fn put_too_large(&mut self, id: u32) {
        let encoder = &mut self.encoder;
        put_block(self.output.buffer(), id, END_STREAM, |out| encoder.put_status(out, 431));
    }
}

fn prefix_of(length: usize) -> [u8; PREFIX_BYTES] {
    let [l0, l1, l2, l3] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [0, l0, l1, l2, l3]
}

/// Writes a header block that is known to fit a frame.
fn put_block(out: &mut Vec<u8>, id: u32, flags: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    frame::put_head(out, 0, frame::HEADERS, END_HEADERS | flags, id);
    write(out);
    frame::patch_length(out, at);
}

/// Writes a header block of any length.
fn put_head_frames(out: &mut Vec<u8>, frame_bytes_max: usize, id: u32, flags: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    put_block(out, id, flags, write);
    if out.len() - at - HEAD_BYTES <= frame_bytes_max {
        return;
    }
    let block = out.split_off(at + HEAD_BYTES);
    out.truncate(at);
    let count = block.len().div_ceil(frame_bytes_max);
    for (number, part) in block.chunks(frame_bytes_max).enumerate() {
        let kind = if number == 0 { frame::HEADERS } else { frame::CONTINUATION };
        let first = if number == 0 { flags } else { 0 };
        let last = if number + 1 == count { END_HEADERS } else { 0 };
        frame::put_head(out, part.len(), kind, first | last, id);
        out.extend_from_slice(part);
    }
}

fn put_fields(encoder: &mut Encoder, out: &mut Vec<u8>, fields: Option<&HeaderMap>) {
    for (name, value) in fields.into_iter().flatten() {
        if !HOP_BY_HOP.contains(&name.as_str()) {
            encoder.put_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
}

/// Text as `grpc-message` wants it. Blanks at its ends would be lost.
fn escaped(message: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len());
    let last = message.len().saturating_sub(1);
    for (at, byte) in message.bytes().enumerate() {
        if is_plain(byte) && (byte != b' ' || (at > 0 && at < last)) {
            out.push(byte);
        } else {
            let digit = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble & 0xf)];
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte)]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blanks at its ends would be no part of the field's value.
    #[test]
    fn a_text_is_escaped_where_a_field_could_not_hold_it() {
        for (text, wanted) in
            [("", ""), ("a b", "a b"), (" a  ", "%20a %20"), (" ", "%20"), ("\ta%\u{fc}\n", "%09a%25%C3%BC%0A")]
        {
            assert_eq!(escaped(text), wanted.as_bytes());
        }
    }
}
