//! The scripts of `cluster-scripts/`, run as a person would run them: a cluster is made, broken, mended and removed.
//!
//! The scripts are what people reach for when something is wrong, so what matters here is that they tell the truth, can be
//! repeated, and never touch a process that is not theirs.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tenure_tests::binaries::Program;
use tenure_tests::ports::free_base_port;

/// A cluster of three in a directory of its own, removed in the end whatever happens.
struct Scripts {
    binary: PathBuf,
    /// Of a cluster that faults can be put into.
    faults_binary: Option<PathBuf>,
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
            faults_binary: None,
            base_port: free_base_port().expect("free ports"),
            folder: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    fn with_faults() -> Self {
        let mut scripts = Self::new();
        scripts.faults_binary = Some(Program::TenuredFaults.path().expect("the server"));
        scripts
    }

    fn cluster_dir(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-scripts").join(script));
        command
            .args(arguments)
            .env("TENURED_BIN", &self.binary)
            .env("TENURE_CLUSTER_DIR", self.cluster_dir())
            .env("TENURE_BASE_PORT", self.base_port.to_string())
            .env("TENURE_NODES", "3")
            .stdin(Stdio::null());
        if let Some(binary) = &self.faults_binary {
            command.env("TENURED_FAULTS_BIN", binary).env("TENURE_FAULTS", "1");
        }
        command
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Said {
        let output = self.command(script, arguments).output().expect("the script runs");
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
    // As from another terminal, that knows nothing of how it was started.
    let mut restart = scripts.command("restart", &["n1"]);
    for variable in ["TENURED_BIN", "TENURED_FAULTS_BIN", "CARGO_TARGET_DIR", "TENURE_BASE_PORT", "TENURE_NODES"] {
        restart.env_remove(variable);
    }
    assert!(restart.status().expect("the script runs").success());

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

/// What a line of `chaos` says: `[   3 s] n2: killed`.
fn step(line: &str) -> Option<(&str, &str)> {
    line.split_once("] ")?.1.split_once(": ").filter(|(node, _)| node.len() == 2)
}

#[test]
fn chaos_breaks_one_node_of_three_at_a_time_and_mends_it() {
    let scripts = Scripts::new();
    scripts.must("start", &[]);
    let said = scripts.must("chaos", &["--for", "15s", "--seed=7", "--kinds", "kill,stop,pause"]);
    let mut broken = None;
    let mut count = 0;
    for (node, what) in said.lines().filter_map(step) {
        if what == "back" {
            assert_eq!(broken.take(), Some(node), "{said}");
        } else {
            assert!(["killed", "stopped", "paused"].contains(&what), "{said}");
            assert_eq!(broken.replace(node), None, "two of three at once:\n{said}");
            count += 1;
        }
    }
    assert!(count > 0 && broken.is_none(), "{said}");
    assert!(said.contains(&format!("{count} rounds in ")) && said.contains("seed 7; all 3 nodes run"), "{said}");
    assert_eq!(scripts.status("HEALTHY"), ["yes"; 3]);

    let again = scripts.must("chaos", &["--for=1s", "--seed", "7", "--kinds=kill,stop,pause"]);
    assert_eq!(again.lines().find_map(step), said.lines().find_map(step), "the seed decides");
}

#[test]
fn chaos_that_is_stopped_leaves_all_nodes_running() {
    let scripts = Scripts::new();
    scripts.must("start", &[]);
    let mut chaos =
        scripts.command("chaos", &["--for", "1h", "--kinds", "kill"]).stdout(Stdio::piped()).spawn().expect("it");
    let mut lines = BufReader::new(chaos.stdout.take().expect("its output")).lines().map(|line| line.expect("a line"));
    let first = lines.by_ref().find(|line| step(line).is_some()).expect("a step");
    assert!(first.ends_with(": killed"), "{first}");
    let pid = Pid::from_child(&chaos);
    // Not the signal of Ctrl-C, which does the same: whoever runs tests in the background may have it ignored, and a shell
    // cannot undo that.
    kill_process(pid, Signal::TERM).expect("it runs");
    let rest: Vec<String> = lines.collect();
    assert_eq!(chaos.wait().expect("its end").code(), Some(130), "{rest:?}");
    assert_eq!(scripts.status("HEALTHY"), ["yes"; 3], "{rest:?}");
    assert!(rest.last().is_some_and(|line| line.ends_with("all 3 nodes run")), "{rest:?}");
}

#[test]
fn chaos_refuses_what_it_does_not_understand() {
    let scripts = Scripts::new();
    assert!(scripts.run("chaos", &[]).text.contains("no cluster in"));
    scripts.must("start", &[]);
    for (arguments, reason) in [
        (&["--for", "soon"][..], "is no time"),
        (&["--seed", "x"], "a seed is"),
        (&["--kinds", "kill,burn"], "unknown kind 'burn'"),
        (&["--kinds", "partition"], "make cluster FAULTS=1"),
        (&["--max-down", "4"], "--max-down must be 1 to 3"),
        (&["--max-down"], "--max-down needs a value"),
        (&["--hard", "1"], "unknown option --hard"),
    ] {
        let said = scripts.run("chaos", arguments);
        assert!(!said.ok && said.text.contains(reason), "{arguments:?}: {}", said.text);
    }
    let said = scripts.run("partition", &["n1"]);
    assert!(!said.ok && said.text.contains("make cluster FAULTS=1"), "{}", said.text);
    scripts.must("kill", &["n2"]);
    let said = scripts.run("chaos", &["--for", "1s"]);
    assert!(!said.ok && said.text.contains("n2 does not serve"), "{}", said.text);
}

#[test]
fn a_node_is_cut_off_and_heals() {
    let scripts = Scripts::with_faults();
    scripts.must("start", &[]);
    let leader = scripts.status("ROLE").iter().position(|role| role == "leader").expect("a leader");
    let name = format!("n{}", leader + 1);
    assert_eq!(scripts.must("partition", &[&name]).trim(), format!("cut off {name}"));
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let healthy = scripts.status("HEALTHY");
        let is_healthy = |at: usize| healthy[at] == "yes";
        if (0..3).all(|at| is_healthy(at) == (at != leader)) {
            break;
        }
        assert!(Instant::now() < deadline, "{name} is cut off, but {healthy:?} are healthy");
    }
    scripts.must("heal", &[]);
    assert_eq!(scripts.status("HEALTHY"), ["yes"; 3]);
    for way in ["--to", "--from"] {
        assert!(scripts.must("partition", &["n1", way]).contains(way));
    }
    scripts.must("heal", &["n1"]);
    assert_eq!(scripts.status("HEALTHY"), ["yes"; 3]);
    assert!(!scripts.run("partition", &["n1", "--sideways"]).ok);
    let said = scripts.must("chaos", &["--for", "1s", "--kinds", "partition"]);
    assert!(said.lines().filter_map(step).any(|(_, what)| what == "cut off"), "{said}");
    assert_eq!(scripts.status("HEALTHY"), ["yes"; 3]);
}
