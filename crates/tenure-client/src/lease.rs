//! Leases: granting, ending, and what is known of them. To keep one alive is a [session](crate)'s business.
//!
//! A grant, a revoke and the questions may be sent again without harm: the client picks the ids of leases itself, so that a second
//! grant finds the first. On Tenure times are exact to the millisecond; etcd's whole seconds are rounded in the safe direction.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::tenure::v1;
use tenure_proto::tenure::v1::leases_client::LeasesClient;

use crate::call::What;
use crate::client::{Client, ServerKind};
use crate::clock::Instant;
use crate::error::{Error, Refusal};
use crate::header::Header;
use crate::ids::LeaseId;
use crate::kv::Patience;

/// The shortest TTL that a lease can have.
pub const TTL_MIN: Duration = Duration::from_secs(1);

/// Whom a lease is for, in the program's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// A name for lists, at most 128 bytes. It need not be unique.
    pub name: String,
    /// Anything else that whoever looks at the lease should know, at most 1024 bytes.
    pub text: String,
}

/// A request for a lease; it is sent when it is awaited.
///
/// # Errors
///
/// [`Error::Invalid`] if the TTL is below [`TTL_MIN`]; [`Error::Refused`] if it is too long, if a lease has the id that was named, or the
/// quota is used up.
///
/// # Cancellation
///
/// After the future was dropped there may be a lease, which ends by itself.
#[derive(Clone, Debug)]
#[must_use = "a request is sent when it is awaited"]
pub struct Grant {
    client: Client,
    ttl: Duration,
    id: Option<LeaseId>,
    holder: Option<Holder>,
    patience: Patience,
}

/// A lease as it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Granted {
    /// Who answered.
    pub header: Header,
    /// The lease.
    pub id: LeaseId,
    /// For how long it lives without being renewed; a server may grant more than was asked for.
    pub ttl: Duration,
    /// When the request was sent that the grant answers, on the client's clock.
    pub sent: Instant,
    /// For how long it surely lives from [`Granted::sent`] on: its TTL, or less if only a second try was answered.
    pub remaining: Duration,
}

impl Grant {
    /// Has the lease get this id, instead of one that the client picks.
    pub fn id(mut self, id: LeaseId) -> Grant {
        self.id = Some(id).filter(|id| !id.is_none());
        self
    }

    /// Says whom it is for. Tenure shows that in lists; etcd does not know of it.
    pub fn holder(mut self, holder: Holder) -> Grant {
        self.holder = Some(holder);
        self
    }

    /// How long the request may take, over all tries.
    pub fn timeout(mut self, timeout: Duration) -> Grant {
        self.patience.timeout = Some(timeout);
        self
    }

    /// When the request must be over, on the client's clock.
    pub fn deadline(mut self, deadline: Instant) -> Grant {
        self.patience.deadline = Some(deadline);
        self
    }

    async fn send(self) -> Result<Granted, Error> {
        if self.ttl < TTL_MIN {
            return Err(Error::Invalid(format!("a lease of {:?} is too short: {TTL_MIN:?} is the least", self.ttl)));
        }
        let clock = self.client.clock().clone();
        // 63 bits: what is negative looks odd in tools. None is 0.
        let picked = LeaseId(i64::try_from(clock.random() >> 1).unwrap_or(1).max(1));
        let id = self.id.unwrap_or(picked);
        let (mut tries, mut sent) = (0_u32, clock.now());
        let mut begin = || {
            tries += 1;
            sent = clock.now();
        };
        let granted = match self.client.kind().await? {
            ServerKind::Tenure => self.grant_native(id, &mut begin).await,
            ServerKind::Etcd => self.grant_etcd(id, &mut begin).await,
        };
        match granted {
            Ok((header, ttl)) => Ok(Granted { header, id, ttl, sent, remaining: ttl }),
            // The first try was carried out, and its answer was lost. Nobody else picks the id.
            Err(error) if tries > 1 && self.id.is_none() && error.refusal() == Some(Refusal::LeaseExists) => {
                self.find(id, error).await
            }
            Err(error) => Err(error),
        }
    }

    async fn find(&self, id: LeaseId, error: Error) -> Result<Granted, Error> {
        let sent = self.client.clock().now();
        match self.client.lease_state_with(id, false, self.patience).await? {
            Some(LeaseState { header, ttl: Some(ttl), remaining: Some(remaining), .. }) => {
                Ok(Granted { header, id, ttl, sent, remaining })
            }
            _ => Err(error),
        }
    }

    async fn grant_native(&self, id: LeaseId, begin: &mut impl FnMut()) -> Result<(Header, Duration), Error> {
        let holder = self.holder.clone().map(|holder| v1::LeaseHolder { name: holder.name, text: holder.text });
        let request = v1::LeaseGrantRequest { id: id.0, ttl_ms: to_ms(self.ttl), holder };
        let answer = self.client.call(self.patience.of(What::idempotent("grant")), |link| {
            begin();
            let request = request.clone();
            async move { LeasesClient::new(link).grant(request).await }
        });
        let answer = answer.await?;
        Ok((answer.header.into(), Duration::from_millis(answer.ttl_ms)))
    }

