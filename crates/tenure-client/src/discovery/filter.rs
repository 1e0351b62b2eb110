//! Which kinds a cache keeps.
//!
//! Either some are allowed, or some are denied; a list of both would need a rule for what is on neither, and nobody remembers it.

use std::collections::BTreeSet;

/// The kinds of instances that a cache keeps. What it does not keep costs it a revision number for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// All kinds.
    #[default]
    All,
    /// These alone.
    Allow(BTreeSet<String>),
    /// All but these.
    Deny(BTreeSet<String>),
}

impl Filter {
    /// Keeps these kinds alone. If it is a single one, the server sends no others.
    pub fn allow(kinds: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::Allow(kinds.into_iter().map(Into::into).collect())
    }

    /// Keeps all kinds but these.
    pub fn deny(kinds: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::Deny(kinds.into_iter().map(Into::into).collect())
    }

    /// Whether instances of this kind are kept.
    ///
    /// ```
    /// use tenure_client::discovery::Filter;
    ///
    /// assert!(Filter::deny(["bot"]).keeps("room"));
    /// assert!(!Filter::allow(["bot"]).keeps("room"));
    /// ```
    #[must_use]
    pub fn keeps(&self, kind: &str) -> bool {
        match self {
            Self::All => true,
            Self::Allow(kinds) => kinds.contains(kind),
            Self::Deny(kinds) => !kinds.contains(kind),
        }
    }

    /// The one kind that is kept, if it is one: then a narrower range will do.
    pub(super) fn only(&self) -> Option<&str> {
        match self {
            Self::Allow(kinds) if kinds.len() == 1 => kinds.first().map(String::as_str),
            Self::All | Self::Allow(_) | Self::Deny(_) => None,
        }
    }
}
