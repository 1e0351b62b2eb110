//! The stream of `Maintenance.Snapshot`: a backup in etcd's messages.
//!
//! One blob waits for the client, so memory does not depend on how slow it is; and it may not be slower than
//! [`STALL_TIMEOUT`], because the checkpoint behind a backup keeps files that the engine would remove. With the stream goes
//! whatever feeds it, and with that the checkpoint.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tenure_proto::etcdserverpb as pb;
use tenure_raft::backup::{Backup, Blob};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tonic::Status;

use super::errors::ApiError;
use crate::http::STORAGE_VERSION;

/// Blobs that wait for the connection.
const BLOBS_QUEUED: usize = 1;

/// How long a client may take for a blob: one that needs longer for 32 KiB will not be done this week.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// See the module's header.
pub(super) struct SnapshotStream {
    blobs: mpsc::Receiver<Result<pb::SnapshotResponse, Status>>,
    /// Ends with the stream, and says whether it came to the end of the file.
    feeding: JoinSet<bool>,
}

impl SnapshotStream {
    pub(super) fn new(backup: Backup) -> SnapshotStream {
        let (queue, blobs) = mpsc::channel(BLOBS_QUEUED);
        let mut feeding = JoinSet::new();
        feeding.spawn(feed(backup, queue, STALL_TIMEOUT));
        SnapshotStream { blobs, feeding }
    }
}

impl Stream for SnapshotStream {
    type Item = Result<pb::SnapshotResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(message) = ready!(self.blobs.poll_recv(cx)) {
            return Poll::Ready(Some(message));
        }
        // A stream that ends without an error is taken for whole.
        Poll::Ready(match ready!(self.feeding.poll_join_next(cx)) {
            None | Some(Ok(true)) => None,
            Some(Ok(false) | Err(_)) => Some(Err(ApiError::SnapshotStalled.into())),
        })
    }
}

/// Whether the client has it all, or knows that it has not.
async fn feed(mut backup: Backup, queue: mpsc::Sender<Result<pb::SnapshotResponse, Status>>, stall: Duration) -> bool {
    let (index, bytes) = (backup.about().index, backup.file_bytes());
    loop {
        let (message, goes_on) = match backup.next_blob().await {
            Ok(Some(blob)) => (Ok(response(blob)), true),
            Ok(None) => {
                tracing::info!(%index, bytes, "a client saved a snapshot");
                return true;
            }
            Err(error) => {
                tracing::warn!(%index, %error, "a snapshot could not be read to be saved");
                let failed = ApiError::Internal("a snapshot could not be read, see the server's log");
                (Err(failed.into()), false)
            }
        };
        match tokio::time::timeout(stall, queue.send(message)).await {
            Ok(Ok(())) if goes_on => {}
            Ok(Ok(())) => return true,
            Ok(Err(_)) => {
                tracing::info!(%index, "a client broke off saving a snapshot");
                return true;
            }
            Err(_) => {
                tracing::warn!(%index, ?stall, "a client that saves a snapshot takes nothing; it is cut off");
                return false;
            }
        }
    }
}

/// Without a header, as in etcd.
fn response(Blob { bytes, remaining }: Blob) -> pb::SnapshotResponse {
    let version = STORAGE_VERSION.to_owned();
    pb::SnapshotResponse { header: None, remaining_bytes: remaining, blob: bytes, version }
}
