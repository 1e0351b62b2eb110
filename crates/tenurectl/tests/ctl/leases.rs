//! `lease`: grant, renew, show, list, revoke, and what is said about leases that are gone.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};

use super::{Ctl, same};

/// A lease's whole life, told to people and to programs.
pub(crate) async fn leases(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    same(&ctl.says(&["lease", "list"]).await?, "no leases\n")?;
    same(&ctl.says(&["lease", "grant", "600", "--id=1f"]).await?, "lease 000000000000001f granted for 600 s\n")?;
    let raised = ctl.says(&["lease", "grant", "1", "--id", "0x2f"]).await?;
    same(&raised, "lease 000000000000002f granted for 2 s (the server raised it)\n")?;
    ctl.says(&["lease", "revoke", "2f"]).await?;
    let exists = ctl.fails(1, &["lease", "grant", "60", "--id=1f"]).await?;
    same(&exists, "tenurectl: lease already exists\nPick another id, or leave --id out.\n")?;

    ctl.says(&["put", "service/1", "up", "--lease=1f"]).await?;
    ctl.says(&["put", "service/2", "up", "--lease=000000000000001f"]).await?;
    let kv = ctl.json(&["get", "service/1"]).await?["kvs"][0].clone();
    ensure!(kv["lease"] == "000000000000001f", "{kv}");
    let detail = ctl.says(&["get", "service/1", "--detail"]).await?;
    ensure!(detail.contains("  000000000000001f  up\n"), "{detail}");

    let shown = ctl.json(&["lease", "show", "1f"]).await?;
    let left = shown["remaining_secs"].as_i64().context("a number")?;
    ensure!((500..=600).contains(&left) && shown["ttl_secs"] == 600, "{shown}");
    ensure!(shown["id"] == "000000000000001f" && shown["keys"] == json!(["service/1", "service/2"]), "{shown}");
    let shown = ctl.says(&["lease", "timetolive", "1f", "--keys"]).await?;
    ensure!(
        shown.starts_with("lease 000000000000001f: ") && shown.ends_with(", 2 keys:\n  service/1\n  service/2\n"),
        "{shown}"
    );

    let granted = ctl.json(&["lease", "grant", "60"]).await?;
    let other = granted["id"].as_str().context("an id")?;
    ensure!(granted["ttl_secs"] == 60 && other.len() == 16, "{granted}");
    let listed = ctl.json(&["lease", "list"]).await?;
    let mut listed: Vec<_> = listed["leases"]
        .as_array()
        .context("leases")?
        .iter()
        .map(|lease| (lease["id"].clone(), lease["keys"].clone()))
        .collect();
    listed.sort_by_key(|(id, _)| id.to_string());
    let mut expected = vec![(json!("000000000000001f"), json!(2)), (json!(other), json!(0))];
    expected.sort_by_key(|(id, _)| id.to_string());
    ensure!(listed == expected, "{listed:?}");
    let table = ctl.says(&["lease", "list"]).await?;
    ensure!(table.starts_with("LEASE               TTL  REMAINING  KEYS\n") && table.contains("  600 s"), "{table}");
    ensure!(ctl.says(&["lease", "list", "--ids-only"]).await?.lines().count() == 2);

    let revoked = ctl.says(&["lease", "revoke", "1f"]).await?;
    same(&revoked, "lease 000000000000001f revoked (revision 4)\n")?;
    same(&ctl.says(&["get", "", "--prefix", "--count-only"]).await?, "0\n")?;
    if is_tenure(program) {
        explained(&ctl).await?;
        held(&ctl).await?;
    } else {
        ctl.fails_as("unimplemented", 1, &["explain", "lease", "1f"]).await?;
        ctl.fails_as("unimplemented", 1, &["lease", "grant", "600", "--holder=web-1"]).await?;
    }
    gone(&ctl, program).await
}

/// A lease that says whom it is for.
async fn held(ctl: &Ctl) -> Result<()> {
    let granted = ctl.says(&["lease", "grant", "600", "--id=4f", "--holder=web-1", "--note=rack 7"]).await?;
    same(&granted, "lease 000000000000004f granted for 600 s\n")?;
    let shown = ctl.says(&["lease", "show", "4f"]).await?;
    ensure!(shown.ends_with(" s left of 600 s, for web-1: rack 7, 0 keys\n"), "{shown}");
    let listed = ctl.says(&["lease", "list"]).await?;
    ensure!(
        listed.lines().any(|line| line.starts_with("000000000000004f") && line.ends_with("web-1: rack 7")),
        "{listed}"
    );
    ctl.says(&["lease", "revoke", "4f"]).await?;
    let told = ctl.json(&["explain", "lease", "4f"]).await?;
    ensure!(told["ended"]["holder_name"] == "web-1", "{told}");
    Ok(())
}

