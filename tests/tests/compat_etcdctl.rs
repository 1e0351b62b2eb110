//! The same commands of a real etcdctl against a real etcd and against tenured: output, errors and exit code must be equal.
//!
//! The commands are in `scripts/etcdctl.txt`, one a line. Words are split at blanks; `'…'` holds a word together and `\xNN`
//! is a byte. Lines that begin with `|` are standard input for the command above them (`|* c N` is N times c), `#` begins
//! a comment. State is kept from command to command.
//!
//! What may differ between two clusters is replaced before comparing: ids, ports, terms, indexes, sizes, hashes, versions
//! and times. Members are named by their role, since either cluster chooses its leader for itself.
#![expect(clippy::print_stdout, reason = "the counts are the figures that this comparison shows")]

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tenure_tests::binaries::{self, Program};
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::scenario::{self, Scenario};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

const SCRIPT: &str = include_str!("../scripts/etcdctl.txt");
const COMMAND_PATIENCE: Duration = Duration::from_secs(30);
/// The comparison is worth something only with a script of this size.
const COMMANDS_MIN: usize = 150;
const SHOWN_MAX: usize = 1_500;

/// Names in `-w json` and `-w fields` output whose values belong to one cluster alone. Ids are not among them: they must
/// be those of the member and the cluster.
const VOLATILE: [&str; 12] = [
    "raft_term",
    "raftterm",
    "raftindex",
    "raftappliedindex",
    "dbsize",
    "dbsizeinuse",
    "dbsizequota",
    "hash",
    "version",
    "took",
    "storageversion",
    "downgradeinfo",
];

#[test]
fn etcdctl_at_the_leader_sees_what_it_sees_at_etcd() {
    scenario::run("compat_etcdctl", "etcdctl_at_the_leader_sees_what_it_sees_at_etcd", |scenario| run(scenario, true));
}

#[test]
fn etcdctl_at_a_follower_sees_what_it_sees_at_etcd() {
    scenario::run("compat_etcdctl", "etcdctl_at_a_follower_sees_what_it_sees_at_etcd", |scenario| run(scenario, false));
}

async fn run(scenario: Scenario, at_leader: bool) -> Result<()> {
    let commands = parse(SCRIPT)?;
    ensure!(commands.len() >= COMMANDS_MIN, "only {} commands in the script", commands.len());
    let etcd = Subject::start(Program::Etcd, &scenario, at_leader).await?;
    let tenured = Subject::start(Program::Tenured, &scenario, at_leader).await?;
    let mut different = Vec::new();
    let mut failed = 0;
    for command in &commands {
        let (expected, actual) = tokio::join!(etcd.run(command), tenured.run(command));
        let (expected, actual) = (expected?, actual?);
        failed += usize::from(!expected.starts_with("exit 0"));
        if expected != actual {
            let shown = format!(
                "line {}: {}\n--- etcd\n{}\n--- tenured\n{}",
                command.line,
                command.text,
                cut(&expected),
                cut(&actual)
            );
            different.push(shown);
        }
    }
    let role = if at_leader { "leader" } else { "follower" };
    println!("{} etcdctl commands at the {role}, {failed} of them refused; {} differ", commands.len(), different.len());
    if !different.is_empty() {
        bail!("{} of {} commands differ\n{}", different.len(), commands.len(), different.join("\n\n"));
    }
    Ok(())
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

/// A line of the script.
#[derive(Debug, Default)]
struct Step {
    line: usize,
    text: String,
    words: Vec<OsString>,
    stdin: Vec<u8>,
}

fn parse(script: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (at, line) in script.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(input) = line.strip_prefix('|') {
            let step = steps.last_mut().with_context(|| format!("line {}: input without a command", at + 1))?;
            match input.strip_prefix('*') {
                None => {
                    step.stdin.extend(input.strip_prefix(' ').unwrap_or(input).bytes());
                    step.stdin.push(b'\n');
                }
                Some(repeat) => {
                    let (what, count) = repeat.trim().split_once(' ').context("`|* c N`")?;
                    step.stdin.extend(what.repeat(count.parse()?).bytes());
                }
            }
            continue;
        }
        steps.push(Step { line: at + 1, text: line.to_owned(), words: words(line)?, stdin: Vec::new() });
    }
    Ok(steps)
}

fn words(line: &str) -> Result<Vec<OsString>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take().map(OsString::from_vec)),
            '\\' => {
                let digits: String = chars.by_ref().take(3).collect();
                let byte = digits.strip_prefix('x').and_then(|digits| u8::from_str_radix(digits, 16).ok());
                word.get_or_insert_default().push(byte.with_context(|| format!("`\\{digits}` in {line}"))?);
            }
            other => word.get_or_insert_default().extend(other.to_string().bytes()),
        }
    }
    ensure!(!quoted, "an open quote in {line}");
    words.extend(word.map(OsString::from_vec));
    Ok(words)
}

