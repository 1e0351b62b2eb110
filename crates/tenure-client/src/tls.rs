//! How a client trusts its servers, and what it shows them.

use std::fmt;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// TLS for endpoints with `https://` addresses: whom to trust, and what to show. The machine's own list of authorities is not
/// consulted: a cluster's certificates come from an authority of one's own, which is named here.
///
/// ```
/// use tenure_client::Tls;
///
/// # let (ca, certificate, key) = ("", "", "");
/// let tls = Tls::trusting(ca).identity(certificate, key).domain("n1.example");
/// # drop(tls);
/// ```
#[derive(Clone)]
#[must_use = "does nothing until it is given to a client"]
pub struct Tls {
    authorities: Vec<u8>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    domain: Option<String>,
}

impl Tls {
    /// Trusts servers whose certificates one of these authorities signed: one or more certificates in PEM.
    pub fn trusting(authorities: impl AsRef<[u8]>) -> Tls {
        Tls { authorities: authorities.as_ref().to_vec(), identity: None, domain: None }
    }

    /// Shows servers this certificate: the chain and the key, both in PEM.
    pub fn identity(mut self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Tls {
        self.identity = Some((certificate.as_ref().to_vec(), key.as_ref().to_vec()));
        self
    }

    /// Expects this name in every server's certificate. Otherwise it is the host of the endpoint's address.
    pub fn domain(mut self, domain: impl Into<String>) -> Tls {
        self.domain = Some(domain.into());
        self
    }

    pub(crate) fn config(&self) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.authorities));
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(domain) = &self.domain {
            config = config.domain_name(domain);
        }
        config
    }
}

/// Without the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_identity = self.identity.is_some();
        f.debug_struct("Tls").field("has_identity", &has_identity).field("domain", &self.domain).finish_non_exhaustive()
    }
}
