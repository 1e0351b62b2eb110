//! Watches on the wire: on any member, across restarts, changes of leader and stops, whatever clients do.

use std::time::Duration;

use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::watch_client::WatchClient;
use tenure_proto::etcdserverpb::watch_request::RequestUnion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::support::{Server, cluster, leader, run, within};

/// A stream of watchers.
struct Watches {
    requests: mpsc::Sender<pb::WatchRequest>,
    messages: Streaming<pb::WatchResponse>,
}

impl Watches {
    async fn open(server: &Server) -> Watches {
        Watches::on(server.channel().await).await
    }

    async fn on(channel: Channel) -> Watches {
        let (requests, queue) = mpsc::channel(1024);
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let answer = within("a stream", client.watch(ReceiverStream::new(queue))).await;
        Watches { requests, messages: answer.expect("a stream").into_inner() }
    }

    async fn ask(&self, request: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.requests.send(request).await.expect("the stream is open");
    }

    async fn next(&mut self) -> Result<pb::WatchResponse, Status> {
        within("a message", self.messages.next()).await.expect("the stream goes on")
    }

    async fn message(&mut self) -> pb::WatchResponse {
        self.next().await.expect("no error")
    }

    /// Makes a watcher and returns what it is told first.
    async fn create(&mut self, request: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(RequestUnion::CreateRequest(request)).await;
        self.message().await
    }

    /// The next event's key and revision.
    async fn event(&mut self) -> (String, i64) {
        let message = self.message().await;
        assert_eq!(message.events.len(), 1, "{message:?}");
        let kv = message.events[0].kv.as_ref().expect("a key-value");
        assert_eq!(message.header.expect("a header").revision, kv.mod_revision);
        (String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision)
    }
}

fn watch(key: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.to_owned().into(), ..Default::default() }
}

fn everything() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { range_end: "\0".into(), ..Default::default() }
}

async fn put(server: &Server, key: &str, value: impl Into<Vec<u8>>) -> i64 {
    let request = pb::PutRequest { key: key.to_owned().into(), value: value.into().into(), ..Default::default() };
    let answer = within("a put", async {
        loop {
            // Without a leader for a moment, a put is tried again.
            if let Ok(answer) = server.kv().await.put(request.clone()).await {
                return answer.into_inner();
            }
        }
    });
    answer.await.header.expect("a header").revision
}

async fn compact(server: &Server, revision: i64) {
    let request = pb::CompactionRequest { revision, physical: true };
    within("a compaction", async { server.kv().await.compact(request).await.expect("a compaction") }).await;
}

fn key_put(key: &str, revision: i64) -> (String, i64) {
    (key.to_owned(), revision)
}

#[test]
fn every_member_tells_of_every_change() {
    run(async {
        let servers = cluster(3, &[]).await;
        let mut streams = Vec::new();
        for server in &servers {
            let mut stream = Watches::open(server).await;
            assert!(stream.create(everything()).await.created);
            streams.push(stream);
        }
        for number in 0..30 {
            let revision = put(&servers[number % 3], &format!("k{number}"), "v").await;
            for stream in &mut streams {
                assert_eq!(stream.event().await, key_put(&format!("k{number}"), revision));
            }
        }
    });
}

#[test]
fn a_stream_outlives_the_leader_that_another_member_loses() {
    run(async {
        let mut servers = cluster(3, &["--election-timeout=500", "--heartbeat-interval=50"]).await;
        let first = leader(&servers).await;
        let survivor = (first + 1) % 3;
        let mut stream = Watches::open(&servers[survivor]).await;
        stream.create(watch("k")).await;
        let before = put(&servers[survivor], "k", "before").await;
        assert_eq!(stream.event().await, key_put("k", before));
        servers[first].stop();
        let after = put(&servers[survivor], "k", "after").await;
        assert_eq!(stream.event().await, key_put("k", after));
    });
}

