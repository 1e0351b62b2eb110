//! Thousands of random requests to a real etcd and to tenured, every answer compared field by field.
//!
//! Both start empty and get the same requests in the same order, so their revisions stay in step for ever unless one of
//! them is wrong. Ids, terms and nothing else are left out of the comparison; error codes and texts are in it. One pass
//! talks to tenured's leader, one to a follower.
#![expect(clippy::print_stdout, reason = "the counts are the figures that this comparison shows")]

use std::collections::{BTreeMap, VecDeque};
use std::env;

use anyhow::{Context, Result, bail, ensure};
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tenure_proto::etcdserverpb::request_op::Request as Op;
use tenure_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, HashKvRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::overlap::{Rule, changes_a_key_twice};
use tenure_tests::requests::{Request, Requests};
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::ties::{ties_ascend, without_tie_order};
use tenure_tests::wire::{Answer, Wire, refused};
use tonic::Code;

/// Requests before the one that differs that a failure shows.
const SHOWN_BEFORE: usize = 12;

#[test]
fn random_requests_to_the_leader_get_the_answers_of_etcd() {
    scenario::run("compat_grpc", "random_requests_to_the_leader_get_the_answers_of_etcd", |scenario| {
        compare(scenario, true, 1)
    });
}

#[test]
fn random_requests_to_a_follower_get_the_answers_of_etcd() {
    scenario::run("compat_grpc", "random_requests_to_a_follower_get_the_answers_of_etcd", |scenario| {
        compare(scenario, false, 1_000)
    });
}

fn put(key: &[u8], value: &[u8]) -> PutRequest {
    PutRequest { key: key.to_vec().into(), value: value.to_vec().into(), ..PutRequest::default() }
}

fn range(change: fn(&mut RangeRequest)) -> Request {
    let mut request = RangeRequest { key: "a".into(), range_end: "z".into(), ..RangeRequest::default() };
    change(&mut request);
    Request::Range(request)
}

fn compare_a(change: fn(&mut Compare)) -> Request {
    let mut compare = Compare { key: "a".into(), ..Compare::default() };
    change(&mut compare);
    Request::Txn(TxnRequest { compare: vec![compare], success: vec![], failure: vec![] })
}

/// Requests whose answers a random walk would hardly reach, by name.
fn odd_requests() -> Vec<(&'static str, Request)> {
    let nested = |depth| {
        let mut txn = TxnRequest::default();
        for _ in 0..depth {
            let op = RequestOp { request: Some(Op::RequestTxn(txn)) };
            txn = TxnRequest { success: vec![op], ..TxnRequest::default() };
        }
        Request::Txn(txn)
    };
    let puts = |count: usize| {
        let put = |at: usize| RequestOp { request: Some(Op::RequestPut(put(format!("p{at}").as_bytes(), b"v"))) };
        Request::Txn(TxnRequest { success: (0..count).map(put).collect(), ..TxnRequest::default() })
    };
    vec![
        ("a txn of nothing", Request::Txn(TxnRequest::default())),
        ("a compare without a number", compare_a(|compare| compare.target = 1)),
        ("a txn nested five times", nested(5)),
        ("a txn of 128 puts", puts(128)),
        ("a txn of 129 puts", puts(129)),
        ("a key of 1 MiB", Request::Put(put(&vec![b'k'; 1024 * 1024], b"v"))),
        ("a value of 1 MiB", Request::Put(put(b"v", &vec![b'v'; 1024 * 1024]))),
        ("a value of 1.5 MiB less 64 bytes", Request::Put(put(b"v", &vec![b'v'; 1536 * 1024 - 64]))),
        ("a value of 1.5 MiB", Request::Put(put(b"v", &vec![b'v'; 1536 * 1024]))),
        ("a value of 1.9 MiB", Request::Put(put(b"v", &vec![b'v'; 1945 * 1024]))),
        ("all of it in one answer", range(|request| request.limit = 0)),
        ("compaction to nothing", Request::Compact(CompactionRequest { revision: 0, physical: true })),
        ("compaction to the future", Request::Compact(CompactionRequest { revision: 1_000_000, physical: true })),
        ("compaction to now", Request::Compact(CompactionRequest { revision: 4, physical: true })),
        ("compaction to now, again", Request::Compact(CompactionRequest { revision: 4, physical: true })),
        ("compaction below zero", Request::Compact(CompactionRequest { revision: -4, physical: false })),
    ]
}

