//! Runs a script of etcdctl commands against a cluster and makes what they print comparable between two clusters.

pub mod script;
pub mod subject;
pub mod text;

use std::process::Stdio;

use anyhow::Result;
use tokio::process::Command;

use crate::binaries;

pub use script::{Action, Step, parse};
pub use subject::Subject;

/// An etcdctl for these endpoints, which knows nothing of this process' environment and ends with its handle.
pub fn command(endpoints: &str) -> Result<Command> {
    let mut command = Command::new(binaries::etcdctl()?);
    command
        .arg(format!("--endpoints={endpoints}"))
        .env_clear()
        .env("ETCDCTL_API", "3")
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}
