//! The body of an answer that ends early, with a status of its own, when something else happens first.
//!
//! The service need not know: its part of the body is dropped, which tells it that nobody listens any more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// See the module's header.
struct Cut {
    body: Body,
    when: BoxFuture<'static, Status>,
}

/// A body that is cut with the status that `when` comes to.
pub(super) fn cut(body: Body, when: impl Future<Output = Status> + Send + 'static) -> Body {
    Body::new(Cut { body, when: Box::pin(when) })
}

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(status) = self.when.as_mut().poll(cx) {
            // Nothing follows the trailers.
            self.body = Body::empty();
            self.when = Box::pin(std::future::pending());
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use futures::future::poll_immediate;
    use http_body::Body as _;
    use http_body_util::BodyExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_body_that_is_cut_ends_with_the_status_and_nothing_else() {
        let (cutting, when) = oneshot::channel::<()>();
        let event = Ok::<_, Status>(Frame::data(Bytes::from_static(b"event")));
        let endless = futures::stream::iter([event]).chain(futures::stream::pending());
        let endless = Body::new(http_body_util::StreamBody::new(endless));
        let mut body = cut(endless, async move {
            drop(when.await);
            Status::unavailable("etcdserver: no leader")
        });
        let first = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(first.into_data().expect("data"), "event");
        assert!(poll_immediate(body.frame()).await.is_none(), "nothing follows yet");
        cutting.send(()).expect("it waits");
        let last = body.frame().await.expect("a frame").expect("no error");
        let trailers = last.into_trailers().expect("trailers");
        let status = Status::from_header_map(&trailers).expect("a status");
        assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "etcdserver: no leader"));
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }
}
