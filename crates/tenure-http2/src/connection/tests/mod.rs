//! Sessions without a socket: what is said on both sides, what breaks the protocol, what floods are good for, and laws that
//! hold for any input.

mod hostile;

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::frame::{ACK, END_HEADERS, END_STREAM, PADDED, PREFACE};
use crate::head::Unusable;
use crate::hpack::Decoder;
use crate::pieces::Pieces;
use crate::streams::End;

/// Remembers how its streams ended.
#[derive(Default)]
struct Watched(Vec<Option<Reason>>);

impl Seat for Watched {
    fn leave(&mut self, reset: Option<Reason>) {
        self.0.push(reset);
    }
}

struct Session {
    core: Connection<Watched>,
    now: Instant,
    unread: Vec<u8>,
    events: Vec<String>,
    /// What complete requests are answered with.
    answer: Option<Vec<u8>>,
    error: Option<ConnectionError>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_head(&mut out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
    out
}

fn preface() -> Vec<u8> {
    [PREFACE, &frame(frame::SETTINGS, 0, 0, &[])].concat()
}

/// `:method: POST`, `:scheme: http`, `:path: /x`, and what else is given as block.
fn head_block(more: &[u8]) -> Vec<u8> {
    [&[0x83, 0x86, 0x04, 2, b'/', b'x'], more].concat()
}

fn request(stream: u32, body: &[u8]) -> Vec<u8> {
    let head = frame(frame::HEADERS, END_HEADERS, stream, &head_block(&[]));
    [head, frame(frame::DATA, END_STREAM, stream, body)].concat()
}

fn update(stream: u32, increment: u32) -> Vec<u8> {
    frame(frame::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// A frame in a line.
fn told(head: frame::Head, payload: &[u8]) -> String {
    let name =
        ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH", "PING", "GOAWAY", "WINDOW_UPDATE", "CONT"]
            .get(usize::from(head.kind))
            .copied()
            .unwrap_or("?");
    let hex: String = payload.iter().take(40).map(|byte| format!("{byte:02x}")).collect();
    format!("{name} {:x} on {}: {hex}", head.flags, head.stream)
}

fn frames(mut bytes: &[u8]) -> Vec<(frame::Head, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some(head) = frame::Head::read(bytes) {
        found.push((head, bytes[9..9 + head.length].to_vec()));
        bytes = &bytes[9 + head.length..];
    }
    assert!(bytes.is_empty(), "the output ends with a frame");
    found
}

impl Session {
    fn new() -> Session {
        Session::with(&Options { connection_window_bytes: 65_535, ..Options::default() })
    }

    fn with(options: &Options) -> Session {
        let now = Instant::now();
        let mut core = Connection::new(options, now);
        core.output.take_all();
        Session { core, now, unread: Vec::new(), events: Vec::new(), answer: Some(b"pong".to_vec()), error: None }
    }

    fn open() -> Session {
        let mut session = Session::new();
        session.hear(&preface());
        session.said();
        session
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.unread);
        let mut input = &bytes[..];
        while self.error.is_none() {
            match self.core.next(self.now, &mut input) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let (key, ended) = match &event {
                        Event::Request { key, ended, .. } | Event::Data { key, ended, .. } => (*key, *ended),
                        Event::Trailers { key, .. } => (*key, true),
                    };
                    // Slots depend on when answers leave.
                    let told = match &event {
                        Event::Request { head, .. } => format!("{head:?}"),
                        Event::Data { bytes, .. } => format!("{bytes:?}"),
                        Event::Trailers { fields, .. } => format!("{fields:?}"),
                    };
                    self.events.push(format!("{} {told} {ended}", key.id));
                    if let Event::Data { bytes, .. } = event {
                        self.core.release_stream(key, bytes.len());
                    }
                    if let Some(answer) = self.answer.as_ref().filter(|_| ended) {
                        self.core.answer(key, None, Message::Borrowed(answer));
                    }
                }
                Err(error) => {
                    self.core.fail(error);
                    self.error = Some(error);
                }
            }
        }
        self.core.pump();
        self.unread = input.to_vec();
    }

