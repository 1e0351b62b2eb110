//! The configuration of a server: etcd's flags and environment variables, parsed, checked and typed.
//!
//! `Invocation::from_args` turns a command line into what it asks for; the rest of the server sees only the typed
//! [`ServerConfig`], with durations as durations and URLs as URLs. Nothing here touches a file or a socket, reads the
//! process's own environment, or logs: warnings travel in the configuration and are logged by the binary once it can.
//! The flags are in `table.rs`, their grammar in `flags.rs`, the rules about their values in `build.rs`.

mod build;
mod cluster;
mod error;
mod flags;
mod help;
pub mod identity;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod urls;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::node::AutoCompaction;
pub use cluster::{InitialCluster, InitialMember};
pub use error::{ConfigError, Source};
pub use snapshot::{RestoreConfig, SnapshotCommand, StatusConfig};
pub use tls::{Certificate, PortTls, TlsConfig};
pub use urls::{ListenAddress, ListenUrl, Url};

/// The version of etcd's API that Tenure speaks, which clients and probes parse.
pub const ETCD_API_VERSION: &str = "3.7.1";

/// Tenure's own version.
pub const TENURE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a command line asks for.
#[derive(Clone, Debug)]
pub enum Invocation {
    /// Run a server.
    Serve(Box<ServerConfig>),
    /// Do something with the file of a snapshot, and stop.
    Snapshot(SnapshotCommand),
    /// Print this text, the version or the help, and stop.
    Print(String),
}

/// Everything a server is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// This member's name.
    pub name: String,
    /// Where all data is kept.
    pub data_dir: PathBuf,
    /// Addresses for clients; at least one.
    pub listen_client_urls: Vec<ListenUrl>,
    /// Client URLs as clients should dial them; at least one.
    pub advertise_client_urls: Vec<Url>,
    /// Addresses for peers; at least one.
    pub listen_peer_urls: Vec<ListenUrl>,
    /// Further addresses that serve metrics and health alone.
    pub listen_metrics_urls: Vec<ListenUrl>,
    /// TLS on these.
    pub tls: TlsConfig,
    /// Peer URLs as the other members should dial them; at least one.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// The founding members' peer URLs by name. Means something to a member without data only, see
    /// [`ServerConfig::bootstrap`].
    pub initial_cluster: BTreeMap<String, Vec<Url>>,
    /// Whether a member without data founds a cluster or joins one.
    pub initial_cluster_state: ClusterState,
    /// Part of the ids, to keep clusters with equal URLs apart.
    pub initial_cluster_token: String,
    /// Refuse membership changes that would cost the quorum.
    pub strict_reconfig_check: bool,
    /// Time between the leader's heartbeats; at least a millisecond.
    pub heartbeat_interval: Duration,
    /// Time without a leader before an election; 5 × `heartbeat_interval` to 50 s.
    pub election_timeout: Duration,
    /// Log entries between snapshots; at least 1.
    pub snapshot_count: u64,
    /// Log entries kept for members that lag; none for as many as a bound in bytes allows.
    pub snapshot_catchup_entries: Option<NonZeroU64>,
    /// How fast snapshots are sent; none for no limit.
    pub snapshot_send_bytes_per_second: Option<NonZeroU64>,
    /// Logical bytes of data above which writes are refused; none for no limit.
    pub quota_backend_bytes: Option<u64>,
    /// The largest request a client may send, in bytes.
    pub max_request_bytes: u32,
    /// The most compares, and the most operations, in one transaction.
    pub max_txn_ops: u32,
    /// The most requests in flight on one client connection.
    pub max_concurrent_streams: u32,
    /// Silence after which a client is pinged; none for never.
    pub grpc_keepalive_interval: Option<Duration>,
    /// How long a ping may stay unanswered; none for ever.
    pub grpc_keepalive_timeout: Option<Duration>,
    /// How often a quiet watch that asked for progress hears of it.
    pub watch_progress_notify_interval: Duration,
    /// What history the server compacts by itself; none for no compaction.
    pub auto_compaction: Option<AutoCompaction>,
    /// Requests that take longer are logged; none for no such log.
    pub warning_unary_request_duration: Option<Duration>,
    /// Applies that take longer are logged; none for no such log.
    pub warning_apply_duration: Option<Duration>,
    /// The least severe messages to log.
    pub log_level: LogLevel,
    /// How to log.
    pub log_format: LogFormat,
    /// Where faults are put into this member; never in a released program.
    pub fault_injection: Option<SocketAddr>,
    /// Faults that wait from the start on, as [`tenure_faults::Registry::set_all`] takes them; empty for none.
    pub failpoints: String,
    /// What to say about the flags once there is a log.
    pub warnings: Vec<String>,
}

/// `--initial-cluster-state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// The founding members start together.
    New,
    /// This member was added to a running cluster.
    Existing,
}

/// `--log-level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything that the build contains.
    Debug,
    /// State changes.
    Info,
    /// What an operator may want to look at.
    Warn,
    /// What went wrong. etcd's panic, dpanic and fatal mean the same here.
    Error,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Invocation {
    /// Reads a command line (without the program's name) and an environment.
    pub fn from_args(
        args: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut args = args.into_iter().peekable();
        if args.next_if(|word| word.to_str() == Some(snapshot::WORD)).is_some() {
            return Ok(match snapshot::parse(args.collect())? {
                snapshot::Asked::Command(command) => Invocation::Snapshot(command),
                snapshot::Asked::Help(text) => Invocation::Print(text.to_owned()),
            });
        }
        match flags::parse(args, variables)? {
            flags::Parsed::Serve(values) => Ok(Invocation::Serve(Box::new(build::build(values)?))),
            flags::Parsed::Help => Ok(Invocation::Print(help::text())),
            flags::Parsed::Version => {
                Ok(Invocation::Print(format!("Tenure Version: {TENURE_VERSION}\netcd Version: {ETCD_API_VERSION}\n")))
            }
        }
    }
}

impl ServerConfig {
    /// The founding cluster that the flags describe, checked. To be asked for by a member without data; one with data
    /// takes the members from its own state, and flags that went out of date must not keep it from starting.
    pub fn bootstrap(&self) -> Result<InitialCluster, ConfigError> {
        InitialCluster::from_config(self)
    }

    /// The file whose lock keeps a second process out of the data directory.
    pub fn lock_path(&self) -> PathBuf {
        self.data_dir.join("LOCK")
    }
}
