//! The fencing token: what a resource compares before it lets a holder change it.
//!
//! Its number is the create revision of the lock's key. It rises from one exclusive holder to the next over the whole cluster,
//! never starts again, and a renewal does not change it. As text it fits into a header, a file name or a column.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use thiserror::Error;

use crate::ids::{LeaseId, Revision};

/// What need not be escaped in a name.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'/');

/// Proof of a lock that was held once: [`Client::verify`](crate::Client::verify) tells whether it is held still, and a
/// resource that remembers the highest revision that it saw can refuse older ones without asking anybody.
///
/// ```
/// use tenure_client::lock::FencingToken;
///
/// let token: FencingToken = "jobs/nightly:1742:694d81f2".parse()?;
/// assert_eq!(token.revision.0, 1742);
/// assert_eq!(token.to_string(), "jobs/nightly:1742:694d81f2");
/// # Ok::<(), tenure_client::lock::TokenError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FencingToken {
    /// The lock, as its holder named it.
    pub name: Bytes,
    /// The number to compare: larger for each later exclusive holder of any lock in the cluster.
    pub revision: Revision,
    /// The lease that the lock is held on.
    pub lease: LeaseId,
}

impl FencingToken {
    /// Whether this one is of a later grant. Tokens of those that share a lock are not ordered among themselves.
    #[must_use]
    pub fn is_newer_than(&self, other: &FencingToken) -> bool {
        self.revision > other.revision
    }

    /// The key that stands for it, before any namespace: `name/<lease in lowercase hex>`.
    #[must_use]
    pub fn key(&self) -> Bytes {
        contender_key(&self.name, self.lease)
    }
}

/// The key of a contender for a lock.
pub(crate) fn contender_key(name: &[u8], lease: LeaseId) -> Bytes {
    [name, &contender_suffix(lease)].concat().into()
}

/// What comes after the lock's name in a contender's key.
pub(crate) fn contender_suffix(lease: LeaseId) -> Vec<u8> {
    format!("/{:x}", lease.0).into_bytes()
}

/// `name:revision:lease`: the name percent-encoded, the revision decimal, the lease hexadecimal.
impl fmt::Display for FencingToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{:x}", percent_encode(&self.name, PLAIN), self.revision.0, self.lease.0)
    }
}

/// A text is not a fencing token.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a fencing token: it is `name:revision:lease`, with a decimal revision and a hexadecimal lease")]
pub struct TokenError;

impl FromStr for FencingToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<FencingToken, TokenError> {
        let mut parts = text.rsplitn(3, ':');
        let (Some(lease), Some(revision), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(TokenError);
        };
        let is_plain = |part: &str, digit: fn(&u8) -> bool| !part.is_empty() && part.as_bytes().iter().all(digit);
        if name.is_empty() || name.contains(':') || !is_plain(revision, u8::is_ascii_digit) {
            return Err(TokenError);
        }
        if !is_plain(lease, u8::is_ascii_hexdigit) {
            return Err(TokenError);
        }
        let revision = Revision(revision.parse().map_err(|_| TokenError)?);
        let lease = LeaseId(u64::from_str_radix(lease, 16).map_err(|_| TokenError)?.cast_signed());
        let name: Bytes = percent_decode_str(name).collect::<Vec<_>>().into();
        Ok(FencingToken { name, revision, lease })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_newer_by_its_revision_alone() {
        let token =
            |revision, lease| FencingToken { name: "a".into(), revision: Revision(revision), lease: LeaseId(lease) };
        assert!(token(8, 1).is_newer_than(&token(7, 9)));
        assert!(!token(7, 9).is_newer_than(&token(7, 1)));
        assert_eq!(token(7, -1).key(), "a/ffffffffffffffff");
    }

    proptest! {
        #[test]
        fn every_token_is_read_as_it_was_written(
            name in prop::collection::vec(any::<u8>(), 1..20), revision in 0i64.., lease in any::<i64>(),
        ) {
            let token = FencingToken { name: name.into(), revision: Revision(revision), lease: LeaseId(lease) };
            let text = token.to_string();
            prop_assert!(text.is_ascii() && !text.contains(' '));
            prop_assert_eq!(text.parse(), Ok(token));
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            if let Ok(token) = text.parse::<FencingToken>() {
                prop_assert_eq!(token.to_string().parse(), Ok(token));
            }
        }

        #[test]
        fn signs_spaces_and_missing_parts_are_refused(text in "[+ -]?[0-9]{1,3}(:[+ -][0-9]{1,3})?:[+ -]?[0-9]{1,3}") {
            prop_assume!(text.matches(':').count() < 2 || text.contains(['+', ' ', '-']));
            let rest = text.split_once(':').map_or("", |(_, rest)| rest);
            if rest.contains(['+', ' ', '-']) || text.matches(':').count() < 2 {
                prop_assert_eq!(text.parse::<FencingToken>(), Err(TokenError));
            }
        }
    }
}