    async fn grant_etcd(&self, id: LeaseId, begin: &mut impl FnMut()) -> Result<(Header, Duration), Error> {
        let whole_secs = self.ttl.as_secs() + u64::from(self.ttl.subsec_nanos() > 0);
        let request = pb::LeaseGrantRequest { ttl: i64::try_from(whole_secs).unwrap_or(i64::MAX), id: id.0 };
        let answer = self.client.call(self.patience.of(What::idempotent("grant")), |link| {
            begin();
            async move { LeaseClient::new(link).lease_grant(request).await }
        });
        let answer = answer.await?;
        Ok((answer.header.into(), from_secs(answer.ttl).unwrap_or_default()))
    }
}

impl IntoFuture for Grant {
    type Output = Result<Granted, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.send().boxed()
    }
}

/// What is known of a lease that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseState {
    /// Who answered.
    pub header: Header,
    /// The lease.
    pub id: LeaseId,
    /// As granted. An etcd's list does not tell.
    pub ttl: Option<Duration>,
    /// For how long it lives without being renewed. An etcd's list does not tell.
    pub remaining: Option<Duration>,
    /// How often it was renewed. Tenure tells.
    pub renewals: Option<u64>,
    /// How long ago it was renewed, or granted if it never was. Tenure tells.
    pub renewed_ago: Option<Duration>,
    /// Whom it is for, if that was said. Tenure tells.
    pub holder: Option<Holder>,
    /// The keys that are attached to it and within the client's namespace, if they were asked for.
    pub keys: Vec<Bytes>,
}

/// How a lease ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseEnd {
    /// Whether a client revoked it; else nobody renewed it in time.
    pub is_revoked: bool,
    /// As granted.
    pub ttl: Duration,
    /// How often it was renewed.
    pub renewals: u64,
    /// How long ago it ended, by the lease clock, which stands while no member is up.
    pub ended_ago: Duration,
    /// Who revoked it: the name in a certificate, or an address.
    pub by: Option<String>,
    /// How many keys were deleted with it.
    pub keys: u64,
}

impl Client {
    /// Asks for a lease that lives so long without being renewed.
    pub fn grant(&self, ttl: Duration) -> Grant {
        Grant { client: self.clone(), ttl, id: None, holder: None, patience: Patience::default() }
    }

    /// Ends a lease now, and deletes the keys that are attached to it. Tells whether there was one; if only a second try was answered,
    /// it tells that there was.
    ///
    /// # Errors
    ///
    /// Those of the cluster and the network. It may be repeated.
    ///
    /// # Cancellation
    ///
    /// After the future was dropped, nobody knows whether it was done.
    pub async fn revoke(&self, id: LeaseId) -> Result<bool, Error> {
        self.revoke_with(id, Patience::default()).await
    }

    pub(crate) async fn revoke_with(&self, id: LeaseId, patience: Patience) -> Result<bool, Error> {
        let mut tries = 0_u32;
        let revoked = self.call(patience.of(What::idempotent("revoke")), |link| {
            tries += 1;
            async move { LeaseClient::new(link).lease_revoke(pb::LeaseRevokeRequest { id: id.0 }).await }
        });
        match revoked.await {
            Ok(_) => Ok(true),
            Err(error) if error.refusal() == Some(Refusal::LeaseNotFound) => Ok(tries > 1),
            Err(error) => Err(error),
        }
    }

    /// What is known of a lease, with the keys that are attached to it if they are wanted; none if there is no such lease.
    ///
    /// # Errors
    ///
    /// Those of the cluster and the network.
    pub async fn lease_state(&self, id: LeaseId, with_keys: bool) -> Result<Option<LeaseState>, Error> {
        self.lease_state_with(id, with_keys, Patience::default()).await
    }

    pub(crate) async fn lease_state_with(
        &self,
        id: LeaseId,
        with_keys: bool,
        patience: Patience,
    ) -> Result<Option<LeaseState>, Error> {
        match self.kind().await? {
            ServerKind::Tenure => self.lease_state_native(id, with_keys, patience).await,
            ServerKind::Etcd => self.lease_state_etcd(id, with_keys, patience).await,
        }
    }

    async fn lease_state_native(
        &self,
        id: LeaseId,
        with_keys: bool,
        patience: Patience,
    ) -> Result<Option<LeaseState>, Error> {
        let mut request = v1::LeaseTimeToLiveRequest { id: id.0, keys: with_keys, keys_after: Bytes::new() };
        let mut state: Option<LeaseState> = None;
        loop {
            let answer = self.call(patience.of(What::read("lease state")), |link| {
                let request = request.clone();
                async move { LeasesClient::new(link).max_decoding_message_size(usize::MAX).time_to_live(request).await }
            });
            let answer = match answer.await {
                Ok(answer) => answer,
                Err(error) if error.refusal() == Some(Refusal::LeaseNotFound) => return Ok(None),
                Err(error) => return Err(error),
            };
            let lease = answer.lease.ok_or_else(|| self.nonsense("a lease without a state"))?;
            let mut keys = state.map(|state| state.keys).unwrap_or_default();
            keys.extend(answer.keys.iter().filter_map(|key| self.namespace().unwrap(key)));
            state = Some(LeaseState { keys, ..LeaseState::from_wire(answer.header.into(), lease) });
            match answer.keys.last() {
                // A server that goes on from where it was would go on for ever.
                Some(last) if answer.more_keys && *last > request.keys_after => request.keys_after = last.clone(),
                _ => return Ok(state),
            }
        }
    }

