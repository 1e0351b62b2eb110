//! Unary calls, by the client of the h2 crate: every way to answer, every size, and how calls end early.

mod common;

use std::sync::atomic::Ordering;

use common::{Server, call, connect, connect_to_cut, framed, request, soon, start, unary};
use futures::future::join_all;
use tenure_http2::Options;

#[tokio::test]
async fn every_way_to_answer_gives_the_same_answer() {
    let running = start(Server::unary(), Options::default()).await;
    let sender = connect(running.address, &h2::client::Builder::new()).await;
    for name in ["echo", "later", "future"] {
        for length in [0, 1, 300, 8 * 1024, 16_379, 16_380, 60_000, 70_000, 1 << 20] {
            let message = vec![b'x'; length];
            let called = soon(unary(&sender, name, &message)).await.expect("a call");
            assert_eq!((called.status(), called.head.status.as_u16()), ("0", 200), "{name} {length}");
            assert_eq!(called.head.headers["content-type"], "application/grpc");
            assert!(called.body == framed(&message), "{name} {length}");
        }
    }
}

#[tokio::test]
async fn a_failure_is_told_by_trailers_alone() {
    let running = start(Server::unary(), Options::default()).await;
    let sender = connect(running.address, &h2::client::Builder::new()).await;
    let failed = soon(unary(&sender, "fail", b"")).await.expect("a call");
    assert_eq!((failed.status(), failed.trailers.is_none(), failed.body.len()), ("5", true, 0));
    assert_eq!(failed.head.headers["grpc-message"], "nichts gefunden: 100 %25 %C3%BC");
    let dropped = soon(unary(&sender, "drop", b"")).await.expect("a call");
    assert_eq!(
        (dropped.status(), &dropped.head.headers["grpc-message"]),
        ("13", &"the call was given up".parse().expect("a value"))
    );
    assert_eq!(soon(unary(&sender, "what", b"")).await.expect("a call").status(), "12");
}

#[tokio::test]
async fn metadata_goes_both_ways() {
    let running = start(Server::unary(), Options::default()).await;
    let sender = connect(running.address, &h2::client::Builder::new()).await;
    for number in 0..20 {
        let value = format!("{number}").repeat(number + 1);
        let request = request("/unary/metadata").header("x-sent", &value).body(()).expect("a request");
        let called = soon(call(&sender, request, framed(b""))).await.expect("a call");
        assert_eq!((called.status(), &called.head.headers["x-received"]), ("0", &value.parse().expect("a value")));
        assert_eq!(soon(unary(&sender, "echo", b"")).await.expect("a call").status(), "0");
    }
}

#[tokio::test]
async fn a_thousand_calls_at_once_are_all_answered() {
    let server = Server::unary();
    let running = start(server.clone(), Options::default()).await;
    // A window of the connection that is small lets this client endure but few small frames.
    let mut builder = h2::client::Builder::new();
    builder.initial_max_send_streams(2000).initial_connection_window_size(4 << 20);
    let sender = connect(running.address, &builder).await;
    let calls = (0..1000_u32).map(|number| {
        let sender = sender.clone();
        async move {
            let message = number.to_be_bytes();
            let called =
                unary(&sender, ["echo", "later", "future"][number as usize % 3], &message).await.expect("a call");
            assert!(called.body == framed(&message));
        }
    });
    soon(join_all(calls)).await;
    assert_eq!(server.called.load(Ordering::SeqCst), 1000);
}

#[tokio::test]
async fn a_message_too_large_or_not_whole_or_more_than_one_is_told() {
    let running = start(Server::unary(), Options { message_bytes_max: 1000, ..Options::default() }).await;
    let sender = connect(running.address, &h2::client::Builder::new()).await;
    for (length, wanted) in [(1000, "0"), (1001, "8"), (20_000, "8"), (1 << 21, "8")] {
        let called = soon(unary(&sender, "echo", &vec![0; length])).await.expect("a call");
        assert_eq!(called.status(), wanted, "{length}");
        if wanted == "8" {
            let text = format!("grpc: received message larger than max ({length} vs. 1000)");
            assert_eq!(called.head.headers["grpc-message"], text);
        }
    }
    let two = [framed(b"one"), framed(b"two")].concat();
    for (body, wanted) in
        [(two, "13"), (vec![0, 0], "13"), (vec![0, 0, 0, 0, 9, 1], "13"), (vec![1, 0, 0, 0, 1, 1], "13")]
    {
        let request = request("/unary/echo").body(()).expect("a request");
        assert_eq!(soon(call(&sender, request, body.into())).await.expect("a call").status(), wanted);
    }
    let coded = request("/unary/echo").header("grpc-encoding", "gzip").body(()).expect("a request");
    let called = soon(call(&sender, coded, vec![1, 0, 0, 0, 1, 1].into())).await.expect("a call");
    assert_eq!(called.status(), "12");
    let mut ready = sender.clone().ready().await.expect("ready");
    let (response, _) = ready.send_request(request("/unary/echo").body(()).expect("a request"), true).expect("sent");
    assert_eq!(soon(response).await.expect("an answer").headers()["grpc-status"], "13");
}

#[tokio::test]
async fn a_call_that_the_client_gives_up_is_cancelled() {
    let server = Server::unary();
    let running = start(server.clone(), Options::default()).await;
    let sender = connect(running.address, &h2::client::Builder::new()).await;
    for name in ["/unary/stuck", "/unary/stuck-future"] {
        let before = server.cancelled.load(Ordering::SeqCst);
        let mut ready = sender.clone().ready().await.expect("ready");
        let (response, mut stream) =
            ready.send_request(request(name).body(()).expect("a request"), false).expect("sent");
        stream.send_data(framed(b""), true).expect("sent");
        // It is served once another call after it is.
        soon(unary(&sender, "echo", b"")).await.expect("a call");
        drop((response, stream));
        while server.cancelled.load(Ordering::SeqCst) == before {
            soon(unary(&sender, "echo", b"")).await.expect("a call");
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_cancels_its_calls() {
    let server = Server::unary();
    let mut running = start(server.clone(), Options::default()).await;
    let (sender, connection) = connect_to_cut(running.address, &h2::client::Builder::new()).await;
    let stuck: Vec<_> = ["stuck", "stuck-future"]
        .map(|name| {
            let sender = sender.clone();
            tokio::spawn(async move { unary(&sender, name, b"").await.expect_err("it is cut") })
        })
        .into();
    while server.called.load(Ordering::SeqCst) < 2 {
        soon(unary(&sender, "fail", b"")).await.expect("a call");
    }
    connection.abort();
    soon(join_all(stuck)).await;
    soon(running.ended.recv()).await.expect("an end").expect("a good end");
    let cancelled = async {
        while server.cancelled.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    };
    soon(cancelled).await;
}
