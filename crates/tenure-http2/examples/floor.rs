//! What a unary call costs a server that answers from memory: tonic, the h2 crate, and this crate, on the same load.
//!
//! Each server has a thread and a current-thread runtime; the clients have another. What counts is the CPU time of the
//! server's thread, as the kernel tells it, so a busy machine makes the figures slower but hardly wrong.
//!
//! `cargo run --release -p tenure-http2 --example floor -- [SECONDS] [NAME...]`
#![expect(clippy::print_stdout, reason = "it prints its table")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use prost::Message;
use tenure_http2::{Head, Incoming, Options, Reply, Service, Unary, serve_connection};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tonic::codegen::BoxFuture;
use tonic::service::Routes;

const PATH: &str = "/etcdserverpb.KV/Put";
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(int64, tag = "3")]
    lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "1")]
    cluster: u64,
    #[prost(uint64, tag = "2")]
    member: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
    #[prost(uint64, tag = "4")]
    term: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

/// What every server does for a call.
fn answer(put: &Put) -> Answer {
    let header = Header { cluster: 1 << 60, member: 1 << 61, revision: 1 << 30, term: put.key.len() as u64 };
    Answer { header: Some(header) }
}

/// Sockets whose reads and writes are counted.
struct Counted {
    io: TcpStream,
    calls: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.calls.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl tonic::transport::server::Connected for Counted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// The servers that are compared.
const NAMES: [&str; 5] = ["tonic", "h2", "own", "own, by futures", "own, bridged to tonic"];

async fn serve(name: &'static str, listener: TcpListener, calls: Arc<AtomicU64>) {
    if name == "tonic" {
        return serve_tonic(listener, calls).await;
    }
    loop {
        let Ok((io, _)) = listener.accept().await else { return };
        drop(io.set_nodelay(true));
        let io = Counted { io, calls: calls.clone() };
        if name == "h2" {
            spawn_local(serve_h2(io));
            continue;
        }
        let options = Options {
            stream_window_bytes: STREAM_WINDOW_BYTES,
            connection_window_bytes: CONNECTION_WINDOW_BYTES,
            ..Options::default()
        };
        match name {
            "own" => drop(spawn_local(serve_connection(io, &options, AtOnce, std::future::pending()))),
            "own, by futures" => drop(spawn_local(serve_connection(io, &options, ByFutures, std::future::pending()))),
            _ => drop(spawn_local(serve_connection(io, &options, Bridged(routes()), std::future::pending()))),
        }
    }
}

#[derive(Clone)]
struct TonicService;

impl tonic::server::NamedService for TonicService {
    const NAME: &'static str = "etcdserverpb.KV";
}

impl tonic::server::UnaryService<Put> for TonicService {
    type Response = Answer;
    type Future = BoxFuture<tonic::Response<Answer>, tonic::Status>;

    fn call(&mut self, request: tonic::Request<Put>) -> Self::Future {
        Box::pin(async move { Ok(tonic::Response::new(answer(request.get_ref()))) })
    }
}

impl<B> tower::Service<Request<B>> for TonicService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send + 'static,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::<Answer, Put>::default());
            Ok(grpc.unary(TonicService, request).await)
        })
    }
}

fn routes() -> Routes {
    Routes::new(TonicService)
}

async fn serve_tonic(listener: TcpListener, calls: Arc<AtomicU64>) {
    let incoming = futures::stream::unfold((listener, calls), |(listener, calls)| async move {
        let accepted = listener.accept().await.map(|(io, _)| {
            drop(io.set_nodelay(true));
            Counted { io, calls: calls.clone() }
        });
        Some((accepted, (listener, calls)))
    });
    let server = tonic::transport::Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_routes(routes());
    drop(server.serve_with_incoming(incoming).await);
}

async fn serve_h2(io: Counted) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(STREAM_WINDOW_BYTES).initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        spawn_local(async move {
            let mut body = request.into_body();
            let mut all = BytesMut::new();
            while let Some(Ok(piece)) = body.data().await {
                drop(body.flow_control().release_capacity(piece.len()));
                all.put_slice(&piece);
            }
            let put = Put::decode(&mut all.freeze().slice(5..)).unwrap_or_default();
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap_or_default();
            let Ok(mut stream) = respond.send_response(head, false) else { return };
            drop(stream.send_data(framed(&answer(&put)), false));
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            drop(stream.send_trailers(trailers));
        });
    }
}

fn reply_to(call: Unary, reply: Reply) {
    let answer = answer(&Put::decode(call.message).unwrap_or_default());
    let length = answer.encoded_len();
    reply.message(length, |out| answer.encode_raw(out));
}

struct AtOnce;

