//! What these tests do beside the client that they test: what an operator or a stranger does, by bare requests.

use std::time::Duration;

use bytes::Bytes;
use tenure_client::lock::LockGuard;
use tenure_client::session::Session;
use tenure_client::{Client, ConnectOptions, LeaseId};
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::etcdserverpb::{LeaseLeasesRequest, LeaseRevokeRequest};
use tenure_proto::tenure::v1::locks_client::LocksClient;
use tenure_proto::tenure::v1::{LockForceReleaseRequest, LockInspectRequest, LockInspectResponse};
use tonic::transport::{Channel, Endpoint};

use crate::support::members::Cluster;
use crate::support::proxy::Proxy;
use crate::support::{eventually, within};

/// A TTL that no test waits for.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A stranger, connected to the first member.
pub(crate) struct Stranger(Channel);

impl Stranger {
    pub(crate) async fn of(cluster: &Cluster) -> Stranger {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.endpoints()[0])).expect("a URL");
        Stranger(within("a connection", endpoint.connect()).await.expect("a connection"))
    }

    pub(crate) async fn inspect(&self, name: &str) -> LockInspectResponse {
        let request = LockInspectRequest { name: Bytes::copy_from_slice(name.as_bytes()), limit: 0 };
        LocksClient::new(self.0.clone()).inspect(request).await.expect("an inspection").into_inner()
    }

    pub(crate) async fn contenders(&self, name: &str) -> u64 {
        self.inspect(name).await.contenders
    }

    /// Waits until so many contend.
    pub(crate) async fn until_contenders(&self, name: &str, count: u64) {
        eventually("so many contenders", async || (self.contenders(name).await == count).then_some(())).await;
    }

    pub(crate) async fn force(&self, guard: &LockGuard) {
        let (key, token) = (guard.key().clone(), guard.token().revision.0);
        let request = LockForceReleaseRequest { key, token, reason: "a test".to_owned() };
        let forced = LocksClient::new(self.0.clone()).force_release(request).await.expect("it is forced");
        assert!(forced.into_inner().removed);
    }

    pub(crate) async fn revoke(&self, lease: LeaseId) {
        LeaseClient::new(self.0.clone()).lease_revoke(LeaseRevokeRequest { id: lease.0 }).await.expect("it is revoked");
    }

    pub(crate) async fn has_lease(&self, lease: LeaseId) -> bool {
        let leases = LeaseClient::new(self.0.clone()).lease_leases(LeaseLeasesRequest {}).await.expect("the leases");
        leases.into_inner().leases.iter().any(|status| status.id == lease.0)
    }
}

/// A session that lives as long as a test.
pub(crate) async fn session(client: &Client) -> Session {
    within("a session", client.session().ttl(LONG).start()).await.expect("a session")
}

/// A client whose way to every member leads over a proxy.
pub(crate) async fn behind_proxies(cluster: &Cluster, options: ConnectOptions) -> (Client, Vec<Proxy>) {
    let proxies = Proxy::before_each(cluster.members.iter().map(|member| member.clients)).await;
    let endpoints: Vec<String> = proxies.iter().map(Proxy::endpoint).collect();
    let client = within("a client", Client::connect(endpoints, options)).await.expect("a client");
    (client, proxies)
}
