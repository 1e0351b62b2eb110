//! `elect`, `observe` and `resign`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};

use super::{Ctl, Follow, same};

/// The key, value and create revision that a leader says.
async fn elected(leader: &mut Follow) -> Result<(String, String, i64)> {
    let told = leader.json().await?;
    let text = |name: &str| told[name].as_str().map(str::to_owned).context(told.to_string());
    Ok((text("key")?, text("value")?, told["create_revision"].as_i64().context("a revision")?))
}

/// Leaders follow each other, by resigning, by being ended and by being stopped, and an observer sees them.
pub(crate) async fn elections(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    let none = ctl.fails_as("refused", 1, &["resign", "e"]).await?;
    ensure!(none["message"] == "election: no leader", "{none}");
    let mut observer = ctl.follow(&["observe", "e"])?;
    let mut first = ctl.follow(&["elect", "e", "one", "-ojson"])?;
    let (key, value, created) = elected(&mut first).await?;
    ensure!(key.starts_with("e/") && value == "one", "{key}: {value}");
    same(&observer.line().await?, &format!("{created:>8}  {key}  one"))?;
    let mut second = ctl.follow(&["elect", "e", "two\n", "-ojson", "--ttl=60"])?;
    let waiting = ["get", "e/", "--prefix", "--count-only"];
    while ctl.json(&waiting).await?["count"] != 2 {}
    // Ended from outside, it says so.
    let resigned = ctl.says(&["resign", "e"]).await?;
    ensure!(resigned.starts_with(&format!("{key} leads no more: one (revision ")), "{resigned}");
    ensure!(first.ended().await?.code() == Some(1));
    let (key, value, created) = elected(&mut second).await?;
    ensure!(value == "two\n", "{value:?}");
    same(&observer.line().await?, &format!("{created:>8}  {key}  two\\n"))?;
    // Stopped, it gives its place up at once: nobody waits for a lease of a minute.
    ensure!(second.interrupt().await?.code() == Some(0));
    ensure!(ctl.json(&waiting).await?["count"] == 0);
    ensure!(observer.interrupt().await?.code() == Some(0));
    Ok(())
}

/// Candidates and observers outlive the member that they talked to, and keep their place.
pub(crate) async fn fail_over(program: Program, home: &Path) -> Result<()> {
    let mut cluster = Cluster::start(program, 3, home).await?;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    let rest = Ctl::at(&[cluster.endpoints()[(leader + 1) % 3].clone()]);
    let mut endpoints = cluster.endpoints();
    endpoints.rotate_left(leader);
    let ctl = Ctl::at(&endpoints);
    let mut first = rest.follow(&["elect", "e", "one", "-ojson", "--ttl=60"])?;
    elected(&mut first).await?;
    let mut observer = ctl.follow(&["observe", "e", "-ojson"])?;
    ensure!(observer.json().await?["leader"]["value"] == "one");
    let mut second = ctl.follow(&["elect", "e", "two", "-ojson", "--ttl=60"])?;
    let waiting = ["get", "e/", "--prefix", "--count-only"];
    while rest.json(&waiting).await?["count"] != 2 {}
    let listed = rest.json(&["get", "e/", "--prefix", "--sort-by", "create"]).await?;
    let place = listed["kvs"][1].clone();
    cluster.nodes[leader].kill()?;
    cluster.wait_leader(LEADER_PATIENCE).await?;
    ensure!(first.interrupt().await?.code() == Some(0));
    let (key, value, created) = elected(&mut second).await?;
    ensure!(value == "two" && place["key"] == key.as_str() && place["create_revision"] == created, "{place}");
    ensure!(observer.json().await?["leader"]["value"] == "two");
    ensure!(second.interrupt().await?.code() == Some(0));
    ensure!(observer.interrupt().await?.code() == Some(0));
    Ok(())
}
