//! What clients ask of Tenure's own lock service, and how it enters their history.
//!
//! A history knows puts, deletes and transactions only. So a request for a lock is told as what it does to its key: a
//! transaction that creates it, at the token's revision if that is known; one that deletes it for each end; a delete of
//! unknown outcome for each stream that was broken off; and for a lock-delay the two writes that it would take.

use std::time::Duration;

use bytes::Bytes;
use tenure_history::contest::{Came, Claim, End, Ended, Guarded, Heard, How, Passed, Touched, Try};
use tenure_history::lock::Share;
use tenure_history::request::{Compare, DeleteRange, KeyRange, Put, Relation, Request, Target, Txn, TxnOp};
use tenure_history::response::{Body, Outcome, Response};
use tenure_history::{LeaseId, Moment, Revision};
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::tenure::v1;
use tenure_proto::tenure::v1::lock_acquire_response::State;
use tenure_proto::tenure::v1::lock_mode::{Mode, Semaphore};
use tenure_proto::tenure::v1::locks_client::LocksClient;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status, Streaming};

use super::{Client, did_nothing};
use crate::translate;

/// What the errors begin with that tell how a request ended.
const FINISHED: &str = "tenure: the request is finished";
const NOT_HELD: &str = "tenure: the lock is not held by that token and lease";
const NO_LEASE: &str = "etcdserver: requested lease not found";

/// How a lock is asked for, whichever try it is.
#[derive(Clone, Debug)]
pub struct Asked {
    pub lock: String,
    pub key: Bytes,
    pub lease: LeaseId,
    pub number: u64,
    pub lowest_open: u64,
    pub share: Share,
    /// Whether to wait, and for how long at most.
    pub wait: bool,
    pub wait_max: Option<Duration>,
    pub holds_max: u32,
    pub delay: Duration,
}

/// A try on its way.
#[derive(Debug)]
pub struct Attempt {
    pub attach: u64,
    pub called: Moment,
    pub waits: Option<Heard>,
    /// The member that it was sent to.
    pub at: usize,
    answers: Streaming<v1::LockAcquireResponse>,
}

/// What a try was told.
#[derive(Debug)]
pub enum Told {
    /// It waits.
    Waits,
    /// It is over.
    Over(Came),
}

impl Asked {
    /// What is recorded of it, before anything was done.
    pub fn claim(&self, client: &Client) -> Claim {
        Claim {
            lock: self.lock.clone(),
            client: client.id(),
            key: self.key.clone(),
            lease: self.lease,
            number: self.number,
            share: self.share,
            holds_max: self.holds_max,
            delay_ms: u64::try_from(self.delay.as_millis()).unwrap_or(u64::MAX),
            tries: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn request(&self, attach: u64) -> v1::LockRequest {
        v1::LockRequest { lease: self.lease.0, number: self.number, lowest_open: self.lowest_open, attach }
    }

    fn acquire(&self, attach: u64) -> v1::LockAcquireRequest {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let mode = match self.share {
            Share::Alone => None,
            Share::Readers => Some(Mode::Shared(true)),
            Share::Permits { taken, limit } => Some(Mode::Semaphore(Semaphore { permits: taken, limit })),
        };
        v1::LockAcquireRequest {
            name: self.lock.clone().into(),
            request: Some(self.request(attach)),
            mode: mode.map(|mode| v1::LockMode { mode: Some(mode) }),
            r#try: !self.wait,
            wait_ms: self.wait_max.map_or(0, ms),
            owner: "workload".to_owned(),
            metadata: self.lock.clone().into(),
            holds_max: self.holds_max,
            delay_ms: ms(self.delay),
        }
    }
}

impl Attempt {
    /// The record of it, with its end.
    pub fn over(&self, returned: Moment, came: Came) -> Try {
        Try { attach: self.attach, called: self.called, returned, waits: self.waits, came }
    }

    /// What it is told next. Can be given up, and asked again.
    pub async fn told(&mut self, now: impl Fn() -> Moment) -> Told {
        let answer = match self.answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Told::Over(Came::Lost),
            Err(status) => return Told::Over(came_of(&status)),
        };
        let Some(header) = answer.header else { return Told::Over(Came::Lost) };
        let revision = Revision(header.revision);
        match answer.state {
            Some(State::Waiting(_)) => {
                self.waits = Some(Heard { at: now(), revision });
                Told::Waits
            }
            Some(State::Granted(granted)) => {
                let came = Came::Granted { token: Revision(granted.token), revision, holds: granted.holds };
                Told::Over(came)
            }
            Some(State::Busy(_)) => Told::Over(Came::Busy),
            None => Told::Over(Came::Lost),
        }
    }
}

/// How a try ended by an error.
fn came_of(status: &Status) -> Came {
    match status.code() {
        Code::NotFound if status.message() == NO_LEASE => Came::NoLease,
        Code::FailedPrecondition if status.message() == FINISHED => Came::Finished,
        Code::Aborted => Came::TakenAway,
        Code::DeadlineExceeded if status.message().starts_with("tenure: ") => Came::TimeOver,
        Code::FailedPrecondition | Code::ResourceExhausted | Code::InvalidArgument => {
            Came::Refused(status.message().to_owned())
        }
        _ if did_nothing(status) => Came::Refused(status.message().to_owned()),
        _ => Came::Lost,
    }
}

impl Client {
    /// The member that it asks at the moment.
    pub fn member(&self) -> usize {
        self.at
    }

