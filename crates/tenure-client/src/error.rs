//! Why something failed, by what the caller can do about it.
//!
//! The line that matters runs between what surely did not happen and what nobody knows. Only the first may be tried again
//! without thought; [`Error::applied`] tells which it is. What a server means it tells by etcd's texts, and this file is the one
//! that reads them. A text that it does not know counts for what its gRPC code says, and one that says nothing counts as unknown.

use std::fmt;

use thiserror::Error;
use tonic::{Code, Status};

use crate::transport::Link;

/// Whether a request that failed was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was not, and will not be.
    No,
    /// It may have been, or may be yet.
    Unknown,
}

/// See the module's header.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No endpoint could be reached before the deadline. Nothing was sent that could have been done. Try again later.
    #[error("no endpoint can be reached: {0}")]
    Unreachable(Setbacks),
    /// The cluster had no leader before the deadline. Nothing was done. Try again later.
    #[error("the cluster has no leader: {0}")]
    NoLeader(Setbacks),
    /// The cluster refused to take on more before the deadline. Nothing was done. Try again, later and less.
    #[error("the cluster is overloaded: {0}")]
    Overloaded(Setbacks),
    /// There was no answer before the deadline. Nothing was changed: the request only reads, or is known not to be done.
    #[error("no answer before the deadline: {0}")]
    Timeout(Setbacks),
    /// It was sent, and no answer came: it may have been done, or be done yet. Read first, then decide.
    #[error("it may or may not have been done: {0}")]
    Unknown(Box<Setback>),
    /// A server refused it, and nothing was done. The same request would be refused again.
    #[error("{0}")]
    Refused(Box<Refused>),
    /// The cluster is no Tenure, and etcd's API cannot do this.
    #[error("{what} needs a cluster of Tenure")]
    NeedsTenure {
        /// What does.
        what: &'static str,
    },
    /// The request, or an option, makes no sense. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// A server answered what no server of this API answers.
    #[error("a server gave an answer that makes no sense: {0}")]
    Protocol(Box<Setback>),
    /// The client was closed. Nothing was sent.
    #[error("the client is closed")]
    Closed,
}

impl Error {
    /// Whether the request was carried out.
    pub fn applied(&self) -> Applied {
        match self {
            Error::Unknown(_) | Error::Protocol(_) => Applied::Unknown,
            Error::Unreachable(_)
            | Error::NoLeader(_)
            | Error::Overloaded(_)
            | Error::Timeout(_)
            | Error::Refused(_)
            | Error::NeedsTenure { .. }
            | Error::Invalid(_)
            | Error::Closed => Applied::No,
        }
    }

    /// Whether the same request, sent again later, may succeed, and does no harm.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Unreachable(_) | Error::NoLeader(_) | Error::Overloaded(_) | Error::Timeout(_))
    }

    /// What a server refused it for, if one did.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Error::Refused(refused) => Some(refused.refusal),
            _ => None,
        }
    }

    /// What the end of a stream, or the answer of a request that is not repeated, means. `is_write` says whether it could have
    /// changed something.
    pub(crate) fn from_status(link: &Link, is_write: bool, status: &Status) -> Error {
        let setback = Setback::new(link.address(), reason(status));
        match Verdict::of(status, !is_write || link.is_sent()) {
            Verdict::Refused(refusal) => Error::refused(link, refusal, status),
            Verdict::NotApplied(Miss::TokenExpired) => Error::refused(link, Refusal::InvalidAuthToken, status),
            Verdict::NotApplied(miss) => miss.into_error(vec![setback].into()),
            Verdict::Unknown if is_write => Error::Unknown(Box::new(setback)),
            Verdict::Unknown => Error::Timeout(vec![setback].into()),
        }
    }

    pub(crate) fn refused(link: &Link, refusal: Refusal, status: &Status) -> Error {
        Error::Refused(Box::new(Refused::new(link.address().to_owned(), refusal, status)))
    }

    /// What a server did not say in these words, but would have.
    pub(crate) fn refused_by(endpoint: &str, refusal: Refusal, status: &Status) -> Error {
        Error::Refused(Box::new(Refused::new(endpoint.to_owned(), refusal, status)))
    }

    /// For an answer that lacks what it must have.
    pub(crate) fn nonsense(endpoint: &str, reason: impl Into<String>) -> Error {
        Error::Protocol(Box::new(Setback::new(endpoint, reason)))
    }
}

