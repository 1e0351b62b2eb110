//! The lease service beside a real etcd: the same requests to both, and answers that clients cannot tell apart.
//!
//! Ids that a server picked are each program's own, and what is left of a TTL may differ by the second that passes between
//! two answers; all else must be equal: ids, TTLs, keys, revisions, codes, texts. `TENURE_COMPAT_SEED`,
//! `TENURE_COMPAT_SEEDS` and `TENURE_COMPAT_REQUESTS` change the walk.
#![expect(clippy::print_stdout, reason = "the figures that a comparison prints are its product")]

use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::wire::Wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

#[test]
fn lease_requests_to_the_leader_get_the_answers_of_etcd() {
    scenario::run("compat_lease", "lease_requests_to_the_leader_get_the_answers_of_etcd", |scenario| {
        walk(scenario, true, 1)
    });
}

#[test]
fn lease_requests_to_a_follower_get_the_answers_of_etcd() {
    scenario::run("compat_lease", "lease_requests_to_a_follower_get_the_answers_of_etcd", |scenario| {
        walk(scenario, false, 1_000)
    });
}

/// A lease as the walk names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// By an id of the client's choice.
    Id(i64),
    /// The nth that servers picked an id for.
    Picked(usize),
}

#[derive(Clone, Debug)]
enum Request {
    Grant { id: i64, ttl: i64 },
    Revoke(Which),
    KeepAlive(Which),
    TimeToLive { lease: Which, keys: bool },
    List,
    Put { key: u8, lease: Which, ignore_lease: bool },
    PutInTxn { key: u8, lease: Which },
    Delete { from: u8, to: u8 },
    Range,
}

/// What a client sees, with what may differ taken out.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Granted { id: Option<i64>, ttl: i64, revision: i64 },
    Revoked { revision: i64 },
    KeptAlive { asked_id: bool, ttl: i64, revision: i64 },
    Left { asked_id: bool, ttl: i64, granted: i64, keys: Vec<Vec<u8>>, revision: i64 },
    Listed { leases: Vec<Which>, revision: i64 },
    Written { revision: i64 },
    Read { kvs: Vec<(Vec<u8>, i64, i64, Option<Which>)>, revision: i64 },
    Refused { code: Code, message: String },
}

/// One program under comparison.
struct Side {
    lease: LeaseClient<Channel>,
    kv: KvClient<Channel>,
    picked: Vec<i64>,
    ask: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: Streaming<pb::LeaseKeepAliveResponse>,
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.map_or(-1, |header| header.revision)
}

impl Side {
    async fn connect(endpoint: &str) -> Result<Side> {
        let channel = Wire::connect(endpoint).await?.channel();
        let (mut lease, kv) = (LeaseClient::new(channel.clone()), KvClient::new(channel));
        let (ask, asked) = mpsc::channel(1);
        // etcd opens the stream only when there is something on it.
        ask.send(pb::LeaseKeepAliveRequest { id: 0 }).await?;
        let mut answers = lease.lease_keep_alive(ReceiverStream::new(asked)).await?.into_inner();
        answers.message().await?.context("no answer to the first keepalive")?;
        Ok(Side { lease, kv, picked: Vec::new(), ask, answers })
    }

    fn id(&self, which: Which) -> i64 {
        match which {
            Which::Id(id) => id,
            Which::Picked(nth) => self.picked[nth],
        }
    }

    fn which(&self, id: i64) -> Which {
        self.picked.iter().position(|picked| *picked == id).map_or(Which::Id(id), Which::Picked)
    }

