//! `discovery list`, `watch` and `register`.

use std::path::Path;

use anyhow::{Result, ensure};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::Cluster;

use super::{Ctl, same};

/// An instance registers, is seen, is replaced by another process, and goes by its own will.
pub(crate) async fn registry(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    same(&ctl.says(&["discovery", "list", "prod"]).await?, "no instances\n")?;
    let mut watch = ctl.follow(&["discovery", "watch", "prod", "--kind", "room", "-ojson"])?;
    ensure!(watch.next("started").await?["instances"] == 0);

    let register = ["discovery", "register", "prod", "room", "eu/7", "-ojson", "--addr"];
    let mut first = ctl.follow(&[&register[..], &["a:1", "--meta=seats=8"]].concat())?;
    let registered = first.json().await?;
    ensure!(registered["key"] == "discovery/prod/room/eu%2F7", "{registered}");
    let added = watch.next("added").await?;
    ensure!(added["instance"]["addr"] == "a:1" && added["instance"]["meta"]["seats"] == 8, "{added}");
    let listed = ctl.json(&["discovery", "list", "prod"]).await?;
    let row = &listed["instances"][0];
    ensure!(row["id"] == "eu/7" && row["lease"] == registered["lease"], "{listed}");
    ensure!(ctl.json(&["discovery", "list", "prod", "--kind=bot"]).await?["instances"] == serde_json::json!([]));
    let taken = ctl.fails_as("ended", 1, &[&register[..], &["b:1", "--no-replace"]].concat()).await?;
    ensure!(taken["message"].as_str().is_some_and(|text| text.contains("by another process")), "{taken}");

    let mut second = ctl.follow(&[&register[..], &["b:1"]].concat())?;
    second.json().await?;
    ensure!(watch.next("updated").await?["new"]["addr"] == "b:1");
    ensure!(first.ended().await?.code() == Some(1), "the first has a successor");
    // By hand, as a program in any language may.
    ctl.says(&["put", "discovery/prod/room/8", "{\"v\":1}"]).await?;
    ensure!(watch.next("added").await?["instance"]["id"] == "8");
    ctl.says(&["put", "discovery/prod/room/9", "nonsense"]).await?;
    ensure!(watch.next("skipped").await?["key"] == "discovery/prod/room/9");
    ensure!(second.interrupt().await?.code() == Some(0));
    let removed = watch.next("removed").await?;
    ensure!(removed["why"] == "deregistered" && removed["instance"]["id"] == "eu/7", "{removed}");
    ensure!(ctl.json(&["discovery", "list", "prod"]).await?["instances"].as_array().map(Vec::len) == Some(1));
    ensure!(watch.interrupt().await?.code() == Some(0));
    Ok(())
}
