//! Transactions: conditions, and what is done if all of them hold, or if not. Everything that one changes is one revision.
//!
//! ```no_run
//! use tenure_client::txn::Compare;
//! use tenure_client::{Client, Revision, kv};
//!
//! # async fn example(client: Client) -> Result<(), tenure_client::Error> {
//! let done = client
//!     .txn()
//!     .when([Compare::create_revision("jobs/1").equals(Revision::NONE)])
//!     .and_then([kv::put("jobs/1", "waiting")])
//!     .or_else([kv::get("jobs/1")])
//!     .commit()
//!     .await?;
//! println!("{}", if done.succeeded { "it is new" } else { "it was there" });
//! # Ok(())
//! # }
//! ```

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::request_op::Request;
use tenure_proto::etcdserverpb::response_op::Response;

use crate::call::What;
use crate::client::Client;
use crate::clock::Instant;
use crate::error::Error;
use crate::header::Header;
use crate::ids::{LeaseId, Revision};
use crate::kv::{Delete, Deleted, Get, Got, KeyRange, Patience, Put, PutDone, Strange};
use crate::namespace::Namespace;

/// How deep transactions may stand in each other's answers. Servers allow fewer, and a hostile answer has an end.
const DEPTH_MAX: usize = 32;

/// A condition on a key, or on every key of a range. A key that is not there has version, revisions and lease 0; a condition on its
/// value does not hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(pb::Compare);

/// What is compared, before it is said with what.
#[derive(Clone, Debug)]
#[must_use = "a condition needs something to compare with"]
pub struct Comparing<T> {
    range: KeyRange,
    target: CompareTarget,
    wire: fn(T) -> TargetUnion,
}

impl Compare {
    /// The revision that created the key: 0 if it is not there.
    pub fn create_revision(range: impl Into<KeyRange>) -> Comparing<Revision> {
        let wire = |revision: Revision| TargetUnion::CreateRevision(revision.0);
        Comparing { range: range.into(), target: CompareTarget::Create, wire }
    }

    /// The revision that put the key last: 0 if it is not there.
    pub fn mod_revision(range: impl Into<KeyRange>) -> Comparing<Revision> {
        let wire = |revision: Revision| TargetUnion::ModRevision(revision.0);
        Comparing { range: range.into(), target: CompareTarget::Mod, wire }
    }

    /// How often the key was put since it was created: 0 if it is not there.
    pub fn version(range: impl Into<KeyRange>) -> Comparing<i64> {
        Comparing { range: range.into(), target: CompareTarget::Version, wire: TargetUnion::Version }
    }

    /// The key's value.
    pub fn value(range: impl Into<KeyRange>) -> Comparing<Bytes> {
        Comparing { range: range.into(), target: CompareTarget::Value, wire: TargetUnion::Value }
    }

    /// The lease that the key is on: 0 if it is on none.
    pub fn lease(range: impl Into<KeyRange>) -> Comparing<LeaseId> {
        let wire = |lease: LeaseId| TargetUnion::Lease(lease.0);
        Comparing { range: range.into(), target: CompareTarget::Lease, wire }
    }

    /// There is no such key.
    pub fn absent(key: impl Into<Bytes>) -> Compare {
        Compare::create_revision(key.into()).equals(Revision::NONE)
    }

    /// There is such a key.
    pub fn present(key: impl Into<Bytes>) -> Compare {
        Compare::create_revision(key.into()).is_greater_than(Revision::NONE)
    }

    pub(crate) fn into_wire(self, namespace: &Namespace) -> pb::Compare {
        let (key, range_end) = namespace.wrap_range(self.0.key, self.0.range_end);
        pb::Compare { key, range_end, ..self.0 }
    }
}

impl<T> Comparing<T> {
    /// Is this.
    pub fn equals(self, value: impl Into<T>) -> Compare {
        self.compare(CompareResult::Equal, value.into())
    }

    /// Is not this.
    pub fn differs_from(self, value: impl Into<T>) -> Compare {
        self.compare(CompareResult::NotEqual, value.into())
    }

