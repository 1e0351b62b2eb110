//! Runs tenurectl as a person or a script does, and what it is asked to do against a real cluster of either program.
//!
//! The scenarios are written once: `process_ctl.rs` runs them on tenured, `compat_ctl.rs` on etcd.

pub(crate) mod bench;
pub(crate) mod cluster;
pub(crate) mod discovery;
pub(crate) mod elections;
pub(crate) mod keys;
pub(crate) mod leases;
pub(crate) mod watches;

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tenure_tests::cluster::Cluster;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// No command may take longer, whatever is broken.
pub(crate) const COMMAND_PATIENCE: Duration = Duration::from_secs(30);

/// tenurectl with some endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Ctl {
    endpoints: String,
}

/// What a run of it said.
#[derive(Debug)]
pub(crate) struct Said {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ctl {
    /// Of all nodes.
    pub(crate) fn of(cluster: &Cluster) -> Ctl {
        Ctl::at(&cluster.endpoints())
    }

    pub(crate) fn at(endpoints: &[String]) -> Ctl {
        Ctl { endpoints: endpoints.join(",") }
    }

    /// The command, with nothing of this process's environment in it that it would read.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_tenurectl"), arguments)
    }

    /// Another program, which may start tenurectl.
    pub(crate) fn command_of<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Command {
        let mut command = Command::new(program);
        for (name, _) in env::vars_os() {
            if ["ETCDCTL_", "TENURE_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.env("TENURE_ENDPOINTS", &self.endpoints).args(arguments).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Said> {
        self.feed(b"", arguments).await
    }

    /// Runs it with this on stdin.
    pub(crate) async fn feed<S: AsRef<OsStr>>(&self, stdin: &[u8], arguments: &[S]) -> Result<Said> {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn()?;
        let mut pipe = child.stdin.take().context("no stdin")?;
        let run = async {
            // A command that does not read its stdin may be gone already.
            drop(pipe.write_all(stdin).await);
            drop(pipe);
            child.wait_with_output().await
        };
        let output = timeout(COMMAND_PATIENCE, run).await.with_context(|| format!("{} hangs", shown(arguments)))??;
        let err = String::from_utf8(output.stderr).context("stderr is not text")?;
        ensure!(!err.contains("panicked"), "{} panicked: {err}", shown(arguments));
        Ok(Said { code: output.status.code(), out: output.stdout, err })
    }

    /// What it prints to stdout; it must end well.
    pub(crate) async fn says(&self, arguments: &[&str]) -> Result<String> {
        let said = self.run(arguments).await?;
        ensure!(said.code == Some(0), "{}: {:?}: {}", shown(arguments), said.code, said.err);
        Ok(String::from_utf8(said.out)?)
    }

    /// What it says as JSON; it must end well.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let said = self.says(&[arguments, &["-o", "json"]].concat()).await?;
        ensure!(said.ends_with('\n') && said.lines().count() == 1, "not one line: {said:?}");
        Ok(serde_json::from_str(&said)?)
    }

    /// What it complains about; it must end with this code.
    pub(crate) async fn fails(&self, code: i32, arguments: &[&str]) -> Result<String> {
        let said = self.run(arguments).await?;
        ensure!(said.code == Some(code), "{} ends with {:?}, not {code}: {}", shown(arguments), said.code, said.err);
        ensure!(said.err.starts_with("tenurectl: ") && said.err.ends_with('\n'), "{}", said.err);
        Ok(said.err)
    }

    /// The same for programs: the error must be of this kind and name its exit code.
    pub(crate) async fn fails_as(&self, kind: &str, code: i32, arguments: &[&str]) -> Result<Value> {
        let said = self.run(&[&["--output=json"], arguments].concat()).await?;
        let error: Value = serde_json::from_str(&said.err).with_context(|| format!("stderr is {:?}", said.err))?;
        let error = error["error"].clone();
        ensure!(
            said.code == Some(code) && error["kind"] == kind && error["exit_code"] == code,
            "{}: {:?}: {error}",
            shown(arguments),
            said.code
        );
        Ok(error)
    }

    /// Waits until so many contend for a lock, and says how it stands then.
    pub(crate) async fn contenders(&self, lock: &str, count: u64) -> Result<Value> {
        let contend = async {
            loop {
                let shown = self.json(&["lock", "show", lock]).await?;
                if shown["contenders"] == count {
                    return Ok(shown);
                }
            }
        };
        timeout(COMMAND_PATIENCE, contend).await.with_context(|| format!("never {count} for {lock}"))?
    }

    /// Starts a command that runs until it is stopped.
    pub(crate) fn follow(&self, arguments: &[&str]) -> Result<Follow> {
        Follow::of(self.command(arguments).stderr(Stdio::inherit()))
    }
}

/// A command that prints lines until it is stopped.
#[derive(Debug)]
pub(crate) struct Follow {
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follow {
    pub(crate) fn of(command: &mut Command) -> Result<Follow> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        Ok(Follow { child, lines })
    }

    /// The next line, or none when nobody can write one any more.
    pub(crate) async fn maybe_line(&mut self) -> Result<Option<String>> {
        Ok(timeout(COMMAND_PATIENCE, self.lines.next_line()).await.context("no line in time")??)
    }

    pub(crate) async fn line(&mut self) -> Result<String> {
        self.maybe_line().await?.context("the command ended")
    }

    pub(crate) async fn json(&mut self) -> Result<Value> {
        Ok(serde_json::from_str(&self.line().await?)?)
    }

    /// The next object of this type; others are passed over.
    pub(crate) async fn next(&mut self, wanted: &str) -> Result<Value> {
        loop {
            let told = self.json().await?;
            if told["type"] == wanted {
                return Ok(told);
            }
        }
    }

    /// Ctrl-C.
    pub(crate) async fn interrupt(&mut self) -> Result<ExitStatus> {
        self.signal("INT").await?;
        self.ended().await
    }

    pub(crate) async fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.id().context("it ended already")?;
        let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().await?;
        ensure!(sent.success(), "no such process");
        Ok(())
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(timeout(COMMAND_PATIENCE, self.child.wait()).await.context("it does not end")??)
    }
}

/// Compares a text, showing both whole when they differ.
pub(crate) fn same(found: &str, expected: &str) -> Result<()> {
    if found != expected {
        bail!("expected:\n{expected}\nfound:\n{found}");
    }
    Ok(())
}

fn shown<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    let words: Vec<_> = arguments.iter().map(|word| OsString::from(word).to_string_lossy().into_owned()).collect();
    format!("tenurectl {}", words.join(" "))
}
