//! The SDK against a real etcd: what works on etcd's API alone must work there, and what does not must say so.
#![expect(clippy::print_stdout, reason = "the counts are the figures that this test shows")]

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::TryStreamExt as _;
use tenure_client::lock::{AcquireError, Mode, Wait};
use tenure_client::txn::txn;
use tenure_client::watch::{BatchKind, OnCompacted, Watch, WatchBatch, WatchError, WatchPatience, Watcher};
use tenure_client::{Client, Compare, ConnectOptions, Error, KeyRange, LeaseId, Refusal, Revision, ServerKind, kv};
use tenure_proto::authpb::{Permission, permission};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::auth_client::AuthClient;
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::scenario;
use tenure_tests::wire::Wire;
use tokio::time::timeout;

/// Hit only by a bug.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn keys_and_transactions_work_on_etcd() {
    on_both("keys_and_transactions_work_on_etcd", 1, async |cluster| keys(&client(&cluster).await?).await);
}

#[test]
fn leases_work_on_etcd() {
    on_both("leases_work_on_etcd", 1, async |cluster| leases(&client(&cluster).await?).await);
}

#[test]
fn a_watch_goes_on_while_etcds_members_are_killed() {
    on_both("a_watch_goes_on_while_etcds_members_are_killed", 3, watch_resume);
}

#[test]
fn a_watch_on_etcd_tells_of_compaction_or_lists() {
    on_both("a_watch_on_etcd_tells_of_compaction_or_lists", 1, compaction);
}

#[test]
fn a_quiet_watch_on_etcd_keeps_its_connection() {
    on_both("a_quiet_watch_on_etcd_keeps_its_connection", 1, quiet_watch);
}

#[test]
fn a_watch_on_etcd_ends_when_its_user_may_not_read() {
    on_both("a_watch_on_etcd_ends_when_its_user_may_not_read", 1, denied_watch);
}

#[test]
fn sessions_locks_and_elections_work_on_etcd_by_its_recipes() {
    on_both("sessions_locks_and_elections_work_on_etcd_by_its_recipes", 1, async |cluster| {
        guards(&client(&cluster).await?).await
    });
}

#[test]
fn what_needs_tenure_says_so_on_etcd() {
    on_both("what_needs_tenure_says_so_on_etcd", 1, async |cluster| needs_tenure(&client(&cluster).await?).await);
}

/// Runs it on both releases of etcd that Tenure is compared with.
fn on_both<F>(test: &str, size: usize, body: impl Fn(Cluster) -> F)
where
    F: Future<Output = Result<()>>,
{
    scenario::run("compat_sdk", test, |scenario| async move {
        for program in [Program::Etcd, Program::Etcd37] {
            let cluster = Cluster::start(program, size, &scenario.home.join(program.label())).await?;
            timeout(PATIENCE, body(cluster)).await.context("it hangs").flatten().context(program.label())?;
            println!("{test}: {}", program.label());
        }
        Ok(())
    });
}

fn options() -> ConnectOptions {
    ConnectOptions::default().backoff(Duration::from_millis(10), Duration::from_millis(200))
}

async fn client(cluster: &Cluster) -> Result<Client> {
    Ok(Client::connect(cluster.endpoints(), options()).await?)
}

type Told = (i64, String, Option<String>);

fn told(batch: &WatchBatch) -> Vec<Told> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let line = |event: &tenure_client::watch::WatchEvent| {
        (event.kv.mod_revision.0, text(event.key()), event.is_put().then(|| text(&event.kv.value)))
    };
    batch.events.iter().map(line).collect()
}

/// The next batch that is no sign of a connection.
async fn next(watcher: &mut Watcher) -> Result<WatchBatch, WatchError> {
    loop {
        let batch = watcher.next().await?;
        if !matches!(batch.kind, BatchKind::Reconnected | BatchKind::Lagged | BatchKind::Progress) {
            return Ok(batch);
        }
    }
}

async fn read(watcher: &mut Watcher, count: usize) -> Result<Vec<Told>> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(told(&next(watcher).await?));
    }
    Ok(events)
}

async fn put(client: &Client, key: &str, value: &str) -> Result<Revision> {
    Ok(client.put(key.to_owned(), value.to_owned()).await?.header.revision)
}

