//! The lock and election services beside a real etcd: the same calls to both, and answers that clients cannot tell apart.
//!
//! Codes, texts, keys, values and revisions must be equal; leases that a server made are left out by their ids. Where
//! Tenure answers otherwise on purpose, the step says so.
#![expect(clippy::print_stdout, reason = "the counts are the figures that this comparison shows")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::v3electionpb::election_client::ElectionClient;
use tenure_proto::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ResignRequest,
};
use tenure_proto::v3lockpb::lock_client::LockClient;
use tenure_proto::v3lockpb::{LockRequest, UnlockRequest};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::wire::Wire;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;

/// Hit only by a bug.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition that no watch can tell is looked at.
const POLL: Duration = Duration::from_millis(5);

#[test]
fn calls_to_the_leader_get_the_answers_of_etcd() {
    run("calls_to_the_leader_get_the_answers_of_etcd", Program::Etcd, true);
}

#[test]
fn calls_to_a_follower_get_the_answers_of_etcd() {
    run("calls_to_a_follower_get_the_answers_of_etcd", Program::Etcd, false);
}

#[test]
fn calls_get_the_answers_of_etcd_37() {
    run("calls_get_the_answers_of_etcd_37", Program::Etcd37, false);
}

fn run(test: &str, etcd: Program, at_the_leader: bool) {
    scenario::run("compat_contests", test, |scenario| compare(scenario, etcd, at_the_leader));
}

