//! Sending a snapshot: an offer, the pieces that the answer asks for, and the request to install it.
//!
//! Every step may fail, and then openraft asks for the whole again a moment later: what was received is still there, so
//! little is repeated. Only the receiver knows how far it has come. The pieces go over a connection of their own, at the
//! pace that all transfers of this member share, and as fast as the receiver's disk takes them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::errors::{NetworkError, StreamingError, Timeout, Unreachable};
use openraft::raft::SnapshotResponse;
use openraft::{OptionalSend, RPCTypes};
use tenure_core::MemberId;
use tenure_proto::tenure::peer::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status};

use super::link::{Lane, Links};
use super::wire;
use crate::log::LogFile;
use crate::runtime::{self, BootInstant};
use crate::snapshot::{Checkpoint, Outbox, Piece, Place, read_piece};
use crate::state_machine::SnapshotData;
use crate::types::{Config, Vote};

/// How long an answer to an offer may take: the receiver may have to clear away an older snapshot first.
const OFFER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the receiver may take for one piece. A disk that is slower than that is of no use.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the receiver may take to sync and open what it received.
const FINISH_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the receiver may take to put the new state in place.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause before a receiver is asked again that was busy.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// Pieces that wait for the connection. What is on its way besides is bounded by the HTTP/2 windows.
const PIECES_QUEUED: usize = 1;

type Sent = Result<SnapshotResponse<Config>, StreamingError<Config>>;

/// Why this attempt ends.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Link(#[from] super::link::LinkError),
    #[error("{}", .0.message())]
    Call(#[from] Status),
    #[error("the receiver refuses it: {0}")]
    Refused(String),
    #[error("the receiver found a piece changed on its way")]
    Corrupt,
    #[error("what was received is of no use: {0}")]
    Unusable(String),
    #[error("the files cannot be read or made: {0}")]
    Files(#[from] std::io::Error),
    #[error("an answer that makes no sense")]
    Malformed,
}

/// Sends a snapshot, or makes the files that the next call sends.
///
/// Boxed, because the compiler cannot see that the plain future is `Send` where openraft asks for it.
pub(super) fn send(
    links: Links,
    outbox: Arc<Outbox>,
    target: u64,
    vote: Vote,
    data: SnapshotData,
) -> BoxFuture<'static, Sent> {
    Box::pin(async move {
        let result = match data {
            SnapshotData::Files(checkpoint) => {
                Transfer { links: links.clone(), outbox: outbox.clone(), target, vote, checkpoint }.run().await.map(Ok)
            }
            SnapshotData::Durable | SnapshotData::Received(..) => {
                prepare(&links, &outbox, target).await.map(|()| Err(ask_again(&vote, target)))
            }
        };
        result.unwrap_or_else(|failure| Err(failed(&links, &outbox, target, &failure)))
    })
}

/// Makes a checkpoint, but not for a peer that is not there.
async fn prepare(links: &Links, outbox: &Arc<Outbox>, target: u64) -> Result<(), Failure> {
    links.probe(MemberId(target)).await?;
    Ok(outbox.make().await?)
}

/// openraft asks the state machine for the current snapshot before each attempt: next time it gets the files, and the
/// very log id that they hold.
fn ask_again(vote: &Vote, target: u64) -> StreamingError<Config> {
    StreamingError::Timeout(Timeout {
        action: RPCTypes::InstallSnapshot,
        id: vote.leader_id.voted_for,
        target,
        timeout: Duration::ZERO,
    })
}

fn failed(links: &Links, outbox: &Outbox, target: u64, failure: &Failure) -> StreamingError<Config> {
    links.forget(target, Lane::Snapshot);
    let follower = format!("{target:x}");
    // A follower that is not there is the links' to mention.
    let is_there = !matches!(failure, Failure::Link(_));
    outbox.counters().send_failures.add(u64::from(is_there));
    if is_there && links.note_served(target, false) {
        tracing::warn!(follower, why = %failure, "a snapshot could not be sent; it is tried again and again");
    } else {
        tracing::debug!(follower, why = %failure, "a snapshot could not be sent");
    }
    match failure {
        // At once: the receiver wants the same piece again.
        Failure::Corrupt => StreamingError::Network(NetworkError::from_string(failure)),
        _ => StreamingError::Unreachable(Unreachable::from_string(failure)),
    }
}

struct Transfer {
    links: Links,
    outbox: Arc<Outbox>,
    target: u64,
    vote: Vote,
    checkpoint: Arc<Checkpoint>,
}

