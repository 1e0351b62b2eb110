//! The same requests to a real etcd's Watch service and to tenured's, the messages compared field by field.
//!
//! Both start empty and get the same writes in the same order, so their revisions stay in step. A step names how many
//! messages etcd answers it with; tenured must answer with the same ones, in any order among watchers. Where tenured departs
//! on purpose, the step says so and what is wanted instead. One pass talks to tenured's leader, one to a follower.
#![expect(clippy::print_stdout, reason = "the counts are the figures that this comparison shows")]

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_proto::etcdserverpb::request_op::Request as Op;
use tenure_proto::etcdserverpb::watch_request::RequestUnion;
use tenure_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
    WatchResponse,
};
use tenure_proto::mvccpb::{Event, KeyValue};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::requests::Request;
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::watching::{self, WatchStream, cancel, comparable, create, progress, revision_of};
use tenure_tests::wire::Wire;

/// Both programs know this name of the flag.
const FLAGS: [&str; 1] = ["--experimental-watch-progress-notify-interval=200ms"];

/// One program: a connection for writes, and one stream of watchers.
struct Side {
    wire: Wire,
    stream: WatchStream,
}

impl Side {
    async fn open(endpoint: &str) -> Result<Side> {
        Ok(Side { wire: Wire::connect(endpoint).await?, stream: watching::open(endpoint).await? })
    }

    async fn messages(&mut self, count: usize) -> Result<Vec<WatchResponse>> {
        let mut messages = Vec::with_capacity(count);
        for at in 0..count {
            let message = self.stream.message().await;
            messages.push(comparable(message.with_context(|| format!("{at} of {count} messages came: {messages:?}"))?));
        }
        // Stable: the messages of one watcher keep their order.
        messages.sort_by_key(|message| message.watch_id);
        Ok(messages)
    }
}

/// Both programs, side by side.
struct Both {
    etcd: Side,
    tenured: Side,
    /// Both revisions.
    revision: i64,
    steps: usize,
    departures: BTreeSet<&'static str>,
    _clusters: (Cluster, Cluster),
}

impl Both {
    async fn start(scenario: &Scenario, leader: bool) -> Result<Both> {
        let mut etcd = Cluster::with_flags(Program::Etcd, 1, &scenario.home.join("etcd"), &FLAGS)?;
        let mut tenured = Cluster::with_flags(Program::Tenured, 3, &scenario.home.join("tenured"), &FLAGS)?;
        etcd.start_all().await?;
        tenured.start_all().await?;
        let at = if leader { tenured.wait_leader(LEADER_PATIENCE).await? } else { tenured.follower().await? };
        Ok(Both {
            etcd: Side::open(&etcd.nodes[0].endpoint()).await?,
            tenured: Side::open(&tenured.nodes[at].endpoint()).await?,
            revision: 1,
            steps: 0,
            departures: BTreeSet::new(),
            _clusters: (etcd, tenured),
        })
    }

    async fn ask(&mut self, request: RequestUnion) -> Result<()> {
        self.etcd.stream.send(request.clone()).await?;
        self.tenured.stream.send(request).await
    }

    async fn write(&mut self, request: Request) -> Result<()> {
        let (etcd, tenured) = (self.etcd.wire.send(&request).await, self.tenured.wire.send(&request).await);
        ensure!(etcd == tenured, "the writes differ: {request:?}\n   etcd: {etcd:?}\ntenured: {tenured:?}");
        self.revision = etcd.revision().with_context(|| format!("{request:?} is refused: {etcd:?}"))?;
        Ok(())
    }

    async fn put(&mut self, key: &str, value: &str) -> Result<()> {
        self.write(Request::Put(put(key, value))).await
    }

    async fn delete(&mut self, key: &str) -> Result<()> {
        self.write(Request::Delete(delete(key))).await
    }

    async fn compact(&mut self, revision: i64) -> Result<()> {
        self.write(Request::Compact(CompactionRequest { revision, physical: true })).await
    }

    /// Both answer with the same messages, this many.
    async fn same(&mut self, what: &str, count: usize) -> Result<Vec<WatchResponse>> {
        self.steps += 1;
        let etcd = self.etcd.messages(count).await.with_context(|| format!("{what}: etcd"))?;
        let tenured = self.tenured.messages(count).await.with_context(|| format!("{what}: tenured"))?;
        ensure!(etcd == tenured, "{what}:\n   etcd: {etcd:#?}\ntenured: {tenured:#?}");
        Ok(tenured)
    }

