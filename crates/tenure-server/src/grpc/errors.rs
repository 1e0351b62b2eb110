//! The one table of what clients are told when a request fails.
//!
//! etcd's clients match the text, not only the code: they retry, log in again or give up by it. So codes and texts
//! are etcd's, character for character (`api/v3rpc/rpctypes/error.go`), including the ones that look like slips. Some
//! belong to services that come later; they stand here because the table is one thing and is tested as one.
//!
//! Errors name what the caller can do, never what went wrong inside: internals go to the log.

use tenure_core::outcome::Refusal;
use tenure_core::validate::{InvalidLock, InvalidTxn};
use tenure_raft::MoveError;
use thiserror::Error;
use tonic::{Code, Status};

use crate::node::watch::WatchRefusal;
use crate::node::{LockUngranted, RequestError};

/// Why a request failed, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ApiError {
    // Requests that are wrong in themselves.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    #[error("etcdserver: key not found")]
    KeyNotFound,
    #[error("etcdserver: value is provided")]
    ValueProvided,
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    #[error("etcdserver: invalid client api version")]
    InvalidClientApiVersion,
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// etcd has no such error: it takes an unknown compare for one that holds, which nobody can mean.
    #[error("etcdserver: unknown {what} {value}")]
    UnknownEnum {
        /// Which enum, in words.
        what: &'static str,
        /// The number that came.
        value: i32,
    },
    #[error("RangeStream does not support custom sort orders")]
    StreamSortOrder,
    #[error("RangeStream does not support revision filters")]
    StreamRevisionFilters,
    /// A request of Tenure's own API: what it may be instead.
    #[error("tenure: {0}")]
    Invalid(&'static str),
    /// A call of the API that this version does not serve.
    #[error("etcdserver: {0} is not implemented in this version of Tenure")]
    Unimplemented(&'static str),

    // The store.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    #[error("etcdserver: corrupt cluster")]
    Corrupt,

    // Leases, locks, elections.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// Why a command on a native lock was refused.
    #[error("tenure: {0}")]
    Lock(Refusal),
    /// What is wrong with a command on a native lock.
    #[error("tenure: {0}")]
    InvalidLock(InvalidLock),
    #[error("tenure: the lock was not granted in time, and the request is finished")]
    LockTimeOver,
    #[error("tenure: the lock's key was taken away while the request waited")]
    LockTakenAway,
    #[error("\"leader\" field must be provided")]
    MissingLeaderKey,
    #[error("election: no leader")]
    ElectionNoLeader,
    #[error("election: not leader")]
    ElectionNotLeader,
    #[error("mutex: session is expired")]
    SessionExpired,

    // Members.
    #[error("etcdserver: given member URLs are invalid")]
    MemberBadUrls,
    #[error("etcdserver: member not found")]
    MemberNotFound,
    #[error("etcdserver: member ID already exist")]
    MemberExists,
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExists,
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStartedMembers,
    #[error("etcdserver: can only promote a learner member")]
    MemberNotLearner,
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    #[error("etcdserver: cluster ID mismatch")]
    ClusterIdMismatch,
    #[error("etcdserver: rpc not supported for learner")]
    NotSupportedForLearner,

    // Users and roles.
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    #[error("etcdserver: role name is empty")]
    RoleEmpty,
    #[error("etcdserver: authentication failed, invalid user ID or password")]
    AuthFailed,
    #[error("etcdserver: permission not given")]
    PermissionNotGiven,
    #[error("etcdserver: invalid auth management")]
    InvalidAuthManagement,
    #[error("etcdserver: revision of auth store is old")]
    AuthOldRevision,
    #[error("etcdserver: root user does not exist")]
    RootUserNotFound,
    #[error("etcdserver: root user does not have root role")]
    RootRoleNotFound,
    #[error("etcdserver: user name already exists")]
    UserExists,
    #[error("etcdserver: user name not found")]
    UserNotFound,
    #[error("etcdserver: role name already exists")]
    RoleExists,
    #[error("etcdserver: role name not found")]
    RoleNotFound,
    #[error("etcdserver: role is not granted to the user")]
    RoleNotGranted,
    #[error("etcdserver: permission is not granted to the role")]
    PermissionNotGranted,
    #[error("etcdserver: authentication is not enabled")]
    AuthNotEnabled,
    #[error("etcdserver: permission denied")]
    PermissionDenied,
    #[error("etcdserver: invalid auth token")]
    InvalidAuthToken,

    // The cluster's condition.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// etcd has no bound on these.
    #[error(
        "etcdserver: too many requests: as many snapshots as may be are being saved from this member, try again later"
    )]
    TooManySnapshots,
    #[error("etcdserver: the client did not take the snapshot in time")]
    SnapshotStalled,
    #[error("etcdserver: not leader")]
    NotLeader,
    #[error("etcdserver: not capable")]
    NotCapable,
    #[error("etcdserver: bad leader transferee")]
    BadLeaderTransferee,
    #[error("etcdserver: no leader")]
    NoLeader,
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    #[error("etcdserver: server stopped")]
    Stopped,
    #[error("etcdserver: request timed out")]
    Timeout,
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailure,
    #[error("etcdserver: request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    #[error("etcdserver: request timed out, waiting for the applied index took too long")]
    TimeoutWaitAppliedIndex,
    #[error("etcdserver: request timed out, leader transfer took too long")]
    TimeoutLeaderTransfer,
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
    #[error("etcdserver: watch canceled")]
    WatchCanceled,
    #[error("etcdserver: request canceled")]
    Canceled,
    #[error("etcdserver: context deadline exceeded")]
    DeadlineExceeded,
    /// Never the fault of the request. What happened is in the log.
    #[error("etcdserver: internal error: {0}")]
    Internal(&'static str),

    // Downgrades.
    #[error("etcdserver: wrong downgrade target version format")]
    WrongDowngradeVersionFormat,
    #[error("etcdserver: invalid downgrade target version")]
    InvalidDowngradeTargetVersion,
    #[error("etcdserver: cluster version not found during downgrade")]
    ClusterVersionUnavailable,
    #[error("etcdserver: cluster has a downgrade job in progress")]
    DowngradeInProcess,
    #[error("etcdserver: no inflight downgrade job")]
    NoInflightDowngrade,
    #[error("etcdserver: unknown method")]
    UnknownMethod,
}

