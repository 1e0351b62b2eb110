//! The KV service without a client library: any request, well-formed or not, and the bare answer.

use std::time::Duration;

use anyhow::Result;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::response_op::Response as OpResponse;
use tenure_proto::etcdserverpb::{
    CompactionResponse, DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, TxnResponse,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::requests::Request;

/// A comparison must end: no KV request needs longer on a healthy cluster.
const PATIENCE: Duration = Duration::from_secs(20);
/// Answers with many large values; servers have no limit of their own here.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// An answer with everything taken out that may differ between two clusters: ids and terms.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Range(RangeResponse),
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    Refused { code: Code, message: String },
}

impl Answer {
    /// The revision in the answer's header.
    pub fn revision(&self) -> Option<i64> {
        let header = match self {
            Self::Range(answer) => &answer.header,
            Self::Put(answer) => &answer.header,
            Self::Delete(answer) => &answer.header,
            Self::Txn(answer) => &answer.header,
            Self::Compact(answer) => &answer.header,
            Self::Refused { .. } => &None,
        };
        header.as_ref().map(|header| header.revision)
    }
}

/// A connection to one server.
#[derive(Clone, Debug)]
pub struct Wire {
    kv: KvClient<Channel>,
    channel: Channel,
}

impl Wire {
    /// Connects to a client URL.
    pub async fn connect(endpoint: &str) -> Result<Self> {
        let channel = Endpoint::from_shared(endpoint.to_owned())?
            .connect_timeout(Duration::from_secs(2))
            .timeout(PATIENCE)
            .connect()
            .await?;
        let kv = KvClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Self { kv, channel })
    }

    /// The connection, for the other services.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Sends one request and makes its answer comparable.
    pub async fn send(&mut self, request: &Request) -> Answer {
        let answer = match request.clone() {
            Request::Range(request) => self.kv.range(request).await.map(|answer| Answer::Range(answer.into_inner())),
            Request::Put(request) => self.kv.put(request).await.map(|answer| Answer::Put(answer.into_inner())),
            Request::Delete(request) => {
                self.kv.delete_range(request).await.map(|answer| Answer::Delete(answer.into_inner()))
            }
            Request::Txn(request) => self.kv.txn(request).await.map(|answer| Answer::Txn(answer.into_inner())),
            Request::Compact(request) => {
                self.kv.compact(request).await.map(|answer| Answer::Compact(answer.into_inner()))
            }
        };
        answer.map_or_else(refused, comparable)
    }
}

/// The comparable part of a gRPC error.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_or_else, which gives the status away")]
pub fn refused(status: Status) -> Answer {
    Answer::Refused { code: status.code(), message: status.message().to_owned() }
}

fn comparable(mut answer: Answer) -> Answer {
    match &mut answer {
        Answer::Range(answer) => strip(&mut answer.header),
        Answer::Put(answer) => strip(&mut answer.header),
        Answer::Delete(answer) => strip(&mut answer.header),
        Answer::Txn(answer) => strip_txn(answer),
        Answer::Compact(answer) => strip(&mut answer.header),
        Answer::Refused { .. } => {}
    }
    answer
}

fn strip_txn(txn: &mut TxnResponse) {
    strip(&mut txn.header);
    for op in &mut txn.responses {
        match &mut op.response {
            Some(OpResponse::ResponseRange(answer)) => strip(&mut answer.header),
            Some(OpResponse::ResponsePut(answer)) => strip(&mut answer.header),
            Some(OpResponse::ResponseDeleteRange(answer)) => strip(&mut answer.header),
            Some(OpResponse::ResponseTxn(answer)) => strip_txn(answer),
            None => {}
        }
    }
}

fn strip(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        header.cluster_id = 0;
        header.member_id = 0;
        header.raft_term = 0;
    }
}
