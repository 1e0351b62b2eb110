//! A cluster that a script of etcdctl commands is run against.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::script::{Action, Signal, Step};
use super::text::Normal;
use crate::binaries::Program;
use crate::cluster::{Cluster, LEADER_PATIENCE};
use crate::scenario::Scenario;

/// The longest that a command, or what a terminal is waited for, may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long two terminals may take to show the same; then the difference is real.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);

/// A cluster with what must be replaced in its output.
pub struct Subject {
    _cluster: Cluster,
    endpoint: String,
    normal: Normal,
    kept: HashMap<String, String>,
    terminals: HashMap<String, Terminal>,
    last: String,
}

impl Subject {
    /// Starts three members and speaks to the leader or to a follower.
    pub async fn start(program: Program, scenario: &Scenario, at_leader: bool) -> Result<Self> {
        let home = scenario.home.join(program.label());
        let mut cluster = Cluster::start(program, 3, &home).await?;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let target = if at_leader { leader } else { (leader + 1) % 3 };
        let mut replace = vec![(home.display().to_string(), "<home>".to_owned())];
        let mut kept = HashMap::new();
        for (at, node) in cluster.nodes.iter().enumerate() {
            let role = if at == leader { "leader" } else { "follower" };
            let status = cluster.status(at).await?;
            let header = status.header().context("a status without a header")?;
            replace.push((node.endpoint(), format!("<{role} client>")));
            replace.push((format!("127.0.0.1:{}", node.client_port), format!("<{role} address>")));
            replace.push((format!("http://127.0.0.1:{}", node.peer_port), format!("<{role} peer>")));
            replace.push((format!("{:x}", header.member_id()), format!("<{role} id>")));
            replace.push((header.member_id().to_string(), format!("<{role} id>")));
            replace.push((format!("{:x}", header.cluster_id()), "<cluster id>".to_owned()));
            replace.push((header.cluster_id().to_string(), "<cluster id>".to_owned()));
            kept.insert(format!("{}_ID", role.to_uppercase()), format!("{:x}", header.member_id()));
            kept.insert(format!("{}_PORT", role.to_uppercase()), node.client_port.to_string());
        }
        kept.insert("HOME".to_owned(), home.display().to_string());
        kept.insert("PORT".to_owned(), cluster.nodes[target].client_port.to_string());
        let endpoint = cluster.nodes[target].endpoint();
        let normal = Normal { replace };
        Ok(Self { _cluster: cluster, endpoint, normal, kept, terminals: HashMap::new(), last: String::new() })
    }

    /// Carries a step out; returns what is to be compared.
    pub async fn run(&mut self, step: &Step) -> Result<String> {
        match &step.action {
            Action::Run => self.run_to_end(step).await,
            Action::Until { count, text } => self.run_until(step, *count, text).await,
            Action::Keep { name, word } => {
                let kept = self.last.split_whitespace().nth(*word);
                let kept = kept.with_context(|| format!("{}: no such word in {:?}", step.text, self.last))?;
                self.kept.insert(name.clone(), kept.to_owned());
                Ok(String::new())
            }
            Action::Start { terminal } => {
                let started = Terminal::start(self.command(step)?)?;
                self.terminals.insert(terminal.clone(), started);
                Ok(String::new())
            }
            Action::Await { terminal, count, text } => {
                let text = self.substituted(OsStr::new(text));
                let text = text.to_str().context("a text")?;
                let shown = self.terminal(terminal)?.shows(*count, text).await;
                shown.with_context(|| step.text.clone())?;
                Ok(String::new())
            }
            Action::Type { terminal, line } => {
                let typed = format!("{line}\n");
                self.terminal(terminal)?.stdin.write_all(typed.as_bytes()).await?;
                Ok(String::new())
            }
            Action::End { terminal, signal } => {
                let ended = self.terminals.remove(terminal).with_context(|| format!("no terminal {terminal}"))?;
                let (exit, stdout, stderr) = ended.end(*signal).await.with_context(|| step.text.clone())?;
                Ok(self.comparable(exit, &[&stdout, &stderr], false))
            }
        }
    }

