//! The end of a round: everything is healed, every member serves again within a bound, clients finish, all leases end, the
//! store is read whole at every member, and all members hash alike.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use tenure_history::request::{KeyRange, Put, Range, Request};
use tenure_history::response::{Body, Outcome, RangeBody};
use tenure_history::{Initial, Moment, Revision};
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tenure_proto::etcdserverpb::{HashKvRequest, LeaseLeasesRequest};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::field::Field;
use tenure_workload::client::Client;
use tenure_workload::connect::socket;
use tenure_workload::stage::{Phase, Stage};
use tenure_workload::workloads::{Tasks, Workload};

/// Once everything is healed, every member must serve within this.
pub const SERVE_MAX: Duration = Duration::from_secs(20);
/// Clients finish what they are at: a lease of 6 s, slept over and waited for, and then everybody contends once more.
const FINISH_PATIENCE: Duration = Duration::from_secs(90);
/// After that, at most one TTL, one grace and a second remain to any lease that somebody forgot.
const LEASES_PATIENCE: Duration = Duration::from_secs(20);
/// Watchers have a bound of their own, which is shorter.
const WATCHERS_PATIENCE: Duration = Duration::from_secs(90);
const HASH_PATIENCE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(50);
/// How long clients go on when the cluster is whole again, so that the history shows it.
const AFTER: Duration = Duration::from_millis(1_500);

/// How a round ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// When all faults were over, and when every member served.
    pub healed: Moment,
    pub served: Moment,
    /// What the next round begins with.
    pub initial: Initial,
    /// What is not as it must be.
    pub complaints: Vec<String>,
}

/// Brings a round to its end.
pub async fn end(field: &mut Field, stage: &Arc<Stage>, mut tasks: Tasks) -> Result<Ended> {
    let mut ended = Ended::default();
    field.heal_everything().await?;
    ended.healed = stage.recorder.now();
    let mut asked: Vec<Client> = (0..field.size())
        .map(|at| {
            let mut client = Client::new(stage, Workload::Ending, stage.new_client());
            client.stay_at(at);
            client
        })
        .collect();
    for (at, client) in asked.iter_mut().enumerate() {
        serve(client, at, &mut ended.complaints).await;
    }
    ended.served = stage.recorder.now();
    sleep(AFTER).await;
    stage.set_phase(Phase::Finish);
    join(&mut tasks.clients, FINISH_PATIENCE, "clients", &mut ended.complaints).await;
    if !leases_end(&field.cluster.endpoints()).await {
        ended.complaints.push(format!("there are leases {LEASES_PATIENCE:?} after all clients have finished"));
    }
    for client in &mut asked {
        ended.initial = read_everything(client, &mut ended.complaints).await.unwrap_or(ended.initial);
    }
    stage.set_phase(Phase::Over(ended.initial.revision));
    join(&mut tasks.watchers, WATCHERS_PATIENCE, "watchers", &mut ended.complaints).await;
    match same_hash(&field.cluster.endpoints(), ended.initial.revision).await {
        Ok(compacted) => ended.initial.compacted = compacted,
        Err(error) => ended.complaints.push(format!("{error:#}")),
    }
    field.inspect()?;
    Ok(ended)
}

/// Writes through one member until that works.
async fn serve(client: &mut Client, at: usize, complaints: &mut Vec<String>) {
    let since = Instant::now();
    while since.elapsed() < SERVE_MAX {
        let put = Put { key: Bytes::from(format!("ending/{at}")), ..Put::default() };
        if let Outcome::Ok(_) = client.ask(Request::Put(put)).await {
            return;
        }
    }
    complaints.push(format!("member {} takes no write {SERVE_MAX:?} after everything was healed", at + 1));
}

/// Waits for all tasks; what they complain of is kept.
async fn join(tasks: &mut JoinSet<Result<()>>, patience: Duration, what: &str, complaints: &mut Vec<String>) {
    let all = async {
        let mut said = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => said.push(format!("{error:#}")),
                Err(error) => said.push(format!("a task of the harness failed: {error}")),
            }
        }
        said
    };
    match timeout(patience, all).await {
        Ok(said) => complaints.extend(said),
        Err(_) => {
            complaints.push(format!("{} {what} do not come to an end within {patience:?}", tasks.len()));
            tasks.shutdown().await;
        }
    }
}

/// Waits until no member knows a lease.
async fn leases_end(endpoints: &[String]) -> bool {
    let since = Instant::now();
    let mut clients: Vec<_> = endpoints.iter().map(|endpoint| LeaseClient::new(socket(endpoint))).collect();
    while since.elapsed() < LEASES_PATIENCE {
        let mut left = 0;
        for client in &mut clients {
            let answer = timeout(HASH_PATIENCE, client.lease_leases(LeaseLeasesRequest {})).await;
            left += answer.ok().and_then(Result::ok).map_or(1, |answer| answer.into_inner().leases.len());
        }
        if left == 0 {
            return true;
        }
        sleep(STEP).await;
    }
    false
}

async fn read_everything(client: &mut Client, complaints: &mut Vec<String>) -> Option<Initial> {
    let since = Instant::now();
    while since.elapsed() < SERVE_MAX {
        let request = Request::Range(Range { keys: KeyRange::all(), ..Range::default() });
        let Some(response) = client.answer(request).await else { continue };
        let Body::Range(RangeBody { kvs, .. }) = response.body else { continue };
        return Some(Initial { revision: response.revision, compacted: Revision(-1), kvs, leases: Vec::new() });
    }
    complaints.push("a member does not answer a read of everything".to_owned());
    None
}

/// Asks all members for their hash at a revision until they agree; returns how far they are compacted.
async fn same_hash(endpoints: &[String], revision: Revision) -> Result<Revision> {
    let mut clients: Vec<_> = endpoints.iter().map(|endpoint| MaintenanceClient::new(socket(endpoint))).collect();
    let since = Instant::now();
    loop {
        let mut hashes = Vec::new();
        for client in &mut clients {
            let request = HashKvRequest { revision: revision.0 };
            let answer = timeout(HASH_PATIENCE, client.hash_kv(request)).await.context("no hash in time")?;
            hashes.push(answer.map(|answer| {
                let answer = answer.into_inner();
                (answer.hash, answer.compact_revision)
            }));
        }
        if let Some(Ok((hash, compacted))) = hashes.first()
            && hashes.iter().all(|other| matches!(other, Ok(other) if *other == (*hash, *compacted)))
        {
            return Ok(Revision(if *compacted > 0 { *compacted } else { -1 }));
        }
        anyhow::ensure!(
            since.elapsed() < HASH_PATIENCE,
            "members differ at revision {revision}: (hash, compacted) = {hashes:?}"
        );
        sleep(STEP).await;
    }
}
