//! A range in pieces, for ranges that are too large for one answer.
//!
//! All pieces together say what one answer at the moment of the first piece would have said. Nothing is read before there
//! is room for it: one piece waits here and one is on its way, however large the range and however slow the client. The
//! pieces come from the view of the first one. A client that takes none for a while gives that view back, because a view
//! keeps what it shows from being purged; what follows is then read at the same revision from a newer view, and fails if
//! that revision was compacted meanwhile.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tenure_core::Revision;
use tenure_core::borrowed::BytesRef;
use tenure_core::command::{KeyRange, Range};
use tenure_core::outcome::{KeyValue, Refusal};
use tenure_core::range::{read_range, walk_range};
use tenure_core::state::StateRead;
use tenure_raft::runtime;
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::Node;
use super::error::RequestError;

/// Streams that may be open at once per client thread: each may hold two pieces of the largest request's size.
pub(super) const RANGE_STREAMS_MAX: usize = 256;

/// Pieces that wait for the client.
const CHUNKS_WAITING_MAX: usize = 1;

/// What a key-value takes beside its key and value.
const KV_OVERHEAD_BYTES: usize = 32;

/// How large the pieces are, and how long their view is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Keys of the first piece; each further one may have twice as many.
    pub keys_first: usize,
    /// A piece ends with the key-value that brings it to this size.
    pub bytes_max: usize,
    /// How long the view waits for a client that takes nothing.
    pub view_patience: Duration,
}

impl ChunkLimits {
    /// etcd's first piece, and pieces up to `bytes_max`.
    pub fn new(bytes_max: usize) -> ChunkLimits {
        ChunkLimits { keys_first: 10, bytes_max, view_patience: Duration::from_secs(10) }
    }
}

/// One piece, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeChunk {
    /// What follows the piece before.
    pub kvs: Vec<KeyValue>,
    /// In the last piece: the rest of the answer.
    pub end: Option<RangeEnd>,
}

/// What the whole answer says beside its key-values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeEnd {
    /// The store's revision at the first piece.
    pub revision: Revision,
    /// Whether the limit left some out.
    pub more: bool,
    /// How many keys the range holds, whatever the limit.
    pub count: i64,
}

/// The pieces, as they are read.
pub type RangeChunks = mpsc::Receiver<Result<RangeChunk, RequestError>>;

impl Node {
    /// Reads a range in key order, piece by piece. Dropping the pieces ends the work.
    pub async fn range_stream(
        &self,
        range: Range,
        serializable: bool,
        limits: ChunkLimits,
    ) -> Result<RangeChunks, RequestError> {
        let place = self.range_streams.clone().try_acquire_owned().map_err(|_| RequestError::TooManyRequests)?;
        let view = self.view(serializable).await?;
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
        let rest = Rest::of(range, view.meta().revision, limits);
        // Who holds the receiving end owns the task: it returns when that is gone.
        drop(runtime::spawn(send_all(self.clone(), rest, view, sender, place)));
        Ok(chunks)
    }
}

async fn send_all(
    node: Node,
    mut rest: Rest,
    view: Arc<StateView>,
    chunks: mpsc::Sender<Result<RangeChunk, RequestError>>,
    _place: OwnedSemaphorePermit,
) {
    let patience = rest.limits.view_patience;
    let mut kept = Some(view);
    loop {
        let room = match tokio::time::timeout(patience, chunks.reserve()).await {
            Ok(room) => room,
            Err(_) => {
                kept = None;
                chunks.reserve().await
            }
        };
        let Ok(room) = room else { return };
        let view = kept.get_or_insert_with(|| node.shared().raft.view()).clone();
        let read = node.off_thread(move || rest.read(&view)).await;
        match read {
            Ok(Ok(Ok((chunk, None)))) => return room.send(Ok(chunk)),
            Ok(Ok(Ok((chunk, Some(next))))) => {
                room.send(Ok(chunk));
                rest = next;
            }
            Ok(Ok(Err(refusal))) => return room.send(Err(refusal.into())),
            Ok(Err(error)) => return room.send(Err(node.storage_failed(&error))),
            Err(error) => return room.send(Err(error)),
        }
    }
}

/// What is still to be read of a range.
#[derive(Clone, Debug)]
struct Rest {
    /// The whole request, at the revision that all pieces are read at.
    request: Range,
    /// The keys that are left.
    keys: KeyRange,
    /// How many key-values may still be sent, if the request has a limit.
    left: Option<usize>,
    sent: usize,
    keys_max: usize,
    limits: ChunkLimits,
    /// The store's revision at the first piece.
    revision: Revision,
}

type Piece = (RangeChunk, Option<Rest>);

impl Rest {
    fn of(mut request: Range, revision: Revision, limits: ChunkLimits) -> Rest {
        if request.revision.0 <= 0 {
            request.revision = revision;
        }
        let left = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        let (keys, keys_max) = (request.range.clone(), limits.keys_first.max(1));
        Rest { request, keys, left, sent: 0, keys_max, limits, revision }
    }

    /// Reads the next piece, and says what is left after it.
    fn read(self, view: &StateView) -> Result<Result<Piece, Refusal>, StorageError> {
        if self.request.count_only {
            let counted = read_range(view, &self.request)?;
            return Ok(counted.map(|counted| (self.last(Vec::new(), false, counted.count), None)));
        }
        let keys_max = self.left.map_or(self.keys_max, |left| left.min(self.keys_max));
        let (mut kvs, mut bytes, mut is_cut) = (Vec::new(), 0, false);
        let walked = walk_range(view, &self.keys, self.request.revision, &mut |mut kv| {
            is_cut = kvs.len() == keys_max || bytes >= self.limits.bytes_max.max(1);
            if is_cut {
                return ControlFlow::Break(());
            }
            if self.request.keys_only {
                kv.value = BytesRef::EMPTY;
            }
            bytes += kv.key.len() + kv.value.len() + KV_OVERHEAD_BYTES;
            kvs.push(kv.to_key_value());
            ControlFlow::Continue(())
        })?;
        if let Err(refusal) = walked {
            return Ok(Err(refusal));
        }
        if !is_cut {
            let count = i64::try_from(self.sent + kvs.len()).unwrap_or(i64::MAX);
            return Ok(Ok((self.last(kvs, false, count), None)));
        }
        if self.left == Some(kvs.len()) {
            let counted = read_range(view, &Range { count_only: true, ..self.request.clone() })?;
            return Ok(counted.map(|counted| (self.last(kvs, true, counted.count), None)));
        }
        let next = self.after(&kvs);
        Ok(Ok((RangeChunk { kvs, end: None }, Some(next))))
    }

    fn last(&self, kvs: Vec<KeyValue>, more: bool, count: i64) -> RangeChunk {
        RangeChunk { kvs, end: Some(RangeEnd { revision: self.revision, more, count }) }
    }

    fn after(self, kvs: &[KeyValue]) -> Rest {
        let keys = match (kvs.last(), self.keys) {
            (Some(last), KeyRange::Between(_, end)) => KeyRange::Between(following(&last.key), end),
            (Some(last), KeyRange::From(_)) => KeyRange::From(following(&last.key)),
            (Some(_), keys @ KeyRange::One(_)) | (None, keys) => keys,
        };
        let left = self.left.map(|left| left.saturating_sub(kvs.len()));
        let keys_max = self.keys_max.saturating_mul(2);
        Rest { keys, left, keys_max, sent: self.sent + kvs.len(), ..self }
    }
}

/// The first key after a key.
fn following(key: &Bytes) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}
