//! Snapshots that clients save, and clusters that are made of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::watch_client::WatchClient;
use tenure_proto::etcdserverpb::watch_request::RequestUnion;
use tenure_storage::mem_engines::MemEngines;
use tonic::{Code, Status, Streaming};

use crate::support::{Server, cluster, leader, run, servers, snapshot, within};

/// So slow that a snapshot of [`fill`]'s keys is on its way for minutes.
const SLOW: &str = "--snapshot-send-bytes-per-second=20000";

const BLOB_BYTES: usize = 32 << 10;

async fn put(server: &Server, key: &str, value: &str) -> i64 {
    let put = pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    let answer = within("a put", async { server.kv().await.put(put).await }).await.expect("a put").into_inner();
    answer.header.expect("a header").revision
}

/// Three megabytes.
async fn fill(server: &Server) {
    for number in 0..12 {
        put(server, &format!("large/{number}"), &"x".repeat(256 << 10)).await;
    }
}

async fn open(server: &Server) -> Result<Streaming<pb::SnapshotResponse>, Status> {
    let mut maintenance = server.maintenance().await;
    Ok(within("a stream", maintenance.snapshot(pb::SnapshotRequest {})).await?.into_inner())
}

/// The messages of a whole snapshot.
async fn messages(server: &Server) -> Vec<pb::SnapshotResponse> {
    let mut stream = open(server).await.expect("a snapshot");
    let mut messages = Vec::new();
    while let Some(message) = within("a blob", stream.message()).await.expect("no error") {
        messages.push(message);
    }
    messages
}

async fn save(server: &Server, dir: &Path) -> PathBuf {
    let blobs: Vec<u8> = messages(server).await.iter().flat_map(|message| message.blob.to_vec()).collect();
    let file = dir.join("snapshot.db");
    std::fs::write(&file, blobs).expect("written");
    file
}

/// All keys as they are now, with their revisions and versions.
async fn content(server: &Server) -> (i64, Vec<tenure_proto::mvccpb::KeyValue>) {
    let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let mut kv = server.kv().await.max_decoding_message_size(usize::MAX);
    let answer = within("a range", kv.range(all)).await.expect("a range").into_inner();
    (answer.header.expect("a header").revision, answer.kvs)
}

fn status(file: &Path) -> serde_json::Value {
    let file = file.to_str().expect("a path");
    let text = snapshot(&MemEngines::default(), &["status", file, "-w", "json"]).expect("a status");
    serde_json::from_str(&text).expect("JSON")
}

/// The checkpoints that a server keeps.
fn checkpoints(server: &Server) -> usize {
    std::fs::read_dir(server.dir.path().join("snapshots")).expect("listed").count()
}

