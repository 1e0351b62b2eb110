//! The head of a request: checked once, then read by name, and turned into a `HeaderMap` only for who wants one.
//!
//! All text lies in one piece. A head is shared: clients send the same one again and again, so the connection keeps the
//! last few (see [`Heads`]).

use std::fmt;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::hpack::{Decoder, Effect, HpackError};

/// A field's place in the text; its value ends where the next field begins.
#[derive(Clone, Copy)]
struct Span {
    name: usize,
    value: usize,
    end: usize,
}

/// Fields in the order of their arrival.
#[derive(Default)]
pub(crate) struct Fields {
    text: Vec<u8>,
    spans: Vec<Span>,
}

impl Fields {
    fn push(&mut self, name: &[u8], value: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.spans.push(Span { name: start, value: start + name.len(), end: self.text.len() });
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|span| (&self.text[span.name..span.value], &self.text[span.value..span.end]))
    }

    pub(crate) fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.spans.len());
        for (name, value) in self.iter() {
            // What is checked when a head is read is no less strict.
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                map.append(name, value);
            }
        }
        map
    }
}

/// The head of a request.
pub struct Head {
    method: Method,
    path: Box<str>,
    authority: Option<Box<str>>,
    is_https: bool,
    content_length: Option<u64>,
    fields: Fields,
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Head {
    /// The method, POST for every call of gRPC.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path, with its query if it has one.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whom the client meant to talk to.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The value of the first field of a name, which is given in lower case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
    }

    /// All fields but those that HTTP/2 itself needs.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter()
    }

    /// The fields as a map.
    pub fn headers(&self) -> HeaderMap {
        self.fields.to_map()
    }

    pub(crate) fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// As a request of the `http` crate, if its address makes sense.
    pub(crate) fn to_request<B>(&self, body: B) -> Result<http::Request<B>, http::Error> {
        let scheme = if self.is_https { "https" } else { "http" };
        // Names of sockets are not always what may stand in an address.
        let authority = self.authority.as_deref().and_then(|authority| Authority::try_from(authority).ok());
        let uri = match authority {
            Some(authority) => {
                Uri::builder().scheme(scheme).authority(authority).path_and_query(&*self.path).build()?
            }
            None => Uri::try_from(&*self.path)?,
        };
        let mut request = http::Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = self.headers();
        Ok(request)
    }
}

/// What is known of a head while it is read.
struct Reading {
    method: Option<Method>,
    path: Option<Box<str>>,
    authority: Option<Box<str>>,
    is_https: Option<bool>,
    content_length: Option<u64>,
    fields: Fields,
    bytes_left: Option<usize>,
    is_malformed: bool,
}

/// Why a head is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    Malformed,
    TooLarge,
}

impl Reading {
    fn new(bytes_max: usize) -> Reading {
        Reading {
            method: None,
            path: None,
            authority: None,
            is_https: None,
            content_length: None,
            fields: Fields::default(),
            bytes_left: Some(bytes_max),
            is_malformed: false,
        }
    }

    /// Takes a field; answers false for one that makes the head malformed.
    fn field(&mut self, name: &[u8], mut value: &[u8], may_be_pseudo: bool) -> bool {
        let size = name.len() + value.len() + 32;
        self.bytes_left = self.bytes_left.and_then(|left| left.checked_sub(size));
        if self.bytes_left.is_none() {
            return true;
        }
        if !is_value(value) {
            return false;
        }
        if name.first() == Some(&b':') {
            return may_be_pseudo && self.fields.spans.is_empty() && self.pseudo(name, value);
        }
        // RFC 9113, section 8.2.1, calls blanks at a value's ends malformed; yet clients of gRPC send metadata as it is, and
        // other servers take them.
        while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
            value = rest;
        }
        let is_fine = match name {
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => false,
            b"te" => value == b"trailers",
            b"content-length" => {
                let length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                let is_same = self.content_length.is_none() || self.content_length == length;
                self.content_length = length;
                is_same && length.is_some() && value.first() != Some(&b'+')
            }
            _ => is_name(name),
        };
        if is_fine {
            self.fields.push(name, value);
        }
        is_fine
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> bool {
        let text = || {
            let is_visible = value.iter().all(|byte| (0x21..0x7f).contains(byte));
            std::str::from_utf8(value).ok().filter(|_| is_visible && !value.is_empty()).map(Box::<str>::from)
        };
        match name {
            b":method" => set(&mut self.method, Method::from_bytes(value).ok()),
            b":scheme" => set(&mut self.is_https, text().map(|scheme| &*scheme == "https")),
            b":path" => set(&mut self.path, text().filter(|path| path.starts_with('/') || &**path == "*")),
            // Clients on a unix socket may have no name for the server.
            b":authority" if value.is_empty() => true,
            b":authority" => set(&mut self.authority, text()),
            _ => false,
        }
    }

