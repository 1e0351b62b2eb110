//! How clients reach the members, whatever lies between.

use std::fmt;

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

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
pub struct Sockets(Vec<Endpoint>);

impl Sockets {
    /// To members at these addresses.
    pub fn new(endpoints: Vec<Endpoint>) -> Sockets {
        Sockets(endpoints)
    }
}

impl Connect for Sockets {
    fn members(&self) -> usize {
        self.0.len()
    }

    fn connect(&self, _: u32, member: usize) -> Channel {
        let channel = self.0[member].connect_lazy();
        BoxCloneSyncService::new(channel.map_err(|error| Status::from_error(error.into())))
    }
}