    /// Is greater than this.
    pub fn is_greater_than(self, value: impl Into<T>) -> Compare {
        self.compare(CompareResult::Greater, value.into())
    }

    /// Is less than this.
    pub fn is_less_than(self, value: impl Into<T>) -> Compare {
        self.compare(CompareResult::Less, value.into())
    }

    fn compare(self, result: CompareResult, value: T) -> Compare {
        Compare(pb::Compare {
            result: result.into(),
            target: self.target.into(),
            key: self.range.start().clone(),
            range_end: self.range.end().clone(),
            target_union: Some((self.wire)(value)),
        })
    }
}

/// Something that a transaction does: made of what [`kv::get`](crate::kv::get), [`kv::put`](crate::kv::put) and
/// [`kv::delete`](crate::kv::delete) give, or another transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Reads.
    Get(Get<()>),
    /// Puts.
    Put(Put<()>),
    /// Deletes.
    Delete(Delete<()>),
    /// Does one or the other.
    Txn(Box<Txn<()>>),
}

impl From<Get<()>> for Op {
    fn from(get: Get<()>) -> Op {
        Op::Get(get)
    }
}

impl From<Put<()>> for Op {
    fn from(put: Put<()>) -> Op {
        Op::Put(put)
    }
}

impl From<Delete<()>> for Op {
    fn from(delete: Delete<()>) -> Op {
        Op::Delete(delete)
    }
}

impl From<Txn<()>> for Op {
    fn from(txn: Txn<()>) -> Op {
        Op::Txn(Box::new(txn))
    }
}

impl Op {
    fn is_read(&self) -> bool {
        match self {
            Op::Get(_) => true,
            Op::Put(_) | Op::Delete(_) => false,
            Op::Txn(txn) => txn.is_read(),
        }
    }

    fn into_wire(self, namespace: &Namespace) -> pb::RequestOp {
        let request = match self {
            Op::Get(get) => Request::RequestRange(get.into_wire(namespace)),
            Op::Put(put) => Request::RequestPut(put.into_wire(namespace)),
            Op::Delete(delete) => Request::RequestDeleteRange(delete.into_wire(namespace)),
            Op::Txn(txn) => Request::RequestTxn(txn.into_wire(namespace)),
        };
        pb::RequestOp { request: Some(request) }
    }
}

/// A transaction; it is sent when it is awaited, or by [`Txn::commit`]. One that only reads may be sent more than once.
///
/// # Errors
///
/// [`Error::Refused`] as its operations, or if it puts a key twice or has too many operations: nothing was done then.
/// [`Error::Unknown`] if no answer came after it was sent, and it is not one that only reads.
///
/// # Cancellation
///
/// After the future was dropped, nobody knows whether it was done.
#[derive(Clone, Debug)]
#[must_use = "a request is sent when it is awaited"]
pub struct Txn<C = Client> {
    client: C,
    compares: Vec<Compare>,
    success: Vec<Op>,
    failure: Vec<Op>,
    patience: Patience,
}

/// A transaction within another.
pub fn txn() -> Txn<()> {
    Txn::new(())
}

/// The answer to a [`Txn`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TxnDone {
    /// Who answered; its revision is the one of what was changed, if something was.
    pub header: Header,
    /// Whether all conditions held.
    pub succeeded: bool,
    /// What became of each operation that was done, in their order.
    pub done: Vec<OpDone>,
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpDone {
    /// It read this.
    Get(Got),
    /// It put.
    Put(PutDone),
    /// It deleted.
    Delete(Deleted),
    /// It did this.
    Txn(TxnDone),
}

impl TxnDone {
    fn from_wire(answer: pb::TxnResponse, namespace: &Namespace, depth: usize) -> Result<TxnDone, Strange> {
        let done = answer.responses.into_iter().map(|answer| OpDone::from_wire(answer, namespace, depth));
        let done = done.collect::<Result<_, _>>()?;
        Ok(TxnDone { header: answer.header.into(), succeeded: answer.succeeded, done })
    }

