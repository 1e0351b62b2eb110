//! TLS as clients, peers and strangers meet it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::tenure::v1;
use tenure_proto::tenure::v1::lease_end::Client;
use tenure_proto::tenure::v1::leases_client::LeasesClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;

use crate::certificates::{Ca, Dialer, Issued};
use crate::support::{Server, leader, run, servers_over, within};

fn host(address: SocketAddr) -> String {
    address.ip().to_string()
}

fn hosts(servers: &[Server]) -> Vec<String> {
    servers.iter().map(|server| host(server.clients)).collect()
}

fn client_flags(server: &Issued, ca: Option<&Path>) -> Vec<String> {
    let mut flags =
        vec![format!("--cert-file={}", server.cert.display()), format!("--key-file={}", server.key.display())];
    flags.extend(ca.map(|ca| format!("--trusted-ca-file={}", ca.display())));
    flags
}

fn peer_flags(member: &Issued, ca: &Path) -> Vec<String> {
    vec![
        format!("--peer-cert-file={}", member.cert.display()),
        format!("--peer-key-file={}", member.key.display()),
        format!("--peer-trusted-ca-file={}", ca.display()),
        "--peer-client-cert-auth".to_owned(),
    ]
}

/// A single server whose clients speak TLS; with `client_ca` they must show certificates.
fn server(ca: &Ca, client_ca: Option<&Ca>) -> Server {
    let mut server = servers_over(["https", "http"], 1, &[]).remove(0);
    let certificate = ca.issue("server", &[host(server.clients)]);
    server.flags.extend(client_flags(&certificate, client_ca.map(Ca::file).as_deref()));
    server.start();
    server
}

