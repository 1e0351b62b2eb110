//! The scripts of `cluster-scripts/`, run as a person would run them: a cluster is made, broken, mended and removed.
//!
//! The scripts are what people reach for when something is wrong, so what matters here is that they tell the truth, can be
//! repeated, and never touch a process that is not theirs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tenure_tests::binaries::Program;
use tenure_tests::ports::free_base_port;

/// A cluster of three in a directory of its own, removed in the end whatever happens.
struct Scripts {
    binary: PathBuf,
    base_port: u16,
    folder: TempDir,
}

/// What a script printed, and whether it succeeded.
struct Said {
    ok: bool,
    text: String,
}

impl Scripts {
    fn new() -> Self {
        Self {
            binary: Program::Tenured.path().expect("the server"),
            base_port: free_base_port().expect("free ports"),
            folder: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    fn cluster_dir(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Said {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-scripts").join(script);
        let output = Command::new(path)
            .args(arguments)
            .env("TENURED_BIN", &self.binary)
            .env("TENURE_CLUSTER_DIR", self.cluster_dir())
            .env("TENURE_BASE_PORT", self.base_port.to_string())
            .env("TENURE_NODES", "3")
            .stdin(Stdio::null())
            .output()
            .expect("the script runs");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Said { ok: output.status.success(), text: text.into_owned() }
    }

    /// Runs a script that must succeed.
    fn must(&self, script: &str, arguments: &[&str]) -> String {
        let said = self.run(script, arguments);
        assert!(said.ok, "{script} {arguments:?} failed:\n{}", said.text);
        said.text
    }

    /// One column of the status table, from n1 to n3.
    fn status(&self, column: &str) -> Vec<String> {
        let table = self.must("status", &[]);
        let mut lines = table.lines();
        let place = lines.next().and_then(|titles| titles.split_whitespace().position(|title| title == column));
        let place = place.unwrap_or_else(|| panic!("no column {column} in\n{table}"));
        lines.map(|line| line.split_whitespace().nth(place).expect("a full row").to_string()).collect()
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        self.run("clean", &[]);
    }
}

#[test]
fn a_cluster_is_made_broken_and_mended_by_its_scripts() {
    let scripts = Scripts::new();

    let said = scripts.must("start", &[]);
    assert!(said.contains(&format!("Endpoints: 127.0.0.1:{},", scripts.base_port)), "{said}");
    assert_eq!(scripts.status("STATE"), ["running"; 3]);
    assert_eq!(scripts.status("HEALTHY"), ["yes"; 3]);
    let mut roles = scripts.status("ROLE");
    roles.sort();
    assert_eq!(roles, ["follower", "follower", "leader"]);

    let pids = scripts.status("PID");
    scripts.must("start", &[]);
    assert_eq!(scripts.status("PID"), pids, "starting what runs changes nothing");

    scripts.must("kill", &["n1"]);
    assert!(scripts.must("kill", &["1"]).contains("n1 is not running"));
    assert_eq!(scripts.status("STATE"), ["stopped", "running", "running"]);
    scripts.must("restart", &["n1"]);

    scripts.must("pause", &["n2"]);
    assert_eq!(scripts.status("STATE"), ["running", "paused", "running"]);
    scripts.must("resume", &["n2"]);
    assert_eq!(scripts.status("STATE"), ["running"; 3]);
    assert!(scripts.must("logs", &["n2", "-n", "+1"]).contains("ready to serve client requests"));

    scripts.must("pause", &["n3"]);
    scripts.must("stop", &[]);
    assert_eq!(scripts.status("STATE"), ["stopped"; 3], "a paused node is stopped too");
    scripts.must("stop", &[]);
    scripts.must("start", &[]);
    assert_eq!(scripts.status("HEALTHY"), ["yes"; 3]);
}

#[test]
fn chaos_crashes_nodes_and_leaves_all_running() {
    let scripts = Scripts::new();
    assert!(!scripts.run("chaos", &["1"]).ok, "there is no cluster yet");
    scripts.must("start", &[]);
    let pids = scripts.status("PID");
    let said = scripts.must("chaos", &["3"]);
    assert!(said.contains(" crashed\n") && said.contains(" is back\n"), "{said}");
    assert_eq!(scripts.status("STATE"), ["running"; 3]);
    assert_ne!(scripts.status("PID"), pids);
    assert!(!scripts.run("chaos", &["soon"]).ok);
}

#[test]
fn a_wiped_node_is_refused_and_the_script_shows_why() {
    let scripts = Scripts::new();
    scripts.must("start", &[]);
    scripts.must("wipe", &["n3"]);
    assert!(!scripts.cluster_dir().join("n3/data").exists());

    let said = scripts.run("restart", &["n3"]);
    assert!(!said.ok, "{}", said.text);
    assert!(said.text.contains("n3 died while starting; the last lines of"), "{}", said.text);
    assert_eq!(scripts.status("STATE"), ["running", "running", "stopped"]);
}

#[test]
fn no_script_touches_what_is_not_its_own() {
    let scripts = Scripts::new();
    scripts.must("start", &[]);
    scripts.must("kill", &["n1"]);
    let mut stranger = Stranger(Command::new("sleep").arg("600").spawn().expect("a process"));
    let pid_file = scripts.cluster_dir().join("n1/pid");
    std::fs::write(&pid_file, format!("{}\n", stranger.0.id())).expect("the pid file");

    assert!(scripts.must("kill", &["n1"]).contains("n1 is not running"));
    assert!(!scripts.run("pause", &["n1"]).ok);
    scripts.must("stop", &[]);
    assert!(stranger.0.try_wait().expect("the process").is_none(), "a process with a recycled id was killed");

    for node in ["n0", "n4", "n", "../n1", ""] {
        let said = scripts.run("wipe", &[node]);
        assert!(!said.ok && said.text.contains("this cluster has n1 to n3"), "{node:?}: {}", said.text);
    }
    let settings = scripts.cluster_dir().join("settings");
    let kept = std::fs::read(&settings).expect("the settings");
    std::fs::remove_file(&settings).expect("the settings");
    assert!(scripts.must("clean", &[]).contains("no cluster in"));
    assert!(scripts.cluster_dir().join("n2/data").exists(), "a directory that is no cluster was deleted");
    std::fs::write(&settings, kept).expect("the settings");
    scripts.must("clean", &[]);
    assert!(!scripts.cluster_dir().exists());
}

/// A process that the scripts must leave alone.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        // It sleeps for ten minutes at most: nothing depends on the outcome.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
