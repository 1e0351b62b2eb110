//! gRPC calls that cost the caller as little as they can: hand-made frames on HTTP/2, on one thread.
//!
//! A load generator shares its machine with the servers that it measures: what a gRPC stack costs it is missing there. A
//! connection that broke is made anew by the next request, so that a run goes on after a failure.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::spawn_local;

use crate::failure::{Code, Failure};

/// HTTP/2 windows large enough never to matter.
const WINDOW_BYTES: u32 = 64 * 1024 * 1024;
/// What a gRPC message has before it: whether it is compressed, and its length.
const FRAME_HEAD_BYTES: usize = 5;

/// One connection. Its clones share it.
#[derive(Clone)]
pub struct Caller(Rc<Shared>);

struct Shared {
    host: Rc<str>,
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// Held by whoever makes the connection anew.
    dialling: Mutex<()>,
    headers: HeaderMap,
    sent: Cell<u64>,
    received: Cell<u64>,
}

/// The messages of an answer, as they come.
pub struct Answers {
    shared: Rc<Shared>,
    /// Until the call has begun to be answered.
    response: Option<ResponseFuture>,
    head: HeaderMap,
    body: Option<RecvStream>,
    received: BytesMut,
}

/// The requests of a call that takes many.
pub struct Requests {
    shared: Rc<Shared>,
    stream: SendStream<Bytes>,
}

impl Caller {
    /// Connects to a host and port. What drives the connection runs on the caller's `LocalSet`.
    pub async fn connect(host: &str) -> Result<Caller, Failure> {
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let caller = Caller(Rc::new(Shared {
            host: host.into(),
            sender: RefCell::new(None),
            dialling: Mutex::new(()),
            headers,
            sent: Cell::new(0),
            received: Cell::new(0),
        }));
        caller.sender().await?;
        Ok(caller)
    }

    /// Where it connects to.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// The bytes of all messages that were sent and that were received.
    pub fn bytes(&self) -> (u64, u64) {
        (self.0.sent.get(), self.0.received.get())
    }

    /// The address of a method, such as `/etcdserverpb.KV/Put`.
    pub fn uri(&self, method: &str) -> Result<Uri, Failure> {
        format!("http://{}{method}", self.0.host).parse().map_err(|error| Failure::new(Code::Connect, error))
    }

    /// Sends a request that is framed already. Its answer is waited for by whoever reads it.
    pub async fn send(&self, uri: &Uri, framed: Bytes) -> Result<Answers, Failure> {
        let (answers, mut requests) = self.begin(uri, false).await?;
        requests.give(framed, true)?;
        Ok(answers)
    }

    /// A call with any number of answers.
    pub async fn open(&self, method: &str, request: &impl Message) -> Result<Answers, Failure> {
        self.send(&self.uri(method)?, framed(request)).await
    }

    /// A call with any number of requests and answers.
    pub async fn stream(&self, method: &str) -> Result<(Requests, Answers), Failure> {
        let (answers, requests) = self.begin(&self.uri(method)?, false).await?;
        Ok((requests, answers))
    }

    /// A call with one answer.
    pub async fn call<Answer: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<Answer, Failure> {
        self.open(method, request).await?.only().await
    }

    async fn begin(&self, uri: &Uri, ends: bool) -> Result<(Answers, Requests), Failure> {
        let mut sender = self.sender().await?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = self.0.headers.clone();
        let (response, stream) = sender.send_request(request, ends).map_err(broken)?;
        let answers = Answers {
            shared: self.0.clone(),
            response: Some(response),
            head: HeaderMap::new(),
            body: None,
            received: BytesMut::new(),
        };
        Ok((answers, Requests { shared: self.0.clone(), stream }))
    }

    /// The connection, made anew if it is broken.
    async fn sender(&self) -> Result<SendRequest<Bytes>, Failure> {
        let present = self.0.sender.borrow().clone();
        if let Some(sender) = present
            && let Ok(sender) = sender.ready().await
        {
            return Ok(sender);
        }
        let _dialling = self.0.dialling.lock().await;
        // Somebody else may have made it meanwhile.
        let present = self.0.sender.borrow().clone();
        if let Some(sender) = present
            && let Ok(sender) = sender.ready().await
        {
            return Ok(sender);
        }
        let sender = dial(&self.0.host).await?;
        self.0.sender.replace(Some(sender.clone()));
        sender.ready().await.map_err(broken)
    }
}