impl Service for AtOnce {
    type Call = Ready<()>;
    type Dialogue = tenure_http2::NoDialogue;
    type Answer = Ready<Result<Response<String>, Infallible>>;
    type Body = String;
    type Error = Infallible;

    fn is_unary(&mut self, head: &Head) -> bool {
        head.path() == PATH
    }

    fn call(&mut self, call: Unary, reply: Reply) -> Option<Ready<()>> {
        reply_to(call, reply);
        None
    }

    fn stream(&mut self, _: Request<Incoming>) -> Self::Answer {
        ready(Ok(Response::new(String::new())))
    }
}

/// As a handler answers that waits for another task.
struct ByFutures;

impl Service for ByFutures {
    type Call = Pin<Box<dyn Future<Output = ()>>>;
    type Dialogue = tenure_http2::NoDialogue;
    type Answer = Ready<Result<Response<String>, Infallible>>;
    type Body = String;
    type Error = Infallible;

    fn is_unary(&mut self, head: &Head) -> bool {
        head.path() == PATH
    }

    fn call(&mut self, call: Unary, reply: Reply) -> Option<Self::Call> {
        Some(Box::pin(async move {
            tokio::task::yield_now().await;
            reply_to(call, reply);
        }))
    }

    fn stream(&mut self, _: Request<Incoming>) -> Self::Answer {
        ready(Ok(Response::new(String::new())))
    }
}

struct Bridged(Routes);

impl Service for Bridged {
    type Call = Ready<()>;
    type Dialogue = tenure_http2::NoDialogue;
    type Answer = <Routes as tower::Service<Request<Incoming>>>::Future;
    type Body = tonic::body::Body;
    type Error = Infallible;

    fn stream(&mut self, request: Request<Incoming>) -> Self::Answer {
        tower::Service::call(&mut self.0, request)
    }
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(5 + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut out);
    out.freeze()
}

/// A client that calls again as soon as it is answered.
async fn client(sender: SendRequest<Bytes>, uri: http::Uri, body: Bytes, done: Rc<std::cell::Cell<u64>>) -> Result<()> {
    loop {
        let request = Request::post(uri.clone()).header("content-type", "application/grpc").header("te", "trailers");
        let mut sender = sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request.body(())?, false)?;
        stream.send_data(body.clone(), true)?;
        let (_, mut body) = response.await?.into_parts();
        let mut count = 0;
        while let Some(piece) = body.data().await {
            let piece = piece?;
            count += piece.len();
            body.flow_control().release_capacity(piece.len())?;
        }
        let trailers = body.trailers().await?.context("no trailers")?;
        ensure!(count > 5 && trailers.get("grpc-status").is_some_and(|status| status == "0"), "a call failed");
        done.set(done.get() + 1);
    }
}

fn cpu_of(thread: &str) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))?;
    Ok(Duration::from_nanos(text.split(' ').next().context("no time")?.parse()?))
}

struct Figures {
    calls_per_second: f64,
    cpu_us: f64,
    syscalls: f64,
    mean_us: f64,
}

