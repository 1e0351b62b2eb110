//! Receiving a snapshot, as a peer's requests: what is checked before the inbox and consensus hear of them.

use std::sync::Arc;

use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::async_runtime::watch::WatchReceiver;
use tenure_proto::tenure::peer::v1 as pb;
use tonic::{Status, Streaming};

use super::service::PeerService;
use super::wire;
use crate::home::Housed;
use crate::runtime;
use crate::snapshot::{Inbox, Manifest, Offered, ReceiveError, StreamError};
use crate::state_machine::{SnapshotData, applied_state_of};
use crate::types::{Config, LogId, Vote};

impl PeerService {
    pub(super) async fn take_offer(
        &self,
        request: pb::OfferSnapshotRequest,
    ) -> Result<pb::OfferSnapshotResponse, Status> {
        self.admit(request.route.as_ref())?;
        let vote = wire::read_leaders_vote(&request.vote, request.route.as_ref()).map_err(invalid)?;
        let message = request.manifest.ok_or_else(|| Status::invalid_argument("an offer without a manifest"))?;
        let manifest = match Manifest::read(&message) {
            Ok(manifest) => manifest,
            Err(error) => return Ok(self.refuse_offer(&format!("the manifest is not valid: {error}"))),
        };
        if manifest.log_id.leader_id.term > vote.leader_id.term {
            return Err(Status::invalid_argument("the snapshot is of a later term than its leader"));
        }
        let mut answer = pb::OfferSnapshotResponse { vote: wire::vote_bytes(&self.vote()), ..Default::default() };
        if self.vote().leader_id.term > vote.leader_id.term {
            return Ok(answer);
        }
        if self.node().view().applied().index.0 >= manifest.log_id.index {
            answer.set_answer(pb::SnapshotAnswer::Held);
            return Ok(answer);
        }
        let (index, bytes) = (manifest.log_id.index, manifest.bytes());
        match self.with_inbox(move |inbox| inbox.offer(manifest)).await? {
            Ok(Offered::Busy) => answer.set_answer(pb::SnapshotAnswer::Busy),
            Ok(Offered::Ready) => answer.set_answer(pb::SnapshotAnswer::Ready),
            Ok(Offered::Send { at, session, there }) => {
                tracing::info!(index, bytes, there, "receiving a snapshot from the leader");
                answer.set_answer(pb::SnapshotAnswer::Send);
                (answer.file, answer.offset, answer.session) = (at.file, at.offset, session);
            }
            Err(error) => return Ok(self.refuse_offer(&error.to_string())),
        }
        Ok(answer)
    }

    fn refuse_offer(&self, why: &str) -> pb::OfferSnapshotResponse {
        // Each attempt is refused, once a second: the sender says it once, and so much is said here.
        tracing::debug!(why, "a snapshot from the leader is refused");
        let mut answer = pb::OfferSnapshotResponse { vote: wire::vote_bytes(&self.vote()), ..Default::default() };
        answer.set_answer(pb::SnapshotAnswer::Refused);
        answer.refused = why.to_owned();
        answer
    }

    pub(super) async fn take_pieces(
        &self,
        mut pieces: Streaming<pb::SnapshotChunk>,
    ) -> Result<pb::SendSnapshotResponse, Status> {
        let opening = pieces.message().await?.ok_or_else(|| Status::invalid_argument("a stream without an opening"))?;
        self.admit(opening.route.as_ref())?;
        let session = opening.session;
        while let Some(piece) = pieces.message().await? {
            if piece.session != session {
                return Err(Status::invalid_argument("the session changed within a stream"));
            }
            self.with_inbox(move |inbox| inbox.take(&piece)).await?.map_err(|error| refused(&error))?;
        }
        match self.with_inbox(move |inbox| inbox.finish(session)).await? {
            Ok(()) => Ok(pb::SendSnapshotResponse::default()),
            Err(StreamError::Receive(ReceiveError::Unusable(why))) => {
                tracing::warn!(why, "a snapshot from the leader was received and is of no use");
                Ok(pb::SendSnapshotResponse { unusable: why })
            }
            Err(error) => Err(refused(&error)),
        }
    }

    pub(super) async fn install(
        &self,
        request: pb::InstallSnapshotRequest,
    ) -> Result<pb::InstallSnapshotResponse, Status> {
        self.admit(request.route.as_ref())?;
        let vote = wire::read_leaders_vote(&request.vote, request.route.as_ref()).map_err(invalid)?;
        let id = request.id;
        let ready = self.with_inbox(move |inbox| inbox.ready(id)).await?;
        let (housed, begun) = ready.ok_or_else(|| Status::failed_precondition("no such snapshot is ready"))?;
        let meta = meta_of(&housed)?;
        self.check_fits(meta.last_log_id, &vote)?;
        let snapshot =
            SnapshotOf::<Config, SnapshotData> { meta, snapshot: SnapshotData::Received(Box::new(housed), begun) };
        let installed = self.node().raft().install_full_snapshot(vote, snapshot).await;
        let answer = installed.map_err(|fatal| Status::unavailable(fatal.to_string()))?;
        Ok(pb::InstallSnapshotResponse { vote: wire::vote_bytes(&answer.vote) })
    }

    /// Refuses what consensus takes for a proof that the cluster is broken, and would end this member for.
    fn check_fits(&self, snapshot: Option<LogId>, vote: &Vote) -> Result<(), Status> {
        let snapshot = snapshot.ok_or_else(|| Status::failed_precondition("the snapshot is empty"))?;
        if snapshot.leader_id.term > vote.leader_id.term {
            return Err(Status::failed_precondition("the snapshot is of a later term than its leader"));
        }
        let committed = self.node().raft().metrics().borrow_watched().local_committed;
        if committed.is_some_and(|committed| snapshot > committed && snapshot.index <= committed.index) {
            let text = format!("a snapshot at {snapshot} contradicts what is committed here, up to {committed:?}");
            tracing::error!("{text}");
            return Err(Status::failed_precondition(text));
        }
        Ok(())
    }

    fn vote(&self) -> Vote {
        self.node().raft().server_metrics().borrow_watched().vote
    }

    /// Does something with the inbox where it may wait for the disk.
    async fn with_inbox<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inbox) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let inbox: Arc<Inbox> = self.node().inbox().clone();
        let done = runtime::blocking(move || work(&inbox)).await;
        done.map_err(|_| Status::unavailable("this member stops"))
    }
}

fn meta_of(housed: &Housed) -> Result<SnapshotMetaOf<Config>, Status> {
    let (last_log_id, last_membership) =
        applied_state_of(housed.store.applied()).map_err(|error| Status::failed_precondition(error.to_string()))?;
    Ok(SnapshotMetaOf::<Config> { last_log_id, last_membership })
}

/// What the sender makes of an error is in the code: a piece that changed on its way is sent again at once.
fn refused(error: &StreamError) -> Status {
    let text = error.to_string();
    match error {
        StreamError::Superseded => Status::aborted(text),
        StreamError::Receive(ReceiveError::Corrupt(_)) => {
            tracing::warn!("{text}");
            Status::data_loss(text)
        }
        StreamError::Receive(ReceiveError::OutOfOrder(_)) => Status::invalid_argument(text),
        StreamError::Receive(ReceiveError::NoRoom { .. } | ReceiveError::Io(_)) => {
            tracing::warn!("a snapshot from the leader cannot be written: {text}");
            Status::resource_exhausted(text)
        }
        StreamError::Receive(ReceiveError::Unusable(_)) => Status::failed_precondition(text),
    }
}

fn invalid(error: impl std::error::Error) -> Status {
    Status::invalid_argument(error.to_string())
}
