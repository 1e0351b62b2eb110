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
    /// Somebody else ended what the command was there for.
    #[error("{0}")]
    Ended(String),
    /// Somebody else has the lock.
    #[error("{0}")]
    LockBusy(String),
    /// Nobody has the lock that is to be taken away.
    #[error("{0}")]
    LockFree(String),
    /// The lock was lost, or was about to be, while it was needed.
    #[error("{0}")]
    LockLost(String),
    /// A command could not be run; the code is the one that shells have for it.
    #[error("{words}")]
    NotRun { words: String, code: u8 },
    /// The command that was run, or the signal that ended the waiting for it, gives the exit code. There is nothing to say.
    #[error("exit code {0}")]
    Passed(u8),
    /// The command did its work, and what it found is not well.
    #[error("{0}")]
    Unhealthy(String),
    /// Whoever read the output has read enough.
    #[error("the output was closed")]
    ClosedPipe,
}

impl Failure {
    /// Whether there is something to say about it.
    pub fn is_told(&self) -> bool {
        !matches!(self, Failure::ClosedPipe | Failure::Passed(_))
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::ClosedPipe => 0,
            Failure::Usage(_) => 2,
            Failure::Client(ClientError::Unreachable(_) | ClientError::NoLeader(_) | ClientError::NoAnswer(_)) => 3,
            Failure::Client(ClientError::Unknown(_)) => 4,
            Failure::Unhealthy(_) => 5,
            // That of `EX_TEMPFAIL`: a later try may do. Both are codes that hardly any command ends with.
            Failure::LockBusy(_) => 75,
            Failure::LockLost(_) => 76,
            Failure::NotRun { code, .. } | Failure::Passed(code) => *code,
            Failure::Local(_)
            | Failure::NoLease(_)
            | Failure::Ended(_)
            | Failure::LockFree(_)
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
