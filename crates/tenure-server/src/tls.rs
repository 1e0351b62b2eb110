//! The certificates of the ports: read as the flags name them, or made here.
//!
//! Certificates that are made here are kept in the data directory, so that clients which took them on trust once find the
//! same ones after a restart. They are made anew at a start when most of their time is over.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tenure_raft::tls::{ClientTls, ClientTlsOptions, IdentityFiles, ServerTls, ServerTlsOptions, TlsError};

use crate::config::{Certificate, PortTls, ServerConfig, Url};

/// A year, as certificates count it.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A certificate is replaced in the last twelfth of its time.
const LAST_PART: u32 = 12;

/// Why a port cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The files are of no use.
    #[error("TLS of the {0} port: {1}")]
    Files(&'static str, TlsError),
    /// A certificate could not be made.
    #[error("making a certificate in {path}: {error}", path = .0.display(), error = .1)]
    SelfSigned(PathBuf, io::Error),
}

/// What the ports speak.
#[derive(Default)]
pub(crate) struct Ports {
    pub(crate) client: Option<Arc<ServerTls>>,
    pub(crate) peer: Option<Arc<ServerTls>>,
    /// How peers are dialled.
    pub(crate) dial: Option<Arc<ClientTls>>,
}

impl Ports {
    /// Reads everything, so that a file that is wrong is an error at the start.
    pub(crate) fn open(config: &ServerConfig) -> Result<Ports, PortError> {
        let tls = &config.tls;
        let mut ports = Ports::default();
        if let Some(port) = &tls.client {
            let listened = config.listen_client_urls.iter().map(|url| &url.url);
            let identity = identity(config, port, "client", listened.chain(&config.advertise_client_urls))?;
            ports.client = Some(serve(config, port, identity).map_err(|error| PortError::Files("client", error))?);
        }
        if let Some(port) = &tls.peer {
            let listened = config.listen_peer_urls.iter().map(|url| &url.url);
            let identity = identity(config, port, "peer", listened.chain(&config.initial_advertise_peer_urls))?;
            let dial = ClientTlsOptions {
                identity: Some(tls.dial_as.clone().unwrap_or_else(|| identity.clone())),
                server_ca: port.trusted_ca.clone(),
                ciphers: tls.ciphers.clone(),
            };
            ports.peer = Some(serve(config, port, identity).map_err(|error| PortError::Files("peer", error))?);
            ports.dial = Some(ClientTls::new(dial).map_err(|error| PortError::Files("peer", error))?);
        }
        Ok(ports)
    }
}

fn serve(config: &ServerConfig, port: &PortTls, identity: IdentityFiles) -> Result<Arc<ServerTls>, TlsError> {
    let ciphers = config.tls.ciphers.clone();
    ServerTls::new(ServerTlsOptions { identity, client_ca: port.trusted_ca.clone(), ciphers })
}

fn identity<'u>(
    config: &ServerConfig,
    port: &PortTls,
    name: &str,
    urls: impl Iterator<Item = &'u Url>,
) -> Result<IdentityFiles, PortError> {
    match &port.certificate {
        Certificate::Files(files) => Ok(files.clone()),
        Certificate::SelfSigned => {
            let dir = config.data_dir.join("tls").join(name);
            let hosts: BTreeSet<String> = urls.filter_map(Url::host).chain(["localhost"]).map(str::to_owned).collect();
            self_signed(&dir, hosts.into_iter().collect(), config.tls.self_signed_years * YEAR)
                .map_err(|error| PortError::SelfSigned(dir, error))
        }
    }
}

/// The certificate in a directory, made if there is none that is good for a while yet.
fn self_signed(dir: &Path, hosts: Vec<String>, validity: Duration) -> io::Result<IdentityFiles> {
    let files = IdentityFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    if is_fresh(&files, validity)? {
        return Ok(files);
    }
    std::fs::create_dir_all(dir)?;
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = CertificateParams::new(hosts).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::OrganizationName, "Tenure");
    params.distinguished_name.push(DnType::CommonName, "made by this member for itself");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(io::Error::other)?;
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + now;
    params.not_after = params.not_before + validity;
    let cert = params.self_signed(&key).map_err(io::Error::other)?;
    // The certificate last: one without its key would be taken for whole.
    write(&files.key, &key.serialize_pem(), 0o600)?;
    write(&files.cert, &cert.pem(), 0o644)?;
    tracing::info!(cert = %files.cert.display(), "made a certificate; clients may take it as their CA");
    Ok(files)
}

fn is_fresh(files: &IdentityFiles, validity: Duration) -> io::Result<bool> {
    if !files.cert.exists() || !files.key.exists() {
        return Ok(false);
    }
    let age = std::fs::metadata(&files.cert)?.modified()?.elapsed().unwrap_or_default();
    Ok(age < validity - validity / LAST_PART)
}

/// Writes a file that is there whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn hosts() -> Vec<String> {
        ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_certificate_is_made_once_and_again_when_its_time_is_nearly_over() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("tls/client");
        let made = self_signed(&dir, hosts(), YEAR).unwrap();
        let read = || std::fs::read_to_string(&made.cert).unwrap();
        assert_eq!(std::fs::metadata(&made.key).unwrap().permissions().mode() & 0o777, 0o600);
        let first = read();
        assert_eq!(self_signed(&dir, hosts(), YEAR).unwrap(), made);
        assert_eq!(read(), first);
        let old = SystemTime::now() - YEAR / 100 * 95;
        std::fs::File::options().write(true).open(&made.cert).unwrap().set_modified(old).unwrap();
        self_signed(&dir, hosts(), YEAR).unwrap();
        let second = read();
        assert_ne!(second, first);
        std::fs::remove_file(&made.key).unwrap();
        self_signed(&dir, hosts(), YEAR).unwrap();
        assert_ne!(read(), second);
        let options = ServerTlsOptions { identity: made, client_ca: None, ciphers: Default::default() };
        assert!(ServerTls::new(options).is_ok(), "certificate and key are a pair");
    }
}
