//! openraft's network on top of the links: replication as one pipelined stream per follower, the rest as unary calls.
//!
//! A stream with unanswered requests that makes no progress for [`STALL_TIMEOUT`] is failed here, because nothing else
//! would: openraft sets no deadline on it, and a hung follower would pin the log for ever. What is sent and not yet
//! acknowledged is bounded by bytes, since openraft bounds only the number of requests.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::BoxFuture;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EntryPayload, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use tenure_core::planted::{Bug, is_on};
use tenure_faults::Point;
use tenure_proto::tenure::peer::v1 as pb;
use tokio::sync::Semaphore;
use tonic::{Status, Streaming};

use super::link::{Lane, LinkError, Links};
use super::{marks, meet, transfer, wire};
use crate::runtime::BootInstant;
use crate::snapshot::Outbox;
use crate::state_machine::SnapshotData;
use crate::types::{Config, Peer};

/// How long a stream with unanswered requests may make no progress, apart from the time that their bytes take. Above
/// any healthy fsync, below a person's patience.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// What a link and a disk that are worth waiting for move in a second.
const BYTES_PER_SEC_MIN: usize = 8 << 20;

/// Bytes sent to a follower and not yet acknowledged.
const UNACKED_BYTES_MAX: usize = 8 << 20;

/// A permit stands for this many bytes; every request takes at least one.
const BYTES_PER_PERMIT: usize = 1024;

/// How long an unreachable peer is left alone.
const BACKOFF: Duration = Duration::from_millis(100);

/// How long a peer is left alone that a snapshot could not be sent to: the disk may be full, or the file limit reached.
const SNAPSHOT_BACKOFF: Duration = Duration::from_secs(1);

type Answer<T> = Result<T, RPCError<Config>>;

/// Makes the clients.
pub(crate) struct Network {
    links: Links,
    outbox: Arc<Outbox>,
}

impl Network {
    pub(crate) fn new(links: Links, outbox: Arc<Outbox>) -> Network {
        Network { links, outbox }
    }

    fn client(&self, target: u64, peer: &Peer, lane: Lane) -> Client {
        self.links.learn(target, peer);
        Client { links: self.links.clone(), outbox: self.outbox.clone(), target, lane }
    }
}

impl RaftNetworkFactory<Config> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> Client {
        self.client(target, peer, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, peer: &Peer) -> Client {
        self.client(target, peer, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, peer: &Peer) -> Client {
        self.client(target, peer, Lane::Snapshot)
    }
}

/// Talks to one peer.
pub(crate) struct Client {
    links: Links,
    outbox: Arc<Outbox>,
    target: u64,
    lane: Lane,
}

impl Client {
    /// Votes must not queue behind entries, whatever lane the client replicates on.
    const VOTE_LANE: Lane = Lane::Control;

