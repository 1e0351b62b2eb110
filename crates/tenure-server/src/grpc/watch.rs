//! etcdserverpb.Watch: converts, and leaves everything else to the node.

use std::pin::Pin;

use futures::future::ready;
use futures::stream::{Stream, StreamExt, unfold};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::watch_server::Watch;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{event_wire_bytes, watch_request, watch_response};
use super::errors::ApiError;
use super::header;
use crate::node::watch::StreamLimits;
use crate::node::{Node, RequestError};

/// See the module's header.
pub(super) struct WatchService {
    node: Node,
    limits: StreamLimits,
    draining: watch::Receiver<bool>,
}

impl WatchService {
    /// Watchers that take fragments get none of `message_bytes_max` or more.
    pub(super) fn new(node: Node, message_bytes_max: usize, draining: watch::Receiver<bool>) -> WatchService {
        WatchService { node, limits: StreamLimits::new(message_bytes_max, event_wire_bytes), draining }
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

impl WatchService {
    /// What a client is told who asks these.
    pub(super) fn messages<R>(&self, requests: R) -> Result<Messages, Status>
    where
        R: Stream<Item = Result<pb::WatchRequest, Status>> + Send + Unpin + 'static,
    {
        let requests = requests.filter_map(|request| ready(request.map(watch_request).transpose()));
        let mut draining = self.draining.clone();
        let stopped = async move {
            // A dropped sender means that the process is ending, too.
            drop(draining.wait_for(|draining| *draining).await);
            Status::from(ApiError::Stopped)
        };
        let session = self.node.watch(requests, stopped, self.limits).map_err(ApiError::from)?;
        let messages = unfold((session, self.node.clone()), |(mut session, node)| async move {
            let message = session.next().await?;
            let message = message.map(|message| watch_response(message, |revision| header(&node, revision)));
            Some((message, (session, node)))
        });
        Ok(Box::pin(messages))
    }
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Messages;

    async fn watch(&self, requests: Request<Streaming<pb::WatchRequest>>) -> Result<Response<Messages>, Status> {
        Ok(Response::new(self.messages(requests.into_inner())?))
    }
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Status {
        ApiError::from(error).into()
    }
}