async fn load(
    address: SocketAddr,
    server: &str,
    calls: &AtomicU64,
    of: (usize, usize),
    time: Duration,
) -> Result<Figures> {
    let (clients, connections) = of;
    let put = Put { key: vec![b'k'; 20].into(), value: vec![b'v'; 256].into(), lease: 7 };
    let (body, done) = (framed(&put), Rc::new(std::cell::Cell::new(0)));
    let uri: http::Uri = format!("http://{address}{PATH}").parse()?;
    let mut tasks = Vec::new();
    for number in 0..connections {
        let io = TcpStream::connect(address).await?;
        io.set_nodelay(true)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(CONNECTION_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(io)
            .await?;
        tasks.push(spawn_local(async move { Ok(connection.await?) }));
        for _ in (number..clients).step_by(connections) {
            tasks.push(spawn_local(client(sender.clone(), uri.clone(), body.clone(), done.clone())));
        }
    }
    tokio::time::sleep(WARM_UP).await;
    let (count, cpu, syscalls, begun) = (done.get(), cpu_of(server)?, calls.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(time).await;
    let (cpu, passed) = (cpu_of(server)?.saturating_sub(cpu), begun.elapsed());
    let count = (done.get() - count) as f64;
    let syscalls = (calls.load(Ordering::Relaxed) - syscalls) as f64;
    for task in tasks {
        if task.is_finished() {
            task.await??;
        } else {
            task.abort();
        }
    }
    Ok(Figures {
        calls_per_second: count / passed.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / count,
        syscalls: syscalls / count,
        mean_us: passed.as_secs_f64() * 1e6 * clients as f64 / count,
    })
}

fn current_thread() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn measure(name: &'static str, of: (usize, usize), time: Duration) -> Result<Figures> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let (calls, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (tell, told) = std::sync::mpsc::channel();
    let (counted, stopped) = (calls.clone(), over.clone());
    let server = thread::Builder::new().name("server".into()).spawn(move || -> Result<()> {
        let thread = std::fs::read_link("/proc/thread-self")?;
        tell.send(thread.file_name().context("no thread")?.to_string_lossy().into_owned())?;
        let local = LocalSet::new();
        local.block_on(&current_thread()?, async {
            let listener = TcpListener::from_std(listener)?;
            spawn_local(serve(name, listener, counted));
            while !stopped.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        })
    })?;
    let thread = told.recv()?;
    let figures = LocalSet::new().block_on(&current_thread()?, load(address, &thread, &calls, of, time));
    over.store(true, Ordering::Relaxed);
    server.join().ok().context("the server panicked")??;
    figures
}

const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The process's memory.
fn resident() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    Ok(text.split(' ').nth(1).context("no figure")?.parse::<usize>()? * 4096)
}

/// A request's head.
fn head(stream: u32) -> Result<Vec<u8>> {
    let path = u8::try_from(PATH.len())?;
    let frame = [&[0, 0, path + 4, 1, 4][..], &stream.to_be_bytes(), &[0x83, 0x86, 0x04, path], PATH.as_bytes()];
    Ok(frame.concat())
}

/// What an idle connection of this crate keeps, by the growth of the process. Its clients are bare sockets.
fn measure_idle() -> Result<()> {
    const CONNECTIONS: usize = 2000;
    let call = [&head(1)?[..], &[0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]].concat();
    let local = LocalSet::new();
    let measured = local.block_on(&current_thread()?, async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        spawn_local(serve("own, by futures", listener, Arc::new(AtomicU64::new(0))));
        let mut clients = Vec::with_capacity(CONNECTIONS);
        let before = resident()?;
        for _ in 0..CONNECTIONS {
            let mut io = TcpStream::connect(address).await?;
            io.write_all(&[HELLO, &call].concat()).await?;
            let mut answer = Vec::new();
            while !answer.windows(11).any(|part| part == b"grpc-status") {
                ensure!(io.read_buf(&mut answer).await? > 0, "the server went away");
            }
            clients.push(io);
        }
        println!("an idle connection: {} bytes", (resident()? - before) / CONNECTIONS);
        Ok(())
    });
    // What it freed would be used again by what is measured next.
    std::mem::forget(local);
    measured
}

/// The body of an answer that says nothing, and keeps the request's.
struct Silent {
    _request: Incoming,
}

impl http_body::Body for Silent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

struct Silence;

impl Service for Silence {
    type Call = Ready<()>;
    type Dialogue = tenure_http2::NoDialogue;
    type Answer = Ready<Result<Response<Silent>, Infallible>>;
    type Body = Silent;
    type Error = Infallible;

    fn stream(&mut self, request: Request<Incoming>) -> Self::Answer {
        ready(Ok(Response::new(Silent { _request: request.into_body() })))
    }
}

/// What a stream keeps that is open and has nothing to say, without what serves it.
fn measure_streams() -> Result<()> {
    const STREAMS: u32 = 50_000;
    LocalSet::new().block_on(&current_thread()?, async {
        let (mut client, io) = tokio::io::duplex(64 * 1024);
        spawn_local(serve_connection(io, &Options::default(), Silence, std::future::pending()));
        let before = resident()?;
        client.write_all(HELLO).await?;
        let (mut reader, mut writer) = tokio::io::split(client);
        let ask = async {
            for number in 0..STREAMS {
                writer.write_all(&head(2 * number + 1)?).await?;
            }
            anyhow::Ok(())
        };
        let hear = async {
            let (mut count, mut answers) = (0, [0; 4096]);
            // A head of an answer has ten bytes.
            while count < 10 * STREAMS as usize {
                count += reader.read(&mut answers).await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(ask, hear)?;
        println!("an open stream: {} bytes", (resident()? - before) / STREAMS as usize);
        Ok(())
    })
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let time = Duration::from_secs(arguments.next().map_or(Ok(3), |seconds| seconds.parse())?);
    let wanted: Vec<String> = arguments.collect();
    // First, while the process has no memory to use again.
    measure_idle()?;
    measure_streams()?;
    println!(
        "| server | clients on connections | CPU per call, µs | reads and writes per call | calls/s | mean time, µs |"
    );
    println!("|---|---|---|---|---|---|");
    for of in [(1000, 100), (1, 1)] {
        for name in NAMES.into_iter().filter(|name| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name)) {
            let found = measure(name, of, time)?;
            println!(
                "| {name} | {} on {} | {:.1} | {:.2} | {:.0} | {:.0} |",
                of.0, of.1, found.cpu_us, found.syscalls, found.calls_per_second, found.mean_us
            );
        }
    }
    Ok(())
}