    /// tenured departs: `wanted` makes etcd's messages what tenured's must be.
    async fn departs(
        &mut self,
        name: &'static str,
        counts: (usize, usize),
        wanted: impl FnOnce(Vec<WatchResponse>) -> Vec<WatchResponse>,
    ) -> Result<()> {
        self.departures.insert(name);
        let etcd = self.etcd.messages(counts.0).await.with_context(|| format!("{name}: etcd"))?;
        let tenured = self.tenured.messages(counts.1).await.with_context(|| format!("{name}: tenured"))?;
        ensure!(etcd != tenured, "{name}: etcd does the same by now: {etcd:#?}");
        let wanted = wanted(etcd);
        ensure!(wanted == tenured, "{name}:\n wanted: {wanted:#?}\ntenured: {tenured:#?}");
        Ok(())
    }

    /// Nothing else is on its way: what a watcher made for it is told is the next that comes.
    async fn nothing_else(&mut self) -> Result<()> {
        self.ask(create("nothing else", |request| request.watch_id = 9_999)).await?;
        self.same("the watcher for the end", 1).await?;
        self.put("nothing else", "").await?;
        self.same("the end", 1).await?;
        self.ask(cancel(9_999)).await?;
        self.same("the end's end", 1).await?;
        Ok(())
    }

    fn report(&self, name: &str) {
        println!("{name}: {} steps answered alike, departures: {:?}", self.steps, self.departures);
    }
}

/// A change of a request, by name.
type Change = (&'static str, fn(&mut WatchCreateRequest));

fn put(key: &str, value: &str) -> PutRequest {
    let [key, value] = [key, value].map(|text| Bytes::copy_from_slice(text.as_bytes()));
    PutRequest { key, value, ..Default::default() }
}

fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
}

fn txn(ops: Vec<Op>) -> Request {
    let success = ops.into_iter().map(|op| RequestOp { request: Some(op) }).collect();
    Request::Txn(TxnRequest { success, ..Default::default() })
}

fn prefix(request: &mut WatchCreateRequest) {
    let mut end = request.key.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    request.range_end = end.into();
}

fn with_header(mut message: WatchResponse, revision: i64) -> WatchResponse {
    if let Some(header) = &mut message.header {
        header.revision = revision;
    }
    message
}

/// A passing pass over a scenario on the leader and on a follower.
fn on_leader_and_follower<F>(test: &str, body: impl Fn(Both) -> F + Copy)
where
    F: Future<Output = Result<Both>>,
{
    for (leader, name) in [(true, "leader"), (false, "follower")] {
        let pass = format!("{test}, {name}");
        scenario::run("compat_watch", test, |scenario| async move {
            let both = Both::start(&scenario, leader).await?;
            body(both).await.with_context(|| pass.clone())?.report(&pass);
            Ok(())
        });
    }
}

#[test]
fn watchers_are_made_refused_and_cancelled_as_by_etcd() {
    on_leader_and_follower("watchers_are_made_refused_and_cancelled_as_by_etcd", |mut both| async move {
        both.ask(progress()).await?;
        both.same("progress without watchers", 1).await?;
        let creates: [Change; 14] = [
            ("a key", |_| {}),
            ("an empty range", |request| request.range_end = "a".into()),
            ("a range that ends before it starts", |request| request.range_end = "A".into()),
            ("an id that is taken, as 0 is for the asking", |request| request.watch_id = 0),
            ("an id that is taken", |request| request.watch_id = 1),
            ("an id", |request| request.watch_id = 7),
            ("an id below 0", |request| request.watch_id = -2),
            ("the same again", |request| request.watch_id = -2),
            ("the lowest id", |request| request.watch_id = i64::MIN),
            ("no key", |request| request.key.clear()),
            ("everything", |request| (request.key, request.range_end) = (Bytes::new(), "\0".into())),
            ("from a key on", |request| request.range_end = "\0".into()),
            ("from everything on, in another way", |request| {
                (request.key, request.range_end) = ("\0".into(), "\0".into());
            }),
            ("a start far ahead", |request| request.start_revision = i64::MAX),
        ];
        for (what, change) in creates {
            both.ask(create("a", change)).await?;
            both.same(what, 1).await?;
        }
        both.ask(create("a", |request| request.start_revision = -3)).await?;
        both.departs("a start below 0 is refused, as by etcd 3.6", (2, 1), |mut etcd| {
            let mut refused = etcd.swap_remove(0);
            (refused.watch_id, refused.canceled) = (-1, true);
            refused.cancel_reason = "etcdserver: mvcc: required revision has been compacted".to_owned();
            vec![refused]
        })
        .await?;
        // etcd has given an id to the watcher that it ended at once, tenured has not: no more ids are asked for.
        both.ask(cancel(i64::MIN)).await?;
        both.same("a cancelled watcher", 1).await?;
        both.ask(cancel(i64::MIN)).await?;
        both.ask(cancel(1_000)).await?;
        both.etcd.stream.send_raw(WatchRequest { request_union: None }).await?;
        both.tenured.stream.send_raw(WatchRequest { request_union: None }).await?;
        both.put("\0", "smallest").await?;
        both.same("an event of the smallest key", 3).await?;
        both.put("a", "1").await?;
        both.same("an event for nearly all", 7).await?;
        both.delete("a").await?;
        both.same("a delete for nearly all", 7).await?;
        for id in [7, -2, 0, 1, 2, 3, 4, 5, 6] {
            both.ask(cancel(id)).await?;
            both.same("a cancelled watcher", 1).await?;
        }
        both.put("a", "2").await?;
        both.nothing_else().await?;
        Ok(both)
    });
}

