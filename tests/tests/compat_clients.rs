//! The scenarios of `scenarios/`, told once and carried out by five stock clients, against a real etcd and tenured.
//!
//! Each client's runner does every scenario on both, step by step; each step must print the same line for both, be what
//! the scenario expects, and be skipped only where `scenarios/skips.json` says so. tenured is a cluster of three, whose
//! members the clients' sessions talk to in turn: the leader and the followers. `docs/COMPATIBILITY.md` shows the counts;
//! `UPDATE_GOLDENFILES=1` writes them there, and without it this test compares.
#![expect(clippy::print_stdout, reason = "the counts are the figures that this comparison shows")]

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etcd_client::{Client, DeleteOptions, Error};
use serde_json::Value;
use tenure_tests::binaries::Program;
use tenure_tests::clients::{Library, Runner};
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE, connect};
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::steps::{Skips, Story};
use tonic::Code;

const RUST_RUNNER: &str = env!("CARGO_BIN_EXE_compat-client");
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/COMPATIBILITY.md");
/// The comparison is worth something only with so many scenarios.
const STORIES_MIN: usize = 25;

#[test]
fn etcd_client_of_rust_gets_the_answers_of_etcd() {
    scenario::run("compat_clients", "etcd_client_of_rust_gets_the_answers_of_etcd", |home| {
        compare(home, Library::Rust)
    });
}

#[test]
fn clientv3_of_go_gets_the_answers_of_etcd() {
    scenario::run("compat_clients", "clientv3_of_go_gets_the_answers_of_etcd", |home| compare(home, Library::Go));
}

#[test]
fn etcd3_of_python_gets_the_answers_of_etcd() {
    scenario::run("compat_clients", "etcd3_of_python_gets_the_answers_of_etcd", |home| compare(home, Library::Python));
}

#[test]
fn etcd3_of_node_gets_the_answers_of_etcd() {
    scenario::run("compat_clients", "etcd3_of_node_gets_the_answers_of_etcd", |home| compare(home, Library::Node));
}

#[test]
fn jetcd_of_java_gets_the_answers_of_etcd() {
    scenario::run("compat_clients", "jetcd_of_java_gets_the_answers_of_etcd", |home| compare(home, Library::Java));
}

/// One server, or three, with a runner that talks to them.
struct Side {
    /// Kept for its processes.
    _cluster: Cluster,
    runner: Runner,
    janitor: Client,
    /// The leader last.
    endpoints: Vec<String>,
}

impl Side {
    async fn start(program: Program, size: usize, library: Library, home: &Path) -> Result<Self> {
        let label = format!("{}-{size}", program.label());
        let mut cluster = Cluster::start(program, size, &home.join(&label)).await?;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let mut endpoints = cluster.endpoints();
        endpoints.rotate_left((leader + 1) % size);
        let janitor = connect(&endpoints[0], Duration::from_secs(30)).await?;
        let runner = Runner::start(library, Path::new(RUST_RUNNER), home, &label)?;
        Ok(Self { _cluster: cluster, runner, janitor, endpoints })
    }

    /// Carries a scenario out on an empty store; every next one begins at another member.
    async fn carry_out(&mut self, story: &Story, at: usize) -> Result<Vec<Value>> {
        let base = self.clean().await?;
        let mut endpoints = self.endpoints.clone();
        endpoints.rotate_left(at % self.endpoints.len());
        self.runner.carry_out(&story.request(base, &endpoints)).await
    }

    /// Deletes what earlier scenarios left and returns the revision from which on the next one counts.
    async fn clean(&mut self) -> Result<i64> {
        for lease in self.leases().await? {
            match self.janitor.lease_revoke(lease).await {
                // It may have ended by itself in between.
                Err(Error::GRpcStatus(status)) if status.code() == Code::NotFound => {}
                other => {
                    other?;
                }
            }
        }
        self.janitor.delete("\0", Some(DeleteOptions::new().with_from_key())).await?;
        let answer = self.janitor.get("any", None).await?;
        Ok(answer.header().context("no header")?.revision())
    }