/// What went wrong at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setback {
    /// Where.
    pub endpoint: String,
    /// In a few words.
    pub reason: String,
}

impl Setback {
    pub(crate) fn new(endpoint: impl Into<String>, reason: impl Into<String>) -> Setback {
        Setback { endpoint: endpoint.into(), reason: reason.into() }
    }
}

impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.reason)
    }
}

/// What went wrong, the latest at each endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setbacks(Box<[Setback]>);

impl Setbacks {
    /// One after the other.
    pub fn iter(&self) -> std::slice::Iter<'_, Setback> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none: nothing was tried in the time that there was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<Setback>> for Setbacks {
    fn from(setbacks: Vec<Setback>) -> Setbacks {
        Setbacks(setbacks.into())
    }
}

impl<'a> IntoIterator for &'a Setbacks {
    type Item = &'a Setback;
    type IntoIter = std::slice::Iter<'a, Setback>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Setbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing was tried in time");
        }
        for (place, setback) in self.0.iter().enumerate() {
            let between = if place == 0 { "" } else { "; " };
            write!(f, "{between}{setback}")?;
        }
        Ok(())
    }
}

/// An error as a server told it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{endpoint} refused it: {message}")]
#[non_exhaustive]
pub struct Refused {
    /// Who.
    pub endpoint: String,
    /// What it means.
    pub refusal: Refusal,
    /// The server's words, without the prefix that they all have.
    pub message: String,
    code: Code,
}

impl Refused {
    fn new(endpoint: String, refusal: Refusal, status: &Status) -> Refused {
        Refused { endpoint, refusal, message: reason(status), code: status.code() }
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.code
    }
}

/// What a server refuses a request for. etcd's clients tell them apart by their texts, and so does this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The revision is older than what is kept.
    Compacted,
    /// The revision has not come yet.
    FutureRevision,
    /// The space quota is used up.
    NoSpace,
    /// There is no such lease.
    LeaseNotFound,
    /// There is a lease of this id.
    LeaseExists,
    /// The TTL is longer than a lease can live.
    TtlTooLarge,
    /// There is no such key, and the request needs it.
    KeyNotFound,
    /// The request is too large, or has too many operations.
    TooLarge,
    /// A transaction puts a key twice.
    DuplicateKey,
    /// A write under a fence whose lock is not held.
    NotHeld,
    /// The lease already holds the lock, or waits for it by another request.
    LockAlreadyHeld,
    /// The lock is held by the lease as often as allowed.
    LockHeldTooOften,
    /// The lock is in use with another mode or limit.
    LockModeMismatch,
    /// The request for the lock is of the past.
    LockFinished,
    /// The time to wait for the lock is over.
    LockTimeOver,
    /// The lock's key was taken away while the request waited.
    LockTakenAway,
    /// Too many contend for the lock.
    LockContendersTooMany,
    /// Too many request numbers of the lease are open.
    LockRequestsTooMany,
    /// The user has no right to do this.
    PermissionDenied,
    /// User or password is wrong.
    AuthFailed,
    /// The token is not, or no more, one that the cluster gave.
    InvalidAuthToken,
    /// The cluster knows of no users.
    AuthNotEnabled,
    /// The server does not have this call.
    Unimplemented,
    /// The request is wrong in itself.
    InvalidRequest,
    /// Something else.
    Other,
}

/// Why a request was not carried out that would have been at another place or time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// It did not get there.
    Unreached,
    /// The member knows no leader, or the leader changed.
    NoLeader,
    /// The member has too much to do.
    Overloaded,
    /// This member cannot do it: it learns, or stops.
    WrongMember,
    /// The token is not valid any more.
    TokenExpired,
}

