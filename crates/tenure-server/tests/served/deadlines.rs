//! How long clients wait, as the server holds them to it. Frames are made by hand: what a library sends goes on to end the
//! call by itself.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::leases_client::LeasesClient;
use tenure_proto::tenure::v1::locks_client::LocksClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{cluster, run, within};

const DEADLINE_EXCEEDED: &[u8] = b"grpc-status\x014";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// A call with a message of gRPC, which stays open on the client's side.
fn call(stream: u32, path: &str, timeout: &str, message: &[u8]) -> Vec<u8> {
    let fields = [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", path),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
        field("grpc-timeout", timeout),
    ];
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    let message = [&[0][..], &length, message].concat();
    [frame(1, 4, stream, &fields.concat()), frame(0, 0, stream, &message)].concat()
}

/// Makes a call with a deadline, and reads until it is over.
async fn is_exceeded(server: SocketAddr, path: &str, message: &[u8]) {
    let mut socket = TcpStream::connect(server).await.expect("a connection");
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat();
    socket.write_all(&[preface, call(1, path, "300m", message)].concat()).await.expect("sent");
    let mut said = Vec::new();
    within("the deadline", async {
        while !said.windows(DEADLINE_EXCEEDED.len()).any(|part| part == DEADLINE_EXCEEDED) {
            assert_ne!(socket.read_buf(&mut said).await.expect("an answer"), 0, "{path} just ends");
        }
    })
    .await;
}

#[test]
fn a_stream_that_the_routes_serve_ends_at_its_clients_deadline() {
    run(async {
        let servers = cluster(1, &[]).await;
        for path in ["/grpc.health.v1.Health/Watch", "/etcdserverpb.Watch/Watch"] {
            is_exceeded(servers[0].clients, path, b"").await;
        }
    });
}

#[test]
fn an_acquire_that_waits_ends_at_its_clients_deadline_and_leaves_the_queue() {
    run(async {
        let servers = cluster(1, &[]).await;
        let channel = servers[0].channel().await;
        let (mut leases, mut locks) = (LeasesClient::new(channel.clone()), LocksClient::new(channel));
        let acquire = |lease| {
            let request = Some(pb::LockRequest { lease, number: 1, lowest_open: 1, attach: 1 });
            pb::LockAcquireRequest { name: "l".into(), request, ..Default::default() }
        };
        for id in [1, 2] {
            let grant = pb::LeaseGrantRequest { id, ttl_ms: 600_000, holder: None };
            within("a grant", leases.grant(grant)).await.expect("a lease");
        }
        let mut holder = within("a stream", locks.acquire(acquire(1))).await.expect("a stream").into_inner();
        within("a grant", holder.message()).await.expect("a message").expect("the lock");
        is_exceeded(servers[0].clients, "/tenure.v1.Locks/Acquire", &acquire(2).encode_to_vec()).await;
        within("the end of the wait", async {
            let look = pb::LockInspectRequest { name: "l".into(), limit: 1 };
            while locks.inspect(look.clone()).await.expect("an answer").into_inner().contenders != 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    });
}