    fn finish(self) -> Result<Head, Unusable> {
        if self.bytes_left.is_none() {
            return Err(Unusable::TooLarge);
        }
        match (self.method, self.path, self.is_https) {
            (Some(method), Some(path), Some(is_https)) if !self.is_malformed => Ok(Head {
                method,
                path,
                authority: self.authority,
                is_https,
                content_length: self.content_length,
                fields: self.fields,
            }),
            _ => Err(Unusable::Malformed),
        }
    }
}

/// Sets what may be set once, and only to something.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let is_first = place.is_none();
    *place = value;
    is_first && place.is_some()
}

/// A token in lower case.
fn is_name(name: &[u8]) -> bool {
    let is_token = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
    !name.is_empty() && name.iter().all(is_token)
}

/// No byte that RFC 9113, section 8.2.1, forbids, nor one that a `HeaderValue` cannot hold.
fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f))
}

/// How many heads are kept, and the longest block that is.
const KEPT: usize = 4;
const KEPT_BLOCK_BYTES: usize = 256;

/// A block is read to its end, because the table has to follow, as long as it stands for no more than so many times the
/// longest list. Beyond it, the connection ends.
const READ_LISTS_MAX: usize = 4;

/// Reads header blocks, and keeps the last few heads: a block that did not change the table stands for the same head until
/// the table changes. Most requests of a client are found here, for the price of comparing a dozen bytes.
pub(crate) struct Heads {
    decoder: Decoder,
    kept: Vec<(Box<[u8]>, Arc<Head>)>,
    /// Where the next one is kept.
    next: usize,
    list_bytes_max: usize,
}

impl Heads {
    pub(crate) fn new(list_bytes_max: usize) -> Heads {
        Heads { decoder: Decoder::new(), kept: Vec::new(), next: 0, list_bytes_max }
    }

    /// The head that a block stands for.
    pub(crate) fn read(&mut self, block: &[u8]) -> Result<Result<Arc<Head>, Unusable>, HpackError> {
        if let Some((_, head)) = self.kept.iter().find(|(kept, _)| **kept == *block) {
            return Ok(Ok(head.clone()));
        }
        let mut reading = Reading::new(self.list_bytes_max);
        let effect =
            self.decoder.decode(block, self.list_bytes_max.saturating_mul(READ_LISTS_MAX), |name, value| {
                reading.is_malformed |= !reading.field(name, value, true);
            })?;
        let head = reading.finish().map(Arc::new);
        match (&head, effect) {
            (_, Effect::Changed) => self.kept.clear(),
            (Ok(head), Effect::None) if block.len() <= KEPT_BLOCK_BYTES => self.keep(block, head.clone()),
            _ => {}
        }
        Ok(head)
    }

    fn keep(&mut self, block: &[u8], head: Arc<Head>) {
        if self.kept.len() < KEPT {
            self.kept.push((block.into(), head));
        } else {
            self.kept[self.next % KEPT] = (block.into(), head);
            self.next = self.next.wrapping_add(1);
        }
    }

