//! Members stand still for much longer than leases live, while clients renew: no lease may be lost for it.
//!
//! If it is the leader, the others elect another, and clients renew there. The old one then wakes up to keepalives that
//! lay in its sockets. What it says to those was asked after another was elected: it must not promise anything by
//! itself. There are leases among them that nobody else renews and that are long gone, which an old leader does not know
//! yet; and an answer that goes through the log is of the new term.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::binaries::Program;
use crate::check;
use crate::cluster::{Cluster, LEADER_PATIENCE};
use crate::lease_check::Verdict;
use crate::lease_faults::{PROMISE, judge_times};
use crate::lease_load::{Kinds, LeaseLoad, Plan};
use crate::lease_scale::channels;
use crate::lease_scale::seed::{fixed, grant};

const TTL: Duration = Duration::from_secs(4);
/// Leases that nobody renews, by ids that no holder has.
const ORPHANS: i64 = 20;
const FIRST_ORPHAN: i64 = 1 << 40;
/// For so long after it woke up the old leader is asked.
const ASKED: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(5);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub rounds: usize,
    pub holders: usize,
}

/// The leader stands still for three TTLs, again and again.
pub async fn leaders_stall(home: &Path, counts: Counts) -> Result<()> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let (mut totals, mut told) = (Totals::default(), Told::default());
    for round in 0..counts.rounds {
        let old = cluster.wait_leader(LEADER_PATIENCE).await?;
        let others: Vec<usize> = (0..3).filter(|at| *at != old).collect();
        let endpoints: Vec<String> = others.iter().map(|at| cluster.nodes[*at].endpoint()).collect();
        let load = LeaseLoad::start(&endpoints, &Plan::alike(counts.holders, TTL, Kinds::Steady))?;
        load.wait_held(counts.holders).await?;
        let mut asker = Asker::open(&cluster, old).await?;
        cluster.nodes[old].pause()?;
        let until = Instant::now() + TTL * 3;
        let new = cluster.wait_leader_among(&others, LEADER_PATIENCE).await?;
        let term = cluster.status(new).await?.raft_term();
        // These wait in the socket of a process that stands still.
        asker.ask(counts.holders)?;
        sleep_until(until).await;
        cluster.nodes[old].resume()?;
        told.add(&asker.hear(counts.holders, term).await?);
        totals.add(&judge_times(load, &format!("round {}", round + 1), PROMISE).await?);
        cluster.wait_leader(LEADER_PATIENCE).await?;
    }
    check::same_everywhere(&cluster).await?;
    println!(
        "stalled leader | {} rounds, leader stopped for {:?} | {totals} | the old leader was asked {} keepalives after another was \
         elected: {} acked by itself, {} acked for leases that were gone, {} acked through the log in the new term, {} told to \
         be gone, {} streams ended",
        counts.rounds,
        TTL * 3,
        told.asked,
        told.stale_term,
        told.orphans_acked,
        told.acked,
        told.gone,
        told.ended
    );
    totals.none_lost()?;
    ensure!(told.stale_term == 0 && told.orphans_acked == 0, "the old leader acknowledged by itself");
    ensure!(told.gone > 0, "the old leader was not heard");
    Ok(())
}

/// Both followers stand still for two TTLs, again and again: nothing can be renewed, and nobody else may lead.
pub async fn followers_stall(home: &Path, counts: Counts) -> Result<()> {
    let mut cluster = Cluster::start(Program::Tenured, 3, home).await?;
    let (mut totals, mut changes) = (Totals::default(), 0);
    for round in 0..counts.rounds {
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let followers: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
        let load = LeaseLoad::start(&cluster.endpoints(), &Plan::alike(counts.holders, TTL, Kinds::Steady))?;
        load.wait_held(counts.holders).await?;
        for at in &followers {
            cluster.nodes[*at].pause()?;
        }
        sleep(TTL * 2).await;
        for at in &followers {
            cluster.nodes[*at].resume()?;
        }
        let now = cluster.wait_leader(LEADER_PATIENCE).await?;
        changes += usize::from(now != leader);
        // Long enough that what was not renewed since is gone.
        sleep(TTL * 2).await;
        totals.add(&judge_times(load, &format!("round {}", round + 1), PROMISE).await?);
    }
    check::same_everywhere(&cluster).await?;
    println!(
        "outage | {} rounds, both followers stopped for {:?} | {totals} | leadership moved in {changes} of them",
        counts.rounds,
        TTL * 2
    );
    totals.none_lost()
}

