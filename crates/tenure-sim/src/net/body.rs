//! The bodies of requests and answers on their way: each frame arrives after a link's delay, in order, or not at all.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::body::Body;

use super::{End, Net, SILENCE_MAX};

/// Frames under way in one direction of a call: what flow control lets through.
const FRAMES_MAX: usize = 64;

/// A frame under way, and when it arrives if the link is open then.
type Moving = (Instant, Result<Frame<Bytes>, Status>);

/// The receiving side of a body.
struct Carried {
    net: Net,
    link: (End, End),
    frames: mpsc::Receiver<Option<Moving>>,
    arriving: Option<BoxFuture<'static, Result<Frame<Bytes>, Status>>>,
    over: bool,
}

/// A body as it arrives at the other end, and what moves it there, to be run by the sending side.
pub(super) fn carry(net: &Net, link: (End, End), body: Body) -> (Body, impl Future<Output = ()> + Send + use<>) {
    let (sender, frames) = mpsc::channel(FRAMES_MAX);
    let carried = Carried { net: net.clone(), link, frames, arriving: None, over: false };
    (Body::new(carried), pump(net.clone(), body, sender))
}

async fn pump(net: Net, mut body: Body, frames: mpsc::Sender<Option<Moving>>) {
    let mut last = Instant::now();
    loop {
        // A receiver that is gone makes the sender stop, as a reset stream does.
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = frames.closed() => return,
        };
        let Some(frame) = frame else { break };
        last = last.max(Instant::now() + net.draw_delay());
        if frames.send(Some((last, frame))).await.is_err() {
            return;
        }
    }
    // The end is a message too; without it the other side takes the connection for broken.
    drop(frames.send(None).await);
}

impl HttpBody for Carried {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            if let Some(arriving) = &mut self.arriving {
                let frame = ready!(arriving.as_mut().poll(cx));
                self.arriving = None;
                self.over = frame.is_err();
                return Poll::Ready(Some(frame));
            }
            let (net, link) = (self.net.clone(), self.link);
            match ready!(self.frames.poll_recv(cx)) {
                Some(Some((at, frame))) => self.arriving = Some(Box::pin(arrive(net, link, at, frame))),
                Some(None) => self.over = true,
                None => self.arriving = Some(Box::pin(fall_silent())),
            }
        }
    }
}

async fn arrive(
    net: Net,
    (from, to): (End, End),
    at: Instant,
    frame: Result<Frame<Bytes>, Status>,
) -> Result<Frame<Bytes>, Status> {
    tokio::time::sleep_until(at).await;
    match timeout(SILENCE_MAX, net.until_open(from, to)).await {
        Ok(()) => frame,
        Err(_) => Err(broken()),
    }
}

/// The sender is gone, and did not say that it was done.
async fn fall_silent() -> Result<Frame<Bytes>, Status> {
    tokio::time::sleep(SILENCE_MAX).await;
    Err(broken())
}

/// What a call over a broken connection ends with.
pub(super) fn broken() -> Status {
    Status::unavailable("the connection broke")
}
