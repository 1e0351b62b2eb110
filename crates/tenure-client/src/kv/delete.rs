//! Deleting.

use std::future::IntoFuture;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tonic::Request;

use super::{KeyRange, KeyValue, Patience, Strange, from_wire};
use crate::call::What;
use crate::client::{Client, ServerKind};
use crate::clock::Instant;
use crate::error::Error;
use crate::fence::{Fence, guarded};
use crate::header::Header;
use crate::namespace::Namespace;
use crate::txn::OpDone;

/// A delete of a key or of a range; it is sent when it is awaited. To delete what is not there is no error.
///
/// # Errors
///
/// [`Error::Unknown`] if no answer came after it was sent: it is not sent twice.
///
/// # Cancellation
///
/// After the future was dropped, nobody knows whether it was done.
#[derive(Clone, Debug)]
#[must_use = "a request is sent when it is awaited"]
pub struct Delete<C = Client> {
    client: C,
    range: KeyRange,
    prev_kv: bool,
    fence: Option<Fence>,
    patience: Patience,
}

/// The answer to a [`Delete`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted {
    /// Who answered; its revision is the one that deleted the keys, if there were any.
    pub header: Header,
    /// How many keys were deleted.
    pub count: u64,
    /// What they were, if that was asked for.
    pub prev: Vec<KeyValue>,
}

impl Deleted {
    pub(crate) fn from_wire(answer: pb::DeleteRangeResponse, namespace: &Namespace) -> Result<Deleted, Strange> {
        Ok(Deleted {
            header: answer.header.into(),
            count: u64::try_from(answer.deleted).unwrap_or(0),
            prev: from_wire(answer.prev_kvs, namespace)?,
        })
    }
}

impl<C> Delete<C> {
    pub(super) fn new(client: C, range: KeyRange) -> Delete<C> {
        Delete { client, range, prev_kv: false, fence: None, patience: Patience::default() }
    }

    /// Deletes all keys that begin with the key that was named.
    pub fn prefix(mut self) -> Delete<C> {
        self.range = KeyRange::prefix(self.range.start().clone());
        self
    }

    /// Tells what was deleted.
    pub fn prev_kv(mut self) -> Delete<C> {
        self.prev_kv = true;
        self
    }

    pub(crate) fn into_wire(self, namespace: &Namespace) -> pb::DeleteRangeRequest {
        let (key, range_end) = namespace.wrap_range(self.range.start().clone(), self.range.end().clone());
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.prev_kv }
    }
}

impl Delete {
    /// Only while this lock is held; see [`Put::under`](super::Put::under).
    pub fn under(mut self, fence: &Fence) -> Delete {
        self.fence = Some(fence.clone());
        self
    }

    /// How long it may take, over all tries.
    pub fn timeout(mut self, timeout: Duration) -> Delete {
        self.patience.timeout = Some(timeout);
        self
    }

    /// When it must be over, on the client's clock.
    pub fn deadline(mut self, deadline: Instant) -> Delete {
        self.patience.deadline = Some(deadline);
        self
    }

    async fn send(self) -> Result<Deleted, Error> {
        let (client, fence, patience) = (self.client.clone(), self.fence.clone(), self.patience);
        if let Some(fence) = &fence
            && client.kind().await? == ServerKind::Etcd
        {
            let free = Delete { client: (), range: self.range, prev_kv: self.prev_kv, fence: None, patience };
            return match guarded(&client, fence, free.into(), patience).await? {
                OpDone::Delete(done) => Ok(done),
                _ => Err(client.nonsense("another answer than that of a delete")),
            };
        }
        let request = self.into_wire(client.namespace());
        let metadata = fence.map(|fence| fence.metadata(client.namespace())).unwrap_or_default();
        let answer = client.call(patience.of(What::write("delete")), |link| {
            let mut request = Request::new(request.clone());
            *request.metadata_mut() = metadata.clone();
            async move { KvClient::new(link).max_decoding_message_size(usize::MAX).delete_range(request).await }
        });
        Deleted::from_wire(answer.await?, client.namespace()).map_err(|Strange| client.strange_key())
    }
}

impl IntoFuture for Delete {
    type Output = Result<Deleted, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.send().boxed()
    }
}
