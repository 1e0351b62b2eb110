//! How a command can fail, and the exit code that says so. The codes are documented in docs/TENURECTL.md.

use std::process::ExitCode;

use thiserror::Error;

use crate::client::ClientError;
use crate::ids::LeaseId;

/// See the module's header.
#[derive(Debug, Error)]
pub enum Failure {
    /// The cluster did not do it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The command line, or what came on stdin, makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Something on this machine is in the way.
    #[error("{0}")]
    Local(String),
    /// There is nothing to renew or to show.
    #[error("there is no lease {0}")]
    NoLease(LeaseId),
    /// The command did its work, and what it found is not well.
    #[error("{0}")]
    Unhealthy(String),
    /// Whoever read the output has read enough.
    #[error("the output was closed")]
    ClosedPipe,
}

impl Failure {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::ClosedPipe => 0,
            Failure::Usage(_) => 2,
            Failure::Client(ClientError::Unreachable(_) | ClientError::NoLeader(_) | ClientError::NoAnswer(_)) => 3,
            Failure::Client(ClientError::Unknown(_)) => 4,
            Failure::Unhealthy(_) => 5,
            Failure::Local(_)
            | Failure::NoLease(_)
            | Failure::Client(
                ClientError::Refused(_) | ClientError::WatchCompacted { .. } | ClientError::WatchRefused(_),
            ) => 1,
        }
    }
}

impl From<&Failure> for ExitCode {
    fn from(failure: &Failure) -> ExitCode {
        ExitCode::from(failure.exit_code())
    }
}
