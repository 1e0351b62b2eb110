//! What probes and scrapers see over HTTP/1.1.

use std::net::SocketAddr;

use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::alarm_request::AlarmAction;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{cluster, free_addresses, leader, run, within};

/// An answer, with its headers as `name: value` in lower case.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: String,
    body: String,
}

impl Answer {
    fn has(&self, header: &str) -> bool {
        self.headers.lines().any(|line| line == header)
    }
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    let answer = within("an answer", exchange).await.expect("a connection");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let (line, headers) = head.split_once("\r\n").expect("a status line");
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, headers: headers.to_lowercase().replace('\r', ""), body: body.to_owned() }
}

async fn told(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = ask(address, "GET", path).await;
    assert!(answer.has("content-type: text/plain; charset=utf-8"), "{path}: {answer:?}");
    (answer.status, answer.body)
}

const ALL_READY: &str =
    "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";

#[test]
fn a_member_that_is_well_says_so() {
    run(async {
        let servers = cluster(1, &[]).await;
        let address = servers[0].clients;
        let cases = [
            ("/health", "{\"health\":\"true\",\"reason\":\"\"}"),
            ("/health?serializable=true", "{\"health\":\"true\",\"reason\":\"\"}"),
            ("/livez", "ok\n"),
            ("/livez?verbose", "[+]serializable_read ok\nok\n"),
            ("/livez/serializable_read", "ok\n"),
            ("/livez/serializable_read?verbose=1", "[+]serializable_read ok\nok\n"),
            ("/readyz", "ok\n"),
            ("/readyz?verbose", ALL_READY),
            ("/readyz?verbose&exclude=nonsense", ALL_READY),
            (
                "/readyz?exclude=linearizable_read&verbose&exclude=data_corruption",
                "[+]serializable_read ok\n[+]non_learner ok\nok\n",
            ),
            ("/readyz/data_corruption", "ok\n"),
            ("/readyz/serializable_read", "ok\n"),
            ("/readyz/linearizable_read?exclude=linearizable_read&verbose", "[+]linearizable_read ok\nok\n"),
            ("/readyz/non_learner", "ok\n"),
        ];
        for (path, body) in cases {
            assert_eq!(told(address, path).await, (200, body.to_owned()), "{path}");
        }
        for path in ["/", "/nope", "/health/", "/livez/", "/livez/linearizable_read", "/readyz/nope", "/version/"] {
            assert_eq!(told(address, path).await, (404, "404 page not found\n".to_owned()), "{path}");
        }
        for path in ["/health", "/livez", "/readyz", "/readyz/non_learner", "/version"] {
            for method in ["POST", "PUT", "HEAD", "DELETE"] {
                let refused = ask(address, method, path).await;
                assert_eq!((refused.status, refused.has("allow: get")), (405, true), "{method} {path}: {refused:?}");
            }
        }
    });
}

#[test]
fn alarms_are_told_as_by_etcd() {
    run(async {
        let servers = cluster(1, &[]).await;
        let address = servers[0].clients;
        let mut maintenance = servers[0].maintenance().await;
        let mut raise = async |alarm: pb::AlarmType| {
            let action = AlarmAction::Activate.into();
            let request = pb::AlarmRequest { action, member_id: 1, alarm: alarm.into() };
            maintenance.alarm(request).await.expect("it is raised");
        };
        raise(pb::AlarmType::Nospace).await;
        let no_space = (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n".to_owned());
        let well = (200, "{\"health\":\"true\",\"reason\":\"\"}".to_owned());
        assert_eq!(told(address, "/health").await, no_space);
        assert_eq!(told(address, "/health?exclude=nospace").await, no_space);
        assert_eq!(told(address, "/health?exclude=&exclude=NOSPACE").await, well);
        assert_eq!(told(address, "/readyz?verbose").await, (200, ALL_READY.to_owned()), "it can still serve");
        raise(pb::AlarmType::Corrupt).await;
        let corrupt = (503, "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n".to_owned());
        assert_eq!(told(address, "/health?exclude=NOSPACE").await, corrupt);
        assert_eq!(told(address, "/health?exclude=NOSPACE&exclude=CORRUPT").await, well);
        assert_eq!(told(address, "/livez").await, (200, "ok\n".to_owned()));
        let failed = "[-]data_corruption failed: alarm activated: CORRUPT\n";
        assert_eq!(told(address, "/readyz/data_corruption").await, (503, format!("{failed}\n")));
        let (status, body) = told(address, "/readyz").await;
        assert_eq!(
            (status, body),
            (503, format!("{failed}{}", ALL_READY.split_once('\n').expect("lines").1.replace("ok\nok\n", "ok\n\n")))
        );
        assert_eq!(told(address, "/readyz?exclude=data_corruption").await, (200, "ok\n".to_owned()));
    });
}

#[test]
fn a_member_without_a_leader_lives_and_is_not_ready() {
    run(async {
        let mut servers = cluster(3, &["--election-timeout=500", "--heartbeat-interval=50"]).await;
        let alone = (leader(&servers).await + 1) % 3;
        (0..3).filter(|place| *place != alone).for_each(|place| servers[place].stop());
        let address = servers[alone].clients;
        within("no leader", async { while servers[alone].status().await.leader != 0 {} }).await;
        let no_leader = "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n";
        assert_eq!(told(address, "/health").await, (503, no_leader.to_owned()));
        assert_eq!(told(address, "/health?serializable=true").await.0, 200);
        assert_eq!(told(address, "/livez").await, (200, "ok\n".to_owned()));
        assert_eq!(told(address, "/readyz?exclude=linearizable_read").await, (200, "ok\n".to_owned()));
        let failed = "[-]linearizable_read failed: etcdserver: request timed out\n\n";
        assert_eq!(told(address, "/readyz/linearizable_read").await, (503, failed.to_owned()));
    });
}

#[test]
fn version_and_metrics_have_the_types_that_their_readers_expect() {
    run(async {
        let [metrics, _] = free_addresses();
        let servers = cluster(1, &[&format!("--listen-metrics-urls=http://{metrics}")]).await;
        let version = ask(servers[0].clients, "GET", "/version").await;
        assert!(version.status == 200 && version.has("content-type: application/json"), "{version:?}");
        let started = "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\",\"tenure\":\"";
        assert!(version.body.starts_with(started), "{version:?}");
        for address in [servers[0].clients, metrics] {
            let page = ask(address, "GET", "/metrics").await;
            assert!(
                page.status == 200 && page.has("content-type: text/plain; version=0.0.4; charset=utf-8"),
                "{page:?}"
            );
            assert!(page.body.contains("\ntenure_raft_leader 1\n"), "{page:?}");
            assert_eq!(told(address, "/readyz?verbose").await, (200, ALL_READY.to_owned()));
        }
    });
}
