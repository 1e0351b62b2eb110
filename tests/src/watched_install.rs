//! Watchers on a member whose state is replaced by a snapshot under them: the member stands still while the others write
//! on and purge their log, and goes on. Its watchers must see every event once, or be told that they were compacted.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etcd_client::{Client, CompactionOptions, DeleteOptions, KeyValue, PutOptions};
use tenure_proto::etcdserverpb::watch_create_request::FilterType;
use tenure_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use tenure_proto::mvccpb::event::EventType;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::binaries::Program;
use crate::cluster::{Cluster, LEADER_PATIENCE};
use crate::http1::metric;
use crate::node::POLL;
use crate::snapshots::{SHORT_LOG, all_but, wait_metric};
use crate::watch_check::{self, Change, Counts, Revision, Seen, SeenEvent, Spec, Truth};
use crate::watching::{self, WatchStream, create, revision_of};

/// A leader that is only busy must stay: a write without an answer would leave unknown what happened.
const PATIENT: [&str; 2] = ["--election-timeout=4000", "--heartbeat-interval=200"];
const WRITERS: usize = 16;
const KEYS: usize = 50;
/// Writes before and after the member stands still.
const WRITES_AROUND: usize = 300;
/// Revisions that a compaction leaves.
const HISTORY_LEFT: i64 = 100;
const PATIENCE: Duration = Duration::from_secs(60);

/// What the watchers of one run saw, all together.
#[derive(Debug)]
pub struct Outcome {
    pub watchers: usize,
    pub counts: Counts,
    pub writes: usize,
}

/// One run; with `compacted`, what the watchers missed is compacted before the member goes on.
pub async fn watch_through(home: &Path, writes: usize, compacted: bool) -> Result<Outcome> {
    let mut cluster = Cluster::with_flags(Program::Tenured, 3, home, &[SHORT_LOG, &PATIENT].concat())?;
    cluster.start_all().await?;
    let still = cluster.follower().await?;
    let writers = Writers::new(&cluster, still).await?;
    writers.write(WRITES_AROUND).await?;
    let mut watchers = start_watchers(&cluster.nodes[still].endpoint(), &writers.compacted).await?;
    writers.write(WRITES_AROUND).await?;

    let others = all_but(&cluster, still);
    let leader = cluster.wait_leader_among(&others, LEADER_PATIENCE).await?;
    cluster.nodes[still].pause()?;
    let had_at_most = metric(cluster.nodes[leader].client_port, "tenure_raft_last_log_index").await?;
    writers.write(writes).await?;
    if compacted {
        writers.compact().await?;
    }
    let deadline = Instant::now() + PATIENCE;
    for at in others {
        while metric(cluster.nodes[at].client_port, "tenure_raft_first_log_index").await? <= had_at_most + 1 {
            ensure!(Instant::now() < deadline, "the log is not purged");
            writers.write(WRITERS).await?;
        }
    }
    cluster.nodes[still].resume()?;
    writers.write(WRITES_AROUND).await?;
    wait_metric(&cluster.nodes[still], "tenure_snapshots_installed_total", 1).await?;
    writers.write(WRITES_AROUND).await?;
    let truth = writers.truth();
    let counts = judge(&truth, &mut watchers).await?;
    Ok(Outcome { watchers: watchers.len(), counts, writes: truth.revisions.len() })
}

/// Waits until every watcher has seen all, or cannot have any more.
async fn judge(truth: &Truth, watchers: &mut [Watcher]) -> Result<Counts> {
    let last = truth.revisions.keys().last().copied().context("nothing was written")?;
    let deadline = Instant::now() + PATIENCE;
    let mut total = Counts::default();
    for watcher in watchers {
        let counts = loop {
            let seen = watcher.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let ended = watcher.watching.try_join_next();
            match watch_check::check(truth, &watcher.spec, &seen, last) {
                Ok(counts) => break counts,
                Err(_) if ended.is_some() => bail!("{:?} ended: {ended:?}", watcher.spec),
                Err(error) if !error.starts_with("lost at the end") => bail!("{:?}: {error}", watcher.spec),
                Err(error) if Instant::now() > deadline => bail!("{:?}: {error}", watcher.spec),
                Err(_) => sleep(POLL).await,
            }
        };
        total.events += counts.events;
        total.messages += counts.messages;
        total.compacted += counts.compacted;
        total.previous_exact += counts.previous_exact;
        total.previous_compacted += counts.previous_compacted;
    }
    Ok(total)
}

/// Writers on the members that go on, each revision written down.
struct Writers {
    clients: Vec<Client>,
    revisions: Arc<Mutex<std::collections::BTreeMap<i64, Change>>>,
    compacted: Arc<AtomicI64>,
    number: AtomicI64,
}

impl Writers {
    async fn new(cluster: &Cluster, still: usize) -> Result<Self> {
        let mut clients = Vec::new();
        for at in all_but(cluster, still) {
            clients.push(cluster.client(at).await?);
        }
        let (revisions, compacted) = (Arc::default(), Arc::default());
        Ok(Self { clients, revisions, compacted, number: AtomicI64::new(0) })
    }

