//! The demo's own nodes, driven with `cluster-scripts/` exactly as a person would, in a directory and on ports of their
//! own.
//!
//! Scripts run on threads that nothing cuts off: one that was ended between starting a node and writing down its process
//! id would leave a node that nobody stops. A lock file keeps two demos out of one directory, because each begins by
//! removing what an earlier one left.

use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use tokio::sync::Semaphore;

use crate::model::{Process, Verb};

/// The script that starts all nodes: the only one that must be told how many there are, and where.
const START: &str = "start";
/// Scripts that run at the same time: one for each node, and one for all of them.
const SCRIPTS_MAX: u32 = 16;
/// The ports of a base port: the scripts add these for the first five nodes, and one more for peers.
const PORT_STEPS: [u16; 5] = [0, 20_000, 30_000, 40_000, 50_000];
/// Base ports that are tried: from here on, even, and low enough that three nodes stay below the ports that outgoing
/// connections use.
const BASE_PORT_MIN: u16 = 1_200;
const BASE_PORTS: u16 = 750;

/// Nodes that the demo starts and stops.
#[derive(Debug)]
pub struct Cluster {
    place: Arc<Place>,
    running: Arc<Semaphore>,
    /// Whether there is anything to stop.
    is_started: AtomicBool,
    lock: File,
}

/// What a script needs to know.
#[derive(Debug)]
struct Place {
    scripts: PathBuf,
    /// As it was given, because it is shown.
    dir: PathBuf,
    nodes: usize,
    base_port: u16,
}