#[test]
fn a_member_that_stops_says_so_and_a_watch_goes_on_elsewhere_and_after_its_restart() {
    run(async {
        let mut servers = cluster(3, &[]).await;
        let mut stream = Watches::open(&servers[0]).await;
        stream.create(watch("k")).await;
        let seen = put(&servers[1], "k", "seen").await;
        assert_eq!(stream.event().await, key_put("k", seen));
        servers[0].stop();
        let end = loop {
            if let Err(end) = stream.next().await {
                break end;
            }
        };
        assert_eq!((end.code(), end.message()), (Code::Unavailable, "etcdserver: server stopped"));
        let missed = put(&servers[1], "k", "missed").await;
        servers[0].start();
        for place in [2, 0] {
            let mut stream = Watches::open(&servers[place]).await;
            stream.create(pb::WatchCreateRequest { start_revision: seen + 1, ..watch("k") }).await;
            assert_eq!(stream.event().await, key_put("k", missed));
        }
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_gets_everything_later() {
    run(async {
        let servers = cluster(1, &[]).await;
        let mut idle = Watches::open(&servers[0]).await;
        idle.create(watch("k")).await;
        let mut quick = Watches::open(&servers[0]).await;
        quick.create(watch("k")).await;
        // More than the ring, the connection's window and the stream's buffers hold.
        let value = vec![b'v'; 1 << 20];
        let mut revisions = Vec::new();
        for _ in 0..80 {
            let revision = put(&servers[0], "k", value.clone()).await;
            assert_eq!(quick.event().await, key_put("k", revision));
            revisions.push(revision);
        }
        let mut told = Vec::new();
        while told.len() < revisions.len() {
            let message = idle.message().await;
            told.extend(message.events.iter().map(|event| event.kv.as_ref().expect("a key-value").mod_revision));
        }
        assert_eq!(told, revisions);
    });
}

#[test]
fn one_that_was_idle_through_a_compaction_is_told_so() {
    run(async {
        let servers = cluster(1, &[]).await;
        let mut idle = Watches::open(&servers[0]).await;
        idle.create(watch("k")).await;
        let value = vec![b'v'; 1 << 20];
        let mut last = 0;
        for _ in 0..80 {
            last = put(&servers[0], "k", value.clone()).await;
        }
        compact(&servers[0], last).await;
        let mut next = None;
        let end = loop {
            let message = idle.message().await;
            if message.canceled {
                break message;
            }
            for event in &message.events {
                let revision = event.kv.as_ref().expect("a key-value").mod_revision;
                assert!(next.is_none_or(|next| next == revision), "{revision} instead of {next:?}");
                next = Some(revision + 1);
            }
        };
        assert_eq!((end.watch_id, end.compact_revision, end.cancel_reason.as_str()), (0, last, ""));
        // The id is free again, and the stream goes on.
        assert!(idle.create(pb::WatchCreateRequest { watch_id: 5, start_revision: last, ..watch("k") }).await.created);
        assert_eq!(idle.event().await, key_put("k", last));
    });
}

#[test]
fn progress_is_told_for_the_stream_or_by_those_that_are_up_to_date() {
    run(async {
        let servers = cluster(3, &["--watch-progress-notify-interval=10m"]).await;
        let follower = (leader(&servers).await + 1) % 3;
        let mut stream = Watches::open(&servers[follower]).await;
        stream.create(watch("quiet")).await;
        for _ in 0..20 {
            let revision = put(&servers[follower], "k", "v").await;
            stream.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
            let message = stream.message().await;
            let told = (message.watch_id, message.header.expect("a header").revision, message.events.len());
            assert_eq!(told, (-1, revision, 0), "at once, and not before the write that was acknowledged");
        }
        // Nor later when events are told first: for the whole stream, and not by the watcher after a while.
        let mut busy = Watches::open(&servers[follower]).await;
        busy.create(watch("k")).await;
        for _ in 0..20 {
            let revision = put(&servers[follower], "k", "v").await;
            busy.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
            assert_eq!(busy.event().await, key_put("k", revision));
            let message = busy.message().await;
            assert_eq!((message.watch_id, message.header.expect("a header").revision), (-1, revision));
        }
        stream.create(pb::WatchCreateRequest { start_revision: 1_000, ..watch("quiet") }).await;
        stream.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
        let asked = tokio::time::Instant::now();
        assert_eq!(stream.message().await.watch_id, 0, "the other waits for its start");
        assert!(asked.elapsed() < Duration::from_secs(5));
    });
}

/// A number that the server shows.
pub(crate) async fn metric(server: &Server, name: &str) -> u64 {
    let answer = within("metrics", async {
        let mut connection = tokio::net::TcpStream::connect(server.clients).await.expect("a connection");
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.clients);
        connection.write_all(request.as_bytes()).await.expect("to ask");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("an answer");
        answer
    });
    let answer = answer.await;
    let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect("the metric");
    value.parse().expect("a number")
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    run(async {
        let servers = cluster(1, &[]).await;
        let mut streams = Vec::new();
        for _ in 0..10 {
            let mut stream = Watches::open(&servers[0]).await;
            for id in 1..=10 {
                stream.create(pb::WatchCreateRequest { watch_id: id, ..everything() }).await;
            }
            streams.push(stream);
        }
        put(&servers[0], "k", "v").await;
        let figures = ["tenure_watch_streams", "tenure_watchers", "tenure_watch_ring_events"];
        for (name, expected) in figures.into_iter().zip([10, 100, 1]) {
            assert_eq!(metric(&servers[0], name).await, expected, "{name}");
        }
        drop(streams);
        for name in figures {
            within("everything is given back", async {
                while metric(&servers[0], name).await != 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
        }
    });
}

#[test]
fn a_stream_that_insists_on_a_leader_is_cut_without_one() {
    run(async {
        let mut servers = cluster(3, &["--election-timeout=500", "--heartbeat-interval=50"]).await;
        let survivor = (leader(&servers).await + 1) % 3;
        let channel = servers[survivor].channel().await;
        let open = async |insists: bool| {
            let (requests, queue) = mpsc::channel(4);
            let mut request = tonic::Request::new(ReceiverStream::new(queue));
            if insists {
                request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
            }
            let messages = within("a stream", WatchClient::new(channel.clone()).watch(request)).await;
            let mut stream = Watches { requests, messages: messages.expect("a stream").into_inner() };
            stream.create(watch("k")).await;
            stream
        };
        let (mut insisting, mut patient) = (open(true).await, open(false).await);
        (0..3).filter(|place| *place != survivor).for_each(|place| servers[place].stop());
        let end = insisting.next().await.expect_err("there is no leader");
        assert_eq!((end.code(), end.message()), (Code::Unavailable, "etcdserver: no leader"));
        patient.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 })).await;
        assert!(patient.message().await.canceled, "the other goes on");
    });
}

#[test]
fn a_stream_with_more_watchers_than_may_be_goes_on_without_them() {
    run(async {
        let servers = cluster(1, &[]).await;
        let mut stream = Watches::open(&servers[0]).await;
        // Keys of a megabyte each: fewer of them than of small ones are taken.
        let key = "k".repeat(1 << 20);
        let mut made = 0;
        let refused = loop {
            let message = stream.create(watch(&key)).await;
            if message.canceled {
                break message;
            }
            made += 1;
        };
        assert_eq!((refused.watch_id, refused.cancel_reason.as_str()), (-1, "etcdserver: too many requests"));
        assert_eq!(made, 256);
        for id in 0..made {
            stream.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: id })).await;
            assert!(stream.message().await.canceled);
        }
        assert!(!stream.create(watch(&key)).await.canceled);
    });
}

