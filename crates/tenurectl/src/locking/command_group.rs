//! A command in a process group of its own, which ends as a whole.
//!
//! What a command starts stays in its group unless it leaves it on purpose, and processes that lose their parent come to this
//! one, so that it can wait for all of them. A group that is dropped is killed.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process_group, set_child_subreaper, test_kill_process_group,
    waitpgid,
};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::timeout;

use crate::failure::Failure;

/// How often to look whether a group is gone. Processes in it whose parent left the group end without a signal to this one.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// See the module's header.
#[derive(Debug)]
pub(crate) struct CommandGroup {
    leader: Pid,
    ended: Option<WaitStatus>,
    is_gone: bool,
    children: unix::Signal,
}

impl CommandGroup {
    /// Starts a command, with some variables added to its environment.
    pub(crate) fn start(command: &[OsString], variables: &[(&str, OsString)]) -> Result<CommandGroup, Failure> {
        let (program, arguments) = command.split_first().ok_or_else(|| Failure::Usage("no command".to_owned()))?;
        let local = |error: io::Error| Failure::Local(format!("cannot look after a command: {error}"));
        // Before there is anything to hear of.
        let children = signal(SignalKind::child()).map_err(local)?;
        set_child_subreaper(Some(getpid())).map_err(|error| local(error.into()))?;
        let variables = variables.iter().map(|(name, value)| (name, value));
        let mut command = Command::new(program);
        command.args(arguments).envs(variables).process_group(0);
        if io::stdin().is_terminal() {
            // A terminal stops whoever reads from it in another group than its own, and a command that stands still
            // would keep the lock.
            command.stdin(Stdio::null());
        }
        let child = command.spawn().map_err(|error| not_run(program, &error))?;
        let leader = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let leader = leader.ok_or_else(|| Failure::Local("a process without an id".to_owned()))?;
        Ok(CommandGroup { leader, ended: None, is_gone: false, children })
    }

    /// Sends a signal to all of the group.
    pub(crate) fn send(&self, signal: Signal) {
        if self.is_gone {
            return;
        }
        // It fails if there is nobody left to get it.
        let is_sent = kill_process_group(self.leader, signal).is_ok();
        if is_sent && signal != Signal::KILL {
            // One that was stopped would not look at it.
            kill_process_group(self.leader, Signal::CONT).unwrap_or(());
        }
    }

    /// Waits until the command has ended, and says with which exit code. It may be dropped at any time and asked again.
    pub(crate) async fn ended(&mut self) -> u8 {
        loop {
            self.reap();
            if let Some(status) = self.ended {
                return code(status);
            }
            // It is announced by a signal. None is missed: those that come meanwhile are kept.
            self.children.recv().await;
        }
    }

    /// Ends what the command left behind, and waits until nothing is there.
    pub(crate) async fn clear(&mut self) {
        self.send(Signal::KILL);
        loop {
            self.reap();
            if test_kill_process_group(self.leader) == Err(Errno::SRCH) {
                self.is_gone = true;
                return;
            }
            self.hear().await;
        }
    }

    async fn hear(&mut self) {
        // Whether there was a signal or not, it is time to look.
        drop(timeout(LOOK_INTERVAL, self.children.recv()).await);
    }

    /// Takes note of those that have ended.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = waitpgid(self.leader, WaitOptions::NOHANG) {
            if pid == self.leader {
                self.ended = Some(status);
            }
        }
    }
}

impl Drop for CommandGroup {
    fn drop(&mut self) {
        self.send(Signal::KILL);
    }
}

/// As shells tell it.
fn code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn not_run(program: &OsStr, error: &io::Error) -> Failure {
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    Failure::NotRun {
        words: format!("cannot run {}: {error}", crate::text::one_line(&program.to_string_lossy())),
        code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> CommandGroup {
        let command = ["sh", "-c", script].map(OsString::from);
        CommandGroup::start(&command, &[("TENURE_TOKEN", "7".into())]).expect("a shell")
    }

    #[tokio::test]
    async fn a_commands_end_is_its_code_or_its_signal() {
        assert_eq!(shell("exit 3").ended().await, 3);
        assert_eq!(shell("exit $TENURE_TOKEN").ended().await, 7);
        assert_eq!(shell("kill -TERM $$").ended().await, 128 + 15);
        let mut sleeps = shell("exec sleep 600");
        sleeps.send(Signal::INT);
        assert_eq!(sleeps.ended().await, 128 + 2);
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_ends_with_it() {
        let mut group = shell("trap '' TERM; sleep 600 & exit 0");
        assert_eq!(group.ended().await, 0);
        assert_eq!(test_kill_process_group(group.leader), Ok(()), "it is there");
        group.clear().await;
        assert_eq!(test_kill_process_group(group.leader), Err(Errno::SRCH));
    }

    #[test]
    fn what_cannot_be_run_is_told_as_shells_do() {
        let failed = |program: &str| not_run_code(CommandGroup::start(&[program.into()], &[]));
        // Signals need a runtime.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _entered = runtime.enter();
        assert_eq!(failed("/nonexistent/program"), 127);
        assert_eq!(failed("/"), 126);
    }

    fn not_run_code(started: Result<CommandGroup, Failure>) -> u8 {
        started.expect_err("it cannot run").exit_code()
    }
}