    async fn send(&mut self, request: &Request) -> Result<Answer, Status> {
        match *request {
            Request::Grant { id, ttl } => self.grant(id, ttl).await,
            Request::Revoke(which) => {
                let answer = self.lease.lease_revoke(pb::LeaseRevokeRequest { id: self.id(which) }).await?;
                Ok(Answer::Revoked { revision: revision(answer.into_inner().header) })
            }
            Request::KeepAlive(which) => {
                let id = self.id(which);
                let closed = |_| Status::cancelled("the stream of keepalives has ended");
                self.ask.send(pb::LeaseKeepAliveRequest { id }).await.map_err(closed)?;
                let answer = self.answers.message().await?.ok_or(Status::cancelled("the stream has ended"))?;
                let (asked_id, ttl, revision) = (answer.id == id, answer.ttl, revision(answer.header));
                Ok(Answer::KeptAlive { asked_id, ttl, revision })
            }
            Request::TimeToLive { lease, keys } => {
                let id = self.id(lease);
                let answer = self.lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys }).await?.into_inner();
                let mut keys: Vec<Vec<u8>> = answer.keys.iter().map(|key| key.to_vec()).collect();
                // etcd answers them in no order.
                keys.sort_unstable();
                let (asked_id, revision) = (answer.id == id, revision(answer.header));
                Ok(Answer::Left { asked_id, ttl: answer.ttl, granted: answer.granted_ttl, keys, revision })
            }
            Request::List => self.list().await,
            Request::Put { key, lease, ignore_lease } => {
                let lease = if ignore_lease { 0 } else { self.id(lease) };
                let put = pb::PutRequest { key: vec![key].into(), lease, ignore_lease, ..pb::PutRequest::default() };
                let answer = self.kv.put(put).await?;
                Ok(Answer::Written { revision: revision(answer.into_inner().header) })
            }
            Request::PutInTxn { key, lease } => {
                let lease = self.id(lease);
                let put = pb::PutRequest { key: vec![key].into(), lease, ..pb::PutRequest::default() };
                let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
                let answer = self.kv.txn(pb::TxnRequest { success: vec![op], ..pb::TxnRequest::default() }).await?;
                Ok(Answer::Written { revision: revision(answer.into_inner().header) })
            }
            Request::Delete { from, to } => {
                let (key, range_end) = (vec![from].into(), vec![to].into());
                let delete = pb::DeleteRangeRequest { key, range_end, ..pb::DeleteRangeRequest::default() };
                let answer = self.kv.delete_range(delete).await?;
                Ok(Answer::Written { revision: revision(answer.into_inner().header) })
            }
            Request::Range => self.range().await,
        }
    }

    async fn grant(&mut self, id: i64, ttl: i64) -> Result<Answer, Status> {
        let answer = self.lease.lease_grant(pb::LeaseGrantRequest { id, ttl }).await?.into_inner();
        if id == 0 {
            self.picked.push(answer.id);
        }
        let shown = if id == 0 && answer.id > 0 { None } else { Some(answer.id) };
        Ok(Answer::Granted { id: shown, ttl: answer.ttl, revision: revision(answer.header) })
    }

    async fn list(&mut self) -> Result<Answer, Status> {
        let answer = self.lease.lease_leases(pb::LeaseLeasesRequest {}).await?.into_inner();
        let mut leases: Vec<Which> = answer.leases.iter().map(|lease| self.which(lease.id)).collect();
        // By their ends in both, but ends that nearly coincide may be ordered either way.
        leases.sort_unstable_by_key(|which| match which {
            Which::Id(id) => (0, *id),
            Which::Picked(nth) => (1, i64::try_from(*nth).unwrap_or(i64::MAX)),
        });
        Ok(Answer::Listed { leases, revision: revision(answer.header) })
    }

    async fn range(&mut self) -> Result<Answer, Status> {
        let range = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..pb::RangeRequest::default() };
        let answer = self.kv.range(range).await?.into_inner();
        let lease = |lease| (lease != 0).then(|| self.which(lease));
        let kvs = answer.kvs.iter().map(|kv| (kv.key.to_vec(), kv.mod_revision, kv.version, lease(kv.lease)));
        Ok(Answer::Read { kvs: kvs.collect(), revision: revision(answer.header) })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to unwrap_or_else, which gives the status away")]
fn refused(status: Status) -> Answer {
    Answer::Refused { code: status.code(), message: status.message().to_owned() }
}

/// Whether a client could not tell the answers apart.
fn alike(etcd: &Answer, tenured: &Answer) -> bool {
    match (etcd, tenured) {
        (
            Answer::Left { asked_id, ttl, granted, keys, revision },
            Answer::Left { asked_id: id, ttl: left, granted: ttl_granted, keys: attached, revision: at },
        ) => {
            (asked_id, granted, keys, revision) == (id, ttl_granted, attached, at)
                && (ttl == left || (*ttl > 0 && *left > 0 && ttl.abs_diff(*left) <= 1))
        }
        (etcd, tenured) => etcd == tenured,
    }
}

/// Random requests about few leases and keys, so that they meet.
struct Walk {
    rng: StdRng,
    picked: usize,
}

impl Walk {
    fn which(&mut self) -> Which {
        if self.picked > 0 && self.rng.random_bool(0.4) {
            return Which::Picked(self.rng.random_range(0..self.picked));
        }
        Which::Id([1, 2, 3, -4, i64::MAX, i64::MIN, 99][self.rng.random_range(0..7)])
    }

    fn key(&mut self) -> u8 {
        self.rng.random_range(b'a'..b'i')
    }

    fn next(&mut self) -> Request {
        // Long enough that none ends during the walk.
        let ttl = [60, 100, 3600, 9_000_000_000, 9_000_000_001, i64::MAX][self.rng.random_range(0..6)];
        match self.rng.random_range(0..100) {
            0..8 => Request::Grant { id: 0, ttl },
            8..20 => match self.which() {
                Which::Id(id) => Request::Grant { id, ttl },
                Which::Picked(_) => Request::Grant { id: 1, ttl },
            },
            20..30 => Request::Revoke(self.which()),
            30..45 => Request::KeepAlive(self.which()),
            45..60 => Request::TimeToLive { lease: self.which(), keys: self.rng.random_bool(0.6) },
            60..64 => Request::List,
            64..84 => Request::Put { key: self.key(), lease: self.which(), ignore_lease: self.rng.random_bool(0.15) },
            84..90 => Request::PutInTxn { key: self.key(), lease: self.which() },
            90..95 => Request::Delete { from: self.key(), to: self.key() },
            _ => Request::Range,
        }
    }
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is not a number")),
    }
}

