//! Steps of the Lease service.

use anyhow::{Context, Result};
use etcd_client::{Client, LeaseGrantOptions, LeaseStatus, LeaseTimeToLiveOptions};
use serde_json::{Value, json};

use crate::Run;
use crate::fields::Fields;

impl Run {
    pub(crate) async fn lease(&mut self, mut client: Client, mut step: Fields) -> Result<Value> {
        match step.kind() {
            "grant" => return self.grant(client, step).await,
            "leases" => {
                step.finish()?;
                let answer = client.leases().await?;
                let mut shown: Vec<String> =
                    answer.leases().iter().map(LeaseStatus::id).map(|id| self.name_of(id)).collect();
                shown.sort();
                return Ok(json!({ "leases": shown }));
            }
            _ => {}
        }
        let id = self.names.lease_id(&step.lease("lease").context("no lease")?)?;
        match step.kind() {
            "keep_alive" => {
                step.finish()?;
                let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
                keeper.keep_alive().await?;
                let answer = answers.message().await?.context("the stream ended")?;
                Ok(json!({ "ttl": answer.ttl(), "revision": self.names.header(answer.header()) }))
            }
            "keep_alive_rounds" => {
                let rounds = step.number("rounds")?.context("no rounds")?;
                step.finish()?;
                self.rounds(client, id, rounds).await
            }
            "time_to_live" => {
                let mut options = LeaseTimeToLiveOptions::new();
                if step.flag("keys") {
                    options = options.with_keys();
                }
                step.finish()?;
                let answer = client.lease_time_to_live(id, Some(options)).await?;
                let mut keys: Vec<String> = answer.keys().iter().map(|key| self.names.text(key)).collect();
                keys.sort();
                // How many seconds are left depends on when one asks.
                let ttl = if answer.ttl() > 0 { json!("alive") } else { json!(answer.ttl()) };
                Ok(json!({ "ttl": ttl, "granted": answer.granted_ttl(), "keys": keys }))
            }
            _ => {
                step.finish()?;
                let answer = client.lease_revoke(id).await?;
                Ok(json!({ "revision": self.names.header(answer.header()) }))
            }
        }
    }

    fn name_of(&self, id: i64) -> String {
        self.names.lease(id).as_str().unwrap_or("0").to_owned()
    }

    async fn grant(&mut self, mut client: Client, mut step: Fields) -> Result<Value> {
        let name = step.need("as")?;
        let ttl = step.number("ttl")?.context("no ttl")?;
        let options = step.number("id")?.map(|id| LeaseGrantOptions::new().with_id(id));
        step.finish()?;
        let answer = client.lease_grant(ttl, options).await?;
        self.names.learn(&name, answer.id());
        Ok(json!({
            "lease": self.names.lease(answer.id()),
            "ttl": answer.ttl(),
            "revision": self.names.header(answer.header()),
        }))
    }

    /// Keeps the lease alive until the scenario ends. This client leaves the rhythm to its user: a third of the TTL.
    async fn rounds(&mut self, mut client: Client, id: i64, rounds: i64) -> Result<Value> {
        let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
        let mut ttl = 0;
        for _ in 0..rounds {
            keeper.keep_alive().await?;
            ttl = answers.message().await?.context("keeping alive ended")?.ttl();
            tokio::time::sleep(third_of(ttl)).await;
        }
        self.keepers.push(tokio::spawn(async move {
            while keeper.keep_alive().await.is_ok() {
                let Ok(Some(answer)) = answers.message().await else { return };
                tokio::time::sleep(third_of(answer.ttl())).await;
            }
        }));
        Ok(json!({ "ttl": ttl }))
    }
}

fn third_of(ttl: i64) -> std::time::Duration {
    std::time::Duration::from_secs(u64::try_from(ttl).unwrap_or_default()) / 3
}