#[test]
fn events_are_told_as_by_etcd() {
    on_leader_and_follower("events_are_told_as_by_etcd", |mut both| async move {
        let kinds: [fn(&mut WatchCreateRequest); 6] = [
            |_| {},
            |request| request.prev_kv = true,
            |request| request.filters = vec![0],
            |request| (request.filters, request.prev_kv) = (vec![1, 17], true),
            |request| request.filters = vec![0, 1],
            |request| (request.fragment, request.prev_kv) = (true, true),
        ];
        for kind in kinds {
            both.ask(create("k", |request| {
                prefix(request);
                kind(request);
            }))
            .await?;
            both.same("a watcher", 1).await?;
        }
        both.put("k1", "1").await?;
        both.same("a creation", 4).await?;
        both.put("k1", "2").await?;
        both.same("a change", 4).await?;
        both.put("l", "out of range").await?;
        both.write(txn(vec![
            Op::RequestPut(put("k2", "1")),
            Op::RequestDeleteRange(delete("k1")),
            Op::RequestPut(put("k0", "1")),
            Op::RequestDeleteRange(delete("k9")),
        ]))
        .await?;
        both.same("several in one revision", 5).await?;
        both.delete("k2").await?;
        both.same("a delete", 4).await?;
        both.put("k2", "2").await?;
        both.same("a creation after a delete", 4).await?;
        let all = DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
        both.write(Request::Delete(all)).await?;
        both.same("a delete of several", 4).await?;
        both.write(Request::Put(PutRequest { ignore_value: false, value: Bytes::new(), ..put("k1", "") })).await?;
        both.same("an empty value", 4).await?;
        both.ask(progress()).await?;
        both.same("progress", 1).await?;
        both.nothing_else().await?;
        both.etcd.stream.half_close();
        both.tenured.stream.half_close();
        both.put("k1", "after the last request").await?;
        both.same("events after the last request", 4).await?;
        Ok(both)
    });
}

