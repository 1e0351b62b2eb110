//! Dialogues on real connections: in order, in any pieces, with back-pressure both ways, and ends of all kinds.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use common::{Server, call, connect, framed, request, soon, start};
use h2::client::SendRequest;
use tenure_http2::Options;

async fn talk(sender: &SendRequest<Bytes>, kind: &str, messages: &[Vec<u8>]) -> common::Called {
    let body: BytesMut = messages.iter().map(|message| framed(message)).fold(BytesMut::new(), |mut all, message| {
        all.put(message);
        all
    });
    let request = request(&format!("/talk/{kind}")).body(()).expect("a request");
    soon(call(sender, request, body.freeze())).await.expect("an answer")
}

/// The messages of a body.
fn parts(mut body: Bytes) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while !body.is_empty() {
        let prefix = body.split_to(5);
        assert_eq!(prefix[0], 0, "not compressed");
        let length = prefix[1..].iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte));
        all.push(body.split_to(length).to_vec());
    }
    all
}

fn messages(lengths: &[usize]) -> Vec<Vec<u8>> {
    lengths.iter().zip((0..=u8::MAX).cycle()).map(|(length, byte)| vec![byte; *length]).collect()
}

#[tokio::test]
async fn what_is_said_comes_back_in_order_whatever_its_size() {
    let running = start(Server::unary(), Options::default()).await;
    let sender = connect(running.address, &h2::client::Builder::new()).await;
    // Longer than a frame, than the client's windows, and than the server's.
    for lengths in [&[0, 1, 3, 0, 500][..], &[20_000, 1, 70_000, 2], &[3_000_000, 5, 1_500_000], &[10; 5000]] {
        let sent = messages(lengths);
        for kind in ["echo", "later"] {
            let called = talk(&sender, kind, &sent).await;
            assert_eq!((called.head.status.as_u16(), called.status()), (200, "0"));
            assert!(parts(called.body) == sent, "{kind} of {} messages", sent.len());
        }
        let called = talk(&sender, "count", &sent).await;
        assert_eq!(parts(called.body), [sent.len().to_string().into_bytes()]);
    }
}

#[tokio::test]
async fn many_dialogues_share_a_connection() {
    let running = start(Server::unary(), Options::default()).await;
    let sender = connect(
        running.address,
        h2::client::Builder::new().initial_window_size(1000).initial_connection_window_size(16 << 20),
    )
    .await;
    let sent = messages(&[100; 200]);
    let talks = (0..200).map(|number| talk(&sender, if number % 2 == 0 { "echo" } else { "later" }, &sent));
    for called in futures::future::join_all(talks).await {
        assert!(parts(called.body) == sent);
    }
}

#[tokio::test]
async fn a_dialogue_ends_with_a_status_before_or_after_it_said_something() {
    let running = start(Server::unary(), Options::default()).await;
    let sender = connect(running.address, &h2::client::Builder::new()).await;
    let refused = talk(&sender, "refuse", &[]).await;
    assert!(refused.trailers.is_none() && refused.body.is_empty());
    assert_eq!(
        (refused.status(), &refused.head.headers["grpc-message"]),
        ("7", &"nobody talks to you".parse().expect("a value"))
    );
    let said = talk(&sender, "three", &[]).await;
    assert_eq!(parts(said.body.clone()), [[0; 3], [1; 3], [2; 3]]);
    let trailers = said.trailers.as_ref().expect("trailers");
    assert_eq!((said.status(), trailers["grpc-message"].as_bytes()), ("9", &b"that is all: 100 %25"[..]));
}

#[tokio::test]
async fn an_answer_that_has_not_begun_fails_as_a_whole() {
    let running = start(Server::unary(), Options::default()).await;
    let sender = connect(running.address, &h2::client::Builder::new()).await;
    for kind in ["mute", "sober", "shy"] {
        let request = request(&format!("/talk/{kind}")).body(()).expect("a request");
        let (response, mut asking) =
            sender.clone().ready().await.expect("ready").send_request(request, false).expect("sent");
        let mut response = std::pin::pin!(response);
        // What was asked later is answered.
        assert_eq!(talk(&sender, "refuse", &[]).await.status(), "7");
        let begun = futures::poll!(response.as_mut());
        assert_eq!(begun.is_ready(), kind == "mute");
        asking.send_data(Bytes::new(), true).expect("sent");
        let head = match begun {
            std::task::Poll::Ready(head) => head.expect("a head"),
            std::task::Poll::Pending => soon(response).await.expect("a head"),
        };
        if kind == "shy" {
            assert!(head.body().is_end_stream());
            assert_eq!(head.headers()["grpc-status"], "7");
            continue;
        }
        let mut body = head.into_body();
        assert!(soon(body.data()).await.is_none());
        assert_eq!(soon(body.trailers()).await.expect("no error").expect("trailers")["grpc-status"], "7");
    }
}

