//! A watch that survives its servers.
//!
//! It remembers the next revision that it has not delivered. When a stream breaks it opens another one from there, at
//! whatever endpoint answers, for as long as it takes. Servers send revisions whole, so there is neither a gap nor a
//! repetition; what a server repeats nevertheless is dropped. What cannot be resumed, because compaction took the history,
//! is an error and never a silent gap.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::watch_client::WatchClient;
use tenure_proto::etcdserverpb::watch_request::RequestUnion;
use tenure_proto::mvccpb::Event;
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Client, ClientError, Effect, Endpoint, Refused, Setback, endpoint};
use crate::ids::Revision;

/// Between attempts to go on while no endpoint answers.
const RESUME_PAUSE: Duration = Duration::from_millis(250);

/// What to watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchSpec {
    pub key: bytes::Bytes,
    pub range_end: bytes::Bytes,
    /// The first revision that counts; none for what comes from now on.
    pub start: Option<Revision>,
    pub prev_kv: bool,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub(crate) enum Update {
    /// It has begun: everything from this revision on will be told.
    Started { endpoint: Endpoint, from: Revision },
    /// The stream broke; the watch is trying to go on.
    Lost(Setback),
    /// It goes on, from this revision.
    Resumed { endpoint: Endpoint, from: Revision },
    /// Whole revisions, in order.
    Events(Vec<Event>),
    /// Nothing is missing up to this revision.
    Progress(Revision),
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Watcher<'a> {
    client: &'a Client,
    spec: WatchSpec,
    /// The first revision that was not delivered; none before the watch has begun.
    next: Option<Revision>,
    stream: Option<(usize, Streaming<pb::WatchResponse>)>,
}

type Opened = (Streaming<pb::WatchResponse>, pb::WatchResponse);

impl<'a> Watcher<'a> {
    /// A watch that begins with the first call of [`Watcher::next`].
    pub(crate) fn new(client: &'a Client, spec: WatchSpec) -> Watcher<'a> {
        Watcher { client, spec, next: None, stream: None }
    }

    /// Waits for the next thing to tell. After an error there is nothing more.
    pub(crate) async fn next(&mut self) -> Result<Update, ClientError> {
        loop {
            let Some((at, stream)) = &mut self.stream else { return self.begin().await };
            let at = *at;
            match stream.message().await {
                Ok(Some(answer)) => {
                    if let Some(update) = self.take(answer)? {
                        return Ok(update);
                    }
                }
                Ok(None) => return Ok(self.lose(at, "the server ended the watch".to_owned()).await),
                Err(status) if endpoint::is_broken(&status) => {
                    return Ok(self.lose(at, endpoint::broken(&status)).await);
                }
                Err(status) => {
                    let is_internal = status.code() == Code::Internal;
                    let refused = Refused::new(self.client.slots[at].endpoint.clone(), status);
                    if !refused.is_vague() && !is_internal {
                        return Err(ClientError::Refused(refused));
                    }
                    return Ok(self.lose(at, refused.text()).await);
                }
            }
        }
    }

    async fn lose(&mut self, at: usize, reason: String) -> Update {
        self.stream = None;
        self.client.forget(at).await;
        Update::Lost(Setback { endpoint: self.client.slots[at].endpoint.clone(), reason })
    }

    /// Opens the stream: with an end to patience the first time, afterwards without.
    async fn begin(&mut self) -> Result<Update, ClientError> {
        let (stream, created) = loop {
            match self.open().await {
                Ok(opened) => break opened,
                Err(ClientError::Unreachable(_) | ClientError::NoLeader(_) | ClientError::NoAnswer(_))
                    if self.next.is_some() =>
                {
                    sleep(RESUME_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        };
        if created.canceled {
            return Err(cancelled(created));
        }
        let at = self.client.order().next().unwrap_or_default();
        self.stream = Some((at, stream));
        let endpoint = self.client.slots[at].endpoint.clone();
        if let Some(from) = self.next {
            return Ok(Update::Resumed { endpoint, from });
        }
        // A watch without a start begins after the revision at which it was made.
        let made_at = Revision(created.header.map_or(0, |header| header.revision));
        let from = self.spec.start.unwrap_or(made_at.next());
        self.next = Some(from);
        Ok(Update::Started { endpoint, from })
    }

    async fn open(&self) -> Result<Opened, ClientError> {
        let start = self.next.or(self.spec.start);
        let create = pb::WatchCreateRequest {
            key: self.spec.key.clone(),
            range_end: self.spec.range_end.clone(),
            start_revision: start.map_or(0, |revision| revision.0),
            // Moves `next` on while nothing happens, so that compaction does not overtake a quiet watch.
            progress_notify: true,
            prev_kv: self.spec.prev_kv,
            ..pb::WatchCreateRequest::default()
        };
        let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        self.client.call(Effect::Read, self.client.timeouts.command, request, create_watch).await
    }

    fn take(&mut self, answer: pb::WatchResponse) -> Result<Option<Update>, ClientError> {
        if answer.canceled {
            return Err(cancelled(answer));
        }
        let next = self.next.unwrap_or(Revision(0));
        if answer.events.is_empty() {
            let Some(header) = answer.header.filter(|_| !answer.created) else { return Ok(None) };
            let progress = Revision(header.revision);
            self.next = Some(next.max(progress.next()));
            return Ok(Some(Update::Progress(progress)));
        }
        let revision = |event: &Event| Revision(event.kv.as_ref().map_or(0, |kv| kv.mod_revision));
        let mut events = answer.events;
        events.retain(|event| revision(event) >= next);
        let Some(last) = events.last() else { return Ok(None) };
        self.next = Some(revision(last).next());
        Ok(Some(Update::Events(events)))
    }
}

fn cancelled(answer: pb::WatchResponse) -> ClientError {
    if answer.compact_revision > 0 {
        ClientError::WatchCompacted { oldest: Revision(answer.compact_revision) }
    } else {
        ClientError::WatchRefused(answer.cancel_reason)
    }
}

/// Opens a stream with one watch on it, and waits until the server says that it is there.
async fn create_watch(channel: Channel, request: Request<pb::WatchRequest>) -> Result<Response<Opened>, Status> {
    let (metadata, extensions, create) = request.into_parts();
    // The stream of requests stays open: its end would end the watch.
    let requests = stream::once(async { create }).chain(stream::pending());
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut answers = client.watch(Request::from_parts(metadata, extensions, requests)).await?.into_inner();
    let created = answers.message().await?;
    let created = created.ok_or_else(|| Status::unavailable("the server ended the watch before it began"))?;
    Ok(Response::new((answers, created)))
}
