//! How clients reach the members, whatever lies between.

use std::fmt;
use std::time::Duration;

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{self, Endpoint};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

/// A member that is not connected to within this is taken for dead.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);

/// A connection to a member, made when it is first used and again when it broke.
pub type Channel = BoxCloneSyncService<Request<Body>, Response<Body>, Status>;

/// Connects clients to the members of a cluster.
pub trait Connect: fmt::Debug + Send + Sync {
    /// How many members there are.
    fn members(&self) -> usize;

    /// A connection of a client's own to a member, from 0.
    fn connect(&self, client: u32, member: usize) -> Channel;
}

/// Members behind sockets.
#[derive(Clone, Debug)]
pub struct Sockets(Vec<String>);

impl Sockets {
    /// To members at these URLs.
    pub fn new(endpoints: Vec<String>) -> Sockets {
        Sockets(endpoints)
    }
}

impl Connect for Sockets {
    fn members(&self) -> usize {
        self.0.len()
    }

    fn connect(&self, _: u32, member: usize) -> Channel {
        socket(&self.0[member])
    }
}

/// A connection to a URL, made when it is first used and again when it broke.
pub fn socket(endpoint: &str) -> Channel {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).unwrap_or_else(|_| Endpoint::from_static("http://[::1]"));
    over(endpoint.connect_timeout(CONNECT_PATIENCE).tcp_nodelay(true).connect_lazy())
}

/// A connection over tonic's own.
pub fn over(channel: transport::Channel) -> Channel {
    BoxCloneSyncService::new(channel.map_err(|error| Status::from_error(error.into())))
}
