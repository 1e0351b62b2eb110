//! The command line as types: global options and the commands. What commands do is elsewhere.
//!
//! Names follow etcdctl where it has one, so that what is in people's fingers works.

pub(crate) mod bench;
mod discovery;
mod election;
mod keys;
mod lease;
mod lock;
mod read;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use bench::BenchArgs;
pub(crate) use discovery::{DiscoveryCommand, DiscoveryKindsArgs, DiscoveryRegisterArgs};
pub(crate) use election::{ElectArgs, ObserveArgs, ResignArgs};
pub(crate) use keys::{Consistency, DelArgs, GetArgs, Order, PutArgs, SortBy, WatchArgs};
pub(crate) use lease::{LeaseCommand, LeaseGrantArgs, LeaseKeepAliveArgs, LeaseListArgs, LeaseShowArgs};
pub(crate) use lock::{ClaimArgs, LockArgs, LockCommand, LocksArgs, PatienceArgs, TryLockArgs, UnlockArgs};
pub(crate) use read::EndpointList;

use crate::client::Timeouts;
use crate::ids::{LeaseId, Revision};
use crate::output::{Format, Output};
use crate::text::Style;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the cluster refused, or something on this machine failed; stderr says what
  2  the command line makes no sense
  3  nothing was done: no endpoint can be reached, or the cluster has no leader
  4  a write was sent and no answer came: it may or may not have happened
  5  done, and what was found is not well (status, endpoint health, endpoint hashkv; bench: operations failed)
  75  the lock is held by somebody else (try-lock, lock --try, lock --wait)
  76  the lock was lost, or about to be; a command that ran under it was ended
  126  the command that was to run under a lock cannot be run
  127  there is no such command
A command that ran under a lock passes its own code on, or 128 and the signal that ended it.

Environment: TENURE_ENDPOINTS, or else ETCDCTL_ENDPOINTS, stands for --endpoints.";

/// Reads, changes and watches a Tenure cluster.
#[derive(Debug, Parser)]
#[command(name = "tenurectl", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(flatten)]
    pub display: DisplayArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// How the cluster is reached.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Client addresses of members, tried in turn [default: a local cluster's, 127.0.0.1 at 2379, 22379, 32379]
    #[arg(long, global = true, value_name = "HOST:PORT,...")]
    pub endpoints: Option<EndpointList>,
    /// How long one endpoint may take to connect and show life
    #[arg(long, global = true, value_name = "TIME", default_value = "2s", value_parser = read::duration)]
    pub dial_timeout: Duration,
    /// How long a request may take, fail-over included
    #[arg(long, global = true, value_name = "TIME", default_value = "5s", value_parser = read::duration)]
    pub command_timeout: Duration,
}

impl ConnectionArgs {
    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts { dial: self.dial_timeout, command: self.command_timeout }
    }
}

/// How results are shown.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct DisplayArgs {
    /// For people, or for programs: one JSON object a line
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "human")]
    pub output: Format,
    /// Print every key and value in hexadecimal
    #[arg(long, global = true)]
    pub hex: bool,
    /// Read \xNN, \n, \r, \t and \\ in the KEY, RANGE_END and VALUE arguments, as they are printed
    #[arg(long, global = true)]
    pub unescape: bool,
}

