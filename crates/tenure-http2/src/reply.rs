//! The answer to a unary call, to be given once, at any time and from any thread.
//!
//! Completing it writes the message into the connection's box and wakes the connection unless that was done already: no
//! task, no channel, and no memory of its own unless the message is large.

use std::borrow::Cow;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;

use crate::outbox::{Item, Ticket};
use crate::pieces::Pieces;
use crate::status::INTERNAL;
use crate::streams::Key;

/// From here on, a message is written into memory of its own, and copied no more.
const OWN_BYTES_MIN: usize = 8 * 1024;

/// See the module's header. A reply that is dropped answers that the call failed.
pub struct Reply {
    ticket: Arc<Ticket>,
    key: Key,
    is_given: bool,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("stream", &self.key.id).finish_non_exhaustive()
    }
}

impl Reply {
    pub(crate) fn new(ticket: Arc<Ticket>, key: Key) -> Reply {
        Reply { ticket, key, is_given: false }
    }

    /// Answers with a message of about `length` bytes, which `write` writes, and does nothing else: other replies of the
    /// connection wait for it.
    pub fn message(self, length: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.give(length, None, write);
    }

    /// Answers with a message and metadata, which comes before it.
    pub fn message_with(self, metadata: HeaderMap, length: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.give(length, Some(Box::new(metadata)), write);
    }

    fn give(mut self, length: usize, metadata: Option<Box<HeaderMap>>, write: impl FnOnce(&mut Vec<u8>)) {
        if self.is_cancelled() {
            return;
        }
        let key = self.key;
        if length >= OWN_BYTES_MIN {
            let mut message = Vec::with_capacity(length);
            write(&mut message);
            self.put_pieces(Pieces::new(vec![message.into()]), metadata);
        } else {
            self.ticket.outbox.put_answer(key, |contents| {
                let start = contents.text.len();
                write(&mut contents.text);
                let end = contents.text.len();
                contents.items.push((key, Item::Message { start, end, metadata }));
            });
        }
        // Last: if `write` panics, the call has failed, and the client is told.
        self.is_given = true;
    }

    /// Answers with a message in pieces, which are not copied if they are large.
    pub fn pieces(mut self, pieces: Vec<Bytes>) {
        let pieces = Pieces::new(pieces);
        if pieces.len() < OWN_BYTES_MIN {
            let write = |out: &mut Vec<u8>| pieces.list().iter().for_each(|piece| out.extend_from_slice(piece));
            return self.message(pieces.len(), write);
        }
        if !self.is_cancelled() {
            self.put_pieces(pieces, None);
            self.is_given = true;
        }
    }

    fn put_pieces(&self, pieces: Pieces, metadata: Option<Box<HeaderMap>>) {
        self.ticket.outbox.put_answer(self.key, |contents| {
            contents.shared_bytes += pieces.len();
            contents.items.push((self.key, Item::SharedMessage { pieces, metadata }));
        });
    }

    /// Answers that the call failed, with a code of gRPC and a text.
    pub fn error(self, code: u32, message: impl Into<Cow<'static, str>>) {
        self.fail(code, message.into(), None);
    }

    /// Answers that the call failed, with metadata too.
    pub fn error_with(self, metadata: HeaderMap, code: u32, message: impl Into<Cow<'static, str>>) {
        self.fail(code, message.into(), Some(Box::new(metadata)));
    }

    fn fail(mut self, code: u32, message: Cow<'static, str>, metadata: Option<Box<HeaderMap>>) {
        self.is_given = true;
        let item = Item::Status { code, message, metadata };
        self.ticket.outbox.put(|contents| contents.items.push((self.key, item)));
    }

    /// Whether the client gave up, or is gone.
    pub fn is_cancelled(&self) -> bool {
        !self.ticket.holds(self.key)
    }

    /// Returns once the client gave up. One task may wait for it.
    pub async fn cancelled(&self) {
        poll_fn(|cx| if self.ticket.is_gone(self.key, cx.waker()) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_given && !self.is_cancelled() {
            let item = Item::Status { code: INTERNAL, message: "the call was given up".into(), metadata: None };
            self.ticket.outbox.put(|contents| contents.items.push((self.key, item)));
        }
    }
}
