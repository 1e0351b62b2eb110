//! A server that answers whatever a test says, for what no real member would.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::Stream;
use parking_lot::Mutex;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::auth_server::{Auth, AuthServer};
use tenure_proto::etcdserverpb::kv_server::{Kv, KvServer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

type Chunks = Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

/// What it answers, and what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    /// Answers to reads, one after the other; the last one again and again.
    pub(crate) ranges: Mutex<VecDeque<Result<pb::RangeResponse, Status>>>,
    /// Answers to puts, likewise.
    pub(crate) puts: Mutex<VecDeque<Result<pb::PutResponse, Status>>>,
    /// Answers to transactions, likewise.
    pub(crate) txns: Mutex<VecDeque<Result<pb::TxnResponse, Status>>>,
    /// What range streams tell, one stream after the other. Without any, there is no such call.
    pub(crate) streams: Mutex<VecDeque<Vec<Result<pb::RangeStreamResponse, Status>>>>,
    /// The headers of each request.
    pub(crate) headers: Mutex<Vec<http::HeaderMap>>,
    /// What the ranges were.
    pub(crate) asked: Mutex<Vec<pb::RangeRequest>>,
    /// What the transactions were.
    pub(crate) committed: Mutex<Vec<pb::TxnRequest>>,
    /// The token that counts. Unless there is one, nobody has to log in.
    pub(crate) token: Mutex<Option<String>>,
    /// How often somebody logged in.
    pub(crate) logins: AtomicUsize,
}

/// See the module's header. Stops when it is dropped.
pub(crate) struct Fake {
    pub(crate) script: Arc<Script>,
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Answers(Arc<Script>);

impl Fake {
    pub(crate) async fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let script = Arc::new(Script::default());
        let answers = Answers(script.clone());
        let server =
            Server::builder().add_service(KvServer::new(answers.clone())).add_service(AuthServer::new(answers));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.serve_with_incoming(TcpIncoming::from(listener)).await.expect("it serves") });
        Fake { script, address, _tasks: tasks }
    }
}

/// The next answer, or the last one again.
fn next<A: Clone>(answers: &Mutex<VecDeque<Result<A, Status>>>) -> Result<Response<A>, Status> {
    let mut answers = answers.lock();
    let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
    answer.unwrap_or_else(|| Err(Status::internal("the test has no answer to this"))).map(Response::new)
}

impl Answers {
    fn note<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.0.headers.lock().push(request.metadata().clone().into_headers());
        let valid = self.0.token.lock().clone();
        let shown = request.metadata().get("token").and_then(|token| token.to_str().ok());
        match valid {
            Some(valid) if shown != Some(&valid) => Err(Status::unauthenticated("etcdserver: invalid auth token")),
            Some(_) | None => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Kv for Answers {
    type RangeStreamStream = Chunks;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.note(&request)?;
        self.0.asked.lock().push(request.into_inner());
        next(&self.0.ranges)
    }

    async fn range_stream(&self, request: Request<pb::RangeRequest>) -> Result<Response<Chunks>, Status> {
        self.note(&request)?;
        self.0.asked.lock().push(request.into_inner());
        match self.0.streams.lock().pop_front() {
            Some(chunks) => Ok(Response::new(Box::pin(futures::stream::iter(chunks)))),
            None => Err(Status::unimplemented("unknown method RangeStream")),
        }
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.note(&request)?;
        next(&self.0.puts)
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.note(&request)?;
        Err(Status::unimplemented("not of this test"))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.note(&request)?;
        self.0.committed.lock().push(request.into_inner());
        next(&self.0.txns)
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.note(&request)?;
        Err(Status::unimplemented("not of this test"))
    }
}

/// Calls that no test makes.
macro_rules! unserved {
    ($($name:ident($request:ident) -> $response:ident,)*) => {
        #[tonic::async_trait]
        impl Auth for Answers {
            async fn authenticate(
                &self,
                request: Request<pb::AuthenticateRequest>,
            ) -> Result<Response<pb::AuthenticateResponse>, Status> {
                self.0.logins.fetch_add(1, Ordering::Relaxed);
                let request = request.into_inner();
                if (&request.name[..], &request.password[..]) != ("root", "secret") {
                    let text = "etcdserver: authentication failed, invalid user ID or password";
                    return Err(Status::invalid_argument(text));
                }
                match self.0.token.lock().clone() {
                    Some(token) => Ok(Response::new(pb::AuthenticateResponse { header: None, token })),
                    None => Err(Status::failed_precondition("etcdserver: authentication is not enabled")),
                }
            }

            $(async fn $name(&self, _: Request<pb::$request>) -> Result<Response<pb::$response>, Status> {
                Err(Status::unimplemented("not of this test"))
            })*
        }
    };
}

unserved! {
    auth_enable(AuthEnableRequest) -> AuthEnableResponse,
    auth_disable(AuthDisableRequest) -> AuthDisableResponse,
    auth_status(AuthStatusRequest) -> AuthStatusResponse,
    user_add(AuthUserAddRequest) -> AuthUserAddResponse,
    user_get(AuthUserGetRequest) -> AuthUserGetResponse,
    user_list(AuthUserListRequest) -> AuthUserListResponse,
    user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse,
    user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse,
    user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse,
    user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse,
    role_add(AuthRoleAddRequest) -> AuthRoleAddResponse,
    role_get(AuthRoleGetRequest) -> AuthRoleGetResponse,
    role_list(AuthRoleListRequest) -> AuthRoleListResponse,
    role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse,
    role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse,
    role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse,
}
