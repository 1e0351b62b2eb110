//! A lock that a request depends on, as its metadata tells it.
//!
//! Three entries name the holder's key, its token and its lease. A put or delete that carries them is carried out only while
//! the lock is held, which is decided when it is applied. They have to be right where they are, and may not be where they
//! would do nothing: who sends them relies on them.

use tenure_core::command::LockGuard;
use tenure_core::{LeaseId, Revision};
use tonic::metadata::MetadataMap;

use super::errors::ApiError;

/// The holder's key, as bytes.
const KEY: &str = "tenure-lock-key-bin";
/// Its create revision and its lease, as decimal numbers.
const TOKEN: &str = "tenure-lock-token";
const LEASE: &str = "tenure-lock-lease";

const INCOMPLETE: ApiError = ApiError::Invalid(
    "a guard has three metadata entries: tenure-lock-key-bin, tenure-lock-token and tenure-lock-lease",
);

/// The guard of a request, if it has one.
pub(super) fn guard_of(metadata: &MetadataMap) -> Result<Option<LockGuard>, ApiError> {
    let (key, token, lease) = (metadata.get_bin(KEY), metadata.get(TOKEN), metadata.get(LEASE));
    if key.is_none() && token.is_none() && lease.is_none() {
        return Ok(None);
    }
    let key = key.and_then(|key| key.to_bytes().ok()).filter(|key| !key.is_empty());
    let number = |entry: Option<&tonic::metadata::AsciiMetadataValue>| {
        entry.and_then(|text| text.to_str().ok()?.parse::<i64>().ok()).ok_or(INCOMPLETE)
    };
    let (token, lease) = (Revision(number(token)?), LeaseId(number(lease)?));
    Ok(Some(LockGuard { key: key.ok_or(INCOMPLETE)?, token, lease }))
}

/// Refuses a guard where there is nothing that it could guard.
pub(super) fn no_guard(metadata: &MetadataMap) -> Result<(), ApiError> {
    match guard_of(metadata)? {
        None => Ok(()),
        Some(_) => Err(ApiError::Invalid("only Put and DeleteRange can be guarded; a transaction has compares")),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tonic::metadata::MetadataValue;

    use super::*;

    fn metadata(key: Option<&[u8]>, token: Option<&str>, lease: Option<&str>) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        if let Some(key) = key {
            metadata.insert_bin(KEY, MetadataValue::from_bytes(key));
        }
        for (name, text) in [(TOKEN, token), (LEASE, lease)] {
            if let Some(text) = text {
                metadata.insert(name, text.parse().expect("ASCII"));
            }
        }
        metadata
    }

    #[test]
    fn a_guard_is_whole_or_refused() {
        let guard = LockGuard { key: Bytes::from_static(b"n/\xff"), token: Revision(7), lease: LeaseId(-3) };
        let whole = metadata(Some(b"n/\xff"), Some("7"), Some("-3"));
        assert_eq!(guard_of(&whole), Ok(Some(guard)));
        assert!(no_guard(&whole).is_err());
        assert_eq!(guard_of(&MetadataMap::new()), Ok(None));
        assert_eq!(no_guard(&MetadataMap::new()), Ok(()));
        for (key, token, lease) in [
            (None, Some("7"), Some("3")),
            (Some(&b"n/3"[..]), None, Some("3")),
            (Some(&b"n/3"[..]), Some("7"), None),
            (Some(&b""[..]), Some("7"), Some("3")),
            (Some(&b"n/3"[..]), Some("seven"), Some("3")),
            (Some(&b"n/3"[..]), Some("7"), Some("9223372036854775808")),
        ] {
            assert_eq!(guard_of(&metadata(key, token, lease)), Err(INCOMPLETE), "{key:?} {token:?} {lease:?}");
        }
    }
}
