//! How members talk: the links to peers, the service that answers them, and openraft's network on top of the links.

pub(crate) mod confirm;
mod dial;
pub(crate) mod gate;
mod link;
mod marks;
pub(crate) mod network;
mod partition;
mod receive;
mod service;
mod spare;
mod transfer;
mod wire;

use std::convert::Infallible;
use std::sync::Arc;

use tenure_faults::{Point, delay};
use tenure_proto::tenure::peer::v1::peer_server::PeerServer;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tower::Service;

pub use dial::{Dialer, PeerChannel, PeerPort, TcpDialer, channel_to};
pub use link::{ForwardError, Forwarded, Links};
pub use partition::{Cut, Partition, PartitionedDialer, Peers, partition};

use crate::accept::{self, Listening};
use crate::error::NodeError;
use crate::node::RaftNode;

/// The largest message between peers: twice the largest request that a member can be told to accept, because an append
/// of several entries ends with one that goes over the bound.
const MESSAGE_BYTES_MAX: usize = 2 * (128 << 20) + (4 << 20);

/// Connections on the peer port. A peer has six, and two more for each thread of its clients; the rest is room for those that are about to be noticed as dead.
const CONNECTIONS_MAX: usize = 256;

/// HTTP/2 windows: an append of full size must never wait for a window update.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// A place where a fault may wait.
async fn meet(point: Point) {
    if let Some(wait) = delay(point) {
        tokio::time::sleep(wait).await;
    }
}

/// Serves the peer port on the calling runtime.
pub(crate) fn serve(node: &RaftNode, port: PeerPort, tasks: &mut JoinSet<()>) -> Result<(), NodeError> {
    let service = PeerServer::new(service::PeerService::new(node.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let listeners = match port {
        PeerPort::Sockets(listeners) => listeners,
        PeerPort::Carried(take) => {
            take(channel_to(service));
            return Ok(());
        }
    };
    if tenure_faults::INJECTS {
        return serve_sockets(&partition::Partitioned::new(partition(), service), listeners, tasks);
    }
    serve_sockets(&service, listeners, tasks)
}

fn serve_sockets<S>(service: &S, listeners: Vec<Listening>, tasks: &mut JoinSet<()>) -> Result<(), NodeError>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for listener in listeners {
        let incoming = accept::connections(listener, places.clone())
            .map_err(|error| NodeError::Io("listening for peers".into(), error))?;
        let service = service.clone();
        tasks.spawn(async move {
            let served = tonic::transport::Server::builder()
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .add_service(service)
                .serve_with_incoming(incoming)
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "the peer port stopped serving");
            }
        });
    }
    Ok(())
}
