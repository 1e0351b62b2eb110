//! What a workload sets off while it measures: a command, or a function of the program that runs it.

use std::fmt;
use std::process::Stdio;
use std::sync::Arc;

use tokio::process::{Child, Command};

use crate::failure::Error;

/// See the module's header.
#[derive(Clone)]
pub enum Trigger {
    /// For `sh -c`. What it prints on stdout is dropped.
    Command(String),
    /// Returns when it is done, or says why it cannot be.
    Call(Arc<dyn Fn() -> Result<(), String> + Send + Sync>),
}

impl Trigger {
    /// Starts it. A command may go on running.
    pub(crate) fn pull(&self) -> Result<Option<Child>, Error> {
        match self {
            Trigger::Command(command) => {
                let mut shell = Command::new("sh");
                let child = shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
                child.map(Some).map_err(|error| Error::Local(format!("cannot run {command:?}: {error}")))
            }
            Trigger::Call(call) => call().map(|()| None).map_err(Error::Local),
        }
    }

    /// Starts it and waits for its end, which must be a good one.
    pub(crate) async fn run(&self) -> Result<(), Error> {
        let Some(mut child) = self.pull()? else { return Ok(()) };
        let status =
            child.wait().await.map_err(|error| Error::Local(format!("cannot wait for the command: {error}")))?;
        if !status.success() {
            return Err(Error::Local(format!("the command failed: {status}")));
        }
        Ok(())
    }
}

impl fmt::Debug for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Command(command) => f.debug_tuple("Command").field(command).finish(),
            Trigger::Call(_) => f.debug_tuple("Call").finish_non_exhaustive(),
        }
    }
}
