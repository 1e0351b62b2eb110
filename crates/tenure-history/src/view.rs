//! Which keys a check looks at.
//!
//! Looking at a few keys alone is a relaxation: whatever order explains all keys explains the few, if writes to the others
//! may stand at any revision that nobody else claims. So a violation seen through a narrow view is one of the whole
//! history, and it is short. Leases are not followed in a narrow view: any lease may live or end at any time.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::request::{Compare, KeyRange};

/// The keys looked at; all of them if `keys` is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    keys: Option<BTreeSet<Bytes>>,
}

impl View {
    pub(crate) const ALL: View = View { keys: None };

    pub(crate) fn of(keys: BTreeSet<Bytes>) -> View {
        View { keys: Some(keys) }
    }

    pub(crate) fn is_all(&self) -> bool {
        self.keys.is_none()
    }

    pub(crate) fn sees(&self, key: &[u8]) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(key))
    }

    /// Whether every key that the range may hold is seen.
    pub(crate) fn sees_whole(&self, range: &KeyRange) -> bool {
        self.is_all() || range.single().is_some_and(|key| self.sees(key))
    }

    /// Whether some key of the range is seen.
    pub(crate) fn touches(&self, range: &KeyRange) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.iter().any(|key| range.contains(key)))
    }

    pub(crate) fn sees_compare(&self, compare: &Compare) -> bool {
        self.sees_whole(&compare.keys)
    }
}
