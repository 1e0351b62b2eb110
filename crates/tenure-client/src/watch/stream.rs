//! The task of one stream: keeps a call to some member open, and lets the table say what goes over it.
//!
//! It never waits for a reader, and never for the server to take a request while answers come. When the call fails, or the pulse
//! says that it is worth nothing, the task opens another one, rather elsewhere, and all watches of the stream go on over
//! that. Only what would be refused everywhere ends them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::unfold;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tonic::{Response, Status, Streaming};

use super::error::WatchError;
use super::hub::Inbox;
use super::mailbox::{Mailbox, Want};
use super::pulse::{Beat, Pulse};
use super::table::{Action, End, Table, Unusable, WatchKey, revision_of};
use crate::client::{Client, ServerKind};
use crate::clock::Instant;
use crate::error::{Error, Verdict};
use crate::ids::Revision;
use crate::transport::{Link, backoff};

/// Requests between the table and the connection.
const REQUESTS_QUEUED_MAX: usize = 16;
/// A stream that lived for this long is opened again at once when it breaks. Others wait a little, so that a member that takes
/// streams and drops them is not asked without end.
const STEADY: Duration = Duration::from_secs(1);
/// How often in a row streams may end because of their token, each with a new one, before the watches do.
const TOKENS_REFUSED_MAX: u32 = 3;

/// See the module's header.
#[derive(Debug)]
pub(super) struct StreamTask {
    client: Client,
    inbox: Arc<Inbox>,
    table: Table,
    mailboxes: BTreeMap<WatchKey, Arc<Mailbox>>,
    /// The cluster that the watches are of, once a member has said so.
    cluster: Option<u64>,
    /// Whether what a member says of a whole stream can be relied on: Tenure's word can.
    trusts_stream_progress: bool,
    /// Streams in a row that did not come to make a watch.
    failures: u32,
    tokens_refused: u32,
}

/// How a stream ended.
enum Loss {
    /// Nobody needs it any longer.
    Retired,
    /// The call failed.
    Broken(Status),
    /// It was left.
    Left(String),
    /// It makes no sense to open another.
    Final(WatchError),
}

/// What a stream has done.
struct Course {
    pulse: Pulse,
    opened_at: Instant,
    has_started: bool,
}