impl Miss {
    /// What to say if this was the last thing that happened.
    pub(crate) fn into_error(self, setbacks: Setbacks) -> Error {
        match self {
            Miss::Unreached => Error::Unreachable(setbacks),
            Miss::NoLeader => Error::NoLeader(setbacks),
            Miss::Overloaded => Error::Overloaded(setbacks),
            Miss::WrongMember | Miss::TokenExpired => Error::Timeout(setbacks),
        }
    }
}

/// What became of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing, and elsewhere or later it may be carried out.
    NotApplied(Miss),
    /// Nothing, and it would be refused again.
    Refused(Refusal),
    /// Nobody knows.
    Unknown,
}

/// Pieces of etcd's texts and of Tenure's, none of which is part of another error's, with what they mean. All of them say that nothing
/// was done: etcd checks these before a request goes into the log, or when it is applied and refused.
const TEXTS: &[(&str, Verdict)] = {
    use Refusal as R;
    const fn no(refusal: Refusal) -> Verdict {
        Verdict::Refused(refusal)
    }
    &[
        ("required revision has been compacted", no(R::Compacted)),
        ("required revision is a future revision", no(R::FutureRevision)),
        ("database space exceeded", no(R::NoSpace)),
        ("requested lease not found", no(R::LeaseNotFound)),
        ("lease already exists", no(R::LeaseExists)),
        ("too large lease TTL", no(R::TtlTooLarge)),
        ("etcdserver: key not found", no(R::KeyNotFound)),
        ("etcdserver: request is too large", no(R::TooLarge)),
        ("too many operations in txn request", no(R::TooLarge)),
        // gRPC's own limit at a server, as Go words it. A client's own limit is no refusal: the request was done.
        ("grpc: received message larger than max", no(R::TooLarge)),
        ("duplicate key given in txn request", no(R::DuplicateKey)),
        ("tenure: the lock is not held by that token", no(R::NotHeld)),
        ("tenure: the lease already holds the lock", no(R::LockAlreadyHeld)),
        ("tenure: the lock is held as often as allowed", no(R::LockHeldTooOften)),
        ("tenure: the lock is in use with another mode", no(R::LockModeMismatch)),
        ("tenure: the request is finished", no(R::LockFinished)),
        ("tenure: the lock was not granted in time", no(R::LockTimeOver)),
        ("tenure: the lock's key was taken away", no(R::LockTakenAway)),
        ("tenure: too many contenders", no(R::LockContendersTooMany)),
        ("tenure: too many open requests", no(R::LockRequestsTooMany)),
        ("etcdserver: permission denied", no(R::PermissionDenied)),
        ("authentication failed, invalid user ID or password", no(R::AuthFailed)),
        ("etcdserver: authentication is not enabled", no(R::AuthNotEnabled)),
        // Users came to the cluster after the client did.
        ("etcdserver: user name is empty", Verdict::NotApplied(Miss::TokenExpired)),
        ("etcdserver: invalid auth token", Verdict::NotApplied(Miss::TokenExpired)),
        ("etcdserver: revision of auth store is old", Verdict::NotApplied(Miss::TokenExpired)),
        ("etcdserver: no leader", Verdict::NotApplied(Miss::NoLeader)),
        ("etcdserver: not leader", Verdict::NotApplied(Miss::NoLeader)),
        ("etcdserver: leader changed", Verdict::NotApplied(Miss::NoLeader)),
        ("etcdserver: too many requests", Verdict::NotApplied(Miss::Overloaded)),
        ("etcdserver: rpc not supported for learner", Verdict::NotApplied(Miss::WrongMember)),
        ("etcdserver: not capable", Verdict::NotApplied(Miss::WrongMember)),
        ("etcdserver: request timed out", Verdict::Unknown),
        ("etcdserver: server stopped", Verdict::Unknown),
    ]
};

impl Verdict {
    /// What a status means. `is_sent` says whether the request was given to the connection: if not, nothing was done whatever the
    /// status says.
    pub(crate) fn of(status: &Status, is_sent: bool) -> Verdict {
        let is_broken = is_broken(status);
        let known = if is_broken { None } else { TEXTS.iter().find(|(text, _)| status.message().contains(text)) };
        match known.map_or_else(|| Verdict::of_code(status, is_broken), |(_, verdict)| *verdict) {
            Verdict::Unknown if !is_sent => Verdict::NotApplied(Miss::Unreached),
            verdict => verdict,
        }
    }

