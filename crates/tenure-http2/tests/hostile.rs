//! Clients that want the server's memory or time, and clients that only look like them, over a pipe in memory and on a clock
//! that stands still.

mod common;

use std::future::{Future as _, poll_fn};
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use common::Server;
use common::raw::{PREFACE, frame, frames, request};
use tenure_http2::{Options, Reason, serve_connection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

const DATA: u8 = 0;
const RST_STREAM: u8 = 3;

/// Windows as large as there are.
fn open_windows() -> Vec<u8> {
    let setting = frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    [&PREFACE[..24], &setting, &frame(8, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes())].concat()
}

fn calls(count: u32, path: &str) -> Vec<u8> {
    (0..count).flat_map(|number| request(2 * number + 1, path)).collect()
}

/// A client that asks for a hundred mebibytes and reads nothing until all of them could have been made.
#[tokio::test(start_paused = true)]
async fn answers_that_nobody_takes_are_given_up_when_they_are_too_many() {
    for path in ["/unary/large", "/unary/large-now"] {
        for start in [open_windows(), PREFACE.to_vec()] {
            let (mut client, server) = tokio::io::duplex(100_000);
            let options = Options { unsent_bytes_max: 8 << 20, ..Options::default() };
            tokio::spawn(serve_connection(server, &options, Server::unary(), std::future::pending()));
            client.write_all(&[start, calls(100, path)].concat()).await.expect("sent");
            sleep(Duration::from_secs(1)).await;
            client.write_all(&frame(8, 0, 0, &(1_u32 << 30).to_be_bytes())).await.expect("sent");
            let said = frames(&mut client).await;
            let given_up = |(kind, _, payload): &&(u8, u32, Vec<u8>)| {
                *kind == RST_STREAM && payload[..] == Reason::ENHANCE_YOUR_CALM.0.to_be_bytes()
            };
            let count = said.iter().filter(given_up).count();
            assert!((85..95).contains(&count), "{count} answers of {path} were given up");
            let bytes: usize = said.iter().filter(|(kind, ..)| *kind == DATA).map(|(.., payload)| payload.len()).sum();
            assert!(bytes < 12 << 20, "{bytes}");
        }
    }
}

/// However much a client asks for, one answer may be as large as it is.
#[tokio::test(start_paused = true)]
async fn an_answer_larger_than_all_that_may_wait_is_sent_in_pieces() {
    let (mut client, server) = tokio::io::duplex(100_000);
    let options = Options { unsent_bytes_max: 100_000, ..Options::default() };
    tokio::spawn(serve_connection(server, &options, Server::unary(), std::future::pending()));
    client.write_all(&[PREFACE, &request(1, "/unary/large")].concat()).await.expect("sent");
    let (mut received, mut pieces) = (0, 0);
    while received < 5 + (1 << 20) {
        let said = frames(&mut client).await;
        let bytes: usize = said.iter().filter(|(kind, ..)| *kind == DATA).map(|(.., payload)| payload.len()).sum();
        assert!((1..=65_535).contains(&bytes), "{bytes} at once, of {received}");
        let granted = u32::try_from(bytes).expect("small").to_be_bytes();
        client.write_all(&[frame(8, 0, 0, &granted), frame(8, 0, 1, &granted)].concat()).await.expect("sent");
        (received, pieces) = (received + bytes, pieces + 1);
    }
    assert!(pieces > 15, "{pieces}");
}

/// Lets the tasks run that can, once each.
async fn turn() {
    let mut is_over = false;
    let wait = |cx: &mut std::task::Context<'_>| {
        cx.waker().wake_by_ref();
        if std::mem::replace(&mut is_over, true) { Poll::Ready(()) } else { Poll::Pending }
    };
    poll_fn(wait).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_much_to_do_lets_others_have_their_turn() {
    let (mut client, server) = tokio::io::duplex(4 << 20);
    let service = Server::unary();
    client.write_all(&[PREFACE, &calls(20_000, "/unary/fail")].concat()).await.expect("sent");
    tokio::spawn(serve_connection(server, &Options::default(), service.clone(), std::future::pending()));
    let other = tokio::spawn(async move {
        let mut before = 0;
        for _ in 0..100_000 {
            let called = service.called.load(Ordering::SeqCst);
            assert!(called - before <= 1000, "{} calls in one turn", called - before);
            before = called;
            if before == 20_000 {
                return;
            }
            turn().await;
        }
        panic!("{before} calls in so many turns");
    });
    other.await.expect("its turns");
    assert_eq!(frames(&mut client).await.iter().filter(|(kind, ..)| *kind == 1).count(), 20_000);
}

/// It may be woken for nothing, and is not done then.
#[tokio::test(start_paused = true)]
async fn a_wish_to_shut_down_is_heard_though_it_woke_before() {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let waits = [10, 20, 30].map(|secs| Box::pin(sleep(Duration::from_secs(secs))));
    let mut waits = waits.into_iter().collect::<Vec<_>>();
    let stopping = poll_fn(move |cx| {
        waits.retain_mut(|wait| wait.as_mut().poll(cx).is_pending());
        if waits.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::spawn(serve_connection(server, &Options::default(), Server::unary(), stopping));
    client.write_all(PREFACE).await.expect("sent");
    frames(&mut client).await;
    sleep(Duration::from_secs(29)).await;
    assert_eq!(frames(&mut client).await, []);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(frames(&mut client).await.first().map(|(kind, ..)| *kind), Some(7));
}

/// What it answers to pings is behind what it has not read.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_not_taken_for_dead() {
    let (mut client, server) = tokio::io::duplex(10_000);
    let options = Options {
        keepalive_interval: Some(Duration::from_secs(30)),
        keepalive_timeout: Duration::from_secs(5),
        ..Options::default()
    };
    let serving = tokio::spawn(serve_connection(server, &options, Server::unary(), std::future::pending()));
    client.write_all(&[open_windows(), calls(1, "/unary/large")].concat()).await.expect("sent");
    let mut piece = vec![0; 10_000];
    for _ in 0..50 {
        sleep(Duration::from_secs(4)).await;
        assert!(!serving.is_finished());
        client.read_exact(&mut piece).await.expect("a piece");
    }
    // One that does not read at all is.
    let ended = tokio::time::timeout(Duration::from_secs(40), serving).await.expect("an end").expect("no panic");
    assert!(ended.is_err());
}