async fn dial(host: &str) -> Result<SendRequest<Bytes>, Failure> {
    let refused = |error: std::io::Error| Failure::new(Code::Connect, format!("{host}: {error}"));
    let stream = TcpStream::connect(host).await.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(100_000)
        .handshake(stream)
        .await
        .map_err(|error| Failure::new(Code::Connect, format!("{host}: {error}")))?;
    spawn_local(async move {
        // A broken connection shows as an error of the requests on it.
        let _closed = connection.await;
    });
    Ok(sender)
}

fn broken(error: h2::Error) -> Failure {
    Failure::new(Code::Broken, error)
}

fn add(counter: &Cell<u64>, bytes: usize) {
    counter.set(counter.get() + bytes as u64);
}

impl Requests {
    /// Sends one more request.
    pub fn send(&mut self, request: &impl Message) -> Result<(), Failure> {
        self.give(framed(request), false)
    }

    fn give(&mut self, framed: Bytes, is_last: bool) -> Result<(), Failure> {
        add(&self.shared.sent, framed.len());
        self.stream.send_data(framed, is_last).map_err(broken)
    }
}

impl Answers {
    /// The next message; nothing once the call has ended well. What was received is kept if the caller stops waiting.
    pub async fn next<Answer: Message + Default>(&mut self) -> Result<Option<Answer>, Failure> {
        loop {
            if let Some(message) = self.take() {
                return Answer::decode(message).map(Some).map_err(Failure::answer);
            }
            if !self.receive().await? {
                if !self.received.is_empty() {
                    return Err(Failure::answer("an answer ends within a message"));
                }
                return Ok(None);
            }
        }
    }

    /// A message that has been received already.
    pub fn ready<Answer: Message + Default>(&mut self) -> Result<Option<Answer>, Failure> {
        self.take().map(|message| Answer::decode(message).map_err(Failure::answer)).transpose()
    }

    /// The one message of a call that has one.
    pub async fn only<Answer: Message + Default>(mut self) -> Result<Answer, Failure> {
        let answer = self.next().await?.ok_or_else(|| Failure::answer("an answer without a message"))?;
        self.end().await?;
        Ok(answer)
    }

    /// Reads the rest, whatever it is, and answers how many bytes it had.
    pub async fn end(&mut self) -> Result<usize, Failure> {
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
        let mut message = self.received.split_to(end).freeze();
        message.advance(FRAME_HEAD_BYTES);
        Some(message)
    }

    /// Receives more. At the end it looks at the status instead.
    async fn receive(&mut self) -> Result<bool, Failure> {
        if let Some(response) = self.response.as_mut() {
            let (head, body) = response.await.map_err(broken)?.into_parts();
            (self.response, self.head, self.body) = (None, head.headers, Some(body));
        }
        let Some(body) = self.body.as_mut() else { return Err(Failure::answer("an answer without a body")) };
        if let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(broken)?;
            body.flow_control().release_capacity(chunk.len()).map_err(broken)?;
            add(&self.shared.received, chunk.len());
            self.received.extend_from_slice(&chunk);
            return Ok(true);
        }
        let trailers = body.trailers().await.map_err(broken)?;
        judge(trailers.as_ref().unwrap_or(&self.head)).map(|()| false)
    }
}

/// Reads the status that ends every call.
fn judge(headers: &HeaderMap) -> Result<(), Failure> {
    let status = headers.get("grpc-status").map(HeaderValue::as_bytes);
    if status == Some(b"0") {
        return Ok(());
    }
    let number = status.and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
    let Some(number) = number else { return Err(Failure::answer(format!("a call without a status: {headers:?}"))) };
    let text = headers.get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
    Err(Failure::new(Code::Grpc(number), percent_encoding::percent_decode(text).decode_utf8_lossy()))
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Caller").field(&self.0.host).finish()
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").field("received", &self.received.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

/// A message with its head.
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME_HEAD_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // It fails only for want of room, and a `BytesMut` makes room.
    let _fits = message.encode(&mut frame);
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

    #[test]
    fn a_status_is_read_with_its_text() {
        let mut headers = HeaderMap::new();
        assert_eq!(judge(&headers).map_err(|failure| failure.code), Err(Code::Answer));
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert("grpc-message", HeaderValue::from_static("etcdserver: no%20leader"));
        assert_eq!(judge(&headers), Err(Failure::new(Code::Grpc(14), "etcdserver: no leader")));
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert_eq!(judge(&headers), Ok(()));
    }
}
