//! The example programs, as somebody runs them who tries them: against three members, one of which is killed, and until they are told to stop.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tenure_client::{Client, ConnectOptions};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::{process, scenario};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Hit only by a bug: each waits for a TTL at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// An example that runs.
struct Example {
    what: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: Vec<String>,
}

impl Example {
    fn start(program: &str, cluster: &Cluster, arguments: &[&str]) -> Result<Example> {
        let mut command = Command::new(program);
        command.args(["--endpoints", &cluster.endpoints().join(",")]).args(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Example { what: format!("{program} {arguments:?}"), child, lines, said: Vec::new() })
    }

    /// The next line that has this in it.
    async fn says(&mut self, wanted: &str) -> Result<String> {
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await;
            let line = line.with_context(|| format!("{} does not say '{wanted}': {:#?}", self.what, self.said))??;
            let Some(line) = line else { bail!("{} ended before it said '{wanted}': {:#?}", self.what, self.said) };
            self.said.push(line.clone());
            if line.contains(wanted) {
                return Ok(line);
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        process::signal(self.child.id().context("it has ended")?, signal)
    }

    /// Tells it to stop, and waits until it has.
    async fn stop(mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.with_context(|| format!("{} does not end", self.what))??;
        ensure!(status.success(), "{} ended with {status}", self.what);
        Ok(())
    }
}

async fn client(cluster: &Cluster) -> Result<Client> {
    Ok(Client::connect(cluster.endpoints(), ConnectOptions::default()).await?)
}

/// Those that were told to stop have given everything back by then.
async fn nothing_is_held(client: &Client) -> Result<()> {
    let leases = client.leases().await?;
    ensure!(leases.is_empty(), "leases of programs that ended: {leases:?}");
    Ok(())
}

fn run<Fut: Future<Output = Result<()>>>(test: &str, body: impl FnOnce(scenario::Scenario) -> Fut) {
    scenario::run("process_examples", test, body);
}

#[test]
fn a_writer_that_was_stopped_is_refused_by_the_file_and_the_database() {
    run("a_writer_that_was_stopped_is_refused_by_the_file_and_the_database", |scenario| async move {
        let cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
        let path = |name: &str| scenario.home.join(name).display().to_string();
        let (file, database) = (path("fenced.log"), path("accounts.db"));
        pause(env!("CARGO_BIN_EXE_fenced-file"), &cluster, &["--ttl", "2", "--file", &file]).await?;
        pause(env!("CARGO_BIN_EXE_fenced-database"), &cluster, &["--ttl", "2", "--database", &database]).await?;
        let writers = writers(Path::new(&file))?;
        ensure!(writers == ["first", "second"], "the file was written by {writers:?}, one after the other");
        nothing_is_held(&client(&cluster).await?).await
    });
}

/// The pause experiment.
async fn pause(program: &str, cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    let mut first = Example::start(program, cluster, &[arguments, &["--name", "first"]].concat())?;
    first.says("has the lock").await?;
    let mut second = Example::start(program, cluster, &[arguments, &["--name", "second"]].concat())?;
    first.says("with token").await?;
    first.signal(Signal::STOP)?;
    second.says("has the lock").await?;
    second.says("with token").await?;
    first.signal(Signal::CONT)?;
    first.says("LOST").await?;
    first.says("REFUSED").await?;
    first.stop(Signal::TERM).await?;
    second.stop(Signal::INT).await
}

/// Who wrote, as often as that changes.
fn writers(file: &Path) -> Result<Vec<String>> {
    let mut writers: Vec<String> =
        std::fs::read_to_string(file)?.lines().filter_map(|line| Some(line.rsplit_once(' ')?.1.to_owned())).collect();
    writers.dedup();
    Ok(writers)
}

#[test]
fn workers_lead_one_after_the_other_as_they_are_asked_to_end_or_are_stopped() {
    run("workers_lead_one_after_the_other_as_they_are_asked_to_end_or_are_stopped", |scenario| async move {
        let mut cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
        let worker = env!("CARGO_BIN_EXE_leader-worker");
        let mut one = Example::start(worker, &cluster, &["--name", "one"])?;
        one.says("leads").await?;
        let mut two = Example::start(worker, &cluster, &["--name", "two"])?;
        two.says("waits for its turn").await?;
        let client = client(&cluster).await?;
        client.election("workers").request_end_of_term("a new version").await?;
        one.says("was asked to end its term: a new version").await?;
        two.says("leads").await?;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        cluster.nodes[leader].kill()?;
        two.says("task").await?;
        two.stop(Signal::TERM).await?;
        one.says("leads").await?;
        one.stop(Signal::INT).await?;
        nothing_is_held(&client).await
    });
}

#[test]
fn rooms_jobs_and_configurations_follow_the_store() {
    run("rooms_jobs_and_configurations_follow_the_store", |scenario| async move {
        let cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
        let client = client(&cluster).await?;
        let rooms = env!("CARGO_BIN_EXE_game-rooms");
        let mut casual = Example::start(rooms, &cluster, &["--id", "casual"])?;
        casual.says("registered as").await?;
        let ranked = Example::start(rooms, &cluster, &["--id", "ranked", "--mode", "ranked"])?;
        casual.says("+ ranked").await?;
        ranked.stop(Signal::TERM).await?;
        casual.says("- ranked").await?;
        casual.stop(Signal::INT).await?;

        let cron = env!("CARGO_BIN_EXE_cron-singleton");
        let mut jobs = Vec::new();
        for _ in 0..2 {
            jobs.push(Example::start(cron, &cluster, &["--every", "1", "--", "true"])?);
        }
        for job in &mut jobs {
            // Each finds the lock taken, or the job done, when it is not the one that runs it.
            job.says(": ").await?;
        }
        for job in jobs {
            job.stop(Signal::TERM).await?;
        }

        let mut watcher = Example::start(env!("CARGO_BIN_EXE_config-watcher"), &cluster, &[])?;
        watcher.says("configuration: {}").await?;
        client.put("config/size", "7").await?;
        watcher.says(r#"configuration: {"config/size": "7"}"#).await?;
        client.delete("config/size").await?;
        watcher.says("configuration: {}").await?;
        watcher.stop(Signal::INT).await?;
        nothing_is_held(&client).await
    });
}
