//! The cluster as a client sees it: one connection per node, the requests that the demo needs, a deadline on each.
//!
//! Nothing is tried twice in here. A request that failed or was not answered may have taken effect, and its caller alone
//! knows what that means for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use bytes::Bytes;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tenure_proto::etcdserverpb::watch_client::WatchClient;
use tenure_proto::etcdserverpb::{
    DeleteRangeRequest, HashKvRequest, HashKvResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader, StatusRequest, StatusResponse, TxnRequest, TxnResponse,
};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::limits::{ANSWER_BYTES_MAX, CONNECT_PATIENCE, REQUEST_PATIENCE, STATUS_PATIENCE};

/// All nodes; clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    nodes: Arc<[Node]>,
}

#[derive(Debug)]
struct Node {
    channel: Channel,
    /// What the last status request came to. Clients go to those that answer.
    is_answering: AtomicBool,
}

type Answer<T> = Result<T, Status>;

impl Store {
    /// Prepares a connection to each of `endpoints` (host:port); it is made when the first request needs it.
    pub fn new(endpoints: &[String]) -> anyhow::Result<Self> {
        let node = |endpoint: &String| {
            let channel = Endpoint::from_shared(format!("http://{endpoint}"))
                .with_context(|| format!("{endpoint} is no host:port"))?
                .connect_timeout(CONNECT_PATIENCE)
                .connect_lazy();
            anyhow::Ok(Node { channel, is_answering: AtomicBool::new(true) })
        };
        Ok(Self { nodes: endpoints.iter().map(node).collect::<Result<_, _>>()? })
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none, which `new` was not meant for.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The next node after `node` that answers; simply the next one if none does.
    pub fn other(&self, node: usize) -> usize {
        let after = |step: usize| (node + step) % self.len();
        (1..=self.len())
            .map(after)
            .find(|node| self.nodes[*node].is_answering.load(Ordering::Relaxed))
            .unwrap_or_else(|| after(1))
    }

    fn channel(&self, node: usize) -> Channel {
        self.nodes[node].channel.clone()
    }

    /// The status of a node; remembers whether it answered.
    pub async fn status(&self, node: usize) -> Answer<StatusResponse> {
        let mut client = MaintenanceClient::new(self.channel(node));
        let answer = match timeout(STATUS_PATIENCE, client.status(StatusRequest {})).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no status in time")),
        };
        self.nodes[node].is_answering.store(answer.is_ok(), Ordering::Relaxed);
        answer
    }

    pub async fn put(&self, node: usize, request: PutRequest) -> Answer<PutResponse> {
        in_time(self.kv(node).put(request)).await
    }

    pub async fn range(&self, node: usize, request: RangeRequest) -> Answer<RangeResponse> {
        in_time(self.kv(node).range(request)).await
    }

    pub async fn txn(&self, node: usize, request: TxnRequest) -> Answer<TxnResponse> {
        in_time(self.kv(node).txn(request)).await
    }

    /// Deletes everything under a prefix.
    pub async fn delete_prefix(&self, node: usize, prefix: &str) -> Answer<()> {
        let request =
            DeleteRangeRequest { key: key(prefix), range_end: prefix_end(prefix), ..DeleteRangeRequest::default() };
        in_time(self.kv(node).delete_range(request)).await.map(drop)
    }

    pub async fn grant(&self, node: usize, ttl_secs: i64) -> Answer<LeaseGrantResponse> {
        in_time(self.lease(node).lease_grant(LeaseGrantRequest { ttl: ttl_secs, id: 0 })).await
    }

    pub async fn revoke(&self, node: usize, lease: i64) -> Answer<()> {
        in_time(self.lease(node).lease_revoke(LeaseRevokeRequest { id: lease })).await.map(drop)
    }

    pub async fn time_to_live(&self, node: usize, lease: i64) -> Answer<LeaseTimeToLiveResponse> {
        in_time(self.lease(node).lease_time_to_live(LeaseTimeToLiveRequest { id: lease, keys: true })).await
    }

    pub async fn hash_kv(&self, node: usize, revision: i64) -> Answer<HashKvResponse> {
        in_time(MaintenanceClient::new(self.channel(node)).hash_kv(HashKvRequest { revision })).await
    }

    pub(crate) fn lease(&self, node: usize) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel(node))
    }

    pub(crate) fn watch(&self, node: usize) -> WatchClient<Channel> {
        WatchClient::new(self.channel(node)).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn kv(&self, node: usize) -> KvClient<Channel> {
        KvClient::new(self.channel(node)).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

async fn in_time<T>(request: impl Future<Output = Answer<Response<T>>>) -> Answer<T> {
    match timeout(REQUEST_PATIENCE, request).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// A key on the wire.
pub fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The end of the range of all keys that begin with `prefix`, which ends in a plain character.
pub fn prefix_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        debug_assert!(*last < 0x7f, "prefixes of the demo end in a slash");
        *last += 1;
    }
    Bytes::from(end)
}

/// Everything under a prefix.
pub fn prefix_range(prefix: &str) -> RangeRequest {
    RangeRequest { key: key(prefix), range_end: prefix_end(prefix), ..RangeRequest::default() }
}

/// The revision that an answer's header names; 0, which no store has, if there is no header.
pub fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_character() {
        assert_eq!(prefix_end("demo/lock/"), "demo/lock0");
    }

    #[tokio::test]
    async fn clients_go_on_to_a_node_that_answers() {
        let store = Store::new(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"].map(str::to_owned)).unwrap();
        assert_eq!(store.other(0), 1);
        store.nodes[1].is_answering.store(false, Ordering::Relaxed);
        assert_eq!(store.other(0), 2);
        store.nodes[0].is_answering.store(false, Ordering::Relaxed);
        store.nodes[2].is_answering.store(false, Ordering::Relaxed);
        assert_eq!(store.other(2), 0, "none answers: simply the next");
    }
}
