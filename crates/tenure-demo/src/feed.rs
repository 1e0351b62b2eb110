//! A watch that notices when nobody speaks on the other side any more.
//!
//! A paused server keeps its connections, and a watch on it is silent for ever. So the feed asks for a progress note now
//! and then and gives the stream up when nothing at all comes back. Its owner opens the next one elsewhere, from the
//! revision after the last that it saw.

use std::collections::VecDeque;
use std::time::Duration;

use tenure_proto::etcdserverpb::watch_request::RequestUnion;
use tenure_proto::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use tenure_proto::mvccpb::Event;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::limits::{REQUEST_PATIENCE, STREAM_QUEUE, STREAM_SILENCE_MAX};
use crate::store::Store;

/// Silence after which the server is asked for a sign of life.
const ASK_AFTER: Duration = Duration::from_millis(700);

/// One watch on one node.
#[derive(Debug)]
pub struct Feed {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    ready: VecDeque<Event>,
    /// Everything up to this revision has been seen.
    pub seen_revision: i64,
}

impl Feed {
    /// Opens the watch and waits until the server confirms it.
    pub async fn open(store: &Store, node: usize, create: WatchCreateRequest) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(STREAM_QUEUE);
        let seen_revision = create.start_revision - 1;
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(create).await.map_err(|_| Status::internal("the stream is closed"))?;
        let mut client = store.watch(node);
        let opening = client.watch(ReceiverStream::new(outgoing));
        let late = |_| Status::deadline_exceeded("the watch was not opened in time");
        let responses = timeout(REQUEST_PATIENCE, opening).await.map_err(late)??.into_inner();
        let mut feed = Self { requests, responses, ready: VecDeque::new(), seen_revision };
        let first = timeout(REQUEST_PATIENCE, feed.responses.message()).await.map_err(late)??;
        let first = first.ok_or_else(|| Status::unavailable("the stream ended"))?;
        feed.take(first)?;
        Ok(feed)
    }

    /// The next event, whenever it comes; an error when the stream is of no use any more. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Result<Event, Status> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            self.hear().await?;
        }
    }

    /// Whether every event received so far has been given out.
    pub fn has_none_ready(&self) -> bool {
        self.ready.is_empty()
    }

    /// Waits until the server says anything.
    async fn hear(&mut self) -> Result<(), Status> {
        let response = match timeout(ASK_AFTER, self.responses.message()).await {
            Ok(response) => response,
            Err(_) => {
                let ask = WatchRequest { request_union: Some(RequestUnion::ProgressRequest(WatchProgressRequest {})) };
                // A queue that is full means that the server has not taken the last questions either.
                self.requests.try_send(ask).map_err(|_| Status::unavailable("the stream takes nothing"))?;
                let silent = |_| Status::unavailable("the stream is silent");
                timeout(STREAM_SILENCE_MAX, self.responses.message()).await.map_err(silent)?
            }
        };
        let response = response?.ok_or_else(|| Status::unavailable("the stream ended"))?;
        self.take(response)
    }

    fn take(&mut self, response: WatchResponse) -> Result<(), Status> {
        if response.canceled && response.compact_revision > 0 {
            return Err(Status::out_of_range(format!("history begins at revision {}", response.compact_revision)));
        }
        if response.canceled {
            return Err(Status::cancelled(response.cancel_reason));
        }
        if let Some(last) = response.events.last().and_then(|event| event.kv.as_ref()).filter(|_| !response.fragment) {
            self.seen_revision = self.seen_revision.max(last.mod_revision);
        }
        self.ready.extend(response.events);
        Ok(())
    }
}
