//! Where instances stand in the store: `discovery/<registry>/<kind>/<id>`, each name percent-encoded.
//!
//! A name may hold any character, `/` included, because everything but ASCII letters, digits and `-`, `_`, `.`, `~` is encoded. There
//! is exactly one spelling of each name: a key whose names are spelt otherwise is no instance's key, so that the same
//! instance cannot stand there twice. This file reads and writes no values.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::error::DiscoveryError;

/// What every registry's keys begin with.
pub const ROOT: &str = "discovery/";

/// How long a name may be, in bytes before it is encoded. Three names of this length, all encoded, make a key of under 10 kB.
pub const NAME_BYTES_MAX: usize = 1024;

/// What is encoded: all but the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The key of an instance.
///
/// # Errors
///
/// [`DiscoveryError::BadName`] if a name is empty or longer than [`NAME_BYTES_MAX`].
///
/// ```
/// let key = tenure_client::discovery::instance_key("prod", "room", "eu/7")?;
/// assert_eq!(key, "discovery/prod/room/eu%2F7");
/// # Ok::<(), tenure_client::discovery::DiscoveryError>(())
/// ```
pub fn instance_key(registry: &str, kind: &str, id: &str) -> Result<String, DiscoveryError> {
    let mut key = kind_prefix(registry, kind)?;
    key.extend(encoded("id", id)?);
    Ok(key)
}

/// What the keys of all instances of a kind begin with. Errors as those of [`instance_key`].
pub fn kind_prefix(registry: &str, kind: &str) -> Result<String, DiscoveryError> {
    let mut prefix = registry_prefix(registry)?;
    prefix.extend(encoded("kind", kind)?);
    prefix.push('/');
    Ok(prefix)
}

/// What the keys of all instances of a registry begin with. Errors as those of [`instance_key`].
pub fn registry_prefix(registry: &str) -> Result<String, DiscoveryError> {
    let mut prefix = ROOT.to_owned();
    prefix.extend(encoded("registry", registry)?);
    prefix.push('/');
    Ok(prefix)
}

fn encoded<'a>(what: &'static str, name: &'a str) -> Result<percent_encoding::PercentEncode<'a>, DiscoveryError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(DiscoveryError::BadName { what, name: name.chars().take(64).collect() });
    }
    Ok(utf8_percent_encode(name, ENCODED))
}

/// The kind and the id that a key names, given what the registry's keys begin with. None if it is no instance's key.
pub(super) fn parse_key(registry_prefix: &str, key: &[u8]) -> Option<(String, String)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(registry_prefix)?;
    let (kind, id) = rest.split_once('/')?;
    Some((decoded(kind)?, decoded(id)?))
}

fn decoded(segment: &str) -> Option<String> {
    let name = percent_decode_str(segment).decode_utf8().ok()?.into_owned();
    let spelt: String = encoded("name", &name).ok()?.collect();
    (spelt == segment).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_names_come_back_from_their_key(registry in ".{1,20}", kind in ".{1,20}", id in ".{1,20}") {
            let key = instance_key(&registry, &kind, &id).unwrap();
            let prefix = registry_prefix(&registry).unwrap();
            prop_assert_eq!(parse_key(&prefix, key.as_bytes()), Some((kind.clone(), id)));
            prop_assert!(key.starts_with(&kind_prefix(&registry, &kind).unwrap()));
            prop_assert_eq!(key.matches('/').count(), 3);
        }

        #[test]
        fn no_two_keys_name_the_same_instance(key in "discovery/r/[a-c%/0-9A-F.~]{0,12}") {
            let prefix = registry_prefix("r").unwrap();
            if let Some((kind, id)) = parse_key(&prefix, key.as_bytes()) {
                prop_assert_eq!(instance_key("r", &kind, &id).unwrap(), key);
            }
        }

        #[test]
        fn no_bytes_make_the_reader_of_keys_panic(key in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some((kind, id)) = parse_key("discovery/r/", &[b"discovery/r/".as_slice(), &key].concat()) {
                prop_assert!(!kind.is_empty() && !id.is_empty());
            }
            prop_assert_eq!(parse_key("discovery/r/", &key), None);
        }
    }

    #[test]
    fn a_registry_is_not_a_prefix_of_another() {
        let prefix = registry_prefix("prod").unwrap();
        assert!(!instance_key("prod-eu", "room", "1").unwrap().starts_with(&prefix));
        assert!(!instance_key("prod/eu", "room", "1").unwrap().starts_with(&prefix));
    }

    #[test]
    fn names_that_are_empty_or_too_long_are_refused() {
        for (registry, kind, id) in [("", "k", "i"), ("r", "", "i"), ("r", "k", "")] {
            assert!(matches!(instance_key(registry, kind, id), Err(DiscoveryError::BadName { .. })));
        }
        assert!(instance_key("r", "k", &"i".repeat(NAME_BYTES_MAX)).is_ok());
        assert!(instance_key("r", "k", &"i".repeat(NAME_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn another_spelling_of_a_name_is_no_key() {
        for key in ["discovery/r/k/a%2f", "discovery/r/k/%61", "discovery/r/k/", "discovery/r/k", "discovery/r/k/a/b"] {
            assert_eq!(parse_key("discovery/r/", key.as_bytes()), None, "{key}");
        }
    }
}
