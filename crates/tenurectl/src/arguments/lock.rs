//! The arguments of `lock`, `try-lock`, `locks` and `unlock`.
//!
//! `lock` takes a lock's name, and has commands below it. They win where both could be meant: `--name` is for locks that are
//! called like one of them.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::read;

#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true, override_usage = LOCK_USAGE)]
pub(crate) struct LockArgs {
    /// The lock
    #[arg(required_unless_present = "given_name", conflicts_with = "given_name")]
    pub name: Option<OsString>,
    /// The lock, if it is called like a command below `lock`, or begins with a dash
    #[arg(long = "name", id = "given_name", value_name = "NAME", allow_hyphen_values = true)]
    pub given_name: Option<OsString>,
    #[command(flatten)]
    pub patience: PatienceArgs,
    #[command(flatten)]
    pub claim: ClaimArgs,
    /// Runs this while the lock is held, and not longer
    #[arg(last = true, value_name = "COMMAND")]
    pub run: Vec<OsString>,
    #[command(subcommand)]
    pub below: Option<LockCommand>,
}

const LOCK_USAGE: &str = "tenurectl lock [OPTIONS] NAME [-- COMMAND ARGS...]
       tenurectl lock show NAME
       tenurectl lock why NAME";

impl LockArgs {
    /// The lock that is to be taken, unless a command below `lock` is meant.
    pub(crate) fn wanted(&self) -> Option<&OsString> {
        self.name.as_ref().or(self.given_name.as_ref())
    }

    /// Whether something is said that only taking a lock has a use for.
    pub(crate) fn is_claim(&self) -> bool {
        self.wanted().is_some()
            || !self.run.is_empty()
            || self.patience != PatienceArgs::default()
            || self.claim != ClaimArgs::default()
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum LockCommand {
    /// Who holds a lock, and who waits for it
    Show {
        /// The lock
        name: OsString,
    },
    /// What became of those who held a lock or waited for it, the latest first
    Why {
        /// The lock
        name: OsString,
        /// At most so many changes
        #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
}

/// For how long to wait.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct PatienceArgs {
    /// Wait for the lock for so long at most [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = read::duration)]
    pub wait: Option<Duration>,
    /// Do not wait
    #[arg(long = "try", conflicts_with = "wait")]
    pub at_once: bool,
}

/// How a lock is wanted.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct ClaimArgs {
    /// After which time another one may get the lock if this process dies or cannot reach the cluster [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = read::duration)]
    pub ttl: Option<Duration>,
    /// Together with others that want it so
    #[arg(long, conflicts_with_all = ["permits", "limit"])]
    pub shared: bool,
    /// So many of the lock's permits: a semaphore [default: 1 with --limit]
    #[arg(long, value_name = "COUNT", requires = "limit")]
    pub permits: Option<u32>,
    /// How many permits the lock has; all who take it must say the same
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<u32>,
    /// For how long nobody else gets the lock if this process dies, on top of --ttl; at most 60s
    #[arg(long, value_name = "TIME", value_parser = read::duration)]
    pub delay: Option<Duration>,
    /// Who takes the lock, as others see it [default: this machine's name and the process's id]
    #[arg(long, value_name = "TEXT")]
    pub owner: Option<String>,
    /// What else others should see
    #[arg(long, value_name = "TEXT")]
    pub metadata: Option<OsString>,
}

#[derive(Debug, Args)]
#[command(override_usage = "tenurectl try-lock [OPTIONS] NAME [-- COMMAND ARGS...]")]
pub(crate) struct TryLockArgs {
    /// The lock
    pub name: OsString,
    #[command(flatten)]
    pub claim: ClaimArgs,
    /// Runs this while the lock is held, and not longer
    #[arg(last = true, value_name = "COMMAND")]
    pub run: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct LocksArgs {
    /// What their names begin with
    pub prefix: Option<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct UnlockArgs {
    /// The lock
    pub name: OsString,
    /// Take it away from whoever has it. There is no other way: who holds a lock lets go of it by itself
    #[arg(long, required = true)]
    pub force: bool,
    /// Why, for `lock why`
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// From whom, if several hold it, or if one that waits is meant: the key that `lock show` tells
    #[arg(long)]
    pub key: Option<OsString>,
}