    /// Waits until a terminal shows the same at both, as far as it does so in time.
    ///
    /// Signals stop a command in the middle of a line; whether they came too early is not what is compared.
    pub async fn settle(&mut self, other: &mut Subject, name: &str) -> Result<()> {
        let alike = async {
            loop {
                let (here, there) = (self.shown(name)?, other.shown(name)?);
                if here == there {
                    return Ok(());
                }
                let (mine, theirs) = (self.terminal(name)?, other.terminal(name)?);
                tokio::select! {
                    () = mine.grows() => {}
                    () = theirs.grows() => {}
                }
            }
        };
        timeout(SETTLE_PATIENCE, alike).await.unwrap_or(Ok(()))
    }

    /// What a terminal has shown so far, and marks it as seen.
    fn shown(&mut self, name: &str) -> Result<String> {
        let terminal = self.terminal(name)?;
        let outputs = [terminal.stdout.so_far(), terminal.stderr.so_far()];
        Ok(self.comparable(None, &[&outputs[0], &outputs[1]], false))
    }

    fn terminal(&mut self, name: &str) -> Result<&mut Terminal> {
        self.terminals.get_mut(name).with_context(|| format!("no terminal {name}"))
    }

    async fn run_until(&mut self, step: &Step, count: usize, text: &str) -> Result<String> {
        let repeated = async {
            loop {
                let shown = self.run_to_end(step).await?;
                if self.last.matches(text).count() >= count {
                    return Ok(shown);
                }
            }
        };
        timeout(PATIENCE, repeated).await.with_context(|| step.text.clone())?
    }

    async fn run_to_end(&mut self, step: &Step) -> Result<String> {
        let mut child = self.command(step)?.spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        // A command that fails before it reads its input closes the pipe: then there is nobody to write to.
        let _closed_early = stdin.write_all(&step.stdin).await;
        drop(stdin);
        let output = timeout(PATIENCE, child.wait_with_output()).await.with_context(|| step.text.clone())??;
        self.last = String::from_utf8_lossy(&output.stdout).into_owned();
        let about_members = ["member", "endpoint"].contains(&step.words[0].to_string_lossy().as_ref());
        Ok(self.comparable(output.status.code(), &[&output.stdout, &output.stderr], about_members))
    }

    fn command(&self, step: &Step) -> Result<Command> {
        let mut command = super::command(&self.endpoint)?;
        command.args(step.words.iter().map(|word| self.substituted(word)));
        Ok(command)
    }

    /// `$NAME` replaced by what was kept.
    fn substituted(&self, word: &OsStr) -> OsString {
        let Some(text) = word.to_str().filter(|text| text.contains('$')) else { return word.to_owned() };
        let mut text = text.to_owned();
        for (name, value) in &self.kept {
            text = text.replace(&format!("${name}"), value);
        }
        OsString::from_vec(text.into_bytes())
    }

    fn comparable(&self, exit: Option<i32>, outputs: &[&[u8]], about_members: bool) -> String {
        let exit = exit.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
        let mut result = format!("exit {exit}\n");
        for bytes in outputs {
            // Lossy, but alike on both sides; binary values differ byte for byte only where the escapes differ too.
            let text = bytes.escape_ascii().to_string().replace("\\n", "\n").replace("\\\"", "\"");
            let mut lines: Vec<String> = text.lines().map(|line| self.normal.line(line, about_members)).collect();
            // When etcdctl itself panics, what follows are addresses.
            if let Some(at) = lines.iter().position(|line| line.starts_with("panic: ")) {
                lines.truncate(at + 1);
            }
            if about_members {
                lines.sort();
            }
            // Writing to a String cannot fail.
            let _written = writeln!(result, "{}", lines.join("\n"));
        }
        result
    }
}

