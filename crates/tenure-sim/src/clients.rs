//! Clients of the simulated cluster: those of [`tenure_workload`], connected through the simulated network.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use tenure_raft::PeerChannel;
use tenure_workload::connect::{Channel, Connect};
use tonic::Status;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

use crate::net::{End, Net};

/// Connects clients to the members' client ports.
#[derive(Clone, Debug)]
pub struct SimConnect {
    net: Net,
    members: usize,
}

impl SimConnect {
    /// To so many members.
    pub fn new(net: &Net, members: usize) -> SimConnect {
        SimConnect { net: net.clone(), members }
    }
}

impl Connect for SimConnect {
    fn members(&self) -> usize {
        self.members
    }

    fn connect(&self, client: u32, member: usize) -> Channel {
        let from = End::Client(client as usize);
        let lazy = Lazy { net: self.net.clone(), from, to: End::Server(member), line: Arc::default() };
        BoxCloneSyncService::new(lazy)
    }
}

/// A connection that is made when it is first used, and again after it broke.
#[derive(Clone)]
struct Lazy {
    net: Net,
    from: End,
    to: End,
    line: Arc<Mutex<Option<PeerChannel>>>,
}

impl Lazy {
    async fn carry(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let open = self.line.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let line = match open {
            Some(line) => line,
            None => {
                let refused = |_| Status::from_error(Box::new(io::Error::from(io::ErrorKind::ConnectionRefused)));
                let line = self.net.connect(self.from, self.to).await.map_err(refused)?;
                self.line.lock().unwrap_or_else(PoisonError::into_inner).insert(line).clone()
            }
        };
        let mut forget = ForgetUnlessAnswered { line: &self.line, answered: false };
        let answer = line.oneshot(request).await;
        forget.answered = answer.is_ok();
        answer
    }
}

/// A connection over which a call was not answered in time is not used again: a keepalive would find out later.
struct ForgetUnlessAnswered<'l> {
    line: &'l Mutex<Option<PeerChannel>>,
    answered: bool,
}

impl Drop for ForgetUnlessAnswered<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.line.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

impl Service<Request<Body>> for Lazy {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().carry(request))
    }
}
