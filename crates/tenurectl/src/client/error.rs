//! Why a request failed, by what its sender can do about it.
//!
//! The line that matters runs between what surely did not happen and what nobody knows: only the first may be tried again.

use std::fmt;

use thiserror::Error;
use tonic::{Code, Status};

use super::Endpoint;
use crate::ids::Revision;

/// See the module's header.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nothing was sent.
    #[error("no endpoint can be reached; nothing was sent")]
    Unreachable(Vec<Setback>),
    /// Nothing was done.
    #[error("the cluster has no leader; nothing was done")]
    NoLeader(Vec<Setback>),
    /// Nothing was changed: the request only reads.
    #[error("no answer in time")]
    NoAnswer(Vec<Setback>),
    /// It was sent, and no answer came: it may have happened, or happen yet.
    #[error("it may or may not have been done: {} got it, and then: {}", .0.endpoint, .0.reason)]
    Unknown(Setback),
    /// A server answered with an error.
    #[error("{}", .0.text())]
    Refused(Refused),
    /// A watch asked for history that is gone.
    #[error("the history that the watch needs has been compacted")]
    WatchCompacted {
        /// The first revision that can still be watched.
        oldest: Revision,
    },
    /// A server ended a watch and said why.
    #[error("the server refuses the watch: {0}")]
    WatchRefused(String),
}

impl ClientError {
    /// What an error of the client library is here; if it is none of these, its words.
    pub(crate) fn of_library(error: &tenure_client::Error) -> Result<ClientError, String> {
        use tenure_client::Error;
        let setbacks = |setbacks: &tenure_client::Setbacks| setbacks.iter().filter_map(Setback::of_library).collect();
        match error {
            Error::Unreachable(at) => Ok(ClientError::Unreachable(setbacks(at))),
            Error::NoLeader(at) => Ok(ClientError::NoLeader(setbacks(at))),
            Error::Overloaded(at) | Error::Timeout(at) => Ok(ClientError::NoAnswer(setbacks(at))),
            Error::Unknown(setback) => Setback::of_library(setback).map(ClientError::Unknown).ok_or(error.to_string()),
            Error::Refused(refused) => {
                let endpoint = refused.endpoint.parse().map_err(|_| error.to_string())?;
                let status = Status::new(refused.code(), refused.message.clone());
                Ok(ClientError::Refused(Refused::new(endpoint, status)))
            }
            other => Err(other.to_string()),
        }
    }
}

impl Setback {
    fn of_library(setback: &tenure_client::Setback) -> Option<Setback> {
        Some(Setback { endpoint: setback.endpoint.parse().ok()?, reason: setback.reason.clone() })
    }
}

/// What went wrong at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setback {
    /// Where.
    pub endpoint: Endpoint,
    /// In a few words.
    pub reason: String,
}

/// An error as a server told it.
#[derive(Debug)]
pub struct Refused {
    /// Who.
    pub endpoint: Endpoint,
    /// What it means, as far as there is something to say about it.
    pub refusal: Refusal,
    status: Box<Status>,
}

/// The answers that a person can act on. etcd's clients tell them apart by their texts, and so does this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Compacted,
    FutureRevision,
    NoSpace,
    LeaseNotFound,
    LeaseExists,
    KeyNotFound,
    NoLeader,
    NotLeader,
    TooManyRequests,
    TooLarge,
    TimedOut,
    /// The request for a lock is of the past: it was busy, or it was cancelled, perhaps by a broken stream.
    LockFinished,
    LockTimeOver,
    LockTakenAway,
    Unimplemented,
    Other,
}

impl Refused {
    pub(super) fn new(endpoint: Endpoint, status: Status) -> Refused {
        Refused { endpoint, refusal: Refusal::of(&status), status: Box::new(status) }
    }

    /// Whether it leaves open what became of the request.
    pub(super) fn is_vague(&self) -> bool {
        let code = self.status.code();
        match self.refusal {
            Refusal::TimedOut => true,
            Refusal::LockTimeOver => false,
            _ => matches!(code, Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded),
        }
    }

