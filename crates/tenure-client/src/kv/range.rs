//! Which keys are meant.

use std::fmt;

use bytes::Bytes;

use crate::namespace::prefix_end;

/// One key, or those between two.
///
/// ```
/// use tenure_client::KeyRange;
///
/// assert!(KeyRange::prefix("jobs/").contains(b"jobs/nightly"));
/// assert!(!KeyRange::from("jobs/").contains(b"jobs/nightly"));
/// assert!(KeyRange::between("a", "c").contains(b"b"));
/// assert!(KeyRange::starting_at("b").contains(b"z") && KeyRange::all().contains(b"a"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    start: Bytes,
    /// As on the wire: empty for one key, a zero byte for no end.
    end: Bytes,
}

/// No end.
const OPEN: &[u8] = &[0];

impl KeyRange {
    /// This key.
    pub fn one(key: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: key.into(), end: Bytes::new() }
    }

    /// All keys that begin with this.
    pub fn prefix(prefix: impl Into<Bytes>) -> KeyRange {
        let prefix = prefix.into();
        if prefix.is_empty() {
            return KeyRange::all();
        }
        KeyRange { end: prefix_end(&prefix), start: prefix }
    }

    /// The keys from the first on, up to the last, which is not among them.
    pub fn between(first: impl Into<Bytes>, last: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: first.into(), end: last.into() }
    }

    /// This key and all that come after it.
    pub fn starting_at(key: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: key.into(), end: Bytes::from_static(OPEN) }
    }

    /// All keys.
    pub fn all() -> KeyRange {
        KeyRange { start: Bytes::from_static(OPEN), end: Bytes::from_static(OPEN) }
    }

    /// Whether it is a single key.
    pub fn is_one(&self) -> bool {
        self.end.is_empty()
    }

    /// Where it begins.
    pub fn start(&self) -> &Bytes {
        &self.start
    }

    /// As on the wire.
    pub(crate) fn end(&self) -> &Bytes {
        &self.end
    }

    /// Whether the key is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_one() {
            return key == self.start;
        }
        // All keys begin at the one that no key is before.
        let is_all = self.start == OPEN && self.end == OPEN;
        (is_all || key >= self.start.as_ref()) && (self.end == OPEN || key < self.end.as_ref())
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.start.escape_ascii())?;
        if self.is_one() {
            return Ok(());
        }
        f.write_str("..")?;
        if self.end == OPEN { Ok(()) } else { write!(f, "{}", self.end.escape_ascii()) }
    }
}

/// A key by itself means itself alone.
impl<K: Into<Bytes>> From<K> for KeyRange {
    fn from(key: K) -> KeyRange {
        KeyRange::one(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;
    use crate::namespace::Namespace;

    proptest! {
        #[test]
        fn a_prefix_holds_what_begins_with_it_and_nothing_else(prefix in any::<Vec<u8>>(), key in any::<Vec<u8>>()) {
            let range = KeyRange::prefix(prefix.clone());
            // No store has a key without bytes.
            assert!(key.is_empty() || range.contains(&key) == key.starts_with(&prefix));
            let within = [&prefix[..], &key[..]].concat();
            assert!(within.is_empty() || range.contains(&within));
        }

        /// What is sent for a range of a namespace holds a key if and only if the range holds it without the prefix.
        #[test]
        fn a_namespace_changes_no_range(
            space in proptest::collection::vec(any::<u8>(), 1..4),
            (start, end, key) in any::<(Vec<u8>, Vec<u8>, Vec<u8>)>(),
            kind in 0..4_u8,
        ) {
            let range = match kind {
                0 => KeyRange::one(start),
                1 => KeyRange::prefix(start),
                2 => KeyRange::between(start, end),
                _ => KeyRange::starting_at(start),
            };
            // No store has a key without bytes, so that of a namespace cannot be told from none.
            if !key.is_empty() {
                let space = Namespace::new(space.into());
                let (start, end) = space.wrap_range(range.start.clone(), range.end.clone());
                let sent = KeyRange { start, end };
                assert_eq!(sent.contains(&space.wrap(key.clone())), range.contains(&key), "{range} as {sent}");
            }
        }
    }
}