    /// The trailers that a block stands for.
    pub(crate) fn read_trailers(&mut self, block: &[u8]) -> Result<Result<HeaderMap, Unusable>, HpackError> {
        let mut reading = Reading::new(self.list_bytes_max);
        let effect =
            self.decoder.decode(block, self.list_bytes_max.saturating_mul(READ_LISTS_MAX), |name, value| {
                reading.is_malformed |= !reading.field(name, value, false);
            })?;
        if effect == Effect::Changed {
            self.kept.clear();
        }
        Ok(if reading.is_malformed || reading.bytes_left.is_none() {
            Err(Unusable::Malformed)
        } else {
            Ok(reading.fields.to_map())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.extend_from_slice(&[0, u8::try_from(name.len()).expect("short")]);
            block.extend_from_slice(name.as_bytes());
            block.push(u8::try_from(value.len()).expect("short"));
            block.extend_from_slice(value.as_bytes());
        }
        block
    }

    const START: [(&str, &str); 3] = [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C")];

    fn read(more: &[(&str, &str)]) -> Result<Arc<Head>, Unusable> {
        let all: Vec<_> = START.iter().chain(more).copied().collect();
        Heads::new(1000).read(&block(&all)).expect("a block")
    }

    #[test]
    fn a_head_is_read_by_name_and_as_a_request() {
        let head = read(&[(":authority", "host:1"), ("te", "trailers"), ("x", "1"), ("x", "2")]).expect("a head");
        assert_eq!((head.path(), head.method(), head.authority()), ("/a.B/C", &Method::POST, Some("host:1")));
        assert_eq!((head.get("x"), head.get("y")), (Some(&b"1"[..]), None));
        let request = head.to_request(()).expect("a request");
        assert_eq!(request.uri(), "http://host:1/a.B/C");
        assert_eq!(request.headers().get_all("x").iter().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn a_server_without_a_proper_name_is_served() {
        for authority in ["", "%2Ftmp%2Fmember.sock", "a b"] {
            let head = read(&[(":authority", authority)]);
            assert_eq!(head.is_ok(), !authority.contains(' '));
            let Ok(head) = head else { continue };
            assert_eq!(head.to_request(()).expect("a request").uri().path(), "/a.B/C");
        }
    }

    /// It should be malformed; but clients of gRPC send what they are given, and other servers take it.
    #[test]
    fn blanks_around_a_value_are_no_part_of_it() {
        let head = read(&[("x", " a b\t"), ("y", " "), ("te", "trailers "), ("content-length", " 7")]).expect("a head");
        assert_eq!((head.get("x"), head.get("y"), head.content_length()), (Some(&b"a b"[..]), Some(&b""[..]), Some(7)));
    }

    #[test]
    fn what_rfc_9113_calls_malformed_is_refused() {
        for more in [
            &[("X", "upper case")][..],
            &[("a b", "no token")],
            &[("", "no name")],
            &[(":authority", " host")],
            &[("x", "a\nb")],
            &[("x", "a\0b")],
            &[("connection", "close")],
            &[("transfer-encoding", "chunked")],
            &[("te", "gzip")],
            &[(":path", "/twice")],
            &[(":status", "200")],
            &[("x", "1"), (":authority", "late")],
            &[("content-length", "1"), ("content-length", "2")],
            &[("content-length", "+1")],
        ] {
            assert_eq!(read(more).err(), Some(Unusable::Malformed), "{more:?}");
        }
        for missing in 0..3 {
            let mut fields = START.to_vec();
            fields.remove(missing);
            assert!(Heads::new(1000).read(&block(&fields)).expect("a block").is_err());
        }
        assert!(Heads::new(1000).read_trailers(&block(&START)).expect("a block").is_err());
    }

    #[test]
    fn a_list_too_large_is_told_apart_and_the_next_one_is_read() {
        let mut heads = Heads::new(200);
        let long = "x".repeat(100);
        let fields: Vec<_> = START.iter().copied().chain([("x", long.as_str())]).collect();
        assert_eq!(heads.read(&block(&fields)).expect("a block").err(), Some(Unusable::TooLarge));
        assert!(heads.read(&block(&START)).expect("a block").is_ok());
    }

    #[test]
    fn a_head_seen_before_is_kept_until_the_table_changes() {
        let mut heads = Heads::new(1000);
        let block = block(&START);
        let first = heads.read(&block).expect("a block").expect("a head");
        let second = heads.read(&block).expect("a block").expect("a head");
        assert!(Arc::ptr_eq(&first, &second));
        // A field that goes into the table, in a block of its own.
        assert!(heads.read_trailers(&[0x40, 1, b'a', 1, b'b']).expect("a block").is_ok());
        let third = heads.read(&block).expect("a block").expect("a head");
        assert!(!Arc::ptr_eq(&first, &third));
    }
}
