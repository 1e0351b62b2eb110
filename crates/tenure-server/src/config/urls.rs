//! URLs as etcd's flags take them: a scheme, a host and a port, or the path of a socket, and nothing else.
//!
//! The grammar is so small that it is parsed here by hand, which keeps etcd's error texts and refuses what a general
//! parser would quietly accept or repair (a path, a user, a missing port).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// More URLs than this in one flag is a mistake, not a cluster.
pub(super) const URLS_PER_FLAG_MAX: usize = 64;

/// DNS names end at 253 bytes.
const HOST_BYTES_MAX: usize = 253;

/// What the kernel takes as a socket's path, without the byte that ends it.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// An `http://host:port` or `unix://path` URL; `https` and `unixs` speak TLS.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    scheme: &'static str,
    place: Place,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Place {
    Host(String, u16),
    Socket(PathBuf),
}

/// A URL to listen on: its host is an address, or `localhost`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenUrl {
    /// As written.
    pub url: Url,
    /// Where to bind.
    pub address: ListenAddress,
}

/// Where a server can be reached on its own machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenAddress {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// What is wrong with a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UrlError(pub(super) String);

fn invalid<T>(reason: String) -> Result<T, UrlError> {
    Err(UrlError(reason))
}

impl Url {
    /// Parses one URL; white space around it is no part of it.
    pub(super) fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
        match scheme.to_ascii_lowercase().as_str() {
            "http" => Url::parse_host("http", text, rest),
            "https" => Url::parse_host("https", text, rest),
            "unix" => Url::parse_socket("unix", text, rest),
            "unixs" => Url::parse_socket("unixs", text, rest),
            _ => invalid(format!("URL scheme must be http, https, unix, or unixs: {text}")),
        }
    }

    fn parse_host(scheme: &'static str, text: &str, rest: &str) -> Result<Self, UrlError> {
        let not_host_port = || format!("URL address does not have the form \"host:port\": {text}");
        let Some(authority) = rest.strip_prefix("//") else { return invalid(not_host_port()) };
        if authority.contains('/') {
            return invalid(format!("URL must not contain a path: {text}"));
        }
        if authority.contains(['?', '#', '@']) {
            return invalid(format!("URL must not contain a user, a query or a fragment: {text}"));
        }
        let Some((host, port)) = split_host_port(authority) else { return invalid(not_host_port()) };
        // Digits only: `parse` would take a sign too.
        let port =
            Some(port).filter(|port| port.bytes().all(|b| b.is_ascii_digit())).and_then(|port| port.parse().ok());
        let Some(port) = port else { return invalid(format!("port must be a number from 0 to 65535: {text}")) };
        let host = host.to_ascii_lowercase();
        if host.len() > HOST_BYTES_MAX || !(host.is_empty() || is_address(&host) || is_name(&host)) {
            return invalid(format!("host must be a name or an IP address: {text}"));
        }
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Url { text: format!("{scheme}://{authority}"), scheme, place: Place::Host(host, port) })
    }

    fn parse_socket(scheme: &'static str, text: &str, rest: &str) -> Result<Self, UrlError> {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() || path.ends_with('/') || path.contains(['?', '#', '\0']) {
            return invalid(format!("URL must name a socket, as in unix:///run/tenure.sock: {text}"));
        }
        if path.len() > SOCKET_PATH_BYTES_MAX {
            return invalid(format!("a socket's path may have at most {SOCKET_PATH_BYTES_MAX} bytes: {text}"));
        }
        Ok(Url { text: format!("{scheme}://{path}"), scheme, place: Place::Socket(PathBuf::from(path)) })
    }

    /// The host, unless this names a socket: a name or an address, IPv6 without brackets.
    pub fn host(&self) -> Option<&str> {
        match &self.place {
            Place::Host(host, _) => Some(host),
            Place::Socket(_) => None,
        }
    }

    /// Whether TLS is spoken there.
    pub fn is_secure(&self) -> bool {
        matches!(self.scheme, "https" | "unixs")
    }

    /// The path of a unix socket, if this names one.
    pub fn socket(&self) -> Option<&Path> {
        match &self.place {
            Place::Host(..) => None,
            Place::Socket(path) => Some(path),
        }
    }

    /// The whole URL.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the host stands for every address of the machine (`0.0.0.0`, `::`), which nobody can dial.
    pub fn is_wildcard(&self) -> bool {
        matches!(&self.place, Place::Host(host, _) if host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()))
    }

    /// Whether somebody else could dial this.
    pub(super) fn is_dialable(&self) -> bool {
        match &self.place {
            Place::Host(host, port) => !host.is_empty() && *port != 0,
            Place::Socket(_) => true,
        }
    }

    /// The same URL with `localhost` as the address that it stands for, for comparing two spellings.
    pub(super) fn canonical(&self) -> String {
        match &self.place {
            Place::Host(host, port) if host == "localhost" => format!("{}://127.0.0.1:{port}", self.scheme),
            Place::Host(..) | Place::Socket(_) => self.text.clone(),
        }
    }
}