/// A call of one of the two services.
#[derive(Clone, Copy, Debug)]
enum Call {
    Lock(&'static str, i64),
    Unlock(&'static str),
    Campaign(&'static str, i64, &'static str),
    /// By the leader key that a campaign gave for this key. None, if there is no such key.
    Proclaim(Option<&'static str>, &'static str),
    Resign(Option<&'static str>),
    Leader(&'static str),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Grant(i64),
    Revoke(i64),
    Put(&'static str),
    Delete(&'static str),
    /// A call that is answered at once.
    Ask(Call),
    /// The same by a lease that contends already. Tenure writes its key again, so that no call that was cancelled before
    /// takes it away; etcd writes it only if its value changes. So the revision of the answer is not compared.
    Again(Call),
    /// A call that waits, as the last of so many contenders.
    Start(Call, usize),
    /// The oldest call that waits is answered.
    End,
    /// The oldest call that waits is cancelled, which leaves so many contenders of this name.
    Cancel(&'static str, usize),
    Observe(&'static str),
    /// The next that the observer is told.
    Observed,
}

fn steps() -> Vec<Step> {
    use Call::{Campaign, Leader, Lock, Proclaim, Resign, Unlock};
    use Step::{Again, Ask, Cancel, Delete, End, Grant, Observe, Observed, Put, Revoke, Start};
    let mut steps: Vec<Step> = [1, 2, 0x7fff_ffff, 4, 5, 6].map(Grant).to_vec();
    // Locks.
    steps.extend([
        Ask(Lock("l", 1)),
        Start(Lock("l", 2), 2),
        Start(Lock("l", 0x7fff_ffff), 3),
        Ask(Unlock("l/1")),
        End,
    ]);
    steps.extend([Delete("l/2"), End, Revoke(0x7fff_ffff), Ask(Unlock("l/7fffffff")), Ask(Unlock("nothing"))]);
    steps.extend([Ask(Unlock("")), Ask(Lock("l", 99)), Ask(Lock("l", -1)), Ask(Lock("", 1)), Ask(Lock("a/", 1))]);
    steps.extend([
        Ask(Lock("ü \n", 1)),
        Ask(Lock("made", 0)),
        Put("p/by hand"),
        Start(Lock("p", 1), 2),
        Put("p/by hand"),
    ]);
    steps.extend([
        Start(Lock("p", 2), 3),
        Cancel("p", 2),
        Delete("p/by hand"),
        End,
        Put("p/later"),
        Start(Lock("p", 2), 3),
    ]);
    // Whose lease is gone is told so once it would be its turn; Tenure tells it before.
    steps.extend([Revoke(2), Delete("p/1"), Delete("p/later"), End, Ask(Lock("p", 5))]);
    // Elections.
    steps.extend([Ask(Leader("e")), Observe("e"), Ask(Campaign("e", 1, "one")), Observed, Ask(Leader("e"))]);
    steps.extend([
        Start(Campaign("e", 4, "four"), 2),
        Ask(Proclaim(Some("e/1"), "one again")),
        Observed,
        Ask(Leader("e")),
    ]);
    steps.extend([Ask(Proclaim(Some("e/nobody"), "x")), Ask(Resign(Some("e/nobody"))), Ask(Proclaim(None, "x"))]);
    steps.extend([
        Ask(Resign(None)),
        Ask(Proclaim(Some(""), "x")),
        Ask(Resign(Some(""))),
        Ask(Resign(Some("e/1"))),
        End,
    ]);
    steps.extend([
        Observed,
        Ask(Proclaim(Some("e/1"), "x")),
        Ask(Resign(Some("e/1"))),
        Again(Campaign("e", 4, "four!")),
    ]);
    steps.extend([
        Observed,
        Ask(Campaign("e", 99, "x")),
        Start(Campaign("e", 5, ""), 2),
        Start(Campaign("e", 6, "six"), 3),
    ]);
    steps.extend([Cancel("e", 2), Revoke(4), End, Observed, Revoke(6), Ask(Resign(Some("e/6"))), Ask(Leader("e"))]);
    steps.extend([Again(Campaign("", 1, "nameless")), Ask(Leader("")), Put("e/by hand"), Ask(Leader("e"))]);
    steps.extend([Delete("e/5"), Observed, Again(Lock("p", 5))]);
    steps
}

/// One program under comparison.
struct Side {
    kv: KvClient<Channel>,
    leases: LeaseClient<Channel>,
    calls: Calls,
    waiting: VecDeque<JoinHandle<Result<Answer, Status>>>,
    leaders: BTreeMap<String, LeaderKey>,
    observer: Option<mpsc::Receiver<String>>,
}

/// The services.
#[derive(Clone)]
struct Calls {
    locks: LockClient<Channel>,
    elections: ElectionClient<Channel>,
}

/// What a client sees, and the leader key in it.
type Answer = (String, Option<LeaderKey>);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.map_or(-1, |header| header.revision)
}

fn leader_shown(answer: LeaderResponse) -> String {
    let kv = answer.kv.unwrap_or_default();
    let (key, value, lease) = (text(&kv.key), text(&kv.value), kv.lease);
    let (create, modified, version) = (kv.create_revision, kv.mod_revision, kv.version);
    let at = revision(answer.header);
    format!("{key} = {value:?} created {create} modified {modified} version {version} lease {lease}, at {at}")
}

impl Calls {
    async fn ask(&mut self, call: Call, leader: Option<LeaderKey>) -> Result<Answer, Status> {
        match call {
            Call::Lock(name, lease) => {
                let answer = self.locks.lock(LockRequest { name: name.into(), lease }).await?.into_inner();
                let key = text(&answer.key);
                let key = if lease == 0 { key.split('/').next().unwrap_or_default().to_owned() } else { key };
                Ok((format!("locked by {key:?}, at {}", revision(answer.header)), None))
            }
            Call::Unlock(key) => {
                let answer = self.locks.unlock(UnlockRequest { key: key.into() }).await?.into_inner();
                Ok((format!("unlocked, at {}", revision(answer.header)), None))
            }
            Call::Campaign(name, lease, value) => {
                let request = CampaignRequest { name: name.into(), lease, value: value.into() };
                let answer = self.elections.campaign(request).await?.into_inner();
                let shown = format!("{:?}, at {}", answer.leader, revision(answer.header));
                Ok((shown, answer.leader))
            }
            Call::Proclaim(_, value) => {
                let request = ProclaimRequest { leader, value: value.into() };
                let answer = self.elections.proclaim(request).await?.into_inner();
                Ok((format!("proclaimed, at {}", revision(answer.header)), None))
            }
            Call::Resign(_) => {
                let answer = self.elections.resign(ResignRequest { leader }).await?.into_inner();
                Ok((format!("resigned, at {}", revision(answer.header)), None))
            }
            Call::Leader(name) => {
                let answer = self.elections.leader(LeaderRequest { name: name.into() }).await?.into_inner();
                Ok((leader_shown(answer), None))
            }
        }
    }
}

impl Side {
    async fn connect(endpoint: &str) -> Result<Side> {
        let channel = Wire::connect(endpoint).await?.channel();
        let elections = ElectionClient::new(channel.clone());
        Ok(Side {
            kv: KvClient::new(channel.clone()),
            leases: LeaseClient::new(channel.clone()),
            calls: Calls { locks: LockClient::new(channel), elections },
            waiting: VecDeque::new(),
            leaders: BTreeMap::new(),
            observer: None,
        })
    }

    /// The leader key that a call brings.
    fn leader(&self, call: Call) -> Option<LeaderKey> {
        let (Call::Proclaim(key, _) | Call::Resign(key)) = call else { return None };
        let unknown = |key: &str| LeaderKey { key: key.to_owned().into(), rev: 7, lease: 1, ..LeaderKey::default() };
        key.map(|key| self.leaders.get(key).cloned().unwrap_or_else(|| unknown(key)))
    }

    async fn take(&mut self, step: Step) -> Result<String> {
        timeout(PATIENCE, self.carry_out(step)).await.with_context(|| format!("{step:?} hangs"))?
    }

    async fn carry_out(&mut self, step: Step) -> Result<String> {
        match step {
            Step::Grant(id) => {
                self.leases.lease_grant(pb::LeaseGrantRequest { id, ttl: 3600 }).await?;
            }
            Step::Revoke(id) => {
                self.leases.lease_revoke(pb::LeaseRevokeRequest { id }).await?;
            }
            Step::Put(key) => {
                self.kv.put(pb::PutRequest { key: key.into(), ..Default::default() }).await?;
            }
            Step::Delete(key) => {
                self.kv.delete_range(pb::DeleteRangeRequest { key: key.into(), ..Default::default() }).await?;
            }
            Step::Ask(call) => {
                let answer = self.calls.clone().ask(call, self.leader(call)).await;
                return Ok(self.shown(answer));
            }
            Step::Again(call) => {
                let answer = self.calls.clone().ask(call, None).await;
                let shown = self.shown(answer);
                return Ok(shown.split(", at ").next().unwrap_or_default().to_owned());
            }
            Step::Start(call, count) => {
                let (mut calls, leader) = (self.calls.clone(), self.leader(call));
                self.waiting.push_back(tokio::spawn(async move { calls.ask(call, leader).await }));
                let (Call::Lock(name, _) | Call::Campaign(name, ..)) = call else { bail!("{call:?} does not wait") };
                self.contenders(name, count).await?;
            }
            Step::End => {
                let answer = self.waiting.pop_front().context("no call waits")?.await?;
                return Ok(self.shown(answer));
            }
            Step::Cancel(name, count) => {
                self.waiting.pop_back().context("no call waits")?.abort();
                self.contenders(name, count).await?;
            }
            Step::Observe(name) => {
                let request = LeaderRequest { name: name.into() };
                let mut elections = self.calls.elections.clone();
                let (tell, told) = mpsc::channel(64);
                // etcd answers the call only when there is somebody to tell of.
                tokio::spawn(async move {
                    let mut leaders = elections.observe(request).await?.into_inner();
                    while let Some(leader) = leaders.message().await? {
                        if tell.send(leader_shown(leader)).await.is_err() {
                            break;
                        }
                    }
                    Ok::<(), Status>(())
                });
                self.observer = Some(told);
            }
            Step::Observed => {
                let observer = self.observer.as_mut().context("nobody observes")?;
                return observer.recv().await.context("observing ended");
            }
        }
        Ok("done".to_owned())
    }

    /// Waits until the contest has so many contenders.
    async fn contenders(&mut self, name: &str, count: usize) -> Result<()> {
        let read = pb::RangeRequest {
            key: format!("{name}/").into(),
            range_end: format!("{name}0").into(),
            keys_only: true,
            ..Default::default()
        };
        while self.kv.range(read.clone()).await?.into_inner().kvs.len() != count {
            sleep(POLL).await;
        }
        Ok(())
    }

    fn shown(&mut self, answer: Result<Answer, Status>) -> String {
        match answer {
            Ok((shown, leader)) => {
                if let Some(leader) = leader {
                    self.leaders.insert(text(&leader.key), leader);
                }
                shown
            }
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        }
    }
}

async fn compare(scenario: Scenario, etcd: Program, at_the_leader: bool) -> Result<()> {
    let mut reference = Cluster::start(etcd, 1, &scenario.home.join("etcd")).await?;
    let mut tenured = Cluster::start(Program::Tenured, 3, &scenario.home.join("tenured")).await?;
    reference.wait_leader(LEADER_PATIENCE).await?;
    let leader = tenured.wait_leader(LEADER_PATIENCE).await?;
    let place = if at_the_leader { leader } else { (leader + 1) % 3 };
    let mut expected = Side::connect(&reference.endpoints()[0]).await?;
    let mut actual = Side::connect(&tenured.endpoints()[place]).await?;
    let steps = steps();
    let mut wrong = Vec::new();
    for (number, step) in (1..).zip(&steps) {
        let (etcd, tenured) = tokio::join!(expected.take(*step), actual.take(*step));
        let (etcd, tenured) = (etcd.context("etcd")?, tenured.context("tenured")?);
        if etcd != tenured {
            wrong.push(format!("step {number}, {step:?}\n   etcd: {etcd}\ntenured: {tenured}"));
        }
    }
    println!("{} of {} steps were answered alike", steps.len() - wrong.len(), steps.len());
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
