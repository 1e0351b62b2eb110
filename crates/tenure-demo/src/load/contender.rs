//! A contender for the lock, by etcd's recipe, as Go's `concurrency.Mutex` and `etcdctl lock` follow it.
//!
//! Its key is the lock's name and its lease in hexadecimal; the oldest create revision owns the lock; whoever waits
//! watches the next older key and nothing else, so a release wakes one. It differs in that the release asks for the
//! create revision that was held: a release that a paused node carries out much later must not take a later key away.

use std::time::Duration;

use rand::RngExt as _;
use tenure_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use tenure_proto::etcdserverpb::request_op::Request;
use tenure_proto::etcdserverpb::response_op::Response;
use tenure_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use tenure_proto::mvccpb::event::EventType;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Status;

use crate::clock::Moment;
use crate::feed::Feed;
use crate::limits::PAUSE_AFTER_FAILURE;
use crate::load::keeper::Keeper;
use crate::load::{LeaseTerms, Shared};
use crate::model::News;
use crate::store::{key, prefix_range, revision};

/// How long a holder keeps the lock, in milliseconds: long enough to be seen.
const HOLD_MILLIS: std::ops::Range<u64> = 600..1_400;
/// How long it stays away afterwards.
const REST_MILLIS: std::ops::Range<u64> = 100..700;
/// How often a holder makes sure that its lease is good.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// One contender.
#[derive(Debug)]
pub(crate) struct Contender {
    shared: Shared,
    name: String,
    node: usize,
    ttl_secs: i64,
    stopping: watch::Receiver<bool>,
}

/// Its lease, kept alive by a keeper.
#[derive(Debug)]
struct Session {
    lease: i64,
    terms: watch::Receiver<LeaseTerms>,
}

/// The session has ended, or the demo has.
struct Over;

impl Contender {
    pub(crate) fn new(
        shared: Shared,
        number: usize,
        node: usize,
        ttl_secs: i64,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self { shared, name: format!("c{}", number + 1), node, ttl_secs, stopping }
    }

