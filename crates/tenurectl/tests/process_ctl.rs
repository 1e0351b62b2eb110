//! tenurectl against real tenured processes: every command, for people and for programs, and what is said when things break.

mod ctl;
#[path = "ctl/locks.rs"]
mod locks;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::Cluster;
use tenure_tests::ports::free_base_port;
use tenure_tests::scenario;

use ctl::Ctl;

macro_rules! scenarios {
    ($($test:ident: $scenario:path;)*) => { $(
        #[test]
        fn $test() {
            scenario::run("process_ctl", stringify!($test), |scenario| async move {
                $scenario(Program::Tenured, &scenario.home).await
            });
        }
    )* };
}

scenarios! {
    a_benchmark_reports_and_counts_failures: ctl::bench::reports;
    a_benchmark_is_stopped_with_a_report: ctl::bench::interrupted;
    keys_are_read_written_and_deleted: ctl::keys::keys;
    transactions_are_read_from_stdin: ctl::keys::transactions;
    compaction_and_its_errors: ctl::keys::compaction;
    what_is_too_large_is_refused_with_the_limits_name: ctl::keys::too_large;
    a_leases_life: ctl::leases::leases;
    a_lease_is_kept_alive_over_a_killed_leader: ctl::leases::keep_alive;
    elections_are_won_observed_and_ended: ctl::elections::elections;
    a_candidate_keeps_its_place_when_its_member_is_killed: ctl::elections::fail_over;
    instances_are_registered_listed_and_followed: ctl::discovery::registry;
    a_lock_goes_from_one_to_the_next: locks::turns;
    locks_are_shared_and_counted: locks::modes;
    a_command_runs_under_a_lock: locks::commands;
    a_command_is_ended_before_its_lock_can_be_lost: locks::jeopardy;
    a_holder_that_stood_still_has_lost_its_lock: locks::paused_holder;
    a_lock_and_a_place_outlive_a_killed_member: locks::fail_over;
    watches_tell_changes: ctl::watches::watches;
    watches_and_reads_end_with_their_reader: ctl::watches::pipes;
    a_watch_misses_and_repeats_nothing_while_members_are_killed: ctl::watches::resumes;
    a_healthy_cluster: ctl::cluster::healthy;
    a_snapshot_is_saved: ctl::cluster::snapshot;
    leadership_is_moved: ctl::cluster::move_leader;
    one_member_is_down: ctl::cluster::one_down;
    two_members_are_down: ctl::cluster::no_leader;
    the_leader_stands_still: ctl::cluster::paused;
}

/// What the error tells a person to run gets writes going again.
#[test]
fn a_full_store_says_how_to_make_room() {
    scenario::run("process_ctl", "a_full_store_says_how_to_make_room", |scenario| async move {
        let mut cluster = Cluster::with_flags(Program::Tenured, 1, &scenario.home, &["--quota-backend-bytes=1000000"])?;
        cluster.start_all().await?;
        let ctl = Ctl::of(&cluster);
        let value = vec![b'v'; 300_000];
        let mut said = ctl.feed(&value, &["put", "key", "-"]).await?;
        for _ in 0..4 {
            said = ctl.feed(&value, &["put", "key", "-"]).await?;
        }
        ensure!(said.code == Some(1), "{said:?}");
        ensure!(said.err.starts_with("tenurectl: mvcc: database space exceeded\n  "), "{}", said.err);
        ensure!(
            said.err.contains(" of 976.5 KiB used, ") && said.err.contains("`tenurectl alarm disarm`"),
            "{}",
            said.err
        );
        ctl.fails_as("no_space", 1, &["put", "key", "small"]).await?;
        let alarms = ctl.json(&["alarm", "list"]).await?;
        ensure!(alarms["alarms"][0]["alarm"] == "NOSPACE", "{alarms}");
        ensure!(ctl.run(&["status"]).await?.code == Some(5) && ctl.run(&["endpoint", "health"]).await?.code == Some(5));
        let compact = said.err.split("`tenurectl ").nth(1).and_then(|rest| rest.split('`').next());
        let compact: Vec<&str> = compact.context("no command in the hint")?.split(' ').collect();
        ensure!(compact[0] == "compact", "{compact:?}");
        ctl.says(&compact).await?;
        ensure!(ctl.says(&["alarm", "disarm"]).await?.ends_with("NOSPACE\ndisarmed 1 alarm\n"));
        ctl.says(&["put", "key", "small"]).await?;
        ensure!(ctl.run(&["status"]).await?.code == Some(0));
        Ok(())
    });
}