impl StreamTask {
    pub(super) fn new(client: Client, inbox: Arc<Inbox>) -> StreamTask {
        StreamTask {
            client,
            inbox,
            table: Table::default(),
            mailboxes: BTreeMap::new(),
            cluster: None,
            trusts_stream_progress: false,
            failures: 0,
            tokens_refused: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let mut avoid = None;
        self.attend();
        while !self.is_retired() {
            let client = self.client.clone();
            let Some(found) = self.busy(client.link(avoid)).await else { continue };
            let pause = match found {
                Ok(link) => {
                    avoid = Some(link.endpoint());
                    let Some(pause) = self.use_link(link).await else { return };
                    pause
                }
                Err(error) if error.is_retryable() => {
                    self.set_back(&WatchError::Failed(error));
                    self.failures += 1;
                    self.backoff()
                }
                Err(Error::Closed) => return,
                Err(error) => {
                    self.end_all(&WatchError::Failed(error));
                    Duration::ZERO
                }
            };
            if !pause.is_zero() {
                let clock = self.client.clock().clone();
                self.busy(async move { clock.sleep(pause).await }).await;
            }
        }
    }

    /// Has a stream on a link, until it ends. Returns how long to wait for the next one; none if it is not needed.
    async fn use_link(&mut self, link: Link) -> Option<Duration> {
        let link = if self.inbox.wants_leader { link } else { link.without_leader() };
        let now = self.client.clock().now();
        let pulse = Pulse::new(self.client.options().watch_patience, now);
        let mut course = Course { pulse, opened_at: now, has_started: false };
        let loss = self.serve(&link, &mut course).await;
        let actions = self.table.lost();
        self.act(actions, &mut course);
        let error = match loss {
            Loss::Retired => return None,
            Loss::Broken(status) => {
                link.report(Err(&status));
                let error = WatchError::Failed(Error::from_status(&link, false, &status));
                if matches!(Verdict::of(&status, true), Verdict::Refused(_)) {
                    self.end_all(&error);
                }
                error
            }
            Loss::Left(reason) => WatchError::Failed(Error::from_status(&link, false, &Status::unavailable(reason))),
            Loss::Final(error) => {
                self.end_all(&error);
                self.cluster = None;
                error
            }
        };
        tracing::debug!(endpoint = link.address(), %error, "a watch stream is gone");
        self.set_back(&error);
        let is_steady = self.client.clock().now() - course.opened_at >= STEADY;
        self.failures = if course.has_started { 1 } else { self.failures + 1 };
        Some(if course.has_started && is_steady { Duration::ZERO } else { self.backoff() })
    }

    async fn serve(&mut self, link: &Link, course: &mut Course) -> Loss {
        let (clock, inbox) = (self.client.clock().clone(), self.inbox.clone());
        let (sender, queue) = mpsc::channel(REQUESTS_QUEUED_MAX);
        let mut answers = Answers::open(link.clone(), queue);
        let mut kind = kind_of(self.client.clone(), self.trusts_stream_progress);
        let mut timer = clock.sleep_until(course.pulse.due());
        let mut is_heard = true;
        self.table.connected(self.trusts_stream_progress);
        loop {
            tokio::select! {
                permit = sender.reserve(), if is_heard && self.table.has_requests() => match permit {
                    Ok(permit) => {
                        if let Some(request) = self.table.next_request() {
                            permit.send(request);
                        }
                    }
                    // The call is ending, and its answer says why.
                    Err(_) => is_heard = false,
                },
                answer = answers.next() => match answer {
                    Ok(Some(message)) => {
                        if let Err(loss) = self.take(message, link, course) {
                            return loss;
                        }
                    }
                    Ok(None) => return Loss::Left("the server ended the watch stream".to_owned()),
                    Err(status) => return Loss::Broken(status),
                },
                () = inbox.attention.wanted() => self.attend(),
                is_tenure = &mut kind => {
                    kind = std::future::pending().boxed();
                    self.trusts_stream_progress = is_tenure;
                    if is_tenure {
                        self.table.trust_stream_progress();
                    }
                }
                () = &mut timer => {
                    if let Some(loss) = self.beat(link, course) {
                        return loss;
                    }
                    timer = clock.sleep_until(course.pulse.due());
                }
            }
            if self.is_retired() {
                return Loss::Retired;
            }
        }
    }

    fn beat(&mut self, link: &Link, course: &mut Course) -> Option<Loss> {
        match course.pulse.beat(self.client.clock().now())? {
            Beat::AskProgress => self.table.ask_progress(),
            Beat::Knock => self.table.knock(),
            Beat::LeaveSilent => {
                link.report_silence();
                return Some(Loss::Left("no sign of life on the watch stream".to_owned()));
            }
            Beat::LeaveBehind => return Some(Loss::Left("the member is behind the others".to_owned())),
        }
        None
    }

    fn take(&mut self, message: pb::WatchResponse, link: &Link, course: &mut Course) -> Result<(), Loss> {
        let now = self.client.clock().now();
        course.pulse.heard(now);
        let cluster = message.header.as_ref().map_or(0, |header| header.cluster_id);
        if cluster != 0 && *self.cluster.get_or_insert(cluster) != cluster {
            self.client.watches().forget();
            return Err(Loss::Final(WatchError::OtherCluster));
        }
        let revision = revision_of(&message);
        let known = self.client.watches().note(revision);
        // Events may be old ones, and so may be their revision.
        if revision > Revision::NONE && message.events.is_empty() && (message.created || !message.canceled) {
            course.pulse.stands_at(revision, known, now);
        }
        let actions = match self.table.message(message) {
            Ok(actions) => actions,
            Err(Unusable::Token(words)) => {
                self.tokens_refused += 1;
                if link.token().is_none() || self.tokens_refused >= TOKENS_REFUSED_MAX {
                    return Err(Loss::Final(WatchError::refused(words)));
                }
                return Err(Loss::Broken(Status::unauthenticated(words)));
            }
            Err(nonsense) => return Err(Loss::Left(nonsense.to_string())),
        };
        let has_started = course.has_started;
        self.act(actions, course);
        if course.has_started && !has_started {
            link.report(Ok(()));
        }
        Ok(())
    }

    fn act(&mut self, actions: Vec<Action>, course: &mut Course) {
        for action in actions {
            match action {
                Action::Started(key, from) => {
                    course.has_started = true;
                    self.tokens_refused = 0;
                    self.tell(key, |mailbox| mailbox.started(from));
                }
                Action::Deliver(key, wholes) => {
                    if let Some(last) = wholes.last() {
                        self.client.watches().note(last.revision);
                    }
                    if let Some(mailbox) = self.mailboxes.get(&key)
                        && let Some(next) = mailbox.deliver(wholes)
                    {
                        self.table.detach(key, next);
                    }
                }
                Action::Progress(key, revision) => self.tell(key, |mailbox| mailbox.progress(revision)),
                Action::End(key, End::Compacted(at)) => self.end(key, &WatchError::Compacted { at }),
                Action::End(key, End::Refused(words)) => self.end(key, &WatchError::refused(words)),
                Action::End(key, End::TooLarge(revision)) => self.end(key, &WatchError::TooLarge { revision }),
                Action::Closed(key) => self.end(key, &WatchError::Cancelled),
            }
        }
    }

    /// Does what others want of the stream.
    fn attend(&mut self) {
        for opening in self.inbox.take_openings() {
            let key = opening.mailbox.key();
            self.table.open(key, opening.scope, opening.start);
            self.mailboxes.insert(key, opening.mailbox);
        }
        for key in self.inbox.attention.take() {
            match self.mailboxes.get(&key).map_or(Want::Nothing, |mailbox| mailbox.want()) {
                Want::Close => {
                    if let Some(Action::Closed(key)) = self.table.close(key) {
                        self.end(key, &WatchError::Cancelled);
                    }
                }
                Want::More => self.table.attach(key),
                Want::Nothing => {}
            }
        }
    }

    /// Waits for something, and does meanwhile what others want. None if nobody needs the stream any longer.
    async fn busy<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        let inbox = self.inbox.clone();
        loop {
            tokio::select! {
                output = &mut future => return Some(output),
                () = inbox.attention.wanted() => self.attend(),
            }
            if self.table.is_empty() {
                return None;
            }
        }
    }

