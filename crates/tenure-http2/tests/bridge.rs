//! The streamed half, with tonic on both sides: every kind of call, large bodies, calls that end early, back-pressure, and
//! the end of a connection.

mod common;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use common::{Answer, Running, Server, soon, start};
use futures::future::join_all;
use futures::stream;
use http_body_util::BodyExt as _;
use tenure_http2::{Incoming, Options};
use tokio_stream::StreamExt as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tower::service_fn;

/// Messages as they are.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}

/// What services count: messages made, and calls that were dropped.
#[derive(Clone, Default)]
struct Counts {
    made: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn grpc() -> tonic::server::Grpc<Raw> {
    tonic::server::Grpc::new(Raw).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
}

/// `/t/echo`, `/t/fail`, `/t/stuck`: unary; `/t/count`: bytes of a client's stream; `/t/spread`: as many messages of 10,000
/// bytes as the first two bytes of the request say; `/t/chat`: what is sent comes back.
fn serve(counts: &Counts, request: http::Request<Incoming>) -> Answer {
    let counts = counts.clone();
    Box::pin(async move {
        let response = match request.uri().path() {
            "/t/echo" => {
                let echo = service_fn(|request: Request<Bytes>| async move { Ok(Response::new(request.into_inner())) });
                grpc().unary(echo, request).await
            }
            "/t/fail" => {
                let fail = service_fn(|request: Request<Bytes>| async move {
                    let mut status = Status::with_details(Code::Aborted, "so it goes: ü%", request.into_inner());
                    status.metadata_mut().insert("x-why", "why not".parse().expect("a value"));
                    Err::<Response<Bytes>, _>(status)
                });
                grpc().unary(fail, request).await
            }
            "/t/count" => {
                let count = service_fn(|request: Request<Streaming<Bytes>>| async move {
                    let mut stream = request.into_inner();
                    let mut sum = 0_u64;
                    while let Some(message) = stream.next().await {
                        sum += u64::try_from(message?.len()).expect("short");
                    }
                    Ok(Response::new(Bytes::copy_from_slice(&sum.to_be_bytes())))
                });
                grpc().client_streaming(count, request).await
            }
            "/t/spread" => {
                let spread = service_fn(|request: Request<Bytes>| {
                    let counts = counts.clone();
                    async move {
                        let count = request.into_inner().get_u16();
                        let counted = Counted(counts.dropped.clone());
                        let messages = stream::iter(0..count).map(move |_| {
                            let _held = &counted;
                            counts.made.fetch_add(1, Ordering::SeqCst);
                            Ok::<_, Status>(Bytes::from(vec![7; 10_000]))
                        });
                        Ok(Response::new(messages))
                    }
                });
                grpc().server_streaming(spread, request).await
            }
            "/t/chat" => {
                let chat = service_fn(|request: Request<Streaming<Bytes>>| async move {
                    Ok::<_, Status>(Response::new(request.into_inner()))
                });
                grpc().streaming(chat, request).await
            }
            "/t/stuck" => {
                let _held = Counted(counts.dropped.clone());
                counts.made.fetch_add(1, Ordering::SeqCst);
                std::future::pending().await
            }
            _ => Status::unimplemented("no such call").into_http(),
        };
        Ok::<_, Infallible>(response.map(|body: tonic::body::Body| body.boxed_unsync()))
    })
}

async fn running(counts: &Counts) -> Running {
    let counts = counts.clone();
    let options = Options { message_bytes_max: 16 << 20, ..Options::default() };
    start(Server::new(move |request| serve(&counts, request)), options).await
}

type Client = tonic::client::Grpc<Channel>;

async fn client(address: SocketAddr) -> Client {
    let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect().await;
    Client::new(channel.expect("connected")).max_decoding_message_size(usize::MAX)
}

async fn unary(client: &Client, path: &'static str, message: Bytes) -> Result<Response<Bytes>, Status> {
    let mut client = client.clone();
    client.ready().await.expect("ready");
    client.unary(Request::new(message), path.parse().expect("a path"), Raw).await
}

async fn spread(client: &Client, count: u16) -> Streaming<Bytes> {
    let mut client = client.clone();
    client.ready().await.expect("ready");
    let request = Request::new(Bytes::copy_from_slice(&count.to_be_bytes()));
    client.server_streaming(request, "/t/spread".parse().expect("a path"), Raw).await.expect("a stream").into_inner()
}

#[tokio::test]
async fn unary_calls_of_any_size_work_both_ways_round() {
    let running = running(&Counts::default()).await;
    let client = client(running.address).await;
    for path in ["/t/echo", "/unary/echo", "/unary/later", "/unary/future"] {
        for length in [0, 1, 1000, 100_000, 8 << 20] {
            let message = Bytes::from(vec![3; length]);
            let answer = soon(unary(&client, path, message.clone())).await.expect("an answer");
            assert!(answer.into_inner() == message, "{path} {length}");
        }
    }
}

#[tokio::test]
async fn failures_come_with_all_that_they_say() {
    let running = running(&Counts::default()).await;
    let client = client(running.address).await;
    let status = soon(unary(&client, "/t/fail", Bytes::from_static(b"details"))).await.expect_err("a failure");
    assert_eq!((status.code(), status.message(), status.details()), (Code::Aborted, "so it goes: ü%", &b"details"[..]));
    assert_eq!(status.metadata().get("x-why").expect("metadata"), "why not");
    let status = soon(unary(&client, "/t/what", Bytes::new())).await.expect_err("a failure");
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "no such call"));
    let status = soon(unary(&client, "/unary/fail", Bytes::new())).await.expect_err("a failure");
    assert_eq!((status.code(), status.message()), (Code::NotFound, "nichts gefunden: 100 % ü"));
}