impl ListenUrl {
    /// Parses a URL to bind; names other than `localhost` are refused, as etcd does, because a name may resolve to
    /// another address tomorrow.
    pub(super) fn parse(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text)?;
        let address = match &url.place {
            Place::Socket(path) => ListenAddress::Unix(path.clone()),
            Place::Host(host, port) if host == "localhost" => {
                ListenAddress::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), *port))
            }
            Place::Host(host, port) => match host.parse() {
                Ok(host) => ListenAddress::Tcp(SocketAddr::new(host, *port)),
                Err(_) => return invalid(format!("expected IP in URL for binding ({})", url.text)),
            },
        };
        Ok(ListenUrl { url, address })
    }
}

/// Parses a URL of the peer port. Members are on different machines, so a socket cannot be meant.
pub(super) fn no_socket<T>(parse: impl Fn(&str) -> Result<T, UrlError>) -> impl Fn(&str) -> Result<T, UrlError> {
    move |text| {
        if Url::parse(text)?.socket().is_some() {
            return invalid(format!("members talk over TCP, so give them an http:// URL: {}", text.trim()));
        }
        parse(text)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for ListenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// A comma-separated list, sorted and without repetitions, as etcd keeps it. Empty text is an empty list.
pub(super) fn parse_list<T: Ord>(text: &str, parse: impl Fn(&str) -> Result<T, UrlError>) -> Result<Vec<T>, UrlError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    if text.split(',').count() > URLS_PER_FLAG_MAX {
        return Err(UrlError(format!("more than {URLS_PER_FLAG_MAX} URLs")));
    }
    let mut urls = text.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// URLs as a flag would spell them.
pub(super) fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",")
}

fn split_host_port(authority: &str) -> Option<(&str, &str)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = rest.strip_prefix(':')?;
        return host.parse::<Ipv6Addr>().is_ok().then_some((host, port));
    }
    let (host, port) = authority.split_once(':')?;
    (!port.contains(':') && !port.is_empty()).then_some((host, port))
}

