//! The arguments of `bench`: what all workloads share, and what each has of its own.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::read;

/// What they begin with, so that one `del --prefix` removes what is left of them.
const PREFIX: &str = "bench/";

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub workload: BenchCommand,
}

/// Names are those of the workloads, and of the reports.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Put values
    Put(BenchPutArgs),
    /// Read one key, or all of them, also in pages and at an old revision
    Range(BenchRangeArgs),
    /// Put many values in one transaction
    TxnPut(BenchTxnPutArgs),
    /// Read and write side by side
    TxnMixed(BenchTxnMixedArgs),
    /// Grant leases
    LeaseGrant(BenchLeaseGrantArgs),
    /// Renew leases, one for each client
    LeaseKeepalive(BenchLeaseKeepaliveArgs),
    /// How late leases end that nobody renews; needs --total
    LeaseExpire(BenchLeaseExpireArgs),
    /// Revoke leases with keys on them; needs --total
    LeaseRevoke(BenchLeaseRevokeArgs),
    /// Take a lock and let go
    Lock(BenchLockArgs),
    /// Many watchers of what a few clients write
    Watch(BenchWatchArgs),
    /// From a put until the client's own watcher has it
    WatchLatency(BenchWatchLatencyArgs),
    /// Watchers that begin in the past, one for each client
    WatchCatchUp(BenchWatchCatchUpArgs),
    /// For how long nothing can be written while a command does something to the cluster
    Failover(BenchFailoverArgs),
    /// How long the server at the first endpoint takes from its start until it serves
    Restart(BenchRestartArgs),
}

/// How many clients, how long, how often.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// Operations under way at once
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub clients: usize,
    /// Connections that the clients share [default: one for every ten clients]
    #[arg(long, visible_alias = "connections", value_name = "COUNT")]
    pub conns: Option<usize>,
    /// End after so many operations
    #[arg(long, value_name = "COUNT", conflicts_with = "seconds")]
    pub total: Option<u64>,
    /// End after this time
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = read::duration)]
    pub seconds: Duration,
    /// What comes before and is not counted; 0 for nothing
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = read::span)]
    pub warm_up: Duration,
    /// Operations per second that are due whatever the server does; latencies count from when they were due
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Use the one endpoint that leads the cluster, instead of all in turn
    #[arg(long, visible_alias = "target-leader")]
    pub leader_only: bool,
    /// A request that takes longer has failed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = read::duration)]
    pub patience: Duration,
}

/// Which keys, and how large.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Keys and values")]
pub(crate) struct DataArgs {
    /// What the keys begin with; they stay when the run is over
    #[arg(long, value_name = "TEXT", default_value = PREFIX)]
    pub key_prefix: String,
    /// Bytes of a key, prefix included
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    pub key_size: usize,
    /// How many keys there are
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub keys: u64,
    /// In which order they are used
    #[arg(long, value_name = "ORDER", default_value = "sequential")]
    pub order: KeyOrder,
    /// Bytes of a value
    #[arg(long, visible_alias = "value-size", value_name = "BYTES", default_value_t = 256)]
    pub val_size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyOrder {
    Sequential,
    Random,
    Zipf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReadConsistency {
    #[value(alias = "l")]
    Linearizable,
    #[value(alias = "s")]
    Serializable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LockWay {
    V3lock,
    Recipe,
    Native,
}

#[derive(Debug, Args)]
pub(crate) struct BenchPutArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// Put the same value every time, which compresses well, instead of noise
    #[arg(long)]
    pub same_value: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchRangeArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// Whether the member that is asked may answer from what it has
    #[arg(long, default_value = "linearizable")]
    pub consistency: ReadConsistency,
    /// Read all keys in every operation, instead of one
    #[arg(long)]
    pub prefix: bool,
    /// Ask for no values
    #[arg(long)]
    pub keys_only: bool,
    /// Ask for the number of keys alone
    #[arg(long, conflicts_with = "keys_only")]
    pub count_only: bool,
    /// With --prefix: so many keys in an answer, page by page until all are read
    #[arg(long, value_name = "COUNT", requires = "prefix", conflicts_with = "count_only")]
    pub limit: Option<u32>,
    /// Write all keys twice beforehand, and read as of the first time
    #[arg(long, conflicts_with_all = ["rev", "no_fill"])]
    pub old_revision: bool,
    /// Read as of this revision
    #[arg(long, value_name = "REVISION", requires = "no_fill")]
    pub rev: Option<i64>,
    /// Do not write the keys beforehand: they are there
    #[arg(long)]
    pub no_fill: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchTxnPutArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// Puts in one transaction
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub ops: u64,
}

#[derive(Debug, Args)]
pub(crate) struct BenchTxnMixedArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// How many of all operations are reads, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    pub read_share: f64,
    /// Whether the member that is asked may answer reads from what it has
    #[arg(long, default_value = "linearizable")]
    pub consistency: ReadConsistency,
    /// Every operation as a transaction with a condition that holds
    #[arg(long)]
    pub compare: bool,
    /// Do not write the keys beforehand: they are there
    #[arg(long)]
    pub no_fill: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchLeaseGrantArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Of the leases, which are left to expire
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = read::duration)]
    pub ttl: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct BenchLeaseKeepaliveArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Of the leases, which are revoked afterwards
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = read::duration)]
    pub ttl: Duration,
    /// Streams that the leases share [default: one for each]
    #[arg(long, value_name = "COUNT")]
    pub streams: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchLeaseExpireArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// Servers raise what is less than they can keep
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = read::duration)]
    pub ttl: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct BenchLeaseRevokeArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// Keys on each lease
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub attached: u64,
}

#[derive(Debug, Args)]
pub(crate) struct BenchLockArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    /// By which way: etcd's lock service, what etcd's client libraries do, or Tenure's own service
    #[arg(long, default_value = "v3lock")]
    pub api: LockWay,
    /// How many locks there are; fewer than clients make them wait for each other [default: one for each client]
    #[arg(long, value_name = "COUNT")]
    pub locks: Option<usize>,
    /// What their names begin with
    #[arg(long, value_name = "TEXT", default_value = "bench/lock/")]
    pub name_prefix: String,
    /// Of the clients' leases, which are not renewed: longer than the run
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = read::duration)]
    pub ttl: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct BenchWatchArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// How many watch; each watches one of the keys
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    pub watchers: usize,
    /// Streams that they share
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub streams: usize,
    /// How many keys are written and watched
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub watched_keys: u64,
    /// Every watcher watches all keys
    #[arg(long)]
    pub prefix: bool,
    /// Without --rate: how many puts may be under way to watchers
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub ahead: usize,
}

#[derive(Debug, Args)]
pub(crate) struct BenchWatchLatencyArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub data: DataArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchWatchCatchUpArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// How many revisions are written beforehand
    #[arg(long, value_name = "REVISIONS", default_value_t = 100_000)]
    pub history: u64,
}

#[derive(Debug, Args)]
pub(crate) struct BenchFailoverArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// What happens to the cluster, for `sh -c`, such as a kill of its leader
    #[arg(long, value_name = "COMMAND")]
    pub command: String,
    /// How long is written before that
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = read::duration)]
    pub after: Duration,
    /// From one probe to the next
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = read::duration)]
    pub probe_interval: Duration,
    /// The writer goes to the next endpoint when one is silent for so long
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = read::duration)]
    pub attempt: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct BenchRestartArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Starts the server, by `sh -c`; it runs on when this is over
    #[arg(long, value_name = "COMMAND")]
    pub command: String,
    /// The key that is read; it need not exist
    #[arg(long, default_value = "bench/restart")]
    pub key: String,
}
