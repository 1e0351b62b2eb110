//! Locks between `tenurectl` and what is not Tenure's: etcdctl, and an etcd.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::Cluster;
use tenure_tests::etcdctl;

use crate::ctl::{Ctl, Follow, same};

/// The code of "somebody else has it".
const BUSY: i32 = 75;

/// `etcdctl lock` and `tenurectl lock` wait for each other.
pub(crate) async fn with_etcdctl(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    let etcdctl = |arguments: &[&str]| -> Result<Follow> {
        let mut command = etcdctl::command(&cluster.endpoints().join(","))?;
        Follow::of(command.args(arguments).stderr(std::process::Stdio::inherit()))
    };
    let mut theirs = etcdctl(&["lock", "a"])?;
    let key = theirs.line().await?;
    let shown = ctl.json(&["lock", "show", "a"]).await?;
    ensure!(shown["queue"][0]["key"] == key && shown["queue"][0]["state"] == "holds", "{shown}: {key}");
    ensure!(shown["queue"][0]["native"] == false, "{shown}");
    ctl.fails(BUSY, &["try-lock", "a"]).await?;
    let mut ours = ctl.follow(&["lock", "a", "--ttl=60", "-ojson"])?;
    ctl.contenders("a", 2).await?;
    ensure!(theirs.interrupt().await?.success());
    let held = ours.json().await?;
    let mut theirs = etcdctl(&["lock", "a", "--", "sh", "-c", "echo $ETCD_LOCK_REV"])?;
    ctl.contenders("a", 2).await?;
    ensure!(ours.interrupt().await?.code() == Some(0));
    ensure!(theirs.line().await?.parse::<i64>()? > held["token"].as_i64().context("a token")?);
    ensure!(theirs.ended().await?.success());
    // An operator may take away what an etcd client holds.
    let mut theirs = etcdctl(&["lock", "a"])?;
    let key = theirs.line().await?;
    let taken = ctl.says(&["unlock", "a", "--force", "--reason=x"]).await?;
    ensure!(taken.starts_with(&format!("a is taken away from key {key}: token ")), "{taken}");
    ensure!(ctl.run(&["try-lock", "a", "--", "true"]).await?.code == Some(0));
    Ok(())
}

/// A server without this service says so; nothing is left there.
pub(crate) async fn not_there(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    for arguments in [&["lock", "a"][..], &["try-lock", "a", "--", "true"], &["locks"], &["lock", "show", "a"]] {
        ctl.fails_as("unimplemented", 1, arguments).await?;
    }
    same(&ctl.says(&["lease", "list"]).await?, "no leases\n")
}
