//! etcdserverpb.Maintenance: status, hashes, alarms, moving leadership.

use tenure_core::command::Command;
use tenure_core::row::{AlarmKind, AlarmRow};
use tenure_core::state::StateRead;
use tenure_core::{MemberId, Revision};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::alarm_request::AlarmAction;
use tenure_proto::etcdserverpb::downgrade_request::DowngradeAction;
use tenure_proto::etcdserverpb::maintenance_server::Maintenance;
use tenure_raft::backup::BackupError;
use tonic::{Request, Response, Status};

use super::errors::ApiError;
use super::header;
use super::snapshot::SnapshotStream;
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

    /// The alarms of a kind, or all of them, as of now.
    async fn list(&self, kind: Option<AlarmKind>) -> Result<Vec<AlarmRow>, ApiError> {
        let view = self.node.view(false).await?;
        Ok(view.meta().alarms.iter().filter(|alarm| kind.is_none_or(|kind| alarm.kind == kind)).copied().collect())
    }

    async fn raise(&self, alarm: AlarmRow) -> Result<Vec<AlarmRow>, ApiError> {
        self.node.write(&Command::AlarmRaise(alarm.member, alarm.kind)).await?.result?;
        Ok(vec![alarm])
    }

    /// Clears one alarm. As in etcd, member 0 is a member like any other, and what was not raised is no error.
    async fn clear(&self, alarm: AlarmRow) -> Result<Vec<AlarmRow>, ApiError> {
        if !self.list(Some(alarm.kind)).await?.contains(&alarm) {
            return Ok(Vec::new());
        }
        self.node.write(&Command::AlarmClear(alarm.member, alarm.kind)).await?.result?;
        Ok(vec![alarm])
    }
}

fn alarm_type(kind: AlarmKind) -> pb::AlarmType {
    match kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    }
}

/// What a number stands for: no kind, a kind, or one that nobody can have raised.
enum AskedAlarm {
    None,
    Kind(AlarmKind),
    Unknown,
}

fn asked_alarm(number: i32) -> AskedAlarm {
    match pb::AlarmType::try_from(number) {
        Ok(pb::AlarmType::None) => AskedAlarm::None,
        Ok(pb::AlarmType::Nospace) => AskedAlarm::Kind(AlarmKind::NoSpace),
        Ok(pb::AlarmType::Corrupt) => AskedAlarm::Kind(AlarmKind::Corrupt),
        Err(_) => AskedAlarm::Unknown,
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
    type SnapshotStream = SnapshotStream;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let request = request.into_inner();
        let member = MemberId(request.member_id);
        let action = AlarmAction::try_from(request.action)
            .map_err(|_| ApiError::UnknownEnum { what: "alarm action", value: request.action })?;
        let alarms = match (action, asked_alarm(request.alarm)) {
            (AlarmAction::Get, AskedAlarm::None) => self.list(None).await?,
            (AlarmAction::Get, AskedAlarm::Kind(kind)) => self.list(Some(kind)).await?,
            (AlarmAction::Activate, AskedAlarm::Kind(kind)) => self.raise(AlarmRow { member, kind }).await?,
            (AlarmAction::Deactivate, AskedAlarm::Kind(kind)) => self.clear(AlarmRow { member, kind }).await?,
            // etcd does not survive this one.
            (AlarmAction::Activate, AskedAlarm::Unknown) => {
                return Err(ApiError::UnknownEnum { what: "alarm type", value: request.alarm }.into());
            }
            (AlarmAction::Activate | AlarmAction::Deactivate, AskedAlarm::None)
            | (AlarmAction::Get | AlarmAction::Deactivate, AskedAlarm::Unknown) => Vec::new(),
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
        let no_leader = leader.is_none().then(|| ApiError::NoLeader.to_string());
        let alarms = view.meta().alarms.iter();
        let alarms =
            alarms.map(|alarm| format!("memberID:{} alarm:{} ", alarm.member.0, alarm_type(alarm.kind).as_str_name()));
        let errors = no_leader.into_iter().chain(alarms).collect();
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
        // As in etcd, without a header.
        Ok(Response::new(pb::DefragmentResponse::default()))
    }

    async fn hash(&self, _request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let answer = self.node.hash_state().await.map_err(ApiError::from)?;
        Ok(Response::new(pb::HashResponse { header: Some(header(&self.node, answer.revision)), hash: answer.result }))
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
        let backup = self.node.backup().await.map_err(|error| match error {
            BackupError::Busy => ApiError::TooManySnapshots,
            BackupError::Checkpoint(error) => {
                tracing::warn!(%error, "a checkpoint for a snapshot to be saved could not be made");
                ApiError::Internal("a snapshot could not be made, see the server's log")
            }
        })?;
        Ok(Response::new(SnapshotStream::new(backup)))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.node.move_leader(MemberId(request.into_inner().target_id)).await.map_err(ApiError::from)?;
        // As in etcd, without a header.
        Ok(Response::new(pb::MoveLeaderResponse::default()))
    }

    /// Tenure has no earlier version to go back to, and above all none of etcd's: every target is invalid.
    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        let request = request.into_inner();
        let refusal = match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) if is_version(&request.version) => {
                ApiError::InvalidDowngradeTargetVersion
            }
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) => ApiError::WrongDowngradeVersionFormat,
            Ok(DowngradeAction::Cancel) => ApiError::NoInflightDowngrade,
            Err(_) => ApiError::UnknownMethod,
        };
        Err(refusal.into())
    }
}

/// Two or three numbers with dots between, and after three whatever a semantic version may add.
fn is_version(text: &str) -> bool {
    let is_number = |part: &str| part.parse::<u64>().is_ok() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = text.splitn(3, '.');
    let (major, minor, patch) = (parts.next(), parts.next(), parts.next());
    let patch = patch.map(|patch| patch.split(['-', '+']).next().unwrap_or(patch));
    major.is_some_and(is_number) && minor.is_some_and(is_number) && patch.is_none_or(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_other_texts_as_by_etcd() {
        for text in ["3.4", "3.4.0", "3.5.1", "4.0.0", "0.0", "3.6.0-rc.1", "3.6.0+build.7"] {
            assert!(is_version(text), "{text}");
        }
        for text in ["", "x", "3", "v3.4.0", "3.", ".4", "3.4.", "3.4.x", "3.4.0.1", "-3.4", "+3.4.0", "3.4-rc.1"] {
            assert!(!is_version(text), "{text}");
        }
    }
}