    async fn lease_state_etcd(
        &self,
        id: LeaseId,
        with_keys: bool,
        patience: Patience,
    ) -> Result<Option<LeaseState>, Error> {
        let request = pb::LeaseTimeToLiveRequest { id: id.0, keys: with_keys };
        let answer = self.call(patience.of(What::read("lease state")), |link| async move {
            LeaseClient::new(link).max_decoding_message_size(usize::MAX).lease_time_to_live(request).await
        });
        let answer = answer.await?;
        if answer.ttl < 0 {
            return Ok(None);
        }
        Ok(Some(LeaseState {
            header: answer.header.into(),
            id,
            ttl: from_secs(answer.granted_ttl),
            remaining: from_secs(answer.ttl),
            keys: answer.keys.iter().filter_map(|key| self.namespace().unwrap(key)).collect(),
            ..LeaseState::default()
        }))
    }

    /// All leases, by id. On Tenure they come a page at a time, each as of its own moment.
    ///
    /// # Errors
    ///
    /// Those of the cluster and the network.
    pub async fn leases(&self) -> Result<Vec<LeaseState>, Error> {
        if self.kind().await? == ServerKind::Etcd {
            let answer = self.call(What::read("leases"), |link| async move {
                LeaseClient::new(link)
                    .max_decoding_message_size(usize::MAX)
                    .lease_leases(pb::LeaseLeasesRequest {})
                    .await
            });
            let answer = answer.await?;
            let header = Header::from(answer.header);
            let mut leases: Vec<LeaseState> = answer
                .leases
                .into_iter()
                .map(|lease| LeaseState { header, id: LeaseId(lease.id), ..LeaseState::default() })
                .collect();
            leases.sort_by_key(|lease| lease.id);
            return Ok(leases);
        }
        let mut request = v1::LeaseListRequest { limit: 0, after: None };
        let mut leases = Vec::new();
        loop {
            let page = self.call(What::read("leases"), |link| async move {
                LeasesClient::new(link).max_decoding_message_size(usize::MAX).list(request).await
            });
            let page = page.await?;
            let header = Header::from(page.header);
            let last = page.leases.last().map(|lease| lease.id);
            leases.extend(page.leases.into_iter().map(|lease| LeaseState::from_wire(header, lease)));
            match last {
                Some(last) if page.more && request.after.is_none_or(|after| last > after) => request.after = Some(last),
                _ => return Ok(leases),
            }
        }
    }

    /// How the last lease of this id ended; none if that is not recorded (any more). It may be that another one has the id now.
    ///
    /// # Errors
    ///
    /// [`Error::NeedsTenure`] at an etcd; those of the cluster and the network.
    pub async fn lease_end(&self, id: LeaseId) -> Result<Option<LeaseEnd>, Error> {
        self.needs_tenure("asking how a lease ended").await?;
        let answer = self.call(What::read("lease end"), |link| async move {
            LeasesClient::new(link).explain(v1::LeaseExplainRequest { id: id.0 }).await
        });
        Ok(answer.await?.ended.map(LeaseEnd::from_wire))
    }
}

impl LeaseState {
    fn from_wire(header: Header, lease: v1::LeaseState) -> LeaseState {
        LeaseState {
            header,
            id: LeaseId(lease.id),
            ttl: Some(Duration::from_millis(lease.ttl_ms)),
            remaining: Some(Duration::from_millis(lease.remaining_ms)),
            renewals: Some(lease.renewals),
            renewed_ago: Some(Duration::from_millis(lease.renewed_ms_ago)),
            holder: lease.holder.map(|holder| Holder { name: holder.name, text: holder.text }),
            keys: Vec::new(),
        }
    }
}

impl LeaseEnd {
    fn from_wire(end: v1::LeaseEnd) -> LeaseEnd {
        use v1::lease_end::{Cause, Client as By};
        let by = end.client.map(|by| match by {
            By::CertificateName(name) => name,
            By::Address(address) => address,
        });
        LeaseEnd {
            is_revoked: end.cause == i32::from(Cause::Revoked),
            ttl: Duration::from_millis(end.ttl_ms),
            renewals: end.renewals,
            ended_ago: Duration::from_millis(end.ended_ms_ago),
            by,
            keys: end.keys,
        }
    }
}

/// At least one, whatever the remainder: a TTL is not shortened.
fn to_ms(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn from_secs(secs: i64) -> Option<Duration> {
    u64::try_from(secs).ok().map(Duration::from_secs)
}
