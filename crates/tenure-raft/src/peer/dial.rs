//! How peers are reached: what a connection to one is, and who makes it.
//!
//! Above this, a connection is only something that takes requests to a peer and brings its answers. Members of a real
//! cluster dial sockets ([`TcpDialer`]); a simulation carries the same requests itself.

use std::convert::Infallible;
use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tenure_core::MemberId;
use tokio::net::TcpStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response, Uri};
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use super::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use crate::accept::Listening;
use crate::tls::ClientTls;

/// How long dialling a peer may take. Shorter than an election timeout, so that a dead peer holds nothing up.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a machine may take to refuse: it does so at once, or never.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(250);

/// A connection over a link that was cut would be trusted until TCP gives it up, minutes later.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(1);

/// A connection to a peer, or the peer itself where nothing lies between.
pub type PeerChannel = BoxCloneSyncService<Request<Body>, Response<Body>, Status>;

/// Makes connections to peers.
pub trait Dialer: fmt::Debug + Send + Sync {
    /// Connects to a member at one of its URLs. The error is for people.
    fn dial(&self, peer: MemberId, url: &str) -> BoxFuture<'static, Result<PeerChannel, String>>;

    /// Whether the machine at a member's URL is there and says that nobody listens. Not if it says nothing in time.
    fn is_refused(&self, peer: MemberId, url: &str) -> BoxFuture<'static, bool>;
}

/// Where a member's peers reach it.
pub enum PeerPort {
    /// At these sockets.
    Sockets(Vec<Listening>),
    /// Through whoever is given the member's service, before it begins to take part.
    Carried(Box<dyn FnOnce(PeerChannel) + Send>),
}

/// Dials sockets. Host names are looked up anew each time.
#[derive(Clone, Debug, Default)]
pub struct TcpDialer {
    tls: Option<Arc<ClientTls>>,
}

impl TcpDialer {
    /// With `tls`, peers with `https://` URLs can be dialled.
    pub fn new(tls: Option<Arc<ClientTls>>) -> TcpDialer {
        TcpDialer { tls }
    }
}

impl Dialer for TcpDialer {
    fn dial(&self, _: MemberId, url: &str) -> BoxFuture<'static, Result<PeerChannel, String>> {
        let (url, tls) = (url.to_owned(), self.tls.clone());
        Box::pin(async move {
            let channel = dial(&url, tls).await?;
            Ok(BoxCloneSyncService::new(channel.map_err(|error| Status::from_error(error.into()))))
        })
    }

    fn is_refused(&self, _: MemberId, url: &str) -> BoxFuture<'static, bool> {
        let url = url.parse::<Uri>();
        Box::pin(async move {
            let Ok(url) = url else { return false };
            let (Some(host), Some(port)) = (host_of(&url), url.port_u16()) else { return false };
            tokio::time::timeout(REFUSAL_TIMEOUT, is_refused(host, port)).await.unwrap_or(false)
        })
    }
}

/// Whether every address of a host refuses that this machine has a way to.
async fn is_refused(host: &str, port: u16) -> bool {
    let Ok(addresses) = tokio::net::lookup_host((host, port)).await else { return false };
    let mut refused = false;
    for address in addresses {
        match TcpStream::connect(address).await.map_err(|error| error.kind()) {
            Err(ErrorKind::ConnectionRefused) => refused = true,
            // As IPv6 where there is none.
            Err(ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable) => {}
            Ok(_) | Err(_) => return false,
        }
    }
    refused
}

/// The host that a URL names, as it is looked up: an address of IPv6 without its brackets.
fn host_of(url: &Uri) -> Option<&str> {
    url.host().map(|host| host.trim_start_matches('[').trim_end_matches(']'))
}

async fn dial(url: &str, tls: Option<Arc<ClientTls>>) -> Result<Channel, String> {
    let Some(authority) = url.strip_prefix("https://") else {
        return endpoint(url.to_owned())?.connect().await.map_err(|error| error.to_string());
    };
    let Some(tls) = tls else {
        return Err("there is no certificate to dial an https:// peer with".to_owned());
    };
    // The connector speaks TLS itself: to what is above, it is a plain connection.
    let connector = tower::service_fn(move |uri: Uri| {
        let tls = tls.clone();
        async move {
            let host = host_of(&uri).unwrap_or_default();
            let stream = tls.connect(host, uri.port_u16().unwrap_or_default()).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = endpoint(format!("http://{authority}"))?;
    endpoint.connect_with_connector(connector).await.map_err(|error| with_causes(&error))
}

fn endpoint(url: String) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(url)
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    Ok(endpoint)
}

/// What went wrong, down to what is wrong with a certificate.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A connection to a service in this process, with nothing between.
pub fn channel_to<S>(service: S) -> PeerChannel
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(service.map_err(|never| match never {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_port_that_nobody_listens_at_refuses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let dialer = TcpDialer::new(None);
        let refused = async |host: &str| dialer.is_refused(MemberId(1), &format!("http://{host}:{port}")).await;
        assert!(!refused("127.0.0.1").await, "somebody listens, and need not answer");
        drop(listener);
        assert!(refused("127.0.0.1").await);
        assert!(refused("[::ffff:127.0.0.1]").await);
        assert!(!refused("no-such-host.invalid").await);
        assert!(!dialer.is_refused(MemberId(1), "nonsense").await);
    }
}
