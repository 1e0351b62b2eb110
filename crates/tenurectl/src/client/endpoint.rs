//! One address of the cluster: how it is written, and how it is dialled.
//!
//! An endpoint counts as reached only when it has answered a health check. A stopped process still accepts connections, and
//! a request sent into one is neither done nor not done; the check costs a round trip and finds that out before anything
//! is at stake.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tenure_proto::grpc::health::v1::HealthCheckRequest;
use tenure_proto::grpc::health::v1::health_client::HealthClient;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Channel, Uri};

/// etcd's client port.
const PORT_DEFAULT: u16 = 2379;
/// A connection is pinged when nothing has come for this long. etcd's servers hang up on clients that ping more often than
/// every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// A server's client address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint(Address);

/// How much may lie unread on a connection, and how much of it on one call. Not adaptive: that begins at 64 KiB, and the HTTP/2
/// library takes many small messages that lie unread in so little for an attack.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// What is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
    /// `host:port`
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    pub(super) fn address(&self) -> &Address {
        &self.0
    }

    /// Connects and waits for a sign of life; says in words why not.
    pub(super) async fn dial(&self, patience: Duration) -> Result<Channel, String> {
        let url = match &self.0 {
            Address::Tcp(authority) => format!("http://{authority}"),
            Address::Unix(path) => format!("unix://{}", path.display()),
        };
        let endpoint = tonic::transport::Endpoint::from_shared(url)
            .map_err(|error| root_cause(&error))?
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES);
        let dialled = async {
            let channel = endpoint.connect().await.map_err(|error| root_cause(&error))?;
            match HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await {
                Err(status) if is_broken(&status) => Err(broken(&status)),
                // Whatever it answered, it lives.
                Ok(_) | Err(_) => Ok(channel),
            }
        };
        timeout(patience, dialled).await.unwrap_or_else(|_| Err(format!("no answer within {:?}", in_millis(patience))))
    }
}

/// For people: what is left of a deadline has nanoseconds.
fn in_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX))
}

/// Whether a status was made here because the connection failed, and was not sent by a server.
pub(super) fn is_broken(status: &Status) -> bool {
    status.source().is_some()
}

/// What happened to the connection, in a few words.
pub(super) fn broken(status: &Status) -> String {
    root_cause(status)
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    words.to_lowercase()
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::Tcp(authority) => f.write_str(authority),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err("unix:// needs the path of a socket".to_owned())
            } else {
                Ok(Endpoint(Address::Unix(PathBuf::from(path))))
            };
        }
        if text.starts_with("https://") {
            return Err(format!("{text}: this version does not speak TLS; use http:// on a trusted network"));
        }
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let wrong = || format!("{text:?} is no address: HOST:PORT, http://HOST:PORT or unix://PATH is meant");
        let uri: Uri = format!("http://{authority}").parse().map_err(|_| wrong())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let is_bare = uri.path() == "/" && uri.query().is_none() && !authority.contains(['@', '/', '#']);
        // A colon that is followed by no number in range is no port.
        let has_port = authority.len() > host.len();
        if !is_bare || (has_port && uri.port_u16().is_none()) {
            return Err(wrong());
        }
        Ok(Endpoint(Address::Tcp(format!("{host}:{}", uri.port_u16().unwrap_or(PORT_DEFAULT)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_scheme_and_port() {
        for (text, shown) in [
            ("127.0.0.1:2379", "127.0.0.1:2379"),
            ("http://n1.example:22379/", "n1.example:22379"),
            (" n1 ", "n1:2379"),
            ("[::1]:2379", "[::1]:2379"),
            ("http://[::1]", "[::1]:2379"),
            ("unix:///run/tenure.sock", "unix:///run/tenure.sock"),
            ("unix:tenure.sock", "unix://tenure.sock"),
        ] {
            assert_eq!(text.parse::<Endpoint>().map(|endpoint| endpoint.to_string()), Ok(shown.to_owned()));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_meant() {
        for text in [
            "",
            "http://",
            ":2379",
            "n1:",
            "n1:x",
            "n1:99999",
            "n1:1/path",
            "n1?q",
            "u@n1:1",
            "ftp://n1",
            "unix:",
            "a b",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
        }
        let refused = "https://n1:2379".parse::<Endpoint>().expect_err("TLS");
        assert!(refused.contains("does not speak TLS"), "{refused}");
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_told_in_words() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
        let endpoint: Endpoint = free.to_string().parse().expect("an address");
        assert_eq!(endpoint.dial(Duration::from_secs(5)).await.err().as_deref(), Some("connection refused"));
    }

    #[tokio::test]
    async fn a_server_that_accepts_and_says_nothing_is_not_reached() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint: Endpoint = silent.local_addr().expect("its address").to_string().parse().expect("an address");
        let patience = Duration::from_millis(50);
        assert_eq!(endpoint.dial(patience).await.err().as_deref(), Some("no answer within 50ms"));
    }
}