/// Why a watcher was not made, or ended: a text in a message of its stream, not a status.
pub fn cancel_reason(refusal: WatchRefusal) -> String {
    match refusal {
        WatchRefusal::NegativeStart => ApiError::Compacted.to_string(),
        WatchRefusal::EmptyRange => "mvcc: watcher range is empty".to_owned(),
        WatchRefusal::DuplicateId => "mvcc: duplicate watch ID provided on the WatchStream".to_owned(),
        WatchRefusal::TooMany => ApiError::TooManyRequests.to_string(),
        // etcd breaks the whole stream off instead, with every watcher on it.
        WatchRefusal::TooLarge => {
            "etcdserver: a revision is too large for one message, watch with fragments".to_owned()
        }
    }
}

/// For the table of codes.
type E = ApiError;

impl ApiError {
    /// The gRPC code.
    pub fn code(self) -> Code {
        match self {
            E::EmptyKey
            | E::KeyNotFound
            | E::ValueProvided
            | E::LeaseProvided
            | E::TooManyOps
            | E::DuplicateKey
            | E::InvalidClientApiVersion
            | E::InvalidSortOption
            | E::RequestTooLarge
            | E::UnknownEnum { .. }
            | E::Invalid(_)
            | E::MemberBadUrls
            | E::UserEmpty
            | E::RoleEmpty
            | E::AuthFailed
            | E::PermissionNotGiven
            | E::InvalidAuthManagement
            | E::AuthOldRevision
            | E::WrongDowngradeVersionFormat
            | E::InvalidDowngradeTargetVersion => Code::InvalidArgument,
            E::Compacted | E::FutureRevision | E::LeaseTtlTooLarge => Code::OutOfRange,
            E::NoSpace | E::TooManyRequests | E::TooManySnapshots => Code::ResourceExhausted,
            E::LeaseNotFound | E::MemberNotFound => Code::NotFound,
            E::NoLeader
            | E::LeaderChanged
            | E::Stopped
            | E::Timeout
            | E::TimeoutLeaderFailure
            | E::TimeoutConnectionLost
            | E::TimeoutWaitAppliedIndex
            | E::Unhealthy => Code::Unavailable,
            E::StreamSortOrder | E::StreamRevisionFilters | E::Unimplemented(_) => Code::Unimplemented,
            E::PermissionDenied => Code::PermissionDenied,
            E::InvalidAuthToken => Code::Unauthenticated,
            E::Corrupt => Code::DataLoss,
            E::WatchCanceled | E::Canceled => Code::Cancelled,
            E::DeadlineExceeded | E::SnapshotStalled | E::LockTimeOver => Code::DeadlineExceeded,
            E::Lock(_) | E::InvalidLock(_) | E::LockTakenAway => self.lock_code(),
            E::Internal(_) => Code::Internal,
            // etcd returns these as plain errors, which its gRPC library makes Unknown.
            E::MissingLeaderKey | E::ElectionNoLeader | E::ElectionNotLeader => Code::Unknown,
            E::SessionExpired | E::TimeoutLeaderTransfer | E::UnknownMethod => Code::Unknown,

            E::LeaseExists
            | E::MemberExists
            | E::PeerUrlExists
            | E::NotEnoughStartedMembers
            | E::MemberNotLearner
            | E::LearnerNotReady
            | E::TooManyLearners
            | E::ClusterIdMismatch
            | E::NotSupportedForLearner
            | E::RootUserNotFound
            | E::RootRoleNotFound
            | E::UserExists
            | E::UserNotFound
            | E::RoleExists
            | E::RoleNotFound
            | E::RoleNotGranted
            | E::PermissionNotGranted
            | E::AuthNotEnabled
            | E::NotLeader
            | E::NotCapable
            | E::BadLeaderTransferee
            | E::ClusterVersionUnavailable
            | E::DowngradeInProcess
            | E::NoInflightDowngrade => Code::FailedPrecondition,
        }
    }

