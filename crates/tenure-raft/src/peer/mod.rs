//! How members talk: the links to peers, the service that answers them, and openraft's network on top of the links.

pub(crate) mod gate;
mod link;
pub(crate) mod network;
mod service;
mod wire;

use std::net::TcpListener;

use tenure_proto::tenure::peer::v1::peer_server::PeerServer;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;

pub use link::{ForwardError, Forwarded, Links};

use crate::error::NodeError;
use crate::node::RaftNode;

/// The largest message between peers: an append of 1 MiB of entries, or of one entry as large as a request may be, with
/// room for framing.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// HTTP/2 windows: an append of full size must never wait for a window update.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Serves the peer port on the calling runtime.
pub(crate) fn serve(node: &RaftNode, listeners: Vec<TcpListener>, tasks: &mut JoinSet<()>) -> Result<(), NodeError> {
    for listener in listeners {
        let io = |error| NodeError::Io("listening for peers".into(), error);
        listener.set_nonblocking(true).map_err(io)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(io)?;
        // Without it, an answer waits 40 ms for the acknowledgement of the one before.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = PeerServer::new(service::PeerService::new(node.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
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
