//! etcdserverpb.KV.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;
use tenure_core::Revision;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_server::Kv;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::convert::{self, KvList, Limits};
use super::errors::ApiError;
use super::guard::{guard_of, no_guard};
use super::header;
use crate::node::{ChunkLimits, Node, ReadAnswer};

/// See the module's header.
pub(super) struct KvService {
    node: Node,
    limits: Limits,
}

impl KvService {
    pub(super) fn new(node: Node, limits: Limits) -> KvService {
        KvService { node, limits }
    }

    /// The answer to a range. One of many keys is written while they are read.
    pub(super) fn range_answer(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<RangeAnswer>, Status>> + Send + '_>> {
        Box::pin(async move {
            let request = request.into_inner();
            if request.range_end.is_empty() || request.count_only {
                return Ok(Response::new(RangeAnswer::Whole(self.read(request).await?)));
            }
            let started = Instant::now();
            let call = convert::range_call(request)?;
            let list = self.node.range_into(call.range, call.serializable, KvList::default(), KvList::push).await;
            let ReadAnswer { result: (list, result), revision } = list.map_err(ApiError::from)?;
            self.node.note_duration("Range", started);
            Ok(Response::new(RangeAnswer::Pieces(list.finish(header(&self.node, revision), result.more, result.count))))
        })
    }

    async fn read(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, ApiError> {
        let started = Instant::now();
        let call = convert::range_call(request)?;
        let answer = self.node.range(call.range, call.serializable).await?;
        self.node.note_duration("Range", started);
        Ok(convert::range_response(header(&self.node, answer.revision), answer.result))
    }

    async fn write_txn(&self, txn: tenure_core::command::Txn) -> Result<pb::TxnResponse, ApiError> {
        let outcome = self.node.write(&tenure_core::command::Command::Txn(txn)).await?;
        convert::txn_answer(header(&self.node, outcome.revision), outcome)
    }
}

/// The answer to a range, and how far it is written.
pub(super) enum RangeAnswer {
    Whole(pb::RangeResponse),
    /// The message.
    Pieces(Vec<Bytes>),
}

#[tonic::async_trait]
impl Kv for KvService {
    type RangeStreamStream = Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        Ok(Response::new(self.read(request.into_inner()).await?))
    }

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let call = convert::range_stream_call(request.into_inner())?;
        let limits = ChunkLimits::new(self.limits.max_request_bytes);
        let chunks = self.node.range_stream(call.range, call.serializable, limits).await.map_err(ApiError::from)?;
        let node = self.node.clone();
        let answers = ReceiverStream::new(chunks).map(move |chunk| match chunk {
            Ok(chunk) => Ok(convert::range_stream_response(chunk, |revision| header(&node, revision))),
            Err(error) => Err(ApiError::from(error).into()),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let started = Instant::now();
        let guard = guard_of(request.metadata())?;
        let command = convert::lock_guard(convert::put_command(request.into_inner(), &self.limits)?, guard);
        let outcome = self.node.write(&command).await.map_err(ApiError::from)?;
        self.node.note_duration("Put", started);
        Ok(Response::new(convert::put_answer(header(&self.node, outcome.revision), outcome)?))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let started = Instant::now();
        let guard = guard_of(request.metadata())?;
        let command = convert::lock_guard(convert::delete_range_command(request.into_inner(), &self.limits)?, guard);
        let outcome = self.node.write(&command).await.map_err(ApiError::from)?;
        self.node.note_duration("DeleteRange", started);
        Ok(Response::new(convert::delete_range_answer(header(&self.node, outcome.revision), outcome)?))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let started = Instant::now();
        no_guard(request.metadata())?;
        let call = convert::txn_call(request.into_inner(), &self.limits)?;
        let response = if call.read_only {
            let answer = self.node.read_txn(call.txn, call.serializable).await.map_err(ApiError::from)?;
            convert::txn_response(header(&self.node, answer.revision), answer.result)
        } else {
            self.write_txn(call.txn).await?
        };
        self.node.note_duration("Txn", started);
        Ok(Response::new(response))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let started = Instant::now();
        no_guard(request.metadata())?;
        let request = request.into_inner();
        let outcome = self.node.write(&convert::compact_command(&request)).await.map_err(ApiError::from)?;
        let answer = convert::compaction_answer(header(&self.node, outcome.revision), outcome)?;
        if request.physical {
            self.node.purged(Revision(request.revision)).await.map_err(ApiError::from)?;
        }
        self.node.note_duration("Compact", started);
        Ok(Response::new(answer))
    }
}
