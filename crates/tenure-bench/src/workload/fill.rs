//! Keys that must be there before a measurement begins.

use std::cell::Cell;
use std::rc::Rc;

use tenure_proto::etcdserverpb as pb;
use tokio::task::JoinSet;

use super::TXN;
use crate::drive::Scope;
use crate::failure::{Error, Failure};
use crate::keys::{Keys, Values};
use crate::target::within;

/// etcd refuses transactions of more than 128 operations, and requests of more than 1.5 MiB.
const PUTS_MAX: u64 = 100;
const BYTES_MAX: u64 = 512 * 1024;
/// Transactions under way at once.
const AT_ONCE: usize = 16;

/// Puts every key once, many in one transaction. Answers the cluster's revision afterwards.
pub(crate) async fn fill(scope: &Scope, keys: &Keys, values: &Values, salt: u64) -> Result<i64, Error> {
    scope.observer.stage("filling");
    let size = values.of(0).len() as u64 + 64;
    let each = (BYTES_MAX / size).clamp(1, PUTS_MAX);
    let (keys, next, newest) = (Rc::new(keys.clone()), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let mut tasks = JoinSet::new();
    for at in 0..AT_ONCE {
        let (caller, patience) = (scope.caller(at), scope.settings.patience);
        let (keys, values, next, newest) = (keys.clone(), values.clone(), next.clone(), newest.clone());
        tasks.spawn_local(async move {
            while next.get() < keys.count {
                let from: u64 = next.get();
                let to = (from + each).min(keys.count);
                next.set(to);
                let success = (from..to).map(|index| put(keys.at(index), values.of(index ^ salt))).collect();
                let txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
                let answer: pb::TxnResponse = within(patience, caller.call(TXN, &txn)).await?;
                newest.set(newest.get().max(answer.header.map_or(0, |header| header.revision)));
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok(filled) = done {
            filled.map_err(Error::preparing("filling"))?;
        }
    }
    Ok(newest.get())
}

/// A put as a part of a transaction.
pub(crate) fn put(key: bytes::Bytes, value: bytes::Bytes) -> pb::RequestOp {
    let put = pb::PutRequest { key, value, ..pb::PutRequest::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}