#[tokio::test]
async fn the_answer_begins_before_anything_is_asked() {
    let running = start(Server::unary(), Options::default()).await;
    let sender = connect(running.address, &h2::client::Builder::new()).await;
    let request = request("/talk/echo").body(()).expect("a request");
    let (response, mut asking) =
        sender.clone().ready().await.expect("ready").send_request(request, false).expect("sent");
    let mut body = soon(response).await.expect("a head").into_body();
    for _ in 0..3 {
        asking.send_data(framed(b"again"), false).expect("sent");
        assert_eq!(soon(body.data()).await.expect("a piece").expect("no error"), framed(b"again"));
    }
    asking.send_trailers(http::HeaderMap::new()).expect("sent");
    assert!(soon(body.data()).await.is_none());
    assert_eq!(soon(body.trailers()).await.expect("no error").expect("trailers")["grpc-status"], "0");
}

#[tokio::test]
async fn what_makes_no_sense_ends_its_stream_with_a_status() {
    let options = Options { message_bytes_max: 1000, ..Options::default() };
    let running = start(Server::unary(), options).await;
    let sender = connect(running.address, &h2::client::Builder::new()).await;
    for (sent, status, said) in [
        ([framed(b"fine"), framed(&[1; 1001])].concat(), "8", vec![b"fine".to_vec()]),
        (vec![1, 0, 0, 0, 1, 7], "13", vec![]),
        (vec![0, 0, 0, 0, 9, 7], "13", vec![]),
        (vec![0, 0, 0], "13", vec![]),
    ] {
        let request = request("/talk/echo").body(()).expect("a request");
        let called = soon(call(&sender, request, sent.into())).await.expect("an answer");
        assert_eq!((called.status(), parts(called.body.clone())), (status, said));
    }
    assert_eq!(talk(&sender, "echo", &messages(&[1000])).await.status(), "0", "the connection goes on");
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_up_its_own_dialogue_alone() {
    let running = start(Server::unary(), Options::default()).await;
    let sender = connect(running.address, h2::client::Builder::new().initial_connection_window_size(10 << 20)).await;
    let flooded = request("/talk/flood").body(()).expect("a request");
    let (response, asking) = sender.clone().ready().await.expect("ready").send_request(flooded, false).expect("sent");
    let mut body = soon(response).await.expect("a head").into_body();
    for number in 0..20 {
        assert_eq!(parts(talk(&sender, "echo", &messages(&[number])).await.body), messages(&[number]));
    }
    let mut taken = 0;
    while taken < 1 << 20 {
        let piece = soon(body.data()).await.expect("a piece").expect("no error");
        body.flow_control().release_capacity(piece.len()).expect("taken");
        taken += piece.len();
    }
    drop((body, asking));
}

#[tokio::test]
async fn a_server_that_does_not_hear_takes_no_more_than_its_window() {
    let options = Options { stream_window_bytes: 100_000, ..Options::default() };
    let running = start(Server::unary(), options).await;
    let sender = connect(running.address, &h2::client::Builder::new()).await;
    let request = request("/talk/deaf").body(()).expect("a request");
    let (_response, mut asking) =
        sender.clone().ready().await.expect("ready").send_request(request, false).expect("sent");
    let mut sent = 0;
    let stuck: Result<(), _> = tokio::time::timeout(Duration::from_secs(1), async {
        // Whole messages, so that none waits for its rest.
        loop {
            asking.reserve_capacity(10_000);
            while asking.capacity() < 10_000 {
                std::future::poll_fn(|cx| asking.poll_capacity(cx)).await.expect("open").expect("no error");
            }
            asking.send_data(framed(&[0; 9995]), false).expect("sent");
            sent += 10_000;
        }
    })
    .await;
    assert!(stuck.is_err(), "it takes all");
    assert!((60_000..=100_000).contains(&sent), "{sent} bytes");
    assert_eq!(talk(&sender, "echo", &messages(&[7])).await.status(), "0", "others are heard");
}

#[tokio::test]
async fn dialogues_end_with_their_clients() {
    let server = Server::unary();
    let running = start(server.clone(), Options::default()).await;
    let sender = connect(running.address, &h2::client::Builder::new()).await;
    let mut open = Vec::new();
    for number in 0..30 {
        let path = ["/talk/echo", "/talk/deaf", "/talk/flood"][number % 3];
        let request = request(path).body(()).expect("a request");
        let mut ready = sender.clone().ready().await.expect("ready");
        let (response, mut asking) = ready.send_request(request, false).expect("sent");
        asking.send_data(framed(b"never heard by all"), false).expect("sent");
        open.push((soon(response).await.expect("a head"), asking));
    }
    assert_eq!(server.cancelled.load(Ordering::SeqCst), 0);
    drop(open);
    soon(async {
        while server.cancelled.load(Ordering::SeqCst) < 30 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Their places are good for others.
    for _ in 0..3 {
        assert_eq!(talk(&sender, "later", &messages(&[1, 2, 3])).await.status(), "0");
    }
}
