//! The leader dies while there are very many leases: a write must be acknowledged soon after another is elected.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tonic::transport::Channel;

use super::fleet::Fleet;
use super::seed::{fixed, grant};
use super::{channels, ms, thousands, three_members};
use crate::binaries::Program;
use crate::cluster::LEADER_PATIENCE;
use crate::http1;
use crate::lease_check::Moment;

/// The promise: the first acknowledgement so long after the election.
const PROMOTION_MAX: Duration = Duration::from_millis(500);
/// How often a write is sent to each survivor, and how long each is waited for: a member may hold one until it knows a leader.
const EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(8);
/// How long the cluster works before its leader dies.
const BETWEEN: Duration = Duration::from_secs(4);
/// There is a leader again by then.
const END_PATIENCE: Duration = Duration::from_secs(30);
/// Leases that nobody renews outlive the scenario.
const RESTING_TTL: Duration = Duration::from_secs(3600);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub leases: i64,
    pub rounds: usize,
    /// The TTL, if their clients renew them meanwhile.
    pub renewed: Option<Duration>,
}

/// Kills the leader of a cluster with so many leases, again and again.
pub async fn failover(home: &Path, program: Program, size: Size) -> Result<()> {
    let (mut cluster, _) = three_members(program, home).await?;
    let all = channels(&cluster)?;
    let granted = grant(&all, 1, size.leases, fixed(size.renewed.unwrap_or(RESTING_TTL))).await?;
    let mut fleet = Fleet::new(&all);
    if size.renewed.is_some() {
        fleet.add(&granted);
    }
    let mut rounds = Vec::new();
    for _ in 0..size.rounds {
        sleep(BETWEEN).await;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let survivors: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
        let others: Vec<Channel> = survivors.iter().map(|at| all[*at].clone()).collect();
        cluster.nodes[leader].kill()?;
        let killed = Moment::now();
        let (elected, acked) = tokio::join!(elected(&others), first_ack(&others));
        let ((at, elected), acked) = (elected?, acked?);
        let promotion = match program {
            Program::Etcd | Program::Etcd37 => None,
            Program::Tenured | Program::TenuredFaults => {
                sleep(Duration::from_secs(1)).await;
                let port = cluster.nodes[survivors[at]].client_port;
                Some(Duration::from_micros(http1::metric(port, "tenure_lessor_promotion_micros").await?))
            }
        };
        rounds.push(Round { election: elected.since(killed), ack: acked.since(killed), promotion });
        cluster.restart(leader).await?;
    }
    let kept = fleet.finish().await?;
    let shown: Vec<String> = rounds.iter().map(Round::shown).collect();
    let with = if size.renewed.is_some() { format!("renewed: {kept}") } else { "at rest".to_owned() };
    println!(
        "promotion | {} | {} leases, {with} | {}",
        program.label(),
        thousands(u64::try_from(size.leases)?),
        shown.join("; ")
    );
    if program == Program::Etcd {
        return Ok(());
    }
    if size.renewed.is_some() {
        kept.none_lost()?;
    }
    for round in &rounds {
        ensure!(
            round.ack <= round.election + PROMOTION_MAX,
            "too long from the election to a write: {}",
            round.shown()
        );
    }
    Ok(())
}

struct Round {
    election: Duration,
    ack: Duration,
    promotion: Option<Duration>,
}

impl Round {
    fn shown(&self) -> String {
        let promotion = self.promotion.map(|took| format!(", lessor promoted in {}", ms(took))).unwrap_or_default();
        format!("elected after {}, write acked after {}{promotion}", ms(self.election), ms(self.ack))
    }
}

/// Which of these members says first that it leads, and when.
async fn elected(others: &[Channel]) -> Result<(usize, Moment)> {
    let look = async {
        let mut looks = interval(EVERY / 2);
        loop {
            for (at, channel) in others.iter().enumerate() {
                looks.tick().await;
                let Ok(status) = MaintenanceClient::new(channel.clone()).status(pb::StatusRequest {}).await else {
                    continue;
                };
                let status = status.into_inner();
                if status.header.is_some_and(|header| header.member_id == status.leader) {
                    return (at, Moment::now());
                }
            }
        }
    };
    timeout(END_PATIENCE, look).await.context("nobody is elected")
}

/// When the first write that was sent from now on is acknowledged.
async fn first_ack(others: &[Channel]) -> Result<Moment> {
    let mut writes = JoinSet::new();
    let mut turns = interval(EVERY);
    let send = async {
        loop {
            tokio::select! {
                Some(acked) = writes.join_next() => if let Ok(Some(acked)) = acked { return acked },
                _ = turns.tick() => for channel in others {
                    let mut client = KvClient::new(channel.clone());
                    writes.spawn(async move {
                        let put = pb::PutRequest { key: "first".into(), ..pb::PutRequest::default() };
                        let answer = timeout(PATIENCE, client.put(put)).await;
                        matches!(answer, Ok(Ok(_))).then(Moment::now)
                    });
                },
            }
        }
    };
    timeout(END_PATIENCE, send).await.context("no write is acknowledged")
}
