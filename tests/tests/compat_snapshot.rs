//! Backups with the tools that people have: etcdctl saves from a cluster at work, and new clusters are made of the file.
//!
//! etcd is only asked what it says of a snapshot; its files are its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tenure_tests::binaries::{self, Program};
use tenure_tests::check;
use tenure_tests::cluster::Cluster;
use tenure_tests::node::{POLL, READY_PATIENCE};
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::workload::{Ack, Workload};
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(120);

/// Writes that are acknowledged before the snapshot is asked for.
const WRITES_BEFORE: u64 = 2_000;

fn run<Fut: Future<Output = Result<()>>>(test: &str, body: impl FnOnce(Scenario) -> Fut) {
    scenario::run("compat_snapshot", test, body);
}

/// What a program says and ends with.
async fn said(program: &Path, words: &[&str]) -> Result<(Option<i32>, String, String)> {
    let mut command = Command::new(program);
    command.args(words).env("ETCDCTL_API", "3").stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.with_context(|| format!("{words:?} hangs"))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

async fn succeeds(program: &Path, words: &[&str]) -> Result<String> {
    let (code, out, err) = said(program, words).await?;
    ensure!(code == Some(0), "{words:?} ends with {code:?}: {out}{err}");
    Ok(out)
}

/// Makes the data directories of all nodes, by the flags that they are then started with.
async fn restore(cluster: &Cluster, file: &str, more: &[&str]) -> Result<()> {
    const FOUNDING: [&str; 5] =
        ["--name=", "--data-dir=", "--initial-cluster=", "--initial-cluster-token=", "--initial-advertise-peer-urls="];
    for at in 0..cluster.nodes.len() {
        let flags = cluster.flags_of(at);
        let founding =
            flags.iter().map(String::as_str).filter(|flag| FOUNDING.iter().any(|name| flag.starts_with(name)));
        let words: Vec<&str> =
            ["snapshot", "restore", file].into_iter().chain(founding).chain(more.iter().copied()).collect();
        succeeds(&Program::Tenured.path()?, &words).await?;
    }
    Ok(())
}

/// Writes whose key is not there, or is older than they, or of their revision with another value.
fn count_missing<'a>(acks: impl Iterator<Item = &'a Ack>, stored: &BTreeMap<Vec<u8>, check::Stored>) -> usize {
    let is_there = |ack: &&Ack| {
        stored.get(ack.key.as_bytes()).is_some_and(|stored| {
            stored.mod_revision > ack.revision
                || (stored.mod_revision == ack.revision && stored.value == ack.value.as_bytes())
        })
    };
    acks.filter(|ack| !is_there(ack)).count()
}