fn is_address(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

fn is_name(host: &str) -> bool {
    host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> ListenAddress {
        ListenAddress::Tcp(address.parse().unwrap())
    }

    #[test]
    fn a_url_is_a_scheme_a_host_and_a_port() {
        let cases = [
            ("http://127.0.0.1:2379", "127.0.0.1", 2379, "http://127.0.0.1:2379"),
            ("  http://node-a.example:1 ", "node-a.example", 1, "http://node-a.example:1"),
            ("HTTP://Node_A:80", "node_a", 80, "http://node_a:80"),
            ("http://[::1]:2380", "::1", 2380, "http://[::1]:2380"),
            ("http://0.0.0.0:0", "0.0.0.0", 0, "http://0.0.0.0:0"),
        ];
        for (text, host, port, normal) in cases {
            let url = Url::parse(text).unwrap();
            let place = Place::Host(host.to_owned(), port);
            assert_eq!((url.place == place, url.as_str()), (true, normal), "{text}");
        }
    }

    #[test]
    fn a_malformed_url_is_refused_in_the_words_of_etcd() {
        let cases = [
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("http:a:1", "URL address does not have the form \"host:port\": http:a:1"),
            ("http://a", "URL address does not have the form \"host:port\": http://a"),
            ("http://a:", "URL address does not have the form \"host:port\": http://a:"),
            ("http://::1:2379", "URL address does not have the form \"host:port\": http://::1:2379"),
            ("http://[a]:1", "URL address does not have the form \"host:port\": http://[a]:1"),
            ("http://[::1]", "URL address does not have the form \"host:port\": http://[::1]"),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            ("http://u@a:1", "URL must not contain a user, a query or a fragment: http://u@a:1"),
            ("http://a:+1", "port must be a number from 0 to 65535: http://a:+1"),
            ("http://a:65536", "port must be a number from 0 to 65535: http://a:65536"),
            ("http://a b:1", "host must be a name or an IP address: http://a b:1"),
        ];
        for (text, reason) in cases {
            assert_eq!(Url::parse(text), Err(UrlError(reason.to_owned())), "{text}");
        }
    }

    #[test]
    fn schemes_with_an_s_at_their_end_speak_tls() {
        for (text, secure) in [("https://a:1", true), ("http://a:1", false), ("unixs:///a", true), ("unix:///a", false)]
        {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.is_secure(), url.as_str()), (secure, text));
        }
        assert_ne!(
            Url::parse("http://localhost:1").unwrap().canonical(),
            Url::parse("https://localhost:1").unwrap().canonical()
        );
    }

    #[test]
    fn a_unix_url_names_a_socket() {
        let cases = [
            ("unix:///run/tenure.sock", "/run/tenure.sock"),
            (" unix:///a", "/a"),
            ("unix://localhost:2379", "localhost:2379"),
            ("unix:/run/a", "/run/a"),
        ];
        for (text, path) in cases {
            let url = ListenUrl::parse(text).unwrap();
            assert_eq!(url.url.socket(), Some(Path::new(path)), "{text}");
            assert_eq!(url.address, ListenAddress::Unix(PathBuf::from(path)));
            assert_eq!(url.to_string(), format!("unix://{path}"));
            assert!(url.url.is_dialable() && !url.url.is_wildcard());
        }
        let long = format!("unix:///{}", "x".repeat(SOCKET_PATH_BYTES_MAX));
        for text in ["unix:", "unix://", "unix:///", "unix:///run/", "unix:///a?b", "unix:///a#b", "unix:///a\0", &long]
        {
            assert!(matches!(Url::parse(text), Err(UrlError(_))), "{text}");
        }
        let for_peers = no_socket(Url::parse);
        assert!(matches!(for_peers("unix:///run/a"), Err(UrlError(_))));
        assert!(for_peers("http://a:1").is_ok());
    }

    #[test]
    fn only_addresses_and_localhost_can_be_bound() {
        assert_eq!(ListenUrl::parse("http://localhost:1").unwrap().address, tcp("127.0.0.1:1"));
        assert_eq!(ListenUrl::parse("http://[::]:1").unwrap().address, tcp("[::]:1"));
        for (text, host) in [("http://example.com:1", "http://example.com:1"), ("http://:1", "http://:1")] {
            let reason = format!("expected IP in URL for binding ({host})");
            assert_eq!(ListenUrl::parse(text), Err(UrlError(reason)));
        }
    }

    #[test]
    fn a_list_is_sorted_and_free_of_repetitions() {
        let urls = parse_list("http://b:2,http://a:1, http://b:2", Url::parse).unwrap();
        assert_eq!(join(&urls), "http://a:1,http://b:2");
        assert_eq!(parse_list("", Url::parse), Ok(Vec::new()));
        let many = vec!["http://a:1"; URLS_PER_FLAG_MAX + 1].join(",");
        assert_eq!(parse_list(&many, Url::parse), Err(UrlError("more than 64 URLs".to_owned())));
    }

    #[test]
    fn wildcards_are_known_in_both_families() {
        for (text, wildcard) in [("http://0.0.0.0:1", true), ("http://[::]:1", true), ("http://127.0.0.1:1", false)] {
            assert_eq!(Url::parse(text).unwrap().is_wildcard(), wildcard, "{text}");
        }
    }
}
