//! A connection, as one request or stream uses it: a gRPC service that adds headers, and notes whether anything was sent.
//!
//! Whether a request was sent decides whether it may be sent again. No error of a connection tells that reliably. What does is the
//! request's own body: a server that never got the message cannot have done what it asks for, and as long as nobody has taken the
//! message out of the body, no server got it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::Service;

use super::EndpointId;
use super::endpoint::{Alarm, Connection, Endpoint};
use super::health::Outcome;
use super::links::Shared;
use crate::auth::Token;
use crate::error::{Miss, Verdict, is_broken};

/// Metadata by which a client would rather be refused than wait at a member that knows no leader; it also ends streams that
/// lose theirs.
const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");
/// Metadata that bears the user's token.
const TOKEN: HeaderName = HeaderName::from_static("token");

/// See the module's header.
#[derive(Clone)]
pub(crate) struct Link {
    endpoint: Arc<Endpoint>,
    connection: Connection,
    shared: Arc<Shared>,
    token: Option<Token>,
    is_sent: Arc<AtomicBool>,
    wants_leader: bool,
}

impl Link {
    pub(super) fn new(endpoint: Arc<Endpoint>, connection: Connection, shared: Arc<Shared>) -> Link {
        Link { endpoint, connection, shared, token: None, is_sent: Arc::default(), wants_leader: true }
    }

    /// With this token on each request. What was sent on the link before, to get the token, is not counted.
    pub(crate) fn with_token(self, token: Option<Token>) -> Link {
        Link { token, is_sent: Arc::default(), ..self }
    }

    /// Lets the member answer without a leader: for what it alone knows, or may answer from what it has.
    pub(crate) fn without_leader(self) -> Link {
        Link { wants_leader: false, ..self }
    }

    pub(crate) fn endpoint(&self) -> EndpointId {
        self.endpoint.id
    }

    /// The endpoint's address, as it is shown.
    pub(crate) fn address(&self) -> &str {
        &self.endpoint.shown
    }

    pub(crate) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Whether anything that was asked on this link, or on its clones, may have got to the member.
    pub(crate) fn is_sent(&self) -> bool {
        self.is_sent.load(Ordering::Acquire)
    }

    /// Says how a stream on this link ended, or that it does well. Requests are reported by [`Client::call`](crate::Client) itself.
    pub(crate) fn report(&self, outcome: Result<(), &Status>) {
        match outcome {
            Ok(()) => self.endpoint.revived(),
            Err(status) => self.report_status(status, Duration::ZERO),
        }
    }

    pub(crate) fn report_answer(&self, latency: Duration) {
        self.note(Outcome::Answered(latency));
    }

    /// No answer came in time: whether it is the member or the request is found out by asking.
    pub(crate) fn report_silence(&self) {
        self.note(Outcome::Failed);
        self.endpoint.raise(self.connection.number, Alarm::Suspect);
        self.shared.announce();
    }

    pub(crate) fn report_status(&self, status: &Status, latency: Duration) {
        if is_broken(status) {
            self.note(Outcome::Failed);
            if breaks_connection(status) {
                self.endpoint.raise(self.connection.number, Alarm::Broken);
                self.shared.announce();
            }
            return;
        }
        if let (Verdict::NotApplied(Miss::TokenExpired), Some(token)) = (Verdict::of(status, true), &self.token) {
            self.shared.credentials.forget(token);
        }
        self.note(match Verdict::of(status, true) {
            Verdict::NotApplied(Miss::NoLeader) => Outcome::Leaderless,
            Verdict::NotApplied(Miss::TokenExpired) | Verdict::Refused(_) => Outcome::Answered(latency),
            Verdict::NotApplied(Miss::Overloaded | Miss::WrongMember | Miss::Unreached) => Outcome::Failed,
            // The end of a call by its own caller says nothing.
            Verdict::Unknown if status.code() == Code::Cancelled => return,
            Verdict::Unknown => Outcome::Failed,
        });
    }

    fn note(&self, outcome: Outcome) {
        self.endpoint.note(self.connection.number, outcome, self.shared.clock.now());
    }

    /// Counts as under way at the endpoint until it is dropped.
    pub(crate) fn under_way(&self) -> UnderWay {
        self.endpoint.under_way().fetch_add(1, Ordering::Relaxed);
        UnderWay(self.endpoint.clone())
    }
}

/// A reset of one call is an error of the connection by its kind, and says nothing about the others on it.
fn breaks_connection(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.to_string().contains("stream error") {
            return false;
        }
        cause = error.source();
    }
    true
}

/// See [`Link::under_way`].
pub(crate) struct UnderWay(Arc<Endpoint>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way().fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("endpoint", &self.endpoint.shown).finish_non_exhaustive()
    }
}

impl Service<http::Request<Body>> for Link {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connection.channel.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        if self.wants_leader {
            head.headers.insert(HAS_LEADER, HeaderValue::from_static("true"));
        }
        if let Some(value) = self.token.as_ref().and_then(Token::value) {
            head.headers.insert(TOKEN, value);
        }
        if let Some(hook) = &self.shared.metadata {
            hook(head.uri.path(), &mut head.headers);
        }
        let body = Body::new(Marking { body, is_sent: self.is_sent.clone() });
        self.connection.channel.call(http::Request::from_parts(head, body))
    }
}

/// Notes when the first piece of a body is taken.
struct Marking {
    body: Body,
    is_sent: Arc<AtomicBool>,
}

impl HttpBody for Marking {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.is_sent.store(true, Ordering::Release);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
