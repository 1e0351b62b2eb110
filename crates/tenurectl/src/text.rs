//! Bytes as text: how keys and values are printed, and how an argument is read.
//!
//! Keys and values are bytes, and a terminal obeys what is printed to it, so nothing unprintable is printed as it is. The
//! escaped form is one line and exact: `--unescape` reads it back. `é` stays `é`; a backslash is doubled.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use bytes::Bytes;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// How this run prints bytes and reads arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Style {
    /// Print every key and value in hexadecimal.
    pub hex: bool,
    /// Arguments hold escapes.
    pub unescape: bool,
}

impl Style {
    /// Bytes that know how they are to be shown.
    pub(crate) fn blob(self, bytes: &Bytes) -> Blob {
        Blob { bytes: bytes.clone(), hex: self.hex }
    }

    /// The bytes that an argument stands for.
    pub(crate) fn read(self, argument: &OsStr) -> Result<Bytes, String> {
        let bytes = argument.as_bytes();
        if self.unescape { unescape(bytes).map(Bytes::from) } else { Ok(Bytes::copy_from_slice(bytes)) }
    }
}

/// Bytes to be shown. In JSON a string if they are UTF-8 text, else `{"hex": "00ff"}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    bytes: Bytes,
    hex: bool,
}

impl Blob {
    /// One line, exact.
    pub(crate) fn line(&self) -> String {
        if self.hex { hex(&self.bytes) } else { escape(&self.bytes) }
    }

    /// For bytes that are shown alone: text stays as it is, with its lines.
    pub(crate) fn page(&self) -> String {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) if !self.hex && text.chars().all(|c| is_printable(c) || c == '\n' || c == '\t') => text.to_owned(),
            Ok(_) | Err(_) => self.line(),
        }
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) if !self.hex => serializer.serialize_str(text),
            Ok(_) | Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("hex", &hex(&self.bytes))?;
                map.end()
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        push(&mut text, format_args!("{byte:02x}"));
    }
    text
}

/// A text from elsewhere on one line, with nothing in it that a terminal obeys.
pub(crate) fn one_line(text: &str) -> String {
    escape(text.as_bytes())
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                c if is_printable(c) => text.push(c),
                c => push_escapes(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        push_escapes(&mut text, chunk.invalid());
    }
    text
}

fn push_escapes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        push(text, format_args!("\\x{byte:02x}"));
    }
}

fn push(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("invariant: a String takes whatever is written to it");
}

/// Neither a control character nor one that is invisible or turns the direction of the text around it.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn unescape(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            plain.push(byte);
            continue;
        }
        plain.push(match rest.next() {
            Some(b'\\') => b'\\',
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'x') => match (rest.next().and_then(digit), rest.next().and_then(digit)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err("\\x needs two hexadecimal digits".to_owned()),
            },
            Some(_) | None => return Err("the escapes are \\\\ \\n \\r \\t and \\xNN".to_owned()),
        });
    }
    Ok(plain)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    const PLAIN: Style = Style { hex: false, unescape: false };
    const HEX: Style = Style { hex: true, unescape: false };

    fn blob(style: Style, bytes: &[u8]) -> Blob {
        style.blob(&Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn a_line_shows_text_as_it_is_and_escapes_the_rest() {
        for (bytes, line) in [
            (&b"service/web/1"[..], "service/web/1"),
            ("grüße 東京".as_bytes(), "grüße 東京"),
            (b"", ""),
            (b"a\nb\tc\r", "a\\nb\\tc\\r"),
            (b"C:\\temp", "C:\\\\temp"),
            (b"\x00\xff", "\\x00\\xff"),
            (b"ok\x1b[31m", "ok\\x1b[31m"),
            ("right\u{202e}left".as_bytes(), "right\\xe2\\x80\\xaeleft"),
            (b"\xe6\x9d", "\\xe6\\x9d"),
        ] {
            assert_eq!(blob(PLAIN, bytes).line(), line);
        }
        assert_eq!(blob(HEX, b"a\n").line(), "610a");
    }

    #[test]
    fn a_page_keeps_the_lines_of_text_and_escapes_what_is_not_text() {
        assert_eq!(blob(PLAIN, b"one\n\ttwo \\ three\n").page(), "one\n\ttwo \\ three\n");
        assert_eq!(blob(PLAIN, b"one\ntwo\x00").page(), "one\\ntwo\\x00");
        assert_eq!(blob(HEX, b"a\n").page(), "610a");
    }

    #[test]
    fn json_holds_text_as_a_string_and_other_bytes_in_hexadecimal() {
        let json = |style: Style, bytes: &[u8]| serde_json::to_string(&blob(style, bytes)).expect("json");
        assert_eq!(json(PLAIN, b"a\"\n\x00"), r#""a\"\n\u0000""#);
        assert_eq!(json(PLAIN, b"\x00\xff"), r#"{"hex":"00ff"}"#);
        assert_eq!(json(HEX, b"a"), r#"{"hex":"61"}"#);
    }

    #[test]
    fn arguments_are_bytes_unless_they_hold_escapes() {
        let read = |unescape, argument: &'static [u8]| {
            Style { hex: false, unescape }.read(OsStr::from_bytes(argument)).map(Vec::from)
        };
        assert_eq!(read(false, b"a\\x00\xff"), Ok(b"a\\x00\xff".to_vec()));
        assert_eq!(read(true, b"a\\x00\\n\\\\\xff"), Ok(b"a\x00\n\\\xff".to_vec()));
        for wrong in [&b"\\"[..], b"\\q", b"\\x", b"\\x1", b"\\xg0"] {
            assert!(read(true, wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_line_shows_can_be_read_back(bytes in any::<Vec<u8>>()) {
            let line = blob(PLAIN, &bytes).line();
            assert!(line.chars().all(is_printable), "{line:?}");
            assert_eq!(unescape(line.as_bytes()), Ok(bytes));
        }
    }
}
