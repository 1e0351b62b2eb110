//! Elections: how soon observers know who leads after the leader died, and after it resigned.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::v3electionpb as election;
use tenure_proto::v3electionpb::election_client::ElectionClient;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::millis;
use crate::binaries::Program;
use crate::lease_scale::{channels, three_members};
use crate::samples::percentile;

/// A leader renews its lease so often within its TTL.
const RENEWALS_PER_TTL: u32 = 3;
const NAME: &str = "e";
/// Longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often leaders end, in each of two ways, and how long their leases live.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub ttl: Duration,
    pub rounds: usize,
}

/// What one run measured, in milliseconds, at the observer that was the last to know.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// From the last renewal that a leader sent and had answered, over its death, to the next leader: the longest.
    pub after_death_ms: f64,
    /// The shortest of these at the observer that was the first to know, which may not be below the TTL.
    pub earliest_ms: f64,
    /// From the sending of a resignation to the next leader: half of the times are below, and the longest.
    pub resigned_p50_ms: f64,
    pub resigned_max_ms: f64,
}

/// A candidate that keeps its lease alive until it dies.
struct Candidate {
    lease: i64,
    campaign: JoinHandle<Result<election::LeaderKey>>,
    keeping: AbortHandle,
    /// When the last renewal was sent that was answered.
    renewed: watch::Receiver<Instant>,
}

/// Whom an observer saw last, and when.
type Seen = watch::Receiver<Option<(Bytes, Instant)>>;

/// Leaders die and resign; at each member somebody observes.
pub async fn run(home: &Path, program: Program, size: Size) -> Result<Figures> {
    let (mut cluster, _) = three_members(program, home).await?;
    let members = channels(&cluster)?;
    let mut tasks = JoinSet::new();
    let mut observers = Vec::new();
    for member in &members {
        observers.push(observe(member, &mut tasks));
    }
    let (mut deaths, mut firsts, mut resignations) = (Vec::new(), Vec::new(), Vec::new());
    let mut leader = Candidate::start(&members[0], 1, size.ttl, &mut tasks).await?;
    let mut key = leader.elected().await?;
    all_see(&mut observers, &key.key).await?;
    for (round, lease) in (0..2 * size.rounds).zip(2..) {
        let mut next = Candidate::start(&members[round % members.len()], lease, size.ttl, &mut tasks).await?;
        queued(&members[0], 2).await?;
        let dies = round % 2 == 0;
        let since = if dies {
            leader.keeping.abort();
            *leader.renewed.borrow()
        } else {
            let now = Instant::now();
            let resign = election::ResignRequest { leader: Some(key) };
            ElectionClient::new(members[(round + 1) % members.len()].clone()).resign(resign).await?;
            leader.keeping.abort();
            now
        };
        key = next.elected().await?;
        let seen = all_see(&mut observers, &key.key).await?;
        let times = || seen.iter().map(|at| at.duration_since(since));
        let last = times().max().context("observers")?;
        if dies {
            deaths.push(last);
            firsts.push(times().min().context("observers")?);
        } else {
            resignations.push(last);
        }
        leader = next;
    }
    tasks.abort_all();
    cluster.kill_all()?;
    for times in [&mut deaths, &mut firsts, &mut resignations] {
        times.sort_unstable();
        ensure!(!times.is_empty(), "nothing was measured");
    }
    Ok(Figures {
        after_death_ms: millis(percentile(&deaths, 100)),
        earliest_ms: millis(percentile(&firsts, 0)),
        resigned_p50_ms: millis(percentile(&resignations, 50)),
        resigned_max_ms: millis(percentile(&resignations, 100)),
    })
}

impl Candidate {
    async fn start(member: &Channel, lease: i64, ttl: Duration, tasks: &mut JoinSet<()>) -> Result<Candidate> {
        let mut leases = LeaseClient::new(member.clone());
        let granted = Instant::now();
        let ttl_secs = i64::try_from(ttl.as_secs())?;
        leases.lease_grant(pb::LeaseGrantRequest { id: lease, ttl: ttl_secs }).await?;
        let (told, renewed) = watch::channel(granted);
        let (ask, asked) = mpsc::channel(1);
        let keeping = tasks.spawn(async move {
            let opened = async {
                ask.send(pb::LeaseKeepAliveRequest { id: lease }).await.ok()?;
                Some(leases.lease_keep_alive(ReceiverStream::new(asked)).await.ok()?.into_inner())
            };
            let Some(mut answers) = opened.await else { return };
            let mut ticks = interval(ttl / RENEWALS_PER_TTL);
            let mut sent = Instant::now();
            while let Ok(Some(answer)) = answers.message().await {
                if answer.ttl > 0 {
                    told.send_replace(sent);
                }
                ticks.tick().await;
                sent = Instant::now();
                if ask.send(pb::LeaseKeepAliveRequest { id: lease }).await.is_err() {
                    return;
                }
            }
        });
        let mut client = ElectionClient::new(member.clone());
        let campaign = tokio::spawn(async move {
            let value = format!("candidate {lease}").into();
            let request = election::CampaignRequest { name: NAME.into(), lease, value };
            client.campaign(request).await?.into_inner().leader.context("a campaign without a key")
        });
        Ok(Candidate { lease, campaign, keeping, renewed })
    }

    /// Waits until it leads.
    async fn elected(&mut self) -> Result<election::LeaderKey> {
        let won = timeout(PATIENCE, &mut self.campaign).await;
        won.with_context(|| format!("candidate {} is never elected", self.lease))??
    }
}

/// Observes the election at a member until the tasks end.
fn observe(member: &Channel, tasks: &mut JoinSet<()>) -> Seen {
    let request = election::LeaderRequest { name: NAME.into() };
    let mut client = ElectionClient::new(member.clone());
    let (told, seen) = watch::channel(None);
    tasks.spawn(async move {
        let Ok(answer) = client.observe(request).await else { return };
        let mut leaders = answer.into_inner();
        while let Ok(Some(leader)) = leaders.message().await {
            told.send_replace(leader.kv.map(|kv| (kv.key, Instant::now())));
        }
    });
    seen
}

/// Waits until all observers see this leader, and says since when each does.
async fn all_see(observers: &mut [Seen], key: &[u8]) -> Result<Vec<Instant>> {
    let mut since = Vec::new();
    for observer in observers {
        let is_it = |seen: &Option<(Bytes, Instant)>| seen.as_ref().is_some_and(|(of, _)| of == key);
        let seen = timeout(PATIENCE, observer.wait_for(is_it)).await.context("an observer sees no leader")??;
        since.push(seen.as_ref().context("a leader")?.1);
    }
    Ok(since)
}

/// Waits until so many campaign.
async fn queued(member: &Channel, count: i64) -> Result<()> {
    let wait = async {
        while crate::lease_scale::count_at(member, &format!("{NAME}/"), 0).await?.0 < count {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, wait).await.context("a candidate does not register")?
}
