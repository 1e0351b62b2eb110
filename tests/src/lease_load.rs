//! Holders of leases and those who watch them end, at work on a cluster that is being broken.
//!
//! Every holder has a lease of its own at a time, with a key on it. Some renew it for as long as they are asked to, some
//! stop at a time of their own, some never begin; they go from member to member as members fail. Observers read the keys
//! at every member all the time, so that an end is known to a few milliseconds. A probe writes all the time, so that the
//! times without a working leader are known. `lease_check` judges what they saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::lease_check::{Life, Moment, Promise, Span, Verdict, check, outages};

/// The TTLs of leases, in seconds: from the shortest that a server grants by default.
const TTLS: [u64; 6] = [2, 3, 5, 8, 12, 25];

/// A request of which the client hears nothing for so long is given up, and the next member is asked.
const PATIENCE: Duration = Duration::from_millis(1200);

/// A server works on a request for 7 s at most, whatever became of the client.
const SERVER_PATIENCE: Duration = Duration::from_millis(7000);

/// The pause after a failure, so that a dead member is not hammered.
const PAUSE: Duration = Duration::from_millis(20);

/// How often observers look and the probe writes.
const INTERVAL: Duration = Duration::from_millis(15);

/// The probe of a healthy cluster is answered much sooner. A longer silence counts as time without a working leader.
const HEALTHY: Duration = Duration::from_millis(250);

/// All leases are over by then, once their holders have stopped: the longest TTL, and what faults may add.
const END_PATIENCE: Duration = Duration::from_secs(120);

/// Every holder of a healthy cluster has its lease by then.
const HOLD_PATIENCE: Duration = Duration::from_secs(20);

/// What the holders of a load do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub holders: usize,
    /// Makes their choices repeat.
    pub seed: u64,
    /// The TTLs to choose from, in seconds.
    pub ttls: Vec<u64>,
    pub kinds: Kinds,
}

/// How the holders of a load behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// Of all kinds, one lease after another until the load is to end.
    Mixed,
    /// All renew until the load is to end.
    Steady,
    /// Each has one lease, and never renews it.
    IdleOnce,
}

impl Plan {
    /// All TTLs, all kinds.
    pub fn mixed(holders: usize, seed: u64) -> Plan {
        Plan { holders, seed, ttls: TTLS.to_vec(), kinds: Kinds::Mixed }
    }

    /// Holders that all behave alike, with leases of one TTL.
    pub fn alike(holders: usize, ttl: Duration, kinds: Kinds) -> Plan {
        Plan { holders, seed: 1, ttls: vec![ttl.as_secs()], kinds }
    }
}

/// Holders, observers and a probe at work.
pub struct LeaseLoad {
    shared: Arc<Shared>,
    holders: JoinSet<Vec<Life>>,
    watchers: JoinSet<Vec<Moment>>,
}

struct Shared {
    channels: Vec<Channel>,
    /// Holders are to let go.
    stop: AtomicBool,
    /// Everybody is to end.
    end: AtomicBool,
    next_id: AtomicI64,
    /// Keys that are there: the revision of their put.
    tracked: Mutex<BTreeMap<i64, i64>>,
    gone: Mutex<BTreeMap<i64, Moment>>,
    /// Holders that have a lease with its key.
    holding: AtomicUsize,
}

/// Locks what no holder of the lock leaves half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn channel(&self, at: usize) -> Channel {
        self.channels[at % self.channels.len()].clone()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn ended(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }
}

impl LeaseLoad {
    /// Puts holders to work, who go from one of these members to the next as they fail.
    pub fn start(endpoints: &[String], plan: &Plan) -> Result<LeaseLoad> {
        let channels = endpoints.iter().map(|endpoint| {
            let endpoint = Endpoint::from_shared(endpoint.clone())?.connect_timeout(Duration::from_millis(500));
            anyhow::Ok(endpoint.tcp_nodelay(true).connect_lazy())
        });
        let shared = Arc::new(Shared {
            channels: channels.collect::<Result<_>>()?,
            stop: AtomicBool::new(false),
            end: AtomicBool::new(false),
            next_id: AtomicI64::new(1),
            tracked: Mutex::default(),
            gone: Mutex::default(),
            holding: AtomicUsize::new(0),
        });
        let mut load = LeaseLoad { shared: shared.clone(), holders: JoinSet::new(), watchers: JoinSet::new() };
        for number in 0..plan.holders {
            let rng = StdRng::seed_from_u64(plan.seed.wrapping_add(number as u64));
            let holder = Holder { shared: shared.clone(), plan: plan.clone(), rng, at: number, stream: None };
            load.holders.spawn(holder.hold());
        }
        for at in 0..endpoints.len() {
            load.watchers.spawn(observe(shared.clone(), at));
            load.watchers.spawn(probe(shared.clone(), at));
        }
        Ok(load)
    }