/// Why leases are gone, those above: one was revoked, another never was.
async fn explained(ctl: &Ctl) -> Result<()> {
    let told = ctl.says(&["explain", "lease", "1f"]).await?;
    let start = "lease 000000000000001f was revoked by the client at 127.0.0.1:";
    ensure!(told.starts_with(start), "{told}");
    ensure!(told.contains("  keys      2 keys deleted in revision 4\n  renewals  none\n"), "{told}");
    ensure!(told.contains(" ago, through member n1 ("), "{told}");
    let told = ctl.json(&["explain", "lease", "1f"]).await?;
    ensure!(told["state"] == "revoked" && told["ended"]["keys"] == 2 && told["alive"].is_null(), "{told}");
    ensure!(told["ended"]["ttl_ms"] == 600_000 && told["ended"]["member_name"] == "n1", "{told}");
    let told = ctl.json(&["explain", "lease", "3f"]).await?;
    ensure!(told["state"] == "unknown" && told["ended"].is_null() && told["ends_dropped"] == 0, "{told}");
    let told = ctl.says(&["explain", "lease", "3f"]).await?;
    ensure!(told.starts_with("lease 000000000000003f is not there, nor is it among the 2 leases"), "{told}");
    ctl.says(&["lease", "grant", "600", "--id=3f"]).await?;
    let told = ctl.says(&["explain", "lease", "3f"]).await?;
    ensure!(told.starts_with("lease 000000000000003f is alive: ") && told.contains(" left of 10 min 0 s\n"), "{told}");
    Ok(())
}

fn is_tenure(program: Program) -> bool {
    matches!(program, Program::Tenured | Program::TenuredFaults)
}

async fn gone(ctl: &Ctl, program: Program) -> Result<()> {
    let said = "tenurectl: there is no lease 000000000000001f\n";
    let (before, after) = if is_tenure(program) {
        let after = "`tenurectl explain lease 000000000000001f` tells all about its end; `tenurectl lease list` shows what is \
                     left.\n";
        ("  it was revoked by the client at 127.0.0.1:", after)
    } else {
        let before = "It was revoked, or nobody renewed it in time. ";
        (before, "`tenurectl lease list` shows those that are left.\n")
    };
    for arguments in [
        &["lease", "revoke", "1f"][..],
        &["put", "k", "v", "--lease=1f"],
        &["lease", "show", "1f"],
        &["lease", "keep-alive", "1f"],
        &["lease", "keep-alive", "1f", "--once"],
    ] {
        let told = ctl.fails(1, arguments).await?;
        ensure!(told.starts_with(&format!("{said}{before}")) && told.ends_with(after), "{told}");
        ctl.fails_as("lease_not_found", 1, arguments).await?;
    }
    Ok(())
}

/// A lease stays alive while somebody renews it, also when the leader is killed, and ends afterwards.
pub(crate) async fn keep_alive(program: Program, home: &Path) -> Result<()> {
    const TTL: Duration = Duration::from_secs(4);
    let mut cluster = Cluster::start(program, 3, home).await?;
    let ctl = Ctl::of(&cluster);
    ctl.says(&["lease", "grant", "4", "--id=1f"]).await?;
    ctl.says(&["put", "mine", "1", "--lease=1f"]).await?;
    let once = ctl.json(&["lease", "keepalive", "1f", "--once"]).await?;
    ensure!(once == json!({"id": "000000000000001f", "ttl_secs": 4}), "{once}");

    let mut renewals = ctl.follow(&["lease", "keep-alive", "1f"])?;
    same(&renewals.line().await?, "lease 000000000000001f renewed: 4 s left")?;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    cluster.nodes[leader].kill()?;
    let killed = Instant::now();
    while killed.elapsed() < TTL * 2 {
        renewals.line().await?;
    }
    same(&ctl.says(&["get", "mine"]).await?, "1\n")?;
    let status = renewals.interrupt().await?;
    ensure!(status.code() == Some(0), "Ctrl-C ends it with {status}");

    // Nobody renews it any more: the command below ends when the lease has.
    let mut watch = ctl.follow(&["watch", "mine", "-ojson"])?;
    let told = watch.next("events").await?;
    ensure!(told["events"][0]["change"] == "delete", "{told}");
    Ok(())
}
