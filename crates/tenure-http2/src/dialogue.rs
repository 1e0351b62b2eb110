//! Streams of messages in both directions that the connection polls itself: without a task, a channel or a body between.
//!
//! What arrives waits in one buffer for each stream until it is heard, and what is said goes straight into the connection's
//! output if the windows let it. So a short message costs a few copies of its bytes.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use http::HeaderMap;

use crate::connection::Connection;
use crate::outbox::Outbox;
use crate::seat::{PREFIX_BYTES, Seat, length_of};
use crate::service::Service;
use crate::streams::Key;

const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;

/// A buffer that was larger than this is not kept once all of it was heard.
const KEPT_BYTES_MAX: usize = 1024;

/// Serves a stream of messages. Dropped when the client gives up.
pub trait Dialogue {
    /// Goes on as far as it can. Polled once at first, and then when something arrived, when there is room again after there was none,
    /// and when it was woken. Ready ends the stream.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>, line: &mut dyn Line) -> Poll<Farewell>;
}

/// A dialogue's way to its client.
pub trait Line {
    /// The next message, which has been taken by that. Messages that are not heard wait, and hold up their stream, and no other.
    fn hear(&mut self) -> Heard<'_>;

    /// Whether something should be said now. If not, the dialogue is polled again once it should.
    fn has_room(&mut self) -> bool;

    /// Says a message of `length` bytes, which `write` writes. Without room it is kept until it can be sent.
    fn say(&mut self, length: usize, write: &mut dyn FnMut(&mut Vec<u8>));
}

/// What a client said.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A message, without what gRPC puts before it.
    Message(&'a [u8]),
    /// Nothing more so far.
    Nothing,
    /// Nothing more will come.
    End,
}

/// How a stream ends.
#[derive(Debug)]
pub struct Farewell {
    /// gRPC's code; 0 if all went well.
    pub code: u32,
    /// What else there is to say.
    pub message: Cow<'static, str>,
    /// Trailers beside these.
    pub metadata: Option<Box<HeaderMap>>,
}

impl Farewell {
    /// All went well.
    pub const OK: Farewell = Farewell { code: 0, message: Cow::Borrowed(""), metadata: None };

    fn new(code: u32, message: impl Into<Cow<'static, str>>) -> Farewell {
        Farewell { code, message: message.into(), metadata: None }
    }
}

/// For services that have no dialogues.
#[derive(Debug)]
pub enum NoDialogue {}

impl Dialogue for NoDialogue {
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut dyn Line) -> Poll<Farewell> {
        match *self {}
    }
}

/// What has arrived and was not heard.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    heard: usize,
    /// What the client's windows were not given back.
    unreleased: usize,
    is_ended: bool,
    failure: Option<Farewell>,
}

impl Inbox {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.heard > 0 {
            self.bytes.drain(..self.heard);
            self.heard = 0;
        }
        self.bytes.extend_from_slice(bytes);
        self.unreleased += bytes.len();
    }

    pub(crate) fn end(&mut self) {
        self.is_ended = true;
    }

    /// What was not heard, in bytes.
    pub(crate) fn unheard(&self) -> usize {
        self.bytes.len() - self.heard
    }

    fn hear(&mut self, message_bytes_max: usize) -> Heard<'_> {
        if self.failure.is_some() {
            return Heard::Nothing;
        }
        let unheard = &self.bytes[self.heard..];
        let Some(prefix) = unheard.first_chunk::<PREFIX_BYTES>() else {
            if !self.is_ended {
                return Heard::Nothing;
            }
            if !unheard.is_empty() {
                self.failure = Some(Farewell::new(INTERNAL, "a stream that ends within a message"));
                return Heard::Nothing;
            }
            return Heard::End;
        };
        let length = length_of(*prefix);
        if prefix[0] != 0 {
            self.failure = Some(Farewell::new(UNIMPLEMENTED, "the message is compressed, which is not supported"));
            return Heard::Nothing;
        }
        if length > message_bytes_max {
            let text = format!("grpc: received message larger than max ({length} vs. {message_bytes_max})");
            self.failure = Some(Farewell::new(RESOURCE_EXHAUSTED, text));
            return Heard::Nothing;
        }
        let end = self.heard + PREFIX_BYTES + length;
        if end > self.bytes.len() {
            if self.is_ended {
                self.failure = Some(Farewell::new(INTERNAL, "a stream that ends within a message"));
            }
            return Heard::Nothing;
        }
        let begin = self.heard + PREFIX_BYTES;
        self.heard = end;
        Heard::Message(&self.bytes[begin..end])
    }

    /// Whether the first message that was not heard is there as a whole.
    fn has_message(&self) -> bool {
        let unheard = &self.bytes[self.heard..];
        unheard.first_chunk().is_some_and(|prefix| unheard.len() - PREFIX_BYTES >= length_of(*prefix))
    }

    /// What the client may send again: what was heard, and what is there of a message that could never be heard otherwise.
    fn release(&mut self) -> usize {
        let kept = if self.has_message() { self.unheard().min(self.unreleased) } else { 0 };
        let released = self.unreleased - kept;
        self.unreleased = kept;
        if self.unheard() == 0 {
            (self.heard, self.bytes) = (0, std::mem::take(&mut self.bytes));
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES_MAX);
        }
        released
    }
}

