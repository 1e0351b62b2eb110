//! Real processes and hostile bytes: nothing that a socket can deliver may stop a node or make it grow without bound.
//!
//! Seeded, so that a failure can be repeated. After every kind of garbage the node must still take a write.
#![expect(clippy::print_stdout, reason = "the counts are what these tests show")]

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::Cluster;
use tenure_tests::node::Node;
use tenure_tests::scenario::{self, Scenario};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The whole budget of one hostile connection; a server may leave it open, and then the client closes it.
const CONNECTION_PATIENCE: Duration = Duration::from_millis(300);
/// A node that served a few thousand bad connections and almost no data stays far below this.
const RESIDENT_MIB_MAX: u64 = 512;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const METHODS: [&str; 16] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/Compact",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/HashKV",
    "/etcdserverpb.Auth/Authenticate",
    "/grpc.health.v1.Health/Check",
    "/etcdserverpb.KV/NoSuchMethod",
    "/no.such.Service/Method",
    "/",
];

fn run<Fut: Future<Output = Result<()>>>(test: &str, body: impl FnOnce(Scenario) -> Fut) {
    scenario::run("process_input", test, body);
}

/// Sends the bytes and reads whatever comes back for a moment.
async fn throw(port: u16, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.context("the port takes no connections")?;
        // The server may close before it has read everything: that is a fine answer to garbage.
        if stream.write_all(bytes).await.is_ok() {
            let _closed = (&mut stream).take(65_536).read_to_end(&mut answer).await;
        }
        anyhow::Ok(())
    };
    if let Ok(done) = timeout(CONNECTION_PATIENCE, exchange).await {
        done?;
    }
    Ok(answer)
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literal fields, without compression.
fn headers(path: &str, port: u16) -> Vec<u8> {
    let authority = format!("127.0.0.1:{port}");
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", &authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap_or(127));
            block.extend(text.bytes());
        }
    }
    block
}

fn call(path: &str, port: u16, message: &[u8]) -> Vec<u8> {
    [PREFACE, SETTINGS, &frame(1, 4, 1, &headers(path, port)), &frame(0, 1, 1, message)].concat()
}

/// A gRPC message with a length of its own choosing.
fn message(compressed: u8, length: u32, bytes: &[u8]) -> Vec<u8> {
    [&[compressed], &length.to_be_bytes()[..], bytes].concat()
}

fn random(rng: &mut StdRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// All kinds of garbage for a port, by name.
fn garbage(rng: &mut StdRng, port: u16, methods: &[String]) -> Vec<(String, Vec<u8>)> {
    let mut all = vec![
        ("nothing".to_owned(), vec![]),
        ("one byte".to_owned(), vec![0]),
        ("a TLS hello".to_owned(), [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &random(rng, 500)].concat()),
        ("HTTP/1 without end".to_owned(), [b"GET /".as_slice(), &vec![b'a'; 60_000]].concat()),
        ("HTTP/1 with bad headers".to_owned(), b"GET /health HTTP/1.1\r\n\xff\xfe: \x00\r\n: :\r\n\r\n".to_vec()),
        (
            "HTTP/1 with a huge body".to_owned(),
            b"POST /health HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\nx".to_vec(),
        ),
        (
            "HTTP/1 with chunks of nonsense".to_owned(),
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        ),
        ("HTTP/9".to_owned(), b"GET / HTTP/9.9\r\n\r\n".to_vec()),
        ("half a preface".to_owned(), PREFACE[..11].to_vec()),
        ("a frame of 16 MiB".to_owned(), [PREFACE, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat()),
        ("data on stream 0".to_owned(), [PREFACE, SETTINGS, &frame(0, 1, 0, b"x")].concat()),
        ("a window of zero".to_owned(), [PREFACE, SETTINGS, &frame(8, 0, 0, &[0; 4])].concat()),
        (
            "a header block that ends in the middle".to_owned(),
            [PREFACE, SETTINGS, &frame(1, 4, 1, &[0x40, 0x7f])].concat(),
        ),
        ("500 pings".to_owned(), [PREFACE.to_vec(), SETTINGS.to_vec(), frame(6, 0, 0, &[7; 8]).repeat(500)].concat()),
        ("2000 empty settings".to_owned(), [PREFACE, &SETTINGS.repeat(2_000)].concat()),
    ];
    let mut resets = [PREFACE, SETTINGS].concat();
    for stream in 0..500 {
        resets.extend(frame(1, 4, stream * 2 + 1, &headers("/etcdserverpb.KV/Range", port)));
        resets.extend(frame(3, 0, stream * 2 + 1, &[0, 0, 0, 8]));
    }
    all.push(("500 streams, each reset at once".to_owned(), resets));
    for at in 0..40 {
        let length = rng.random_range(1..20_000);
        all.push((format!("random bytes {at}"), random(rng, length)));
        let length = rng.random_range(1..2_000);
        all.push((format!("random frames {at}"), [PREFACE, SETTINGS, &random(rng, length)].concat()));
    }
    for path in methods {
        let length = rng.random_range(1..300);
        let bytes = random(rng, length);
        let claimed = u32::try_from(length).unwrap_or(0);
        all.push((format!("garbage to {path}"), call(path, port, &message(0, claimed, &bytes))));
        all.push((format!("a message of 4 GiB to {path}"), call(path, port, &message(0, u32::MAX, &bytes))));
        all.push((format!("a short message to {path}"), call(path, port, &message(0, claimed + 50, &bytes))));
        all.push((format!("a compressed message to {path}"), call(path, port, &message(1, claimed, &bytes))));
        all.push((format!("an odd flag to {path}"), call(path, port, &message(77, claimed, &bytes))));
        all.push((format!("no message to {path}"), call(path, port, &[])));
        // A length-delimited field that claims more than there is, nested as deep as it goes.
        all.push((format!("nested fields to {path}"), call(path, port, &message(0, 4_000, &[0x12; 4_000]))));
        all.push((
            format!("a huge field to {path}"),
            call(path, port, &message(0, 6, &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f])),
        ));
    }
    all
}

fn resident_mib(node: &Node) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid()?))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).context("no VmRSS")?;
    Ok(kib / 1024)
}

