//! How long clients will wait for calls that the routes serve.
//!
//! A call ends with the client's deadline, whether or not the client says so again by a reset: one that is gone cannot. That
//! is true of streams too, as it is of etcd's, whose calls and streams end with their contexts.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, header};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use super::super::cut::cut;

/// By which a client tells how long it will wait.
pub(super) const TIMEOUT: &str = "grpc-timeout";

/// What a call is told that has taken too long.
pub(super) fn exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// Reads a time as gRPC writes it: up to eight digits and a unit. One that cannot be read is none.
pub(super) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| (1..=8).contains(&digits.len()))?;
    let count =
        if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse::<u64>().ok()? } else { return None };
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The deadline of a request, if it is a call of gRPC that has one. What others mean by the field is theirs to know.
fn deadline(headers: &HeaderMap) -> Option<Pin<Box<Sleep>>> {
    let patience = timeout(headers.get(TIMEOUT)?.as_bytes())?;
    let kind = headers.get(header::CONTENT_TYPE)?;
    kind.as_bytes().starts_with(b"application/grpc").then(|| Box::pin(tokio::time::sleep(patience)))
}

/// Ends calls at their deadlines.
#[derive(Clone)]
pub(super) struct Deadlines<S> {
    inner: S,
}

impl<S> Deadlines<S> {
    pub(super) fn new(inner: S) -> Deadlines<S> {
        Deadlines { inner }
    }
}

impl<S, B> tower::Service<http::Request<B>> for Deadlines<S>
where
    S: tower::Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Answer<S::Future> {
        let deadline = deadline(request.headers());
        Answer { inner: self.inner.call(request), deadline }
    }
}

/// An answer, until its call's deadline.
pub(super) struct Answer<F> {
    inner: F,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<F> Future for Answer<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if let Poll::Ready(answer) = Pin::new(&mut this.inner).poll(cx) {
            let Some(deadline) = this.deadline.take() else { return Poll::Ready(answer) };
            return Poll::Ready(answer.map(|response| response.map(|body| until(deadline, body))));
        }
        let is_over = this.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if is_over { Poll::Ready(Ok(exceeded().into_http())) } else { Poll::Pending }
    }
}

fn until(deadline: Pin<Box<Sleep>>, body: Body) -> Body {
    if http_body::Body::is_end_stream(&body) {
        return body;
    }
    cut(body, async move {
        deadline.await;
        exceeded()
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::StreamExt as _;
    use http_body::Frame;
    use http_body_util::BodyExt as _;
    use tonic::Code;
    use tower::ServiceExt as _;

    use super::*;

    #[test]
    fn times_are_read_as_grpc_writes_them() {
        for (text, time) in [
            ("5S", Some(Duration::from_secs(5))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("0u", Some(Duration::ZERO)),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("-1S", None),
            ("+1S", None),
            ("5s", None),
            ("5", None),
        ] {
            assert_eq!(timeout(text.as_bytes()), time, "{text}");
        }
    }

    fn request(timeout: Option<&str>, kind: &str) -> http::Request<()> {
        let mut request = http::Request::post("/a.B/C").header(header::CONTENT_TYPE, kind);
        if let Some(timeout) = timeout {
            request = request.header(TIMEOUT, timeout);
        }
        request.body(()).expect("a request")
    }

    #[tokio::test]
    async fn only_calls_that_have_a_deadline_are_bounded() {
        let is_bounded = |timeout, kind| deadline(request(timeout, kind).headers()).is_some();
        assert!(is_bounded(Some("1S"), "application/grpc") && is_bounded(Some("1S"), "application/grpc+proto"));
        assert!(!is_bounded(None, "application/grpc") && !is_bounded(Some("1s"), "application/grpc"));
        assert!(!is_bounded(Some("1S"), "application/json"));
    }

    /// What comes of a request in the end.
    async fn told<S>(service: S, request: http::Request<()>) -> (String, Option<Code>)
    where
        S: tower::Service<http::Request<()>, Response = http::Response<Body>, Error = Infallible>,
        S::Future: Unpin,
    {
        let (head, body) = Deadlines::new(service).oneshot(request).await.expect("never fails").into_parts();
        let body = body.collect().await.expect("no failure");
        let fields = body.trailers().unwrap_or(&head.headers);
        let code = Status::from_header_map(fields).map(|status| status.code());
        (String::from_utf8_lossy(&body.to_bytes()).into_owned(), code)
    }

    #[tokio::test]
    async fn a_call_and_a_stream_end_at_the_clients_deadline() {
        let stuck = tower::service_fn(|_| std::future::pending());
        let streaming = tower::service_fn(|_| {
            let event = Ok::<_, Status>(Frame::data(Bytes::from_static(b"event")));
            let endless = futures::stream::iter([event]).chain(futures::stream::pending());
            let body = Body::new(http_body_util::StreamBody::new(endless));
            std::future::ready(Ok(http::Response::new(body)))
        });
        let quick = tower::service_fn(|_| std::future::ready(Ok(Status::not_found("").into_http())));
        let soon = || request(Some("20m"), "application/grpc");
        assert_eq!(told(stuck, soon()).await, (String::new(), Some(Code::DeadlineExceeded)));
        assert_eq!(told(streaming, soon()).await, ("event".to_owned(), Some(Code::DeadlineExceeded)));
        assert_eq!(told(quick, soon()).await, (String::new(), Some(Code::NotFound)));
    }
}