    fn of_code(status: &Status, is_broken: bool) -> Verdict {
        // What was made here out of a broken connection says nothing of the request.
        if is_broken {
            return Verdict::Unknown;
        }
        match status.code() {
            Code::Unimplemented => Verdict::Refused(Refusal::Unimplemented),
            Code::InvalidArgument => Verdict::Refused(Refusal::InvalidRequest),
            Code::PermissionDenied => Verdict::Refused(Refusal::PermissionDenied),
            Code::Unauthenticated => Verdict::Refused(Refusal::AuthFailed),
            Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition => Verdict::Refused(Refusal::Other),
            // A client's own limit on messages is out of range too, and says that an answer came.
            Code::OutOfRange if status.message().starts_with("etcdserver:") => Verdict::Refused(Refusal::Other),
            // etcd's locks and elections answer so.
            Code::Unknown if ["mutex:", "election:"].iter().any(|of| status.message().starts_with(of)) => {
                Verdict::Refused(Refusal::Other)
            }
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Verdict::Unknown,
        }
    }
}

/// Whether a status was made here because the connection failed, and was not sent by a server.
pub(crate) fn is_broken(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// What a status says, in a few words.
pub(crate) fn reason(status: &Status) -> String {
    if is_broken(status) {
        return root_cause(status);
    }
    let message = status.message();
    let bare = ["etcdserver: ", "tenure: "].iter().find_map(|from| message.strip_prefix(from)).unwrap_or(message);
    if bare.is_empty() { status.code().description().to_owned() } else { shortened(bare) }
}

/// What is at the bottom of an error.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    shortened(text.split(" (os error").next().unwrap_or(&text))
}