fn kind(answer: &Answer) -> String {
    match answer {
        Answer::Granted { .. } => "granted".to_owned(),
        Answer::Revoked { .. } => "revoked".to_owned(),
        Answer::KeptAlive { ttl: 0, .. } => "keepalive of a lease that is not there".to_owned(),
        Answer::KeptAlive { .. } => "kept alive".to_owned(),
        Answer::Left { ttl: -1, .. } => "time to live of a lease that is not there".to_owned(),
        Answer::Left { .. } => "time to live".to_owned(),
        Answer::Listed { .. } => "list".to_owned(),
        Answer::Written { .. } => "written".to_owned(),
        Answer::Read { .. } => "read".to_owned(),
        Answer::Refused { code, message } => format!("{code:?}: {message}"),
    }
}

async fn walk(scenario: Scenario, leader: bool, first_seed: u64) -> Result<()> {
    let count = setting("TENURE_COMPAT_REQUESTS", 1_500)?;
    let first_seed = setting("TENURE_COMPAT_SEED", first_seed)?;
    let seeds = setting("TENURE_COMPAT_SEEDS", 2)?;
    let mut answers = BTreeMap::<String, u64>::new();
    for seed in first_seed..first_seed + seeds {
        let home = scenario.home.join(format!("seed-{seed}"));
        let etcd = Cluster::start(Program::Etcd, 1, &home.join("etcd")).await?;
        let mut tenured = Cluster::start(Program::Tenured, 3, &home.join("tenured")).await?;
        let at = if leader { tenured.wait_leader(LEADER_PATIENCE).await? } else { tenured.follower().await? };
        let mut etcd_side = Side::connect(&etcd.nodes[0].endpoint()).await?;
        let mut tenured_side = Side::connect(&tenured.nodes[at].endpoint()).await?;
        let mut walk = Walk { rng: StdRng::seed_from_u64(seed), picked: 0 };
        for step in 0..count {
            let request = walk.next();
            let (expected, actual) = tokio::join!(etcd_side.send(&request), tenured_side.send(&request));
            let (expected, actual) = (expected.unwrap_or_else(refused), actual.unwrap_or_else(refused));
            if !alike(&expected, &actual) {
                bail!(
                    "request {step} is answered differently: {request:?}\n   etcd: {expected:?}\ntenured: {actual:?}\n\
                     reproduce with TENURE_COMPAT_SEED={seed} TENURE_COMPAT_SEEDS=1 TENURE_COMPAT_REQUESTS={count}"
                );
            }
            walk.picked = etcd_side.picked.len();
            *answers.entry(kind(&expected)).or_default() += 1;
        }
    }
    println!("{seeds} seeds × {count} lease requests from seed {first_seed} on, all answers alike. Of these:");
    for (kind, count) in answers {
        println!("{count:8} {kind}");
    }
    Ok(())
}

/// TTLs that are raised, and leases that end: both let go of the keys, at a revision of their own.
#[test]
fn short_leases_are_raised_and_end_as_in_etcd() {
    scenario::run("compat_lease", "short_leases_are_raised_and_end_as_in_etcd", |scenario| async move {
        let etcd = Cluster::start(Program::Etcd, 1, &scenario.home.join("etcd")).await?;
        let mut tenured = Cluster::start(Program::Tenured, 3, &scenario.home.join("tenured")).await?;
        let at = tenured.follower().await?;
        let mut sides =
            [Side::connect(&etcd.nodes[0].endpoint()).await?, Side::connect(&tenured.nodes[at].endpoint()).await?];
        let mut seen = Vec::new();
        for side in &mut sides {
            let mut answers = Vec::new();
            let began = Instant::now();
            for (id, ttl) in [(1, 0), (2, -1), (3, i64::MIN), (4, 1), (5, 2), (6, 3)] {
                answers.push(side.send(&Request::Grant { id, ttl }).await.unwrap_or_else(refused));
            }
            for (key, id) in [(b'a', 1), (b'b', 1), (b'c', 6)] {
                let put = Request::Put { key, lease: Which::Id(id), ignore_lease: false };
                answers.push(side.send(&put).await.unwrap_or_else(refused));
            }
            loop {
                let listed = side.send(&Request::List).await.unwrap_or_else(refused);
                if matches!(&listed, Answer::Listed { leases, .. } if leases.is_empty()) {
                    break;
                }
                ensure!(began.elapsed() < Duration::from_secs(20), "leases do not end: {listed:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            ensure!(began.elapsed() >= Duration::from_secs(3), "leases ended early");
            for request in [
                Request::Range,
                Request::KeepAlive(Which::Id(1)),
                Request::TimeToLive { lease: Which::Id(1), keys: true },
                Request::Revoke(Which::Id(1)),
                Request::Put { key: b'a', lease: Which::Id(1), ignore_lease: false },
                Request::List,
            ] {
                answers.push(side.send(&request).await.unwrap_or_else(refused));
            }
            seen.push(answers);
        }
        ensure!(seen[0] == seen[1], "answers differ:\n   etcd: {:?}\ntenured: {:?}", seen[0], seen[1]);
        println!("{} answers alike, and all leases ended", seen[0].len());
        Ok(())
    });
}
