//! What can be wrong with the files of TLS, each naming the file.

use std::io;
use std::path::PathBuf;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}", path = .0.display(), error = .1)]
    Unreadable(PathBuf, io::Error),
    /// A file holds no certificate.
    #[error("{path} holds no certificate in PEM form", path = .0.display())]
    NoCertificate(PathBuf),
    /// A file holds no key.
    #[error("{path} holds no private key in PEM form", path = .0.display())]
    NoKey(PathBuf),
    /// What a file holds cannot be used.
    #[error("what {path} holds cannot be used: {error}", path = .0.display(), error = .1)]
    Unusable(PathBuf, String),
    /// A certificate and a key that are not a pair.
    #[error("the certificate in {cert} does not belong to the key in {key}", cert = .0.display(), key = .1.display())]
    Mismatch(PathBuf, PathBuf),
    /// No cipher suite is left for the versions that are allowed.
    #[error("the TLS versions and cipher suites that are allowed leave none to use: {0}")]
    Ciphers(tokio_rustls::rustls::Error),
}
