//! A server on loopback and clients for it, for all tests of the connection.
//!
//! The server is the crate's connection; its streamed half is a closure, so that each test says what it serves.
#![allow(dead_code, unreachable_pub, reason = "each test is a program of its own, and uses its part")]

pub mod raw;
pub mod talk;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use tenure_http2::{Head, Incoming, Options, Reply, Service, Unary, serve_connection};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub type Body = UnsyncBoxBody<Bytes, tonic::Status>;
pub type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
pub type Streamed = Arc<dyn Fn(Request<Incoming>) -> Answer + Send + Sync>;

/// Serves paths of `/unary/` by hand:
/// - `echo`: at once, what was sent;
/// - `later`: the same from another task;
/// - `future`: the same from a future that the connection polls;
/// - `fail`: a status; `drop`: nothing; `metadata`: its own fields;
/// - `large`: a mebibyte, from another task; `large-now`: the same at once;
/// - `stuck`: never, and counts the cancelled in `cancelled`.
#[derive(Clone)]
pub struct Server {
    pub streamed: Streamed,
    pub cancelled: Arc<AtomicUsize>,
    pub called: Arc<AtomicUsize>,
}

impl Server {
    pub fn new(streamed: impl Fn(Request<Incoming>) -> Answer + Send + Sync + 'static) -> Server {
        Server { streamed: Arc::new(streamed), cancelled: Arc::default(), called: Arc::default() }
    }

    /// Nothing is streamed.
    pub fn unary() -> Server {
        Server::new(|_| Box::pin(async { Ok(Response::builder().status(404).body(empty()).expect("a response")) }))
    }
}

pub fn empty() -> Body {
    http_body_util::Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

pub struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Service for Server {
    type Call = Pin<Box<dyn Future<Output = ()> + Send>>;
    type Dialogue = talk::Talk;
    type Answer = Answer;
    type Body = Body;
    type Error = Infallible;

    fn is_unary(&mut self, head: &Head) -> bool {
        head.path().starts_with("/unary/")
    }

    fn converse(&mut self, head: &Arc<Head>) -> Option<talk::Talk> {
        let kind = head.path().strip_prefix("/talk/")?;
        Some(talk::Talk::new(kind, Counted(self.cancelled.clone())))
    }

    fn call(&mut self, call: Unary, reply: Reply) -> Option<Self::Call> {
        self.called.fetch_add(1, Ordering::SeqCst);
        let message = call.message;
        let echo = move |reply: Reply| reply.message(message.len(), |out| out.put_slice(&message));
        match call.head.path().trim_start_matches("/unary/") {
            "echo" => echo(reply),
            "later" => {
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    echo(reply);
                });
            }
            "future" => {
                return Some(Box::pin(async move {
                    let (sender, receiver) = tokio::sync::oneshot::channel();
                    tokio::spawn(async move {
                        tokio::task::yield_now().await;
                        sender.send(()).ok();
                    });
                    receiver.await.ok();
                    echo(reply);
                }));
            }
            "large" => {
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    reply.message(1 << 20, |out| out.resize(out.len() + (1 << 20), 7));
                });
            }
            "large-now" => reply.message(1 << 20, |out| out.resize(out.len() + (1 << 20), 7)),
            "fail" => reply.error(5, "nichts gefunden: 100 % \u{fc}"),
            "metadata" => {
                let sent = call.head.get("x-sent").map(<[u8]>::to_vec).unwrap_or_default();
                let mut metadata = HeaderMap::new();
                metadata.insert("x-received", http::HeaderValue::from_bytes(&sent).expect("a value"));
                reply.message_with(metadata, 2, |out| out.put_slice(b"ok"));
            }
            "drop" => drop(reply),
            "stuck" => {
                let counted = Counted(self.cancelled.clone());
                tokio::spawn(async move {
                    reply.cancelled().await;
                    assert!(reply.is_cancelled());
                    drop(counted);
                });
            }
            "stuck-future" => {
                let counted = Counted(self.cancelled.clone());
                return Some(Box::pin(async move {
                    let _held = (counted, reply);
                    std::future::pending::<()>().await;
                }));
            }
            _ => reply.error(12, "no such call"),
        }
        None
    }

    fn stream(&mut self, request: Request<Incoming>) -> Answer {
        (self.streamed)(request)
    }
}

/// A server that accepts until `stop` is raised, and then drains.
pub struct Running {
    pub address: SocketAddr,
    pub stop: watch::Sender<bool>,
    pub ended: tokio::sync::mpsc::UnboundedReceiver<Result<(), tenure_http2::ServeError>>,
}

pub async fn start(server: Server, options: Options) -> Running {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = watch::channel(false);
    let (tell, ended) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            socket.set_nodelay(true).expect("a socket");
            let mut stopped = stopped.clone();
            let stopping = async move {
                drop(stopped.wait_for(|stop| *stop).await);
            };
            let serving = serve_connection(socket, &options, server.clone(), stopping);
            let tell = tell.clone();
            tokio::spawn(async move {
                tell.send(serving.await).ok();
            });
        }
    });
    Running { address, stop, ended }
}

/// A client by the h2 crate.
pub async fn connect(address: SocketAddr, builder: &h2::client::Builder) -> SendRequest<Bytes> {
    connect_to_cut(address, builder).await.0
}

/// The same, with what cuts the connection.
pub async fn connect_to_cut(address: SocketAddr, builder: &h2::client::Builder) -> (SendRequest<Bytes>, AbortHandle) {
    let socket = TcpStream::connect(address).await.expect("connected");
    socket.set_nodelay(true).expect("a socket");
    let (sender, connection) = builder.handshake(socket).await.expect("a handshake");
    let driven = tokio::spawn(async move {
        // How it ends shows in the calls.
        drop(connection.await);
    });
    (sender, driven.abort_handle())
}

pub fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(5 + message.len());
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).expect("short"));
    out.put_slice(message);
    out.freeze()
}

pub fn request(path: &str) -> http::request::Builder {
    Request::post(format!("http://host{path}")).header("content-type", "application/grpc").header("te", "trailers")
}

/// What came of a call: fields, body, and the trailers if there were any.
#[derive(Debug)]
pub struct Called {
    pub head: http::response::Parts,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Called {
    pub fn status(&self) -> &str {
        let fields = self.trailers.as_ref().unwrap_or(&self.head.headers);
        fields.get("grpc-status").map_or("none", |status| status.to_str().expect("text"))
    }
}

/// Sends a request with a body, respecting the windows.
pub async fn call(sender: &SendRequest<Bytes>, request: Request<()>, body: Bytes) -> Result<Called, h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let (response, stream) = sender.send_request(request, false)?;
    let sending = send_all(stream, body);
    let receiving = async {
        let (head, mut body) = response.await?.into_parts();
        let mut all = BytesMut::new();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            all.put_slice(&piece);
        }
        let trailers = body.trailers().await?;
        Ok(Called { head, body: all.freeze(), trailers })
    };
    let (_, called) = tokio::join!(sending, receiving);
    called
}

pub async fn send_all(mut stream: h2::SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Some(capacity) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return Ok(()) };
        let piece = body.split_to(capacity?.min(body.len()));
        stream.send_data(piece, body.is_empty())?;
    }
    Ok(())
}

pub async fn unary(sender: &SendRequest<Bytes>, name: &str, message: &[u8]) -> Result<Called, h2::Error> {
    call(sender, request(&format!("/unary/{name}")).body(()).expect("a request"), framed(message)).await
}

/// Fails a test that hangs.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("it takes too long")
}
