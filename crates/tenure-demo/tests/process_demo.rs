//! The demo without a terminal, on real servers whose leader is killed several times: it must find nothing lost, leave no
//! process behind, and stop its nodes however it is ended.

use std::fs::DirEntry;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tenure_demo::store::{Store, prefix_range};
use tenure_proto::etcdserverpb::PutRequest;

/// A place for one demo's nodes.
struct Place {
    home: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { home: tempfile::tempdir().expect("a temporary directory") }
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("demo")
    }

    fn demo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenure-demo"));
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster-scripts");
        command.arg("--dir").arg(self.dir()).arg("--scripts").arg(scripts).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// A demo that goes on until it is ended.
    fn endless(&self, arguments: &[&str]) -> Running {
        let mut command = self.demo(&["--headless", "--duration", "1h"]);
        Running(command.args(arguments).stdout(Stdio::piped()).spawn().expect("the demo starts"))
    }

    /// A demo of a minute at most that draws, on a terminal so large that events stay where they are. The terminal is asked at the end
    /// whether it is itself again.
    fn on_a_terminal(&self, arguments: &[&str]) -> OnTerminal {
        let (demo, dir, rest) = (env!("CARGO_BIN_EXE_tenure-demo"), self.dir(), arguments.join(" "));
        let modes = "stty -a | grep -ow -e '-\\?icanon' -e '-\\?echo' | xargs";
        let line = format!(
            "stty cols 200 rows 60; {demo} --duration 1m --dir {} {rest}; echo code=$? $({modes})",
            dir.display()
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--command", &line, "/dev/null"])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script, of util-linux, starts");
        let output = BufReader::new(script.stdout.take().expect("its output is piped"));
        OnTerminal { script, output }
    }

    /// The nodes that run in this place.
    fn nodes(&self) -> Vec<String> {
        self.processes("--data-dir=").into_iter().map(|(_, command)| command).collect()
    }

    /// The processes that have this place and this word in their command lines.
    fn processes(&self, word: &str) -> Vec<(i32, String)> {
        let wanted = self.dir().display().to_string();
        let processes = std::fs::read_dir("/proc").expect("the list of processes").filter_map(Result::ok);
        let read = |process: DirEntry| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let command = std::fs::read(process.path().join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&command).replace('\0', " ")))
        };
        processes.filter_map(read).filter(|(_, text)| text.contains(&wanted) && text.contains(word)).collect()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn nothing_is_lost_while_leaders_are_killed() {
    let place = Place::new();
    let arguments =
        ["--headless", "--duration", "20s", "--kill-leader-every", "5s", "--stop-renewing-every", "3s", "--ttl", "5"];
    let output = place.demo(&arguments).output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("\nNothing that was acknowledged is lost.\n"), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("  ok    ")).count(), 4, "{said}");
    let kills = said.lines().filter(|line| line.contains("cluster-scripts/kill n")).count();
    assert!(kills >= 2, "the leader was killed only {kills} times in 20 s:\n{said}");
    assert!(said.contains("'s lease ran out, "), "no service's lease was seen to run out:\n{said}");
    assert!(said.lines().filter(|line| line.contains(" lock c")).count() >= 5, "the lock hardly moved:\n{said}");
    assert_eq!(place.nodes(), Vec::<String>::new());
    assert!(!place.dir().exists(), "a demo that found nothing wrong leaves nothing behind");
}

#[test]
fn a_demo_that_is_terminated_stops_its_nodes() {
    let place = Place::new();
    let mut demo = place.endless(&[]);
    let mut lines = demo.lines();
    lines.find(|line| line.contains("lock → c")).expect("the load never began");
    assert_eq!(place.nodes().len(), 3);
    demo.send(Signal::TERM);
    let rest: Vec<String> = lines.collect();
    assert_eq!(demo.0.wait().unwrap().code(), Some(143), "{rest:?}");
    assert!(rest.iter().any(|line| line == "Given up (terminated): nothing was checked."), "{rest:?}");
    assert_eq!(place.nodes(), Vec::<String>::new());
}

#[test]
fn an_interrupt_ends_the_load_and_checks() {
    let place = Place::new();
    let mut demo = place.endless(&["--nodes", "1"]);
    let mut lines = demo.lines();
    lines.find(|line| line.contains("lock → c")).expect("the load never began");
    demo.send(Signal::INT);
    let rest: Vec<String> = lines.collect();
    assert_eq!(demo.0.wait().unwrap().code(), Some(0), "{rest:?}");
    assert!(rest.iter().any(|line| line == "Nothing that was acknowledged is lost."), "{rest:?}");
}