/// Where tenured departs from etcd 3.5 on purpose: requests that kill it, or that it takes for something else. They are
/// sent to tenured alone, and it must refuse them with this code and text.
fn departures() -> Vec<(&'static str, Request, Code, &'static str)> {
    let sort = "etcdserver: invalid sort option";
    let delete_then_put = |ignore_value| {
        let delete = DeleteRangeRequest { key: "a".into(), range_end: "\0".into(), prev_kv: false };
        let put = PutRequest { ignore_value, ..put(b"b", b"") };
        let ops = [Op::RequestDeleteRange(delete), Op::RequestPut(put)];
        let success = ops.into_iter().map(|op| RequestOp { request: Some(op) }).collect();
        Request::Txn(TxnRequest { success, ..TxnRequest::default() })
    };
    let duplicate = "etcdserver: duplicate key given in txn request";
    let code = Code::InvalidArgument;
    vec![
        ("sort order 9", range(|request| request.sort_order = 9), code, sort),
        ("sort order -1", range(|request| request.sort_order = -1), code, sort),
        ("sort target 9 kills etcd", range(|request| request.sort_target = 9), code, sort),
        ("sort target -1 kills etcd", range(|request| request.sort_target = -1), code, sort),
        ("compare result 9", compare_a(|compare| compare.result = 9), code, "compare result"),
        ("compare result -1", compare_a(|compare| compare.result = -1), code, "compare result"),
        ("compare target 9", compare_a(|compare| compare.target = 9), code, "compare target"),
        ("compare target -1", compare_a(|compare| compare.target = -1), code, "compare target"),
        ("a delete from a key on hides a put from etcd", delete_then_put(false), code, duplicate),
        ("the same with ignore_value kills etcd", delete_then_put(true), code, duplicate),
        ("a value of 3 MiB", Request::Put(put(b"v", &vec![b'v'; 3 << 20])), Code::ResourceExhausted, "2097152"),
    ]
}

#[test]
fn odd_requests_get_the_answers_of_etcd() {
    scenario::run("compat_grpc", "odd_requests_get_the_answers_of_etcd", |scenario| async move {
        let etcd = Cluster::start(Program::Etcd, 1, &scenario.home.join("etcd")).await?;
        let mut tenured = Cluster::start(Program::Tenured, 3, &scenario.home.join("tenured")).await?;
        let at = tenured.wait_leader(LEADER_PATIENCE).await?;
        let mut etcd_wire = Wire::connect(&etcd.nodes[0].endpoint()).await?;
        let mut tenured_wire = Wire::connect(&tenured.nodes[at].endpoint()).await?;
        let mut different = Vec::new();
        let puts = ["a", "b", "c"].map(|key| ("a put", Request::Put(put(key.as_bytes(), key.as_bytes()))));
        for (name, request) in puts.into_iter().chain(odd_requests()) {
            let (expected, actual) = tokio::join!(etcd_wire.send(&request), tenured_wire.send(&request));
            let broken = matches!(&expected, Answer::Refused { code: Code::Unavailable | Code::Unknown, .. });
            if expected != actual || broken {
                different.push(format!("{name}:\n   etcd: {}\ntenured: {}", short(&expected), short(&actual)));
            }
        }
        for (name, request, code, text) in departures() {
            let actual = tenured_wire.send(&request).await;
            if !matches!(&actual, Answer::Refused { code: is, message } if *is == code && message.contains(text)) {
                different.push(format!("{name}:\nwanted: {code:?} {text}\ntenured: {}", short(&actual)));
            }
        }
        for revision in [0, 1, 3, 1_000_000, -1, i64::MIN, i64::MAX] {
            let (expected, actual) = tokio::join!(hash_kv(&etcd_wire, revision), hash_kv(&tenured_wire, revision));
            if expected != actual {
                different.push(format!("HashKV at {revision}:\n   etcd: {expected:?}\ntenured: {actual:?}"));
            }
        }
        println!("{} odd requests answered alike, {} departures", odd_requests().len(), departures().len());
        ensure!(different.is_empty(), "{} answers are wrong:\n{}", different.len(), different.join("\n"));
        Ok(())
    });
}

/// How HashKV is refused, or how far it says the store is compacted; the hash itself is each program's own.
async fn hash_kv(wire: &Wire, revision: i64) -> Result<(i64, i64), Answer> {
    let answer = MaintenanceClient::new(wire.channel()).hash_kv(HashKvRequest { revision }).await.map_err(refused)?;
    let answer = answer.into_inner();
    Ok((answer.header.unwrap_or_default().revision, answer.compact_revision))
}

fn short(answer: &Answer) -> String {
    format!("{answer:?}").chars().take(400).collect()
}

/// A number from the environment, for longer runs and for reproducing one.
fn setting(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is not a number")),
    }
}

