//! One lock, wanted by clients that know nothing of each other: Go's `concurrency.Mutex`, `etcdctl lock`, Rust's
//! etcd-client, etcd's lock service called by hand, and Tenure's own service, alone and shared.
//!
//! Whoever has the lock writes a key on the lease by which it has it. Afterwards the store's history is read back: at the
//! revision of each of these writes its lease must have been in the front of the queue, whose order is that of the tokens.
#![expect(clippy::print_stdout, reason = "the counts are the figures that this comparison shows")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use etcd_client::{Client, EventType, GetOptions, LockOptions, PutOptions, WatchOptions};
use serde_json::{Value, json};
use tenure_history::contest::{Claim, Contests, Guarded, Passed, check};
use tenure_history::lock::Share;
use tenure_history::model::Change;
use tenure_history::response::KeyValue;
use tenure_history::run::Status;
use tenure_history::truth::{Cause, Truth};
use tenure_history::{ClientId, History, Initial, LeaseId, Moment, Revision};
use tenure_proto::tenure::v1;
use tenure_proto::tenure::v1::lock_acquire_response::State;
use tenure_proto::tenure::v1::locks_client::LocksClient;
use tenure_proto::v3lockpb::lock_client::LockClient;
use tenure_proto::v3lockpb::{LockRequest, UnlockRequest};
use tenure_tests::binaries::{self, Program};
use tenure_tests::clients::{Library, Runner};
use tenure_tests::cluster::Cluster;
use tenure_tests::scenario::{self, Scenario};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

const LOCK: &str = "mixed";
/// What holders write lies under this, by the word of who wrote it.
const USES: &str = "use/";
/// The last thing that is written.
const END: &str = "end";
/// How often each contender has the lock.
const ROUNDS: usize = 8;
/// Contenders of each kind.
const OF_EACH: usize = 2;
/// Longer than anybody waits for its turn.
const TTL_SECS: i64 = 60;
/// Hit only by a bug.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the leases want the lock of which that is known.
type Shares = Arc<Mutex<BTreeMap<i64, Share>>>;

#[test]
fn clients_of_all_kinds_take_turns() {
    scenario::run("compat_mixed_locks", "clients_of_all_kinds_take_turns", contend);
}

async fn contend(scenario: Scenario) -> Result<()> {
    let cluster = Cluster::start(Program::Tenured, 3, &scenario.home.join("tenured")).await?;
    let endpoints = cluster.endpoints();
    let shares = Shares::default();
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for number in 0..OF_EACH {
        let at = |kind: usize| endpoints[(number + kind) % endpoints.len()].clone();
        tasks.spawn(go(number, endpoints.clone(), scenario.home.clone()));
        tasks.spawn(etcdctl(number, at(1)));
        tasks.spawn(etcd_client(number, at(2)));
        tasks.spawn(service(number, at(0)));
        tasks.spawn(native(number, at(1), Share::Alone, shares.clone()));
        tasks.spawn(native(number, at(2), Share::Readers, shares.clone()));
    }
    timeout(PATIENCE, async {
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    })
    .await
    .context("the contenders do not come to an end")??;
    let mut client = cluster.client(0).await?;
    let left = client.get(format!("{LOCK}/"), Some(GetOptions::new().with_prefix())).await?;
    ensure!(left.kvs().is_empty(), "{} contenders are left", left.kvs().len());
    client.put(END, "", None).await?;
    let shares = shares.lock().expect("nobody panics with it").clone();
    judge(read_back(client).await?, &shares)
}