/// The methods that members call on each other, from the protocol's own description.
fn peer_methods() -> Vec<String> {
    let proto = include_str!("../../proto/tenure/peer/v1/peer.proto");
    let word = |line: &str| line.split([' ', '(', '{']).nth(1).unwrap_or_default().to_owned();
    let mut service = String::new();
    let mut methods = Vec::new();
    for line in proto.lines().map(str::trim) {
        if line.starts_with("service ") {
            service = word(line);
        } else if line.starts_with("rpc ") {
            methods.push(format!("/tenure.peer.v1.{service}/{}", word(line)));
        }
    }
    methods
}

async fn attack(scenario: Scenario, peer_port: bool) -> Result<()> {
    let mut cluster = Cluster::start(Program::Tenured, 3, &scenario.home).await?;
    let at = cluster.follower().await?;
    let port = if peer_port { cluster.nodes[at].peer_port } else { cluster.nodes[at].client_port };
    let mut methods: Vec<String> = METHODS.map(str::to_owned).to_vec();
    if peer_port {
        methods.extend(peer_methods());
        ensure!(methods.len() > METHODS.len(), "no peer methods found in peer.proto");
    }
    let seed = 20_26;
    let all = garbage(&mut StdRng::seed_from_u64(seed), port, &methods);
    let mut client = cluster.client(at).await?;
    for chunk in all.chunks(8) {
        let names: Vec<&str> = chunk.iter().map(|(name, _)| name.as_str()).collect();
        let thrown = futures::future::join_all(chunk.iter().map(|(_, bytes)| throw(port, bytes))).await;
        for one in thrown {
            one.with_context(|| format!("after one of {names:?}, seed {seed}"))?;
        }
        client.put("still", "alive", None).await.with_context(|| format!("after one of {names:?}, seed {seed}"))?;
    }
    for node in &mut cluster.nodes {
        ensure!(node.is_running()?, "{} ended", node.name);
        ensure!(!node.log().contains("panicked"), "{} panicked", node.name);
        let resident = resident_mib(node)?;
        ensure!(resident <= RESIDENT_MIB_MAX, "{} holds {resident} MiB", node.name);
    }
    let resident = resident_mib(&cluster.nodes[at])?;
    let side = if peer_port { "peer" } else { "client" };
    println!("{} hostile connections to the {side} port; the node lives and holds {resident} MiB", all.len());
    Ok(())
}

#[test]
fn garbage_on_the_client_port_stops_nothing() {
    run("garbage_on_the_client_port_stops_nothing", |scenario| attack(scenario, false));
}

#[test]
fn garbage_on_the_peer_port_stops_nothing() {
    run("garbage_on_the_peer_port_stops_nothing", |scenario| attack(scenario, true));
}

#[test]
fn the_hand_made_call_is_a_real_one() {
    run("the_hand_made_call_is_a_real_one", |scenario| async move {
        // Otherwise the calls above would be refused for their frames, and prove nothing about messages.
        let cluster = Cluster::start(Program::Tenured, 1, &scenario.home).await?;
        let port = cluster.nodes[0].client_port;
        let put = [0x0a, 3, b'k', b'e', b'y', 0x12, 5, b'v', b'a', b'l', b'u', b'e'];
        let bytes = call("/etcdserverpb.KV/Put", port, &message(0, u32::try_from(put.len())?, &put));
        throw(port, &bytes).await?;
        let answer = cluster.client(0).await?.get("key", None).await?;
        ensure!(answer.kvs().first().is_some_and(|kv| kv.value() == b"value"), "{answer:?}");
        Ok(())
    });
}