/// A command that goes on while others run.
struct Terminal {
    child: Child,
    stdin: ChildStdin,
    stdout: Shown,
    stderr: Shown,
}

impl Terminal {
    fn start(mut command: Command) -> Result<Terminal> {
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().context("no stdin")?;
        let stdout = Shown::of(child.stdout.take().context("no stdout")?);
        let stderr = Shown::of(child.stderr.take().context("no stderr")?);
        Ok(Terminal { child, stdin, stdout, stderr })
    }

    async fn shows(&mut self, count: usize, text: &str) -> Result<()> {
        let Shown { bytes, grown, .. } = &mut self.stdout;
        let enough = |bytes: &Mutex<Vec<u8>>| {
            let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8_lossy(&bytes).matches(text).count() >= count
        };
        let found = async {
            while !enough(bytes) {
                grown.changed().await.context("it has ended")?;
            }
            Ok(())
        };
        let found: Result<()> = timeout(PATIENCE, found).await.unwrap_or_else(|_| bail!("it does not appear in time"));
        found.with_context(|| {
            let shown = bytes.lock().unwrap_or_else(PoisonError::into_inner);
            format!("{text:?} is not {count} times in {:?}", String::from_utf8_lossy(&shown))
        })
    }

    /// Returns when there is something that was not seen yet.
    async fn grows(&mut self) {
        let (stdout, stderr) = (&mut self.stdout.grown, &mut self.stderr.grown);
        // A stream that has ended does not grow.
        tokio::select! {
            Ok(()) = stdout.changed() => {}
            Ok(()) = stderr.changed() => {}
            else => std::future::pending().await,
        }
    }

    async fn end(mut self, signal: Option<Signal>) -> Result<(Option<i32>, Vec<u8>, Vec<u8>)> {
        if let Some(signal) = signal {
            let pid = self.child.id().context("it has ended already")?;
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("a process id")?;
            let signal = match signal {
                Signal::Interrupt => rustix::process::Signal::INT,
                Signal::Terminate => rustix::process::Signal::TERM,
            };
            rustix::process::kill_process(pid, signal)?;
        }
        // An end of its input is another reason to stop: one at a time.
        let stdin = signal.is_some().then_some(self.stdin);
        let status = timeout(PATIENCE, self.child.wait()).await.context("it does not end")??;
        drop(stdin);
        Ok((status.code(), self.stdout.rest().await?, self.stderr.rest().await?))
    }
}

/// What a stream of a terminal has shown.
struct Shown {
    bytes: Arc<Mutex<Vec<u8>>>,
    grown: watch::Receiver<usize>,
    reader: JoinHandle<std::io::Result<()>>,
}

/// More than any terminal of a script shows.
const SHOWN_BYTES_MAX: usize = 4 << 20;

impl Shown {
    fn of(mut stream: impl AsyncRead + Unpin + Send + 'static) -> Shown {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (grow, grown) = watch::channel(0);
        let shown = bytes.clone();
        let reader = tokio::task::spawn(async move {
            let mut chunk = [0; 4096];
            loop {
                let count = stream.read(&mut chunk).await?;
                if count == 0 {
                    return Ok(());
                }
                let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                shown.extend_from_slice(&chunk[..count]);
                if shown.len() > SHOWN_BYTES_MAX {
                    return Err(std::io::Error::other("a terminal shows more than is meant"));
                }
                // Nobody has to be waiting.
                let _nobody_waits = grow.send(shown.len());
            }
        });
        Shown { bytes, grown, reader }
    }

    /// What there is, marked as seen before it is copied: what comes in between is seen twice rather than not at all.
    fn so_far(&mut self) -> Vec<u8> {
        self.grown.borrow_and_update();
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn rest(self) -> Result<Vec<u8>> {
        self.reader.await??;
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure!(bytes.len() <= SHOWN_BYTES_MAX, "a terminal shows more than is meant");
        Ok(bytes)
    }
}
