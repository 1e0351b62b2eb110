//! One client: asks one thing at a time, by a deadline, and records what became of it.
//!
//! What became of a request that was not answered matters most. It *failed* only if it certainly did nothing: the member
//! could not be connected to, or it refused at the door. Any other error of a write leaves it open whether the write was
//! done, or will be. A read has no effect, so whatever was not answered failed.

pub mod locks;

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_history::request::{DeleteRange, KeyRange, Put, Range, Request};
use tenure_history::response::{Body, KeyText, Outcome, Refusal, Response};
use tenure_history::{ClientId, LeaseId, Moment, NodeId, Operation, Revision};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::tenure::v1;
use tenure_proto::tenure::v1::leases_client::LeasesClient;
use tenure_proto::v3lockpb::LockRequest;
use tenure_proto::v3lockpb::lock_client::LockClient;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::connect::Channel;
use crate::stage::Stage;
use crate::translate;
use crate::workloads::Workload;

/// Clients differ in patience, so that they do not all come back at the same moment.
const DEADLINE_MIN: Duration = Duration::from_millis(600);
const DEADLINE_STEP: Duration = Duration::from_millis(200);
const DEADLINE_STEPS: u32 = 8;
/// After a failure, so that a dead member is not hammered.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(40);
/// A client that moves about leaves a member after this many failures in a row.
const FAILURES_BORNE: u32 = 2;

/// One client of the cluster.
#[derive(Debug)]
pub struct Client {
    pub stage: Arc<Stage>,
    pub rng: StdRng,
    workload: Workload,
    id: ClientId,
    at: usize,
    /// Whether it goes to another member when one fails it.
    moves: bool,
    failures: u32,
    deadline: Duration,
    /// How much longer it waits between requests than the workload's clients usually do.
    slowness: f64,
    channels: Vec<Channel>,
    renewals: Option<Renewals>,
}

/// A stream of renewals.
#[derive(Debug)]
struct Renewals {
    ask: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: Streaming<pb::LeaseKeepAliveResponse>,
}

/// Why there is no answer.
enum Lost {
    Status(Status),
    /// A stream that was there before had gone: nothing was sent.
    NotSent,
    /// The answer was no answer to this.
    Odd(&'static str),
}

impl Client {
    /// The client with this number; every third stays at its member whatever happens.
    pub fn new(stage: &Arc<Stage>, workload: Workload, number: u32) -> Client {
        let channels: Vec<Channel> =
            (0..stage.connect.members()).map(|member| stage.connect.connect(number, member)).collect();
        let members = u32::try_from(channels.len()).unwrap_or(u32::MAX);
        Client {
            stage: stage.clone(),
            rng: StdRng::seed_from_u64(stage.seed ^ (u64::from(number) << 32)),
            workload,
            id: ClientId(number),
            at: (number % members) as usize,
            moves: !(number / members).is_multiple_of(3),
            failures: 0,
            deadline: DEADLINE_MIN + DEADLINE_STEP * (number % DEADLINE_STEPS),
            slowness: 1.0,
            channels,
            renewals: None,
        }
    }

    /// The same, slower.
    #[must_use]
    pub fn slower(self, slowness: f64) -> Client {
        Client { slowness, ..self }
    }

    /// Its number.
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// The instant now.
    pub fn now(&self) -> Moment {
        self.stage.recorder.now()
    }

    /// Goes to a member for good.
    pub fn stay_at(&mut self, member: usize) {
        (self.at, self.moves) = (member, false);
    }

    /// Asks, waits, records; a failure is followed by a short pause.
    pub async fn ask(&mut self, request: Request) -> Outcome {
        let called = self.now();
        let node = u32::try_from(self.at).ok().map(NodeId);
        let sent = timeout(self.deadline, self.send(&request)).await;
        let returned = Some(self.now());
        let outcome = match sent {
            Ok(Ok(response)) => Outcome::Ok(response),
            Ok(Err(lost)) => outcome_of(&lost, &request),
            Err(_) if has_effect(&request) => Outcome::Unknown,
            Err(_) => Outcome::Failed("no answer in time".to_owned()),
        };
        let operation =
            Operation { client: self.id, node, called, returned, request: request.clone(), outcome: outcome.clone() };
        self.stage.recorder.note(self.workload, operation);
        self.settle(matches!(outcome, Outcome::Ok(_) | Outcome::Refused(_))).await;
        outcome
    }