async fn no_checkpoint_is_left(server: &Server) {
    within("the checkpoint goes", async {
        while checkpoints(server) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[test]
fn a_snapshot_comes_in_blobs_and_ends_with_its_hash() {
    run(async {
        let servers = cluster(1, &[]).await;
        fill(&servers[0]).await;
        let messages = messages(&servers[0]).await;
        let (hash, body) = messages.split_last().expect("messages");
        let whole: Vec<u8> = body.iter().flat_map(|message| message.blob.to_vec()).collect();
        assert_eq!(hash.blob[..], Sha256::digest(&whole)[..]);
        assert_eq!(hash.remaining_bytes, 0);
        assert_eq!(whole.len() % 512, 0, "etcdctl knows by the rest of 32 bytes that there is a hash");
        let mut left = whole.len();
        for (place, message) in body.iter().enumerate() {
            left -= message.blob.len();
            assert_eq!(message.remaining_bytes, left as u64);
            assert!(message.blob.len() == BLOB_BYTES || place + 1 == body.len());
        }
        for message in &messages {
            assert_eq!((message.version.as_str(), &message.header), ("3.7.0", &None));
        }
        no_checkpoint_is_left(&servers[0]).await;
    });
}

#[test]
fn three_members_that_are_restored_serve_what_was_saved_as_another_cluster() {
    run(async {
        let dir = TempDir::new().expect("a directory");
        let old = cluster(3, &[]).await;
        let leads = leader(&old).await;
        put(&old[leads], "key", "1").await;
        put(&old[leads], "gone", "1").await;
        let delete = pb::DeleteRangeRequest { key: "gone".into(), ..Default::default() };
        old[leads].kv().await.delete_range(delete).await.expect("deleted");
        let acknowledged = put(&old[leads], "key", &"2".repeat(1000)).await;
        // From a member that may not have applied it yet.
        let file = save(&old[(leads + 1) % 3], dir.path()).await;
        let (revision, saved) = content(&old[leads]).await;
        assert_eq!(revision, acknowledged);
        let hash = pb::HashKvRequest { revision };
        let hash = old[leads].maintenance().await.hash_kv(hash).await.expect("a hash").into_inner();
        let told = status(&file);
        assert_eq!((&told["revision"], &told["totalKey"]), (&revision.into(), &1.into()));
        assert_eq!((&told["hash"], &told["confirmed"]), (&hash.hash.into(), &true.into()));
        put(&old[leads], "key", "too late").await;
        let old_cluster = old[0].status().await.header.expect("a header").cluster_id;
        drop(old);

        let mut new = servers(3, &[]);
        for server in &mut new {
            let told = server.restore(&file, &[]).expect("restored");
            assert!(told.contains(&format!("at revision {revision}")), "{told}");
            server.start();
        }
        let leads = leader(&new).await;
        assert_ne!(new[0].status().await.header.expect("a header").cluster_id, old_cluster);
        for server in &new {
            assert_eq!(content(server).await, (revision, saved.clone()));
        }
        // History came along, and new revisions follow on it.
        let before = pb::RangeRequest { key: "gone".into(), revision: revision - 2, ..Default::default() };
        assert_eq!(new[0].kv().await.range(before).await.expect("a range").into_inner().kvs.len(), 1);
        assert_eq!(put(&new[(leads + 1) % 3], "key", "3").await, revision + 1);
        // A restart finds a member like any other.
        new[leads].stop();
        new[leads].start();
        leader(&new).await;
        assert_eq!(content(&new[leads]).await, content(&new[(leads + 1) % 3]).await);
        let refused = new[0].restore(&file, &[]).expect_err("occupied");
        assert!(refused.to_string().contains("not empty or could not be read"), "{refused}");
    });
}

#[test]
fn a_bumped_revision_ends_watches_of_the_old_ones() {
    run(async {
        let dir = TempDir::new().expect("a directory");
        let old = cluster(1, &[]).await;
        let revision = put(&old[0], "key", "1").await;
        let file = save(&old[0], dir.path()).await;
        drop(old);
        let mut new = servers(1, &[]);
        new[0].restore(&file, &["--bump-revision=1000000", "--mark-compacted"]).expect("restored");
        new[0].start();
        leader(&new).await;
        let bumped = revision + 1_000_000;
        let (now, kvs) = content(&new[0]).await;
        assert_eq!((now, kvs[0].mod_revision, &kvs[0].value[..]), (bumped, revision, &b"1"[..]));
        let create = pb::WatchCreateRequest { key: "key".into(), start_revision: revision, ..Default::default() };
        let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests =
            futures::StreamExt::chain(futures::stream::iter([request]), futures::stream::pending::<pb::WatchRequest>());
        let mut watch = WatchClient::new(new[0].channel().await).watch(requests).await.expect("a watch").into_inner();
        let cancelled = within("the end of the watch", async {
            loop {
                let message = watch.message().await.expect("no error").expect("the stream goes on");
                if message.canceled {
                    return message;
                }
                assert!(message.events.is_empty(), "{message:?}");
            }
        })
        .await;
        assert_eq!(cancelled.compact_revision, bumped);
        let old_read = pb::RangeRequest { key: "key".into(), revision, ..Default::default() };
        let refused = new[0].kv().await.range(old_read).await.expect_err("compacted");
        assert_eq!(refused.message(), "etcdserver: mvcc: required revision has been compacted");
        assert_eq!(put(&new[0], "key", "2").await, bumped + 1);
    });
}

#[test]
fn a_stream_that_is_broken_off_leaves_nothing_and_makes_room() {
    run(async {
        let servers = cluster(1, &[SLOW]).await;
        fill(&servers[0]).await;
        let mut first = open(&servers[0]).await.expect("a snapshot");
        assert_eq!(first.message().await.expect("no error").expect("a blob").blob.len(), BLOB_BYTES);
        let second = open(&servers[0]).await.expect("a snapshot beside it");
        assert_eq!(checkpoints(&servers[0]), 2);
        let refused = open(&servers[0]).await.expect_err("one too many");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().starts_with("etcdserver: too many requests"), "{refused:?}");
        // Writes go on beside them.
        put(&servers[0], "key", "1").await;
        drop(first);
        let third = within("room for another", async {
            loop {
                match open(&servers[0]).await {
                    Ok(stream) => return stream,
                    Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        drop((second, third));
        no_checkpoint_is_left(&servers[0]).await;
    });
}

#[test]
fn a_member_that_is_left_alone_gives_what_it_has_and_says_so() {
    run(async {
        let dir = TempDir::new().expect("a directory");
        let mut old = cluster(3, &[]).await;
        put(&old[0], "key", "1").await;
        let (revision, saved) = content(&old[2]).await;
        old[0].stop();
        old[1].stop();
        let file = save(&old[2], dir.path()).await;
        assert_eq!(status(&file)["confirmed"], false);
        let mut new = servers(1, &[]);
        let told = new[0].restore(&file, &[]).expect("restored");
        assert!(told.contains("saved by a member without a leader"), "{told}");
        new[0].start();
        leader(&new).await;
        assert_eq!(content(&new[0]).await, (revision, saved));
    });
}

#[test]
fn a_file_that_is_not_whole_is_refused_and_nothing_is_made_of_it() {
    run(async {
        let dir = TempDir::new().expect("a directory");
        let old = cluster(1, &[]).await;
        put(&old[0], "key", "1").await;
        let file = save(&old[0], dir.path()).await;
        drop(old);
        let whole = std::fs::read(&file).expect("read");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        let cases = [(&flipped[..], "is damaged: expected sha256"), (&whole[..whole.len() - 700], "missing hash")];
        let new = servers(1, &[]);
        for (content, text) in cases {
            std::fs::write(&file, content).expect("written");
            let refused = new[0].restore(&file, &[]).expect_err("refused").to_string();
            assert!(refused.contains(text) && refused.contains("snapshot.db"), "{refused}");
            assert_eq!(std::fs::read_dir(new[0].dir.path()).expect("listed").count(), 0);
        }
        std::fs::write(&file, whole).expect("written");
        new[0].restore(&file, &[]).expect("restored");
    });
}
