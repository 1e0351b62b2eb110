//! gRPC calls that cost the caller as little as they can: hand-made frames on HTTP/2, on one thread.
//!
//! A load generator shares its machine with the servers that it measures: what a gRPC stack costs it is missing there.

use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Uri};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

/// HTTP/2 windows large enough never to matter.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What a gRPC message has before it: whether it is compressed, and its length.
const FRAME_HEAD_BYTES: usize = 5;

/// One connection. Its clones share it.
#[derive(Clone, Debug)]
pub struct Caller {
    sender: SendRequest<Bytes>,
    host: Rc<str>,
}

/// The messages of an answer, as they come.
#[derive(Debug)]
pub struct Answers {
    head: HeaderMap,
    body: RecvStream,
    received: BytesMut,
}

impl Caller {
    /// Connects to a host and port. What drives the connection runs on the caller's `LocalSet`.
    pub async fn connect(host: &str) -> Result<Caller> {
        let stream = TcpStream::connect(host).await.with_context(|| format!("cannot connect to {host}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_concurrent_streams(100_000)
            .handshake(stream)
            .await?;
        spawn_local(async move {
            // A broken connection shows as an error of the requests on it.
            let _closed = connection.await;
        });
        Ok(Caller { sender, host: host.into() })
    }

    /// The address of a method, such as `/etcdserverpb.KV/Put`.
    pub fn uri(&self, method: &str) -> Result<Uri> {
        Ok(format!("http://{}{method}", self.host).parse()?)
    }

    /// Sends a request that is framed already, and answers once the call has begun to be answered.
    pub async fn send(&self, uri: Uri, framed: Bytes) -> Result<Answers> {
        let request = Request::post(uri).header("content-type", "application/grpc").header("te", "trailers").body(())?;
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request, false)?;
        stream.send_data(framed, true)?;
        let (head, body) = response.await?.into_parts();
        Ok(Answers { head: head.headers, body, received: BytesMut::new() })
    }

    /// A call with any number of answers.
    pub async fn open(&self, method: &str, request: &impl Message) -> Result<Answers> {
        self.send(self.uri(method)?, framed(request)).await
    }

    /// A call with one answer.
    pub async fn call<Answer: Message + Default>(&self, method: &str, request: &impl Message) -> Result<Answer> {
        let mut answers = self.open(method, request).await?;
        let answer = answers.next().await?.context("an answer without a message")?;
        answers.end().await?;
        Ok(answer)
    }
}

impl Answers {
    /// The next message; nothing once the call has ended well.
    pub async fn next<Answer: Message + Default>(&mut self) -> Result<Option<Answer>> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(Answer::decode(message)?));
            }
            if !self.receive().await? {
                ensure!(self.received.is_empty(), "an answer ends within a message");
                return Ok(None);
            }
        }
    }

    /// Reads the rest, whatever it is, and answers how many bytes it had.
    pub async fn end(&mut self) -> Result<usize> {
        let mut count = self.received.len();
        self.received.clear();
        while self.receive().await? {
            count += self.received.len();
            self.received.clear();
        }
        Ok(count)
    }

    /// A message that is there as a whole.
    fn take(&mut self) -> Option<Bytes> {
        let length = self.received.get(1..FRAME_HEAD_BYTES)?.get_u32();
        let end = FRAME_HEAD_BYTES + usize::try_from(length).ok()?;
        if self.received.len() < end {
            return None;
        }
        Some(self.received.split_to(end).freeze().slice(FRAME_HEAD_BYTES..))
    }

    /// Receives more. At the end it looks at the status instead.
    async fn receive(&mut self) -> Result<bool> {
        if let Some(chunk) = self.body.data().await {
            let chunk = chunk?;
            self.body.flow_control().release_capacity(chunk.len())?;
            self.received.extend_from_slice(&chunk);
            return Ok(true);
        }
        let trailers = self.body.trailers().await?;
        let headers = trailers.as_ref().unwrap_or(&self.head);
        if headers.get("grpc-status").map(http::HeaderValue::as_bytes) != Some(b"0") {
            bail!("a request failed: {headers:?}");
        }
        Ok(false)
    }
}

/// A message with its head.
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME_HEAD_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_slice(&message.encode_to_vec());
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_proto::etcdserverpb::PutRequest;

    #[test]
    fn a_frame_is_a_grpc_message() {
        let put = PutRequest { key: "key".into(), value: vec![7; 200].into(), ..PutRequest::default() };
        let frame = framed(&put);
        assert_eq!(frame[..5], [0, 0, 0, 0, 208]);
        assert_eq!(frame[5..10], [0x0a, 3, b'k', b'e', b'y']);
        assert_eq!(frame[10..13], [0x12, 200 | 0x80, 1]);
        assert_eq!(frame.len(), 5 + 208);
    }
}