    /// Whether nobody needs the stream. If so, nobody will: the next watch gets another one.
    fn is_retired(&self) -> bool {
        self.table.is_empty() && self.client.watches().retire(&self.inbox)
    }

    fn tell(&self, key: WatchKey, what: impl FnOnce(&Mailbox)) {
        if let Some(mailbox) = self.mailboxes.get(&key) {
            what(mailbox);
        }
    }

    fn end(&mut self, key: WatchKey, why: &WatchError) {
        if let Some(mailbox) = self.mailboxes.remove(&key) {
            mailbox.end(why.clone());
            self.inbox.left();
        }
    }

    fn end_all(&mut self, why: &WatchError) {
        let keys: Vec<WatchKey> = self.table.keys().collect();
        keys.into_iter().for_each(|key| drop(self.table.close(key)));
        // No server knows of them any longer, or none that matters.
        drop(self.table.lost());
        let keys: Vec<WatchKey> = self.mailboxes.keys().copied().collect();
        keys.into_iter().for_each(|key| self.end(key, why));
    }

    fn set_back(&self, why: &WatchError) {
        self.mailboxes.values().for_each(|mailbox| mailbox.setback(why.clone()));
    }

    fn backoff(&self) -> Duration {
        backoff(self.client.options().backoff, self.failures, self.client.clock().random())
    }
}

/// The task may end anywhere: by the client's end, too. Nobody waits for it in vain.
impl Drop for StreamTask {
    fn drop(&mut self) {
        self.client.watches().remove(&self.inbox);
        self.attend();
        self.end_all(&WatchError::Closed);
    }
}

/// The answers of a call: it gives none before the server has answered for the first time.
enum Answers {
    Opening(BoxFuture<'static, Result<Response<Streaming<pb::WatchResponse>>, Status>>),
    Open(Box<Streaming<pb::WatchResponse>>),
}

impl Answers {
    fn open(link: Link, queue: mpsc::Receiver<pb::WatchRequest>) -> Answers {
        let requests = unfold(queue, |mut queue| async move { queue.recv().await.map(|request| (request, queue)) });
        // A fragment holds at least one event, whatever a server lets a value be.
        let mut client = WatchClient::new(link).max_decoding_message_size(usize::MAX);
        Answers::Opening(async move { client.watch(requests).await }.boxed())
    }

    /// The next message. Nothing is lost if the future is dropped.
    async fn next(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        loop {
            match self {
                Answers::Opening(opening) => *self = Answers::Open(Box::new(opening.await?.into_inner())),
                Answers::Open(messages) => return messages.message().await,
            }
        }
    }
}

/// Whether the cluster is Tenure, once that is known. It asks nobody who has told already.
fn kind_of(client: Client, is_tenure: bool) -> BoxFuture<'static, bool> {
    if is_tenure {
        return std::future::pending().boxed();
    }
    async move { matches!(client.kind().await, Ok(ServerKind::Tenure)) }.boxed()
}
