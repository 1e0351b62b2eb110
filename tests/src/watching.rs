//! The Watch service without a client library: any request, well-formed or not, and the bare messages.

use std::time::Duration;

use anyhow::Result;
use tenure_proto::etcdserverpb::WatchResponse;
use tenure_workload::connect::over;
pub use tenure_workload::stream::{MESSAGE_PATIENCE, WatchStream, cancel, create, progress, revision_of};
use tonic::transport::Endpoint;

const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// Opens a stream on a connection of its own.
pub async fn open(endpoint: &str) -> Result<WatchStream> {
    open_at(Endpoint::from_shared(endpoint.to_owned())?).await
}

/// The same, for a client that leaves a server to keep all but `window_bytes` of what it does not read.
pub async fn open_narrow(endpoint: &str, window_bytes: u32) -> Result<WatchStream> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned())?;
    open_at(endpoint.initial_stream_window_size(window_bytes).initial_connection_window_size(window_bytes)).await
}

async fn open_at(endpoint: Endpoint) -> Result<WatchStream> {
    let channel = endpoint.connect_timeout(CONNECT_PATIENCE).connect().await?;
    Ok(WatchStream::open(over(channel)))
}

/// Takes out what may differ between two clusters: ids and terms.
pub fn comparable(mut message: WatchResponse) -> WatchResponse {
    if let Some(header) = &mut message.header {
        (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    }
    message
}
