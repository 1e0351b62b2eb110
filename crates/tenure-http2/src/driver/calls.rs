//! From requests to the service, and from the service to answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{SHUTDOWN, Serving, TIMER};
use crate::connection::{Event, Message};
use crate::dialogue::{Talk, Whom};
use crate::error::{ConnectionError, Reason, ServeError};
use crate::head::Head;
use crate::incoming::{Incoming, Pipe};
use crate::outbox::Item;
use crate::reply::Reply;
use crate::seat::{Exchange, Gathering, PREFIX_BYTES, Stage, length_of};
use crate::service::{Service, Unary};
use crate::status::{self, INTERNAL, UNIMPLEMENTED};
use crate::streams::{End, Key};

/// Smaller pieces of a body are sent together with what follows.
const LARGE_BYTES_MIN: usize = 16 * 1024;

impl<I, S, D> Serving<I, S, D>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service,
    D: Future<Output = ()>,
{
    pub(super) fn handle(&mut self, now: Instant, event: Event<'_>) -> Result<(), ConnectionError> {
        match event {
            Event::Request { key, head, ended } => self.begin(now, key, &head, ended)?,
            Event::Data { key, bytes, ended } => self.data(now, key, bytes, ended)?,
            Event::Trailers { key, fields } => {
                let Some(seat) = self.core.streams.seat(key) else { return Ok(()) };
                match &mut seat.stage {
                    Stage::Streaming(pipe, _) => pipe.end(fields),
                    Stage::Gathering(_) => self.gathered(key),
                    Stage::Conversing(Some(talk)) => {
                        talk.inbox.end();
                        self.converse_soon(key);
                    }
                    Stage::Empty | Stage::Called | Stage::Answered | Stage::Conversing(None) => {}
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, now: Instant, key: Key, head: &Arc<Head>, ended: bool) -> Result<(), ConnectionError> {
        let is_unary = self.service.is_unary(head);
        let Some(seat) = self.core.streams.seat(key) else { return Ok(()) };
        seat.enter(&self.outbox, key);
        if is_unary {
            seat.stage = Stage::Gathering(Gathering::default());
            if ended {
                self.gathered(key);
            }
            return Ok(());
        }
        if let Some(dialogue) = self.service.converse(head) {
            let mut talk = Box::new(Talk::new(dialogue, self.limits.message_bytes_max));
            if ended {
                talk.inbox.end();
            }
            seat.stage = Stage::Conversing(Some(talk));
            self.converse_soon(key);
            return Ok(());
        }
        let pipe = Pipe::new(self.outbox.clone(), key, self.limits.stream_window_bytes, ended);
        match head.to_request(Incoming::new(pipe.clone())) {
            Ok(request) => {
                let answer = Box::pin(self.service.stream(request));
                seat.stage = Stage::Streaming(pipe, Some(Exchange::Answering(answer)));
                self.poll_seat(key.slot);
            }
            Err(error) => {
                tracing::debug!(%error, "a request's address makes no sense");
                self.core.break_stream(now, key, Reason::PROTOCOL_ERROR)?;
            }
        }
        Ok(())
    }

    fn data(&mut self, now: Instant, key: Key, bytes: &[u8], ended: bool) -> Result<(), ConnectionError> {
        let Some(seat) = self.core.streams.seat(key) else { return Ok(()) };
        match &mut seat.stage {
            Stage::Gathering(gathering) if ended && gathering.is_new() && is_message(bytes) => {
                if bytes.len() - PREFIX_BYTES > self.limits.message_bytes_max {
                    self.oversized(key, bytes.len() - PREFIX_BYTES);
                } else {
                    self.call(key, Bytes::copy_from_slice(&bytes[PREFIX_BYTES..]));
                }
            }
            Stage::Gathering(gathering) => {
                let before = gathering.bytes();
                let is_one = gathering.push(bytes);
                let (length, gained) = (gathering.length(), gathering.bytes() - before);
                let unfinished = self.outbox.unfinished_bytes.fetch_add(gained, Ordering::Relaxed) + gained;
                self.core.release_stream(key, bytes.len());
                if let Some(length) = length.filter(|length| *length > self.limits.message_bytes_max) {
                    self.oversized(key, length);
                } else if !is_one {
                    self.fail(key, INTERNAL, "more than one message in a unary call");
                } else if unfinished > self.limits.unfinished_bytes_max {
                    self.core.break_stream(now, key, Reason::ENHANCE_YOUR_CALM)?;
                } else if ended {
                    self.gathered(key);
                }
            }
            Stage::Streaming(pipe, _) => {
                if !pipe.push(bytes, ended) {
                    self.core.release_stream(key, bytes.len());
                }
                if self.outbox.unfinished_bytes.load(Ordering::Relaxed) > self.limits.unfinished_bytes_max {
                    self.core.break_stream(now, key, Reason::ENHANCE_YOUR_CALM)?;
                }
            }
            Stage::Conversing(Some(talk)) => {
                let unfinished = talk.push(bytes, &self.outbox);
                if ended {
                    talk.inbox.end();
                }
                if unfinished > self.limits.unfinished_bytes_max {
                    self.core.break_stream(now, key, Reason::ENHANCE_YOUR_CALM)?;
                } else {
                    self.converse_soon(key);
                }
            }
            Stage::Empty | Stage::Called | Stage::Answered | Stage::Conversing(None) => {
                self.core.release_stream(key, bytes.len());
            }
        }
        Ok(())
    }

    /// A dialogue goes on once all is read that is there.
    fn converse_soon(&mut self, key: Key) {
        if self.core.streams.seat(key).is_some_and(|seat| seat.make_ready()) {
            self.taken.ready.push(key.slot);
        }
    }

    /// Lets a dialogue go on.
    fn converse(&mut self, key: Key, mut talk: Box<Talk<S::Dialogue>>, cx: &mut Context<'_>) {
        let Serving { core, outbox, events_left, .. } = self;
        let (farewell, heard) = talk.poll(cx, Whom { core, key, outbox });
        *events_left = events_left.saturating_sub(heard);
        if talk.begins(farewell.is_some()) {
            core.begin_grpc(key);
        }
        if let Some(farewell) = farewell {
            talk.leave(outbox);
            return core.end_grpc(key, &farewell);
        }
        if let Some(seat) = core.streams.seat(key) {
            seat.stage = Stage::Conversing(Some(talk));
        }
    }

    /// A unary call is there as a whole, whatever it is.
    fn gathered(&mut self, key: Key) {
        let Some(seat) = self.core.streams.seat(key) else { return };
        let Stage::Gathering(gathering) = std::mem::replace(&mut seat.stage, Stage::Answered) else { return };
        self.outbox.unfinished_bytes.fetch_sub(gathering.bytes(), Ordering::Relaxed);
        if gathering.is_compressed() {
            let is_named = |head: &Head| head.get("grpc-encoding").is_some_and(|encoding| encoding != b"identity");
            let (code, text) = if self.core.streams.get(key).is_some_and(|stream| is_named(&stream.head)) {
                (UNIMPLEMENTED, "the message is compressed, which is not supported".into())
            } else {
                status::compressed()
            };
            return self.fail(key, code, &text);
        }
        match gathering.finish() {
            Some(message) => self.call(key, message.into()),
            None => self.fail(key, INTERNAL, "a unary call without a whole message"),
        }
    }

    fn call(&mut self, key: Key, message: Bytes) {
        let Some(head) = self.core.streams.get(key).map(|stream| stream.head.clone()) else { return };
        let Some(seat) = self.core.streams.seat(key) else { return };
        let Some(ticket) = seat.ticket() else { return };
        let reply = Reply::new(ticket.clone(), key);
        seat.stage = Stage::Called;
        if let Some(call) = self.service.call(Unary { head, message }, reply) {
            seat.begin(call);
        }
    }

    fn oversized(&mut self, key: Key, length: usize) {
        let Some(head) = self.core.streams.get(key).map(|stream| stream.head.clone()) else { return };
        let Some(seat) = self.core.streams.seat(key) else { return };
        let Some(ticket) = seat.ticket() else { return };
        let reply = Reply::new(ticket.clone(), key);
        if let Stage::Gathering(gathering) = std::mem::replace(&mut seat.stage, Stage::Answered) {
            self.outbox.unfinished_bytes.fetch_sub(gathering.bytes(), Ordering::Relaxed);
        }
        self.service.oversized(&head, length, self.limits.message_bytes_max, reply);
    }

    fn fail(&mut self, key: Key, code: u32, message: &str) {
        self.core.answer_status(key, code, message, None);
    }

    /// Deals with what was taken from the outbox.
    pub(super) fn deliver(&mut self) -> Result<(), ServeError> {
        let mut taken = std::mem::take(&mut self.taken);
        for (key, item) in taken.items.drain(..) {
            match item {
                Item::Message { start, end, metadata } => {
                    let message = Message::Borrowed(&taken.text[start..end]);
                    self.core.answer(key, metadata.as_deref(), message);
                }
                Item::SharedMessage { pieces, metadata } => {
                    self.core.answer(key, metadata.as_deref(), Message::Shared(pieces));
                }
                Item::Status { code, message, metadata } => {
                    self.core.answer_status(key, code, &message, metadata.as_deref());
                }
                Item::Excess => {
                    tracing::debug!(
                        stream = key.id,
                        "an answer is given up: the client does not take what it asked for"
                    );
                    self.core.reset(key, Reason::ENHANCE_YOUR_CALM);
                }
                Item::Read(count) => self.core.release_stream(key, count),
            }
        }
        let mut ready = std::mem::take(&mut taken.ready);
        let mut done = 0;
        // What is left over when others are to have their turn waits for the next.
        while let Some(slot) = ready.get(done).copied().filter(|_| done == 0 || self.events_left > 0) {
            done += 1;
            match slot {
                TIMER => self.poll_timer()?,
                SHUTDOWN => self.poll_shutdown(),
                slot => self.poll_seat(slot),
            }
        }
        ready.drain(..done);
        taken.clear();
        ready.append(&mut self.taken.ready);
        taken.ready = ready;
        self.taken = taken;
        Ok(())
    }

    /// Lets those go on who waited for room in their streams.
    pub(super) fn fill(&mut self) {
        let mut roomy = std::mem::take(&mut self.roomy);
        self.core.take_roomy(&mut roomy);
        let has_any = !roomy.is_empty();
        for slot in roomy.drain(..) {
            self.poll_seat(slot);
        }
        self.roomy = roomy;
        if has_any {
            self.core.pump();
            self.core.take_roomy(&mut self.roomy);
        }
    }

    /// Polls what is in a seat.
    fn poll_seat(&mut self, slot: u32) {
        let Some((key, seat)) = self.core.streams.at(slot) else { return };
        let exchange = match &mut seat.stage {
            Stage::Called => return seat.poll_call(),
            Stage::Streaming(_, exchange) => exchange.take(),
            Stage::Conversing(talk) => {
                if let (Some(talk), Some(waker)) = (talk.take(), seat.waker()) {
                    self.converse(key, talk, &mut Context::from_waker(&waker));
                }
                return;
            }
            Stage::Empty | Stage::Gathering(_) | Stage::Answered => None,
        };
        let (Some(exchange), Some(waker)) = (exchange, seat.waker()) else { return };
        let Some(exchange) = self.exchange(key, exchange, &mut Context::from_waker(&waker)) else { return };
        if let Some(seat) = self.core.streams.seat(key)
            && let Stage::Streaming(_, place) = &mut seat.stage
        {
            *place = Some(exchange);
        }
    }

    /// Takes an answer as far as it goes; nothing is left of one that has ended.
    fn exchange(&mut self, key: Key, exchange: Exchange<S>, cx: &mut Context<'_>) -> Option<Exchange<S>> {
        let body = match exchange {
            Exchange::Sending(body) => body,
            Exchange::Answering(mut answer) => match answer.as_mut().poll(cx) {
                Poll::Pending => return Some(Exchange::Answering(answer)),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a request failed");
                    self.core.reset(key, Reason::INTERNAL_ERROR);
                    return None;
                }
                Poll::Ready(Ok(response)) => {
                    let (parts, body) = response.into_parts();
                    let ended = body.is_end_stream();
                    self.core.send_head(key, parts.status.as_u16(), &parts.headers, ended);
                    if ended {
                        return None;
                    }
                    Box::pin(body)
                }
            },
        };
        self.send(key, body, cx).map(Exchange::Sending)
    }

    fn send(&mut self, key: Key, mut body: Pin<Box<S::Body>>, cx: &mut Context<'_>) -> Option<Pin<Box<S::Body>>> {
        while self.core.has_room(key) {
            match body.as_mut().poll_frame(cx) {
                Poll::Pending => return Some(body),
                Poll::Ready(None) => {
                    self.core.end(key, End::Plain);
                    return None;
                }
                Poll::Ready(Some(Err(_))) => {
                    self.core.reset(key, Reason::INTERNAL_ERROR);
                    return None;
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        let is_large = data.len() >= LARGE_BYTES_MIN;
                        self.core.push(key, data);
                        if is_large {
                            // It uses up windows, so that others need not be asked for what could not be sent.
                            self.core.pump();
                        }
                        if body.is_end_stream() {
                            self.core.end(key, End::Plain);
                            return None;
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.core.end(key, End::Trailers(trailers));
                            return None;
                        }
                    }
                },
            }
        }
        Some(body)
    }
}

/// Whether these bytes are one message that is not compressed.
fn is_message(bytes: &[u8]) -> bool {
    let prefix = bytes.first_chunk::<PREFIX_BYTES>();
    prefix.is_some_and(|prefix| prefix[0] == 0 && length_of(*prefix) == bytes.len() - PREFIX_BYTES)
}
