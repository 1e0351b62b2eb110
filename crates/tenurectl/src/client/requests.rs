//! The requests that the commands make, each with its effect.

use std::time::Duration;

use bytes::Bytes;
use futures::future::select_ok;
use futures::stream;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::cluster_client::ClusterClient;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tenure_proto::tenure::v1;
use tenure_proto::tenure::v1::leases_client::LeasesClient;
use tenure_proto::v3electionpb::election_client::ElectionClient;
use tenure_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ResignRequest, ResignResponse,
};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::{Client, ClientError, Effect, Endpoint};
use crate::ids::{LeaseId, MemberId, Revision};

/// How long a server may take to begin a snapshot.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(30);

/// For calls that wait for their turn, or for something to tell: for years.
const WAITING_PATIENCE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

fn kv(channel: Channel) -> KvClient<Channel> {
    // What a server sends is limited by what is stored.
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

fn lease(channel: Channel) -> LeaseClient<Channel> {
    LeaseClient::new(channel).max_decoding_message_size(usize::MAX)
}

fn maintenance(channel: Channel) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(channel)
}

impl Client {
    /// Reads keys.
    pub(crate) async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, ClientError> {
        let effect = if request.serializable { Effect::LocalRead } else { Effect::Read };
        let send = |channel, request| async move { kv(channel).range(request).await };
        self.call(effect, self.timeouts.command, request, send).await
    }