#[tokio::test]
async fn streams_of_clients_and_servers_are_whole() {
    let running = running(&Counts::default()).await;
    let mut client = client(running.address).await;
    client.ready().await.expect("ready");
    let messages = stream::iter((0..200).map(|_| Bytes::from(vec![1; 50_000])));
    let sum = client.client_streaming(Request::new(messages), "/t/count".parse().expect("a path"), Raw);
    assert_eq!(soon(sum).await.expect("an answer").into_inner().get_u64(), 10_000_000);
    let mut stream = spread(&client, 1000).await;
    let mut count = 0;
    while let Some(message) = soon(stream.next()).await {
        assert_eq!(message.expect("a message").len(), 10_000);
        count += 1;
    }
    assert_eq!(count, 1000);
    assert!(soon(stream.trailers()).await.is_ok());
}

#[tokio::test]
async fn a_thousand_chats_go_on_at_once() {
    let running = running(&Counts::default()).await;
    let channel = Endpoint::from_shared(format!("http://{}", running.address)).expect("an address");
    let channel = channel.initial_connection_window_size(16 << 20).connect().await.expect("connected");
    let client = Client::new(channel);
    let (all_open, barrier) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Barrier::new(1000)));
    let chats = (0..1000_u32).map(|number| {
        let (mut client, all_open, barrier) = (client.clone(), all_open.clone(), barrier.clone());
        tokio::spawn(async move {
            let (sender, receiver) = tokio::sync::mpsc::channel(1);
            client.ready().await.expect("ready");
            let sent = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let mut answers = client
                .streaming(Request::new(sent), "/t/chat".parse().expect("a path"), Raw)
                .await
                .expect("a stream")
                .into_inner();
            all_open.fetch_add(1, Ordering::SeqCst);
            barrier.wait().await;
            assert_eq!(all_open.load(Ordering::SeqCst), 1000);
            for round in 0..3 {
                let message = Bytes::from(format!("{number} {round}"));
                sender.send(message.clone()).await.expect("sent");
                assert_eq!(answers.next().await.expect("an answer").expect("a message"), message);
            }
            drop(sender);
            assert!(answers.next().await.is_none());
        })
    });
    for ended in soon(join_all(chats)).await {
        ended.expect("a chat");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_its_stream_alone_and_may_leave() {
    let counts = Counts::default();
    let running = running(&counts).await;
    let channel = Endpoint::from_shared(format!("http://{}", running.address)).expect("an address");
    let channel = channel.initial_stream_window_size(100_000).connect().await.expect("connected");
    let client = Client::new(channel);
    let mut stream = spread(&client, u16::MAX).await;
    assert!(soon(stream.next()).await.is_some());
    let mut before = usize::MAX;
    while before != counts.made.load(Ordering::SeqCst) {
        before = counts.made.load(Ordering::SeqCst);
        for _ in 0..20 {
            soon(unary(&client, "/unary/echo", Bytes::new())).await.expect("an answer");
        }
    }
    // The windows, what waits in the stream, and what is on its way.
    assert!(before < 60, "{before} messages were made");
    drop(stream);
    while counts.dropped.load(Ordering::SeqCst) == 0 {
        soon(unary(&client, "/unary/echo", Bytes::new())).await.expect("an answer");
    }
}

#[tokio::test]
async fn a_call_past_its_deadline_is_dropped() {
    let counts = Counts::default();
    let running = running(&counts).await;
    let client = client(running.address).await;
    let mut late = client.clone();
    late.ready().await.expect("ready");
    let mut request = Request::new(Bytes::new());
    request.set_timeout(Duration::from_millis(20));
    let status = soon(late.unary(request, "/t/stuck".parse().expect("a path"), Raw)).await;
    assert!(matches!(status.expect_err("a failure").code(), Code::Cancelled | Code::DeadlineExceeded));
    while counts.dropped.load(Ordering::SeqCst) == 0 {
        soon(unary(&client, "/unary/echo", Bytes::new())).await.expect("an answer");
    }
}

#[tokio::test]
async fn a_connection_drains_before_it_ends() {
    let counts = Counts::default();
    let mut running = running(&counts).await;
    let mut client = client(running.address).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    client.ready().await.expect("ready");
    let sent = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let chat = client.streaming(Request::new(sent), "/t/chat".parse().expect("a path"), Raw);
    let mut answers = soon(chat).await.expect("a stream").into_inner();
    running.stop.send_replace(true);
    for _ in 0..10 {
        sender.send(Bytes::from_static(b"still there?")).await.expect("sent");
        assert!(soon(answers.next()).await.is_some_and(|answer| answer.is_ok()));
    }
    assert!(running.ended.try_recv().is_err());
    drop(sender);
    assert!(soon(answers.next()).await.is_none());
    soon(running.ended.recv()).await.expect("an end").expect("a good end");
}
