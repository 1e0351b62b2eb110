//! Keys and values as text: how they are written into a recorded history and shown to people.
//!
//! Most are words, and a history is read by people when it fails, so a byte string that is plain text stands as itself.
//! Anything else, and text that looks like the escape, stands as `hex:` and its digits; so reading back gives the same bytes.

use core::fmt;

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const ESCAPE: &str = "hex:";

/// The text of some bytes.
pub fn to_text(bytes: &[u8]) -> String {
    match core::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(ESCAPE) && !text.chars().any(char::is_control) => text.to_owned(),
        Ok(_) | Err(_) => {
            let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{ESCAPE}{}", digits.concat())
        }
    }
}

/// The bytes of a text, or nothing if its escape is broken.
pub fn from_text(text: &str) -> Option<Bytes> {
    let Some(digits) = text.strip_prefix(ESCAPE) else { return Some(Bytes::copy_from_slice(text.as_bytes())) };
    if digits.len() % 2 != 0 || !digits.is_ascii() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>().map(Bytes::from)
}

/// Writes bytes as text.
pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    to_text(bytes).serialize(serializer)
}

/// Reads bytes from text.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(deserializer)?;
    from_text(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not hexadecimal")))
}

/// Bytes that print as text.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("\"\"");
        }
        f.write_str(&to_text(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_string_comes_back() {
        for bytes in [&b""[..], b"key", "schl\u{fc}ssel".as_bytes(), b"\0", b"hex:00", b"\xff\xfe", b"a\nb"] {
            assert_eq!(from_text(&to_text(bytes)).as_deref(), Some(bytes));
        }
        assert_eq!(to_text(b"a/b"), "a/b");
        assert_eq!(from_text("hex:0"), None);
        assert_eq!(from_text("hex:zz"), None);
    }
}
