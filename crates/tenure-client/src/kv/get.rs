//! Reading.

use std::future::IntoFuture;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::range_request::{SortOrder, SortTarget};

use super::{KeyRange, KeyValue, Patience, RangeStream, Strange, from_wire};
use crate::call::What;
use crate::client::Client;
use crate::clock::Instant;
use crate::error::Error;
use crate::header::Header;
use crate::ids::Revision;
use crate::namespace::Namespace;

/// A read of a key or of a range; it is sent when it is awaited. Linearizable unless it says otherwise: it tells all that was
/// acknowledged before it was sent.
///
/// # Errors
///
/// [`Error::Refused`] for [`Refusal::Compacted`](crate::Refusal::Compacted) and [`Refusal::FutureRevision`](crate::Refusal::FutureRevision) if it is of such
/// a revision; those of the cluster and the network.
///
/// # Cancellation
///
/// Dropping the future ends the read.
#[derive(Clone, Debug)]
#[must_use = "a request is sent when it is awaited"]
pub struct Get<C = Client> {
    client: C,
    pub(super) range: KeyRange,
    wire: pb::RangeRequest,
    pub(super) patience: Patience,
}

/// What key-values are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// The key.
    Key,
    /// How often it was put since it was created.
    Version,
    /// The revision that created it.
    CreateRevision,
    /// The revision that put it last.
    ModRevision,
    /// The value.
    Value,
}

/// The order of key-values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The lowest first.
    Ascending,
    /// The highest first.
    Descending,
}

/// The answer to a [`Get`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Got {
    /// Who answered, and as of which revision.
    pub header: Header,
    /// What was found, by key unless it was to be sorted otherwise.
    pub kvs: Vec<KeyValue>,
    /// Whether a limit left some out.
    pub more: bool,
    /// How many keys are in the range, whatever limit and bounds say.
    pub count: u64,
}

impl Got {
    /// The first that was found: of a read of one key, the only one.
    pub fn first(&self) -> Option<&KeyValue> {
        self.kvs.first()
    }

    pub(crate) fn from_wire(answer: pb::RangeResponse, namespace: &Namespace) -> Result<Got, Strange> {
        Ok(Got {
            header: answer.header.into(),
            kvs: from_wire(answer.kvs, namespace)?,
            more: answer.more,
            count: u64::try_from(answer.count).unwrap_or(0),
        })
    }
}

impl<C> Get<C> {
    pub(super) fn new(client: C, range: KeyRange) -> Get<C> {
        Get { client, range, wire: pb::RangeRequest::default(), patience: Patience::default() }
    }

    /// Reads all keys that begin with the key that was named.
    pub fn prefix(mut self) -> Get<C> {
        self.range = KeyRange::prefix(self.range.start().clone());
        self
    }

    /// As of this revision. Otherwise it is that of the present.
    pub fn at(mut self, revision: Revision) -> Get<C> {
        self.wire.revision = revision.0;
        self
    }

    /// At most so many keys.
    pub fn limit(mut self, limit: u64) -> Get<C> {
        self.wire.limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self
    }

    /// From what the member has applied, which may be behind: faster, and answered without a leader.
    pub fn serializable(mut self) -> Get<C> {
        self.wire.serializable = true;
        self
    }

    /// Without the values.
    pub fn keys_only(mut self) -> Get<C> {
        self.wire.keys_only = true;
        self
    }

    /// How many there are, and nothing else.
    pub fn count_only(mut self) -> Get<C> {
        self.wire.count_only = true;
        self
    }

    /// In this order. The limit applies after sorting.
    pub fn sorted(mut self, by: SortBy, order: Order) -> Get<C> {
        let target = match by {
            SortBy::Key => SortTarget::Key,
            SortBy::Version => SortTarget::Version,
            SortBy::CreateRevision => SortTarget::Create,
            SortBy::ModRevision => SortTarget::Mod,
            SortBy::Value => SortTarget::Value,
        };
        let order = match order {
            Order::Ascending => SortOrder::Ascend,
            Order::Descending => SortOrder::Descend,
        };
        self.wire.sort_target = target.into();
        self.wire.sort_order = order.into();
        self
    }

    /// Only what was put in these revisions, the last one included. [`Revision::NONE`] is no bound.
    pub fn modified_within(mut self, first: Revision, last: Revision) -> Get<C> {
        self.wire.min_mod_revision = first.0;
        self.wire.max_mod_revision = last.0;
        self
    }

    /// Only what was created in these revisions, the last one included. [`Revision::NONE`] is no bound.
    pub fn created_within(mut self, first: Revision, last: Revision) -> Get<C> {
        self.wire.min_create_revision = first.0;
        self.wire.max_create_revision = last.0;
        self
    }

    pub(super) fn wire(&self) -> &pb::RangeRequest {
        &self.wire
    }

    pub(crate) fn into_wire(self, namespace: &Namespace) -> pb::RangeRequest {
        let (key, range_end) = namespace.wrap_range(self.range.start().clone(), self.range.end().clone());
        pb::RangeRequest { key, range_end, ..self.wire }
    }
}

impl Get {
    /// How long it may take, over all tries.
    pub fn timeout(mut self, timeout: Duration) -> Get {
        self.patience.timeout = Some(timeout);
        self
    }

    /// When it must be over, on the client's clock.
    pub fn deadline(mut self, deadline: Instant) -> Get {
        self.patience.deadline = Some(deadline);
        self
    }

    /// Reads the range bit by bit, all of it as of one revision, however large it is.
    pub fn stream(self) -> RangeStream {
        let client = self.client.clone();
        RangeStream::new(client, self)
    }

    /// Reads the only, or the first, key.
    ///
    /// # Errors
    ///
    /// As the read itself.
    pub async fn one(self) -> Result<Option<KeyValue>, Error> {
        Ok(self.limit(1).await?.kvs.into_iter().next())
    }

    async fn send(self) -> Result<Got, Error> {
        let client = self.client.clone();
        let what = self.patience.of(What::read("get")).local(self.wire.serializable);
        let request = self.into_wire(client.namespace());
        let answer = client.call(what, |link| {
            let request = request.clone();
            async move { KvClient::new(link).max_decoding_message_size(usize::MAX).range(request).await }
        });
        Got::from_wire(answer.await?, client.namespace()).map_err(|Strange| client.strange_key())
    }
}

impl IntoFuture for Get {
    type Output = Result<Got, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.send().boxed()
    }
}