/// A server's words may be of any length, and an error is printed on a line.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 400;
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CHARS_MAX).collect();
    if line.len() < text.len() { format!("{line}...") } else { line }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn of(code: Code, text: &str) -> Verdict {
        Verdict::of(&Status::new(code, text), true)
    }

    #[test]
    fn refusals_are_known_by_etcds_texts_and_tenures() {
        for (text, refusal) in [
            ("etcdserver: mvcc: required revision has been compacted", Refusal::Compacted),
            ("etcdserver: mvcc: required revision is a future revision", Refusal::FutureRevision),
            ("etcdserver: mvcc: database space exceeded", Refusal::NoSpace),
            ("etcdserver: requested lease not found", Refusal::LeaseNotFound),
            ("etcdserver: lease already exists", Refusal::LeaseExists),
            ("etcdserver: too large lease TTL", Refusal::TtlTooLarge),
            ("etcdserver: key not found", Refusal::KeyNotFound),
            ("etcdserver: request is too large", Refusal::TooLarge),
            ("grpc: received message larger than max (3000008 vs. 2097152)", Refusal::TooLarge),
            ("etcdserver: duplicate key given in txn request", Refusal::DuplicateKey),
            ("etcdserver: too many operations in txn request", Refusal::TooLarge),
            ("tenure: the lock is not held by that token and lease", Refusal::NotHeld),
            ("tenure: the lease already holds the lock or waits for it", Refusal::LockAlreadyHeld),
            ("tenure: the lock is held as often as allowed", Refusal::LockHeldTooOften),
            ("tenure: too many contenders for the lock", Refusal::LockContendersTooMany),
            ("tenure: too many open requests of the lease", Refusal::LockRequestsTooMany),
            ("tenure: the lock is in use with another mode or limit", Refusal::LockModeMismatch),
            ("tenure: the request is finished", Refusal::LockFinished),
            ("tenure: the lock was not granted in time, and the request is finished", Refusal::LockTimeOver),
            ("tenure: the lock's key was taken away while the request waited", Refusal::LockTakenAway),
            ("etcdserver: permission denied", Refusal::PermissionDenied),
            ("etcdserver: authentication failed, invalid user ID or password", Refusal::AuthFailed),
        ] {
            assert_eq!(of(Code::Unknown, text), Verdict::Refused(refusal), "{text}");
        }
    }

    #[test]
    fn what_the_cluster_cannot_do_now_is_known_not_to_be_done() {
        for (text, miss) in [
            ("etcdserver: no leader", Miss::NoLeader),
            ("etcdserver: not leader", Miss::NoLeader),
            ("etcdserver: leader changed", Miss::NoLeader),
            ("etcdserver: too many requests", Miss::Overloaded),
            ("etcdserver: rpc not supported for learner", Miss::WrongMember),
            ("etcdserver: invalid auth token", Miss::TokenExpired),
            ("etcdserver: revision of auth store is old", Miss::TokenExpired),
        ] {
            assert_eq!(of(Code::Unavailable, text), Verdict::NotApplied(miss), "{text}");
        }
    }

    #[test]
    fn what_says_nothing_of_the_request_leaves_it_open() {
        for (code, text) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unavailable, ""),
            (Code::Unavailable, "upstream connect error"),
            (Code::Internal, "etcdserver: internal error: storage failed"),
            (Code::DeadlineExceeded, "etcdserver: context deadline exceeded"),
            (Code::Cancelled, ""),
            (Code::Unknown, "whatever"),
            // The client's own limit: the request was done, and its answer could not be read.
            (Code::OutOfRange, "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes"),
            (Code::ResourceExhausted, "quota of a proxy"),
        ] {
            assert_eq!(of(code, text), Verdict::Unknown, "{code:?} {text}");
            assert_eq!(
                Verdict::of(&Status::new(code, text), false),
                Verdict::NotApplied(Miss::Unreached),
                "what was not sent was not done"
            );
        }
    }

    #[test]
    fn a_broken_connection_says_nothing_whatever_its_words() {
        let cause = std::io::Error::other("etcdserver: no leader");
        let status = Status::from_error(Box::new(cause));
        assert_eq!(Verdict::of(&status, true), Verdict::Unknown);
        assert_eq!(Verdict::of(&status, false), Verdict::NotApplied(Miss::Unreached));
        assert_eq!(reason(&status), "etcdserver: no leader");
    }

    #[test]
    fn errors_say_what_is_known_of_the_request() {
        let setbacks = || Setbacks::from(vec![Setback::new("n1:1", "connection refused"), Setback::new("n2:1", "so")]);
        let unreachable = Error::Unreachable(setbacks());
        assert_eq!(unreachable.to_string(), "no endpoint can be reached: n1:1: connection refused; n2:1: so");
        assert!(unreachable.is_retryable() && unreachable.applied() == Applied::No);
        let unknown = Error::Unknown(Box::new(Setback::new("n1:1", "no answer in time")));
        assert!(!unknown.is_retryable() && unknown.applied() == Applied::Unknown);
        assert_eq!(Setbacks::default().to_string(), "nothing was tried in time");
    }

    #[test]
    fn a_servers_words_are_cut_to_a_line() {
        let long = Status::internal(format!("a\nb\u{7}{}", "x".repeat(100_000)));
        let told = reason(&long);
        assert!(told.len() < 500 && told.starts_with("a b x") && !told.contains(char::is_control), "{told}");
        assert_eq!(reason(&Status::internal("")), "Internal error");
        assert_eq!(reason(&Status::not_found("etcdserver: ")), "Some requested entity was not found");
    }

    proptest! {
        /// No status that a server can send panics, and no one that is not known not to be done counts as not done.
        #[test]
        fn any_status_has_a_verdict(code in 0..20_i32, text in prop::string::string_regex("(etcdserver: |tenure: )?.{0,80}").expect("a pattern"), is_sent in any::<bool>()) {
            let status = Status::new(Code::from_i32(code), text);
            let verdict = Verdict::of(&status, is_sent);
            assert!(is_sent || verdict != Verdict::Unknown, "what was not sent is never unknown");
            assert!(reason(&status).len() <= 4 * 410);
        }
    }
}
