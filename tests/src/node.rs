//! One server process: start, signals, logs, CPU time.
//!
//! Every start writes a log file of its own, so that "ready" is never read off an earlier life's log. Only processes that
//! this harness started are ever signalled, by pid, and each of them dies with its `Node`.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::binaries::Program;
use crate::http1;
use crate::process;

/// How often a condition of a real process is looked at again.
pub const POLL: Duration = Duration::from_millis(10);
/// Compiled-in limit of a start on a busy two-core machine.
pub const READY_PATIENCE: Duration = Duration::from_secs(30);
const READY_LINE: &str = "ready to serve client requests";

/// One member of a test cluster.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub client_port: u16,
    pub peer_port: u16,
    pub data_dir: PathBuf,
    program: Program,
    log_dir: PathBuf,
    flags: Vec<String>,
    lives: u32,
    child: Option<Child>,
}

impl Node {
    /// A node that is not running yet. `home` gets its data directory and its logs.
    pub fn new(program: Program, name: &str, home: &Path, client_port: u16, peer_port: u16) -> Self {
        Self {
            name: name.to_owned(),
            client_port,
            peer_port,
            data_dir: home.join(format!("{name}.data")),
            program,
            log_dir: home.to_owned(),
            flags: Vec::new(),
            lives: 0,
            child: None,
        }
    }

    /// Replaces the command-line flags of the next start.
    pub fn set_flags(&mut self, flags: Vec<String>) {
        self.flags = flags;
    }

    /// The flags of the next start.
    pub fn flags(&self) -> &[String] {
        &self.flags
    }

    /// The client URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Starts the process without waiting for it to serve.
    pub fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.name);
        }
        self.lives += 1;
        let log = File::create(self.log_path())?;
        let program = self.program.path()?;
        let mut command = Command::new(&program);
        // Both programs read flags from the environment: those of whoever runs the tests are not meant for them.
        for (name, _) in env::vars_os() {
            if ["ETCD_", "TENURE_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        let child = command
            .args(&self.flags)
            .current_dir(&self.log_dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the process says that it serves and answers its health check.
    pub async fn wait_ready(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !self.is_ready().await {
            if let Some(status) = self.exited()? {
                bail!("{} ended ({status}) instead of serving:\n{}", self.name, self.log_tail(30));
            }
            if Instant::now() > deadline {
                bail!("{} does not serve after {patience:?}:\n{}", self.name, self.log_tail(30));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    async fn is_ready(&self) -> bool {
        self.log().contains(READY_LINE)
            && http1::get(self.client_port, "/health", Duration::from_secs(1))
                .await
                .is_ok_and(|answer| answer.status == 200)
    }

    /// The pid of the running process.
    pub fn pid(&self) -> Result<u32> {
        self.child.as_ref().map(Child::id).with_context(|| format!("{} does not run", self.name))
    }

    /// Whether a process was started and has not been waited for.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// SIGKILL: the process gets no chance to finish anything.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGSTOP: the process stands still but its sockets stay open.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT after [`Node::pause`].
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends SIGTERM without waiting.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGTERM, then waits for the end.
    pub async fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.terminate()?;
        self.wait_exit(patience).await
    }

    /// Waits for the process to end by itself.
    pub async fn wait_exit(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} still runs after {patience:?}:\n{}", self.name, self.log_tail(30));
            }
            sleep(POLL).await;
        }
    }

    /// Whether the process lives; reaps it if it does not.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.is_some() && self.exited()?.is_none())
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else {
            bail!("{} does not run", self.name);
        };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        process::signal(self.pid()?, signal)
    }

    /// Deletes everything that the node stored.
    pub fn wipe(&self) -> Result<()> {
        if self.child.is_some() {
            bail!("{} runs: its data cannot be deleted under it", self.name);
        }
        match fs::remove_dir_all(&self.data_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// User and system CPU time of the process so far.
    pub fn cpu(&self) -> Result<Duration> {
        process::cpu(self.pid()?)
    }

    /// The memory that the process has at the moment.
    pub fn resident_bytes(&self) -> Result<u64> {
        process::resident_bytes(self.pid()?)
    }

    /// What the present (or last) life of the process printed.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of [`Node::log`].
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.log_dir.join(format!("{}.{}.log", self.name, self.lives))
    }
}

/// CPU time of a process's threads of a name, and how long they were ready to run while others had the cores.
pub fn thread_times(pid: u32, name: &str) -> Result<(Duration, Duration)> {
    let (mut ran, mut waited) = (0, 0);
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // A thread may end while it is looked at.
        let Ok(called) = fs::read_to_string(task.join("comm")) else { continue };
        if called.trim_end() == name {
            let times = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            let mut nanos = times.split_whitespace().map_while(|nanos| nanos.parse::<u64>().ok());
            ran += nanos.next().unwrap_or(0);
            waited += nanos.next().unwrap_or(0);
        }
    }
    Ok((Duration::from_nanos(ran), Duration::from_nanos(waited)))
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            // Both fail only if the process is gone already, which is what is wanted here.
            let _killed = child.kill();
            let _reaped = child.wait();
        }
    }
}
