//! Real input through stock clients: this machine's list of Debian packages, a record per key.
//!
//! Half of it goes in through the crate `etcd-client`, half through PyPI's `etcd3`, at the same time. Both clients read
//! everything back and compare it byte for byte: at the present and at an old revision, with half of it deleted, and after
//! a compaction.
#![expect(clippy::print_stdout, reason = "counts and times are the figures that this test shows")]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etcd_client::{Client, CompactionOptions};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tenure_tests::binaries::Program;
use tenure_tests::check::{self, read_prefix};
use tenure_tests::cluster::{Cluster, connect};
use tenure_tests::scenario::{self, Scenario};
use tokio::process::Command;
use tokio::time::timeout;

/// Fewer are no real input.
const RECORDS_MIN: usize = 10_000;
const PREFIX: &str = "debian/";
const PUTS_IN_FLIGHT: usize = 64;
const STEP_PATIENCE: Duration = Duration::from_secs(300);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/load_packages.py");

type Records = BTreeMap<String, String>;

#[test]
fn the_package_list_of_this_machine_survives_byte_for_byte() {
    scenario::run("compat_real_input", "the_package_list_of_this_machine_survives_byte_for_byte", body);
}

/// The records of all packages that apt knows, by name; the last one wins where a name has several versions.
async fn packages() -> Result<Records> {
    let mut records = dump().await?;
    if records.len() < RECORDS_MIN {
        // A fresh container has no package lists yet.
        let update = Command::new("apt-get").arg("update").output();
        timeout(STEP_PATIENCE, update).await.context("apt-get update hangs")??;
        records = dump().await?;
    }
    ensure!(records.len() >= RECORDS_MIN, "apt knows {} packages only; this test needs {RECORDS_MIN}", records.len());
    Ok(records)
}

async fn dump() -> Result<Records> {
    let dump = Command::new("apt-cache").arg("dumpavail").output();
    let output =
        timeout(STEP_PATIENCE, dump).await.context("apt-cache hangs")?.context("this test needs Debian's apt")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let named = text.split("\n\n").filter_map(|record| {
        let name = record.lines().find_map(|line| line.strip_prefix("Package: "))?;
        Some((format!("{PREFIX}{name}"), record.to_owned()))
    });
    Ok(named.collect())
}

/// Every second record, beginning with the first or the second.
fn every_second(records: &Records, from: usize) -> Records {
    records.iter().skip(from).step_by(2).map(|(key, value)| (key.clone(), value.clone())).collect()
}