    async fn write(&self, count: usize) -> Result<()> {
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            let mut client = self.clients[writer % self.clients.len()].clone();
            let numbers: Vec<i64> =
                (0..count.div_ceil(WRITERS)).map(|_| self.number.fetch_add(1, Ordering::Relaxed)).collect();
            let revisions = self.revisions.clone();
            tasks.spawn(async move {
                for number in numbers {
                    let (revision, change) = change(&mut client, number).await?;
                    // A delete of nothing makes no revision.
                    if let Some(change) = change {
                        let taken = revisions.lock().unwrap_or_else(PoisonError::into_inner).insert(revision, change);
                        ensure!(taken.is_none(), "revision {revision} was given twice");
                    }
                }
                Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    }

    async fn compact(&self) -> Result<()> {
        let last = self.revisions.lock().unwrap_or_else(PoisonError::into_inner).keys().last().copied();
        let to = last.context("nothing was written")? - HISTORY_LEFT;
        self.compacted.store(to, Ordering::SeqCst);
        self.clients[0].clone().compact(to, Some(CompactionOptions::new())).await?;
        Ok(())
    }

    fn truth(&self) -> Truth {
        let revisions = self.revisions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let revision = |change| Revision { changes: vec![change], in_order: true };
        let revisions = revisions.into_iter().map(|(number, change)| (number, revision(change))).collect();
        Truth { revisions, compacted: self.compacted.load(Ordering::SeqCst) }
    }
}

async fn change(client: &mut Client, number: i64) -> Result<(i64, Option<Change>)> {
    let key = format!("w/{:02}", usize::try_from(number * 7)? % KEYS);
    let previous = |kv: Option<&KeyValue>| kv.map(|kv| String::from_utf8_lossy(kv.value()).into_owned());
    if number % 5 == 4 {
        let answer = client.delete(key.as_str(), Some(DeleteOptions::new().with_prev_key())).await?;
        let revision = answer.header().context("no header")?.revision();
        let change = Change { key, value: None, previous: previous(answer.prev_kvs().first()) };
        return Ok((revision, (answer.deleted() == 1).then_some(change)));
    }
    let value = format!("{number} {}", "x".repeat(100));
    let answer = client.put(key.as_str(), value.as_str(), Some(PutOptions::new().with_prev_key())).await?;
    let revision = answer.header().context("no header")?.revision();
    Ok((revision, Some(Change { key, value: Some(value), previous: previous(answer.prev_key()) })))
}

struct Watcher {
    spec: Spec,
    seen: Arc<Mutex<Vec<Seen>>>,
    watching: JoinSet<Result<()>>,
}

async fn start_watchers(endpoint: &str, compacted: &Arc<AtomicI64>) -> Result<Vec<Watcher>> {
    let all =
        Spec { key: "w/".into(), range_end: "w0".into(), puts: true, deletes: true, prev_kv: true, fragment: false };
    let one = Spec { key: "w/07".into(), range_end: String::new(), ..all.clone() };
    let some = Spec { key: "w/10".into(), range_end: "w/20".into(), prev_kv: false, ..all.clone() };
    let specs = [
        (all.clone(), 0),
        (all.clone(), 2),
        (Spec { fragment: true, ..all.clone() }, 0),
        (Spec { deletes: false, ..all.clone() }, 0),
        (Spec { puts: false, ..all }, 0),
        (one.clone(), 0),
        (one, 2),
        (some.clone(), 0),
        (Spec { range_end: "\0".into(), ..some }, 0),
    ];
    let mut watchers = Vec::new();
    for (spec, from) in specs {
        let mut stream = watching::open(endpoint).await?;
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        stream.send(create(&spec.key, request(&spec, from))).await?;
        let made = stream.message().await?;
        ensure!(made.created, "{made:?}");
        note(&seen, Seen::From(if from == 0 { revision_of(&made) + 1 } else { from }));
        let mut watching = JoinSet::new();
        watching.spawn(watch(stream, spec.clone(), seen.clone(), compacted.clone()));
        watchers.push(Watcher { spec, seen, watching });
    }
    Ok(watchers)
}

fn request(spec: &Spec, from: i64) -> impl FnOnce(&mut WatchCreateRequest) + use<> {
    let spec = spec.clone();
    move |request| {
        request.range_end = spec.range_end.into_bytes().into();
        request.start_revision = from;
        request.prev_kv = spec.prev_kv;
        request.fragment = spec.fragment;
        request.filters.extend((!spec.puts).then_some(FilterType::Noput as i32));
        request.filters.extend((!spec.deletes).then_some(FilterType::Nodelete as i32));
    }
}

fn note(seen: &Mutex<Vec<Seen>>, step: Seen) {
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(step);
}

/// Writes down what comes, and begins again where a compaction ended the watch.
async fn watch(
    mut stream: WatchStream,
    spec: Spec,
    seen: Arc<Mutex<Vec<Seen>>>,
    compacted: Arc<AtomicI64>,
) -> Result<()> {
    let mut parts = Vec::new();
    while let Some(message) = stream.next().await? {
        if message.canceled {
            note(&seen, Seen::Compacted(message.compact_revision));
            stream.send(create(&spec.key, request(&spec, message.compact_revision))).await?;
        } else if message.created {
            let from = seen.lock().unwrap_or_else(PoisonError::into_inner).last().cloned();
            let Some(Seen::Compacted(from)) = from else { bail!("made twice") };
            note(&seen, Seen::From(from));
        } else if message.events.is_empty() {
            note(&seen, Seen::Progress(revision_of(&message)));
        } else {
            parts.extend(events(&message, compacted.load(Ordering::SeqCst)));
            if !message.fragment {
                note(&seen, Seen::Message(std::mem::take(&mut parts)));
                note(&seen, Seen::Header(revision_of(&message)));
            }
        }
    }
    Ok(())
}

fn events(message: &WatchResponse, compacted: i64) -> Vec<SeenEvent> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let events = message.events.iter().filter_map(|event| {
        let kv = event.kv.as_ref()?;
        let value = (event.r#type() == EventType::Put).then(|| text(&kv.value));
        let previous = event.prev_kv.as_ref().map(|kv| text(&kv.value));
        Some(SeenEvent { revision: kv.mod_revision, change: Change { key: text(&kv.key), value, previous }, compacted })
    });
    events.collect()
}