    /// Renews all of these leases by one message of Tenure's own service. Each renewal is recorded as one of a client of its
    /// own, for a client does one thing at a time.
    pub async fn renew_all(&mut self, leases: &[(LeaseId, ClientId)]) -> Vec<Outcome> {
        let called = self.now();
        let node = u32::try_from(self.at).ok().map(NodeId);
        let ids = leases.iter().map(|(id, _)| id.0).collect();
        let sent = timeout(self.deadline, renew_batch(self.channels[self.at].clone(), ids)).await;
        let returned = Some(self.now());
        let request = |id| Request::LeaseKeepAlive { id };
        let outcomes: Vec<Outcome> = match &sent {
            Ok(Ok(outcomes)) => outcomes.clone(),
            Ok(Err(lost)) => leases.iter().map(|(id, _)| outcome_of(lost, &request(*id))).collect(),
            Err(_) => vec![Outcome::Unknown; leases.len()],
        };
        for ((id, client), outcome) in leases.iter().zip(&outcomes) {
            let (client, request, outcome) = (*client, request(*id), outcome.clone());
            self.stage.recorder.note(self.workload, Operation { client, node, called, returned, request, outcome });
        }
        self.settle(matches!(sent, Ok(Ok(_)))).await;
        outcomes
    }

    /// What follows from whether there was an answer.
    async fn settle(&mut self, answered: bool) {
        if answered {
            self.failures = 0;
            return;
        }
        self.renewals = None;
        self.failures += 1;
        if self.moves && self.failures >= FAILURES_BORNE {
            self.failures = 0;
            self.at = (self.at + 1) % self.channels.len();
        }
        sleep(PAUSE_AFTER_FAILURE).await;
    }

    /// Asks, and gives the answer if there is one.
    pub async fn answer(&mut self, request: Request) -> Option<Response> {
        match self.ask(request).await {
            Outcome::Ok(response) => Some(response),
            Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Unknown => None,
        }
    }

    /// Asks the lock service for a lock, by a key that nobody else contends with, and waits for it for so long. Gives the
    /// key's create revision if it is held.
    ///
    /// What a history is told of it is what it may do: put the key, and delete it unless the call succeeds.
    pub async fn lock(&mut self, name: &str, key: &Bytes, lease: LeaseId, patience: Duration) -> Option<Revision> {
        let called = self.now();
        let mut request = tonic::Request::new(LockRequest { name: name.to_owned().into(), lease: lease.0 });
        request.set_timeout(patience);
        let mut locks = LockClient::new(self.channels[self.at].clone());
        let answered = timeout(patience, locks.lock(request)).await;
        let is_held = matches!(&answered, Ok(Ok(answer)) if answer.get_ref().key == *key);
        let returned = self.now();
        let mut created = None;
        if is_held {
            let read = Range { keys: KeyRange::one(key.clone()), ..Range::default() };
            let answer = self.answer(Request::Range(read)).await;
            if let Some(Response { body: Body::Range(body), .. }) = answer {
                created = body.kvs.first().map(|kv| kv.create);
            }
        }
        let put = Put { key: key.clone(), lease, ..Put::default() };
        let done = |revision| Outcome::Ok(Response { revision, body: Body::Put { prev_kv: None } });
        self.note(called, returned, Request::Put(put), created.map_or(Outcome::Unknown, done));
        if !is_held {
            let delete = DeleteRange { keys: KeyRange::one(key.clone()), prev_kv: false };
            self.note(called, returned, Request::DeleteRange(delete), Outcome::Unknown);
        }
        created
    }

    fn note(&self, called: Moment, returned: Moment, request: Request, outcome: Outcome) {
        let node = u32::try_from(self.at).ok().map(NodeId);
        let operation = Operation { client: self.id, node, called, returned: Some(returned), request, outcome };
        self.stage.recorder.note(self.workload, operation);
    }

    /// Waits a random while around the workload's pace.
    pub async fn pace(&mut self) {
        let pace = self.stage.pace(self.workload);
        let part = self.rng.random_range(0.3..1.7);
        sleep(pace.mul_f64(part * self.slowness)).await;
    }

