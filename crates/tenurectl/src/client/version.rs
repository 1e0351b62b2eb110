//! What a server says of its version. gRPC tells etcd's level only, so this asks over HTTP, which the client port speaks too.

use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::endpoint::Address;
use super::{Client, Endpoint};

/// The answer is a line; more than this is no version.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// The versions that a server goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct ServerVersion {
    /// The level of etcd's API.
    #[serde(rename = "etcdserver", default)]
    pub etcd: Option<String>,
    /// Tenure's own, unless the server is an etcd.
    #[serde(default)]
    pub tenure: Option<String>,
}

impl Client {
    /// What the server at this endpoint tells; nothing if it tells nothing.
    pub(crate) async fn version_at(&self, at: usize) -> ServerVersion {
        fetch(&self.slots[at].endpoint, self.timeouts.dial).await.unwrap_or_default()
    }
}

async fn fetch(endpoint: &Endpoint, patience: Duration) -> Option<ServerVersion> {
    let exchange = async {
        match endpoint.address() {
            Address::Tcp(authority) => ask(TcpStream::connect(authority).await.ok()?, authority).await,
            Address::Unix(path) => ask(UnixStream::connect(path).await.ok()?, "localhost").await,
        }
    };
    parse(&timeout(patience, exchange).await.ok()??)
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, host: &str) -> Option<Vec<u8>> {
    let request = format!("GET /version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.ok()?;
    Some(answer)
}

fn parse(answer: &[u8]) -> Option<ServerVersion> {
    let answer = std::str::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if head.split_whitespace().nth(1) != Some("200") {
        return None;
    }
    serde_json::from_str(body.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_both_servers() {
        let tenure =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"etcdserver\":\"3.7.1\",\"tenure\":\"0.1.0\"}";
        let read = parse(tenure).expect("a version");
        assert_eq!((read.etcd.as_deref(), read.tenure.as_deref()), (Some("3.7.1"), Some("0.1.0")));
        let etcd = b"HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\":\"3.5.1\",\"etcdcluster\":\"3.5.0\"}";
        assert_eq!(parse(etcd).expect("a version").tenure, None);
    }

    #[test]
    fn what_is_no_version_is_none() {
        for answer in
            [&b""[..], b"HTTP/1.1 200 OK\r\n\r\nhello", b"HTTP/1.1 404 Not Found\r\n\r\n{}", b"\xff\r\n\r\n{}"]
        {
            assert_eq!(parse(answer), None);
        }
    }
}