/// A cluster with what must be replaced in its output.
struct Subject {
    _cluster: Cluster,
    endpoint: String,
    replace: Vec<(String, String)>,
}

impl Subject {
    async fn start(program: Program, scenario: &Scenario, at_leader: bool) -> Result<Self> {
        let mut cluster = Cluster::start(program, 3, &scenario.home.join(program.label())).await?;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let target = if at_leader { leader } else { (leader + 1) % 3 };
        let mut replace = Vec::new();
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
        }
        let endpoint = cluster.nodes[target].endpoint();
        Ok(Self { _cluster: cluster, endpoint, replace })
    }

    async fn run(&self, step: &Step) -> Result<String> {
        let mut child = Command::new(binaries::etcdctl()?)
            .arg(format!("--endpoints={}", self.endpoint))
            .args(&step.words)
            .env_clear()
            .env("ETCDCTL_API", "3")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        // A command that fails before it reads its input closes the pipe: then there is nobody to write to.
        let _closed_early = stdin.write_all(&step.stdin).await;
        drop(stdin);
        let output = timeout(COMMAND_PATIENCE, child.wait_with_output()).await.with_context(|| step.text.clone())??;
        let about_members = ["member", "endpoint"].contains(&step.words[0].to_string_lossy().as_ref());
        let mut result = format!("exit {}\n", output.status.code().context("etcdctl was killed")?);
        for bytes in [&output.stdout, &output.stderr] {
            // Lossy, but alike on both sides; binary values differ byte for byte only where the escapes differ too.
            let text = bytes.escape_ascii().to_string().replace("\\n", "\n").replace("\\\"", "\"");
            let mut lines: Vec<String> = text.lines().map(|line| self.comparable(line, about_members)).collect();
            // When etcdctl itself panics, what follows are addresses.
            if let Some(at) = lines.iter().position(|line| line.starts_with("panic: ")) {
                lines.truncate(at + 1);
            }
            if about_members {
                lines.sort();
            }
            writeln!(result, "{}", lines.join("\n"))?;
        }
        Ok(result)
    }

    fn comparable(&self, line: &str, about_members: bool) -> String {
        if let Ok(mut json) = serde_json::from_str::<Value>(line)
            && (json.is_object() || json.is_array())
        {
            self.strip_json(&mut json, about_members);
            return json.to_string();
        }
        if let Some((name, value)) = line.split_once("\" : ") {
            let name = name.trim_start_matches('"');
            // A key's version is a number, a server's is text.
            if is_volatile(name) && (name != "Version" || value.starts_with('"')) {
                return format!("{name} : <volatile>");
            }
        }
        let line = self.replaced(line, about_members);
        if !about_members {
            return line;
        }
        comparable_row(&line)
    }

    fn replaced(&self, text: &str, about_members: bool) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.replace {
            text = text.replace(from, to);
        }
        if about_members {
            for name in ["n1", "n2", "n3"] {
                text = text.replace(name, "<name>");
            }
        }
        text
    }

    fn strip_json(&self, value: &mut Value, about_members: bool) {
        match value {
            Value::Object(fields) => {
                // The client's own log line on stderr: its time and its pointers say nothing about the server.
                if fields.contains_key("level") {
                    fields.retain(|name, _| !["ts", "caller", "target"].contains(&name.as_str()));
                }
                for (name, value) in fields.iter_mut() {
                    // A key's version is a number, a server's is text.
                    if is_volatile(name) && !(name == "version" && value.is_number()) {
                        *value = Value::from("<volatile>");
                    }
                    self.strip_json(value, about_members);
                }
            }
            Value::Array(items) => {
                items.iter_mut().for_each(|item| self.strip_json(item, about_members));
                if about_members {
                    items.sort_by_key(Value::to_string);
                }
            }
            Value::String(text) => *text = self.replaced(text, about_members),
            Value::Number(number) => {
                let text = number.to_string();
                let replaced = self.replaced(&text, false);
                if replaced != text {
                    *value = Value::from(replaced);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

/// A row of `endpoint` and `member` output: the columns that hold sizes, hashes, terms, indexes, versions and times.
fn comparable_row(line: &str) -> String {
    if let Some((head, _)) = line.split_once("took = ") {
        return format!("{head}took = <time>");
    }
    if line.starts_with('+') {
        return "+---".to_owned();
    }
    let cells = line.split([',', '|']).map(|cell| {
        let cell = cell.trim();
        let number = cell.trim_end_matches(|char: char| "kMGBi ".contains(char));
        let is_volatile = !number.is_empty() && number.chars().all(|char| char.is_ascii_digit() || char == '.');
        if is_volatile { "<number>" } else { cell }
    });
    cells.collect::<Vec<_>>().join(", ")
}

fn is_volatile(name: &str) -> bool {
    VOLATILE.contains(&name.to_ascii_lowercase().as_str())
}