async fn body(scenario: Scenario) -> Result<()> {
    let all = packages().await?;
    let bytes: usize = all.values().map(String::len).sum();
    println!("{} packages, {:.1} MB", all.len(), f64::from(u32::try_from(bytes)?) / 1e6);
    let (of_rust, of_python) = (every_second(&all, 0), every_second(&all, 1));
    let mut cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
    let python = Python::new(&scenario.home, &cluster)?;

    let started = Instant::now();
    let (rust, python_said) = tokio::join!(put_all(&cluster, &of_rust), python.run("load", &of_python, 0));
    rust?;
    println!(
        "loaded by etcd-client and etcd3 at once in {:.1} s; etcd3: {}",
        started.elapsed().as_secs_f64(),
        python_said?
    );
    let loaded = revision(&mut cluster.client(0).await?).await?;
    expect_everywhere(&cluster, &python, "loaded", &all, 0).await?;

    // Both clients delete half of what the other one put.
    let started = Instant::now();
    let (gone_by_rust, gone_by_python) = (every_second(&of_python, 0), every_second(&of_rust, 0));
    let (rust, python_said) =
        tokio::join!(delete_all(&cluster, &gone_by_rust), python.run("delete", &gone_by_python, 0));
    rust?;
    println!("half deleted in {:.1} s; etcd3: {}", started.elapsed().as_secs_f64(), python_said?);
    let gone = |key: &String| gone_by_rust.contains_key(key) || gone_by_python.contains_key(key);
    let rest: Records =
        all.iter().filter(|(key, _)| !gone(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    expect_everywhere(&cluster, &python, "what is left", &rest, 0).await?;
    expect_everywhere(&cluster, &python, "the old revision", &all, loaded).await?;

    let started = Instant::now();
    let mut client = cluster.client(1).await?;
    let now = revision(&mut client).await?;
    client.compact(now, Some(CompactionOptions::new().with_physical())).await?;
    println!("compacted to revision {now}, physically, in {:.1} s", started.elapsed().as_secs_f64());
    expect_everywhere(&cluster, &python, "after the compaction", &rest, 0).await?;
    match read_prefix(&mut client, PREFIX, loaded).await {
        Ok(_) => bail!("revision {loaded} is readable after a compaction to {now}"),
        Err(error) => ensure!(error.to_string().contains("required revision has been compacted"), "{error}"),
    }
    // etcd hashes no revision that is compacted, not even the last one: go on by one.
    client.put("another", "revision", None).await?;
    let (revision, hash) = check::same_everywhere(&cluster).await?;
    println!("all members at revision {revision} with hash {hash:08x}");
    cluster.kill_all()
}

async fn revision(client: &mut Client) -> Result<i64> {
    Ok(client.get("any", None).await?.header().context("no header")?.revision())
}

async fn put_all(cluster: &Cluster, records: &Records) -> Result<()> {
    let clients = clients(cluster).await?;
    futures::stream::iter(records.iter().enumerate())
        .map(|(at, (key, value))| {
            let mut client = clients[at % clients.len()].clone();
            async move { client.put(key.as_str(), value.as_str(), None).await.map(drop) }
        })
        .buffer_unordered(PUTS_IN_FLIGHT)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

async fn delete_all(cluster: &Cluster, records: &Records) -> Result<()> {
    let clients = clients(cluster).await?;
    let deleted: Vec<i64> = futures::stream::iter(records.keys().enumerate())
        .map(|(at, key)| {
            let mut client = clients[at % clients.len()].clone();
            async move { client.delete(key.as_str(), None).await.map(|answer| answer.deleted()) }
        })
        .buffer_unordered(PUTS_IN_FLIGHT)
        .try_collect()
        .await?;
    ensure!(deleted.iter().all(|count| *count == 1), "a key was not there to be deleted");
    Ok(())
}

async fn clients(cluster: &Cluster) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for endpoint in cluster.endpoints() {
        clients.push(connect(&endpoint, Duration::from_secs(30)).await?);
    }
    Ok(clients)
}

/// Both clients read the whole prefix, at different nodes, and find exactly these records.
async fn expect_everywhere(cluster: &Cluster, python: &Python, what: &str, records: &Records, at: i64) -> Result<()> {
    let started = Instant::now();
    let python_said = python.run("verify", records, at).await.with_context(|| what.to_owned())?;
    let python_done = started.elapsed();
    let mut client = connect(&cluster.nodes[2].endpoint(), Duration::from_secs(30)).await?;
    let stored = read_prefix(&mut client, PREFIX, at).await?;
    ensure!(stored.len() == records.len(), "{what}: {} keys instead of {}", stored.len(), records.len());
    for (key, value) in records {
        let stored = stored.get(key.as_bytes()).with_context(|| format!("{what}: {key} is missing"))?;
        ensure!(stored.value == value.as_bytes(), "{what}: the record of {key} differs");
    }
    println!(
        "{what}: {} keys equal; etcd3 in one answer: {python_said}; etcd-client in pages: {:.2} s",
        records.len(),
        (started.elapsed() - python_done).as_secs_f64()
    );
    Ok(())
}

/// The script around PyPI's client.
struct Python {
    interpreter: String,
    endpoints: String,
    file: std::path::PathBuf,
}

impl Python {
    fn new(home: &Path, cluster: &Cluster) -> Result<Self> {
        let interpreter = env::var("VENV_PYTHON")
            .context("VENV_PYTHON is not set: `make compat` makes a Python with etcd3 and sets it")?;
        let endpoints: Vec<String> =
            cluster.nodes.iter().map(|node| format!("127.0.0.1:{}", node.client_port)).collect();
        Ok(Self { interpreter, endpoints: endpoints.join(","), file: home.join("records.json") })
    }

    async fn run(&self, action: &str, records: &Records, revision: i64) -> Result<String> {
        let lines: Vec<String> =
            records.iter().map(|(key, value)| json!({ "key": key, "value": value }).to_string()).collect();
        fs::write(&self.file, lines.join("\n"))?;
        let command = Command::new(&self.interpreter)
            .args([SCRIPT, action, "--endpoints", &self.endpoints, "--prefix", PREFIX, "--file"])
            .arg(&self.file)
            .args(["--revision", &revision.to_string()])
            .kill_on_drop(true)
            .output();
        let output = timeout(STEP_PATIENCE, command).await.with_context(|| format!("etcd3: {action} hangs"))??;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            bail!("etcd3: {action}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        let counted: Value = serde_json::from_str(&said).with_context(|| format!("etcd3 said {said:?}"))?;
        ensure!(counted["count"].as_u64() == Some(u64::try_from(records.len())?), "etcd3: {action}: {said}");
        Ok(said)
    }
}
