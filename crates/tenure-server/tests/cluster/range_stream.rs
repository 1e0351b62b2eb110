//! Ranges in pieces: together they are the whole answer, and a client that reads slowly, or not at all, costs little.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use tenure_core::Revision;
use tenure_core::command::{Command, DeleteRange, KeyRange, Put, Range, SortOrder};
use tenure_core::outcome::{KeyValue, Refusal};
use tenure_core::{LeaseId, state::StateRead};
use tenure_server::node::{ChunkLimits, Node, RangeChunks, RangeEnd, RequestError};

use crate::support::cluster::{Cluster, eventually};
use crate::support::member::Settings;
use crate::support::{run, within};

/// Never reached by a test that goes as it should.
const NEVER: Duration = Duration::from_secs(600);

/// Streams that a client thread serves at once.
const STREAMS_MAX: usize = 256;

fn key(number: usize) -> Bytes {
    Bytes::from(format!("k{number:03}"))
}

async fn must(node: &Node, command: Command) -> Revision {
    let outcome = within("a write", node.write(&command)).await.expect("a write");
    assert!(outcome.result.is_ok(), "{command:?}: {outcome:?}");
    outcome.revision
}

async fn put(node: &Node, number: usize, value: impl Into<Bytes>) -> Revision {
    let (key, value) = (key(number), value.into());
    let put = Put { key, value, lease: LeaseId::NONE, prev_kv: false, ignore_value: false, ignore_lease: false };
    must(node, Command::Put(put)).await
}

async fn delete(node: &Node, number: usize) -> Revision {
    must(node, Command::DeleteRange(DeleteRange { range: KeyRange::One(key(number)), prev_kv: false })).await
}

fn everything() -> Range {
    Range::of(KeyRange::From(Bytes::from_static(b"\0")))
}

fn random_range(rng: &mut StdRng, now: Revision, compacted: Revision) -> Range {
    let (from, to) = (rng.random_range(0..120), rng.random_range(0..120));
    let range = match rng.random_range(0..6) {
        0 => KeyRange::One(key(from)),
        1 => KeyRange::From(key(from)),
        2 => everything().range,
        _ => KeyRange::Between(key(from.min(to)), key(from.max(to))),
    };
    Range {
        range,
        limit: if rng.random_bool(0.5) { rng.random_range(-1..100) } else { 0 },
        revision: if rng.random_bool(0.5) {
            Revision(rng.random_range(compacted.0.max(1)..=now.0))
        } else {
            Revision(0)
        },
        keys_only: rng.random_bool(0.2),
        count_only: rng.random_bool(0.1),
        order: if rng.random_bool(0.5) { SortOrder::Ascend } else { SortOrder::None },
        ..everything()
    }
}

/// A change that any store can take.
async fn change(rng: &mut StdRng, node: &Node) -> Revision {
    let number = rng.random_range(0..120);
    if rng.random_bool(0.3) {
        return delete(node, number).await;
    }
    let length = if rng.random_bool(0.1) { rng.random_range(0..5000) } else { rng.random_range(0..40) };
    put(node, number, vec![b'v'; length]).await
}

/// Takes all pieces, each after a change, and merges them as protobuf would.
async fn merge(
    rng: &mut StdRng,
    node: &Node,
    mut chunks: RangeChunks,
    limits: ChunkLimits,
) -> (Vec<KeyValue>, RangeEnd) {
    let mut kvs: Vec<KeyValue> = Vec::new();
    let mut keys_max = limits.keys_first;
    while let Some(chunk) = within("a piece", chunks.recv()).await {
        change(rng, node).await;
        let chunk = chunk.expect("a piece");
        assert!(chunk.kvs.len() <= keys_max, "{} key-values, not {keys_max}", chunk.kvs.len());
        let (_, before_last) = chunk.kvs.split_last().map_or((None, &[][..]), |(last, rest)| (Some(last), rest));
        let bytes: usize = before_last.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        assert!(bytes < limits.bytes_max.max(1), "a piece of {bytes} bytes and one more key-value");
        keys_max = keys_max.saturating_mul(2);
        kvs.extend(chunk.kvs);
        if let Some(end) = chunk.end {
            assert!(within("the end", chunks.recv()).await.is_none(), "something follows the last piece");
            return (kvs, end);
        }
    }
    panic!("there was no last piece");
}

