//! Locks and elections: this client asks the server's lock and election services.

use std::time::Duration;

use anyhow::{Context, Result};
use etcd_client::{Client, LockOptions, ProclaimOptions, ResignOptions};
use serde_json::{Value, json};

use crate::fields::Fields;
use crate::kv::count;
use crate::{Done, Run};

/// How often a condition that no watch can tell is looked at.
const POLL: Duration = Duration::from_millis(10);

impl Run {
    pub(crate) async fn lock(&mut self, mut client: Client, mut step: Fields) -> Result<Value> {
        match step.kind() {
            "lock" => {
                let (name, wanted) = (step.need("as")?, step.need("name")?);
                let id = self.lease_of(&mut client, &mut step, &name).await?;
                let background = step.flag("background");
                step.finish()?;
                let task = async move {
                    let answer = client.lock(wanted, Some(LockOptions::new().with_lease(id))).await?;
                    Ok(Done::Lock(name, answer.key().to_vec()))
                };
                self.start(background, task).await
            }
            "unlock" => {
                let name = step.need("lock")?;
                step.finish()?;
                let key = self.locks.get(&name).with_context(|| format!("no lock is named {name}"))?;
                client.unlock(key.clone()).await?;
                Ok(json!({}))
            }
            _ => {
                let prefix = step.need("name")? + "/";
                let wanted = step.number("count")?.context("no count")?;
                step.finish()?;
                while count(&mut client, &prefix).await? != wanted {
                    tokio::time::sleep(POLL).await;
                }
                Ok(json!({ "count": wanted }))
            }
        }
    }

    /// A lease for a lock or a campaign, under the step's name.
    async fn lease_of(&mut self, client: &mut Client, step: &mut Fields, name: &str) -> Result<i64> {
        let ttl = step.number("ttl")?.context("no ttl")?;
        let id = client.lease_grant(ttl, None).await?.id();
        self.names.learn(name, id);
        Ok(id)
    }

    async fn start(
        &mut self,
        background: bool,
        task: impl Future<Output = Result<Done>> + Send + 'static,
    ) -> Result<Value> {
        if !background {
            let done = task.await?;
            return Ok(self.keep(done));
        }
        let name = self.names.last();
        self.tasks.insert(name, tokio::spawn(task));
        Ok(json!({}))
    }

    /// Keeps what later steps need and shows the answer.
    pub(crate) fn keep(&mut self, done: Done) -> Value {
        match done {
            Done::Lock(name, key) => {
                let shown = json!({ "key": self.names.text(&key) });
                self.locks.insert(name, key);
                shown
            }
            Done::Campaign(name, leader) => {
                let shown = json!({
                    "key": self.names.text(leader.key()),
                    "created": self.names.revision(leader.rev()),
                    "lease": self.names.lease(leader.lease()),
                });
                self.campaigns.insert(name, leader);
                shown
            }
        }
    }

    pub(crate) async fn election(&mut self, mut client: Client, mut step: Fields) -> Result<Value> {
        match step.kind() {
            "campaign" => {
                let (name, wanted, value) = (step.need("as")?, step.need("name")?, step.need("value")?);
                let id = self.lease_of(&mut client, &mut step, &name).await?;
                let background = step.flag("background");
                step.finish()?;
                let task = async move {
                    let answer = client.campaign(wanted, value, id).await?;
                    Ok(Done::Campaign(name, answer.leader().context("a campaign without a leader")?.clone()))
                };
                self.start(background, task).await
            }
            "leader" => {
                let name = step.need("name")?;
                step.finish()?;
                let answer = client.leader(name).await?;
                Ok(json!({ "kv": self.names.kv(answer.kv()) }))
            }
            "observe" => {
                let (name, wanted) = (step.need("as")?, step.need("name")?);
                step.finish()?;
                self.observers.insert(name, client.observe(wanted).await?);
                Ok(json!({}))
            }
            "observed" => self.observed(step).await,
            _ => self.as_leader(client, step).await,
        }
    }

    async fn observed(&mut self, mut step: Fields) -> Result<Value> {
        let (name, value) = (step.need("observer")?, step.need("value")?);
        step.finish()?;
        let observer = self.observers.get_mut(&name).with_context(|| format!("no observer is named {name}"))?;
        loop {
            let answer = observer.message().await?.context("observing ended")?;
            if answer.kv().is_some_and(|kv| kv.value() == value.as_bytes()) {
                return Ok(json!({ "value": value }));
            }
        }
    }

    async fn as_leader(&self, mut client: Client, mut step: Fields) -> Result<Value> {
        let name = step.need("campaign")?;
        let leader = self.campaigns.get(&name).with_context(|| format!("no campaign is named {name}"))?.clone();
        if step.kind() == "proclaim" {
            let value = step.need("value")?;
            step.finish()?;
            client.proclaim(value, Some(ProclaimOptions::new().with_leader(leader))).await?;
        } else {
            step.finish()?;
            client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
        }
        Ok(json!({}))
    }
}
