//! etcdserverpb.Maintenance: status, hashes, alarms.

use std::pin::Pin;

use tenure_core::command::Command;
use tenure_core::row::{AlarmKind, AlarmRow};
use tenure_core::state::StateRead;
use tenure_core::{MemberId, Revision};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::alarm_request::AlarmAction;
use tenure_proto::etcdserverpb::maintenance_server::Maintenance;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::errors::ApiError;
use super::header;
use crate::config::ETCD_API_VERSION;
use crate::http::STORAGE_VERSION;
use crate::node::Node;

/// See the module's header.
pub(super) struct MaintenanceService {
    node: Node,
}

impl MaintenanceService {
    pub(super) fn new(node: Node) -> MaintenanceService {
        MaintenanceService { node }
    }

    fn alarms(&self) -> Vec<AlarmRow> {
        self.node.shared().raft.view().meta().alarms.clone()
    }

    /// etcd's `member 0` means every member that raised it.
    async fn clear(&self, member: MemberId, kind: AlarmKind) -> Result<Vec<AlarmRow>, ApiError> {
        let raised: Vec<AlarmRow> = self
            .alarms()
            .into_iter()
            .filter(|alarm| alarm.kind == kind && (member.0 == 0 || alarm.member == member))
            .collect();
        for alarm in &raised {
            self.node.write(&Command::AlarmClear(alarm.member, kind)).await?.result?;
        }
        Ok(raised)
    }
}

fn alarm_type(kind: AlarmKind) -> pb::AlarmType {
    match kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    }
}

fn alarm_kind(number: i32) -> Result<Option<AlarmKind>, ApiError> {
    match pb::AlarmType::try_from(number) {
        Ok(pb::AlarmType::None) => Ok(None),
        Ok(pb::AlarmType::Nospace) => Ok(Some(AlarmKind::NoSpace)),
        Ok(pb::AlarmType::Corrupt) => Ok(Some(AlarmKind::Corrupt)),
        Err(_) => Err(ApiError::UnknownEnum { what: "alarm type", value: number }),
    }
}

fn alarm_member(alarm: &AlarmRow) -> pb::AlarmMember {
    pb::AlarmMember { member_id: alarm.member.0, alarm: alarm_type(alarm.kind).into() }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let request = request.into_inner();
        let member = MemberId(request.member_id);
        let kind = alarm_kind(request.alarm)?;
        let action = AlarmAction::try_from(request.action)
            .map_err(|_| ApiError::UnknownEnum { what: "alarm action", value: request.action })?;
        let alarms = match (action, kind) {
            (AlarmAction::Get, kind) => {
                let view = self.node.view(false).await.map_err(ApiError::from)?;
                view.meta().alarms.iter().filter(|alarm| kind.is_none_or(|kind| alarm.kind == kind)).copied().collect()
            }
            (AlarmAction::Activate, Some(kind)) => {
                let outcome = self.node.write(&Command::AlarmRaise(member, kind)).await.map_err(ApiError::from)?;
                outcome.result.map_err(ApiError::from)?;
                vec![AlarmRow { member, kind }]
            }
            (AlarmAction::Deactivate, Some(kind)) => self.clear(member, kind).await?,
            (AlarmAction::Activate | AlarmAction::Deactivate, None) => Vec::new(),
        };
        let header = header(&self.node, self.node.shared().raft.view().meta().revision);
        let alarms = alarms.iter().map(alarm_member).collect();
        Ok(Response::new(pb::AlarmResponse { header: Some(header), alarms }))
    }

    async fn status(&self, _request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let shared = self.node.shared();
        let status = shared.raft.status();
        let leader = shared.raft.present_leader();
        let view = shared.raft.view();
        let mut errors: Vec<String> = view
            .meta()
            .alarms
            .iter()
            .map(|alarm| format!("memberID:{} alarm:{} ", alarm.member.0, alarm_type(alarm.kind).as_str_name()))
            .collect();
        if leader.is_none() {
            errors.push(ApiError::NoLeader.to_string());
        }
        Ok(Response::new(pb::StatusResponse {
            header: Some(header(&self.node, view.meta().revision)),
            version: ETCD_API_VERSION.to_owned(),
            db_size: signed(view.bytes().logical),
            leader: leader.map_or(0, |id| id.0),
            raft_index: status.committed.0,
            raft_term: status.term.0,
            raft_applied_index: status.applied.0,
            errors,
            db_size_in_use: signed(view.bytes().in_use),
            is_learner: status.is_learner,
            storage_version: STORAGE_VERSION.to_owned(),
            db_size_quota: shared.quota_bytes.map_or(0, signed),
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    /// Nothing needs to stop for it: compacted history is purged in the background as it is.
    async fn defragment(
        &self,
        _request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        let compacted = self.node.shared().raft.view().meta().compacted;
        self.node.purged(compacted).await.map_err(ApiError::from)?;
        let header = header(&self.node, self.node.shared().raft.view().meta().revision);
        Ok(Response::new(pb::DefragmentResponse { header: Some(header) }))
    }

    async fn hash(&self, _request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        Err(ApiError::Unimplemented("Hash").into())
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let revision = Revision(request.into_inner().revision);
        let answer = self.node.hash_kv(revision).await.map_err(ApiError::from)?;
        let hash = answer.result;
        Ok(Response::new(pb::HashKvResponse {
            header: Some(header(&self.node, answer.revision)),
            hash: hash.hash,
            compact_revision: hash.compacted.0,
            hash_revision: hash.revision.0,
        }))
    }

    async fn snapshot(&self, _request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(ApiError::Unimplemented("Snapshot").into())
    }

    async fn move_leader(
        &self,
        _request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        Err(ApiError::Unimplemented("MoveLeader").into())
    }

    async fn downgrade(
        &self,
        _request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        Err(ApiError::Unimplemented("Downgrade").into())
    }
}
