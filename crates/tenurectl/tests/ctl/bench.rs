//! `bench`: what it reports, how it fails, and how it is stopped. That every workload works is tested with the generator.

use std::path::Path;

use anyhow::{Result, ensure};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::Cluster;

use super::Ctl;

/// Reports, for people and programs, and failures, which are counted and end it with a code of their own.
pub(crate) async fn reports(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    let put = ["bench", "put", "--total", "100", "--clients", "20", "--keys", "50", "--warm-up", "0"];
    let report = ctl.json(&put).await?;
    ensure!(report["workload"] == "put" && report["operations"] == 100 && report["failed"] == 0, "{report}");
    ensure!(report["latency"]["p99_ms"].as_f64().is_some_and(|p99| p99 > 0.0), "{report}");
    ensure!(ctl.json(&["get", "bench/", "--prefix", "--count-only"]).await?["count"] == 50, "the keys stay");
    let text = ctl.says(&put).await?;
    ensure!(text.starts_with("put: 100 done in ") && text.contains("\nall    100  "), "{text}");
    // The server runs already, so it serves as soon as it is asked.
    let report = ctl.json(&["bench", "restart", "--command", "true"]).await?;
    ensure!(report["figures"]["serving_ms"].as_f64().is_some_and(|took| took > 0.0), "{report}");
    let failover = ["bench", "failover", "--seconds", "1s", "--after", "200ms", "--command"];
    let report = ctl.json(&[&failover[..], &["true"]].concat()).await?;
    ensure!(report["figures"]["writer_gap_ms"].as_f64().is_some_and(|gap| gap > 0.0), "{report}");
    let error = ctl.fails_as("local", 1, &[&failover[..], &["false"]].concat()).await?;
    ensure!(error["message"].as_str().is_some_and(|words| words.contains("the command failed")), "{error}");

    let future = ["bench", "range", "--no-fill", "--rev", "999999", "--total", "5", "--warm-up", "0"];
    let said = ctl.fails(5, &future).await?;
    ensure!(said.starts_with("tenurectl: the first request that failed: OUT_OF_RANGE: etcdserver: mvcc: "), "{said}");
    ensure!(said.contains("tenurectl: 5 of 5 operations failed"), "{said}");
    ctl.fails_as("unhealthy", 5, &future).await?;
    ctl.fails_as("usage", 2, &["bench", "lease-revoke"]).await?;
    ctl.fails_as("usage", 2, &["bench", "put", "--clients", "0"]).await?;
    if program == Program::Etcd {
        let error = ctl.fails_as("usage", 2, &["bench", "lock", "--api", "native"]).await?;
        ensure!(error["message"].as_str().is_some_and(|words| words.contains("need Tenure")), "{error}");
    }
    Ok(())
}

/// Ctrl-C ends a run with what was done until then.
pub(crate) async fn interrupted(program: Program, home: &Path) -> Result<()> {
    let cluster = Cluster::start(program, 1, home).await?;
    let ctl = Ctl::of(&cluster);
    let mut bench = ctl.follow(&["bench", "put", "--seconds", "1h", "--warm-up", "0", "-o", "json"])?;
    while ctl.json(&["get", "bench/", "--prefix", "--count-only"]).await?["count"] == 0 {}
    bench.signal("INT").await?;
    let report = bench.json().await?;
    ensure!(report["operations"].as_u64().is_some_and(|done| done > 0) && report["failed"] == 0, "{report}");
    ensure!(bench.ended().await?.success(), "what was asked for was done");
    Ok(())
}
