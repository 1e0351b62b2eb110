//! Stock etcd clients as programs: how each is started, fed scenarios and read.
//!
//! A runner is a small program around one client library. It reads one request a line and prints a JSON line for each
//! step, then `{"done": …}`; `scenarios/README.md` has the protocol. `tests/clients/build` builds the runners, and
//! `COMPAT_CLIENTS_DIR` says where. A missing one is an error, never a skipped test.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Each step of a scenario has half a minute in the runner; no scenario has steps that all wait.
const SCENARIO_PATIENCE: Duration = Duration::from_secs(120);
const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");

/// A client library with a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Library {
    Rust,
    Go,
    Python,
    Node,
    Java,
}

impl Library {
    pub const ALL: [Self; 5] = [Self::Rust, Self::Go, Self::Python, Self::Node, Self::Java];

    /// The word that stands for the library in scenarios and reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Go => "go",
            Self::Python => "python",
            Self::Node => "node",
            Self::Java => "java",
        }
    }

    /// `rust_runner` is this workspace's own: only a test knows where cargo put it.
    fn command(self, rust_runner: &Path) -> Result<Command> {
        let mut command = match self {
            Self::Rust => Command::new(rust_runner),
            Self::Go => Command::new(built("go/runner")?),
            Self::Python => {
                let mut command = Command::new(python()?);
                command.arg(format!("{CLIENTS}/python/runner.py"));
                command
            }
            Self::Node => {
                let mut command = Command::new("node");
                command.arg(built("node/runner.js")?);
                command
            }
            Self::Java => {
                let mut command = Command::new("java");
                // One short life: what counts is the start, not the speed after an hour.
                command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-cp"]);
                command.arg(format!("{}:{}/*", built("java/classes")?.display(), built("java/lib")?.display()));
                command.arg("tenure.Runner");
                command
            }
        };
        direct(&mut command);
        Ok(command)
    }

    /// The example of a resource that checks fencing tokens, in the languages that have one.
    pub fn fencing_example(self, rust_example: &Path) -> Result<Option<Command>> {
        let mut command = match self {
            Self::Rust => Command::new(rust_example),
            Self::Go => Command::new(built("go/fencing")?),
            Self::Python => {
                let mut command = Command::new(python()?);
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/fencing/python/fencing.py"));
                command
            }
            Self::Node | Self::Java => return Ok(None),
        };
        direct(&mut command);
        Ok(Some(command))
    }
}

/// gRPC libraries send what they call through proxies that the environment names, loopback included.
fn direct(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().to_ascii_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
}

fn python() -> Result<String> {
    env::var("VENV_PYTHON").context("VENV_PYTHON is not set: `make compat` makes a Python with etcd3 and sets it")
}

fn built(what: &str) -> Result<PathBuf> {
    let folder = env::var_os("COMPAT_CLIENTS_DIR")
        .context("COMPAT_CLIENTS_DIR is not set: `make compat` builds the client programs and sets it")?;
    let path = PathBuf::from(folder).join(what);
    ensure!(path.exists(), "{} is not there: run `make clients`", path.display());
    Ok(path)
}

/// A runner at work.
pub struct Runner {
    label: String,
    log: PathBuf,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Runner {
    /// Starts the library's runner; what it says on stderr goes to a log under `home`.
    pub fn start(library: Library, rust_runner: &Path, home: &Path, label: &str) -> Result<Self> {
        fs::create_dir_all(home)?;
        let log = home.join(format!("{}-{label}.log", library.label()));
        let mut child = library
            .command(rust_runner)?
            .current_dir(home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the runner of {}", library.label()))?;
        let stdin = child.stdin.take().context("no stdin")?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        Ok(Self { label: format!("{} at {label}", library.label()), log, stdin, lines, child })
    }

    /// Has one scenario carried out and returns the line that each step printed.
    pub async fn carry_out(&mut self, request: &Value) -> Result<Vec<Value>> {
        let name = request["scenario"].clone();
        let mut given = Vec::new();
        let all = timeout(SCENARIO_PATIENCE, self.exchange(request, &mut given)).await;
        match all {
            Ok(Ok(())) => Ok(given),
            Ok(Err(error)) => Err(error.context(self.state(&name, &given))),
            Err(_) => bail!("no end within {SCENARIO_PATIENCE:?}: {}", self.state(&name, &given)),
        }
    }

    async fn exchange(&mut self, request: &Value, given: &mut Vec<Value>) -> Result<()> {
        self.stdin.write_all(format!("{request}\n").as_bytes()).await?;
        self.stdin.flush().await?;
        loop {
            let Some(line) = self.lines.next_line().await? else {
                bail!("the runner ended: {:?}", self.child.try_wait()?);
            };
            let parsed: Value = serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?;
            if !parsed["done"].is_null() {
                ensure!(parsed == json!({ "done": request["scenario"] }), "another scenario ended: {line}");
                return Ok(());
            }
            given.push(parsed);
        }
    }

    fn state(&self, name: &Value, given: &[Value]) -> String {
        let log = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let last = given.last().map_or("nothing".to_owned(), Value::to_string);
        format!("{} in {name} after {last}\n{log}", self.label)
    }
}