    /// Takes and gives back the lock until it is stopped.
    pub(crate) async fn run(mut self) {
        let (keeper, keeping) = Keeper::new(self.shared.store.clone(), self.shared.clock, self.node);
        let contend = async {
            while !self.is_stopping() {
                let session = self.begin(&keeper).await;
                while self.go_on(&session).is_ok() {
                    if self.round(&session).await.is_err() {
                        break;
                    }
                    self.rest(&session).await;
                }
                keeper.stop(session.lease).await;
                // Whoever waits behind it need not wait for the end of its lease.
                self.shared.store.revoke(self.node, session.lease).await.ok();
            }
        };
        tokio::select! {
            () = contend => {}
            () = keeping => {}
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    fn go_on(&self, session: &Session) -> Result<(), Over> {
        let is_good = session.terms.borrow().is_good(self.shared.clock.now());
        if is_good && !self.is_stopping() { Ok(()) } else { Err(Over) }
    }

    async fn begin(&mut self, keeper: &Keeper) -> Session {
        loop {
            let sent = self.shared.clock.now();
            if let Ok(grant) = self.shared.store.grant(self.node, self.ttl_secs).await {
                let ttl = Duration::from_secs(u64::try_from(grant.ttl).unwrap_or(0));
                let terms = keeper.keep(grant.id, LeaseTerms::granted(sent, ttl)).await;
                return Session { lease: grant.id, terms };
            }
            self.elsewhere().await;
        }
    }

    /// After a failure, it goes on with another node.
    async fn elsewhere(&mut self) {
        self.node = self.shared.store.other(self.node);
        sleep(PAUSE_AFTER_FAILURE).await;
    }

    async fn rest(&self, session: &Session) {
        let time = Duration::from_millis(rand::rng().random_range(REST_MILLIS));
        let until = self.shared.clock.now() + time;
        while self.go_on(session).is_ok() && self.shared.clock.now() < until {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Takes the lock once, holds it and gives it back.
    async fn round(&mut self, session: &Session) -> Result<(), Over> {
        let place = self.shared.names.place(session.lease);
        let token = loop {
            self.go_on(session)?;
            match self.enqueue(&place, session.lease).await {
                Ok(token) => break token,
                Err(_) => self.elsewhere().await,
            }
        };
        loop {
            self.go_on(session)?;
            match self.wait_for_turn(&place, token, session).await {
                Ok(true) => break,
                Ok(false) => return Err(Over),
                Err(_) => self.elsewhere().await,
            }
        }
        let from = self.shared.clock.now();
        if !session.terms.borrow().is_good(from) {
            return Err(Over);
        }
        self.hold(&place, token, from, session).await
    }

    /// Puts its key if it is not there; answers the key's create revision.
    async fn enqueue(&self, place: &str, lease: i64) -> Result<i64, Status> {
        let put = PutRequest { key: key(place), value: key(&self.name), lease, ..PutRequest::default() };
        let get = RangeRequest { key: key(place), ..RangeRequest::default() };
        let request = TxnRequest {
            compare: vec![created_at(place, 0)],
            success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![RequestOp { request: Some(Request::RequestRange(get)) }],
        };
        let answer = self.shared.store.txn(self.node, request).await?;
        if answer.succeeded {
            return Ok(revision(answer.header.as_ref()));
        }
        match answer.responses.into_iter().next().and_then(|op| op.response) {
            Some(Response::ResponseRange(range)) => range.kvs.first().map(|kv| kv.create_revision),
            _ => None,
        }
        .ok_or_else(|| Status::internal("a key that is there was not returned"))
    }

    /// Waits until its key is the oldest; answers false if its key is gone.
    async fn wait_for_turn(&self, place: &str, token: i64, session: &Session) -> Result<bool, Status> {
        loop {
            let queue = self.shared.store.range(self.node, prefix_range(&self.shared.names.lock())).await?;
            if !queue.kvs.iter().any(|kv| kv.key == place.as_bytes() && kv.create_revision == token) {
                return Ok(false);
            }
            let older = queue.kvs.iter().filter(|kv| kv.create_revision < token);
            let Some(next_older) = older.max_by_key(|kv| kv.create_revision) else { return Ok(true) };
            let create = WatchCreateRequest {
                key: next_older.key.clone(),
                start_revision: revision(queue.header.as_ref()) + 1,
                ..WatchCreateRequest::default()
            };
            let mut feed = Feed::open(&self.shared.store, self.node, create).await?;
            loop {
                tokio::select! {
                    event = feed.next() => if event?.r#type() == EventType::Delete { break },
                    () = self.over(session) => return Ok(false),
                }
            }
        }
    }

    /// Returns when the session or the demo is over.
    async fn over(&self, session: &Session) {
        while self.go_on(session).is_ok() {
            sleep(LOOK_EVERY).await;
        }
    }

    async fn hold(&mut self, place: &str, token: i64, from: Moment, session: &Session) -> Result<(), Over> {
        let Some(record) = self.shared.ledger.hold_begins(&self.name, token, from) else {
            // The ledger is full: what is not remembered cannot be checked, so it is not claimed.
            self.over(session).await;
            return Err(Over);
        };
        let taken = News::LockTaken { contender: self.name.clone(), token, at: from };
        self.shared.teller.tell(taken);
        let release_at = from + Duration::from_millis(rand::rng().random_range(HOLD_MILLIS));
        while self.go_on(session).is_ok() && self.shared.clock.now() < release_at {
            sleep(LOOK_EVERY).await;
        }
        let now = self.shared.clock.now();
        let terms = *session.terms.borrow();
        let until = terms.gone.unwrap_or(now).min(terms.deadline()).min(now);
        self.shared.ledger.hold_ends(record, until);
        if !terms.is_good(now) {
            self.shared.teller.tell(News::LockLost { contender: self.name.clone() });
            return Err(Over);
        }
        self.shared.teller.tell(News::LockFreed { contender: self.name.clone(), at: now });
        self.release(place, token, session).await
    }

    async fn release(&mut self, place: &str, token: i64, session: &Session) -> Result<(), Over> {
        loop {
            let delete = DeleteRangeRequest { key: key(place), ..DeleteRangeRequest::default() };
            let request = TxnRequest {
                compare: vec![created_at(place, token)],
                success: vec![RequestOp { request: Some(Request::RequestDeleteRange(delete)) }],
                failure: vec![],
            };
            if self.shared.store.txn(self.node, request).await.is_ok() {
                return Ok(());
            }
            self.go_on(session)?;
            self.elsewhere().await;
        }
    }
}

fn created_at(place: &str, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key(place),
        range_end: bytes::Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}
