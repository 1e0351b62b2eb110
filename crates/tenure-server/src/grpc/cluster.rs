//! etcdserverpb.Cluster: who is in it. Changing that comes with a later version.

use tenure_core::state::StateRead;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::cluster_server::Cluster;
use tenure_storage::state_view::StateView;
use tonic::{Request, Response, Status};

use super::errors::ApiError;
use super::header;
use crate::node::Node;

/// See the module's header.
pub(super) struct ClusterService {
    node: Node,
}

impl ClusterService {
    pub(super) fn new(node: Node) -> ClusterService {
        ClusterService { node }
    }

    fn members(&self, view: &StateView) -> Vec<pb::Member> {
        let published = &view.meta().members;
        let members = self.node.shared().raft.members().into_iter().map(|member| {
            let attributes = published.iter().find(|attributes| attributes.member == member.id);
            pb::Member {
                id: member.id.0,
                // As in etcd, a member that never started has neither a name nor client URLs.
                name: attributes.map(|a| a.name.clone()).unwrap_or_default(),
                peer_ur_ls: member.peer.peer_urls,
                client_ur_ls: attributes.map(|a| a.client_urls.clone()).unwrap_or_default(),
                is_learner: member.is_learner,
            }
        });
        members.collect()
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_add(
        &self,
        _request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(ApiError::Unimplemented("MemberAdd").into())
    }

    async fn member_remove(
        &self,
        _request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(ApiError::Unimplemented("MemberRemove").into())
    }

    async fn member_update(
        &self,
        _request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(ApiError::Unimplemented("MemberUpdate").into())
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let view = self.node.view(!request.into_inner().linearizable).await.map_err(ApiError::from)?;
        let members = self.members(&view);
        // As in etcd, this header carries no revision: membership is not part of the key space.
        let header = header(&self.node, tenure_core::Revision(0));
        Ok(Response::new(pb::MemberListResponse { header: Some(header), members }))
    }

    async fn member_promote(
        &self,
        _request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(ApiError::Unimplemented("MemberPromote").into())
    }
}
