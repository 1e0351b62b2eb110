//! A stream of renewals, one lease in a message by etcd's service, or many by Tenure's own.

use anyhow::Result;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::tenure::v1;
use tenure_proto::tenure::v1::leases_client::LeasesClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Messages of one stream that wait to be sent. What does not fit has its turn a little later.
const WAITING_MAX: usize = 1024;
/// Leases in one message.
const BATCH_MAX: usize = 4096;

/// How renewals are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A message for each lease, as etcd's clients do.
    Each,
    /// A message for all that have their turn.
    Batches,
}

/// The side that asks.
pub(super) enum Ask {
    Each(mpsc::Sender<pb::LeaseKeepAliveRequest>),
    Batches(mpsc::Sender<v1::LeaseKeepAliveRequest>),
}

/// What was asked before the stream is open, and will be after: a server may open one only when there is something on it.
pub(super) enum Asked {
    Each(mpsc::Receiver<pb::LeaseKeepAliveRequest>),
    Batches(mpsc::Receiver<v1::LeaseKeepAliveRequest>),
}

/// The side that hears the answers, in the order of the requests.
pub(super) enum Answers {
    Each(Streaming<pb::LeaseKeepAliveResponse>),
    Batches(Streaming<v1::LeaseKeepAliveResponse>),
}

impl Way {
    /// Both ends of what is to become a stream.
    pub(super) fn begin(self) -> (Ask, Asked) {
        match self {
            Way::Each => {
                let (ask, asked) = mpsc::channel(WAITING_MAX);
                (Ask::Each(ask), Asked::Each(asked))
            }
            Way::Batches => {
                let (ask, asked) = mpsc::channel(WAITING_MAX);
                (Ask::Batches(ask), Asked::Batches(asked))
            }
        }
    }
}

impl Ask {
    /// Asks for as many of these as there is room for, and says for how many.
    pub(super) fn send(&self, ids: &[i64]) -> usize {
        match self {
            Ask::Each(ask) => {
                let refused = ids.iter().position(|id| ask.try_send(pb::LeaseKeepAliveRequest { id: *id }).is_err());
                refused.unwrap_or(ids.len())
            }
            Ask::Batches(ask) => {
                let full = |ids: &[i64]| ask.try_send(v1::LeaseKeepAliveRequest { ids: ids.to_vec() }).is_err();
                let refused = ids.chunks(BATCH_MAX).position(full);
                refused.map_or(ids.len(), |batches| batches * BATCH_MAX)
            }
        }
    }
}

impl Asked {
    /// Opens the stream at a member.
    pub(super) async fn open(self, channel: Channel) -> Result<Answers, Status> {
        Ok(match self {
            Asked::Each(asked) => {
                let answers = LeaseClient::new(channel).lease_keep_alive(ReceiverStream::new(asked)).await?;
                Answers::Each(answers.into_inner())
            }
            Asked::Batches(asked) => {
                let answers = LeasesClient::new(channel).keep_alive(ReceiverStream::new(asked)).await?;
                Answers::Batches(answers.into_inner())
            }
        })
    }
}

impl Answers {
    /// The next answer: the leases that it is about, and whether each is there.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<(i64, bool)>>, Status> {
        Ok(match self {
            Answers::Each(answers) => answers.message().await?.map(|answer| vec![(answer.id, answer.ttl > 0)]),
            Answers::Batches(answers) => answers
                .message()
                .await?
                .map(|answer| answer.leases.into_iter().map(|kept| (kept.id, kept.remaining_ms > 0)).collect()),
        })
    }
}
