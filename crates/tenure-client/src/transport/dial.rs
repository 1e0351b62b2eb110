//! Dialling an endpoint, and asking it how it does.
//!
//! An endpoint counts as reached only when it has answered. A stopped process still accepts connections, and a write that
//! is sent into one is neither done nor not done; the question costs a round trip and finds that out before anything is at stake.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use hyper_util::rt::TokioIo;
use tenure_proto::etcdserverpb::StatusRequest;
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::Channel;
use tower::service_fn;

use super::{Address, Connector};
use crate::error::{is_broken, reason, root_cause};
use crate::ids::MemberId;
use crate::tls::Tls;

/// A connection with calls on it is pinged when nothing has come for this long. etcd's servers hang up on clients that ping more
/// often than every 5 s, or without a call.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// How much may lie unread on a connection. The library takes small messages that lie unread for an attack once they have used up a
/// share of this, and breaks the connection with all that is on it: with an adaptive window, which begins at 64 KiB, some hundred
/// answers that come at once are enough.
const CONNECTION_WINDOW_BYTES: u32 = 256 << 20;
/// How much of it one call may take.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// What a member told of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) member: MemberId,
    /// None if it told nothing of this.
    pub(super) leader: Option<MemberId>,
    pub(super) is_learner: bool,
}

/// Makes one connection, on which nothing was asked yet. Says in words why not.
pub(super) async fn dial(
    address: &Address,
    connector: Arc<dyn Connector>,
    tls: Option<&Tls>,
) -> Result<Channel, String> {
    let mut endpoint = tonic::transport::Endpoint::from_shared(address.url())
        .and_then(|endpoint| endpoint.user_agent(concat!("tenure-client/", env!("CARGO_PKG_VERSION"))))
        .map_err(|error| root_cause(&error))?
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES);
    if address.is_tls() {
        let tls = tls.ok_or_else(|| "the client was given no TLS options".to_owned())?;
        endpoint = endpoint.tls_config(tls.config()).map_err(|error| root_cause(&error))?;
    }
    let (target, is_used) = (address.target(), Arc::new(AtomicBool::new(false)));
    let once = service_fn(move |_| {
        // A channel would dial again by itself when its connection is gone, in the way of the request that finds out.
        let is_used = is_used.swap(true, Ordering::Relaxed);
        let connecting = (!is_used).then(|| connector.connect(&target));
        async move {
            let Some(connecting) = connecting else { return Err(io::Error::other("the connection is gone")) };
            connecting.await.map(TokioIo::new)
        }
        .boxed()
    });
    endpoint.connect_with_connector(once).await.map_err(|error| root_cause(&error).to_lowercase())
}

/// Asks a member how it does. Whatever it answers, it lives.
pub(super) async fn probe(channel: Channel) -> Result<Probe, String> {
    match MaintenanceClient::new(channel).status(StatusRequest::default()).await {
        Ok(answer) => {
            let status = answer.into_inner();
            let member = MemberId(status.header.map_or(0, |header| header.member_id));
            Ok(Probe { member, leader: Some(MemberId(status.leader)), is_learner: status.is_learner })
        }
        Err(status) if is_broken(&status) => Err(reason(&status).to_lowercase()),
        Err(_) => Ok(Probe::default()),
    }
}
