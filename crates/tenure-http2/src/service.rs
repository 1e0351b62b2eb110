//! What a connection's requests are handed to.
//!
//! A service decides by a request's head which of three ways it goes. All may be used on one connection at once.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use crate::dialogue::Dialogue;
use crate::head::Head;
use crate::incoming::Incoming;
use crate::reply::Reply;
use crate::status;

/// A unary call with all that the client sent.
#[derive(Debug)]
pub struct Unary {
    /// Its path, and its metadata.
    pub head: Arc<Head>,
    /// Its message, without what gRPC puts before it.
    pub message: Bytes,
}

/// What serves one connection.
pub trait Service {
    /// What completes a call that is not answered at once, polled by the connection itself: it needs no task. A service
    /// that hands replies to others uses `std::future::Ready<()>` and never makes one.
    type Call: Future<Output = ()>;
    /// What serves a stream of messages that the connection polls itself; `NoDialogue` if there is none.
    type Dialogue: Dialogue;
    /// What answers a request that is streamed.
    type Answer: Future<Output = Result<http::Response<Self::Body>, Self::Error>>;
    /// The body of that answer.
    type Body: http_body::Body<Data = Bytes>;
    /// Resets the stream.
    type Error: std::fmt::Display;

    /// Whether a request is a unary call that [`Service::call`] serves; none is unless a service says so.
    fn is_unary(&mut self, _head: &Head) -> bool {
        false
    }

    /// Begins a dialogue, if any other request is served by one. Else it is streamed.
    fn converse(&mut self, _head: &Arc<Head>) -> Option<Self::Dialogue> {
        None
    }

    /// Serves a unary call. If it is not answered at once, the reply moves elsewhere, or into the future that is returned;
    /// that is dropped when the client gives up. A reply that is dropped answers that the call failed.
    fn call(&mut self, _call: Unary, _reply: Reply) -> Option<Self::Call> {
        None
    }

    /// Serves any other request.
    fn stream(&mut self, request: http::Request<Incoming>) -> Self::Answer;

    /// Answers a unary call whose message has `length` bytes, more than the `length_max` of the connection's options.
    fn oversized(&mut self, head: &Head, length: usize, length_max: usize, reply: Reply) {
        tracing::debug!(path = head.path(), length, "a message is too large");
        let (code, text) = status::oversized(length, length_max);
        reply.error(code, text);
    }
}
