//! Streams of requests and answers, spoken over a connection without a body between: what a service takes and gives as streams.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Buf;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use futures::{FutureExt, Stream};
use http::HeaderMap;
use prost::Message;
use tenure_http2::{Dialogue, Farewell, Heard, Line};
use tokio::sync::watch;
use tonic::{Code, Status};

use super::super::gate::leader_lost;

/// Requests that were heard and that the service has not taken; more wait in the connection.
const WAITING_MAX: usize = 64;

/// What they may have been sent as, all but the last of them.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// Requests that are heard before other streams have their turn.
pub(super) const HEARD_AT_ONCE_MAX: usize = 256;

/// How a refusal is told.
pub(super) fn farewell(status: &Status) -> Farewell {
    let code = u32::try_from(i32::from(status.code())).unwrap_or(Code::Unknown as u32);
    let message = status.message().to_owned().into();
    if status.metadata().is_empty() && status.details().is_empty() {
        return Farewell { code, message, metadata: None };
    }
    let mut headers = HeaderMap::new();
    if let Err(error) = status.add_header(&mut headers) {
        tracing::debug!(%error, "details of a refusal cannot be told");
    }
    for name in ["grpc-status", "grpc-message", "content-type"] {
        headers.remove(name);
    }
    Farewell { code, message, metadata: Some(Box::new(headers)) }
}

/// Ready once the leader is lost, for streams that insist on one.
pub(super) struct LeaderLost(Option<BoxFuture<'static, Status>>);

impl LeaderLost {
    pub(super) fn new(lost: Option<watch::Receiver<bool>>) -> LeaderLost {
        LeaderLost(lost.map(|lost| leader_lost(lost).boxed()))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        match &mut self.0 {
            Some(lost) => lost.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

struct Waiting<Q> {
    /// With the bytes that each was sent as.
    requests: VecDeque<(Result<Q, Status>, usize)>,
    bytes: usize,
    is_ended: bool,
}

/// Requests between the dialogue and the service. Who polls the service polls it after each push: nothing here wakes it.
pub(super) struct Requests<Q>(Arc<Mutex<Waiting<Q>>>);

impl<Q> Requests<Q> {
    pub(super) fn new() -> Requests<Q> {
        Requests(Arc::new(Mutex::new(Waiting { requests: VecDeque::new(), bytes: 0, is_ended: false })))
    }

    /// What the service takes.
    pub(super) fn taken(&self) -> Taken<Q> {
        Taken(self.0.clone())
    }

    pub(super) fn push(&self, request: Result<Q, Status>, bytes: usize) {
        let mut waiting = lock(&self.0);
        waiting.bytes += bytes;
        waiting.requests.push_back((request, bytes));
    }

    pub(super) fn end(&self) {
        lock(&self.0).is_ended = true;
    }

    fn has_room(&self) -> bool {
        let waiting = lock(&self.0);
        waiting.requests.len() < WAITING_MAX && waiting.bytes < WAITING_BYTES_MAX && !waiting.is_ended
    }
}

fn lock<Q>(waiting: &Mutex<Waiting<Q>>) -> MutexGuard<'_, Waiting<Q>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Requests in their order, as the service takes them.
pub(in crate::grpc) struct Taken<Q>(Arc<Mutex<Waiting<Q>>>);

impl<Q> Stream for Taken<Q> {
    type Item = Result<Q, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut waiting = lock(&self.0);
        match waiting.requests.pop_front() {
            Some((request, bytes)) => {
                waiting.bytes -= bytes;
                Poll::Ready(Some(request))
            }
            None if waiting.is_ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// A message as the client sent it.
pub(super) fn decode<Q: Message + Default>(bytes: impl Buf) -> Result<Q, Status> {
    Q::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}

/// Says an answer.
pub(super) fn say<A: Message>(line: &mut dyn Line, answer: &A) {
    line.say(answer.encoded_len(), &mut |out| answer.encode_raw(out));
}

/// See the module's header.
pub(super) struct Spoken<Q, A> {
    requests: Requests<Q>,
    answers: BoxStream<'static, Result<A, Status>>,
    lost: LeaderLost,
}

impl<Q: Message + Default, A: Message> Spoken<Q, A> {
    pub(super) fn new(
        lost: LeaderLost,
        serve: impl FnOnce(Taken<Q>) -> Result<BoxStream<'static, Result<A, Status>>, Status>,
    ) -> Result<Spoken<Q, A>, Status> {
        let requests = Requests::new();
        let answers = serve(requests.taken())?;
        Ok(Spoken { requests, answers, lost })
    }

    /// Answers how many it heard, and whether there may be more, for which there is no room.
    fn hear(&self, line: &mut dyn Line) -> (usize, bool) {
        let mut count = 0;
        while self.requests.has_room() {
            match line.hear() {
                Heard::Message(bytes) => self.requests.push(decode(bytes), bytes.len()),
                Heard::Nothing => return (count, false),
                Heard::End => self.requests.end(),
                Heard::Failed { code, message } => {
                    self.requests.push(Err(failed(code, &message)), 0);
                    self.requests.end();
                }
            }
            count += 1;
        }
        (count, true)
    }
}

/// What came makes no sense.
pub(super) fn failed(code: u32, message: &str) -> Status {
    Status::new(i32::try_from(code).map_or(Code::Unknown, Code::from_i32), message)
}

impl<Q: Message + Default + Send + 'static, A: Message> Dialogue for Spoken<Q, A> {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, line: &mut dyn Line) -> Poll<Farewell> {
        if let Poll::Ready(lost) = self.lost.poll(cx) {
            return Poll::Ready(farewell(&lost));
        }
        let mut heard = 0;
        loop {
            let (count, was_full) = self.hear(line);
            while line.has_room() {
                match self.answers.poll_next_unpin(cx) {
                    Poll::Ready(Some(Ok(answer))) => say(line, &answer),
                    Poll::Ready(Some(Err(status))) => return Poll::Ready(farewell(&status)),
                    Poll::Ready(None) => return Poll::Ready(Farewell::OK),
                    Poll::Pending => break,
                }
            }
            if !was_full || !self.requests.has_room() {
                return Poll::Pending;
            }
            heard += count;
            if heard > HEARD_AT_ONCE_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}
