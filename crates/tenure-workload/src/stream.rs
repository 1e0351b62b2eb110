//! One stream of watchers: requests and bare messages.

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
use tonic::{Status, Streaming};

use crate::connect::Channel;

/// Requests that wait to be sent.
const REQUESTS_MAX: usize = 1024;
/// Messages may be as large as servers make them.
const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// One stream of watchers on one server.
#[derive(Debug)]
pub struct WatchStream {
    requests: mpsc::Sender<WatchRequest>,
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
        WatchStream { requests, answer: Answer::Awaited(answer) }
    }

    /// Sends one request.
    pub async fn send(&self, request: RequestUnion) -> Result<()> {
        self.requests.send(WatchRequest { request_union: Some(request) }).await.context("the stream has ended")
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