    fn said(&mut self) -> String {
        let said = frames(&self.core.output.take_all());
        said.iter().map(|(head, payload)| told(*head, payload)).collect::<Vec<_>>().join("\n")
    }

    /// The reason for which the connection failed.
    fn failed(bytes: &[u8]) -> Option<Reason> {
        let mut session = Session::open();
        session.hear(bytes);
        session.error.map(|error| error.reason)
    }

    /// What is said to bytes on a connection that goes on.
    fn answered(bytes: &[u8]) -> String {
        let mut session = Session::open();
        session.hear(bytes);
        assert_eq!(session.error, None);
        session.said()
    }
}

#[test]
fn a_connection_begins_with_settings_and_a_second_answer_is_small() {
    let mut core = Connection::<Watched>::new(&Options::default(), Instant::now());
    let first = frames(&core.output.take_all());
    assert_eq!(told(first[0].0, &first[0].1), "SETTINGS 0 on 0: 0003ffffffff000400100000000600004000");
    assert_eq!(told(first[1].0, &first[1].1), "WINDOW_UPDATE 0 on 0: 003f0001");
    let mut session = Session::new();
    session.hear(&preface());
    assert_eq!(session.said(), "SETTINGS 1 on 0: ");
    session.hear(&request(1, b"ping"));
    assert_eq!(
        session.said(),
        "HEADERS 4 on 1: 885f106170706c69636174696f6e2f67727063\n\
         DATA 0 on 1: 0000000004706f6e67\n\
         HEADERS 5 on 1: 400b677270632d7374617475730130"
    );
    session.hear(&request(3, b"ping"));
    assert_eq!(session.said(), "HEADERS 4 on 3: 88bf\nDATA 0 on 3: 0000000004706f6e67\nHEADERS 5 on 3: be");
    assert_eq!(session.core.streams.len(), 0);
}

/// A session with a bit of everything.
fn session() -> Vec<u8> {
    let long = head_block(&[&[0x40, 1, b'a', 0x7f, 0x81, 0x01][..], &[b'v'; 256]].concat());
    let padded = [&[3][..], &head_block(&[]), &[0; 3]].concat();
    [
        preface(),
        request(1, b"one"),
        frame(frame::HEADERS, 0, 3, &long[..10]),
        frame(frame::CONTINUATION, 0, 3, &long[10..20]),
        frame(frame::CONTINUATION, END_HEADERS, 3, &long[20..]),
        frame(frame::PING, 0, 0, b"12345678"),
        frame(frame::DATA, PADDED, 3, &[2, b'x', b'y', 0, 0]),
        frame(frame::DATA, END_STREAM, 3, &[b'z'; 300]),
        frame(frame::HEADERS, END_HEADERS | PADDED | END_STREAM, 5, &padded),
        frame(frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0]),
        request(7, b"seven"),
        update(7, 1),
        update(7, 100),
        frame(frame::HEADERS, END_HEADERS, 9, &head_block(&[0xbe])),
        frame(frame::HEADERS, END_HEADERS | END_STREAM, 9, &[0, 1, b't', 1, b'v']),
        frame(99, 0xff, 77, b"unknown"),
        frame(frame::PRIORITY, 0, 11, &[0, 0, 0, 1, 1]),
        frame(frame::HEADERS, END_HEADERS, 13, &head_block(&[])),
        frame(frame::RST_STREAM, 0, 13, &[0, 0, 0, 8]),
        frame(frame::DATA, END_STREAM, 13, b"late"),
        frame(frame::SETTINGS, ACK, 0, &[]),
        update(0, 1000),
        update(9, 1000),
        frame(frame::GOAWAY, 0, 0, &[0; 8]),
    ]
    .concat()
}

fn outcome(parts: &[&[u8]]) -> (Vec<String>, Vec<u8>, Option<ConnectionError>) {
    let mut session = Session::new();
    for part in parts {
        session.hear(part);
    }
    (session.events, session.core.output.take_all(), session.error)
}