async fn compare(seed: u64) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let (_cluster, nodes) = Cluster::running(1, &Settings::default()).await;
    let node = &nodes[0];
    for _ in 0..rng.random_range(0..250) {
        change(rng, node).await;
    }
    let now = node.view(true).await.expect("a view").meta().revision;
    if now.0 > 2 && rng.random_bool(0.7) {
        must(node, Command::Compact(Revision(rng.random_range(1..now.0)))).await;
    }
    for _ in 0..40 {
        let meta = node.view(true).await.expect("a view").meta().clone();
        let range = random_range(rng, meta.revision, meta.compacted);
        let limits = ChunkLimits {
            keys_first: rng.random_range(1..12),
            bytes_max: rng.random_range(0..2000),
            view_patience: if rng.random_bool(0.5) { Duration::ZERO } else { NEVER },
        };
        let whole = node.range(range.clone(), true).await.expect("an answer");
        let chunks = node.range_stream(range.clone(), rng.random_bool(0.5), limits).await.expect("an answer");
        let (kvs, end) = merge(rng, node, chunks, limits).await;
        let expected = RangeEnd { revision: whole.revision, more: whole.result.more, count: whole.result.count };
        assert_eq!((kvs, end), (whole.result.kvs, expected), "seed {seed}: {range:?} {limits:?}");
    }
}

#[test]
fn all_pieces_together_are_the_whole_answer() {
    for seed in 0..12 {
        run(compare(seed));
    }
}

async fn filled(node: &Node) {
    for number in 0..100 {
        put(node, number, "value").await;
    }
}

/// Two pieces on, with everything before the present compacted and purged.
async fn compacted_meanwhile(node: &Node, view_patience: Duration) -> Vec<Result<usize, RequestError>> {
    filled(node).await;
    let limits = ChunkLimits { keys_first: 1, bytes_max: usize::MAX, view_patience };
    let first_view = Arc::downgrade(&node.view(true).await.expect("a view"));
    let mut chunks = node.range_stream(everything(), false, limits).await.expect("an answer");
    let mut sizes = vec![within("a piece", chunks.recv()).await.expect("a piece").map(|chunk| chunk.kvs.len())];
    let last = put(node, 3, "another").await;
    must(node, Command::Compact(last)).await;
    within("a purge", node.purged(last)).await.expect("a purge");
    if view_patience.is_zero() {
        eventually("the view is given back", || first_view.upgrade().is_none().then_some(())).await;
    }
    while let Some(chunk) = within("a piece", chunks.recv()).await {
        sizes.push(chunk.map(|chunk| chunk.kvs.len()));
    }
    sizes
}

#[test]
fn compaction_takes_nothing_from_a_client_that_keeps_reading() {
    run(async {
        let (_cluster, nodes) = Cluster::running(1, &Settings::default()).await;
        let sizes = compacted_meanwhile(&nodes[0], NEVER).await;
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 37].map(Ok));
    });
}

#[test]
fn compaction_ends_the_stream_of_a_client_that_had_stopped_reading() {
    run(async {
        let (_cluster, nodes) = Cluster::running(1, &Settings::default()).await;
        let sizes = compacted_meanwhile(&nodes[0], Duration::ZERO).await;
        // One piece was waiting already.
        assert_eq!(sizes, [Ok(1), Ok(2), Err(RequestError::Refused(Refusal::Compacted))]);
    });
}

#[test]
fn streams_are_bounded_and_end_when_nobody_listens() {
    run(async {
        let (_cluster, nodes) = Cluster::running(1, &Settings::default()).await;
        let node = &nodes[0];
        filled(node).await;
        let limits = ChunkLimits { keys_first: 1, ..ChunkLimits::new(1) };
        let mut open = Vec::new();
        for _ in 0..STREAMS_MAX {
            open.push(node.range_stream(everything(), true, limits).await.expect("a place"));
        }
        let refused = node.range_stream(everything(), true, limits).await;
        assert_eq!(refused.err(), Some(RequestError::TooManyRequests));
        drop(open);
        let free = || node.range_stream(everything(), true, limits);
        let mut again = within("places are free again", async {
            loop {
                if let Ok(chunks) = free().await {
                    return chunks;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        eventually("a piece waits", || (again.len() == 1).then_some(())).await;
        assert_eq!(within("a piece", again.recv()).await.unwrap().unwrap().kvs.len(), 1);
    });
}

#[test]
fn a_revision_that_cannot_be_read_is_refused() {
    run(async {
        let (_cluster, nodes) = Cluster::running(1, &Settings::default()).await;
        let node = &nodes[0];
        filled(node).await;
        must(node, Command::Compact(Revision(50))).await;
        for (revision, refusal) in [(1000, Refusal::FutureRevision), (49, Refusal::Compacted)] {
            for count_only in [false, true] {
                let range = Range { revision: Revision(revision), count_only, ..everything() };
                let mut chunks = node.range_stream(range, false, ChunkLimits::new(1000)).await.unwrap();
                let first = within("an answer", chunks.recv()).await.unwrap();
                assert_eq!(first, Err(RequestError::Refused(refusal)));
                assert!(within("the end", chunks.recv()).await.is_none());
            }
        }
    });
}