/// Waits until the server takes connections, and puts something.
async fn put(server: &Server, dialer: &Dialer) -> Result<i64, tonic::Status> {
    let channel = within("a connection", async {
        loop {
            if TcpStream::connect(server.clients).await.is_ok() {
                return dialer.channel(server.clients).await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let channel = channel.map_err(|error| tonic::Status::unavailable(format!("{error:?}")))?;
    let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    let answer = within("a put", KvClient::new(channel).put(put)).await?;
    Ok(answer.into_inner().header.expect("a header").revision)
}

#[test]
fn clients_speak_grpc_and_http_over_tls_to_one_port() {
    run(async {
        let ca = Ca::new();
        let server = server(&ca, None);
        let dialer = Dialer::new(&ca.file(), None);
        assert_eq!(put(&server, &dialer).await.expect("a put"), 2);
        let answer = dialer.get(server.clients, "/readyz").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        let h2 = dialer.dial(server.clients).await.expect("a connection");
        assert_eq!(h2.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "gRPC's library for Go insists on it");
        let h1 = dialer.http1().dial(server.clients).await.expect("a connection");
        assert_eq!(h1.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    });
}

#[test]
fn who_does_not_speak_tls_or_does_not_believe_it_is_not_served() {
    run(async {
        let (ca, other) = (Ca::new(), Ca::new());
        let server = server(&ca, None);
        put(&server, &Dialer::new(&ca.file(), None)).await.expect("it serves");
        let error = put(&server, &Dialer::new(&other.file(), None)).await.expect_err("another CA");
        assert!(error.message().contains("InvalidCertificate"), "{error:?}");
        let mut plain = TcpStream::connect(server.clients).await.expect("a connection");
        plain.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        let mut answer = Vec::new();
        // Cut, or ended with a TLS alert: either way without a word of HTTP.
        drop(within("the end", plain.read_to_end(&mut answer)).await);
        assert!(!answer.windows(4).any(|part| part == b"HTTP"), "{answer:?}");
        let plain = Endpoint::from_shared(format!("http://{}", server.clients)).expect("a URL");
        let channel = plain.connect_lazy();
        let refused = KvClient::new(channel).range(pb::RangeRequest { key: "k".into(), ..Default::default() }).await;
        assert!(refused.is_err());
    });
}

#[test]
fn with_a_client_ca_nobody_is_served_without_a_certificate_of_it() {
    run(async {
        let (ca, clients, strangers) = (Ca::new(), Ca::new(), Ca::new());
        let server = server(&ca, Some(&clients));
        let known = Dialer::new(&ca.file(), Some(&clients.issue("client", &[])));
        let stranger = Dialer::new(&ca.file(), Some(&strangers.issue("client", &[])));
        let nobody = Dialer::new(&ca.file(), None);
        assert_eq!(put(&server, &known).await.expect("a put"), 2);
        for (who, dialer) in [("a stranger", &stranger), ("nobody", &nobody)] {
            put(&server, dialer).await.expect_err(who);
            let answer = within("the end", dialer.get(server.clients, "/health")).await;
            assert!(answer.is_err(), "{who} is told {answer:?}");
        }
        let answer = known.get(server.clients, "/health").await.expect("an answer");
        assert!(answer.ends_with("{\"health\":\"true\",\"reason\":\"\"}"), "{answer}");
        assert_eq!(put(&server, &known).await.expect("a put"), 3, "nothing was written for those");
    });
}

#[test]
fn who_revokes_a_lease_is_known_by_the_name_in_the_certificate() {
    run(async {
        let (ca, clients) = (Ca::new(), Ca::new());
        let dialer = Dialer::new(&ca.file(), Some(&clients.issue("billing-7", &[])));
        for by_name in [true, false] {
            let server = server(&ca, by_name.then_some(&clients));
            put(&server, &dialer).await.expect("it serves");
            let channel = dialer.channel(server.clients).await.expect("a connection");
            let mut leases = LeasesClient::new(channel.clone());
            // Through either service.
            for id in [7, 8] {
                let grant = v1::LeaseGrantRequest { id, ttl_ms: 60_000, holder: None };
                within("a grant", leases.grant(grant)).await.expect("a lease");
            }
            within("a revoke", leases.revoke(v1::LeaseRevokeRequest { id: 7 })).await.expect("it was there");
            let revoke = pb::LeaseRevokeRequest { id: 8 };
            within("a revoke", LeaseClient::new(channel).lease_revoke(revoke)).await.expect("it was there");
            for id in [7, 8] {
                let answer = within("an answer", leases.explain(v1::LeaseExplainRequest { id })).await;
                match answer.expect("an answer").into_inner().ended.expect("an end").client {
                    Some(Client::CertificateName(name)) => assert!(by_name && name == "billing-7", "{name}"),
                    Some(Client::Address(address)) => assert!(!by_name && address.starts_with("127."), "{address}"),
                    None => panic!("somebody revoked it"),
                }
            }
        }
    });
}

#[test]
fn who_is_silent_instead_of_shaking_hands_holds_up_nobody() {
    run(async {
        let ca = Ca::new();
        let server = server(&ca, None);
        let dialer = Dialer::new(&ca.file(), None);
        assert_eq!(put(&server, &dialer).await.expect("a put"), 2);
        // If each held up the next for as long as a handshake may take, this would take half an hour.
        let mut silent = Vec::new();
        for _ in 0..200 {
            silent.push(TcpStream::connect(server.clients).await.expect("a connection"));
        }
        // Half of a hello: the server cannot know yet that there is no other half.
        for stream in silent.iter_mut().step_by(2) {
            stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.expect("sent");
        }
        assert_eq!(put(&server, &dialer).await.expect("a put beside them"), 3);
        let answer = dialer.get(server.clients, "/health").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    });
}

#[test]
fn members_speak_tls_and_know_each_other_by_it() {
    run(async {
        let (ca, strangers) = (Ca::new(), Ca::new());
        let mut servers = servers_over(["https", "https"], 3, &[]);
        let certificate = ca.issue("member", &hosts(&servers));
        for server in &mut servers {
            server.flags.extend(client_flags(&certificate, None));
            server.flags.extend(peer_flags(&certificate, &ca.file()));
            server.start();
        }
        let dialer = Dialer::new(&ca.file(), None);
        for (place, server) in servers.iter().enumerate() {
            put(server, &dialer).await.unwrap_or_else(|error| panic!("member {place}: {error:?}"));
        }
        servers[1].stop();
        put(&servers[0], &dialer).await.expect("two are enough");
        servers[1].start();
        assert_eq!(put(&servers[1], &dialer).await.expect("it is back"), 6);
        // The peer port is for members: not for strangers, and not for those without a certificate.
        for stranger in [Dialer::new(&ca.file(), None), Dialer::new(&ca.file(), Some(&strangers.issue("member", &[])))]
        {
            let mut stream = stranger.dial(servers[0].peers).await.expect("refused only after the client's part");
            drop(stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
            let mut answer = Vec::new();
            let ended = within("the end", stream.read_to_end(&mut answer)).await;
            assert!(ended.is_err() && answer.is_empty(), "{ended:?} {answer:?}");
        }
    });
}

#[test]
fn a_member_with_a_certificate_of_another_ca_is_no_member() {
    run(async {
        let (ca, strangers) = (Ca::new(), Ca::new());
        let mut servers = servers_over(["https", "https"], 3, &[]);
        let certificate = ca.issue("member", &hosts(&servers));
        let strange = strangers.issue("member", &hosts(&servers));
        for (place, server) in servers.iter_mut().enumerate() {
            server.flags.extend(client_flags(&certificate, None));
            // It believes the others, but they do not believe it.
            server.flags.extend(peer_flags(if place == 2 { &strange } else { &certificate }, &ca.file()));
            server.start();
        }
        let dialer = Dialer::new(&ca.file(), None);
        put(&servers[0], &dialer).await.expect("two are enough");
        // It waits for its peers, who do not talk to it, and serves nobody meanwhile.
        let serving = put(&servers[2], &dialer);
        assert!(tokio::time::timeout(Duration::from_secs(1), serving).await.is_err());
        // It is not the certificate that it shows to clients: with the right one among members it is one of them.
        servers[2].stop();
        let place = servers[2].flags.iter().position(|flag| flag.starts_with("--peer-cert-file")).expect("a flag");
        servers[2].flags.splice(place.., peer_flags(&certificate, &ca.file()));
        servers[2].start();
        assert_eq!(put(&servers[2], &dialer).await.expect("a member"), 3);
    });
}

#[test]
fn renewed_certificates_are_shown_without_a_restart() {
    run(async {
        let (old, new) = (Ca::new(), Ca::new());
        let server = server(&old, None);
        let believes_old = Dialer::new(&old.file(), None);
        let believes_new = Dialer::new(&new.file(), None);
        put(&server, &believes_old).await.expect("a put");
        let before = believes_old.channel(server.clients).await.expect("a connection");
        let renewed = new.issue("server", &[host(server.clients)]);
        let place = |path: &Path| old.dir.path().join(path.file_name().expect("a name"));
        // The certificate alone makes no sense with the old key: the old pair stays in use.
        std::fs::copy(&renewed.cert, place(&renewed.cert)).expect("copied");
        put(&server, &believes_old).await.expect("the old pair");
        put(&server, &believes_new).await.expect_err("the old pair");
        std::fs::copy(&renewed.key, place(&renewed.key)).expect("copied");
        put(&server, &believes_new).await.expect("the new pair");
        put(&server, &believes_old).await.expect_err("the new pair");
        let read = pb::RangeRequest { key: "k".into(), ..Default::default() };
        KvClient::new(before).range(read).await.expect("what was open stays open");
    });
}

#[test]
fn certificates_that_nobody_made_are_made_and_kept() {
    run(async {
        let mut servers = servers_over(["https", "https"], 3, &["--auto-tls", "--peer-auto-tls"]);
        servers.iter_mut().for_each(Server::start);
        let own = |server: &Server| Dialer::new(&server.dir.path().join("tls/client/cert.pem"), None);
        let made = |server: &Server| server.dir.path().join("tls/client/cert.pem").exists();
        within("certificates", async {
            while !servers.iter().all(made) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let mut dialers = Vec::new();
        for server in &servers {
            dialers.push(own(server));
            put(server, &own(server)).await.expect("a put");
        }
        servers[0].stop();
        servers[0].start();
        put(&servers[0], &dialers[0]).await.expect("the same certificate as before");
    });
}

#[test]
fn a_file_that_is_wrong_is_named_at_the_start() {
    let ca = Ca::new();
    let good = ca.issue("good", &["localhost".to_owned()]);
    let other = ca.issue("other", &["localhost".to_owned()]);
    let missing = Issued { cert: ca.dir.path().join("missing.pem"), key: good.key.clone() };
    let swapped = Issued { cert: good.key.clone(), key: good.cert.clone() };
    let mixed = Issued { cert: good.cert.clone(), key: other.key.clone() };
    let empty = ca.dir.path().join("empty.pem");
    std::fs::write(&empty, "").expect("written");
    let nonsense = ca.dir.path().join("nonsense.pem");
    std::fs::write(&nonsense, "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n")
        .expect("written");
    let unusable = Issued { cert: nonsense.clone(), key: good.key.clone() };
    let name = |path: &Path| path.display().to_string();
    let cases = [
        (client_flags(&missing, None), format!("TLS of the client port: cannot read {}: ", name(&missing.cert))),
        (client_flags(&swapped, None), format!("{} holds no certificate in PEM form", name(&good.key))),
        (
            client_flags(&mixed, None),
            format!("the certificate in {} does not belong to the key in {}", name(&mixed.cert), name(&mixed.key)),
        ),
        (client_flags(&good, Some(&empty)), format!("{} holds no certificate in PEM form", name(&empty))),
        (client_flags(&good, Some(&nonsense)), format!("what {} holds cannot be used: ", name(&nonsense))),
        (client_flags(&unusable, None), format!("what {} holds cannot be used: ", name(&nonsense))),
        (
            [client_flags(&good, None), peer_flags(&mixed, &ca.file())].concat(),
            format!("TLS of the peer port: the certificate in {} does not belong", name(&mixed.cert)),
        ),
    ];
    for (flags, text) in cases {
        let peer = if flags.iter().any(|flag| flag.starts_with("--peer")) { "https" } else { "http" };
        let mut server = servers_over(["https", peer], 1, &[]).remove(0);
        server.flags.extend(flags);
        server.start();
        let failure = server.failure().to_string();
        assert!(failure.contains(&text), "wanted: {text}\ngot: {failure}");
    }
}

#[test]
fn plain_and_secure_urls_can_be_served_side_by_side() {
    run(async {
        let ca = Ca::new();
        let mut servers = crate::support::servers(1, &[]);
        let [secure, metrics] = crate::support::free_addresses();
        let certificate = ca.issue("server", &[host(secure)]);
        for flag in &mut servers[0].flags {
            if flag.starts_with("--listen-client-urls") {
                *flag += &format!(",https://{secure}");
            }
        }
        servers[0].flags.extend(client_flags(&certificate, None));
        servers[0].flags.push(format!("--listen-metrics-urls=https://{metrics}"));
        servers[0].start();
        leader(&servers).await;
        let dialer = Dialer::new(&ca.file(), None);
        for address in [secure, metrics] {
            let answer = dialer.get(address, "/readyz").await.expect("an answer");
            assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
        }
        let channel = dialer.channel(secure).await.expect("a connection");
        let read = pb::RangeRequest { key: "k".into(), ..Default::default() };
        KvClient::new(channel).range(read.clone()).await.expect("an answer");
        servers[0].kv().await.range(read).await.expect("an answer");
    });
}