    async fn leases(&mut self) -> Result<Vec<i64>> {
        match self.janitor.leases().await {
            Ok(answer) => Ok(answer.leases().iter().map(etcd_client::LeaseStatus::id).collect()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What came of one client's scenarios.
#[derive(Default)]
struct Findings {
    wrong: Vec<String>,
    /// Features that the client could not express, with the steps that wanted them.
    skipped: BTreeMap<String, usize>,
    /// By scenario: what the table shows.
    cells: BTreeMap<String, String>,
    departures: BTreeSet<(String, usize)>,
    steps: usize,
}

async fn compare(scenario: Scenario, library: Library) -> Result<()> {
    let labels = Library::ALL.map(Library::label);
    let stories = Story::all()?;
    ensure!(stories.len() >= STORIES_MIN, "only {} scenarios", stories.len());
    let skips = Skips::read(&stories, &labels)?;
    let wanted = env::var("TENURE_COMPAT_SCENARIO").ok();
    // A scenario is worth something only if three etcds agree with one: a way to prove scenarios and runners.
    let of_etcd = env::var_os("TENURE_COMPAT_ETCD").is_some();
    let subject = if of_etcd { Program::Etcd37 } else { Program::Tenured };
    let (etcd, tenured) = tokio::join!(
        Side::start(Program::Etcd37, 1, library, &scenario.home),
        Side::start(subject, 3, library, &scenario.home)
    );
    let (mut etcd, mut tenured) = (etcd?, tenured?);
    let mut findings = Findings::default();
    for (at, story) in stories.iter().enumerate() {
        let is_wanted = wanted.as_ref().is_none_or(|name| story.name.starts_with(name.as_str()));
        if !is_wanted || !story.is_for(library.label()) {
            continue;
        }
        let started = Instant::now();
        let (expected, actual) = tokio::join!(etcd.carry_out(story, at), tenured.carry_out(story, at));
        judge(story, library, &skips, (&expected?, &actual?), &mut findings);
        println!(
            "{:8} {:18} {:>12} {:6.2} s  {}",
            library.label(),
            story.name,
            findings.cells.get(&story.name).map_or("", String::as_str),
            started.elapsed().as_secs_f64(),
            story.about
        );
    }
    if wanted.is_none() && !of_etcd {
        whole(library, &stories, &skips, &mut findings)?;
    }
    let client = library.label();
    println!("{client}: {} steps answered alike; skipped: {:?}", findings.steps, findings.skipped);
    ensure!(findings.wrong.is_empty(), "{} findings:\n{}", findings.wrong.len(), findings.wrong.join("\n\n"));
    Ok(())
}

/// Judges one scenario's lines from both servers.
fn judge(
    story: &Story,
    library: Library,
    skips: &Skips,
    (expected, actual): (&[Value], &[Value]),
    findings: &mut Findings,
) {
    let client = library.label();
    let missing = skips.missing(client, &story.name);
    let reached = actual.iter().position(|line| !line["unimplemented"].is_null());
    let count = reached.unwrap_or(expected.len());
    let wrong = |at: usize, what: &str| {
        let side = |lines: &[Value]| lines.get(at).map_or("nothing".to_owned(), Value::to_string);
        let (step, number) = (story.shown(at), at + 1);
        let (etcd, tenured) = (side(expected), side(actual));
        format!("{client}, {}, step {number}: {what}\n   step: {step}\n   etcd: {etcd}\ntenured: {tenured}", story.name)
    };
    let mut found = Vec::new();
    if story.steps().is_some_and(|steps| steps != expected.len()) {
        found.push(wrong(expected.len(), "the runner did not come to the end"));
    }
    match (reached, missing) {
        (Some(at), None) => found.push(wrong(at, "tenured does not have it")),
        (None, Some(why)) => found.push(format!("{client}, {}: in skips.json ({why}), but it works", story.name)),
        (Some(_), Some(_)) | (None, None) => {}
    }
    if reached.is_none() && actual.len() != expected.len() {
        found.push(wrong(expected.len().min(actual.len()), "the servers' steps part here"));
    }
    for (at, (etcd, tenured)) in expected.iter().zip(actual).take(count).enumerate() {
        if etcd != tenured && !departs(story, client, skips, (at, etcd, tenured), findings) {
            found.push(wrong(at, "answered differently"));
        }
    }
    let mut skipped = 0;
    for (at, etcd) in expected.iter().enumerate() {
        // Go's client shows everything: what it does not show is not there.
        if let Some(fault) = story.fault(at, etcd, library == Library::Go) {
            found.push(wrong(at, &format!("etcd itself is {fault}")));
        }
        if let Some(feature) = etcd["skip"].as_str() {
            *findings.skipped.entry(feature.to_owned()).or_default() += 1;
            skipped += usize::from(at < count);
        }
    }
    findings.steps += count - skipped;
    let cell = match (reached, skipped) {
        (Some(at), _) => format!("{at} of {}", expected.len()),
        (None, 0) => count.to_string(),
        (None, _) => format!("{} ({skipped})", count - skipped),
    };
    findings.cells.insert(story.name.clone(), cell);
    findings.wrong.extend(found);
}

/// Whether a difference is on the list of departures, to the letter.
fn departs(
    story: &Story,
    client: &str,
    skips: &Skips,
    (at, etcd, tenured): (usize, &Value, &Value),
    findings: &mut Findings,
) -> bool {
    let without_step = |line: &Value| {
        let mut line = line.clone();
        line.as_object_mut().map(|fields| fields.remove("step"));
        line
    };
    let (etcd, tenured) = (without_step(etcd), without_step(tenured));
    let listed = skips.departures.iter().any(|one| {
        let same_place =
            one.clients.iter().any(|name| name == client) && one.scenario == story.name && one.step == at + 1;
        same_place && one.etcd == etcd && one.tenured == tenured
    });
    listed && findings.departures.insert((story.name.clone(), at + 1))
}

/// What only a run of all scenarios can tell: that no listed skip is stale, and that the document is true.
fn whole(library: Library, stories: &[Story], skips: &Skips, findings: &mut Findings) -> Result<()> {
    let client = library.label();
    let none = BTreeMap::new();
    let listed = skips.unable.get(client).unwrap_or(&none);
    for (feature, count) in &findings.skipped {
        match listed.get(feature) {
            Some(why) => println!("{client}: {count} steps skipped: {feature}: {why}"),
            None => findings.wrong.push(format!("{client}: {feature} was skipped in {count} steps, unexpectedly")),
        }
    }
    for feature in listed.keys().filter(|feature| !findings.skipped.contains_key(*feature)) {
        findings.wrong.push(format!("{client}: {feature} is listed in skips.json, but nothing was skipped for it"));
    }
    for one in skips.departures.iter().filter(|one| one.clients.iter().any(|name| name == client)) {
        match findings.departures.contains(&(one.scenario.clone(), one.step)) {
            true => println!("{client}: {} step {} departs: {}", one.scenario, one.step, one.why),
            false => findings.wrong.push(format!("{client}: {} step {} departs no more", one.scenario, one.step)),
        }
    }
    for story in stories {
        findings.cells.entry(story.name.clone()).or_insert_with(|| "-".to_owned());
    }
    document(client, findings)
}

/// Compares this client's column of the table in the document, or writes it.
fn document(client: &str, findings: &mut Findings) -> Result<()> {
    let path = PathBuf::from(DOCUMENT);
    let text = fs::read_to_string(&path)?;
    let column = 1 + Library::ALL.iter().position(|one| one.label() == client).context("a known client")?;
    let mut lines: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        let mut cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        let name = cells[0].trim_matches('`').to_owned();
        let Some(cell) = findings.cells.get(&name).filter(|_| cells.len() == Library::ALL.len() + 1) else {
            lines.push(line.to_owned());
            continue;
        };
        seen.insert(name);
        cells[column].clone_from(cell);
        lines.push(format!("| {} |", cells.join(" | ")));
    }
    for name in findings.cells.keys().filter(|name| !seen.contains(*name)) {
        findings.wrong.push(format!("docs/COMPATIBILITY.md has no row for {name}"));
    }
    let fresh = lines.join("\n") + "\n";
    if env::var_os("UPDATE_GOLDENFILES").is_some() {
        fs::write(&path, fresh)?;
    } else if fresh != text {
        let changed = fresh.lines().zip(text.lines()).filter(|(fresh, old)| fresh != old);
        let changed: Vec<String> = changed.map(|(fresh, old)| format!("is  {old}\nnow {fresh}")).collect();
        let how = "UPDATE_GOLDENFILES=1 make compat writes them";
        findings.wrong.push(format!("docs/COMPATIBILITY.md has other counts ({how}):\n{}", changed.join("\n")));
    }
    if findings.cells.is_empty() {
        bail!("no scenario ran");
    }
    Ok(())
}