    /// Waits until so many holders have their lease.
    pub async fn wait_held(&self, holders: usize) -> Result<()> {
        let all = async {
            while self.shared.holding.load(Ordering::Relaxed) < holders {
                sleep(INTERVAL).await;
            }
        };
        timeout(HOLD_PATIENCE, all).await.context("the holders do not get their leases")
    }

    /// Lets holders stop, waits until all leases are over, and judges.
    pub async fn finish(mut self, promise: Promise) -> Result<(Verdict, Duration)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut lives = Vec::new();
        let all = async {
            while let Some(holder) = self.holders.join_next().await {
                lives.extend(holder?);
            }
            anyhow::Ok(())
        };
        timeout(END_PATIENCE, all).await.context("leases do not end")??;
        self.shared.end.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        while let Some(watcher) = self.watchers.join_next().await {
            answers.extend(watcher?);
        }
        ensure!(!lives.is_empty() && !answers.is_empty(), "nothing happened");
        let outages = outages(answers, HEALTHY);
        let without_leader = outages.iter().map(|(from, to)| to.since(*from)).sum();
        let gone = lock(&self.shared.gone);
        for life in &mut lives {
            life.gone = [life.gone, gone.get(&life.id).copied()].into_iter().flatten().min();
        }
        Ok((check(&lives, &outages, promise), without_leader))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Renews until it is asked to stop.
    Steady,
    /// Renews for a while.
    Quitting { after: Duration },
    /// Never renews.
    Idle,
}

struct Holder {
    shared: Arc<Shared>,
    plan: Plan,
    rng: StdRng,
    /// The member it asks.
    at: usize,
    stream: Option<KeepAlive>,
}

struct KeepAlive {
    ask: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: Streaming<pb::LeaseKeepAliveResponse>,
}

/// What became of one keepalive.
enum Renewal {
    Acked,
    Gone,
    Unknown,
    /// Surely not sent.
    NotSent,
}

impl Holder {
    /// Holds one lease after another until it is asked to stop, and then waits for the end of the last.
    async fn hold(mut self) -> Vec<Life> {
        let mut lives = Vec::new();
        while !self.shared.stopped() && (self.plan.kinds != Kinds::IdleOnce || lives.is_empty()) {
            let ttl = Duration::from_secs(self.plan.ttls[self.rng.random_range(0..self.plan.ttls.len())]);
            let kind = match self.plan.kinds {
                Kinds::Steady => Kind::Steady,
                Kinds::IdleOnce => Kind::Idle,
                Kinds::Mixed => match self.rng.random_range(0..10) {
                    0..4 => Kind::Steady,
                    4..8 => Kind::Quitting { after: ttl.mul_f64(self.rng.random_range(0.2..4.0)) },
                    _ => Kind::Idle,
                },
            };
            if let Some(mut life) = self.grant(ttl).await {
                life.kind = match kind {
                    Kind::Steady => "steady",
                    Kind::Quitting { .. } => "quitting",
                    Kind::Idle => "idle",
                };
                self.live(&mut life, kind).await;
                lives.push(life);
            }
        }
        lives
    }

