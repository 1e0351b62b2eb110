//! The arguments of `elect`, `observe` and `resign`.

use std::ffi::OsString;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct ElectArgs {
    /// The election's name
    pub name: OsString,
    /// What observers see while this process leads
    pub value: OsString,
    /// Seconds after which another one may lead if this process dies; the server raises what is less than it can keep
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub ttl: i64,
}

#[derive(Debug, Args)]
pub(crate) struct ObserveArgs {
    /// The election's name
    pub name: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct ResignArgs {
    /// The election's name
    pub name: OsString,
}