    async fn send(&mut self, request: &Request) -> Result<Response, Lost> {
        let channel = self.channels[self.at].clone();
        let mut kv = KvClient::new(channel.clone());
        let mut lease = LeaseClient::new(channel);
        let (header, body) = match request {
            Request::Range(range) => {
                let answer = kv.range(self.dated(translate::range(range))).await?.into_inner();
                (answer.header, translate::range_body(answer))
            }
            Request::Put(put) => {
                let answer = kv.put(self.dated(translate::put(put))).await?.into_inner();
                (answer.header, translate::put_body(answer))
            }
            Request::DeleteRange(delete) => {
                let answer = kv.delete_range(self.dated(translate::delete(delete))).await?.into_inner();
                (answer.header, translate::delete_body(answer))
            }
            Request::Txn(txn) => {
                let answer = kv.txn(self.dated(translate::txn(txn))).await?.into_inner();
                let odd = Lost::Odd("a transaction was answered with an empty part");
                (answer.header, translate::txn_body(answer).ok_or(odd)?)
            }
            Request::Compact { revision } => {
                let request = pb::CompactionRequest { revision: revision.0, physical: false };
                (kv.compact(self.dated(request)).await?.into_inner().header, Body::Compact)
            }
            Request::LeaseGrant { id, ttl_secs } => {
                let request = pb::LeaseGrantRequest { id: id.0, ttl: *ttl_secs };
                let answer = lease.lease_grant(self.dated(request)).await?.into_inner();
                (answer.header, Body::LeaseGrant { id: LeaseId(answer.id), ttl_secs: answer.ttl })
            }
            Request::LeaseKeepAlive { id } => {
                let answer = self.renew(*id, lease).await?;
                (answer.header, Body::LeaseKeepAlive { ttl_secs: answer.ttl })
            }
            Request::LeaseRevoke { id } => {
                let request = pb::LeaseRevokeRequest { id: id.0 };
                (lease.lease_revoke(self.dated(request)).await?.into_inner().header, Body::LeaseRevoke)
            }
            Request::LeaseTimeToLive { id, keys } => {
                let request = pb::LeaseTimeToLiveRequest { id: id.0, keys: *keys };
                let answer = lease.lease_time_to_live(self.dated(request)).await?.into_inner();
                let keys = answer.keys.into_iter().map(KeyText).collect();
                (answer.header, Body::LeaseTimeToLive { ttl_secs: answer.ttl, granted_secs: answer.granted_ttl, keys })
            }
        };
        let header = header.ok_or(Lost::Odd("an answer without a header"))?;
        Ok(Response { revision: Revision(header.revision), body })
    }

    /// A request that tells the server how long its client will wait.
    fn dated<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.deadline);
        request
    }

    async fn renew(
        &mut self,
        id: LeaseId,
        mut client: LeaseClient<Channel>,
    ) -> Result<pb::LeaseKeepAliveResponse, Lost> {
        let request = pb::LeaseKeepAliveRequest { id: id.0 };
        let stream = match &mut self.renewals {
            Some(stream) => {
                stream.ask.send(request).await.map_err(|_| Lost::NotSent)?;
                stream
            }
            // A server may answer the call only with the first renewal's answer.
            none => {
                let (ask, asked) = mpsc::channel(1);
                ask.try_send(request).map_err(|_| Lost::NotSent)?;
                let answers = client.lease_keep_alive(ReceiverStream::new(asked)).await?.into_inner();
                none.insert(Renewals { ask, answers })
            }
        };
        match stream.answers.message().await? {
            Some(answer) if answer.id == id.0 => Ok(answer),
            Some(_) => Err(Lost::Odd("a renewal of another lease was answered")),
            None => Err(Lost::Odd("the stream of renewals ended")),
        }
    }
}

/// One message, on a stream of its own, and what it says of each lease.
async fn renew_batch(channel: Channel, ids: Vec<i64>) -> Result<Vec<Outcome>, Lost> {
    let request = tokio_stream::once(v1::LeaseKeepAliveRequest { ids: ids.clone() });
    let mut answers = LeasesClient::new(channel).keep_alive(request).await?.into_inner();
    let answer = answers.message().await?.ok_or(Lost::Odd("the stream of renewals ended"))?;
    let header = answer.header.ok_or(Lost::Odd("an answer without a header"))?;
    if !answer.leases.iter().map(|kept| kept.id).eq(ids) {
        return Err(Lost::Odd("renewals of other leases were answered"));
    }
    let outcome = |kept: v1::LeaseKept| match i64::try_from(kept.remaining_ms / 1000) {
        Ok(ttl_secs) => {
            Outcome::Ok(Response { revision: Revision(header.revision), body: Body::LeaseKeepAlive { ttl_secs } })
        }
        Err(_) => Outcome::Unknown,
    };
    Ok(answer.leases.into_iter().map(outcome).collect())
}