    async fn grant(&mut self, ttl: Duration) -> Option<Life> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let request = pb::LeaseGrantRequest { id, ttl: i64::try_from(ttl.as_secs()).ok()? };
        // If an earlier try turns out to have been carried out, nothing is promised beyond what its send time promises.
        let mut first_try = None;
        loop {
            if self.shared.stopped() && first_try.is_none() {
                return None;
            }
            let sent = Moment::now();
            let mut client = LeaseClient::new(self.shared.channel(self.at));
            match timeout(PATIENCE, client.lease_grant(request)).await {
                Ok(Ok(_)) => {
                    let acks = vec![Span { sent, received: Moment::now() }];
                    return Some(Life { id, ttl, acks, ..Life::default() });
                }
                Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
                    let acks = vec![Span { sent: first_try.unwrap_or(sent), received: Moment::now() }];
                    return Some(Life { id, ttl, acks, ..Life::default() });
                }
                Ok(Err(_)) | Err(_) => {
                    first_try.get_or_insert(sent);
                    self.at += 1;
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn live(&mut self, life: &mut Life, kind: Kind) {
        let began = Moment::now();
        if !self.put_key(life).await {
            return;
        }
        self.shared.holding.fetch_add(1, Ordering::Relaxed);
        let mut next = Moment::now().plus(life.ttl / 3);
        loop {
            sleep(INTERVAL).await;
            if lock(&self.shared.gone).contains_key(&life.id) {
                return;
            }
            let renews = match kind {
                Kind::Steady => !self.shared.stopped(),
                Kind::Quitting { after } => !self.shared.stopped() && Moment::now().since(began) < after,
                Kind::Idle => false,
            };
            if !renews || Moment::now() < next || life.told_gone.is_some() {
                continue;
            }
            next = match self.renew(life).await {
                Renewal::Acked => Moment::now().plus(life.ttl / 3),
                Renewal::Gone => {
                    life.wanted = true;
                    next
                }
                Renewal::Unknown | Renewal::NotSent => Moment::now().plus(PAUSE),
            };
        }
    }

    /// Puts the key by which others see the lease. False if the lease is gone before.
    async fn put_key(&mut self, life: &mut Life) -> bool {
        let key = key_of(life.id);
        loop {
            let put = pb::PutRequest { key: key.clone().into(), lease: life.id, ..pb::PutRequest::default() };
            let mut client = KvClient::new(self.shared.channel(self.at));
            match timeout(PATIENCE, client.put(put)).await {
                Ok(Ok(answer)) => {
                    let revision = answer.into_inner().header.unwrap_or_default().revision;
                    lock(&self.shared.tracked).insert(life.id, revision);
                    return true;
                }
                Ok(Err(status)) if status.code() == Code::NotFound => {
                    life.gone = Some(Moment::now());
                    return false;
                }
                Ok(Err(_)) | Err(_) => {
                    self.at += 1;
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn renew(&mut self, life: &mut Life) -> Renewal {
        let sent = Moment::now();
        let renewal = match timeout(PATIENCE, self.keep_alive(life.id)).await {
            Ok(renewal) => renewal,
            Err(_) => Renewal::Unknown,
        };
        let span = Span { sent, received: Moment::now() };
        match renewal {
            Renewal::Acked => life.acks.push(span),
            Renewal::Gone => life.told_gone = Some(span),
            Renewal::Unknown => {
                life.unknown.push(Span { sent, received: sent.plus(SERVER_PATIENCE) });
                self.stream = None;
                self.at += 1;
            }
            Renewal::NotSent => {
                self.stream = None;
                self.at += 1;
            }
        }
        renewal
    }

    async fn keep_alive(&mut self, id: i64) -> Renewal {
        let request = pb::LeaseKeepAliveRequest { id };
        let stream = match &mut self.stream {
            Some(stream) => {
                if stream.ask.send(request).await.is_err() {
                    return Renewal::NotSent;
                }
                stream
            }
            // etcd opens a stream only when there is something on it.
            none => {
                let (ask, asked) = mpsc::channel(1);
                let mut client = LeaseClient::new(self.shared.channel(self.at));
                if ask.try_send(request).is_err() {
                    return Renewal::NotSent;
                }
                match client.lease_keep_alive(ReceiverStream::new(asked)).await {
                    Ok(answers) => none.insert(KeepAlive { ask, answers: answers.into_inner() }),
                    Err(status) if is_refused_connection(&status) => return Renewal::NotSent,
                    Err(_) => return Renewal::Unknown,
                }
            }
        };
        match stream.answers.message().await {
            Ok(Some(answer)) if answer.id == id && answer.ttl > 0 => Renewal::Acked,
            Ok(Some(answer)) if answer.id == id => Renewal::Gone,
            Ok(_) | Err(_) => Renewal::Unknown,
        }
    }
}

/// Whether a member could not even be connected to, so that nothing was sent.
fn is_refused_connection(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        source = error.source();
    }
    false
}

fn key_of(id: i64) -> String {
    format!("lease/{id:019}")
}

/// Reads the keys at one member again and again, as far as that member has applied.
async fn observe(shared: Arc<Shared>, at: usize) -> Vec<Moment> {
    let mut client = KvClient::new(shared.channel(at));
    while !shared.ended() {
        sleep(INTERVAL).await;
        let range = pb::RangeRequest {
            key: "lease/".into(),
            range_end: "lease0".into(),
            serializable: true,
            keys_only: true,
            ..pb::RangeRequest::default()
        };
        let Ok(Ok(answer)) = timeout(PATIENCE, client.range(range)).await else { continue };
        let received = Moment::now();
        let answer = answer.into_inner();
        let revision = answer.header.unwrap_or_default().revision;
        let there: Vec<&[u8]> = answer.kvs.iter().map(|kv| &kv.key[..]).collect();
        // A member that has not yet applied the put of a key does not show it, either.
        let mut missing = Vec::new();
        lock(&shared.tracked).retain(|id, put| {
            let is_gone = *put <= revision && there.binary_search(&key_of(*id).as_bytes()).is_err();
            if is_gone {
                missing.push(*id);
            }
            !is_gone
        });
        lock(&shared.gone).extend(missing.into_iter().map(|id| (id, received)));
    }
    Vec::new()
}

/// Writes through one member again and again; says when it was answered.
async fn probe(shared: Arc<Shared>, at: usize) -> Vec<Moment> {
    let mut client = KvClient::new(shared.channel(at));
    let mut answered = Vec::new();
    while !shared.ended() {
        sleep(INTERVAL).await;
        let put = pb::PutRequest { key: format!("probe/{at}").into(), ..pb::PutRequest::default() };
        if matches!(timeout(PATIENCE, client.put(put)).await, Ok(Ok(_))) {
            answered.push(Moment::now());
        }
    }
    answered
}
