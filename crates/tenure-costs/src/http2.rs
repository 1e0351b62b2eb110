//! An HTTP/2 connection without its socket: bytes of requests in, bytes of answers out, in one thread and without waiting.
//!
//! The head of gRPC requests is one that clients of Go send. A second one with the same fields is known to the connection; one
//! with a field that differs each time is decoded each time, and what it costs more is the cost of HPACK.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes};
use http_body_util::Empty;
use tenure_http2::{Dialogue, Farewell, Head, Heard, Incoming, Line, Options, Reply, Service, Unary, serve_connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;

use crate::{Piece, Run};

const OPERATIONS: u64 = 1000;
const CALLS_PER_TURN: usize = 20;

pub(crate) const PIECES: &[Piece] = &[
    Piece { name: "http2: unary call", operations: OPERATIONS, prepare: || unary(known_head, 1) },
    Piece { name: "http2: unary call, head to decode", operations: OPERATIONS, prepare: || unary(literal_head, 1) },
    Piece {
        name: "http2: unary call, 20 at once",
        operations: OPERATIONS,
        prepare: || unary(known_head, CALLS_PER_TURN),
    },
    Piece { name: "http2: dialogue message", operations: OPERATIONS, prepare: dialogue },
];

/// A put of 24 bytes of key and 256 of value, about; its answer is shorter.
const REQUEST_BYTES: usize = 286;
const ANSWER_BYTES: usize = 28;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
const WINDOW: u32 = 1 << 30;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A message of gRPC in a frame.
fn message(stream: u32, flags: u8) -> Vec<u8> {
    let length = u32::try_from(REQUEST_BYTES).expect("short").to_be_bytes();
    frame(DATA, flags, stream, &[&[0][..], &length, &[b'r'; REQUEST_BYTES]].concat())
}

fn text(first: &[u8], text: &str) -> Vec<u8> {
    [first, &[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat()
}

const PATH: &str = "/etcdserverpb.KV/Put";
const AUTHORITY: &str = "127.0.0.1:2379";
const USER_AGENT: &str = "grpc-go/1.71.1";

/// `:method: POST` and `:scheme: http`, and the other fields as new entries of the table.
fn first_head(path: &str) -> Vec<u8> {
    let content_type = text(&[0x5f], "application/grpc");
    let te = [text(&[0x40], "te"), text(&[], "trailers")].concat();
    [vec![0x83, 0x86], text(&[0x44], path), text(&[0x41], AUTHORITY), content_type, text(&[0x7a], USER_AGENT), te]
        .concat()
}

/// The same fields by their places in the table.
fn known_head(_: u64) -> Vec<u8> {
    vec![0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe]
}

/// The same fields spelt out, an authority in Huffman's code (RFC 7541, C.4.1), and one that is never the same.
fn literal_head(number: u64) -> Vec<u8> {
    const WWW_EXAMPLE_COM: [u8; 12] = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
    let authority = [&[0x01, 0x80 | 12][..], &WWW_EXAMPLE_COM].concat();
    let content_type = text(&[0x0f, 0x10], "application/grpc");
    let user_agent = text(&[0x0f, 0x2b], USER_AGENT);
    let te = [text(&[0], "te"), text(&[], "trailers")].concat();
    let timeout = [text(&[0], "grpc-timeout"), text(&[], &format!("{}u", 1_000_000 + number))].concat();
    [vec![0x83, 0x86], text(&[0x04], PATH), authority, content_type, user_agent, te, timeout].concat()
}

/// Both directions of a connection.
#[derive(Default)]
struct Wire {
    input: Vec<u8>,
    said: usize,
}

struct Pipe(Rc<RefCell<Wire>>);

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let input = &mut self.0.borrow_mut().input;
        if input.is_empty() {
            return Poll::Pending;
        }
        let count = input.len().min(buf.remaining());
        buf.put_slice(&input[..count]);
        input.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().said += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, _: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let count = bufs.iter().map(|buf| buf.len()).sum();
        self.0.borrow_mut().said += count;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Answers at once.
struct Prompt;

impl Service for Prompt {
    type Call = Ready<()>;
    type Dialogue = Prompt;
    type Answer = Ready<Result<http::Response<Empty<Bytes>>, Infallible>>;
    type Body = Empty<Bytes>;
    type Error = Infallible;

    fn is_unary(&mut self, head: &Head) -> bool {
        head.path() == PATH
    }

    fn converse(&mut self, _: &Arc<Head>) -> Option<Prompt> {
        Some(Prompt)
    }

    fn call(&mut self, call: Unary, reply: Reply) -> Option<Ready<()>> {
        assert_eq!(call.message.len(), REQUEST_BYTES);
        reply.message(ANSWER_BYTES, |out| out.put_bytes(b'a', ANSWER_BYTES));
        None
    }

    fn stream(&mut self, _: http::Request<Incoming>) -> Self::Answer {
        ready(Ok(http::Response::new(Empty::new())))
    }
}

impl Dialogue for Prompt {
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>, line: &mut dyn Line) -> Poll<Farewell> {
        loop {
            match line.hear() {
                Heard::Message(message) => assert_eq!(message.len(), REQUEST_BYTES),
                Heard::Nothing => return Poll::Pending,
                Heard::End => return Poll::Ready(Farewell::OK),
                Heard::Failed { code, message } => panic!("{code}: {message}"),
            }
            line.say(ANSWER_BYTES, &mut |out| out.put_bytes(b'a', ANSWER_BYTES));
        }
    }
}

/// A connection whose first stream was begun with the head that others may refer to.
struct Served {
    /// For its timers, which never fire.
    runtime: Runtime,
    wire: Rc<RefCell<Wire>>,
    serving: Pin<Box<dyn Future<Output = Result<(), tenure_http2::ServeError>>>>,
}

impl Served {
    fn begin(path: &str, first: &[u8]) -> Served {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let wire = Rc::<RefCell<Wire>>::default();
        let serving = {
            let _entered = runtime.enter();
            let never = std::future::pending::<()>();
            Box::pin(serve_connection(Pipe(wire.clone()), &Options::default(), Prompt, never))
        };
        let mut served = Served { runtime, wire, serving };
        let settings = [&INITIAL_WINDOW_SIZE[..], &WINDOW.to_be_bytes()].concat();
        let opening = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &settings),
            frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes()),
            frame(HEADERS, END_HEADERS, 1, &first_head(path)),
            first.to_vec(),
        ];
        served.turn(&opening.concat());
        served
    }

    /// Lets the connection read, and answer.
    fn turn(&mut self, input: &[u8]) {
        self.wire.borrow_mut().input.extend_from_slice(input);
        let _entered = self.runtime.enter();
        let polled = self.serving.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "the connection ends: {polled:?}");
    }

    /// Takes turns, each with a piece of input. All of them together are answered with at least so many bytes.
    fn run(mut self, turns: Vec<Vec<u8>>, answers: u64) -> Run {
        let at_least = usize::try_from(answers).expect("few") * ANSWER_BYTES;
        Box::new(move || {
            let before = self.wire.borrow().said;
            turns.iter().for_each(|turn| self.turn(turn));
            assert!(self.wire.borrow().said - before >= at_least, "calls were not answered");
        })
    }
}

fn unary(head: fn(u64) -> Vec<u8>, at_once: usize) -> Run {
    let served = Served::begin(PATH, &message(1, END_STREAM));
    let streams: Vec<u32> = (0..OPERATIONS).map(|number| u32::try_from(3 + 2 * number).expect("few")).collect();
    let call = |stream: &u32| {
        [frame(HEADERS, END_HEADERS, *stream, &head((*stream).into())), message(*stream, END_STREAM)].concat()
    };
    let turns = streams.chunks(at_once).map(|streams| streams.iter().flat_map(call).collect());
    served.run(turns.collect(), OPERATIONS)
}

fn dialogue() -> Run {
    let served = Served::begin("/etcdserverpb.Lease/LeaseKeepAlive", &[]);
    served.run((0..OPERATIONS).map(|_| message(1, 0)).collect(), OPERATIONS)
}
