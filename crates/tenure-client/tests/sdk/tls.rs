//! TLS: whom a client trusts, and what it shows.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;
use tenure_client::{Client, ConnectOptions, Error, Tls};

use crate::support::members::Cluster;
use crate::support::{run, within};

/// Who signs certificates.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Ca(CertifiedIssuer::self_signed(params, key).expect("a CA"))
    }

    /// A certificate and its key, for servers and clients alike.
    fn issue(&self, hosts: &[String]) -> (String, String) {
        let mut params = CertificateParams::new(hosts).expect("parameters");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// A member whose clients speak TLS, and must show a certificate; and a directory that it needs.
fn cluster(ca: &Ca, name: Option<&str>) -> (Cluster, TempDir) {
    let mut cluster = Cluster::stopped("https", 1, &[]);
    let member = &mut cluster.members[0];
    let host = name.map_or_else(|| member.clients.ip().to_string(), str::to_owned);
    let (certificate, key) = ca.issue(&[host]);
    let dir = tempfile::tempdir().expect("a directory");
    for (flag, file, text) in [
        ("cert-file", "cert.pem", &certificate),
        ("key-file", "key.pem", &key),
        ("trusted-ca-file", "ca.pem", &ca.0.pem()),
    ] {
        let path = dir.path().join(file);
        std::fs::write(&path, text).expect("written");
        member.flags.push(format!("--{flag}={}", path.display()));
    }
    member.flags.push("--client-cert-auth".to_owned());
    member.start();
    (cluster, dir)
}

async fn connect(cluster: &Cluster, tls: Option<Tls>) -> Result<Client, Error> {
    let mut options = ConnectOptions::default().timeout(Duration::from_secs(2));
    if let Some(tls) = tls {
        options = options.timeout(Duration::from_secs(50)).tls(tls);
    }
    let endpoint = format!("https://{}", cluster.members[0].endpoint());
    within("a client, or none", Client::connect([endpoint], options)).await
}

#[test]
fn a_client_trusts_its_authority_and_shows_its_certificate() {
    run(async {
        let ca = Ca::new();
        let (cluster, _dir) = cluster(&ca, None);
        let (certificate, key) = ca.issue(&["a client".to_owned()]);
        let tls = Tls::trusting(ca.0.pem()).identity(certificate, &key);
        assert!(!format!("{tls:?}").contains(&key));
        let client = connect(&cluster, Some(tls)).await.expect("a client");
        client.put("k", "v").await.expect("a put");
        assert_eq!(client.endpoints(), [format!("https://{}", cluster.members[0].endpoint())]);
    });
}

#[test]
fn a_server_goes_by_another_name_if_that_is_said() {
    run(async {
        let ca = Ca::new();
        let (cluster, _dir) = cluster(&ca, Some("n1.example"));
        let (certificate, key) = ca.issue(&["a client".to_owned()]);
        let tls = Tls::trusting(ca.0.pem()).identity(certificate, key).domain("n1.example");
        let client = connect(&cluster, Some(tls)).await.expect("a client");
        client.put("k", "v").await.expect("a put");
    });
}

#[test]
fn strangers_are_not_spoken_to() {
    run(async {
        let (ca, other) = (Ca::new(), Ca::new());
        let (cluster, _dir) = cluster(&ca, None);
        let hosts = ["a client".to_owned()];
        let quick = |tls: Tls| {
            let options = ConnectOptions::default().timeout(Duration::from_secs(1)).tls(tls);
            Client::connect([format!("https://{}", cluster.members[0].endpoint())], options)
        };
        let (certificate, key) = ca.issue(&hosts);
        let failed =
            quick(Tls::trusting(other.0.pem()).identity(certificate, key)).await.expect_err("another authority");
        assert!(matches!(&failed, Error::Unreachable(_)), "{failed}");
        let failed = quick(Tls::trusting(ca.0.pem())).await.expect_err("it shows nothing");
        assert!(matches!(&failed, Error::Unreachable(_)), "{failed}");
        let (certificate, key) = other.issue(&hosts);
        let failed = quick(Tls::trusting(ca.0.pem()).identity(certificate, key)).await.expect_err("a stranger's");
        assert!(matches!(&failed, Error::Unreachable(_)), "{failed}");
        let failed = connect(&cluster, None).await.expect_err("no TLS at all");
        assert!(failed.to_string().contains("no TLS options"), "{failed}");
    });
}