#[derive(Debug, Default)]
struct Totals {
    lives: usize,
    acks: usize,
    lost: usize,
}

impl Totals {
    fn add(&mut self, verdict: &Verdict) {
        self.lives += verdict.lives;
        self.acks += verdict.acks;
        self.lost += verdict.lost.iter().map(|(_, count)| count).sum::<usize>();
    }

    fn none_lost(&self) -> Result<()> {
        ensure!(self.lives > 0 && self.acks > self.lives, "nothing was renewed");
        ensure!(self.lost == 0, "{} of {} leases were lost while their holders renewed them", self.lost, self.lives);
        Ok(())
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Totals { lives, acks, lost } = self;
        write!(f, "{lives} leases of TTL {} s renewed ({acks} acks), {lost} lost", TTL.as_secs())
    }
}

/// What an old leader said to keepalives that were sent after another was elected.
#[derive(Debug, Default)]
struct Told {
    asked: usize,
    acked: usize,
    stale_term: usize,
    orphans_acked: usize,
    gone: usize,
    ended: usize,
}

impl Told {
    fn add(&mut self, other: &Told) {
        self.asked += other.asked;
        self.acked += other.acked;
        self.stale_term += other.stale_term;
        self.orphans_acked += other.orphans_acked;
        self.gone += other.gone;
        self.ended += other.ended;
    }
}

/// A stream of keepalives to the member that leads.
struct Asker {
    ask: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: Streaming<pb::LeaseKeepAliveResponse>,
    asked: usize,
}

impl Asker {
    /// Grants the orphans, and renews one of them, so that the stream is there.
    async fn open(cluster: &Cluster, leader: usize) -> Result<Asker> {
        let channels = channels(cluster)?;
        grant(&channels[leader..=leader], FIRST_ORPHAN, ORPHANS, fixed(TTL)).await?;
        let (ask, asked) = mpsc::channel(16 * 1024);
        ask.send(pb::LeaseKeepAliveRequest { id: FIRST_ORPHAN }).await?;
        let opened = LeaseClient::new(channels[leader].clone()).lease_keep_alive(ReceiverStream::new(asked)).await?;
        let mut answers = opened.into_inner();
        let first = timeout(PATIENCE, answers.message()).await.context("no answer")??.context("the stream ended")?;
        ensure!(first.ttl > 0, "an orphan is gone already");
        Ok(Asker { ask, answers, asked: 0 })
    }

    /// Asks to renew the orphans, and the leases of some holders, who renew them elsewhere.
    fn ask(&mut self, holders: usize) -> Result<()> {
        let held = 1..=i64::try_from(holders.min(20))?;
        for id in (FIRST_ORPHAN..FIRST_ORPHAN + ORPHANS).chain(held) {
            if self.ask.try_send(pb::LeaseKeepAliveRequest { id }).is_err() {
                return Ok(());
            }
            self.asked += 1;
        }
        Ok(())
    }

    /// Asks for some time more, and hears everything that is answered.
    async fn hear(mut self, holders: usize, term: u64) -> Result<Told> {
        let mut told = Told::default();
        let end = Instant::now() + ASKED;
        let mut turns = interval(ASK_EVERY);
        let mut answered = 0;
        while Instant::now() < end || answered < self.asked {
            ensure!(Instant::now() < end + PATIENCE, "{answered} of {} keepalives are answered", self.asked);
            tokio::select! {
                answer = self.answers.message() => match answer {
                    Ok(Some(answer)) => {
                        answered += 1;
                        told.note(&answer, term)?;
                    }
                    // Refused, which promises nothing.
                    Ok(None) | Err(_) => {
                        told.ended += 1;
                        break;
                    }
                },
                _ = turns.tick() => if Instant::now() < end { self.ask(holders)? },
            }
        }
        told.asked = self.asked;
        Ok(told)
    }
}

impl Told {
    fn note(&mut self, answer: &pb::LeaseKeepAliveResponse, term: u64) -> Result<()> {
        let Some(header) = &answer.header else { bail!("an answer without a header") };
        if answer.ttl <= 0 {
            self.gone += 1;
        } else if answer.id >= FIRST_ORPHAN {
            self.orphans_acked += 1;
        } else if header.raft_term < term {
            self.stale_term += 1;
        } else {
            self.acked += 1;
        }
        Ok(())
    }
}
