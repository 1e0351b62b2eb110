//! Real processes and their data directories: emptied, exchanged, damaged, full, and how often they are synced.
//!
//! Whatever is wrong with a directory, the member either recovers or ends with a reason on standard error; the others
//! lose nothing.
#![expect(clippy::print_stdout, reason = "counts and reasons for skipping are what a reader wants to see")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use tenure_tests::binaries::Program;
use tenure_tests::check;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::node::Node;
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::workload::{History, Workload};
use tokio::time::sleep;

/// A member that must not run has this long to find out.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(30);
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

fn run<Fut: Future<Output = Result<()>>>(test: &str, body: impl FnOnce(Scenario) -> Fut) {
    scenario::run("process_disk", test, body);
}

async fn filled(scenario: &Scenario) -> Result<(Cluster, History)> {
    let cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
    let load = Workload::start(&cluster.endpoints(), "k/", 8);
    load.wait_acks(400, WRITE_PATIENCE).await?;
    let history = load.finish().await?;
    Ok((cluster, history))
}

/// Starts a node that must refuse to run; returns what it said.
async fn refused(node: &mut Node, words: &[&str]) -> Result<String> {
    node.start()?;
    let status = node.wait_exit(REFUSAL_PATIENCE).await?;
    let said = node.log();
    ensure!(!status.success(), "{} ended with {status}:\n{said}", node.name);
    ensure!(!said.contains("panicked"), "{} panicked:\n{said}", node.name);
    for word in words {
        ensure!(said.to_lowercase().contains(word), "{} does not say {word:?}:\n{said}", node.name);
    }
    Ok(node.log_tail(1))
}

#[test]
fn an_emptied_node_is_refused_under_its_old_id() {
    run("an_emptied_node_is_refused_under_its_old_id", |scenario| async move {
        let (mut cluster, mut history) = filled(&scenario).await?;
        // Once a follower, once the leader.
        for turn in ["follower", "leader"] {
            let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
            let victim = if turn == "leader" { leader } else { (leader + 1) % 3 };
            let kept = scenario.home.join("kept");
            cluster.nodes[victim].kill()?;
            fs::rename(&cluster.nodes[victim].data_dir, &kept)?;
            let said = refused(&mut cluster.nodes[victim], &["empty", "remove"]).await?;
            println!("emptied {turn}: {said}");
            let others: Vec<String> =
                (0..3).filter(|at| *at != victim).map(|at| cluster.nodes[at].endpoint()).collect();
            let load = Workload::start(&others, &format!("k/without-{turn}"), 4);
            load.wait_acks(100, WRITE_PATIENCE).await?;
            history.extend(load.finish().await?);
            cluster.nodes[victim].wipe()?;
            fs::rename(&kept, &cluster.nodes[victim].data_dir)?;
            cluster.restart(victim).await?;
        }
        check::whole_cluster(&cluster, "k/", &history).await?;
        Ok(())
    });
}

#[test]
fn two_nodes_with_data_and_an_empty_one_lose_nothing() {
    run("two_nodes_with_data_and_an_empty_one_lose_nothing", |scenario| async move {
        let (mut cluster, history) = filled(&scenario).await?;
        let victim = cluster.wait_leader(LEADER_PATIENCE).await?;
        cluster.kill_all()?;
        cluster.nodes[victim].wipe()?;
        // The empty one first: alone it must not think that this is a new cluster.
        cluster.nodes[victim].start()?;
        sleep(Duration::from_millis(1_500)).await;
        let others: Vec<usize> = (0..3).filter(|at| *at != victim).collect();
        for at in &others {
            cluster.nodes[*at].start()?;
        }
        let status = cluster.nodes[victim].wait_exit(REFUSAL_PATIENCE).await?;
        ensure!(!status.success(), "the empty node ended with {status}");
        println!("empty node beside two with data: {}", cluster.nodes[victim].log_tail(1));
        cluster.wait_leader_among(&others, LEADER_PATIENCE).await?;
        for at in others {
            let mut client = cluster.client(at).await?;
            check::contents(&mut client, "k/", &history).await?;
            client.put("k/after", "value", None).await?;
            client.delete("k/after", None).await?;
        }
        Ok(())
    });
}