#[test]
fn a_unix_socket_is_an_endpoint() {
    scenario::run("process_ctl", "a_unix_socket_is_an_endpoint", |scenario| async move {
        let mut cluster = Cluster::new(Program::Tenured, 1, &scenario.home)?;
        let socket = format!("unix://{}", scenario.home.join("clients.sock").display());
        let mut flags = cluster.flags_of(0);
        // The harness asks for the node's health over TCP.
        flags.push(format!("--listen-client-urls={},{socket}", cluster.nodes[0].endpoint()));
        cluster.nodes[0].set_flags(flags);
        cluster.start_all().await?;
        let ctl = Ctl::at(std::slice::from_ref(&socket));
        ctl.says(&["put", "key", "value"]).await?;
        ensure!(ctl.says(&["get", "key"]).await? == "value\n");
        let versions = ctl.json(&["version"]).await?;
        ensure!(
            versions["servers"][0]["endpoint"] == socket && versions["servers"][0]["tenure"].is_string(),
            "{versions}"
        );
        cluster.nodes[0].kill()?;
        let error = ctl.fails(3, &["get", "key"]).await?;
        ensure!(error.contains(&format!("  {socket}  connection refused\n")), "{error}");
        Ok(())
    });
}

/// A local cluster made by `cluster-scripts/start`, removed in the end whatever happens.
struct LocalCluster {
    folder: PathBuf,
    base_port: String,
}

impl LocalCluster {
    fn script(&self, script: &str) -> Result<String> {
        let output = Command::new(scripts().join(script))
            .env("TENURED_BIN", Program::Tenured.path()?)
            .env("TENURECTL_BIN", env!("CARGO_BIN_EXE_tenurectl"))
            .env("TENURE_CLUSTER_DIR", self.folder.join("cluster"))
            .env("TENURE_BASE_PORT", &self.base_port)
            .env("TENURE_NODES", "3")
            .current_dir(&self.folder)
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{script}: {said}");
        Ok(said.into_owned())
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        // If it fails, it failed before: the processes end with the files that they need.
        drop(self.script("clean"));
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster-scripts")
}

#[test]
fn the_commands_that_the_start_script_prints_work_when_pasted() {
    scenario::run("process_ctl", "the_commands_that_the_start_script_prints_work_when_pasted", |scenario| async move {
        let folder = scenario.home.join("a folder");
        std::fs::create_dir_all(&folder)?;
        let local = LocalCluster { folder: folder.clone(), base_port: free_base_port()?.to_string() };
        let said = local.script("start")?;
        let commands: Vec<&str> =
            said.lines().skip_while(|line| *line != "Try:").skip(1).take_while(|line| line.starts_with("  ")).collect();
        ensure!(commands.len() == 3, "{said}");
        let mut outputs = Vec::new();
        for command in commands {
            let output = Command::new("bash").arg("-c").arg(command).current_dir(&folder).output()?;
            ensure!(output.status.success(), "{command}: {output:?}");
            outputs.push(String::from_utf8(output.stdout)?);
        }
        ensure!(outputs[0] == "written at revision 2\n" && outputs[1] == "hello\n", "{outputs:?}");
        ensure!(outputs[2].contains("\n3 of 3 up; n"), "{outputs:?}");
        Ok(())
    });
}