#[test]
fn etcdctl_saves_under_load_and_the_restored_members_hold_every_key() {
    run("etcdctl_saves_under_load_and_the_restored_members_hold_every_key", |scenario| async move {
        let mut old = Cluster::with_flags(Program::Tenured, 3, &scenario.home.join("old"), &["--snapshot-count=500"])?;
        old.start_all().await?;
        let load = Workload::start(&old.endpoints(), "k/load", 8);
        load.wait_acks(WRITES_BEFORE, PATIENCE).await?;
        let file = scenario.home.join("backup.db").display().to_string();
        // From a member that does not lead: it must wait for what others acknowledged.
        let follower = old.follower().await?;
        let asked = Instant::now();
        let out = succeeds(
            &binaries::etcdctl()?,
            &["--endpoints", &old.nodes[follower].endpoint(), "snapshot", "save", &file],
        )
        .await?;
        let answered = Instant::now();
        ensure!(out.trim_end().ends_with(&format!("Snapshot saved at {file}")), "{out}");
        ensure!(std::fs::metadata(&file)?.len() % 512 == 32);
        load.wait_acks(100, PATIENCE).await?;
        let history = load.finish().await?;
        let told = succeeds(&Program::Tenured.path()?, &["snapshot", "status", &file]).await?;
        let words: Vec<&str> = told.trim().split(", ").collect();
        let [hash, revision, keys, _] = words[..] else { bail!("{told}") };
        let (hash, revision) = (u32::from_str_radix(hash, 16)?, revision.parse::<i64>()?);

        // Every write that was acknowledged before it was asked for is below its revision; none that was sent later is.
        let before = history.acks.iter().filter(|ack| ack.acked < asked).map(|ack| ack.revision).max().unwrap_or(0);
        let after = history.acks.iter().filter(|ack| ack.sent > answered).map(|ack| ack.revision).min();
        ensure!(
            before <= revision,
            "a write of revision {before} was acknowledged before, and the snapshot ends at {revision}"
        );
        ensure!(after.is_none_or(|after| after > revision), "revision {after:?} came after the end at {revision}");
        let mut client = old.client(0).await?;
        let expected = check::read_prefix(&mut client, "k/", revision).await?;
        ensure!(
            expected.len().to_string() == keys,
            "{} keys were there at {revision}, and {keys} are saved",
            expected.len()
        );
        let mut maintenance = MaintenanceClient::connect(old.nodes[0].endpoint()).await?;
        let live = maintenance.hash_kv(pb::HashKvRequest { revision }).await?.into_inner();
        ensure!(live.hash == hash, "the cluster hashes to {:08x} at {revision}, the snapshot to {hash:08x}", live.hash);
        old.kill_all()?;

        let mut new = Cluster::new(Program::Tenured, 3, &scenario.home.join("new"))?;
        restore(&new, &file, &[]).await?;
        new.start_all().await?;
        for at in 0..3 {
            let mut client = new.client(at).await?;
            let found = check::read_prefix(&mut client, "k/", revision).await?;
            ensure!(found == expected, "member {at} has {} keys, and not the {} of then", found.len(), expected.len());
            let acked_before = history.acks.iter().filter(|ack| ack.acked < asked);
            ensure!(count_missing(acked_before, &found) == 0, "acknowledged writes are missing");
        }
        // It is a cluster like any other: it is written to, its members restart, and they agree.
        let load = Workload::start(&new.endpoints(), "new/", 4);
        load.wait_acks(200, PATIENCE).await?;
        let leader = new.wait_leader(READY_PATIENCE).await?;
        new.nodes[leader].kill()?;
        load.wait_acks(100, PATIENCE).await?;
        let later = load.finish().await?;
        new.restart(leader).await?;
        check::whole_cluster(&new, "new/", &later).await?;
        ensure!(later.acks.iter().all(|ack| ack.revision > revision), "revisions go on rising");
        println!(
            "{} writes before, {} in all, {} keys at revision {revision}",
            WRITES_BEFORE,
            history.acks.len(),
            expected.len()
        );
        Ok(())
    });
}

