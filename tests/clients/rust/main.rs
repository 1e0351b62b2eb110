//! Carries out compatibility scenarios with the crate `etcd-client`.
//!
//! It reads one request a line from standard input (a scenario's name, the revision it begins at, endpoints and steps) and
//! prints one line for each step; `tests/scenarios/README.md` describes both. It knows nothing of what is right: the test
//! that starts it compares what a real etcd and tenured answered.
#![expect(clippy::print_stdout, reason = "lines on standard output are the product")]

mod concurrency;
mod fields;
mod kv;
mod lease;
mod maintenance;
mod names;
mod watch;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::Duration;

use anyhow::{Context, Result};
use etcd_client::{Client, ConnectOptions, Error};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Code;

use crate::fields::{Fields, Skipped};
use crate::names::Names;

/// The longest that one step may take: far more than any needs, so that a hang becomes a failure.
const STEP_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Request {
    scenario: String,
    base: i64,
    endpoints: Vec<String>,
    #[serde(default)]
    steps: Vec<Map<String, Value>>,
}

/// One scenario under way.
struct Run {
    endpoints: Vec<String>,
    names: Names,
    clients: BTreeMap<String, Client>,
    watches: BTreeMap<String, watch::Watch>,
    locks: BTreeMap<String, Vec<u8>>,
    campaigns: BTreeMap<String, etcd_client::LeaderKey>,
    observers: BTreeMap<String, etcd_client::ObserveStream>,
    tasks: BTreeMap<String, JoinHandle<Result<Done>>>,
    keepers: Vec<JoinHandle<()>>,
    /// What a skipped step would have made, with the feature it was skipped for.
    skipped: BTreeMap<String, String>,
}

/// What a background step ends with: its answer, and what later steps need of it.
enum Done {
    Lock(String, Vec<u8>),
    Campaign(String, etcd_client::LeaderKey),
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let scenario = request.scenario.clone();
        runtime.block_on(carry_out(request));
        println!("{}", json!({ "done": scenario }));
    }
    Ok(())
}

async fn carry_out(request: Request) {
    let mut run = Run {
        endpoints: request.endpoints,
        names: Names::new(request.base),
        clients: BTreeMap::new(),
        watches: BTreeMap::new(),
        locks: BTreeMap::new(),
        campaigns: BTreeMap::new(),
        observers: BTreeMap::new(),
        tasks: BTreeMap::new(),
        keepers: Vec::new(),
        skipped: BTreeMap::new(),
    };
    for (at, step) in request.steps.into_iter().enumerate() {
        let made = step.get("as").and_then(Value::as_str).map(ToOwned::to_owned);
        let result = timeout(STEP_PATIENCE, run.perform(Fields::new(step))).await;
        if let (Some(made), Ok(Err(error))) = (made, &result)
            && let Some(Skipped(feature)) = error.downcast_ref()
        {
            run.skipped.insert(made, feature.clone());
        }
        let (mut line, goes_on) = line(result.unwrap_or_else(|_| Err(anyhow::anyhow!("the step hangs"))));
        line["step"] = json!(at);
        println!("{line}");
        if !goes_on {
            break;
        }
    }
    run.tasks.values().for_each(JoinHandle::abort);
    run.keepers.iter().for_each(JoinHandle::abort);
}

/// What a step prints, and whether the steps after it can be carried out.
fn line(result: Result<Value>) -> (Value, bool) {
    let error = match result {
        Ok(answer) => return (json!({ "answer": answer }), true),
        Err(error) => error,
    };
    if let Some(Skipped(feature)) = error.downcast_ref() {
        return (json!({ "skip": feature }), true);
    }
    match error.downcast_ref() {
        Some(Error::GRpcStatus(status)) if status.code() == Code::Unimplemented => {
            (json!({ "unimplemented": status.message() }), false)
        }
        Some(Error::GRpcStatus(status)) => {
            let code = format!("{:?}", status.code());
            (json!({ "error": { "code": code, "text": status.message() } }), true)
        }
        Some(other) => (json!({ "error": { "code": "Client", "text": other.to_string() } }), true),
        None => (json!({ "fault": format!("{error:#}") }), true),
    }
}

impl Run {
    async fn perform(&mut self, mut step: Fields) -> Result<Value> {
        for reference in ["watch", "what", "lock", "campaign", "observer", "lease"] {
            if let Some(feature) = step.peek(reference).and_then(|name| self.skipped.get(name)) {
                return Err(Skipped(feature.clone()).into());
            }
        }
        let kind = step.kind().to_owned();
        let session = step.text("session")?.unwrap_or_else(|| "a".to_owned());
        let client = self.client(&session).await?;
        match kind.as_str() {
            "put" | "get" | "get_stream" | "delete" | "txn" | "compact" => Box::pin(self.kv(client, step)).await,
            "grant" | "keep_alive" | "keep_alive_rounds" | "time_to_live" | "revoke" | "leases" => {
                Box::pin(self.lease(client, step)).await
            }
            "watch" | "events" | "progress" | "cancel" | "watch_end" => Box::pin(self.watch(client, step)).await,
            "lock" | "unlock" | "lock_queue" | "election_queue" => Box::pin(self.lock(client, step)).await,
            "campaign" | "proclaim" | "leader" | "observe" | "observed" | "resign" => {
                Box::pin(self.election(client, step)).await
            }
            "status" | "members" | "alarms" | "hash_kv" | "defragment" => {
                Box::pin(self.maintenance(client, step)).await
            }
            "pending" => {
                let task = self.task(&mut step)?;
                step.finish()?;
                Ok(json!({ "pending": !task.is_finished() }))
            }
            "join" => {
                let what = step.need("what")?;
                step.finish()?;
                let task = self.tasks.remove(&what).with_context(|| format!("nothing is named {what}"))?;
                let done = task.await??;
                Ok(self.keep(done))
            }
            _ => Err(Skipped(kind).into()),
        }
    }

    fn task(&self, step: &mut Fields) -> Result<&JoinHandle<Result<Done>>> {
        let what = step.need("what")?;
        self.tasks.get(&what).with_context(|| format!("nothing is named {what}"))
    }

    /// The named session's own client: a talks to the first endpoint, b to the second, all to all of them.
    async fn client(&mut self, session: &str) -> Result<Client> {
        if let Some(client) = self.clients.get(session) {
            return Ok(client.clone());
        }
        let endpoints = match session.bytes().next() {
            Some(letter) if session.len() == 1 => {
                let at = usize::from(letter.saturating_sub(b'a')) % self.endpoints.len();
                vec![self.endpoints[at].clone()]
            }
            _ => self.endpoints.clone(),
        };
        let options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(10));
        let client = Client::connect(endpoints, Some(options)).await?;
        self.clients.insert(session.to_owned(), client.clone());
        Ok(client)
    }
}
