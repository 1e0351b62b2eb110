//! What the example programs share: how they are pointed at a cluster, and how they end.
//!
//! Nothing of the client library is wrapped here, so that each program shows its own use of it.

mod file;

use std::future::Future;

use anyhow::Context as _;
use clap::Args;
use tenure_client::{Client, ConnectOptions};
use tokio::signal::unix::{SignalKind, signal};

pub use file::{FencedFile, Refused};

/// Where the cluster is: by default where `make cluster` starts one.
#[derive(Clone, Debug, Args)]
pub struct Cluster {
    /// Client addresses of members
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        env = "TENURE_ENDPOINTS",
        default_value = "127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379"
    )]
    pub endpoints: Vec<String>,
}

impl Cluster {
    /// Connects to it.
    ///
    /// # Errors
    ///
    /// If none of the members answers.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        Client::connect(&self.endpoints, ConnectOptions::default())
            .await
            .with_context(|| format!("no cluster at {}; `make cluster` starts one", self.endpoints.join(", ")))
    }
}

/// Does the work until it is done or Ctrl-C, or a SIGTERM, ends it.
///
/// # Errors
///
/// Those of the work.
pub async fn until_stopped(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        stopped = tokio::signal::ctrl_c() => Ok(stopped?),
        _ = terminated.recv() => Ok(()),
    }
}

/// A name for this process that no other one on this machine has.
#[must_use]
pub fn process_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", std::process::id())
}