impl Transfer {
    async fn run(&self) -> Result<SnapshotResponse<Config>, Failure> {
        let begun = BootInstant::now();
        let follower = format!("{:x}", self.target);
        let mut streamed = false;
        let mut busy_for = Duration::ZERO;
        let vote = loop {
            let answer = self.offer().await?;
            let vote = wire::read_vote(&answer.vote).map_err(|_| Failure::Malformed)?;
            if vote > self.vote {
                return Ok(SnapshotResponse::new(vote));
            }
            match answer.answer() {
                pb::SnapshotAnswer::Busy => {
                    self.checkpoint.note_at_work(BootInstant::now());
                    if busy_for >= FINISH_TIMEOUT {
                        return Err(late().into());
                    }
                    busy_for += BUSY_PAUSE;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                pb::SnapshotAnswer::Refused => return Err(Failure::Refused(answer.refused)),
                pb::SnapshotAnswer::Held => return Ok(SnapshotResponse::new(vote)),
                pb::SnapshotAnswer::Ready => {
                    self.checkpoint.note_sent(self.target, self.checkpoint.manifest().bytes(), BootInstant::now());
                    break self.install().await?;
                }
                pb::SnapshotAnswer::Send if std::mem::replace(&mut streamed, true) => return Err(Failure::Malformed),
                pb::SnapshotAnswer::Send => {
                    let at = Place { file: answer.file, offset: answer.offset };
                    let manifest = self.checkpoint.manifest();
                    let (bytes, there) = (manifest.bytes(), manifest.bytes_before(at));
                    self.checkpoint.note_asked(self.target, there, BootInstant::now());
                    tracing::info!(follower, index = self.checkpoint.index(), bytes, there, "sending a snapshot");
                    self.stream(at, answer.session).await?;
                }
            }
        };
        if vote <= self.vote {
            self.outbox.note_installed(self.target, self.checkpoint.index(), BootInstant::now());
            self.outbox.counters().sent.add(1);
            self.outbox.counters().send_micros.add_time(begun.elapsed());
            self.links.note_served(self.target, true);
            tracing::info!(follower, index = self.checkpoint.index(), took = ?begun.elapsed(), "sent a snapshot");
        }
        Ok(SnapshotResponse::new(vote))
    }

    async fn offer(&self) -> Result<pb::OfferSnapshotResponse, Failure> {
        let (mut client, route) = self.links.client(self.target, Lane::Snapshot).await?;
        let manifest = Some(self.checkpoint.manifest().to_message());
        let request = pb::OfferSnapshotRequest { route: Some(route), vote: wire::vote_bytes(&self.vote), manifest };
        answered(OFFER_TIMEOUT, client.offer_snapshot(request)).await
    }

    /// Sends the pieces from a place on, and waits until the receiver has made something of them.
    async fn stream(&self, at: Place, session: u64) -> Result<(), Failure> {
        let (mut client, route) = self.links.client(self.target, Lane::Snapshot).await?;
        let (pieces, queue) = mpsc::channel(PIECES_QUEUED);
        let call = Box::pin(client.send_snapshot(ReceiverStream::new(queue)));
        let feeding = Box::pin(self.feed(pieces, route, at, session));
        let answer = match futures::future::select(call, feeding).await {
            // An answer that comes before the last piece was sent says why it is not wanted.
            futures::future::Either::Left((answer, _)) => answer,
            futures::future::Either::Right((fed, call)) => {
                fed?;
                tokio::time::timeout(FINISH_TIMEOUT, call).await.unwrap_or_else(|_| Err(late()))
            }
        };
        match answer.map(Response::into_inner) {
            Ok(answer) if answer.unusable.is_empty() => Ok(()),
            Ok(answer) => {
                // Perhaps the files were wrong from the start: the next attempt gets others.
                self.outbox.discard(self.checkpoint.manifest().id);
                Err(Failure::Unusable(answer.unusable))
            }
            Err(status) if status.code() == Code::DataLoss => Err(Failure::Corrupt),
            Err(status) => Err(status.into()),
        }
    }

    async fn feed(
        &self,
        pieces: mpsc::Sender<pb::SnapshotChunk>,
        route: pb::Route,
        at: Place,
        session: u64,
    ) -> Result<(), Failure> {
        let opening = pb::SnapshotChunk { route: Some(route), session, ..pb::SnapshotChunk::default() };
        queue(&pieces, opening).await?;
        let mut place = at;
        let mut open: Option<(u32, Arc<dyn LogFile>)> = None;
        while let Some(piece) = self.checkpoint.manifest().piece_at(place) {
            let file = match open.take() {
                Some((number, file)) if number == piece.at.file => file,
                _ => self.checkpoint.open(piece.at.file)?,
            };
            open = Some((piece.at.file, file.clone()));
            let (bytes, crc) = read(file, piece).await?;
            let now = BootInstant::now();
            tokio::time::sleep(self.outbox.pace().take(now, u64::from(piece.bytes))).await;
            let Place { file, offset } = piece.at;
            queue(&pieces, pb::SnapshotChunk { route: None, session, file, offset, bytes, crc }).await?;
            self.outbox.counters().bytes_sent.add(u64::from(piece.bytes));
            place = piece.end();
            self.checkpoint.note_sent(self.target, self.checkpoint.manifest().bytes_before(place), now);
        }
        Ok(())
    }

    async fn install(&self) -> Result<Vote, Failure> {
        let (mut client, route) = self.links.client(self.target, Lane::Snapshot).await?;
        let id = self.checkpoint.manifest().id;
        let request = pb::InstallSnapshotRequest { route: Some(route), vote: wire::vote_bytes(&self.vote), id };
        let answer = answered(INSTALL_TIMEOUT, client.install_snapshot(request)).await?;
        wire::read_vote(&answer.vote).map_err(|_| Failure::Malformed)
    }
}

async fn queue(pieces: &mpsc::Sender<pb::SnapshotChunk>, chunk: pb::SnapshotChunk) -> Result<(), Failure> {
    let sent = tokio::time::timeout(PIECE_TIMEOUT, pieces.send(chunk)).await.map_err(|_| late())?;
    sent.map_err(|_| Failure::Call(Status::unavailable("the connection broke")))
}

async fn answered<T>(
    patience: Duration,
    call: impl Future<Output = Result<Response<T>, Status>> + OptionalSend,
) -> Result<T, Failure> {
    let answer = tokio::time::timeout(patience, call).await.unwrap_or_else(|_| Err(late()));
    Ok(answer?.into_inner())
}

fn late() -> Status {
    Status::deadline_exceeded("the receiver takes too long")
}

/// Reads a piece and its checksum on a thread that may wait for the disk.
async fn read(file: Arc<dyn LogFile>, piece: Piece) -> std::io::Result<(Bytes, u32)> {
    let read = runtime::blocking(move || {
        let bytes = read_piece(&*file, piece)?;
        let crc = crc32fast::hash(&bytes);
        Ok((Bytes::from(bytes), crc))
    });
    read.await.map_err(std::io::Error::other)?
}
