//! The port of a server at which faults are put into it; docs/FAULTS.md describes it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::http1;

/// It answers while everything else stands still.
const PATIENCE: Duration = Duration::from_secs(5);

/// One server's port on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub struct FaultPort(pub u16);

impl FaultPort {
    /// The flag that makes a server serve it.
    pub fn flag(self) -> String {
        format!("--experimental-fault-injection-url=http://127.0.0.1:{}", self.0)
    }

    /// Lets a fault wait at a failpoint: `sleep(200)`, `1*return("EIO")`, `panic`.
    pub async fn arm(self, failpoint: &str, term: &str) -> Result<()> {
        self.change("PUT", failpoint, term).await
    }

    /// Lets nothing wait there any more.
    pub async fn disarm(self, failpoint: &str) -> Result<()> {
        self.change("DELETE", failpoint, "").await
    }

    /// How often a fault came of a failpoint in this life of the server.
    pub async fn count(self, failpoint: &str) -> Result<u64> {
        let text = self.read(&format!("{failpoint}/count")).await?;
        text.parse().with_context(|| format!("{text:?} is no count"))
    }

    /// The names of all failpoints.
    pub async fn failpoints(self) -> Result<Vec<String>> {
        let list = self.read("").await?;
        Ok(list.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name.to_owned()).collect())
    }

    /// Lets the server's clock be so far ahead of the machine's; it never goes back.
    pub async fn set_clock_ahead(self, offset: Duration) -> Result<()> {
        self.change("PUT", "clock", &offset.as_millis().to_string()).await
    }

    /// Withholds what goes to some members and what comes from some, by their ids.
    pub async fn cut(self, to: &[u64], from: &[u64]) -> Result<()> {
        let list = |ids: &[u64]| ids.iter().map(|id| format!("\"{id:x}\"")).collect::<Vec<_>>().join(",");
        let body = format!("{{\"block_to\":[{}],\"block_from\":[{}]}}", list(to), list(from));
        self.change("PUT", "partition", &body).await
    }

    /// Withholds nothing any more.
    pub async fn heal(self) -> Result<()> {
        self.change("DELETE", "partition", "").await
    }

    /// One request that changes something.
    pub async fn change(self, method: &str, path: &str, body: &str) -> Result<()> {
        let answer = http1::send(self.0, method, &format!("/{path}"), body, PATIENCE).await?;
        ensure!(answer.status == 204, "{method} /{path} {body:?}: {} {}", answer.status, answer.body.trim());
        Ok(())
    }

    /// One request that reads something.
    pub async fn read(self, path: &str) -> Result<String> {
        let answer = http1::get(self.0, &format!("/{path}"), PATIENCE).await?;
        ensure!(answer.status == 200, "GET /{path}: {} {}", answer.status, answer.body.trim());
        Ok(answer.body)
    }
}