/// A dialogue and what it was not told yet.
pub(crate) struct Talk<D> {
    pub(crate) inbox: Inbox,
    dialogue: Pin<Box<D>>,
}

impl<D: Dialogue> Talk<D> {
    pub(crate) fn new(dialogue: D) -> Talk<D> {
        Talk { inbox: Inbox::default(), dialogue: Box::pin(dialogue) }
    }

    /// Lets it go on. Answers how it ends, if it does.
    pub(crate) fn poll<S: Service>(&mut self, cx: &mut Context<'_>, whom: Whom<'_, S>) -> Option<Farewell> {
        let Talk { inbox, dialogue } = self;
        let before = inbox.unheard();
        let Whom { core, key, outbox, message_bytes_max } = whom;
        let mut line = Talking { core, key, inbox, message_bytes_max };
        let polled = dialogue.as_mut().poll(cx, &mut line);
        outbox.unfinished_bytes.fetch_sub(before - inbox.unheard(), Ordering::Relaxed);
        core.release_stream(key, inbox.release());
        match (inbox.failure.take(), polled) {
            (Some(failure), _) => Some(failure),
            (None, Poll::Ready(farewell)) => Some(farewell),
            (None, Poll::Pending) => None,
        }
    }
}

/// With whom a dialogue talks, and by what.
pub(crate) struct Whom<'a, S: Service> {
    pub(crate) core: &'a mut Connection<Seat<S>>,
    pub(crate) key: Key,
    pub(crate) outbox: &'a Outbox,
    pub(crate) message_bytes_max: usize,
}

struct Talking<'a, S: Service> {
    core: &'a mut Connection<Seat<S>>,
    key: Key,
    inbox: &'a mut Inbox,
    message_bytes_max: usize,
}

impl<S: Service> Line for Talking<'_, S> {
    fn hear(&mut self) -> Heard<'_> {
        self.inbox.hear(self.message_bytes_max)
    }

    fn has_room(&mut self) -> bool {
        self.core.has_room(self.key)
    }

    fn say(&mut self, length: usize, write: &mut dyn FnMut(&mut Vec<u8>)) {
        self.core.say(self.key, length, write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &[u8]) -> Vec<u8> {
        [&[0, 0, 0, 0, u8::try_from(text.len()).expect("short")], text].concat()
    }

    fn heard(inbox: &mut Inbox) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Heard::Message(message) = inbox.hear(100) {
            all.push(message.to_vec());
        }
        all
    }

    #[test]
    fn messages_are_heard_however_they_are_cut_and_all_windows_are_given_back() {
        let sent = [message(b"one"), message(b""), message(b"three")].concat();
        for cut in 0..=sent.len() {
            let mut inbox = Inbox::default();
            inbox.push(&sent[..cut]);
            let mut all = heard(&mut inbox);
            let mut released = inbox.release();
            inbox.push(&sent[cut..]);
            inbox.end();
            all.extend(heard(&mut inbox));
            released += inbox.release();
            assert_eq!(all, [&b"one"[..], b"", b"three"]);
            assert_eq!((released, inbox.unheard()), (sent.len(), 0));
            assert_eq!(inbox.hear(100), Heard::End);
        }
    }

    #[test]
    fn what_is_not_heard_holds_up_its_stream() {
        let mut inbox = Inbox::default();
        inbox.push(&[message(b"one"), message(b"two")].concat());
        assert_eq!(inbox.release(), 0);
        assert_eq!(inbox.hear(100), Heard::Message(b"one"));
        assert_eq!(inbox.release(), 8);
        assert_eq!(inbox.hear(100), Heard::Message(b"two"));
        assert_eq!((inbox.release(), inbox.hear(100)), (8, Heard::Nothing));
    }

    #[test]
    fn what_makes_no_sense_ends_the_stream() {
        let failure = |sent: &[u8], ends: bool| {
            let mut inbox = Inbox::default();
            inbox.push(sent);
            if ends {
                inbox.end();
            }
            assert_eq!(inbox.hear(100), Heard::Nothing);
            assert_eq!(inbox.hear(100), Heard::Nothing);
            inbox.failure.map(|failure| failure.code)
        };
        assert_eq!(failure(&[0, 0, 0, 0, 101], false), Some(RESOURCE_EXHAUSTED));
        assert_eq!(failure(&[0, 0, 0, 0, 100], false), None);
        assert_eq!(failure(&[1, 0, 0, 0, 1, 7], false), Some(UNIMPLEMENTED));
        assert_eq!(failure(&[0, 0, 0, 0, 2, 7], true), Some(INTERNAL));
        assert_eq!(failure(&[0, 0], true), Some(INTERNAL));
        assert_eq!(failure(&[0, 0], false), None);
    }
}
