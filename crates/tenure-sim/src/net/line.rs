//! A connection between two ends: calls go over it until it breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tenure_raft::runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use super::body::{broken, carry};
use super::{End, Gone, Host, Net, SILENCE_MAX};

/// Calls that may be carried twice: consensus takes them for what they say, however often they say it.
const REPEATABLE: &[&str] = &["/Vote", "/PreVote", "/Heartbeat", "/ReadIndex", "/Probe"];

/// See the module's header.
#[derive(Clone)]
pub(super) struct Line {
    net: Net,
    from: End,
    to: End,
    host: Host,
    gone: watch::Receiver<Option<Gone>>,
    /// Once broken, it stays so.
    broken: Arc<AtomicBool>,
}

type Answer = Result<Response<Body>, Status>;

impl Line {
    pub(super) fn new(net: Net, (from, to): (End, End), host: Host) -> Line {
        let gone = host.gone.subscribe();
        Line { net, from, to, host, gone, broken: Arc::default() }
    }

    async fn carry_call(mut self, request: Request<Body>) -> Answer {
        if self.broken.load(Ordering::Relaxed) {
            return Err(broken());
        }
        let calling = self.clone().call_through(request);
        let answer = tokio::select! {
            answer = calling => answer,
            () = lost(&mut self.gone) => Err(broken()),
        };
        if answer.is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
        answer
    }

    async fn call_through(self, request: Request<Body>) -> Answer {
        let path = request.uri().path();
        let repeatable = REPEATABLE.iter().any(|name| path.ends_with(name));
        let request = if repeatable && self.net.draw_twice() {
            let (first, second) = copies(request).await?;
            // The copy comes at another time, and nobody hears its answer.
            let again = self.clone();
            drop(runtime::spawn(async move { drop(again.call_once(second).await) }));
            first
        } else {
            request
        };
        self.call_once(request).await
    }

    async fn call_once(self, request: Request<Body>) -> Answer {
        let (there, back) = ((self.from, self.to), (self.to, self.from));
        let (head, body) = request.into_parts();
        let (body, moving) = carry(&self.net, there, body);
        drop(runtime::spawn(moving));
        self.get_through(there).await?;
        let (answer, answered) = oneshot::channel();
        let (service, net, life) = (self.host.service.clone(), self.net.clone(), self.host.life.clone());
        let request = Request::from_parts(head, body);
        let handling = life.spawn(async move {
            let response = service.oneshot(request).await.map(|response| {
                let (head, body) = response.into_parts();
                let (body, moving) = carry(&net, back, body);
                drop(runtime::spawn(moving));
                Response::from_parts(head, body)
            });
            drop(answer.send(response));
        });
        let mut guard = Reset { handling: handling.abort_handle(), line: &self, answered: false };
        // Without an answer its life is over; whether anybody is told of that is not decided here.
        let Ok(answer) = answered.await else { return std::future::pending().await };
        guard.answered = true;
        self.get_through(back).await?;
        answer
    }

    async fn get_through(&self, (from, to): (End, End)) -> Result<(), Status> {
        tokio::time::sleep(self.net.draw_delay()).await;
        timeout(SILENCE_MAX, self.net.until_open(from, to)).await.map_err(|_| broken())
    }
}

/// Ends a call that nobody waits for any more, if word of that gets through.
struct Reset<'l> {
    handling: AbortHandle,
    line: &'l Line,
    answered: bool,
}

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        if !self.answered && self.line.net.is_open(self.line.from, self.line.to) {
            self.handling.abort();
        }
    }
}

/// Returns when whoever is at the other end is gone and one is told so, or silent for too long.
async fn lost(gone: &mut watch::Receiver<Option<Gone>>) {
    let how = match gone.wait_for(Option::is_some).await {
        Ok(how) => *how,
        Err(_) => None,
    };
    if how != Some(Gone::Killed) {
        tokio::time::sleep(SILENCE_MAX).await;
    }
}

async fn copies(request: Request<Body>) -> Result<(Request<Body>, Request<Body>), Status> {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await?.to_bytes();
    let copy = |head| Request::from_parts(head, Body::new(Full::new(bytes.clone())));
    Ok((copy(head.clone()), copy(head)))
}

impl Service<Request<Body>> for Line {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().carry_call(request))
    }
}
