//! A real etcdctl over TLS, against a real etcd and tenured started with the same flags and the same certificates.
//!
//! Three members each, whose clients and peers show certificates. What a client with a certificate is answered, and that
//! one without is answered nothing, must be the same.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tenure_tests::binaries::{self, Program};
use tenure_tests::cluster::Cluster;
use tenure_tests::node::{POLL, READY_PATIENCE};
use tenure_tests::scenario;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

const COMMAND_PATIENCE: Duration = Duration::from_secs(30);

/// A CA of the test's own, with a certificate for everybody.
struct Certificates {
    ca: PathBuf,
    strange_ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Certificates {
    fn make(dir: &Path) -> Result<Certificates> {
        std::fs::create_dir_all(dir)?;
        let write = |name: &str, text: String| -> Result<PathBuf> {
            let path = dir.join(name);
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let new_ca = || -> Result<_> {
            let mut params = CertificateParams::new(Vec::new())?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
        };
        let ca = new_ca()?;
        let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &ca)?;
        Ok(Certificates {
            ca: write("ca.pem", ca.pem())?,
            strange_ca: write("strange-ca.pem", new_ca()?.pem())?,
            cert: write("cert.pem", cert.pem())?,
            key: write("key.pem", key.serialize_pem())?,
        })
    }

    fn server_flags(&self) -> Vec<String> {
        let [ca, cert, key] = [&self.ca, &self.cert, &self.key].map(|path| path.display().to_string());
        let mut flags = vec!["--client-cert-auth".to_owned(), "--peer-client-cert-auth".to_owned()];
        for prefix in ["", "peer-"] {
            flags.push(format!("--{prefix}cert-file={cert}"));
            flags.push(format!("--{prefix}key-file={key}"));
            flags.push(format!("--{prefix}trusted-ca-file={ca}"));
        }
        flags
    }

    fn client_flags(&self, who: Who) -> Vec<String> {
        let ca = if who == Who::Suspicious { &self.strange_ca } else { &self.ca };
        let mut flags = vec![format!("--cacert={}", ca.display())];
        if who != Who::Nobody {
            flags.push(format!("--cert={}", self.cert.display()));
            flags.push(format!("--key={}", self.key.display()));
        }
        flags
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Has a certificate, and believes the servers'.
    Known,
    /// Has no certificate.
    Nobody,
    /// Believes another CA.
    Suspicious,
}

const SCRIPT: &[(Who, &[&str])] = &[
    (Who::Known, &["put", "key", "value"]),
    (Who::Known, &["get", "key"]),
    (Who::Known, &["get", "", "--prefix", "--count-only", "-w", "fields"]),
    (Who::Nobody, &["get", "key"]),
    (Who::Suspicious, &["get", "key"]),
    (Who::Known, &["lease", "grant", "100"]),
    (Who::Known, &["compaction", "2"]),
    (Who::Known, &["get", "key", "--rev=1"]),
    (Who::Known, &["del", "key"]),
    (Who::Known, &["endpoint", "health"]),
];

struct Subject {
    cluster: Cluster,
    endpoints: String,
}

impl Subject {
    async fn start(program: Program, home: &Path, certificates: &Certificates) -> Result<Subject> {
        let mut cluster = Cluster::new(program, 3, &home.join(program.label()))?;
        for at in 0..3 {
            let mut flags: Vec<String> =
                cluster.flags_of(at).iter().map(|flag| flag.replace("http://", "https://")).collect();
            flags.extend(certificates.server_flags());
            cluster.nodes[at].set_flags(flags);
            cluster.nodes[at].start()?;
        }
        let endpoints: Vec<String> = cluster.endpoints().iter().map(|url| url.replace("http://", "https://")).collect();
        let subject = Subject { cluster, endpoints: endpoints.join(",") };
        let deadline = Instant::now() + READY_PATIENCE;
        while !subject.run(certificates, Who::Known, &["endpoint", "health"]).await?.starts_with("exit 0") {
            ensure!(
                Instant::now() < deadline,
                "{} does not serve:\n{}",
                program.label(),
                subject.cluster.nodes[0].log_tail(20)
            );
            sleep(POLL).await;
        }
        Ok(subject)
    }

    /// What etcdctl says and ends with.
    async fn run(&self, certificates: &Certificates, who: Who, words: &[&str]) -> Result<String> {
        let command = Command::new(binaries::etcdctl()?)
            .args(certificates.client_flags(who))
            .args(["--endpoints", &self.endpoints, "--dial-timeout=2s", "--command-timeout=3s"])
            .args(words)
            .env("ETCDCTL_API", "3")
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(COMMAND_PATIENCE, command).await.context("etcdctl hangs")??;
        let code = output.status.code().map_or("none".to_owned(), |code| code.to_string());
        Ok(format!("exit {code}\n{}", String::from_utf8_lossy(&output.stdout)))
    }
}

/// What may differ between two clusters: ids, ports and times.
fn comparable(text: &str) -> String {
    let is_own = |word: &str| word.chars().any(|char| char.is_ascii_digit()) && word.len() > 3;
    let line = |line: &str| {
        let words = line.split_inclusive([' ', ':', ',']).filter(|word| !is_own(word));
        words.collect::<String>()
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn etcdctl_over_tls_sees_what_it_sees_at_etcd() {
    scenario::run("compat_tls", "etcdctl_over_tls_sees_what_it_sees_at_etcd", |scenario| async move {
        let certificates = Certificates::make(&scenario.home.join("certificates"))?;
        let etcd = Subject::start(Program::Etcd, &scenario.home, &certificates).await?;
        let tenured = Subject::start(Program::Tenured, &scenario.home, &certificates).await?;
        let mut different = Vec::new();
        for (who, words) in SCRIPT {
            let expected = etcd.run(&certificates, *who, words).await?;
            let actual = tenured.run(&certificates, *who, words).await?;
            if comparable(&expected) != comparable(&actual) {
                different.push(format!("{who:?} {words:?}:\n   etcd: {expected}\ntenured: {actual}"));
            }
            ensure!(expected.starts_with("exit 0") || *who != Who::Known || words.contains(&"--rev=1"), "{expected}");
            ensure!(!expected.starts_with("exit 0") || *who == Who::Known, "{who:?} is let in: {expected}");
        }
        println!("{} commands over TLS, {} answered differently", SCRIPT.len(), different.len());
        if !different.is_empty() {
            bail!("{}", different.join("\n"));
        }
        Ok(())
    });
}