    /// Asks the next member from now on, unless it stays where it is.
    pub fn go_elsewhere(&mut self) {
        if self.moves {
            self.at = (self.at + 1) % self.channels.len();
        }
    }

    /// How long it waits for what should be answered at once.
    pub fn patience(&self) -> Duration {
        self.deadline
    }

    /// Sends a try. If it does not get as far as a stream, its end.
    pub async fn attempt(&mut self, asked: &Asked, attach: u64) -> Result<Attempt, Try> {
        let (called, at) = (self.now(), self.at);
        let mut locks = LocksClient::new(self.channels[at].clone());
        let sent = timeout(self.deadline, locks.acquire(asked.acquire(attach))).await;
        let came = match sent {
            Ok(Ok(stream)) => {
                return Ok(Attempt { attach, called, waits: None, at, answers: stream.into_inner() });
            }
            Ok(Err(status)) => came_of(&status),
            Err(_) => Came::Lost,
        };
        let returned = self.now();
        self.settle(!matches!(came, Came::Lost | Came::Refused(_))).await;
        Err(Try { attach, called, returned, waits: None, came })
    }

    /// Sends a try and hears one answer. If that is to wait, it leaves.
    pub async fn try_once(&mut self, asked: &Asked, attach: u64) -> Try {
        let mut attempt = match self.attempt(asked, attach).await {
            Ok(attempt) => attempt,
            Err(tried) => return tried,
        };
        let came = match timeout(self.deadline, attempt.told(|| self.now())).await {
            Ok(Told::Over(came)) => came,
            Ok(Told::Waits) => Came::Left,
            Err(_) => Came::Lost,
        };
        attempt.over(self.now(), came)
    }

    /// Notes whether a member answered, and goes elsewhere if it does not.
    pub async fn heard(&mut self, answered: bool) {
        self.settle(answered).await;
    }

    /// Lets go of a lock.
    pub async fn release(&mut self, asked: &Asked, token: Revision, number: u64) -> End {
        let called = self.now();
        let request =
            v1::LockReleaseRequest { name: asked.lock.clone().into(), lease: asked.lease.0, token: token.0, number };
        let mut locks = LocksClient::new(self.channels[self.at].clone());
        let answer = timeout(self.deadline, locks.release(self.dated(request))).await;
        let came = match answer.map(|answer| answer.map(tonic::Response::into_inner)) {
            Ok(Ok(v1::LockReleaseResponse { header: Some(header), released, holds })) => match (released, holds) {
                (true, 0) => Ended::Done(Revision(header.revision)),
                (true, _) => Ended::OneLess(Revision(header.revision)),
                (false, _) => Ended::Nothing(Revision(header.revision)),
            },
            _ => Ended::Unknown,
        };
        let returned = self.now();
        self.settle(came != Ended::Unknown).await;
        End { called, returned, how: How::Release, came }
    }

    /// Ends a request.
    pub async fn cancel(&mut self, asked: &Asked, attach: u64) -> End {
        let called = self.now();
        let request = v1::LockCancelRequest { name: asked.lock.clone().into(), request: Some(asked.request(attach)) };
        let mut locks = LocksClient::new(self.channels[self.at].clone());
        let answer = timeout(self.deadline, locks.cancel(self.dated(request))).await;
        let came = match answer.map(|answer| answer.map(tonic::Response::into_inner)) {
            Ok(Ok(v1::LockCancelResponse { header: Some(header), ended, stale })) => match (ended, stale) {
                (_, true) => Ended::Stale(Revision(header.revision)),
                (true, false) if asked.holds_max > 1 => Ended::OneLess(Revision(header.revision)),
                (true, false) => Ended::Done(Revision(header.revision)),
                (false, false) => Ended::Nothing(Revision(header.revision)),
            },
            _ => Ended::Unknown,
        };
        let returned = self.now();
        self.settle(came != Ended::Unknown).await;
        End { called, returned, how: How::Cancel { attach }, came }
    }

