//! The client port's connections: told apart by their first bytes, and served by what is best at them.
//!
//! HTTP/2 is served by `tenure-http2`, one task for each connection. The calls and streams that matter go straight from
//! there to their services (`calls`, `streams`); all others go through the same routes that HTTP/1 has, which hyper
//! serves.

mod acquires;
mod calls;
mod deadline;
mod keepalives;
mod spoken;
mod streams;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tenure_http2::{Head, Incoming, Options, Replayed, Reply, Service, Unary, serve_connection, sniff};
use tenure_raft::accept::{ClientInfo, Connection, Listening, connections};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::Connected as _;
use tower::Service as _;

pub(super) use calls::Calls;
pub(super) use streams::Streams;

use self::deadline::Deadlines;
use super::gate::{Gate, GateLayer};
use crate::config::ServerConfig;
use crate::node::Node;

/// How long a client may take to say what it speaks.
const SNIFF_TIMEOUT: Duration = Duration::from_secs(10);

/// What all connections of a thread are served by.
#[derive(Clone)]
pub(super) struct Front {
    routes: Deadlines<Gate<Routes>>,
    calls: Arc<Calls>,
    streams: Arc<Streams>,
    options: Arc<Options>,
    draining: watch::Receiver<bool>,
}

impl Front {
    pub(super) fn new(
        node: &Node,
        config: &ServerConfig,
        served: super::Served,
        draining: &watch::Receiver<bool>,
    ) -> Front {
        let super::Served { routes, calls, streams, message_bytes_max } = served;
        let options = Options {
            concurrent_streams_max: config.max_concurrent_streams,
            stream_window_bytes: super::STREAM_WINDOW_BYTES,
            connection_window_bytes: super::CONNECTION_WINDOW_BYTES,
            message_bytes_max,
            keepalive_interval: config.grpc_keepalive_interval,
            keepalive_timeout: config.grpc_keepalive_timeout.unwrap_or(Options::default().keepalive_timeout),
            ..Options::default()
        };
        let routes = tower::Layer::layer(&GateLayer::new(&node.shared().raft), routes);
        let routes = Deadlines::new(routes);
        let (calls, streams, options) = (Arc::new(calls), Arc::new(streams), Arc::new(options));
        Front { routes, calls, streams, options, draining: draining.clone() }
    }

    /// Serves a listener until the server drains, and then until its connections have ended.
    pub(super) async fn serve(self, listening: Listening, node: Node) {
        let accepted = match connections(listening, node.shared().connections.clone()) {
            Ok(accepted) => accepted,
            Err(error) => {
                node.shared().raft.fail(format!("a client listener could not be used: {error}"));
                return;
            }
        };
        let mut accepted = Box::pin(accepted);
        let mut draining = self.draining.clone();
        let mut served = JoinSet::new();
        loop {
            tokio::select! {
                // A dropped sender means that the process is ending anyway.
                _ = draining.wait_for(|draining| *draining) => break,
                Some(connection) = accepted.next() => match connection {
                    Ok(connection) => drop(served.spawn(self.clone().connection(connection))),
                    Err(error) => tracing::warn!(%error, "a connection could not be accepted"),
                },
                Some(ended) = served.join_next() => note(ended),
            }
        }
        // Who connects now is told at once that nobody serves here any more, and may go elsewhere.
        drop(accepted);
        while let Some(ended) = served.join_next().await {
            note(ended);
        }
    }

    async fn connection(self, connection: Connection) {
        let client = connection.connect_info();
        let sniffed = tokio::select! {
            sniffed = tokio::time::timeout(SNIFF_TIMEOUT, sniff(connection)) => sniffed,
            // Nothing was asked that could be waited for.
            () = drained(self.draining.clone()) => return,
        };
        let Ok(Ok((is_http2, socket))) = sniffed else {
            tracing::debug!("a client said nothing, or left");
            return;
        };
        if is_http2 {
            self.http2(socket, client).await;
        } else {
            self.http1(socket, client).await;
        }
    }

    async fn http2(self, socket: Replayed<Connection>, client: ClientInfo) {
        let Front { routes, calls, streams, options, draining } = self;
        let served = serve_connection(socket, &options, Http2 { routes, calls, streams, client }, drained(draining));
        if let Err(error) = served.await {
            tracing::debug!(%error, "a connection ended");
        }
    }

    async fn http1(self, socket: Replayed<Connection>, client: ClientInfo) {
        let routes = TowerToHyperService::new(WithClient { inner: self.routes, client });
        let mut serving = http1::Builder::new();
        let serving = serving.timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), routes);
        let mut serving = std::pin::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => served,
            () = drained(self.draining) => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

async fn drained(mut draining: watch::Receiver<bool>) {
    drop(draining.wait_for(|draining| *draining).await);
}

/// What one connection over HTTP/2 is served by.
struct Http2 {
    routes: Deadlines<Gate<Routes>>,
    calls: Arc<Calls>,
    streams: Arc<Streams>,
    client: ClientInfo,
}

impl Service for Http2 {
    type Call = calls::Call;
    type Dialogue = streams::Open;
    type Answer = <Deadlines<Gate<Routes>> as tower::Service<http::Request<Incoming>>>::Future;
    type Body = Body;
    type Error = Infallible;

    fn is_unary(&mut self, head: &Head) -> bool {
        calls::is_served(head)
    }

    fn converse(&mut self, head: &Arc<Head>) -> Option<streams::Open> {
        self.streams.open(head)
    }

    fn call(&mut self, call: Unary, reply: Reply) -> Option<calls::Call> {
        self.calls.call(call, &self.client, reply)
    }

    fn stream(&mut self, mut request: http::Request<Incoming>) -> Self::Answer {
        request.extensions_mut().insert(self.client.clone());
        // Routes are always ready.
        self.routes.call(request)
    }
}

/// Tells the routes who asks.
#[derive(Clone)]
struct WithClient<S> {
    inner: S,
    client: ClientInfo,
}

impl<S, B> tower::Service<http::Request<B>> for WithClient<S>
where
    S: tower::Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        request.extensions_mut().insert(self.client.clone());
        self.inner.call(request)
    }
}