#[test]
fn two_emptied_nodes_do_not_start_a_new_cluster_beside_the_one_with_data() {
    run("two_emptied_nodes_do_not_start_a_new_cluster_beside_the_one_with_data", |scenario| async move {
        let (mut cluster, history) = filled(&scenario).await?;
        cluster.kill_all()?;
        let kept: Vec<PathBuf> = [0, 1].map(|at| scenario.home.join(format!("kept-{at}"))).to_vec();
        for (at, kept) in kept.iter().enumerate() {
            fs::rename(&cluster.nodes[at].data_dir, kept)?;
        }
        cluster.nodes[2].start()?;
        for at in 0..2 {
            cluster.nodes[at].start()?;
        }
        for at in 0..2 {
            let status = cluster.nodes[at].wait_exit(REFUSAL_PATIENCE).await?;
            ensure!(!status.success(), "{} ended with {status}", cluster.nodes[at].name);
        }
        ensure!(cluster.nodes[2].is_running()?, "the node with data ended too:\n{}", cluster.nodes[2].log_tail(20));
        for (at, kept) in kept.iter().enumerate() {
            cluster.nodes[at].wipe()?;
            fs::rename(kept, &cluster.nodes[at].data_dir)?;
        }
        cluster.start_all().await?;
        check::whole_cluster(&cluster, "k/", &history).await?;
        Ok(())
    });
}

#[test]
fn a_directory_of_another_member_or_cluster_is_refused() {
    run("a_directory_of_another_member_or_cluster_is_refused", |scenario| async move {
        let (mut cluster, history) = filled(&scenario).await?;
        cluster.nodes[0].kill()?;
        cluster.nodes[1].kill()?;
        let own = cluster.nodes[0].data_dir.clone();
        let flags = cluster.nodes[0].flags().to_vec();

        let changed = |from: &str, to: &str| -> Vec<String> {
            flags.iter().map(|flag| if flag.starts_with(from) { format!("{from}{to}") } else { flag.clone() }).collect()
        };
        let other = cluster.nodes[1].data_dir.display().to_string();
        cluster.nodes[0].set_flags(changed("--data-dir=", &other));
        println!("another member's directory: {}", refused(&mut cluster.nodes[0], &["member"]).await?);
        cluster.nodes[0].set_flags(changed("--initial-cluster-token=", "another-cluster"));
        println!("another cluster's directory: {}", refused(&mut cluster.nodes[0], &["cluster"]).await?);

        cluster.nodes[0].set_flags(flags.clone());
        ensure!(own.is_dir(), "the refused starts removed {}", own.display());
        cluster.start_all().await?;
        check::whole_cluster(&cluster, "k/", &history).await?;
        Ok(())
    });
}

