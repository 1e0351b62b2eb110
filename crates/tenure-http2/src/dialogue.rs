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
use crate::status::{self, Failure, INTERNAL};
use crate::streams::Key;

/// Memory that a stream keeps although nothing in it is waiting to be heard.
const KEPT_BYTES_MAX: usize = 1024;

/// Serves a stream of messages. Dropped when the client gives up.
pub trait Dialogue {
    /// Goes on as far as it can. Polled once at first, and then when something arrived, when there is room again after
    /// there was none, and when it was woken. Ready ends the stream.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>, line: &mut dyn Line) -> Poll<Farewell>;

    /// Whether the answer begins now, although nothing was said; asked after each poll. As a rule it does unless it is over, too:
    /// clients of streams that last wait for it before they talk. An answer that ends before it has begun fails the call as a whole.
    fn begins(&self, is_over: bool) -> bool {
        !is_over
    }
}

/// A dialogue's way to its client.
pub trait Line {
    /// The next message, which has been taken by that. Messages that are not heard wait, and hold up their stream, and
    /// no other.
    fn hear(&mut self) -> Heard<'_>;

    /// Whether something should be said now. If not, the dialogue is polled again once it should.
    fn has_room(&mut self) -> bool;

    /// Says a message of `length` bytes, which `write` writes. Without room it is kept until it can be sent.
    fn say(&mut self, length: usize, write: &mut dyn FnMut(&mut Vec<u8>));
}

/// What a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A message, without what gRPC puts before it.
    Message(&'a [u8]),
    /// Nothing more so far.
    Nothing,
    /// Nothing more will come.
    End,
    /// What came makes no sense, and nothing more will be heard. The stream should end by this, once what came before
    /// is answered.
    Failed {
        /// gRPC's code.
        code: u32,
        /// What is wrong.
        message: Cow<'static, str>,
    },
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
#[derive(Debug)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    heard: usize,
    /// How many messages were heard since that was last asked.
    count: usize,
    /// What the client's windows were not given back.
    unreleased: usize,
    is_ended: bool,
    failure: Option<Failure>,
    message_bytes_max: usize,
}

impl Inbox {
    pub(crate) fn new(message_bytes_max: usize) -> Inbox {
        let (bytes, heard, count, unreleased, is_ended, failure) = (Vec::new(), 0, 0, 0, false, None);
        Inbox { bytes, heard, count, unreleased, is_ended, failure, message_bytes_max }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.unreleased += bytes.len();
        if self.failure.is_some() {
            return;
        }
        // Not for each small piece: what is left is moved.
        if self.heard >= self.unheard() {
            self.bytes.drain(..self.heard);
            self.heard = 0;
        }
        self.bytes.extend_from_slice(bytes);
        if let Err(failure) = self.first() {
            self.fail(failure);
        }
    }

    pub(crate) fn end(&mut self) {
        self.is_ended = true;
    }

    /// The memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    fn unheard(&self) -> usize {
        self.bytes.len() - self.heard
    }

    /// Where the first message that was not heard begins and ends, if it is there as a whole.
    fn first(&self) -> Result<Option<(usize, usize)>, Failure> {
        let unheard = &self.bytes[self.heard..];
        let Some(prefix) = unheard.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        if prefix[0] != 0 {
            return Err(status::compressed());
        }
        let (length, max) = (length_of(*prefix), self.message_bytes_max);
        if length > max {
            return Err(status::oversized(length, max));
        }
        let begin = self.heard + PREFIX_BYTES;
        Ok(Some((begin, begin + length)).filter(|(_, end)| *end <= self.bytes.len()))
    }

    fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure);
        (self.bytes, self.heard) = (Vec::new(), 0);
    }

    fn hear(&mut self) -> Heard<'_> {
        match self.first() {
            Ok(Some((begin, end))) => {
                self.heard = end;
                self.count += 1;
                return Heard::Message(&self.bytes[begin..end]);
            }
            Ok(None) if self.is_ended && self.unheard() > 0 => {
                self.fail((INTERNAL, "a stream that ends within a message".into()));
            }
            Ok(None) => {}
            Err(failure) => self.fail(failure),
        }
        match &self.failure {
            Some((code, message)) => Heard::Failed { code: *code, message: message.clone() },
            None if self.is_ended => Heard::End,
            None => Heard::Nothing,
        }
    }

    /// What the client may send again: what was heard, and what is there of a message that could never be heard otherwise.
    fn release(&mut self) -> usize {
        let has_message = matches!(self.first(), Ok(Some(_)));
        let kept = if has_message { self.unheard().min(self.unreleased) } else { 0 };
        let released = self.unreleased - kept;
        self.unreleased = kept;
        let kept_bytes_max = KEPT_BYTES_MAX.max(2 * self.unheard());
        if self.heard > 0 && (self.unheard() == 0 || self.memory() > kept_bytes_max) {
            self.bytes.drain(..self.heard);
            self.heard = 0;
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
    pub(crate) fn new(dialogue: D, message_bytes_max: usize) -> Talk<D> {
        Talk { inbox: Inbox::new(message_bytes_max), dialogue: Box::pin(dialogue) }
    }

    /// See [`Dialogue::begins`].
    pub(crate) fn begins(&self, is_over: bool) -> bool {
        self.dialogue.begins(is_over)
    }

    /// Adds what arrived; answers how much more all streams of the connection take now.
    pub(crate) fn push(&mut self, bytes: &[u8], outbox: &Outbox) -> usize {
        let before = self.inbox.memory();
        self.inbox.push(bytes);
        count_memory(outbox, before, self.inbox.memory())
    }

    /// Lets it go on. Answers how it ends, if it does, and how many messages it heard.
    pub(crate) fn poll<S: Service>(&mut self, cx: &mut Context<'_>, whom: Whom<'_, S>) -> (Option<Farewell>, usize) {
        let Talk { inbox, dialogue } = self;
        let before = inbox.memory();
        let Whom { core, key, outbox } = whom;
        let polled = dialogue.as_mut().poll(cx, &mut Talking { core, key, inbox });
        core.release_stream(key, inbox.release());
        count_memory(outbox, before, inbox.memory());
        let farewell = if let Poll::Ready(farewell) = polled { Some(farewell) } else { None };
        (farewell, std::mem::take(&mut inbox.count))
    }

    /// It is over.
    pub(crate) fn leave(&self, outbox: &Outbox) {
        count_memory(outbox, self.inbox.memory(), 0);
    }
}

fn count_memory(outbox: &Outbox, before: usize, after: usize) -> usize {
    let counted = &outbox.unfinished_bytes;
    if after >= before {
        counted.fetch_add(after - before, Ordering::Relaxed) + (after - before)
    } else {
        counted.fetch_sub(before - after, Ordering::Relaxed) - (before - after)
    }
}

/// With whom a dialogue talks, and by what.
pub(crate) struct Whom<'a, S: Service> {
    pub(crate) core: &'a mut Connection<Seat<S>>,
    pub(crate) key: Key,
    pub(crate) outbox: &'a Outbox,
}

