//! Putting.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tonic::Request;

use super::{KeyValue, Patience};
use crate::call::What;
use crate::client::{Client, ServerKind};
use crate::clock::Instant;
use crate::error::Error;
use crate::fence::{Fence, guarded};
use crate::header::Header;
use crate::ids::LeaseId;
use crate::namespace::Namespace;
use crate::txn::OpDone;

/// A put; it is sent when it is awaited.
///
/// # Errors
///
/// [`Error::Refused`] if the lease or a key that must be there is not, if the quota is used up, or the request is too large;
/// [`Error::Unknown`] if no answer came after it was sent: it is not sent twice.
///
/// # Cancellation
///
/// After the future was dropped, nobody knows whether it was done.
#[derive(Clone, Debug)]
#[must_use = "a request is sent when it is awaited"]
pub struct Put<C = Client> {
    client: C,
    wire: pb::PutRequest,
    fence: Option<Fence>,
    patience: Patience,
}

/// The answer to a [`Put`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutDone {
    /// Who answered; its revision is the one that put the key.
    pub header: Header,
    /// What was there before, if that was asked for and there was something.
    pub prev: Option<KeyValue>,
}

impl PutDone {
    pub(crate) fn from_wire(answer: pb::PutResponse, namespace: &Namespace) -> PutDone {
        let prev = answer.prev_kv.and_then(|kv| KeyValue::from_wire(kv, namespace));
        PutDone { header: answer.header.into(), prev }
    }
}

impl<C> Put<C> {
    pub(super) fn new(client: C, key: Bytes, value: Bytes) -> Put<C> {
        let wire = pb::PutRequest { key, value, ..pb::PutRequest::default() };
        Put { client, wire, fence: None, patience: Patience::default() }
    }

    /// Attaches the key to a lease: it goes with that.
    pub fn lease(mut self, lease: LeaseId) -> Put<C> {
        self.wire.lease = lease.0;
        self
    }

    /// Tells what was there before.
    pub fn prev_kv(mut self) -> Put<C> {
        self.wire.prev_kv = true;
        self
    }

    /// Keeps the value that is there; the one that was named must be empty.
    pub fn keep_value(mut self) -> Put<C> {
        self.wire.ignore_value = true;
        self
    }

    /// Keeps the lease that is there.
    pub fn keep_lease(mut self) -> Put<C> {
        self.wire.ignore_lease = true;
        self
    }

    pub(crate) fn into_wire(self, namespace: &Namespace) -> pb::PutRequest {
        pb::PutRequest { key: namespace.wrap(self.wire.key), ..self.wire }
    }
}

impl Put {
    /// Only while this lock is held: otherwise it is refused with [`Refusal::NotHeld`](crate::Refusal::NotHeld), in the very entry that
    /// would write. With an etcd, whose locks are keys and no more, this becomes a transaction under [`Fence::compare`].
    pub fn under(mut self, fence: &Fence) -> Put {
        self.fence = Some(fence.clone());
        self
    }

    /// How long it may take, over all tries.
    pub fn timeout(mut self, timeout: Duration) -> Put {
        self.patience.timeout = Some(timeout);
        self
    }

    /// When it must be over, on the client's clock.
    pub fn deadline(mut self, deadline: Instant) -> Put {
        self.patience.deadline = Some(deadline);
        self
    }

    async fn send(self) -> Result<PutDone, Error> {
        let (client, fence, patience) = (self.client.clone(), self.fence.clone(), self.patience);
        if let Some(fence) = &fence
            && client.kind().await? == ServerKind::Etcd
        {
            let free = Put { client: (), wire: self.wire, fence: None, patience };
            return match guarded(&client, fence, free.into(), patience).await? {
                OpDone::Put(done) => Ok(done),
                _ => Err(client.nonsense("another answer than that of a put")),
            };
        }
        let request = self.into_wire(client.namespace());
        let metadata = fence.map(|fence| fence.metadata(client.namespace())).unwrap_or_default();
        let answer = client.call(patience.of(What::write("put")), |link| {
            let mut request = Request::new(request.clone());
            *request.metadata_mut() = metadata.clone();
            async move { KvClient::new(link).max_decoding_message_size(usize::MAX).put(request).await }
        });
        Ok(PutDone::from_wire(answer.await?, client.namespace()))
    }
}

impl IntoFuture for Put {
    type Output = Result<PutDone, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.send().boxed()
    }
}