impl DisplayArgs {
    pub(crate) fn output(self) -> Output {
        Output { format: self.output, style: Style { hex: self.hex, unescape: self.unescape } }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One line per member: version, role, term, revision, size, what is wrong
    Status(ClusterArgs),
    /// The members of the cluster
    #[command(subcommand)]
    Member(MemberCommand),
    /// Read a key, or a range of keys
    Get(GetArgs),
    /// Write a key
    Put(PutArgs),
    /// Delete a key, or a range of keys
    Del(DelArgs),
    /// Follow the changes of a key or a range; goes on when members fail
    Watch(WatchArgs),
    /// Run a transaction read from stdin, in etcdctl's syntax
    #[command(after_help = TXN_SYNTAX)]
    Txn,
    /// Forget the history below a revision
    #[command(alias = "compaction")]
    Compact(CompactArgs),
    /// Grant, renew, revoke and show leases
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Lead an election as long as this process runs; others wait for their turn
    Elect(ElectArgs),
    /// Follow who leads an election; goes on when members fail
    Observe(ObserveArgs),
    /// End the leadership of whoever leads an election
    Resign(ResignArgs),
    /// Hold a lock as long as this process runs, or run a command under it
    Lock(LockArgs),
    /// The same as `lock --try`: take a lock if it is free
    TryLock(TryLockArgs),
    /// The locks that are held, by whom, and how many wait for them
    Locks(LocksArgs),
    /// Take a lock away from whoever has it
    Unlock(UnlockArgs),
    /// Services that register themselves, and who is there
    #[command(subcommand)]
    Discovery(DiscoveryCommand),
    /// Why something is as it is: what became of a lease
    #[command(subcommand)]
    Explain(ExplainCommand),
    /// Hand leadership to a member
    MoveLeader(MoveLeaderArgs),
    /// Show and clear alarms
    #[command(subcommand)]
    Alarm(AlarmCommand),
    /// Save the state of the cluster
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Check members one by one
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// The versions of this program and of the servers
    Version(ClusterArgs),
    /// Measure a cluster under load, Tenure's or etcd's: what it does in a second, and how long an operation takes
    Bench(BenchArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

const TXN_SYNTAX: &str = r#"Three blocks, each ended by an empty line or the end of the input: conditions, what to do
if all of them hold, and what to do if not. Conditions compare val, ver, create, mod or lease
with =, !=, < or >. Operations are get, put and del with their options.

  mod("config") = "7"
  val("lock") != "held"

  put config "new value"
  get --prefix service/

  get config
"#;

/// Whom to ask.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Ask every member of the cluster, not only the endpoints given
    #[arg(long)]
    pub cluster: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Ids, names and addresses of the members
    List,
}

#[derive(Debug, Args)]
pub(crate) struct CompactArgs {
    /// The oldest revision that stays readable
    pub revision: Revision,
    /// Wait until the space is free
    #[arg(long)]
    pub physical: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MoveLeaderArgs {
    /// Who shall lead: the member's name or id, see `member list`
    pub member: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExplainCommand {
    /// Whether a lease is there, and if not, who ended it, when and why
    Lease {
        /// The lease's id
        id: LeaseId,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlarmCommand {
    /// The alarms that are raised
    List,
    /// Clear all alarms
    Disarm,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Save a snapshot to FILE; `tenured snapshot restore` makes a cluster of it
    Save {
        /// Where to; written as FILE.part until it is whole
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// Whether each endpoint serves linearizable reads, and how fast
    Health(ClusterArgs),
    /// The same as `status`
    Status(ClusterArgs),
    /// Whether the members hold the same data, by hash
    Hashkv(HashArgs),
}

#[derive(Debug, Args)]
pub(crate) struct HashArgs {
    #[command(flatten)]
    pub whom: ClusterArgs,
    /// Hash the data as of this revision [default: the newest that all members have]
    #[arg(long, value_name = "REVISION")]
    pub rev: Option<Revision>,
}

impl Command {
    /// Whether it runs until it is stopped.
    pub(crate) fn is_endless(&self) -> bool {
        match self {
            Command::Watch(_) | Command::Observe(_) | Command::Discovery(DiscoveryCommand::Watch(_)) => true,
            Command::Lease(LeaseCommand::KeepAlive(args)) => !args.once,
            _ => false,
        }
    }

    /// The lease that it names.
    pub(crate) fn lease(&self) -> Option<LeaseId> {
        match self {
            Command::Put(args) => args.lease,
            Command::Lease(command) => command.id(),
            Command::Explain(ExplainCommand::Lease { id }) => Some(*id),
            _ => None,
        }
    }

    /// The revision that it names.
    pub(crate) fn revision(&self) -> Option<Revision> {
        match self {
            Command::Get(args) => args.rev,
            Command::Watch(args) => args.rev,
            Command::Compact(args) => Some(args.revision),
            Command::Endpoint(EndpointCommand::Hashkv(args)) => args.rev,
            _ => None,
        }
    }
}

/// An operation of a transaction, as a line of its own.
#[derive(Debug, Parser)]
#[command(multicall = true, disable_help_flag = true, disable_help_subcommand = true)]
pub(crate) enum TxnOperation {
    Get(GetArgs),
    Put(PutArgs),
    Del(DelArgs),
}

impl TxnOperation {
    /// Reads the words of a line.
    pub(crate) fn read(words: Vec<OsString>) -> Result<TxnOperation, String> {
        TxnOperation::try_parse_from(words).map_err(|error| {
            let text = error.to_string();
            // What follows the first empty line is usage, of a program that does not exist.
            let lines: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            let error = lines.join(" ");
            error.strip_prefix("error: ").unwrap_or(&error).to_owned()
        })
    }
}

#[cfg(test)]
mod tests;