#[test]
fn a_damaged_file_is_refused_and_a_bumped_one_starts_above_all_it_was() {
    run("a_damaged_file_is_refused_and_a_bumped_one_starts_above_all_it_was", |scenario| async move {
        let mut old = Cluster::start(Program::Tenured, 1, &scenario.home.join("old")).await?;
        let etcdctl = binaries::etcdctl()?;
        let endpoint = old.nodes[0].endpoint();
        succeeds(&etcdctl, &["--endpoints", &endpoint, "put", "key", "value"]).await?;
        let lease = succeeds(&etcdctl, &["--endpoints", &endpoint, "lease", "grant", "1000"]).await?;
        let lease = lease.split(' ').nth(1).context("its id")?.to_owned();
        succeeds(&etcdctl, &["--endpoints", &endpoint, "put", "leased", "value", &format!("--lease={lease}")]).await?;
        let file = scenario.home.join("backup.db");
        let path = file.display().to_string();
        succeeds(&etcdctl, &["--endpoints", &endpoint, "snapshot", "save", &path]).await?;
        old.kill_all()?;

        let tenured = Program::Tenured.path()?;
        let whole = std::fs::read(&file)?;
        let mut flipped = whole.clone();
        flipped[whole.len() / 3] ^= 1;
        let target = scenario.home.join("damaged");
        let data_dir = format!("--data-dir={}", target.display());
        for (content, text) in [(&flipped[..], "expected sha256"), (&whole[..whole.len() / 2], "snapshot")] {
            std::fs::write(&file, content)?;
            for words in [&["snapshot", "restore", &path, &data_dir][..], &["snapshot", "status", &path]] {
                let (code, out, err) = said(&tenured, words).await?;
                ensure!(code == Some(1) && out.is_empty() && err.contains(text), "{words:?}: {code:?} {out}{err}");
            }
            ensure!(!target.exists(), "something was made of it");
        }
        std::fs::write(&file, &whole)?;
        let mut new = Cluster::new(Program::Tenured, 1, &scenario.home.join("new"))?;
        restore(&new, &path, &["--bump-revision=1000000", "--mark-compacted"]).await?;
        new.start_all().await?;
        let endpoint = new.nodes[0].endpoint();
        let at = ["--endpoints", &endpoint];
        let got = succeeds(&etcdctl, &[&at[..], &["get", "key", "-w", "fields"]].concat()).await?;
        ensure!(got.contains("\"Revision\" : 1000003") && got.contains("\"ModRevision\" : 2"), "{got}");
        let left = succeeds(&etcdctl, &[&at[..], &["lease", "timetolive", &lease, "--keys"]].concat()).await?;
        ensure!(left.contains("granted with TTL(1000s)") && left.contains("attached keys([leased])"), "{left}");
        let (code, out, err) = said(&etcdctl, &[&at[..], &["watch", "key", "--rev=2"]].concat()).await?;
        ensure!(code != Some(0) && format!("{out}{err}").contains("compacted"), "{code:?} {out}{err}");
        let (code, _, err) = said(&tenured, &["snapshot", "restore", &path, new.flags_of(0)[1].as_str()]).await?;
        ensure!(code == Some(1) && err.contains("not empty or could not be read"), "{err}");
        Ok(())
    });
}

#[test]
fn the_messages_of_a_snapshot_have_the_fields_that_etcds_have() {
    run("the_messages_of_a_snapshot_have_the_fields_that_etcds_have", |scenario| async move {
        let mut shapes = Vec::new();
        for program in [Program::Etcd37, Program::Tenured] {
            let cluster = Cluster::start(program, 1, &scenario.home.join(program.label())).await?;
            let mut maintenance = MaintenanceClient::connect(cluster.nodes[0].endpoint()).await?;
            timeout(PATIENCE, storage_version_known(&mut maintenance)).await.context("no storage version")??;
            let mut stream = maintenance.snapshot(pb::SnapshotRequest {}).await?.into_inner();
            let mut messages = Vec::new();
            while let Some(message) = timeout(PATIENCE, stream.message()).await?? {
                messages.push(message);
            }
            let (hash, body) = messages.split_last().context("messages")?;
            let total: u64 = body.iter().map(|message| message.blob.len() as u64).sum();
            let mut left = total;
            for message in body {
                left -= message.blob.len() as u64;
                ensure!(message.remaining_bytes == left, "{}: {left} are left", program.label());
            }
            let (last, full) = body.split_last().context("blobs")?;
            ensure!(full.iter().all(|message| message.blob.len() == 32 << 10) && last.blob.len() <= 32 << 10);
            let versions: Vec<&str> = messages.iter().map(|message| message.version.as_str()).collect();
            let has_header = messages.iter().any(|message| message.header.is_some());
            let same = versions.iter().all(|version| *version == versions[0]);
            shapes.push(format!("{} {same} {has_header} {} {}", versions[0], hash.blob.len(), total % 512));
        }
        ensure!(shapes[0] == shapes[1], "etcd: {}, tenured: {}", shapes[0], shapes[1]);
        Ok(())
    });
}

/// Waits until a member knows the version of its own storage. etcd finds it out some time after it began to serve, and tells
/// none in a snapshot before.
async fn storage_version_known(maintenance: &mut MaintenanceClient<Channel>) -> Result<()> {
    while maintenance.status(pb::StatusRequest {}).await?.into_inner().storage_version.is_empty() {
        sleep(POLL).await;
    }
    Ok(())
}
