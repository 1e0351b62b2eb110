//! What can go wrong in discovery, by what the caller can do about it.
//!
//! The cluster's errors are the client's own, wrapped; what is here besides concerns names and successors.

use crate::{Error, Revision};

/// Why something of discovery could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// A name is empty or too long. Nothing was sent.
    #[error("the {what} {name:?} is empty or longer than {} bytes", super::NAME_BYTES_MAX)]
    BadName {
        /// Which name: registry, kind or id.
        what: &'static str,
        /// Its first 64 characters.
        name: String,
    },
    /// An option is out of bounds. Nothing was sent.
    #[error("{0}")]
    BadOption(&'static str),
    /// Another process has the instance registered, and was not to be replaced.
    #[error("{kind} {id} is registered by another process, since revision {create_revision}")]
    Taken {
        /// The instance's kind.
        kind: String,
        /// The instance's id.
        id: String,
        /// The create revision of its key.
        create_revision: Revision,
    },
    /// A process that came later has registered the instance: this one must not touch it any more.
    #[error("{kind} {id} was registered by a process that came later")]
    Superseded {
        /// The instance's kind.
        kind: String,
        /// The instance's id.
        id: String,
    },
    /// The registration has ended: it failed, or was deregistered.
    #[error("the registration has ended")]
    Ended,
    /// The time that was given is over. What was begun may have an effect.
    #[error("the time is over")]
    TimedOut,
    /// The address of no instance is one that can be connected to.
    #[error("{addr:?} is no address: {why}")]
    BadAddress {
        /// The address.
        addr: String,
        /// What is wrong.
        why: String,
    },
    /// What the client said.
    #[error(transparent)]
    Client(#[from] Error),
}