async fn compare(scenario: Scenario, leader: bool, first_seed: u64) -> Result<()> {
    let count = setting("TENURE_COMPAT_REQUESTS", 3_000)?;
    let first_seed = setting("TENURE_COMPAT_SEED", first_seed)?;
    let seeds = setting("TENURE_COMPAT_SEEDS", 2)?;
    let mut answers = BTreeMap::new();
    for seed in first_seed..first_seed + seeds {
        let home = scenario.home.join(format!("seed-{seed}"));
        let etcd = Cluster::start(Program::Etcd, 1, &home.join("etcd")).await?;
        let mut tenured = Cluster::start(Program::Tenured, 3, &home.join("tenured")).await?;
        let at = if leader { tenured.wait_leader(LEADER_PATIENCE).await? } else { tenured.follower().await? };
        let mut etcd_wire = Wire::connect(&etcd.nodes[0].endpoint()).await?;
        let mut tenured_wire = Wire::connect(&tenured.nodes[at].endpoint()).await?;
        one_seed(seed, count, &mut etcd_wire, &mut tenured_wire, &mut answers).await.with_context(|| {
            format!("reproduce with TENURE_COMPAT_SEED={seed} TENURE_COMPAT_SEEDS=1 TENURE_COMPAT_REQUESTS={count}")
        })?;
    }
    println!("{seeds} seeds × {count} requests from seed {first_seed} on, all answers equal. Of these:");
    for (kind, count) in answers {
        println!("{count:8} {kind}");
    }
    Ok(())
}

async fn one_seed(
    seed: u64,
    count: u64,
    etcd: &mut Wire,
    tenured: &mut Wire,
    answers: &mut BTreeMap<String, u64>,
) -> Result<()> {
    let mut requests = Requests::new(seed);
    let mut before = VecDeque::new();
    for at in 0..count {
        let request = requests.next_request();
        if only_tenure_refuses(&request) {
            // etcd would change a key twice in one revision, and the two would be out of step from there on.
            let actual = tenured.send(&request).await;
            let refused = matches!(&actual, Answer::Refused { code: Code::InvalidArgument, .. });
            ensure!(refused, "request {at} of seed {seed} changes a key twice: {request:?}\ntenured: {actual:?}");
            *answers.entry("txn that changes a key twice, not sent to etcd".to_owned()).or_default() += 1;
            continue;
        }
        let (expected, actual) = tokio::join!(etcd.send(&request), tenured.send(&request));
        let broken = matches!(&expected, Answer::Refused { code: Code::Unavailable | Code::Unknown, .. });
        let ties_ascend = ties_ascend(&request, &actual);
        let (expected, actual) = (without_tie_order(&request, expected), without_tie_order(&request, actual));
        if expected != actual || broken || !ties_ascend {
            let history: Vec<String> = before.into_iter().collect();
            bail!(
                "request {at} of seed {seed} is answered differently, or ties do not ascend ({ties_ascend})\nbefore it:\n{}\nrequest: {request:?}\n   etcd: \
                 {expected:?}\ntenured: {actual:?}\nthe first difference:\n{}",
                history.join("\n"),
                first_difference(&format!("{expected:?}"), &format!("{actual:?}"))
            );
        }
        if let Some(revision) = expected.revision() {
            requests.saw_revision(revision);
        }
        if let (Request::Compact(compaction), Answer::Compact(_)) = (&request, &expected) {
            requests.saw_compaction(compaction.revision);
        }
        *answers.entry(kind(&expected)).or_default() += 1;
        before.push_back(format!("{request:?}\n  -> {expected:?}"));
        if before.len() > SHOWN_BEFORE {
            before.pop_front();
        }
    }
    Ok(())
}

fn only_tenure_refuses(request: &Request) -> bool {
    matches!(request, Request::Txn(txn)
        if changes_a_key_twice(Rule::Tenure, txn) && !changes_a_key_twice(Rule::Etcd, txn))
}

/// Where two texts part, with what stands around it: answers can be long.
fn first_difference(etcd: &str, tenured: &str) -> String {
    let same = etcd.chars().zip(tenured.chars()).take_while(|(one, other)| one == other).count();
    let around = |text: &str| text.chars().skip(same.saturating_sub(300)).take(600).collect::<String>();
    format!("   etcd: …{}\ntenured: …{}", around(etcd), around(tenured))
}

fn kind(answer: &Answer) -> String {
    match answer {
        Answer::Range(_) => "range".to_owned(),
        Answer::Put(_) => "put".to_owned(),
        Answer::Delete(_) => "delete".to_owned(),
        Answer::Txn(txn) if txn.succeeded => "txn, then".to_owned(),
        Answer::Txn(_) => "txn, else".to_owned(),
        Answer::Compact(_) => "compact".to_owned(),
        Answer::Refused { code, message } => format!("{code:?}: {message}"),
    }
}