    /// Waits for the answer of a unary call as long as openraft does, and forgets the connection if there is none.
    async fn answer<T>(
        &self,
        lane: Lane,
        option: &RPCOption,
        call: impl Future<Output = Result<tonic::Response<T>, Status>> + Send,
    ) -> Answer<T> {
        let answer = tokio::time::timeout(option.soft_ttl(), call).await.unwrap_or_else(|_| Err(timed_out()));
        answer.map(tonic::Response::into_inner).map_err(|status| broken(&self.links, self.target, lane, &status))
    }
}

/// Forgets a connection that failed.
fn broken(links: &Links, target: u64, lane: Lane, status: &Status) -> RPCError<Config> {
    links.forget(target, lane);
    RPCError::Unreachable(Unreachable::from_string(status))
}

fn unreachable(error: &LinkError) -> RPCError<Config> {
    RPCError::Unreachable(Unreachable::from_string(error))
}

fn malformed(error: impl ToString) -> RPCError<Config> {
    RPCError::Unreachable(Unreachable::from_string(error))
}

fn timed_out() -> Status {
    Status::deadline_exceeded("the peer did not answer in time")
}

impl RaftNetworkV2<Config> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Config>,
        option: RPCOption,
    ) -> Answer<AppendEntriesResponse<Config>> {
        let result = self.append_one(request, option).await?;
        Ok(AppendEntriesResponse::from(result))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Answer<BoxStream<'s, Answer<StreamAppendResult<Config>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Config>> + OptionalSend + Unpin + 'static,
    {
        if self.lane == Lane::Control {
            // A heartbeat is a fresh stream of one request: a unary call serves it better.
            return Box::pin(async move {
                let Some(request) = input.next().await else {
                    return Ok(futures::stream::empty().boxed());
                };
                let result = self.append_one(request, option).await?;
                Ok(futures::stream::iter([Ok(result)]).boxed())
            });
        }
        let (links, target, input) = (self.links.clone(), self.target, input.boxed());
        Box::pin(async move { open_stream(links, target, input).await })
    }

    async fn vote(&mut self, request: VoteRequest<Config>, option: RPCOption) -> Answer<VoteResponse<Config>> {
        let (mut client, route) =
            self.links.client(self.target, Client::VOTE_LANE).await.map_err(|e| unreachable(&e))?;
        let call = client.vote(wire::vote_request(route, &request));
        let answer = self.answer(Client::VOTE_LANE, &option, call).await?;
        wire::read_vote_response(&answer).map_err(malformed)
    }

    async fn pre_vote(&mut self, request: VoteRequest<Config>, option: RPCOption) -> Answer<VoteResponse<Config>> {
        let (mut client, route) =
            self.links.client(self.target, Client::VOTE_LANE).await.map_err(|e| unreachable(&e))?;
        let call = client.pre_vote(wire::vote_request(route, &request));
        let answer = self.answer(Client::VOTE_LANE, &option, call).await?;
        wire::read_vote_response(&answer).map_err(malformed)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Config>,
        snapshot: SnapshotOf<Config, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let (links, outbox) = (self.links.clone(), self.outbox.clone());
        links.note_told(snapshot.meta.last_log_id.as_ref());
        let sending = transfer::send(links, outbox, self.target, vote, snapshot.snapshot);
        tokio::select! {
            sent = sending => sent,
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Config>,
        option: RPCOption,
    ) -> Answer<TransferLeaderResponse<Config>> {
        let (mut client, route) =
            self.links.client(self.target, Client::VOTE_LANE).await.map_err(|e| unreachable(&e))?;
        let call = client.transfer_leader(wire::transfer_request(route, &request));
        let answer = self.answer(Client::VOTE_LANE, &option, call).await?;
        if answer.refused.is_empty() { Ok(Ok(())) } else { Err(malformed(answer.refused)) }
    }

    fn backoff(&self) -> Option<Backoff> {
        let pause = if self.lane == Lane::Snapshot { SNAPSHOT_BACKOFF } else { BACKOFF };
        Some(Backoff::new(std::iter::repeat(pause)))
    }
}

impl Client {
    async fn append_one(
        &self,
        request: AppendEntriesRequest<Config>,
        option: RPCOption,
    ) -> Answer<StreamAppendResult<Config>> {
        let (mut client, route) = self.links.client(self.target, self.lane).await.map_err(|e| unreachable(&e))?;
        let acknowledged = self.links.acknowledged(self.target, term_of(&request));
        let term = term_of(&request);
        meet(Point::RaftBeforeLeaderSend).await;
        self.links.note_told(request.leader_commit.as_ref());
        let call = client.heartbeat(wire::append_request(route, &request, 0, acknowledged));
        let answer = self.answer(self.lane, &option, call).await?;
        if answer.awaits_commits {
            self.links.note_awaiting(self.target);
        }
        let result = wire::read_append_response(&answer).map_err(malformed)?;
        self.links.note_acknowledged(self.target, term, &result);
        Ok(result)
    }
}

pub(super) type Requests = BoxStream<'static, AppendEntriesRequest<Config>>;
type Results = BoxStream<'static, Answer<StreamAppendResult<Config>>>;

/// Opens a replication stream. It owns what it needs: openraft may drop the client while the stream lives.
///
/// Openraft waits out its backoff only while a stream is read from, so a failure to open one waits here.
async fn open_stream(links: Links, target: u64, input: Requests) -> Answer<Results> {
    let opened = try_open_stream(links, target, input).await;
    if opened.is_err() {
        tokio::time::sleep(BACKOFF).await;
    }
    opened
}

async fn try_open_stream(links: Links, target: u64, input: Requests) -> Answer<Results> {
    let (mut client, route) = links.client(target, Lane::Log).await.map_err(|e| unreachable(&e))?;
    let window = Arc::new(Window::new());
    links.streams().opened(target, &window);
    let (awaited, others) = (links.clone(), links.clone());
    let at_once = move || awaited.awaiting().is_awaited_by(target);
    let input = marks::in_company(input, at_once, move || others.is_spare(target));
    let requests = encoded(input, window.clone(), route, links.clone());
    let call: futures::future::BoxFuture<'_, Result<tonic::Response<Streaming<pb::AppendResponse>>, Status>> =
        Box::pin(client.append(requests));
    let opened = tokio::time::timeout(STALL_TIMEOUT, call).await;
    let answers = match opened {
        Ok(Ok(answers)) => answers.into_inner(),
        Ok(Err(status)) => return Err(broken(&links, target, Lane::Log, &status)),
        Err(_) => return Err(broken(&links, target, Lane::Log, &timed_out())),
    };
    let open = Some(Answers { answers, window, links, target });
    Ok(results(open))
}

fn results(open: Option<Answers>) -> Results {
    futures::stream::unfold(open, |open: Option<Answers>| async move { next_result(open?).await }).boxed()
}

/// The receiving end of a replication stream.
struct Answers {
    answers: Streaming<pb::AppendResponse>,
    window: Arc<Window>,
    links: Links,
    target: u64,
}

impl Drop for Answers {
    /// Ends the sending half: nobody reads what it would be answered.
    fn drop(&mut self) {
        self.window.close();
    }
}

/// The next result and, unless it was the last, the rest of the stream.
async fn next_result(mut open: Answers) -> Option<(Answer<StreamAppendResult<Config>>, Option<Answers>)> {
    match next_answer(&mut open.answers, &open.window).await {
        Ok(Some(answer)) => {
            let term = open.window.acknowledge();
            if answer.awaits_commits {
                open.links.note_awaiting(open.target);
            }
            let result = wire::read_append_response(&answer).map_err(malformed);
            if let (Some(term), Ok(result)) = (term, &result) {
                open.links.note_acknowledged(open.target, term, result);
            }
            let rest = matches!(&result, Ok(Ok(_))).then_some(open);
            Some((result, rest))
        }
        Ok(None) => None,
        Err(_) if is_on(Bug::DeafReplication) => futures::future::pending().await,
        Err(status) => Some((Err(broken(&open.links, open.target, Lane::Log, &status)), None)),
    }
}

/// The requests as messages, each let through once it fits the window.
///
/// Boxed, because the compiler cannot see that the plain stream is `Send` where openraft asks for it.
fn encoded(
    input: Requests,
    window: Arc<Window>,
    route: pb::Route,
    links: Links,
) -> BoxStream<'static, pb::AppendRequest> {
    let mut sequence = 0;
    let requests = input.then(move |request| {
        sequence += 1;
        let (window, sequence, links) = (window.clone(), sequence, links.clone());
        async move {
            window.admit(&request).await?;
            let acknowledged = links.acknowledged(route.to, term_of(&request));
            meet(Point::RaftBeforeLeaderSend).await;
            links.note_told(request.leader_commit.as_ref());
            Some(wire::append_request(route, &request, sequence, acknowledged))
        }
    });
    requests.take_while(|request| futures::future::ready(request.is_some())).filter_map(futures::future::ready).boxed()
}