    /// What its reads found, one after the other, those of transactions within it left out.
    pub fn reads(&self) -> impl Iterator<Item = &Got> {
        self.done.iter().filter_map(|done| match done {
            OpDone::Get(got) => Some(got),
            OpDone::Put(_) | OpDone::Delete(_) | OpDone::Txn(_) => None,
        })
    }
}

impl OpDone {
    fn from_wire(answer: pb::ResponseOp, namespace: &Namespace, depth: usize) -> Result<OpDone, Strange> {
        match answer.response {
            Some(Response::ResponseRange(answer)) => Got::from_wire(answer, namespace).map(OpDone::Get),
            Some(Response::ResponsePut(answer)) => Ok(OpDone::Put(PutDone::from_wire(answer, namespace))),
            Some(Response::ResponseDeleteRange(answer)) => Deleted::from_wire(answer, namespace).map(OpDone::Delete),
            Some(Response::ResponseTxn(answer)) if depth > 0 => {
                TxnDone::from_wire(answer, namespace, depth - 1).map(OpDone::Txn)
            }
            Some(Response::ResponseTxn(_)) | None => Err(Strange),
        }
    }
}

impl<C> Txn<C> {
    fn new(client: C) -> Txn<C> {
        Txn { client, compares: vec![], success: vec![], failure: vec![], patience: Patience::default() }
    }

    /// Adds conditions. Without any, it succeeds.
    pub fn when(mut self, compares: impl IntoIterator<Item = Compare>) -> Txn<C> {
        self.compares.extend(compares);
        self
    }

    /// Adds what is done if all conditions hold.
    pub fn and_then(mut self, ops: impl IntoIterator<Item = impl Into<Op>>) -> Txn<C> {
        self.success.extend(ops.into_iter().map(Into::into));
        self
    }

    /// Adds what is done if one does not.
    pub fn or_else(mut self, ops: impl IntoIterator<Item = impl Into<Op>>) -> Txn<C> {
        self.failure.extend(ops.into_iter().map(Into::into));
        self
    }

    fn is_read(&self) -> bool {
        self.success.iter().chain(&self.failure).all(Op::is_read)
    }

    fn into_wire(self, namespace: &Namespace) -> pb::TxnRequest {
        pb::TxnRequest {
            compare: self.compares.into_iter().map(|compare| compare.into_wire(namespace)).collect(),
            success: self.success.into_iter().map(|op| op.into_wire(namespace)).collect(),
            failure: self.failure.into_iter().map(|op| op.into_wire(namespace)).collect(),
        }
    }
}

impl Txn {
    /// How long it may take, over all tries.
    pub fn timeout(mut self, timeout: Duration) -> Txn {
        self.patience.timeout = Some(timeout);
        self
    }

    /// When it must be over, on the client's clock.
    pub fn deadline(mut self, deadline: Instant) -> Txn {
        self.patience.deadline = Some(deadline);
        self
    }

    pub(crate) fn patience(mut self, patience: Patience) -> Txn {
        self.patience = patience;
        self
    }

    /// Sends it.
    ///
    /// # Errors
    ///
    /// See [`Txn`].
    pub async fn commit(self) -> Result<TxnDone, Error> {
        let client = self.client.clone();
        let what = if self.is_read() { What::read("txn") } else { What::write("txn") };
        let what = self.patience.of(what);
        let request = self.into_wire(client.namespace());
        let answer = client.call(what, |link| {
            let request = request.clone();
            async move { KvClient::new(link).max_decoding_message_size(usize::MAX).txn(request).await }
        });
        TxnDone::from_wire(answer.await?, client.namespace(), DEPTH_MAX)
            .map_err(|Strange| client.nonsense("an answer to something else"))
    }
}

impl IntoFuture for Txn {
    type Output = Result<TxnDone, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.commit().boxed()
    }
}

impl Client {
    /// Begins a transaction.
    pub fn txn(&self) -> Txn {
        Txn::new(self.clone())
    }
}