    /// Writes a key if the lock is held: by a guard, or by a transaction that compares.
    pub async fn write_guarded(&mut self, write: GuardedPut<'_>) -> Passed {
        let GuardedPut { lock, key, lease, token, value, by_guard, .. } = write;
        let called = self.now();
        let put = Put { key: format!("guarded/{lock}").into(), value, ..Put::default() };
        let sent = held_then(key, Some(token), lease, TxnOp::Put(put.clone()));
        let passed = if by_guard {
            let passed = self.put_by_guard(&put, key, (token, lease)).await;
            // One that passed is told as any put: whether it might is for the checkers of locks.
            let told = match passed {
                Passed::Yes(revision) => {
                    let body = Body::Put { prev_kv: None };
                    Some((Request::Put(put), Outcome::Ok(Response { revision, body })))
                }
                Passed::No => None,
                Passed::Unknown => Some((sent, Outcome::Unknown)),
            };
            if let Some((request, outcome)) = told {
                self.note(called, self.now(), request, outcome);
            }
            passed
        } else {
            match self.ask(sent).await {
                Outcome::Ok(Response { revision, body: Body::Txn { succeeded: true, .. } }) => Passed::Yes(revision),
                Outcome::Ok(_) => Passed::No,
                Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Unknown => Passed::Unknown,
            }
        };
        let returned = self.now();
        let sure = write.sure_until >= returned;
        let (lock, key, client) = (lock.to_owned(), key.clone(), self.id());
        self.stage.recorder.note_guarded(Guarded { lock, client, key, lease, token, called, returned, sure, passed });
        passed
    }

    async fn put_by_guard(&mut self, put: &Put, key: &Bytes, (token, lease): (Revision, LeaseId)) -> Passed {
        let mut request = self.dated(translate::put(put));
        let metadata = request.metadata_mut();
        metadata.insert_bin("tenure-lock-key-bin", MetadataValue::from_bytes(key));
        metadata.insert("tenure-lock-token", MetadataValue::from(token.0));
        metadata.insert("tenure-lock-lease", MetadataValue::from(lease.0));
        let mut kv = KvClient::new(self.channels[self.at].clone());
        let passed = match timeout(self.deadline, kv.put(request)).await {
            Ok(Ok(answer)) => {
                let revision = answer.into_inner().header.map(|header| Revision(header.revision));
                revision.map_or(Passed::Unknown, Passed::Yes)
            }
            Ok(Err(status)) if status.message() == NOT_HELD => Passed::No,
            Ok(Err(_)) | Err(_) => Passed::Unknown,
        };
        self.settle(passed != Passed::Unknown).await;
        passed
    }

    /// Takes a lock away from whoever is in its queue at this place, counted from the front; by the service or by a plain
    /// delete.
    pub async fn meddle(&mut self, lock: &str, place: usize, by_force: bool) {
        let mut locks = LocksClient::new(self.channels[self.at].clone());
        let request = v1::LockInspectRequest { name: lock.to_owned().into(), limit: 0 };
        let answer = timeout(self.deadline, locks.inspect(self.dated(request))).await;
        let Ok(Ok(answer)) = answer else { return self.settle(false).await };
        let Some(found) = answer.into_inner().queue.into_iter().nth(place) else { return };
        let (key, token, called) = (found.key, Revision(found.token), self.now());
        let touched = Touched { key: key.clone(), lease: LeaseId(found.lease), called };
        self.stage.recorder.note_touched(touched);
        let delete = DeleteRange { keys: KeyRange::one(key.clone()), prev_kv: false };
        if !by_force {
            self.ask(Request::DeleteRange(delete)).await;
            return;
        }
        let reason = "the workload wants it so".to_owned();
        let request = v1::LockForceReleaseRequest { key: key.clone(), token: token.0, reason };
        let answer = timeout(self.deadline, locks.force_release(self.dated(request))).await;
        let answered = matches!(answer, Ok(Ok(_)));
        let outcome = match answer.map(|answer| answer.map(tonic::Response::into_inner)) {
            Ok(Ok(v1::LockForceReleaseResponse { header: Some(header), removed: true })) => {
                Outcome::Ok(Response { revision: Revision(header.revision), body: taken(deleted()) })
            }
            Ok(Ok(_)) => return self.settle(answered).await,
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        };
        let sent = if_then(vec![created(&key, token)], TxnOp::DeleteRange(delete));
        self.note(called, self.now(), sent, outcome);
        self.settle(answered).await;
    }

    /// Notes a claim that is over, and what it may have done to its key. If its lease had the key already, by this token,
    /// it did not create it.
    pub fn note_claim(&self, claim: Claim, known: Option<Revision>) {
        self.note_creation(&claim, known);
        self.note_ends(&claim);
        self.note_delay(&claim);
        self.stage.recorder.note_claim(claim);
    }

