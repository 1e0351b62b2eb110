//! One stream of watchers: requests and bare messages.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::stream::unfold;
use tenure_proto::etcdserverpb::watch_client::WatchClient;
use tenure_proto::etcdserverpb::watch_request::RequestUnion;
use tenure_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::connect::Channel;

/// A message that must come does so within this, on a busy machine too.
pub const MESSAGE_PATIENCE: Duration = Duration::from_secs(20);
/// Requests that wait to be sent.
const REQUESTS_MAX: usize = 1024;
/// Messages may be as large as servers make them.
const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// One stream of watchers on one server.
#[derive(Debug)]
pub struct WatchStream {
    /// None once the client has said that it will ask no more.
    requests: Option<mpsc::Sender<WatchRequest>>,
    answer: Answer,
}

/// A server may answer a call only once it has a message to send.
#[derive(Debug)]
enum Answer {
    Awaited(JoinHandle<Result<Streaming<WatchResponse>, Status>>),
    Begun(Box<Streaming<WatchResponse>>),
}

impl WatchStream {
    /// Opens a stream.
    pub fn open(channel: Channel) -> WatchStream {
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let queue = unfold(queue, |mut queue| async move { Some((queue.recv().await?, queue)) });
        let mut client = WatchClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answer = tokio::spawn(async move { Ok(client.watch(queue).await?.into_inner()) });
        WatchStream { requests: Some(requests), answer: Answer::Awaited(answer) }
    }

    /// Sends one request.
    pub async fn send(&self, request: RequestUnion) -> Result<()> {
        self.send_raw(WatchRequest { request_union: Some(request) }).await
    }

    /// Sends one request, of whatever kind or none.
    pub async fn send_raw(&self, request: WatchRequest) -> Result<()> {
        let requests = self.requests.as_ref().context("the stream is half closed")?;
        requests.send(request).await.context("the stream has ended")
    }

    /// Says that no more requests come.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next message; it must come.
    pub async fn message(&mut self) -> Result<WatchResponse> {
        let message = timeout(MESSAGE_PATIENCE, self.next()).await.context("no message in time")?;
        message.context("the stream failed")?.context("the stream ended")
    }

    /// The next message, or how the stream ended. Nothing is lost if this is dropped.
    pub async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        if let Answer::Awaited(answer) = &mut self.answer {
            let begun = answer.await.map_err(|error| Status::internal(format!("the call was lost: {error}")))??;
            self.answer = Answer::Begun(Box::new(begun));
        }
        match &mut self.answer {
            Answer::Begun(messages) => messages.message().await,
            Answer::Awaited(_) => Ok(None),
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        if let Answer::Awaited(answer) = &self.answer {
            answer.abort();
        }
    }
}

/// A request for a watcher of one key, to be changed.
pub fn create(key: &str, change: impl FnOnce(&mut WatchCreateRequest)) -> RequestUnion {
    let mut request = WatchCreateRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
    change(&mut request);
    RequestUnion::CreateRequest(request)
}

/// A request to end a watcher.
pub fn cancel(watch_id: i64) -> RequestUnion {
    RequestUnion::CancelRequest(WatchCancelRequest { watch_id })
}

/// A request for progress.
pub fn progress() -> RequestUnion {
    RequestUnion::ProgressRequest(WatchProgressRequest {})
}

/// The revision in a message's header.
pub fn revision_of(message: &WatchResponse) -> i64 {
    message.header.map_or(0, |header| header.revision)
}