async fn keys(client: &Client) -> Result<()> {
    ensure!(client.kind().await? == ServerKind::Etcd, "it is an etcd");
    let first = put(client, "a", "1").await?;
    let again = client.put("a", "2").prev_kv().await?;
    ensure!(again.header.revision == first.next() && again.prev.context("there was one")?.value == "1");
    let old = client.get("a").at(first).await?;
    ensure!(old.first().context("it was there")?.value == "1");
    let create = || {
        client
            .txn()
            .when([Compare::absent("job")])
            .and_then([kv::put("job", "new"), kv::put("log", "created")])
            .or_else([kv::get("job")])
    };
    ensure!(create().commit().await?.succeeded);
    let second = create().commit().await?;
    ensure!(!second.succeeded && second.reads().next().and_then(kv::Got::first).context("it was read")?.value == "new");
    let nested = txn().when([Compare::value("job").equals("new")]).and_then([kv::delete("job").prev_kv()]);
    ensure!(client.txn().and_then([nested]).commit().await?.succeeded);
    let twice = client.txn().and_then([kv::put("k", "1"), kv::put("k", "2")]).commit().await.err();
    ensure!(twice.context("a key put twice")?.refusal() == Some(Refusal::DuplicateKey));
    for chunk in (0..1200).collect::<Vec<u32>>().chunks(100) {
        client.txn().and_then(chunk.iter().map(|n| kv::put(format!("k/{n:04}"), "v"))).commit().await?;
    }
    // A server without range streams is read page by page, at one revision.
    let pages: Vec<_> = client.get("k/").prefix().stream().try_collect().await?;
    let read: BTreeSet<_> = pages.iter().flatten().map(|kv| kv.key.clone()).collect();
    ensure!(read.len() == 1200, "{} keys", read.len());
    let space = client.namespaced("k/");
    ensure!(space.get(KeyRange::all()).count_only().await?.count == 1200);
    ensure!(space.delete("0000").await?.count == 1);
    client.compact(again.header.revision).await?;
    let compacted = client.get("a").at(first).await.err().context("it is compacted")?;
    ensure!(compacted.refusal() == Some(Refusal::Compacted), "{compacted}");
    Ok(())
}

async fn leases(client: &Client) -> Result<()> {
    let granted = client.grant(Duration::from_secs(60)).await?;
    ensure!(granted.ttl == Duration::from_secs(60) && !granted.id.is_none());
    client.put("leased", "v").lease(granted.id).await?;
    let state = client.lease_state(granted.id, true).await?.context("there is one")?;
    ensure!(state.keys == ["leased"], "{state:?}");
    ensure!(client.leases().await?.iter().any(|lease| lease.id == granted.id));
    let taken = client.grant(Duration::from_secs(60)).id(granted.id).await.err().context("the id is taken")?;
    ensure!(taken.refusal() == Some(Refusal::LeaseExists), "{taken}");
    ensure!(client.revoke(granted.id).await?, "there was one");
    ensure!(!client.revoke(granted.id).await?, "there is none");
    ensure!(client.get("leased").one().await?.is_none(), "its key went with it");
    let unknown = client.put("leased", "v").lease(LeaseId(77)).await.err().context("no such lease")?;
    ensure!(unknown.refusal() == Some(Refusal::LeaseNotFound), "{unknown}");
    Ok(())
}

async fn watch_resume(mut cluster: Cluster) -> Result<()> {
    let client = client(&cluster).await?;
    let mut watcher = client.watch(KeyRange::prefix("k/")).open().await?;
    let mut slow = client.watch(KeyRange::prefix("k/")).unread(8, 10_000).open().await?;
    let start = watcher.revision();
    let mut events = Vec::new();
    // Each in turn: one of them has the watch.
    for kill in 0..3 {
        cluster.wait_leader(LEADER_PATIENCE).await?;
        cluster.nodes[kill].kill()?;
        for number in 0..30 {
            // One that fails may have been done; a watch tells whether it was.
            drop(client.put(format!("k/{}", number % 4), format!("{kill} {number}")).await);
        }
        let sure = loop {
            if let Ok(done) = client.put("k/sure", format!("{kill}")).await {
                break done.header.revision;
            }
        };
        while watcher.revision() < sure {
            events.extend(told(&next(&mut watcher).await?));
        }
        cluster.restart(kill).await?;
    }
    cluster.wait_leader(LEADER_PATIENCE).await?;
    let mut truth = Vec::new();
    let mut again = client.watch(KeyRange::prefix("k/")).from(start.next()).open().await?;
    while truth.len() < events.len() {
        truth.extend(told(&next(&mut again).await?));
    }
    ensure!(events == truth, "{} events of {}", events.len(), truth.len());
    ensure!(read(&mut slow, events.len()).await? == truth, "one that reads late");
    ensure!(watcher.counts().reconnects > 0, "no member was lost");
    Ok(())
}

