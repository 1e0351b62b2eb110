//! The flags of TLS: which ports speak it, with which files, and what may never pass for it.
//!
//! etcd lets a member start that was told to protect a port and given plain URLs for it, with a warning. Here that is an
//! error: whoever gives a certificate does not mean to serve without one.

use std::path::PathBuf;

use tenure_raft::tls::{Ciphers, IdentityFiles, Versions};

use super::error::ConfigError;
use super::flags::Values;
use super::urls::{ListenUrl, Url};
use super::values::parse_count;

/// Longer than any machine lives.
const SELF_SIGNED_YEARS_MAX: u32 = 100;

/// Go's names of suites that rustls knows by the longer name.
const ALIASES: [(&str, &str); 2] = [
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The client port, and metrics.
    pub client: Option<PortTls>,
    /// The peer port.
    pub peer: Option<PortTls>,
    /// The certificate that is shown when a peer is dialled, if not the peer port's own.
    pub dial_as: Option<IdentityFiles>,
    /// What of TLS may be used.
    pub ciphers: Ciphers,
    /// How long certificates are good that are made here.
    pub self_signed_years: u32,
}

/// TLS on one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortTls {
    /// Whose certificate is shown.
    pub certificate: Certificate,
    /// Whose certificates the other side must show; if none, it need not show any.
    pub trusted_ca: Option<PathBuf>,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Somebody made it.
    Files(IdentityFiles),
    /// It is made at the first start, and kept in the data directory.
    SelfSigned,
}

/// The URLs that decide who needs what.
pub(super) struct Urls<'a> {
    pub(super) listen_client: &'a [ListenUrl],
    pub(super) listen_metrics: &'a [ListenUrl],
    pub(super) listen_peer: &'a [ListenUrl],
    /// Peers as they are dialled, this member included.
    pub(super) peers: Vec<&'a Url>,
}

/// Reads the flags. What is odd but allowed is added to `warnings`.
pub(super) fn tls(values: &Values, urls: &Urls<'_>, warnings: &mut Vec<String>) -> Result<TlsConfig, ConfigError> {
    let client = port(values, "", warnings)?;
    let peer = port(values, "peer-", warnings)?;
    let plain_clients = urls.listen_client.iter().filter(|url| !url.url.is_secure());
    if client.as_ref().is_some_and(|port| port.trusted_ca.is_some()) {
        for url in plain_clients {
            warnings.push(format!("--trusted-ca-file does not protect {url}, which is not https://"));
        }
    }
    let client_port = [urls.listen_client, urls.listen_metrics].concat();
    check_scheme(&client_port.iter().map(|url| &url.url).collect::<Vec<_>>(), client.is_some(), "client", "")?;
    let peer_port: Vec<&Url> = urls.listen_peer.iter().map(|url| &url.url).chain(urls.peers.iter().copied()).collect();
    check_scheme(&peer_port, peer.is_some(), "peer", "peer-")?;
    let dial_as = identity(values, "peer-client-cert-file", "peer-client-key-file")?;
    if dial_as.is_some() && peer.is_none() {
        return conflict("--peer-client-cert-file needs --peer-cert-file and --peer-key-file");
    }
    let years = &values.get("self-signed-cert-validity");
    let self_signed_years = parse_count(years.text, 1, SELF_SIGNED_YEARS_MAX).map_err(|reason| ConfigError::Value {
        source_flag: years.source.clone(),
        value: years.text.to_owned(),
        reason,
    })?;
    Ok(TlsConfig { client, peer, dial_as, ciphers: ciphers(values, warnings)?, self_signed_years })
}

fn conflict<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Conflict(text.into()))
}

fn path(values: &Values, flag: &str) -> Option<PathBuf> {
    Some(values.get(flag).text).filter(|text| !text.is_empty()).map(PathBuf::from)
}

fn is_on(values: &Values, flag: &str) -> bool {
    values.get(flag).text == "true"
}

fn identity(values: &Values, cert: &str, key: &str) -> Result<Option<IdentityFiles>, ConfigError> {
    match (path(values, cert), path(values, key)) {
        (Some(cert), Some(key)) => Ok(Some(IdentityFiles { cert, key })),
        (None, None) => Ok(None),
        (Some(_), None) => conflict(format!("--{cert} needs --{key}")),
        (None, Some(_)) => conflict(format!("--{key} needs --{cert}")),
    }
}

