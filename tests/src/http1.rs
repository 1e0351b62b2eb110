//! One-shot HTTP/1.1 requests, enough to ask a node for its health or its version.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer is a line or a page of metrics; more than this is not read.
const ANSWER_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A status code with what came with it.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: u16,
    pub content_type: Option<String>,
    pub body: String,
}

/// Fetches `path` from a server on 127.0.0.1 within `patience`.
pub async fn get(port: u16, path: &str, patience: Duration) -> Result<HttpAnswer> {
    ask(port, "GET", path, patience).await
}

/// Like [`get`], with any method.
pub async fn ask(port: u16, method: &str, path: &str, patience: Duration) -> Result<HttpAnswer> {
    send(port, method, path, "", patience).await
}

/// Like [`ask`], with a body.
pub async fn send(port: u16, method: &str, path: &str, body: &str, patience: Duration) -> Result<HttpAnswer> {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{length}Connection: close\r\n\r\n");
    let request = head + body;
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(patience, exchange).await.context("no HTTP answer in time")??;
    parse(&String::from_utf8_lossy(&answer))
}

/// One figure from a server's `/metrics`.
pub async fn metric(port: u16, name: &str) -> Result<u64> {
    let page = get(port, "/metrics", Duration::from_secs(2)).await?.body;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.with_context(|| format!("no metric {name}"))?.parse().with_context(|| format!("{name} is no whole number"))
}

/// One figure from a page of metrics, without labels; etcd writes large counts with an exponent.
pub fn number(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim().parse().ok()
}

fn parse(answer: &str) -> Result<HttpAnswer> {
    let (head, body) = answer.split_once("\r\n\r\n").context("the HTTP answer has no end of headers")?;
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("the HTTP answer has no status code")?;
    let content_type = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        .map(|(_, value)| value.to_owned());
    Ok(HttpAnswer { status, content_type, body: body.to_owned() })
}