async fn compaction(mut cluster: Cluster) -> Result<()> {
    let client = client(&cluster).await?;
    for key in ["k/deleted", "k/stays"] {
        put(&client, key, "0").await?;
    }
    let mut telling = client.watch(KeyRange::prefix("k/")).open().await?;
    let mut listing =
        client.watch(KeyRange::prefix("k/")).on_compacted(OnCompacted::Relist).unread(1, 1).open().await?;
    // One that has no room for a second revision has to ask for it again, and finds it compacted.
    for number in 0..20 {
        put(&client, "k/changed", &number.to_string()).await?;
    }
    client.delete("k/deleted").await?;
    let last = put(&client, "elsewhere", "v").await?;
    ensure!(read(&mut telling, 21).await?.len() == 21, "it was up to date");
    client.compact(last).await?;
    let mut state = BTreeSet::from(["k/deleted".to_owned(), "k/stays".to_owned()]);
    let mut is_relisted = false;
    while listing.revision() < last {
        let batch = next(&mut listing).await?;
        is_relisted |= matches!(batch.kind, BatchKind::Relisted { is_complete: false, .. });
        for (_, key, value) in told(&batch) {
            if value.is_some() {
                state.insert(key)
            } else {
                state.remove(&key)
            };
        }
    }
    ensure!(is_relisted && state.iter().eq(["k/changed", "k/stays"]), "{is_relisted} {state:?}");
    let past = client.watch(KeyRange::prefix("k/")).from(Revision(2)).open().await;
    let error = match past {
        Ok(mut watcher) => next(&mut watcher).await.err().context("it is compacted")?,
        Err(error) => error,
    };
    ensure!(matches!(error, WatchError::Compacted { .. }), "{error}");
    // A member that comes back serves the watches that it had.
    cluster.nodes[0].kill()?;
    cluster.restart(0).await?;
    cluster.wait_leader(LEADER_PATIENCE).await?;
    let new = put(&client, "k/new", "v").await?;
    for watcher in [&mut telling, &mut listing] {
        ensure!(read(watcher, 1).await? == [(new.0, "k/new".to_owned(), Some("v".to_owned()))]);
    }
    Ok(())
}

/// etcd answers a request for progress only when all watches of the stream are where it is, so a watch from the next revision on
/// has to be asked otherwise whether its connection lives.
async fn quiet_watch(cluster: Cluster) -> Result<()> {
    let ms = Duration::from_millis;
    let patience = WatchPatience { silence: ms(100), answer: ms(1000), lag: Duration::from_secs(60) };
    let client = Client::connect(cluster.endpoints(), options().watch_patience(patience)).await?;
    let now = put(&client, "k", "v").await?;
    let mut next_one = client.watch("k").from(now.next()).open().await?;
    let mut later = client.watch("k").from(Revision(now.0 + 3)).open().await?;
    ensure!(timeout(Duration::from_secs(4), next_one.next()).await.is_err(), "nothing happened");
    for number in 0..4 {
        put(&client, "k", &number.to_string()).await?;
    }
    ensure!(read(&mut next_one, 4).await?.len() == 4);
    ensure!(read(&mut later, 2).await?[0].0 == now.0 + 3);
    ensure!(next_one.counts().reconnects + later.counts().reconnects == 0, "it was taken for dead");
    Ok(())
}