    /// The code of an error of Tenure's own locks.
    fn lock_code(self) -> Code {
        match self {
            ApiError::InvalidLock(_) | ApiError::Lock(Refusal::LockInvalid) => Code::InvalidArgument,
            ApiError::Lock(Refusal::LockContendersTooMany | Refusal::LockRequestsTooMany) => Code::ResourceExhausted,
            ApiError::LockTakenAway => Code::Aborted,
            _ => Code::FailedPrecondition,
        }
    }
}

impl ApiError {
    /// Whether it says something of the cluster or this member, and nothing of the request.
    pub(super) fn is_of_the_cluster(self) -> bool {
        matches!(self.code(), Code::Unavailable | Code::Internal) || self == ApiError::TooManyRequests
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        Status::new(error.code(), error.to_string())
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> ApiError {
        match error {
            RequestError::Refused(refusal) => refusal.into(),
            RequestError::Timeout => ApiError::Timeout,
            RequestError::LeaderLost => ApiError::TimeoutLeaderFailure,
            RequestError::TooManyRequests => ApiError::TooManyRequests,
            RequestError::Stopped => ApiError::Stopped,
            RequestError::Storage => ApiError::Internal("storage failed, see the server's log"),
        }
    }
}

impl From<MoveError> for ApiError {
    fn from(error: MoveError) -> ApiError {
        match error {
            MoveError::NotLeader => ApiError::NotLeader,
            MoveError::BadTarget => ApiError::BadLeaderTransferee,
            MoveError::Timeout => ApiError::TimeoutLeaderTransfer,
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        match refusal {
            Refusal::KeyNotFound => ApiError::KeyNotFound,
            Refusal::LeaseNotFound => ApiError::LeaseNotFound,
            Refusal::LeaseExists => ApiError::LeaseExists,
            Refusal::Compacted => ApiError::Compacted,
            Refusal::FutureRevision => ApiError::FutureRevision,
            Refusal::NoSpace => ApiError::NoSpace,
            Refusal::Corrupt => ApiError::Corrupt,
            Refusal::DuplicateKey => ApiError::DuplicateKey,
            // Nothing was done, and the new leader will do it: what etcd says when leadership moved under a request.
            Refusal::Fenced => ApiError::LeaderChanged,
            Refusal::NoReading => ApiError::Internal("a lease was granted or renewed without the time"),
            Refusal::LockAlreadyHeld
            | Refusal::LockHeldTooOften
            | Refusal::LockRequestFinished
            | Refusal::LockRequestsTooMany
            | Refusal::LockModeMismatch
            | Refusal::LockContendersTooMany
            | Refusal::LockNotHeld
            | Refusal::LockInvalid => ApiError::Lock(refusal),
        }
    }
}

impl From<InvalidLock> for ApiError {
    fn from(invalid: InvalidLock) -> ApiError {
        ApiError::InvalidLock(invalid)
    }
}

impl From<LockUngranted> for ApiError {
    fn from(ungranted: LockUngranted) -> ApiError {
        match ungranted {
            LockUngranted::Failed(error) => error.into(),
            LockUngranted::TimeOver => ApiError::LockTimeOver,
            LockUngranted::TakenAway => ApiError::LockTakenAway,
        }
    }
}

impl From<InvalidTxn> for ApiError {
    fn from(invalid: InvalidTxn) -> ApiError {
        match invalid {
            InvalidTxn::TooManyOps | InvalidTxn::TooDeep => ApiError::TooManyOps,
            InvalidTxn::DuplicateKey => ApiError::DuplicateKey,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// etcd's table, code by code, without the prefix that all of these share.
    const ETCD: &[(Code, &[(ApiError, &str)])] = &[
        (
            Code::InvalidArgument,
            &[
                (ApiError::EmptyKey, "key is not provided"),
                (ApiError::KeyNotFound, "key not found"),
                (ApiError::ValueProvided, "value is provided"),
                (ApiError::LeaseProvided, "lease is provided"),
                (ApiError::TooManyOps, "too many operations in txn request"),
                (ApiError::DuplicateKey, "duplicate key given in txn request"),
                (ApiError::InvalidClientApiVersion, "invalid client api version"),
                (ApiError::InvalidSortOption, "invalid sort option"),
                (ApiError::MemberBadUrls, "given member URLs are invalid"),
                (ApiError::RequestTooLarge, "request is too large"),
                (ApiError::UserEmpty, "user name is empty"),
                (ApiError::RoleEmpty, "role name is empty"),
                (ApiError::AuthFailed, "authentication failed, invalid user ID or password"),
                (ApiError::PermissionNotGiven, "permission not given"),
                (ApiError::InvalidAuthManagement, "invalid auth management"),
                (ApiError::AuthOldRevision, "revision of auth store is old"),
                (ApiError::WrongDowngradeVersionFormat, "wrong downgrade target version format"),
                (ApiError::InvalidDowngradeTargetVersion, "invalid downgrade target version"),
            ],
        ),
        (
            Code::OutOfRange,
            &[
                (ApiError::Compacted, "mvcc: required revision has been compacted"),
                (ApiError::FutureRevision, "mvcc: required revision is a future revision"),
                (ApiError::LeaseTtlTooLarge, "too large lease TTL"),
            ],
        ),
        (
            Code::ResourceExhausted,
            &[(ApiError::NoSpace, "mvcc: database space exceeded"), (ApiError::TooManyRequests, "too many requests")],
        ),
        (
            Code::NotFound,
            &[(ApiError::LeaseNotFound, "requested lease not found"), (ApiError::MemberNotFound, "member not found")],
        ),
        (
            Code::FailedPrecondition,
            &[
                (ApiError::LeaseExists, "lease already exists"),
                (ApiError::MemberExists, "member ID already exist"),
                (ApiError::PeerUrlExists, "Peer URLs already exists"),
                (ApiError::NotEnoughStartedMembers, "re-configuration failed due to not enough started members"),
                (ApiError::MemberNotLearner, "can only promote a learner member"),
                (ApiError::LearnerNotReady, "can only promote a learner member which is in sync with leader"),
                (ApiError::TooManyLearners, "too many learner members in cluster"),
                (ApiError::ClusterIdMismatch, "cluster ID mismatch"),
                (ApiError::RootUserNotFound, "root user does not exist"),
                (ApiError::RootRoleNotFound, "root user does not have root role"),
                (ApiError::UserExists, "user name already exists"),
                (ApiError::UserNotFound, "user name not found"),
                (ApiError::RoleExists, "role name already exists"),
                (ApiError::RoleNotFound, "role name not found"),
                (ApiError::RoleNotGranted, "role is not granted to the user"),
                (ApiError::PermissionNotGranted, "permission is not granted to the role"),
                (ApiError::AuthNotEnabled, "authentication is not enabled"),
                (ApiError::NotLeader, "not leader"),
                (ApiError::NotCapable, "not capable"),
                (ApiError::NotSupportedForLearner, "rpc not supported for learner"),
                (ApiError::BadLeaderTransferee, "bad leader transferee"),
                (ApiError::ClusterVersionUnavailable, "cluster version not found during downgrade"),
                (ApiError::DowngradeInProcess, "cluster has a downgrade job in progress"),
                (ApiError::NoInflightDowngrade, "no inflight downgrade job"),
            ],
        ),
        (
            Code::Unavailable,
            &[
                (ApiError::NoLeader, "no leader"),
                (ApiError::LeaderChanged, "leader changed"),
                (ApiError::Stopped, "server stopped"),
                (ApiError::Timeout, "request timed out"),
                (ApiError::TimeoutLeaderFailure, "request timed out, possibly due to previous leader failure"),
                (ApiError::TimeoutConnectionLost, "request timed out, possibly due to connection lost"),
                (ApiError::TimeoutWaitAppliedIndex, "request timed out, waiting for the applied index took too long"),
                (ApiError::Unhealthy, "unhealthy cluster"),
            ],
        ),
        (Code::PermissionDenied, &[(ApiError::PermissionDenied, "permission denied")]),
        (Code::Unauthenticated, &[(ApiError::InvalidAuthToken, "invalid auth token")]),
        (Code::DataLoss, &[(ApiError::Corrupt, "corrupt cluster")]),
        (Code::Cancelled, &[(ApiError::WatchCanceled, "watch canceled"), (ApiError::Canceled, "request canceled")]),
        (Code::DeadlineExceeded, &[(ApiError::DeadlineExceeded, "context deadline exceeded")]),
    ];

    /// What has no prefix, no code of its own, or no counterpart in etcd.
    const OTHERS: &[(Code, ApiError, &str)] = &[
        (Code::Unknown, ApiError::MissingLeaderKey, "\"leader\" field must be provided"),
        (Code::Unknown, ApiError::ElectionNoLeader, "election: no leader"),
        (Code::Unknown, ApiError::ElectionNotLeader, "election: not leader"),
        (Code::Unknown, ApiError::SessionExpired, "mutex: session is expired"),
        (
            Code::Unknown,
            ApiError::TimeoutLeaderTransfer,
            "etcdserver: request timed out, leader transfer took too long",
        ),
        (Code::Unknown, ApiError::UnknownMethod, "etcdserver: unknown method"),
        (
            Code::ResourceExhausted,
            ApiError::TooManySnapshots,
            "etcdserver: too many requests: as many snapshots as may be are being saved from this member, try again later",
        ),
        (Code::DeadlineExceeded, ApiError::SnapshotStalled, "etcdserver: the client did not take the snapshot in time"),
        (Code::Unimplemented, ApiError::StreamSortOrder, "RangeStream does not support custom sort orders"),
        (Code::Unimplemented, ApiError::StreamRevisionFilters, "RangeStream does not support revision filters"),
        (
            Code::Unimplemented,
            ApiError::Unimplemented("Watch"),
            "etcdserver: Watch is not implemented in this version of Tenure",
        ),
        (
            Code::InvalidArgument,
            ApiError::UnknownEnum { what: "compare target", value: -7 },
            "etcdserver: unknown compare target -7",
        ),
        (Code::InvalidArgument, ApiError::Invalid("more is needed"), "tenure: more is needed"),
        (
            Code::InvalidArgument,
            ApiError::InvalidLock(InvalidLock::Name),
            "tenure: a lock's name has 1 to 512 bytes, at most 16 of them slashes",
        ),
        (
            Code::FailedPrecondition,
            ApiError::Lock(Refusal::LockNotHeld),
            "tenure: the lock is not held by that token and lease",
        ),
        (
            Code::DeadlineExceeded,
            ApiError::LockTimeOver,
            "tenure: the lock was not granted in time, and the request is finished",
        ),
        (Code::Aborted, ApiError::LockTakenAway, "tenure: the lock's key was taken away while the request waited"),
        (Code::Internal, ApiError::Internal("no answer"), "etcdserver: internal error: no answer"),
    ];

    fn table() -> impl Iterator<Item = (Code, ApiError, String)> {
        let etcd = ETCD
            .iter()
            .flat_map(|(code, rows)| rows.iter().map(|(error, text)| (*code, *error, format!("etcdserver: {text}"))));
        etcd.chain(OTHERS.iter().map(|(code, error, text)| (*code, *error, (*text).to_owned())))
    }

    #[test]
    fn every_error_has_the_code_and_the_text_that_clients_match() {
        for (code, error, text) in table() {
            let status = Status::from(error);
            assert_eq!((status.code(), status.message()), (code, text.as_str()), "{error:?}");
        }
    }

    #[test]
    fn no_text_stands_for_two_errors() {
        let texts: BTreeSet<_> = table().map(|(_, _, text)| text).collect();
        assert_eq!(texts.len(), table().count());
        let variants = include_str!("errors.rs").matches("\n    #[error(").count();
        assert_eq!(texts.len(), variants, "an error was added without its row in this table");
    }

    #[test]
    fn a_refusal_of_the_state_machine_reads_like_etcds() {
        for (refusal, text) in [
            (Refusal::KeyNotFound, "etcdserver: key not found"),
            (Refusal::LeaseNotFound, "etcdserver: requested lease not found"),
            (Refusal::LeaseExists, "etcdserver: lease already exists"),
            (Refusal::Compacted, "etcdserver: mvcc: required revision has been compacted"),
            (Refusal::FutureRevision, "etcdserver: mvcc: required revision is a future revision"),
            (Refusal::NoSpace, "etcdserver: mvcc: database space exceeded"),
            (Refusal::Corrupt, "etcdserver: corrupt cluster"),
            (Refusal::DuplicateKey, "etcdserver: duplicate key given in txn request"),
            (Refusal::Fenced, "etcdserver: leader changed"),
            (Refusal::NoReading, "etcdserver: internal error: a lease was granted or renewed without the time"),
        ] {
            assert_eq!(ApiError::from(refusal).to_string(), text);
        }
    }

    #[test]
    fn a_refusal_of_a_lock_command_says_what_may_be_done() {
        for (refusal, code, text) in [
            (Refusal::LockAlreadyHeld, Code::FailedPrecondition, "the lease already holds the lock or waits for it"),
            (Refusal::LockHeldTooOften, Code::FailedPrecondition, "the lock is held as often as allowed"),
            (Refusal::LockRequestFinished, Code::FailedPrecondition, "the request is finished"),
            (Refusal::LockModeMismatch, Code::FailedPrecondition, "the lock is in use with another mode or limit"),
            (Refusal::LockRequestsTooMany, Code::ResourceExhausted, "too many open requests of the lease"),
            (Refusal::LockContendersTooMany, Code::ResourceExhausted, "too many contenders for the lock"),
            (Refusal::LockInvalid, Code::InvalidArgument, "invalid lock command"),
        ] {
            let status = Status::from(ApiError::from(refusal));
            assert_eq!((status.code(), status.message()), (code, &format!("tenure: {text}")[..]));
        }
    }
}