    /// Reads a key through this endpoint alone.
    pub(crate) async fn range_at(
        &self,
        at: usize,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, ClientError> {
        let send = |channel, request| async move { kv(channel).range(request).await };
        self.call_at(at, Effect::Read, request, send).await
    }

    /// Writes a key.
    pub(crate) async fn put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, ClientError> {
        let send = |channel, request| async move { kv(channel).put(request).await };
        self.call(Effect::Write, self.timeouts.command, request, send).await
    }

    /// Deletes keys.
    pub(crate) async fn delete(&self, request: pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, ClientError> {
        let send = |channel, request| async move { kv(channel).delete_range(request).await };
        self.call(Effect::Write, self.timeouts.command, request, send).await
    }

    /// Runs a transaction.
    pub(crate) async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, ClientError> {
        let send = |channel, request| async move { kv(channel).txn(request).await };
        self.call(Effect::Write, self.timeouts.command, request, send).await
    }

    /// Forgets history below a revision.
    pub(crate) async fn compact(&self, request: pb::CompactionRequest) -> Result<pb::CompactionResponse, ClientError> {
        let send = |channel, request| async move { kv(channel).compact(request).await };
        self.call(Effect::Write, self.timeouts.command, request, send).await
    }

    /// Makes a lease.
    pub(crate) async fn lease_grant(
        &self,
        request: pb::LeaseGrantRequest,
    ) -> Result<pb::LeaseGrantResponse, ClientError> {
        let send = |channel, request| async move { lease(channel).lease_grant(request).await };
        self.call(Effect::Write, self.timeouts.command, request, send).await
    }

    /// Makes a lease that says whom it is for.
    pub(crate) async fn lease_grant_held(
        &self,
        request: v1::LeaseGrantRequest,
    ) -> Result<v1::LeaseGrantResponse, ClientError> {
        let send = |channel, request| async move { LeasesClient::new(channel).grant(request).await };
        self.call(Effect::Write, self.timeouts.command, request, send).await
    }

    /// Ends a lease.
    pub(crate) async fn lease_revoke(&self, id: LeaseId) -> Result<pb::LeaseRevokeResponse, ClientError> {
        let send = |channel, request| async move { lease(channel).lease_revoke(request).await };
        self.call(Effect::Write, self.timeouts.command, pb::LeaseRevokeRequest { id: id.0 }, send).await
    }

    /// Renews a lease once; doing it twice does no harm.
    pub(crate) async fn lease_renew(
        &self,
        id: LeaseId,
        patience: Duration,
    ) -> Result<pb::LeaseKeepAliveResponse, ClientError> {
        self.call(Effect::Read, patience, pb::LeaseKeepAliveRequest { id: id.0 }, renew).await
    }

    /// Renews a lease once, through this endpoint alone.
    pub(crate) async fn lease_renew_at(
        &self,
        at: usize,
        id: LeaseId,
        patience: Duration,
    ) -> Result<pb::LeaseKeepAliveResponse, ClientError> {
        self.call_once(at, Effect::Read, patience, pb::LeaseKeepAliveRequest { id: id.0 }, renew).await
    }

    /// What is left of a lease, and perhaps its keys.
    pub(crate) async fn lease_show(&self, id: LeaseId, keys: bool) -> Result<pb::LeaseTimeToLiveResponse, ClientError> {
        let send = |channel, request| async move { lease(channel).lease_time_to_live(request).await };
        let request = pb::LeaseTimeToLiveRequest { id: id.0, keys };
        self.call(Effect::Read, self.timeouts.command, request, send).await
    }

    /// All that is known of a lease. Only a Tenure knows more than [`Client::lease_show`] tells.
    pub(crate) async fn lease_state(&self, id: LeaseId) -> Result<Option<v1::LeaseState>, ClientError> {
        let send = |channel, request| async move { LeasesClient::new(channel).time_to_live(request).await };
        let request = v1::LeaseTimeToLiveRequest { id: id.0, ..v1::LeaseTimeToLiveRequest::default() };
        Ok(self.call(Effect::Read, self.timeouts.command, request, send).await?.lease)
    }

    /// The leases after one, as far as they are in a page.
    pub(crate) async fn lease_states(&self, after: Option<i64>) -> Result<v1::LeaseListResponse, ClientError> {
        let send = |channel, request| async move { LeasesClient::new(channel).list(request).await };
        self.call(Effect::Read, self.timeouts.command, v1::LeaseListRequest { limit: 0, after }, send).await
    }

    /// What became of a lease.
    pub(crate) async fn lease_explain(&self, id: LeaseId) -> Result<v1::LeaseExplainResponse, ClientError> {
        let send = |channel, request| async move { LeasesClient::new(channel).explain(request).await };
        self.call(Effect::Read, self.timeouts.command, v1::LeaseExplainRequest { id: id.0 }, send).await
    }

    /// Waits until it leads. By the same lease it may be asked again: it keeps its place.
    pub(crate) async fn campaign(&self, request: CampaignRequest) -> Result<CampaignResponse, ClientError> {
        let send = |channel, request| async move { ElectionClient::new(channel).campaign(request).await };
        self.call(Effect::Read, WAITING_PATIENCE, request, send).await
    }

    /// Who leads an election.
    pub(crate) async fn leader(&self, name: Bytes) -> Result<LeaderResponse, ClientError> {
        let send = |channel, request| async move { ElectionClient::new(channel).leader(request).await };
        self.call(Effect::Read, self.timeouts.command, LeaderRequest { name }, send).await
    }

    /// Who leads an election, from now on. etcd answers only when somebody does.
    pub(crate) async fn observe(&self, name: Bytes) -> Result<Streaming<LeaderResponse>, ClientError> {
        let send = |channel, request| async move { ElectionClient::new(channel).observe(request).await };
        self.call(Effect::Read, WAITING_PATIENCE, LeaderRequest { name }, send).await
    }

    /// Ends a leadership, of that life of its key: doing it twice does no harm.
    pub(crate) async fn resign(&self, leader: LeaderKey) -> Result<ResignResponse, ClientError> {
        let send = |channel, request| async move { ElectionClient::new(channel).resign(request).await };
        self.call(Effect::Read, self.timeouts.command, ResignRequest { leader: Some(leader) }, send).await
    }

    /// The ids of all leases.
    pub(crate) async fn leases(&self) -> Result<pb::LeaseLeasesResponse, ClientError> {
        let send = |channel, request| async move { lease(channel).lease_leases(request).await };
        self.call(Effect::Read, self.timeouts.command, pb::LeaseLeasesRequest {}, send).await
    }

    /// The members, as any one of them knows them.
    pub(crate) async fn members(&self) -> Result<pb::MemberListResponse, ClientError> {
        let send = |channel, request| async move { ClusterClient::new(channel).member_list(request).await };
        let request = pb::MemberListRequest { linearizable: false };
        self.call(Effect::LocalRead, self.timeouts.command, request, send).await
    }

    /// The members, from whichever endpoint answers first: for commands that look at members which may be down.
    pub(crate) async fn members_from_any(&self) -> Result<pb::MemberListResponse, ClientError> {
        let send = |channel, request| async move { ClusterClient::new(channel).member_list(request).await };
        let request = pb::MemberListRequest { linearizable: false };
        let asked = (0..self.slots.len()).map(|at| Box::pin(self.call_at(at, Effect::LocalRead, request, send)));
        select_ok(asked).await.map(|(answer, _)| answer)
    }

    /// Reads or clears alarms. Clearing one that is not raised changes nothing, so it may be repeated.
    pub(crate) async fn alarm(&self, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, ClientError> {
        let send = |channel, request| async move { maintenance(channel).alarm(request).await };
        self.call(Effect::Read, self.timeouts.command, request, send).await
    }

    /// What the member at this endpoint knows of itself.
    pub(crate) async fn status_at(&self, at: usize) -> Result<pb::StatusResponse, ClientError> {
        let send = |channel, request| async move { maintenance(channel).status(request).await };
        self.call_at(at, Effect::LocalRead, pb::StatusRequest {}, send).await
    }

    /// The hash of what the member at this endpoint holds.
    pub(crate) async fn hash_at(&self, at: usize, revision: Revision) -> Result<pb::HashKvResponse, ClientError> {
        let send = |channel, request| async move { maintenance(channel).hash_kv(request).await };
        self.call_at(at, Effect::LocalRead, pb::HashKvRequest { revision: revision.0 }, send).await
    }

    /// A snapshot from the first member that answers, and which that is. A member without a leader gives what it has.
    pub(crate) async fn snapshot(&self) -> Result<(Endpoint, Streaming<pb::SnapshotResponse>), ClientError> {
        let send = |channel, request| async move { maintenance(channel).snapshot(request).await };
        // A checkpoint of a busy member may take longer than a request.
        let patience = self.timeouts.command.max(SNAPSHOT_PATIENCE);
        let stream = self.call(Effect::LocalRead, patience, pb::SnapshotRequest {}, send).await?;
        let at = self.order().next().unwrap_or_default();
        Ok((self.slots[at].endpoint.clone(), stream))
    }

    /// Asks the member at this endpoint, which leads, to hand over.
    pub(crate) async fn move_leader_at(
        &self,
        at: usize,
        target: MemberId,
    ) -> Result<pb::MoveLeaderResponse, ClientError> {
        let send = |channel, request| async move { maintenance(channel).move_leader(request).await };
        self.call_at(at, Effect::Write, pb::MoveLeaderRequest { target_id: target.0 }, send).await
    }
}

/// One renewal on a stream of its own: streams are cheap, and one that is not there needs no minding.
async fn renew(
    channel: Channel,
    request: Request<pb::LeaseKeepAliveRequest>,
) -> Result<Response<pb::LeaseKeepAliveResponse>, Status> {
    let (metadata, extensions, renewal) = request.into_parts();
    let renewals = stream::iter([renewal]);
    let mut answers =
        lease(channel).lease_keep_alive(Request::from_parts(metadata, extensions, renewals)).await?.into_inner();
    let answer = answers.message().await?;
    answer.map(Response::new).ok_or_else(|| Status::unavailable("the server ended the stream of renewals"))
}
