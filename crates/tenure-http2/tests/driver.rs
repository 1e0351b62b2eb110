//! What drives a connection: how often it writes and wakes, when it gives up on a client, and how little it keeps.
//!
//! Over a pipe in memory, on a clock that stands still but for what is waited for.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::Server;
use common::raw::{Counted, PREFACE, frame, frames, request};
use proptest::prelude::*;
use tenure_http2::{Options, Reason, ServeError, serve_connection};
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};

fn hundred(path: &str) -> Vec<u8> {
    (0..100).flat_map(|number| request(2 * number + 1, path)).collect()
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_ready_together_leave_in_one_write() {
    for path in ["/unary/echo", "/unary/later", "/unary/future"] {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let writes = Arc::new(AtomicUsize::new(0));
        let io = Counted(server, writes.clone());
        tokio::spawn(serve_connection(io, &Options::default(), Server::unary(), std::future::pending()));
        client.write_all(PREFACE).await.expect("sent");
        frames(&mut client).await;
        let before = writes.load(Ordering::SeqCst);
        client.write_all(&hundred(path)).await.expect("sent");
        let answers = frames(&mut client).await.into_iter().filter(|(kind, _, _)| *kind == 0).count();
        assert_eq!(answers, 100);
        // A hundred tasks are more than the runtime runs before it looks at its sockets.
        let writes = writes.load(Ordering::SeqCst) - before;
        assert!(writes == 1 || (writes == 2 && path != "/unary/echo"), "{writes} for {path}");
    }
}

async fn ends(sent: &[u8], options: Options) -> (Result<(), ServeError>, Duration, Vec<(u8, u32, Vec<u8>)>) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let begun = Instant::now();
    let serving = tokio::spawn(async move {
        let ended = serve_connection(server, &options, Server::unary(), std::future::pending()).await;
        (ended, begun.elapsed())
    });
    client.write_all(sent).await.expect("sent");
    let (ended, passed) = serving.await.expect("no panic");
    (ended, passed, frames(&mut client).await)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_given_up() {
    for sent in [&b""[..], &PREFACE[..10], &PREFACE[..24], &PREFACE[..30]] {
        let (ended, passed, _) = ends(sent, Options::default()).await;
        assert!(matches!(ended, Err(ServeError::HandshakeTimeout)), "{ended:?}");
        assert_eq!(passed.as_secs(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_given_up_and_one_that_does_is_not() {
    let options = Options {
        keepalive_interval: Some(Duration::from_secs(30)),
        keepalive_timeout: Duration::from_secs(5),
        ..Options::default()
    };
    let (ended, passed, said) = ends(PREFACE, options.clone()).await;
    assert!(matches!(ended, Err(ServeError::KeepaliveTimeout)), "{ended:?}");
    assert_eq!(passed.as_secs(), 35);
    assert_eq!(said.last(), Some(&(6, 0, b"tenure-k".to_vec())));
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let serving = tokio::spawn(serve_connection(server, &options, Server::unary(), std::future::pending()));
    client.write_all(PREFACE).await.expect("sent");
    for _ in 0..5 {
        frames(&mut client).await;
        sleep(Duration::from_secs(31)).await;
        assert!(frames(&mut client).await.contains(&(6, 0, b"tenure-k".to_vec())));
        client.write_all(&frame(6, 1, 0, b"tenure-k")).await.expect("sent");
    }
    drop(client);
    assert!(serving.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_the_protocol_is_told_why() {
    let flood = [PREFACE, &frame(6, 0, 0, &[0; 8]).repeat(11_000)].concat();
    for (sent, wanted) in
        [(&b"GET / HTTP/1.1\r\n\r\n"[..], Reason::PROTOCOL_ERROR), (&flood, Reason::ENHANCE_YOUR_CALM)]
    {
        let (ended, passed, said) = ends(sent, Options::default()).await;
        assert!(matches!(ended, Err(ServeError::Peer(error)) if error.reason == wanted), "{ended:?}");
        // It lingers, so that the client reads why.
        assert!(passed < Duration::from_secs(1));
        let (kind, _, payload) = said.last().expect("a frame");
        assert_eq!((*kind, &payload[4..8]), (7, &wanted.0.to_be_bytes()[..]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_not_read_from() {
    let (mut client, server) = tokio::io::duplex(1000);
    let ping = frame(6, 0, 0, &[0; 8]);
    tokio::spawn(serve_connection(server, &Options::default(), Server::unary(), std::future::pending()));
    client.write_all(PREFACE).await.expect("sent");
    let mut sent = 0;
    let flooding = async {
        loop {
            client.write_all(&ping).await.expect("sent");
            client.write_all(&request(2 * sent + 1, "/unary/echo")).await.expect("sent");
            sent += 1;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(5), flooding).await.is_err());
    // What its answers may take until it reads, and hardly more.
    assert!(sent < 8000, "{sent}");
}

#[tokio::test(start_paused = true)]
async fn a_drained_connection_ends_though_the_client_stays() {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopping = async move {
        drop(stopped.await);
    };
    let serving = tokio::spawn(serve_connection(server, &Options::default(), Server::unary(), stopping));
    client.write_all(PREFACE).await.expect("sent");
    frames(&mut client).await;
    drop(stop);
    let said = frames(&mut client).await;
    assert_eq!(said.iter().map(|(kind, _, _)| *kind).collect::<Vec<_>>(), [7, 6]);
    client.write_all(&request(1, "/unary/echo")).await.expect("sent");
    client.write_all(&frame(6, 1, 0, &said[1].2)).await.expect("sent");
    let said = frames(&mut client).await;
    assert_eq!(said.iter().map(|(kind, _, _)| *kind).collect::<Vec<_>>(), [7, 1, 0, 1]);
    assert_eq!(said[0].2, [0, 0, 0, 1, 0, 0, 0, 0]);
    assert!(serving.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_begins_calls_only_to_reset_them_is_cut_off() {
    let (client, server) = tokio::io::duplex(1 << 20);
    let serving = tokio::spawn(serve_connection(server, &Options::default(), Server::unary(), std::future::pending()));
    let (sender, connection) =
        h2::client::Builder::new().handshake::<_, bytes::Bytes>(client).await.expect("a handshake");
    tokio::spawn(connection);
    let mut count = 0;
    while let Ok(mut sender) = sender.clone().ready().await {
        let request = common::request("/unary/stuck").body(()).expect("a request");
        let Ok((response, mut stream)) = sender.send_request(request, false) else { break };
        tokio::task::yield_now().await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
        count += 1;
        assert!(count < 40_000, "it is let do that");
    }
    let ended = serving.await.expect("no panic").expect_err("a failure");
    assert!(matches!(ended, ServeError::Peer(error) if error.reason == Reason::ENHANCE_YOUR_CALM), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_neither_reads_nor_closes_does_not_hold_up_the_end() {
    let (mut client, server) = tokio::io::duplex(64);
    let serving = tokio::spawn(serve_connection(server, &Options::default(), Server::unary(), std::future::pending()));
    client.write_all(PREFACE).await.expect("sent");
    client.write_all(&frame(6, 0, 0, &[0; 8]).repeat(100)).await.expect("sent");
    client.write_all(&frame(5, 0, 1, &[0; 8])).await.expect("sent");
    let ended = serving.await.expect("no panic").expect_err("a failure");
    assert!(matches!(ended, ServeError::Peer(error) if error.reason == Reason::PROTOCOL_ERROR), "{ended}");
    drop(client);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic_or_hang(bytes in prop::collection::vec(any::<u8>(), 0..300), frames in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        let frames: Vec<u8> = if frames {
            let payloads = bytes.chunks(12).map(|bytes| frame(bytes[0] % 11, bytes[bytes.len() / 2], u32::from(bytes[0] % 7), bytes));
            payloads.flatten().collect()
        } else {
            bytes
        };
        let sent = [PREFACE, &request(1, "/unary/later"), &request(3, "/streamed"), &frames].concat();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            let serving = tokio::spawn(serve_connection(server, &Options::default(), Server::unary(), std::future::pending()));
            client.write_all(&sent).await.expect("sent");
            client.shutdown().await.expect("sent");
            // However it ends, it does.
            drop(serving.await.expect("no panic"));
        });
    }
}