/// The segments of the node's Raft log, oldest first.
fn segments(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(segments(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "wal") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Where the written part of a segment ends. A record may end in a few zeroes; more of them were laid out in advance.
fn written_bytes(segment: &Path) -> Result<usize> {
    const ZEROES_IN_RECORD_MAX: usize = 64;
    let bytes = fs::read(segment)?;
    let last = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    Ok(if bytes.len() - last <= ZEROES_IN_RECORD_MAX { bytes.len() } else { last })
}

#[test]
fn a_torn_end_of_the_log_is_cut_and_the_member_catches_up() {
    run("a_torn_end_of_the_log_is_cut_and_the_member_catches_up", |scenario| async move {
        let (mut cluster, mut history) = filled(&scenario).await?;
        let victim = cluster.follower().await?;
        cluster.nodes[victim].kill()?;
        // The beginning of one more record: what a write leaves that a crash interrupted before it was acked.
        let last = segments(&cluster.nodes[victim].data_dir)?.pop().context("the node has no log")?;
        let bytes = fs::read(&last)?;
        let length = written_bytes(&last)?;
        ensure!(length > 4_096, "only {length} bytes of log");
        let mut file = OpenOptions::new().write(true).open(&last)?;
        // Its first bytes are lost, too: the last record of the log may end with zeros, which `written_bytes` does not see.
        file.seek(SeekFrom::Start(u64::try_from(length + 16)?))?;
        file.write_all(&bytes[length - 60..length - 20])?;
        drop(file);
        cluster.restart(victim).await?;
        let load = Workload::start(&cluster.endpoints(), "k/after", 4);
        load.wait_acks(100, WRITE_PATIENCE).await?;
        history.extend(load.finish().await?);
        check::whole_cluster(&cluster, "k/", &history).await?;
        Ok(())
    });
}

#[test]
fn a_member_that_lost_synced_records_catches_up_or_says_why_not() {
    run("a_member_that_lost_synced_records_catches_up_or_says_why_not", |scenario| async move {
        let (mut cluster, mut history) = filled(&scenario).await?;
        let victim = cluster.follower().await?;
        cluster.nodes[victim].kill()?;
        let last = segments(&cluster.nodes[victim].data_dir)?.pop().context("the node has no log")?;
        let length = written_bytes(&last)?;
        OpenOptions::new().write(true).open(&last)?.set_len(u64::try_from(length - 7)?)?;
        cluster.nodes[victim].start()?;
        let others: Vec<String> = (0..3).filter(|at| *at != victim).map(|at| cluster.nodes[at].endpoint()).collect();
        let load = Workload::start(&others, "k/after", 4);
        load.wait_acks(100, WRITE_PATIENCE).await?;
        history.extend(load.finish().await?);
        let node = &mut cluster.nodes[victim];
        let serves = node.wait_ready(REFUSAL_PATIENCE).await;
        println!("seven synced bytes lost: {}", node.log_tail(1));
        if serves.is_ok() {
            check::whole_cluster(&cluster, "k/", &history).await?;
            return Ok(());
        }
        ensure!(!node.is_started(), "it neither serves nor ends:\n{}", node.log_tail(20));
        let said = node.log();
        ensure!(said.contains("log") && !said.contains("panicked"), "no reason given:\n{said}");
        let at = (victim + 1) % 3;
        check::contents(&mut cluster.client(at).await?, "k/", &history).await
    });
}

#[test]
fn a_flipped_bit_in_the_middle_of_the_log_is_refused() {
    run("a_flipped_bit_in_the_middle_of_the_log_is_refused", |scenario| async move {
        let (mut cluster, history) = filled(&scenario).await?;
        let victim = cluster.follower().await?;
        cluster.nodes[victim].kill()?;
        let last = segments(&cluster.nodes[victim].data_dir)?.pop().context("the node has no log")?;
        let middle = u64::try_from(written_bytes(&last)? / 2)?;
        flip(&last, middle)?;
        let said = refused(&mut cluster.nodes[victim], &["damaged", ".wal"]).await?;
        println!("flipped bit at byte {middle}: {said}");
        let others: Vec<usize> = (0..3).filter(|at| *at != victim).collect();
        let mut client = cluster.client(others[0]).await?;
        check::contents(&mut client, "k/", &history).await?;
        flip(&last, middle)?;
        cluster.restart(victim).await?;
        check::whole_cluster(&cluster, "k/", &history).await?;
        Ok(())
    });
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    byte[0] ^= 0x10;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&byte)?;
    Ok(())
}

/// A small file system in memory, unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` with a printed reason where mounting is not allowed.
    fn mount(at: &Path, megabytes: u32) -> Result<Option<Self>> {
        fs::create_dir_all(at)?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(at)
            .output()
            .context("cannot run mount")?;
        if !output.status.success() {
            println!("skipped: no small disk: {}", String::from_utf8_lossy(&output.stderr).trim());
            return Ok(None);
        }
        Ok(Some(Self(at.to_owned())))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a node that is being killed may still hold files; nothing can be done about a failure here.
        let _unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_the_node_with_a_reason_and_loses_nothing() {
    run("a_full_disk_ends_the_node_with_a_reason_and_loses_nothing", |scenario| async move {
        let mut cluster = Cluster::new(Program::Tenured, 1, &scenario.home)?;
        let Some(disk) = SmallDisk::mount(&cluster.nodes[0].data_dir, 256)? else { return Ok(()) };
        cluster.start_all().await?;
        let load = Workload::start(&cluster.endpoints(), "k/0", 8);
        load.wait_acks(500, WRITE_PATIENCE).await?;
        let ballast = disk.0.join("ballast");
        fill(&ballast)?;
        let status = cluster.nodes[0].wait_exit(Duration::from_secs(60)).await;
        let mut history = load.finish().await?;
        let status = status?;
        let said = cluster.nodes[0].log();
        ensure!(!status.success(), "ended with {status}");
        ensure!(said.to_lowercase().contains("no space left"), "no reason:\n{}", cluster.nodes[0].log_tail(20));
        ensure!(!said.contains("panicked"), "panicked:\n{said}");
        println!("full disk after {} acked writes: {status}: {}", history.acks.len(), cluster.nodes[0].log_tail(1));
        fs::remove_file(&ballast)?;
        cluster.start_all().await?;
        let load = Workload::start(&cluster.endpoints(), "k/1", 8);
        load.wait_acks(100, WRITE_PATIENCE).await?;
        history.extend(load.finish().await?);
        check::whole_cluster(&cluster, "k/", &history).await?;
        cluster.kill_all()?;
        Ok(())
    });
}

/// Writes until the file system is full.
fn fill(path: &Path) -> Result<()> {
    let mut file = fs::File::create(path)?;
    for size in [1 << 20, 4_096, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
    Ok(())
}

/// A tracer attached to one node; it records every sync of a log segment with its time and file.
struct Tracer {
    child: std::process::Child,
    output: PathBuf,
}

impl Tracer {
    async fn attach(node: &Node, folder: &Path) -> Result<Self> {
        let output = folder.join(format!("{}.strace", node.name));
        let stderr = folder.join(format!("{}.strace-says", node.name));
        let child = Command::new("strace")
            .args(["-f", "-y", "-ttt", "-T", "-e", "trace=fdatasync,fsync,sync_file_range", "-o"])
            .arg(&output)
            .args(["-p", &node.pid()?.to_string()])
            .stdin(Stdio::null())
            .stderr(fs::File::create(&stderr)?)
            .spawn()
            .context("cannot start strace")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !fs::read_to_string(&stderr)?.contains("attached") {
            ensure!(Instant::now() < deadline, "strace does not attach: {}", fs::read_to_string(&stderr)?);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { child, output })
    }

    /// Detaches and returns when each sync of a segment ended, in seconds since 1970.
    async fn finish(mut self) -> Result<Vec<f64>> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id())?).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "strace does not end");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(sync_ends(&fs::read_to_string(&self.output)?))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Both fail only if it ended already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// `PID TIME fdatasync(FD<FILE>) = 0 <DURATION>`, or split in two lines when another thread came between.
fn sync_ends(trace: &str) -> Vec<f64> {
    let mut open: BTreeMap<&str, bool> = BTreeMap::new();
    let mut ends = Vec::new();
    for line in trace.lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(time)) = (words.next(), words.next().and_then(|time| time.parse::<f64>().ok())) else {
            continue;
        };
        let is_sync = line.contains("fdatasync(") || line.contains("fsync(");
        if is_sync && line.contains("<unfinished") {
            open.insert(thread, line.contains(".wal"));
        } else if is_sync && line.contains(".wal") && line.contains("= 0") {
            let duration = line.rsplit_once('<').and_then(|(_, end)| end.trim_end_matches('>').parse::<f64>().ok());
            ends.push(time + duration.unwrap_or(0.0));
        } else if line.contains("sync resumed") && line.contains("= 0") && open.remove(thread) == Some(true) {
            ends.push(time);
        }
    }
    ends
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

