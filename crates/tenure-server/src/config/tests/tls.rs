//! The flags of TLS: what they mean, and what is refused because a port would be open that was meant to be closed.

use std::path::PathBuf;

use tenure_raft::tls::{Ciphers, IdentityFiles, Versions};

use super::super::{Certificate, PortTls};
use super::{config, error_of};

const HTTPS: [&str; 2] = ["--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://a:2379"];
const PEER_HTTPS: [&str; 2] =
    ["--listen-peer-urls=https://127.0.0.1:2380", "--initial-advertise-peer-urls=https://127.0.0.1:2380"];

fn with<'a>(urls: &[&'a str], flags: &[&'a str]) -> Vec<&'a str> {
    [urls, flags].concat()
}

fn files(cert: &str, key: &str) -> IdentityFiles {
    IdentityFiles { cert: PathBuf::from(cert), key: PathBuf::from(key) }
}

#[test]
fn without_its_flags_there_is_no_tls() {
    let tls = config(&[]).tls;
    assert_eq!((tls.client, tls.peer, tls.dial_as), (None, None, None));
    assert_eq!((tls.ciphers, tls.self_signed_years), (Ciphers::default(), 1));
}

#[test]
fn the_client_port_takes_files_or_makes_a_certificate() {
    let named = ["--cert-file=c", "--key-file=k", "--trusted-ca-file=ca", "--client-cert-auth"];
    let port = PortTls { certificate: Certificate::Files(files("c", "k")), trusted_ca: Some(PathBuf::from("ca")) };
    assert_eq!(config(&with(&HTTPS, &named)).tls.client, Some(port.clone()));
    // A CA alone is reason enough to ask for certificates, as in etcd.
    assert_eq!(config(&with(&HTTPS, &named[..3])).tls.client, Some(port));
    let open = PortTls { certificate: Certificate::Files(files("c", "k")), trusted_ca: None };
    assert_eq!(config(&with(&HTTPS, &named[..2])).tls.client, Some(open.clone()));
    let made = config(&with(&HTTPS, &["--auto-tls", "--self-signed-cert-validity=3"])).tls;
    assert_eq!(made.client, Some(PortTls { certificate: Certificate::SelfSigned, trusted_ca: None }));
    assert_eq!(made.self_signed_years, 3);
    let both = config(&with(&HTTPS, &["--cert-file=c", "--key-file=k", "--auto-tls"]));
    assert_eq!(both.tls.client, Some(open));
    assert_eq!(both.warnings, ["--auto-tls has no effect, as --cert-file is given"]);
}

#[test]
fn the_peer_port_has_flags_of_its_own() {
    let flags = ["--peer-cert-file=c", "--peer-key-file=k", "--peer-trusted-ca-file=ca", "--peer-client-cert-auth"];
    let tls = config(&with(&PEER_HTTPS, &flags)).tls;
    let port = PortTls { certificate: Certificate::Files(files("c", "k")), trusted_ca: Some(PathBuf::from("ca")) };
    assert_eq!((tls.client, tls.peer, tls.dial_as), (None, Some(port), None));
    let other = ["--peer-client-cert-file=d", "--peer-client-key-file=e"];
    let tls = config(&with(&PEER_HTTPS, &[&flags[..], &other].concat())).tls;
    assert_eq!(tls.dial_as, Some(files("d", "e")));
    let made = config(&with(&PEER_HTTPS, &["--peer-auto-tls"]));
    assert_eq!(made.tls.peer, Some(PortTls { certificate: Certificate::SelfSigned, trusted_ca: None }));
    assert!(made.warnings[0].starts_with("--peer-auto-tls keeps what the members say secret, but"), "{made:?}");
}

#[test]
fn a_port_that_was_meant_to_be_closed_is_never_open() {
    let https = "--listen-client-urls=https://127.0.0.1:1";
    let advertise = "--advertise-client-urls=https://a:1";
    let cases: &[(&[&str], &str)] = &[
        (
            &[https, advertise],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            &["--listen-metrics-urls=https://127.0.0.1:1"],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1",
        ),
        (
            &["--listen-peer-urls=https://127.0.0.1:1"],
            "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url https://127.0.0.1:1",
        ),
        (
            &["--initial-cluster=default=http://127.0.0.1:2380,b=https://a:1"],
            "must be provided for peer url https://a:1",
        ),
        (
            &["--cert-file=c", "--key-file=k"],
            "there is a certificate for the client port, but none of its URLs is https",
        ),
        (&["--auto-tls"], "there is a certificate for the client port, but none of its URLs is https"),
        (&["--peer-auto-tls"], "there is a certificate for the peer port, but none of its URLs is https"),
        (&[https, advertise, "--cert-file=c"], "--cert-file needs --key-file"),
        (&[https, advertise, "--key-file=k"], "--key-file needs --cert-file"),
        (&["--trusted-ca-file=ca"], "--trusted-ca-file needs --cert-file and --key-file"),
        (&["--client-cert-auth"], "--client-cert-auth needs --trusted-ca-file"),
        (&["--peer-client-cert-auth=true"], "--peer-client-cert-auth needs --peer-trusted-ca-file"),
        (
            &["--peer-cert-file=c", "--peer-key-file=k", "--listen-peer-urls=https://127.0.0.1:1"],
            "--peer-cert-file needs --peer-trusted-ca-file",
        ),
        (&["--peer-auto-tls", "--peer-trusted-ca-file=ca"], "exclude each other"),
        (&["--peer-client-cert-file=c", "--peer-client-key-file=k"], "--peer-client-cert-file needs --peer-cert-file"),
        (&["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"], "--tls-min-version is above --tls-max-version"),
        (&["--tls-min-version=TLS1.1"], "expected TLS1.2 or TLS1.3"),
        (&["--cipher-suites=AES"], "expected names such as TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        (&["--self-signed-cert-validity=0"], "expected a whole number from 1 to 100"),
    ];
    for (args, text) in cases {
        let error = error_of(args);
        assert!(error.contains(text), "{args:?}: {error}");
    }
}

#[test]
fn a_plain_url_beside_a_secure_one_is_told_of() {
    let urls = ["--listen-client-urls=http://127.0.0.1:1,https://127.0.0.1:2", "--advertise-client-urls=https://a:2"];
    let open = config(&with(&urls, &["--cert-file=c", "--key-file=k"]));
    assert_eq!(open.warnings, [""; 0]);
    let closed = config(&with(&urls, &["--cert-file=c", "--key-file=k", "--trusted-ca-file=ca"]));
    assert_eq!(closed.warnings, ["--trusted-ca-file does not protect http://127.0.0.1:1, which is not https://"]);
}

#[test]
fn versions_and_suites_can_be_narrowed() {
    let ciphers = |flags: &[&str]| config(&with(&with(&HTTPS, &["--auto-tls"]), flags));
    let versions = |flags: &[&str]| ciphers(flags).tls.ciphers.versions;
    assert_eq!(versions(&["--tls-min-version=TLS1.2"]), Versions::Both);
    assert_eq!(versions(&["--tls-min-version=TLS1.3"]), Versions::Only13);
    assert_eq!(versions(&["--tls-max-version=TLS1.2"]), Versions::Only12);
    let listed =
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_RSA_WITH_AES_128_CBC_SHA,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305";
    let config = ciphers(&["--cipher-suites", listed]);
    let suites = ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"];
    assert_eq!(config.tls.ciphers.suites_12, suites);
    assert_eq!(config.warnings, ["--cipher-suites has TLS_RSA_WITH_AES_128_CBC_SHA, which is not offered"]);
    assert_eq!(versions(&["--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"]), Versions::Only13);
    let none_left = ["--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA", "--tls-max-version=TLS1.2", "--auto-tls"];
    assert!(error_of(&with(&HTTPS, &none_left)).starts_with("--cipher-suites leaves none of those offered: TLS_"));
    let only_13 = ["--cipher-suites", suites[0], "--tls-min-version=TLS1.3", "--auto-tls"];
    assert!(error_of(&with(&HTTPS, &only_13)).contains("which --tls-min-version excludes"));
}