/// Go's own mutex, each time with a session of its own.
async fn go(number: usize, endpoints: Vec<String>, home: PathBuf) -> Result<()> {
    let mut runner = Runner::start(Library::Go, Path::new(""), &home.join("go"), &number.to_string())?;
    let rounds = (0..ROUNDS).flat_map(|round| {
        let name = format!("go-{number}-{round}");
        [
            json!({"do": "lock", "as": name, "name": LOCK, "ttl": TTL_SECS}),
            json!({"do": "put", "key": format!("{USES}{name}"), "value": "", "lease": name}),
            json!({"do": "unlock", "lock": name}),
        ]
    });
    let steps: Vec<Value> = rounds.collect();
    let count = steps.len();
    let request = json!({"scenario": "mixed", "base": 1, "endpoints": endpoints, "steps": steps});
    let lines = runner.carry_out(&request).await?;
    let wrong = lines.iter().find(|line| line["answer"].is_null());
    ensure!(wrong.is_none() && lines.len() == count, "Go: {wrong:?}, {} of {count} steps", lines.len());
    Ok(())
}

/// etcdctl, which runs a command while it has the lock.
async fn etcdctl(number: usize, endpoint: String) -> Result<()> {
    let program = binaries::etcdctl()?;
    for round in 0..ROUNDS {
        let put = format!("\"$0\" --endpoints={endpoint} put {USES}etcdctl-{number}-{round} x");
        let command = format!("{put} --lease=\"${{ETCD_LOCK_KEY##*/}}\"");
        let output = Command::new(&program)
            .env("ETCDCTL_API", "3")
            .args([&format!("--endpoints={endpoint}"), "lock", &format!("--ttl={TTL_SECS}"), "--", LOCK])
            .args(["sh", "-c", &command])
            .arg(&program)
            .output()
            .await?;
        ensure!(output.status.success(), "etcdctl: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

async fn write(client: &mut Client, who: &str, lease: i64) -> Result<()> {
    client.put(format!("{USES}{who}"), "", Some(PutOptions::new().with_lease(lease))).await?;
    Ok(())
}

/// Rust's etcd-client, which calls the lock service.
async fn etcd_client(number: usize, endpoint: String) -> Result<()> {
    let mut client = Client::connect([endpoint], None).await?;
    for round in 0..ROUNDS {
        let lease = client.lease_grant(TTL_SECS, None).await?.id();
        let locked = client.lock(LOCK, Some(LockOptions::new().with_lease(lease))).await?;
        write(&mut client, &format!("etcd-client-{number}-{round}"), lease).await?;
        client.unlock(locked.key()).await?;
        client.lease_revoke(lease).await?;
    }
    Ok(())
}

/// The lock service called by hand, on one lease.
async fn service(number: usize, endpoint: String) -> Result<()> {
    let mut client = Client::connect([endpoint.clone()], None).await?;
    let mut locks = LockClient::connect(endpoint).await?;
    let lease = client.lease_grant(TTL_SECS, None).await?.id();
    for round in 0..ROUNDS {
        let locked = locks.lock(LockRequest { name: LOCK.into(), lease }).await?.into_inner();
        write(&mut client, &format!("service-{number}-{round}"), lease).await?;
        locks.unlock(UnlockRequest { key: locked.key }).await?;
    }
    client.lease_revoke(lease).await?;
    Ok(())
}

/// Tenure's own, on one lease, whose requests are numbered.
async fn native(number: usize, endpoint: String, share: Share, shares: Shares) -> Result<()> {
    let mut client = Client::connect([endpoint.clone()], None).await?;
    let mut locks = LocksClient::connect(endpoint).await?;
    let lease = client.lease_grant(TTL_SECS, None).await?.id();
    shares.lock().expect("nobody panics with it").insert(lease, share);
    let mode = (share == Share::Readers).then_some(v1::LockMode { mode: Some(v1::lock_mode::Mode::Shared(true)) });
    for (number_of, round) in (1..).zip(0..ROUNDS) {
        let request = v1::LockRequest { lease, number: number_of, lowest_open: number_of, attach: 1 };
        let acquire = v1::LockAcquireRequest {
            name: LOCK.into(),
            request: Some(request),
            mode,
            ..v1::LockAcquireRequest::default()
        };
        let mut steps = locks.acquire(acquire).await?.into_inner();
        let token = loop {
            let step = steps.message().await?.context("an acquire ended without the lock")?;
            if let Some(State::Granted(granted)) = step.state {
                break granted.token;
            }
        };
        write(&mut client, &format!("native-{share}-{number}-{round}"), lease).await?;
        let release = v1::LockReleaseRequest { name: LOCK.into(), lease, token, number: number_of };
        ensure!(locks.release(release).await?.into_inner().released, "a holder had nothing to release");
    }
    client.lease_revoke(lease).await?;
    Ok(())
}

/// Everything that was ever written, by revision.
async fn read_back(mut client: Client) -> Result<Vec<(Revision, Vec<Change>)>> {
    let all = WatchOptions::new().with_all_keys().with_start_revision(2);
    let mut stream = client.watch("\0", Some(all)).await?;
    let mut revisions: Vec<(Revision, Vec<Change>)> = Vec::new();
    loop {
        let answer = timeout(PATIENCE, stream.message()).await??.context("the watch ended")?;
        for event in answer.events() {
            let kv = event.kv().context("an event without a key")?;
            let (key, at) = (Bytes::copy_from_slice(kv.key()), Revision(kv.mod_revision()));
            let put = event.event_type() == EventType::Put;
            let value = put.then(|| KeyValue {
                key: key.clone(),
                value: Bytes::copy_from_slice(kv.value()),
                create: Revision(kv.create_revision()),
                modified: at,
                version: kv.version(),
                lease: LeaseId(kv.lease()),
            });
            let is_end = key == END;
            let change = Change { key, kv: value };
            match revisions.last_mut().filter(|(last, _)| *last == at) {
                Some((_, changes)) => changes.push(change),
                None => revisions.push((at, vec![change])),
            }
            if is_end {
                return Ok(revisions);
            }
        }
    }
}

/// Holds all uses against the queue that the keys make.
fn judge(revisions: Vec<(Revision, Vec<Change>)>, shares: &BTreeMap<i64, Share>) -> Result<()> {
    let mut truth = Truth::new(&Initial { revision: Revision(1), ..Initial::default() });
    let mut contests = Contests::default();
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    let claim = |(lease, share): (&i64, &Share)| Claim {
        lock: LOCK.into(),
        client: ClientId(0),
        key: format!("{LOCK}/{lease:x}").into(),
        lease: LeaseId(*lease),
        number: 1,
        share: *share,
        holds_max: 0,
        delay_ms: 0,
        tries: Vec::new(),
        ends: Vec::new(),
    };
    contests.claims = shares.iter().map(claim).collect();
    let prefix = format!("{LOCK}/");
    for (at, changes) in revisions {
        ensure!(truth.revision().next() == at, "revision {at} follows {}", truth.revision());
        truth.push(changes.clone(), Cause::Other);
        for kv in changes.into_iter().filter_map(|change| change.kv).filter(|kv| kv.key.starts_with(USES.as_bytes())) {
            let who = String::from_utf8_lossy(&kv.key[USES.len()..]).into_owned();
            let own = |key: &Bytes| truth.key_at(key, at).filter(|own| own.lease == kv.lease).map(|own| own.create);
            let held = truth.under(prefix.as_bytes()).find_map(|(key, _)| Some((key.clone(), own(key)?)));
            let (key, token) = held.with_context(|| format!("{who} wrote in revision {at} without a key"))?;
            let kind = who.rsplitn(3, '-').last().unwrap_or_default().to_owned();
            *uses.entry(kind).or_default() += 1;
            contests.writes.push(Guarded {
                lock: LOCK.into(),
                client: ClientId(0),
                key,
                lease: kv.lease,
                token,
                called: Moment(0),
                returned: Moment(0),
                sure: true,
                passed: Passed::Yes(at),
            });
        }
    }
    for finding in check(&contests, &History::default(), &truth) {
        ensure!(finding.status == Status::Ok, "{finding}");
    }
    println!("uses of one lock: {uses:?}");
    ensure!(
        uses.len() == 6 && uses.values().all(|count| *count == OF_EACH * ROUNDS),
        "not all had their turns: {uses:?}"
    );
    Ok(())
}