#[test]
fn every_acked_group_is_synced_on_a_quorum_before_its_answer() {
    run("every_acked_group_is_synced_on_a_quorum_before_its_answer", |scenario| async move {
        if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
            println!("skipped: strace is not installed");
            return Ok(());
        }
        let mut cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let mut client = cluster.client(leader).await?;
        client.put("warm", "up", None).await?;
        let mut tracers = Vec::new();
        for node in &cluster.nodes {
            tracers.push(Tracer::attach(node, &scenario.home).await?);
        }
        const PUTS: usize = 200;
        let mut windows = Vec::new();
        for at in 0..PUTS {
            let sent = now()?;
            client.put(format!("k/{at}"), "value", None).await?;
            windows.push((sent, now()?));
        }
        let mut syncs = Vec::new();
        for tracer in tracers {
            syncs.push(tracer.finish().await?);
        }
        for (at, (sent, acked)) in windows.iter().enumerate() {
            let synced = syncs.iter().filter(|ends| ends.iter().any(|end| sent <= end && end <= acked)).count();
            ensure!(synced >= 2, "put {at} was acked after a sync on {synced} nodes only");
        }
        let counts: Vec<usize> = syncs.iter().map(Vec::len).collect();
        println!(
            "{PUTS} puts by one client: log syncs per node {counts:?}; each put was synced on 2 nodes before its answer"
        );
        many_clients_share_syncs(&mut cluster, &scenario).await
    });
}

async fn many_clients_share_syncs(cluster: &mut Cluster, scenario: &Scenario) -> Result<()> {
    let mut tracers = Vec::new();
    for node in &cluster.nodes {
        tracers.push(Tracer::attach(node, &scenario.home).await?);
    }
    let load = Workload::start(&cluster.endpoints(), "many/", 200);
    load.wait_acks(4_000, Duration::from_secs(60)).await?;
    let acks = load.finish().await?.acks.len();
    let mut counts = Vec::new();
    for tracer in tracers {
        counts.push(tracer.finish().await?.len());
    }
    println!("{acks} puts by 200 clients: log syncs per node {counts:?}");
    if counts.iter().any(|count| *count >= acks) {
        bail!("puts of concurrent clients do not share syncs: {acks} puts, syncs {counts:?}");
    }
    Ok(())
}