#[test]
fn clients_that_do_not_read_keep_nobody_else_waiting() {
    /// What fits into a few messages to a client that does not read.
    const WINDOW_BYTES: u32 = 64 << 10;
    const WRITES: usize = 400;
    run(async {
        let servers = cluster(1, &[]).await;
        let mut kv = servers[0].kv().await;
        let value = vec![b'x'; 4 << 10];
        let mut write = async |key: String| {
            let request = pb::PutRequest { key: key.into(), value: value.clone().into(), ..Default::default() };
            within("a put", kv.put(request)).await.expect("a put");
        };
        // Nobody watches yet, so this is for the history alone.
        for number in 0..WRITES {
            write(format!("k{number}")).await;
        }
        let from_the_start = pb::WatchCreateRequest { start_revision: 2, prev_kv: true, ..everything() };
        let mut silent = Vec::new();
        for _ in 0..6 {
            let endpoint = Endpoint::from_shared(format!("http://{}", servers[0].clients)).expect("a URL");
            let endpoint =
                endpoint.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
            let channel = within("a connection", endpoint.connect()).await.expect("a connection");
            for _ in 0..40 {
                let stream = Watches::on(channel.clone()).await;
                stream.ask(RequestUnion::CreateRequest(from_the_start.clone())).await;
                silent.push(stream);
            }
        }
        let mut current = Watches::open(&servers[0]).await;
        current.create(everything()).await;
        let mut behind = Watches::open(&servers[0]).await;
        behind.create(from_the_start).await;
        for number in WRITES..2 * WRITES {
            write(format!("k{number}")).await;
        }
        for (stream, expected) in [(&mut current, WRITES), (&mut behind, 2 * WRITES)] {
            let mut seen = 0;
            while seen < expected {
                seen += stream.message().await.events.len();
            }
            assert_eq!(seen, expected);
        }
        assert_eq!(metric(&servers[0], "tenure_watch_streams").await, 242, "the silent ones are still there");
    });
}