impl Cluster {
    /// Takes the directory; starts nothing.
    pub fn claim(scripts: &Path, dir: &Path, nodes: usize) -> anyhow::Result<Self> {
        let start = scripts.join(START);
        if !start.is_file() {
            bail!("{} is not there: run this in the repository's root, as `make demo` does", start.display());
        }
        let mut lock_path = dir.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock =
            File::create(&lock_path).with_context(|| format!("cannot create {}", Path::new(&lock_path).display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("another demo is running in {}; --dir names another one", dir.display())
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let base_port = free_base_port(nodes).context("no free ports for the nodes")?;
        let place = Place { scripts: scripts.to_owned(), dir: dir.to_owned(), nodes, base_port };
        let running = Arc::new(Semaphore::new(SCRIPTS_MAX as usize));
        Ok(Self { place: Arc::new(place), running, is_started: AtomicBool::new(false), lock })
    }

    /// Where the nodes will serve clients.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.place.nodes).map(|at| format!("127.0.0.1:{}", self.place.base_port + PORT_STEPS[at])).collect()
    }

    /// Where the data and the logs are.
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// The command that does something to a node, as one would type it.
    pub fn line(&self, verb: Verb, node: usize) -> String {
        self.place.line(verb.script(), &[&name(node)])
    }

    /// The command that starts all nodes.
    pub fn start_line(&self) -> String {
        let Place { nodes, base_port, .. } = &*self.place;
        format!("TENURE_NODES={nodes} TENURE_BASE_PORT={base_port} {}", self.place.line(START, &[]))
    }

    /// Removes what an earlier demo left, and starts all nodes.
    pub async fn start(&self) -> anyhow::Result<()> {
        self.run("clean", &[]).await?;
        self.is_started.store(true, Ordering::Relaxed);
        self.run(START, &[]).await
    }

    /// Does something to a node.
    pub async fn control(&self, verb: Verb, node: usize) -> anyhow::Result<()> {
        self.run(verb.script(), &[name(node)]).await
    }

    /// Starts those nodes that do not run, and waits until all of them serve.
    pub async fn start_rest(&self) -> anyhow::Result<()> {
        self.run(START, &[]).await
    }

    /// Whether there may be nodes to stop.
    pub fn is_started(&self) -> bool {
        self.is_started.load(Ordering::Relaxed)
    }

    /// Stops all nodes; removes their data if it is of no use any more.
    pub async fn stop(&self, remove: bool) -> anyhow::Result<()> {
        if !self.is_started() {
            return Ok(());
        }
        self.run("stop", &[]).await?;
        // A script that was waiting for its node ends now that the node is gone. One that was about to start a node may
        // have done so after it was stopped.
        let all = self.running.acquire_many(SCRIPTS_MAX).await?;
        drop(all);
        self.run(if remove { "clean" } else { "stop" }, &[]).await?;
        self.is_started.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What the operating system says of a node. The rule is that of `cluster-scripts/lib.sh`: the process counts only if
    /// it runs with this node's data directory.
    pub fn process(&self, node: usize) -> Process {
        self.place.process(node).unwrap_or(Process::Gone)
    }

    async fn run(&self, script: &'static str, arguments: &[String]) -> anyhow::Result<()> {
        let permit = Arc::clone(&self.running).acquire_owned().await?;
        let (place, arguments) = (Arc::clone(&self.place), arguments.to_vec());
        let script = move || {
            let result = place.run(script, &arguments);
            drop(permit);
            result
        };
        tokio::task::spawn_blocking(script).await?
    }
}

impl Drop for Cluster {
    /// Nodes still run after a panic only.
    fn drop(&mut self) {
        if self.is_started() {
            // There is nobody left to tell.
            self.place.run("stop", &[]).ok();
        }
        // Closing the file would not do: a child of another thread may hold a copy of it until it has started its program.
        self.lock.unlock().ok();
    }
}

impl Place {
    fn line(&self, script: &str, arguments: &[&str]) -> String {
        let mut line = format!("TENURE_CLUSTER_DIR={} {}", self.dir.display(), self.scripts.join(script).display());
        for argument in arguments {
            line.push(' ');
            line.push_str(argument);
        }
        line
    }

    fn run(&self, script: &str, arguments: &[String]) -> anyhow::Result<()> {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(self.scripts.join(script));
        command.args(arguments).env("TENURE_CLUSTER_DIR", &self.dir);
        if script == START {
            command.env("TENURE_NODES", self.nodes.to_string()).env("TENURE_BASE_PORT", self.base_port.to_string());
        } else {
            // They know from the directory; an earlier demo may have left other nodes there than these.
            command.env_remove("TENURE_NODES").env_remove("TENURE_BASE_PORT");
        }
        let output = command
            .stdin(Stdio::null())
            // A Ctrl-C on the terminal is for the demo, which then stops the nodes in order.
            .process_group(0)
            .output()
            .with_context(|| format!("cannot run {}", self.scripts.join(script).display()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}", said.trim_end())
    }

    fn process(&self, node: usize) -> Option<Process> {
        let home = std::fs::canonicalize(&self.dir).ok()?.join(name(node));
        let pid: u32 = std::fs::read_to_string(home.join("pid")).ok()?.trim().parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let wanted = format!("--data-dir={}", home.join("data").display());
        if !command.split(|byte| *byte == 0).any(|argument| argument == wanted.as_bytes()) {
            return None;
        }
        // The state follows the program's name, which is in parentheses and may hold anything.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        match stat.rsplit_once(')')?.1.trim_start().chars().next()? {
            'T' => Some(Process::Paused),
            'Z' | 'X' => None,
            _ => Some(Process::Running),
        }
    }
}

/// The name that the scripts give to a node.
pub fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

/// A base port from which all ports of the nodes are free. Demos that start at the same time look in different places.
fn free_base_port(nodes: usize) -> Option<u16> {
    let first = u16::try_from(std::process::id() % u32::from(BASE_PORTS)).ok()?;
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let bases = (0..BASE_PORTS).map(|step| BASE_PORT_MIN + (first + step) % BASE_PORTS * 2);
    let mut free =
        bases.filter(|base| PORT_STEPS.iter().take(nodes).all(|step| is_free(base + step) && is_free(base + step + 1)));
    free.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster-scripts")
    }

    #[test]
    fn a_directory_is_for_one_demo_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("demo");
        let first = Cluster::claim(&scripts(), &dir, 3).unwrap();
        let second = Cluster::claim(&scripts(), &dir, 3).unwrap_err().to_string();
        assert!(second.contains("another demo is running"), "{second}");
        drop(first);
        Cluster::claim(&scripts(), &dir, 3).unwrap();
    }

    #[test]
    fn ports_are_those_of_the_scripts_and_commands_can_be_typed() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("demo");
        let cluster = Cluster::claim(&scripts(), &dir, 5).unwrap();
        let lib = scripts().join("lib.sh");
        let script = format!(". {}; NODES=5; load_settings; all_endpoints", lib.display());
        let output = Command::new("bash")
            .args(["-c", &script])
            .env("TENURE_NODES", "5")
            .env("TENURE_BASE_PORT", cluster.place.base_port.to_string())
            .env("TENURE_CLUSTER_DIR", &dir)
            .output()
            .unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(listed.trim(), cluster.endpoints().join(","), "{}", String::from_utf8_lossy(&output.stderr));
        let line = cluster.line(Verb::Kill, 1);
        assert!(line.starts_with("TENURE_CLUSTER_DIR=") && line.ends_with("cluster-scripts/kill n2"), "{line}");
        assert_eq!(cluster.process(0), Process::Gone);
    }

    #[test]
    fn without_the_scripts_it_says_where_to_run() {
        let error = Cluster::claim(Path::new("nowhere"), Path::new("demo"), 3).unwrap_err().to_string();
        assert!(error.contains("run this in the repository's root"), "{error}");
    }
}
