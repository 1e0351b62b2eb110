//! `lease-revoke`: leases that end with the keys on them. All of them are granted, with their keys, beforehand.

use std::rc::Rc;
use std::time::Duration;

use http::Uri;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::request_op::Request;
use tokio::task::JoinSet;

use super::leases::{Lease, grant_all};
use super::{LEASE_REVOKE, TXN};
use crate::caller::{Caller, framed};
use crate::drive::{Client, Scope};
use crate::failure::{Error, Failure};
use crate::keys::{Keys, Values};
use crate::report::Report;
use crate::target::within;

/// Long enough for any preparation.
const TTL: Duration = Duration::from_secs(3600);
/// A transaction attaches all keys of a lease; etcd takes 128 operations in one.
const KEYS_MAX: u64 = 128;
/// Transactions under way at once.
const AT_ONCE: usize = 32;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct LeaseRevoke {
    /// Of the attached keys; every lease has some of its own, however many they are to be.
    pub keys: Keys,
    pub value_bytes: usize,
    /// How many each lease has.
    pub attached: u64,
}

struct Revoker {
    caller: Caller,
    uri: Uri,
    leases: Rc<[Lease]>,
}

impl LeaseRevoke {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        if self.attached > KEYS_MAX {
            return Err(Error::Settings(format!("a lease gets {KEYS_MAX} keys at most here")));
        }
        let total = usize::try_from(scope.settings.total("lease-revoke")?).unwrap_or(usize::MAX);
        let leases: Rc<[Lease]> = grant_all(scope, total, TTL).await?.into();
        if self.attached > 0 {
            self.attach(scope, &leases).await?;
        }
        let client = |at| {
            let caller = scope.caller(at);
            Ok(Revoker { uri: caller.uri(LEASE_REVOKE)?, caller, leases: leases.clone() })
        };
        let clients = (0..scope.settings.clients).map(client).collect::<Result<_, _>>();
        let clients = clients.map_err(Error::preparing("preparing"))?;
        Ok(scope.measure("lease-revoke", clients).await.0)
    }

    async fn attach(&self, scope: &Scope, leases: &Rc<[Lease]>) -> Result<(), Error> {
        scope.observer.stage("attaching keys");
        let mut tasks = JoinSet::new();
        for at in 0..AT_ONCE {
            let (caller, patience) = (scope.caller(at), scope.settings.patience);
            let (this, leases, values) = (self.clone(), leases.clone(), Values::new(self.value_bytes, false));
            tasks.spawn_local(async move {
                for (index, lease) in leases.iter().enumerate().skip(at).step_by(AT_ONCE) {
                    let put = |key| {
                        let key = this.keys.at(index as u64 * this.attached + key);
                        let put =
                            pb::PutRequest { key, value: values.of(0), lease: lease.id, ..pb::PutRequest::default() };
                        pb::RequestOp { request: Some(Request::RequestPut(put)) }
                    };
                    let success = (0..this.attached).map(put).collect();
                    let txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
                    within(patience, caller.call::<pb::TxnResponse>(TXN, &txn)).await?;
                }
                Ok::<(), Failure>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            if let Ok(attached) = done {
                attached.map_err(Error::preparing("attaching keys"))?;
            }
        }
        Ok(())
    }
}

impl Client for Revoker {
    async fn operate(&mut self, number: u64) -> Result<(), Failure> {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        let lease = self.leases.get(at).ok_or_else(|| Failure::answer("there are no more leases"))?;
        let request = framed(&pb::LeaseRevokeRequest { id: lease.id });
        self.caller.send(&self.uri, request).await?.only::<pb::LeaseRevokeResponse>().await.map(|_| ())
    }
}