#[test]
fn old_revisions_are_told_as_by_etcd() {
    on_leader_and_follower("old_revisions_are_told_as_by_etcd", |mut both| async move {
        for round in 0..4 {
            for key in ["a", "b", "c"] {
                both.put(key, &format!("{key}{round}")).await?;
            }
            both.delete("b").await?;
        }
        let now = both.revision;
        both.put("z", "the last").await?;
        for start in [1, 2, 7, now] {
            for prev_kv in [false, true] {
                both.ask(create("a", |request| {
                    prefix(request);
                    request.range_end = "d".into();
                    (request.start_revision, request.prev_kv) = (start, prev_kv);
                }))
                .await?;
                both.same("events that were caught up with", 2).await?;
            }
        }
        both.ask(create("a", |request| request.start_revision = now + 1)).await?;
        both.same("a start with nothing to tell", 1).await?;
        // At 9, b is deleted.
        both.compact(9).await?;
        both.ask(create("a", |request| (request.start_revision, request.watch_id) = (8, 50))).await?;
        both.same("a start that is compacted", 2).await?;
        both.ask(cancel(50)).await?;
        both.departs("a watcher that the server ended is unknown", (1, 0), |_| Vec::new()).await?;
        both.ask(create("a", |request| {
            (request.range_end, request.start_revision, request.prev_kv) = ("d".into(), 9, true);
        }))
        .await?;
        both.departs("the tombstone at the compacted revision is told (etcd's 19179)", (2, 2), |etcd| {
            let mut wanted = etcd;
            // What was there before is compacted.
            let deleted = Event { r#type: 1, kv: Some(kv("b", 9)), prev_kv: None };
            wanted[1].events.insert(0, deleted);
            wanted
        })
        .await?;
        // At 10, a is put: what it was before is compacted, whoever still remembers it.
        both.compact(10).await?;
        both.ask(create("a", |request| {
            (request.range_end, request.start_revision, request.prev_kv) = ("d".into(), 10, true);
        }))
        .await?;
        both.same("previous values at a compaction", 2).await?;
        both.nothing_else().await?;
        Ok(both)
    });
}

fn kv(key: &str, mod_revision: i64) -> KeyValue {
    KeyValue { key: Bytes::copy_from_slice(key.as_bytes()), mod_revision, ..Default::default() }
}

#[test]
fn large_revisions_come_in_the_fragments_of_etcd() {
    on_leader_and_follower("large_revisions_come_in_the_fragments_of_etcd", |mut both| async move {
        for fragment in [true, false] {
            both.ask(create("k", |request| {
                prefix(request);
                (request.fragment, request.prev_kv) = (fragment, true);
            }))
            .await?;
            both.same("a watcher", 1).await?;
        }
        for (at, size) in [400, 700, 1000, 900, 1100, 300, 1400, 10].into_iter().enumerate() {
            both.put(&format!("k{at}"), &"x".repeat(size << 10)).await?;
            both.same("a large value", 2).await?;
        }
        let all = DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
        both.write(Request::Delete(all)).await?;
        let messages = both.same("a delete of large values", 5).await?;
        let parts = messages.iter().filter(|message| message.watch_id == 0).count();
        ensure!(parts == 4, "{parts} fragments");
        both.nothing_else().await?;
        Ok(both)
    });
}

#[test]
fn quiet_watchers_hear_of_progress_at_the_interval() {
    on_leader_and_follower("quiet_watchers_hear_of_progress_at_the_interval", |mut both| async move {
        both.put("a", "1").await?;
        both.ask(create("a", |request| request.progress_notify = true)).await?;
        both.ask(create("a", |request| request.watch_id = 5)).await?;
        both.same("watchers", 2).await?;
        both.same("notices", 3).await?;
        both.put("b", "not watched").await?;
        // The revision of a notice that was under way may be the one before.
        for side in [&mut both.etcd, &mut both.tenured] {
            let mut told = 0;
            while told < both.revision {
                let message = side.stream.message().await?;
                ensure!(message.watch_id == 0 && message.events.is_empty(), "no notice: {message:?}");
                told = revision_of(&message);
            }
            ensure!(told == both.revision, "progress at {told}");
        }
        Ok(both)
    });
}

/// Everything that one side told, by watcher: how it began or ended, and its events.
#[derive(Debug, Default, PartialEq)]
struct Told(BTreeMap<i64, Vec<WatchResponse>>);

impl Told {
    /// Joins what was told late: how many revisions come in one message is not part of the comparison.
    fn add(&mut self, message: WatchResponse) {
        let mut message = with_header(comparable(message), 0);
        message.fragment = false;
        let told = self.0.entry(message.watch_id).or_default();
        match told.last_mut().filter(|last| !last.events.is_empty() && !message.events.is_empty()) {
            Some(last) => last.events.append(&mut message.events),
            None => told.push(message),
        }
    }
}

const KEYS: [&str; 7] = ["a", "a\0", "aa", "ab", "b", "ba", "c"];

fn random_watcher(rng: &mut StdRng, now: i64, compacted: i64) -> RequestUnion {
    let key = KEYS[rng.random_range(0..KEYS.len())];
    let end = ["", "", "", "\0", "b", "c", "d", "a"][rng.random_range(0..8)];
    let filters = [vec![], vec![], vec![0], vec![1]][rng.random_range(0..4)].clone();
    let start =
        [0, 0, now + 1, rng.random_range(compacted.max(1) + 1..=now + 1), compacted - 1][rng.random_range(0..5)];
    create(key, |request| {
        request.range_end = Bytes::copy_from_slice(end.as_bytes());
        (request.start_revision, request.filters) = (start.max(0), filters);
        (request.prev_kv, request.fragment) = (rng.random_ratio(1, 2), rng.random_ratio(1, 4));
    })
}

fn random_write(rng: &mut StdRng) -> Request {
    let mut key = || KEYS[rng.random_range(0..KEYS.len())];
    let (one, other) = (key(), key());
    let value = rng.random_range(0..1000).to_string();
    match rng.random_range(0..10) {
        0..6 => Request::Put(put(one, &value)),
        6 => Request::Delete(delete(one)),
        7 => {
            let range_end = Bytes::copy_from_slice(other.as_bytes());
            Request::Delete(DeleteRangeRequest { range_end, ..delete(one) })
        }
        _ if one == other => Request::Put(put(one, &value)),
        _ => txn(vec![Op::RequestPut(put(one, &value)), Op::RequestPut(put(other, &value))]),
    }
}

/// Reads until the watcher that was asked for is there, and has ended if it starts from what is compacted.
async fn until_created(side: &mut Side, told: &mut Told, ends: bool) -> Result<()> {
    let (mut created, mut ended) = (false, !ends);
    while !created || !ended {
        let message = side.stream.message().await?;
        created |= message.created;
        ended |= message.canceled;
        told.add(message);
    }
    Ok(())
}

/// Reads until tenured says that it has told everything, which etcd 3.5 cannot.
async fn until_complete(both: &mut Both, told: &mut Told) -> Result<()> {
    loop {
        both.tenured.stream.send(progress()).await?;
        loop {
            let message = both.tenured.stream.message().await?;
            let is_progress = message.events.is_empty() && !message.created && !message.canceled;
            if is_progress && message.watch_id == -1 && revision_of(&message) >= both.revision {
                return Ok(());
            }
            if is_progress {
                break;
            }
            told.add(message);
        }
    }
}

/// Reads both sides until they have told the same, which they must.
async fn until_same(both: &mut Both, told: &mut (Told, Told)) -> Result<()> {
    let deadline = tokio::time::Instant::now() + watching::MESSAGE_PATIENCE;
    while told.0 != told.1 {
        let waited = tokio::select! {
            message = both.etcd.stream.next() => message.map(|message| message.map(|message| told.0.add(message))),
            message = both.tenured.stream.next() => message.map(|message| message.map(|message| told.1.add(message))),
            () = tokio::time::sleep_until(deadline) => break,
        };
        waited?.context("a stream ended")?;
    }
    for (id, etcd) in &told.0.0 {
        let tenured = told.1.0.get(id);
        ensure!(tenured == Some(etcd), "watcher {id}:\n   etcd: {etcd:?}\ntenured: {tenured:?}");
    }
    ensure!(told.0 == told.1, "tenured tells of watchers that etcd does not");
    Ok(())
}

async fn random_pass(mut both: Both, seed: u64) -> Result<Both> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut told = (Told::default(), Told::default());
    let (mut compacted, mut watchers) = (0, 0);
    both.put("a", "the first").await?;
    for _ in 0..8 {
        for _ in 0..rng.random_range(1..6) {
            let now = both.revision;
            let request = random_watcher(rng, now, compacted);
            let ends = matches!(&request, RequestUnion::CreateRequest(create)
                if (1..compacted).contains(&create.start_revision));
            both.ask(request).await?;
            until_created(&mut both.etcd, &mut told.0, ends).await?;
            until_created(&mut both.tenured, &mut told.1, ends).await?;
            watchers += 1;
            for _ in 0..rng.random_range(0..30) {
                both.write(random_write(rng)).await?;
            }
        }
        // etcd ends those that compaction overtakes: first, everybody gets everything.
        until_complete(&mut both, &mut told.1).await?;
        until_same(&mut both, &mut told).await?;
        let to = rng.random_range(compacted + 1..both.revision);
        both.compact(to).await?;
        compacted = to;
    }
    let events: usize = told.1.0.values().flatten().map(|message| message.events.len()).sum();
    println!("seed {seed}: {watchers} watchers, {events} events told alike up to revision {}", both.revision);
    both.steps += watchers;
    Ok(both)
}

#[test]
fn random_watchers_are_told_the_events_of_etcd() {
    for seed in 1..4 {
        on_leader_and_follower("random_watchers_are_told_the_events_of_etcd", |both| random_pass(both, seed));
    }
}