async fn denied_watch(cluster: Cluster) -> Result<()> {
    let mut auth = AuthClient::new(Wire::connect(&cluster.endpoints()[0]).await?.channel());
    let user = |name: &str| pb::AuthUserAddRequest {
        name: name.to_owned(),
        password: "secret".to_owned(),
        ..pb::AuthUserAddRequest::default()
    };
    let grant = |user: &str, role: &str| pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
    let root = || "root".to_owned();
    auth.user_add(user("root")).await?;
    auth.role_add(pb::AuthRoleAddRequest { name: root() }).await?;
    auth.user_grant_role(grant("root", "root")).await?;
    auth.user_add(user("reader")).await?;
    auth.role_add(pb::AuthRoleAddRequest { name: "readers".to_owned() }).await?;
    let may_read = Permission { perm_type: permission::Type::Read.into(), key: "k/".into(), range_end: "k0".into() };
    let may_read = pb::AuthRoleGrantPermissionRequest { name: "readers".to_owned(), perm: Some(may_read) };
    auth.role_grant_permission(may_read).await?;
    auth.user_grant_role(grant("reader", "readers")).await?;
    auth.auth_enable(pb::AuthEnableRequest {}).await?;
    let root = Client::connect(cluster.endpoints(), options().user("root", "secret")).await?;
    let reader = Client::connect(cluster.endpoints(), options().user("reader", "secret")).await?;
    let mut allowed = reader.watch(KeyRange::prefix("k/")).open().await?;
    // Not from a key on: these releases of etcd let somebody watch that who may read the one key (GHSA-xg4h-6gfc-h4m8).
    for keys in [KeyRange::one("other"), KeyRange::prefix("o")] {
        let denied = end_of(reader.watch(keys)).await.context("it may not read that")?;
        ensure!(denied.refusal() == Some(Refusal::PermissionDenied), "{denied}");
    }
    let revision = put(&root, "k/1", "v").await?;
    ensure!(read(&mut allowed, 1).await? == [(revision.0, "k/1".to_owned(), Some("v".to_owned()))]);
    let nobody = Client::connect(cluster.endpoints(), options()).await?;
    end_of(nobody.watch("k/1")).await.context("a watch without a user")?;
    Ok(())
}

/// Why a watch ends that tells nothing: some releases make it first, and then end it.
async fn end_of(watch: Watch) -> Option<WatchError> {
    match watch.open().await {
        Ok(mut watcher) => watcher.next().await.err(),
        Err(error) => Some(error),
    }
}

async fn guards(client: &Client) -> Result<()> {
    let session = |name: &str| client.session().ttl(Duration::from_secs(10)).name(name).start();
    let (one, two) = (session("one").await?, session("two").await?);
    let first = one.lock("jobs").acquire().await?;
    match two.lock("jobs").wait(Wait::Try).acquire().await {
        Err(AcquireError::Busy { .. }) => {}
        other => bail!("it is held: {other:?}"),
    }
    let done = client.txn().when(first.compare()).and_then([kv::put("result", "1")]).commit().await?;
    ensure!(done.succeeded, "it is held");
    client.put("result", "2").under(&first.fence()).await.context("etcd is asked by a transaction")?;
    ensure!(client.verify(&first.token()).await?);
    let old = (first.fence(), first.token());
    let waiting = tokio::spawn(two.lock("jobs").acquire());
    if let Err(error) = first.release().await {
        bail!("{}", error.error());
    }
    let second = waiting.await??;
    ensure!(second.token().is_newer_than(&old.1) && !client.verify(&old.1).await?);
    let late = client.put("result", "late").under(&old.0).await.err().context("it is not held any more")?;
    ensure!(late.refusal() == Some(Refusal::NotHeld), "{late}");
    drop(second);
    let mut observer = client.election("chief").observe();
    let leadership = one.election("chief").value("one").campaign().await?;
    let seen = loop {
        if let Some(leader) = observer.next().await? {
            break leader;
        }
    };
    ensure!(seen.value == "one", "{seen:?}");
    leadership.proclaim("one again").await?;
    if let Err(error) = leadership.resign().await {
        bail!("{}", error.error());
    }
    ensure!(client.election("chief").leader().await?.is_none());
    one.close().await?;
    two.close().await?;
    ensure!(client.leases().await?.is_empty(), "sessions that are closed leave no lease");
    Ok(())
}

async fn needs_tenure(client: &Client) -> Result<()> {
    let ended = client.lease_end(LeaseId(7)).await.err().context("etcd does not know how leases ended")?;
    ensure!(matches!(ended, Error::NeedsTenure { .. }), "{ended}");
    let session = client.session().start().await?;
    let asked = [
        session.lock("shared").mode(Mode::Shared).acquire().await,
        session.lock("counted").mode(Mode::Semaphore { permits: 1, limit: 2 }).acquire().await,
        session.lock("delayed").lock_delay(Duration::from_secs(1)).acquire().await,
        session.lock("again").reentrant(Some(2)).acquire().await,
    ];
    for asked in asked {
        let error = asked.err().context("etcd's locks cannot do that")?;
        ensure!(matches!(error, AcquireError::NeedsTenure { .. }), "{error}");
    }
    session.close().await?;
    Ok(())
}
