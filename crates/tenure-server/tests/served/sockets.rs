//! What is listened on and dialled besides plain addresses: unix sockets, and peers by name.

use std::net::TcpListener;
use std::path::Path;

use hyper_util::rt::TokioIo;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::support::{Server, leader, run, servers, within};

async fn channel_over(path: &Path) -> Channel {
    let path = path.to_owned();
    let endpoint = Endpoint::from_static("http://localhost");
    within("a connection", async {
        loop {
            let path = path.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            if let Ok(channel) = endpoint.connect_with_connector(connector).await {
                return channel;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
}

#[test]
fn clients_are_served_over_a_unix_socket_that_survives_restarts() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("clients");
        let url = format!("unix://{}", path.display());
        let flags = [format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")];
        let mut servers = servers(1, &flags.each_ref().map(String::as_str));
        for life in 0..2 {
            servers[0].start();
            let mut kv = KvClient::new(channel_over(&path).await);
            let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
            let answer = within("a put", kv.put(put)).await.expect("a put").into_inner();
            assert_eq!(answer.header.expect("a header").revision, 2 + life);
            let mut stream = UnixStream::connect(&path).await.expect("a connection");
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("a request");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
            // The file stays behind, as it does when a server is killed, and the next life takes its place.
            servers[0].stop();
            assert!(path.exists());
        }
    });
}

/// A port that is free at `localhost`, and below those that the kernel gives to connections.
fn free_port_of_localhost() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let first = 10_000 + u16::try_from(std::process::id() % 15_000).expect("small");
    (first..first + 5_000).find(free).expect("a free port")
}

#[test]
fn members_find_each_other_by_name() {
    run(async {
        let mut servers = servers(3, &[]);
        let mut taken = Vec::new();
        // Bound by address, dialled by name.
        for place in 0..3 {
            let own = servers[place].peers.to_string();
            let port = free_port_of_localhost();
            taken.push(TcpListener::bind(("127.0.0.1", port)).expect("it is free"));
            for flag in servers.iter_mut().flat_map(|server| &mut server.flags) {
                let host = if flag.starts_with("--listen") { "127.0.0.1" } else { "localhost" };
                *flag = flag.replace(&own, &format!("{host}:{port}"));
            }
        }
        drop(taken);
        servers.iter_mut().for_each(Server::start);
        let first = leader(&servers).await;
        // A member that comes back is dialled by its name again.
        for place in [first, (first + 1) % 3] {
            servers[place].stop();
            servers[place].start();
            leader(&servers).await;
        }
        let mut kv = servers[first].kv().await;
        let put = pb::PutRequest { key: "k".into(), ..Default::default() };
        within("a put", kv.put(put)).await.expect("a put");
    });
}
