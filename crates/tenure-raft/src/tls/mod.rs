//! TLS for both ports: who we are, whom we believe, and files that may be replaced at any time.
//!
//! Keys and certificates are read again when their files have changed, at the next connection, as etcd does. Unlike etcd,
//! files that make no sense together, such as a new certificate beside a key that is about to follow, change nothing: what
//! was good last stays in use, and the log says what is wrong with which file.
//!
//! The protocol itself is rustls's, on ring. `accept` serves it, the links to the peers dial it.

mod error;
mod handshakes;
mod reload;
mod secured;
mod subject;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use error::TlsError;
use handshakes::Handshakes;
use reload::Reloaded;
pub(crate) use secured::{Plain, Secured};

/// What is spoken above TLS. Go's gRPC clients insist on being told.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Rejected connections are told of in the log this often; those between are counted.
const REJECTIONS_PAUSE: Duration = Duration::from_secs(10);

/// A certificate, and the key to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate and those between it and the CA, in PEM form.
    pub cert: PathBuf,
    /// Its private key, in PEM form.
    pub key: PathBuf,
}

/// The versions of TLS that may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// 1.2 and 1.3; older ones are not there at all.
    #[default]
    Both,
    /// 1.2 alone.
    Only12,
    /// 1.3 alone.
    Only13,
}

/// What of TLS may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ciphers {
    /// The versions.
    pub versions: Versions,
    /// The suites of TLS 1.2 that are allowed, by name; all if empty. Those of TLS 1.3 are all good.
    pub suites_12: Vec<String>,
}

impl Ciphers {
    /// The names of all suites of TLS 1.2 that there are.
    pub fn suites_12() -> Vec<String> {
        let suites = ring::default_provider().cipher_suites;
        suites.iter().filter(|suite| suite.tls13().is_none()).map(|suite| format!("{:?}", suite.suite())).collect()
    }

    fn provider(&self) -> CryptoProvider {
        let mut provider = ring::default_provider();
        if !self.suites_12.is_empty() {
            let allowed = |name: String| self.suites_12.contains(&name);
            provider.cipher_suites.retain(|suite| suite.tls13().is_some() || allowed(format!("{:?}", suite.suite())));
        }
        provider
    }

    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        match self.versions {
            Versions::Both => vec![&TLS13, &TLS12],
            Versions::Only12 => vec![&TLS12],
            Versions::Only13 => vec![&TLS13],
        }
    }
}

/// How a port is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTlsOptions {
    /// Who we are.
    pub identity: IdentityFiles,
    /// Whose certificates clients must show; if none, they need not show any.
    pub client_ca: Option<PathBuf>,
    /// What may be used.
    pub ciphers: Ciphers,
}

/// The serving side.
#[derive(Debug)]
pub struct ServerTls {
    config: Reloaded<ServerConfig>,
    handshakes: Arc<Handshakes>,
    rejections: Mutex<Rejections>,
}

impl ServerTls {
    /// Reads the files for the first time.
    pub fn new(options: ServerTlsOptions) -> Result<Arc<ServerTls>, TlsError> {
        let files = files(Some(&options.identity), options.client_ca.as_deref());
        let config = Reloaded::new(files, move || server_config(&options))?;
        Ok(Arc::new(ServerTls { config, handshakes: Arc::default(), rejections: Mutex::default() }))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.current())
    }

    /// Tells of a connection that came to nothing, but not of all of them.
    pub(crate) fn note_rejected(&self, from: Option<SocketAddr>, error: &std::io::Error) {
        let mut rejections = self.rejections.lock().unwrap_or_else(PoisonError::into_inner);
        if rejections.told.is_some_and(|told| told.elapsed() < REJECTIONS_PAUSE) {
            rejections.untold += 1;
            return;
        }
        let others = std::mem::take(&mut rejections.untold);
        rejections.told = Some(Instant::now());
        let from = from.map(|from| from.to_string()).unwrap_or_default();
        tracing::warn!(from, %error, others, "rejected a TLS connection");
    }
}

#[derive(Debug, Default)]
struct Rejections {
    told: Option<Instant>,
    untold: u64,
}

fn server_config(options: &ServerTlsOptions) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(options.ciphers.provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&options.ciphers.versions())
        .map_err(TlsError::Ciphers)?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider).build();
            let verifier = verifier.map_err(|error| TlsError::Unusable(path.clone(), error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (chain, key) = identity(&options.identity)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| unfit(&options.identity, &error))?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(config)
}

/// How peers are dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTlsOptions {
    /// Who we are, for peers that ask.
    pub identity: Option<IdentityFiles>,
    /// Whose certificates peers must have; if none, any will do: what is said is secret then, but whom it is said to is
    /// not known.
    pub server_ca: Option<PathBuf>,
    /// What may be used.
    pub ciphers: Ciphers,
}

/// The dialling side.
#[derive(Debug)]
pub struct ClientTls(Reloaded<ClientConfig>);

impl ClientTls {
    /// Reads the files for the first time.
    pub fn new(options: ClientTlsOptions) -> Result<Arc<ClientTls>, TlsError> {
        let files = files(options.identity.as_ref(), options.server_ca.as_deref());
        Ok(Arc::new(ClientTls(Reloaded::new(files, move || client_config(&options))?)))
    }

    /// Dials a host, which its certificate must name.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(self.0.current()).connect(name, stream).await
    }
}

fn client_config(options: &ClientTlsOptions) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(options.ciphers.provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&options.ciphers.versions())
        .map_err(TlsError::Ciphers)?;
    let builder = match &options.server_ca {
        Some(path) => builder.with_root_certificates(roots(path)?),
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(algorithms))),
    };
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = identity(files)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| unfit(files, &error))?
        }
    };
    config.alpn_protocols = vec![PROTOCOLS[0].to_vec()];
    Ok(config)
}

/// Takes any certificate whose key the server holds.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

fn files(identity: Option<&IdentityFiles>, ca: Option<&Path>) -> Vec<PathBuf> {
    let identity = identity.into_iter().flat_map(|files| [files.cert.clone(), files.key.clone()]);
    identity.chain(ca.map(Path::to_owned)).collect()
}

fn identity(files: &IdentityFiles) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|_| TlsError::NoKey(files.key.clone()))?;
    Ok((chain, key))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Unusable(path.to_owned(), error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| TlsError::Unusable(path.to_owned(), error.to_string()))?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(certificates) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Unreadable(path.to_owned(), error))
}

fn unfit(files: &IdentityFiles, error: &Error) -> TlsError {
    match error {
        Error::InconsistentKeys(_) => TlsError::Mismatch(files.cert.clone(), files.key.clone()),
        Error::InvalidCertificate(_) => TlsError::Unusable(files.cert.clone(), error.to_string()),
        _ => TlsError::Unusable(files.key.clone(), error.to_string()),
    }
}