    fn note_creation(&self, claim: &Claim, known: Option<Revision>) {
        let Some(first) = claim.tries.first() else { return };
        let put = Put { key: claim.key.clone(), value: claim.lock.clone().into(), lease: claim.lease, prev_kv: false };
        let sent = if_then(vec![created(&claim.key, Revision(0))], TxnOp::Put(put));
        let mut tokens = Vec::from_iter(known);
        for (tried, revision, _) in claim.grants() {
            if !tokens.contains(&revision) {
                tokens.push(revision);
                let outcome = Outcome::Ok(Response { revision, body: taken(Body::Put { prev_kv: None }) });
                self.note(first.called, tried.returned, sent.clone(), outcome);
            }
        }
        let may_have_joined = |tried: &&Try| {
            let is_open = matches!(tried.came, Came::Lost | Came::Left | Came::TimeOver | Came::TakenAway);
            is_open || tried.waits.is_some()
        };
        // What was asked for when it had ended must do nothing. If it does, that is for the checkers of locks.
        let ended = claim.ends.iter().map(|end| end.called).min().unwrap_or(Moment::NEVER);
        let (before, after): (Vec<&Try>, Vec<&Try>) = claim.tries.iter().partition(|tried| tried.called < ended);
        // If nothing was told, the key may be new even for a lease that had one: somebody may have taken that away meanwhile.
        let is_told = claim.grants().next().is_some();
        let before = before.into_iter().filter(may_have_joined).take(usize::from(!is_told));
        for tried in before.chain(after.into_iter().filter(may_have_joined)) {
            self.note(tried.called, tried.returned, sent.clone(), Outcome::Unknown);
        }
    }

    fn note_ends(&self, claim: &Claim) {
        let delete = DeleteRange { keys: KeyRange::one(claim.key.clone()), prev_kv: false };
        for tried in &claim.tries {
            // The member that it was sent to may cancel it, at any time.
            if matches!(tried.came, Came::Lost | Came::Left | Came::TimeOver) {
                self.note(tried.called, tried.returned, Request::DeleteRange(delete.clone()), Outcome::Unknown);
            }
        }
        for end in claim.ends.iter().filter(|end| !matches!(end.how, How::Revoke)) {
            let outcome = match end.came {
                Ended::Done(revision) => Outcome::Ok(Response { revision, body: deleted() }),
                // With more holds than one it may still be the last that ends.
                Ended::OneLess(_) if matches!(end.how, How::Cancel { .. }) => Outcome::Unknown,
                Ended::OneLess(_) | Ended::Nothing(_) | Ended::Stale(_) => continue,
                Ended::Unknown => Outcome::Unknown,
            };
            self.note(end.called, end.returned, Request::DeleteRange(delete.clone()), outcome);
        }
    }

    fn note_delay(&self, claim: &Claim) {
        let (Some(first), Some(last)) = (claim.tries.first(), claim.tries.last()) else { return };
        if claim.delay_ms == 0 || claim.ends.iter().any(|end| matches!(end.came, Ended::Done(_))) {
            return;
        }
        let token = claim.grants().map(|(_, token, _)| token).next();
        let value = claim.lock.clone().into();
        let put = Put { key: claim.key.clone(), value, ..Put::default() };
        let begun = held_then(&claim.key, token, claim.lease, TxnOp::Put(put));
        let delete = DeleteRange { keys: KeyRange::one(claim.key.clone()), prev_kv: false };
        let ended = held_then(&claim.key, token, LeaseId::NONE, TxnOp::DeleteRange(delete));
        self.note(first.called, last.returned, begun, Outcome::Unknown);
        self.note(first.called, last.returned, ended, Outcome::Unknown);
    }
}

/// A write by whoever may hold a lock.
#[derive(Debug)]
pub struct GuardedPut<'a> {
    pub lock: &'a str,
    pub key: &'a Bytes,
    pub lease: LeaseId,
    pub token: Revision,
    pub value: Bytes,
    /// By a guard, else by a transaction.
    pub by_guard: bool,
    /// Until when it is sure that it does.
    pub sure_until: Moment,
}

fn compare(key: &Bytes, target: Target) -> Compare {
    Compare { keys: KeyRange::one(key.clone()), relation: Relation::Equal, target }
}

fn created(key: &Bytes, at: Revision) -> Compare {
    compare(key, Target::Create(at))
}

fn if_then(compares: Vec<Compare>, then: TxnOp) -> Request {
    Request::Txn(Txn { compares, success: vec![then], failure: Vec::new() })
}

/// What is done if a key is on this lease and, if that is known, of this token.
fn held_then(key: &Bytes, token: Option<Revision>, lease: LeaseId, then: TxnOp) -> Request {
    let token = token.map(|token| created(key, token));
    if_then(token.into_iter().chain([compare(key, Target::Lease(lease))]).collect(), then)
}

fn taken(body: Body) -> Body {
    Body::Txn { succeeded: true, responses: vec![body] }
}

fn deleted() -> Body {
    Body::DeleteRange { deleted: 1, prev_kvs: Vec::new() }
}