/// The next answer, or an error if one is owed and does not come.
async fn next_answer(
    answers: &mut Streaming<pb::AppendResponse>,
    window: &Window,
) -> Result<Option<pb::AppendResponse>, Status> {
    loop {
        let owed_since = window.oldest_sequence();
        match tokio::time::timeout(window.patience(), answers.message()).await {
            Ok(answer) => return answer,
            // Owed before the wait began and still owed: the peer had the whole time-out to answer it.
            Err(_) if owed_since.is_some() && owed_since == window.oldest_sequence() => return Err(timed_out()),
            Err(_) => {}
        }
    }
}

/// The requests of one stream that were sent and not answered yet.
#[derive(Debug)]
pub(super) struct Window {
    permits: Semaphore,
    sent: Mutex<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    /// Requests sent so far.
    count: u64,
    /// How long answers take, the last ones above all.
    usual_time: Option<Duration>,
    unanswered: VecDeque<Request>,
}

/// A request that was sent and not answered yet.
#[derive(Debug)]
struct Request {
    sequence: u64,
    since: BootInstant,
    permits: u32,
    bytes: usize,
    term: u64,
}

impl Window {
    const PERMITS: usize = UNACKED_BYTES_MAX / BYTES_PER_PERMIT;

    pub(super) fn new() -> Window {
        Window { permits: Semaphore::new(Window::PERMITS), sent: Mutex::default() }
    }