/// The flags of one port; those of the peer port begin with `peer-`.
fn port(values: &Values, prefix: &str, warnings: &mut Vec<String>) -> Result<Option<PortTls>, ConfigError> {
    let files = identity(values, &format!("{prefix}cert-file"), &format!("{prefix}key-file"))?;
    let self_signed = is_on(values, &format!("{prefix}auto-tls"));
    let trusted_ca = path(values, &format!("{prefix}trusted-ca-file"));
    let asked = is_on(values, &format!("{prefix}client-cert-auth"));
    if asked && trusted_ca.is_none() {
        return conflict(format!(
            "--{prefix}client-cert-auth needs --{prefix}trusted-ca-file, or nobody's certificate could be believed"
        ));
    }
    let certificate = match (files, self_signed) {
        (None, false) if trusted_ca.is_some() => {
            return conflict(format!("--{prefix}trusted-ca-file needs --{prefix}cert-file and --{prefix}key-file"));
        }
        (None, false) => return Ok(None),
        (Some(files), ignored) => {
            if ignored {
                warnings.push(format!("--{prefix}auto-tls has no effect, as --{prefix}cert-file is given"));
            }
            Certificate::Files(files)
        }
        (None, true) => Certificate::SelfSigned,
    };
    let is_peer = !prefix.is_empty();
    match (&certificate, &trusted_ca) {
        (Certificate::Files(_), None) if is_peer => conflict(
            "--peer-cert-file needs --peer-trusted-ca-file, by which the members check each other's certificates",
        ),
        (Certificate::SelfSigned, Some(_)) if is_peer => conflict(
            "--peer-trusted-ca-file and --peer-auto-tls exclude each other: members sign their own certificates",
        ),
        _ => {
            if is_peer && certificate == Certificate::SelfSigned {
                let text = "--peer-auto-tls keeps what the members say secret, but lets anybody be a member; use a CA";
                warnings.push(text.to_owned());
            }
            // As in etcd, a CA alone is reason enough to ask for certificates.
            Ok(Some(PortTls { certificate, trusted_ca }))
        }
    }
}

/// Holds the schemes of a port's URLs against whether it has a certificate.
fn check_scheme(urls: &[&Url], has_certificate: bool, whose: &str, prefix: &str) -> Result<(), ConfigError> {
    match urls.iter().find(|url| url.is_secure()) {
        Some(url) if !has_certificate => conflict(format!(
            "TLS key/cert (--{prefix}cert-file, --{prefix}key-file) must be provided for {whose} url {url} with HTTPS \
             scheme"
        )),
        None if has_certificate => conflict(format!(
            "there is a certificate for the {whose} port, but none of its URLs is https://, so it would be open; change the \
             URLs or drop --{prefix}cert-file and --{prefix}auto-tls"
        )),
        Some(_) | None => Ok(()),
    }
}

fn ciphers(values: &Values, warnings: &mut Vec<String>) -> Result<Ciphers, ConfigError> {
    let version = |flag: &str, default: u8| {
        let value = values.get(flag);
        match value.text {
            "" => Ok(default),
            "TLS1.2" => Ok(2),
            "TLS1.3" => Ok(3),
            other => Err(ConfigError::Value {
                source_flag: value.source.clone(),
                value: other.to_owned(),
                reason: "expected TLS1.2 or TLS1.3".to_owned(),
            }),
        }
    };
    let versions = match (version("tls-min-version", 2)?, version("tls-max-version", 3)?) {
        (min, max) if min > max => return conflict("--tls-min-version is above --tls-max-version"),
        (3, _) => Versions::Only13,
        (_, 2) => Versions::Only12,
        _ => Versions::Both,
    };
    let listed: Vec<&str> = values.get("cipher-suites").text.split(',').map(str::trim).collect();
    let listed: Vec<&str> = listed.into_iter().filter(|name| !name.is_empty()).collect();
    if !listed.is_empty() && versions == Versions::Only13 {
        return conflict("--cipher-suites is about TLS 1.2, which --tls-min-version excludes");
    }
    let known = Ciphers::suites_12();
    let mut suites_12 = Vec::new();
    for name in &listed {
        let full = ALIASES.iter().find(|(alias, _)| alias == name).map_or(*name, |(_, full)| full);
        if known.iter().any(|suite| suite == full) {
            suites_12.push(full.to_owned());
        } else if full.starts_with("TLS_") {
            warnings.push(format!("--cipher-suites has {name}, which is not offered"));
        } else {
            let source_flag = values.get("cipher-suites").source;
            let reason = "expected names such as TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned();
            return Err(ConfigError::Value { source_flag, value: (*name).to_owned(), reason });
        }
    }
    if !listed.is_empty() && suites_12.is_empty() {
        // None of those is offered, so none of 1.2's may be.
        return match versions {
            Versions::Only12 => conflict(format!("--cipher-suites leaves none of those offered: {}", known.join(", "))),
            Versions::Both | Versions::Only13 => Ok(Ciphers { versions: Versions::Only13, suites_12 }),
        };
    }
    Ok(Ciphers { versions, suites_12 })
}
