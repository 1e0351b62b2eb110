//! What can be wrong with a command line, one variant per remedy.
//!
//! The texts are what a person sees on stderr, so each says which flag or variable is meant and what to do about it.
//! Where etcd has a text of its own for a mistake, its words are kept: people search for them.

use std::fmt;

/// Where a flag's value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The command line.
    Argument,
    /// The environment variable of this name.
    Variable(String),
    /// Nobody set it.
    Default,
}

/// A flag as the user wrote it, for error texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub(super) flag: &'static str,
    pub(super) origin: Origin,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Argument | Origin::Default => write!(f, "--{}", self.flag),
            Origin::Variable(name) => write!(f, "--{} (from the environment variable {name})", self.flag),
        }
    }
}

/// Why the server cannot start with these flags.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The command line cannot be read as flags at all.
    #[error("{0}; run tenured --help for the list of flags")]
    Usage(String),
    /// The same after `snapshot`.
    #[error("{0}; run tenured snapshot --help")]
    SnapshotUsage(String),
    /// A value that its flag cannot take.
    #[error("invalid value \"{value}\" for {source_flag}: {reason}")]
    Value {
        /// The flag.
        source_flag: Source,
        /// What was given.
        value: String,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// Something etcd can do and this version cannot, where going on without it would be worse than stopping.
    #[error("{what} is not supported by this version: {advice}")]
    Unsupported {
        /// The flag or URL.
        what: String,
        /// What to do instead.
        advice: String,
    },
    /// Values that are fine each and wrong together.
    #[error("{0}")]
    Conflict(String),
}

impl ConfigError {
    /// Whether the command line itself was malformed, which by custom has an exit code of its own.
    pub fn is_usage(&self) -> bool {
        matches!(self, ConfigError::Usage(_) | ConfigError::SnapshotUsage(_))
    }
}