    /// Waits until the request fits, and notes it; none once the stream is over. A request above the whole window takes
    /// all of it.
    pub(super) async fn admit(&self, request: &AppendEntriesRequest<Config>) -> Option<()> {
        let bytes: usize = request.entries.iter().map(entry_bytes).sum();
        let permits = u32::try_from((bytes / BYTES_PER_PERMIT + 1).min(Window::PERMITS)).unwrap_or(u32::MAX);
        self.permits.acquire_many(permits).await.ok()?.forget();
        let mut sent = self.sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sent.count += 1;
        let sequence = sent.count;
        sent.unanswered.push_back(Request {
            sequence,
            since: BootInstant::now(),
            permits,
            bytes,
            term: term_of(request),
        });
        Some(())
    }

    /// Takes the oldest request off the books and returns its term.
    pub(super) fn acknowledge(&self) -> Option<u64> {
        let mut sent = self.sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let request = sent.unanswered.pop_front()?;
        let took = request.since.elapsed();
        sent.usual_time = Some(sent.usual_time.map_or(took, |usual| (usual * 7 + took) / 8));
        self.permits.add_permits(request.permits as usize);
        Some(request.term)
    }

    /// How long the oldest answer may take: longer for what is large.
    fn patience(&self) -> Duration {
        let sent = self.sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bytes: usize = sent.unanswered.iter().map(|request| request.bytes).sum();
        STALL_TIMEOUT + Duration::from_secs((bytes / BYTES_PER_SEC_MIN) as u64)
    }

    /// Ends the stream.
    pub(super) fn close(&self) {
        self.permits.close();
    }

    #[cfg(test)]
    pub(super) fn set_usual_time(&self, time: Duration) {
        self.sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).usual_time = Some(time);
    }

    /// How long answers take of late, if there were any on a stream that goes on.
    pub(super) fn usual_time(&self) -> Option<Duration> {
        let sent = self.sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sent.usual_time.filter(|_| !self.permits.is_closed())
    }

    /// Whether an answer is owed for longer than that.
    pub(super) fn owes_for(&self, time: Duration) -> bool {
        let sent = self.sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sent.unanswered.front().is_some_and(|request| request.since.elapsed() > time)
    }

    fn oldest_sequence(&self) -> Option<u64> {
        let sent = self.sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sent.unanswered.front().map(|request| request.sequence)
    }
}

fn term_of(request: &AppendEntriesRequest<Config>) -> u64 {
    request.vote.leader_id.term
}

pub(super) fn entry_bytes(entry: &crate::types::Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}
