//! A server made of scripts: it answers puts, reads and watches with what it was given, in order, and notes what came.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt as _, stream};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_server::{Kv, KvServer};
use tenure_proto::etcdserverpb::watch_request::RequestUnion;
use tenure_proto::etcdserverpb::watch_server::{Watch, WatchServer};
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::client::Endpoint;

/// What a watch stream says before it ends: messages, then perhaps an error.
pub(super) type Says = Vec<Result<pb::WatchResponse, Status>>;

/// A running server. It ends with its value.
#[derive(Debug)]
pub(super) struct Fake {
    pub(super) endpoint: Endpoint,
    script: Script,
    server: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Script(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// For puts and reads alike; without any left the answer is a success.
    refusals: VecDeque<Status>,
    watches: VecDeque<Says>,
    puts: usize,
    reads: usize,
    insisted: usize,
    starts: Vec<i64>,
}

impl Fake {
    /// A server that refuses its first requests with these.
    pub(super) fn refusing(refusals: impl IntoIterator<Item = Status>) -> Fake {
        Fake::start(State { refusals: refusals.into_iter().collect(), ..State::default() })
    }

    /// A server whose watches say these things, one after the other; then it has no more to offer than silence.
    pub(super) fn watched(watches: impl IntoIterator<Item = Says>) -> Fake {
        Fake::start(State { watches: watches.into_iter().collect(), ..State::default() })
    }

    fn start(state: State) -> Fake {
        let script = Script(Arc::new(Mutex::new(state)));
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let endpoint = incoming.local_addr().expect("an address").to_string().parse().expect("an endpoint");
        // No health service: any answer is a sign of life.
        let serving = Server::builder()
            .add_service(KvServer::new(script.clone()))
            .add_service(WatchServer::new(script.clone()))
            .serve_with_incoming(incoming);
        let server = tokio::spawn(async { serving.await.expect("the server serves") });
        Fake { endpoint, script, server }
    }

    pub(super) fn puts(&self) -> usize {
        self.state(|state| state.puts)
    }

    pub(super) fn reads(&self) -> usize {
        self.state(|state| state.reads)
    }

    /// How many requests insisted on a leader.
    pub(super) fn insisted(&self) -> usize {
        self.state(|state| state.insisted)
    }

    /// The start revisions of the watches that were asked for.
    pub(super) fn starts(&self) -> Vec<i64> {
        self.state(|state| state.starts.clone())
    }

    fn state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.script.0.lock().expect("the state"))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Script {
    fn note<Q>(&self, request: &Request<Q>, count: impl FnOnce(&mut State)) -> Result<(), Status> {
        let mut state = self.0.lock().expect("the state");
        state.insisted += usize::from(request.metadata().contains_key("hasleader"));
        count(&mut state);
        state.refusals.pop_front().map_or(Ok(()), Err)
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for Script {
    type RangeStreamStream = Boxed<pb::RangeStreamResponse>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.note(&request, |state| state.reads += 1)?;
        Ok(Response::new(pb::RangeResponse::default()))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.note(&request, |state| state.puts += 1)?;
        Ok(Response::new(pb::PutResponse::default()))
    }

    async fn range_stream(&self, _: Request<pb::RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn txn(&self, _: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn compact(&self, _: Request<pb::CompactionRequest>) -> Result<Response<pb::CompactionResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl Watch for Script {
    type WatchStream = Boxed<pb::WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let first = request.into_inner().message().await?.and_then(|request| request.request_union);
        let Some(RequestUnion::CreateRequest(create)) = first else {
            return Err(Status::invalid_argument("no create"));
        };
        let mut state = self.0.lock().expect("the state");
        state.starts.push(create.start_revision);
        Ok(Response::new(match state.watches.pop_front() {
            Some(says) => stream::iter(says).boxed(),
            None => stream::pending().boxed(),
        }))
    }
}
