//! `txn-put` and `txn-mixed`: many puts in one transaction, and reads and writes side by side.

use std::rc::Rc;

use bytes::Bytes;
use http::Uri;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use tenure_proto::etcdserverpb::request_op::Request;
use tokio::time::Instant;

use super::fill::{Filling, put};
use super::{PUT, RANGE, TXN};
use crate::caller::{Caller, framed};
use crate::drive::{Client, Scope};
use crate::failure::{Error, Failure};
use crate::keys::{Keys, Values, fraction};
use crate::recorder::Recorder;
use crate::report::Report;

/// Transactions of puts alone.
#[derive(Clone, Debug)]
pub struct TxnPut {
    pub keys: Keys,
    pub value_bytes: usize,
    pub fresh_values: bool,
    /// Puts in one transaction. etcd takes 128 unless told otherwise.
    pub operations: u64,
}

/// Reads and writes of one key each.
#[derive(Clone, Debug)]
pub struct TxnMixed {
    pub keys: Keys,
    pub value_bytes: usize,
    /// How many of all are reads, from 0 to 1.
    pub read_share: f64,
    /// Reads take what the asked member has.
    pub serializable: bool,
    /// Every one as a transaction whose condition always holds, instead of a plain range or put.
    pub compare: bool,
    /// Whether it writes all keys beforehand.
    pub fill: bool,
}

struct Writer {
    caller: Caller,
    uri: Uri,
    txn: Rc<TxnPut>,
    values: Values,
}

struct Mixer {
    caller: Caller,
    put: Uri,
    range: Uri,
    txn: Uri,
    mixed: Rc<TxnMixed>,
    values: Values,
    recorder: Rc<Recorder>,
}

impl TxnPut {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        if self.operations == 0 || self.operations > self.keys.count {
            return Err(Error::Settings("a transaction puts one key or more, each of them once".to_owned()));
        }
        let (txn, values) = (Rc::new(self.clone()), Values::new(self.value_bytes, self.fresh_values));
        let client = |at| {
            let caller = scope.caller(at);
            Ok(Writer { uri: caller.uri(TXN)?, caller, txn: txn.clone(), values: values.clone() })
        };
        let clients = (0..scope.settings.clients).map(client).collect::<Result<_, _>>();
        let clients = clients.map_err(Error::preparing("preparing"))?;
        Ok(scope.measure("txn-put", clients).await.0)
    }
}

impl Client for Writer {
    async fn operate(&mut self, number: u64) -> Result<(), Failure> {
        let keys = &self.txn.keys;
        // Neighbours from a first key on: a key twice in one transaction is refused.
        let first = keys.index(number.wrapping_mul(self.txn.operations));
        let one = |at: u64| put(keys.at((first + at) % keys.count), self.values.of(number ^ (at << 48)));
        let success = (0..self.txn.operations).map(one).collect();
        let request = framed(&pb::TxnRequest { success, ..pb::TxnRequest::default() });
        some_answer(self.caller.send(&self.uri, request).await?.end().await?)
    }
}

impl TxnMixed {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        if !(0.0..=1.0).contains(&self.read_share) {
            return Err(Error::Settings("the share of reads is from 0 to 1".to_owned()));
        }
        let values = Values::new(self.value_bytes, true);
        if self.fill {
            Filling::new(&self.keys, &values).run(scope).await?;
        }
        let mixed = Rc::new(self.clone());
        let client = |at| {
            let caller = scope.caller(at);
            let (put, range, txn) = (caller.uri(PUT)?, caller.uri(RANGE)?, caller.uri(TXN)?);
            let (mixed, values, recorder) = (mixed.clone(), values.clone(), scope.recorder.clone());
            Ok(Mixer { caller, put, range, txn, mixed, values, recorder })
        };
        let clients = (0..scope.settings.clients).map(client).collect::<Result<_, _>>();
        let clients = clients.map_err(Error::preparing("preparing"))?;
        Ok(scope.measure("txn-mixed", clients).await.0)
    }
}

impl Mixer {
    async fn read(&self, key: Bytes) -> Result<(), Failure> {
        let range =
            pb::RangeRequest { key: key.clone(), serializable: self.mixed.serializable, ..pb::RangeRequest::default() };
        self.send(key, &self.range, range, Request::RequestRange).await
    }

    async fn write(&self, key: Bytes, value: Bytes) -> Result<(), Failure> {
        let put = pb::PutRequest { key: key.clone(), value, ..pb::PutRequest::default() };
        self.send(key, &self.put, put, Request::RequestPut).await
    }

    async fn send<Plain: prost::Message>(
        &self,
        key: Bytes,
        uri: &Uri,
        plain: Plain,
        wrapped: impl FnOnce(Plain) -> Request,
    ) -> Result<(), Failure> {
        let answers = if self.mixed.compare {
            let txn = pb::TxnRequest {
                compare: vec![holds(key)],
                success: vec![pb::RequestOp { request: Some(wrapped(plain)) }],
                failure: vec![],
            };
            self.caller.send(&self.txn, framed(&txn)).await
        } else {
            self.caller.send(uri, framed(&plain)).await
        };
        some_answer(answers?.end().await?)
    }
}

impl Client for Mixer {
    async fn operate(&mut self, number: u64) -> Result<(), Failure> {
        let (key, started) = (self.mixed.keys.of(number), Instant::now());
        // Another draw than the one that picks random keys.
        if fraction(number ^ 0x0dd5) < self.mixed.read_share {
            self.read(key).await?;
            self.recorder.part("read", started);
        } else {
            self.write(key, self.values.of(number)).await?;
            self.recorder.part("write", started);
        }
        Ok(())
    }
}

/// A condition that holds for every key, whether it is there or not.
fn holds(key: Bytes) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Version.into(),
        key,
        target_union: Some(TargetUnion::Version(-1)),
        ..pb::Compare::default()
    }
}

fn some_answer(bytes: usize) -> Result<(), Failure> {
    if bytes == 0 { Err(Failure::answer("an answer without a message")) } else { Ok(()) }
}
