//! Many streams at once on one connection, as watches are: what is written to all of them leaves together, and none of them
//! keeps the others waiting.

mod common;

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::Server;
use common::raw::{Counted, PREFACE, frame, frames, head};
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tenure_http2::{Options, serve_connection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

const STREAMS: u32 = 1000;
/// The first streams are never out of something to say.
const ENDLESS: u32 = 20;
const MESSAGE_BYTES: usize = 100;

type Senders = Arc<Mutex<Vec<mpsc::Sender<Bytes>>>>;

/// `/endless` says as much as it may; any other path what is sent to it.
fn server(senders: &Senders) -> Server {
    let senders = senders.clone();
    Server::new(move |request| {
        let body = if request.uri().path() == "/endless" {
            stream::repeat(Bytes::from_static(&[7; 10_000]))
                .map(|piece| Ok::<_, Status>(Frame::data(piece)))
                .boxed_body()
        } else {
            let (sender, receiver) = mpsc::channel(4);
            senders.lock().expect("no panic").push(sender);
            ReceiverStream::new(receiver).map(|piece| Ok::<_, Status>(Frame::data(piece))).boxed_body()
        };
        Box::pin(async { Ok(http::Response::new(body)) })
    })
}

trait BoxedBody {
    fn boxed_body(self) -> common::Body;
}

impl<S> BoxedBody for S
where
    S: futures::Stream<Item = Result<Frame<Bytes>, Status>> + Send + 'static,
{
    fn boxed_body(self) -> common::Body {
        StreamBody::new(self).boxed_unsync()
    }
}

fn ids() -> impl Iterator<Item = u32> {
    (0..STREAMS).map(|number| 2 * number + 1)
}

fn say_something(senders: &Senders) {
    for sender in senders.lock().expect("no panic").iter() {
        sender.try_send(Bytes::from_static(&[1; MESSAGE_BYTES])).expect("room");
    }
}

/// The largest windows.
fn start() -> Vec<u8> {
    let setting = frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    [&PREFACE[..24], &setting, &frame(8, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes())].concat()
}

#[tokio::test(start_paused = true)]
async fn what_is_said_on_a_thousand_streams_at_once_leaves_at_once() {
    let senders = Senders::default();
    let (mut client, io) = tokio::io::duplex(4 << 20);
    let (writes, polls) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let io = Counted(io, writes.clone());
    let (service, polled) = (server(&senders), polls.clone());
    tokio::spawn(async move {
        let mut serving = pin!(serve_connection(io, &Options::default(), service, std::future::pending()));
        poll_fn(|cx| {
            polled.fetch_add(1, Ordering::SeqCst);
            serving.as_mut().poll(cx)
        })
        .await
    });
    client.write_all(&[start(), ids().flat_map(|id| head(id, "/some")).collect()].concat()).await.expect("sent");
    frames(&mut client).await;
    for _ in 0..3 {
        let before = (writes.load(Ordering::SeqCst), polls.load(Ordering::SeqCst));
        say_something(&senders);
        let said = frames(&mut client).await;
        assert_eq!(said.iter().filter(|(kind, ..)| *kind == 0).count(), STREAMS as usize);
        assert_eq!((writes.load(Ordering::SeqCst), polls.load(Ordering::SeqCst)), (before.0 + 1, before.1 + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_say_much_leave_the_others_their_turns() {
    let senders = Senders::default();
    let (mut client, io) = tokio::io::duplex(100_000);
    tokio::spawn(serve_connection(io, &Options::default(), server(&senders), std::future::pending()));
    let path = |id| if id < 2 * ENDLESS { "/endless" } else { "/some" };
    client.write_all(&start()).await.expect("sent");
    let mut told: HashMap<u32, usize> = HashMap::new();
    let (mut unread, mut has_spoken) = (Vec::new(), false);
    let sent: Vec<u8> = ids().flat_map(|id| head(id, path(id))).collect();
    client.write_all(&sent).await.expect("sent");
    while told.len() < STREAMS as usize {
        client.read_buf(&mut unread).await.expect("read");
        if !has_spoken && senders.lock().expect("no panic").len() == (STREAMS - ENDLESS) as usize {
            say_something(&senders);
            has_spoken = true;
            told.clear();
        }
        let mut at = 0;
        while let Some((head, after)) = unread[at..].split_first_chunk::<9>() {
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            if after.len() < length {
                break;
            }
            if head[3] == 0 {
                *told.entry(u32::from_be_bytes([head[5], head[6], head[7], head[8]])).or_default() += length;
            }
            at += 9 + length;
        }
        unread.drain(..at);
    }
    let endless: Vec<usize> = ids().take(ENDLESS as usize).map(|id| told[&id]).collect();
    let (least, most) = (endless.iter().min().expect("some"), endless.iter().max().expect("some"));
    // What was on its way already, and a turn or two of each.
    assert!(endless.iter().sum::<usize>() < 2 << 20, "{endless:?}");
    assert!(most - least <= 100_000, "{endless:?}");
    assert!(ids().skip(ENDLESS as usize).all(|id| told[&id] == MESSAGE_BYTES));
}