#[test]
fn a_session_is_the_same_wherever_its_bytes_are_split() {
    let all = session();
    let whole = outcome(&[&all]);
    assert_eq!(whole.2, None);
    assert_eq!(whole.0.len(), 11, "{:#?}", whole.0);
    for cut in 0..all.len() {
        let split = outcome(&[&all[..cut], &all[cut..]]);
        assert_eq!((&split.0, &split.2), (&whole.0, &whole.2), "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = all.chunks(1).collect();
    assert_eq!(outcome(&bytes).0, whole.0);
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    let protocol = Some(Reason::PROTOCOL_ERROR);
    let size = Some(Reason::FRAME_SIZE_ERROR);
    assert_eq!(Session::failed(&frame(frame::DATA, 0, 0, b"x")), protocol);
    assert_eq!(Session::failed(&frame(frame::DATA, 0, 1, b"x")), protocol);
    assert_eq!(Session::failed(&frame(frame::HEADERS, END_HEADERS, 0, &head_block(&[]))), protocol);
    assert_eq!(Session::failed(&frame(frame::HEADERS, END_HEADERS, 2, &head_block(&[]))), protocol);
    assert_eq!(Session::failed(&frame(frame::HEADERS, END_HEADERS | PADDED, 1, &[9, 1])), protocol);
    assert_eq!(Session::failed(&frame(frame::CONTINUATION, 0, 1, &[])), protocol);
    assert_eq!(Session::failed(&frame(frame::PUSH_PROMISE, 0, 1, &[0; 4])), protocol);
    assert_eq!(Session::failed(&frame(frame::SETTINGS, 0, 1, &[])), protocol);
    assert_eq!(Session::failed(&frame(frame::PING, 0, 1, &[0; 8])), protocol);
    assert_eq!(Session::failed(&frame(frame::RST_STREAM, 0, 1, &[0; 4])), protocol);
    assert_eq!(Session::failed(&frame(frame::GOAWAY, 0, 1, &[0; 8])), protocol);
    assert_eq!(Session::failed(&frame(frame::PRIORITY, 0, 0, &[0; 5])), protocol);
    assert_eq!(Session::failed(&update(0, 0)), protocol);
    assert_eq!(Session::failed(&update(5, 1)), protocol);
    let interrupted = [frame(frame::HEADERS, 0, 1, &[0x83]), frame(frame::PING, 0, 0, &[0; 8])].concat();
    assert_eq!(Session::failed(&interrupted), protocol);
    let foreign = [frame(frame::HEADERS, 0, 1, &[0x83]), frame(frame::CONTINUATION, END_HEADERS, 3, &[0x86])].concat();
    assert_eq!(Session::failed(&foreign), protocol);
    assert_eq!(Session::failed(&frame(frame::PING, 0, 0, &[0; 7])), size);
    assert_eq!(Session::failed(&frame(frame::GOAWAY, 0, 0, &[0; 7])), size);
    assert_eq!(Session::failed(&frame(frame::SETTINGS, ACK, 0, &[0; 6])), size);
    assert_eq!(Session::failed(&frame(frame::SETTINGS, 0, 0, &[0; 5])), size);
    assert_eq!(Session::failed(&frame(frame::WINDOW_UPDATE, 0, 0, &[0; 3])), size);
    assert_eq!(Session::failed(&frame(frame::RST_STREAM, 0, 1, &[0; 3])), size);
    assert_eq!(Session::failed(&[0, 0x40, 1, 0, 0, 0, 0, 0, 1]), size);
    assert_eq!(Session::failed(&update(0, 0x7fff_ffff)), Some(Reason::FLOW_CONTROL_ERROR));
    assert_eq!(Session::failed(&frame(frame::HEADERS, END_HEADERS, 1, &[0xff])), Some(Reason::COMPRESSION_ERROR));
    for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[PREFACE, &frame(frame::PING, 0, 0, &[0; 8])].concat()] {
        let mut session = Session::new();
        session.hear(first);
        assert_eq!(session.error.map(|error| error.reason), protocol);
    }
}

#[test]
fn what_breaks_a_stream_resets_it_and_nothing_else() {
    let head = |more: &[u8], flags| frame(frame::HEADERS, END_HEADERS | flags, 1, &head_block(more));
    let reset = |reason: Reason| format!("RST_STREAM 0 on 1: {:08x}", reason.0);
    assert_eq!(Session::answered(&head(&[0, 1, b'X', 0], 0)), reset(Reason::PROTOCOL_ERROR));
    assert_eq!(Session::answered(&frame(frame::HEADERS, END_HEADERS, 1, &[0x83])), reset(Reason::PROTOCOL_ERROR));
    let length = [0x0f, 13, 1, b'5'];
    assert_eq!(Session::answered(&head(&length, END_STREAM)), reset(Reason::PROTOCOL_ERROR));
    for body in [&b"1234"[..], b"123456"] {
        let request = [head(&length, 0), frame(frame::DATA, END_STREAM, 1, body)].concat();
        assert_eq!(Session::answered(&request), reset(Reason::PROTOCOL_ERROR));
    }
    let open = head(&[], 0);
    let trailers = frame(frame::HEADERS, END_HEADERS, 1, &[]);
    assert_eq!(Session::answered(&[&open[..], &trailers].concat()), reset(Reason::PROTOCOL_ERROR));
    assert_eq!(Session::answered(&[&open[..], &update(1, 0)].concat()), reset(Reason::PROTOCOL_ERROR));
    assert_eq!(Session::answered(&[&open[..], &update(1, 0x7fff_ffff)].concat()), reset(Reason::FLOW_CONTROL_ERROR));
    let priority = frame(frame::PRIORITY, 0, 1, &[0; 4]);
    assert_eq!(Session::answered(&[&open[..], &priority].concat()), reset(Reason::FRAME_SIZE_ERROR));
    let mut session = Session::open();
    session.answer = None;
    session.hear(&[request(1, b""), frame(frame::DATA, 0, 1, b"more")].concat());
    assert_eq!(session.said(), reset(Reason::STREAM_CLOSED));
}

#[test]
fn a_header_list_too_large_is_answered_and_the_table_keeps_step() {
    let mut session = Session::with(&Options { header_list_bytes_max: 200, ..Options::default() });
    session.hear(&preface());
    session.said();
    let long = [&[0x40, 1, b'a', 100][..], &[b'v'; 100]].concat();
    session.hear(&frame(frame::HEADERS, END_HEADERS | END_STREAM, 1, &head_block(&long)));
    assert_eq!(session.said(), "HEADERS 5 on 1: 0803343331");
    session.hear(&frame(frame::HEADERS, END_HEADERS | END_STREAM, 3, &head_block(&[0x40, 1, b'b', 1, b'c'])));
    session.hear(&frame(frame::HEADERS, END_HEADERS | END_STREAM, 5, &head_block(&[0xbe])));
    assert_eq!(session.events.len(), 2);
}

#[test]
fn floods_end_the_connection_and_work_does_not() {
    let calm = Some(Reason::ENHANCE_YOUR_CALM);
    let cancelled = |id: u32| {
        [frame(frame::HEADERS, END_HEADERS, id, &head_block(&[])), frame(frame::RST_STREAM, 0, id, &[0, 0, 0, 8])]
            .concat()
    };
    let rapid: Vec<u8> = (0..11_000).flat_map(|number| cancelled(2 * number + 1)).collect();
    assert_eq!(Session::failed(&rapid), calm);
    assert_eq!(Session::failed(&frame(frame::PING, 0, 0, &[0; 8]).repeat(11_000)), calm);
    assert_eq!(Session::failed(&frame(frame::SETTINGS, 0, 0, &[]).repeat(11_000)), calm);
    let open = frame(frame::HEADERS, END_HEADERS, 1, &head_block(&[]));
    assert_eq!(Session::failed(&[open, frame(frame::DATA, 0, 1, &[]).repeat(11_000)].concat()), calm);
    let endless = [frame(frame::HEADERS, 0, 1, &[]), frame(frame::CONTINUATION, 0, 1, &[]).repeat(100)].concat();
    assert_eq!(Session::failed(&endless), calm);
    let large = [frame(frame::HEADERS, 0, 1, &[]), frame(frame::CONTINUATION, 0, 1, &[0; 16_000]).repeat(4)].concat();
    assert_eq!(Session::failed(&large), calm);
    // A client that pings with each call, and cancels some.
    let mut session = Session::open();
    for number in 0..20_000 {
        let id = 4 * number + 1;
        session.hear(&[request(id, b""), frame(frame::PING, 0, 0, &[0; 8]), cancelled(id + 2), update(0, 64)].concat());
        session.core.output.take_all();
    }
    // One that pings with each piece of an answer without end.
    let ping = [frame(frame::PING, 0, 0, &[0; 8]), update(0, 64), update(200_001, 64)].concat();
    session.answer = None;
    session.hear(&frame(frame::HEADERS, END_HEADERS, 200_001, &head_block(&[])));
    let key = session.core.streams.find(200_001).expect("a stream");
    session.core.send_head(key, 200, &HeaderMap::new(), false);
    for _ in 0..50_000 {
        session.core.push(key, Bytes::from_static(b"piece"));
        session.hear(&ping);
        session.core.output.take_all();
    }
    session.core.reset(key, Reason::CANCEL);
    // One that ends many calls that it had for long.
    session.answer = None;
    let ids = (0..20_000).map(|number| 4 * number + 200_003);
    ids.clone().for_each(|id| session.hear(&request(id, b"")));
    session.now += Duration::from_secs(1);
    ids.for_each(|id| session.hear(&frame(frame::RST_STREAM, 0, id, &[0, 0, 0, 8])));
    assert_eq!((session.error, session.core.streams.len()), (None, 0));
}

#[test]
fn streams_beyond_the_bound_are_refused() {
    let mut session = Session::with(&Options { concurrent_streams_max: 2, ..Options::default() });
    session.answer = None;
    session.hear(&[preface(), request(1, b""), request(3, b""), request(5, b"")].concat());
    assert!(session.said().ends_with("RST_STREAM 0 on 5: 00000007"));
    assert_eq!(session.core.streams.len(), 2);
}

#[test]
fn the_end_is_announced_then_final_then_reached() {
    let mut session = Session::open();
    session.answer = None;
    session.hear(&request(1, b""));
    session.core.leave();
    assert_eq!(session.said(), "GOAWAY 0 on 0: 7fffffff00000000\nPING 0 on 0: 74656e7572652d73");
    session.hear(&request(3, b""));
    session.hear(&frame(frame::PING, ACK, 0, b"tenure-s"));
    assert_eq!(session.said(), "GOAWAY 0 on 0: 0000000300000000");
    session.hear(&request(5, b""));
    assert_eq!((session.said().as_str(), session.core.streams.len()), ("", 2));
    for id in [1, 3] {
        assert!(!session.core.is_drained());
        let key = session.core.streams.find(id).expect("a stream");
        session.core.answer_status(key, 0, "", None);
    }
    assert!(session.core.is_drained());
    assert_eq!(session.error, None);
}

#[test]
fn the_last_stream_that_is_told_is_one_that_was_served() {
    let mut session = Session::with(&Options { concurrent_streams_max: 1, ..Options::default() });
    session.answer = None;
    session.hear(&[preface(), request(1, b""), request(3, b"")].concat());
    session.said();
    session.core.leave();
    session.hear(&frame(frame::PING, ACK, 0, b"tenure-s"));
    assert!(session.said().ends_with("GOAWAY 0 on 0: 0000000100000000"));
    session.hear(&[request(5, b""), frame(frame::PING, 0, 1, &[0; 8])].concat());
    assert!(session.said().starts_with("GOAWAY 0 on 0: 0000000100000001"));
}

#[test]
fn a_stream_may_use_the_window_that_its_client_assumes() {
    let mut session = Session::with(&Options { stream_window_bytes: 1000, ..Options::default() });
    session.answer = None;
    session.hear(&[preface(), frame(frame::HEADERS, END_HEADERS, 1, &head_block(&[]))].concat());
    // Sent before the client could know of our settings.
    session.hear(&frame(frame::DATA, 0, 1, &[0; 16_000]).repeat(4));
    assert_eq!((session.error, session.core.streams.len()), (None, 1));
}

#[test]
fn what_we_receive_renews_the_windows_by_halves() {
    let mut session = Session::with(&Options { stream_window_bytes: 80_000, ..Options::default() });
    session.hear(&[preface(), frame(frame::HEADERS, END_HEADERS, 1, &head_block(&[]))].concat());
    session.said();
    session.hear(&frame(frame::DATA, 0, 1, &[0; 13_000]).repeat(3));
    assert_eq!(session.said(), "");
    session.hear(&frame(frame::DATA, 0, 1, &[0; 1000]));
    assert_eq!(session.said(), "WINDOW_UPDATE 0 on 1: 00009c40");
    // Nobody takes what is sent now.
    session.hear(&frame(frame::HEADERS, END_HEADERS, 3, &head_block(&[])));
    let key = session.core.streams.find(3).expect("a stream");
    let mut input = &frame(frame::DATA, 0, 3, &[0; 16_001]).repeat(5)[..];
    for _ in 0..4 {
        assert!(matches!(session.core.next(session.now, &mut input), Ok(Some(Event::Data { .. }))));
    }
    assert!(matches!(session.core.next(session.now, &mut input), Ok(None)));
    assert!(session.core.streams.get(key).is_none());
    assert_eq!(session.said(), "RST_STREAM 0 on 3: 00000003");
}

/// A client that believes nothing: it keeps the windows itself, and what it was sent.
struct Client {
    connection: i64,
    initial: i64,
    streams: HashMap<u32, (i64, Vec<u8>, bool)>,
    decoder: Decoder,
}

impl Client {
    fn take(&mut self, output: &[u8]) {
        for (head, payload) in frames(output) {
            let ended = head.has(END_STREAM);
            match head.kind {
                frame::DATA => {
                    let stream = self.streams.get_mut(&head.stream).expect("a stream of ours");
                    assert!(!stream.2, "nothing follows the end");
                    let count = i64::try_from(payload.len()).expect("short");
                    assert!(count <= 16_384);
                    self.connection -= count;
                    stream.0 -= count;
                    assert!(count == 0 || (self.connection >= 0 && stream.0 >= 0), "a window is exceeded");
                    stream.1.extend_from_slice(&payload);
                    stream.2 = ended;
                }
                frame::HEADERS => {
                    self.decoder.decode(&payload, usize::MAX, |_, _| ()).expect("a block");
                    let stream = self.streams.get_mut(&head.stream).expect("a stream of ours");
                    assert!(!stream.2, "nothing follows the end");
                    stream.2 = ended;
                }
                _ => {}
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Unary(usize),
    Stream(Vec<usize>),
    Grant(usize, u32),
    GrantAll(u32),
    Initial(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..40_000_usize).prop_map(Step::Unary),
        prop::collection::vec(0..20_000_usize, 0..4).prop_map(Step::Stream),
        (any::<prop::sample::Index>(), 1..30_000_u32).prop_map(|(at, by)| Step::Grant(at.index(1 << 16), by)),
        (1..30_000_u32).prop_map(Step::GrantAll),
        (0..100_000_u32).prop_map(Step::Initial),
    ];
    prop::collection::vec(step, 1..40)
}

/// Gives an answer to the stream that was begun last.
fn answer(session: &mut Session, id: u32, step: &Step) -> Vec<u8> {
    let key = session.core.streams.find(id).expect("a stream");
    let mut sent = Vec::new();
    match step {
        Step::Unary(length) => {
            let message = vec![7; *length];
            sent.extend_from_slice(
                &[&[0], &u32::try_from(*length).expect("short").to_be_bytes()[..], &message].concat(),
            );
            // However it is cut.
            let pieces = message.chunks(5_000).map(Bytes::copy_from_slice).collect();
            session.core.answer(key, None, Message::Shared(Pieces::new(pieces)));
        }
        Step::Stream(pieces) => {
            session.core.send_head(key, 200, &HeaderMap::new(), false);
            for length in pieces {
                sent.extend(vec![9; *length]);
                session.core.push(key, Bytes::from(vec![9; *length]));
            }
            session.core.end(key, End::Plain);
        }
        Step::Grant(..) | Step::GrantAll(_) | Step::Initial(_) => unreachable!("no answer"),
    }
    sent
}

fn follow(steps: Vec<Step>) {
    let mut session = Session::open();
    session.answer = None;
    let mut client = Client { connection: 65_535, initial: 65_535, streams: HashMap::new(), decoder: Decoder::new() };
    let mut sent: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut next = 1;
    let last = [Step::Initial(1_000_000), Step::GrantAll(100_000_000)];
    for step in steps.into_iter().chain(last) {
        match &step {
            Step::Unary(_) | Step::Stream(_) => {
                client.streams.insert(next, (client.initial, Vec::new(), false));
                session.hear(&request(next, b""));
                sent.insert(next, answer(&mut session, next, &step));
                next += 2;
            }
            Step::Grant(number, by) => {
                let id = 2 * u32::try_from(*number).expect("small") + 1;
                if let Some(stream) = client.streams.get_mut(&id) {
                    stream.0 += i64::from(*by);
                    session.hear(&update(id, *by));
                }
            }
            Step::GrantAll(by) => {
                client.connection += i64::from(*by);
                session.hear(&update(0, *by));
            }
            Step::Initial(initial) => {
                let change = i64::from(*initial) - client.initial;
                client.initial += change;
                client.streams.values_mut().for_each(|stream| stream.0 += change);
                let setting = [&[0, 4][..], &initial.to_be_bytes()].concat();
                session.hear(&frame(frame::SETTINGS, 0, 0, &setting));
            }
        }
        assert_eq!(session.error, None);
        session.core.pump();
        loop {
            let output = session.core.output.take_all();
            if output.is_empty() {
                break;
            }
            client.take(&output);
            session.core.pump();
        }
        for (id, (window, received, ended)) in &client.streams {
            let is_whole = received.len() == sent[id].len();
            assert!(!is_whole || *ended, "an end waits for no window");
            assert!(is_whole || client.connection == 0 || *window <= 0, "stream {id} stalls");
        }
    }
    for (id, (_, received, ended)) in &client.streams {
        assert!(*ended && *received == sent[id]);
    }
    assert_eq!((session.core.streams.len(), session.core.unsent_bytes), (0, 0));
}

/// Frames that are mostly sensible.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(head_block(&[])),
        Just(vec![0, 0, 0, 8]),
        Just(vec![0; 8]),
        Just(vec![0, 4, 0, 0, 0, 9]),
    ];
    (0..11_u8, prop_oneof![Just(END_HEADERS), Just(END_HEADERS | END_STREAM), any::<u8>()], 0..12_u32, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn windows_are_never_exceeded_and_nothing_stalls_that_they_allow(steps in steps()) {
        follow(steps);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        outcome(&[&bytes]);
        outcome(&[&preface(), &bytes]);
    }

    #[test]
    fn no_frames_panic_and_splits_change_nothing(
        frames in prop::collection::vec(any_frame(), 0..30),
        cut in any::<prop::sample::Index>(),
    ) {
        let all = [preface(), frames.concat()].concat();
        let cut = cut.index(all.len());
        let (whole, split) = (outcome(&[&all]), outcome(&[&all[..cut], &all[cut..]]));
        prop_assert_eq!((whole.0, whole.2), (split.0, split.2));
    }

    #[test]
    fn no_damage_to_a_session_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut all = session();
        for (at, byte) in damage {
            let at = at.index(all.len());
            all[at] = byte;
        }
        outcome(&[&all]);
    }

    #[test]
    fn no_block_panics_and_what_was_kept_is_what_would_be_read(
        blocks in prop::collection::vec(prop::collection::vec(prop_oneof![Just(0x83), Just(0x86), Just(0x84), any::<u8>()], 0..12), 1..8),
    ) {
        let mut heads = Heads::new(1000);
        for block in blocks.iter().chain(&blocks) {
            let Ok(first) = heads.read(block) else { return Ok(()) };
            let told = |head: &Result<Arc<Head>, Unusable>| head.as_ref().ok().map(|head| {
                (head.path().to_owned(), head.headers())
            });
            let told_first = told(&first);
            let Ok(second) = heads.read(block) else { return Ok(()) };
            // A block that adds to the table may mean something else the second time.
            if first.is_ok() && block.iter().all(|byte| [0x83, 0x84, 0x86].contains(byte)) {
                prop_assert_eq!(told_first, told(&second));
            }
        }
    }
}
