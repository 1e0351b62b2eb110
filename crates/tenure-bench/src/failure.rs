//! Why one request failed, and the name under which such failures are counted.

use std::fmt;

use thiserror::Error;

/// A request that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{code}: {text}")]
pub struct Failure {
    pub code: Code,
    pub text: String,
}

/// What failures are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// A gRPC status other than OK.
    Grpc(u16),
    /// Nobody listens, or the handshake failed.
    Connect,
    /// The connection broke while the request was under way.
    Broken,
    /// No answer within the patience of the run.
    Patience,
    /// An answer that cannot be read, or that is not what was asked for.
    Answer,
}

/// gRPC's names, by number.
const GRPC_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// gRPC's number for a service or method that a server does not have.
const UNIMPLEMENTED: u16 = 12;

impl Failure {
    pub(crate) fn new(code: Code, text: impl fmt::Display) -> Failure {
        Failure { code, text: text.to_string() }
    }

    pub(crate) fn answer(text: impl fmt::Display) -> Failure {
        Failure::new(Code::Answer, text)
    }

    /// Whether the server does not know the method.
    pub fn is_unimplemented(&self) -> bool {
        self.code == Code::Grpc(UNIMPLEMENTED)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Code::Grpc(number) => match GRPC_NAMES.get(usize::from(*number)) {
                Some(name) => f.write_str(name),
                None => write!(f, "STATUS_{number}"),
            },
            Code::Connect => f.write_str("no connection"),
            Code::Broken => f.write_str("broken connection"),
            Code::Patience => f.write_str("no answer in time"),
            Code::Answer => f.write_str("unexpected answer"),
        }
    }
}

/// Why there is no report at all.
#[derive(Debug, Error)]
pub enum Error {
    /// The settings contradict each other.
    #[error("{0}")]
    Settings(String),
    /// What comes before the measurement failed.
    #[error("{doing}: {failure}")]
    Preparation { doing: &'static str, failure: Failure },
    /// Something on this machine is in the way.
    #[error("{0}")]
    Local(String),
}

impl Error {
    /// Turns a failed request into the end of the run, by what was being done.
    pub(crate) fn preparing(doing: &'static str) -> impl Fn(Failure) -> Error {
        move |failure| Error::Preparation { doing, failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_grpcs_names() {
        assert_eq!(Code::Grpc(14).to_string(), "UNAVAILABLE");
        assert_eq!(Code::Grpc(99).to_string(), "STATUS_99");
        assert_eq!(Failure::new(Code::Patience, "30s").to_string(), "no answer in time: 30s");
        assert!(Failure::new(Code::Grpc(12), "").is_unimplemented());
    }
}