/// Somebody with no business there writes over a value, ends a lease and takes the lock from its holder.
#[tokio::test]
async fn what_is_lost_on_purpose_is_found() {
    let place = Place::new();
    let mut demo = place.endless(&["--nodes", "1"]);
    let mut lines = demo.lines();
    let start = lines.find(|line| line.contains("cluster-scripts/start")).expect("the command that starts the nodes");
    let port = start.split("TENURE_BASE_PORT=").nth(1).and_then(|rest| rest.split(' ').next()).expect("the port");
    lines.find(|line| line.contains("lock c")).expect("the lock never changed hands");

    let store = Store::new(&[format!("127.0.0.1:{port}")]).expect("an endpoint");
    let keys = store.range(0, prefix_range("demo/")).await.expect("the demo's keys").kvs;
    let under = |part: &'static str| keys.iter().filter(move |kv| String::from_utf8_lossy(&kv.key).contains(part));
    // The lock has just been handed over, so its holder counts on it for half a second at least.
    let held = under("/lock/").min_by_key(|kv| kv.create_revision).expect("somebody holds the lock");
    store.delete_prefix(0, &String::from_utf8_lossy(&held.key)).await.expect("the lock is taken away");
    let written = under("/writes/").next().expect("something was written");
    let put = PutRequest { key: written.key.clone(), value: "mine".into(), ..PutRequest::default() };
    store.put(0, put).await.expect("the value is written over");
    store.revoke(0, under("/services/").next().expect("a service").lease).await.expect("the lease ends");
    lines.find(|line| line.contains("lock ")).expect("nobody took the lock");
    demo.send(Signal::INT);

    let rest = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(demo.0.wait().expect("it ends").code(), Some(1), "{rest}");
    for finding in ["which nobody wrote", "before its time", "held the lock together", "Something is WRONG."] {
        assert!(rest.contains(finding), "{finding:?} is not in:\n{rest}");
    }
    assert_eq!(place.nodes(), Vec::<String>::new());
}

#[test]
fn what_a_killed_demo_left_is_removed_by_the_next() {
    let place = Place::new();
    let mut demo = place.endless(&["--nodes", "2"]);
    demo.lines().find(|line| line.contains("2 nodes serve")).expect("the nodes never served");
    demo.send(Signal::KILL);
    demo.0.wait().expect("it is dead");
    assert_eq!(place.nodes().len(), 2, "nobody stopped them");
    let output = place.demo(&["--headless", "--duration", "1s", "--nodes", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(place.nodes(), Vec::<String>::new());
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let place = Place::new();
    let output = place.demo(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("use --headless"), "{}", said(&output));
}

#[test]
fn a_cluster_that_does_not_start_is_explained_and_fails() {
    let place = Place::new();
    let mut demo = place.demo(&["--headless", "--duration", "5s"]);
    let output = demo.env("TENURED_BIN", "/nonexistent/tenured").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no server binary at /nonexistent/tenured"), "{}", said(&output));
}

#[test]
fn the_terminal_is_put_back_after_q_and_the_keys_are_taken() {
    let place = Place::new();
    let mut terminal = place.on_a_terminal(&["--services", "20"]);
    terminal.read_until("running");
    terminal.type_keys("3kq");
    let rest = terminal.read_to_end();
    assert!(rest.contains("cluster-scripts/kill n3"), "k did not kill the node that 3 selected:\n{rest}");
    assert!(rest.contains("Nothing that was acknowledged is lost."), "{rest}");
    assert!(rest.ends_with("code=0 icanon echo\r\n"), "{rest}");
    assert_eq!(place.nodes(), Vec::<String>::new());
}

#[test]
fn all_nodes_down_and_one_that_waits_for_the_others_are_brought_back_for_the_check() {
    let place = Place::new();
    let mut terminal = place.on_a_terminal(&["--services", "20"]);
    terminal.read_until("running");
    terminal.type_keys("1k2k3k1rq");
    let rest = terminal.read_to_end();
    assert!(rest.contains("Nothing that was acknowledged is lost."), "{rest}");
    assert!(rest.ends_with("code=0 icanon echo\r\n"), "{rest}");
    assert_eq!(place.nodes(), Vec::<String>::new());
}

#[test]
fn the_terminal_is_put_back_after_sigterm() {
    let place = Place::new();
    let mut terminal = place.on_a_terminal(&["--services", "20", "--nodes", "1"]);
    terminal.read_until("running");
    let demo = place.processes("tenure-demo").into_iter().map(|(pid, _)| pid).max().expect("the demo runs");
    kill_process(Pid::from_raw(demo).expect("a process"), Signal::TERM).expect("the demo is there");
    let rest = terminal.read_to_end();
    assert!(rest.contains("\u{1b}[?1049l"), "the alternate screen was not left:\n{rest}");
    assert!(rest.contains("Given up (terminated)"), "{rest}");
    assert!(rest.ends_with("code=143 icanon echo\r\n"), "{rest}");
    assert_eq!(place.nodes(), Vec::<String>::new());
}

/// A demo on a terminal of its own, made by `script`.
struct OnTerminal {
    script: Child,
    output: BufReader<ChildStdout>,
}

impl OnTerminal {
    fn read_until(&mut self, word: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(word) {
            let chunk = self.output.fill_buf().expect("output");
            assert!(!chunk.is_empty(), "the demo ended before it showed {word:?}");
            let length = chunk.len();
            seen.extend_from_slice(chunk);
            self.output.consume(length);
        }
    }

    fn type_keys(&mut self, keys: &str) {
        let input = self.script.stdin.as_mut().expect("its input is open");
        input.write_all(keys.as_bytes()).expect("keys are taken");
        input.flush().expect("keys are taken");
    }

    fn read_to_end(&mut self) -> String {
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest).expect("output");
        self.script.wait().expect("script ends");
        String::from_utf8_lossy(&rest).into_owned()
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // Without its terminal the demo ends and stops its nodes; if the test has ended it already, this does nothing.
        self.script.kill().ok();
        self.script.wait().ok();
    }
}

/// A demo that is ended with the test, whatever happens. It is asked politely, so that it stops its nodes.
struct Running(Child);

impl Running {
    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("the demo is there");
    }

    /// What it prints from here on, line by line.
    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        let out = self.0.stdout.take().expect("its output is taken once");
        BufReader::new(out).lines().map(|line| line.expect("its output is text"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            // Nothing is left to be done if this fails.
            kill_process(Pid::from_child(&self.0), Signal::TERM).ok();
            self.0.wait().ok();
        }
    }
}
