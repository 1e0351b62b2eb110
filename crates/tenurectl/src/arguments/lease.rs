//! The arguments of `lease`.

use clap::{Args, Subcommand};

use crate::ids::LeaseId;

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Make a lease that ends unless it is renewed
    Grant(LeaseGrantArgs),
    /// Renew a lease again and again until stopped; prints what each renewal gave
    #[command(alias = "keepalive")]
    KeepAlive(LeaseKeepAliveArgs),
    /// End a lease and delete its keys
    Revoke {
        /// The lease's id
        id: LeaseId,
    },
    /// All leases, with what is left of them
    List(LeaseListArgs),
    /// One lease: its time and its keys
    #[command(alias = "timetolive")]
    Show(LeaseShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LeaseGrantArgs {
    /// Seconds until it ends; the server raises what is less than it can keep
    #[arg(value_name = "TTL_SECONDS")]
    pub ttl: i64,
    /// Which id it shall have [default: the server picks one]
    #[arg(long)]
    pub id: Option<LeaseId>,
    /// Whom it is for, as `lease list` and `explain lease` then tell (Tenure only)
    #[arg(long, value_name = "NAME")]
    pub holder: Option<String>,
    /// What else whoever looks at it should know (Tenure only)
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LeaseKeepAliveArgs {
    pub id: LeaseId,
    /// Renew it once and return
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LeaseListArgs {
    /// Do not ask for the details of each lease
    #[arg(long)]
    pub ids_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LeaseShowArgs {
    pub id: LeaseId,
    /// List the lease's keys (the default; for etcdctl's habits)
    #[arg(long, hide = true)]
    pub keys: bool,
}

impl LeaseCommand {
    /// The lease that is meant.
    pub(crate) fn id(&self) -> Option<LeaseId> {
        match self {
            LeaseCommand::Grant(args) => args.id,
            LeaseCommand::KeepAlive(args) => Some(args.id),
            LeaseCommand::Revoke { id } => Some(*id),
            LeaseCommand::Show(args) => Some(args.id),
            LeaseCommand::List(_) => None,
        }
    }
}