struct Talking<'a, S: Service> {
    core: &'a mut Connection<Seat<S>>,
    key: Key,
    inbox: &'a mut Inbox,
}

impl<S: Service> Line for Talking<'_, S> {
    fn hear(&mut self) -> Heard<'_> {
        self.inbox.hear()
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
    use crate::status::RESOURCE_EXHAUSTED;

    fn message(text: &[u8]) -> Vec<u8> {
        [&[0, 0, 0, 0, u8::try_from(text.len()).expect("short")], text].concat()
    }

    fn heard(inbox: &mut Inbox) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Heard::Message(message) = inbox.hear() {
            all.push(message.to_vec());
        }
        all
    }

    #[test]
    fn messages_are_heard_however_they_are_cut_and_all_windows_are_given_back() {
        let sent = [message(b"one"), message(b""), message(b"three")].concat();
        for cut in 0..=sent.len() {
            let mut inbox = Inbox::new(100);
            inbox.push(&sent[..cut]);
            let mut all = heard(&mut inbox);
            let mut released = inbox.release();
            inbox.push(&sent[cut..]);
            inbox.end();
            all.extend(heard(&mut inbox));
            released += inbox.release();
            assert_eq!(all, [&b"one"[..], b"", b"three"]);
            assert_eq!((released, inbox.unheard(), inbox.count), (sent.len(), 0, 3));
            assert_eq!(inbox.hear(), Heard::End);
        }
    }

    #[test]
    fn what_is_not_heard_holds_up_its_stream() {
        let mut inbox = Inbox::new(100);
        inbox.push(&[message(b"one"), message(b"two")].concat());
        assert_eq!(inbox.release(), 0);
        assert_eq!(inbox.hear(), Heard::Message(b"one"));
        assert_eq!(inbox.release(), 8);
        assert_eq!(inbox.hear(), Heard::Message(b"two"));
        assert_eq!((inbox.release(), inbox.hear()), (8, Heard::Nothing));
    }

    #[test]
    fn a_byte_that_was_not_heard_keeps_no_more_memory_than_it_needs() {
        let mut inbox = Inbox::new(1 << 20);
        inbox.push(&[0, 0, 0x10, 0, 0]);
        inbox.push(&vec![7; (1 << 20) + 1]);
        assert!(matches!(inbox.hear(), Heard::Message(message) if message.len() == 1 << 20));
        assert!(inbox.memory() > 1 << 20);
        inbox.release();
        assert_eq!(inbox.unheard(), 1);
        assert!(inbox.memory() <= KEPT_BYTES_MAX, "{} bytes", inbox.memory());
    }

    #[test]
    fn small_pieces_do_not_move_all_that_waits() {
        let mut inbox = Inbox::new(100);
        (0..100_000).for_each(|_| inbox.push(&message(b"x")));
        for _ in 0..100_000 {
            assert_eq!(inbox.hear(), Heard::Message(b"x"));
            inbox.push(&message(b"x"));
        }
        assert_eq!((heard(&mut inbox).len(), inbox.unheard()), (100_000, 0));
    }

    #[test]
    fn what_makes_no_sense_is_told_after_what_came_before() {
        let failure = |sent: &[u8], ends: bool| {
            let mut inbox = Inbox::new(100);
            inbox.push(&message(b"fine"));
            inbox.push(sent);
            if ends {
                inbox.end();
            }
            assert_eq!(inbox.hear(), Heard::Message(b"fine"));
            let first = inbox.hear();
            let code = if let Heard::Failed { code, .. } = &first { Some(*code) } else { None };
            let first = first == Heard::Nothing;
            assert_eq!(inbox.hear() == Heard::Nothing, first, "and again");
            inbox.push(&[7; 5000]);
            assert!(code.is_none() || (inbox.memory() == 0 && inbox.release() > 5000), "nothing of it is kept");
            code
        };
        assert_eq!(failure(&[0, 0, 0, 0, 101], false), Some(RESOURCE_EXHAUSTED));
        assert_eq!(failure(&[0, 0, 0, 0, 100], false), None);
        assert_eq!(failure(&[1, 0, 0, 0, 1, 7], false), Some(INTERNAL));
        assert_eq!(failure(&[0, 0, 0, 0, 2, 7], true), Some(INTERNAL));
        assert_eq!(failure(&[0, 0], true), Some(INTERNAL));
        assert_eq!(failure(&[0, 0], false), None);
    }
}