    /// The server's words.
    pub fn text(&self) -> String {
        let message = self.status.message();
        let message =
            ["etcdserver: ", "tenure: "].iter().find_map(|from| message.strip_prefix(from)).unwrap_or(message);
        if message.is_empty() { self.status.code().description().to_owned() } else { message.to_owned() }
    }
}

impl Refusal {
    pub(super) fn of(status: &Status) -> Refusal {
        /// Pieces of etcd's texts and of Tenure's, none of which is part of another error's.
        const TEXTS: [(&str, Refusal); 17] = [
            ("required revision has been compacted", Refusal::Compacted),
            ("required revision is a future revision", Refusal::FutureRevision),
            ("database space exceeded", Refusal::NoSpace),
            ("requested lease not found", Refusal::LeaseNotFound),
            ("lease already exists", Refusal::LeaseExists),
            ("key not found", Refusal::KeyNotFound),
            ("etcdserver: no leader", Refusal::NoLeader),
            ("etcdserver: not leader", Refusal::NotLeader),
            ("too many requests", Refusal::TooManyRequests),
            ("request is too large", Refusal::TooLarge),
            // gRPC's own limit, as Go and Rust word it.
            ("larger than max", Refusal::TooLarge),
            ("message length too large", Refusal::TooLarge),
            ("request timed out", Refusal::TimedOut),
            ("context deadline exceeded", Refusal::TimedOut),
            ("tenure: the request is finished", Refusal::LockFinished),
            ("tenure: the lock was not granted in time", Refusal::LockTimeOver),
            ("tenure: the lock's key was taken away", Refusal::LockTakenAway),
        ];
        if status.code() == Code::Unimplemented {
            return Refusal::Unimplemented;
        }
        let known = TEXTS.iter().find(|(text, _)| status.message().contains(text));
        known.map_or(Refusal::Other, |(_, refusal)| *refusal)
    }
}

impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_known_by_etcds_texts() {
        for (text, refusal) in [
            ("etcdserver: mvcc: required revision has been compacted", Refusal::Compacted),
            ("etcdserver: mvcc: required revision is a future revision", Refusal::FutureRevision),
            ("etcdserver: mvcc: database space exceeded", Refusal::NoSpace),
            ("etcdserver: requested lease not found", Refusal::LeaseNotFound),
            ("etcdserver: lease already exists", Refusal::LeaseExists),
            ("etcdserver: key not found", Refusal::KeyNotFound),
            ("etcdserver: no leader", Refusal::NoLeader),
            ("etcdserver: not leader", Refusal::NotLeader),
            ("etcdserver: too many requests", Refusal::TooManyRequests),
            ("etcdserver: request is too large", Refusal::TooLarge),
            ("grpc: received message larger than max (3000008 vs. 2097152)", Refusal::TooLarge),
            ("etcdserver: request timed out, possibly due to previous leader failure", Refusal::TimedOut),
            ("tenure: the request is finished", Refusal::LockFinished),
            ("tenure: the lock was not granted in time, and the request is finished", Refusal::LockTimeOver),
            ("tenure: the lock's key was taken away while the request waited", Refusal::LockTakenAway),
            ("tenure: the lock is in use with another mode or limit", Refusal::Other),
            ("etcdserver: permission denied", Refusal::Other),
        ] {
            assert_eq!(Refusal::of(&Status::unknown(text)), refusal, "{text}");
        }
        assert_eq!(Refusal::of(&Status::unimplemented("etcdserver: no leader")), Refusal::Unimplemented);
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let told = |status| Refused::new("n1:1".parse().expect("an address"), status).text();
        assert_eq!(told(Status::not_found("etcdserver: requested lease not found")), "requested lease not found");
        let text = "tenure: the lock is in use with another mode or limit";
        assert_eq!(told(Status::failed_precondition(text)), "the lock is in use with another mode or limit");
        assert_eq!(told(Status::internal("broken")), "broken");
        assert_eq!(told(Status::internal("")), "Internal error");
    }
}
