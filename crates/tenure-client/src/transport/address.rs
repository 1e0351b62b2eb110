//! How the address of an endpoint is written.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tonic::transport::Uri;

use crate::error::Error;

/// etcd's client port.
const PORT_DEFAULT: u16 = 2379;

/// Where a member listens for clients: `HOST:PORT`, `http://HOST:PORT`, `https://HOST:PORT` or `unix://PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// `host:port`, and whether TLS is spoken.
    Tcp { authority: String, is_tls: bool },
    /// A unix socket.
    Unix(PathBuf),
}

impl Address {
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Address::Tcp { is_tls: true, .. })
    }

    /// What requests name as their target.
    pub(crate) fn url(&self) -> String {
        match self {
            Address::Tcp { authority, is_tls: true } => format!("https://{authority}"),
            Address::Tcp { authority, is_tls: false } => format!("http://{authority}"),
            // The path is no authority; what stands here only has to be one.
            Address::Unix(_) => "http://localhost".to_owned(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { authority, is_tls: false } => f.write_str(authority),
            Address::Tcp { authority, is_tls: true } => write!(f, "https://{authority}"),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address, Error> {
        let wrong = || {
            Error::Invalid(format!(
                "{text:?} is no address: HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix://PATH is meant"
            ))
        };
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(wrong()) } else { Ok(Address::Unix(PathBuf::from(path))) };
        }
        let is_tls = text.starts_with("https://");
        let bare = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
        let authority = bare.strip_suffix('/').unwrap_or(bare);
        let uri: Uri = format!("http://{authority}").parse().map_err(|_| wrong())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let is_bare = uri.path() == "/" && uri.query().is_none() && !authority.contains(['@', '/', '#']);
        // A colon that is followed by no number in range is no port.
        let has_port = authority.len() > host.len();
        if !is_bare || (has_port && uri.port_u16().is_none()) {
            return Err(wrong());
        }
        Ok(Address::Tcp { authority: format!("{host}:{}", uri.port_u16().unwrap_or(PORT_DEFAULT)), is_tls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_scheme_and_port() {
        for (text, shown) in [
            ("127.0.0.1:2379", "127.0.0.1:2379"),
            ("http://n1.example:22379/", "n1.example:22379"),
            ("https://n1.example", "https://n1.example:2379"),
            (" n1 ", "n1:2379"),
            ("[::1]:2379", "[::1]:2379"),
            ("http://[::1]", "[::1]:2379"),
            ("unix:///run/tenure.sock", "unix:///run/tenure.sock"),
            ("unix:tenure.sock", "unix://tenure.sock"),
        ] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_meant() {
        for text in [
            "",
            "http://",
            ":2379",
            "n1:",
            "n1:x",
            "n1:99999",
            "n1:1/path",
            "n1?q",
            "u@n1:1",
            "ftp://n1",
            "unix:",
            "a b",
        ] {
            let refused = text.parse::<Address>().expect_err(text);
            assert!(refused.to_string().contains("is meant"), "{refused}");
        }
    }
}
