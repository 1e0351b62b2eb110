//! Keys that must be there before a measurement begins.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use tenure_proto::etcdserverpb as pb;
use tokio::task::JoinSet;

use super::TXN;
use crate::caller::Caller;
use crate::drive::Scope;
use crate::failure::{Error, Failure};
use crate::keys::{Keys, Values};
use crate::target::within;

/// etcd refuses transactions of more than 128 operations, and requests of more than 1.5 MiB.
const PUTS_MAX: u64 = 100;
const BYTES_MAX: u64 = 512 * 1024;
/// Transactions under way at once.
const AT_ONCE: usize = 32;

/// What is to be written.
#[derive(Debug)]
pub(crate) struct Filling<'a> {
    keys: &'a Keys,
    values: &'a Values,
    /// How many puts, from the first key on, starting over after the last.
    total: u64,
    /// In one transaction, which makes one revision.
    together: u64,
    /// Values differ from those of another salt.
    salt: u64,
}

impl<'a> Filling<'a> {
    /// Every key once, many in one transaction.
    pub(crate) fn new(keys: &'a Keys, values: &'a Values) -> Filling<'a> {
        Filling { keys, values, total: keys.count, together: PUTS_MAX, salt: 0 }
    }

    /// So many puts, each of which makes a revision.
    pub(crate) fn revisions(keys: &'a Keys, values: &'a Values, total: u64) -> Filling<'a> {
        Filling { total, together: 1, ..Filling::new(keys, values) }
    }

    /// With other values.
    pub(crate) fn salted(self, salt: u64) -> Filling<'a> {
        Filling { salt, ..self }
    }

    /// Writes it all, and answers the cluster's revision afterwards.
    pub(crate) async fn run(self, scope: &Scope) -> Result<i64, Error> {
        scope.observer.stage("filling");
        let put_bytes = self.values.of(0).len() as u64 + 64;
        let together = (BYTES_MAX / put_bytes).clamp(1, self.together);
        let (keys, next, newest) = (Rc::new(self.keys.clone()), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (total, salt) = (self.total, self.salt);
        let mut tasks = JoinSet::new();
        for at in 0..AT_ONCE {
            let (caller, patience) = (scope.caller(at), scope.settings.patience);
            let (keys, values, next, newest) = (keys.clone(), self.values.clone(), next.clone(), newest.clone());
            tasks.spawn_local(async move {
                while next.get() < total {
                    let from: u64 = next.get();
                    let to = (from + together).min(total);
                    next.set(to);
                    let success = (from..to).map(|at| put(keys.at(at % keys.count), values.of(at ^ salt))).collect();
                    let txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
                    let revision = within(patience, write(&caller, &txn)).await?;
                    newest.set(newest.get().max(revision));
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
}

async fn write(caller: &Caller, txn: &pb::TxnRequest) -> Result<i64, Failure> {
    let answer: pb::TxnResponse = caller.call(TXN, txn).await?;
    Ok(answer.header.map_or(0, |header| header.revision))
}

/// A put as a part of a transaction.
pub(crate) fn put(key: Bytes, value: Bytes) -> pb::RequestOp {
    let put = pb::PutRequest { key, value, ..pb::PutRequest::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}