impl From<Status> for Lost {
    fn from(status: Status) -> Lost {
        Lost::Status(status)
    }
}

fn has_effect(request: &Request) -> bool {
    match request {
        Request::Range(_) | Request::LeaseTimeToLive { .. } => false,
        Request::Txn(txn) => !txn.is_read_only(),
        Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Compact { .. }
        | Request::LeaseGrant { .. }
        | Request::LeaseKeepAlive { .. }
        | Request::LeaseRevoke { .. } => true,
    }
}

fn outcome_of(lost: &Lost, request: &Request) -> Outcome {
    let text = match lost {
        Lost::NotSent => return Outcome::Failed("the stream had ended".to_owned()),
        Lost::Odd(text) => (*text).to_owned(),
        Lost::Status(status) => {
            if let Some(refusal) = refusal_of(status) {
                return Outcome::Refused(refusal);
            }
            let text = format!("{:?}: {}", status.code(), status.message());
            if did_nothing(status) {
                return Outcome::Failed(text);
            }
            text
        }
    };
    if has_effect(request) { Outcome::Unknown } else { Outcome::Failed(text) }
}

/// What the state machine says; each is an answer about the state.
fn refusal_of(status: &Status) -> Option<Refusal> {
    let refusal = match status.message() {
        "etcdserver: mvcc: required revision has been compacted" => Refusal::Compacted,
        "etcdserver: mvcc: required revision is a future revision" => Refusal::FutureRevision,
        "etcdserver: requested lease not found" => Refusal::LeaseNotFound,
        "etcdserver: lease already exists" => Refusal::LeaseExists,
        "etcdserver: duplicate key given in txn request" => Refusal::DuplicateKey,
        _ => return None,
    };
    Some(refusal)
}

/// Whether the error proves that nothing was done.
fn did_nothing(status: &Status) -> bool {
    let at_the_door = ["etcdserver: too many requests", "etcdserver: no leader"].contains(&status.message());
    at_the_door || status.code() == Code::InvalidArgument || is_refused_connection(status)
}

/// Whether a member could not even be connected to, so that nothing was sent.
fn is_refused_connection(status: &Status) -> bool {
    let mut source = Error::source(status);
    while let Some(error) = source {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use tenure_history::request::{Txn, TxnOp};

    use super::*;
    use crate::connect::socket;

    fn put() -> Request {
        Request::Put(Put::default())
    }

    #[test]
    fn an_error_after_sending_leaves_a_write_open_and_fails_a_read() {
        for status in [
            Status::unavailable("etcdserver: request timed out"),
            Status::unavailable("etcdserver: leader changed"),
            Status::unavailable("transport error"),
            Status::internal("h2 protocol error"),
        ] {
            let lost = Lost::Status(status);
            assert_eq!(outcome_of(&lost, &put()), Outcome::Unknown);
            assert!(matches!(outcome_of(&lost, &Request::Range(Range::default())), Outcome::Failed(_)));
            let reads = Txn { success: vec![TxnOp::Range(Range::default())], ..Txn::default() };
            assert!(matches!(outcome_of(&lost, &Request::Txn(reads)), Outcome::Failed(_)));
        }
    }

    #[test]
    fn a_refusal_of_the_state_and_one_at_the_door_are_told_apart() {
        let refused = Lost::Status(Status::not_found("etcdserver: requested lease not found"));
        assert_eq!(outcome_of(&refused, &put()), Outcome::Refused(Refusal::LeaseNotFound));
        let door = Lost::Status(Status::resource_exhausted("etcdserver: too many requests"));
        assert!(matches!(outcome_of(&door, &put()), Outcome::Failed(_)));
    }

    #[tokio::test]
    async fn a_member_that_is_not_there_was_certainly_sent_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let status = KvClient::new(socket(&endpoint)).put(pb::PutRequest::default()).await.unwrap_err();
        assert!(matches!(outcome_of(&Lost::Status(status), &put()), Outcome::Failed(_)));
    }
}
