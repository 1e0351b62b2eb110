//! What clients ask of members themselves: shown is what must be alike although the clusters are not.

use anyhow::Result;
use etcd_client::{AlarmAction, AlarmType, Client};
use serde_json::{Value, json};

use crate::Run;
use crate::fields::Fields;

impl Run {
    pub(crate) async fn maintenance(&self, mut client: Client, mut step: Fields) -> Result<Value> {
        match step.kind() {
            "status" => {
                step.finish()?;
                let answer = client.status().await?;
                Ok(json!({
                    "leader": answer.leader() != 0,
                    "term": answer.raft_term() > 0,
                    "index": answer.raft_index() > 0 && answer.raft_applied_index() <= answer.raft_index(),
                    "size": answer.db_size() > 0,
                    "learner": answer.is_learner(),
                    "errors": answer.errors().len(),
                    "api": answer.version().get(..3),
                    "revision": self.names.header(answer.header()),
                }))
            }
            "members" => {
                step.finish()?;
                let answer = client.member_list().await?;
                let complete = answer.members().iter().all(|one| {
                    one.id() != 0
                        && !one.name().is_empty()
                        && one.peer_urls().len() == 1
                        && one.client_urls().len() == 1
                });
                Ok(json!({ "complete": complete && !answer.members().is_empty() }))
            }
            "alarms" => {
                step.finish()?;
                let answer = client.alarm(AlarmAction::Get, AlarmType::None, None).await?;
                Ok(json!({ "alarms": answer.alarms().len() }))
            }
            "hash_kv" => {
                let at = self.names.at(step.revision("revision")?);
                step.finish()?;
                let answer = client.hash_kv(at).await?;
                Ok(json!({ "revision": self.names.header(answer.header()), "hash": answer.hash() != 0 }))
            }
            _ => {
                step.finish()?;
                client.defragment().await?;
                Ok(json!({}))
            }
        }
    }
}
