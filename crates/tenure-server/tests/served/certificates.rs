//! Certificates made for a test, and clients that use them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tonic::transport::{Channel, Endpoint, Error};

/// Who signs certificates, and keeps them in a directory.
pub(crate) struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) dir: TempDir,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Ca {
    pub(crate) fn new() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a CA");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("written");
        Ca { issuer, dir }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate of this common name for servers and clients alike, good for these hosts.
    pub(crate) fn issue(&self, name: &str, hosts: &[String]) -> Issued {
        let mut params = CertificateParams::new(hosts).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let issued = Issued {
            cert: self.dir.path().join(format!("{name}.pem")),
            key: self.dir.path().join(format!("{name}-key.pem")),
        };
        // Renamed into place, as whoever renews certificates does it.
        for (path, text) in [(&issued.key, key.serialize_pem()), (&issued.cert, cert.pem())] {
            let new = path.with_extension("new");
            std::fs::write(&new, text).expect("written");
            std::fs::rename(new, path).expect("renamed");
        }
        issued
    }
}

/// How a client dials.
#[derive(Clone)]
pub(crate) struct Dialer(Arc<ClientConfig>);

impl Dialer {
    /// Believes this CA, and shows this certificate if it is asked for one.
    pub(crate) fn new(ca: &Path, shows: Option<&Issued>) -> Dialer {
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_file_iter(ca).expect("a CA") {
            roots.add(cert.expect("a certificate")).expect("a CA");
        }
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(roots);
        let mut config = match shows {
            None => builder.with_no_client_auth(),
            Some(shows) => {
                let chain = CertificateDer::pem_file_iter(&shows.cert).expect("a certificate");
                let chain = chain.map(|cert| cert.expect("a certificate")).collect();
                let key = PrivateKeyDer::from_pem_file(&shows.key).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Dialer(Arc::new(config))
    }

    /// Over HTTP/1.1 alone.
    pub(crate) fn http1(&self) -> Dialer {
        let mut config = (*self.0).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Dialer(Arc::new(config))
    }

    pub(crate) async fn dial(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(self.0.clone()).connect(ServerName::from(address.ip()), stream).await
    }

    /// A gRPC connection.
    pub(crate) async fn channel(&self, address: SocketAddr) -> Result<Channel, Error> {
        let dialer = self.clone();
        let connector = tower::service_fn(move |_| {
            let dialer = dialer.clone();
            async move { dialer.dial(address).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://server").connect_with_connector(connector).await
    }

    /// What a GET of HTTP/1.1 is answered.
    pub(crate) async fn get(&self, address: SocketAddr, path: &str) -> std::io::Result<String> {
        let mut stream = self.http1().dial(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}
