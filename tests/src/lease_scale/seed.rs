//! Puts leases and keys into a cluster, as fast as it takes them, before a scenario begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::etcdserverpb::request_op::Request as Op;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::PATIENCE;
use crate::lease_check::Moment;

/// Requests under way to each member: enough for full groups, and far below what a member refuses.
const AT_ONCE: usize = 100;

/// Operations of one transaction: etcd's limit.
const OPS_MAX: i64 = 128;

/// A lease that was granted.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    pub id: i64,
    pub ttl: Duration,
    /// When the grant was sent, and when it was answered.
    pub sent: Moment,
    pub received: Moment,
}

/// How long a lease that is granted now is to live, in whole seconds.
pub type TtlNow = Arc<dyn Fn(Moment) -> u64 + Send + Sync>;

/// Grants leases with the ids from `first` on, through all members.
pub async fn grant(channels: &[Channel], first: i64, count: i64, ttl: TtlNow) -> Result<Vec<Granted>> {
    let next = Arc::new(AtomicI64::new(first));
    let mut granters = JoinSet::new();
    for at in 0..AT_ONCE * channels.len() {
        let mut client = LeaseClient::new(channels[at % channels.len()].clone());
        let (next, ttl) = (next.clone(), ttl.clone());
        granters.spawn(async move {
            let mut granted = Vec::new();
            loop {
                let id = next.fetch_add(1, Ordering::Relaxed);
                if id >= first + count {
                    return anyhow::Ok(granted);
                }
                let sent = Moment::now();
                let secs = ttl(sent);
                let request = pb::LeaseGrantRequest { id, ttl: i64::try_from(secs)? };
                timeout(PATIENCE, client.lease_grant(request)).await.context("a grant hangs")??;
                granted.push(Granted { id, ttl: Duration::from_secs(secs), sent, received: Moment::now() });
            }
        });
    }
    let mut all = Vec::new();
    while let Some(granted) = granters.join_next().await {
        all.extend(granted??);
    }
    ensure!(i64::try_from(all.len())? == count, "{} of {count} leases were granted", all.len());
    all.sort_unstable_by_key(|granted| granted.id);
    Ok(all)
}

/// A TTL that does not depend on the time.
pub fn fixed(ttl: Duration) -> TtlNow {
    Arc::new(move |_| ttl.as_secs())
}

/// Puts `count` keys, `PREFIX0000000` and so on, each attached to the lease that `lease_of` names (0 is none). Returns the
/// highest revision.
pub async fn put_keys(
    channels: &[Channel],
    prefix: &str,
    count: i64,
    lease_of: impl Fn(i64) -> i64 + Send + Sync + 'static,
) -> Result<i64> {
    let (next, lease_of) = (Arc::new(AtomicI64::new(0)), Arc::new(lease_of));
    let mut writers = JoinSet::new();
    for channel in channels {
        for _ in 0..4 {
            let (next, lease_of, prefix) = (next.clone(), lease_of.clone(), prefix.to_owned());
            let mut client = KvClient::new(channel.clone());
            writers.spawn(async move {
                let mut revision = 0;
                loop {
                    let from = next.fetch_add(OPS_MAX, Ordering::Relaxed);
                    if from >= count {
                        return anyhow::Ok(revision);
                    }
                    let put = |at: i64| pb::PutRequest {
                        key: format!("{prefix}{at:07}").into(),
                        value: "127.0.0.1:8080".into(),
                        lease: lease_of(at),
                        ..pb::PutRequest::default()
                    };
                    let op = |at| pb::RequestOp { request: Some(Op::RequestPut(put(at))) };
                    let success = (from..count.min(from + OPS_MAX)).map(op).collect();
                    let txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
                    let answer = timeout(PATIENCE, client.txn(txn)).await.context("a put hangs")??;
                    revision = answer.into_inner().header.context("an answer without a header")?.revision;
                }
            });
        }
    }
    let mut revision = 0;
    while let Some(last) = writers.join_next().await {
        revision = revision.max(last??);
    }
    Ok(revision)
}
