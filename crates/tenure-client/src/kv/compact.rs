//! Forgetting what is old.

use std::future::IntoFuture;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;

use super::Patience;
use crate::call::What;
use crate::client::Client;
use crate::error::Error;
use crate::header::Header;
use crate::ids::Revision;

/// A compaction; it is sent when it is awaited. What was before its revision can be neither read nor watched any more.
///
/// # Errors
///
/// [`Error::Refused`] if the revision is compacted already, or has not come yet; [`Error::Unknown`] if no answer came after
/// it was sent.
///
/// # Cancellation
///
/// After the future was dropped, nobody knows whether it was done.
#[derive(Clone, Debug)]
#[must_use = "a request is sent when it is awaited"]
pub struct Compact {
    client: Client,
    wire: pb::CompactionRequest,
    patience: Patience,
}

/// The answer to a [`Compact`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Who answered.
    pub header: Header,
}

impl Compact {
    pub(super) fn new(client: Client, revision: Revision) -> Compact {
        let wire = pb::CompactionRequest { revision: revision.0, physical: false };
        Compact { client, wire, patience: Patience::default() }
    }

    /// Waits until the space is free again.
    pub fn physical(mut self) -> Compact {
        self.wire.physical = true;
        self
    }

    /// How long it may take, over all tries.
    pub fn timeout(mut self, timeout: Duration) -> Compact {
        self.patience.timeout = Some(timeout);
        self
    }

    async fn send(self) -> Result<Compacted, Error> {
        let request = self.wire;
        let answer = self.client.call(self.patience.of(What::write("compact")), |link| async move {
            KvClient::new(link).compact(request).await
        });
        Ok(Compacted { header: answer.await?.header.into() })
    }
}

impl IntoFuture for Compact {
    type Output = Result<Compacted, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.send().boxed()
    }
}
