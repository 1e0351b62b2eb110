//! The way to the members: endpoints, their health, and connections that requests go over.
//!
//! Each endpoint has a keeper, a task that has the one connection to it made, watched and made again. A request never dials: it
//! takes an endpoint that is ready, and waits for one if none is. That keeps what is slow out of the way of what is urgent, and a
//! dead endpoint costs a request nothing.

mod address;
mod connector;
mod dial;
mod endpoint;
mod health;
mod keeper;
mod link;
mod links;

pub(crate) use address::Address;
pub(crate) use connector::SocketConnector;
pub use connector::{Connector, Stream};
pub use endpoint::EndpointId;
pub(crate) use health::backoff;
pub(crate) use link::Link;
pub use links::EndpointState;
pub(crate) use links::{Links, NoLink};
